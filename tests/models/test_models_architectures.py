"""Every architecture that the installed transformers can build: a sample by structure here, all of them when asked."""

from __future__ import annotations

from pathlib import Path

import examine
import pytest
import tiny

# One of each structure: plain, per layer type with sliding, proportional and composite, MLA with complex tables,
# several modules, recomputed in forward, longrope only, table of sines, base per layer, default type refuses all.
SAMPLE = (
    "llama",
    "olmo3",
    "gemma4",
    "deepseek_v2",
    "moshi",
    "phimoe",
    "gptj",
    "granite_swa",
    "recurrent_gemma",
    "gpt_oss",
)
IN_MEMORY_ONLY = {"codegen", "gptj", "roformer"}


@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_sample_of_structures(model_type: str, tmp_path: Path) -> None:
    result = examine.examine(model_type, tmp_path, examine.METHODS[2:])
    done = [found for found in result.methods if found.ok]
    assert [found.method for found in done] == list(examine.METHODS[2:]), result
    assert result.identity, result


def test_types_without_rotary_embeddings_say_so(tmp_path: Path) -> None:
    for model_type in ("gpt2", "bloom", "mamba", "jamba"):
        result = examine.examine(model_type, tmp_path)
        assert (result.kind, "rotary" in result.reason) == ("none", True), result


@pytest.mark.slow
def test_every_architecture(tmp_path: Path) -> None:
    results = [examine.examine(model_type, tmp_path / model_type) for model_type in tiny.causal_types()]
    rope = [result for result in results if result.kind == "rope"]
    assert not [result for result in rope if not result.handled], [r for r in rope if not r.handled]
    assert len(rope) >= 130
    assert sum(result.passed for result in rope) >= 124
    assert {result.model_type for result in rope if not result.passed} == IN_MEMORY_ONLY
