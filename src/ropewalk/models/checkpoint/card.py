"""The model card's section on the extension: what was done, to what, and the command that does it again."""

from __future__ import annotations

import re
from pathlib import Path

from ropewalk._version import __version__
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_length

BEGIN, END = "<!-- ropewalk: begin -->", "<!-- ropewalk: end -->"
_SECTION = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END) + r"\n?", re.DOTALL)
MAX_BYTES = 8 * 1024**2


def card_with(
    base: Path, source: str, schedule: FrequencySchedule, target_length: int, command: str, kind: str
) -> str:
    """The base model's card (where it has one) with our section at its end; an earlier section of ours is replaced."""
    text = ""
    if base.is_file() and base.stat().st_size <= MAX_BYTES:
        # A card in another encoding may lose a letter; it is no reason to fail.
        text = _SECTION.sub("", base.read_text(encoding="utf-8", errors="replace")).rstrip() + "\n\n"
    return text + _section(source, schedule, target_length, command, kind)


def _section(source: str, schedule: FrequencySchedule, target_length: int, command: str, kind: str) -> str:
    original = schedule.geometry.original_length
    stretch = schedule.stretch
    finite = stretch[stretch < float("inf")]
    lines = [
        BEGIN,
        f"## Context window: {format_length(original)} → {format_length(target_length)} tokens",
        "",
        f"The rotary embedding of `{source}` was stretched with Ropewalk "
        f"{__version__}; the weights are unchanged.",
        "",
        "| | |",
        "|---|---|",
        f"| method | {schedule.method}, factor {schedule.factor:g} |",
        f"| written as | `{kind}` in `config.json`; stock transformers computes it without further code, and "
        "`ropewalk export` says which other programs do |",
        f"| original window | {original} tokens, rope_theta {schedule.geometry.rope_theta:g} |",
        f"| stretch per pair | {finite.min(initial=1.0):.3g} (fastest) to {finite.max(initial=1.0):.3g} (slowest) |",
        f"| attention factor | {schedule.attention_factor:.6g} |",
        "",
        "Extended without training: measure before relying on it (`ropewalk verify`, `ropewalk compare`). Redo with",
        "",
        f"    {command}",
        END,
    ]
    return "\n".join(lines) + "\n"
