"""Position maps against attention matrices written out by the definition of each, and inside real models."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ropewalk
from ropewalk.attention import kernels
from ropewalk.attention.angles import additive
from ropewalk.attention.caches import copied, new_cache
from ropewalk.attention.interface import Call
from ropewalk.attention.maps import applied, route_for
from ropewalk.attention.rotation import Rotation
from ropewalk.errors import UsageError
from ropewalk.models.facts import read_facts
from ropewalk.position_maps import MAPS, DualChunk, Grouped, ReRoPE, Zones, map_for

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from generation_models import KINDS, model_of, some_tokens, whole_logits

THETA = np.array([1.0, 0.3, 0.05, 0.01])
SLOW = np.array([1.0, 0.2, 0.01, 0.001])
WINDOW, NEAR = 24, 10

# name -> (map, far angle of a pair at query p and key j)
CASES = {
    "zones": (
        Zones(NEAR, WINDOW, "log", 0.9, far_inv_freq=SLOW),
        lambda p, j: NEAR * THETA + (p - j - NEAR) * SLOW,
    ),
    "self-extend": (
        Grouped(NEAR, WINDOW, -0.7, groups=(4,)),
        lambda p, j: (p // 4 - j // 4 + NEAR - NEAR // 4) * THETA,
    ),
    "dpe": (
        Grouped(NEAR, WINDOW, groups=(1, 3)),
        lambda p, j: np.array([p // g - j // g + NEAR - NEAR // g for g in (1, 1, 3, 3)]) * THETA,
    ),
    "rerope": (ReRoPE(NEAR, WINDOW), lambda p, j: NEAR * THETA),
    "leaky-rerope": (ReRoPE(NEAR, WINDOW, slowdown=5.0), lambda p, j: (NEAR + (p - j - NEAR) / 5) * THETA),
}


def _rotated(states_HTD, angles_TP):
    one, two = states_HTD[..., :4], states_HTD[..., 4:8]
    cos, sin = np.cos(angles_TP), np.sin(angles_TP)
    return np.concatenate([one * cos - two * sin, two * cos + one * sin, states_HTD[..., 8:]], axis=-1)


def _plain(query_HTD, key_HTD, value_HTD, angle, logit_offset, far_scale, near, exact=0, sharp=0.0):
    """The attention matrix entry by entry: the query turned by the angle that the map gives this pair of places."""
    heads, length, width = query_HTD.shape
    out = np.zeros_like(value_HTD)
    for p in range(length):
        logits = np.zeros((heads, p + 1))
        for j in range(p + 1):
            far = p - j >= near and p >= exact
            turn = angle(p, j) if far else (p - j) * THETA
            turned = _rotated(query_HTD[:, p : p + 1], turn[None])[:, 0]
            logits[:, j] = (turned * key_HTD[:, j]).sum(-1) / math.sqrt(width)
            logits[:, j] *= max((p + 1) / WINDOW, 1) ** sharp
            if far:
                logits[:, j] = logits[:, j] * far_scale + logit_offset(p)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        out[:, p] = np.einsum("hj,hjd->hd", weights / weights.sum(-1, keepdims=True), value_HTD[:, : p + 1])
    return out


def _states(length, seed=0):
    """Unrotated queries of 4 heads and keys and values of 2, ten wide, of which eight entries rotate."""
    draw = np.random.default_rng(seed)
    return (
        draw.normal(size=(4, length, 10)) * 2,
        draw.normal(size=(2, length, 10)),
        draw.normal(size=(2, length, 10)),
    )


def _call(query, key, value, first=0, mask=None):
    angles = np.arange(key.shape[1])[:, None] * THETA
    rows = [_rotated(query, angles)[:, first:], _rotated(key, angles), value]
    tensors = [torch.tensor(row, dtype=torch.float32)[None] for row in rows]
    return Call(SimpleNamespace(training=False), *tensors, mask, {"scaling": 1 / math.sqrt(10)})


ROTATION = Rotation(torch.tensor(THETA), 1.0, 0, False)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("first", [0, 7, 33, 45])
def test_two_zones_are_the_matrix_by_definition(name, first):
    plan, angle = CASES[name]
    assert plan.name == name
    query, key, value = _states(46)
    offset = (
        (lambda p: -math.log(max((p + 1) / WINDOW, 1))) if name == "zones" else lambda p: float(plan.discount)
    )
    repeated = np.repeat(key, 2, axis=0), np.repeat(value, 2, axis=0)
    # A query inside the window has no far zone under zones, whatever stands behind its near one.
    exact = WINDOW if name == "zones" else 0
    wanted = _plain(query, *repeated, angle, offset, plan.far_logits, NEAR, exact)
    found = route_for(plan, ROTATION)(_call(query, key, value, first))[0].transpose(0, 1).numpy()
    assert np.allclose(found, wanted[:, first:], atol=2e-5)
    # Sharpness is for both zones, of every map.
    sharp = route_for(replace(plan, sharpness=0.3), ROTATION)(_call(query, key, value, first))[0]
    wanted = _plain(query, *repeated, angle, offset, plan.far_logits, NEAR, exact, 0.3)
    assert np.allclose(sharp.transpose(0, 1).numpy(), wanted[:, first:], atol=2e-5)


@pytest.mark.parametrize("first", [0, 7, 45])
@pytest.mark.parametrize("padded", [False, True])
def test_a_head_has_its_own_discount_temperature_and_sharpness(first, padded):
    plan, angle = CASES["zones"]
    discounts, scales, sharp = (
        np.array([[9.0] * 4, [0.0, 1.0, 2.5, -0.5]]),
        np.array([[9.0] * 4, [1.0, 0.7, 1.3, 1.1]]),
        np.array([[9.0] * 4, [0.0, 0.4, -0.2, 0.1]]),
    )
    plan = replace(
        plan,
        head_log_discount=discounts,
        head_far_logits=scales,
        head_sharpness=sharp,
        log_discount=5.0,
        far_logits=5.0,
        sharpness=5.0,
    )
    query, key, value = _states(46)
    repeated = np.repeat(key, 2, axis=0), np.repeat(value, 2, axis=0)
    wanted = np.concatenate(
        [
            _plain(
                query[[head]],
                *(item[[head]] for item in repeated),
                angle,
                lambda p, head=head: -discounts[1, head] * math.log(max((p + 1) / WINDOW, 1)),
                scales[1, head],
                NEAR,
                WINDOW,
                sharp[1, head],
            )
            for head in range(4)
        ]
    )
    mask = torch.ones(46 - first, 46, dtype=torch.bool).tril(first)[None, None] if padded else None
    call = replace(_call(query, key, value, first, mask), module=SimpleNamespace(training=False, layer_idx=1))
    found = route_for(plan, ROTATION)(call)[0].transpose(0, 1).numpy()
    assert np.allclose(found, wanted[:, first:], atol=2e-5)
    few = replace(plan, head_log_discount=discounts[:1], head_far_logits=scales[:1])
    with pytest.raises(UsageError, match="1 layers of 4 heads on layer 1 of 4 heads"):
        route_for(few, ROTATION)(call)


@pytest.mark.parametrize("first", [0, 5, 30, 45])
def test_dual_chunk_is_the_matrix_by_definition(first):
    size, limit = 9, 12
    query, key, value = _states(46)

    def angle(p, j):
        apart = p // size - j // size
        place = [p % size, min(p % size + size, limit - 1), limit - 1][min(apart, 2)]
        return (place - j % size) * THETA

    repeated = np.repeat(key, 2, axis=0), np.repeat(value, 2, axis=0)
    wanted = _plain(query, *repeated, angle, lambda p: 0.0, 1.0, 0)
    found = route_for(DualChunk(size, limit), ROTATION)(_call(query, key, value, first))[0]
    assert np.allclose(found.transpose(0, 1).numpy(), wanted[:, first:], atol=2e-5)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_mask_hides_keys_in_both_zones(name):
    plan, _ = CASES[name]
    query, key, value = _states(40)
    route = route_for(plan, ROTATION)
    plain = route(_call(query, key, value, 4))
    causal = torch.ones(40, 40, dtype=torch.bool).tril()[None, None]
    assert torch.allclose(route(_call(query, key, value, 4, causal[:, :, 4:])), plain, atol=2e-5)
    additive = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)
    assert torch.allclose(route(_call(query, key, value, 4, additive[:, :, 4:])), plain, atol=2e-5)
    hidden = causal.clone()
    hidden[..., :6] = False
    other_key, other_value = key.copy(), value.copy()
    other_key[:, :6], other_value[:, :6] = 3.0, 9.0
    one = route(_call(query, key, value, 10, hidden[:, :, 10:]))
    assert torch.allclose(one, route(_call(query, other_key, other_value, 10, hidden[:, :, 10:])), atol=2e-5)
    assert not torch.allclose(one, plain[:, 6:], atol=1e-2)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_go_through_output_and_log_sum_exp(causal):
    """Against the same attention written out, on which autograd itself differentiates."""
    generator = torch.Generator().manual_seed(4)

    def draw(heads):
        return torch.randn(2, heads, 9, 6, generator=generator, requires_grad=True)

    query, key, value = draw(4), draw(2), draw(2)
    found = []
    for own in (True, False):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in (query, key, value)]
        if own:
            out, lse = kernels.attend(*leaves, 0.4, causal=causal)
        else:
            wide = [leaf.repeat_interleave(2, dim=1) for leaf in leaves[1:]]
            logits = 0.4 * leaves[0] @ wide[0].transpose(2, 3)
            if causal:
                logits = logits.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
            out, lse = logits.softmax(-1) @ wide[1], logits.logsumexp(-1)
        weights = (
            torch.arange(out.numel()).view(out.shape).sin(),
            torch.arange(lse.numel()).view(lse.shape).cos(),
        )
        ((out * weights[0]).sum() + (lse * weights[1]).sum()).backward()
        found.append([out.detach(), lse.detach(), *(leaf.grad for leaf in leaves)])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_blocks_of_plain_formulas_are_the_kernel(monkeypatch):
    monkeypatch.setattr(kernels, "_BLOCK", 30)
    generator = torch.Generator().manual_seed(4)
    query, key, value = (torch.randn(1, heads, 10, 6, generator=generator) for heads in (4, 2, 2))
    for causal, mask in (
        (True, None),
        (False, None),
        (False, torch.randn(1, 1, 10, 10, generator=generator)),
    ):
        wanted = kernels.attend(query, key, value, 0.4, causal=causal, mask_TK=mask)
        leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        found = kernels._in_blocks(*leaves, 0.4, causal, mask)
        assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, wanted, strict=True))
        found[0].sum().backward()
        again = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        kernels.attend(*again, 0.4, causal=causal, mask_TK=mask)[0].sum().backward()
        for one, other in zip(leaves, again, strict=True):
            assert torch.allclose(one.grad, other.grad, atol=1e-5)


def test_gradients_reach_queries_keys_and_values():
    plan, _ = CASES["zones"]
    call = _call(*_states(30))
    leaves = [tensor.clone().requires_grad_() for tensor in (call.query_BHTD, call.key_BHKD, call.value_BHKD)]
    route = route_for(plan, ROTATION)
    out = route(Call(call.module, *leaves, None, call.options))
    with torch.no_grad():
        assert torch.allclose(out, route(call), atol=2e-5)
    out.square().sum().backward()
    for number, leaf in enumerate(leaves):
        direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(number))
        ends = []
        for step in (1e-2, -1e-2):
            moved = [item.detach() + (step * direction if item is leaf else 0) for item in leaves]
            with torch.no_grad():
                ends.append(
                    float(route(Call(call.module, *moved, None, call.options)).double().square().sum())
                )
        assert float((leaf.grad * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-2)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"mistral"}))
@pytest.mark.parametrize("name", sorted(MAPS))
def test_in_a_model_chunks_and_steps_are_one_forward(kind, name):
    model, ids = model_of(kind), some_tokens(70)
    before = whole_logits(model, ids)
    plan = map_for(name, read_facts(model.config.to_dict()).geometry, 128)
    near = getattr(plan, "exact_until", None) or plan.chunk
    assert near == {"zones": 32, "dual-chunk": 24}.get(name, 16)
    with applied(model, plan):
        whole = whole_logits(model, ids)
        inside = whole_logits(model, ids[:near])
        cache, steps = None, []
        with torch.inference_mode():
            for piece in ([ids[:25]], [ids[25:60]], *([[token]] for token in ids[60:])):
                output = model(input_ids=torch.tensor(piece), past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                steps.append(output.logits[0])
    assert torch.allclose(torch.cat(steps), whole, atol=1e-4)
    # Cut to the near zone nothing differs, and the first tokens of a longer text see nothing far either.
    assert torch.equal(inside, whole_logits(model, ids[:near]))
    assert torch.allclose(whole[:near], before[:near], atol=1e-4)
    assert not torch.allclose(whole[-1], before[-1], atol=1e-2)
    assert torch.equal(whole_logits(model, ids), before)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model = model_of("llama")
    plan = map_for("zones", read_facts(model.config.to_dict()).geometry, 128)
    rows = [some_tokens(50, 2), some_tokens(64, 3)]
    padded, mask = torch.zeros(2, 64, dtype=torch.long), torch.zeros(2, 64, dtype=torch.long)
    place = slice(14, 64) if side == "left" else slice(0, 50)
    padded[0, place], mask[0, place] = torch.tensor(rows[0]), 1
    padded[1], mask[1] = torch.tensor(rows[1]), 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with applied(model, plan), torch.inference_mode():
        alone = [whole_logits(model, row) for row in rows]
        logits = model(input_ids=padded, attention_mask=mask, position_ids=positions).logits
    assert torch.allclose(logits[0, place], alone[0], atol=1e-4)
    assert torch.allclose(logits[1], alone[1], atol=1e-4)


def test_a_schedule_in_force_is_the_near_zone():
    model, ids = model_of("llama"), some_tokens(60)
    geometry = read_facts(model.config.to_dict()).geometry
    schedule = ropewalk.schedule("ntk", geometry, factor=2)
    far = Zones(16, 32, 0.0, far_inv_freq=schedule.inv_freq)
    with ropewalk.apply(model, schedule):
        wanted = whole_logits(model, ids)
        with applied(model, far):
            # Both zones under one schedule are that schedule.
            assert torch.allclose(whole_logits(model, ids), wanted, atol=1e-4)


def test_what_a_map_cannot_serve_is_refused():
    geometry = ropewalk.RopeGeometry(head_dim=8, rope_theta=1e4, original_length=32)
    for wrong in (
        {"near": 0},
        {"near": 33},
        {"discount": math.nan},
        {"discount": 1e308},
        {"log_discount": -1001.0},
        {"far_logits": 1e308},
        {"sharpness": -1e6},
        {"far_logits": 0.0},
        {"sharpness": math.inf},
        {"widht": 3},
    ):
        with pytest.raises(UsageError):
            map_for("zones", geometry, 128, **wrong)
    with pytest.raises(UsageError, match="did you mean self-extend"):
        map_for("selfextend", geometry, 128)
    with pytest.raises(UsageError, match="chunk=32"):
        map_for("dual-chunk", geometry, 128, chunk=32)
    call = _call(*_states(30))
    with pytest.raises(UsageError, match="softcap"):
        route_for(CASES["zones"][0], ROTATION)(
            Call(call.module, call.query_BHTD, call.key_BHKD, call.value_BHKD, None, {"softcap": 5.0})
        )
    sliding = model_of("mistral")
    with pytest.raises(UsageError, match="nothing to map"), applied(sliding, CASES["zones"][0]):
        pass


def test_defaults_keep_far_distances_inside_the_window():
    geometry = ropewalk.RopeGeometry(head_dim=64, rope_theta=1e4, original_length=512)
    assert map_for("self-extend", geometry, 4096).groups == (15,)
    leaky = map_for("leaky-rerope", geometry, 4096)
    assert 256 + (4096 - 256) / leaky.slowdown == pytest.approx(512)
    zones = map_for("zones", geometry, 4096)
    assert (zones.near, zones.discount, zones.log_discount, zones.far_factor) == (256, 0.0, 1.0, 15.0)
    fitted = map_for("zones", geometry, 4096, discount=-0.5, log_discount=0.7)
    assert np.allclose(
        fitted.offset(np.array([100.0, 511.0, 1023.0])), [-0.5, -0.5, -0.5 - 0.7 * math.log(2)]
    )
    assert map_for("zones", geometry, 4096, discount=-0.5).log_discount == 0
    assert np.allclose(zones.far_inv_freq, geometry.inv_freq / 15)
    dpe = map_for("dpe", geometry, 4096)
    assert len(dpe.groups) == 8
    assert dpe.groups[0] == 1
    assert dpe.groups[-1] == 15
    assert list(dpe.groups) == sorted(dpe.groups)


@pytest.mark.parametrize("name", ["zones", "dual-chunk"])
@pytest.mark.parametrize("kind", ["llama", "latent", "gemma3"])
def test_keys_kept_beside_a_cache_follow_crops_forks_and_beams(kind, name):
    model, ids = model_of(kind), some_tokens(90)
    other = some_tokens(90, 9)
    plan = map_for(name, read_facts(model.config.to_dict()).geometry, 128)

    @torch.inference_mode()
    def step(cache, tokens):
        return model(input_ids=torch.tensor(tokens), past_key_values=cache, use_cache=True).logits[:, -1]

    def fresh(*rows):
        return torch.stack([whole_logits(model, list(row))[-1] for row in rows])

    with applied(model, plan):
        cache = new_cache(model, 70, forkable=True)
        step(cache, [ids[:60]])
        assert torch.allclose(step(cache, [ids[60:]]), fresh(ids), atol=1e-4)
        fork = copied(cache)
        # Cut back into the near zone and go on with other words: nothing old may come back.
        cache.crop(-80)
        for begin, end in ((10, 13), (13, 60), (60, 61)):
            found = step(cache, [other[begin:end]])
        assert torch.allclose(found, fresh(ids[:10] + other[10:61]), atol=1e-4)
        fork.crop(-30)
        assert torch.allclose(step(fork, [other[60:70]]), fresh(ids[:60] + other[60:70]), atol=1e-4)
        for layer in fork.layers:
            layer.batch_repeat_interleave(2)
        step(fork, [[7], [8]])
        fork.reorder_cache(torch.tensor([1, 0]))
        rows = [ids[:60] + other[60:70] + [end, 9] for end in (8, 7)]
        assert torch.allclose(step(fork, [[9], [9]]), fresh(*rows), atol=1e-4)
    # Another map on the same cache starts from the keys themselves.
    with applied(model, map_for("rerope", read_facts(model.config.to_dict()).geometry, 128)):
        found = step(cache, [other[61:63]])
    with applied(model, plan):
        assert not torch.allclose(found, step(cache, [other[61:63]]), atol=1e-3)


def test_keys_are_turned_once():
    model, ids = model_of("llama"), some_tokens(60)
    turned = []
    own = Rotation.turned
    plan = map_for("zones", read_facts(model.config.to_dict()).geometry, 128)
    with applied(model, plan), torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Rotation, "turned", lambda self, x, *angles: turned.append(x.shape[2]) or own(self, x, *angles)
        )
        cache = new_cache(model, 64, forkable=True)
        model(input_ids=torch.tensor([ids[:50]]), past_key_values=cache)
        turned.clear()
        model(input_ids=torch.tensor([ids[50:51]]), past_key_values=cache)
    # A query and a key for each of the two layers.
    assert turned == [1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_part_without_keys_adds_nothing_in_any_type(dtype):
    query, key, value = (
        torch.randn(1, 2, 4, 16, generator=torch.Generator().manual_seed(n)) for n in range(3)
    )
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    seen = torch.ones(4, 4, dtype=torch.bool).tril()
    near = kernels.attend(query, key, value, 0.25, mask_TK=additive(seen, dtype))
    far = kernels.attend(query, key, value, 0.25, mask_TK=additive(torch.zeros_like(seen), dtype))
    assert torch.equal(kernels.merge(near, far)[0], near[0])
    plain = (query.double() @ key.double().mT * 0.25).masked_fill(~seen, -math.inf).softmax(
        -1
    ) @ value.double()
    torch.testing.assert_close(near[0].double(), plain, rtol=0, atol=2e-2 if dtype != torch.float32 else 1e-5)
