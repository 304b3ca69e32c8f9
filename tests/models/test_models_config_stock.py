"""Facts and carriers against stock transformers: the frequencies of live rotary modules, and the stated defects."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from tiny import causal_types, tiny_config
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import ropewalk
from ropewalk.errors import RopewalkError
from ropewalk.models.facts import read_facts
from ropewalk.models.structure.layers import is_sliding
from ropewalk.models.structure.ropes import DEFAULT
from ropewalk.models.structure.table import row_of
from ropewalk.models.writing.carrier import carry

# One of each structure: plain, partial, nested, proportional, MLA, composite, fused, without rope in places.
SAMPLE = [
    "llama", "gpt_neox", "phi", "gemma3", "gemma4_text", "olmo3", "deepseek_v3", "phi3", "phimoe", "mixtral", "lfm3",
    "gpt_oss", "cohere2_moe", "dots3_note_text",
]  # fmt: skip
# Their config cannot be built from a recipe here, or they hold their rotation elsewhere.
NOT_BUILT = {"gemma3n", "gemma4_assistant", "gemma4_unified_assistant", "gpt_neo", "mamba2"}
TABLES = {"gptj", "codegen", "roformer"}
METHODS = [
    ("linear", {}),
    ("ntk", {}),
    ("yarn", {}),
    ("ntk-su", {}),
    ("llama3", {}),
    ("yarn", {"truncate": False}),
]


def plain(config: Any) -> dict[str, Any]:
    """The content of the config.json that stock software would write."""
    return json.loads(config.to_json_string(use_diff=False))


def floats(value: Any) -> Any:
    """What from_pretrained does with the strict spelling of infinities."""
    if isinstance(value, dict):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {name: floats(item) for name, item in value.items()}
    return [floats(item) for item in value] if isinstance(value, list) else value


def build(family: Any, config: dict[str, Any]) -> Any:
    return AutoModelForCausalLM.from_config(family.from_dict(floats(json.loads(json.dumps(config)))))


def live(model: Any, labels: list[str]) -> dict[str, list[tuple[np.ndarray, float]]]:
    """Frequencies and attention factors of every rotary module of the text model, by label."""
    found: dict[str, list[tuple[np.ndarray, float]]] = {}
    for path, module in model.named_modules():
        if any(
            word in path
            for word in ("vision", "visual", "audio", "patcher", "local_encoder", "local_decoder")
        ):
            continue
        for name, value in module.named_buffers(recurse=False):
            if not name.endswith("inv_freq") or "original" in name or value.dim() != 1:
                continue
            label = name.removesuffix("inv_freq").rstrip("_") or (DEFAULT if DEFAULT in labels else labels[0])
            scale = getattr(module, name.replace("inv_freq", "attention_scaling"), 1.0)
            found.setdefault(label, []).append((value.double().numpy(), float(scale)))
    return found


def assert_live(model: Any, wanted: dict[str, Any]) -> None:
    found = live(model, list(wanted))
    assert set(found) == set(wanted)
    for label, schedule in wanted.items():
        first = schedule.short_inv_freq if schedule.short_inv_freq is not None else schedule.inv_freq
        for inv_freq, scale in found[label]:
            np.testing.assert_allclose(inv_freq, first, rtol=1e-5, atol=1e-25)
            assert scale == pytest.approx(schedule.attention_factor, rel=1e-6)


def check_type(model_type: str, methods: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Facts against the model, then every method's carried config against the model built from it."""
    family = type(tiny_config(model_type))
    config = plain(tiny_config(model_type))
    facts = read_facts(config)
    now = {label: rope.schedule for label, rope in facts.ropes.items()}
    assert_live(build(family, config), now)
    # Where only sliding layers rotate, they are what can be stretched at all.
    layers = "all" if is_sliding(facts.main) else "full"
    refused = {}
    for method, parameters in methods:
        try:
            made = ropewalk.schedule(method, facts.geometry, factor=4.0, **parameters)
            carried = carry(config, made, target_length=4 * facts.original_length, layers=layers)
        except RopewalkError as error:
            refused[method] = error.message
            continue
        wanted = now | dict(carried.schedules)
        assert_live(build(family, carried.config), wanted)
        assert read_facts(carried.config).geometry == facts.geometry
        if carried.old_dialect:
            for left_out in (("rope_parameters",), ("rope_scaling", "rope_theta")):
                assert_live(build(family, without(carried.config, facts.text_path, left_out)), wanted)
    return refused


