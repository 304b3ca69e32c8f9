"""Quantised bases: the rotation is configuration, so every command takes them; what cannot be run is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.errors import DamagedError, RopewalkError, UsageError
from ropewalk.hemp import folder as hemp_folder
from ropewalk.methods import schedule
from ropewalk.models.config import read_config
from ropewalk.models.facts import read_facts
from ropewalk.runtimes import proof
from ropewalk.runtimes.export import export_config

# What published checkpoints of each kind say, and the bits a value that this comes to.
KINDS = {
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, 4.15625),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}, 4.3125),
    "fp8": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
        8.0 + 32.0 / 128**2,
    ),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
         "bnb_4bit_use_double_quant": True},
        4.127,
    ),
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
def quantised(request, tmp_path):
    """The bundled model's folder with such an entry; its weights are never read as quantised ones here."""
    folder = tmp_path / "base"
    shutil.copytree(hemp_folder(), folder)
    path = folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": KINDS[request.param][0]})
    )
    return request.param, folder


def test_every_command_takes_a_quantised_base_and_says_what_it_could_not_run(quantised, tmp_path, cli):
    kind, folder = quantised
    entry, bits = KINDS[kind]
    assert cli("inspect", folder, "--json").json["quantised"]["method"] == kind
    assert cli("inspect", folder, "--json").json["quantised"]["bits"] == pytest.approx(bits)
    full = cli("plan", hemp_folder(), "--target", "8x", "--json").json["memory"]
    small = cli("plan", folder, "--target", "8x", "--json").json["memory"]
    assert small["inference"]["weights_bytes"] < 0.9 * full["inference"]["weights_bytes"]
    out = tmp_path / "out"
    assert cli("extend", folder, "--method", "yarn", "--factor", "8", "-o", out).code == 0
    written, plain = json.loads((out / "config.json").read_text()), ropewalk.schedule(
        "yarn", ropewalk.read_geometry("hemp"), factor=8.0
    )  # fmt: skip
    assert written["quantization_config"] == entry
    np.testing.assert_array_equal(read_facts(out).rope.schedule.inv_freq, plain.inv_freq)
    for name in ("vllm", "sglang", "mlx"):
        made = cli("export", out, "--to", name, "--json").json
        assert (made["status"], "quantization_config" in made["content"]) == ("exact", False)
    refused = cli("export", out, "--to", "llama.cpp", "-o", tmp_path / "x.gguf")
    assert (refused.code, "quantised" in refused.err, "--gguf" in refused.err) == (1, True, True)
    run = cli("verify", out, "--runtime", "mlx,llama.cpp", "--json")
    assert run.code == 4
    assert [check["status"] for check in run.json["checks"]] == ["skip", "skip"]
    for check in run.json["checks"]:
        assert f"its weights are quantised ({kind})" in check["detail"]
        assert "`ropewalk verify` checks the configuration" in check["detail"]


