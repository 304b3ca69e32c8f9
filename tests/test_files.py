from __future__ import annotations

import os

import pytest

from ropewalk import files
from ropewalk.errors import RopewalkError


def test_a_failed_write_keeps_the_old_file_and_leaves_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_json(path, {"value": 1})

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RopewalkError, match="No space left"):
        files.write_json(path, {"value": 2})
    assert path.read_text() == '{\n  "value": 1\n}\n'
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), files.whole_folder(target) as working:
        _half_written(working)
    assert list(tmp_path.iterdir()) == []
    with files.whole_folder(target) as working:
        (working / "file").write_text("one")
    assert (target / "file").read_text() == "one"


def _half_written(working):
    (working / "half").write_text("x")
    raise ZeroDivisionError


def test_an_existing_folder_needs_force_and_survives_a_failure_under_force(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RopewalkError, match="already exists"), files.whole_folder(target):
        pass
    with pytest.raises(ZeroDivisionError), files.whole_folder(target, force=True):
        raise ZeroDivisionError
    assert (target / "old").read_text() == "old"
    with files.whole_folder(target, force=True) as working:
        (working / "new").write_text("new")
    assert [item.name for item in target.iterdir()] == ["new"]
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_nan_never_reaches_a_json_file(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
