"""Writes docs/commands.md from the command line: each command with its arguments and options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from ropewalk.cli.main import COMMANDS, ropewalk

TARGET = Path(__file__).parents[1] / "docs" / "commands.md"
HEAD = """# Every command and option

Made from the code by `tools/commands_page.py`; `ropewalk COMMAND --help` prints the same. Lengths are written 4096, 4k,
128k or 1m. `--json` prints exactly one JSON document on stdout, everything else goes to stderr. Exit codes: 0 done,
1 handled failure, 2 usage, 3 damaged artefact, 4 a stated quality gate missed, 130 interrupted.

Completion for a shell: `eval "$(_ROPEWALK_COMPLETE=bash_source ropewalk)"` in `~/.bashrc`; `zsh_source` and
`fish_source` for those shells.

"""
# Every command has these; they would only repeat themselves.
SHARED = {
    "--json": "print exactly one JSON document on stdout",
    "--debug": "show the traceback of a failure",
    "--quiet": "no progress and no remarks",
}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    context = click.Context(ropewalk)
    for name in COMMANDS:
        command = ropewalk.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())
        elif command is not None:
            yield name, command


def page() -> str:
    """The whole page."""
    shared = "".join(f"- `{flag}`: {what}\n" for flag, what in SHARED.items())
    return (
        HEAD + f"Taken by every command:\n\n{shared}\n" + "\n".join(_section(*found) for found in commands())
    )


def _section(name: str, command: click.Command) -> str:
    words = " ".join(_argument(found) for found in command.params if isinstance(found, click.Argument))
    text = " ".join((command.help or "").partition("\n\n")[0].split())
    lines = [f"## {name}", "", f"    ropewalk {name} {words}".rstrip(), "", text, ""]
    options = [found for found in command.params if isinstance(found, click.Option) and not found.hidden]
    options = [found for found in options if not SHARED.keys() & set(found.opts)]
    if options:
        lines += ["| option | |", "|---|---|", *(_row(option) for option in options), ""]
    return "\n".join(lines)


def _argument(found: click.Argument) -> str:
    shown = found.make_metavar(click.Context(ropewalk))
    return shown if found.required or shown.startswith("[") else f"[{shown}]"


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    about = " ".join((option.help or "").split()).replace("|", "\\|")
    if isinstance(option.type, click.Choice):
        about += f" One of {', '.join(map(str, option.type.choices))}."
    if option.show_default and option.default is not None and not option.is_flag:
        about += f" Default {option.default}."
    return f"| {names} | {about} |"


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
    print(TARGET)
