"""Options, advice and the plan as a whole; sizes, memory and cost have files of their own."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import yaml
from configs import LLAMA_2, LLAMA_31, MISTRAL, YARN_4
from published import PUBLISHED

import ropewalk
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.planning import advise, options_for

LLAMA = ropewalk.RopeGeometry(head_dim=128, rope_theta=1e4, original_length=4096)


def test_options_hold_every_method_and_the_fitted_variants():
    options = options_for(LLAMA, 32768)
    labels = [option.label for option in options]
    assert set(ropewalk.methods()) <= set(labels)
    reaching = next(option for option in options if option.label == "ntk, reaching")
    assert reaching.out_of_bound_pairs == 0
    assert reaching.effective_factor == pytest.approx(8)
    # From the closed form: the first slow pair is the 46th of 0..63.
    assert reaching.schedule.factor == pytest.approx(8 ** (63 / 46), rel=1e-6)
    small = options_for(ropewalk.RopeGeometry(64, 1e4, 512), 4096)
    fitted = {option.label: option for option in small if option.label.endswith("fitted betas")}
    assert set(fitted) == {"yarn, fitted betas", "by-parts, fitted betas"}
    assert fitted["yarn, fitted betas"].schedule.parameters["beta_fast"] == 4.0
    assert fitted["by-parts, fitted betas"].schedule.parameters["beta"] == 4.0
    assert not [label for label in labels if label.endswith("fitted betas")]
    assert [option.label for option in options_for(LLAMA, 4096) if "," in option.label] == []


def test_figures_of_an_option_by_hand():
    by_label = {option.label: option for option in options_for(LLAMA, 32768)}
    slow = int(np.sum(4096 * 10000.0 ** (-np.arange(64) / 64) / (2 * np.pi) < 1))
    none, linear = by_label["none"], by_label["linear"]
    assert (none.out_of_bound_pairs, none.effective_factor, none.distortion, none.resolution) == (
        slow,
        1.0,
        0.0,
        1.0,
    )
    assert (linear.out_of_bound_pairs, linear.effective_factor) == (0, pytest.approx(8.0))
    m = np.arange(4096)[:, None] * 10000.0 ** (-np.arange(64) / 64)
    change = np.cos(m / 8).mean(axis=1) - np.cos(m).mean(axis=1)
    assert linear.distortion == pytest.approx(math.sqrt((change**2).mean()), rel=1e-6)
    assert linear.resolution == pytest.approx(
        (1 - np.cos(m[1] / 8).mean()) / (1 - np.cos(m[1]).mean()), rel=1e-9
    )
    assert by_label["cope"].needs_training
    assert by_label["tailspline"].contrib
    assert not linear.needs_training
    document = by_label["drope"].to_json()
    assert document["effective_factor"] is None
    assert json.loads(json.dumps(document))["method"] == "drope"


def test_parameters_of_the_file_are_kept():
    kept = options_for(LLAMA, 32768, kept={"yarn": {"beta_fast": 20.0}})
    assert next(option for option in kept if option.label == "yarn").schedule.parameters["beta_fast"] == 20.0


def test_one_pair_still_has_options():
    labels = [option.label for option in options_for(ropewalk.RopeGeometry(2, 1e4, 512), 4096)]
    assert "linear" in labels
    assert "ntk" not in labels


@pytest.mark.parametrize(
    ("geometry", "target", "label", "said", "keep"),
    [
        (LLAMA, 32768, "yarn", "Only measurement decides", False),
        (LLAMA, 4096, "none", "inside the window", True),
        (LLAMA, 131072, "yarn", "A stretch of 32 needs fine-tuning", False),
        (ropewalk.RopeGeometry(64, 1e4, 512), 4096, "yarn, fitted betas", "betas follow the geometry", False),
        (ropewalk.RopeGeometry(64, 1e4, 131072), 262144, "ntk", "every pair completes a turn", False),
        (ropewalk.RopeGeometry(2, 1e4, 131072), 262144, "linear", "every pair completes a turn", False),
    ],
)
def test_advice_says_on_what_it_rests(geometry, target, label, said, keep):
    advice = advise(geometry, target, options_for(geometry, target))
    assert said in advice.why
    assert (advice.label, advice.keep) == (label, keep)
    assert advice.train == (target / geometry.original_length > 8)
    assert advice.factor == pytest.approx(target / geometry.original_length)
    assert advice.to_json()["keep"] is keep


def test_eight_times_is_still_zero_shot():
    assert not advise(LLAMA, 32768, options_for(LLAMA, 32768)).train


def test_plan_reads_a_configuration_without_torch():
    made = ropewalk.plan(LLAMA_2, "8x", memory="24GB", gpus=2)
    document = made.to_json()
    assert document["factor"] == 8
    assert document["memory"]["inference"]["fits"] is False
    assert document["recommendation"]["method"] == "yarn"
    assert document["launch"] == "accelerate launch --num_processes 2 -m ropewalk train recipe.yaml"
    assert made.launch("my recipe.yaml").endswith("train 'my recipe.yaml'")
    assert made.longest_inference() == 16384
    assert document["memory"]["longest_inference"] == 16384
    assert document["memory"]["device_bytes"] == 24 << 30
    assert [row["fits"] for row in document["memory"]["training"]] == [
        row["total_bytes"] <= 24 << 30 for row in document["memory"]["training"]
    ]
    assert ropewalk.plan(LLAMA_2, "8x").longest_inference() is None
    assert ropewalk.plan(LLAMA_2, "8x", memory="1GB").longest_inference() == 0
    assert ropewalk.plan(LLAMA_2, "8x").fits(1) is None


def test_nothing_is_left_out_of_a_plain_model_and_one_device_trains_it():
    made = ropewalk.plan(LLAMA_2, "8x")
    assert made.notes == ()
    assert (made.gpus, made.launch()) == (1, "ropewalk train recipe.yaml")
    assert "engine" not in made.recipe()
    assert made.inference.weights == made.shape.num_parameters * 2
    rough = ropewalk.plan(LLAMA_2 | {"model_type": "doge"}, "8x", despite_errors=True)
    assert "rough estimate" in " ".join(rough.notes)


def test_the_recipe_names_the_model_where_it_lies(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2), encoding="utf-8")
    made = ropewalk.plan(tmp_path, "8x")
    assert made.source == made.recipe()["model"]["path"] == str(tmp_path)
    assert ropewalk.plan(LLAMA_2, "8x").to_json()["model"] == "config"


def test_a_model_that_is_stretched_already_is_a_row_and_an_answer():
    made = ropewalk.plan(LLAMA_31, "64k")
    assert made.options[0].label == "present"
    assert made.options[0].schedule.method == "llama3"
    assert made.advice.keep
    assert "it already reaches 64k" in made.advice.why
    assert made.advice.method == "llama3"
    assert "rope" not in made.recipe()
    at_window = ropewalk.plan(LLAMA_31, "128k")
    assert at_window.advice.keep
    beyond = ropewalk.plan(YARN_4, "32k")
    assert beyond.options[0].schedule.factor == 4.0
    assert beyond.options[0].effective_factor == pytest.approx(4.0)
    assert (beyond.advice.label, beyond.advice.factor, beyond.advice.keep) == ("yarn", 8.0, False)
    # The file's own betas stay.
    assert beyond.advice.parameters["beta_fast"] == 20.0
    assert ropewalk.plan(LLAMA_2, "8k").options[0].label == "none"


def test_a_window_longer_than_the_trained_one_leaves_distances_to_stretch():
    """Phi-3 declares one of 262144 tokens, which no text of its 4096 ever reached."""
    phi = {"model_type": "phi3", "max_position_embeddings": 4096, "original_max_position_embeddings": 4096}
    made = ropewalk.plan(phi | {"sliding_window": 262144}, "1m")
    assert (made.advice.label, made.advice.keep) == ("yarn", False)
    assert "all-layers-slide" not in {finding.id for finding in made.findings}
    at_most = ropewalk.plan(phi | {"sliding_window": 4096}, "1m")
    assert (at_most.advice.label, at_most.advice.keep) == ("none", True)
    found = {finding.id for finding in ropewalk.inspect(phi | {"sliding_window": 262144}, "1m").findings}
    assert "all-layers-slide" not in found
    assert "all-layers-slide" in {
        finding.id for finding in ropewalk.inspect(phi | {"sliding_window": 4096}, "1m").findings
    }


def test_a_model_whose_layers_all_slide_is_not_stretched():
    made = ropewalk.plan(MISTRAL, "64k")
    assert (made.advice.label, made.advice.keep) == ("none", True)
    assert "more than 4k tokens" in made.advice.why
    some = dict(MISTRAL, model_type="gemma2", head_dim=128)
    assert not ropewalk.plan(some, "64k").advice.keep


WRONG = {
    "float window": LLAMA_2 | {"max_position_embeddings": 4096.0},
    "factor beyond use": LLAMA_2
    | {"rope_scaling": {"rope_type": "yarn", "factor": 1e308, "original_max_position_embeddings": 4096}},
    "unknown type": LLAMA_2 | {"rope_scaling": {"rope_type": "yarm", "factor": 4.0}},
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_configuration_is_not_planned_unless_told(name):
    with pytest.raises(RopewalkError, match="is not planned") as caught:
        ropewalk.plan(WRONG[name], "16k")
    assert "ropewalk inspect" in str(caught.value)
    assert "--despite-errors" in str(caught.value)
    # Only what `extend --repair` can mend is said to be mended by it: a float for a whole number.
    assert ("`ropewalk extend llama --repair -o OUT` mends it" in str(caught.value)) is (
        name == "float window"
    )
    made = ropewalk.plan(WRONG[name], "16k", despite_errors=True)
    if name != "factor beyond use":
        assert made.to_json()["findings"][0]["severity"] == "error"
    if name != "float window":
        assert "is no row" in " ".join(made.notes)
        assert made.options[0].label == "none"


@pytest.mark.parametrize("target", ["10m", "1000m", "4194305"])
def test_any_length_is_planned_without_walking_it(target, monkeypatch):
    """A window of ten million and a target of a thousand: nothing makes an array of that length."""
    from ropewalk.analysis import base, decay

    def refused(inv_freq, length, **rest):
        raise AssertionError(f"walks {length} distances")

    monkeypatch.setattr(base, "rotary_kernel", refused)
    monkeypatch.setattr(decay, "rotary_kernel", refused)
    scout = PUBLISHED["llama-4-scout"][0]
    assert ropewalk.plan(scout, "20m").base_bound_within == 10.0
    assert ropewalk.plan(scout | {"max_position_embeddings": 1 << 20}, target).base_bound_within == 10.0
    assert ropewalk.inspect(PUBLISHED["llama-2-7b"][0], target).base_bound


def test_the_bound_can_be_scanned():
    made = ropewalk.plan(LLAMA_2, "5000", exact_bound=True)
    rough = ropewalk.plan(LLAMA_2, "5000")
    assert made.base_bound_within < 1.01 < rough.base_bound_within
    assert 1 / rough.base_bound_within <= rough.base_bound / made.base_bound <= rough.base_bound_within


def test_the_recipe_is_one_that_train_accepts(tmp_path):
    from ropewalk.training.recipe.reading import read_recipe

    for config, memory, gpus, target in (
        (LLAMA_2, None, 1, 32768),
        (LLAMA_2, None, 1, 4096),
        (LLAMA_2, "24GB", 1, 32768),
        (LLAMA_2, "80GB", 8, 32768),
        (LLAMA_2, "24GB", 8, 32768),
        (LLAMA_31, "24GB", 1, 32768),
    ):
        made = ropewalk.plan(config, target, memory=memory, gpus=gpus)
        recipe = made.recipe()
        recipe["model"]["path"] = "somewhere"
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        read = read_recipe(path)
        assert read.stages[-1].length == target
        assert (read.rope is None) == made.advice.keep
        if read.rope is not None:
            assert read.rope.method == "yarn"


def test_the_recipe_doubles_to_its_target():
    recipe = ropewalk.plan(LLAMA_2, 20000).recipe()
    assert [stage["length"] for stage in recipe["stages"]] == [8192, 16384, 20000]
    assert [stage["steps"] for stage in recipe["stages"]] == [133, 133, 133]
    assert recipe["stages"][0]["mix"] == {4096: 0.25}
    assert (recipe["tokens_per_step"], recipe["micro_batch_tokens"]) == (1 << 18, 20000)
    assert recipe["rope"] == {
        "method": "yarn",
        "factor": 20000 / 4096,
        "parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True},
        "follow": "final",
    }
    assert ropewalk.plan(LLAMA_2, "1m").recipe()["tokens_per_step"] == 1 << 20


def test_the_plainest_set_up_that_fits_is_chosen():
    """Llama-2-7B to 32k: alone it needs adapters; eight devices divide the weights, then share the sequence."""
    chosen = {
        (memory, gpus): ropewalk.plan(LLAMA_2, "8x", memory=memory, gpus=gpus).setup
        for memory, gpus in (("24GB", 1), ("24GB", 8), ("80GB", 8), ("200GB", 1), ("1GB", 1))
    }
    assert chosen["200GB", 1].name == "full, checkpointed, chunked loss"
    assert chosen["200GB", 1].recipe() == {"precision": "bfloat16", "memory": {"checkpointing": True}}
    assert chosen["24GB", 1].lora
    assert chosen["24GB", 1].recipe()["lora"] == {"rank": 16}
    assert chosen["80GB", 8].sharing == 1
    assert chosen["80GB", 8].recipe()["engine"] == {"name": "fsdp2"}
    shared = chosen["24GB", 8]
    assert shared.sharing > 1
    assert shared.recipe()["engine"] == {"name": "fsdp2", "context_parallel": shared.sharing}
    assert shared.memory.total <= 24e9
    assert chosen["1GB", 1].memory.total > 1e9
    assert chosen["1GB", 1].name == "LoRA 16 on NF4, chunked loss, offloaded"
    assert chosen["1GB", 1].recipe()["memory"] == {"checkpointing": True, "offload": "cpu"}


@pytest.mark.parametrize("target", ["2k", "0.5x", "lots", "0"])
def test_bad_targets_are_refused(target):
    with pytest.raises(RopewalkError, match=r"target|length"):
        ropewalk.plan(LLAMA_2, target)


@pytest.mark.parametrize("memory", ["24", 24, "999999"])
def test_memory_without_a_unit_is_refused(memory):
    with pytest.raises(UsageError, match="without a unit") as caught:
        ropewalk.plan(LLAMA_2, "8x", memory=memory)
    assert caught.value.hint == f"write {memory}GB"


def test_schedules_of_a_plan_are_the_ones_that_methods_make():
    made = ropewalk.plan(LLAMA_2, "32k")
    by_label = {option.label: option for option in made.options}
    assert np.array_equal(
        by_label["yarn"].schedule.inv_freq, ropewalk.schedule("yarn", LLAMA, target_length=32768).inv_freq
    )
    assert math.isclose(made.base_bound, 6.33e5, rel_tol=0.01)
