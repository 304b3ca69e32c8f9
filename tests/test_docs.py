"""The documents are true: README's tour runs, every link and every figure file exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def _tour() -> list[str]:
    """The `$` lines of README's console blocks, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ropewalk")]


def test_the_tour_runs_as_printed(tmp_path):
    lines = _tour()
    assert len(lines) >= 5
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for line in lines:
        words = shlex.split(line, comments=True)
        command = [sys.executable, "-m", "ropewalk", *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_commands_in_the_documents_exist(page):
    from ropewalk.cli.main import COMMANDS

    for name in re.findall(
        r"(?:^|[`$ ])ropewalk ([a-z]+)\b", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    ):
        if name in _WORDS:
            continue
        assert name in COMMANDS, f"{page.name} names `ropewalk {name}`"


# Words that follow the project's name in prose.
_WORDS = {
    "and",
    "is",
    "has",
    "takes",
    "does",
    "with",
    "in",
    "to",
    "brings",
    "the",
    "writes",
    "reads",
    "tool",
    "never",
}


def test_the_page_of_methods_is_the_registry():
    import runpy

    page = runpy.run_path(str(ROOT / "tools" / "methods_page.py"))["page"]()
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == page


def _commands():
    import runpy

    return list(runpy.run_path(str(ROOT / "tools" / "commands_page.py"))["commands"]())


def test_the_page_of_commands_is_the_command_line():
    import runpy

    page = runpy.run_path(str(ROOT / "tools" / "commands_page.py"))["page"]()
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(("name", "command"), _commands(), ids=lambda value: str(value)[:24])
def test_every_command_and_option_is_documented(name, command):
    """`tools/commands_page.py` writes the page."""
    import click

    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    shared, *_ = page.partition("\n## ")
    _, found, rest = page.partition(f"\n## {name}\n")
    assert found, f"docs/commands.md has no section for {name}: run tools/commands_page.py"
    section = rest.partition("\n## ")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            flag = next(option for option in parameter.opts if option.startswith("--"))
            told = f"`{flag}`" in section or f"`{flag}`" in shared
            assert told, f"docs/commands.md does not tell of `{name} {flag}`: run tools/commands_page.py"
