"""`compare` on a tiny random model: parity with plain forwards, controls, interruption, the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from ropewalk.errors import UsageError
from ropewalk.evaluation.compare.comparison import Step, compare
from ropewalk.evaluation.compare.measure import cut_windows, span_of
from ropewalk.hemp.tokenizer import VOCAB_SIZE, write_tokenizer
from ropewalk.runs import open_run
from ropewalk.text.corpus import Document

WINDOW, TARGET = 64, 320
TEXT = "".join(
    f"line {number}: the quick brown fox jumps over {number * 7919 % 1000} lazy dogs\n"
    for number in range(90)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny")
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=256,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def result(folder: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory):
    run = tmp_path_factory.mktemp("runs") / "one"
    return compare(
        folder,
        target="5x",
        methods=["linear", "yarn"],
        text=text_file,
        windows=3,
        samples=1,
        depths=2,
        run=run,
    )


def plain_losses(folder: Path, ids: list[int], **rope: object) -> torch.Tensor:
    """The loss of every token but the first, by transformers alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    if rope:
        config.rope_parameters = {"rope_theta": 10000.0, **rope}
    model = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")


def windows_of(folder: Path, text_file: Path) -> list[list[int]]:
    from ropewalk.models.load import load_tokenizer

    return cut_windows(load_tokenizer(folder), [Document("text", text_file.read_text())], TARGET, 3, 0).rows


@pytest.mark.parametrize(
    ("name", "rope"), [("unmodified", {}), ("linear", {"rope_type": "linear", "factor": 5.0})]
)
def test_losses_are_those_of_stock_transformers(
    result, folder: Path, text_file: Path, name: str, rope: dict
) -> None:
    span = span_of(WINDOW)
    losses = [plain_losses(folder, ids, **rope) for ids in windows_of(folder, text_file)]
    row = result.row(name)
    for item in row.loss:
        expected = torch.stack(
            [loss[item.length - 1 - span : item.length - 1].mean() for loss in losses]
        ).mean()
        assert item.loss == pytest.approx(float(expected), abs=2e-4)
    inside = torch.stack([loss[: WINDOW - 1].mean() for loss in losses]).mean()
    assert row.loss_in_window == pytest.approx(float(inside), abs=2e-4)


def test_cropped_control_sees_the_last_window_only(result, folder: Path, text_file: Path) -> None:
    span = span_of(WINDOW)
    ends = [plain_losses(folder, ids[-WINDOW:])[-span:].mean() for ids in windows_of(folder, text_file)]
    assert result.controls["cropped"].loss_at_target == pytest.approx(
        float(torch.stack(ends).mean()), abs=2e-4
    )
    plain = result.controls["unmodified"]
    assert result.controls["cropped"].loss_in_window == pytest.approx(plain.loss_in_window, abs=1e-5)


def test_rows_are_ranked_and_paired(result) -> None:
    losses = [row.loss_at_target for row in result.methods]
    assert losses == sorted(losses)
    assert [row.rank_text for row in result.methods] == list(range(1, len(losses) + 1))
    for row in result.methods:
        gap = row.loss_at_target - result.controls["cropped"].loss_at_target
        assert row.loss_vs_cropped.difference == pytest.approx(gap, abs=1e-9)
        assert row.loss_vs_cropped.low <= gap <= row.loss_vs_cropped.high
    assert "yarn, fitted betas" in {row.name for row in result.methods}


def test_retrieval_is_asked_at_the_target_where_the_window_is_too_short(result) -> None:
    assert {item.length for item in result.methods[0].retrieval} == {TARGET}
    assert [item.name for item in result.not_measured] == ["retrieval inside the window"]
    assert result.controls["cropped"].retrieval_at_target == pytest.approx(0.0, abs=0.51)
    assert result.questions == 2


def test_the_run_holds_the_result(result) -> None:
    stored = open_run(result.run)
    assert stored.kind == "compare"
    assert stored.status == "complete"
    assert stored.read_json() == result.to_json()


def test_an_interrupted_comparison_is_completed(
    folder: Path, text_file: Path, tmp_path: Path, result
) -> None:
    run = tmp_path / "run"
    given = {
        "target": "5x",
        "methods": ["linear", "yarn"],
        "text": text_file,
        "windows": 3,
        "samples": 1,
        "depths": 2,
    }

    def stop(step: Step) -> None:
        if step.row is not None and step.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(folder, run=run, on_step=stop, **given)
    halted = open_run(run)
    assert halted.status == "interrupted"
    assert halted.read_json()["complete"] is False
    assert [row["name"] for row in halted.read_json()["methods"]] == ["linear"]

    with pytest.raises(UsageError, match="windows"):
        compare(folder, run=run, **(given | {"windows": 2}))

    told: list[Step] = []
    again = compare(folder, run=run, on_step=told.append, **given)
    kept = [step.name for step in told if step.row is not None and step.kept]
    assert kept == ["unmodified", "cropped", "linear"]
    for row in again.methods:
        assert row.loss_at_target == pytest.approx(result.row(row.name).loss_at_target, abs=1e-6)


def test_the_model_is_left_as_it_was(folder: Path, text_file: Path, tmp_path: Path) -> None:
    """The first candidate and the last give the same figures whatever ran between them."""
    given = {"target": "2x", "text": text_file, "windows": 2, "tasks": ()}
    alone = compare(folder, methods=["yarn"], run=tmp_path / "a", **given)
    among = compare(folder, methods=["ntk", "longrope", "linear", "yarn"], run=tmp_path / "b", **given)
    assert among.row("yarn").loss_at_target == pytest.approx(alone.row("yarn").loss_at_target, abs=1e-6)
    assert among.row("yarn").retrieval_at_target is None
    assert among.verdict.retrieval is None


def test_command_line(cli, folder: Path, text_file: Path, tmp_path: Path) -> None:
    words = [
        "compare",
        folder,
        "--target",
        "2x",
        "--methods",
        "linear,ntk",
        "--text",
        text_file,
        "--windows",
        "2",
    ]
    outcome = cli(*words, "--tasks", "none", "-o", tmp_path / "run", "--json")
    assert outcome.code == 0
    document = outcome.json
    assert {"methods", "controls", "verdict", "run"} <= document.keys()
    assert {"text", "retrieval", "beats_cropping", "summary"} <= document["verdict"].keys()
    for row in document["methods"]:
        assert {"name", "loss_at_target", "loss_in_window", "retrieval_at_target"} <= row.keys()
        assert math.isfinite(row["loss_at_target"])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["run"] == document["run"]

    shown = cli(*words[:-2], "--windows", "1", "--tasks", "none", "-o", tmp_path / "table", "-q")
    assert shown.code == 0
    assert "unmodified" in shown.out
    assert "Next: ropewalk extend" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--methods", "yarm"], "yarn"),
        (["--target", "0.5x"], "target"),
        (["--windows", "0"], "windows=0"),
        (["--text", "./nowhere.txt"], "nowhere"),
    ],
)
def test_wrong_usage_names_the_way_out(cli, folder: Path, words: list[str], part: str) -> None:
    outcome = cli("compare", folder, *words)
    assert outcome.code == 2
    assert part in outcome.complaint


def test_short_text_is_refused_with_the_numbers(cli, folder: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    outcome = cli("compare", folder, "--text", short)
    assert outcome.code == 1
    assert "9 tokens" in outcome.complaint
