"""`ropewalk inspect MODEL`: geometry, current scaling, pairs, layers, findings."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli.common import console, contract, emit_json
from ropewalk.units import split_names

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.models.inspection import InspectResult, Pair
    from ropewalk.runtimes.reading import Reading

_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}
# So many rows a screen shows at once; a larger head is told by the pairs that matter.
_SHORT_TABLE = 24


@click.command("inspect")
@click.argument("model")
@click.option("--target", default=None, help="A length to look at: 32k, 131072, or 8x the original window.")
@click.option(
    "--pairs", "all_pairs", is_flag=True, help="Every pair, not only the first, the last and the bounds."
)
@click.option(
    "--runtime",
    "programs",
    metavar="NAMES",
    help="What these programs will compute from this config as it stands: vllm,mlx,...",
)
@click.option("--strict", is_flag=True, help="Exit code 4 where an error is found, for use in CI.")
@contract
def command(
    model: str, target: str | None, all_pairs: bool, programs: str | None, strict: bool, as_json: bool
) -> None:
    """What a model's RoPE is, which pairs break past the window, and what is wrong in its config.json.

    MODEL is a folder, a config.json, hemp, a Hub id, or - for a configuration on standard input. Only configuration
    is read.
    """
    from ropewalk.models.inspection import inspect

    result = inspect(_from_stdin() if model == "-" else model, target)
    readings = _readings(result, programs)
    if as_json:
        said = {"runtimes": {reading.runtime: reading.to_json() for reading in readings}} if readings else {}
        emit_json(result.to_json() | said)
    else:
        screen = console()
        _show_head(screen, result)
        _show_layers(screen, result)
        _show_pairs(screen, result, all_pairs)
        _show_observations(screen, result)
        _show_findings(screen, result, model)
        if readings:
            from ropewalk.cli.inspect_runtimes import show_readings

            show_readings(screen, readings)
    if strict and result.worst == "error":
        raise click.exceptions.Exit(4)


def _readings(result: InspectResult, programs: str | None) -> tuple[Reading, ...]:
    """What the programs that were named make of the file."""
    if programs is None:
        return ()
    from ropewalk.runtimes.reading import read_as

    return read_as(result.facts, split_names(programs))


def _from_stdin() -> dict[str, Any]:
    from ropewalk.errors import RopewalkError
    from ropewalk.models.config import MAX_BYTES, parse_json

    content = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise RopewalkError(
            f"standard input has more than {MAX_BYTES} bytes; a configuration has at most that many",
            hint="give one config.json",
        )
    return parse_json(content, "standard input")


def _show_head(screen: Console, result: InspectResult) -> None:
    from ropewalk.models.structure.values import plain
    from ropewalk.units import format_length

    facts, geometry = result.facts, result.geometry
    kind = plain(facts.text_type or "unknown type")
    window = f"{format_length(geometry.original_length)} tokens as trained"
    if facts.max_position_embeddings != geometry.original_length:
        window += f"; max_position_embeddings says {format_length(facts.max_position_embeddings)}"
    turning = 2 * geometry.num_rotating
    rows = {
        "model": f"{kind}, {facts.num_layers} layers, {facts.num_attention_heads} heads",
        "rotary part": _rotary(result),
        "base": f"rope_theta {geometry.rope_theta:g}",
        "window": window,
        "critical dimension": f"{geometry.critical_dim} of {turning}: later pairs never complete a turn",
        "scaling": _scaling(result),
    }
    if result.target_length is not None and result.base_bound is not None:
        at = format_length(result.target_length)
        theta = facts.rope.parameters["rope_theta"]
        holds = "is above it" if theta >= result.base_bound else "is below it"
        rows["base bound"] = f"{result.base_bound:.3g} at {at}; rope_theta {theta:g} {holds}"
    stored = result.quantised
    if stored is not None:
        bits = f", {stored['bits']:.3g} bits a value" if stored["bits"] is not None else ""
        rows["weights"] = (
            f"quantised by {plain(stored['method'])}{bits}; rotation is configuration all the same"
        )
    screen.print(plain(result.source, 200), style="bold", markup=False)
    for name, value in rows.items():
        screen.print(f"  {name:<19}{value}", markup=False)


def _scaling(result: InspectResult) -> str:
    from ropewalk.models.structure.values import plain

    rope, made = result.facts.rope, result.schedule
    if not rope.is_scaled:
        return "none"
    if made is None:
        problem, kind = rope.problem or "", plain(rope.rope_type)
        return problem if kind in problem else f"{kind}: {problem}"
    how = "" if made.method == rope.rope_type else f" (written as {plain(rope.rope_type)})"
    text = f"{plain(made.method)}{how}, factor {rope.factor:g}, attention factor {made.attention_factor:.4g}"
    return text if rope.softmax_scale == 1 else f"{text}, softmax scale times {rope.softmax_scale:.4g}"


def _rotary(result: InspectResult) -> str:
    geometry, facts = result.geometry, result.facts
    text = f"{geometry.num_rotating} pairs, {geometry.rotary_dim} of {geometry.head_dim} dimensions of a head"
    if geometry.proportional:
        text = f"{geometry.num_rotating} of {geometry.half_dim} pairs, then a zero tail; head {geometry.head_dim}"
    if facts.mla is not None:
        text += ", decoupled (MLA)"
    return text


def _show_layers(screen: Console, result: InspectResult) -> None:
    from ropewalk.models.structure.values import plain
    from ropewalk.units import format_length

    layers = result.facts.layers
    parts = []
    if layers.sliding:
        window = layers.sliding_window
        parts.append(
            f"{len(layers.sliding)} sliding" + (f" ({format_length(window)} tokens)" if window else "")
        )
    if layers.no_rope:
        parts.append(f"{len(layers.no_rope)} without rotation")
    if layers.other:
        parts.append(f"{len(layers.other)} without attention")
    if parts:
        parts.insert(0, f"{len(layers.full_rope)} rotating with full attention")
        screen.print(f"  {'layers':<19}{', '.join(parts)}", markup=False)
    if len(result.facts.ropes) > 1:
        for label, rope in result.facts.ropes.items():
            mark = " (the one a longer window concerns)" if label == result.facts.main else ""
            text = f"rope_theta {rope.geometry.rope_theta:g}, {rope.geometry.num_rotating} pairs"
            screen.print(f"  {plain(label):<19}{text}, {plain(rope.rope_type)}{mark}", markup=False)


def _show_pairs(screen: Console, result: InspectResult, everything: bool) -> None:
    from rich.table import Table

    from ropewalk.units import format_length

    table = Table(title="\nPairs", title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("pair", justify="right")
    for column in ("wavelength", "turns in the window", "circle seen"):
        table.add_column(column, justify="right")
    scaled = result.schedule is not None and result.facts.rope.is_scaled
    if scaled:
        table.add_column("slowed by", justify="right")
    at_target = result.target_length is not None and result.schedule is not None
    if at_target:
        table.add_column(f"at {format_length(result.target_length or 0)}")
    for pair in result.pairs if everything else _chosen(result.pairs):
        row = [str(pair.index), _tokens(pair.wavelength), f"{pair.rotations:.4g}", _share(pair.seen_share)]
        row += [_tokens(pair.stretch or 0.0)] if scaled else []
        row += ["unseen angles" if pair.out_of_bound else ""] if at_target else []
        table.add_row(*row)
    screen.print(table)
    past = sum(bool(pair.out_of_bound) for pair in result.pairs)
    if at_target:
        screen.print(f"{past} of {result.geometry.num_rotating} pairs reach angles that training never saw.")


def _tokens(value: float) -> str:
    return f"{value:.4g}" if value != float("inf") else "stands still"


def _share(value: float) -> str:
    # More digits towards the end: two would round 99.9 % to a whole circle, which is what the column is about.
    return "100%" if value >= 1.0 else f"{100 * value:.2g}%" if value < 0.99 else f"{100 * value:.4g}%"


def _chosen(pairs: tuple[Pair, ...]) -> list[Pair]:
    """The first, the last, and those around where a turn is no longer completed; every pair of a small head."""
    if len(pairs) <= _SHORT_TABLE:
        return list(pairs)
    # Where turns stop being completed is where methods begin to differ.
    bound = next((pair.index for pair in pairs if pair.rotations < 1.0), len(pairs))
    step = max(1, len(pairs) // 10)
    near = set(range(bound - 2, bound + 2)) | {0, 1, len(pairs) - 1} | set(range(0, len(pairs), step))
    return [pair for pair in pairs if pair.index in near]


def _show_observations(screen: Console, result: InspectResult) -> None:
    from ropewalk.models.observations import SOURCE, summary

    screen.print(
        f"\nObservations ({SOURCE}; what they mean for this model only measuring tells)", style="bold"
    )
    marks = {True: "harder", False: "no obstacle", None: "not compared"}
    for each in result.observations:
        screen.print(
            f"  {each.feature:<26}{each.value} ({marks[each.hampers]})", markup=False, soft_wrap=True
        )
    for line in [*filter(None, [summary(result.observations)]), *result.companions]:
        screen.print(f"  {line}", markup=False, soft_wrap=True)


def _show_findings(screen: Console, result: InspectResult, model: str) -> None:
    from rich.text import Text

    from ropewalk.errors import shown_command

    if not result.findings:
        screen.print("\nNo findings: the configuration says one thing to every reader.")
        return
    screen.print("\nFindings", style="bold")
    for finding in result.findings:
        line = Text(f"  {finding.severity} ", style=_STYLE[finding.severity])
        line.append(f"{finding.id}: ", style="bold")
        line.append(finding.message, style="default")
        screen.print(line, soft_wrap=True)
        screen.print(Text(f"    -> {finding.fix}", style="default"), soft_wrap=True)
    if any(finding.repairable for finding in result.findings) and model != "-":
        mend = shown_command("extend", model, repair=True, o="OUT")
        screen.print(
            f"\n`{mend}` mends what can be mended, and keeps the original beside it.",
            markup=False,
            soft_wrap=True,
        )
