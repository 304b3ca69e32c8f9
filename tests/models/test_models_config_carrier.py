"""Schedules written into configurations: native type or carrier, both dialects, what stays, what is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

import ropewalk
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.defects.findings import find
from ropewalk.models.facts import read_facts
from ropewalk.models.stretch import kept_parameters
from ropewalk.models.structure.table import row_of, rows
from ropewalk.models.writing.carrier import carry, config_with

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "custom_field": {"kept": [1, 2]},
}
METHODS = {
    "none": "default",
    "linear": "linear",
    "ntk": "default",
    "ntk-d": "default",
    "abf": "default",
    "yarn": "yarn",
    "llama3": "llama3",
    "longrope": "longrope",
    "by-parts": "longrope",
    "ntk-su": "longrope",
    "mrrope-pro": "longrope",
    "cope": "longrope",
    "p-rope": "longrope",
}


def stretched(config, method, factor=4.0, **parameters):
    geometry = ropewalk.read_geometry(config)
    return ropewalk.schedule(method, geometry, factor=factor, **parameters)


def reread(config):
    return read_facts(json.loads(json.dumps(config, allow_nan=False)))


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_reads_back_as_the_schedule(method):
    made = stretched(LLAMA, method)
    before = copy.deepcopy(LLAMA)
    carried = carry(LLAMA, made, target_length=2048)
    assert before == LLAMA
    assert carried.entries["default"].kind == METHODS[method]
    facts = reread(carried.config)
    assert facts.geometry == made.geometry
    assert facts.max_position_embeddings == 2048
    np.testing.assert_allclose(facts.rope.schedule.inv_freq, made.inv_freq, rtol=1e-12)
    assert facts.rope.schedule.attention_factor == pytest.approx(made.attention_factor, rel=1e-12)
    assert carried.config["custom_field"] == {"kept": [1, 2]}
    assert not [finding for finding in find(carried.config) if finding.severity == "error"]


@pytest.mark.parametrize("method", METHODS)
def test_each_dialect_alone_says_the_same(method):
    made = stretched(LLAMA, method)
    config = config_with(LLAMA, made, target_length=2048)
    old = {name: value for name, value in config.items() if name != "rope_parameters"}
    new = {name: value for name, value in config.items() if name not in ("rope_scaling", "rope_theta")}
    for one in (old, new):
        np.testing.assert_allclose(reread(one).rope.schedule.inv_freq, made.inv_freq, rtol=1e-12)


@pytest.mark.parametrize("first", ["ntk", "linear", "yarn", "ntk-su"])
@pytest.mark.parametrize("second", ["ntk", "yarn", "by-parts"])
def test_a_second_stretch_starts_from_the_original(first, second):
    once = config_with(LLAMA, stretched(LLAMA, first, 4.0))
    facts = read_facts(once)
    assert facts.original_length == 512
    assert facts.rope.factor == 4.0
    twice = config_with(once, ropewalk.schedule(second, facts.geometry, factor=8.0))
    direct = config_with(LLAMA, stretched(LLAMA, second, 8.0))
    assert twice["rope_parameters"] == direct["rope_parameters"]
    assert twice["max_position_embeddings"] == direct["max_position_embeddings"] == 4096


def test_a_note_that_no_longer_fits_is_not_used():
    config = config_with(LLAMA, stretched(LLAMA, "ntk"))
    config["rope_parameters"]["rope_theta"] = config["rope_theta"] = 5e5
    facts = read_facts(config)
    assert facts.geometry.rope_theta == 5e5
    assert facts.original_length == 2048
    assert "stale-note" in {finding.id for finding in find(config)}


def test_a_stopped_pair_becomes_a_large_finite_factor_and_a_note():
    made = stretched(LLAMA, "p-rope", share=0.5)
    carried = carry(LLAMA, made)
    factors = carried.config["rope_parameters"]["long_factor"]
    assert max(factors) == 1e30
    assert any("1e+30" in note for note in carried.notes)
    assert (reread(carried.config).rope.schedule.inv_freq == made.inv_freq).all()


def test_two_sets_are_both_written():
    made = stretched(
        LLAMA, "longrope", short_factors=[1.0] * 8, long_factors=[float(i + 1) for i in range(8)]
    )
    carried = carry(LLAMA, made)
    entry = carried.config["rope_parameters"]
    assert entry["short_factor"] == [1.0] * 8
    assert entry["long_factor"] == pytest.approx([float(i + 1) for i in range(8)])
    assert any("batch" in note for note in carried.notes)


def test_keys_of_the_models_own_survive():
    config = LLAMA | {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 256,
            "mrope_section": [4, 2, 2],
            "llama_4_scaling_beta": 0.1,
        }
    }
    geometry = ropewalk.read_geometry(config)
    for method in ("linear", "ntk", "ntk-su"):
        entry = config_with(config, ropewalk.schedule(method, geometry, factor=4.0))["rope_parameters"]
        assert entry["mrope_section"] == [4, 2, 2]
        assert entry["llama_4_scaling_beta"] == 0.1
        assert entry["original_max_position_embeddings"] == 256
        assert "beta_fast" not in entry


GEMMA = {
    "model_type": "gemma3",
    "text_config": {"head_dim": 16, "num_hidden_layers": 6, "max_position_embeddings": 512},
    "vision_config": {"rope_theta": 1.0},
}


@pytest.mark.parametrize("share", [0.5, 3.0])
def test_a_share_that_the_class_never_read_does_not_wake_up(share):
    config = LLAMA | {"partial_rotary_factor": share}
    made = stretched(config, "yarn")
    assert made.geometry.half_dim == 8
    carried = carry(config, made)
    assert carried.config["rope_parameters"]["partial_rotary_factor"] == 1.0
    np.testing.assert_allclose(reread(carried.config).rope.schedule.inv_freq, made.inv_freq)


def test_only_the_full_attention_entry_changes():
    made = stretched(GEMMA, "yarn")
    carried = carry(GEMMA, made)
    text = carried.config["text_config"]
    assert text["rope_parameters"]["full_attention"]["rope_type"] == "yarn"
    assert text["rope_parameters"]["sliding_attention"] == {"rope_type": "default", "rope_theta": 10000.0}
    assert text["rope_local_base_freq"] == 10000.0
    assert text["rope_scaling"]["factor"] == 4.0
    assert carried.config["vision_config"] == {"rope_theta": 1.0}
    assert "rope_parameters" not in carried.config


def test_all_layers_get_the_method_on_their_own_geometry():
    made = stretched(GEMMA, "ntk")
    carried = carry(GEMMA, made, layers="all")
    sliding = carried.schedules["sliding_attention"]
    assert sliding.geometry.rope_theta == 10000.0
    assert sliding.stretch[-1] == pytest.approx(4.0)
    assert carried.config["text_config"]["rope_local_base_freq"] == sliding.native["rope_theta"]
    # The old keys have a base for sliding layers, but no scaling of theirs.
    assert not carry(GEMMA, stretched(GEMMA, "linear"), layers="all").old_dialect
    with pytest.raises(RopewalkError, match="cannot be repeated"):
        carry(GEMMA, stretched(GEMMA, "longrope"), layers="all")


def test_a_layer_type_without_rotation_stays_null():
    config = {
        "model_type": "cohere_compass_text",
        "layer_types": ["sliding_attention", "full_attention"],
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "rope_parameters": {
            "sliding_attention": {"rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
            "full_attention": None,
        },
    }  # fmt: skip
    made = stretched(config, "linear")
    with pytest.raises(RopewalkError, match="only its sliding layers rotate"):
        carry(config, made)
    written = carry(config, made, layers="all").config["rope_parameters"]
    assert written["full_attention"] is None
    assert written["sliding_attention"]["mrope_section"] == [4, 2, 2]


@pytest.mark.parametrize(
    ("config", "method", "kind"),
    [
        ({"model_type": "phi3"}, "yarn", "longrope"),
        ({"model_type": "phi3"}, "linear", "longrope"),
        ({"model_type": "phi3"}, "ntk", "default"),
        ({"model_type": "phimoe"}, "yarn", "longrope"),
        ({"model_type": "gemma4_text"}, "linear", "proportional"),
        ({"model_type": "gemma4_text"}, "ntk", "proportional"),
        ({"model_type": "lfm3"}, "linear", "proportional"),
        ({"model_type": "lfm3"}, "yarn", "longrope"),
        ({"model_type": "recurrent_gemma"}, "ntk", "default"),
    ],
)
def test_classes_that_take_only_some_types(config, method, kind):
    config = config | {"num_hidden_layers": 6}
    carried = carry(config, stretched(config, method))
    assert carried.entries[read_facts(config).main].kind == kind


def test_phimoe_gets_its_two_numbers():
    config = {"model_type": "phimoe", "num_hidden_layers": 2}
    entry = config_with(config, stretched(config, "yarn"))["rope_parameters"]
    assert entry["short_mscale"] == entry["long_mscale"] == entry["attention_factor"]
    two = stretched(config, "longrope", short_factors=[1.0] * 64)
    with pytest.raises(RopewalkError, match="short set"):
        carry(config, two)


def test_phi3_keeps_its_root_length():
    config = {"model_type": "phi3", "num_hidden_layers": 2}
    written = config_with(config, stretched(config, "yarn"))
    assert written["original_max_position_embeddings"] == 4096
    assert written["max_position_embeddings"] == 16384


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"model_type": "gptj"}, "linear"),
        ({"model_type": "codegen"}, "ntk"),
        ({"model_type": "roformer"}, "yarn"),
        ({"model_type": "gemma4_text"}, "yarn"),
        ({"model_type": "recurrent_gemma"}, "linear"),
        ({"model_type": "recurrent_gemma"}, "ntk-su"),
    ],
)
def test_what_stock_software_cannot_hold_is_refused_with_the_way_out(config, method):
    with pytest.raises(RopewalkError, match=r"ropewalk\.apply"):
        carry(config, stretched(config, method))


def test_an_unset_head_dim_is_written():
    config = {"model_type": "mixtral", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    assert config_with(config, stretched(config, "yarn"))["head_dim"] == 16
    assert "head_dim" not in config_with(LLAMA, stretched(LLAMA, "yarn"))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model_type": "gptj", "n_positions": 64}, "n_positions"),
        ({"model_type": "dbrx", "max_seq_len": 64, "attn_config": {"rope_theta": 5e5}}, "max_seq_len"),
        ({"model_type": "bailing_hybrid"}, "model_max_length"),
    ],
)
def test_the_window_has_other_names(config, key):
    identity = ropewalk.schedule("none", ropewalk.read_geometry(config), factor=1.0)
    assert config_with(config, identity, target_length=777)[key] == 777


def test_the_base_has_other_names():
    config = {"model_type": "gpt_neox", "num_hidden_layers": 2, "rotary_emb_base": 10000}
    made = stretched(config, "ntk")
    written = config_with(config, made)
    assert written["rotary_emb_base"] == written["rope_parameters"]["rope_theta"] == made.native["rope_theta"]
    old = {name: value for name, value in written.items() if name != "rope_parameters"}
    assert reread(old).rope.parameters["rope_theta"] == made.native["rope_theta"]


def test_mla_keeps_the_softmax_temperature():
    config = {
        "model_type": "deepseek_v3",
        "num_hidden_layers": 2,
        "max_position_embeddings": 163840,
        "rope_scaling": {
            "type": "yarn",
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
        },
    }
    facts = read_facts(config)
    for method in ("ntk", "linear", "ntk-su", "llama3"):
        carried = carry(config, ropewalk.schedule(method, facts.geometry, factor=80.0))
        entry = carried.config["rope_parameters"]
        assert entry["mscale_all_dim"] == 1.0
        assert entry["rope_type"] != "default"
        assert reread(carried.config).rope.softmax_scale > facts.rope.softmax_scale
        assert any("softmax" in note for note in carried.notes)
    inherited = ropewalk.schedule("yarn", facts.geometry, factor=80.0, **kept_parameters(facts)["yarn"])
    assert inherited.attention_factor == 1.0
    assert config_with(config, inherited)["rope_parameters"]["mscale"] == 1.0


def test_a_nested_truncate_goes_through_the_carrier():
    config = {"model_type": "olmo3", "num_hidden_layers": 4, "max_position_embeddings": 2048}
    carried = carry(config, stretched(config, "yarn", truncate=False))
    assert carried.entries["full_attention"].kind == "longrope"
    assert not carried.entries["full_attention"].native


def test_a_schedule_for_another_model_is_refused():
    other = ropewalk.schedule(
        "yarn", ropewalk.RopeGeometry(head_dim=32, rope_theta=1e4, original_length=512), factor=4.0
    )
    with pytest.raises(UsageError, match="another geometry"):
        carry(LLAMA, other)


@pytest.mark.parametrize("target", [0, -1, 1.5, True, "32k"])
def test_a_bad_target(target):
    with pytest.raises(UsageError, match="target_length"):
        carry(LLAMA, stretched(LLAMA, "yarn"), target_length=target)


def test_a_bad_choice_of_layers():
    with pytest.raises(UsageError, match="layers"):
        carry(LLAMA, stretched(LLAMA, "yarn"), layers="some")


@pytest.mark.parametrize("method", ["ntk-su", "by-parts", "yarn", "ntk", "cope"])
def test_the_note_keeps_the_methods_name_and_parameters(method):
    made = stretched(LLAMA, method)
    found = reread(config_with(LLAMA, made)).rope.schedule
    assert found.method == method
    assert found.parameters == made.parameters
    assert found.short_inv_freq is None
    again = carry(config_with(LLAMA, made), found, target_length=2048)
    assert again.config["rope_parameters"] == config_with(LLAMA, made)["rope_parameters"]
    assert not any("two sets" in note for note in again.notes)


KNOWN = [name for name in sorted(rows()) if (row_of(name) or {}).get("rope")]


def test_every_known_type_is_read_written_and_read_again():
    written = 0
    for name in KNOWN:
        try:
            facts = read_facts({"model_type": name})
        except RopewalkError:
            # Vision towers without a window, and defaults in which no layer rotates.
            continue
        layers = "all" if facts.main == "sliding_attention" else "full"
        for method in ("ntk", "yarn", "ntk-su"):
            try:
                carried = carry(
                    {"model_type": name}, ropewalk.schedule(method, facts.geometry, factor=4.0), layers=layers
                )
            except RopewalkError:
                continue
            again = reread(carried.config)
            assert again.geometry == facts.geometry
            assert again.rope.factor == 4.0
            wrong = [
                finding
                for finding in find(carried.config)
                if finding.severity == "error" or finding.repairable
            ]
            assert wrong == []
            written += 1
    assert written > 550
