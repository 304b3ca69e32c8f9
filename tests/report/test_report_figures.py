"""Figures as data: every kind is made, labelled, with units; both renderers draw them; the same bytes each time."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk import FrequencySchedule, RopeGeometry
from ropewalk.analysis import neighbour_resolution, out_of_bound
from ropewalk.cli.main import main
from ropewalk.errors import UsageError
from ropewalk.planning import ModelShape
from ropewalk.report.figure import (
    Axis,
    Bars,
    Figure,
    Guide,
    Heat,
    Line,
    NoDataError,
    Panel,
    Points,
    length_axis,
)
from ropewalk.report.figures import KINDS, find_kind, kinds_for
from ropewalk.report.figures.angles import chosen_pairs
from ropewalk.report.figures.curves import clipped
from ropewalk.report.palette import DARK, LIGHT
from ropewalk.report.reading import Curve, Row
from ropewalk.report.render import matplotlib as drawn
from ropewalk.report.render import plotly as plots
from ropewalk.report.sources import view_of_run
from ropewalk.report.views import ModelView, RunView, model_view
from ropewalk.runs import open_run

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
}


@pytest.fixture(scope="module")
def view() -> ModelView:
    shape = ModelShape(2, 256, 512, 1000, 4, 2, 64)
    return model_view("tiny", RopeGeometry(64, 1e4, 512), shape=shape)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(scope="module")
def every(view: ModelView, sample_runs: dict[str, Path]) -> dict[str, Figure]:
    """One figure of every kind."""
    made = {kind.name: kind.build(view) for kind in KINDS.values() if kind.source == "model"}
    for kind in KINDS.values():
        if kind.source == "run":
            run = view_of_run(open_run(sample_runs[kind.run_kinds[0]]))
            made[kind.name] = kind.build((run,))
    return made


def lines(figure: Figure) -> dict[str, Line]:
    return {layer.name: layer for panel in figure.panels for layer in panel.layers if isinstance(layer, Line)}


@pytest.mark.parametrize("name", KINDS)
def test_every_figure_is_labelled(every: dict[str, Figure], name: str) -> None:
    figure = every[name]
    assert figure.title
    assert figure.caption
    assert len(figure.alt) > 20
    for panel in figure.panels:
        assert panel.layers
        if not panel.bare:
            assert panel.x.label
            assert panel.y.label
            assert panel.y.unit or panel.y.label == "layer"
    if KINDS[name].source == "run":
        assert figure.sources


@pytest.mark.parametrize("name", KINDS)
def test_every_figure_becomes_strict_json_with_known_colours(every: dict[str, Figure], name: str) -> None:
    text = json.dumps(plots.panels(every[name]), allow_nan=False)
    tokens = set(re.findall(r'color": "@([a-z0-9-]+)', text))
    assert tokens
    assert tokens <= LIGHT.keys() == DARK.keys()


@pytest.mark.parametrize("name", KINDS)
def test_every_figure_is_drawn_to_the_same_bytes(every: dict[str, Figure], name: str) -> None:
    first = drawn.draw(every[name], "svg")
    assert first == drawn.draw(every[name], "svg")
    assert first.startswith(b"<?xml")
    assert b"<dc:date>" not in first


def test_dark_is_another_drawing(every: dict[str, Figure]) -> None:
    dark = drawn.draw(every["profile"], "svg", dark=True)
    assert dark != drawn.draw(every["profile"], "svg")
    assert DARK["paper"].encode() in dark


@pytest.mark.parametrize(("file_format", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_other_formats_are_the_same_bytes_too(
    every: dict[str, Figure], file_format: str, magic: bytes
) -> None:
    for name in ("wavelength", "retrieval"):
        content = drawn.draw(every[name], file_format, dpi=60)
        assert content.startswith(magic)
        assert content == drawn.draw(every[name], file_format, dpi=60)
        assert b"CreationDate" not in content


def test_two_processes_draw_the_same_bytes(config: Path, tmp_path: Path) -> None:
    contents = []
    for number in ("1", "2"):
        output = tmp_path / f"{number}.svg"
        command = [sys.executable, "-m", "ropewalk", "plot", "profile", str(config), "-o", str(output)]
        subprocess.run(command, check=True, capture_output=True, env={"PYTHONHASHSEED": number, "PATH": ""})
        contents.append(output.read_bytes())
    assert contents[0] == contents[1]


def test_wavelengths_are_the_schedules_own(view: ModelView) -> None:
    figure = KINDS["wavelength"].build(view)
    found = lines(figure)
    np.testing.assert_allclose(found["unscaled"].y, view.geometry.wavelength, rtol=1e-5)
    np.testing.assert_allclose(found["linear"].y, 8 * view.geometry.wavelength, rtol=1e-5)
    guides = [layer.value for layer in figure.panels[0].layers if isinstance(layer, Guide)]
    assert guides == [512, 4096]


def test_a_stopped_pair_is_a_gap() -> None:
    view = model_view("tiny", RopeGeometry(64, 1e4, 512), methods=("drope",))
    line = lines(KINDS["wavelength"].build(view))["drope"]
    assert None in line.y
    assert drawn.draw(KINDS["wavelength"].build(view), "svg")


def test_the_circles_count_what_the_analysis_counts(view: ModelView) -> None:
    figure = KINDS["angles"].build(view)
    for panel, made in zip(figure.panels, [view.unscaled, *view.schedules], strict=False):
        assert f"{int(out_of_bound(made, view.target_length).sum())} pairs" in panel.title
    linear = next(panel for panel in figure.panels if panel.title.startswith("linear"))
    new = next(
        layer for layer in linear.layers if isinstance(layer, Line) and layer.name.endswith("never seen")
    )
    points = [(x, y) for x, y in zip(new.x, new.y, strict=True) if x is not None]
    assert len({round(x or 0) for x, _ in points}) <= 32
    for x, y in points[:50]:
        assert x is not None
        assert y is not None
        radius = math.hypot((x + 1.25) % 2.5 - 1.25, (y + 1.25) % 2.5 - 1.25)
        assert radius == pytest.approx(0.68, abs=0.02)


def test_many_pairs_are_chosen_from() -> None:
    assert chosen_pairs(16) == list(range(16))
    chosen = chosen_pairs(64)
    assert len(chosen) == 32
    assert chosen == sorted(set(chosen))
    assert chosen[-24:] == list(range(40, 64))


def test_resolution_ends_at_the_analysis_value(view: ModelView) -> None:
    found = lines(KINDS["resolution"].build(view))
    for label, made in zip(view.labels(), view.schedules, strict=True):
        assert found[label].y[-1] == pytest.approx(neighbour_resolution(made), rel=1e-5)
        assert found[label].y[0] == pytest.approx(1.0)


def test_resolution_of_a_schedule_for_one_factor_only() -> None:
    geometry = RopeGeometry(64, 1e4, 512)
    made = FrequencySchedule("searched", geometry, 8.0, geometry.inv_freq / 2.0)
    figure = KINDS["resolution"].build(ModelView("tiny", geometry, (made,), 4096))
    line = lines(figure)["searched"]
    assert line.x == [8.0]
    assert line.y[-1] == pytest.approx(neighbour_resolution(made), rel=1e-5)


def test_memory_needs_sizes_and_says_so() -> None:
    view = model_view("tiny", RopeGeometry(64, 1e4, 512))
    with pytest.raises(NoDataError, match="sizes of tiny") as caught:
        KINDS["memory"].build(view)
    assert "config.json" in str(caught.value.hint)


def test_memory_adds_up(view: ModelView) -> None:
    from ropewalk.planning import inference_memory

    assert view.shape is not None
    figure = KINDS["memory"].build(view)
    bars = [layer for layer in figure.panels[0].layers if isinstance(layer, Bars)]
    last = sum(bar.values[-1] or 0 for bar in bars[:3]) * 1024**2
    assert last == pytest.approx(inference_memory(view.shape, 4096).total(), rel=1e-4)
    assert bars[0].categories == ("512", "1k", "2k", "4k")


def test_a_run_without_data_says_what_to_run(make: dict[str, Any], tmp_path: Path) -> None:
    path = make["eval"](
        tmp_path, loss=None, loss_by_position=None, retrieval=None, health=None, controls=None
    )
    view = view_of_run(open_run(path))
    for kind in kinds_for("eval"):
        with pytest.raises(NoDataError) as caught:
            kind.build((view,))
        assert "`ropewalk eval" in str(caught.value.hint)


def test_malformed_results_give_no_data_and_no_crash(make: dict[str, Any], tmp_path: Path) -> None:
    strange: list[Any] = [
        7,
        "text",
        [1, None],
        [{"length": "x", "loss": None}],
        {"a": 1},
        [{"length": 512}],
        True,
    ]
    for number, value in enumerate(strange):
        changes = dict.fromkeys(("loss", "loss_by_position", "retrieval", "health", "controls"), value)
        view = view_of_run(open_run(make["eval"](tmp_path, folder=f"r{number}", **changes)))
        for kind in kinds_for("eval"):
            with pytest.raises(NoDataError):
                kind.build((view,))


def test_retrieval_cells_keep_their_values(every: dict[str, Figure]) -> None:
    panel = every["retrieval"].panels[0]
    (heat,) = [layer for layer in panel.layers if isinstance(layer, Heat)]
    assert heat.columns == ("512", "1k", "2k", "4k")
    assert heat.rows == ("0", "0.5", "1")
    assert heat.values[2] == (0.9375, 0.875, 0.75, 0.5)
    assert (heat.low, heat.high) == (0.0, 1.0)


def test_the_trade_is_the_difference_to_both_controls(every: dict[str, Figure]) -> None:
    points = {layer.name: layer for layer in every["trade"].panels[0].layers if isinstance(layer, Points)}
    assert points["ntk"].x[0] == pytest.approx(2.45 - 2.75, abs=1e-4)
    assert points["ntk"].y[0] == pytest.approx(2.36 - 2.41, abs=1e-4)


def test_long_curves_are_thinned_and_keep_their_mean(every: dict[str, Figure]) -> None:
    line = lines(every["loss-position"])["tiny"]
    assert len(line.x) <= 300
    assert line.low is not None
    expected = np.mean([3.0 - 0.1 * math.log(position) for position in range(1, 4097, 8)])
    assert np.mean([value for value in line.y if value is not None]) == pytest.approx(expected, abs=0.01)


def test_stages_are_shaded(every: dict[str, Figure]) -> None:
    from ropewalk.report.figure import Span

    spans = [layer for layer in every["training"].panels[0].layers if isinstance(layer, Span)]
    assert [span.label for span in spans] == ["512", "1k", "2k"]
    assert [span.shaded for span in spans] == [False, True, False]


def test_length_ticks_are_powers_of_two() -> None:
    axis = length_axis("length", [512, 131072])
    assert axis.ticks is not None
    assert axis.ticks[-1] == (131072.0, "128k")
    assert len(axis.ticks) <= 8


def test_texts_are_shown_not_read() -> None:
    text = "<b>$x_2$</b> %{y} </script>"
    line = Line(text, [1.0, 2.0], [1.0, 2.0])
    figure = Figure("x", text, text, (Panel((line, line), Axis(text), Axis("y", "u")),))
    spec = json.dumps(plots.panels(figure))
    assert "<b>" not in spec
    assert "&lt;b&gt;" in spec
    assert drawn.draw(figure, "svg")


@pytest.mark.parametrize("text", ["\x00\x1b[31m", "模型 نموذج 🪢", "\ud800", "--><svg onload=x>"])
def test_any_text_makes_a_well_formed_drawing(text: str) -> None:
    from xml.etree import ElementTree

    line = Line(text, [1.0, 2.0], [1.0, 2.0])
    figure = Figure("x", text, text, (Panel((line, Line("b", [1.0], [2.0])), Axis(text), Axis("y", "u")),))
    root = ElementTree.fromstring(drawn.draw(figure, "svg"))
    assert not [element for element in root.iter() if "onload" in element.attrib]


def test_unknown_kinds_suggest() -> None:
    with pytest.raises(UsageError, match="no figure 'wavelenth'") as caught:
        find_kind("wavelenth")
    assert "wavelength" in str(caught.value.hint)


def test_plot_needs_no_torch_and_writes_the_file(config: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from ropewalk.cli.main import main\n"
        f"words = ['plot', 'decay', {str(config)!r}, '-o', {str(tmp_path / 'd.svg')!r}, '--method', 'yarn,ntk']\n"
        "assert main(words) == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    content = (tmp_path / "d.svg").read_bytes()
    assert content.startswith(b"<?xml")


def test_plot_commands(
    config: Path, tmp_path: Path, sample_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = str(config), str(tmp_path / "x.png")
    assert main(["plot", "--json"]) == 0
    assert [item["name"] for item in json.loads(capsys.readouterr().out)["figures"]] == list(KINDS)
    assert main(["plot", "profile", model, "-o", output, "--target", "16x", "--dpi", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == output
    assert main(["plot", "retrieval", str(sample_runs["eval"]), "-o", output, "--dpi", "40"]) == 0
    failures = {
        2: [
            ["plot", "profile", model, "-o", "x.bmp"],
            ["plot", "dance", model],
            ["plot", "profile"],
            ["plot", "profile", model, "--method", "yarm"],
            ["plot", "profile", model, "--target", "100"],
            ["plot", "profile", model, "--method", "yarn,ntk", "-p", "beta_fast=3"],
            ["plot", "retrieval", model],
            ["plot", "retrieval", str(sample_runs["train"])],
            ["plot", "retrieval", str(sample_runs["eval"]), "--target", "8k"],
        ],
        1: [["plot", "profile", str(tmp_path / "none")], ["plot", "retrieval", str(tmp_path / "none")]],
    }
    for code, lines_ in failures.items():
        for arguments in lines_:
            assert main(arguments) == code, arguments
            assert "Traceback" not in capsys.readouterr().err


def test_a_missing_matplotlib_is_named(view: ModelView, monkeypatch: pytest.MonkeyPatch) -> None:
    from ropewalk.errors import RopewalkError

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(RopewalkError, match="needs matplotlib") as caught:
        drawn.draw(KINDS["profile"].build(view), "svg")
    assert "pip install" in str(caught.value.hint)


def contrast(first: str, second: str) -> float:
    """WCAG contrast of two colours."""

    def luminance(color: str) -> float:
        channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
        linear = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    one, two = sorted((luminance(first), luminance(second)))
    return (two + 0.05) / (one + 0.05)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_stand_out_from_the_paper(colors: dict[str, str]) -> None:
    assert contrast(colors["ink"], colors["paper"]) > 7
    assert contrast(colors["muted"], colors["paper"]) > 4.5
    for number in range(8):
        assert contrast(colors[f"series-{number}"], colors["paper"]) > 3


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_series_stay_apart_without_red_green_vision(colors: dict[str, str]) -> None:
    """The first six series under full deuteranopia and protanopia (Machado et al. 2009, severity 1)."""
    deutan = np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    )
    protan = np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    )
    for matrix in (deutan, protan):
        seen = []
        for number in range(6):
            color = colors[f"series-{number}"]
            linear = (np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255) ** 2.2
            seen.append(np.clip(matrix @ linear, 0, 1) ** (1 / 2.2))
        gaps = [np.linalg.norm(one - two) for index, one in enumerate(seen) for two in seen[:index]]
        assert min(gaps) > 0.08


def test_a_curve_that_leaves_the_axis_is_named_whichever_run_it_is_of() -> None:
    """Two runs of one model: the names of their curves are equal, and one of them breaks."""

    def curve(run: str, last: float) -> Curve:
        rows = tuple(Row(at, value, None, None, "") for at, value in ((512.0, 2.0), (1024.0, last)))
        return Curve(RunView(run, "eval", run, {}, {}), "hemp", "measured", rows, "/loss")

    for order in (("a", 9.0), ("b", 2.1)), (("b", 2.1), ("a", 9.0)):
        limits, said = clipped([curve(*one) for one in order])
        assert limits is not None
        assert limits[1] < 3
        assert "beyond it run hemp (a) (to 9.00)." in said
    assert clipped([curve("a", 2.2), curve("b", 2.1)]) == (None, "")
