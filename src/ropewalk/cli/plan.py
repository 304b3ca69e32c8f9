"""`ropewalk plan MODEL --target 32k`: what there is to choose, what it needs, where to begin."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli.common import console, contract, emit_json, quiet_option

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.plan import Plan


@click.command("plan")
@click.argument("model")
@click.option("--target", required=True, help="Target length: 32k, 131072, or 8x the original window.")
@click.option("--memory", default=None, help="Memory of one device, for example 24GB: says what fits.")
@click.option(
    "--gpus", type=click.IntRange(1, 65536), default=1, show_default=True, help="Devices to shard over."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=None, help="Write a training recipe here."
)
@click.option("--force", is_flag=True, help="Replace an existing recipe file.")
@click.option(
    "--despite-errors",
    is_flag=True,
    help="Plan although `ropewalk inspect` finds errors in the configuration.",
)
@click.option(
    "--exact-bound", is_flag=True, help="Scan for the base bound: seconds at 1m tokens, minutes beyond."
)
@quiet_option
@contract
def command(
    model: str, target: str, output: Path | None, force: bool, quiet: bool, as_json: bool, **options: Any
) -> None:
    """Methods side by side at a target length, memory for inference and training, cost, a recommendation."""
    from ropewalk.plan import plan

    made = plan(model, target, **options)
    if output is not None:
        _write_recipe(made, output, force)
    if as_json:
        emit_json(made.to_json())
        return
    screen = console()
    _show_head(screen, made)
    _show_options(screen, made, quiet)
    _show_memory(screen, made)
    _show_advice(screen, made, output)


def _write_recipe(made: Plan, output: Path, force: bool) -> None:
    import yaml

    from ropewalk.errors import RopewalkError, shown_command
    from ropewalk.files import write_text

    if output.exists() and not force:
        raise RopewalkError(f"{output} already exists", hint="choose another file, or pass --force")
    line = shown_command("plan", made.source, target=made.target_length)
    # On one line, since a folder may be called anything: a line break in its name must not end the comment.
    text = f"# Made by {' '.join(line.split())}. Change the data to your own text.\n"
    write_text(output, text + yaml.safe_dump(made.recipe(), sort_keys=False))


def _show_head(screen: Console, made: Plan) -> None:
    from ropewalk.models.observations import mention
    from ropewalk.units import format_length

    facts = made.facts
    original, target = format_length(facts.original_length), format_length(made.target_length)
    screen.print(
        f"{made.source}: {original} -> {target} tokens, factor {made.factor:g}", style="bold", markup=False
    )
    for finding in made.findings:
        if finding.severity != "note":
            screen.print(f"{finding.severity} {finding.id}: {finding.message}", markup=False)
    if facts.rope.is_scaled:
        screen.print(
            f"The file already stretches by {facts.rope.factor:g} ({facts.rope.rope_type}); factors here count from "
            f"the original {original}.",
            markup=False,
        )
    _show_bound(screen, made, target)
    for note in made.notes:
        screen.print(f"note: {note}", markup=False)
    screen.print(mention(made.observations), markup=False)


def _show_bound(screen: Console, made: Plan, target: str) -> None:
    """The base bound, where it is missed by more than its own tolerance leaves open."""
    bound, within = made.base_bound, made.base_bound_within
    theta = made.facts.geometry.rope_theta
    if not math.isfinite(bound) or theta >= bound:
        return
    rough = "" if within < 1.01 else f" (give or take a factor of {within:.2g}; --exact-bound scans for it)"
    sure = "will not" if theta * within < bound else "may not"
    screen.print(
        f"rope_theta {theta:g} lies below {bound:.3g}{rough}, the base that keeps near tokens ahead of far ones up "
        f"to {target}: plain extrapolation {sure} hold.",
        markup=False,
    )


def _show_options(screen: Console, made: Plan, quiet: bool) -> None:
    from ropewalk.cli.tables import Column, show_table

    columns = [
        Column("method"),
        Column("parameters", below=1),
        Column("out of bound", right=True),
        Column("reaches", right=True),
        Column("distortion", right=True, below=4),
        Column("neighbours", right=True, below=3),
        Column("carried exactly by", below=2),
        Column("", below=5),
    ]
    rows = []
    for option in made.options:
        exact = [runtime for runtime, way in option.carried.items() if way.exact]
        marks = [
            text
            for held, text in ((option.contrib, "contrib"), (option.needs_training, "needs training"))
            if held
        ]
        rows.append(
            [
                option.label,
                _parameters(option.schedule.factor, made.factor, option.schedule.settings),
                f"{option.out_of_bound_pairs} of {made.facts.geometry.num_rotating}",
                f"{option.effective_factor:.3g}x" if math.isfinite(option.effective_factor) else "any",
                f"{option.distortion:.3f}",
                f"{option.resolution:.2f}",
                "all" if len(exact) == len(option.carried) else ", ".join(exact) or "none",
                ", ".join(marks),
            ]
        )
    show_table(screen, columns, rows, title="\nMethods")
    if not quiet:
        screen.print(
            "out of bound: pairs at angles never seen in training.  reaches: the stretch before the first such pair.  "
            "distortion: change of the rotary kernel inside the original window.  neighbours: how far apart adjacent "
            "tokens still stand, 1 is unchanged.",
            style="dim",
        )


def _parameters(factor: float, wanted: float, parameters: Mapping[str, Any]) -> str:
    shown = [f"nominal factor {factor:.4g}"] if abs(factor / wanted - 1) > 1e-6 else []
    for name, value in parameters.items():
        shown.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(shown) or "-"


def _show_memory(screen: Console, made: Plan) -> None:
    from ropewalk.cli.tables import Column, show_table
    from ropewalk.units import format_bytes, format_length

    inference, shape = made.inference, made.shape
    exact = "counted" if shape.parameters is not None else "estimated"
    parameters = f"{shape.num_parameters / 1e9:.3g}B parameters, {exact}"
    if shape.stored is not None:
        part = "experts" if shape.stored.part == "experts" else "projections"
        parameters += f"; {part} stored as {shape.stored.method}, {shape.stored.bits:.3g} bits"
    columns = [Column("")]
    columns += [
        Column(name, right=True, below=below)
        for name, below in (
            ("weights", 4),
            ("cache or states", 3),
            ("activations", 2),
            ("logits", 1),
            ("total", 0),
        )
    ]
    columns.append(Column(""))
    rows = [
        [
            "inference, bf16 cache",
            *(
                format_bytes(size)
                for size in (
                    inference.weights,
                    inference.kv_cache["bfloat16"],
                    inference.prefill_chunk,
                    inference.logits_last,
                    inference.total(),
                )
            ),
            _fit(made.fits(inference.total())),
        ]
    ]
    for name, setup in made.setups.items():
        memory = setup.memory
        states = memory.gradients + memory.optimiser
        sizes = (memory.weights, states, memory.activations, memory.loss, memory.total)
        rows.append([f"train: {name}", *map(format_bytes, sizes), _fit(made.fits(memory.total))])
    title = f"\nMemory at {format_length(made.target_length)} tokens ({parameters})"
    show_table(screen, columns, rows, title=title)
    for line in _memory_remarks(made):
        screen.print(line, markup=False)


def _memory_remarks(made: Plan) -> Iterator[str]:
    from ropewalk.units import format_bytes, format_length

    inference = made.inference
    caches = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in inference.kv_cache.items())
    kinds = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in inference.kv_kinds.items())
    yield f"By kind of cache (`ropewalk eval --cache` measures what each costs): {kinds}."
    full, kept = inference.kv_kinds["full"], inference.kv_kinds["offloaded"]
    yield (
        f"An offloaded cache keeps the other {format_bytes(full - kept)} in main memory. quanto and hqq take about "
        "what q8, q4 and q2 do. Zones keep far keys beside the cache, half as much again."
    )
    yield f"KV cache: {caches}. Whole logits of the prompt would take {format_bytes(inference.logits_whole)}."
    if made.shape.latent is not None:
        yield (
            "That is the latent, as transformers 5, vLLM and SGLang keep it; programs that keep every head's keys and "
            f"values take {format_bytes(inference.kv_cache_expanded)}."
        )
    if made.gpus > 1:
        each = "one sequence each" if made.setup.sharing == 1 else f"{made.setup.sharing} share a sequence"
        yield f"Training figures are per device of {made.gpus}, which divide the weights (FSDP2), {each}."
    if made.memory_bytes is not None:
        fits = made.fits(made.setup.memory.total)
        word = "The recipe trains" if fits else "Nothing fits; the leanest is"
        yield f"{word}: {made.setup.name}."
    longest = made.longest_inference()
    if longest is not None:
        fitting = f"up to {format_length(longest)} tokens fit" if longest else "the weights alone do not fit"
        yield f"In {format_bytes(made.memory_bytes or 0)}: {fitting} for inference."
    for cost in made.costs:
        yield (
            f"Fine-tuning, {cost.name}: {cost.steps} steps, {cost.tokens / 1e6:,.0f}M tokens, {cost.flops:.2g} FLOPs."
        )


def _fit(fits: bool | None) -> str:
    return "" if fits is None else "fits" if fits else "does not fit"


def _show_advice(screen: Console, made: Plan, output: Path | None) -> None:
    from ropewalk.errors import shown_command
    from ropewalk.methods import find_method
    from ropewalk.models.sizes import parameters_of

    advice, target = made.advice, made.target_length
    begin = f"Keep it as it is ({advice.label})" if advice.keep else f"Begin with {advice.label}"
    screen.print(f"\n{begin}: {advice.why}", markup=False)
    screen.print("\nNext:", style="bold")
    # Measuring runs the model, and a configuration alone has nothing to run; a Hub's model brings its weights.
    named = Path(made.source).exists()
    bare = "   # needs the weights in the same folder" if named and parameters_of(made.source) is None else ""
    lines = [shown_command("compare", made.source, target=target) + bare]
    if not advice.keep:
        unusual = find_method(advice.method).unusual(advice.parameters)
        given = [f"{name}={json.dumps(value)}" for name, value in unusual.items()]
        # The target says the factor already, unless the method wants another nominal one to reach it.
        factor = f"{advice.factor:g}" if abs(advice.factor / made.factor - 1) > 1e-6 else None
        lines.append(
            shown_command(
                "extend", made.source, target=target, method=advice.method, factor=factor, p=given, o="OUT"
            )
        )
    if output is None:
        lines.append(
            shown_command("plan", made.source, target=target, o="recipe.yaml") + "   # a recipe to train"
        )
    else:
        lines.append(made.launch(output))
    for line in lines:
        screen.print(f"  {line}", markup=False, soft_wrap=True)
