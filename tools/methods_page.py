"""Writes docs/methods.md from the registry: one row a method, its parameters and its docstring."""

from __future__ import annotations

from pathlib import Path

import ropewalk
from ropewalk.methods import Method
from ropewalk.runtimes.general import written_as
from ropewalk.temperature import RULES

TARGET = Path(__file__).parents[1] / "docs" / "methods.md"
HEAD = """# The methods

Made from the code by `tools/methods_page.py`; `ropewalk methods NAME` prints the same. Derivations are in
[the formulas](formulas.md). "Written as" is what config.json holds; which program then computes it depends on the
architecture: [runtimes](runtimes.md). Every method returns the model's own frequencies at factor 1, unless a
parameter says how far to stretch (a base, a step, a power, given factors).

"""


def page() -> str:
    """The whole page."""
    found = list(ropewalk.methods().values())
    rows = ["| method | paper | written as | |", "|---|---|---|---|"]
    rows += [
        f"| [`{known.name}`](#{known.name}) | {known.paper} | {written_as(known.name)} | {_marks(known)} |"
        for known in found
    ]
    sections = [_section(known) for known in found]
    return HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections) + "\n" + _temperatures()


def _marks(known: Method) -> str:
    held = ((known.contrib, "contrib"), (known.needs_training, "needs training"))
    return ", ".join(text for flag, text in held if flag)


def _section(known: Method) -> str:
    lines = [f"## {known.name}", "", "```text", known.summary, "```", ""]
    if known.parameters:
        lines += ["| parameter | type | default | |", "|---|---|---|---|"]
        for parameter in known.parameters:
            kind = (
                f"{parameter.type}: {', '.join(parameter.choices)}" if parameter.choices else parameter.type
            )
            lines.append(f"| `{parameter.name}` | {kind} | `{parameter.default}` | {parameter.about} |")
        lines.append("")
    return "\n".join(lines)


def _temperatures() -> str:
    lines = ["## Attention temperatures", "", "Orthogonal to the schedule.", ""]
    lines += ["| name | rule | acts on | paper |", "|---|---|---|---|"]
    lines += [f"| `{rule.name}` | `{rule.rule}` | {rule.where} | {rule.paper} |" for rule in RULES.values()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(TARGET)
