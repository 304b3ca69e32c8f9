"""Exact dynamic scaling: every step is a fresh reading under its epoch, and its price is counted."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from generation_models import KINDS, LONGROPE, model_of, some_tokens, whole_logits

import ropewalk
from ropewalk.attention.rotation import Cached, Rotation
from ropewalk.generation.cheap import _turn, turned
from ropewalk.generation.ladder import Ladder, Rung, in_force, ladder_for
from ropewalk.generation.request import generate
from ropewalk.generation.session import Session
from ropewalk.models.facts import read_facts

LENGTH = 80


def _fresh(model, rung, ids, start):
    """Logits after tokens start-1.. of a text read from the beginning under one rung, with the same cuts."""
    with Session(model, Ladder("alone", (rung,)), chunk=16) as session:
        return torch.stack([session.read(ids[:start]), *(session.read([token]) for token in ids[start:])])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_step_is_a_fresh_reading_under_its_epoch(kind):
    model, ids = model_of(kind), some_tokens(LENGTH)
    before = whole_logits(model, ids)
    ladder = ladder_for(model, method="ntk")
    with Session(model, ladder, chunk=16) as session:
        steps = torch.stack([session.read(ids[:8]), *(session.read([token]) for token in ids[8:])])
        assert session.switches == [33, 65]
        assert session.rung.factor == 4.0
    for first, last in ((8, 32), (33, 64), (65, LENGTH)):
        rung = ladder.rung_for(last)
        # The same kernels on the same shapes: bit for bit.
        assert torch.equal(steps[first - 8 : last - 7], _fresh(model, rung, ids[:last], first))
        # Other shapes: as close as float32 is.
        with in_force(model, rung):
            whole = whole_logits(model, ids[:last])
        assert torch.allclose(steps[first - 8 : last - 7], whole[first - 1 :], atol=3e-5)
    assert torch.equal(whole_logits(model, ids), before)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_the_stock_dynamic_type_fails_the_same_test(kind):
    rope = {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 1e4}
    model, ids = model_of(kind, rope_parameters=rope), some_tokens(LENGTH)
    wanted = whole_logits(model, ids)[-1]
    cache, steps = None, []
    with torch.inference_mode():
        for piece in ([ids[:8]], *([[token]] for token in ids[8:])):
            output = model(input_ids=torch.tensor(piece), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits[0, -1])
    assert not torch.allclose(steps[-1], wanted, atol=1e-1)
    # The same configuration through a session is exact: rungs of the model's own rule.
    with Session(model, ladder_for(model), chunk=16) as session:
        last = [session.read(ids[:8]), *(session.read([token]) for token in ids[8:])][-1]
        assert (session.rung.factor, session.rung.window, session.switches) == (4.0, 128, [33, 65])
    plain = model_of(kind)
    geometry = read_facts(plain.config.to_dict()).geometry
    with ropewalk.apply(plain, ropewalk.schedule("ntk", geometry, factor=4)):
        assert torch.allclose(last, whole_logits(plain, ids)[-1], atol=3e-5)


def test_longropes_switch_reads_the_text_again():
    model, ids = model_of("llama", rope_parameters=LONGROPE, max_position_embeddings=128), some_tokens(50)
    with Session(model, ladder_for(model)) as session:
        steps = torch.stack([session.read(ids[:20]), *(session.read([token]) for token in ids[20:])])
        assert session.switches == [33]
    assert torch.allclose(steps[:13], whole_logits(model, ids[:32])[19:], atol=2e-5)
    assert torch.allclose(steps[13:], whole_logits(model, ids)[32:], atol=2e-5)
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([ids[:32]]), use_cache=True)
        stock = model(input_ids=torch.tensor([ids[32:33]]), past_key_values=output.past_key_values).logits[
            0, -1
        ]
    assert not torch.allclose(stock, steps[13], atol=1e-2)


@pytest.mark.parametrize(
    ("length", "price"), [(32, 32), (33, 65), (64, 96), (65, 161), (128, 224), (129, 353)]
)
def test_the_price_in_tokens(length, price):
    """At the end of an epoch at most twice a fixed factor's, just after a climb at most three times."""
    model, ids = model_of("llama"), some_tokens(length)
    with Session(model, ladder_for(model, method="linear")) as session:
        session.read(ids[:1])
        for token in ids[1:]:
            session.read([token])
        assert session.forwarded == price
    rule = ropewalk.dynamic("linear", read_facts(model.config.to_dict()).geometry)
    # The step that climbs reads its own token together with the kept ones.
    assert price == length + sum(epoch.first_length - 1 for epoch in rule.epochs(length)[1:])


