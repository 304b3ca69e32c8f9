"""GGUF files: converted with the numbers in the right rows, copied with the old scaling gone, never half-written."""

from __future__ import annotations

import json
import shlex
import shutil
import struct
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ropewalk
from ropewalk.errors import DamagedError, RopewalkError
from ropewalk.hemp import folder as hemp_folder
from ropewalk.models.facts import read_facts
from ropewalk.models.gguf.file import read_gguf
from ropewalk.runtimes.gguf import write
from ropewalk.runtimes.gguf.schedule import rewrite
from ropewalk.runtimes.gguf.tensors import main_type
from ropewalk.runtimes.gguf.write import Piece, floats, key_of, write_gguf

gguf = pytest.importorskip("gguf")
HEADS, KV_HEADS, HEAD, HIDDEN = 4, 2, 8, 24
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "num_hidden_layers": 1,
    "intermediate_size": 40,
    "vocab_size": 264,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
KEYS = {"context_length": 512, "rope.freq_base": 10000.0, "rope.scaling.type": "none"}
FACTORS = [1.0, 2.0, 4.0, 8.0]


def checkpoint(where: Path, **changes) -> Path:
    """A Llama of random float32 weights with hemp's tokenizer."""
    where.mkdir()
    rng = np.random.default_rng(0)
    sizes = {
        "model.embed_tokens.weight": (264, HIDDEN),
        "model.norm.weight": (HIDDEN,),
        "model.layers.0.input_layernorm.weight": (HIDDEN,),
        "model.layers.0.post_attention_layernorm.weight": (HIDDEN,),
        "model.layers.0.self_attn.q_proj.weight": (HEADS * HEAD, HIDDEN),
        "model.layers.0.self_attn.k_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "model.layers.0.self_attn.v_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "model.layers.0.self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD),
        "model.layers.0.mlp.gate_proj.weight": (40, HIDDEN),
        "model.layers.0.mlp.up_proj.weight": (40, HIDDEN),
        "model.layers.0.mlp.down_proj.weight": (HIDDEN, 40),
    }
    if changes.get("model_type") == "qwen3":
        sizes |= {f"model.layers.0.self_attn.{name}_norm.weight": (HEAD,) for name in "qk"}
    weights = {name: rng.standard_normal(size).astype(np.float32) for name, size in sizes.items()}
    save_file(weights, where / "model.safetensors")
    (where / "config.json").write_text(json.dumps(CONFIG | changes))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(hemp_folder() / name, where / name)
    return where


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def values_of(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Metadata and tensors as the `gguf` package reads them."""
    reader = gguf.GGUFReader(path)
    return (
        {name: field.contents() for name, field in reader.fields.items()},
        {str(tensor.name): np.array(tensor.data) for tensor in reader.tensors},
    )


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Row 2i of a head is row i of its first half, row 2i + 1 row i of its second."""
    out = np.empty_like(rows)
    half = HEAD // 2
    for head in range(heads):
        for i in range(half):
            out[head * HEAD + 2 * i] = rows[head * HEAD + i]
            out[head * HEAD + 2 * i + 1] = rows[head * HEAD + half + i]
    return out


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_a_converted_file_holds_every_weight_and_the_schedule(tmp_path, model_type):
    folder = checkpoint(tmp_path / "model", model_type=model_type)
    method = "by-parts" if model_type == "llama" else "yarn"
    made = ropewalk.export(folder, method, factor=8.0, to="llama.cpp", output=tmp_path / "m.gguf")
    assert made["llama.cpp"].files == (str(tmp_path / "m.gguf"),)
    keys, tensors = values_of(tmp_path / "m.gguf")
    before = weights_of(folder)
    np.testing.assert_array_equal(tensors["token_embd.weight"], before["model.embed_tokens.weight"])
    np.testing.assert_array_equal(
        tensors["blk.0.attn_v.weight"], before["model.layers.0.self_attn.v_proj.weight"]
    )
    for name, heads in (("q", HEADS), ("k", KV_HEADS)):
        rows = before[f"model.layers.0.self_attn.{name}_proj.weight"]
        expected = permuted(rows, heads) if model_type == "llama" else rows
        np.testing.assert_array_equal(tensors[f"blk.0.attn_{name}.weight"], expected)
    # llama.cpp refuses a file with a tensor too many, and one too few.
    assert len(tensors) == len(before) + (1 if model_type == "llama" else 0)
    assert keys["general.architecture"] == model_type
    own = {name.removeprefix(f"{model_type}."): value for name, value in keys.items()}
    assert (own["context_length"], own["attention.head_count_kv"], own["rope.dimension_count"]) == (
        512,
        KV_HEADS,
        8,
    )
    assert own["attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    if model_type == "llama":
        schedule = ropewalk.schedule("by-parts", ropewalk.read_geometry(folder), factor=8.0)
        np.testing.assert_allclose(tensors["rope_freqs.weight"], schedule.stretch, rtol=1e-6)
        assert own["rope.scaling.type"] == "none"
        assert own["rope.scaling.attn_factor"] == 1.0
    else:
        assert (own["rope.scaling.type"], own["rope.scaling.factor"]) == ("yarn", 8.0)
        assert own["rope.scaling.original_context_length"] == 64
        assert "rope.scaling.attn_factor" not in own


@pytest.mark.parametrize("stored", ["<f4", "bfloat16"])
def test_a_weight_beyond_float16_is_refused_by_name(tmp_path, stored):
    folder = checkpoint(tmp_path / "model")
    weights = weights_of(folder)
    weights["model.layers.0.mlp.up_proj.weight"][1, 2] = 131072.0
    if stored == "bfloat16":
        import torch
        from safetensors.torch import save_file as save_torch

        tensors = {name: torch.from_numpy(value).to(torch.bfloat16) for name, value in weights.items()}
        save_torch(tensors, folder / "model.safetensors")
    else:
        save_file(weights, folder / "model.safetensors")
    out = tmp_path / "m.gguf"
    with pytest.raises(
        RopewalkError, match=r"^model\.layers\.0\.mlp\.up_proj\.weight has numbers beyond 65504"
    ) as refused:
        ropewalk.export(folder, "linear", factor=8.0, to="llama.cpp", output=out, gguf_type="float16")
    assert "bfloat16 or float32" in refused.value.hint
    assert refused.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    ropewalk.export(folder, "linear", factor=8.0, to="llama.cpp", output=out, gguf_type="float32")
    assert values_of(out)[1]["blk.0.ffn_up.weight"][1, 2] == 131072.0
    # The largest that float16 has is no overflow, nor is a number that rounds down to it.
    weights["model.layers.0.mlp.up_proj.weight"][1, 2] = 65519.0
    save_file(weights, folder / "model.safetensors")
    made = {"to": "llama.cpp", "output": out, "gguf_type": "float16", "force": True}
    ropewalk.export(folder, "linear", factor=8.0, **made)
    assert values_of(out)[1]["blk.0.ffn_up.weight"][1, 2] == 65504.0


def test_a_checkpoint_without_a_matrix_is_refused_in_words():
    with pytest.raises(RopewalkError, match="no matrix"):
        main_type({})


def test_a_file_for_ollama_has_its_modelfile_beside_it(tmp_path):
    folder = checkpoint(tmp_path / "model")
    out = tmp_path / "a name" / "long.gguf"
    out.parent.mkdir()
    made = ropewalk.export(folder, "linear", factor=8.0, to="ollama", output=out)["ollama"]
    beside = out.parent / "long.Modelfile"
    assert made.files == (str(out), str(beside))
    assert beside.read_text() == "FROM ./long.gguf\nPARAMETER num_ctx 512\n"
    assert shlex.split(made.command) == ["ollama", "create", "NAME", "-f", str(beside)]
    out.unlink()
    with pytest.raises(RopewalkError, match=r"long\.Modelfile already exists"):
        ropewalk.export(folder, "linear", factor=8.0, to="ollama", output=out)
    assert not out.exists()
    ropewalk.export(folder, "linear", factor=8.0, to="ollama", output=out, force=True)
    alone = ropewalk.export(folder, "linear", factor=8.0, to="llama.cpp", output=tmp_path / "one.gguf")
    assert alone["llama.cpp"].files == (str(tmp_path / "one.gguf"),)


def test_hemps_byte_tokenizer_is_carried(tmp_path):
    ropewalk.export(
        "hemp", "linear", factor=8.0, to="llama.cpp", output=tmp_path / "h.gguf", gguf_type="float32"
    )
    keys, _ = values_of(tmp_path / "h.gguf")
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert len(keys["tokenizer.ggml.tokens"]) == 264
    assert keys["tokenizer.ggml.tokens"][256] == "<|endoftext|>"
    assert keys["tokenizer.ggml.token_type"][255:258] == [1, 3, 3]
    assert len(keys["tokenizer.ggml.merges"]) == 1
    assert keys["tokenizer.ggml.eos_token_id"] == 256
    assert keys["tokenizer.ggml.add_bos_token"] is False


def test_bfloat16_becomes_float32_and_float32_bfloat16_to_the_nearest(tmp_path):
    ropewalk.export(
        "hemp", "linear", factor=8.0, to="llama.cpp", output=tmp_path / "h.gguf", gguf_type="float32"
    )
    import torch
    from safetensors.torch import load_file

    _, tensors = values_of(tmp_path / "h.gguf")
    stored = load_file(hemp_folder() / "model.safetensors")
    np.testing.assert_array_equal(
        tensors["blk.1.ffn_up.weight"], stored["model.layers.1.mlp.up_proj.weight"].float().numpy()
    )
    folder = checkpoint(tmp_path / "model")
    ropewalk.export(
        folder, "linear", factor=8.0, to="llama.cpp", output=tmp_path / "b.gguf", gguf_type="bfloat16"
    )
    _, tensors = values_of(tmp_path / "b.gguf")
    wanted = torch.from_numpy(weights_of(folder)["model.layers.0.mlp.up_proj.weight"]).bfloat16()
    got = torch.from_numpy(tensors["blk.0.ffn_up.weight"].view(np.int16)).view(torch.bfloat16)
    assert torch.equal(got, wanted)
    # One-dimensional tensors stay float32: llama.cpp multiplies by them directly.
    assert tensors["output_norm.weight"].dtype == np.float32


def base_file(
    path: Path, *, architecture: str = "llama", keys: dict | None = None, extra: tuple = ()
) -> Path:
    """An existing GGUF with scaling of its own, a quantised tensor, and a tensor of factors."""
    own = {
        "context_length": 64,
        "embedding_length": HIDDEN,
        "block_count": 1,
        "attention.head_count": HEADS,
        "rope.dimension_count": HEAD,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 4.0,
        "rope.scale_linear": 4.0,
    }
    listed = {"general.architecture": architecture, "tokenizer.ggml.tokens": ["a", "b", "ß"]}
    listed |= {f"{architecture}.{name}": value for name, value in (own | (keys or {})).items()}
    quantised = np.random.default_rng(1).bytes(34 * 3)
    pieces = [
        floats("rope_freqs.weight", [3.0] * 4),
        Piece(
            "blk.0.ffn_up.weight", (32, 3), 8, len(quantised), lambda stream: stream.write(quantised) and None
        ),
        floats("output_norm.weight", np.arange(24.0)),
        *extra,
    ]
    write_gguf(path, [key_of(name, value) for name, value in listed.items()], pieces)
    return path


def facts():
    return read_facts(CONFIG)


def test_a_copy_keeps_everything_but_the_old_scaling(tmp_path):
    source = base_file(tmp_path / "base.gguf")
    before = source.read_bytes()
    rewrite(
        source,
        tmp_path / "out.gguf",
        facts(),
        KEYS | {"rope.scaling.attn_factor": 1.25},
        {"rope_freqs.weight": FACTORS},
    )
    assert source.read_bytes() == before
    keys, tensors = values_of(tmp_path / "out.gguf")
    old_keys, old = values_of(source)
    np.testing.assert_array_equal(tensors["rope_freqs.weight"], np.float32(FACTORS))
    for name in ("blk.0.ffn_up.weight", "output_norm.weight"):
        np.testing.assert_array_equal(tensors[name], old[name])
    gone = {"llama.rope.scaling.factor", "llama.rope.scale_linear"}
    assert set(keys) == set(old_keys) - gone | {"llama.rope.scaling.attn_factor", "llama.rope.freq_base"}
    assert (keys["llama.rope.scaling.type"], keys["llama.rope.scaling.attn_factor"]) == ("none", 1.25)
    assert keys["llama.context_length"] == 512
    assert keys["tokenizer.ggml.tokens"] == ["a", "b", "ß"]


def test_metadata_alone_drops_factors_that_an_earlier_scaling_left(tmp_path):
    source = base_file(tmp_path / "base.gguf")
    rewrite(source, tmp_path / "out.gguf", facts(), KEYS | {"rope.scaling.type": "linear"}, {})
    _, tensors = values_of(tmp_path / "out.gguf")
    assert set(tensors) == {"blk.0.ffn_up.weight", "output_norm.weight"}


def test_a_file_that_is_cut_anywhere_is_refused_and_nothing_is_written(tmp_path):
    whole = base_file(tmp_path / "base.gguf").read_bytes()
    # Zeros that only fill up the last block carry nothing.
    content = len(whole.rstrip(b"\0"))
    for size in [*range(0, content, 97), content - 1]:
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(DamagedError):
            rewrite(tmp_path / "cut.gguf", tmp_path / "out.gguf", facts(), KEYS, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.gguf", "cut.gguf"]


@pytest.mark.parametrize(
    ("at", "content", "said"),
    [
        (0, b"GGML", "begin with GGUF"),
        (4, struct.pack(">I", 3), "version"),
        (4, struct.pack("<I", 1), "version 1"),
        (8, struct.pack("<Q", 1 << 40), "tensors"),
        (16, struct.pack("<Q", 1 << 40), "keys"),
        (24, struct.pack("<Q", 1 << 60), "name"),
    ],
)
def test_absurd_headers_are_refused(tmp_path, at, content, said):
    path = base_file(tmp_path / "base.gguf")
    raw = bytearray(path.read_bytes())
    raw[at : at + len(content)] = content
    path.write_bytes(raw)
    with pytest.raises(DamagedError, match=said):
        read_gguf(path)


def test_doubled_keys_and_tensors_are_refused(tmp_path):
    twice = [key_of("general.architecture", "llama"), key_of("general.architecture", "qwen3")]
    write_gguf(tmp_path / "keys.gguf", twice, [])
    with pytest.raises(DamagedError, match=r"'general.architecture' is there twice"):
        read_gguf(tmp_path / "keys.gguf")
    write_gguf(tmp_path / "tensors.gguf", twice[:1], [floats("a", [1.0]), floats("a", [2.0])])
    with pytest.raises(DamagedError, match="tensor 'a' is there twice"):
        read_gguf(tmp_path / "tensors.gguf")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"architecture": "qwen3"}, "holds the architecture 'qwen3'"),
        ({"keys": {"embedding_length": 32}}, "embedding_length=32"),
        ({"keys": {"attention.head_count": 8}}, "head_count=8"),
        ({"keys": {"rope.dimension_count": 4}}, "rope.dimension_count=4"),
        ({"keys": {"block_count": 3}}, "block_count=3"),
    ],
)
def test_a_file_of_another_model_is_refused(tmp_path, given, said):
    source = base_file(tmp_path / "base.gguf", **given)
    with pytest.raises(RopewalkError, match=said):
        rewrite(source, tmp_path / "out.gguf", facts(), KEYS, {})
    assert not (tmp_path / "out.gguf").exists()


