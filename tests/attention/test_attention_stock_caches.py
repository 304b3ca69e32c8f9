"""Static and offloaded caches: what they compute, and where they are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import ropewalk
from ropewalk.attention.cache_kinds import parse_kind
from ropewalk.attention.maps import applied
from ropewalk.errors import UsageError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.models.facts import read_facts
from ropewalk.position_maps import map_for

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from generation_models import model_of, some_tokens


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_a_static_cache_reads_and_writes_as_the_full_one(kind: str) -> None:
    model, ids = model_of(kind), some_tokens(50)
    engine = Engine(model, chunk=16)
    full = engine.nll([ids])
    with parse_kind("static").applied(model):
        assert torch.allclose(Engine(model, chunk=16).nll([ids]), full, atol=1e-4)
    settings = {"max_new_tokens": 6, "stop_at_end": False, "method": "yarn", "chunk": 16}
    one, other = (ropewalk.generate(model, ids, cache=name, **settings) for name in ("full", "static"))
    assert one.ids == other.ids
    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    # The room for the whole request is taken at once.
    dynamic = [
        ropewalk.generate(model, ids[:20], cache=name, dynamic=True, **settings)
        for name in ("full", "static")
    ]
    assert dynamic[0].ids == dynamic[1].ids


def test_what_these_caches_cannot_serve_is_refused() -> None:
    model = model_of("llama")
    with pytest.raises(UsageError, match="main memory, where this model is already"):
        ropewalk.generate(model, some_tokens(5), cache="offloaded", max_new_tokens=1)
    plan = map_for("zones", read_facts(model.config.to_dict()).geometry, 128)
    with (
        applied(model, plan),
        pytest.raises(UsageError, match="position maps"),
        parse_kind("static").applied(model),
    ):
        pass
    with pytest.raises(UsageError, match="read whole"):
        ropewalk.generate(model, some_tokens(5), cache="sinks:4+16", max_new_tokens=1)
    with pytest.raises(UsageError, match="cheap"):
        ropewalk.generate(model, some_tokens(5), cache="q8", dynamic=True, cheap=True, max_new_tokens=1)


def test_a_request_through_a_rounded_cache_keeps_less() -> None:
    model, ids = model_of("llama", max_position_embeddings=256), some_tokens(200)
    full, rounded = (
        ropewalk.generate(model, ids, cache=name, max_new_tokens=3, stop_at_end=False)
        for name in ("full", "q8")
    )
    assert rounded.kv_bytes < full.kv_bytes
    assert rounded.logprobs == pytest.approx(full.logprobs, abs=0.1)
