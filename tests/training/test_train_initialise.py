"""Initialisation by length: the closed forms, what they keep constant, and what is refused."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from tinymodels import small_model, some_tokens
from transformers import AutoModelForCausalLM

from ropewalk.attention.temperature import measure_logit_std
from ropewalk.errors import UsageError
from ropewalk.training.model.initialise import (
    _unit_inputs,
    attention_modules,
    gain_for,
    initialise,
    logit_std_for,
)

initialise_module = importlib.import_module("ropewalk.training.model.initialise")


def _new(kind="llama", **fields):
    return small_model(kind, sharp=False, initializer_range=0.15, **fields)


def _spread(model, index=0):
    with _unit_inputs(attention_modules(model), torch.Generator().manual_seed(9)):
        return measure_logit_std(model, some_tokens(1, 256))[index].mean().item()


def _uniform_inputs(sigma, length, seed=0):
    """(sum of squares, entropy) of softmax over `length` normal logits of that spread, in the mean."""
    logits = np.random.default_rng(seed).normal(scale=sigma, size=(200, length))
    attention = np.exp(logits - logits.max(1, keepdims=True))
    attention /= attention.sum(1, keepdims=True)
    return (attention**2).sum(1).mean(), -(attention * np.log(attention)).sum(1).mean()


def test_variance_rule_keeps_the_sum_of_squares():
    plain = [_uniform_inputs(0.5, length)[0] for length in (512, 8192)]
    ruled = [_uniform_inputs(logit_std_for(t, "variance", sigma_0=0.5), t)[0] for t in (512, 8192)]
    assert plain[0] / plain[1] > 12
    assert ruled[0] / ruled[1] < 1.6


def test_entropy_rule_keeps_the_entropy_where_it_can():
    plain = [_uniform_inputs(0.5, length)[1] for length in (512, 2048)]
    ruled = [_uniform_inputs(logit_std_for(t, "entropy", sigma_0=0.5), t)[1] for t in (512, 2048)]
    assert plain[1] - plain[0] == pytest.approx(math.log(4), abs=0.02)
    assert abs(ruled[1] - ruled[0]) < 0.15


def test_rules_agree_at_the_reference_and_stay_below_the_critical_spread():
    for rule in ("critical", "variance", "entropy"):
        assert logit_std_for(512, rule, sigma_0=0.7) == pytest.approx(0.7)
        values = [logit_std_for(2**k, rule, sigma_0=0.7) for k in range(5, 21)]
        assert values == sorted(values)
        assert all(value <= math.sqrt(2 * math.log(2**k)) for k, value in zip(range(5, 21), values))
    with pytest.raises(UsageError, match="starts collapsed"):
        logit_std_for(8192, "critical", sigma_0=4.0)


def test_gain_is_one_over_the_spread_of_an_average():
    rng = np.random.default_rng(0)
    length = 256
    values = rng.normal(size=(length, 2000))
    averages = np.cumsum(values, axis=0) / np.arange(1, length + 1)[:, None]
    assert gain_for(length, 0.0, 0.0) == pytest.approx((averages**2).mean() ** -0.5, rel=0.05)
    assert gain_for(length, 0.0, 1.0) == 1.0
    assert gain_for(length, 0.0, 0.5) == pytest.approx(2**0.5, rel=0.02)
    assert gain_for(10, 0.0, 0.0) == pytest.approx((sum(1 / n for n in range(1, 11)) / 10) ** -0.5)


@pytest.mark.parametrize("length", [1, 2, 20, 21, 22, 40, 300])
@pytest.mark.parametrize(("sigma", "cosine"), [(0.0, 0.0), (0.7, 0.25), (3.0, 0.5), (0.5, -0.2), (0.5, 1.3)])
def test_the_gain_by_the_sum_itself(length, sigma, cosine):
    """The sum over positions, also where the closed form stands for it; beyond 0 and 1 a cosine counts as these."""
    kept = min(1.0, math.exp(sigma * sigma) * sum(1 / n for n in range(1, length + 1)) / length)
    rho = min(1.0, max(0.0, cosine))
    assert gain_for(length, sigma, cosine) == pytest.approx(1 / math.sqrt(rho + kept - rho * kept), rel=1e-4)


def test_the_rules_by_hand():
    """ln 512 = 6.2383, ln 8192 = 9.0109, their difference 2.7726; sqrt(2 ln 8192) = 4.2452."""
    assert logit_std_for(8192, "critical", sigma_0=1.5) == pytest.approx(1.5 * 1.20184, rel=1e-4)
    assert logit_std_for(8192, "variance", sigma_0=1.5) == pytest.approx(math.sqrt(2.25 + 2.7726), rel=1e-4)
    assert logit_std_for(8192, "entropy", sigma_0=1.5) == pytest.approx(math.sqrt(2.25 + 5.5452), rel=1e-4)
    # Shorter than the reference: what is left is never below 0.05, nor below a spread that began smaller.
    assert logit_std_for(64, "entropy", sigma_0=1.5) == pytest.approx(0.05)
    assert logit_std_for(64, "variance", sigma_0=0.02) == pytest.approx(0.02)
    # sqrt(12.25 - ln 8) = 3.19 would be beyond the critical sqrt(2 ln 64).
    assert logit_std_for(64, "variance", sigma_0=3.5) == pytest.approx(2.88405, rel=1e-4)
    assert logit_std_for(4, "critical", sigma_0=3.5) == pytest.approx(
        3.5 * math.sqrt(1.38629 / 6.23832), rel=1e-4
    )
    with pytest.raises(UsageError, match=r"beyond the critical sqrt\(2 ln T0\) = 2.88"):
        logit_std_for(8192, "critical", sigma_0=2.9, reference_length=64)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "phi3", "gpt_neox"])
@pytest.mark.parametrize("rule", ["critical", "entropy"])
def test_the_models_logits_spread_as_the_rule_says(kind, rule):
    model = _new(kind, **({"head_dim": 8} if kind == "qwen3" else {}))
    before = _spread(model)
    done = initialise(model, 16384, qk=rule)
    wanted = logit_std_for(16384, rule, sigma_0=done.layers[0].logit_std_before)
    assert done.layers[0].logit_std_after == pytest.approx(wanted)
    assert done.layers[0].logit_std_before == pytest.approx(before, rel=0.15)
    assert _spread(model) / before == pytest.approx(wanted / done.layers[0].logit_std_before, rel=0.02)


def test_the_spread_is_hidden_times_both_weights():
    model = _new()
    module = attention_modules(model)[0]
    formula = 32 * module.q_proj.weight.std() * module.k_proj.weight.std()
    assert initialise(model, 512).layers[0].logit_std_before == pytest.approx(formula.item(), rel=0.12)


def test_the_reference_length_changes_nothing():
    model = _new()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = initialise(model, 512, qk="variance")
    assert all(change.gain == 1.0 for change in done.layers)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, kept[name], rtol=1e-6, atol=1e-9)


def _pairwise(values):
    """The mean cosine between every two different rows, by a walk over them."""
    unit = (values / values.norm(dim=-1, keepdim=True)).double()
    count = len(unit)
    return sum(float(unit[i] @ unit[j]) for i in range(count) for j in range(count) if i != j) / (
        count * (count - 1)
    )


def test_value_vectors_are_compared_with_each_other_and_make_the_gain():
    model, tokens = _new(), some_tokens(2, 20)
    values = {}
    for index, module in attention_modules(model).items():
        module.v_proj.register_forward_hook(
            lambda _module, _args, output, index=index: values.update({index: values.get(index, output[0])})
        )
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    model.train()
    done = initialise(model, 4096, qk="entropy", reference_length=64, input_ids=tokens)
    assert model.training
    assert (done.length, done.reference_length, done.qk) == (4096, 64, "entropy")
    assert [change.layer for change in done.layers] == [0, 1]

    def spread_of_an_output(length, sigma, cosine):
        kept = min(1.0, math.exp(sigma**2) * sum(1 / n for n in range(1, length + 1)) / length)
        rho = min(1.0, max(0.0, cosine))
        return (rho + (1 - rho) * kept) ** 0.5

    for change in done.layers:
        cosine = _pairwise(values[change.layer])
        assert change.value_cosine == pytest.approx(cosine, abs=1e-6)
        short = spread_of_an_output(64, change.logit_std_before, cosine)
        long = spread_of_an_output(4096, change.logit_std_after, cosine)
        assert change.gain == pytest.approx(short / long, rel=1e-4)


@pytest.mark.parametrize(("ratio", "gain"), [(100.0, 8.0), (0.01, 1 / 8), (3.0, 3.0)])
def test_a_gain_is_at_most_eight_either_way(monkeypatch, ratio, gain):
    from ropewalk.training.model import initialise as module

    monkeypatch.setattr(module, "gain_for", lambda length, sigma, cosine: ratio if length == 8192 else 1.0)
    model = _new()
    before = attention_modules(model)[0].o_proj.weight.clone()
    assert initialise(model, 8192).layers[0].gain == gain
    torch.testing.assert_close(attention_modules(model)[0].o_proj.weight, before * gain)


def test_a_seed_draws_the_same_tokens_and_another_others():
    def cosines(**more):
        return [change.value_cosine for change in initialise(_new(), 4096, **more).layers]

    assert cosines() == cosines(seed=0) != cosines(seed=1)


def test_the_output_gain_can_be_left_out():
    first, second = _new(), _new()
    initialise(first, 8192, output_gain=False)
    done = initialise(second, 8192)
    ratio = attention_modules(second)[0].o_proj.weight / attention_modules(first)[0].o_proj.weight
    torch.testing.assert_close(ratio, torch.full_like(ratio, done.layers[0].gain), rtol=1e-5, atol=1e-5)
    assert done.layers[0].gain > 1.1


def test_a_checkpoint_is_refused(tmp_path):
    _new().save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    with pytest.raises(UsageError, match="loaded from"):
        initialise(loaded, 8192)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())


def test_a_trained_model_a_second_time_and_bad_values_are_refused():
    model = _new()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(input_ids=some_tokens(), labels=some_tokens(), use_cache=False).loss.backward()
    optimiser.step()
    with pytest.raises(UsageError, match="has been trained"):
        initialise(model, 8192)
    fresh = _new()
    initialise(fresh, 8192)
    with pytest.raises(UsageError, match="already initialised for 8192"):
        initialise(fresh, 16384)
    with pytest.raises(UsageError, match="no rule"):
        initialise(_new(), 8192, qk="random")
    with pytest.raises(UsageError, match="length=1"):
        initialise(_new(), 1)


@pytest.mark.parametrize(("reference", "tokens"), [(64, 64), (512, 512), (700, 512)])
@pytest.mark.parametrize("seed", [0, 5])
def test_without_a_text_so_many_random_tokens_are_measured(reference, tokens, seed):
    """As many as the reference length, 512 at the most, drawn from the seed over the whole vocabulary."""
    drawn = torch.randint(0, 64, (1, tokens), generator=torch.Generator().manual_seed(seed))
    given = initialise(_new(), 4096, reference_length=reference, input_ids=drawn, seed=seed)
    own = initialise(_new(), 4096, reference_length=reference, seed=seed)
    assert [one.value_cosine for one in own.layers] == [one.value_cosine for one in given.layers]
    read = []
    model = _new()
    model.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: read.append(kwargs["input_ids"]), with_kwargs=True
    )
    initialise(model, 4096, reference_length=reference, seed=seed)
    assert all(torch.equal(one, drawn) for one in read)


@pytest.mark.parametrize("gained", [True, False])
def test_queries_and_outputs_are_scaled_and_nothing_else(gained):
    plain, model = _new(), _new()
    done = initialise(model, 4096, qk="variance", output_gain=gained)
    before = plain.state_dict()
    for name, tensor in model.state_dict().items():
        layer = int(name.split(".")[2]) if ".layers." in name else -1
        times = 1.0
        if "q_proj" in name:
            times = done.layers[layer].logit_std_after / done.layers[layer].logit_std_before
        elif "o_proj" in name and gained:
            times = done.layers[layer].gain
        torch.testing.assert_close(tensor, before[name] * times, rtol=1e-5, atol=1e-8)
    assert [one.gain == 1.0 for one in done.layers] == [not gained] * 2
    sigma = done.layers[0].logit_std_before
    assert done.layers[0].logit_std_after == pytest.approx(math.sqrt(sigma**2 + math.log(8)))


def test_the_defaults_are_those_of_the_papers_rule():
    one, other = _new(), _new()
    assert initialise(one, 2048) == initialise(
        other, 2048, qk="critical", reference_length=512, output_gain=True, seed=0
    )
    assert logit_std_for(2048, "critical", sigma_0=0.3) == logit_std_for(
        2048, "critical", sigma_0=0.3, reference_length=512
    )


def test_lengths_begin_at_two_tokens():
    # sqrt(2 ln 2) = 1.177: a spread of one is below it.
    assert logit_std_for(2, "critical", sigma_0=1.0, reference_length=2) == 1.0
    assert initialise(_new(), 2, reference_length=2, input_ids=some_tokens(1, 32)).length == 2
    for length, reference in ((1, 512), (512, 1)):
        with pytest.raises(UsageError, match=f"length={length}, reference_length={reference}"):
            initialise(_new(), length, reference_length=reference)
    critical = math.sqrt(2 * math.log(512))
    with pytest.raises(UsageError, match="starts collapsed"):
        logit_std_for(1024, "critical", sigma_0=critical)
    assert logit_std_for(1024, "entropy", sigma_0=critical * 0.999) <= math.sqrt(2 * math.log(1024))
    # A spread of exactly the least, and of less, stays where it falls below it.
    assert logit_std_for(64, "entropy", sigma_0=0.05) == pytest.approx(0.05)
    assert logit_std_for(64, "entropy", sigma_0=0.04) == pytest.approx(0.04)


@pytest.mark.parametrize("size", [2, 3])
def test_a_norm_that_differs_in_any_element_was_trained(size):
    model = _new()
    model.model.norm.weight = torch.nn.Parameter(torch.ones(size))
    initialise_module._refuse_trained(model)
    with torch.no_grad():
        model.model.norm.weight[-1] = 1.5
    with pytest.raises(UsageError, match=r"model\.norm has a gain that differs"):
        initialise_module._refuse_trained(model)
    # All alike is how some architectures begin; what is no norm may hold what it likes.
    with torch.no_grad():
        model.model.norm.weight.fill_(0.5)
    initialise_module._refuse_trained(model)
    named = _new()
    named.config._name_or_path = "some/where"
    with pytest.raises(UsageError, match="loaded from some/where"):
        initialise_module._refuse_trained(named)


def test_attention_without_an_output_projection_is_refused():
    with pytest.raises(UsageError, match="Linear has no output projection"):
        initialise_module._scale_output(torch.nn.Linear(2, 2), 2.0)
    for name in ("o_proj", "dense", "out_proj", "wo"):
        module = torch.nn.Module()
        setattr(module, name, torch.nn.Linear(3, 3))
        before = getattr(module, name).weight.clone()
        initialise_module._scale_output(module, 2.5)
        torch.testing.assert_close(getattr(module, name).weight, before * 2.5)


def test_values_that_are_fused_are_measured_on_their_inputs():
    model, tokens = _new("gpt_neox"), some_tokens(1, 20)
    inputs = {}

    def keep(module, args, kwargs):
        inputs.setdefault(module.layer_idx, (args or (kwargs["hidden_states"],))[0][0])

    for module in attention_modules(model).values():
        module.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(input_ids=tokens, use_cache=False)
    kept = dict(inputs)
    done = initialise(model, 4096, input_ids=tokens)
    for change in done.layers:
        assert change.value_cosine == pytest.approx(_pairwise(kept[change.layer]), abs=1e-6)


def test_without_a_text_at_least_sixteen_tokens_are_measured():
    """Two tokens are a length that is offered, and too few for a spread: more are drawn."""
    drawn = torch.randint(0, 64, (1, 16), generator=torch.Generator().manual_seed(0))
    own = initialise(_new(), 4096, reference_length=2)
    given = initialise(_new(), 4096, reference_length=2, input_ids=drawn)
    assert [one.value_cosine for one in own.layers] == [one.value_cosine for one in given.layers]