def without(config: dict[str, Any], path: tuple[str, ...], names: tuple[str, ...]) -> dict[str, Any]:
    copied = json.loads(json.dumps(config))
    here = copied
    for key in path:
        here = here[key]
    for name in names:
        here.pop(name, None)
    return copied


@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_structure_reads_and_carries(model_type):
    refused = check_type(model_type, METHODS)
    if model_type == "gemma4_text":
        assert {"yarn", "ntk-su", "llama3"} == set(refused)
    else:
        assert refused == {}


def rotating_types() -> list[str]:
    types = [name for name in causal_types() if name not in NOT_BUILT | TABLES]
    return [name for name in types if (row_of(name) or {}).get("rope") or "text" in (row_of(name) or {})]


@pytest.mark.slow
def test_every_type_reads_and_carries():
    failed, passed = {}, 0
    for model_type in rotating_types():
        try:
            check_type(model_type, METHODS)
            passed += 1
        except Exception as error:
            failed[model_type] = f"{type(error).__name__}: {str(error)[:200]}"
    assert failed == {}
    assert passed >= 124


@pytest.mark.slow
def test_the_table_is_that_of_the_installed_transformers(tmp_path, monkeypatch):
    import importlib.util
    from pathlib import Path

    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location(
        "make_architectures", root / "tools" / "make_architectures.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OUTPUT", tmp_path / "architectures.json")
    assert module.main() == 0
    shipped = root / "src" / "ropewalk" / "models" / "structure" / "architectures.json"
    assert (tmp_path / "architectures.json").read_text() == shipped.read_text()


@pytest.mark.parametrize("method", ["yarn", "ntk-su", "ntk"])
def test_a_flat_composite_reaches_its_text_model(method):
    from transformers import Qwen2VLConfig

    config = {
        "model_type": "qwen2_vl",
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "max_position_embeddings": 4096,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {},
    }
    facts = read_facts(config)
    assert (facts.text_type, facts.text_path, facts.rope.rope_type) == ("qwen2_vl_text", (), "default")
    carried = carry(config, ropewalk.schedule(method, facts.geometry, factor=4.0))
    text = Qwen2VLConfig.from_dict(json.loads(json.dumps(carried.config))).text_config
    entry = carried.entries[DEFAULT]
    assert text.rope_parameters["rope_theta"] == entry.values["rope_theta"]
    assert text.rope_parameters["rope_type"] == entry.kind
    assert text.rope_parameters["mrope_section"] == [2, 3, 3]
    assert text.max_position_embeddings == 16384


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig

    base = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "intermediate_size": 64,
        "vocab_size": 32,
    }
    return LlamaConfig(**base | {"max_position_embeddings": 4096} | changes)


YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}


def test_defect_unknown_types_die_at_build():
    config = llama(rope_parameters={"rope_type": "ntk", "factor": 4.0, "rope_theta": 1e4})
    with pytest.raises(KeyError):
        AutoModelForCausalLM.from_config(config)


def test_defect_a_float_window_is_refused():
    with pytest.raises(Exception, match="max_position_embeddings"):
        llama(max_position_embeddings=4096.0)


def test_defect_a_missing_original_length_changes_most_frequencies():
    config = llama(
        rope_parameters={"rope_type": "yarn", "factor": 8.0, "rope_theta": 1e4}, max_position_embeddings=32768
    )
    broken, _ = ROPE_INIT_FUNCTIONS["yarn"](config)
    meant = ropewalk.schedule(
        "yarn", ropewalk.RopeGeometry(head_dim=16, rope_theta=1e4, original_length=4096), factor=8.0
    )
    assert not np.allclose(broken.double().numpy(), meant.inv_freq, rtol=0.1)
    facts = read_facts(plain(config))
    np.testing.assert_allclose(broken.double().numpy(), facts.rope.schedule.inv_freq, rtol=1e-5)


def test_defect_null_head_dim_crashes_scaled_types():
    from transformers import MixtralConfig

    config = MixtralConfig(
        hidden_size=64, num_attention_heads=4, num_hidden_layers=1, rope_parameters=dict(YARN)
    )
    with pytest.raises(TypeError):
        ROPE_INIT_FUNCTIONS["yarn"](config)


