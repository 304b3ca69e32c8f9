"""What `ropewalk inspect --runtime` prints: what each program computes from a config.json as it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.runtimes.reading import Reading

_STYLE = {"exact": "green", "approximate": "yellow", "unknown": "yellow"}
_SHOWN_PAIRS = 4


def show_readings(screen: Console, readings: tuple[Reading, ...]) -> None:
    """One block a program: the outcome, the frequencies, the window, what is dropped."""
    from rich.text import Text

    from ropewalk.units import format_length

    for reading in readings:
        head = Text(f"\n{reading.title}  ", style="bold")
        head.append(reading.answer.outcome, style=_STYLE.get(reading.answer.outcome, "bold red"))
        known = reading.answer.known_by
        if known is not None and known.kind != "unknown":
            head.append(f" ({known.describe()})", style="dim")
        screen.print(head, soft_wrap=True)
        made = reading.computes
        rows = {"computes": "not known: " + (reading.answer.reason or "")}
        if made is not None:
            pairs = made.stretch
            step = max(1, (len(pairs) - 1) // (_SHOWN_PAIRS - 1)) if len(pairs) > 1 else 1
            chosen = sorted({*range(0, len(pairs), step), len(pairs) - 1})
            slowed = ", ".join(f"{pairs[i]:.4g} (pair {i})" for i in chosen)
            rows = {"slowed by": slowed, "attention factor": f"{made.attention_factor:.6g}"}
            if made.short_inv_freq is not None:
                rows["two sets"] = "yes"
        served = "any" if reading.served_length is None else format_length(reading.served_length)
        rows["serves"] = f"{served} tokens ({reading.served_note})"
        for dropped in reading.drops:
            rows["drops"] = f"{rows['drops']}; {dropped}" if "drops" in rows else dropped
        if reading.age is not None:
            rows["age"] = reading.age
        for name, value in rows.items():
            screen.print(f"  {name:<19}{value}", markup=False, soft_wrap=True)
