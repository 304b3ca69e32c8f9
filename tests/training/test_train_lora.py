"""LoRA starts as the model, trains only what was asked, and comes out as a plain model or a stock adapter."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from tinymodels import small_model, some_tokens

from ropewalk.errors import DamagedError, UsageError
from ropewalk.training.model.lora import (
    add_lora,
    merged_weights,
    put_trained,
    save_adapter,
    trained_tensors,
)
from ropewalk.training.parts.loss.head import install_head
from ropewalk.training.parts.loss.losses import shift_labels
from ropewalk.training.parts.loss.options import LossOptions
from ropewalk.training.recipe.model import LoraOptions


@torch.no_grad()
def _logits(model):
    return model(input_ids=some_tokens(), use_cache=False).logits


def _trained(options, *, kind="llama", steps=3, **fields):
    model = small_model(kind, **fields)
    wrapped = add_lora(model, options)
    optimiser = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        wrapped(input_ids=some_tokens(), labels=some_tokens(), use_cache=False).loss.backward()
        optimiser.step()
    return wrapped.eval()


def test_it_starts_as_the_model_and_under_its_seed():
    plain = _logits(small_model())
    first, second = (add_lora(small_model(), LoraOptions(), seed=5) for _ in range(2))
    assert torch.equal(_logits(first), plain)
    for name, tensor in trained_tensors(first).items():
        assert torch.equal(tensor, trained_tensors(second)[name])


@pytest.mark.parametrize(
    ("options", "has", "lacks"),
    [
        (LoraOptions(), ["q_proj", "o_proj"], ["gate_proj", "norm", "embed", "lm_head"]),
        (LoraOptions(targets="all-linear"), ["q_proj", "gate_proj"], ["norm", "embed", "lm_head"]),
        (LoraOptions(targets=("v_proj",), train_norms=True), ["v_proj", "norm.weight"], ["q_proj", "embed"]),
        (LoraOptions(train_embeddings=True), ["embed_tokens"], ["norm", "lm_head"]),
    ],
)
def test_only_what_was_asked_is_trained(options, has, lacks):
    names = " ".join(trained_tensors(add_lora(small_model(), options)))
    assert all(part in names for part in has)
    assert not any(part in names for part in lacks)


FULL = LoraOptions(rank=4, train_norms=True, train_embeddings=True)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("options", [LoraOptions(rank=4, targets="all-linear"), FULL])
def test_merged_weights_are_a_plain_model_that_computes_the_same(options, kind, tied):
    wrapped = _trained(options, kind=kind, tie_word_embeddings=tied)
    wanted = _logits(wrapped)
    fresh = small_model(kind, tie_word_embeddings=tied)
    assert (_logits(fresh) - wanted).abs().max() > 1e-3
    assert not fresh.load_state_dict(merged_weights(wrapped), strict=True).missing_keys
    torch.testing.assert_close(_logits(fresh), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(_logits(wrapped), wanted)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("options", [LoraOptions(rank=4), FULL])
def test_stock_peft_loads_the_adapter(options, tied, tmp_path):
    wrapped = _trained(options, tie_word_embeddings=tied)
    wanted = _logits(wrapped)
    save_adapter(wrapped, tmp_path)
    loaded = PeftModel.from_pretrained(small_model(tie_word_embeddings=tied), str(tmp_path)).eval()
    torch.testing.assert_close(_logits(loaded), wanted, rtol=1e-4, atol=1e-5)


def test_what_was_trained_can_be_put_back():
    wrapped = _trained(FULL)
    kept = {name: tensor.clone() for name, tensor in trained_tensors(wrapped).items()}
    fresh = add_lora(small_model(), FULL)
    put_trained(fresh, kept)
    assert torch.equal(_logits(fresh), _logits(wrapped))
    name = next(iter(kept))
    with pytest.raises(DamagedError, match="not those of this model"):
        put_trained(fresh, {key: value for key, value in kept.items() if key != name})
    with pytest.raises(DamagedError, match="the model's"):
        put_trained(fresh, kept | {name: kept[name][:1]})


def test_the_fused_loss_works_under_lora():
    wrapped = _trained(FULL)
    tokens = some_tokens()
    assert install_head(wrapped.get_base_model(), LossOptions(kernel="chunked")).kernel == "chunked"
    count = (shift_labels(tokens) >= 0).sum()
    got = wrapped(input_ids=tokens, target_ids=shift_labels(tokens)).loss / count
    wanted = wrapped(input_ids=tokens, labels=tokens, use_cache=False).loss
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    got.backward()
    assert all(item.grad is not None for item in wrapped.parameters() if item.requires_grad)


def test_layers_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match="'w_pack'"):
        add_lora(small_model(), LoraOptions(targets=("q_proj", "w_pack")))


def test_parts_of_packed_weights_belong_to_their_module():
    from ropewalk.training.model.lora import _owner

    modules = {"model.layers.1.q_proj": torch.nn.Linear(2, 2)}
    for name, owned in (
        ("model.layers.1.q_proj.weight", True),
        ("model.layers.1.q_proj.weight.absmax.nested", True),
        ("model.layers.10.q_proj.weight", False),
        ("model.layers.1.q_proj_extra.weight", False),
        ("model.layers.1.q_proj", False),
    ):
        assert _owner(name, modules) == owned
