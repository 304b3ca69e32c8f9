"""Writes the tables of docs/runtimes.md: what was run here last, and what the facts say, program by program.

python tools/runtimes_page.py                 from the facts and docs/runtimes-measured.json
python tools/runtimes_page.py --run           first run every program that is installed, on the bundled model
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ropewalk
from ropewalk.errors import RopewalkError
from ropewalk.models.facts import read_facts
from ropewalk.runtimes import Answer, answer, facts_about, job_for, runtimes
from ropewalk.runtimes.environments import RUNNABLE, interpreter
from ropewalk.runtimes.general import REFERENCE
from ropewalk.runtimes.proof import verify_runtimes

ROOT = Path(__file__).parents[1]
PAGE, MEASURED = ROOT / "docs" / "runtimes.md", ROOT / "docs" / "runtimes-measured.json"
MARK = "<!-- what follows is written by tools/runtimes_page.py -->"
METHODS = ("linear", "ntk", "llama3", "yarn", "mrrope-pro", "longrope")
# What is run: the above, and each field that some program ignores.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, {}) for name in (*METHODS, "by-parts", "cope")
} | {
    "yarn, attention_factor 1": ("yarn", {"attention_factor": 1.0}),
    "yarn, betas 16 and 2": ("yarn", {"beta_fast": 16.0, "beta_slow": 2.0}),
    "yarn, truncate false": ("yarn", {"truncate": False}),
}
FACTOR = 8.0


def run(place: Path) -> list[dict[str, Any]]:
    """Every case in every program that is installed: the bundled model at 8 times its window."""
    rows = []
    for case, (method, parameters) in CASES.items():
        out = place / case.replace(" ", "-").replace(",", "")
        ropewalk.extend("hemp", output=out, factor=FACTOR, method=method, params=parameters)
        names = [name for name in RUNNABLE if interpreter(name) is not None]
        for check in verify_runtimes(out, names) if names else ():
            row = {"case": case, "program": check.runtime, "status": check.status, "expected": check.expected}
            rows.append(
                row | {"by_length": check.by_length, "versions": check.versions, "detail": check.detail}
            )
            print(case, check.runtime, check.status, check.detail, flush=True)
    return rows


def measured_section() -> list[str]:
    """The last run, case by program: the largest difference within 1, 2 and 4 windows, or the reason."""
    if not MEASURED.is_file():
        return []
    document = json.loads(MEASURED.read_text(encoding="utf-8"))
    rows = {(row["case"], row["program"]): row for row in document["rows"]}
    programs = list(dict.fromkeys(row["program"] for row in document["rows"]))
    lines = ["## Run here", ""]
    lines += [
        f"The bundled model (a Llama, {document['window']} tokens), {FACTOR:g} times, beside transformers "
        f"{document['transformers']} in float32 on {document['date']}: the largest difference of a next-token "
        "log-probability within 1, 2 and 4 windows.",
        "",
    ]
    versions = {row["program"]: row["versions"] or {} for row in document["rows"]}
    heads = [
        f"{runtimes()[name].title} {next(iter(versions[name].values()), '')}".strip() for name in programs
    ]
    lines += ["| case | " + " | ".join(heads) + " |", "|---|" + "---|" * len(programs)]
    for case in CASES:
        cells = [_run_cell(rows.get((case, name))) for name in programs]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _run_cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    if row["by_length"] is None:
        return row["detail"].replace("|", "/")
    sizes = ", ".join(f"{size:.1e}" for size in row["by_length"].values())
    return sizes if row["status"] == "pass" else f"{row['expected'].partition(' [')[0]} ({sizes})"


def facts_sections() -> list[str]:
    """One table a program: architecture by method, as `plan` and `export` answer it."""
    lines = ["## What is known", ""]
    lines += [
        "A figure is the largest difference measured; `read` is exact by its source, not run; `?` is unknown. "
        "`mrrope-pro` stands for any schedule of one set with a temperature, `longrope` for two sets. Numbers in "
        "brackets are reasons, below each table. `*`: beside transformers with gelu in half precision, as the "
        "program's CPU kernel has it; from stock transformers it is up to 3e-3 away, unscaled too.",
        "",
    ]
    for name, program in runtimes().items():
        if name.startswith("transformers"):
            continue
        lines += [f"### {program.title}", ""]
        known = facts_about(program).architectures
        if not known:
            lines += ["Nothing is known yet: every answer is unknown.", ""]
            continue
        reasons: dict[str, int] = {}
        lines += ["| architecture | " + " | ".join(METHODS) + " |", "|---|" + "---|" * len(METHODS)]
        for architecture in known:
            cells = [_cell(found, reasons) for found in _answers(architecture, name)]
            lines.append(f"| {architecture} | " + " | ".join(cells) + " |")
        lines += ["", *[f"{number}. {reason}" for reason, number in reasons.items()], ""]
    return lines


def config_of(architecture: str) -> dict[str, Any]:
    """A configuration of the reference's shape under another type; composites hold it as their text model."""
    inner = f"{architecture}_text"
    for config in (
        REFERENCE | {"model_type": architecture},
        {"model_type": architecture, "text_config": REFERENCE | {"model_type": inner}},
    ):
        plain = dict(config)
        try:
            read_facts(plain)
        except RopewalkError:
            continue
        return plain
    raise RopewalkError(f"{architecture} has no configuration of this shape")


def _answers(architecture: str, program: str) -> list[Answer | None]:
    found: list[Answer | None] = []
    for method in METHODS:
        try:
            facts = read_facts(config_of(architecture))
            made = ropewalk.schedule(method, facts.geometry, factor=FACTOR)
            found.append(answer(program, job_for(facts, made)))
        except RopewalkError:
            found.append(None)
    return found


def _cell(found: Answer | None, reasons: dict[str, int]) -> str:
    if found is None:
        return "-"
    known = found.known_by
    if found.exact:
        size = None if known is None else known.difference
        rounded = "*" if any(fact.known_by.rounding is not None for fact in found.facts) else ""
        return "read" if size is None else f"{size:.1e}{rounded}"
    if found.outcome == "unknown":
        return "?"
    reason = found.reason or found.outcome
    return f"{found.outcome} [{reasons.setdefault(reason, len(reasons) + 1)}]"


def page() -> str:
    """The whole page: the prose as it is, the tables anew."""
    prose = PAGE.read_text(encoding="utf-8").partition(MARK)[0].rstrip()
    return "\n".join([prose, "", MARK, "", *measured_section(), *facts_sections()]).rstrip() + "\n"


def main(*words: str) -> None:
    """Write the page, after running what is installed with --run."""
    if "--run" in words:
        import datetime
        import tempfile

        import transformers

        with tempfile.TemporaryDirectory() as place:
            rows = run(Path(place))
        document = {
            "date": datetime.date.today().isoformat(),
            "transformers": transformers.__version__,
            "window": read_facts("hemp").original_length,
            "rows": rows,
        }
        MEASURED.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main(*sys.argv[1:])