def test_a_part_of_a_split_file_and_the_source_itself_are_refused(tmp_path):
    write_gguf(
        tmp_path / "part.gguf", [key_of("general.architecture", "llama"), key_of("split.count", 3)], []
    )
    with pytest.raises(RopewalkError, match="one part of 3"):
        rewrite(tmp_path / "part.gguf", tmp_path / "out.gguf", facts(), KEYS, {})
    source = base_file(tmp_path / "base.gguf")
    with pytest.raises(RopewalkError, match="the source itself"):
        rewrite(source, source, facts(), KEYS, {})


def test_a_file_larger_than_the_disk_is_refused_before_a_byte_is_written(tmp_path, monkeypatch):
    source = base_file(tmp_path / "base.gguf")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(write.shutil, "disk_usage", lambda path: usage(1 << 20, 1 << 20, 100))
    with pytest.raises(RopewalkError, match="100 B free"):
        rewrite(source, tmp_path / "out.gguf", facts(), KEYS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["base.gguf"]


def test_a_write_that_fails_midway_leaves_nothing(tmp_path):
    def broken(stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(RopewalkError, match="No space left"):
        write_gguf(tmp_path / "out.gguf", [], [floats("a", [1.0]), Piece("b", (2,), 0, 8, broken)])
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_converted_says_what_can(tmp_path):
    folder = checkpoint(tmp_path / "other", model_type="gemma4_text")
    with pytest.raises(RopewalkError, match="not converted here") as caught:
        ropewalk.export(
            folder, "linear", factor=8.0, to="llama.cpp", output=tmp_path / "x.gguf", allow_approximate=True
        )
    assert "--gguf" in caught.value.hint
    quantised = checkpoint(tmp_path / "gptq", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(RopewalkError, match="quantised"):
        ropewalk.export(quantised, "linear", factor=8.0, to="llama.cpp", output=tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()
