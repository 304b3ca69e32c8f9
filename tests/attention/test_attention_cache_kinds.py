"""Kinds of caches: what rounding keeps, that nothing is rounded twice, what a kind costs, how a text is read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ropewalk.attention.cache_kinds import GROUP, RoundedLayer, parse_kind
from ropewalk.attention.caches import cache_bytes
from ropewalk.attention.sinks import SinkCache
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.models.facts import read_facts
from ropewalk.plan import shape_of
from ropewalk.planning.kept import kept_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from generation_models import KINDS, LONGROPE, model_of, some_tokens, whole_logits


def _states(tokens, width=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, tokens, width, generator=draw), torch.randn(2, 3, tokens, width, generator=draw)


def _rounded(block, bits, axis):
    """By the formula, in numpy: keys by channel (over tokens), values by token (over channels)."""
    low, high = block.min(axis, keepdims=True), block.max(axis, keepdims=True)
    step = ((high - low) / (2**bits - 1)).astype(np.float32)
    return low + step * np.rint((block - low) / step)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_old_blocks_are_rounded_once_and_the_latest_tokens_not_at_all(bits):
    keys, values = _states(300)
    layer = RoundedLayer(bits)
    for first in range(0, 300, 30):
        got_keys, got_values = layer.update(keys[:, :, first : first + 30], values[:, :, first : first + 30])
    assert layer.get_seq_length() == 300
    got_keys, got_values = layer.update(*_states(1, seed=1))
    for found, exact, axis in ((got_keys, keys, 2), (got_values, values, 3)):
        for block in range(3):
            part = exact[:, :, block * GROUP : (block + 1) * GROUP].numpy()
            assert np.allclose(
                found[:, :, block * GROUP : (block + 1) * GROUP].numpy(),
                _rounded(part, bits, axis),
                atol=1e-5,
            )
        assert torch.equal(found[:, :, 3 * GROUP : 300], exact[:, :, 3 * GROUP :])
    # Rows of 3 heads and 8 channels: `bits` for each number; per group a low value and a step in float32.
    numbers = 2 * 3 * GROUP * 8
    groups = 2 * 3 * 8 + 2 * 3 * GROUP
    latest = 2 * 2 * 3 * (301 - 3 * GROUP) * 8 * 4
    assert layer.allocated_bytes == 3 * (2 * numbers * bits // 8 + 2 * 4 * groups) + latest


def test_rows_can_be_repeated_and_reordered():
    keys, values = _states(200)
    layer = RoundedLayer(4)
    layer.update(keys, values)
    plain = [item.clone() for item in layer.update(*_states(1, seed=2))]
    layer.reorder_cache(torch.tensor([1, 0]))
    layer.batch_repeat_interleave(2)
    new = _states(1, seed=3)
    found = layer.update(*(item[:1].expand(4, -1, -1, -1) for item in new))
    for one, other in zip(found, plain, strict=True):
        assert torch.equal(one[:, :, :201], other[[1, 1, 0, 0]])


def test_cropping_stops_at_the_blocks():
    layer = RoundedLayer(4)
    layer.update(*_states(150))
    layer.crop(-20)
    assert layer.get_seq_length() == 130
    with pytest.raises(RopewalkError, match="cannot be cropped into its blocks"):
        layer.crop(-100)
    layer.reset()
    assert layer.get_seq_length() == 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_eight_bits_are_close_and_two_are_not(kind):
    model, ids = model_of(kind, max_position_embeddings=512), some_tokens(260)
    logs = whole_logits(model, ids).log_softmax(-1)
    wanted = -logs[:-1][range(259), ids[1:]]
    engine = Engine(model)
    apart = {}
    for name in ("full", "q8", "q4", "q2"):
        with parse_kind(name).applied(model):
            apart[name] = float((engine.nll(ids)[0] - wanted).abs().mean())
    assert apart["full"] < 1e-4
    if kind != "mistral":
        assert apart["full"] < apart["q8"] < apart["q4"] < apart["q2"]
        assert apart["q8"] < 0.1
    else:
        # Every layer slides over 16 tokens and keeps them as they are.
        assert apart["q2"] < 1e-4


def test_sinks_as_a_kind_are_the_sink_cache():
    model, ids = model_of("llama", max_position_embeddings=64), some_tokens(100)
    engine = Engine(model)
    with parse_kind("sinks:4+16").applied(model):
        assert engine.chunk == 16
        found = engine.nll(ids)[0]
    cache, told = SinkCache(model, sinks=4, window=16), []
    with torch.inference_mode():
        for first in range(0, 99, 16):
            piece = torch.tensor([ids[first : min(first + 16, 99)]])
            told.append(model(input_ids=piece, past_key_values=cache).logits[0].log_softmax(-1))
    wanted = -torch.cat(told)[range(99), ids[1:]]
    assert torch.allclose(found, wanted, atol=1e-4)
    assert engine.chunk == 2048
    longrope = model_of("llama", rope_parameters=LONGROPE, max_position_embeddings=128)
    with parse_kind("sinks:4+16").applied(longrope):
        assert torch.isfinite(Engine(longrope).nll(ids)).all()


def test_a_context_is_asked_through_the_kind_and_stays_itself():
    model, ids = model_of("llama", max_position_embeddings=512), some_tokens(200)
    engine = Engine(model)
    whole = engine.context(ids)
    exact = whole.score([5, 6]).logprobs
    with parse_kind("q2").applied(model):
        context = engine.context(ids)
        first, again = context.score([5, 6]).logprobs, context.score([5, 6]).logprobs
        assert cache_bytes(context._cache) < cache_bytes(whole._cache)
    assert first == again
    assert first != pytest.approx(exact, abs=1e-3)
    assert engine.context(ids).score([5, 6]).logprobs == pytest.approx(exact, abs=1e-6)


def test_names():
    assert [parse_kind(name).name for name in ("full", "q4", "sinks:4+2k")] == ["full", "q4", "sinks:4+2k"]
    kind = parse_kind("sinks:8+1k")
    assert (kind.sinks, kind.window, kind.piece) == (8, 1024, 64)
    for wrong in ("q5", "sinks", "sinks:4", "kv"):
        with pytest.raises(UsageError, match="is unknown"):
            parse_kind(wrong)
    with pytest.raises(RopewalkError, match="quanto4 is not to be had here"):
        parse_kind("quanto4").make(model_of("llama"))


def test_the_plan_counts_what_the_caches_hold():
    model = model_of("llama", max_position_embeddings=512, num_hidden_layers=3)
    ids = some_tokens(64 * 4 + 127)
    shape = shape_of(read_facts(model.config.to_dict()))
    told = kept_bytes(shape, len(ids), dtype="float32", stream_window=100)
    with torch.inference_mode():
        for name in ("q8", "q4", "q2", "sinks:4+96", "static"):
            cache = parse_kind(name).make(model, len(ids))
            for first in range(0, len(ids), 32):
                model(input_ids=torch.tensor([ids[first : first + 32]]), past_key_values=cache)
            held = cache_bytes(cache)
            # A group has 64 numbers in the plan; a head of 8 channels has groups of 8 among the values.
            # A static layer counts its tokens in a number of eight bytes.
            extra = {"static": 3 * 8, "sinks:4+96": 0}.get(name, 3 * 2 * 4 * 64 * (8 // 8 - 8 / 64) * 2 * 4)
            assert held == pytest.approx(told[name] + extra, rel=1e-6), name
    full = 3 * len(ids) * 2 * shape.num_kv_heads * shape.head_dim * 4
    assert (told["full"], told["offloaded"], told["kvpress:NAME:0.5"]) == (full, full * 2 // 3, full // 2)
