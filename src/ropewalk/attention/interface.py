"""Our one place in transformers' attention interface: the chosen implementation, wrapped, never a modeling file edited.

`ropewalk_<name>` is registered beside every implementation that is used. It runs the query hooks of its module
(temperature), then the module's routes (a probe, shared rows, zones, position maps), of which the first that answers
computes the attention, and where none does the implementation itself, document by document where a batch says where
documents end. `ropewalk_split` is sdpa that is given no mask where the pattern is plain causal (`attention.split`).
Axes: B rows, H heads, T tokens, K keys, D head size.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.attention.split import split_forward, unmasked
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.live.rotary import bare

PREFIX = "ropewalk_"
SPLIT = "split"
Implementation = Callable[..., tuple[Tensor, Tensor | None]]
# (attention module, query_BHTD, key_BHTD, keyword arguments of the implementation) -> query and keyword arguments
QueryHook = Callable[[nn.Module, Tensor, Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]


@dataclass(frozen=True)
class Call:
    """One call of one module's attention: what the implementation would be given."""

    module: nn.Module
    query_BHTD: Tensor
    key_BHKD: Tensor
    value_BHKD: Tensor
    mask: Any
    options: dict[str, Any]

    @property
    def layer(self) -> int:
        """The layer that the module belongs to."""
        return int(self.module.layer_idx)  # type: ignore[arg-type]


# The attention's output (B, T, H, D), or None to leave the call to whoever comes next.
Route = Callable[[Call], Tensor | None]


@dataclass
class _Installed:
    """Which of a model's configurations are renamed, and for how many users."""

    bases: list[tuple[Any, str]] = field(default_factory=list)
    users: int = 0
    splitting: int = 0


def attention_modules(model: nn.Module) -> dict[int, nn.Module]:
    """The self-attention module of each layer that has one, by layer index."""
    found: dict[int, nn.Module] = {}
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if (
            type(module).__name__.endswith("Attention")
            and isinstance(index, int)
            and hasattr(module, "config")
        ):
            found.setdefault(index, module)
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no attention module with a layer index",
            hint="the architecture is not served by transformers' attention interface",
        )
    return dict(sorted(found.items()))


def base_implementation(model: Any) -> str:
    """The name of the implementation in use, our prefix taken off."""
    name = str(model.config.get_text_config()._attn_implementation).removeprefix(PREFIX)
    return "sdpa" if name == SPLIT else name


def install_attention(model: Any) -> None:
    """Route the model's attention through our wrapper; with no hooks, routes and borders it computes the same.

    May be called by several users; each calls `remove_attention` once.
    """
    if not model._can_set_attn_implementation():
        raise UsageError(
            f"{type(model).__name__} does not use transformers' attention interface",
            hint="temperature, zones, position maps and packed attention need an architecture that does",
        )
    _change(model, users=1)


def remove_attention(model: Any) -> None:
    """Undo one `install_attention`; with the last one the model's own implementation is back."""
    _change(model, users=-1)


@contextlib.contextmanager
def split_attention(model: Any) -> Iterator[None]:
    """Inside the block, the parts of a model that use stock `sdpa` attend without masks of plain causal patterns."""
    _change(model, splitting=1)
    try:
        yield
    finally:
        _change(model, splitting=-1)


@contextlib.contextmanager
def routed(model: Any, routes: Mapping[int, Route], *, split: bool = False) -> Iterator[None]:
    """Inside the block each given layer's attention asks its route first. `split`: without plain causal masks."""
    modules = attention_modules(model)
    install_attention(model)
    for index, route in routes.items():
        add_route(modules[index], route)
    try:
        with split_attention(model) if split else contextlib.nullcontext():
            yield
    finally:
        for index, route in routes.items():
            remove_route(modules[index], route)
        remove_attention(model)


def add_route(module: nn.Module, route: Route) -> None:
    """Ask `route` for this module's attention, before the routes already there: the latest is the outermost."""
    module._ropewalk_routes = (route, *getattr(module, "_ropewalk_routes", ()))  # type: ignore[assignment]


def remove_route(module: nn.Module, route: Route) -> None:
    """Take a route out again; one that is not there is no error."""
    routes: tuple[Route, ...] = getattr(module, "_ropewalk_routes", ())
    module._ropewalk_routes = tuple(item for item in routes if item is not route)  # type: ignore[assignment]


def add_query_hook(module: nn.Module, hook: QueryHook) -> None:
    """Run `hook` on every query of this module, after those already there."""
    module._ropewalk_hooks = (*getattr(module, "_ropewalk_hooks", ()), hook)  # type: ignore[assignment]


def remove_query_hook(module: nn.Module, hook: QueryHook) -> None:
    """Take a hook out again; one that is not there is no error."""
    hooks: tuple[QueryHook, ...] = getattr(module, "_ropewalk_hooks", ())
    module._ropewalk_hooks = tuple(item for item in hooks if item is not hook)  # type: ignore[assignment]


