"""How `quantization_config` says that the weights are stored: bits an element, and of which part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.models.structure.values import is_number, is_whole, shown

# Bits an element with its scales, where the method leaves no choice. MXFP4: 32 values share eight bits; NF4 in blocks
# of 64 with one float32 each; block-wise FP8 in tiles of 128 by 128; NVFP4: 16 values share eight bits.
_FIXED = {"mxfp4": 4.25, "fbgemm_fp8": 8.0, "eetq": 8.0, "aqlm": 2.0}
_NF4, _NF4_DOUBLE, _NVFP4 = 4.5, 4.127, 4.5
# What training does with such a base: packed weights with adapters beside them (peft has a layer for each), or weights
# that transformers widens while it loads them.
TRAINED_PACKED = ("bitsandbytes", "gptq", "awq")
WIDENED = ("fp8", "mxfp4", "compressed-tensors")


def stored_bits(config: Mapping[str, Any], text: Mapping[str, Any]) -> tuple[str, float | None, bool] | None:
    """(method, bits an element with scales, experts alone), or None where nothing is quantised.

    `bits` is None for a method that is not known here: the caller says so instead of guessing.
    """
    found = config.get("quantization_config") or text.get("quantization_config")
    found = found or config.get("compression_config")
    if not isinstance(found, Mapping):
        return None
    method = str(found.get("quant_method") or found.get("quantization_method") or "").lower()
    # Attention is left out by name, as gpt-oss and Kimi K2 leave it.
    experts_alone = method == "mxfp4" or any("attn" in name for name in _left_out(found))
    return method or "unnamed", _bits(method, found), experts_alone


def _bits(method: str, found: Mapping[str, Any]) -> float | None:
    if method in _FIXED:
        return _FIXED[method]
    if method == "fp8":
        block = found.get("weight_block_size")
        sides = [side for side in block if is_whole(side) and side > 0] if isinstance(block, list) else []
        return 8.0 + 32.0 / (sides[0] * sides[1]) if len(sides) == 2 else 8.0
    if method in ("gptq", "awq", "hqq", "intel/auto-round", "auto-round"):
        bits = found.get("bits", found.get("nbits", 4))
        return _grouped(bits, found.get("group_size", 128), zero_points=True)
    if method in ("bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit"):
        if found.get("load_in_4bit") or found.get("_load_in_4bit"):
            return _NF4_DOUBLE if found.get("bnb_4bit_use_double_quant") else _NF4
        return 8.0
    if method == "gguf":
        # Ours, from the file's own tensors: no checkpoint's config.json says it.
        bits = found.get("bits")
        return float(bits) if is_number(bits) else None
    if method == "quanto":
        return {"int8": 8.0, "float8": 8.0, "int4": 4.0, "int2": 2.0}.get(str(found.get("weights")))
    if method == "modelopt":
        return {"NVFP4": _NVFP4, "FP8": 8.0}.get(str(found.get("quant_algo")).upper())
    if method == "compressed-tensors":
        return _compressed(found)
    return None


def _compressed(found: Mapping[str, Any]) -> float | None:
    groups = found.get("config_groups")
    # Several groups are several schemes; the first that says its bits stands for all.
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and is_number(weights.get("num_bits")):
            return _grouped(
                weights["num_bits"], weights.get("group_size"), zero_points=not weights.get("symmetric")
            )
    return None


def _grouped(bits: object, group: object, *, zero_points: bool) -> float | None:
    """Bits with a 16-bit scale, and a zero point of as many bits as a value, for each group."""
    if not is_number(bits):
        return None
    if not is_whole(group) or group <= 0:
        return float(bits)
    return bits + (16.0 + (bits if zero_points else 0.0)) / group


def _left_out(found: Mapping[str, Any]) -> Iterator[str]:
    for key in ("modules_to_not_convert", "ignore", "ignored_layers"):
        names = found.get(key)
        yield from (name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def unknown_note(method: str) -> str:
    """What to tell of a quantisation that is not counted."""
    return f"quantization_config of {shown(method)} is not known here: its weights are counted at full width"
