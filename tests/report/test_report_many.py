"""Many methods in one run: what breaks does not flatten the rest, what matters comes first, tables stay narrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sample_runs import compare_document, compare_row, loss_rows

from ropewalk.report.figure import Heat, Line
from ropewalk.report.figures import KINDS
from ropewalk.report.page.kinds.comparison import content
from ropewalk.report.sources import view_of_run
from ropewalk.report.views import RunView
from ropewalk.runs import create_run, open_run

METHODS = [f"method-{number}" for number in range(15)]


@pytest.fixture
def view(tmp_path: Path) -> RunView:
    """Fifteen methods, the seventh best at retrieval; the unmodified model leaves every scale."""
    document: dict[str, Any] = compare_document()
    document["methods"] = [compare_row(name, 0.3 if name != "method-6" else 0.0) for name in METHODS]
    document["controls"]["unmodified"]["loss"] = loss_rows(2.4, 1.4)
    with create_run("compare", {"model": "tiny", "target_length": 4096}, path=tmp_path / "c") as run:
        run.write_json("result.json", document)
    return view_of_run(open_run(tmp_path / "c"))


def test_a_broken_model_leaves_the_axis_and_is_named(view: RunView) -> None:
    figure = KINDS["loss-length"].build((view,))
    [panel] = figure.panels
    low, high = panel.y.limits
    inside = [
        value
        for layer in panel.layers
        if isinstance(layer, Line)
        for value in layer.y
        if low <= value <= high
    ]
    # 15 methods and the cropped control at four lengths each; of the unmodified model only the window fits.
    assert len(inside) == 4 * 16 + 1
    # Methods reach 2.7 and the cropped control 2.45; the lowest value is method-6 at 4k, 2.4 - 3 * 0.03.
    assert high == pytest.approx(2.7 + 0.06 * (2.7 - 2.31), abs=0.04)
    assert low < 2.31
    assert "beyond it run unmodified (to 6.60)" in figure.caption


def test_curves_that_lie_together_keep_the_whole_axis(view: RunView) -> None:
    view.result["controls"].pop("unmodified")
    figure = KINDS["loss-length"].build((view,))
    assert figure.panels[0].y.limits is None
    assert "beyond" not in figure.caption


def test_heat_maps_are_small_the_best_and_the_controls_first(view: RunView) -> None:
    figure = KINDS["retrieval"].build((view,))
    titles = [panel.title for panel in figure.panels]
    assert titles[:3] == ["method-6", "unmodified", "cropped"]
    assert (len(titles), figure.columns) == (12, 4)
    assert {
        (layer.low, layer.high)
        for panel in figure.panels
        for layer in panel.layers
        if isinstance(layer, Heat)
    } == {(0.0, 1.0)}
    assert "5 more are in the table" in figure.caption


def test_the_loss_table_has_a_row_a_method_and_a_column_a_length(view: RunView) -> None:
    tables = {table.title: table for table in content(view).tables}
    table = tables["Loss by length"]
    assert [column.label for column in table.columns] == ["model or method", "512", "1k", "2k", "4k"]
    assert [row[0].text for row in table.rows] == [*METHODS, "unmodified", "cropped"]
    assert table.rows[0][4].text == "2.610 ±0.050"


def test_the_lowest_loss_in_the_window_is_no_headline(view: RunView) -> None:
    assert [tile.label for tile in content(view).tiles] == [
        "lowest loss at the target",
        "best retrieval at the target",
    ]
