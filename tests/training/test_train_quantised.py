"""Quantised bases: packed below adapters, widened on loading, or refused; merged, saved and resumed alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_train_resume import assert_same_run, stopped_run
from tinymodels import small_model, some_tokens
from torch import nn

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.training.model import quantised
from ropewalk.training.model.lora import add_lora, merged_weights, plain_weights
from ropewalk.training.model.quantised import count_parameters, is_packed, quantisation_of, widened
from ropewalk.training.recipe.model import LoraOptions
from ropewalk.training.recipe.recipe import Recipe
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]
STRETCH = {"method": "yarn", "target_length": 64}
TILE = 16


def config_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "config.json").read_text())


def with_config(folder: Path, **fields: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config_of(folder) | fields))
    return folder


def quick(tiny: Tiny, path: Path, **changes: Any) -> dict[str, Any]:
    base = {
        "model": {"path": str(path)},
        "stages": [{"length": 64, "steps": 3}],
        "rope": STRETCH,
        "checkpoints": {"every": 2, "keep_last": None},
        "optimizer": {"learning_rate": 5e-2, "warmup_steps": 1},
    }
    return tiny(**(base | changes))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Path) -> Path:
    """A model of two layers in float32, with its tokenizer."""
    folder = tmp_path_factory.mktemp("plain")
    small_model(
        vocab_size=257, hidden_size=64, intermediate_size=64, max_position_embeddings=32
    ).save_pretrained(folder)
    for file in byte_tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture(scope="module")
def fp8(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with projections in 8-bit floats, one scale for each tile of 16 by 16, as DeepSeek stores them."""
    folder = tmp_path_factory.mktemp("fp8") / "model"
    shutil.copytree(plain, folder)
    stored = {}
    for name, tensor in load_file(plain / "model.safetensors").items():
        if "proj" not in name:
            stored[name] = tensor
            continue
        rows, columns = (size // TILE for size in tensor.shape)
        tiles = tensor.reshape(rows, TILE, columns, TILE)
        scale = tiles.abs().amax((1, 3), keepdim=True) / 448
        stored[name] = (tiles / scale).to(torch.float8_e4m3fn).reshape(tensor.shape)
        stored[f"{name}_scale_inv"] = scale[:, 0, :, 0].contiguous()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return with_config(
        folder, quantization_config={"quant_method": "fp8", "weight_block_size": [TILE, TILE], "fmt": "e4m3"}
    )


def fp8_widened(folder: Path) -> dict[str, torch.Tensor]:
    """What the files of `fp8` stand for: each value times the scale of its tile."""
    stored = load_file(folder / "model.safetensors")
    found = {}
    for name, tensor in stored.items():
        if name.endswith("_scale_inv"):
            continue
        scale = stored.get(f"{name}_scale_inv")
        wide = tensor.float()
        if scale is not None:
            wide = wide * scale.repeat_interleave(TILE, 0).repeat_interleave(TILE, 1)
        found[name] = wide
    return found


@torch.no_grad()
def stock_logits(path: Path, adapter: Path | None = None) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Where it is true, a CPU's forward takes scales in bfloat16.
            module.support_avx512bf16_for_cpu = False
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    return model.eval()(input_ids=some_tokens(1, 60), use_cache=False).logits


def asking(found: list[torch.Tensor]) -> Callable[[Any, int], dict[str, float]]:
    """An `evaluate` that keeps the logits of the model in training."""

    def evaluate(model: Any, _step: int) -> dict[str, float]:
        with torch.no_grad():
            found.append(model(input_ids=some_tokens(1, 60), use_cache=False).logits.float())
        return {}

    return evaluate


EVERY = {"every": 3, "lengths": [32], "tokens": 256}


def evaluated(text_folder: Path) -> dict[str, Any]:
    return EVERY | {"source": {"name": "held", "kind": "text", "paths": [str(text_folder)]}}


# Widened on loading: no package but transformers.


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["all", "lora"])
def test_fp8_weights_are_widened_and_trained(
    tiny: Tiny, tmp_path: Path, plain: Path, fp8: Path, lora: Any, text_folder: Path, capsys: Any
) -> None:
    asked: list[torch.Tensor] = []
    recipe = quick(tiny, fp8, lora=lora, evaluation=evaluated(text_folder))
    result = train(recipe, output=tmp_path / "run", evaluate=asking(asked))
    assert "fp8 weights take no gradient and no adapter: they are widened" in capsys.readouterr().err
    last = Path(result.final["path"])
    assert "quantization_config" not in config_of(last)
    assert {tensor.dtype for tensor in load_file(last / "model.safetensors").values()} == {torch.float32}
    torch.testing.assert_close(stock_logits(last), asked[-1], rtol=1e-4, atol=1e-4)
    assert (asked[-1] - asked[0]).abs().max() > 0.01
    assert json.loads((result.run / "run.json").read_text())["parameters"] >= sum(
        tensor.numel() for tensor in load_file(plain / "model.safetensors").values()
    )


