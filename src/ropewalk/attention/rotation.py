"""How each attention module rotates, found by asking it: which pairs, where in the head, in which order, how fast.

Two short readings at shifted positions give the same hidden states (that is what relative positions mean) and queries
that differ by the rotation alone. The one layout and spectrum that explains the difference is the module's own; a
module that does not rotate has none. So nothing here depends on the names or the code of an architecture.
Axes: B rows, H heads, T tokens, D head size, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ropewalk.attention.interface import (
    add_query_hook,
    attention_modules,
    install_attention,
    remove_attention,
    remove_query_hook,
)
from ropewalk.errors import RopewalkError
from ropewalk.models.live.rotary import BUFFER, Spectrum, key, spectra

_TOKENS, _SHIFT = 8, 7


@dataclass(frozen=True, eq=False)
class Rotation:
    """What one module does: `inv_freq` (P,) float64 in radians per token, over `2 * P` entries from `start` on.

    `interleaved` says that the two entries of a pair are neighbours, otherwise they are P apart.
    """

    inv_freq: Tensor
    attention_factor: float
    start: int
    interleaved: bool

    @property
    def num_pairs(self) -> int:
        """Pairs that are rotated."""
        return len(self.inv_freq)

    def turned(self, states_BHTD: Tensor, cos_TP: Tensor, sin_TP: Tensor) -> Tensor:
        """The states with pair p of token t turned by a further angle, given by its cosine and sine."""
        first, second = self._places(states_BHTD.device)
        # A factor on cosines and sines is in the states already; turning them further must not bring it in twice.
        one, two = states_BHTD[..., first].float(), states_BHTD[..., second].float()
        turned = states_BHTD.clone()
        turned[..., first] = (one * cos_TP - two * sin_TP).to(states_BHTD.dtype)
        turned[..., second] = (two * cos_TP + one * sin_TP).to(states_BHTD.dtype)
        return turned

    def turned_by(self, states_BHTD: Tensor, angles_TP: Tensor) -> Tensor:
        """The same, for angles in float64: reduced before the cast, so that far positions lose nothing."""
        angles_TP = angles_TP.to(states_BHTD.device)
        return self.turned(states_BHTD, angles_TP.cos().float(), angles_TP.sin().float())

    def turned_by_change(self, states_BHTD: Tensor, first: int, change_P: Tensor) -> Tensor:
        """The states, which stand at `first` and on, as if pairs turned faster by `change_P` radians a token.

        Angles made here, not taken from tables: a gradient reaches the change.
        """
        end = first + states_BHTD.shape[2]
        places_T = torch.arange(first, end, dtype=torch.float64, device=change_P.device)
        return self.turned_by(states_BHTD, places_T[:, None] * change_P)

    def _places(self, device: torch.device) -> tuple[Any, Any]:
        end = self.start + 2 * self.num_pairs
        if self.interleaved:
            return slice(self.start, end, 2), slice(self.start + 1, end, 2)
        return slice(self.start, self.start + self.num_pairs), slice(self.start + self.num_pairs, end)


@torch.no_grad()
def rotations(model: Any) -> dict[int, Rotation | None]:
    """The rotation of each layer's attention as it is in force now; None for layers that do not rotate."""
    modules = attention_modules(model)
    near, far = _queries(model, modules, 0), _queries(model, modules, _SHIFT)
    found = {}
    tried = [_exact(model, spectrum) for spectrum in spectra(model)]
    for index in near:
        found[index] = _explained(index, near[index], far[index], tried)
    missing = sorted(set(modules) - set(found))
    if missing:
        raise RopewalkError(
            f"the attention of layer {missing[0]} does not run through transformers' attention interface",
            hint="this architecture's rotation cannot be read off, so positions cannot be mapped",
        )
    return found


@dataclass(frozen=True, eq=False)
class Cached:
    """Where a layer's cache holds rotated states: in its `keys` or, for latent attention, in its `values`."""

    where: Literal["keys", "values"]
    rotation: Rotation


