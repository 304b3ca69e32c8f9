"""A file of temperatures, one number a head in each layer: what multiplies the head's logits at one factor.

    kappa_h(s) = kappa_h ** (ln s / ln S)      S the factor that the file was fitted at; 1 where nothing is stretched

No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import UsageError, one_line
from ropewalk.files import read_json
from ropewalk.geometry import PerHead

FORMAT = "ropewalk-temperatures/1"


@dataclass(frozen=True, eq=False)
class HeadTemperatures:
    """kappa by layer and head at `factor`; `fitted` says where they come from."""

    factor: float
    layers: Mapping[int, PerHead]
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor) or self.factor <= 1.0:
            raise UsageError(
                f"temperatures at factor {self.factor} say nothing of a stretch", hint="fit them above 1"
            )
        made = {int(layer): np.array(values, dtype=np.float64) for layer, values in self.layers.items()}
        for layer, values in made.items():
            if values.ndim != 1 or not values.size or not np.all(np.isfinite(values) & (values > 0)):
                raise UsageError(
                    f"layer {layer} holds temperatures that are no positive numbers",
                    hint="write one positive number a head",
                )
        if not made:
            raise UsageError("temperatures of no layer", hint="write one positive number a head, by layer")
        object.__setattr__(self, "layers", made)

    def logs(self, factor: float) -> dict[int, PerHead]:
        """Logarithms of what multiplies the logits of each head at a factor, by layer."""
        # At the file's own factor the share is 1 exactly, so that folding writes the numbers that were measured.
        share = 1.0 if factor == self.factor else math.log(max(1.0, factor)) / math.log(self.factor)
        return {layer: share * np.log(values) for layer, values in self.layers.items()}

    def to_json(self) -> dict[str, Any]:
        """The document of a file."""
        return {
            "format": FORMAT,
            "factor": self.factor,
            "layers": {str(layer): values.tolist() for layer, values in self.layers.items()},
            "fitted": dict(self.fitted),
        }


def read_temperatures(path: str | Path) -> HeadTemperatures:
    """The temperatures of a file, or an error that names it."""
    file = Path(path)
    document = read_json(file, hint="fit it again with `ropewalk tune --temperatures heads`")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UsageError(
            f"{file} is no file of temperatures (format {FORMAT})",
            hint="`ropewalk tune --temperatures heads` writes temperatures.json beside schedule.json",
        )
    try:
        layers = {int(layer): values for layer, values in document["layers"].items()}
        return HeadTemperatures(float(document["factor"]), layers, document.get("fitted") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{file} is damaged: {one_line(error, 80)}", hint="fit it again with `ropewalk tune`"
        ) from error
