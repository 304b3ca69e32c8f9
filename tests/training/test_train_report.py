"""What there is to train on, said before it is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ropewalk.training.data import report as report_module
from ropewalk.training.data.mixture import mixture_of
from ropewalk.training.data.report import idle_processes, report, warnings_of
from ropewalk.training.data.stages import Curriculum
from ropewalk.training.model.build import build_tokenizer
from ropewalk.training.recipe.reading import read_recipe
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Four documents of 100, 100, 100 and 300 tokens, the end token counted."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, size in enumerate((99, 99, 99, 299)):
        (folder / f"{number}.txt").write_text("x" * size)
    return folder


def reports_of(recipe: dict[str, Any]) -> list[report_module.SourceReport]:
    checked = read_recipe(recipe)
    mixture = mixture_of(checked, build_tokenizer(checked.model))
    return report(mixture, Curriculum(checked, lambda: mixture.tokens_per_epoch))


def recipe_for(tiny: Tiny, texts: Path, length: int, **changes: Any) -> dict[str, Any]:
    source = {"name": "text", "kind": "text", "paths": [str(texts)]}
    stages = [{"length": length, "steps": 6}]
    return tiny(data={"sources": [source], "interleave": 1}, stages=stages, tokens_per_step=600) | changes


def test_documents_epochs_padding_and_cuts(tiny: Tiny, texts: Path) -> None:
    [found] = reports_of(recipe_for(tiny, texts, 200))
    assert (found.documents, found.reaching, found.tokens) == (4, 1, 600)
    assert found.epochs == 6.0
    assert (found.padding, found.estimated) == (0.0, False)
    # Whole rows of 100 and 100, or the long one and a cut: whatever the order, the long one is cut every time.
    assert 0.2 < found.cut < 0.9
    assert "1 of 4 documents reach 200, 600 tokens, read 6 times; padding 0.0%" in found.line()


def test_fitted_rows_cut_less_and_pad(tiny: Tiny, texts: Path) -> None:
    """Rows of 310: the long one alone (10 of padding), three short ones together (10 of padding); nothing is cut."""
    fitted = {"packing": {"rows": "fit", "boundaries": "block-diagonal"}}
    [found] = reports_of(recipe_for(tiny, texts, 310, **fitted))
    assert found.cut == 0.0
    assert 0.03 < found.padding < 0.1
    [streamed] = reports_of(recipe_for(tiny, texts, 310))
    assert streamed.padding == 0.0
    assert streamed.cut > 0.3


def test_lengths_of_much_text_are_estimated(tiny: Tiny, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "COUNTED_CHARACTERS", 100)
    [found] = reports_of(recipe_for(tiny, texts, 200))
    assert found.estimated
    assert found.tokens == pytest.approx(600, rel=0.02)
    assert found.reaching == 1


def test_what_a_user_must_know_is_said(tiny: Tiny, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [short] = reports_of(recipe_for(tiny, texts, 400))
    assert "no document of 400 tokens" in warnings_of([short], 32, True)[0]
    assert warnings_of([short], 512, True) == []
    [less] = reports_of(recipe_for(tiny, texts, 700, tokens_per_step=700))
    assert "600 tokens, less than one row of 700" in warnings_of([less], 32, True)[0]
    assert "no end-of-text token" in warnings_of([], 32, False)[0]


def test_a_run_says_and_keeps_its_report(
    tiny: Tiny, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_for(tiny, texts, 200)
    run = train(recipe | {"stages": [{"length": 200, "steps": 1}]}, output=tmp_path / "run").run
    assert "stage 1, text: 1 of 4 documents reach 200" in capsys.readouterr().err
    [kept] = json.loads((run / "run.json").read_text())["data_report"]
    assert (kept["reaching"], kept["tokens"]) == (1, 600)


def test_processes_that_would_stand_idle_are_named(tiny: Tiny) -> None:
    """Of a stage whose steps have fewer rows than processes, and of no other."""
    recipe = read_recipe(tiny(stages=[{"length": 64, "steps": 2}, {"length": 16, "steps": 2}]))
    said = idle_processes(recipe, Curriculum(recipe, lambda: 1000), 4)
    assert len(said) == 1
    for words in ("stages.0: a step has 2 rows of 64", "2 of 4 places stand idle", "tokens_per_step to 256"):
        assert words in said[0]
    assert not idle_processes(recipe, Curriculum(recipe, lambda: 1000), 2)