def test_defect_a_flat_dictionary_is_ignored_by_nested_classes():
    from transformers import Olmo3Config

    config = Olmo3Config(rope_parameters={"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5})
    assert config.rope_parameters["full_attention"]["rope_type"] == "default"


def test_defect_nested_truncate_is_ignored():
    from transformers import Olmo3Config

    def frequencies(truncate: bool) -> torch.Tensor:
        entry = YARN | {"truncate": truncate, "rope_theta": 5e5}
        plain_entry = {"rope_type": "default", "rope_theta": 5e5}
        config = Olmo3Config(
            max_position_embeddings=4096,
            rope_parameters={"full_attention": entry, "sliding_attention": plain_entry},
            head_dim=32,
        )
        return ROPE_INIT_FUNCTIONS["yarn"](config, layer_type="full_attention")[0]

    assert torch.equal(frequencies(True), frequencies(False))


def test_defect_phi3_takes_longrope_only():
    from transformers import Phi3Config

    for scaling in (YARN, {"rope_type": "linear", "factor": 2.0}):
        with pytest.raises(Exception, match=r"short_factor|longrope"):
            Phi3Config(rope_scaling=dict(scaling), hidden_size=64, num_attention_heads=4)


def test_defect_the_old_idiom_wins_over_the_new_key():
    config = llama(
        rope_scaling=dict(YARN), rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    )
    assert config.rope_parameters["rope_type"] == "yarn"
    facts = read_facts(
        {"model_type": "llama"} | {"rope_scaling": YARN, "rope_parameters": {"rope_type": "linear"}}
    )
    assert facts.rope.rope_type == "yarn"


def repairable() -> dict[str, dict[str, Any]]:
    from test_models_config_findings import BROKEN

    return {name: config for name, (config, repair) in BROKEN.items() if repair}


@pytest.mark.parametrize("name", repairable())
def test_a_repaired_configuration_computes_what_it_means(name):
    from transformers import CONFIG_MAPPING

    from ropewalk.models.defects.repair import repaired_config

    mended = repaired_config(repairable()[name])
    facts = read_facts(mended)
    config = CONFIG_MAPPING[mended["model_type"]].from_dict(json.loads(json.dumps(mended)))
    for key in facts.text_path:
        config = getattr(config, key)
    if (row_of(facts.text_type) or {}).get("table"):
        assert not hasattr(config, "rope_scaling") or not config.rope_scaling
        return
    for label, rope in facts.ropes.items():
        entry = config.rope_parameters if label == DEFAULT else config.rope_parameters[label]
        assert entry["rope_type"] == rope.rope_type
        assert entry["rope_theta"] == rope.parameters["rope_theta"]
        if rope.rope_type == "default":
            continue
        layer = {} if label == DEFAULT else {"layer_type": label}
        inv_freq, scale = ROPE_INIT_FUNCTIONS[rope.rope_type](config, **layer)
        np.testing.assert_allclose(inv_freq.double().numpy(), rope.schedule.inv_freq, rtol=1e-5, atol=1e-25)
        assert scale == pytest.approx(rope.schedule.attention_factor, rel=1e-6)


@pytest.mark.parametrize("model_type", ["beam", "mimo_v2_flash", "laguna"])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_one_entry_for_all_layers_is_mended_into_what_stock_code_builds(model_type, key):
    """beam's full layers never rotate and are named all the same; mimo's share stands in its class alone."""
    from ropewalk.models.defects.repair import repaired_config
    from ropewalk.models.live.built import disagreement

    mended = repaired_config({"model_type": model_type, key: {"rope_type": "linear", "factor": 4.0}})
    assert read_facts(mended).rope.factor == 4.0
    assert disagreement(mended, read_facts(mended)) is None


def test_a_layer_type_that_never_rotates_is_named_in_what_is_written():
    from ropewalk.models.live.built import disagreement
    from ropewalk.models.writing.carrier import config_with

    config = {"model_type": "beam"}
    made = ropewalk.schedule("linear", ropewalk.read_geometry(config), factor=4.0)
    written = config_with(config, made, layers="all")
    assert written["rope_parameters"]["full_attention"] is None
    assert disagreement(written, read_facts(written)) is None


def test_a_share_that_a_class_sets_whatever_the_entry_says():
    from ropewalk.models.live.built import disagreement

    config = {"model_type": "dots3_note_text", "rope_scaling": {"rope_type": "linear", "factor": 4.0}}
    facts = read_facts(config)
    assert (facts.geometry.head_dim, facts.geometry.rotary_dim) == (256, 64)
    assert disagreement(config, facts) is None
