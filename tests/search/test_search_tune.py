"""`tune` from end to end on a tiny model: the files, stock reload, going on, guards."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from launched import in_two
from search_models import make_model, save_model, short_tune

import ropewalk
from ropewalk.cli.tune import command
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.search import loop
from ropewalk.search.budget import parse_budget
from ropewalk.search.fit import Settings
from ropewalk.search.job import skilled_tasks
from ropewalk.search.loop import Point
from ropewalk.search.reading import NonFiniteLossError, Reader
from ropewalk.search.rows import Amounts, gather, planted_rows, split_documents
from ropewalk.search.writing import point_words
from ropewalk.text.corpus import Document

FEW = Amounts(6, 4, 3, 4)


def quick(model: Path, text: Path, output: Path, **changes: Any) -> Any:
    """Three steps at 4 times."""
    return short_tune(model, text, output, **({"target": "4x", "budget": 3, "amounts": FEW} | changes))


def test_trusted_code_is_trusted_for_the_tokenizer_too(
    model_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(model_folder, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSeq2SeqLM": "own.Model"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    found = quick(tmp_path / "model", text_folder, tmp_path / "run", search="sweep", trust_remote_code=True)
    assert found.start == "yarn"


def test_the_file_extends_and_stock_software_computes_the_same(
    model_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    found = quick(model_folder, text_folder, tmp_path / "run", settings=Settings(learning_rate=0.2))
    assert (found.steps, found.target_length, found.factor) == (3, 256, 4.0)
    document = json.loads(found.schedule.read_text())
    assert document["fitted"]["start"] == "yarn"
    assert document["fitted"]["before"]["loss_at_target"] == found.before["loss_at_target"]
    ropewalk.extend(model_folder, schedule=found.schedule, out=tmp_path / "out")
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert stock.config.max_position_embeddings == 256
    ids = torch.arange(200)[None] % 250
    model = ropewalk.load_model(str(model_folder), device="cpu")
    made = ropewalk.FrequencySchedule.from_json(document)
    with ropewalk.apply(model, made), torch.no_grad():
        mine = model(input_ids=ids).logits
    with torch.no_grad():
        assert torch.equal(stock(input_ids=ids).logits, mine)
    with Reader(ropewalk.load_model(str(model_folder), device="cpu")) as reader:
        losses, _ = reader.read(made, [ids[0].numpy()])
    plain = torch.nn.functional.cross_entropy(mine[0, :-1], ids[0, 1:], reduction="none")
    np.testing.assert_allclose(losses[0][1:], plain.numpy(), rtol=1e-5, atol=1e-5)


def test_a_fitted_profile_is_carried_bit_for_bit(model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from ropewalk.search.family import tuned_schedule

    geometry = ropewalk.read_geometry(model_folder)
    profile = np.linspace(0.0, 1.1, geometry.half_dim) ** 2
    made = tuned_schedule(geometry, 4.0, profile, 1.07, {"start": "yarn"})
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps(made.to_json() | {"fitted": {"by": "a test"}}))
    ropewalk.extend(model_folder, schedule=file, out=tmp_path / "out")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = np.arange(200) % 250
    with torch.no_grad():
        logits = stock(input_ids=torch.as_tensor(ids)[None]).logits[0]
    model = ropewalk.load_model(str(model_folder), device="cpu")
    with torch.no_grad():
        own = model(input_ids=torch.as_tensor(ids)[None]).logits[0]
        with ropewalk.apply(model, made):
            applied = model(input_ids=torch.as_tensor(ids)[None]).logits[0]
        with Reader(model) as reader, reader.rotation.turning(torch.tensor(made.inv_freq), 1.07):
            searched = model(input_ids=torch.as_tensor(ids)[None]).logits[0]
    assert torch.equal(logits, applied)
    # The carrier holds factors, so its frequencies differ from those that a search turns by in the last bit.
    torch.testing.assert_close(searched, applied, rtol=0, atol=2e-4)
    assert (logits - own).abs().max() > 0.1


def test_an_interrupted_search_goes_on_to_the_same_end(
    model_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quick(model_folder, text_folder, tmp_path / "whole")
    before = loop.step_slope

    def interrupting(reader: Any, family: Any, *rest: Any) -> Any:
        if interrupting.calls == 2:
            raise KeyboardInterrupt
        interrupting.calls += 1
        return before(reader, family, *rest)

    interrupting.calls = 0
    monkeypatch.setattr(loop, "step_slope", interrupting)
    with pytest.raises(KeyboardInterrupt):
        quick(model_folder, text_folder, tmp_path / "run")
    left = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (left["steps"], left["complete"]) == (2, False)
    assert (tmp_path / "run" / "schedule.json").is_file()
    monkeypatch.undo()
    again = quick(model_folder, text_folder, tmp_path / "run")
    assert again.steps == 3
    assert again.rungs[0].schedule.inv_freq.tolist() == whole.rungs[0].schedule.inv_freq.tolist()
    last = [json.loads((tmp_path / name / "progress.json").read_text())["state"] for name in ("run", "whole")]
    assert last[0] == last[1]


def test_another_request_is_not_continued(model_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    asked = {"request": {"model": "another"}, "kind": "tune"}
    (tmp_path / "run" / "request.json").write_text(json.dumps(asked))
    with pytest.raises(UsageError, match="asked for something else"):
        quick(model_folder, text_folder, tmp_path / "run")


def test_a_claim_without_a_request_is_taken_over(tmp_path: Path) -> None:
    from ropewalk.evaluation.work.processes import Processes
    from ropewalk.search.folder import opened

    class Asked:
        seed = 0

        def to_json(self) -> dict[str, str]:
            return {"model": "another"}

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "request.json").touch()
    with opened(Asked(), tmp_path / "run", Processes()) as run:  # type: ignore[arg-type]
        assert json.loads((run.path / "request.json").read_text())["request"] == {"model": "another"}


def test_a_ladder_has_a_schedule_for_every_rung(
    model_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    found = quick(model_folder, text_folder, tmp_path / "run", target=None, ladder=[2, 4], budget=2)
    assert [rung.factor for rung in found.rungs] == [2.0, 4.0]
    from ropewalk.models.stretch import read_schedules

    ladder = read_schedules(found.ladder)
    assert ladder.is_ladder
    assert [made.factor for made in ladder.rungs] == [2.0, 4.0]
    for made in ladder.rungs:
        assert (np.diff(made.profile) > -1e-9).all()
    done = ropewalk.extend(
        model_folder, schedule=found.ladder, target=128, out=tmp_path / "out", weights="none"
    )
    assert done.schedule.factor == 2.0


def test_a_loss_that_is_no_number_ends_the_fit_with_the_best_so_far(
    model_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = loop.step_slope

    def breaking(reader: Any, *rest: Any) -> Any:
        breaking.calls += 1
        if breaking.calls == 2:
            raise NonFiniteLossError("the loss is not a finite number", hint="")
        return before(reader, *rest)

    breaking.calls = 0
    monkeypatch.setattr(loop, "step_slope", breaking)
    found = quick(model_folder, text_folder, tmp_path / "run")
    assert found.steps == 1
    assert "not a finite number" in found.stopped
    assert found.schedule.is_file()


def test_a_fit_that_does_not_beat_its_start_gives_it_back(
    model_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    found = quick(model_folder, text_folder, tmp_path / "run", settings=Settings(0.0, 0.0), budget=1)
    assert found.kept_start is not None
    assert found.verdict().startswith("yarn is kept")
    made = ropewalk.schedule("yarn", found.rungs[0].schedule.geometry, factor=4)
    assert found.rungs[0].schedule.inv_freq.tolist() == made.inv_freq.tolist()
    assert found.after == found.before


def test_too_little_text_is_refused_with_what_is_needed(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("too short a text " * 20)
    with pytest.raises(RopewalkError, match="too little text") as caught:
        quick(model_folder, tmp_path / "short.txt", tmp_path / "run")
    assert "2k" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "1x"},
        {"ladder": [0.5, 2], "target": None},
        {"ladder": [2, float("nan")], "target": None},
        {"ladder": [], "target": None},
        {"ladder": [2, 4], "target": "4x"},
        {"search": "prayer"},
        {"budget": "soon"},
        {"tasks": ["needle", "nope"]},
        {"storage": "sqlite:///x"},
    ],
)
def test_what_stretches_nothing_or_is_unknown_is_refused(
    model_folder: Path, text_folder: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        quick(model_folder, text_folder, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_the_usual_budget_is_at_most_two_hundred_gradients() -> None:
    usual = next(option for option in command.params if option.name == "budget").default
    # A step reads a text row and a planted row for each of its pairs.
    assert parse_budget(usual).steps * 2 * Settings().most_pairs <= 200
    assert inspect.signature(ropewalk.tune).parameters["budget"].default == usual


def test_fit_and_validation_share_no_document() -> None:
    documents = [Document(f"{number}", "x" * (100 + number)) for number in range(12)]
    mine, others = split_documents(documents, 3)
    assert not {item.name for item in mine} & {item.name for item in others}
    assert len(mine) + len(others) == 12
    assert 0.5 < sum(len(item.text) for item in mine) / sum(len(item.text) for item in documents) <= 0.75
    one, other = split_documents([Document("a", "0123456789abcdef")], 0)
    assert one[0].text + other[0].text == "0123456789abcdef"
    assert len(one[0].text) == 12


def test_planted_rows_are_exact_and_end_in_their_answer(model_folder: Path) -> None:
    tokenizer = ropewalk.load_tokenizer(str(model_folder))
    remarks: list[str] = []
    rows = planted_rows(tokenizer, ["needle", "kv"], 400, 8, 1, remarks)
    assert [row.length for row in rows] == [400] * 8
    assert [row.task for row in rows[:2]] == ["needle", "kv"]
    assert remarks == []
    for row in rows:
        answer = tokenizer.decode(row.ids[list(row.answer)]).strip()
        text = tokenizer.decode(row.ids)
        # The value stands once in the text and once as the answer, far apart.
        assert text.count(answer) == 2
        assert row.answer[-1] == 399
        assert row.depth is not None
        assert text.index(answer) < 0.9 * 400
    again = planted_rows(tokenizer, ["needle", "kv"], 400, 8, 2, remarks)
    assert not any(np.array_equal(one.ids, other.ids) for one, other in zip(rows, again, strict=True))


def test_questions_of_each_use_are_others_and_stand_where_they_should(
    model_folder: Path, text_folder: Path
) -> None:
    tokenizer = ropewalk.load_tokenizer(str(model_folder))
    found = [
        gather(tokenizer, text_folder, [256], ["needle"], seed, Amounts(6, 5, 3, 4, 8)) for seed in (0, 1)
    ]
    uses = [rows for item in found for rows in (item.fit[256], item.validation[256])]
    parts = [rows.planted for rows in uses] + [item.further[256] for item in found]
    assert [len(rows) for rows in parts] == [5, 4, 5, 4, 8, 8]
    every = [row.ids.tobytes() for rows in parts for row in rows]
    assert len(set(every)) == len(every)
    # Evenly over the whole text to judge by, in its first four fifths to fit on.
    assert [row.depth for row in found[0].validation[256].planted] == [0.125, 0.375, 0.625, 0.875]
    assert [row.depth for row in found[0].further[256]] == [0.0625 + step / 8 for step in range(8)]
    assert all(row.depth < 0.8 and row.depth * 16 % 1 for row in found[0].fit[256].planted if row.depth)
    assert found[0].sha256 != replace(found[0], further={256: []}).sha256


def test_a_point_that_loses_answers_says_so() -> None:
    detail = {"best": False, "lost_answers": "kv: 1 of 4, before 3", "loss_at_target": 1.25}
    assert point_words(Point(3, "validation", 2.5, 1.0, 4.0, detail)) == (
        "step 3: validation J 2.5000 (lower, but finds fewer answers, kv: 1 of 4, before 3),"
        " loss at the target 1.2500"
    )


def test_a_task_that_does_not_fit_is_left_out_aloud(model_folder: Path) -> None:
    tokenizer = ropewalk.load_tokenizer(str(model_folder))
    remarks: list[str] = []
    assert planted_rows(tokenizer, ["kv"], 20, 4, 1, remarks) == []
    assert len(remarks) == 1
    assert "kv left out" in remarks[0]


def test_gathered_rows_of_shorter_lengths_are_the_beginnings_of_the_long_ones(
    model_folder: Path, text_folder: Path
) -> None:
    tokenizer = ropewalk.load_tokenizer(str(model_folder))
    material = gather(tokenizer, text_folder, [128, 256], [], 0, FEW)
    assert [len(material.fit[length].text) for length in (128, 256)] == [6, 6]
    for short, long in zip(material.fit[128].text, material.fit[256].text, strict=True):
        assert short.ids.tolist() == long.ids[:128].tolist()
    mine, others = material.documents
    assert not set(mine) & set(others)


def test_names_that_name_nothing_are_refused_by_the_command(model_folder: Path, tmp_path: Path) -> None:
    for option, said in (
        ("--tasks=", "names nothing"),
        ("--tasks= , ", "names nothing"),
        ("--tasks=nedle", "needle"),
        ("--ladder=", "not a list of factors"),
        ("--ladder=2,x", "not a list of factors"),
        ("--ladder=nan", "not a list of factors"),
        ("--storage=sqlite:///x", "no workers"),
    ):
        found = CliRunner().invoke(
            command, [str(model_folder), option, "-o", str(tmp_path / "run"), "--quiet"]
        )
        assert isinstance(found.exception, UsageError)
        assert said in f"{found.exception.message} {found.exception.hint}"
    assert not (tmp_path / "run").exists()


def test_the_command(model_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    from ropewalk.cli.tune import command

    words = [
        str(model_folder),
        "--target",
        "4x",
        "--text",
        str(text_folder),
        "--start",
        "yarn",
        "--tasks",
        "none",
    ]
    words += ["--budget", "1steps", "--device", "cpu", "-o", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    document = json.loads(done.output)
    assert {"schedule", "before", "after", "steps", "seconds", "forward_equivalents"} <= document.keys()
    assert Path(document["schedule"]).is_file()
    assert document["passes"] == 2


def test_compare_measures_the_tuned_row(model_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    from ropewalk.cli.compare import command
    from ropewalk.search.candidate import tuned_candidate

    options: dict[str, Any] = {
        "text": text_folder,
        "start": "yarn",
        "tasks": (),
        "amounts": FEW,
        "device": "cpu",
    }
    run = tmp_path / "run-tune"
    made = tuned_candidate(model_folder, target="4x", budget=1, output=run, **options)
    before = (run / "schedule.json").read_bytes()
    words = [
        str(model_folder),
        "--target",
        "4x",
        "--methods",
        "linear",
        "--tune",
        "1steps",
        "--tasks",
        "ppl",
        "--max-segments",
        "2",
    ]
    words += ["--text", str(text_folder), "--device", "cpu", "-o", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    rows = {row["name"]: row for row in json.loads(done.stdout)["methods"]}
    assert {"linear", "tuned"} <= rows.keys()
    assert rows["tuned"]["attention_factor"] == made.schedule.attention_factor
    # A finished search is read, not repeated.
    assert (run / "schedule.json").read_bytes() == before


def test_one_file_is_what_eval_compare_train_and_extend_compute(
    model_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    from ropewalk.search.family import tuned_schedule

    geometry = ropewalk.read_geometry(model_folder)
    made = tuned_schedule(geometry, 4.0, np.linspace(0.0, 1.0, geometry.half_dim) ** 2, 1.07)
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps(made.to_json() | {"fitted": {"by": "a test"}}))
    ropewalk.extend(model_folder, schedule=file, out=tmp_path / "out")
    asked = {"lengths": [64, 256], "tasks": "ppl", "text": text_folder, "max_segments": 3, "device": "cpu"}
    written = ropewalk.evaluate(tmp_path / "out", **asked)
    named = ropewalk.evaluate(model_folder, schedule=file, output=tmp_path / "run", **asked)
    assert [row.loss for row in named.loss] == [row.loss for row in written.loss]
    assert named.controls.unmodified_is == "the same weights without the scaling"
    assert [row.loss for row in named.controls.unmodified] == [
        row.loss for row in written.controls.unmodified
    ]
    assert named.request.model == str(model_folder)
    compared = ropewalk.compare(
        model_folder, target="4x", methods="none", schedules=[file], tasks="ppl", text=text_folder,
        max_segments=3, device="cpu", output=tmp_path / "compared",
    )  # fmt: skip
    row = next(row for row in compared.methods if row.file == str(file))
    plain = ropewalk.evaluate(tmp_path / "out", **(asked | {"lengths": row_lengths(row)}))
    assert [item.loss for item in row.loss] == pytest.approx([item.loss for item in plain.loss], abs=1e-6)
    model = ropewalk.load_model(str(model_folder), device="cpu")
    with pytest.raises(UsageError, match="by its name"):
        ropewalk.evaluate(model, tokenizer=str(model_folder), schedule=file, **asked)
    with pytest.raises(UsageError, match="computes its own schedule"):
        ropewalk.evaluate("http://localhost:1/v1", schedule=file, lengths=[64])


def row_lengths(row: Any) -> list[int]:
    """At which a comparison read."""
    return [item.length for item in row.loss]


def test_a_model_or_text_changed_in_place_is_not_gone_on_with(
    model_folder: Path, text_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*given: Any) -> Any:
        raise KeyboardInterrupt

    texts = tmp_path / "texts"
    shutil.copytree(text_folder, texts)
    monkeypatch.setattr(loop, "step_slope", stopping)
    with pytest.raises(KeyboardInterrupt):
        quick(model_folder, texts, tmp_path / "run")
    monkeypatch.undo()
    (texts / "03.txt").write_text("another text altogether, " * 100, encoding="utf-8")
    with pytest.raises(UsageError, match=r"changed in place: text and questions:"):
        quick(model_folder, texts, tmp_path / "run")


TWO = """
import json, sys
import ropewalk
from ropewalk.search.rows import Amounts

