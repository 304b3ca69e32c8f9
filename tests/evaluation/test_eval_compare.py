"""`compare` on a tiny random model: parity with plain forwards, controls, interruption, the command line."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ropewalk
from ropewalk.errors import UsageError
from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.evaluation.candidates.rows import named
from ropewalk.evaluation.compare import Step, compare
from ropewalk.evaluation.evaluate import evaluate
from ropewalk.evaluation.request import CompareRequest, EvalRequest
from ropewalk.models.facts import read_facts
from ropewalk.runs import open_run
from ropewalk.training.hemp.tokenizer import VOCAB_SIZE, write_tokenizer

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
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four documents of several segments each: enough for intervals."""
    path = tmp_path_factory.mktemp("text")
    for number in range(4):
        (path / f"{number}.txt").write_text(TEXT[number * 400 : number * 400 + 900])
    return path


ASKED: dict[str, Any] = {
    "target": "5x",
    "methods": ["linear", "yarn"],
    "max_segments": 4,
    "samples": 1,
    "depths": 2,
}
SPAN = TARGET // 4


@pytest.fixture(scope="module")
def result(folder: Path, text_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    return compare(folder, text=text_folder, output=tmp_path_factory.mktemp("runs") / "one", **ASKED)


@functools.cache
def stock(folder: Path, **rope: object) -> Any:
    """The model by transformers alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    if rope:
        config.rope_parameters = {"rope_theta": 10000.0, **rope}
    return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32).eval()


def plain_rows(folder: Path, rows: list[list[int]], **rope: object) -> torch.Tensor:
    """The loss of every token but the first of each row, from one plain forward: (rows, tokens - 1)."""
    ids = torch.tensor(rows)
    with torch.no_grad():
        logits = stock(folder, **rope)(ids, use_cache=False).logits[:, :-1].double()
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def plain_losses(folder: Path, ids: list[int], **rope: object) -> torch.Tensor:
    """The loss of every token but the first of one row."""
    return plain_rows(folder, [ids], **rope)[0]


def texts_of(text_folder: Path) -> list[list[int]]:
    """The first 320 bytes of each document: this tokenizer's ids are the bytes."""
    return [list((text_folder / f"{number}.txt").read_bytes()[:TARGET]) for number in range(4)]


@pytest.mark.parametrize(
    ("name", "rope"), [("unmodified", {}), ("linear", {"rope_type": "linear", "factor": 5.0})]
)
def test_loss_tables_are_those_of_a_plain_forward(
    result, folder: Path, text_folder: Path, name: str, rope: dict
) -> None:
    losses = torch.stack([plain_losses(folder, ids, **rope) for ids in texts_of(text_folder)])
    row = result.row(name)
    for item in row.loss:
        assert item.loss == pytest.approx(float(losses[:, : item.length - 1].mean()), abs=1e-6)
        tail = losses[:, item.length - 1 - item.length // 4 : item.length - 1]
        assert item.tail_loss == pytest.approx(float(tail.mean()), abs=1e-6)
    assert row.loss_at_target == pytest.approx(float(losses[:, -SPAN:].mean()), abs=1e-6)
    assert row.loss_in_window == pytest.approx(float(losses[:, : WINDOW - 1].mean()), abs=1e-6)


def test_the_cropped_control_sees_what_it_says(result, folder: Path, text_folder: Path) -> None:
    """Windows of 64 that move by 8: a token sees 56 to 63 others, and no more."""
    assert (result.crop_length, result.crop_stride) == (WINDOW, WINDOW // 8)
    assert result.contexts == "the last 56 to 63 tokens"
    ends = []
    for ids in texts_of(text_folder):
        stops = range(WINDOW, TARGET + 1, 8)
        windows = plain_rows(folder, [ids[end - WINDOW : end] for end in stops])
        found = windows[:, -8:].flatten().tolist()
        ends.append(sum(found[-SPAN:]) / SPAN)
    control = result.controls["cropped"]
    assert control.loss_at_target == pytest.approx(sum(ends) / 4, abs=1e-6)
    plain = result.controls["unmodified"]
    assert control.loss_in_window == pytest.approx(plain.loss_in_window, abs=1e-6)


def test_the_curve_runs_along_the_text(result, folder: Path, text_folder: Path) -> None:
    losses = torch.stack([plain_losses(folder, ids) for ids in texts_of(text_folder)]).mean(dim=0)
    curve = result.controls["unmodified"].curve
    assert len(curve) == 64
    parts = [part.mean() for part in np.array_split(losses.numpy(), 64)]
    assert curve == pytest.approx(parts, abs=2e-5)


def test_the_cropped_control_is_asked_with_the_end_of_the_prompt_alone(folder: Path) -> None:
    """Held by a plain forward over the last 64 tokens, the answer among them: what stands before plays no part."""
    from ropewalk.evaluation.retrieval.run import Asking, plan_tasks, run_cropped
    from ropewalk.models.load import load_tokenizer

    tokenizer = load_tokenizer(folder)
    plan = plan_tasks(
        tokenizer, Asking(tasks=["passkey"], lengths=[160], depths=3, samples=2), template="compact"
    )
    found = {score.key: score for score in run_cropped(stock(folder), tokenizer, plan, WINDOW)}
    samples = [sample for group in plan.groups for sample in group]
    assert len(found) == len(samples) == 6
    for sample in samples:
        whole = [*sample.prompt_ids.tolist(), *sample.answer_ids]
        scored = [token for span in sample.answer if span.scored for token in span.ids]
        assert scored == list(sample.answer_ids)
        losses = plain_losses(folder, whole[-WINDOW:])[-len(scored) :]
        assert found[sample.key].logprob == pytest.approx(-float(losses.sum()), rel=1e-4)
        assert found[sample.key].logprob != pytest.approx(
            -float(plain_losses(folder, whole)[-len(scored) :].sum()), rel=1e-4
        )


def test_an_exact_crop_is_there_to_be_asked_for(folder: Path, text_folder: Path, tmp_path: Path) -> None:
    exact = compare(
        folder,
        text=text_folder,
        output=tmp_path / "run",
        tasks="ppl",
        crop_stride=1,
        **(ASKED | {"target": "2x"}),
    )
    assert exact.contexts == "exactly the last 63 tokens"
    ids = texts_of(text_folder)
    expected = plain_rows(folder, [row[end - WINDOW : end] for row in ids for end in range(97, 129)])[:, -1]
    assert exact.controls["cropped"].loss_at_target == pytest.approx(float(expected.mean()), abs=1e-6)


def test_what_context_is_worth_is_read_on_the_same_tokens(result, folder: Path, text_folder: Path) -> None:
    found = result.verdict.fine_tuning
    assert found.contexts == [16, 32, 64]
    for context, loss in zip(found.contexts, found.losses, strict=True):
        step, wanted = context // 8, dict[int, list[int]]()
        for first in range(TARGET - SPAN, TARGET):
            # The tail's windows end at its first token and every `step` behind it.
            end = TARGET - SPAN + 1 + step * -(-(first - TARGET + SPAN) // step)
            if context == WINDOW:
                end = WINDOW + 8 * -(-(first + 1 - WINDOW) // 8)
            wanted.setdefault(end, []).append(first - (end - context) - 1)
        found_here = [
            plain_rows(folder, [ids[end - context : end] for ids in texts_of(text_folder)])[:, places]
            for end, places in wanted.items()
        ]
        assert loss == pytest.approx(float(torch.cat(found_here, dim=1).mean()), abs=1e-5)


def test_rows_are_those_of_eval(result, folder: Path, text_folder: Path, tmp_path: Path) -> None:
    """One measurer: an extended checkpoint under `eval` gives the figures of its row."""
    ropewalk.extend(folder, target="5x", method="linear", out=tmp_path / "linear")
    lengths = [row.length for row in result.row("linear").loss]
    alone = evaluate(tmp_path / "linear", lengths=lengths, text=text_folder, tasks="ppl", max_segments=4)
    assert [row.model_dump() for row in alone.loss] == [row.model_dump() for row in result.row("linear").loss]
    assert [row.tail_loss for row in alone.controls.cropped_unmodified] == [
        row.tail_loss for row in result.controls["cropped"].loss
    ]


def test_a_reference_model_chooses_the_key_tokens(
    result, folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    """The model at 0.8 of its base: by hand its whole and cropped readings, and the rows' losses where it gains."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    written = json.loads((other / "config.json").read_text())
    written["rope_parameters"] = {"rope_type": "default", "rope_theta": 8000.0}
    (other / "config.json").write_text(json.dumps(written))
    settings = {**ASKED, "methods": ["linear"], "tasks": ["ppl"], "key_gain": 0.02, "key_floor": -20.0}
    found = compare(folder, text=text_folder, reference=str(other), output=tmp_path / "run", **settings)
    assert (found.key_tokens["reference"], found.key_tokens["short"]) == (str(other), "its cropped context")
    losses, expected = [], []
    stride = WINDOW // 8
    for ids in texts_of(text_folder):
        far = plain_losses(other, ids)
        near = far.clone()
        begins = range(WINDOW, TARGET, stride)
        pieces = plain_rows(other, [ids[begin + stride - WINDOW : begin + stride] for begin in begins])
        for begin, piece in zip(begins, pieces, strict=True):
            near[begin - 1 : begin + stride - 1] = piece[-stride:]
        mask = (near - far >= 0.02) & (-far >= -20.0)
        mask[: WINDOW - 1] = False
        expected.append(mask)
        losses.append(plain_losses(folder, ids, rope_type="linear", factor=5.0)[mask])
    assert found.key_tokens["tokens"] == sum(int(mask.sum()) for mask in expected) > 50
    assert found.row("linear").key_token_loss == pytest.approx(float(torch.cat(losses).mean()), abs=1e-5)


def test_rows_are_ranked_and_paired(result) -> None:
    assert [row.rank for row in result.methods] == list(range(1, len(result.methods) + 1))
    assert {"linear", "yarn", "yarn, fitted betas"} == {row.name for row in result.methods}
    for row in result.methods:
        gap = row.loss_at_target - result.controls["cropped"].loss_at_target
        assert row.loss_vs_cropped.difference == pytest.approx(gap, abs=1e-9)
        assert row.loss_vs_cropped.low <= gap <= row.loss_vs_cropped.high
        assert row.loss_vs_unmodified.difference == pytest.approx(
            row.loss_at_target - result.controls["unmodified"].loss_at_target, abs=1e-9
        )


def test_retrieval_is_asked_at_the_target_where_the_window_is_too_short(result) -> None:
    assert {item["length"] for item in result.methods[0].retrieval} == {TARGET}
    assert [item.name for item in result.not_measured] == ["retrieval inside the window"]
    assert result.controls["cropped"].retrieval_at_target is not None
    assert result.questions == 2


def test_the_run_holds_the_result_and_the_schedules(result) -> None:
    stored = open_run(result.run)
    assert stored.kind == "compare"
    assert stored.status == "complete"
    assert stored.read_json() == result.to_json()
    made = ropewalk.FrequencySchedule.from_json(stored.read_json("parts/linear.json")["schedule"])
    assert (made.method, made.factor) == ("linear", 5.0)
    assert set(stored.read_json()["request"]["hashes"]) == {"text", "questions", "weights"}


def test_an_interrupted_comparison_is_completed(
    folder: Path, text_folder: Path, tmp_path: Path, result
) -> None:
    run = tmp_path / "run"

    def stop(step: Step) -> None:
        if step.measured is not None and step.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(folder, output=run, text=text_folder, on_step=stop, **ASKED)
    halted = open_run(run)
    assert halted.status == "interrupted"
    assert halted.read_json()["complete"] is False
    assert [row["name"] for row in halted.read_json()["methods"]] == ["linear"]

    with pytest.raises(UsageError, match="another max_segments"):
        compare(folder, output=run, text=text_folder, **(ASKED | {"max_segments": 2}))

    told: list[Step] = []
    again = compare(folder, output=run, text=text_folder, on_step=told.append, **ASKED)
    kept = [step.name for step in told if step.measured is not None and step.measured.kept]
    assert kept == ["unmodified", "cropped", "linear"]
    changes = {"seconds", "run", "text"}
    assert [row.model_dump(exclude=changes) for row in again.methods] == [
        row.model_dump(exclude=changes) for row in result.methods
    ]
    assert again.verdict == result.verdict


@pytest.mark.parametrize("what", ["text", "weights"])
def test_what_changed_in_place_does_not_finish_a_run(
    folder: Path, text_folder: Path, tmp_path: Path, what: str
) -> None:
    model, text = tmp_path / "model", tmp_path / "text"
    shutil.copytree(folder, model)
    shutil.copytree(text_folder, text)

    def stop(step: Step) -> None:
        if step.measured is not None:
            raise KeyboardInterrupt

    asked = ASKED | {"tasks": "ppl", "text": text, "output": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        compare(model, on_step=stop, **asked)
    if what == "text":
        path = text / "2.txt"
        path.write_text(path.read_text().replace("fox", "cat"))
    else:
        from safetensors.torch import load_file, save_file

        tensors = load_file(model / "model.safetensors")
        next(iter(tensors.values())).view(-1)[0] += 1e-3
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=f"changed in place: {what}:"):
        compare(model, **asked)


def test_a_stretched_model_is_held_against_itself_unscaled(
    result, folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    ropewalk.extend(folder, target="5x", method="linear", out=tmp_path / "linear")
    asked = ASKED | {"target": str(TARGET), "methods": ["yarn"]}
    again = compare(tmp_path / "linear", text=text_folder, output=tmp_path / "run", **asked)
    for name in ("unmodified", "cropped"):
        assert again.controls[name].loss_at_target == pytest.approx(
            result.controls[name].loss_at_target, abs=1e-6
        )
    assert again.row("as is").loss_at_target == pytest.approx(result.row("linear").loss_at_target, abs=1e-6)
    assert again.row("yarn").loss_at_target == pytest.approx(result.row("yarn").loss_at_target, abs=1e-6)
    assert (again.row("as is").variant, again.row("as is").factor) == ("as is", 5.0)
    # Its own cropped reading is a control as well; the stronger of the two is the one to beat.
    both = {name: again.controls[name].loss_at_target for name in ("cropped", "cropped, as is")}
    assert again.cropped_is == min(both, key=lambda name: both[name])


def test_whatever_changes_a_model_can_be_a_row(folder: Path, text_folder: Path, tmp_path: Path) -> None:
    """A candidate is a name, a kind and a context manager: here one that makes every word equally likely."""

    @contextlib.contextmanager
    def uniform(model: Any) -> Iterator[None]:
        weight = model.lm_head.weight.data.clone()
        model.lm_head.weight.data.zero_()
        yield
        model.lm_head.weight.data.copy_(weight)

    given = ASKED | {"target": "2x", "methods": "linear", "tasks": "ppl"}
    # Tied weights: zeroing them takes the embedding too, so that nothing is left but the uniform guess.
    rows = [Candidate("uniform", "zones", uniform)]
    found = compare(folder, text=text_folder, candidates=rows, output=tmp_path / "a", **given)
    plain = compare(folder, text=text_folder, output=tmp_path / "b", **given)
    assert found.row("uniform").loss_at_target == pytest.approx(math.log(VOCAB_SIZE), abs=1e-5)
    assert (found.row("uniform").kind, found.row("uniform").method) == ("zones", None)
    assert found.row("linear").loss_at_target == plain.row("linear").loss_at_target
    with pytest.raises(UsageError, match="two rows are called linear"):
        compare(folder, text=text_folder, candidates=[Candidate("linear", "cache")], **given)


def test_maps_and_caches_are_rows(folder: Path, text_folder: Path, tmp_path: Path) -> None:
    """Each row equals the plain model read under the same context manager; nothing of it is left behind."""
    from ropewalk.attention.cache_kinds import parse_kind
    from ropewalk.attention.maps import applied
    from ropewalk.evaluation.forward.engine import Engine
    from ropewalk.models.load import load_model
    from ropewalk.position_maps import map_for

    asked = ASKED | {"methods": "self-extend,linear+q8,linear", "tasks": "ppl", "output": tmp_path / "run"}
    found = compare(folder, text=text_folder, **asked)
    assert [found.row(n).kind for n in ("self-extend", "linear+q8", "linear")] == [
        "position-map",
        "cache",
        "schedule",
    ]
    ids, model = texts_of(text_folder), load_model(folder)
    geometry = ropewalk.read_geometry(folder)
    with applied(model, map_for("self-extend", geometry, TARGET)):
        losses = Engine(model).nll(ids)
    assert found.row("self-extend").loss_at_target == pytest.approx(float(losses[:, -SPAN:].mean()), abs=1e-6)
    with ropewalk.apply(model, ropewalk.schedule("linear", geometry, factor=5.0)):
        plain = Engine(model).nll(ids)
        with parse_kind("q8").applied(model):
            rounded = Engine(model).nll(ids)
    assert found.row("linear").loss_at_target == pytest.approx(float(plain[:, -SPAN:].mean()), abs=1e-6)
    assert found.row("linear+q8").loss_at_target == pytest.approx(float(rounded[:, -SPAN:].mean()), abs=1e-6)
    assert found.row("linear+q8").loss_at_target != found.row("linear").loss_at_target
    with pytest.raises(UsageError, match="names no cache"):
        compare(folder, text=text_folder, **(asked | {"methods": "linear+", "output": tmp_path / "b"}))


def test_a_schedule_file_is_a_row(result, folder: Path, text_folder: Path, tmp_path: Path) -> None:
    file = Path(result.run) / "parts" / "linear.json"
    asked = ASKED | {"methods": "yarn", "schedules": [file], "tasks": "ppl"}
    renamed = tmp_path / "fitted.json"
    shutil.copy(file, renamed)
    found = compare(folder, text=text_folder, output=tmp_path / "run", **(asked | {"schedules": [renamed]}))
    assert found.row("fitted").loss_at_target == result.row("linear").loss_at_target
    assert (found.row("fitted").variant, found.row("fitted").file) == ("file", str(renamed))
    alone = compare(folder, text=text_folder, output=tmp_path / "alone", **(asked | {"methods": "none"}))
    assert [row.name for row in alone.methods] == ["linear"]


def test_the_command_line_and_python_have_the_same_defaults() -> None:
    from ropewalk.cli import compare as compare_command
    from ropewalk.cli import eval as eval_command

    for module, kind in ((compare_command, CompareRequest), (eval_command, EvalRequest)):
        defaults = kind(model="m").model_dump()
        given = module.command.make_context("ropewalk", ["m"]).params
        shared = {name: value for name, value in given.items() if name in defaults and name != "model"}
        assert {"tasks", "max_segments", "samples", "depths", "grid", "seed"} <= shared.keys()
        assert kind(model="m", **shared).model_dump() == defaults
    assert EvalRequest(model="m").max_segments == CompareRequest(model="m").max_segments == 8


def test_command_line(cli, folder: Path, text_folder: Path, tmp_path: Path) -> None:
    words = ["compare", folder, "--target", "2x", "--methods", "linear,ntk", "--text", text_folder]
    words += ["--max-segments", "4", "--tasks", "ppl"]
    outcome = cli(*words, "-o", tmp_path / "run", "--json")
    assert outcome.code == 0
    document = outcome.json
    assert {"methods", "controls", "verdict", "run", "key_tokens"} <= document.keys()
    assert {"text", "retrieval", "beats_cropping", "summary", "recommended", "group"} <= document[
        "verdict"
    ].keys()
    for row in document["methods"]:
        assert {
            "name",
            "loss_at_target",
            "loss_in_window",
            "retrieval_at_target",
            "key_token_loss",
        } <= row.keys()
        assert math.isfinite(row["loss_at_target"])
    assert json.loads((tmp_path / "run" / "result.json").read_text())["run"] == document["run"]

    shown = cli(*words, "-o", tmp_path / "table", "-q")
    assert shown.code == 0
    assert "unmodified" in shown.out
    assert "Cropped: each token sees the last 56 to 63 tokens" in shown.out
    assert "Next: ropewalk " in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--methods", "yarm"], "yarn"),
        (["--target", "0.5x"], "target"),
        (["--max-segments", "0"], "max_segments=0"),
        (["--text", "./nowhere.txt"], "nowhere"),
        (["--rank", "luck"], "luck"),
        (["--reference", "hemp", "--tasks", "needle"], "reference"),
    ],
)
def test_wrong_usage_names_the_way_out(
    cli, folder: Path, words: list[str], part: str, tmp_path: Path
) -> None:
    outcome = cli("compare", folder, *words, "-o", tmp_path / "run")
    assert outcome.code == 2
    assert part in outcome.complaint


def test_rows_whose_cells_would_have_one_name_are_refused(result, folder: Path, tmp_path: Path) -> None:
    """`fit.1` and `fit-1` are different names and one file name: the second would be given the first's figures."""
    for name, row in (("fit.1.json", "linear"), ("fit-1.json", "yarn")):
        shutil.copy(Path(result.run) / "parts" / f"{row}.json", tmp_path / name)
    files = [tmp_path / "fit.1.json", tmp_path / "fit-1.json"]
    with pytest.raises(UsageError, match=r"kept under one name: fit-1, fit\.1"):
        compare(folder, target=TARGET, methods="none", schedules=files, output=tmp_path / "run")
    names = [Candidate(name).slug for name in ("模型", "図", "yarn x2")]
    assert len(set(names)) == 3
    assert all(re.fullmatch("[a-z0-9-]+", name) for name in names)


def test_short_text_is_refused_with_the_numbers(cli, folder: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    outcome = cli("compare", folder, "--text", short, "-o", tmp_path / "run")
    assert outcome.code == 1
    assert "501 are missing" in outcome.complaint


def test_a_comparison_of_no_methods_is_refused_before_anything_is_measured():
    facts = read_facts("hemp")
    with pytest.raises(UsageError, match="no method to compare"):
        named([], facts, 2 * facts.original_length)
    assert [row.name for row in named(["zones"], facts, 2 * facts.original_length)[0]] == ["zones"]
