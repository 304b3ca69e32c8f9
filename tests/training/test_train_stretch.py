"""Training under a stretched rope: the schedule follows the stages, and every checkpoint carries it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train_resume import assert_same_run, stopped_run

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.training.run import TrainResult, train

Tiny = Callable[..., dict[str, Any]]
STAGES = [{"length": 64, "steps": 2}, {"length": 128, "steps": 2}]
YARN = {"method": "yarn", "target_length": 128}


def stock(path: Path | str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path).eval()


def config_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "config.json").read_text())


@pytest.fixture
def base(tiny: Tiny, tmp_path: Path) -> TrainResult:
    """A model with a window of 32, trained from scratch."""
    return train(tiny(stages=[{"length": 32, "steps": 3}]), output=tmp_path / "base", quiet=True)


@pytest.mark.parametrize(("follow", "factors"), [("final", [4.0, 4.0]), ("stage", [2.0, 4.0])])
def test_the_schedule_follows_the_stages(
    tiny: Tiny, tmp_path: Path, follow: str, factors: list[float]
) -> None:
    recipe = tiny(stages=STAGES, rope=YARN | {"follow": follow}, checkpoints={"every": 2, "keep_last": None})
    result = train(recipe, output=tmp_path / "run", quiet=True)
    configs = [config_of(path) for path in result.checkpoints]
    assert [config["rope_parameters"]["factor"] for config in configs] == factors
    assert configs[-1]["max_position_embeddings"] == 128
    assert configs[-1]["rope_parameters"]["original_max_position_embeddings"] == 32


@pytest.mark.parametrize("method", ["yarn", "ntk", "by-parts", "llama3"])
def test_the_model_in_training_is_the_one_that_stock_software_loads(
    tiny: Tiny, tmp_path: Path, method: str
) -> None:
    rope = YARN | {"method": method}
    logits = []
    tokens = torch.arange(120)[None]

    def evaluate(model: Any, step: int) -> dict[str, float]:
        logits.append(model(input_ids=tokens, use_cache=False).logits.detach())
        return {"seen": 1.0}

    recipe = tiny(stages=STAGES, rope=rope, evaluation={"every": 4, "tokens": 64})
    recipe["evaluation"]["source"] = recipe["data"]["sources"][0]
    result = train(recipe, output=tmp_path / "run", evaluate=evaluate, quiet=True)
    with torch.no_grad():
        again = stock(result.final["path"])(input_ids=tokens, use_cache=False).logits
    assert torch.equal(logits[-1], again)


def test_a_stage_may_have_a_schedule_of_its_own(tiny: Tiny, tmp_path: Path) -> None:
    stages = [
        stage
        | {"rope": {"method": "abf", "target_length": stage["length"], "parameters": {"rope_theta": theta}}}
        for stage, theta in zip(STAGES, [5e4, 5e5])
    ]
    recipe = tiny(stages=stages, checkpoints={"every": 2, "keep_last": None})
    result = train(recipe, output=tmp_path / "run", quiet=True)
    assert [config_of(path)["rope_theta"] for path in result.checkpoints] == [5e4, 5e5]


def test_training_past_the_window_is_said(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(stages=[{"length": 64, "steps": 1}]), output=tmp_path / "run", quiet=True)
    assert "samples of 64 tokens, beyond the 32" in capsys.readouterr().err


def test_resume_under_a_schedule_is_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(stages=STAGES, rope=YARN | {"follow": "stage"}, checkpoints={"every": 1, "keep_last": None})
    train(recipe, output=tmp_path / "whole", quiet=True)
    stopped_run(recipe, tmp_path / "parts", 2)
    stopped_run(recipe, tmp_path / "parts", 4, resume=True)
    train(recipe, output=tmp_path / "parts", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("save", ["merged", "adapter"])
def test_lora_resumes_bit_for_bit_and_loads(tiny: Tiny, tmp_path: Path, base: TrainResult, save: str) -> None:
    recipe = tiny(
        model={"path": base.final["path"]},
        lora={"rank": 2, "save": save, "train_norms": True},
        rope=YARN,
        stages=STAGES,
        checkpoints={"every": 1, "keep_last": None},
    )
    whole = train(recipe, output=tmp_path / "whole", quiet=True)
    stopped_run(recipe, tmp_path / "parts", 3)
    parts = train(recipe, output=tmp_path / "parts", resume=True, quiet=True)
    for name in ("trained", "optimizer"):
        file = f"training/{name}.safetensors"
        assert (whole.checkpoints[-1] / file).read_bytes() == (parts.checkpoints[-1] / file).read_bytes()
    final = Path(whole.final["path"])
    assert config_of(final)["rope_parameters"]["factor"] == 4.0
    before, after = stock(base.final["path"]).state_dict(), stock(final).state_dict()
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert any("q_proj" in name for name in changed)
    assert not any("mlp" in name or "embed" in name for name in changed)
    assert (final / "adapter").is_dir() == (save == "adapter")
    assert_loads_as_trained(whole, save)


@torch.no_grad()
def assert_loads_as_trained(result: TrainResult, save: str) -> None:
    """Every checkpoint by transformers, our own loader and, where it has an adapter, plain peft: the same logits."""
    from peft import AutoPeftModelForCausalLM, PeftModel

    from ropewalk.models.load import load_model

    tokens = torch.arange(5, 105)[None]
    for path in result.checkpoints:
        wanted = stock(path)(tokens).logits
        assert torch.equal(load_model(path, device="cpu")(tokens).logits, wanted)
        stretched = config_of(path)["rope_parameters"]
        if save == "adapter":
            adapter = path / "adapter"
            plain = AutoPeftModelForCausalLM.from_pretrained(adapter).eval()
            torch.testing.assert_close(plain(tokens).logits, wanted, rtol=1e-4, atol=1e-5)
            bases = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
            assert config_of(Path(bases))["rope_parameters"] == stretched
            onto = PeftModel.from_pretrained(stock(bases), adapter).eval()
            torch.testing.assert_close(onto(tokens).logits, wanted, rtol=1e-4, atol=1e-5)
            # The base itself computes something else: what was loaded is the adapter's doing.
            assert (stock(bases)(tokens).logits - wanted).abs().max() > 1e-3


def test_what_lora_trains_in_full_is_kept_in_float32(tiny: Tiny, tmp_path: Path, base: TrainResult) -> None:
    """In bfloat16 a step of 1e-5 beside 1.0 rounds to nothing: here every norm moves, and the rest stays bfloat16."""
    for tied in (False, True):
        recipe = tiny(
            model={"path": base.final["path"], "dtype": "bfloat16"},
            lora={"rank": 2, "train_norms": True, "train_embeddings": tied, "save": "adapter"},
            optimizer={"learning_rate": 1e-5, "warmup_steps": 1},
            stages=[{"length": 32, "steps": 2}],
        )
        result = train(recipe, output=tmp_path / str(tied), quiet=True)
        trained = load_file(Path(result.final["path"]) / "training" / "trained.safetensors")
        before = stock(base.final["path"]).state_dict()
        names = [name for name in trained if ".lora_" not in name]
        assert any("norm" in name for name in names)
        assert any("embed" in name for name in names) == tied
        for name in names:
            assert trained[name].dtype == torch.float32
            old = before[name.removeprefix("base_model.model.")].bfloat16().float()
            assert not torch.equal(trained[name], old), name


def test_a_checkpoint_declares_the_bases_type_and_its_own_length(
    tiny: Tiny, tmp_path: Path, base: TrainResult
) -> None:
    source = tmp_path / "source"
    shutil.copytree(base.final["path"], source)
    config = config_of(source)
    (source / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    settings = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 32}))
    result = train(
        tiny(model={"path": str(source)}, rope=YARN, stages=[{"length": 64, "steps": 1}]),
        output=tmp_path / "run",
        quiet=True,
    )
    final = Path(result.final["path"])
    assert config_of(final)["dtype"] == "bfloat16"
    length = config_of(final)["max_position_embeddings"]
    assert length == 128
    assert json.loads((final / "tokenizer_config.json").read_text())["model_max_length"] == length


def test_a_sliding_window_can_be_widened(tiny: Tiny, tmp_path: Path, byte_tokenizer: Path) -> None:
    recipe = tiny(stages=[{"length": 32, "steps": 1}])
    recipe["model"]["init"] |= {"model_type": "mistral", "sliding_window": 8}
    small = train(recipe, output=tmp_path / "small", quiet=True)
    wide = train(
        tiny(model={"path": small.final["path"], "sliding_window": 24}, stages=[{"length": 32, "steps": 1}]),
        output=tmp_path / "wide",
        quiet=True,
    )
    assert config_of(Path(wide.final["path"]))["sliding_window"] == 24
    tokens = torch.arange(32)[None]
    other = tokens.clone()
    other[0, 4] = 200
    for result, reach in ((small, False), (wide, True)):
        model = stock(result.final["path"])
        with torch.no_grad():
            same = torch.equal(model(tokens).logits[0, 24], model(other).logits[0, 24])
        assert same != reach
    recipe = tiny()
    recipe["model"]["sliding_window"] = 16
    with pytest.raises(UsageError, match="no sliding window"):
        train(recipe, output=tmp_path / "none", quiet=True)


@pytest.mark.parametrize(
    "parts",
    [
        {"packing": {"boundaries": "block-diagonal"}},
        {"positions": {"kind": "pose"}, "rope": YARN},
        {"weighting": {"shape": {"shape": "ramp"}, "input_noise": {"share": 0.1}}},
        {"weighting": {"long_tokens": {"context": 16}}, "loss": {"engine": "chunked"}},
        {"memory": {"checkpointing": True}, "loss": {"engine": "plain"}},
        {"precision": "bfloat16", "micro_batch_tokens": 64},
    ],
    ids=lambda parts: "-".join(parts),
)
def test_the_parts_resume_bit_for_bit(tiny: Tiny, tmp_path: Path, parts: dict[str, Any]) -> None:
    recipe = tiny(stages=[{"length": 64, "steps": 3}], checkpoints={"every": 1, "keep_last": None}, **parts)
    train(recipe, output=tmp_path / "whole", quiet=True)
    stopped_run(recipe, tmp_path / "parts", 3)
    train(recipe, output=tmp_path / "parts", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_short_rows_keep_the_original_rotation(tiny: Tiny, tmp_path: Path, base: TrainResult) -> None:
    """Inside the original window the base's own logits to the bit, beyond it those of the schedule; in stock too."""
    ids = torch.arange(60)[None]
    seen: dict[str, list[torch.Tensor]] = {}
    for name in ("original", "stretched"):

        def evaluate(model: Any, step: int, name: str = name) -> dict[str, float]:
            rows = [model(input_ids=ids[:, :length], use_cache=False).logits for length in (32, 60)]
            seen.setdefault(name, []).extend(row.detach() for row in rows)
            return {"seen": 1.0}

        recipe = tiny(
            model={"path": str(base.final["path"])},
            stages=[{"length": 64, "steps": 1, "mix": {32: 0.5}}],
            rope=YARN | {"short_rows": name, "parameters": {"attention_factor": 1.0}},
            evaluation={"every": 1, "tokens": 64},
        )
        recipe["evaluation"]["source"] = recipe["data"]["sources"][0]
        result = train(recipe, output=tmp_path / name, evaluate=evaluate, quiet=True)
        with torch.no_grad():
            stretched = stock(result.final["path"])(input_ids=ids, use_cache=False).logits
            short = stock(result.final["path"])(input_ids=ids[:, :32], use_cache=False).logits
        assert torch.allclose(stretched, seen[name][3], atol=1e-5)
        assert torch.allclose(short, seen[name][2], atol=1e-5)
    with torch.no_grad():
        own = stock(base.final["path"])(input_ids=ids[:, :32], use_cache=False).logits
    assert torch.equal(seen["original"][0], own)
    # These tiny weights hardly look at positions, so the bits decide and not a distance.
    assert not torch.equal(seen["stretched"][0], own)
    assert not torch.allclose(seen["original"][1][:, :32], own, rtol=0, atol=1e-5)
    assert torch.allclose(seen["original"][1], seen["stretched"][1], atol=1e-5)
    assert (
        config_of(tmp_path / "original/checkpoints/step-000001")["rope_parameters"]["rope_type"] == "longrope"
    )


