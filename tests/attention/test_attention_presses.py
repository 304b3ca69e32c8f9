"""kvpress through its own contract: a press is a context manager whose hooks shorten the cache of a prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import ropewalk
from ropewalk.attention.cache_kinds import parse_kind
from ropewalk.errors import RopewalkError, UsageError

sys.path.insert(0, str(Path(__file__).parents[1] / "generation"))
from generation_models import model_of, some_tokens, whole_logits


@dataclass
class KeepLastPress:
    """The contract of a press: hooks on every layer's self_attn that ask kwargs for hidden_states, past_key_values and
    cache_position, and leave fewer keys and values in the cache's layer when the forward was the prompt's."""

    compression_ratio: float = 0.0

    def __post_init__(self) -> None:
        assert 0 <= self.compression_ratio < 1

    def hook(self, module: Any, inputs: Any, kwargs: dict[str, Any], output: Any) -> Any:
        length = kwargs["hidden_states"].shape[1]
        if kwargs["cache_position"][-1] + 1 != length:
            return output
        layer = kwargs["past_key_values"].layers[module.layer_idx]
        kept = round(length * (1 - self.compression_ratio))
        layer.keys, layer.values = layer.keys[:, :, -kept:], layer.values[:, :, -kept:]
        return output

    @contextmanager
    def __call__(self, model: Any) -> Iterator[None]:
        hooks = []
        try:
            for layer in model.model.layers:
                layer.self_attn.rotary_emb = model.model.rotary_emb
                hooks.append(layer.self_attn.register_forward_hook(self.hook, with_kwargs=True))
            yield
        finally:
            for hook in hooks:
                hook.remove()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("kvpress")
    module.KeepLastPress = KeepLastPress  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kvpress", module)


@pytest.mark.usefixtures("installed")
def test_a_prompt_is_pressed_and_positions_go_on() -> None:
    model, ids = model_of("llama", max_position_embeddings=128), some_tokens(40)
    settings = {"max_new_tokens": 4, "stop_at_end": False}
    names = [name for name, _ in model.named_modules()]
    done = ropewalk.generate(model, ids, cache="kvpress:KeepLastPress:0.75", **settings)
    plain = ropewalk.generate(model, ids, **settings)
    assert [name for name, _ in model.named_modules()] == names
    # The prompt itself is read in full: its first answer is the model's own.
    assert (done.ids[0], done.logprobs[0]) == (plain.ids[0], plain.logprobs[0])
    # From then on the model sees the last ten keys of the prompt, as the full reading made them, at true positions.
    with torch.inference_mode():
        cache = model(input_ids=torch.tensor([ids]), use_cache=True).past_key_values
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, -10:], layer.values[:, :, -10:]
        for number, token in enumerate(done.ids[:-1]):
            place = torch.tensor([[40 + number]])
            logits = model(
                input_ids=torch.tensor([[token]]), position_ids=place, past_key_values=cache
            ).logits[0, -1]
            assert done.logprobs[number + 1] == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-5)
    assert done.kv_bytes < plain.kv_bytes / 2
    assert whole_logits(model, ids).isfinite().all()


@pytest.mark.usefixtures("installed")
def test_what_a_press_cannot_do_is_refused() -> None:
    model, ids = model_of("llama"), some_tokens(10)
    with pytest.raises(UsageError, match="did you mean KeepLastPress"):
        ropewalk.generate(model, ids, cache="kvpress:KeepLstPress:0.5", max_new_tokens=1)
    with pytest.raises(UsageError, match="compression ratio of 3"):
        ropewalk.generate(model, ids, cache="kvpress:KeepLastPress:3", max_new_tokens=1)
    with pytest.raises(UsageError, match="presses one prompt"):
        ropewalk.generate(model, ids, cache="kvpress:KeepLastPress:0.5", max_new_tokens=1, dynamic=True)


def test_without_kvpress_it_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    assert parse_kind("kvpress:SnapKVPress").press == ("SnapKVPress", 0.5)
    with pytest.raises(RopewalkError, match="kvpress is not to be had here"):
        ropewalk.generate(model_of("llama"), some_tokens(10), cache="kvpress:SnapKVPress", max_new_tokens=1)
