"""Rows shared by two processes: the losses and weights of one process, whichever way they are shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_train_distributed import launch
from test_train_resume import metrics_of

from ropewalk.attention.sharing import Sharing
from ropewalk.errors import UsageError
from ropewalk.training.engine import start_engine
from ropewalk.training.recipe import EnginePart, Recipe
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]

PARTS: dict[str, dict[str, Any]] = {
    "plain": {"rope": {"method": "yarn", "target_length": 128}},
    "packed": {"packing": {"boundaries": "block-diagonal"}, "memory": {"checkpointing": True}},
    "skipping": {
        "positions": {"kind": "pose", "target_length": 256},
        "weighting": {"shape": {"low": 0.5, "high": 1.5}, "input_noise": {"share": 0.2}},
    },
}


def recipe_for(tiny: Tiny, parts: str, **engine: Any) -> dict[str, Any]:
    """Two lengths, accumulation, an evaluation; a grouped-query model without dropout."""
    made = tiny(
        stages=[{"length": 64, "steps": 3, "mix": {32: 0.3}}, {"length": 128, "steps": 3}],
        tokens_per_step=448,
        micro_batch_tokens=128,
        checkpoints={"every": 4, "keep_last": None},
        evaluation={"every": 3, "tokens": 256},
        engine=engine,
        **PARTS[parts],
    )
    made["model"]["init"]["attention_dropout"] = 0.0
    made["evaluation"]["source"] = made["data"]["sources"][0]
    return made


@pytest.mark.slow
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
@pytest.mark.parametrize("way", ["context_parallel", "sequence_parallel"])
def test_two_processes_that_share_rows_are_one(
    tiny: Tiny, tmp_path: Path, parts: str, engine: str, way: str
) -> None:
    from transformers import AutoModelForCausalLM

    single = train(recipe_for(tiny, parts, name="single"), output=tmp_path / "single", quiet=True, device="cpu")
    done = launch(recipe_for(tiny, parts, name=engine, **{way: 2}), tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    mine, theirs = metrics_of(single.run), metrics_of(tmp_path / "two")
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    for one, two in zip(mine, theirs):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two.get("tokens") == one.get("tokens")
    one, two = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name / "checkpoints" / "step-000006").state_dict()
        for name in ("single", "two")
    )
    for name, tensor in one.items():
        assert tensor.isclose(two[name], rtol=1e-3, atol=1e-4).all(), name
