"""Temperatures by name: as candidates and in requests, and folded into a checkpoint that stock software loads."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import ropewalk
from ropewalk.attention.saving import folding
from ropewalk.attention.temperature import attention_modules
from ropewalk.attention.tempers import Temper, is_temper, own_text, parse_temper
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.candidates.rows import named
from ropewalk.models.facts import read_facts

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from generation_models import model_of, some_tokens, whole_logits


def test_names_and_values() -> None:
    assert parse_temper("step-log:8k") == Temper("step-log", 8192.0)
    assert parse_temper("per-head") == parse_temper("Entropy-Matched") == Temper("entropy-matched")
    assert parse_temper("constant:1.1").options(4.0, 512).value == 1.1
    assert parse_temper("constant").options(4.0, 512).factor == 4.0
    assert parse_temper("step-log").options(4.0, 512).period == 512
    assert parse_temper("log-n").options(4.0, 512).original_length == 512
    assert [is_temper(word) for word in ("log-n", "constant:2", "q4", "sinks:4+2k")] == [
        True,
        True,
        False,
        False,
    ]
    for wrong in ("logn", "constant:0", "constant:x", "log-n:3", "entropy-matched:2", "constant:inf"):
        with pytest.raises(UsageError):
            parse_temper(wrong)
    with pytest.raises(UsageError, match="depends on the position"):
        folding("log-n")


def test_own_text_is_drawn_from_the_model() -> None:
    model = model_of("llama")
    found = own_text(model, 32)
    assert found.shape == (1, 32)
    assert torch.equal(found, own_text(model, 32))
    assert not torch.equal(found, own_text(model, 32, seed=1))
    generator = torch.Generator().manual_seed(0)
    shares = whole_logits(model, found[0, :1].tolist())[-1].softmax(-1)
    assert int(found[0, 1]) == int(torch.multinomial(shares, 1, generator=generator))


def test_rows_of_a_comparison_attend_at_a_temperature() -> None:
    model, ids = model_of("llama"), some_tokens(60)
    facts = read_facts(model.config.to_dict())
    # Before any row is measured.
    with pytest.raises(RopewalkError, match=r"lost\.json \(No such file"):
        named(["yarn+lost.json"], facts, 128)
    rows, _ = named(["yarn+log-n", "none+constant:1.2", "zones+log-n+q8", "linear+q8"], facts, 128)
    assert [(row.name, row.kind) for row in rows] == [
        ("yarn+log-n", "temperature"),
        ("unmodified+constant:1.2", "temperature"),
        ("zones+log-n+q8", "cache"),
        ("linear+q8", "cache"),
    ]
    before = whole_logits(model, ids)
    with rows[1].apply(model):
        found = whole_logits(model, ids)
    # The logits of every head times 1.2 squared: the scaling of the model itself, raised as much.
    scalings = {module: module.scaling for module in attention_modules(model).values()}
    for module, scaling in scalings.items():
        module.scaling = scaling * 1.44
    wanted = whole_logits(model, ids)
    for module, scaling in scalings.items():
        module.scaling = scaling
    assert torch.allclose(found, wanted, atol=1e-5)
    with rows[0].apply(model):
        growing = whole_logits(model, ids)
    with ropewalk.apply(model, ropewalk.schedule("yarn", facts.geometry, factor=128 / facts.original_length)):
        plain = whole_logits(model, ids)
    window = facts.original_length
    assert torch.allclose(growing[: window - 1], plain[: window - 1], atol=1e-5)
    assert not torch.allclose(growing[-1], plain[-1], atol=1e-4)
    assert torch.equal(whole_logits(model, ids), before)


def test_a_request_takes_the_temperature_in_its_wider_windows_only() -> None:
    model, ids = model_of("llama"), some_tokens(60)
    window = read_facts(model.config.to_dict()).original_length
    settings = {"max_new_tokens": 2, "stop_at_end": False}
    inside = [
        ropewalk.generate(model, ids[:20], **settings, **more)
        for more in ({}, {"attention_temperature": "constant:1.3"})
    ]
    assert inside[0].logprobs == inside[1].logprobs
    beyond = ropewalk.generate(model, ids, attention_temperature="constant:1.3", method="linear", **settings)
    geometry = read_facts(model.config.to_dict()).geometry
    factor = beyond.factor
    assert factor == 2.0 ** math.ceil(math.log2((60 + 2) / window))
    with (
        ropewalk.apply(model, ropewalk.schedule("linear", geometry, factor=factor)),
        parse_temper("constant:1.3").applied(model, factor, window),
    ):
        wanted = whole_logits(model, ids)[-1].log_softmax(-1).max()
    assert beyond.logprobs[0] == pytest.approx(float(wanted), abs=1e-4)
    assert beyond.ladder == "linear at constant:1.3"


@pytest.mark.parametrize(("kind", "name"), [("llama", "entropy-matched"), ("qwen3", "constant:1.15")])
def test_stock_software_computes_the_folded_temperature(kind: str, name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, ids = model_of(kind), torch.tensor([some_tokens(40)])
    model.save_pretrained(tmp_path / "base")
    base = tmp_path / "base" / "model.safetensors"
    kept = base.read_bytes()
    made = ropewalk.extend(
        tmp_path / "base", output=tmp_path / "out", factor=4.0, method="linear", finish=folding(name)
    )
    assert f"--temperature {name}" in made.command
    assert base.read_bytes() == kept
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    plain = ropewalk.extend(tmp_path / "base", output=tmp_path / "plain", factor=4.0, method="linear")
    mine = ropewalk.load_model(str(plain.output), device="cpu")
    window = read_facts(mine.config.to_dict()).original_length
    with torch.no_grad():
        found, unchanged = stock(ids).logits, mine(ids).logits
        with parse_temper(name).applied(mine, 4.0, window):
            wanted = mine(ids).logits
    assert torch.allclose(found, wanted, atol=2e-5)
    assert not torch.allclose(found, unchanged, atol=1e-3)
    document = json.loads((tmp_path / "out" / "ropewalk.json").read_text())
    assert document["temperature"]["name"] == parse_temper(name).name
    assert len(document["temperature"]["tensors"]) >= mine.config.num_hidden_layers
    checks = {check.name: check.status for check in ropewalk.verify(tmp_path / "out").checks}
    assert "fail" not in checks.values()


def test_heads_that_share_a_norm_take_no_constants_of_their_own(tmp_path: Path) -> None:
    model_of("qwen3").save_pretrained(tmp_path / "base")
    with pytest.raises(UsageError, match="share one query norm"):
        ropewalk.extend(
            tmp_path / "base",
            output=tmp_path / "out",
            factor=4.0,
            method="linear",
            finish=folding("entropy-matched"),
        )
    assert not (tmp_path / "out").exists()


def test_a_file_of_no_layer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "heads.json"
    file.write_text(json.dumps({"format": "ropewalk-temperatures/1", "factor": 2.0, "layers": {}}))
    with pytest.raises(UsageError, match="temperatures of no layer: write one positive number a head"):
        parse_temper(str(file))


def test_a_disk_that_is_too_full_to_fold_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors raises an error of its own there, which reached the user as unexpected."""
    import safetensors.torch

    def full(*_arguments: object, **_keywords: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    model_of("llama").save_pretrained(tmp_path / "base")
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(
        RopewalkError, match=r"cannot write model\.safetensors anew .*No space left.*: check free space"
    ):
        ropewalk.extend(
            tmp_path / "base", output=tmp_path / "out", factor=4.0, finish=folding("constant:1.1")
        )
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
