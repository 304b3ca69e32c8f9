"""Features of an architecture that others found to matter, and the models that draft for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from official import OFFICIAL

import ropewalk
from ropewalk.models.drafts import difference, prediction_layers
from ropewalk.models.facts import read_facts
from ropewalk.models.observations import mention, observe, summary
from ropewalk.models.structure.table import _document, rows


def _seen(name: str) -> dict[str, tuple[str, bool | None]]:
    return {each.feature: (each.value, each.hampers) for each in observe(read_facts(OFFICIAL[name]))}


def test_a_plain_pre_norm_model_with_groups_has_one_obstacle():
    seen = _seen("llama-3-8b")
    assert seen == {
        "normalisation": ("before the blocks alone", False),
        "grouped queries": ("4 query heads share a key head", True),
        "sliding windows": ("none", False),
        "window before the stretch": ("8k tokens, as far as the file tells", False),
    }
    assert summary(observe(read_facts(OFFICIAL["llama-3-8b"]))) is None


def test_obstacles_add_up():
    assert _seen("olmo-3-7b") == {
        "normalisation": ("of queries and keys and behind the blocks", True),
        "grouped queries": ("none: a key head for each query head", False),
        "sliding windows": ("24 of 32 layers see 4k", True),
        "window before the stretch": ("8k tokens, as far as the file tells", False),
    }
    assert "2 of 4 features" in str(summary(observe(read_facts(OFFICIAL["olmo-3-7b"]))))
    three = read_facts(OFFICIAL["gemma-3-1b"])
    assert "3 of 4 features" in str(summary(observe(three)))
    assert "47 %" in str(summary(observe(three)))


@pytest.mark.parametrize(
    ("name", "feature", "hampers"),
    [
        ("qwen3-8b", "normalisation", True),
        ("qwen2-7b", "normalisation", False),
        ("glm-4-32b-0414", "normalisation", True),
        ("deepseek-v3", "grouped queries", None),
        ("llama-2-7b", "grouped queries", False),
        ("llama-2-7b", "window before the stretch", True),
        ("qwen2.5-7b-instruct", "window before the stretch", False),
        ("phi-3-mini-128k", "sliding windows", False),
        ("mistral-7b-v0.1", "sliding windows", True),
    ],
)
def test_each_feature_is_read_from_the_configuration(name, feature, hampers):
    assert _seen(name)[feature][1] is hampers


def test_a_normalisation_that_the_file_switches_is_read_there():
    config = OFFICIAL["command-r-v01"]
    assert not observe(read_facts(config))[0].hampers
    assert observe(read_facts(config | {"use_qk_norm": True}))[0].hampers
    assert observe(read_facts(OFFICIAL["llama-3-8b"] | {"model_type": "brand-new"}))[0].hampers is None


def test_inspect_lists_them_as_observations(cli):
    document = cli("inspect", "hemp", "--json").json
    assert [each["feature"] for each in document["observations"]] == [
        "normalisation",
        "grouped queries",
        "sliding windows",
        "window before the stretch",
    ]
    assert "Observations (OlmPool" in cli("inspect", "hemp").out


def test_plan_names_those_that_matter_with_the_source(cli):
    assert "observations" in cli("plan", "hemp", "--target", "8x", "--json").json
    said = " ".join(cli("plan", "hemp", "--target", "8x").out.split())
    assert (
        "Architecture: grouped queries (2 query heads share a key head), window before the stretch (512 tokens, as far "
        "as the file tells). 2 of 4 features that make a stretch harder" in said
    )
    assert "(OlmPool, Bertsch et al. 2026)" in said
    one = mention(observe(read_facts(OFFICIAL["llama-3-8b"])))
    assert one.startswith("Architecture: grouped queries (4 query heads share a key head). 1 feature")
    none = read_facts(
        {
            "model_type": "llama",
            "num_attention_heads": 4,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "max_position_embeddings": 8192,
        }
    )
    assert mention(observe(none)).startswith("Architecture: none of the features")


# -- the table of quirks ----------------------------------------------------------------------------------------------


def test_every_quirk_is_explained_and_belongs_to_a_known_type():
    document = _document("quirks.json")
    used = {trait for traits in document["types"].values() for trait in traits}
    assert used == set(document["traits"])
    assert set(document["types"]) <= set(rows())
    assert list(document["types"]) == sorted(document["types"])


# -- models that draft ------------------------------------------------------------------------------------------------


def test_layers_that_predict_further_tokens_share_the_configuration():
    assert prediction_layers(read_facts(OFFICIAL["llama-3-8b"])) == ()
    (remark,) = prediction_layers(read_facts(OFFICIAL["deepseek-v3"]))
    assert remark.startswith("1 more layer predicts further tokens (num_nextn_predict_layers)")


def test_a_draft_must_have_the_targets_window_and_stretch():
    target = read_facts(OFFICIAL["llama-3.1-405b"])
    assert difference(target, read_facts(OFFICIAL["llama-3.1-8b"])) is None
    assert difference(target, read_facts(OFFICIAL["llama-3-8b"])) == "its window is 8k, the target's 128k"
    assert "factor 32, the target by" in str(difference(target, read_facts(OFFICIAL["llama-3.2-1b"])))
    longer = OFFICIAL["llama-3.1-8b"]["rope_scaling"] | {"original_max_position_embeddings": 4096}
    other = read_facts(OFFICIAL["llama-3.1-8b"] | {"rope_scaling": longer})
    assert difference(target, other) == "its original window is 4k, the target's 8k"


def test_a_draft_is_stretched_alike_into_the_same_folder(llama: Path, tmp_path: Path, cli: Any) -> None:
    out = tmp_path / "out"
    done = cli("extend", llama, "--target", "8x", "--method", "ntk-su", "--draft", llama, "-o", out, "--json")
    assert done.code == 0, done.err
    one, other = (json.loads((place / "config.json").read_text()) for place in (out, out / "draft"))
    assert one == other
    assert (out / "draft" / "ropewalk.json").is_file()
    assert sorted(path.name for path in (out / "draft").glob("*.safetensors"))
    assert any("is stretched like it" in note for note in done.json["notes"])
    manifest = json.loads((out / "ropewalk.json").read_text())
    assert [name for name in manifest["files"] if name.startswith("draft/")] == ["draft/ropewalk.json"]
    assert f"--draft {llama}" in done.json["command"]


def test_a_draft_with_another_window_is_stretched_from_there_and_differs(
    llama: Path, tmp_path: Path, cli: Any
) -> None:
    out = tmp_path / "out"
    done = cli(
        "extend", llama, "--target", "4k", "--method", "linear", "--draft", "hemp", "-o", out, "--json"
    )
    assert done.code == 0, done.err
    assert read_facts(out / "draft").rope.factor == 8.0
    assert done.json["schedule"]["factor"] == 64.0
    assert any("differs from it: it is stretched by" in note for note in done.json["notes"])
    refused = cli("extend", llama, "--target", "256", "--draft", "hemp", "-o", tmp_path / "two")
    assert (refused.code, "draft hemp: " in refused.complaint) == (2, True)
    assert not (tmp_path / "two").exists()


def test_a_draft_inside_the_folder_is_named(llama: Path, tmp_path: Path, cli: Any) -> None:
    (llama / "eagle").mkdir()
    config = json.loads((llama / "config.json").read_text())
    (llama / "eagle" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    done = cli("extend", llama, "--target", "8x", "-o", tmp_path / "out", "--json")
    assert any("eagle holds a model of its own" in note and "--draft" in note for note in done.json["notes"])
    looked = cli("inspect", llama, "--json").json["companions"]
    assert looked == [
        "the folder 'eagle' holds a model that differs: its window is 32, the target's 64 (as a draft it must be "
        "extended too, --draft)"
    ]


# -- quantised weights ------------------------------------------------------------------------------------------------


def test_quantised_weights_change_nothing_but_what_verify_can_run(
    llama: Path, tmp_path: Path, cli: Any
) -> None:
    config = json.loads((llama / "config.json").read_text())
    quantised = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (llama / "config.json").write_text(json.dumps(config | {"quantization_config": quantised}))
    looked = cli("inspect", llama)
    assert "quantised by gptq, 4.16 bits a value" in looked.out
    out = ropewalk.extend(llama, out=tmp_path / "out", target="8x").output
    assert json.loads((out / "config.json").read_text())["quantization_config"] == quantised
    done = cli("verify", out, "--json")
    assert done.code == 4, done.json
    checks = {check["name"]: check for check in done.json["checks"]}
    assert checks["frequencies"]["status"] == checks["dialects"]["status"] == "pass"
    assert checks["active"]["status"] == "skip"
    assert "quantised (gptq) and do not load here" in checks["active"]["detail"]
    assert done.json["unproven"] == ["active", "stock-parity", "identity"]
