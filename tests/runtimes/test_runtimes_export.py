"""`ropewalk export`: each program's own words, and what is said where they fall short."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.errors import UsageError
from ropewalk.models.facts import read_facts

EXAMPLES = Path(__file__).parents[2] / "examples" / "configs"
LLAMA2 = str(EXAMPLES / "llama-2-7b.json")
PROGRAMS = ["transformers", "vllm", "sglang", "llama.cpp", "mlx", "ollama", "exllama", "transformers-4"]


def by_name(result):
    return {made.runtime: made for made in result.exports}


def test_the_document(cli):
    document = cli("export", "--format", "config", LLAMA2, "--method", "yarn", "--factor", "8", "--json").json
    assert [made["runtime"] for made in document["exports"]] == PROGRAMS
    assert document["target_length"] == 32768
    for made in document["exports"]:
        assert made["status"] in ("exact", "approximate", "unknown", "ignored", "refused")
        assert made["exact"] == (made["status"] == "exact")
        assert made["known_by"] if made["exact"] else made["reason"] and made["nearest"]
    made = ropewalk.FrequencySchedule.from_json(document["schedule"])
    assert made == ropewalk.schedule("yarn", ropewalk.read_geometry(LLAMA2), factor=8.0)


@pytest.mark.parametrize(
    "method", ["linear", "ntk", "yarn", "llama3", "by-parts", "ntk-su", "longrope", "cope"]
)
def test_the_fragments_read_back_as_the_schedule(method):
    config = json.loads(Path(LLAMA2).read_text())
    result = ropewalk.export_config(config, method, factor=8.0)
    bare = {name: value for name, value in config.items() if name not in ("rope_scaling", "rope_theta")}
    made = by_name(result)
    for name in ("transformers", "transformers-4", "vllm"):
        facts = read_facts(bare | dict(made[name].fragment.content))
        np.testing.assert_allclose(facts.rope.schedule.inv_freq, result.schedule.inv_freq, rtol=1e-12)
        assert facts.max_position_embeddings == 32768


def test_target_and_factor():
    assert ropewalk.export_config(LLAMA2, "ntk", target="32k").schedule.factor == 8.0
    assert ropewalk.export_config(LLAMA2, "ntk", target="8x").target_length == 32768
    both = ropewalk.export_config(LLAMA2, "ntk", factor=16.0, target="32k")
    assert (both.schedule.factor, both.target_length) == (16.0, 32768)


def test_command_lines_can_be_pasted():
    made = by_name(ropewalk.export_config(LLAMA2, "yarn", factor=8.0, parameters={"attention_factor": 1.0}))
    words = shlex.split(made["vllm"].launch)
    assert json.loads(words[words.index("--hf-overrides") + 1]) == made["vllm"].fragment.content
    assert words[words.index("--max-model-len") + 1] == "32768"
    words = shlex.split(made["sglang"].launch)
    entry = json.loads(words[words.index("--json-model-override-args") + 1])["rope_scaling"]
    # SGLang multiplies by it: its own 0.1 ln s + 1 times this is the wanted 1.
    assert entry["attn_factor"] * (0.1 * np.log(8) + 1) == pytest.approx(1.0)
    assert "attention_factor" not in entry
    keys = made["llama.cpp"].fragment.content["metadata"]
    assert keys["rope.scaling.attn_factor"] * (0.1 * np.log(8) + 1) == pytest.approx(1.0)
    assert (keys["rope.scaling.type"], keys["rope.scaling.original_context_length"]) == ("yarn", 4096)
    assert keys["context_length"] == 32768


def test_yarn_betas_are_flags_in_llama_cpp_and_a_tensor_in_ollama():
    made = by_name(ropewalk.export_config(LLAMA2, "yarn", factor=8.0, parameters={"beta_fast": 16.0}))
    words = shlex.split(made["llama.cpp"].launch)
    assert float(words[words.index("--yarn-beta-fast") + 1]) == 16.0
    assert made["ollama"].answer.way.name != "metadata and flags"


def test_what_a_reader_ignores_takes_a_detour_or_is_not_called_exact():
    plain = by_name(ropewalk.export_config(LLAMA2, "yarn", factor=8.0))
    assert plain["mlx"].answer.native
    fixed = by_name(ropewalk.export_config(LLAMA2, "yarn", factor=8.0, parameters={"attention_factor": 1.1}))
    assert fixed["mlx"].answer.way.forms == ("yarn", "yarn-attention-by-mscale")
    entry = fixed["mlx"].fragment.content["rope_scaling"]
    # mlx-lm: (0.1 mscale ln s + 1) / (0.1 mscale_all_dim ln s + 1), the second one 0 where it is not given.
    assert 0.1 * entry["mscale"] * np.log(8) + 1 == pytest.approx(1.1)
    assert "mscale_all_dim" not in entry
    loose = by_name(ropewalk.export_config(LLAMA2, "yarn", factor=8.0, parameters={"truncate": False}))
    assert loose["mlx"].answer.way.name == "longrope"
    entry = loose["mlx"].fragment.content["rope_scaling"]
    # mlx-lm: sqrt(1 + ln(max / original) / ln(original)).
    original = entry["original_max_position_embeddings"]
    assert np.sqrt(1 + np.log(32768 / original) / np.log(original)) == pytest.approx(0.1 * np.log(8) + 1)
    assert "rope_freqs.weight" in loose["llama.cpp"].fragment.content["tensors"]
    two = by_name(ropewalk.export_config(LLAMA2, "longrope", factor=8.0))
    assert (two["mlx"].answer.outcome, two["mlx"].answer.exact) == ("ignored", False)
    assert "long set" in two["mlx"].answer.reason


def test_a_program_that_was_named_and_is_not_exact_refuses_with_the_nearest_choices():
    with pytest.raises(ropewalk.RopewalkError) as caught:
        ropewalk.export_config(LLAMA2, "longrope", factor=8.0, to="mlx")
    assert "it always uses the long set" in caught.value.message
    # Without its two sets longrope's start is NTK-aware's frequencies: only the temperature is left to differ.
    assert "--method ntk is exact there" in caught.value.hint
    # No program but transformers chooses a set by the prompt.
    assert "exact with this schedule: transformers, transformers-4;" in caught.value.hint
    assert "--allow-approximate" in caught.value.hint
    allowed = ropewalk.export_config(LLAMA2, "longrope", factor=8.0, to="mlx", allow_approximate=True)
    assert allowed["mlx"].fragment.content["rope_scaling"]["type"] == "longrope"


def test_architectures_that_nobody_ran_are_unknown():
    nested = by_name(ropewalk.export_config(EXAMPLES / "gemma-3-4b.json", "ntk-su", factor=16.0))
    assert nested["mlx"].answer.outcome != "exact"
    config = json.loads(Path(LLAMA2).read_text()) | {"model_type": "brand_new", "architectures": ["BrandNew"]}
    for name, made in by_name(ropewalk.export_config(config, "linear", factor=8.0)).items():
        assert made.answer.outcome == "unknown", name
        assert made.answer.known_by.kind == "unknown"


def test_attention_factors_of_the_carrier_travel():
    made = ropewalk.export_config(LLAMA2, "mrrope-pro", factor=8.0)
    entry = by_name(made)["vllm"].fragment.content["rope_parameters"]
    assert entry["short_mscale"] == entry["long_mscale"] == made.schedule.attention_factor
    keys = by_name(made)["llama.cpp"].fragment.content["metadata"]
    assert keys["rope.scaling.attn_factor"] == made.schedule.attention_factor
    assert keys["rope.scaling.type"] == "none"


def test_a_scaled_file_is_translated_as_it_is():
    result = ropewalk.export_config(EXAMPLES / "llama-3.1-8b.json")
    assert result.target_length == 131072
    assert by_name(result)["transformers"].fragment.content["rope_parameters"]["rope_type"] == "llama3"
    with pytest.raises(ropewalk.RopewalkError, match="no stretch in the file"):
        ropewalk.export_config(LLAMA2)


def test_a_new_factor_composes_from_the_original_and_says_so(cli):
    outcome = cli(
        "export",
        str(EXAMPLES / "llama-3.1-8b.json"),
        "--method",
        "yarn",
        "--factor",
        "32",
        "--to",
        "transformers",
    )
    assert outcome.code == 0
    assert "counts from the original 8192 tokens" in outcome.out
    assert '"original_max_position_embeddings": 8192' in outcome.out
    assert '"max_position_embeddings": 262144' in outcome.out


def test_a_models_own_yarn_parameters_are_inherited():
    result = ropewalk.export_config(EXAMPLES / "deepseek-v3.json", "yarn", factor=80.0)
    entry = by_name(result)["transformers"].fragment.content["rope_parameters"]
    assert (entry["mscale"], entry["mscale_all_dim"]) == (1.0, 1.0)
    assert any("mscale" in note for note in result.notes)
    other = ropewalk.export_config(
        EXAMPLES / "deepseek-v3.json", "yarn", factor=80.0, parameters={"mscale": 0.7}
    )
    assert by_name(other)["transformers"].fragment.content["rope_parameters"]["mscale"] == 0.7


def test_mla_keeps_its_own_temperature_in_sglang():
    result = by_name(ropewalk.export_config(EXAMPLES / "deepseek-v3.json", "yarn", factor=80.0))
    entry = result["sglang"].fragment.content["rope_scaling"]
    # mscale over mscale_all_dim is 1 there already, and 1 is wanted.
    assert entry["attn_factor"] == pytest.approx(1.0)
    assert entry["mscale_all_dim"] == 1.0
    other = by_name(ropewalk.export_config(EXAMPLES / "deepseek-v3.json", "ntk", factor=80.0))
    assert other["transformers"].answer.exact


def test_a_schedule_file_is_taken(cli, tmp_path):
    made = ropewalk.schedule("ntk-su", ropewalk.read_geometry(LLAMA2), factor=4.0)
    path = tmp_path / "schedule.json"
    path.write_text(json.dumps(made.to_json()))
    document = cli("export", LLAMA2, "--schedule", str(path), "--to", "transformers", "--json").json
    assert document["schedule"]["inv_freq"] == made.inv_freq.tolist()
    assert cli("export", LLAMA2, "--schedule", str(path), "--method", "yarn").code == 2


def test_composites_wrap_their_text_model():
    content = by_name(ropewalk.export_config(EXAMPLES / "gemma-3-4b.json", "yarn", factor=16.0))[
        "vllm"
    ].fragment.content
    assert list(content) == ["text_config"]
    assert content["text_config"]["rope_parameters"]["full_attention"]["factor"] == 16.0


@pytest.mark.parametrize("method", ["yarn", "cope", "ntk"])
def test_the_terminal_shows_json_that_can_be_copied(cli, method):
    out = cli("export", LLAMA2, "--method", method, "--factor", "8", "--to", "transformers").out
    fragment = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert "rope_parameters" in fragment


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method", "yrn", "--factor", "8"], "did you mean yarn"),
        (["--method", "dynamic-ntk", "--factor", "8"], "rule that picks a schedule"),
        (["--method", "yarn"], "nothing says how far"),
        (["--factor", "8"], "without a method"),
        (["--method", "yarn", "--factor", "0.5"], "factor=0.5 shrinks"),
        (["--method", "yarn", "--factor", "nan"], "not finite"),
        (["--method", "yarn", "--factor", "8", "--to", "vlm"], "did you mean vllm"),
        (["--method", "yarn", "--factor", "8", "-p", "beta=3"], "has no parameter"),
        (["--method", "yarn", "--target", "1k"], "below original_length"),
    ],
)
def test_bad_calls_are_usage_errors(cli, words, says):
    outcome = cli("export", LLAMA2, *words)
    assert outcome.code == 2
    assert says in outcome.complaint


def test_an_unknown_reader_in_python():
    with pytest.raises(UsageError, match="use one of"):
        ropewalk.export_config(LLAMA2, "yarn", factor=8.0, to="zzz")


def test_what_only_new_keys_can_say_is_written_in_them_and_proportional_is_two_facts():
    """Gemma 4: a zero tail with a rope_theta of its own, which vLLM reads, and a factor, which it does not."""
    from ropewalk.runtimes.general import REFERENCE

    config = REFERENCE | {"model_type": "gemma4_text"}
    for method, outcome in (("ntk", "exact"), ("linear", "ignored")):
        made = by_name(ropewalk.export_config(config, method, factor=4.0))
        assert (made["vllm"].answer.outcome, made["mlx"].answer.outcome) == (outcome, "exact"), method
        assert made["mlx"].answer.way.name == "rope_parameters"
        assert "new-keys" in made["mlx"].answer.way.forms
        written = made["mlx"].fragment.content
        assert set(written) <= {"rope_parameters", "max_position_embeddings"}
        entry = written["rope_parameters"]["full_attention"]
        assert (entry["rope_type"], entry.get("factor")) == (
            "proportional",
            4.0 if method == "linear" else None,
        )
    assert "proportional's factor is not handed on" in made["vllm"].answer.reason


def test_a_fault_is_told_with_the_name_of_its_file(cli, tmp_path):
    (tmp_path / "other.json").write_text(
        json.dumps(json.loads(Path(LLAMA2).read_text()) | {"rope_theta": -1})
    )
    done = cli("export", tmp_path / "other.json", "--method", "yarn", "--factor", "8")
    assert done.code == 1
    assert done.complaint.startswith(f"ropewalk: {tmp_path / 'other.json'}: rope_theta=-1 ")