def _change(model: Any, *, users: int = 0, splitting: int = 0) -> None:
    """Count a user more or less, and give every configuration the name that its users ask for."""
    # Wrapped or bare, a model has one set of configurations: the count belongs to the bare one.
    owner = bare(model)
    state: _Installed | None = vars(owner).get("_ropewalk_attention")
    if state is None:
        if users + splitting < 0:
            return
        state = owner._ropewalk_attention = _Installed(_bases(owner))
    state.users = max(0, state.users + users)
    state.splitting = max(0, state.splitting + splitting)
    # Past the public setter, which gives every part of a model one name: here each part keeps its own.
    for config, base in state.bases:
        if state.splitting and base == "sdpa":
            config._attn_implementation_internal = _registered(SPLIT)
        else:
            config._attn_implementation_internal = _registered(base) if state.users else base
    if not state.users and not state.splitting:
        del owner._ropewalk_attention


def _bases(model: nn.Module) -> list[tuple[Any, str]]:
    # By identity: many modules share one configuration, and parts of a model (vision, text) have their own.
    configs = {id(item.config): item.config for item in model.modules() if hasattr(item, "config")}
    named = [(config, getattr(config, "_attn_implementation_internal", None)) for config in configs.values()]
    return [(config, name) for config, name in named if isinstance(name, str)]


def _registered(base: str) -> str:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        AttentionInterface.register(name, partial(_attention, base))
        # transformers looks masks up by this name too, and makes none at all under one that it does not know.
        if base == SPLIT:
            AttentionMaskInterface.register(name, unmasked)
        elif base in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys():
            AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


def _attention(
    base: str,
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    hooks: tuple[QueryHook, ...] = getattr(module, "_ropewalk_hooks", ())
    # Hooks before routes: a map or a probe must see the queries at their temperature.
    for hook in hooks:
        query_BHTD, kwargs = hook(module, query_BHTD, key_BHTD, kwargs)
    routes: tuple[Route, ...] = getattr(module, "_ropewalk_routes", ())
    for route in routes:
        attended = route(Call(module, query_BHTD, key_BHTD, value_BHTD, attention_mask, kwargs))
        if attended is not None:
            return attended, None
    run = _implementation(base, module)
    bounds = kwargs.get("cu_seq_lens_q")
    # Flash reads the borders of documents from these arguments itself.
    if bounds is None or base.startswith("flash"):
        return run(module, query_BHTD, key_BHTD, value_BHTD, attention_mask, **kwargs)
    if base not in ("sdpa", SPLIT):
        raise RopewalkError(
            f"attention {base!r} cannot read where documents end", hint="use sdpa or flash_attention_2"
        )
    return by_document(run, module, query_BHTD, key_BHTD, value_BHTD, bounds, **kwargs), None


def _implementation(base: str, module: nn.Module) -> Implementation:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if base == SPLIT:
        return split_forward
    if base != "eager":
        found: Implementation = ALL_ATTENTION_FUNCTIONS[base]
        return found
    # Eager is in no registry: every modeling file brings its own, with what is special to it.
    own: Implementation | None = getattr(
        sys.modules[type(module).__module__], "eager_attention_forward", None
    )
    if own is None:
        raise RopewalkError(
            f"{type(module).__name__} keeps its eager attention to itself",
            hint="load the model with attn=sdpa",
        )
    return own


def by_document(
    run: Implementation,
    module: nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    bounds: Tensor,
    *,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """Causal attention inside each document, (B, T, H, D): time and memory grow with the sum of squared lengths.

    `bounds` are cumulative lengths over the flattened batch, ends of rows among them. No mask is made, but for a
    document longer than `sliding_window`.
    """
    rows, length = query_BHTD.shape[0], query_BHTD.shape[2]
    # A piece is a text of its own: borders left in would be those of the whole batch.
    kwargs = {
        name: value for name, value in kwargs.items() if not name.startswith(("cu_seq_lens", "max_length"))
    }
    # A piece has no mask as a rule, and then this decides; left out, the module's own attribute would.
    kwargs["is_causal"] = True
    pieces: list[list[Tensor]] = [[] for _ in range(rows)]
    edges = bounds.tolist()
    for start, end in pairwise(edges):
        row, first = divmod(start, length)
        last = first + end - start
        if last > length:
            raise RopewalkError(
                f"a document ends at token {last} of a row of {length}",
                hint="borders must include the ends of rows",
            )
        query, key, value = (
            item[row : row + 1, :, first:last] for item in (query_BHTD, key_BHTD, value_BHTD)
        )
        mask = None
        if sliding_window is not None and end - start > sliding_window:
            mask = window_mask(end - start, end - start, sliding_window, query.device)
        pieces[row].append(run(module, query, key, value, mask, **kwargs)[0])
    return torch.cat([torch.cat(parts, dim=1) for parts in pieces])


def window_mask(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """What each of the last `queries` tokens of `keys` may see: itself and the `window - 1` before it, (1, 1, Q, K)."""
    distance = (
        torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)[None]
    )
    return ((distance >= 0) & (distance < window))[None, None]
