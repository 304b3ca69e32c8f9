"""`apply` in memory: active, restored to the bit, equal to a stock reload, and never ignored in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.nn.functional import cosine_similarity
from transformers import AutoModelForCausalLM, PreTrainedModel

import ropewalk
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.facts import read_facts
from ropewalk.models.live.rotary import rotary_modules, spectra
from ropewalk.models.load import quiet_transformers


def _schedule(
    model: Any, method: str = "yarn", factor: float = 4.0, **parameters: Any
) -> ropewalk.FrequencySchedule:
    facts = read_facts(model.config.to_dict())
    return ropewalk.schedule(method, facts.geometry, factor=factor, **parameters)


def _reloaded(model: PreTrainedModel, folder: Path) -> Any:
    with quiet_transformers():
        model.save_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def model() -> Any:
    """A tiny Llama in float32."""
    return tiny.tiny_model("llama")


def test_apply_changes_the_logits_and_remove_restores_every_bit(model: Any) -> None:
    ids = tiny.tokens(96)
    before = tiny.logits_of(model, ids)
    buffer = rotary_modules(model)["model.rotary_emb"].inv_freq
    applied = ropewalk.apply(model, _schedule(model))
    assert applied.active
    assert not torch.equal(before, tiny.logits_of(model, ids))
    assert model.config.max_position_embeddings == 256
    applied.remove()
    assert torch.equal(before, tiny.logits_of(model, ids))
    assert rotary_modules(model)["model.rotary_emb"].inv_freq is buffer
    assert model.config.max_position_embeddings == 64
    assert not applied.active
    applied.remove()
    assert torch.equal(before, tiny.logits_of(model, ids))


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn", "ntk-su", "longrope", "cope"])
def test_in_memory_and_stock_reload_of_what_was_saved_are_bit_equal(
    method: str, model: Any, tmp_path: Path
) -> None:
    ids, short = tiny.tokens(96), tiny.tokens(32)
    with ropewalk.apply(model, _schedule(model, method)) as applied:
        assert applied.persistent
        stock = _reloaded(model, tmp_path)
        for inputs in (short, ids):
            assert torch.equal(tiny.logits_of(model, inputs), tiny.logits_of(stock, inputs))


def test_factor_one_is_the_identity_to_the_bit(model: Any) -> None:
    ids = tiny.tokens(96)
    before = tiny.logits_of(model, ids)
    for method in ("linear", "ntk", "yarn", "mrrope-pro"):
        with ropewalk.apply(model, _schedule(model, method, factor=1.0)):
            assert torch.equal(before, tiny.logits_of(model, ids)), method


def test_what_is_read_back_is_the_schedule(model: Any) -> None:
    schedule = _schedule(model, "mrrope-pro", factor=8.0)
    with ropewalk.apply(model, schedule) as applied:
        (found,) = list(spectra(model, position=65))
        np.testing.assert_allclose(found.inv_freq, schedule.inv_freq, rtol=1e-6)
        assert found.attention_factor == pytest.approx(schedule.attention_factor, rel=1e-6)
        assert [reading.source for reading in applied.check()] == ["forward"]
    with pytest.raises(UsageError, match="was removed"):
        applied.check()


def test_a_model_that_ignores_the_schedule_is_refused_and_left_as_it_was(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotary = rotary_modules(model)["model.rotary_emb"]
    frozen = rotary.inv_freq.clone()

    def deaf(self: Any, x: Any, position_ids: Any) -> Any:
        angles = position_ids[..., None].float() * frozen
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    monkeypatch.setattr(type(rotary), "forward", deaf)
    before = tiny.logits_of(model, tiny.tokens(16))
    config = model.config.to_dict()
    with pytest.raises(RopewalkError, match="does not compute the schedule"):
        ropewalk.apply(model, _schedule(model))
    assert torch.equal(before, tiny.logits_of(model, tiny.tokens(16)))
    assert model.config.to_dict() == config


def test_nested_schedules_start_from_the_models_own_geometry_and_come_off_in_order(model: Any) -> None:
    ids = tiny.tokens(96)
    before = tiny.logits_of(model, ids)
    with ropewalk.apply(model, _schedule(model, "ntk")):
        alone = tiny.logits_of(model, ids)
    linear = ropewalk.apply(model, _schedule(model, "linear", factor=2.0))
    middle = tiny.logits_of(model, ids)
    geometry = ropewalk.RopeGeometry(head_dim=16, rope_theta=10000.0, original_length=64)
    ntk = ropewalk.apply(model, ropewalk.schedule("ntk", geometry, factor=4.0))
    assert torch.equal(tiny.logits_of(model, ids), alone)
    with pytest.raises(UsageError, match="remove the later one first"):
        linear.remove()
    ntk.remove()
    assert torch.equal(tiny.logits_of(model, ids), middle)
    linear.remove()
    assert torch.equal(tiny.logits_of(model, ids), before)


def test_a_schedule_for_another_geometry_is_refused(model: Any) -> None:
    other = ropewalk.RopeGeometry(head_dim=32, rope_theta=10000.0, original_length=64)
    with pytest.raises(UsageError, match="another geometry"):
        ropewalk.apply(model, ropewalk.schedule("yarn", other, factor=4.0))


def test_meta_models_and_strangers_are_refused(model: Any) -> None:
    schedule = _schedule(model)
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(model.config)
    with pytest.raises(RopewalkError, match="meta device"):
        ropewalk.apply(empty, schedule)
    with pytest.raises(UsageError, match="not a transformers model"):
        ropewalk.apply(torch.nn.Linear(2, 2), schedule)


def test_a_half_precision_model_gets_the_float32_frequencies_of_a_stock_reload(model: Any) -> None:
    cast = model.to(torch.bfloat16)
    rotary = rotary_modules(cast)["model.rotary_emb"]
    assert rotary.inv_freq.dtype == torch.bfloat16
    before = tiny.logits_of(cast, tiny.tokens(48))
    with ropewalk.apply(cast, _schedule(cast)):
        assert rotary.inv_freq.dtype == torch.float32
    assert rotary.inv_freq.dtype == torch.bfloat16
    assert torch.equal(before, tiny.logits_of(cast, tiny.tokens(48)))


def test_compiled_models_see_the_schedule_and_its_removal(model: Any) -> None:
    ids = tiny.tokens(48)
    compiled = torch.compile(model, backend="eager")
    before = tiny.logits_of(compiled, ids)
    with ropewalk.apply(compiled, _schedule(model, "mrrope-pro")):
        wanted, got = tiny.logits_of(model, ids), tiny.logits_of(compiled, ids)
        assert torch.equal(wanted, got)
    assert torch.equal(before, tiny.logits_of(compiled, ids))


@pytest.mark.parametrize("kind", ["longrope", "dynamic", "llama3"])
def test_models_that_recompute_their_frequencies_take_the_schedule_too(kind: str, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    if kind == "longrope":
        parameters |= {
            "short_factor": [1.0] * 8,
            "long_factor": [4.0] * 8,
            "original_max_position_embeddings": 16,
        }
    if kind == "llama3":
        parameters |= {
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    model = tiny.tiny_model("llama", rope_parameters=parameters)
    ids = tiny.tokens(96)
    # A forward past the window caches frequencies of the present type in the module.
    before = tiny.logits_of(model, ids)
    schedule = _schedule(model, "mrrope-pro", factor=6.0)
    with ropewalk.apply(model, schedule):
        assert not torch.equal(before, tiny.logits_of(model, ids))
        assert torch.equal(tiny.logits_of(model, ids), tiny.logits_of(_reloaded(model, tmp_path), ids))
    assert torch.equal(before, tiny.logits_of(model, ids))


def test_full_leaves_sliding_layers_alone_and_all_stretches_them() -> None:
    model = tiny.tiny_model("gemma3_text")
    rotary = next(iter(rotary_modules(model).values()))
    sliding, full = rotary.sliding_attention_inv_freq, rotary.full_attention_inv_freq
    with ropewalk.apply(model, _schedule(model, "linear")):
        assert torch.equal(rotary.sliding_attention_inv_freq, sliding)
        assert torch.equal(rotary.full_attention_inv_freq, full / 4)
    with ropewalk.apply(model, _schedule(model, "linear"), layers="all"):
        assert torch.equal(rotary.sliding_attention_inv_freq, sliding / 4)
    with pytest.raises(UsageError, match="layers="):
        ropewalk.apply(model, _schedule(model), layers="some")


def test_mla_models_get_the_softmax_scale_of_their_yarn(tmp_path: Path) -> None:
    model = tiny.tiny_model("deepseek_v3")
    attention = model.model.layers[0].self_attn
    scaling = attention.scaling
    schedule = _schedule(model, "yarn", mscale=1.0, mscale_all_dim=1.0)
    ids = tiny.tokens(96)
    with ropewalk.apply(model, schedule):
        wanted = (0.1 * np.log(4.0) + 1.0) ** 2
        assert attention.scaling == pytest.approx(scaling * wanted)
        assert torch.equal(tiny.logits_of(model, ids), tiny.logits_of(_reloaded(model, tmp_path), ids))
    assert attention.scaling == scaling


def test_tables_of_sines_grow_with_the_window_and_say_that_memory_alone_holds_them() -> None:
    model = tiny.tiny_model("gptj")
    inside = tiny.tokens(32)
    before = tiny.logits_of(model, inside)
    with ropewalk.apply(model, _schedule(model, "yarn")) as applied:
        assert not applied.persistent
        assert "fixed base" in applied.reason
        assert torch.isfinite(tiny.logits_of(model, tiny.tokens(200))).all()
        assert not torch.equal(before, tiny.logits_of(model, inside))
    assert torch.equal(before, tiny.logits_of(model, inside))
    with ropewalk.apply(model, _schedule(model, "none", factor=1.0), target_length=128):
        assert torch.equal(before, tiny.logits_of(model, inside))
        assert torch.isfinite(tiny.logits_of(model, tiny.tokens(100))).all()


def test_what_no_configuration_holds_is_applied_in_memory_with_the_reason() -> None:
    model = tiny.tiny_model("recurrent_gemma")
    before = tiny.logits_of(model, tiny.tokens(48))
    with ropewalk.apply(model, _schedule(model, "yarn")) as applied:
        assert not applied.persistent
        assert "recurrent_gemma" in applied.reason
        assert len(applied.readings) == len(rotary_modules(model))
        assert not torch.equal(before, tiny.logits_of(model, tiny.tokens(48)))
    assert torch.equal(before, tiny.logits_of(model, tiny.tokens(48)))


@pytest.mark.parametrize("model_type", ["llama", "deepseek_v2", "lfm3", "qwen3_5_text"])
def test_exact_positions_are_exact_far_out_and_change_nothing_near(model_type: str) -> None:
    with quiet_transformers():
        model = tiny.tiny_model(model_type)
        ids = tiny.tokens(48)
        before = tiny.logits_of(model, ids)
        near, far = _angles(model, 5), _angles(model, 10_000_003)
        with ropewalk.exact_positions(model):
            exact = _angles(model, 10_000_003)
            np.testing.assert_allclose(_angles(model, 5)[0], near[0], atol=1e-6)
            inside = tiny.logits_of(model, ids)
        assert torch.equal(before, tiny.logits_of(model, ids))
    assert np.abs(exact[0] - exact[1]).max() < 1e-6
    assert np.abs(far[0] - far[1]).max() > 1e-5
    assert cosine_similarity(inside.flatten(), before.flatten(), dim=0) > 0.9999
    assert inside.dtype == before.dtype


def _angles(model: Any, position: int) -> tuple[np.ndarray, np.ndarray]:
    """(cosines from the first rotary module, cosines of the exact angles) at one position."""
    module = next(iter(rotary_modules(model).values()))
    label = "full_attention" if hasattr(module, "full_attention_inv_freq") else ""
    buffer = getattr(module, f"{label}_inv_freq" if label else "inv_freq")
    keywords = {"layer_type": label} if label else {}
    result = module(torch.zeros(1, 1, 4), torch.tensor([[position]]), **keywords)
    cosine = result.real if isinstance(result, torch.Tensor) else result[0]
    found = cosine.reshape(-1, cosine.shape[-1])[0, : buffer.numel()].double().numpy()
    return found, np.cos(buffer.double().numpy() * position)


def test_modules_of_foreign_code_that_fill_themselves_are_reached_too(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Code from outside the library has no initialiser for buffers: only its constructor knows them.
    monkeypatch.setattr(PreTrainedModel, "_init_weights", lambda self, module: None)
    schedule = _schedule(model, "mrrope-pro")
    with ropewalk.apply(model, schedule) as applied:
        assert applied.persistent
        (found,) = list(spectra(model))
        np.testing.assert_allclose(found.inv_freq, schedule.inv_freq, rtol=1e-6)


def test_wrapped_models_are_reached_through_their_wrappers(model: Any) -> None:
    class Parallel(torch.nn.Module):
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module = module

    before = tiny.logits_of(model, tiny.tokens(32))
    with ropewalk.apply(Parallel(model), _schedule(model)) as applied:
        assert applied.model is model
        assert not torch.equal(before, tiny.logits_of(model, tiny.tokens(32)))
    assert torch.equal(before, tiny.logits_of(model, tiny.tokens(32)))


@pytest.mark.parametrize("given", [None, "yarn", {"method": "yarn"}])
def test_what_is_no_schedule_is_refused(given: Any, model: Any) -> None:
    with pytest.raises(UsageError, match=r"is not a FrequencySchedule: make one with ropewalk\.schedule"):
        ropewalk.apply(model, given)
