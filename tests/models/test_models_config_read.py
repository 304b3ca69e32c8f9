"""Sources and strict JSON: what is read, and one clear line for everything that is not."""

from __future__ import annotations

import json
import os

import pytest

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.config import MAX_BYTES, parse_json, read_config
from ropewalk.models.source import config_path, resolve

GOOD = {"model_type": "llama", "max_position_embeddings": 4096}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b'{"a": 1', "is not JSON (line 1"),
        (b"\xff\xfe\x00\x01", "is not text"),
        (b"\x80PNG", "is not text"),
        (b"[1, 2]", "not a mapping"),
        (b'"llama"', "not a mapping"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": 1e400}', "overflows"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too long"),
        (b'{"a": "\\ud800"}', "not valid Unicode"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "nested deeper"),
        (b"[" * 200000, "nested deeper"),
    ],
)
def test_unreadable_content_is_one_line(content, says):
    with pytest.raises(RopewalkError) as caught:
        parse_json(content)
    text = str(caught.value)
    assert says in text
    assert caught.value.hint
    assert text.isprintable()


def test_bare_infinities_become_the_strict_spelling():
    read = parse_json(b'{"time_step_limit": [0.0, Infinity], "x": NaN}')
    assert read["time_step_limit"] == [0.0, {"__float__": "Infinity"}]
    assert json.dumps(read, allow_nan=False)


def test_a_byte_order_mark_is_no_obstacle():
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()) == GOOD


def test_folder_and_file_read_the_same(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    assert read_config(tmp_path) == read_config(tmp_path / "config.json") == GOOD
    assert read_config(str(tmp_path)) == GOOD


def test_a_file_above_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "config.json"
    with open(path, "wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(RopewalkError, match="at most 67108864"):
        read_config(path)


def test_an_unreadable_file_is_named(tmp_path):
    loop = tmp_path / "config.json"
    loop.symlink_to(loop)
    with pytest.raises(RopewalkError):
        read_config(loop)


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda f: None, "checkpoint"),
        (lambda f: (f / "model.gguf").write_bytes(b"GGUF"), "GGUF"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "base model"),
        (lambda f: ((f / "inner").mkdir(), (f / "inner/config.json").write_text("{}")), "'inner'"),
    ],
)
def test_a_folder_without_config_says_what_it_is(tmp_path, make, hint):
    make(tmp_path)
    with pytest.raises(RopewalkError, match=r"no config\.json") as caught:
        config_path(resolve(tmp_path))
    assert hint in str(caught.value)


@pytest.mark.parametrize("text", ["nowhere", "a/b/c/d", "../x", "owner/na me", "x" * 5000])
def test_a_missing_path_that_is_no_hub_id(text):
    with pytest.raises(RopewalkError) as caught:
        resolve(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_no_path_at_all_is_a_usage_error(text):
    with pytest.raises(UsageError):
        resolve(text)


def test_a_hub_id_offline_says_so():
    with pytest.raises(RopewalkError, match="HF_HUB_OFFLINE"):
        resolve("owner/name")


def test_a_cached_hub_id_needs_no_network(tmp_path):
    repository = tmp_path / "cache" / "models--owner--name"
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(GOOD))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    assert read_config("owner/name") == GOOD
    assert resolve("owner/name@abc123") == snapshot
    with pytest.raises(RopewalkError, match="HF_HUB_OFFLINE"):
        resolve("owner/name", need_weights=True)


def test_a_reference_may_not_leave_the_cache(tmp_path):
    repository = tmp_path / "cache" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("../../../..")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RopewalkError):
        resolve("owner/name")


def test_an_existing_path_wins_over_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "config.json").write_text(json.dumps(GOOD))
    monkeypatch.chdir(tmp_path)
    assert read_config("owner/name") == GOOD


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    with pytest.raises(RopewalkError, match="no weights"):
        resolve(tmp_path, need_weights=True)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(RopewalkError, match="pickles"):
        resolve(tmp_path / "config.json", need_weights=True)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert resolve(os.fspath(tmp_path / "config.json"), need_weights=True) == tmp_path


def test_values_are_shown_without_what_a_terminal_obeys():
    from ropewalk.models.structure.values import plain, shown

    assert shown("\x1b[2Ja\u202eb\ud800") == r"'\x1b[2Ja\u202eb\ud800'"
    assert shown("Модель") == "'Модель'"
    assert plain("Модель") == "Модель"
    assert shown(10**5000).startswith("an integer of")
    assert shown([0] * 1000) == "a list of 1000 entries"
    assert len(shown({"a": "b" * 500})) == 60
