"""Looking at many rows makes one of them look good by chance: Holm's correction keeps the error of the whole table."""

from __future__ import annotations

from collections.abc import Mapping

ERROR = 0.05


def holm(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """Adjusted p-values of a family of tests; a test that could not be made (None) counts and has 1.

    The smallest p is multiplied by the number of tests, the next by one less, and none falls below the one before:
    with `adjusted <= 0.05` taken as sure, the chance of even one wrong claim in the family is at most 5 %, however the
    tests hang together.

    >>> holm({"a": 0.01, "b": 0.04, "c": None})
    {'a': 0.03, 'b': 0.08, 'c': 1.0}
    """
    ordered = sorted(p_values, key=lambda name: 1.0 if p_values[name] is None else float(p_values[name] or 0))
    adjusted, least = {}, 0.0
    for place, name in enumerate(ordered):
        p = p_values[name]
        least = max(least, min(1.0, (len(ordered) - place) * p)) if p is not None else 1.0
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}
