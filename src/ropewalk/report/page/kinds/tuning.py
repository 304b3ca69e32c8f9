"""`tune`: what a fitted schedule gained."""

from __future__ import annotations

from collections.abc import Mapping

from ropewalk.report.page.content import Content, Table, Tile, Verdict, content_of, key_table, shown_number
from ropewalk.report.page.kinds.measured import figures, loss_table, retrieval_table
from ropewalk.report.reading import number
from ropewalk.report.views import RunView


@content_of("tune")
def content(view: RunView) -> Content:
    """Verdict, tiles, before and after, figures."""
    tables: list[Table | None] = [loss_table(view), retrieval_table(view)]
    for key in ("before", "after"):
        document = view.result.get(key)
        if isinstance(document, Mapping):
            tables.append(key_table(key.capitalize(), document, f"{view.id}/result.json/{key}"))
    return Content.of(_verdict(view), _tiles(view), tables, figures(view))


def _verdict(view: RunView) -> Verdict:
    before, after = _loss(view, "before"), _loss(view, "after")
    if before is None or after is None:
        return Verdict("This search states no loss before and after.", tone="muted")
    word = "lowered" if after < before else "did not lower"
    return Verdict(f"The search {word} the loss: {before:.3f} before, {after:.3f} nats per token after.")


def _loss(view: RunView, key: str) -> float | None:
    found = view.result.get(key)
    if isinstance(found, Mapping):
        return next(
            (value for name in ("loss", "loss_at_target") if (value := number(found.get(name))) is not None),
            None,
        )
    return number(found)


def _tiles(view: RunView) -> list[Tile]:
    tiles = []
    for key, label, unit in (
        ("before", "loss before", "nats per token"),
        ("after", "loss after", "nats per token"),
        ("steps", "steps", ""),
        ("forward_equivalents", "forward passes' worth", ""),
    ):
        value = _loss(view, key)
        if value is not None:
            shown = int(value) if key == "steps" else value
            tiles.append(Tile(label, shown_number(shown), unit, f"{view.id}/result.json/{key}"))
    return tiles
