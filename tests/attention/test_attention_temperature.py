"""Temperatures on real architectures: what they compute, that they come off, that folding computes the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoConfig, AutoModelForCausalLM

from ropewalk import temperature as closed
from ropewalk.attention.interface import attention_modules
from ropewalk.attention.temperature import (
    TemperatureOptions,
    apply_temperature,
    chosen_layers,
    measure_logit_std,
)
from ropewalk.errors import UsageError
from tiny_configs import LATENT

COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
EXTRA = {
    "phi3": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "deepseek_v3": LATENT,
    "gemma3_text": {
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 16,
    },
    "qwen3": {"head_dim": 8},
    "starcoder2": {"sliding_window": 16},
    "mistral": {"sliding_window": None},
}


def _model(kind: str, attn: str = "sdpa"):
    fields = COMMON | EXTRA.get(kind, {})
    if kind == "gpt_neox":
        del fields["num_key_value_heads"]
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **fields), attn_implementation=attn
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def _tokens(length: int = 48, rows: int = 2):
    return torch.randint(3, 64, (rows, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def _logits(model, tokens, **inputs):
    return model(input_ids=tokens, use_cache=False, **inputs).logits


KINDS = ("llama", "qwen2", "mistral", "phi3", "gpt_neox", "olmo2", "deepseek_v3")


@pytest.mark.parametrize("kind", KINDS)
def test_per_head_changes_the_model_and_folds_into_its_weights(kind):
    model, tokens = _model(kind), _tokens()
    plain = _logits(model, tokens)
    measured = measure_logit_std(model, tokens)
    applied = apply_temperature(model, TemperatureOptions(rule="per-head", factor=8.0), logit_std=measured)
    warm = _logits(model, tokens)
    assert (warm - plain).abs().max() > 1e-3
    applied.fold()
    torch.testing.assert_close(_logits(model, tokens), warm, rtol=1e-4, atol=1e-4)
    assert model.config._attn_implementation == "sdpa"


def test_a_state_dict_folds_without_touching_the_model():
    model, tokens = _model("llama"), _tokens()
    measured = measure_logit_std(model, tokens)
    applied = apply_temperature(model, TemperatureOptions(rule="per-head", factor=8.0), logit_std=measured)
    warm = _logits(model, tokens)
    state = applied.folded(model.state_dict())
    assert torch.equal(_logits(model, tokens), warm)
    fresh = _model("llama")
    fresh.load_state_dict(state, strict=True)
    torch.testing.assert_close(_logits(fresh, tokens), warm, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text"])
def test_constant_folds_into_a_shared_query_norm_and_per_head_is_refused(kind):
    model, tokens = _model(kind), _tokens()
    applied = apply_temperature(model, TemperatureOptions(rule="constant", factor=8.0))
    warm = _logits(model, tokens)
    applied.fold()
    torch.testing.assert_close(_logits(model, tokens), warm, rtol=1e-4, atol=1e-4)
    measured = measure_logit_std(model, tokens)
    other = apply_temperature(model, TemperatureOptions(rule="per-head", factor=8.0), logit_std=measured)
    with pytest.raises(UsageError, match="share one query norm"):
        other.fold()


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_removal_gives_the_model_back_bit_for_bit(attn):
    model, tokens = _model("llama", attn), _tokens()
    plain = _logits(model, tokens)
    with apply_temperature(model, TemperatureOptions(rule="constant", value=1.3)):
        assert (_logits(model, tokens) - plain).abs().max() > 1e-3
    assert torch.equal(_logits(model, tokens), plain)
    assert model.config._attn_implementation == attn


def test_constant_equals_scaled_cos_and_sin():
    model, tokens = _model("llama"), _tokens()
    applied = apply_temperature(model, TemperatureOptions(rule="constant", factor=8.0))
    warm = _logits(model, tokens)
    applied.remove()
    model.model.rotary_emb.attention_scaling = closed.constant(8.0)
    torch.testing.assert_close(_logits(model, tokens), warm, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (TemperatureOptions(rule="log-n", original_length=16), lambda p: closed.log_n(p, 16)),
        (TemperatureOptions(rule="step-log", period=8), lambda p: closed.step_log(p, period=8)),
    ],
)
def test_position_rules_are_the_closed_forms(options, rule):
    model, tokens = _model("llama"), _tokens(rows=1)
    seen = {}

    def watch(module, query, key, kwargs):
        seen[module.layer_idx, len(seen)] = query
        return query, kwargs

    from ropewalk.attention.interface import add_query_hook, install_attention

    install_attention(model)
    first = attention_modules(model)[0]
    add_query_hook(first, watch)
    applied = apply_temperature(model, options)
    add_query_hook(first, watch)
    _logits(model, tokens)
    before, after = seen.values()
    growth = torch.from_numpy(rule(np.arange(tokens.shape[1]))).float()
    torch.testing.assert_close(after, before * growth[None, None, :, None])
    with pytest.raises(UsageError, match="depends on the position"):
        applied.multipliers()


def test_log_n_with_a_cache_equals_the_whole_forward():
    model, tokens = _model("llama"), _tokens(rows=1)
    with apply_temperature(model, TemperatureOptions(rule="log-n", original_length=16)), torch.no_grad():
        whole = model(input_ids=tokens, use_cache=False).logits
        cache, pieces = None, []
        for piece in tokens.split([30, 1, 1, 16], dim=1):
            output = model(input_ids=piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-4)


def test_divisor_replaces_the_scaling_and_folds():
    model, tokens = _model("llama"), _tokens()
    plain = _logits(model, tokens)
    with apply_temperature(model, TemperatureOptions(divisor_power=0.5)):
        torch.testing.assert_close(_logits(model, tokens), plain)
    applied = apply_temperature(model, TemperatureOptions(divisor_power=1.0))
    assert applied.multipliers()[0].tolist() == pytest.approx([8**-0.5] * 4)
    warm = _logits(model, tokens)
    applied.fold()
    torch.testing.assert_close(_logits(model, tokens), warm, rtol=1e-4, atol=1e-5)


def test_learned_temperature_starts_at_entropy_matched_and_learns():
    model, tokens = _model("llama"), _tokens()
    measured = measure_logit_std(model, tokens)
    fixed = apply_temperature(model, TemperatureOptions(rule="per-head", factor=4.0), logit_std=measured)
    wanted = _logits(model, tokens)
    fixed.remove()
    applied = apply_temperature(
        model, TemperatureOptions(rule="per-head", factor=4.0, learned=True), logit_std=measured
    )
    torch.testing.assert_close(_logits(model, tokens), wanted, rtol=1e-4, atol=1e-5)
    learned = [item for name, item in model.named_parameters() if "ropewalk" in name]
    assert [item.shape for item in learned] == [(4,), (4,)]
    optimiser = torch.optim.SGD(learned, lr=0.5)
    before = [item.detach().clone() for item in learned]
    model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
    optimiser.step()
    assert all(not torch.equal(item, old) for item, old in zip(learned, before))
    warm = _logits(model, tokens)
    applied.fold()
    assert not any("ropewalk" in name for name, _ in model.named_parameters())
    torch.testing.assert_close(_logits(model, tokens), warm, rtol=1e-4, atol=1e-4)


def test_measured_std_is_that_of_the_eager_logits():
    model, tokens = _model("llama"), _tokens(rows=1)
    found = measure_logit_std(model, tokens, queries=1)[0]
    module = attention_modules(model)[0]
    kept = {}
    handle = module.register_forward_pre_hook(
        lambda m, args, kwargs: kept.update(kwargs, hidden=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    _logits(model, tokens)
    handle.remove()
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    length = tokens.shape[1]
    with torch.no_grad():
        query = module.q_proj(kept["hidden"]).view(1, length, 4, 8).transpose(1, 2)
        key = module.k_proj(kept["hidden"]).view(1, length, 2, 8).transpose(1, 2)
        query, key = apply_rotary_pos_emb(query, key, *kept["position_embeddings"])
        place = length // 2
        logits = (query[:, :, place : place + 1] @ key.repeat_interleave(2, 1).transpose(2, 3))[
            0, :, 0, : place + 1
        ]
        wanted = (logits / math.sqrt(8)).double().std(-1, unbiased=False)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_fold_that_the_architecture_does_not_obey_is_noticed():
    model, tokens = _model("llama"), _tokens()
    plain = _logits(model, tokens)
    first = attention_modules(model)[0]
    first.q_proj.register_forward_hook(
        lambda module, args, output: torch.nn.functional.normalize(output, dim=-1)
    )
    changed = _logits(model, tokens)
    assert not torch.equal(changed, plain)
    applied = apply_temperature(model, TemperatureOptions(rule="constant", factor=8.0))
    warm = _logits(model, tokens)
    with pytest.raises(UsageError, match="does not keep a constant"):
        applied.fold()
    assert torch.equal(_logits(model, tokens), warm)
    applied.remove()
    assert torch.equal(_logits(model, tokens), changed)


def test_sliding_layers_are_left_alone():
    model = _model("gemma3_text")
    assert chosen_layers(model, "full") == [1]
    assert chosen_layers(model, "all") == [0, 1]


def test_options_and_misuse_are_refused_with_a_reason():
    for fields in (
        {"rule": "constant"},
        {"rule": "constant", "factor": 2.0, "value": 1.1},
        {"rule": "per-head"},
        {"rule": "log-n"},
        {"rule": "constant", "factor": 2.0, "learned": True},
        {"rule": "log"},
        {"unknown": 1},
    ):
        with pytest.raises(ValidationError):
            TemperatureOptions(**fields)
    model = _model("llama")
    with pytest.raises(UsageError, match="every attention layer slides"):
        apply_temperature(_model("starcoder2"), TemperatureOptions(rule="constant", factor=2.0))
    with pytest.raises(UsageError, match="does nothing"):
        apply_temperature(model, TemperatureOptions())
    with pytest.raises(UsageError, match="measured logits"):
        apply_temperature(model, TemperatureOptions(rule="per-head", factor=2.0))