def test_an_adapter_over_widened_weights_has_them_as_its_base(
    tiny: Tiny, tmp_path: Path, fp8: Path, text_folder: Path
) -> None:
    asked: list[torch.Tensor] = []
    recipe = quick(tiny, fp8, lora={"rank": 2, "save": "adapter"}, evaluation=evaluated(text_folder))
    result = train(recipe, output=tmp_path / "run", evaluate=asking(asked), quiet=True)
    adapter = Path(result.final["path"]) / "adapter"
    base = Path(config_of_adapter(adapter)["base_model_name_or_path"])
    assert config_of(base)["rope_parameters"]["factor"] == 2
    wanted = fp8_widened(fp8)
    for name, tensor in load_file(base / "model.safetensors").items():
        assert torch.equal(tensor, wanted[name]), name
    torch.testing.assert_close(stock_logits(base, adapter), asked[-1], rtol=1e-4, atol=1e-4)


def config_of_adapter(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


# Packed: a stand-in for the layers of bitsandbytes and gptqmodel, whose weights are not where a plain layer has them.


class Packed(nn.Linear):
    """Whole numbers with one scale an output, (inputs, outputs) as GPTQ lays them; its own weight is an empty one."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=True)
        scales = layer.weight.detach().abs().amax(1) / 7
        self.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        self.bias = nn.Parameter(torch.linspace(-1, 1, layer.out_features), requires_grad=False)
        self.register_buffer("scales", scales)
        self.register_buffer("qweight", (layer.weight.detach() / scales[:, None]).round().to(torch.int8).T)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return input @ (self.qweight.float() * self.scales).to(input.dtype) + self.bias


def packed_model() -> Any:
    model = small_model()
    for layer in model.model.layers:
        for name in ("q_proj", "v_proj"):
            setattr(layer.self_attn, name, Packed(getattr(layer.self_attn, name)))
    return model.requires_grad_(False)


def test_a_packed_layer_is_known_and_widened_by_what_it_computes() -> None:
    layer = packed_model().model.layers[0].self_attn.q_proj
    assert is_packed(layer)
    assert not is_packed(small_model().model.layers[0].self_attn.q_proj)
    assert torch.allclose(widened(layer), (layer.qweight.float() * layer.scales).T, atol=1e-6)


def test_a_packed_weight_counts_as_what_it_stands_for() -> None:
    model, wanted = packed_model(), sum(tensor.numel() for tensor in small_model().parameters())
    biases = sum(module.out_features for module in model.modules() if isinstance(module, Packed))
    assert count_parameters(model) == wanted + biases
    wrapped = add_lora(model, LoraOptions(rank=2, targets=("q_proj",)))
    # Two layers, q_proj of 32 by 32: 2 * 2 * (32 + 32).
    assert count_parameters(wrapped, trained=True) == 256
    assert count_parameters(wrapped) == wanted + biases + 256


def test_packed_weights_are_merged_widened_into_a_plain_model() -> None:
    wrapped = add_lora(packed_model(), LoraOptions(rank=2, targets=("q_proj", "k_proj"), train_norms=True))
    optimiser = torch.optim.SGD([item for item in wrapped.parameters() if item.requires_grad], lr=0.05)
    for _ in range(3):
        optimiser.zero_grad()
        wrapped(input_ids=some_tokens(), labels=some_tokens(), use_cache=False).loss.backward()
        optimiser.step()
    merged = merged_weights(wrapped)
    assert not [name for name in merged if "qweight" in name or "scales" in name or "lora" in name]
    fresh = small_model(attention_bias=True)
    missing, unexpected = fresh.load_state_dict(merged, strict=False)
    assert not unexpected
    # k and o have no bias in the packed model.
    assert {name.split(".")[-2] for name in missing} == {"k_proj", "o_proj"}
    with torch.no_grad():
        for name in missing:
            fresh.get_parameter(name).zero_()
        got, wanted = (
            model(input_ids=some_tokens(), use_cache=False).logits for model in (fresh, wrapped.eval())
        )
        unmerged = packed_model()(input_ids=some_tokens(), use_cache=False).logits
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    assert (unmerged - wanted).abs().max() > 1e-2
    assert "model.layers.0.self_attn.q_proj.qweight" in plain_weights(wrapped)


# What is refused, before anything is loaded.


@pytest.mark.parametrize(
    ("stored", "changes", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {}, r"\(bitsandbytes\) take no gradient"),
        ({"quant_method": "gptq", "bits": 4}, {}, r"\(gptq\) take no gradient"),
        (
            {"quant_method": "bitsandbytes", "load_in_8bit": True},
            {"lora": {"rank": 2}},
            "8-bit weights of bitsandbytes are not trained on",
        ),
        ({"quant_method": "quip"}, {"lora": {"rank": 2}}, "quantised by quip are not trained on here"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"lora": {"rank": 2}, "engine": {"name": "fsdp2"}},
            "not split over processes",
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            {"lora": {"rank": 2}, "temperature": {"rule": "constant", "value": 1.1}},
            "a temperature is folded",
        ),
        ({"quant_method": "fp8"}, {"quantise": "nf4", "lora": {"rank": 2}}, r"quantised already \(fp8\)"),
        (None, {"quantise": "nf4"}, "model.quantise: packed weights"),
    ],
    ids=["all weights", "gptq", "8 bits", "unknown", "fsdp2", "temperature", "twice", "recipe without lora"],
)
def test_what_cannot_be_trained_is_refused_in_words(
    tiny: Tiny, tmp_path: Path, plain: Path, stored: Any, changes: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    if stored is not None:
        with_config(folder, quantization_config=stored)
    kind = changes.pop("quantise", None) if "quantise" in changes else None
    recipe = Recipe.model_validate(
        quick(tiny, folder, model={"path": str(folder), "quantise": kind}, **changes)
    )
    with pytest.raises(UsageError, match=message):
        quantisation_of(recipe)


@pytest.mark.parametrize(
    ("method", "package", "way"),
    [("bitsandbytes", "bitsandbytes", r"ropewalk\[quantised\]"), ("awq", "gptqmodel", "install gptqmodel")],
)
def test_a_missing_package_is_named(
    tiny: Tiny, tmp_path: Path, plain: Path, monkeypatch: Any, method: str, package: str, way: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    with_config(folder, quantization_config={"quant_method": method, "bits": 4})
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RopewalkError, match=f"need {package}") as raised:
        quantisation_of(Recipe.model_validate(quick(tiny, folder, lora={"rank": 2})))
    assert raised.match(way) or way.replace("\\", "") in str(raised.value.hint)


def test_a_new_model_is_not_quantised(tiny: Tiny) -> None:
    recipe = tiny()
    recipe["model"]["quantise"] = "nf4"
    with pytest.raises(ValueError, match="quantise is for a checkpoint"):
        Recipe.model_validate(recipe)


# bitsandbytes itself, where it is installed.


@pytest.fixture(scope="module")
def bitsandbytes() -> Any:
    return pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


@pytest.mark.parametrize("kind", ["nf4", "nf4-double"])
@pytest.mark.parametrize("save", ["merged", "adapter"])
def test_bitsandbytes_below_adapters(
    tiny: Tiny, tmp_path: Path, plain: Path, bitsandbytes: Any, kind: str, save: str, text_folder: Path
) -> None:
    asked: list[torch.Tensor] = []
    recipe = quick(
        tiny,
        plain,
        model={"path": str(plain), "quantise": kind},
        lora={"rank": 2, "targets": "all-linear", "save": save},
        evaluation=evaluated(text_folder),
    )
    result = train(recipe, output=tmp_path / "run", evaluate=asking(asked), quiet=True)
    last = Path(result.final["path"])
    assert "quantization_config" not in config_of(last)
    torch.testing.assert_close(stock_logits(last), asked[-1], rtol=1e-4, atol=1e-4)
    assert (asked[-1] - asked[0]).abs().max() > 0.3
    if save == "adapter":
        base = Path(config_of_adapter(last / "adapter")["base_model_name_or_path"])
        assert config_of(base)["quantization_config"]["quant_method"] == "bitsandbytes"
        assert config_of(base)["rope_parameters"]["factor"] == 2
        torch.testing.assert_close(stock_logits(base, last / "adapter"), asked[-1], rtol=1e-4, atol=1e-4)


def test_a_packed_folder_trains_as_it_is_and_resumes_to_the_bit(
    tiny: Tiny, tmp_path: Path, plain: Path, bitsandbytes: Any
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = tmp_path / "packed"
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    told = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=told, dtype=torch.float32
    ).save_pretrained(folder)
    recipe = quick(tiny, folder, lora={"rank": 2, "save": "adapter"})
    whole = train(recipe, output=tmp_path / "whole", quiet=True)
    stopped_run(recipe, tmp_path / "parts", 3)
    train(output=tmp_path / "parts", resume=True, quiet=True)
    assert_same_run(whole.run, tmp_path / "parts")
    base = Path(config_of_adapter(Path(whole.final["path"]) / "adapter")["base_model_name_or_path"])
    assert (base / "model.safetensors").samefile(folder / "model.safetensors")
    torch.testing.assert_close(
        stock_logits(base, Path(whole.final["path"]) / "adapter"),
        stock_logits(Path(whole.final["path"])),
        rtol=1e-4,
        atol=1e-4,
    )


def test_packed_bytes_are_those_of_the_plan(plain: Path, bitsandbytes: Any) -> None:
    """Parameters and the states of their packing, adapters in float32: what `plan` counts, less its widened matrix."""
    from ropewalk.models.facts import read_facts
    from ropewalk.models.load import load_model
    from ropewalk.plan import shape_of
    from ropewalk.planning.memory import TrainingSetting, lora_parameters, training_memory
    from ropewalk.planning.setups import NF4
    from ropewalk.training.model.quantised import QUANTISED

    told = {"quant_method": "bitsandbytes"} | QUANTISED["nf4"]
    model = load_model(plain, device="cpu", dtype="bfloat16", quantisation=told)
    wrapped = add_lora(model, LoraOptions(rank=16))
    held = sum(tensor.numel() * tensor.element_size() for tensor in wrapped.parameters())
    for module in wrapped.modules():
        if is_packed(module):
            held += module.weight.quant_state.absmax.numel() * 4
    shape = shape_of(read_facts(config_of(plain)))
    counted = training_memory(shape, 64, TrainingSetting(lora_rank=16, stored=NF4))
    adapters = sum(tensor.numel() for tensor in wrapped.parameters() if tensor.requires_grad)
    assert adapters == lora_parameters(shape, 16)
    # The five norms are kept in bfloat16 and counted as packed.
    norms = int(5 * 64 * (2 - 4.5 / 8))
    assert held == counted.weights - 64 * 64 * 2 + norms
    assert (counted.gradients, counted.optimiser) == (adapters * 4, adapters * 8)
