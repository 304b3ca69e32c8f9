from __future__ import annotations

import shlex

import pytest

from ropewalk.errors import UsageError, near_miss, renamed, shown_command


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("yarm", "did you mean yarn?"),
        ("YaRN", "did you mean yarn?"),
        ("ntk_su", "did you mean ntk-su or ntk?"),
        ("zzzz", "`ropewalk methods` lists them"),
        (7, "`ropewalk methods` lists them"),
    ],
)
def test_near_misses_ignore_case_and_dashes(word, said):
    known = ["yarn", "ntk", "ntk-su", "linear"]
    assert near_miss(word, known, otherwise="`ropewalk methods` lists them") == said


def test_near_misses_keep_to_their_count_and_cutoff():
    known = ["abcd", "abce", "abcf"]
    assert near_miss("abcx", known, otherwise="-", count=1).count("abc") == 1
    assert near_miss("abcx", known, otherwise="-", count=3).count(" or ") == 2
    assert near_miss("abxx", known, otherwise="-", cutoff=0.9) == "-"


@pytest.mark.parametrize(
    "path", ["plain", "two words", "-dash", "it's", 'a"b', "$HOME", "a;b", "~x", "tab\there", "ünïcode"]
)
def test_a_shown_command_reaches_the_program_as_it_was_meant(path):
    words = shlex.split(shown_command("extend", path, target=4096, p=["a=1", "b=x y"], force=True, o=path))
    asked = f"./{path}" if path.startswith("-") else path
    assert words == [
        "ropewalk", "extend", asked, "--target", "4096", "-p", "a=1", "-p", "b=x y", "--force", "-o", path
    ]  # fmt: skip


def test_a_shown_command_leaves_out_what_was_not_given():
    assert (
        shown_command("plan", "m", memory=None, json=False, max_windows=2)
        == "ropewalk plan m --max-windows 2"
    )


def test_an_argument_keeps_its_old_name():
    @renamed(out="output")
    def write(source, *, output=None):
        """Written."""
        return source, output

    assert write(1, out="there") == write(1, output="there") == (1, "there")
    assert write(1) == (1, None)
    assert write.__doc__ == "Written."
    with pytest.raises(UsageError, match="out and output are one argument"):
        write(1, out="a", output="b")


@pytest.mark.parametrize(
    "name", ["extend", "verify", "compare", "evaluate", "train", "plot", "report", "export_config"]
)
def test_the_place_of_the_output_has_one_name(name):
    import inspect

    import ropewalk

    parameters = inspect.signature(getattr(ropewalk, name)).parameters
    assert not {"out", "run"} & set(parameters)
