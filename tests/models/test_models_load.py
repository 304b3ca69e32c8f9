"""Loading: what is refused, what falls back aloud, what comes out."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.extend import extend
from ropewalk.models.load import load_model, load_tokenizer, pick_device, quiet_transformers
from ropewalk.models.source import config_path as resolve_config
from ropewalk.models.source import resolve


def test_a_model_loads_in_evaluation_mode_float32_on_a_cpu(
    llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(llama, device="cpu")
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    assert load_model(llama, device="cpu", dtype="bfloat16").dtype == torch.bfloat16
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_config_file_itself_names_its_folder(llama: Path) -> None:
    assert load_model(llama / "config.json", device="cpu").config.model_type == "llama"
    assert load_tokenizer(llama / "config.json")("w3 w4")["input_ids"] == [3, 4]


@pytest.mark.parametrize("mode", ["symlink", "copy", "link"])
def test_what_extend_wrote_loads(mode: Any, llama: Path, tmp_path: Path) -> None:
    out = extend(llama, out=tmp_path / "out", target="4x", weights=mode).output
    model = load_model(out, device="cpu")
    assert model.config.max_position_embeddings == 256
    assert load_tokenizer(out).model_max_length == 256


def test_an_architecture_without_sdpa_runs_eager_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with quiet_transformers():
        model = tiny.tiny_model("gptj")
        model.save_pretrained(tmp_path / "gptj")
    assert not type(model)._supports_sdpa
    with caplog.at_level(logging.WARNING, logger="ropewalk"):
        loaded = load_model(tmp_path / "gptj", device="cpu")
    assert loaded.config._attn_implementation == "eager"
    assert "has no sdpa attention: running eager" in caplog.text
    with pytest.raises(RopewalkError, match="flex_attention"):
        load_model(tmp_path / "gptj", device="cpu", attn="flex_attention")


def test_wishes_that_cannot_be_met_are_refused(llama: Path) -> None:
    with pytest.raises(UsageError, match="attn="):
        load_model(llama, device="cpu", attn="magic")
    with pytest.raises(UsageError, match="dtype="):
        load_model(llama, device="cpu", dtype="float8")
    with pytest.raises(UsageError, match="is not a device"):
        load_model(llama, device="toaster")
    if not torch.cuda.is_available():
        with pytest.raises(RopewalkError, match="not on this machine"):
            pick_device("cuda:7")


def test_code_of_the_folders_own_is_refused_at_once(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil"}
    (llama / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (llama / "modeling_evil.py").write_text(
        "raise AssertionError('this code must never run')\n", encoding="utf-8"
    )
    for load in (load_model, load_tokenizer):
        with pytest.raises(RopewalkError, match="--trust-remote-code"):
            load(llama)


def test_a_config_that_stock_software_refuses_is_one_line(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    config["rope_parameters"] = {"rope_type": "ntk", "factor": 4.0, "rope_theta": 10000.0}
    (llama / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RopewalkError, match="does not load as a causal language model") as caught:
        load_model(llama, device="cpu")
    assert "ropewalk inspect" in str(caught.value)


def test_a_missing_tokenizer_is_named(llama: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (llama / name).unlink()
    with pytest.raises(RopewalkError, match="no tokenizer"):
        load_tokenizer(llama)


def _edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | changes), encoding="utf-8")


def test_a_layer_without_weights_is_refused_and_not_drawn_at_random(llama: Path) -> None:
    layers = json.loads((llama / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    _edit(llama / "config.json", num_hidden_layers=layers + 1)
    # A Llama's block is nine tensors.
    with pytest.raises(
        RopewalkError, match=rf"9 weights are missing \(first model\.layers\.{layers}\.input_layernorm"
    ):
        load_model(llama, device="cpu")


def test_a_layer_without_a_place_is_said_aloud(llama: Path, caplog: pytest.LogCaptureFixture) -> None:
    layers = json.loads((llama / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    _edit(llama / "config.json", num_hidden_layers=layers - 1)
    with caplog.at_level(logging.WARNING, logger="ropewalk"):
        load_model(llama, device="cpu")
    said = f"9 tensors of its weights have no place in the model (first model.layers.{layers - 1}.input_layernorm"
    assert said in caplog.text


def test_a_tensor_of_another_shape_is_named_with_both_shapes(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    _edit(llama / "config.json", vocab_size=config["vocab_size"] + 8)
    rows, width = config["vocab_size"], config["hidden_size"]
    with pytest.raises(
        RopewalkError, match=rf"\({rows}, {width}\) where config.json makes it \({rows + 8}, {width}\)"
    ):
        load_model(llama, device="cpu")


def test_a_configuration_that_is_refused_is_not_blamed_on_the_tokenizer(llama: Path) -> None:
    _edit(llama / "config.json", max_position_embeddings=64.0)
    for load in (load_model, load_tokenizer):
        with pytest.raises(RopewalkError, match="does not load as a causal language model") as caught:
            load(llama)
        assert "ropewalk inspect" in str(caught.value)
    _edit(llama / "config.json", max_position_embeddings=64)
    (llama / "config.json").write_bytes(b"\xef\xbb\xbf" + (llama / "config.json").read_bytes())
    with pytest.raises(RopewalkError, match="without the byte order mark"):
        load_model(llama, device="cpu")


def test_a_damaged_tokenizer_and_a_limit_that_is_text_are_named(llama: Path) -> None:
    _edit(llama / "tokenizer_config.json", model_max_length="64")
    with pytest.raises(RopewalkError, match=r"model_max_length='64'.*not a number"):
        load_tokenizer(llama)
    (llama / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(RopewalkError, match="fetch its tokenizer files again"):
        load_tokenizer(llama)


def test_an_index_that_transformers_does_not_load_is_refused_with_the_mend(llama: Path) -> None:
    index = llama / "model.safetensors.index.json"
    document = json.loads(index.read_text(encoding="utf-8"))
    del document["metadata"]
    index.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(RopewalkError, match=r'add "metadata": {}'):
        load_model(llama, device="cpu")
    _edit(index, metadata={})
    assert load_model(llama, device="cpu").config.model_type == "llama"


@pytest.mark.parametrize(
    ("name", "hint"), [("model.zip", "unpack it"), ("model.safetensors", "the folder that holds it")]
)
def test_a_file_that_is_no_model_says_what_to_give(name: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    for load in (load_model, load_tokenizer, resolve):
        with pytest.raises(RopewalkError, match=hint):
            load(tmp_path / name)


def test_the_makers_own_layout_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RopewalkError, match=r"params\.json is another layout"):
        resolve_config(tmp_path)


@pytest.mark.parametrize("source", [None, 5, b"folder", object()])
def test_what_is_no_path_is_refused_by_every_verb(source: Any, tmp_path: Path) -> None:
    import ropewalk

    for verb in (ropewalk.inspect, ropewalk.verify, load_model):
        with pytest.raises(UsageError, match="is not a path"):
            verb(source)
    with pytest.raises(UsageError, match="is not a path"):
        extend(source, out=tmp_path / "out", target="4x")
