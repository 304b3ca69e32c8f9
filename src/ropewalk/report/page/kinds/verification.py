"""`verify`: which checks passed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropewalk.report.page.content import (
    Cell,
    Column,
    Content,
    Table,
    Tile,
    Tone,
    Verdict,
    content_of,
    value_cell,
)
from ropewalk.report.page.kinds.measured import figures
from ropewalk.report.reading import mappings
from ropewalk.report.views import RunView

_TONES: dict[str, Tone] = {"pass": "good", "fail": "bad", "skip": "muted"}
_ORDER = {"fail": 0, "skip": 1, "pass": 2}


@content_of("verify")
def content(view: RunView) -> Content:
    """Verdict, tiles, the table of checks and whatever figures a verification can hold."""
    checks = mappings(view.result.get("checks"))
    counts = {status: sum(1 for check in checks if check.get("status") == status) for status in _TONES}
    return Content(
        _verdict(checks, counts),
        tuple(
            Tile(status, str(counts[status]), "checks", f"{view.id}/result.json/checks") for status in _TONES
        ),
        (_table(view, checks),) if checks else (),
        figures(view),
    )


def _verdict(checks: list[Mapping[str, Any]], counts: Mapping[str, int]) -> Verdict:
    if not checks:
        return Verdict("This verification holds no checks.", tone="muted")
    ran = counts["pass"] + counts["fail"]
    failed = [str(check.get("name")) for check in checks if check.get("status") == "fail"]
    points = [f"{counts['skip']} checks were skipped; each says why."] if counts["skip"] else []
    if failed:
        return Verdict(f"{len(failed)} of {ran} checks failed: {', '.join(failed)}.", tuple(points), "bad")
    return Verdict(f"All {ran} checks that ran passed.", tuple(points), "good")


def _table(view: RunView, checks: list[Mapping[str, Any]]) -> Table:
    extra = [key for check in checks for key in check if key not in ("name", "status", "detail")]
    keys = [
        key
        for key in dict.fromkeys(extra)
        if any(not isinstance(check.get(key), dict | list) for check in checks)
    ]
    rows = []
    for index, check in enumerate(checks):
        source = f"{view.id}/result.json/checks/{index}"
        status = str(check.get("status"))
        cells = [
            # Sorted by how much a reader should care, not by the alphabet.
            Cell(status, f"{_ORDER.get(status, 3)} {status}", f"{source}/status", _TONES.get(status, "")),
            Cell(str(check.get("name")), str(check.get("name")), f"{source}/name"),
            value_cell(check.get("detail"), f"{source}/detail"),
        ]
        cells += [value_cell(check.get(key), f"{source}/{key}") for key in keys]
        rows.append(tuple(cells))
    columns = (
        Column("status", numeric=False),
        Column("check", numeric=False),
        Column("detail", numeric=False),
        *(Column(key.replace("_", " "), numeric=False) for key in keys),
    )
    return Table("Checks", columns, tuple(rows), sources=(f"{view.id}/result.json/checks",))
