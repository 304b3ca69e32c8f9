"""Tasks by name and by group, and the two ways to make samples: exact tokens, or plain text."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from typing import Any

from ropewalk.errors import UsageError, near_miss, one_line
from ropewalk.evaluation.tasks.base import KINDS, Setting, Task
from ropewalk.evaluation.tasks.sample import Sample, TextSample
from ropewalk.text.encoder import ByteEncoder, Encoder, completion_frame

TEMPLATES = {name: kind.templates for name, kind in KINDS.items()}
# `ladder` climbs from looking one thing up to sorting and counting (RULERv2's idea): where a model stops is the answer.
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(name for name, kind in KINDS.items() if kind.group == group)
    for group in dict.fromkeys(kind.group for kind in KINDS.values())
    if group is not None
} | {"ladder": ("needle", "bio", "mentions", "bio-compare", "bio-order", "bio-count")}
# What a packed grid asks in place of a task: all depths stand in one text.
PACKED = {"needle": "needle-packed", "doc-qa": "doc-qa-packed"}


# A full wording may take up to this share of the shortest length; beyond it every length gets the compact one.
FULL_SHARE = 0.25


def find_kinds(names: Iterable[str]) -> list[str]:
    """Task names with groups (`ruler`) spelled out, without repetition; unknown names suggest near misses."""
    found: dict[str, None] = {}
    for written in names:
        name = next(
            (form for form in (written, written.replace("-", "_")) if form in KINDS or form in GROUPS), None
        )
        if name is None:
            every = [*GROUPS, *KINDS]
            hint = near_miss(written, every, otherwise=f"there are {', '.join(every)}")
            raise UsageError(f"no retrieval task {one_line(written, 60)!r}", hint=hint)
        for member in GROUPS.get(name, (name,)):
            found[member] = None
    return list(found)


def even_depths(count: int) -> tuple[float, ...]:
    """`count` depths from 0 to 1; a single one is in the middle.

    >>> even_depths(5)
    (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    if count < 1:
        raise UsageError(f"{count} depths are none", hint="ask for at least one")
    # Rounded, since a depth is the key of a cell: a third must be one number wherever it is made.
    return (0.5,) if count == 1 else tuple(round(step / (count - 1), 6) for step in range(count))


def choose_template(
    kind: type[Task], setting: Setting, lengths: Sequence[int], depths: Sequence[float]
) -> str:
    """`full` where its wording takes at most a quarter of the shortest length, otherwise `compact`.

    One choice for all lengths: a table over lengths must not compare two wordings.
    """
    task = kind(dataclasses.replace(setting, template="full"), 0)
    longest = max(
        sum(
            len(setting.encoder.ids(text))
            for text in (ask.head, ask.question, ask.lead, *ask.values, *(text for text, _ in ask.inserts))
            if text
        )
        for ask in task.asks(depths)
    )
    frame = len(setting.frame.before) + len(setting.frame.after)
    return "full" if longest + frame <= FULL_SHARE * min(lengths) else "compact"


def make_groups(
    name: str,
    setting: Setting,
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    samples: int,
    template: str | None = None,
) -> list[list[Sample]]:
    """The samples of one task, grouped by their index: those of one group share filler and wording."""
    kind = KINDS[name]
    chosen = template or choose_template(kind, setting, lengths, depths)
    worded = dataclasses.replace(setting, template=chosen)
    groups = []
    for index in range(samples):
        task = kind(worded, index)
        groups.append([sample for length in lengths for sample in task.samples(length, depths)])
    return groups


def text_sample(
    name: str,
    rng: random.Random,
    *,
    budget: int,
    filler: Iterable[str] | None = None,
    encoder: Encoder | None = None,
    template: str = "compact",
    depth: float | None = None,
    **options: Any,
) -> TextSample:
    """One sample as plain text, for training: `text` and then `answer` have exactly `budget` tokens together.

    Without an encoder a token is a UTF-8 byte. `filler` gives sentences or lines, each with its own leading space or
    trailing line break, used from the first on and in this order. A task with several questions asks one of them.
    `options` are other fields of `Setting`: num_choices, questions.
    """
    used: Encoder = encoder or ByteEncoder()
    setting = Setting(
        encoder=used,
        frame=completion_frame(used),
        template=template,
        seed=rng.getrandbits(48),
        haystack=None if filler is None else tuple(filler),
        haystack_everywhere=filler is not None,
        **options,
    )
    place = round(rng.random(), 4) if depth is None else depth
    kinds = find_kinds([name])
    if len(kinds) > 1:
        raise UsageError(
            f"{name!r} is a group of tasks, and one sample is of one task",
            hint=f"name one: {', '.join(kinds)}",
        )
    [name] = kinds
    sample = rng.choice(KINDS[name](setting, 0).samples(budget, [place]))
    return TextSample(text=sample.prompt, answer=sample.answer_text, depth=sample.depth)
