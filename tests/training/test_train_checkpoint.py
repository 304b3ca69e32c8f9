"""Checkpoint folders: whole or absent, checked to the byte, pruned without risk."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from killing import KILLER, Killed

from ropewalk.errors import DamagedError
from ropewalk.training.state.checkpoint import (
    MANIFEST,
    check_checkpoint,
    clean_leftovers,
    list_checkpoints,
    newest_checkpoint,
    prune_checkpoints,
    write_checkpoint,
)


def fill(content: str = "weights") -> object:
    def write(folder: Path) -> None:
        (folder / "model.bin").write_text(content)
        (folder / "training").mkdir()
        (folder / "training" / "state.json").write_text(json.dumps({"content": content}))

    return write


def write(root: Path, step: int, content: str | None = None) -> Path:
    return write_checkpoint(root, step, fill(content or f"weights {step}"), {"tokens": step})


def refuse(message: str) -> None:
    raise AssertionError(f"unexpected warning: {message}")


def test_written_and_found(tmp_path: Path) -> None:
    for step in (5, 10, 1000000):
        write(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-000005",
        "step-000010",
        "step-1000000",
    ]
    found = newest_checkpoint(tmp_path, refuse)
    assert found is not None
    assert (found.step, found.manifest["tokens"]) == (1000000, 1000000)
    assert set(found.manifest["files"]) == {"model.bin", "training/state.json"}


def test_nothing_to_find(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, refuse) is None
    assert newest_checkpoint(tmp_path / "absent", refuse) is None


def damage_missing(path: Path) -> None:
    (path / "training" / "state.json").unlink()


def damage_truncated(path: Path) -> None:
    os.truncate(path / "model.bin", 3)


def damage_flipped(path: Path) -> None:
    content = bytearray((path / "model.bin").read_bytes())
    content[2] ^= 1
    (path / "model.bin").write_bytes(content)


def damage_no_manifest(path: Path) -> None:
    (path / MANIFEST).unlink()


def damage_half_manifest(path: Path) -> None:
    os.truncate(path / MANIFEST, 40)


def damage_other_step(path: Path) -> None:
    document = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(document | {"step": 3}))


def damage_outside(path: Path) -> None:
    document = json.loads((path / MANIFEST).read_text())
    document["files"]["../../secret"] = {"bytes": 1, "sha256": "0"}
    (path / MANIFEST).write_text(json.dumps(document))


DAMAGES = [
    (damage_missing, "has lost training/state.json"),
    (damage_truncated, "model.bin has 3 bytes"),
    (damage_flipped, "model.bin is not what was written"),
    (damage_no_manifest, "manifest.json cannot be read"),
    (damage_half_manifest, "not JSON"),
    (damage_other_step, "does not belong"),
    (damage_outside, "secret"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=lambda item: getattr(item, "__name__", ""))
def test_damage_is_named_and_the_one_before_is_taken(tmp_path: Path, damage: object, words: str) -> None:
    write(tmp_path, 5)
    damage(write(tmp_path, 10))
    with pytest.raises(DamagedError, match=words):
        check_checkpoint(tmp_path / "step-000010")
    said: list[str] = []
    found = newest_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found.step == 5
    assert len(said) == 1
    assert words in said[0]
    assert "going back to step-000005" in said[0]


def test_only_damaged_ones_are_an_error(tmp_path: Path) -> None:
    damage_flipped(write(tmp_path, 5))
    with pytest.raises(DamagedError, match="no whole checkpoint"):
        newest_checkpoint(tmp_path, refuse)


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    paths = [write(tmp_path, step) for step in (1, 2, 3, 4)]
    prune_checkpoints(tmp_path, 2, paths[-1])
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000003", "step-000004"]
    prune_checkpoints(tmp_path, None, paths[-1])
    assert len(list_checkpoints(tmp_path)) == 2


def test_pruning_never_removes_the_one_just_written(tmp_path: Path) -> None:
    write(tmp_path, 900)
    written = write(tmp_path, 5)
    prune_checkpoints(tmp_path, 1, written)
    assert written in list_checkpoints(tmp_path)


def test_an_existing_step_is_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path, 5, "old")
    path = write(tmp_path, 5, "new")
    assert check_checkpoint(path).path.joinpath("model.bin").read_text() == "new"
    assert os.listdir(tmp_path) == ["step-000005"]


def save(root: Path, step: int) -> None:
    written = write(root, step)
    prune_checkpoints(root, 1, written)


def replace(root: Path, step: int) -> None:
    write(root, step, "weights again")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("action", "step"), [(save, 10), (replace, 5)])
def test_killed_at_every_change_of_the_disk(tmp_path: Path, action: object, step: int) -> None:
    """Whatever the moment, what is left is the old checkpoint or the new one, whole, and the next save works."""
    counted = tmp_path / "count"
    write(counted, 5)
    with KILLER.watching(counted) as killer:
        action(counted, step)
    assert killer.count > 15, killer.events
    outcomes = set()
    for number in range(1, killer.count + 1):
        root = tmp_path / f"kill-{number}"
        write(root, 5)
        with pytest.raises(Killed), KILLER.watching(root, at=number):
            action(root, step)
        clean_leftovers(root)
        found = newest_checkpoint(root, refuse)
        assert found is not None, number
        outcomes.add(found.path.joinpath("model.bin").read_text())
        assert all(path.name.startswith("step-") for path in root.iterdir()), number
        save(root, 20)
        assert newest_checkpoint(root, refuse).step == 20
        shutil.rmtree(root)
    assert len(outcomes) == 2, outcomes
