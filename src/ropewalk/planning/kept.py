"""Memory of what is kept of a text by kind of cache, under the names that `eval` and `generate --cache` take."""

from __future__ import annotations

from ropewalk.planning.shape import BYTES, ModelShape

# Numbers that share a lowest value and a step; tokens are rounded in blocks of as many, the latest 64 to 127 not yet.
GROUP = 64
ROUNDED = {"q8": 8, "q4": 4, "q2": 2}
SINKS = 4
# An offloaded cache has the layer at work and the next one on the device.
OFFLOADED_LAYERS = 2
# The share of a prompt's keys that a press of kvpress leaves, at the ratio in its name.
PRESS, PRESSED = "kvpress:NAME:0.5", 0.5


def rounded_bytes_per_number(bits: int, dtype: str = "bfloat16") -> float:
    """The number itself, and its share of the group's lowest value and step, both in the type it is computed in."""
    return bits / 8 + 2 * BYTES[dtype] / GROUP


def kept_bytes(
    shape: ModelShape, length: int, *, dtype: str = "bfloat16", stream_window: int | None = None
) -> dict[str, int]:
    """Bytes of one row by kind of cache; layers that slide keep their window as it is under every kind.

    Rounded kinds are counted just before their next block is rounded, at their largest. `sinks:4+W` is a stream
    without end whose sinks and window fill `stream_window`; its layers hold room for two windows. `static` takes at
    once what `full` grows to. `offloaded` is what the device holds: the rest of `full` waits in main memory. A press
    leaves half of a prompt, here of the whole length.
    """
    windowed = shape.window_layers * min(length, shape.window or length)
    whole, latest = BYTES[dtype], min(length, 2 * GROUP - 1)
    found = {"full": shape.full_layers * length * whole}
    for name, bits in ROUNDED.items():
        old = (length - latest) * rounded_bytes_per_number(bits, dtype)
        found[name] = shape.full_layers * (old + latest * whole)
    found["static"] = found["full"]
    found["offloaded"] = min(shape.full_layers, OFFLOADED_LAYERS) * length * whole
    found[PRESS] = found["full"] * PRESSED
    if stream_window is not None and stream_window > SINKS:
        window = stream_window - SINKS
        found[f"sinks:{SINKS}+{window}"] = shape.full_layers * 2 * (SINKS + window) * whole
    return {name: int(shape.kv_elements * (size + windowed * whole)) for name, size in found.items()}
