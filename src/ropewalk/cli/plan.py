"""`ropewalk plan MODEL --target 32k`: what there is to choose, what it needs, where to begin."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli.common import console, contract, emit_json

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
@contract
def command(
    model: str, target: str, memory: str | None, gpus: int, output: Path | None, force: bool, as_json: bool
) -> None:
    """Methods side by side at a target length, memory for inference and training, cost, a recommendation."""
    from ropewalk.plan import plan

    made = plan(model, target, memory=memory, gpus=gpus)
    if output is not None:
        _write_recipe(made, output, force)
    if as_json:
        emit_json(made.to_json())
        return
    screen = console()
    _show_head(screen, made)
    _show_options(screen, made)
    _show_memory(screen, made)
    _show_advice(screen, made, output)


def _write_recipe(made: Plan, output: Path, force: bool) -> None:
    import yaml

    from ropewalk.errors import RopewalkError
    from ropewalk.files import write_text

    if output.exists() and not force:
        raise RopewalkError(f"{output} already exists", hint="choose another file, or pass --force")
    text = f"# Made by ropewalk plan {made.source} --target {made.target_length}. Change the data to your own text.\n"
    write_text(output, text + yaml.safe_dump(made.recipe(), sort_keys=False))


def _show_head(screen: Console, made: Plan) -> None:
    from ropewalk.units import format_length

    facts = made.facts
    original, target = format_length(facts.original_length), format_length(made.target_length)
    screen.print(
        f"{made.source}: {original} -> {target} tokens, factor {made.factor:g}", style="bold", markup=False
    )
    if facts.rope.is_scaled:
        screen.print(
            f"The file already stretches by {facts.rope.factor:g} ({facts.rope.rope_type}); factors here count from "
            f"the original {original}.",
            markup=False,
        )
    if math.isfinite(made.base_bound) and facts.geometry.rope_theta < made.base_bound:
        screen.print(
            f"rope_theta {facts.geometry.rope_theta:g} lies below {made.base_bound:.3g}, the base that keeps near "
            f"tokens ahead of far ones up to {target}: plain extrapolation will not hold."
        )


def _show_options(screen: Console, made: Plan) -> None:
    from rich.table import Table

    table = Table(title="\nMethods", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in ("method", "parameters"):
        table.add_column(column, overflow="fold")
    for column in ("out of bound", "reaches", "distortion", "neighbours"):
        table.add_column(column, justify="right")
    table.add_column("carried exactly by", overflow="fold")
    table.add_column("")
    for option in made.options:
        reach = f"{option.effective_factor:.3g}x" if math.isfinite(option.effective_factor) else "any"
        exact = [runtime for runtime, way in option.carried.items() if way.exact]
        marks = [
            text
            for held, text in ((option.contrib, "contrib"), (option.needs_training, "needs training"))
            if held
        ]
        table.add_row(
            option.label,
            _parameters(option.schedule.factor, made.factor, option.schedule.settings),
            f"{option.out_of_bound_pairs} of {made.facts.geometry.num_rotating}",
            reach,
            f"{option.distortion:.3f}",
            f"{option.resolution:.2f}",
            "all" if len(exact) == len(option.carried) else ", ".join(exact) or "none",
            ", ".join(marks),
        )
    screen.print(table)
    screen.print(
        "out of bound: pairs at angles never seen in training.  reaches: the stretch before the first such pair.\n"
        "distortion: change of the rotary kernel inside the original window.  neighbours: how far apart adjacent\n"
        "tokens still stand, 1 is unchanged.",
        style="dim",
    )


def _parameters(factor: float, wanted: float, parameters: Mapping[str, Any]) -> str:
    shown = [f"nominal factor {factor:.4g}"] if abs(factor / wanted - 1) > 1e-6 else []
    for name, value in parameters.items():
        shown.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(shown) or "-"


def _show_memory(screen: Console, made: Plan) -> None:
    from rich.table import Table

    from ropewalk.units import format_bytes, format_length

    inference, shape = made.inference, made.shape
    exact = "counted" if shape.parameters is not None else "estimated"
    parameters = f"{shape.num_parameters / 1e9:.3g}B parameters, {exact}"
    title = f"\nMemory at {format_length(made.target_length)} tokens ({parameters})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in ("weights", "cache or states", "activations", "logits", "total"):
        table.add_column(column, justify="right")
    table.add_column("")
    table.add_row(
        "inference, bf16 cache",
        format_bytes(inference.weights),
        format_bytes(inference.kv_cache["bfloat16"]),
        format_bytes(inference.prefill_chunk),
        format_bytes(inference.logits_last),
        format_bytes(inference.total()),
        _fit(made.fits(inference.total())),
    )
    for name, setup in made.setups.items():
        memory = setup.memory
        table.add_row(
            f"train: {name}",
            format_bytes(memory.weights),
            format_bytes(memory.gradients + memory.optimiser),
            format_bytes(memory.activations),
            format_bytes(memory.loss),
            format_bytes(memory.total),
            _fit(made.fits(memory.total)),
        )
    screen.print(table)
    caches = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in inference.kv_cache.items())
    screen.print(
        f"KV cache: {caches}. Whole logits of the prompt would take {format_bytes(inference.logits_whole)}."
    )
    if made.gpus > 1:
        each = "one sequence each" if made.setup.sharing == 1 else f"{made.setup.sharing} share a sequence"
        screen.print(
            f"Training figures are per device of {made.gpus}, which divide the weights (FSDP2), {each}."
        )
    if made.memory_bytes is not None:
        fits = made.fits(made.setup.memory.total)
        word = "The recipe trains" if fits else "Nothing fits; the leanest is"
        screen.print(f"{word}: {made.setup.name}.", markup=False)
    longest = made.longest_inference()
    if longest is not None:
        fitting = f"up to {format_length(longest)} tokens fit" if longest else "the weights alone do not fit"
        screen.print(f"In {format_bytes(made.memory_bytes or 0)}: {fitting} for inference.")
    for cost in made.costs:
        screen.print(
            f"Fine-tuning, {cost.name}: {cost.steps} steps, {cost.tokens / 1e6:,.0f}M tokens, {cost.flops:.2g} FLOPs."
        )


def _fit(fits: bool | None) -> str:
    return "" if fits is None else "fits" if fits else "does not fit"


def _show_advice(screen: Console, made: Plan, output: Path | None) -> None:
    screen.print(f"\nBegin with {made.advice.label}: {made.advice.why}", markup=False)
    screen.print("\nNext:", style="bold")
    target = made.target_length
    screen.print(f"  ropewalk compare {made.source} --target {target}", markup=False)
    parameters = "".join(
        f" -p {name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in made.advice.parameters.items()
    )
    factor = made.advice.factor
    nominal = f" --factor {factor:g}" if abs(factor / made.factor - 1) > 1e-6 else ""
    method = f"--method {made.advice.method}{nominal}{parameters}"
    line = f"  ropewalk extend {made.source} --target {target} {method} -o OUT"
    screen.print(line, markup=False, soft_wrap=True)
    if output is None:
        screen.print(
            f"  ropewalk plan {made.source} --target {target} -o recipe.yaml   # a recipe to train",
            markup=False,
        )
    else:
        screen.print(f"  {made.launch.replace('recipe.yaml', str(output))}", markup=False)