@torch.no_grad()
def cached_rotations(model: Any) -> dict[int, Cached | None]:
    """For each layer of a transformers cache what in it is rotated, and how; None where nothing is."""
    tried = [_exact(model, spectrum) for spectrum in spectra(model)]
    near, far = _filled(model, 0), _filled(model, _SHIFT)
    found: dict[int, Cached | None] = {}
    for index, (one, other) in enumerate(zip(near, far, strict=True)):
        found[index] = None
        for where in ("keys", "values"):
            pair = [getattr(layer, where, None) for layer in (one, other)]
            if any(states is None or states.dim() != 4 for states in pair):
                continue
            rotation = _explained(index, pair[0], pair[1], tried)
            if rotation is not None:
                found[index] = Cached(where, rotation)  # type: ignore[arg-type]
    return found


def _filled(model: Any, shift: int) -> list[Any]:
    """The layers of a cache that a few tokens went through."""
    embedding = model.get_input_embeddings().weight
    row = torch.arange(_TOKENS, device=embedding.device)[None]
    training = model.training
    try:
        model.eval()
        ids = (row * 5 + 3) % embedding.shape[0]
        cache = model(input_ids=ids, position_ids=row + shift, use_cache=True).past_key_values
    finally:
        model.train(training)
    layers: list[Any] = cache.layers
    return layers


def _exact(model: Any, spectrum: Spectrum) -> Spectrum:
    """With the module's own stored frequencies: those read off cosines carry a rounding that distance scales."""
    stored = model.get_submodule(spectrum.path)._buffers.get(key(spectrum.label, BUFFER))
    values = None if stored is None else stored.detach().double().cpu().numpy()
    if values is None or not np.allclose(values, spectrum.inv_freq, rtol=1e-4, atol=1e-7):
        return spectrum
    return replace(spectrum, inv_freq=values)


def _queries(model: Any, modules: dict[int, nn.Module], shift: int) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}

    def watch(
        module: nn.Module, query_BHTD: Tensor, key_BHTD: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        found[int(module.layer_idx)] = query_BHTD  # type: ignore[arg-type]
        return query_BHTD, kwargs

    embedding = model.get_input_embeddings().weight
    row = torch.arange(_TOKENS, device=embedding.device)[None]
    training = model.training
    install_attention(model)
    # Before any hook already there: a temperature is no part of the rotation.
    hooks = {index: getattr(module, "_ropewalk_hooks", ()) for index, module in modules.items()}
    for module in modules.values():
        module._ropewalk_hooks = ()  # type: ignore[assignment]
        add_query_hook(module, watch)
    try:
        model.eval()
        ids = (row * 5 + 3) % embedding.shape[0]
        model(input_ids=ids, position_ids=row + shift, use_cache=False)
    finally:
        model.train(training)
        for index, module in modules.items():
            remove_query_hook(module, watch)
            module._ropewalk_hooks = hooks[index]  # type: ignore[assignment]
        remove_attention(model)
    return found


def _explained(layer: int, near: Tensor, far: Tensor, tried: list[Any]) -> Rotation | None:
    # Half types round the two readings apart by more.
    loose = 2e-3 if near.dtype in (torch.float32, torch.float64) else 4e-2
    size = float(near.float().abs().max())
    if float((far - near).float().abs().max()) <= 0.1 * loose * size:
        return None
    best: tuple[float, Rotation] | None = None
    for spectrum in tried:
        for rotation in _layouts(spectrum, near.shape[-1]):
            angles_TP = _SHIFT * rotation.inv_freq.to(near.device)[None].expand(near.shape[2], -1)
            apart = float((rotation.turned_by(near, angles_TP) - far).float().abs().max())
            if best is None or apart < best[0]:
                best = apart, rotation
    if best is None or best[0] > loose * size:
        raise RopewalkError(
            f"layer {layer} rotates its queries in a way that is not known here",
            hint="positions can be mapped only where pairs of entries are turned by position times frequency",
        )
    return best[1]


def _layouts(spectrum: Any, head_dim: int) -> Iterator[Rotation]:
    inv_freq = torch.as_tensor(spectrum.inv_freq, dtype=torch.float64)
    width = 2 * len(inv_freq)
    if width > head_dim:
        return
    # Partial rotation takes the head's beginning, latent attention its end, behind what is not rotated.
    for start in sorted({0, head_dim - width}):
        for interleaved in (False, True):
            yield Rotation(inv_freq, spectrum.attention_factor, start, interleaved)
