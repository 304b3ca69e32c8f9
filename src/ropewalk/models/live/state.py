"""Making a live model what a stock reload of another configuration would be, and back again bit for bit.

Two twins are compared, one of the present configuration and one of the wanted. Whatever differs between them (rotary
buffers, attention scalings, MLA's softmax scale, cached frequencies, configuration fields) is what the configuration
decides, and exactly that is written to the live model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ropewalk.errors import RopewalkError
from ropewalk.models.live.rotary import labels_of

_MISSING = object()
# What a constructor copies out of a configuration. Tensors are compared apart, modules by their own values.
_PLAIN = (int, float, bool, str, type(None), dict, list, tuple)


@dataclass(frozen=True)
class Change:
    """One value of one owner: `space` is the dictionary that holds it (buffers, attributes, configuration fields)."""

    space: dict[str, Any]
    name: str
    old: Any
    new: Any

    def write(self, value: Any) -> None:
        """Put a value in place; `_MISSING` takes the name away."""
        if value is _MISSING:
            self.space.pop(self.name, None)
        else:
            self.space[self.name] = value


class Patch:
    """Changes that are written together and taken back together."""

    def __init__(self) -> None:
        self._changes: list[Change] = []

    def __len__(self) -> int:
        return len(self._changes)

    def set(self, space: dict[str, Any], name: str, value: Any) -> None:
        """Write a value now and remember what was there: the same object comes back on `undo`."""
        change = Change(space, name, space.get(name, _MISSING), value)
        change.write(value)
        self._changes.append(change)

    def drop(self, space: dict[str, Any], name: str) -> None:
        """Take a name away until `undo`."""
        if name in space:
            self.set(space, name, _MISSING)

    def undo(self) -> None:
        """Restore every value, latest first."""
        while self._changes:
            change = self._changes.pop()
            change.write(change.old)


def transfer(model: Any, before: Any, after: Any, patch: Patch) -> None:
    """Write to `model` whatever differs between the twins `before` and `after`."""
    live, old = dict(model.named_modules()), dict(before.named_modules())
    shared = {id(config) for config in _config_tree(model.config)}
    for path, new in after.named_modules():
        # A configuration that builds other layers (an expert more, another attention) is no stretch.
        if path not in old or type(old[path]) is not type(new):
            raise _other_shape(path)
        for name, value in new._parameters.items():
            if value is not None and value.shape != old[path]._parameters[name].shape:
                raise _other_shape(f"{path}.{name}")
        if labels_of(new):
            _transfer_rotary(_module(live, path), old[path], new, shared, patch)
        elif path:
            _transfer_plain(live, path, old[path], new, patch)
    _transfer_config(model.config, before.config, after.config, patch)


def _transfer_rotary(live: Any, old: Any, new: Any, shared: set[int], patch: Patch) -> None:
    """The whole state of a rotary module; its hooks and its device stay."""
    before = len(patch)
    for name, value in new._buffers.items():
        here = live._buffers.get(name)
        if here is not None and here.is_meta:
            raise RopewalkError(
                "a rotary buffer is on the meta device", hint="load the weights before applying"
            )
        if not _same(old._buffers.get(name), value):
            device = here.device if here is not None else torch.device("cpu")
            patch.set(live._buffers, name, None if value is None else value.to(device).clone())
    for name, value in vars(new).items():
        if not _is_state(name) or _same(vars(old).get(name, _MISSING), value):
            continue
        # A configuration object that the whole model shares is changed in place, once, elsewhere.
        if name != "config" or id(vars(live).get(name)) not in shared:
            patch.set(vars(live), name, value)
    if len(patch) > before or not _same(vars(old).get("config"), vars(new).get("config")):
        # Frequencies cached by an earlier forward belong to the earlier configuration.
        cached = [name for name, value in vars(live).items() if isinstance(value, torch.Tensor)]
        for name in cached:
            if _is_state(name) and name not in vars(new):
                patch.drop(vars(live), name)


def _transfer_plain(live: dict[str, Any], path: str, old: Any, new: Any, patch: Patch) -> None:
    """Numbers and names that a constructor took from the configuration, such as an attention's `scaling`."""
    for name, value in vars(new).items():
        if (
            not _is_state(name)
            or not isinstance(value, _PLAIN)
            or _same(vars(old).get(name, _MISSING), value)
        ):
            continue
        patch.set(vars(_module(live, path)), name, value)


def _transfer_config(live: Any, old: Any, new: Any, patch: Patch) -> None:
    """Fields of the configuration object that every module shares, and of its parts."""
    parts = getattr(type(live), "sub_configs", {})
    for name, value in vars(new).items():
        if name in parts or name.startswith("_"):
            continue
        if not _same(vars(old).get(name, _MISSING), value):
            patch.set(vars(live), name, value)
    for name in parts:
        if getattr(live, name, None) is not None and getattr(new, name, None) is not None:
            _transfer_config(getattr(live, name), getattr(old, name), getattr(new, name), patch)


def _config_tree(config: Any) -> Iterator[Any]:
    yield config
    for name in getattr(type(config), "sub_configs", {}):
        if getattr(config, name, None) is not None:
            yield from _config_tree(getattr(config, name))


def _is_state(name: str) -> bool:
    return not name.startswith("_") and name not in ("training", "forward")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return False
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if hasattr(one, "to_dict"):
        # Configurations whose layers differ refuse a plain comparison.
        return bool(vars(one) == vars(other))
    return bool(one == other)


def _other_shape(path: str) -> RopewalkError:
    return RopewalkError(
        f"the longer configuration builds another model (at {path})",
        hint="weights that grow with the window cannot be extended without training",
    )


def _module(live: dict[str, Any], path: str) -> Any:
    if path not in live:
        raise RopewalkError(
            f"the model has no module {path} where its class has one",
            hint="apply the schedule before changing layers",
        )
    return live[path]