model, text, output = sys.argv[1:]
found = ropewalk.tune(model, target="4x", text=text, start="yarn", tasks=(), budget=3, amounts=Amounts(6, 4, 3, 4),
                      output=output, device="cpu")
print(json.dumps(found.to_json()))
"""


def test_two_processes_go_the_way_of_one(model_folder: Path, text_folder: Path, tmp_path: Path) -> None:
    one = quick(model_folder, text_folder, tmp_path / "one").to_json()
    words = [sys.executable, "-c", TWO, str(model_folder), str(text_folder), str(tmp_path / "two")]
    two, other = (json.loads(text) for text in in_two(words))
    assert {key: two[key] for key in two if key != "seconds"} == {
        key: other[key] for key in two if key != "seconds"
    }
    assert (two["steps"], two["passes"]) == (one["steps"], one["passes"])
    assert two["forward_equivalents"] == pytest.approx(one["forward_equivalents"], rel=1e-9)
    for part, name in (("before", "loss_at_target"), ("after", "loss"), ("controls", "cropped")):
        assert two[part][name] == pytest.approx(one[part][name], abs=1e-6)
    files = [json.loads((tmp_path / name / "schedule.json").read_text()) for name in ("one", "two")]
    made = [ropewalk.FrequencySchedule.from_json(file) for file in files]
    np.testing.assert_allclose(made[1].inv_freq, made[0].inv_freq, rtol=1e-6)
    states = [json.loads((tmp_path / name / "progress.json").read_text()) for name in ("one", "two")]
    np.testing.assert_allclose(states[1]["state"]["first"], states[0]["state"]["first"], rtol=1e-3, atol=1e-8)


def test_where_every_layer_slides_the_search_says_that_it_fits_nothing(
    text_folder: Path, tmp_path: Path
) -> None:
    remarks = []
    for number, window in enumerate((32, None)):
        folder = save_model(tmp_path / str(number), "mistral", sliding_window=window)
        remarks.append(quick(folder, text_folder, tmp_path / f"run {number}", budget=1).remarks)
    assert "sees only a window of 32 tokens" in " ".join(remarks[0])
    assert "sees only" not in " ".join(remarks[1])


@pytest.mark.parametrize(
    ("window", "said"), [(64, "none was asked inside"), (512, "the model finds none inside")]
)
def test_without_questions_it_says_whether_any_was_asked(model_folder: Path, window: int, said: str) -> None:
    tokenizer = ropewalk.load_tokenizer(str(model_folder))
    remarks: list[str] = []
    with Reader(make_model(max_position_embeddings=window)) as reader:
        assert skilled_tasks(reader, tokenizer, ["needle"], 0, remarks) == ([], None)
    assert "needle" in remarks[0]
    assert said in remarks[-1]