def test_short_rows_that_cannot_be_are_refused(tiny: Tiny, tmp_path: Path, base: TrainResult) -> None:
    rope = YARN | {"short_rows": "original"}
    model = {"path": str(base.final["path"])}
    with pytest.raises(UsageError, match="do not go together"):
        train(tiny(model=model, rope=rope | {"layers": "all"}), output=tmp_path / "a", quiet=True)
    shared = tiny(model=model, rope=rope, stages=[{"length": 64, "steps": 1}], engine={"context_parallel": 2})
    with pytest.raises(RopewalkError, match="short_rows looks at a whole row"):
        train(shared, output=tmp_path / "b", quiet=True)


def test_an_empty_model_has_its_buffers_and_none_of_its_weights(base: TrainResult) -> None:
    from ropewalk.models.load import load_model

    path = base.final["path"]
    whole, empty = (load_model(path, device="cpu", dtype="float32", empty=empty) for empty in (False, True))
    assert all(tensor.is_meta for tensor in empty.parameters())
    shapes = [{name: tensor.shape for name, tensor in model.named_parameters()} for model in (whole, empty)]
    assert shapes[0] == shapes[1]
    assert empty.lm_head.weight is empty.model.embed_tokens.weight
    for name, tensor in whole.named_buffers():
        assert torch.equal(empty.get_buffer(name), tensor), name
