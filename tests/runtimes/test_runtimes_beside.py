"""Ladders, companion models and training blocks: everything that must rotate alike beside one checkpoint."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import yaml

import ropewalk
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.hemp import folder as hemp_folder
from ropewalk.models.facts import read_facts
from ropewalk.models.stretch import ladder_document, read_schedules
from ropewalk.runtimes.drafts import matched
from ropewalk.runtimes.export import export_config
from ropewalk.runtimes.ladder import Output, export_ladder
from ropewalk.runtimes.trainers import STACKS, training_block

HEMP = json.loads((hemp_folder() / "config.json").read_text())


def test_a_ladder_sends_each_length_to_the_lowest_rung_that_holds_it(tmp_path):
    made = export_ladder("hemp", "yarn", [4, 1, 8, 2], to="vllm", output=Output(tmp_path / "out"))
    assert [(rung.factor, rung.up_to, rung.port) for rung in made.rungs] == [
        (1.0, 512, 8001),
        (2.0, 1024, 8002),
        (4.0, 2048, 8003),
        (8.0, 4096, 8004),
    ]
    entries = [rung.result.exports[0].fragment.content["rope_parameters"] for rung in made.rungs]
    assert entries[0]["rope_type"] == "default"
    assert [entry.get("factor") for entry in entries] == [None, 2.0, 4.0, 8.0]
    document = json.loads((tmp_path / "out" / "router.json").read_text())
    assert [rung["up_to_tokens"] for rung in document["rungs"]] == [512, 1024, 2048, 4096]
    assert document["rungs"][1]["files"][0] == str(tmp_path / "out" / "x2" / "overrides.json")
    words = shlex.split(made.rungs[2].command)
    assert (words[words.index("--max-model-len") + 1], words[-2:]) == ("2048", ["--port", "8003"])
    assert (tmp_path / "out" / "x4" / "serve.sh").is_file()


def test_a_ladder_of_gguf_files_has_one_a_rung(tmp_path):
    gguf = pytest.importorskip("gguf")
    made = export_ladder("hemp", "by-parts", [1, 4], to="llama.cpp", output=Output(tmp_path / "out"))
    readers = [gguf.GGUFReader(tmp_path / "out" / name / "model.gguf") for name in ("x1", "x4")]
    contexts = [reader.fields["llama.context_length"].contents() for reader in readers]
    assert contexts == [512, 2048]
    assert ["rope_freqs.weight" in {t.name for t in reader.tensors} for reader in readers] == [False, True]
    assert str(tmp_path / "out" / "x4" / "model.gguf") in made.rungs[1].command


def test_a_ladder_says_where_sets_are_not_switched_by_prompt():
    (note,) = export_ladder("hemp", "longrope", [1, 4], to="vllm", allow_approximate=True).notes
    assert "--max-model-len decides for every prompt" in note


def test_a_fitted_ladder_gives_its_own_rungs(tmp_path):
    geometry = ropewalk.read_geometry("hemp")
    rungs = [ropewalk.schedule("ntk-su", geometry, factor=factor) for factor in (2, 4)]
    (tmp_path / "ladder.json").write_text(json.dumps(ladder_document(rungs)))
    file = read_schedules(tmp_path / "ladder.json")
    made = export_ladder("hemp", file, [1, 2, 4], to="transformers")
    assert [rung.result.schedule for rung in made.rungs[1:]] == rungs
    with pytest.raises(RopewalkError, match="no rung of factor 8"):
        export_ladder("hemp", file, [1, 8], to="transformers")


@pytest.mark.parametrize("factors", [[], [4], [0.5, 2], [2, float("nan")]])
def test_ladders_that_lead_nowhere(factors):
    with pytest.raises(UsageError, match="leads nowhere"):
        export_ladder("hemp", "yarn", factors, to="vllm")


def test_the_command_line_of_a_ladder(cli):
    outcome = cli("export", "hemp", "--to", "vllm", "--method", "yarn", "--ladder", "1,2,4")
    assert "up to 1024 tokens -> factor 2, port 8002" in outcome.out
    document = cli("export", "hemp", "--to", "vllm", "--method", "yarn", "--ladder", "1,4", "--json").json
    assert [rung["factor"] for rung in document["rungs"]] == [1.0, 4.0]
    for words in (["--to", "vllm,mlx"], ["--to", "vllm", "--factor", "8"]):
        assert cli("export", "hemp", *words, "--method", "yarn", "--ladder", "1,4").code == 2
    assert cli("export", "hemp", "--to", "vllm", "--method", "yarn", "--ladder", "1,x").code == 2
    for beside in (("--training", "trl"), ("--draft", "hemp")):
        dropped = cli("export", "hemp", "--to", "vllm", "--method", "yarn", "--ladder", "1,4", *beside)
        assert (dropped.code, "one model a rung" in dropped.complaint) == (2, True)


def target():
    return export_config("hemp", "yarn", factor=8.0)


def test_a_draft_of_the_same_geometry_gets_the_same_schedule():
    made = target()
    draft = matched(made.job.facts, made.schedule, made.target_length, "hemp")
    assert draft.alike
    assert draft.schedule == made.schedule


def test_a_draft_of_another_window_gets_the_factor_that_reaches_the_same_target(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HEMP | {"max_position_embeddings": 1024}))
    made = export_config("hemp", "yarn", factor=8.0, parameters={"beta_fast": 8.0})
    draft = matched(made.job.facts, made.schedule, made.target_length, tmp_path)
    geometry = ropewalk.read_geometry(tmp_path)
    wanted = ropewalk.schedule("yarn", geometry, factor=4.0, beta_fast=8.0)
    np.testing.assert_array_equal(draft.schedule.inv_freq, wanted.inv_freq)
    assert draft.schedule.target_length == made.target_length == 4096
    (tmp_path / "config.json").write_text(json.dumps(HEMP | {"max_position_embeddings": 8192}))
    long = matched(made.job.facts, made.schedule, made.target_length, tmp_path)
    assert (long.alike, long.schedule) == (True, None)


def test_what_cannot_be_repeated_on_a_draft_is_said(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(HEMP | {"max_position_embeddings": 1024}))
    made = export_config("hemp", "longrope", factor=8.0)
    draft = matched(made.job.facts, made.schedule, made.target_length, tmp_path)
    assert (draft.alike, draft.schedule) == (False, None)
    assert "cannot be repeated" in draft.detail
    (tmp_path / "config.json").write_text("{")
    assert not matched(made.job.facts, made.schedule, made.target_length, tmp_path).alike


def test_drafts_in_the_folder_are_stretched_too_and_layers_in_the_file_are_named(tmp_path, cli):
    shutil.copytree(hemp_folder(), tmp_path / "model")
    shutil.copytree(hemp_folder(), tmp_path / "model" / "eagle")
    (tmp_path / "model" / "config.json").write_text(json.dumps(HEMP | {"num_nextn_predict_layers": 1}))
    words = (
        "--method",
        "yarn",
        "--factor",
        "8",
        "--to",
        "transformers",
        "-o",
        str(tmp_path / "out"),
        "--json",
    )
    drafts = cli("export", str(tmp_path / "model"), *words).json["drafts"]
    assert [draft["alike"] for draft in drafts] == [True, True]
    assert "share this configuration" in drafts[1]["detail"]
    assert read_facts(tmp_path / "out" / "draft").max_position_embeddings == 4096


def test_export_writes_the_draft_beside_the_model(tmp_path, cli):
    document = cli(
        "export", "hemp", "--method", "yarn", "--factor", "8", "--to", "transformers", "--draft", "hemp",
        "-o", str(tmp_path / "out"), "--json",
    ).json  # fmt: skip
    (draft,) = document["drafts"]
    assert draft["alike"]
    written = read_facts(tmp_path / "out" / "draft")
    assert written.max_position_embeddings == 4096
    np.testing.assert_allclose(written.rope.schedule.inv_freq, target().schedule.inv_freq)


def test_training_blocks_read_the_folder_and_say_nothing_of_rope(tmp_path):
    job = target().job
    verl = yaml.safe_load(training_block("verl", job, "/models/out"))
    assert verl["actor_rollout_ref"]["model"] == {"path": "/models/out"}
    assert verl["actor_rollout_ref"]["rollout"]["max_model_len"] == 4096
    assert verl["data"]["max_prompt_length"] + verl["data"]["max_response_length"] == 4096
    assert yaml.safe_load(training_block("axolotl", job, "/models/out")) == {
        "base_model": "/models/out",
        "sequence_len": 4096,
        "vllm": {"max_model_len": 4096},
        "trl": {"use_vllm": True, "vllm_mode": "server", "max_completion_length": 1024},
    }
    text = training_block("LLaMA_Factory", job, "/models/out")
    # With infer_backend in the training file, training would ask for vLLM: the rollout's keys are a comment.
    assert yaml.safe_load(text) == {"model_name_or_path": "/models/out", "cutoff_len": 4096}
    assert "#   infer_backend: vllm\n#   vllm_maxlen: 4096\n" in text
    trl = training_block("trl", job, "/models/out")
    assert "trl vllm-serve --model /models/out --max_model_len 4096\n" in trl
    assert 'vllm_mode="server", max_completion_length=1024)' in trl
    assert 'vllm_mode="colocate", vllm_max_model_length=4096)' in trl
    assert "SFTConfig(max_length=4096)" in trl
    with pytest.raises(UsageError, match="no training stack"):
        training_block("nemo", job, "x")


@pytest.mark.parametrize("name", list(STACKS))
def test_each_key_of_a_block_says_where_it_was_read(name):
    """Sections of a YAML file are named by their keys inside; a key that nobody looked up may not be printed."""
    stack = STACKS[name]
    text = training_block(name, target().job, "/m")
    assert text.startswith(f"# read in {stack.project} {stack.version} ({stack.commit[:9]}), not run: ")
    code = "\n".join(line for line in text.splitlines()[2:] if line)
    found = set(re.findall(r"(--\w+) ", code)) | set(re.findall(r"\b(\w+)=(?!arguments)(?!\"/m)", code))
    found |= set(re.findall(r"^[# ]*(\w+): \S+$", code, re.MULTILINE))
    assert found == set(stack.keys)
    for place in stack.keys.values():
        assert place in text.splitlines()[0]


def test_a_rollout_that_would_rotate_differently_is_named():
    carrier = training_block("trl", export_config("hemp", "mrrope-pro", factor=8.0).job, "out")
    assert '"short_mscale": 1.207' in carrier
    two = training_block("trl", export_config("hemp", "longrope", factor=8.0).job, "out")
    assert "# WARNING: ignored" in two


def _contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_export_touches_its_source_even_where_it_is_forced(tmp_path):
    """A file with --force was written over the model's own config.json, and a folder over the export that held it."""
    shutil.copytree(hemp_folder(), tmp_path / "model")
    shutil.copytree(hemp_folder(), tmp_path / "earlier" / "transformers")
    (tmp_path / "earlier" / "ropewalk-export.json").write_text("{}")
    before = _contents(tmp_path)
    model, inner = tmp_path / "model", tmp_path / "earlier" / "transformers"
    for source, program, output in (
        (model, "vllm", model / "config.json"),
        (model, "vllm", model / "new.json"),
        (model, "llama.cpp", model / "new.gguf"),
        (inner, "vllm", tmp_path / "earlier"),
    ):
        with pytest.raises(UsageError, match="overlap; the source is never written to"):
            ropewalk.export(source, "yarn", factor=4.0, to=program, output=output, force=True)
    assert _contents(tmp_path) == before


