"""Sinks and a window against a plain forward over just those tokens, at the positions that the rule gives them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import ropewalk
from ropewalk.attention.sinks import SinkCache
from ropewalk.errors import RopewalkError, UsageError

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from generation_models import KINDS, LONGROPE, model_of, some_tokens, whole_logits

SINKS, WINDOW = 3, 13


@torch.inference_mode()
def _streamed(model, cache, pieces):
    return torch.cat(
        [
            model(input_ids=torch.tensor([piece]), past_key_values=cache, use_cache=True).logits[0]
            for piece in pieces
        ]
    )


@pytest.mark.parametrize("kind", ["llama", "qwen3", "phi3", "gpt_neox", "latent"])
@pytest.mark.parametrize("step", [1, 4])
def test_one_layer_sees_the_sinks_and_the_window_and_nothing_else(kind, step):
    """With one layer the keys depend on nothing but their own token: a forward over the kept ones is the reference."""
    model, ids = model_of(kind, num_hidden_layers=1), some_tokens(75)
    cache = SinkCache(model, sinks=SINKS, window=WINDOW)
    pieces = [ids[begin : begin + step] for begin in range(0, 75, step)]
    logits = _streamed(model, cache, pieces)
    assert (cache.seen, cache.evicted) == (75, 75 - SINKS - WINDOW)
    for last in (2, 15, 16, 40, 74):
        end = min((last // step + 1) * step, 75)
        kept = ids[:end] if end <= SINKS + WINDOW else ids[:SINKS] + ids[end - WINDOW : end]
        wanted = whole_logits(model, kept)[last - end]
        assert torch.allclose(logits[last], wanted, atol=2e-5), last


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_until_it_is_full_it_is_a_full_cache(kind):
    model, ids = model_of(kind), some_tokens(SINKS + WINDOW)
    cache = SinkCache(model, sinks=SINKS, window=WINDOW)
    logits = _streamed(model, cache, [ids[:9], *([token] for token in ids[9:])])
    assert torch.allclose(logits, whole_logits(model, ids), atol=2e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_runs_in_plain_generate_and_does_not_grow(kind):
    model, ids = model_of(kind), some_tokens(10)
    cache = SinkCache(model, sinks=SINKS, window=WINDOW)
    with torch.inference_mode():
        done = model.generate(
            torch.tensor([ids]), past_key_values=cache, max_new_tokens=80, do_sample=False, pad_token_id=0
        )
    by_hand = SinkCache(model, sinks=SINKS, window=WINDOW)
    written, fed = list(ids), ids
    for _ in range(80):
        written.append(int(_streamed(model, by_hand, [fed])[-1].argmax()))
        fed = written[-1:]
    assert done[0].tolist() == written
    assert all(layer.keys.shape[-2] <= SINKS + WINDOW for layer in cache.layers)


def test_far_out_the_angles_are_exact():
    """A stream that has run for a million tokens gives what one that has just begun gives."""
    model, ids = model_of("llama", num_hidden_layers=1), some_tokens(40)
    wanted = whole_logits(model, ids[:SINKS] + ids[-WINDOW:])[-1]
    with ropewalk.exact_positions(model):
        cache = SinkCache(model, sinks=SINKS, window=WINDOW)
        far = 1_000_000
        _streamed(model, cache, [ids[:SINKS], *([token] for token in ids[SINKS:-WINDOW])])
        for layer in cache.layers:
            layer.seen += far
        logits = _streamed(model, cache, [[token] for token in ids[-WINDOW:]])[-1]
        assert cache.seen == far + 40
    assert torch.allclose(logits, wanted, atol=2e-5)
    inexact = SinkCache(model, sinks=SINKS, window=WINDOW)
    _streamed(model, inexact, [ids[:SINKS], *([token] for token in ids[SINKS:-WINDOW])])
    for layer in inexact.layers:
        layer.seen += far
    assert not torch.allclose(
        _streamed(model, inexact, [[token] for token in ids[-WINDOW:]])[-1], wanted, atol=1e-3
    )


def test_beams_keep_their_own_rows():
    model, ids = model_of("llama"), some_tokens(10)
    options = {"max_new_tokens": 30, "num_beams": 3, "do_sample": False, "pad_token_id": 0}
    with torch.inference_mode():
        wide = model.generate(
            torch.tensor([ids]), past_key_values=SinkCache(model, sinks=4, window=28), **options
        )
        full = model.generate(
            torch.tensor([ids]), max_new_tokens=22, num_beams=3, do_sample=False, pad_token_id=0
        )
        evicting = model.generate(
            torch.tensor([ids]), past_key_values=SinkCache(model, sinks=2, window=8), **options
        )
    assert wide.shape[1] == evicting.shape[1] == 40
    again = SinkCache(model, sinks=4, window=28)
    with torch.inference_mode():
        short = model.generate(
            torch.tensor([ids]), past_key_values=again, **(options | {"max_new_tokens": 22})
        )
    assert short.tolist() == full.tolist()


def test_rows_can_be_repeated_selected_and_reset():
    model, ids = model_of("llama"), some_tokens(40)
    cache = SinkCache(model, sinks=SINKS, window=WINDOW)
    _streamed(model, cache, [ids[:8], ids[8:20], ids[20:32]])
    alone = SinkCache(model, sinks=SINKS, window=WINDOW)
    _streamed(model, alone, [ids[:8], ids[8:20], ids[20:32]])
    for layer in cache.layers:
        layer.batch_repeat_interleave(2)
        layer.batch_select_indices(torch.tensor([1]))
    assert torch.equal(_streamed(model, cache, [ids[32:]]), _streamed(model, alone, [ids[32:]]))
    cache.reset()
    assert torch.allclose(_streamed(model, cache, [ids[:8]]), whole_logits(model, ids[:8]), atol=2e-5)


def test_sinks_that_are_gone_from_the_window_change_rows_with_it():
    """Rows swapped after an eviction: each goes on as it would have alone."""
    model, rows = model_of("llama"), [some_tokens(30, seed) for seed in (1, 2)]

    @torch.inference_mode()
    def step(cache, tokens):
        return model(input_ids=torch.tensor(tokens), past_key_values=cache, use_cache=True).logits[:, -1]

    caches = [SinkCache(model, sinks=SINKS, window=WINDOW) for _ in range(3)]
    for token in zip(*rows, strict=True):
        step(caches[0], [[item] for item in token])
        for number in (0, 1):
            step(caches[number + 1], [[token[number]]])
    caches[0].reorder_cache(torch.tensor([1, 0]))
    for _ in range(3):
        found = step(caches[0], [[9], [7]])
        wanted = torch.cat([step(caches[2], [[9]]), step(caches[1], [[7]])])
        assert torch.allclose(found, wanted, atol=2e-5)


def test_what_it_cannot_do_is_said():
    model, ids = model_of("llama"), some_tokens(30)
    cache = SinkCache(model, sinks=SINKS, window=WINDOW)
    with pytest.raises(UsageError, match="20 tokens at once do not pass through a window of 13"):
        _streamed(model, cache, [ids[:20]])
    cache = SinkCache(model, sinks=SINKS, window=WINDOW)
    _streamed(model, cache, [ids[:10], ids[10:20]])
    with pytest.raises(RopewalkError, match="what was evicted is gone"):
        cache.crop(-1)
    for wrong in ({"sinks": -1}, {"window": 0}, {"sinks": 10, "window": 23}):
        with pytest.raises(UsageError, match="do not fit the model's 32 tokens"):
            SinkCache(model, **wrong)
    with pytest.raises(UsageError, match="by the length of the text"):
        SinkCache(model_of("llama", rope_parameters=LONGROPE, max_position_embeddings=128))
    assert SinkCache(model).window == 28
