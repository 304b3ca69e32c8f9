"""`compare`: every method beside the controls, and which to take."""

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
    number_cell,
    sentence,
    sentences,
    shown_number,
    value_cell,
)
from ropewalk.report.page.kinds.measured import (
    cells_table,
    figures,
    loss_table,
    retrieval_table,
    rows_table,
    tail_table,
)
from ropewalk.report.reading import mappings, number
from ropewalk.report.views import RunView

_BEST = ("retrieval_at_target", "key_token_loss", "loss_at_target", "loss_in_window")
_FIRST = (
    "retrieval_at_target",
    "retrieval_vs_cropped",
    "key_token_loss",
    "loss_at_target",
    "loss_vs_cropped",
    "loss_in_window",
    "window_cost",
    "retrieval_in_window",
    "length_score",
    "effective_factor",
    "attention_factor",
    "parameters",
    "needs_training",
)
_LEFT_OUT = (
    "name",
    "kind",
    "method",
    "variant",
    "same_as",
    "file",
    "loss_vs_unmodified",
    "retrieval_by_task",
    "length_score_ci",
    "curve",
)
_UNITS = {"loss": "nats", "window_cost": "nats", "bytes": "bytes", "seconds": "s"}
_NESTED = (dict, list, tuple)


@content_of("compare")
def content(view: RunView) -> Content:
    """Verdict, tiles, tables and figures of a comparison."""
    tables = (
        methods_table(view),
        loss_table(view),
        tail_table(view),
        retrieval_table(view),
        _key_tokens(view),
        _contexts(view),
        cells_table(view),
    )
    return Content.of(_verdict(view), _tiles(view), tables, figures(view))


def _verdict(view: RunView) -> Verdict:
    found = view.result.get("verdict")
    if isinstance(found, str):
        said = sentences(found) or ["No summary."]
        return Verdict(said[0], tuple(said[1:]))
    if not isinstance(found, Mapping):
        return Verdict("This comparison states no verdict.", tone="muted")
    stated = found.get("points")
    said = (
        [str(point) for point in stated]
        if isinstance(stated, list) and stated
        else sentences(found.get("summary") or "No summary.")
    )
    headline, points = said[0], said[1:]
    if len(said) == 1:
        points += _winners(found)
    # Runs before there was a closing say only whether text beat cropping.
    closing = found.get("closing")
    beats = closing == "extend" if isinstance(closing, str) else found.get("beats_cropping")
    left = mappings(view.result.get("not_measured"))
    points += [f"Not measured: {row.get('name')}, {sentence(row.get('why'))}" for row in left]
    return Verdict(headline, tuple(points), "bad" if beats is False else "good" if beats is True else "")


def _winners(verdict: Mapping[str, Any]) -> list[str]:
    """The names behind a short summary; a long one says them itself."""
    points = []
    for key, words in (("text", "Best for text"), ("retrieval", "Best for retrieval")):
        if isinstance(verdict.get(key), str):
            points.append(f"{words}: {sentence(verdict[key])}")
    for key, words in (("text_beats_cropping", "text"), ("retrieval_beats_cropping", "retrieval")):
        if isinstance(verdict.get(key), list):
            points.append(f"Beat cropping on {words}: {', '.join(map(str, verdict[key])) or 'none'}.")
    return points


def _key_tokens(view: RunView) -> Table | None:
    found = view.result.get("key_tokens")
    if not isinstance(found, Mapping):
        return None
    note = "Tokens that gain at least `gain` nats from far context and are then likely enough; one set for all rows."
    return rows_table("Key tokens", [found], f"{view.id}/result.json/key_tokens", note=note)


def _contexts(view: RunView) -> Table | None:
    """What each doubling of context inside the window is worth, where it was measured."""
    verdict = view.result.get("verdict")
    tuning = verdict.get("fine_tuning") if isinstance(verdict, Mapping) else None
    if not isinstance(tuning, Mapping) or not isinstance(tuning.get("steps"), list):
        return None
    note = "The same tokens read with half of this context and with all of it, by the unscaled model: the difference."
    path = f"{view.id}/result.json/verdict/fine_tuning/steps"
    return rows_table("What context is worth", tuning["steps"], path, note=note)


