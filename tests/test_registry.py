"""Things by name: files of a folder, plug-ins, order of lists, names taken twice, names nearly right."""

from __future__ import annotations

from importlib import metadata
from types import SimpleNamespace as Some

import pytest

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.registry import Registry

FILE = "from their_table import TABLE\n\n\ndef {name}(): ...\n\n\nTABLE.add('{name}', {name})\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package `theirs` with one file a thing, and the table that they register in."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").touch()
    for name in ("apple", "pear", "quince"):
        (tmp_path / "theirs" / f"{name}.py").write_text(FILE.format(name=name))
    (tmp_path / "their_table.py").write_text(
        "from ropewalk.registry import Registry\n"
        "TABLE = Registry('fruit', folder='theirs', group='their.fruit', first=('quince', 'fig'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import sys

    import their_table

    yield their_table.TABLE
    for name in [name for name in sys.modules if name.partition(".")[0] in ("theirs", "their_table")]:
        del sys.modules[name]


def test_every_file_of_the_folder_is_there_in_the_order_of_lists(folder):
    import theirs.pear

    assert list(folder) == ["quince", "apple", "pear"]
    assert folder["pear"] is theirs.pear.pear
    assert len(folder) == 3
    assert folder["pear"].__name__ == "pear"
    assert "pear" in folder
    assert "fig" not in folder


def test_a_plugin_is_loaded_once_and_only_when_it_is_needed(folder, monkeypatch):
    loaded = []

    def load():
        loaded.append(1)
        folder.add("plum", load)

    def entry_points(group):
        return [Some(name="p", value="v", load=load)] if group == "their.fruit" else []

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    folder.add("apple", 3)
    assert folder["apple"] == 3
    assert loaded == []
    # The folder's own apple is another one: two of a name are refused whoever comes first.
    with pytest.raises(RopewalkError, match=r"fruit 'apple' is registered twice \(\?"):
        folder.find("plum")


def test_plugins_follow_and_a_broken_one_is_named(folder, monkeypatch):
    def broken():
        raise ModuleNotFoundError("No module named 'nobody'")

    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [Some(name="p", value="nobody:thing", load=broken)]
    )
    with pytest.raises(
        RopewalkError, match=r"fruit plug-in 'p' \(nobody:thing\) does not load: No module named 'nobody'"
    ):
        list(folder)


def test_an_unknown_name_says_what_was_meant_or_what_there_is(folder):
    with pytest.raises(UsageError, match="no fruit 'quinse'") as caught:
        folder.find("quinse")
    assert caught.value.hint == "did you mean quince?"
    with pytest.raises(UsageError) as caught:
        folder.find("xxxxxx")
    assert caught.value.hint == "use one of quince, apple, pear"


def test_the_same_function_again_replaces_itself_and_another_is_refused():
    table = Registry("thing")
    table.add("a", 1, home=test_an_unknown_name_says_what_was_meant_or_what_there_is)
    table.add("a", 2, home=test_an_unknown_name_says_what_was_meant_or_what_there_is)
    assert table["a"] == 2
    with pytest.raises(RopewalkError, match="registered twice"):
        table.add("a", 3, home=folder)
