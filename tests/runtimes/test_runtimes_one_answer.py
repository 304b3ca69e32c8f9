"""plan, methods, export and inspect --runtime give one answer, and say what a program really computes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.methods import methods
from ropewalk.models.facts import read_facts
from ropewalk.runtimes import facts_about, runtimes
from ropewalk.runtimes.export import export_config
from ropewalk.runtimes.general import FACTOR, REFERENCE, in_general
from ropewalk.runtimes.reading import read_as
from ropewalk.runtimes.writing import folder_config

LLAMA = json.loads((Path(__file__).parents[2] / "examples" / "configs" / "llama-2-7b.json").read_text())
ARCHITECTURES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "olmo2",
    "granite",
    "starcoder2",
    "smollm3",
    "brand_new",
)
# Programs that read a config.json which says, key for key, what the schedule is.
PLAIN_READERS = ("transformers", "transformers-4", "vllm", "exllama")


def config_of(architecture: str) -> dict:
    return LLAMA | {"model_type": architecture, "architectures": None}


def test_two_hundred_random_triples_have_one_answer():
    draw = random.Random(16)
    compared = read = 0
    for _ in range(20):
        config = config_of(draw.choice(ARCHITECTURES))
        target = draw.choice([8192, 16384, 32768, 131072])
        plan = ropewalk.plan(config, target)
        for _ in range(10):
            option, name = draw.choice(plan.options), draw.choice(list(runtimes()))
            planned = option.carried[name]
            result = export_config(config, option.schedule, target=target, to=name, allow_approximate=True)
            exported = result[name]
            where = (config["model_type"], option.label, name)
            assert (planned.outcome, planned.way) == (exported.answer.outcome, exported.answer.way), where
            assert exported.to_json()["status"] == planned.to_json()["outcome"], where
            compared += 1
            if name in PLAIN_READERS and exported.fragment is not None:
                shown = folder_config(result.job, exported.fragment.content)
                if name == "vllm":
                    # Its overrides replace the entry that was read; in a file the old key would win over the new one.
                    shown.pop("rope_scaling", None)
                (seen,) = read_as(shown, [name])
                assert seen.answer.outcome == planned.outcome, where
                if planned.exact:
                    np.testing.assert_allclose(seen.computes.inv_freq, option.schedule.inv_freq, rtol=1e-9)
                    assert seen.computes.attention_factor == pytest.approx(option.schedule.attention_factor)
                read += 1
    assert compared == 200
    assert read > 50


@pytest.mark.parametrize("method", ["none", "linear", "yarn", "longrope", "mrrope-pro", "cope"])
def test_methods_gives_what_export_gives_on_the_reference(method, cli):
    result = export_config(REFERENCE, method, factor=FACTOR)
    row = cli("methods", method, "--json").json["methods"][0]
    for name, found in in_general(method).items():
        assert found.outcome == result[name].answer.outcome == row["outcome"][name]
        assert row["native"][name] == result[name].answer.native
    assert row["native_on"] == "llama"


def test_every_method_and_program_has_a_row():
    for method in methods():
        assert list(in_general(method)) == list(runtimes())


def written(method: str, **given):
    """What `extend` writes."""
    made = ropewalk.schedule(method, ropewalk.read_geometry(LLAMA), factor=8.0, **given)
    from ropewalk.models.writing.carrier import config_with

    return config_with(LLAMA, made), made


def test_a_temperature_that_is_dropped_is_replaced_by_the_formula():
    config, made = written("mrrope-pro")
    by_name = {reading.runtime: reading for reading in read_as(config, ["vllm", "mlx", "llama.cpp"])}
    # 4096 -> 32768 tokens: sqrt(1 + ln 8 / ln 4096).
    for name in ("vllm", "mlx"):
        reading = by_name[name]
        np.testing.assert_allclose(reading.computes.inv_freq, made.inv_freq, rtol=1e-12)
        assert reading.computes.attention_factor == pytest.approx(np.sqrt(1 + np.log(8) / np.log(4096)))
        assert reading.answer.outcome == "ignored"
        assert "longrope-attention" in reading.drops[0]
    plain = by_name["llama.cpp"].computes
    np.testing.assert_array_equal(plain.inv_freq, made.geometry.inv_freq)
    assert plain.attention_factor == 1.0


def test_yarns_fields_that_mlx_does_not_read():
    config, _ = written("yarn", truncate=False, attention_factor=1.5)
    (reading,) = read_as(config, ["mlx"])
    usual = ropewalk.schedule("yarn", ropewalk.read_geometry(LLAMA), factor=8.0)
    np.testing.assert_allclose(reading.computes.inv_freq, usual.inv_freq)
    assert reading.computes.attention_factor == pytest.approx(0.1 * np.log(8) + 1)
    assert len(reading.drops) == 2


def test_the_long_set_alone_in_mlx():
    config, made = written("longrope")
    (reading,) = read_as(config, ["mlx"])
    assert made.short_inv_freq is not None
    assert reading.computes.short_inv_freq is None
    np.testing.assert_allclose(reading.computes.inv_freq, made.inv_freq)


def test_new_keys_alone_are_not_seen_by_mlx_on_a_llama():
    config, made = written("linear")
    del config["rope_scaling"]
    (blind,) = read_as(config, ["mlx"])
    np.testing.assert_array_equal(blind.computes.inv_freq, made.geometry.inv_freq)
    (seeing,) = read_as(config, ["vllm"])
    np.testing.assert_allclose(seeing.computes.inv_freq, made.inv_freq)


def test_what_is_not_known_is_not_computed():
    (reading,) = read_as(config_of("brand_new"), ["vllm"])
    assert (reading.answer.outcome, reading.computes) == ("unknown", None)


def test_the_window_that_vllm_serves_by_itself():
    # It multiplies the declared window by linear's factor once more, and starts longrope at the original one.
    for method, given, served in (("linear", {}, 32768 * 8), ("yarn", {}, 32768), ("ntk", {}, 32768)):
        config, _ = written(method, **given)
        (reading,) = read_as(config, ["vllm"])
        assert reading.served_length == served, method
    config, _ = written("longrope")
    (reading,) = read_as(config | {"original_max_position_embeddings": 4096}, ["vllm"])
    assert reading.served_length == 4096
    assert read_as(config, ["mlx"])[0].served_length is None


def test_inspect_shows_it(cli, tmp_path):
    config, _ = written("mrrope-pro")
    (tmp_path / "config.json").write_text(json.dumps(config))
    outcome = cli("inspect", str(tmp_path), "--runtime", "vllm,mlx")
    assert "drops" in outcome.out
    assert "1.11803" in outcome.out
    document = cli("inspect", str(tmp_path), "--runtime", "vllm", "--json").json["runtimes"]["vllm"]
    assert document["outcome"] == "ignored"
    assert document["computes"]["attention_factor"] == pytest.approx(1.118033988749895)
    assert cli("inspect", str(tmp_path), "--runtime", "vlm").code == 2


def test_facts_of_one_architecture_say_nothing_about_another():
    for name, program in runtimes().items():
        known = set(facts_about(program).architectures)
        assert "brand_new" not in known
        for form in program.forms:
            assert facts_about(program).of("brand_new", form).outcome == "unknown", (name, form)
    assert read_facts(config_of("brand_new")).model_type == "brand_new"


def test_compare_names_the_programs_that_serve_its_best_method():
    from types import SimpleNamespace

    from ropewalk.cli.compare_view import _served

    def best(**changes):
        row = {"name": "yarn", "method": "yarn", "factor": 8.0, "parameters": {}, "file": None}
        return SimpleNamespace(model="hemp", target_length=4096, methods=[SimpleNamespace(**row | changes)])

    result = export_config("hemp", "yarn", factor=8.0)
    names = ", ".join(made.runtime for made in result.exports if made.answer.exact)
    assert _served(best()) == [
        f"yarn is served exactly by: {names} (`ropewalk export` says why not by the others)."
    ]
    assert _served(best(method="zones")) == []
    assert _served(best(method=None)) == []
