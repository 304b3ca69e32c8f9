"""Manifests of sizes and hashes: one form for runs, training checkpoints and extended checkpoints."""

from __future__ import annotations

import hashlib

import pytest

from ropewalk.errors import DamagedError
from ropewalk.files import write_json
from ropewalk.manifests import changed_entries, check_entries, entries_of, inside

WORDS = {"what": "thing x", "hint": "make it again"}


def _folder(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b.bin").write_bytes(b"\0\1")
    (tmp_path / ".half.tmp").write_text("half")
    (tmp_path / "link").symlink_to(tmp_path / "a.txt")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.txt").write_text("c")
    write_json(tmp_path / "inner" / "manifest.json", {})
    write_json(tmp_path / "manifest.json", {})
    return tmp_path


def test_every_file_has_its_size_and_hash_and_inner_manifests_stand_for_theirs(tmp_path):
    found = entries_of(_folder(tmp_path), "manifest.json", hashed=lambda path: path.suffix != ".bin")
    assert list(found) == ["a.txt", "deep/er/b.bin", "inner/manifest.json"]
    assert found["a.txt"] == {"bytes": 3, "sha256": hashlib.sha256(b"one").hexdigest()}
    assert found["deep/er/b.bin"] == {"bytes": 2}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "thing x has lost a.txt"),
        (lambda path: path.write_text("four"), "has 4 bytes, the manifest says 3"),
        (lambda path: path.write_text("two"), "SHA-256 differs"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), "leaves the folder of thing x"),
    ],
)
def test_damage_is_named(tmp_path, damage, said):
    files = entries_of(_folder(tmp_path), "manifest.json")
    check_entries(tmp_path, files, **WORDS)
    damage(tmp_path / "a.txt")
    with pytest.raises(DamagedError, match=said):
        check_entries(tmp_path, files, **WORDS)


@pytest.mark.parametrize("name", ["../x", "/x", "", "a/../../x"])
def test_names_stay_inside(tmp_path, name):
    with pytest.raises(DamagedError, match="leaves the folder of thing x"):
        inside(tmp_path, name, what="thing x")


@pytest.mark.parametrize("entry", [None, 3, {}, {"bytes": 3}, {"sha256": "x"}])
def test_an_entry_without_size_or_hash_is_damage(tmp_path, entry):
    with pytest.raises(DamagedError, match="no size and hash"):
        check_entries(_folder(tmp_path), {"a.txt": entry}, **WORDS)


def test_what_changed_is_listed_by_hash_and_by_size(tmp_path):
    for name in ("same", "bytes", "size", "weights", "gone"):
        (tmp_path / name).write_bytes(b"12345")
    files = entries_of(tmp_path, "manifest.json", hashed=lambda path: path.name != "weights")
    (tmp_path / "bytes").write_bytes(b"12346")
    (tmp_path / "size").write_bytes(b"123456")
    (tmp_path / "weights").write_bytes(b"54321")
    (tmp_path / "gone").unlink()
    assert changed_entries(tmp_path, files) == ["bytes", "gone", "size"]
    (tmp_path / "weights").write_bytes(b"5432")
    assert changed_entries(tmp_path, files | {"odd": None}) == [
        "bytes",
        "gone",
        "size",
        "weights",
        "odd",
    ]
    assert changed_entries(tmp_path, None) == []
    with pytest.raises(DamagedError, match="leaves the folder"):
        changed_entries(tmp_path, {"../x": {}})