@pytest.mark.parametrize(("growth", "most"), [(2.0, 3.0), (4.0, 7 / 3), (6.0, 2.2), (8.0, 15 / 7)])
def test_no_length_costs_more_than_its_growth_allows(growth, most):
    """n + L (1 + g + ... + g**(k - 1)) tokens in epoch k: below 1 + g / (g - 1) times n everywhere, and close to it
    just after a late climb; at growth 2 twice n at most where an epoch ends."""
    rule = ropewalk.dynamic("linear", ropewalk.RopeGeometry(16, 1e4, 32), growth=growth)
    epochs = rule.epochs(32 * int(growth) ** 5)
    read, worst = 0, 0.0
    for number, epoch in enumerate(epochs):
        assert read == sum(32 * growth**place for place in range(number))
        worst = max(worst, (read + epoch.first_length) / epoch.first_length)
        if growth == 2.0:
            assert read + epoch.last_length <= 2 * epoch.last_length
        read += epoch.last_length
    assert most - 0.11 < worst <= most


def test_a_prompt_starts_in_its_own_epoch_and_pays_nothing_for_those_before():
    model = model_of("llama")
    done = generate(model, some_tokens(100), max_new_tokens=10, dynamic=True, method="ntk")
    assert (done.factor, done.window, done.switches, done.forwarded) == (4.0, 128, (), 109)
    done = generate(model, some_tokens(30), max_new_tokens=10, dynamic=True, method="ntk")
    assert (done.factor, done.switches, done.forwarded) == (2.0, (33,), 39 + 32)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "latent"])
def test_the_cheap_way_is_exact_in_the_first_layer_and_says_how_far_off_it_is(kind):
    ids = some_tokens(60)
    one = model_of(kind, num_hidden_layers=1)
    two = model_of(kind)
    for model, exact in ((one, True), (two, False)):
        ladder = ladder_for(model, method="yarn")
        with Session(model, ladder, cheap=True) as session:
            cheap = torch.stack([session.read(ids[:20]), *(session.read([token]) for token in ids[20:])])
            assert (session.switches, session.forwarded) == ([33], 60)
            fresh = session.fresh_logprobs(33)
        with in_force(model, ladder.rung_for(64)):
            wanted = whole_logits(model, ids)
        assert torch.allclose(cheap[13:], wanted[32:], atol=3e-5) is exact
        told = torch.tensor([float(wanted[i].log_softmax(-1)[ids[i + 1]]) for i in range(32, 59)])
        assert torch.allclose(fresh, told, atol=1e-4)
    done = generate(two, ids[:20], max_new_tokens=40, dynamic=True, cheap=True, method="yarn")
    with in_force(two, ladder.rung_for(64)):
        logs = whole_logits(two, [*ids[:20], *done.ids[:-1]]).log_softmax(-1)
    apart = [abs(float(logs[i - 1, done.ids[i - 20]]) - done.logprobs[i - 20]) for i in range(33, 59)]
    assert done.drift == pytest.approx((sum(apart) / len(apart), max(apart)), rel=1e-3, abs=1e-5)
    assert generate(one, ids[:20], max_new_tokens=40, dynamic=True, cheap=True).drift[1] < 1e-4


def test_sliding_keys_that_keep_their_frequencies_are_left_alone():
    model, ids = model_of("gemma3"), some_tokens(24)
    ladder = ladder_for(model, method="ntk")
    with Session(model, ladder) as session:
        session.read(ids)
        before = [layer.keys.clone() for layer in session._cache.layers]
        with turned(session.model, session._cache):
            session._enter(Rung(2.0, 64, ladder.rungs[1].make), keep=True)
        after = [layer.keys for layer in session._cache.layers]
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1], atol=1e-2)


def test_keys_of_a_window_are_turned_by_their_true_positions():
    """A layer that holds the last 8 of 20 tokens: what it had been given at positions 12 to 19 comes out."""
    plain = torch.randn(1, 2, 20, 8, generator=torch.Generator().manual_seed(0))
    one, other = (
        Rotation(torch.tensor(spectrum, dtype=torch.float64), factor, 0, False)
        for spectrum, factor in (((1.0, 0.3, 0.1, 0.01), 1.0), ((1.0, 0.2, 0.05, 0.002), 1.5))
    )

    def keys(rotation):
        angles = torch.arange(20, dtype=torch.float64)[:, None] * rotation.inv_freq
        return (rotation.turned_by(plain, angles) * rotation.attention_factor)[:, :, -8:].clone()

    layer = SimpleNamespace(keys=keys(one), get_seq_length=lambda: 20)
    _turn(layer, Cached("keys", one), Cached("keys", other))
    assert torch.allclose(layer.keys, keys(other), atol=1e-5)
