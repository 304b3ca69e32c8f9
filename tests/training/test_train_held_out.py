"""The evaluation of a run: the same tokens at every length and step, from step 0 on, with interval and control."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_resume import metrics_of
from tinymodels import small_model
from torch.nn import functional

from ropewalk.training.held_out import HeldOut
from ropewalk.training.parts.loss.head import install_head
from ropewalk.training.parts.loss.options import LossOptions
from ropewalk.training.recipe.recipe import EvaluationPart
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]


@pytest.fixture
def held_out(tiny: Tiny, byte_tokenizer: Path) -> HeldOut:
    from transformers import AutoTokenizer

    source = tiny()["data"]["sources"][0]
    part = {"every": 1, "lengths": [16, 32, 128], "tokens": 512, "source": source}
    tokenizer = AutoTokenizer.from_pretrained(byte_tokenizer)
    return HeldOut(EvaluationPart.model_validate(part), tokenizer, 128, window=32)


@torch.no_grad()
def plain_losses(model: Any, rows: torch.Tensor) -> torch.Tensor:
    """The loss of every predicted token, (rows, length - 1), as transformers' logits give it."""
    logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
    flat = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), rows[:, 1:].reshape(-1), reduction="none"
    )
    return flat.view(rows.shape[0], -1)


def test_every_length_reads_the_same_tokens(held_out: HeldOut) -> None:
    assert held_out.texts.shape == (4, 128)
    for length, rows in held_out.rows.items():
        assert rows.shape == (4 * 128 // length, length)
        assert torch.equal(rows.flatten(), held_out.texts.flatten())


def test_losses_are_means_over_predicted_tokens_with_their_interval(held_out: HeldOut) -> None:
    """T - 1 tokens of a row of T are predicted; the interval is over the four texts."""
    model = small_model(vocab_size=300)
    wanted = {length: plain_losses(model, rows) for length, rows in held_out.rows.items()}
    install_head(model, LossOptions())
    found = held_out(model, 0)
    for length, losses in wanted.items():
        assert losses.shape[1] == length - 1
        assert found[f"loss@{length}"] == pytest.approx(losses.mean().item(), rel=1e-5)
        means = losses.view(4, -1).mean(dim=1).double()
        spread = ((means - means.mean()) ** 2).sum().item() / 3
        assert found[f"ci@{length}"] == pytest.approx(1.96 * (spread / 4) ** 0.5, rel=1e-3)
    assert found["loss"] == pytest.approx(sum(found[f"loss@{n}"] for n in wanted) / 3)


def test_the_cropped_control_sees_a_window_and_scores_every_token(held_out: HeldOut) -> None:
    model = small_model(vocab_size=300)
    losses = []
    for text in held_out.texts:
        for place in range(1, 128):
            # Windows of 32 follow each other by 16: a token is scored in the first that holds it.
            start = 0 if place < 32 else min((place - 16) // 16 * 16, 96)
            with torch.no_grad():
                logits = model(input_ids=text[None, start:place], use_cache=False).logits[0, -1]
            losses.append(functional.cross_entropy(logits, text[place]).item())
    install_head(model, LossOptions())
    assert held_out(model, 0)["cropped@128"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_a_run_begins_with_an_evaluation(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny(
        stages=[{"length": 64, "steps": 4}],
        rope={"method": "yarn", "target_length": 64},
        evaluation={"every": 4, "lengths": [32, 64], "tokens": 256},
    )
    recipe["evaluation"]["source"] = recipe["data"]["sources"][0]
    seen: list[int] = []

    def evaluate(model: Any, step: int) -> None:
        seen.append(step)

    run = train(recipe, output=tmp_path / "run", quiet=True, evaluate=evaluate).run
    lines = [line for line in metrics_of(run) if line["kind"] == "evaluation"]
    assert seen == [line["step"] for line in lines] == [0, 4]
    assert {"loss@32", "ci@32", "loss@64", "ci@64", "cropped@64", "cropped_ci@64"} <= lines[0].keys()
    # A new model knows nothing: 257 tokens, all alike.
    assert lines[0]["loss@64"] == pytest.approx(5.55, abs=0.1)
    assert lines[1]["loss@64"] < lines[0]["loss@64"]
