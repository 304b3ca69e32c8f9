"""Finished cells outlive a kill, and are never mixed with another measurement's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ropewalk.errors import DamagedError, UsageError
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
    with pytest.raises(UsageError, match="begun with another seed"):
        Cells(tmp_path).bind({"lengths": [1, 2], "seed": 1})


def test_a_run_of_an_older_version_is_refused_as_such(tmp_path: Path) -> None:
    """A setting that the run never heard of cannot be given again: the words must not ask for it."""
    Cells(tmp_path).bind({"seed": 0})
    with pytest.raises(
        UsageError, match=r"begun by an older version, which knew no key_gain, scoring"
    ) as caught:
        Cells(tmp_path).bind({"seed": 0, "scoring": "auto", "key_gain": 2.0})
    assert "another -o" in str(caught.value.hint)
    with pytest.raises(UsageError, match="begun with another seed"):
        Cells(tmp_path).bind({})


def test_contents_that_changed_in_place_are_refused_by_name(tmp_path: Path) -> None:
    Cells(tmp_path).bind_contents({"text": "a", "weights": "b"})
    Cells(tmp_path).bind_contents({"text": "a", "weights": "b"})
    with pytest.raises(UsageError, match=r"changed in place: text:"):
        Cells(tmp_path).bind_contents({"text": "c", "weights": "b"})
    with pytest.raises(UsageError, match="changed in place: text, weights"):
        Cells(tmp_path).bind_contents({"text": "c", "weights": "d"})


def test_each_reader_has_its_own_scores(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    cells.keep_score({"task": "one"}, "yarn")
    cells.keep_score({"task": "two"})
    assert cells.scores("yarn") == [{"task": "one"}]
    assert cells.scores() == [{"task": "two"}]
    assert cells.written == 2


def test_damage_is_named(tmp_path: Path) -> None:
    cells = Cells(tmp_path)
    cells.keep_losses("a", np.zeros(3, dtype=np.float32))
    (tmp_path / "cells" / "a.npy").write_bytes(b"nothing")
    with pytest.raises(DamagedError, match=r"a\.npy is damaged"):
        cells.losses("a")
    (tmp_path / "cells" / "scores-0.jsonl").write_text("{]\n")
    with pytest.raises(DamagedError, match="no score"):
        cells.scores()
    for line in (b"5\n", b"\xff\n", b'["a"]\n'):
        (tmp_path / "cells" / "scores-0.jsonl").write_bytes(line)
        with pytest.raises(DamagedError, match="no score"):
            cells.scores()
    (tmp_path / "cells" / "settings.json").write_text("[1]")
    with pytest.raises(DamagedError, match=r"settings\.json is damaged"):
        cells.bind({"seed": 0})


def test_without_a_run_nothing_is_kept() -> None:
    cells = Cells(None)
    cells.bind({})
    cells.keep_losses("a", np.zeros(1, dtype=np.float32))
    cells.keep_score({})
    assert cells.losses("a") is None
    assert cells.scores() == []
