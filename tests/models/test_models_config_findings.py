"""Each known way to write a broken configuration is named, and mended where it can be."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.models.defects.finding import ORDER
from ropewalk.models.defects.findings import find
from ropewalk.models.defects.repair import repaired_config
from ropewalk.models.facts import read_facts

EXAMPLES = Path(__file__).parents[2] / "examples" / "configs"
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}
SHORT, LONG = [1.0] * 8, [float(i + 1) for i in range(8)]
LONGROPE = {"rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 512}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512}
GEMMA = {"model_type": "gemma3_text", "head_dim": 16, "num_hidden_layers": 6, "max_position_embeddings": 4096}


def scaled(**scaling):
    return LLAMA | {"rope_scaling": scaling}


# id -> (configuration, repairable)
BROKEN = {
    "unknown-rope-type": (scaled(rope_type="ntk", factor=4.0), True),
    "missing-factor": (scaled(rope_type="yarn", original_max_position_embeddings=512), True),
    "ineffective-factor": (scaled(rope_type="default", factor=4.0), False),
    "bad-factor": (scaled(**YARN | {"factor": -3}), True),
    "factor-below-one": (scaled(rope_type="linear", factor=0.5), False),
    "factor-one": (scaled(rope_type="linear", factor=1.0), False),
    "factor-mismatch": (scaled(**YARN | {"factor": 4.0}), False),
    "original-length-missing": (scaled(rope_type="yarn", factor=8.0) | {"model_max_length": 512}, True),
    "two-types": (scaled(**YARN | {"type": "linear"}), False),
    "base-null": (scaled(**YARN | {"rope_theta": None}), True),
    "base-implausible": (LLAMA | {"rope_theta": 1e300}, False),
    "lengths-disagree": (LLAMA | {"model_max_length": 131072}, False),
    "flag-as-text": (scaled(**YARN | {"truncate": "false"}), True),
    "dual-chunk": (
        LLAMA | {"dual_chunk_attention_config": {"chunk_size": 1024, "original_max_position_embeddings": 1024}},
        False,
    ),
    "original-above-window": (scaled(**YARN | {"original_max_position_embeddings": 8192}), True),
    "window-not-raised": (scaled(**YARN | {"original_max_position_embeddings": 4096}), True),
    "longrope-list": (scaled(**LONGROPE, long_factor="x", short_factor=SHORT), False),
    "longrope-length": (scaled(**LONGROPE, long_factor=LONG[:3], short_factor=SHORT), False),
    "longrope-decreasing": (scaled(**LONGROPE, long_factor=LONG[::-1], short_factor=SHORT), False),
    "longrope-two-sets": (scaled(**LONGROPE, long_factor=LONG, short_factor=SHORT), False),
    "llama3-bounds": (scaled(**LLAMA3, low_freq_factor=4.0, high_freq_factor=1.0), False),
    "yarn-betas": (scaled(**YARN, beta_fast=1, beta_slow=32), False),
    "nested-truncate": (
        {
            "model_type": "olmo3",
            "num_hidden_layers": 4,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "full_attention": YARN | {"truncate": False, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e5},
            },
        },
        True,
    ),
    "bad-attention-factor": (scaled(**YARN, attention_factor=-1.0), False),
    "mscale-alone": (scaled(**YARN, mscale=0.7), False),
    "attn-factor-spelling": (scaled(**YARN, attn_factor=1.5), True),
    "unknown-key": (scaled(**YARN, bta_fast=16), False),
    "dynamic-state": (scaled(rope_type="dynamic", factor=4.0), False),
    "dynamic-original-ignored": (
        scaled(rope_type="dynamic", factor=4.0, original_max_position_embeddings=512),
        False,
    ),
    "phimoe-mscale": (
        {
            "model_type": "phimoe",
            "hidden_size": 64,
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
            "rope_scaling": LONGROPE | {"long_factor": LONG, "short_factor": LONG},
        },
        True,
    ),
    "phimoe-long-set-unused": (
        {
            "model_type": "phimoe",
            "hidden_size": 64,
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
            "rope_scaling": LONGROPE
            | {"long_factor": LONG, "short_factor": SHORT, "short_mscale": 1.0, "long_mscale": 1.0},
        },
        False,
    ),
    "recurrent-gemma-scaled": (
        {"model_type": "recurrent_gemma", "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        False,
    ),
    "partial-rotary-ignored": (LLAMA | {"partial_rotary_factor": 0.5}, False),
    "number-as-text": (LLAMA | {"rope_theta": "10000"}, True),
    "length-not-integer": (LLAMA | {"max_position_embeddings": 4096.0}, True),
    "scaling-outside-text-config": (
        {"model_type": "gemma3", "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "text_config": GEMMA},
        True,
    ),
    "scaling-ignored": ({"model_type": "gptj", "rope_scaling": {"rope_type": "linear", "factor": 2.0}}, True),
    "flat-rope-on-nested": (GEMMA | {"rope_parameters": {"rope_type": "linear", "factor": 8.0}}, True),
    "nested-rope-on-flat": (
        LLAMA | {"rope_parameters": {"full_attention": YARN | {"rope_theta": 1e4}, "sliding_attention": None}},
        True,
    ),
    "layer-type-missing": (
        {
            "model_type": "laguna",
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": {"rope_theta": 1e4}},
        },
        False,
    ),
    "stray-nested-key": (
        GEMMA
        | {
            "rope_parameters": {
                "full_attention": {"rope_theta": 1e6},
                "sliding_attention": {"rope_theta": 1e4},
                "factor": 8.0,
            }
        },
        False,
    ),
    "original-lengths-disagree": (scaled(**YARN) | {"original_max_position_embeddings": 1024}, True),
    "rope-scaling-unread": ({"model_type": "laguna", "rope_scaling": YARN}, True),
    "phi-longrope-only": (
        {
            "model_type": "phi3",
            "hidden_size": 64,
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
            "rope_scaling": YARN,
        },
        True,
    ),
    "proportional-replaced": (
        {
            "model_type": "gemma4_text",
            "num_hidden_layers": 6,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
        True,
    ),
    "dialects-disagree": (
        scaled(**YARN) | {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}},
        True,
    ),
    "new-dialect-only": (
        {**LLAMA, "rope_theta": None, "rope_parameters": YARN | {"rope_theta": 5e5}},
        True,
    ),
    "old-type-key": (scaled(type="linear", factor=8.0), True),
    "base-not-stated": ({"model_type": "cohere", "num_hidden_layers": 2}, False),
    "head-dim-null": (
        {
            "model_type": "mixtral",
            "hidden_size": 64,
            "num_attention_heads": 4,
            "max_position_embeddings": 4096,
            "rope_theta": 1e6,
            "rope_scaling": YARN,
        },
        True,
    ),
    "layer-types-length": (LLAMA | {"model_type": "qwen3", "layer_types": ["full_attention"]}, False),
    "all-layers-slide": (LLAMA | {"model_type": "mistral", "sliding_window": 512}, False),
    "layers-without-rope": ({"model_type": "smollm3", "num_hidden_layers": 8}, False),
    "local-parts": ({"model_type": "blt"}, False),
    "linear-original-unclear": (scaled(rope_type="linear", factor=8.0), False),
    "remote-code": (LLAMA | {"auto_map": {"AutoModel": "x.Y"}}, False),
    "unknown-model-type": (LLAMA | {"model_type": "brand-new"}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_defect_is_named_with_its_way_out(name):
    config, repairable = BROKEN[name]
    before = copy.deepcopy(config)
    found = {finding.id: finding for finding in find(config)}
    assert name in found
    finding = found[name]
    assert finding.repairable is repairable
    assert finding.fix
    assert finding.message.isprintable()
    assert len(finding.message) > 20
    assert config == before


@pytest.mark.parametrize("name", [name for name, (_, repairable) in BROKEN.items() if repairable])
def test_each_repair_holds(name):
    config, _ = BROKEN[name]
    before = copy.deepcopy(config)
    mended = repaired_config(config)
    assert config == before
    left = [finding for finding in find(mended) if finding.repairable]
    assert not left
    # A second repair has nothing to do, and the result is plain JSON.
    assert repaired_config(mended) == mended == json.loads(json.dumps(mended, allow_nan=False))


def mended(name):
    return read_facts(repaired_config(BROKEN[name][0]))


def test_ntk_is_written_as_its_changed_base():
    facts = mended("unknown-rope-type")
    assert facts.rope.rope_type == "default"
    assert facts.rope.parameters["rope_theta"] == pytest.approx(10000.0 * 4.0 ** (16 / 14))


def test_a_raised_window_gives_its_original_back():
    facts = mended("original-length-missing")
    assert facts.original_length == 512
    np.testing.assert_array_equal(
        facts.rope.schedule.inv_freq, ropewalk.schedule("yarn", facts.geometry, factor=8.0).inv_freq
    )


def test_frequencies_that_stock_types_cannot_say_are_carried():
    facts = mended("phi-longrope-only")
    assert facts.rope.rope_type == "longrope"
    wanted = ropewalk.schedule("yarn", facts.geometry, factor=8.0)
    np.testing.assert_allclose(facts.rope.schedule.inv_freq, wanted.inv_freq, rtol=1e-12)
    assert facts.rope.schedule.attention_factor == wanted.attention_factor
    facts = mended("nested-truncate")
    wanted = ropewalk.schedule("yarn", facts.geometry, factor=8.0, truncate=False)
    np.testing.assert_allclose(facts.rope.schedule.inv_freq, wanted.inv_freq, rtol=1e-12)


def test_a_flat_dictionary_moves_to_full_attention():
    facts = mended("flat-rope-on-nested")
    assert (facts.rope.rope_type, facts.rope.factor) == ("linear", 8.0)
    assert not facts.ropes["sliding_attention"].is_scaled


def test_a_nested_dictionary_on_a_flat_class_keeps_its_meaning():
    config = repaired_config(BROKEN["nested-rope-on-flat"][0])
    assert config["rope_parameters"]["factor"] == 8.0
    assert read_facts(config).rope.schedule.method == "yarn"


def test_scaling_that_a_class_never_reads_is_not_counted():
    config = {
        "model_type": "cohere2_moe",
        "num_hidden_layers": 4,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    }
    assert not read_facts(config).rope.is_scaled
    assert "rope-scaling-unread" in {finding.id for finding in find(config)}
    assert read_facts(repaired_config(config)).rope.factor == 2.0


def test_sgl_attention_factor_becomes_the_final_value():
    facts = mended("attn-factor-spelling")
    assert facts.rope.schedule.attention_factor == pytest.approx(1.5 * (0.1 * np.log(8) + 1))


def test_disagreeing_dialects_follow_what_transformers_reads():
    config = repaired_config(BROKEN["dialects-disagree"][0])
    assert config["rope_parameters"]["rope_type"] == config["rope_scaling"]["rope_type"] == "yarn"
    theta = repaired_config(LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    assert theta["rope_theta"] == 5e5


def test_faults_that_hide_behind_others_are_mended_too():
    config = GEMMA | {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "attn_factor": 1.5}}
    config |= {"model_max_length": 512}
    assert {finding.id for finding in find(config) if finding.repairable} == {"flat-rope-on-nested"}
    facts = read_facts(repaired_config(config))
    assert facts.original_length == 512
    assert facts.rope.schedule.attention_factor == pytest.approx(1.5 * (0.1 * np.log(8) + 1))


def test_a_selection_of_findings_is_mended_alone():
    config = scaled(type="yarn", factor=8.0)
    only = [finding for finding in find(config) if finding.id == "old-type-key"]
    mended = repaired_config(config, only)
    assert "original-length-missing" in {finding.id for finding in find(mended)}
    assert "old-type-key" not in {finding.id for finding in find(mended)}


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-3.1-8b", "qwen3-8b-yarn", "gemma-3-4b", "deepseek-v3"])
def test_published_configurations_have_no_errors(name):
    config = json.loads((EXAMPLES / f"{name}.json").read_text())
    assert [finding.id for finding in find(config) if finding.severity != "note"] == []
    assert repaired_config(config)["model_type"] == config["model_type"]


def test_the_broken_example_shows_several_errors_first():
    found = find(json.loads((EXAMPLES / "broken.json").read_text()))
    ranks = [ORDER.index(finding.severity) for finding in found]
    assert ranks == sorted(ranks)
    assert {"length-not-integer", "original-length-missing", "dialects-disagree", "attn-factor-spelling"} <= {
        finding.id for finding in found
    }


@pytest.mark.parametrize(
    ("written", "hint", "mends_to"),
    [
        ("yarm", "did you mean yarn?", None),
        ("linaer", "did you mean linear?", None),
        ("YaRN", "write rope_type yarn", "yarn"),
        ("Linear", "write rope_type linear", "linear"),
        ("su", "write rope_type longrope", "longrope"),
        ("xyz", "use one of default, linear", None),
    ],
)
def test_a_misspelt_type_is_told_its_name(written, hint, mends_to):
    lists = {"long_factor": LONG, "short_factor": SHORT} if written == "su" else {}
    config = scaled(**YARN | {"rope_type": written}, **lists)
    finding = next(finding for finding in find(config) if finding.id == "unknown-rope-type")
    assert hint in finding.fix
    assert finding.repairable is (mends_to is not None)
    if mends_to is not None:
        facts = read_facts(repaired_config(config))
        assert (facts.rope.rope_type, facts.rope.factor, facts.original_length) == (
            mends_to,
            8.0,
            4096 if mends_to == "linear" else 512,
        )


def test_a_null_base_takes_the_one_that_the_file_states_or_is_refused():
    fixed = repaired_config(BROKEN["base-null"][0])
    assert fixed["rope_theta"] == fixed["rope_scaling"]["rope_theta"] == 10000.0
    for config in (
        LLAMA | {"rope_theta": None},
        LLAMA | {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": None}},
        LLAMA
        | {
            "rope_theta": 1e4,
            "rope_base": 1e5,
            "rope_parameters": {"rope_type": "default", "rope_theta": None},
        },
    ):
        finding = next(finding for finding in find(config) if finding.id == "base-null")
        assert not finding.repairable
        assert "the base that the model was trained with" in finding.fix


def test_a_flag_in_quotes_counts_for_what_it_says():
    fixed = repaired_config(BROKEN["flag-as-text"][0])
    assert fixed["rope_scaling"]["truncate"] is False
    wanted = ropewalk.schedule(
        "yarn", read_facts(LLAMA | {"max_position_embeddings": 512}).geometry, factor=8.0, truncate=False
    )
    np.testing.assert_allclose(read_facts(fixed).rope.schedule.inv_freq, wanted.inv_freq, rtol=1e-12)


@pytest.mark.parametrize(
    ("beside", "tokenizer", "original"),
    [
        ({}, None, None),
        ({}, {"model_max_length": 4096}, None),
        ({}, {"model_max_length": 10**30}, None),
        ({}, {"model_max_length": 512}, 512),
        ({}, {"model_max_length": 32768}, 4096),
        ({"seq_length": 512}, None, 512),
        ({"seq_length": 512}, {"model_max_length": 512}, 512),
        # Two pieces of evidence for two readings are none.
        ({"seq_length": 512}, {"model_max_length": 32768}, None),
    ],
)
def test_the_original_window_follows_evidence_and_nothing_else(beside, tokenizer, original):
    config = scaled(rope_type="yarn", factor=8.0) | beside
    finding = next(item for item in find(config, tokenizer=tokenizer) if item.id == "original-length-missing")
    assert finding.repairable is (original is not None)
    mended = repaired_config(config, tokenizer=tokenizer)["rope_scaling"]
    assert mended.get("original_max_position_embeddings") == original
    if original is None:
        assert "512 or 4096" in finding.fix


def test_a_trained_window_of_dual_chunk_attention_is_the_original():
    facts = read_facts(BROKEN["dual-chunk"][0])
    assert (facts.original_length, facts.max_position_embeddings) == (1024, 4096)


def test_a_window_that_hides_nothing_is_not_called_sliding():
    config = LLAMA | {"model_type": "mistral", "sliding_window": 4096}
    assert "all-layers-slide" not in {finding.id for finding in find(config)}
    assert "all-layers-slide" in {finding.id for finding in find(config, target_length=8192)}
    assert "all-layers-slide" in {finding.id for finding in find(config | {"sliding_window": 4095})}


def test_llama3_keeps_a_window_of_its_own_beside_the_factor():
    for factor in (4.0, 8.0, 32.0):
        config = scaled(**LLAMA3 | {"factor": factor}, low_freq_factor=1.0, high_freq_factor=4.0)
        assert [finding.id for finding in find(config) if finding.id == "factor-mismatch"] == []


@pytest.mark.parametrize("kind", ["yarn", "llama3", "linear", "longrope"])
def test_a_factor_beyond_all_bounds_is_named_and_never_a_traceback(kind):
    config = scaled(**YARN | {"rope_type": kind, "factor": 1e308})
    assert "bad-factor" in {finding.id for finding in find(config)}
    repaired_config(config)


def test_the_base_is_held_against_targets_beyond_a_million_too():
    wide = find({**GEMMA, "rope_theta": 1e4}, target_length=1 << 21)
    (found,) = [item for item in wide if item.id == "base-below-bound"]
    assert "up to 2" in found.message


def test_a_target_brings_its_own_findings():
    config = GEMMA | {"rope_theta": 1e4, "sliding_window": 512}
    found = {finding.id for finding in find(config, target_length=32768)}
    assert {"sliding-window-short", "base-below-bound"} <= found
    assert not {"sliding-window-short", "base-below-bound"} & {finding.id for finding in find(config)}


@pytest.mark.parametrize(
    ("limit", "severity"),
    [(512, "warning"), (8192, "note"), (4096, None), (10**30, None), ("x", None), (None, None)],
)
def test_the_tokenizers_limit_is_compared(limit, severity):
    found = {finding.id: finding.severity for finding in find(LLAMA, tokenizer={"model_max_length": limit})}
    assert found.get("tokenizer-length") == severity


def test_serving_length_of_our_own_linear():
    made = ropewalk.schedule("linear", ropewalk.read_geometry(LLAMA), factor=4.0)
    from ropewalk.models.writing.carrier import config_with

    found = {finding.id for finding in find(config_with(LLAMA, made))}
    assert "serving-length-multiplied" in found


def test_models_that_reach_far_without_rotation_are_told_apart():
    found = {finding.id: finding for finding in find({"model_type": "llama4_text", "num_hidden_layers": 8})}
    assert "all-layers-slide" not in found
    assert found["layers-without-rope"].severity == "warning"
    mixed = {finding.id: finding for finding in find({"model_type": "smollm3", "num_hidden_layers": 8})}
    assert mixed["layers-without-rope"].severity == "note"


def test_softmax_scale_of_mla_is_told():
    config = json.loads((EXAMPLES / "deepseek-v3.json").read_text())
    assert "softmax-scaled" in {finding.id for finding in find(config)}


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (
            {"max_position_embeddings": "1048576"},
            "number-as-text",
            "write max_position_embeddings without quotes, 1048576;",
        ),
        (
            {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1234567.5}},
            "base-null",
            "write 1234567.5,",
        ),
    ],
)
def test_a_value_to_write_is_given_in_full(change, name, said):
    finding = next(finding for finding in find(LLAMA | change) if finding.id == name)
    assert finding.fix.startswith(said)


def test_where_every_layer_slides_a_stretch_says_that_it_does_nothing(tmp_path):
    config = LLAMA | {"model_type": "mistral", "sliding_window": 512, "rope_parameters": {"rope_theta": 1e4}}
    for window, said in ((512, True), (None, False)):
        file = tmp_path / f"{window}.json"
        file.write_text(json.dumps(config | {"sliding_window": window}))
        made = ropewalk.extend(file, target="4x", method="yarn", dry_run=True)
        assert ("sees only a window of 512" in " ".join(made.notes)) is said
