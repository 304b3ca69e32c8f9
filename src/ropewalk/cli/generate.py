"""`ropewalk generate MODEL PROMPT`."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli.common import (
    contract,
    device_option,
    emit_json,
    interrupted,
    param_option,
    parse_params,
    running_options,
    seed_option,
    show_error,
)
from ropewalk.errors import RopewalkError, UsageError, one_line

if TYPE_CHECKING:
    from ropewalk.generation.request import Generated, Writing
    from ropewalk.generation.stream import Stream


@click.command()
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--prompt-file", metavar="FILE", help="Read the prompt from a file; - is stdin.")
@click.option(
    "--max-new-tokens", type=int, help="Write at most this many. Default: 256; with --dynamic no limit."
)
@click.option("--method", help="How windows beyond the model's own are made. Default: yarn.")
@click.option(
    "--schedule", metavar="FILE", help="A finished schedule, or a ladder of them, instead of a method."
)
@param_option
@click.option(
    "--max-factor", type=float, default=64.0, show_default=True, help="Highest factor of the ladder."
)
@click.option(
    "--growth", type=float, default=2.0, show_default=True, help="Step from one factor to the next."
)
@click.option(
    "--dynamic", is_flag=True, help="Climb as the text grows, exactly: it is read again at each step up."
)
@click.option(
    "--cheap", is_flag=True, help="With --dynamic: turn cached keys instead of reading again; drift is shown."
)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 is greedy.")
@click.option(
    "--top-p", type=float, default=1.0, show_default=True, help="Draw from the likeliest tokens only."
)
@click.option("--ignore-end", is_flag=True, help="Go on after an end token.")
@click.option("--stream", is_flag=True, help="Read stdin line by line for ever, write after each line.")
@click.option(
    "--sinks", type=int, default=4, show_default=True, help="With --stream: first tokens that are kept."
)
@click.option(
    "--window", type=int, help="With --stream: recent tokens that are kept. Default: what the model serves."
)
@click.option("--chunk", type=int, help="Tokens read at once. Default: 2048 where a text is stretched.")
@click.option(
    "--attention-temperature",
    metavar="NAME",
    help="In windows beyond the model's own: log-n, step-log, constant:1.1 or entropy-matched.",
)
@click.option(
    "--cache",
    default="full",
    show_default=True,
    metavar="KIND",
    help="full, q8, q4, q2, offloaded, static, ...",
)
@seed_option
@device_option
@running_options
@contract
def command(model: str, **options: Any) -> int | None:
    """Continue a prompt under the smallest factor whose window holds it.

    A prompt that fits runs on the unmodified model. Text goes to stdout as it comes; speed, window, factor and cache
    memory to stderr.
    """
    from ropewalk.generation.request import FAILED

    as_json, quiet = options["as_json"], options["quiet"]
    if options["stream"]:
        return _stream(model, options)
    writing, stop = _writing(model, options), None
    try:
        for piece in writing:
            if not as_json and piece:
                click.echo(piece, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt as caught:
        stop = caught
    finally:
        # An interrupted text is ended like a finished one: what was written stays, on a line of its own.
        done = writing.result()
        if not as_json and done.text and not done.text.endswith("\n"):
            click.echo()
        # Of a request that failed before its first token the error says all.
        if not quiet and done.forwarded and (done.ids or done.ended != FAILED):
            click.echo(_summary(done), err=True)
    return _ended(done.to_json() if as_json else None, stop)


def _ended(document: dict[str, Any] | None, stop: KeyboardInterrupt | None) -> int | None:
    """The document, if one is wanted; an interrupted one holds what was written, and the error beside it."""
    if stop is None:
        if document is not None:
            emit_json(document)
        return None
    stop.add_note("what was written stays")
    if document is None:
        raise stop
    error = interrupted(stop)
    emit_json(document | {"error": error.to_json(), "exit_code": 130})
    show_error(error)
    return 130


def _writing(model: str, options: dict[str, Any]) -> Writing:
    # Before torch is imported: a missing prompt is told at once.
    text = _prompt(options["prompt"], options["prompt_file"])
    limit = options["max_new_tokens"]
    if limit is None and not options["dynamic"]:
        # Without an end token the text would go on for ever; with --dynamic that is what is asked for.
        limit = 256
    from ropewalk.generation.request import Settings, Writing, prompt_rows
    from ropewalk.models.load import load_model, load_tokenizer

    settings = Settings(
        max_new_tokens=limit,
        method=options["method"],
        schedule=options["schedule"],
        parameters=parse_params(options["params"]),
        growth=options["growth"],
        max_factor=options["max_factor"],
        dynamic=options["dynamic"],
        cheap=options["cheap"],
        temperature=options["temperature"],
        top_p=options["top_p"],
        seed=options["seed"],
        stop_at_end=not options["ignore_end"],
        chunk=options["chunk"],
        attention_temperature=options["attention_temperature"],
        cache=options["cache"],
    )
    tokenizer = load_tokenizer(model, trust_remote_code=options["trust_remote_code"])
    rows, _ = prompt_rows(text, tokenizer)
    loaded = load_model(
        model,
        device=options["device"],
        dtype=options["dtype"],
        attn=options["attn"],
        trust_remote_code=options["trust_remote_code"],
    )
    writing = Writing(loaded, rows[0], settings, tokenizer)
    if not writing.ends and settings.stop_at_end and not options["quiet"]:
        click.echo("ropewalk: no end token is known, so the text ends at --max-new-tokens", err=True)
    return writing


def _stream(model: str, options: dict[str, Any]) -> int | None:
    """Lines from stdin, an opening prompt first where one is given; answers to stdout, figures at the end."""
    from itertools import chain

    if options["params"]:
        raise UsageError("--stream keeps one window for ever, -p changes it", hint="give one of them")
    for name in ("dynamic", "cheap", "method", "schedule", "attention_temperature"):
        if options[name]:
            raise UsageError(
                f"--stream keeps one window for ever, --{name.replace('_', '-')} changes it",
                hint="give one of them",
            )
    if options["cache"] != "full":
        raise UsageError(
            "--stream has a cache of its own", hint="give --sinks and --window instead of --cache"
        )
    given = options["prompt"] is not None or options["prompt_file"] is not None
    opening = [_prompt(options["prompt"], options["prompt_file"])] if given else []
    from ropewalk.generation.sampling import Sampler
    from ropewalk.generation.stream import Stream, Turn, converse
    from ropewalk.models.load import load_model, load_tokenizer

    limit = 256 if options["max_new_tokens"] is None else options["max_new_tokens"]
    turn = Turn(
        limit, Sampler(options["temperature"], options["top_p"], options["seed"]), not options["ignore_end"]
    )
    trusted = {"trust_remote_code": options["trust_remote_code"]}
    tokenizer = load_tokenizer(model, **trusted)
    loaded = load_model(
        model, device=options["device"], dtype=options["dtype"], attn=options["attn"], **trusted
    )
    if isinstance(sys.stdin, io.TextIOWrapper):
        # A log holds what it holds: one broken byte must not end a stream of days.
        sys.stdin.reconfigure(errors="replace")
    written, stop = [], None
    sizes = {"sinks": options["sinks"], "window": options["window"]}
    with Stream(loaded, **sizes, **({"piece": options["chunk"]} if options["chunk"] else {})) as stream:
        try:
            for piece in converse(stream, tokenizer, chain(opening, sys.stdin), turn):
                if options["as_json"]:
                    written.append(piece)
                elif piece:
                    click.echo(piece, nl=False)
                    sys.stdout.flush()
        except KeyboardInterrupt as caught:
            stop = caught
        finally:
            if not options["quiet"]:
                click.echo(_stream_summary(stream), err=True)
    window = stream.cache.sinks + stream.cache.window
    document = {"text": "".join(written), "factor": 1.0, "window": window} | stream.told.to_json()
    return _ended(document if options["as_json"] else None, stop)


def _stream_summary(stream: Stream) -> str:
    from ropewalk.units import format_bytes

    told, cache = stream.told, stream.cache
    speed = (told.read + told.written) / told.seconds if told.seconds else 0.0
    loss = "" if told.loss is None else f", {told.loss:.3f} nats a token"
    return (
        f"ropewalk: {told.read} tokens read{loss}, {told.written} written ({speed:.0f}/s); {cache.sinks} sinks and a "
        f"window of {cache.window}, {told.evicted} tokens gone; KV memory {format_bytes(told.kv_bytes)}"
    )


def _prompt(prompt: str | None, file: str | None) -> str:
    if (prompt is None) == (file is None):
        raise UsageError(
            "there is no prompt" if prompt is None else "there are two prompts",
            hint="give PROMPT or --prompt-file FILE",
        )
    if prompt is not None:
        return prompt
    assert file is not None
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RopewalkError(
            f"cannot read {file} ({one_line(error, 120)})", hint="give a text file in UTF-8"
        ) from error


def _summary(done: Generated) -> str:
    from ropewalk.units import format_bytes, format_length

    words = [
        f"{len(done.ids)} tokens in {done.seconds:.1f} s ({done.tokens_per_s:.1f}/s), ended by {done.ended}",
        f"window {format_length(done.window)} at factor {done.factor:g}",
        f"KV memory {format_bytes(done.kv_bytes)}",
    ]
    if done.switches:
        places = ", ".join(map(str, done.switches))
        words.append(f"climbed at {places} tokens, {done.forwarded} tokens forwarded in all")
    if done.drift is not None:
        words.append(
            f"drift of log-probabilities since the last climb: mean {done.drift[0]:.3g}, max {done.drift[1]:.3g}"
        )
    return "ropewalk: " + "; ".join(words)
