"""What a GGUF file says of its model, against a file that was made to be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.errors import DamagedError
from ropewalk.models.facts import read_facts

pytest.importorskip("gguf")

SHAPE = {
    "context_length": 512,
    "embedding_length": 64,
    "block_count": 2,
    "attention.head_count": 4,
    "rope.freq_base": 5e5,
}


def written(path: Path, **values: object) -> Path:
    from ropewalk.runtimes.gguf.write import floats, key_of, write_gguf

    own = {"general.architecture": "llama"} | {f"llama.{name}": value for name, value in values.items()}
    write_gguf(path, [key_of(name, value) for name, value in own.items()], [floats("a.weight", [1.0])])
    return path


@pytest.mark.parametrize(
    ("given", "kind", "factor", "attention"),
    [
        ({}, "default", 1.0, 1.0),
        ({"rope.scale_linear": 4.0}, "linear", 4.0, 1.0),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, "linear", 2.0, 1.0),
        # llama.cpp multiplies the file's 0.5 by 0.1 ln 4 + 1.
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.attn_factor": 0.5},
            "yarn",
            4.0,
            0.5693147,
        ),
    ],
)
def test_the_scaling_of_a_file(tmp_path: Path, given, kind, factor, attention) -> None:
    rope = read_facts(written(tmp_path / "m.gguf", **SHAPE | given)).rope
    assert (rope.rope_type, rope.factor, rope.geometry.rope_theta) == (kind, factor, 5e5)
    assert rope.schedule.attention_factor == pytest.approx(attention, rel=1e-6)


@pytest.mark.parametrize(
    "name", ["rope.freq_base", "rope.scale_linear", "rope.scaling.factor", "rope.scaling.attn_factor"]
)
@pytest.mark.parametrize("value", ["much", float("nan"), float("inf")])
def test_a_number_that_is_none_is_one_line(tmp_path: Path, name, value) -> None:
    path = written(tmp_path / "m.gguf", **SHAPE | {"rope.scaling.type": "yarn", name: value})
    with pytest.raises(DamagedError, match=f"llama.{name}=.*is no number"):
        read_facts(path)
