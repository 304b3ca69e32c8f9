"""The engine gives what one plain forward gives, in chunks, from forks and crops, for every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from eval_models import WORDS, plain_loss, text_ids, tiny

from ropewalk.attention.caches import BufferedLayer, croppable, new_cache
from ropewalk.attention.interface import split_attention
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.forward.spread import spread

GEMMA = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
LONGROPE |= {"original_max_position_embeddings": 64, "factor": 8.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "softcap": ("gemma2", GEMMA),
    "window": ("gemma3_text", GEMMA),
    "logit-scaling": ("granite", {"logits_scaling": 3.0}),
    "logit-scale": ("cohere", {"logit_scale": 0.5}),
    "partial": ("gpt_neox", {}),
    "experts": ("mixtral", {}),
    "chunked": ("llama4_text", {"attention_chunk_size": 32, "intermediate_size_mlp": 48}),
    "recurrent": ("recurrent_gemma", {"num_hidden_layers": 3}),
    "shared-cache": (
        "gemma3n_text",
        GEMMA | {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": None},
    ),
    "latent": (
        "deepseek_v3",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 32,
        },
    ),
    "names-compared": ("falcon", {"head_dim": None, "num_key_value_heads": None}),
    "own-cache": ("minimax", {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "window-never-masked": ("moshi", {"sliding_window": 24, "ffn_dim": 64}),
    "dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}),
    "longrope": ("llama", {"rope_parameters": LONGROPE}),
}


@pytest.fixture(scope="module", params=sorted(KINDS))
def case(request: pytest.FixtureRequest) -> tuple[str, Any, torch.Tensor, torch.Tensor]:
    kind, changes = KINDS[request.param]
    model = tiny(kind, **changes)
    ids = text_ids(150, rows=2)
    return request.param, model, ids, plain_loss(model, ids)


def test_loss_in_chunks_is_that_of_one_forward(case: Any) -> None:
    _, model, ids, expected = case
    engine = Engine(model, chunk=40)
    assert torch.allclose(engine.nll(ids), expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(engine.nll(ids, start=130), expected[:, 129:], rtol=1e-5, atol=1e-5)


def test_answers_from_a_cropped_and_forked_context(case: Any) -> None:
    name, model, ids, expected = case
    engine = Engine(model, chunk=40)
    context = engine.context(ids[:1, :100], capacity=150, rope_length=150)
    context.crop(60).extend(ids[0, 60:140])
    for _ in range(2):
        told = context.score(ids[0, 140:])
        assert told.logprobs == pytest.approx((-expected[0, 139:]).tolist(), rel=1e-4, abs=1e-5), name
    fork = context.fork().extend(ids[0, 140:145])
    assert fork.score(ids[0, 145:]).logprob == pytest.approx(float(-expected[0, 144:].sum()), rel=1e-4)
    assert context.length == 140
    assert context.score(context.generate(4)).exact


def test_rows_are_scored_side_by_side() -> None:
    model, ids = tiny(), text_ids(60, rows=3)
    expected = plain_loss(model, ids)
    context = Engine(model, chunk=16).context(capacity=60)
    context.extend(ids[:, :50])
    told = context.score_rows(ids[:, 50:])
    assert [row.logprob for row in told] == pytest.approx((-expected[:, 49:].sum(1)).tolist(), rel=1e-4)


def test_a_window_layer_keeps_only_its_window_unless_it_must_fork() -> None:
    model = tiny("gemma3_text", **GEMMA)
    kept = new_cache(model, 100, forkable=False)
    model(input_ids=text_ids(100), past_key_values=kept)
    assert kept.layers[0].keys.shape[-2] == GEMMA["sliding_window"] - 1
    assert kept.layers[1].keys.shape[-2] == 100
    assert not croppable(kept)
    assert croppable(new_cache(model, 100, forkable=True))


def test_the_buffer_grows_and_crops_in_place() -> None:
    layer = BufferedLayer(4)
    first = torch.arange(12.0).reshape(1, 1, 6, 2)
    keys, _ = layer.update(first, first)
    assert torch.equal(keys, first)
    layer.crop(-2)
    keys, values = layer.update(-first[:, :, :1], -first[:, :, :1])
    assert torch.equal(keys, torch.cat([first[:, :, :4], -first[:, :, :1]], dim=2))
    assert torch.equal(keys, values)


def test_attention_without_masks_is_in_force_and_the_same() -> None:
    model, ids = tiny(), text_ids(90)
    engine = Engine(model, chunk=32)
    with split_attention(model):
        assert model.config._attn_implementation == "ropewalk_split"
    assert model.config._attn_implementation == "sdpa"
    joined = engine.nll(ids)
    engine.splits = False
    assert torch.allclose(joined, engine.nll(ids), atol=1e-5)


def test_a_length_rule_forgets_the_longer_text_before() -> None:
    kind, changes = KINDS["dynamic"]
    model, ids = tiny(kind, **changes), text_ids(150)
    fresh = plain_loss(tiny(kind, **changes), ids[:, :50])
    engine = Engine(model, chunk=40)
    engine.nll(ids)
    assert torch.allclose(engine.nll(ids[:, :50]), fresh, atol=1e-5)
    assert engine.regime is not None
    assert engine.regime.groups([32, 64, 128, 150]) == [[32, 64], [128], [150]]


def test_nan_is_named_by_its_position() -> None:
    model = tiny()
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = float("nan")
    ids = text_ids(60) % 5
    ids[0, 41] = 7
    with pytest.raises(RopewalkError, match="position 42 "):
        Engine(model, chunk=1).nll(ids)
    # Inside a chunk the kernel's masked NaN reaches its neighbours; the chunk before it is untouched.
    with pytest.raises(RopewalkError, match="position 33 "):
        Engine(model, chunk=16).nll(ids)


def test_tokens_of_another_vocabulary_are_refused() -> None:
    engine = Engine(tiny())
    with pytest.raises(RopewalkError, match=f"token id 999 is outside the vocabulary of {WORDS}"):
        engine.nll([1, 2, 999])
    with pytest.raises(RopewalkError, match="token id -1 is outside"):
        engine.nll([3, -1, 2])
    with pytest.raises(UsageError, match="nothing to score"):
        engine.nll([1, 2, 3], start=3)


def test_only_scored_positions_get_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = tiny(), []
    real = torch.nn.Linear.forward

    def counting(self: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        if self is model.lm_head:
            made.append(hidden.shape[-2])
        return real(self, hidden)

    engine = Engine(model, chunk=32)
    engine.logit_tokens = 8
    monkeypatch.setattr(torch.nn.Linear, "forward", counting)
    engine.nll(text_ids(100), start=80)
    assert sum(made) == 20
    assert max(made) <= 8


def test_rows_that_do_not_fit_side_by_side_are_read_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, asked = tiny(), text_ids(60, rows=5), []
    engine = Engine(model, chunk=32)
    real = engine.read_chunk

    def small(ids_BT: torch.Tensor, cache: Any) -> Any:
        asked.append(ids_BT.shape[0])
        if ids_BT.shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return real(ids_BT, cache)

    monkeypatch.setattr(engine, "read_chunk", small)
    assert torch.allclose(engine.nll(ids), plain_loss(model, ids), atol=1e-5)
    assert asked[0] == 5
    monkeypatch.setattr(engine, "read_chunk", lambda ids_BT, cache: small(ids_BT.repeat(3, 1), cache))
    with pytest.raises(RopewalkError, match="ran out of memory"):
        engine.nll(ids[:1])


def test_a_model_spread_over_devices_measures_the_same() -> None:
    model, ids = tiny(), text_ids(90, rows=2)
    expected = plain_loss(model, ids)
    places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    spread(model, places | {f"model.layers.{number}": "cpu" for number in range(2)})
    assert hasattr(model.model.layers[0], "_hf_hook")
    engine = Engine(model, chunk=32)
    assert engine.decoder is not None
    assert torch.allclose(engine.nll(ids), expected, atol=1e-5)
    with pytest.raises(RopewalkError, match="cannot be spread"):
        spread(tiny(), {"model.layers.0": "cpu"})


def test_a_learnt_prompt_is_refused() -> None:
    """Measured without it, the base would get the figures of the whole."""
    import peft

    config = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(
        RopewalkError, match=r"puts a learnt prompt or prefix .*PromptTuningConfig.* not read here"
    ):
        Engine(peft.get_peft_model(tiny(), config))
