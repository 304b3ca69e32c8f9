"""`ropewalk`: the table of commands, loaded one at a time, and the one place where failures become exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence

import click

from ropewalk._version import __version__
from ropewalk.cli.common import emit_json, json_mode, show_error
from ropewalk.errors import RopewalkError, UsageError, near_miss, one_line

# name -> one line of help. The module is ropewalk.cli.<name>; it loads only when its command is used,
# so that `--help` answers before numpy, let alone torch, has been touched.
COMMANDS = {
    "methods": "the scaling methods: rule, parameters, paper, who carries them natively",
    "inspect": "what a model's RoPE is, which pairs break past the window, what is wrong in its config",
    "plan": "the options for a target length side by side, memory, cost, a recommendation",
    "compare": "every method measured on text and retrieval beside the controls; a verdict",
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
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, "-V", "--version", prog_name="ropewalk")
def ropewalk() -> None:
    """Stretch the context window of a causal language model with rotary position embeddings, and prove it.

    Start with `ropewalk inspect MODEL`, or with `ropewalk demo` when you have no model at hand.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 usage, 3 damaged, 4 gate, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    with json_mode("--json" in words) as as_json:
        try:
            result = ropewalk.main(args=words, prog_name="ropewalk", standalone_mode=False)
            return result if isinstance(result, int) else 0
        except click.exceptions.Exit as done:
            return int(done.exit_code)
        except (KeyboardInterrupt, click.exceptions.Abort):
            error: RopewalkError = RopewalkError(
                "interrupted", hint="finished work is kept; run the same line again"
            )
            code = 130
        except BrokenPipeError:
            # The reader went away (`| head`): nothing to tell anybody, and Python must not complain at exit.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        except click.ClickException as usage:
            context = getattr(usage, "ctx", None)
            where = f"`{context.command_path} --help` shows the usage" if context else "`ropewalk --help`"
            error, code = UsageError(one_line(usage.format_message()), hint=where), 2
        except RopewalkError as failure:
            if debug:
                raise
            error, code = failure, failure.exit_code
        except Exception as unexpected:
            if debug:
                raise
            text = f"{type(unexpected).__name__}: {one_line(unexpected)}"
            error = RopewalkError(text, hint="unexpected; --debug shows the traceback")
            code = 1
        if as_json:
            emit_json({"error": error.to_json(), "exit_code": code})
        show_error(error)
        return code


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())
