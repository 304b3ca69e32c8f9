"""What every command shares: the JSON contract, the console, the options that mean the same everywhere."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from ropewalk.errors import RopewalkError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

Function = TypeVar("Function", bound=Callable[..., Any])

# Columns of a table in a file or a pipe, where COLUMNS says nothing.
_WITHOUT_TERMINAL = 140
# A stack, since `demo` runs commands inside a command.
_real_stdout: list[TextIO] = []


@contextlib.contextmanager
def json_mode(wanted: bool) -> Iterator[bool]:
    """With --json, whatever any library prints goes to stderr; only `emit_json` reaches stdout."""
    if not wanted:
        yield False
        return
    _real_stdout.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield True
    finally:
        _real_stdout.pop()


def emit_json(document: Any) -> None:
    """Print the one JSON document of a --json call. NaN and infinities become null: JSON has no word for them."""
    stream = _real_stdout[-1] if _real_stdout else sys.stdout
    document = _finite(document)
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        # A terminal of ASCII, or a file name that is not UTF-8: JSON has escapes of its own for these.
        text = json.dumps(document, indent=2, allow_nan=False)
    stream.write(text + "\n")
    stream.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return value


@contextlib.contextmanager
def keeping(what: str | None) -> Iterator[None]:
    """Inside, an interrupt tells `what` stays and how to go on; None tells that nothing does."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if what is not None:
            stop.add_note(what)
        raise


def interrupted(stop: BaseException) -> RopewalkError:
    """What an interrupt means for the user: it keeps what the command says that it keeps, and otherwise nothing."""
    kept = getattr(stop, "__notes__", [])
    return RopewalkError("interrupted", hint="; ".join(kept) or "nothing was kept; run the same line again")


def show_error(error: RopewalkError) -> None:
    """One line on stderr, the way out included."""
    click.echo(f"ropewalk: {str(error).strip()}", err=True)


def console(*, err: bool = False) -> Console:
    """A rich console; imported late because rich costs a tenth of the start-up budget."""
    from rich.console import Console

    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        return Console(file=stream, highlight=False, soft_wrap=False)
    # A log or a pipe has no width of its own: COLUMNS says it, and without it nothing needs to wrap at 80.
    given = os.environ.get("COLUMNS", "")
    width = int(given) if given.isascii() and given.isdigit() and int(given) > 0 else _WITHOUT_TERMINAL
    return Console(file=cast(TextIO, _Unpadded(stream)), width=width, highlight=False, soft_wrap=False)


class _Unpadded:
    """A stream that drops the blanks with which rich fills a line up to its width; rich writes whole lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(re.sub(r"[ \t]+(?=\n)", "", text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print exactly one JSON document on stdout."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks.")
debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of a failure."
)
seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of everything random."
)
trust_option = click.option(
    "--trust-remote-code", is_flag=True, help="Run the model's own code (auto_map); refused without this."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Type of the weights while running; auto is the checkpoint's own on a GPU, float32 on a CPU.",
)
attn_option = click.option(
    "--attn",
    type=click.Choice(["sdpa", "flash_attention_2", "flex_attention", "eager"]),
    default="sdpa",
    show_default=True,
    help="Attention implementation.",
)
param_option = click.option(
    "-p",
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the method, for example -p beta_fast=16 (`ropewalk methods NAME` lists them).",
)


def running_options(function: Function) -> Function:
    """How a model is run: --dtype, --attn, --trust-remote-code and --quiet."""
    return dtype_option(attn_option(trust_option(quiet_option(function))))


def contract(function: Function) -> Function:
    """The options that every command has: --json and --debug."""
    return json_option(debug_option(function))


def parse_params(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`("beta_fast=16", "truncate=false")` as typed values; each value is read as JSON where it is JSON."""
    parameters: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name.strip():
            raise UsageError(f"--param {pair!r} is not NAME=VALUE", hint="write -p beta_fast=16")
        try:
            # Methods name their parameters as Python does; a shell's users write dashes.
            parameters[name.strip().replace("-", "_")] = json.loads(text.strip())
        except json.JSONDecodeError:
            parameters[name.strip().replace("-", "_")] = text.strip()
    return parameters
