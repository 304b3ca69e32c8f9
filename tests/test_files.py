from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ropewalk import files
from ropewalk.errors import RopewalkError, UsageError


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


@pytest.mark.parametrize("force", [False, True])
def test_of_writers_that_meet_one_wins_and_nothing_is_mixed(tmp_path, force):
    target, line = tmp_path / "out", threading.Barrier(4, timeout=60)

    def write(name):
        try:
            with files.whole_folder(target, force=force) as working:
                for part in ("one", "two"):
                    (working / part).write_text(name)
                # Everybody has seen that the place is free before anybody takes it.
                line.wait()
        except RopewalkError as error:
            return "already exists" not in error.message
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(write, "abcd"))
    assert sum(won) == (4 if force else 1)
    assert (target / "one").read_text() == (target / "two").read_text()
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_force_replaces_a_file_of_that_name_too(tmp_path):
    (tmp_path / "out").write_text("old")
    with files.whole_folder(tmp_path / "out", force=True) as working:
        (working / "new").write_text("new")
    assert (tmp_path / "out" / "new").read_text() == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_a_file_that_cannot_be_read_meanwhile_is_named(tmp_path):
    missing = tmp_path / "source" / "tokenizer.json"
    with pytest.raises(RopewalkError) as caught, files.whole_folder(tmp_path / "out") as working:
        (working / "here").write_bytes(missing.read_bytes())
    assert caught.value.message == f"cannot write {tmp_path}/out (No such file or directory: {missing})"
    with pytest.raises(RopewalkError) as caught, files.whole_folder(tmp_path / "out") as working:
        (working / "no" / "folder").write_bytes(b"")
    assert caught.value.message == f"cannot write {tmp_path}/out (No such file or directory)"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [None, 5, b"out", "", "  ", "a\0b", ["out"]])
def test_what_is_no_path_is_refused_by_its_argument(given):
    with pytest.raises(UsageError, match=r"^output=.* is not a path: give the path of a file or folder"):
        files.as_path(given, "output")


def test_a_path_comes_back_as_it_was_given(tmp_path):
    assert files.as_path("a/b ", "output") == Path("a/b ")
    assert files.as_path(tmp_path, "output") == tmp_path


def test_a_full_disk_is_not_blamed_on_the_file_that_was_copied(tmp_path):
    for code, named in ((28, False), (30, False), (13, True)):
        with pytest.raises(RopewalkError) as caught, files.whole_folder(tmp_path / "out"):
            raise OSError(code, os.strerror(code), "/models/base/model.safetensors")
        assert caught.value.message.startswith(f"cannot write {tmp_path / 'out'} ({os.strerror(code)}")
        assert ("model.safetensors" in caught.value.message) == named