# By name: method, factor, parameters.
STRETCHES = {
    "none": ("none", 1.0, {}),
    "linear": ("linear", 4.0, {}),
    "ntk": ("ntk", 4.0, {}),
    "yarn": ("yarn", 4.0, {}),
    "yarn without temperature": ("yarn", 4.0, {"attention_factor": 1.0}),
    "mrrope-pro": ("mrrope-pro", 4.0, {}),
    "longrope": ("longrope", 4.0, {}),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The bundled model as GGUF files, by the schedule in them."""
    pytest.importorskip("gguf")
    place = tmp_path_factory.mktemp("gguf")
    made = {}
    for name, (method, factor, given) in STRETCHES.items():
        made[name] = place / f"{name.replace(' ', '-')}.gguf"
        ropewalk.export(
            "hemp",
            method,
            to="llama.cpp",
            output=made[name],
            factor=factor,
            parameters=given,
            allow_approximate=True,
        )
    return made


@pytest.mark.parametrize("name", list(STRETCHES))
def test_a_gguf_file_is_read_as_the_configuration_that_it_was_made_from(files, name):
    method, factor, given = STRETCHES[name]
    wanted = schedule(method, ropewalk.read_geometry("hemp"), factor=factor, **given)
    config, base = read_config(files[name]), read_config("hemp")
    for key in ("model_type", "hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers",
                "vocab_size", "intermediate_size", "head_dim"):  # fmt: skip
        assert config[key] == base[key], key
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    facts = read_facts(files[name])
    found = facts.rope.schedule
    # Factors are float32 in the file.
    np.testing.assert_allclose(found.inv_freq, wanted.inv_freq, rtol=3e-7)
    assert found.attention_factor == pytest.approx(wanted.attention_factor, rel=1e-6)
    assert (found.short_inv_freq is None) == (wanted.short_inv_freq is None)
    assert facts.max_position_embeddings == (512 if method == "none" else 2048)
    assert facts.original_length == (2048 if method == "ntk" else 512)


def test_a_gguf_file_is_exported_as_a_copy_with_another_schedule(files, tmp_path, cli):
    out = tmp_path / "out.gguf"
    done = cli("export", files["linear"], "--method", "yarn", "--factor", "8", "--to", "llama.cpp", "-o", out)
    assert done.code == 0, done.err
    wanted = schedule("yarn", ropewalk.read_geometry("hemp"), factor=8.0)
    np.testing.assert_allclose(read_facts(out).rope.schedule.inv_freq, wanted.inv_freq, rtol=1e-12)
    assert read_facts(out).max_position_embeddings == 4096
    assert out.stat().st_size == pytest.approx(files["linear"].stat().st_size, rel=0.01)
    refused = cli(
        "export", files["none"], "--method", "yarn", "--factor", "8", "--to", "mlx", "-o", tmp_path / "f"
    )
    assert refused.code == 1
    assert "nothing is known of what MLX makes of one" in refused.err
    assert not (tmp_path / "f").exists()


def test_extend_and_verify_say_what_to_do_with_a_gguf_file(files, tmp_path, cli):
    refused = cli("extend", files["none"], "--method", "yarn", "--factor", "8", "-o", tmp_path / "out")
    assert refused.code == 2
    assert (
        f"ropewalk export {files['none']} --to llama.cpp --method yarn --factor 8 -o OUT.gguf" in refused.err
    )
    with pytest.raises(UsageError, match="stock transformers does not compute as it is stored"):
        ropewalk.verify(files["none"])
    with pytest.raises(UsageError, match="GGUF file"):
        proof.verify_runtimes(files["none"], ["llama.cpp"])


def test_the_bits_of_a_mixture_are_those_of_its_tensors(files, tmp_path):
    from ropewalk.models.gguf.config import config_of
    from ropewalk.models.gguf.file import read_gguf
    from ropewalk.runtimes.gguf.write import Piece, write_gguf

    source = read_gguf(files["none"])
    # Q8_0: 32 values and a half-precision scale, 34 bytes; beside it one matrix in float16.
    blocks = Piece(
        "blk.0.ffn_up.weight", (32, 3), 8, 34 * 3, lambda stream: stream.write(b"\0" * 102) and None
    )
    half = Piece("blk.0.ffn_down.weight", (32, 1), 1, 64, lambda stream: stream.write(b"\0" * 64) and None)
    write_gguf(tmp_path / "q.gguf", list(source.keys), [blocks, half])
    made = config_of(tmp_path / "q.gguf")["quantization_config"]
    assert made == {"quant_method": "gguf", "bits": pytest.approx(8 * (102 + 64) / 128, abs=1e-3)}
    assert export_config(tmp_path / "q.gguf", "yarn", factor=4.0, to="llama.cpp")["llama.cpp"].answer.exact


def test_gguf_files_that_do_not_tell_enough_are_refused(files, tmp_path):
    from ropewalk.models.gguf.file import Key, read_gguf
    from ropewalk.runtimes.gguf.write import key_of, write_gguf

    whole = files["yarn"].read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match="cut short"):
        read_config(tmp_path / "cut.gguf")
    (tmp_path / "none.gguf").write_text("{}" * 50)
    with pytest.raises(DamagedError, match="does not begin with GGUF"):
        read_config(tmp_path / "none.gguf")
    keys = {key.name: key for key in read_gguf(files["yarn"]).keys}

    def changed(name: str, **given: object) -> Path:
        left: list[Key] = [
            key for key in keys.values() if given.get(key.name.replace(".", "__"), 1) is not None
        ]
        named = {each.replace("__", "."): value for each, value in given.items() if value is not None}
        kept = [key for key in left if key.name not in named]
        write_gguf(tmp_path / name, kept + [key_of(each, value) for each, value in named.items()], [])
        return tmp_path / name

    with pytest.raises(RopewalkError, match="does not tell the whole rotation"):
        read_config(changed("gemma.gguf", general__architecture="gemma3"))
    with pytest.raises(RopewalkError, match="one part of 3"):
        read_config(changed("part.gguf", split__count=3))
    with pytest.raises(RopewalkError, match="'spiral', which is not known"):
        read_config(changed("spiral.gguf", llama__rope__scaling__type="spiral"))
    with pytest.raises(DamagedError, match=r"no usable llama\.block_count"):
        read_config(changed("blocks.gguf", llama__block_count=None))
