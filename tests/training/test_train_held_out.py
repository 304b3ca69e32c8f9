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

from ropewalk.errors import UsageError
from ropewalk.training import held_out as held_out_module
from ropewalk.training.held_out import HeldOut, cropped_rows
from ropewalk.training.parts.loss.head import install_head
from ropewalk.training.parts.loss.losses import shift_labels
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
        # Windows of 32 follow each other by 16: a token is scored in the first that holds it.
        for start in range(0, 97, 16):
            with torch.no_grad():
                logits = model(input_ids=text[None, start : start + 32], use_cache=False).logits[0]
            for place in range(start + (16 if start else 1), start + 32):
                losses.append(functional.cross_entropy(logits[place - start - 1], text[place]).item())
    assert len(losses) == 4 * 127
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


def made(tiny: Tiny, byte_tokenizer: Path, longest: int = 128, window: int = 0, **part: Any) -> HeldOut:
    from transformers import AutoTokenizer

    given = {"every": 1, "source": tiny()["data"]["sources"][0]} | part
    tokenizer = AutoTokenizer.from_pretrained(byte_tokenizer)
    return HeldOut(EvaluationPart.model_validate(given), tokenizer, longest, window=window)


def test_what_a_length_leaves_over_is_not_read(tiny: Tiny, byte_tokenizer: Path) -> None:
    """Texts of the longest length, so many as the tokens make and four at the least; 48 goes twice into 128."""
    held = made(tiny, byte_tokenizer, lengths=[48, 128], tokens=1100)
    assert held.texts.shape == (8, 128)
    assert torch.equal(
        held.rows[48], torch.cat([text[at : at + 48][None] for text in held.texts for at in (0, 48)])
    )
    assert torch.equal(held.rows[128], held.texts)
    assert len(held.names) == len(set(held.owners)) > 1
    assert (len(held.owners), held.joined) == (8, False)
    assert made(tiny, byte_tokenizer, lengths=[128], tokens=128).texts.shape == (4, 128)
    alone = made(tiny, byte_tokenizer, longest=96, tokens=480)
    assert {length: tuple(rows.shape) for length, rows in alone.rows.items()} == {96: (5, 96)}
    with pytest.raises(UsageError, match=r"evaluation: .*length 99999 needs 99999") as caught:
        made(tiny, byte_tokenizer, lengths=[99999])
    assert "shorter evaluation.lengths" in str(caught.value.hint)


@pytest.mark.parametrize(("window", "kept"), [(0, 0), (1, 0), (2, 2), (127, 127), (128, 0), (500, 0)])
def test_a_window_that_holds_the_longest_text_crops_nothing(
    tiny: Tiny, byte_tokenizer: Path, window: int, kept: int
) -> None:
    held = made(tiny, byte_tokenizer, window=window, lengths=[128], tokens=128)
    assert held.window == kept


@pytest.mark.parametrize(
    ("length", "window"), [(8, 4), (9, 4), (10, 5), (12, 5), (7, 6), (7, 2), (6, 6), (30, 7)]
)
def test_every_token_is_scored_by_the_first_window_that_holds_it(length: int, window: int) -> None:
    texts = torch.arange(2 * length).view(2, length)
    rows, targets = cropped_rows(texts, window)
    wanted = []
    for text in texts.tolist():
        done = {0}
        start = 0
        while True:
            aim = [-100] * window
            for place in range(start + 1, start + window):
                if place not in done:
                    aim[place - start - 1] = text[place]
                    done.add(place)
            wanted.append((text[start : start + window], aim))
            if start == length - window:
                break
            start = min(start + window // 2, length - window)
        assert done == set(range(length))
    assert list(zip(rows.tolist(), targets.tolist(), strict=True)) == wanted


def test_losses_are_summed_by_text_however_many_rows_go_together(
    tiny: Tiny, byte_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 16 in texts of 128: three at a time where 48 tokens are, one where fewer than a row are."""
    model = small_model(vocab_size=300)
    held = made(tiny, byte_tokenizer, lengths=[16, 128], tokens=512)
    rows, targets = held.rows[16], shift_labels(held.rows[16])
    targets[3, :5] = -100
    plain = plain_losses(model, rows).double()
    plain[3, :5] = 0
    install_head(model, LossOptions())
    shapes: list[int] = []
    model.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: shapes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    for at_once, wanted in ((48, [3, 3, 2]), (4, [1] * 8), (8192, [8])):
        monkeypatch.setattr(held_out_module, "_AT_ONCE", at_once)
        shapes.clear()
        found = held.by_text(model, rows, targets)
        assert shapes == wanted * 4
        assert [count for _, count in found] == [115, 120, 120, 120]
        sums = plain.view(4, -1).sum(dim=1).tolist()
        assert [loss for loss, _ in found] == pytest.approx(sums, rel=1e-5)
    # Tokens count alike, whichever text they are of; a text without its fellows has no interval.
    said = held._measured("mean", "ci", model, rows, targets)
    assert said["mean"] == pytest.approx(sum(sums) / 475, rel=1e-5)
    means = [loss / count for loss, count in zip(sums, (115, 120, 120, 120), strict=True)]
    middle = sum(means) / 4
    assert said["ci"] == pytest.approx(
        1.96 * (sum((one - middle) ** 2 for one in means) / 3 / 4) ** 0.5, rel=1e-3
    )
    held.texts = held.texts[:1]
    assert held._measured("mean", "ci", model, rows[:8], targets[:8]) == {
        "mean": pytest.approx(means[0], rel=1e-5)
    }
    held.texts = made(tiny, byte_tokenizer, lengths=[128], tokens=512).texts[:2]
    assert set(held._measured("mean", "ci", model, rows[:16], targets[:16])) == {"mean", "ci"}