def test_a_gguf_file_is_a_source_for_itself_and_has_no_neighbours(tmp_path, cli):
    pytest.importorskip("gguf")
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "hemp.gguf"
    ropewalk.export("hemp", "yarn", factor=4.0, to="llama.cpp", output=file)
    shutil.copytree(hemp_folder(), tmp_path / "models" / "stranger")
    content = file.read_bytes()
    link = tmp_path / "link.gguf"
    link.symlink_to(file)
    for source, given, output in ((file, None, file), ("hemp", file, file), ("hemp", file, link)):
        with pytest.raises(UsageError, match="overlap"):
            ropewalk.export(source, "yarn", factor=8.0, to="llama.cpp", gguf=given, output=output, force=True)
    assert file.read_bytes() == content
    # Beside it is where its copies belong, and the models there are none of its drafts.
    out = tmp_path / "models" / "out"
    words = ("--to", "llama.cpp", "--method", "yarn", "--factor", "8", "-o", out, "--json")
    document = cli("export", file, *words).json
    assert document.get("drafts", []) == []
    assert sorted(path.name for path in out.iterdir()) == ["model.gguf", "ropewalk-export.json", "serve.sh"]


def test_a_ladder_replaces_its_earlier_self_whole_or_not_at_all(tmp_path, monkeypatch):
    out = Output(tmp_path / "out", force=True)
    export_ladder("hemp", "yarn", [1, 2], to="vllm", output=out)
    export_ladder("hemp", "yarn", [1, 4], to="vllm", output=out)
    assert sorted(path.name for path in out.folder.iterdir()) == ["router.json", "x1", "x4"]
    assert json.loads((out.folder / "router.json").read_text())["rungs"][1]["files"][0] == str(
        tmp_path / "out" / "x4" / "overrides.json"
    )

    def full(path, document):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ropewalk.runtimes.ladder.write_json", full)
    with pytest.raises(RopewalkError, match="No space left"):
        export_ladder("hemp", "yarn", [1, 8], to="vllm", output=out)
    assert sorted(path.name for path in out.folder.iterdir()) == ["router.json", "x1", "x4"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
