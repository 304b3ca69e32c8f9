"""Inference memory by length: weights, cache, one prefill chunk, and whole logits beside them."""

from __future__ import annotations

from ropewalk.planning import inference_memory
from ropewalk.report.figure import Axis, Bars, Figure, NoDataError, Panel, significant
from ropewalk.report.figures.kinds import figure_kind
from ropewalk.report.views import ModelView
from ropewalk.units import doublings, format_bytes, format_length


@figure_kind("memory", shows="inference memory by length", source="model")
def figure(view: ModelView) -> Figure:
    """Stacked parts for one sequence in bfloat16, from the original window to the target, doubling."""
    if view.shape is None:
        raise NoDataError(
            f"the sizes of {view.name} are not known, only its rotary geometry",
            hint="give the model's config.json",
        )
    lengths = doublings(view.geometry.original_length, view.target_length)
    found = [inference_memory(view.shape, length) for length in lengths]
    names = tuple(format_length(length) for length in lengths)
    parts = {
        "weights": [memory.weights for memory in found],
        "KV cache": [memory.kv_cache["bfloat16"] for memory in found],
        "prefill chunk": [memory.prefill_chunk + memory.logits_last for memory in found],
        "whole logits, if a tool keeps them": [memory.logits_whole for memory in found],
    }
    # One unit for every bar, by the largest: bars of two units could not be compared by eye.
    unit, scale = ("GiB", 1024**3) if found[-1].total() >= 1024**3 else ("MiB", 1024**2)
    layers = tuple(
        Bars(name, names, [significant(size / scale) for size in sizes], f"series-{number}")
        for number, (name, sizes) in enumerate(parts.items())
    )
    last = found[-1]
    total = format_bytes(last.total())
    return Figure(
        "memory",
        f"Memory by length, {view.name}",
        f"Predicted for one sequence in bfloat16, prefilled in chunks of {last.chunk} tokens. Reading "
        f"{format_length(lengths[-1])} tokens takes {total}.",
        (Panel(layers, Axis("length", "tokens"), Axis("memory", unit)),),
        alt="Total without whole logits: "
        + ", ".join(
            f"{name} {format_bytes(memory.total())}" for name, memory in zip(names, found, strict=True)
        ),
    )
