"""A temperature in a run: folded into each checkpoint, taken up on resume, and said where no weights can hold it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tinymodels import small_model, some_tokens
from transformers import AutoModelForCausalLM

import ropewalk
from ropewalk.attention.options import PARAMETER, TemperatureOptions
from ropewalk.attention.temperature import measure_logit_std
from ropewalk.errors import DamagedError, UsageError
from ropewalk.training.model.lora import add_lora
from ropewalk.training.parts.tempering import Tempering
from ropewalk.training.recipe.model import LoraOptions

Tiny = Callable[..., dict[str, Any]]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "temperature",
    [
        {"rule": "per-head", "factor": 8.0, "learned": True},
        pytest.param({"rule": "per-head", "factor": 8.0}, marks=pytest.mark.slow),
        {"rule": "constant", "factor": 8.0, "divisor_power": 0.6},
    ],
)
def test_resume_equals_an_uninterrupted_run(tiny: Tiny, tmp_path: Path, temperature: dict[str, Any]) -> None:
    recipe = tiny(temperature=temperature, stages=[{"length": 32, "steps": 4}])
    whole = ropewalk.train(recipe, output=tmp_path / "whole", device="cpu", quiet=True)

    class StopError(Exception):
        pass

    def stop(model: Any, step: int) -> None:
        if step == 4:
            raise StopError

    recipe["evaluation"] = {"every": 4, "tokens": 32, "source": recipe["data"]["sources"][0]}
    with pytest.raises(StopError):
        ropewalk.train(recipe, output=tmp_path / "broken", device="cpu", quiet=True, evaluate=stop)
    again = ropewalk.train(recipe, output=tmp_path / "broken", resume=True, device="cpu", quiet=True)
    assert [path.name for path in again.checkpoints] == [path.name for path in whole.checkpoints]
    for mine, theirs in zip(again.checkpoints, whole.checkpoints):
        first, second = _weights(mine), _weights(theirs)
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
        assert not any(name.endswith(PARAMETER) for name in first)


def test_stock_software_computes_what_was_trained(tiny: Tiny, tmp_path: Path) -> None:
    seen = {}
    tokens = torch.arange(10, 42)[None]

    def keep(model: Any, step: int) -> None:
        with torch.no_grad():
            seen[step] = model(input_ids=tokens, use_cache=False).logits

    recipe = tiny(
        temperature={"rule": "per-head", "factor": 8.0, "learned": True},
        lora={"rank": 2, "train_norms": True},
        stages=[{"length": 32, "steps": 4}],
    )
    recipe["evaluation"] = {"every": 4, "tokens": 32, "source": recipe["data"]["sources"][0]}
    for name, changes in {"lora": {}, "whole": {"lora": None}}.items():
        done = ropewalk.train(
            recipe | changes, output=tmp_path / name, device="cpu", quiet=True, evaluate=keep
        )
        stock = AutoModelForCausalLM.from_pretrained(done.checkpoints[-1]).eval()
        with torch.no_grad():
            torch.testing.assert_close(stock(input_ids=tokens).logits, seen[4], rtol=1e-4, atol=1e-5)


def test_a_temperature_that_depends_on_position_is_announced(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny(temperature={"rule": "log-n", "original_length": 8}, stages=[{"length": 32, "steps": 1}])
    done = ropewalk.train(recipe, output=tmp_path / "run", device="cpu")
    assert "log-n depends on the position: checkpoints do not contain it" in capsys.readouterr().err
    assert not any(name.endswith(PARAMETER) for name in _weights(done.checkpoints[-1]))


def test_what_no_weights_can_hold_is_met_before_training(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(temperature={"rule": "per-head", "factor": 8.0})
    recipe["model"]["init"] |= {"model_type": "qwen3", "head_dim": 8}
    with pytest.raises(UsageError, match="share one query norm"):
        ropewalk.train(recipe, output=tmp_path / "run", device="cpu", quiet=True)
    with pytest.raises(UsageError, match="adapter cannot hold a temperature"):
        ropewalk.train(
            tiny(temperature={"rule": "constant", "factor": 2.0}, lora={"save": "adapter"}),
            output=tmp_path / "two",
        )


def test_a_new_model_is_initialised_for_its_length_and_a_checkpoint_never(tiny: Tiny, tmp_path: Path) -> None:
    def first_weights(name: str, **changes: Any) -> dict[str, torch.Tensor]:
        recipe = tiny(
            stages=[{"length": 32, "steps": 1}], optimizer={"learning_rate": 1e-30, "warmup_steps": 0}
        )
        recipe["model"] |= changes
        return _weights(
            ropewalk.train(recipe, output=tmp_path / name, device="cpu", quiet=True).checkpoints[-1]
        )

    plain = first_weights("plain")
    ruled = first_weights("ruled", initialise={"length": 32768, "qk": "entropy", "reference_length": 32})
    query = "model.layers.0.self_attn.q_proj.weight"
    assert ruled[query].std() > 2 * plain[query].std()
    assert torch.equal(ruled["model.embed_tokens.weight"], plain["model.embed_tokens.weight"])
    recipe = tiny()
    recipe["model"] = {"path": "anything", "initialise": {"length": 32768}}
    with pytest.raises(UsageError, match="initialise is for a new model"):
        ropewalk.train(recipe, output=tmp_path / "two")


def tempered(options: dict[str, Any], **fields: Any) -> tuple[Any, Tempering]:
    model = small_model(**fields)
    return model, Tempering(model, TemperatureOptions(**options), some_tokens(1, 64))


@pytest.mark.parametrize("options", [
    {"rule": "constant", "factor": 8.0},
    {"rule": "per-head", "factor": 8.0},
    {"rule": "per-head", "factor": 8.0, "learned": True},
])  # fmt: skip
def test_a_checkpoint_holds_the_folded_weights_and_beside_them_what_was_folded(
    options: dict[str, Any],
) -> None:
    plain = {name: tensor.clone() for name, tensor in small_model().state_dict().items()}
    spread = measure_logit_std(small_model(), some_tokens(1, 64))
    model, made = tempered(options)
    assert made.remark is None
    weights = dict(model.state_dict())
    own = {name: weights[name] for name in weights if name.endswith(PARAMETER)}
    assert len(own) == (0 if options["rule"] == "constant" else 2)
    queries = {f"model.layers.{n}.self_attn.q_proj.weight" for n in (0, 1)}
    for keep in (False, True):
        saved, kept = made.split(weights, own, keep_weights=keep)
        assert saved is not None
        assert saved.keys() == plain.keys()
        assert kept.keys() == own.keys() | (queries if keep else set())
        assert all(torch.equal(kept[name], plain[name]) for name in queries & kept.keys())
        assert all(kept[name] is own[name] for name in own)
        for name, tensor in saved.items():
            if name not in queries:
                assert tensor is weights[name]
                continue
            layer = int(name.split(".")[2])
            # The rule by hand: logits times t^2, or times kappa of the head.
            times = torch.full((4,), (0.1 * math.log(8) + 1) ** 2, dtype=torch.float64)
            if options["rule"] == "per-head":
                times = (1 + 2 * math.log(8) / spread[layer] ** 2) ** 0.5
            wanted = plain[name].double() * times.repeat_interleave(8)[:, None]
            torch.testing.assert_close(tensor.double(), wanted, rtol=1e-5, atol=1e-7)
    assert made.split(None, own, keep_weights=True) == (None, own)
    # Taken up again: what was kept, and nothing that the model does not have.
    fresh, again = tempered(options)
    changed = {
        name: tensor + 0.25
        for name, tensor in {**kept, "model.norm.weight": plain["model.norm.weight"]}.items()
    }
    again.put(changed)
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in changed.items())
    with pytest.raises(DamagedError, match=r"temperature does not fit the model: model\.other"):
        again.put({"model.other": torch.zeros(1)})


@pytest.mark.parametrize("rule", ["log-n", "step-log"])
def test_what_depends_on_the_position_is_in_no_weights(rule: str) -> None:
    model, made = tempered({"rule": rule, "original_length": 8, "period": 8})
    assert made.remark is not None
    assert made.remark.startswith(
        f"temperature {rule} depends on the position: checkpoints do not contain it"
    )
    assert f"that does not apply {rule} itself" in made.remark
    weights, own = dict(model.state_dict()), {"x": torch.zeros(1)}
    saved, kept = made.split(weights, own, keep_weights=True)
    assert saved is not None
    assert saved.keys() == weights.keys()
    assert all(saved[name] is tensor for name, tensor in weights.items())
    assert kept is own


def test_below_adapters_the_base_layers_are_what_is_folded_on_trial() -> None:
    wrapped = add_lora(small_model(), LoraOptions(rank=2))
    assert Tempering(
        wrapped, TemperatureOptions(rule="constant", factor=4.0), some_tokens(1, 32)
    ).applied.foldable
    shared = add_lora(small_model("qwen3", head_dim=8), LoraOptions(rank=2))
    with pytest.raises(UsageError, match="share one query norm"):
        Tempering(shared, TemperatureOptions(rule="per-head", factor=4.0), some_tokens(1, 32))
