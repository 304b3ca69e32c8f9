"""`ropewalk`: the table of commands, loaded one at a time, and the one place where failures become exit codes."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from ropewalk._version import __version__
from ropewalk.cli.common import emit_json, interrupted, json_mode, show_error
from ropewalk.errors import RopewalkError, UsageError, near_miss, one_line

# A full disk says so of the terminal's end and of files alike, and never names the file.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# name -> one line of help. The module is ropewalk.cli.<name>; it loads only when its command is used,
# so that `--help` answers before numpy, let alone torch, has been touched.
COMMANDS = {
    "methods": "the scaling methods: rule, parameters, paper, who carries them natively",
    "inspect": "what a model's RoPE is, which pairs break past the window, what is wrong in its config",
    "plan": "the options for a target length side by side, memory, cost, a recommendation",
    "compare": "every method measured on text and retrieval beside the controls; a verdict",
    "tune": "fit a schedule and a temperature to this model by measurement",
    "extend": "write the extended checkpoint, weights linked; --repair mends a broken config",
    "verify": "is the scaling active, and identical in stock software?",
    "train": "long-context fine-tuning, or training from scratch, from a recipe",
    "recipes": "the bundled training recipes: ls, show, validate",
    "eval": "loss by length, retrieval, effective length, of a model or a served endpoint",
    "generate": "text past the window: a factor for each request, exact dynamic scaling, endless streams",
    "export": "the extended configuration in another program's own words",
    "plot": "one figure of a model's geometry or of a run, as SVG, PNG or PDF",
    "report": "one self-contained HTML page from one run or several",
    "runs": "the runs on this machine: ls, show, diff",
    "demo": "from nothing to a verdict on the bundled model, in minutes",
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ropewalk.cli.{cmd_name}")
        command: click.Command = module.command
        _everywhere_quiet(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = near_miss(args[0], COMMANDS, otherwise="`ropewalk --help` lists the commands")
            raise UsageError(f"no command {one_line(args[0], 60)!r}", hint=hint) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would import every command to ask it for its help.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _everywhere_quiet(command: click.Command) -> None:
    """-q is taken by every command, so that a script can always give it; those with nothing to silence say so."""
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _everywhere_quiet(inner)
    if isinstance(command, click.Group) or any("--quiet" in option.opts for option in command.params):
        return
    command.params.append(
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            help="Taken everywhere; here there is nothing to silence.",
        )
    )


_COMPLETION = (
    'Completion: eval "$(_ROPEWALK_COMPLETE=bash_source ropewalk)" in ~/.bashrc; zsh_source and fish_source for '
    "those shells."
)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_COMPLETION,
)
@click.version_option(__version__, "-V", "--version", prog_name="ropewalk")
def ropewalk() -> None:
    """Stretch the context window of a causal language model with rotary position embeddings, and prove it.

    Start with `ropewalk inspect MODEL`, or with `ropewalk demo` when you have no model at hand.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 usage, 3 damaged, 4 gate, 130 interrupted."""
    # Both flags are looked for by hand: a line that click cannot parse is answered in the form it asked for, too.
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    with json_mode("--json" in words) as as_json:
        try:
            try:
                result = ropewalk.main(args=words, prog_name="ropewalk", standalone_mode=False)
                code = result if isinstance(result, int) else 0
            except click.exceptions.Exit as done:
                code = int(done.exit_code)
            # What still waits in a buffer is written while a failure can be told; Python tells nobody at its exit.
            sys.stdout.flush()
            return code
        except Exception as caught:
            if isinstance(caught, BrokenPipeError):
                # The reader went away (`| head`): nothing to tell anybody, and Python must not complain at exit.
                _silence_stdout()
                return 1
            if debug and not isinstance(caught, click.exceptions.Abort | click.ClickException):
                raise
            error, code = _handled(caught)
        except KeyboardInterrupt as stop:
            error, code = interrupted(stop), 130
        if as_json:
            try:
                emit_json({"error": error.to_json(), "exit_code": code})
            except OSError:
                _silence_stdout()
        show_error(error)
        return code


def _handled(caught: Exception) -> tuple[RopewalkError, int]:
    """What any exception means for the user: one error, one exit code."""
    if isinstance(caught, click.exceptions.Abort):
        # click turns an interrupt into Abort; what is kept was noted on the interrupt.
        return interrupted(caught.__cause__ or caught), 130
    if isinstance(caught, click.ClickException):
        context = getattr(caught, "ctx", None)
        where = f"`{context.command_path} --help` shows the usage" if context else "`ropewalk --help`"
        return UsageError(one_line(caught.format_message()), hint=where), 2
    if isinstance(caught, RopewalkError):
        return caught, caught.exit_code
    if isinstance(caught, OSError) and caught.errno in _NO_ROOM:
        _silence_stdout()
        return RopewalkError(
            f"cannot write ({caught.strerror})", hint="make room there, or give the output another place"
        ), 1
    text = f"{type(caught).__name__}: {one_line(caught)}"
    return RopewalkError(text, hint="unexpected; --debug shows the traceback"), 1


def _silence_stdout() -> None:
    with contextlib.suppress(OSError, ValueError):
        # On the descriptor: at its exit Python flushes the object, whatever `sys.stdout` has become.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
