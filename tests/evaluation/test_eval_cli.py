"""`ropewalk eval` as a user runs it: documents, tables, failures, an interruption finished later, two processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from eval_models import plain_loss, save, tiny
from launched import in_two

import ropewalk
from ropewalk.errors import UsageError
from ropewalk.evaluation.evaluate import evaluate

LENGTHS = ["--lengths", "160..320"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(
        tmp_path_factory.mktemp("model") / "tiny", tiny(std=0.2, max_position_embeddings=160), bos=True
    )


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(3):
        words = " ".join(f"{(number * 7919 + i * 104729) % 1000}" for i in range(200))
        (folder / f"{number}.txt").write_text(words)
    return folder


@pytest.fixture(scope="module")
def document(model_folder: Path, text_folder: Path) -> dict[str, Any]:
    return evaluate(
        model_folder, lengths="160..320", text=text_folder, samples=2, depths=2, max_segments=5
    ).to_json()


def test_the_document_has_the_contract_keys(document: dict[str, Any]) -> None:
    assert {"loss", "loss_by_position", "controls", "retrieval", "effective_length"} <= set(document)
    assert [row["length"] for row in document["loss"]] == [160, 320]
    assert {"length", "loss", "perplexity", "ci"} <= set(document["loss"][0])
    assert set(document["controls"]) >= {"cropped", "unmodified"}
    assert [row["length"] for row in document["controls"]["cropped"]] == [160, 320]
    assert {"task", "length", "depth", "accuracy", "chance"} <= set(document["retrieval"][0])
    assert document["effective_length"] is None
    assert document["original_length"] == 160
    assert json.loads(json.dumps(document)) == document


def test_the_numbers_are_those_of_a_plain_script(document: dict[str, Any], text_folder: Path) -> None:
    model = tiny(std=0.2, max_position_embeddings=160)
    rows = []
    for number in range(3):
        ids = [256, *encoded((text_folder / f"{number}.txt").read_text())]
        body = ids[1:]
        for turn in range(len(body) // 319):
            rows.append([256, *body[turn * 319 : (turn + 1) * 319]])
    assert document["text"]["segments"] == len(rows[:5]) == 5
    losses = plain_loss(model, torch.tensor(rows[:5]))
    assert document["loss"][1]["loss"] == pytest.approx(float(losses.mean()), rel=1e-4)
    assert document["loss"][0]["loss"] == pytest.approx(float(losses[:, :159].mean()), rel=1e-4)
    assert document["controls"]["cropped"][0]["loss"] == pytest.approx(document["loss"][0]["loss"], rel=1e-5)


def encoded(text: str) -> list[int]:
    from eval_models import byte_tokenizer

    return list(byte_tokenizer().encode(text, add_special_tokens=False))


def test_the_command_prints_one_document(
    cli: Callable[..., Any], model_folder: Path, text_folder: Path, document: dict[str, Any]
) -> None:
    words = ["--text", text_folder, "--samples", "2", "--depths", "2", "--max-segments", "5", "--json"]
    done = cli("eval", model_folder, *LENGTHS, *words)
    assert done.code == 0
    same = ("loss", "loss_by_position", "controls", "retrieval", "effective_length", "long_tokens", "verdict")
    assert {key: done.json[key] for key in same} == {key: document[key] for key in same}


def test_the_tables_and_the_words(cli: Callable[..., Any], model_folder: Path, text_folder: Path) -> None:
    done = cli("eval", model_folder, *LENGTHS, "--text", text_folder, "--tasks", "ppl", "--health", "-q")
    assert done.code == 0
    assert "tail cropped" in done.out
    assert "Beside cropped context the tail at 320 reads" in done.out
    assert "entropy share" in done.out
    assert "Next:" not in done.out


def test_layers_on_every_device(model_folder: Path, text_folder: Path, document: dict[str, Any]) -> None:
    result = evaluate(
        model_folder, lengths="160..320", text=text_folder, tasks="ppl", max_segments=5, device="all"
    )
    assert [row.loss for row in result.loss] == pytest.approx([row["loss"] for row in document["loss"]])


def test_sliding(model_folder: Path, text_folder: Path) -> None:
    settings = {"lengths": "160", "text": text_folder, "tasks": "ppl", "protocol": "sliding", "stride": 64}
    by_token = evaluate(model_folder, **settings)
    by_window = evaluate(model_folder, **settings, window_mean=True)
    assert by_token.text is not None
    assert by_token.text.segment_length == 320
    assert by_token.loss[0].loss != by_window.loss[0].loss
    assert by_token.controls.cropped[0].tail_gain == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--lengths", "1m"], 1, "are missing"),
        (["--lengths", "4"], 2, "too short to measure"),
        (["--lengths", "160", "--tasks", "nonsense"], 2, "nonsense"),
        (["--lengths", "160", "--window-mean"], 2, "--protocol sliding"),
        (["--lengths", "160", "--stride", "0"], 2, "stride=0"),
        (["--lengths", "160", "--crop-stride", "999"], 2, "crop_stride=999"),
        (["--lengths", "160", "--text", "no/such/file.txt"], 2, "no text at"),
        (["--lengths", "320", "--health", "--tasks", "passkey"], 2, "health is measured on text"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    cli: Callable[..., Any], model_folder: Path, text_folder: Path, words: list[str], code: int, said: str
) -> None:
    base = [] if "--text" in words else ["--text", str(text_folder)]
    done = cli("eval", model_folder, *base, "--depths", "2", "--json", *words)
    assert (done.code, said in done.complaint) == (code, True), done.complaint
    assert done.json["exit_code"] == code


def test_nan_names_the_cell(tmp_path: Path, text_folder: Path, cli: Callable[..., Any]) -> None:
    broken = tiny()
    broken.lm_head.weight.data[3] = float("nan")
    folder = save(tmp_path / "nan", broken)
    done = cli("eval", folder, "--lengths", "100", "--tasks", "ppl", "--text", text_folder)
    assert done.code == 1
    assert "0.txt (segment 0)" in done.complaint
    assert "position 1 " in done.complaint


def test_an_interrupted_run_is_finished_later(
    tmp_path: Path,
    model_folder: Path,
    text_folder: Path,
    document: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    settings = {"lengths": "160..320", "text": text_folder, "samples": 2, "depths": 2, "max_segments": 5}

    def stop_in(part: str) -> Callable[[int, int, str], None]:
        def listen(done: int, total: int, what: str) -> None:
            if what == part and done:
                raise KeyboardInterrupt

        return listen

    for part in ("model: text", "cropped: text", "model: retrieval"):
        with pytest.raises(KeyboardInterrupt):
            evaluate(model_folder, **settings, run=run, on_step=stop_in(part))
        assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    forwards = count_tokens(monkeypatch)
    result = evaluate(model_folder, **settings, run=run)
    same = ("loss", "loss_by_position", "controls", "retrieval", "effective_length", "long_tokens", "verdict")
    assert {key: result.to_json()[key] for key in same} == {key: document[key] for key in same}
    # Text and control were finished before: only retrieval is read again, and the probe of the engine.
    asked = sum(row["length"] for row in document["retrieval"]) * 2
    # A random model writes no answer: the questions of the shortest length are asked by choice as well.
    asked += sum(row["length"] for row in document["retrieval"] if row["length"] == 160) * 2
    answers = 4 * 8 * 10
    assert 0 < sum(forwards) < asked + answers + 100
    assert ropewalk.runs.open_run(run).status == "complete"


def count_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    from transformers.models.llama.modeling_llama import LlamaModel

    seen: list[int] = []
    real = LlamaModel.forward

    def forward(self: Any, input_ids: Any = None, **options: Any) -> Any:
        seen.append(input_ids.numel())
        return real(self, input_ids=input_ids, **options)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    return seen


def test_other_settings_do_not_finish_a_run(tmp_path: Path, model_folder: Path, text_folder: Path) -> None:
    run = tmp_path / "run"

    def stop(done: int, total: int, what: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model_folder, lengths="160", text=text_folder, tasks="ppl", run=run, on_step=stop)
    with pytest.raises(UsageError, match="begun with another seed"):
        evaluate(model_folder, lengths="160", text=text_folder, tasks="ppl", run=run, seed=1)


def test_the_base_model_is_the_unmodified_control(
    tmp_path: Path, model_folder: Path, text_folder: Path
) -> None:
    stretched = tiny(
        std=0.2,
        max_position_embeddings=320,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
    )
    folder = save(tmp_path / "stretched", stretched, bos=True)
    settings = {"lengths": "160..320", "text": text_folder, "tasks": "ppl", "original_length": 160}
    plain = evaluate(model_folder, lengths="160..320", text=text_folder, tasks="ppl")
    unknown = evaluate(folder, **settings)
    assert unknown.controls.unmodified == []
    assert "--base" in str(unknown.controls.unmodified_is)
    known = evaluate(folder, **settings, base=model_folder)
    assert [row.loss for row in known.controls.unmodified] == [row.loss for row in plain.loss]
    assert known.controls.unmodified[1].tail_gain == pytest.approx(
        known.controls.unmodified[1].tail_loss - known.loss[1].tail_loss, abs=1e-6
    )


def test_two_processes_give_the_same_document(
    tmp_path: Path, model_folder: Path, text_folder: Path, document: dict[str, Any]
) -> None:
    words = [
        sys.executable,
        "-m",
        "ropewalk",
        "eval",
        str(model_folder),
        *LENGTHS,
        "--text",
        str(text_folder),
    ]
    words += ["--samples", "2", "--depths", "2", "--max-segments", "5", "--device", "cpu", "--json"]
    words += ["-o", str(tmp_path / "run")]
    outputs = in_two(words)
    assert outputs[1] == ""
    shared = json.loads(outputs[0])
    assert shared["processes"] == 2
    same = ("loss", "loss_by_position", "controls", "retrieval", "effective_length", "long_tokens", "verdict")
    assert {key: shared[key] for key in same} == {key: document[key] for key in same}
    assert len(list((tmp_path / "run" / "cells").glob("scores-*.jsonl"))) == 2


def test_an_extended_checkpoint_is_measured_beside_itself_unscaled(
    tmp_path: Path, model_folder: Path, text_folder: Path
) -> None:
    ropewalk.extend(model_folder, target="2x", method="linear", out=tmp_path / "linear")
    stretched = evaluate(tmp_path / "linear", text=text_folder, tasks="ppl")
    plain = evaluate(model_folder, lengths=stretched.lengths, text=text_folder, tasks="ppl")
    assert stretched.lengths == [80, 160, 320]
    assert stretched.original_length == 160
    assert stretched.controls.unmodified_is == "the same weights without the scaling"
    assert [row.loss for row in stretched.controls.unmodified] == [row.loss for row in plain.loss]
    assert [row.tail_loss for row in stretched.controls.cropped_unmodified] == [
        row.tail_loss for row in plain.controls.cropped
    ]
    assert stretched.loss[0].loss != plain.loss[0].loss
    assert any("the unmodified model on cropped context" in line for line in stretched.verdict)


def test_the_output_says_how_much_of_the_text_was_read() -> None:
    from ropewalk.cli.eval_view import how_much
    from ropewalk.evaluation.result import TextUsed

    def used(**changes: Any) -> TextUsed:
        settings: dict[str, Any] = {
            "source": "notes", "documents": ["a", "b"], "segments": 8, "segment_length": 4096, "opening_tokens": 0,
            "joined": False, "sha256": "", "tokens": 32768, "tokens_available": 1_638_400, "segments_available": 400,
            "seconds": 24.0,
        }  # fmt: skip
        return TextUsed(**(settings | changes))

    [line] = how_much(used())
    assert line == (
        "Read 32.8k of about 1.64m tokens (2.0%). --max-segments 16 reads twice as much, about 24 s more for every "
        "reader; all 400 segments 20 min. Intervals need three documents."
    )
    assert how_much(used(tokens_available=32768)) == []
    assert "shorter than a segment" in how_much(used(segments_available=8))[0]


def test_a_reference_model_chooses_the_key_tokens(
    tmp_path: Path, model_folder: Path, text_folder: Path
) -> None:
    """By hand: the reference's whole and cropped readings, the rule, and the measured model's loss on what it chose."""
    other = save(tmp_path / "other", tiny(std=0.3, seed=3, max_position_embeddings=160), bos=True)
    settings = {
        "lengths": "160..320",
        "text": text_folder,
        "tasks": "ppl",
        "max_segments": 5,
        "key_gain": 0.05,
    }
    settings["key_floor"] = -9.0
    found = evaluate(model_folder, reference=str(other), **settings)
    own = evaluate(model_folder, **settings)
    assert found.key_tokens["reference"] == str(other)
    assert own.key_tokens["reference"] == "the model itself"

    rows = torch.tensor(rows_of(text_folder))
    far = plain_loss(tiny(std=0.3, seed=3, max_position_embeddings=160), rows)
    near = cropped_by_hand(tiny(std=0.3, seed=3, max_position_embeddings=160), rows)
    mask = (near - far >= 0.05) & (-far >= -9.0)
    mask[:, : 160 - 1] = False
    assert found.key_tokens["tokens"] == int(mask.sum()) > 50
    losses = plain_loss(tiny(std=0.2, max_position_embeddings=160), rows)
    assert found.key_token_loss == pytest.approx(float(losses[mask].mean()), abs=1e-5)
    assert own.key_token_loss != found.key_token_loss


def rows_of(text_folder: Path) -> list[list[int]]:
    """The five segments of 320 tokens, BOS included."""
    rows = []
    for number in range(3):
        body = encoded((text_folder / f"{number}.txt").read_text())
        rows += [[256, *body[turn * 319 : (turn + 1) * 319]] for turn in range(len(body) // 319)]
    return rows[:5]


def cropped_by_hand(model: Any, rows: torch.Tensor) -> torch.Tensor:
    """Windows of 160 that move by 20, each with BOS in place of its first token, scoring the last 20."""
    found = plain_loss(model, rows[:, :160])
    parts = [found]
    for end in range(180, 321, 20):
        window = rows[:, end - 160 : end].clone()
        window[:, 0] = 256
        parts.append(plain_loss(model, window)[:, -20:])
    return torch.cat(parts, dim=1)


def test_numbers_that_were_fitted_on_another_model_are_remarked(model_folder: Path, tmp_path: Path) -> None:
    geometry = ropewalk.read_geometry(model_folder)
    made = ropewalk.schedule("yarn", geometry, factor=2.0).to_json()
    heads = {"format": "ropewalk-temperatures/1", "factor": 2.0, "layers": {"0": [1.1] * 4}}
    files = {}
    for name, document in (("schedule", made), ("heads", heads)):
        for owner in (str(model_folder), "owner/other"):
            files[name, owner] = tmp_path / f"{name}-{len(owner)}.json"
            files[name, owner].write_text(json.dumps(document | {"fitted": {"model": owner}}))
    asked: dict[str, Any] = {"tasks": "ppl", "max_segments": 1}
    for owner in (str(model_folder), "owner/other"):
        schedule, temperature = str(files["schedule", owner]), str(files["heads", owner])
        single = evaluate(
            model_folder,
            lengths=[160],
            schedule=schedule,
            temperatures=[temperature],
            controls=False,
            **asked,
        )
        several = ropewalk.compare(
            model_folder,
            target=320,
            methods=["yarn", f"yarn+{temperature}"],
            schedules=[schedule],
            output=tmp_path / f"run-{len(owner)}",
            **asked,
        )
        found = {
            name: {
                remark.partition(" was fitted on")[0] for remark in result.remarks if "fitted on" in remark
            }
            for name, result in (("eval", single), ("compare", several))
        }
        wanted = set() if owner == str(model_folder) else {schedule, temperature}
        assert found == {"eval": wanted, "compare": wanted}