def methods_table(view: RunView) -> Table | None:
    """One row a method, every plain value that the run states; controls below."""
    methods = mappings(view.result.get("methods"))
    if not methods:
        return None
    controls = view.result.get("controls")
    extra = [
        ({"name": name} | dict(control), f"/controls/{name}")
        for name, control in (controls.items() if isinstance(controls, Mapping) else ())
        if isinstance(control, Mapping)
    ]
    rows = [(method, f"/methods/{index}") for index, method in enumerate(methods)]
    present = [key for method in methods for key, value in method.items() if not isinstance(value, _NESTED)]
    leading = [key for key in _FIRST if any(method.get(key) is not None for method in methods)]
    keys = [key for key in dict.fromkeys([*leading, *present]) if key not in _LEFT_OUT]
    keys_told = isinstance(view.result.get("key_tokens"), Mapping) and view.result["key_tokens"].get("told")
    marked = [key for key in _BEST if key != "key_token_loss" or keys_told]
    best = {key: _best(key, [method for method, _ in rows]) for key in marked}
    drawn = tuple(_row(view, row, path, keys, best) for row, path in [*rows, *extra])
    columns = (Column("method", numeric=False), *(_column(key, methods) for key in keys))
    note = "Controls stand below the methods. The best of each leading column is marked."
    return Table("Methods", columns, drawn, note, (f"{view.id}/result.json/methods",))


def _row(
    view: RunView, row: Mapping[str, Any], path: str, keys: list[str], best: Mapping[str, float | None]
) -> tuple[Cell, ...]:
    name = str(row.get("name") or "")
    cells = [Cell(name, name, tone="muted" if path.startswith("/controls") else "")]
    for key in keys:
        source = f"{view.id}/result.json{path}/{key}"
        value = row.get(key)
        tone: Tone = "good" if best.get(key) is not None and number(value) == best[key] else ""
        cells.append(_cell(value, source, tone))
    return tuple(cells)


def _cell(value: Any, source: str, tone: Tone) -> Cell:
    """A number, or a paired difference with half its interval."""
    if isinstance(value, Mapping) and (difference := number(value.get("difference"))) is not None:
        low, high = number(value.get("low")), number(value.get("high"))
        spread = "" if low is None or high is None else f" ±{(high - low) / 2:.3f}"
        return Cell(f"{difference:+.3f}{spread}", difference, source, tone)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number_cell(value, source, tone=tone)
    return value_cell(None if value == {} else value, source)


def _column(key: str, methods: list[Mapping[str, Any]]) -> Column:
    values = [method.get(key) for method in methods]
    unit = next((unit for word, unit in _UNITS.items() if word in key), "")
    numeric = any(
        number(value) is not None or (isinstance(value, Mapping) and "difference" in value)
        for value in values
    )
    return Column(key.replace("_", " "), unit, numeric)


def _best(key: str, methods: list[Mapping[str, Any]]) -> float | None:
    values = [value for method in methods if (value := number(method.get(key))) is not None]
    # Where every method is the same, none is best.
    if len(set(values)) < 2:
        return None
    # Of losses and what they cost the lowest is best, of answers found the most.
    return max(values) if key.startswith("retrieval") else min(values)


def _tiles(view: RunView) -> list[Tile]:
    methods = mappings(view.result.get("methods"))
    tiles = []
    verdict = view.result.get("verdict")
    verdict = verdict if isinstance(verdict, Mapping) else {}
    taken = verdict.get("recommended")
    if isinstance(taken, str):
        group = verdict.get("group")
        note = (
            f"of {len(group)} that cannot be told apart" if isinstance(group, list) and len(group) > 1 else ""
        )
        tiles.append(Tile("recommended", taken, note, f"{view.id}/result.json/verdict/recommended"))
    labels = {
        "loss_at_target": ("lowest loss at the target", "nats"),
        "retrieval_at_target": ("best retrieval at the target", "share found"),
    }
    for key, (label, unit) in labels.items():
        best = _best(key, methods)
        for index, method in enumerate(methods):
            if best is not None and number(method.get(key)) == best:
                note = f"{unit}, {method.get('name')}"
                tiles.append(
                    Tile(label, shown_number(best), note, f"{view.id}/result.json/methods/{index}/{key}")
                )
                break
    return tiles
