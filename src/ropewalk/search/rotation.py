"""Frequencies and attention factor of a live model as tensors that a gradient reaches.

Axes: B rows, T positions, P pairs.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ropewalk.errors import RopewalkError
from ropewalk.geometry import RopeGeometry
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.live import direct
from ropewalk.models.live.rotary import BUFFER, bare, key, labels_of, rotary_modules
from ropewalk.models.live.state import Patch
from ropewalk.models.structure.layers import is_sliding
from ropewalk.models.structure.ropes import DEFAULT


@dataclass(frozen=True)
class Place:
    """One rotary module and the layer type for which it is asked."""

    path: str
    module: Any
    label: str


class Rotation:
    """The rotary modules of a model's full-attention layers, ready to compute given frequencies.

    The module's own forward runs, without the `no_grad` and the length rule that transformers puts around it, so that
    each architecture keeps its own layout and its own rounding.
    """

    def __init__(self, model: Any) -> None:
        self.model = bare(model)
        self.facts: ModelFacts = read_facts(self.model.config.to_dict())
        self.places = list(self._places())
        if not self.places:
            raise RopewalkError(
                f"{type(self.model).__name__} has no rotary module whose frequencies could be fitted",
                hint="compare its closed forms instead: ropewalk compare",
            )

    @property
    def geometry(self) -> RopeGeometry:
        """The model's own geometry."""
        return self.facts.geometry

    def _places(self) -> Iterator[Place]:
        text = direct.text_config(self.model, self.facts)
        if is_sliding(self.facts.main):
            return
        for path, module in rotary_modules(self.model).items():
            for label in labels_of(module):
                # Indexers and towers may turn another number of pairs.
                fits = module._buffers[key(label, BUFFER)].numel() == self.geometry.half_dim
                if fits and direct.belongs(module, text) and (label or DEFAULT) == self.facts.main:
                    yield Place(path, module, label)

    @torch.no_grad()
    def felt(self, ids_BT: Tensor) -> bool:
        """Whether the output follows frequencies and factor that are written here: code that is not stock may keep
        tables of its own, and every schedule would read alike."""
        place = self.places[0]
        own = place.module._buffers[key(place.label, BUFFER)].double()
        read = []
        for stretch, factor in ((1.0, 1.0), (2.0, 1.0), (1.0, 1.5)):
            with self.turning(own / stretch, factor):
                read.append(self.model(input_ids=ids_BT, use_cache=False).logits)
        return not any(torch.equal(read[0], other) for other in read[1:])

    @contextlib.contextmanager
    def turning(
        self, inv_freq: Tensor, attention_factor: Tensor | float, kept_first: int = 0
    ) -> Iterator[None]:
        """Inside the block the model rotates by `inv_freq` (P radians a token), cos and sin times the factor.

        Gradients flow into both where they ask for one. The first `kept_first` positions keep the model's own
        frequencies (LongRoPE's kept tokens), which no stock configuration can say.
        """
        patch = Patch()
        try:
            for place in self.places:
                self._put(place, inv_freq, attention_factor, kept_first, patch)
            yield
        finally:
            patch.undo()

    def _put(
        self, place: Place, inv_freq: Tensor, attention_factor: Tensor | float, kept_first: int, patch: Patch
    ) -> None:
        module, name = place.module, key(place.label, BUFFER)
        buffer = module._buffers[name]
        # As stock code keeps it: what is fitted is what will run.
        wanted = inv_freq.to(torch.float32).to(buffer.device)
        patch.set(module._buffers, name, wanted)
        patch.set(vars(module), key(place.label, "attention_scaling"), attention_factor)
        if "rope_init_fn" in vars(module):
            # phimoe asks this in every forward, whatever its buffers hold.
            patch.set(vars(module), "rope_init_fn", lambda *asked, **more: (wanted, attention_factor))
        previous = module.forward
        patch.set(vars(module), "forward", _Forward(place, previous, kept_first, own=buffer, wanted=wanted))


class _Forward:
    """A rotary module's own forward with gradients; where a label is fitted, only calls for that label."""

    def __init__(self, place: Place, previous: Any, kept_first: int, *, own: Tensor, wanted: Tensor) -> None:
        self.module, self.label, self.name = place.module, place.label, key(place.label, BUFFER)
        self.previous, self.kept_first, self.own, self.wanted = previous, kept_first, own, wanted
        self.inner = inspect.unwrap(type(place.module).forward)

    def __call__(self, x: Any, *inputs: Any, **keywords: Any) -> Any:
        # transformers calls with positions first and the layer type after them.
        asked = inputs[1] if len(inputs) > 1 else keywords.get("layer_type")
        if self.label and asked is not None and asked != self.label:
            return self.previous(x, *inputs, **keywords)
        turned = self.inner(self.module, x, *inputs, **keywords)
        if not self.kept_first:
            return turned
        positions_BT = inputs[0] if inputs else keywords["position_ids"]
        self.module._buffers[self.name] = self.own
        try:
            kept = self.inner(self.module, x, *inputs, **keywords)
        finally:
            self.module._buffers[self.name] = self.wanted
        return _joined(kept, turned, (positions_BT < self.kept_first)[..., None])


def _joined(first: Any, rest: Any, choose: Tensor) -> Any:
    if isinstance(first, tuple):
        return tuple(_joined(one, other, choose) for one, other in zip(first, rest, strict=True))
    return torch.where(choose, first, rest)
