"""Health against attention weights and gradients that transformers itself gives, and on attention built by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from eval_models import plain_loss, text_ids, tiny

from ropewalk.errors import RopewalkError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.forward.health import QUERIES, attention_health, gradient_norms, output_spread

WINDOW = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}


def attentions(kind: str, ids: torch.Tensor, **changes: Any) -> list[torch.Tensor]:
    model = tiny(kind, std=0.3, attn_implementation="eager", **changes)
    with torch.inference_mode():
        return list(model(input_ids=ids, output_attentions=True, use_cache=False).attentions)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("llama", {}), ("gemma3_text", WINDOW), ("gemma2", WINDOW | {"attn_logit_softcapping": 5.0})],
)
def test_attention_is_what_eager_attention_says(kind: str, changes: dict[str, Any]) -> None:
    ids = text_ids(96)
    rows = attention_health(Engine(tiny(kind, std=0.3, **changes), chunk=40), [ids[0].numpy()], [48, 96])
    assert [(row["layer"], row["length"]) for row in rows] == [(0, 48), (0, 96), (1, 48), (1, 96)]
    for row in rows:
        length = row["length"]
        positions = list(range(length - 1, -1, -max(1, length // 4 // QUERIES))[:QUERIES])
        weights = attentions(kind, ids, **changes)[row["layer"]][0, :, positions].double()
        entropy = -(weights * weights.clamp(min=1e-300).log()).sum(-1)
        assert row["queries"] == len(positions)
        assert row["entropy"] == pytest.approx(float(entropy.mean()), rel=1e-3)
        assert row["first_tokens"] == pytest.approx(float(weights[..., :4].sum(-1).mean()), rel=1e-3)
        assert row["peak"] == pytest.approx(float(weights.amax(-1).mean()), rel=1e-3)
        assert sum(part["mass"] for part in row["distance"]) == pytest.approx(1, rel=1e-4)
        own = np.mean([float(weights[:, i, p].mean()) for i, p in enumerate(positions)])
        assert row["distance"][0] == {"from": 0, "mass": pytest.approx(own, rel=1e-3)}


def test_uniform_attention_is_called_uniform_and_a_peak_a_peak() -> None:
    model = tiny()
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    row = attention_health(Engine(model), [text_ids(64)[0].numpy()], [64])[0]
    assert row["entropy_share"] == pytest.approx(1, abs=1e-5)
    assert row["logit_std"] == pytest.approx(0, abs=1e-5)
    loud = tiny(std=4.0)
    row = attention_health(Engine(loud), [text_ids(64)[0].numpy()], [64])[0]
    assert row["entropy_share"] < 0.3
    assert row["peak"] > 0.6


def test_nothing_is_left_behind() -> None:
    model, ids = tiny(), text_ids(64)
    before = plain_loss(model, ids)
    engine = Engine(model)
    attention_health(engine, [ids[0].numpy()], [64])
    gradient_norms(engine, ids[0].numpy(), [64])
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(plain_loss(model, ids), before)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "granite"])
def test_gradient_norm_is_that_of_a_plain_backward(kind: str) -> None:
    model, ids = tiny(kind), text_ids(80)
    engine = Engine(model)
    engine.logit_tokens = 16
    found = gradient_norms(engine, ids[0].numpy(), [40, 80])
    for row in found:
        plain = tiny(kind)
        plain(input_ids=ids[:, : row["length"]], labels=ids[:, : row["length"]]).loss.backward()
        norm = math.sqrt(sum(float(p.grad.pow(2).sum()) for p in plain.parameters() if p.grad is not None))
        assert row["norm"] == pytest.approx(norm, rel=1e-3)


def test_a_gradient_that_does_not_fit_is_left_out_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.evaluation.forward.health.free_bytes", lambda device: 1000)
    row = gradient_norms(Engine(tiny()), text_ids(80)[0].numpy(), [80])[0]
    assert row["norm"] is None
    assert "do not fit" in row["why"]


def test_output_spread_is_that_of_the_logits() -> None:
    model, ids = tiny(), text_ids(80)
    rows = output_spread(Engine(model, chunk=32), ids[0].numpy(), [40, 80])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0]
    for row in rows:
        last = logits[row["length"] - QUERIES - 1 : row["length"]]
        assert row["std"] == pytest.approx(float(last.std(-1).mean()), rel=1e-2)


def test_attention_that_cannot_be_seen_is_an_error() -> None:
    model = tiny("recurrent_gemma", num_hidden_layers=3)
    with pytest.raises(RopewalkError, match="cannot be looked into"):
        attention_health(Engine(model), [text_ids(64)[0].numpy()], [64])
