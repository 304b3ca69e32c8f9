"""Finished cells outlive a kill, and are never mixed with another measurement's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ropewalk.errors import DamagedError, RopewalkError
from ropewalk.evaluation.work.cells import Cells


def test_losses_and_scores_come_back(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    row = np.array([np.nan, 1.5, 2.5], dtype=np.float32)
    assert cells.losses("model-64-0") is None
    cells.keep_losses("model-64-0", row)
    np.testing.assert_array_equal(cells.losses("model-64-0"), row)
    cells.keep_score({"task": "passkey", "credit": 1.0})
    Cells(tmp_path, rank=1).keep_score({"task": "needle", "credit": 0.0})
    assert [score["task"] for score in cells.scores()] == ["passkey", "needle"]
    cells.keep_document("served-loss", {"a": [1.0]})
    assert cells.document("served-loss") == {"a": [1.0]}


def test_a_line_cut_by_a_kill_is_not_a_score(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    cells.keep_score({"task": "one"})
    path = tmp_path / "cells" / "scores-0.jsonl"
    path.write_bytes(path.read_bytes() + b'{"task": "tw')
    assert [score["task"] for score in cells.scores()] == ["one"]
    cells.keep_score({"task": "three"})
    assert [score["task"] for score in cells.scores()] == ["one", "three"]


def test_another_measurement_is_refused(tmp_path: Path) -> None:
    Cells(tmp_path).bind({"lengths": [1, 2], "seed": 0})
    Cells(tmp_path).bind({"lengths": (1, 2), "seed": 0})
    with pytest.raises(RopewalkError, match="begun with another seed"):
        Cells(tmp_path).bind({"lengths": [1, 2], "seed": 1})


def test_damage_is_named(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    cells.keep_losses("a", np.zeros(3, dtype=np.float32))
    (tmp_path / "cells" / "a.npy").write_bytes(b"nothing")
    with pytest.raises(DamagedError, match=r"a\.npy is damaged"):
        cells.losses("a")
    (tmp_path / "cells" / "scores-0.jsonl").write_text("{]\n")
    with pytest.raises(DamagedError, match="no score"):
        cells.scores()


def test_without_a_run_nothing_is_kept() -> None:
    cells = Cells(None)
    cells.bind({})
    cells.keep_losses("a", np.zeros(1, dtype=np.float32))
    cells.keep_score({})
    assert cells.losses("a") is None
    assert cells.scores() == []
