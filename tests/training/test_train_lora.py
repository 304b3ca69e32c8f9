"""LoRA starts as the model, trains only what was asked, and comes out as a plain model or a stock adapter."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tinymodels import small_model, some_tokens

from ropewalk.errors import DamagedError, UsageError
from ropewalk.training.model.lora import (
    add_lora,
    merged_weights,
    own_name,
    plain_weights,
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
    head = {"lm_head": torch.nn.Linear(2, 2)}
    assert [_owner(name, head) for name in ("lm_head.weight", "lm_head", "model.lm_head.weight")] == [
        True,
        False,
        False,
    ]


def test_adapters_are_drawn_from_their_seed_alone():
    """A uniform within 1 / sqrt(inputs), module by module, B zero."""
    wrapped = add_lora(small_model(), LoraOptions(rank=3, targets=("down_proj", "q_proj"), alpha=6.0), seed=9)
    generator = torch.Generator().manual_seed(9)
    names = []
    for name, module in wrapped.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        names.append(name.rpartition(".")[2])
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        reach = down.shape[1] ** -0.5
        assert torch.allclose(
            down, torch.empty(down.shape).uniform_(-reach, reach, generator=generator), atol=1e-7
        )
        assert not up.any()
        assert (down.shape[0], up.shape[1], module.scaling["default"]) == (3, 3, 2.0)
    assert names == ["q_proj", "down_proj"] * 2


def test_the_global_generator_is_left_alone():
    model = small_model()
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    add_lora(model, LoraOptions())
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_trained_in_full_is_kept_in_float32_and_written_as_the_rest(tied):
    """Over a base in bfloat16: float32 inside, bfloat16 between the layers and in what is saved."""
    model = small_model(tie_word_embeddings=tied).to(torch.bfloat16)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = {}
    model.model.layers[0].input_layernorm.register_forward_hook(
        lambda _m, args, out: seen.update(norm=out.dtype)
    )
    model.lm_head.register_forward_hook(lambda _m, args, out: seen.update(head=(args[0].dtype, out.dtype)))
    wrapped = add_lora(model, FULL)
    base = wrapped.get_base_model()
    full = {name for name, tensor in trained_tensors(wrapped).items() if ".lora_" not in name}
    assert {name.removeprefix("base_model.model.") for name in full} == {
        "model.embed_tokens.weight", "model.norm.weight",
        *(f"model.layers.{n}.{kind}_layernorm.weight" for n in (0, 1) for kind in ("input", "post_attention")),
    }  # fmt: skip
    assert all(tensor.dtype == torch.float32 for tensor in trained_tensors(wrapped).values())
    logits = wrapped(input_ids=some_tokens(), use_cache=False).logits
    # The hook sees what the module gives before it is narrowed again.
    width = torch.float32 if tied else torch.bfloat16
    assert seen == {"norm": torch.float32, "head": (width, width)}
    assert base.model.layers[0].self_attn.q_proj.base_layer.weight.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), model(input_ids=some_tokens(), use_cache=False).logits.float())
    with torch.no_grad():
        for tensor in trained_tensors(wrapped).values():
            tensor += 0.01
    merged = merged_weights(wrapped)
    assert merged.keys() == plain.keys()
    for name, tensor in merged.items():
        assert tensor.dtype == torch.bfloat16
        owner = name.removesuffix(".weight")
        if any(target in name for target in ("q_proj", "k_proj", "v_proj", "o_proj")):
            layer = base.get_submodule(owner)
            product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            wanted = plain[name].float() + layer.scaling["default"] * product
        elif "norm" in name or "embed" in name or (tied and name == "lm_head.weight"):
            wanted = plain[name].float() + 0.01
        else:
            wanted = plain[name].float()
        assert torch.equal(tensor, wanted.to(torch.bfloat16)), name


def test_the_weights_below_the_adapters_are_the_bases_own():
    model = small_model("qwen2")
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrapped = add_lora(model, LoraOptions(rank=2, targets="all-linear"))
    with torch.no_grad():
        for tensor in trained_tensors(wrapped).values():
            tensor += 1.0
    below = plain_weights(wrapped)
    assert below.keys() == kept.keys()
    assert all(torch.equal(below[name], tensor) for name, tensor in kept.items())
    assert (
        own_name("base_model.model.model.layers.0.q_proj.base_layer.weight") == "model.layers.0.q_proj.weight"
    )
    assert own_name("model.norm.weight") == "model.norm.weight"


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (("mlp.up_proj", "k_proj"), {"up_proj", "k_proj"}),
        (("layers.1.self_attn.v_proj",), {"v_proj"}),
    ],
)
def test_targets_are_whole_words_of_linear_layers(targets, names):
    found = trained_tensors(add_lora(small_model(), LoraOptions(rank=2, targets=targets)))
    layers = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in found}
    assert {name.rpartition(".")[2] for name in layers} == names
    assert len(layers) == len(names) * (1 if targets == ("layers.1.self_attn.v_proj",) else 2)
    for wrong in (("proj",), ("lm_head",), ("q_proj", "norm")):
        with pytest.raises(
            UsageError, match=f"lora.targets names '{wrong[-1]}', which is no linear layer of Llama"
        ):
            add_lora(small_model(), LoraOptions(rank=2, targets=wrong))


@pytest.mark.parametrize(
    ("norms", "embeddings", "full"),
    [
        (
            True,
            False,
            {
                "model.norm",
                *(f"model.layers.{n}.{k}_layernorm" for n in (0, 1) for k in ("input", "post_attention")),
            },
        ),
        (False, True, {"model.embed_tokens"}),
        (False, False, set()),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_holds_what_was_trained_and_how(norms, embeddings, full, tied, tmp_path):
    options = LoraOptions(rank=2, alpha=8.0, dropout=0.25, train_norms=norms, train_embeddings=embeddings)
    wrapped = _trained(options, tie_word_embeddings=tied)
    save_adapter(wrapped, tmp_path / "deep" / "adapter", base_path="/bases/x")
    tensors = load_file(tmp_path / "deep" / "adapter" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "deep" / "adapter" / "adapter_config.json").read_text())
    assert (config["inference_mode"], config["base_model_name_or_path"]) == (True, "/bases/x")
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (2, 8.0, 0.25)
    assert set(config["modules_to_save"] or ()) == full
    copied = tied and embeddings
    assert bool(config.get("ensure_weight_tying")) is copied
    wanted = {name.replace(".default.", "."): tensor for name, tensor in trained_tensors(wrapped).items()}
    if copied:
        wanted["base_model.model.lm_head.weight"] = wanted["base_model.model.model.embed_tokens.weight"]
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in wanted.items())
    # What is given is written, as a sharded model gathers it.
    gathered = {name: torch.zeros_like(tensor) for name, tensor in trained_tensors(wrapped).items()}
    save_adapter(wrapped, tmp_path / "given", gathered)
    assert not any(
        tensor.any() for tensor in load_file(tmp_path / "given" / "adapter_model.safetensors").values()
    )


def test_how_many_tensors_differ_is_said():
    wrapped = add_lora(small_model(), LoraOptions(rank=2))
    kept = trained_tensors(wrapped)
    names = sorted(kept)
    with pytest.raises(DamagedError, match=rf"\({names[0]} and 2 more differ\)"):
        put_trained(wrapped, {name: kept[name] for name in names[3:]})
    with pytest.raises(DamagedError, match=r"\(zzz and 0 more differ\)"):
        put_trained(wrapped, kept | {"zzz": torch.zeros(1)})


def test_a_rank_above_that_of_every_target_is_refused():
    """A thousand by a million numbers were made for a layer of 32 by 32."""
    model = small_model()
    sides = [
        min(one.weight.shape) for name, one in model.named_modules() if name.endswith(("q_proj", "k_proj"))
    ]
    highest = max(sides)
    assert min(sides) < highest
    options = {"targets": ("q_proj", "k_proj")}
    assert add_lora(small_model(), LoraOptions(rank=highest, **options)) is not None
    with pytest.raises(
        UsageError, match=rf"lora.rank={highest + 1} is more than the rank of any target, {highest} at"
    ):
        add_lora(model, LoraOptions(rank=highest + 1, **options))
