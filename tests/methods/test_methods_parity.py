"""Our float64 against transformers' own float32 functions, 500 random geometries a type.

Their rounding is the limit: 5e-6 relative. Where transformers is wrong, the test says so and checks the right value.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import ropewalk
from ropewalk.geometry import RopeGeometry

COUNT = 500
TOLERANCE = 5e-6
THETAS = (1e4, 1e4, 5e5, 1e6, 1e7, 500.0)
LENGTHS = (64, 256, 512, 2048, 4096, 8192, 32768, 131072, 262144)


def _geometry(rng: np.random.Generator) -> RopeGeometry:
    """Long windows on a small base, partial rotary, odd head sizes: all within what a checkpoint could hold."""
    share = float(rng.choice([1.0, 1.0, 0.5, 0.25]))
    return RopeGeometry(
        head_dim=int(rng.choice([16, 32, 64, 80, 96, 128, 256])),
        rope_theta=float(rng.choice(THETAS)),
        original_length=int(rng.choice(LENGTHS)),
        partial_rotary_factor=share,
    )


def _reference(
    geometry: RopeGeometry, rope: dict[str, Any], *, maximum: int | None = None, seq_len: int | None = None
):
    """(frequencies in float64, attention factor) as transformers computes them from a config."""
    config = LlamaConfig(
        hidden_size=geometry.head_dim * 2,
        num_attention_heads=2,
        head_dim=geometry.head_dim,
        max_position_embeddings=maximum or geometry.original_length,
    )
    partial = geometry.partial_rotary_factor
    config.rope_parameters = {"rope_theta": geometry.rope_theta, "partial_rotary_factor": partial} | rope
    inv_freq, attention = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"), seq_len=seq_len)
    return inv_freq.double().numpy(), float(attention)


def _same(made, reference, attention, *, tolerance=TOLERANCE):
    turning = reference > 0
    assert (made.inv_freq > 0).tolist() == turning.tolist()
    error = np.abs(made.inv_freq[turning] / reference[turning] - 1.0)
    assert error.max() <= tolerance, (made.geometry, dict(made.parameters), error.max())
    assert made.attention_factor == pytest.approx(attention, rel=1e-12)


def test_linear():
    rng = np.random.default_rng(0)
    for _ in range(COUNT):
        geometry, factor = _geometry(rng), float(rng.uniform(1, 64))
        made = ropewalk.schedule("linear", geometry, factor=factor)
        _same(made, *_reference(geometry, {"rope_type": "linear", "factor": factor}))


def test_llama3():
    rng = np.random.default_rng(1)
    for _ in range(COUNT):
        geometry, factor = _geometry(rng), float(rng.uniform(1, 64))
        low, width = float(rng.uniform(0.5, 4)), float(rng.uniform(0.5, 8))
        bounds = {"low_freq_factor": low, "high_freq_factor": low + width}
        made = ropewalk.schedule("llama3", geometry, factor=factor, **bounds)
        rope = {
            "rope_type": "llama3",
            "factor": factor,
            "original_max_position_embeddings": geometry.original_length,
        }
        # At the slow end of the band their float32 rounding of r grows by factor * low / width: it is theirs, not ours.
        amplified = max(1.0, factor * low / width / 4)
        _same(made, *_reference(geometry, rope | bounds), tolerance=TOLERANCE * amplified)


def test_llama3_as_shipped():
    for geometry in (
        RopeGeometry(128, 5e5, 8192),
        RopeGeometry(64, 5e5, 8192),
        RopeGeometry(128, 1e4, 131072),
    ):
        bounds = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope = {
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": geometry.original_length,
        }
        _same(ropewalk.schedule("llama3", geometry, factor=8), *_reference(geometry, rope | bounds))


def test_yarn():
    rng = np.random.default_rng(2)
    for number in range(COUNT):
        geometry, factor = _geometry(rng), float(rng.uniform(1, 64))
        slow = float(rng.choice([1.0, 1.0, 0.5, 4.0]))
        # Nearly equal betas, and a window that no pair turns 32 times in, are the degenerate ramps.
        fast = slow + float(rng.choice([31.0, 31.0, 8.0, 1e-3]))
        given: dict[str, Any] = {"beta_fast": fast, "beta_slow": slow, "truncate": bool(rng.integers(2))}
        if number % 5 == 0:
            given |= {
                "mscale": float(rng.choice([0.0, 0.707, 1.0])),
                "mscale_all_dim": float(rng.choice([0.0, 1.0])),
            }
        if number % 7 == 0:
            given["attention_factor"] = float(rng.uniform(0.5, 2))
        made = ropewalk.schedule("yarn", geometry, factor=factor, **given)
        rope = {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": geometry.original_length,
        }
        _same(made, *_reference(geometry, rope | given))


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_on_a_small_base_and_a_long_window(truncate):
    for head_dim in (32, 64, 128, 256):
        geometry = RopeGeometry(head_dim=head_dim, rope_theta=1e4, original_length=131072)
        made = ropewalk.schedule("yarn", geometry, factor=8, truncate=truncate)
        rope = {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 131072,
            "truncate": truncate,
        }
        _same(made, *_reference(geometry, rope))


@pytest.mark.parametrize("rope_type", ["yarn", "llama3"])
def test_equal_bounds_as_kimi_k2_and_llama_4_ship_them(rope_type):
    names = ("beta_fast", "beta_slow") if rope_type == "yarn" else ("low_freq_factor", "high_freq_factor")
    bounds = dict.fromkeys(names, 1.0)
    for geometry in (RopeGeometry(128, 5e5, 8192), RopeGeometry(64, 5e4, 4096)):
        rope = {
            "rope_type": rope_type,
            "factor": 16.0,
            "original_max_position_embeddings": geometry.original_length,
        }
        made = ropewalk.schedule(rope_type, geometry, factor=16, **bounds)
        _same(made, *_reference(geometry, rope | bounds))


def test_longrope_both_sets():
    rng = np.random.default_rng(3)
    for _ in range(COUNT):
        geometry, factor = _geometry(rng), float(rng.uniform(1, 64))
        long, short = (np.sort(rng.uniform(1, 64, geometry.half_dim)).tolist() for _ in range(2))
        made = ropewalk.schedule("longrope", geometry, factor=factor, long_factors=long, short_factors=short)
        original = geometry.original_length
        rope = {
            "rope_type": "longrope",
            "factor": factor,
            "long_factor": long,
            "short_factor": short,
            "original_max_position_embeddings": original,
        }
        _same(made, *_reference(geometry, rope, seq_len=original + 1))
        at_short, _ = _reference(geometry, rope, seq_len=original)
        assert made.short_inv_freq == pytest.approx(at_short, rel=TOLERANCE)


def test_dynamic():
    """Transformers' dynamic NTK at its factor 1 is our rule over `ntk`: base L'/L of the length in view."""
    rng = np.random.default_rng(4)
    for _ in range(COUNT):
        geometry = _geometry(rng)
        length = int(geometry.original_length * rng.uniform(0.5, 16))
        reference, _ = _reference(geometry, {"rope_type": "dynamic", "factor": 1.0}, seq_len=length)
        ours = ropewalk.dynamic("ntk", geometry).schedule_at(length).inv_freq
        assert ours == pytest.approx(reference, rel=TOLERANCE)


def test_proportional():
    rng = np.random.default_rng(5)
    for _ in range(COUNT):
        factor, share = float(rng.uniform(1, 64)), float(rng.choice([0.25, 0.5, 1.0]))
        plain = _geometry(rng)
        geometry = RopeGeometry(
            plain.head_dim, plain.rope_theta, plain.original_length, share, proportional=True
        )
        rope = {"rope_type": "proportional", "factor": factor}
        for name in ("linear", "proportional"):
            _same(ropewalk.schedule(name, geometry, factor=factor), *_reference(geometry, rope))


def test_yarn_whose_original_length_transformers_mistakes():
    """transformers takes a raised max_position_embeddings for the original length where none is written: the ramp then
    sits on the wrong pairs. Ours is made from the original length, and a config that names it agrees."""
    geometry = RopeGeometry(128, 1e4, 4096)
    made = ropewalk.schedule("yarn", geometry, factor=8)
    named = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}
    _same(made, *_reference(geometry, named, maximum=32768))
    mistaken, _ = _reference(geometry, {"rope_type": "yarn", "factor": 8.0}, maximum=32768)
    assert np.sum(np.abs(mistaken / made.inv_freq - 1) > 1e-3) == 39
    assert np.max(mistaken / made.inv_freq - 1) == pytest.approx(3.92, abs=0.01)


def test_factors_that_transformers_only_logs_are_refused():
    """transformers turns factor -3 into negative frequencies with a log line."""
    geometry = RopeGeometry(64, 1e4, 512)
    reference, _ = _reference(geometry, {"rope_type": "linear", "factor": -3.0})
    assert (reference < 0).all()
    with pytest.raises(ropewalk.RopewalkError, match="factor=-3"):
        ropewalk.schedule("linear", geometry, factor=-3)


def test_the_papers_ramp_and_the_codes_ramp_differ_as_documented():
    geometry = RopeGeometry(128, 1e4, 4096)
    index = ropewalk.schedule("yarn", geometry, factor=8)
    rotations = ropewalk.schedule("yarn", geometry, factor=8, ramp="rotations")
    ratio = index.inv_freq / rotations.inv_freq
    assert 1.5 < np.max(np.maximum(ratio, 1 / ratio)) < 3.0
    by_parts = ropewalk.schedule("by-parts", geometry, factor=8)
    assert rotations.inv_freq.tolist() == by_parts.inv_freq.tolist()
    assert rotations.attention_factor == pytest.approx(0.1 * math.log(8) + 1)
