"""Our place in transformers' attention interface: the chosen implementation, wrapped, never a modeling file edited.

`ropewalk_<name>` is registered beside every implementation that is used. It runs the query hooks of its module
(temperature), then the implementation itself, document by document where a batch says where documents end, or over
rows that several processes share (`ropewalk.attention.sharing`).
Axes: B rows, H heads, T tokens, D head size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.errors import RopewalkError, UsageError

PREFIX = "ropewalk_"
Implementation = Callable[..., tuple[Tensor, Tensor | None]]
# (attention module, query_BHTD, key_BHTD, keyword arguments of the implementation) -> query and keyword arguments
QueryHook = Callable[[nn.Module, Tensor, Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]


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
    return str(model.config.get_text_config()._attn_implementation).removeprefix(PREFIX)


def install_attention(model: Any) -> None:
    """Route the model's attention through our wrapper; with no hooks and no borders it computes the same.

    May be called by several users; each calls `remove_attention` once.
    """
    users = getattr(model, "_ropewalk_attention_users", 0)
    if users == 0:
        if not model._can_set_attn_implementation():
            raise UsageError(
                f"{type(model).__name__} does not use transformers' attention interface",
                hint="temperature and packed attention need an architecture that does",
            )
        _rename(model, lambda name: _registered(name))
    model._ropewalk_attention_users = users + 1


def remove_attention(model: Any) -> None:
    """Undo one `install_attention`; with the last one the model's own implementation is back."""
    users = getattr(model, "_ropewalk_attention_users", 0)
    if users <= 1:
        _rename(model, lambda name: name.removeprefix(PREFIX))
    model._ropewalk_attention_users = max(0, users - 1)


def add_query_hook(module: nn.Module, hook: QueryHook) -> None:
    """Run `hook` on every query of this module, after those already there."""
    module._ropewalk_hooks = (*getattr(module, "_ropewalk_hooks", ()), hook)  # type: ignore[assignment]


def remove_query_hook(module: nn.Module, hook: QueryHook) -> None:
    """Take a hook out again; one that is not there is no error."""
    hooks: tuple[QueryHook, ...] = getattr(module, "_ropewalk_hooks", ())
    module._ropewalk_hooks = tuple(item for item in hooks if item is not hook)  # type: ignore[assignment]


def _rename(model: nn.Module, rename: Callable[[str], str]) -> None:
    configs: dict[int, Any] = {
        id(item.config): item.config for item in model.modules() if hasattr(item, "config")
    }
    for config in configs.values():
        name = getattr(config, "_attn_implementation_internal", None)
        if isinstance(name, str):
            config._attn_implementation_internal = rename(name)


def _registered(base: str) -> str:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if base.startswith(PREFIX):
        return base
    name = PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        AttentionInterface.register(name, partial(_attention, base))
        if base in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys():
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
    for hook in hooks:
        query_BHTD, kwargs = hook(module, query_BHTD, key_BHTD, kwargs)
    sharing = getattr(module, "_ropewalk_sharing", None)
    if sharing is not None and sharing.active:
        return sharing.attend(module, query_BHTD, key_BHTD, value_BHTD, kwargs), None
    run = _implementation(base, module)
    bounds = kwargs.get("cu_seq_lens_q")
    if bounds is None or base.startswith("flash"):
        return run(module, query_BHTD, key_BHTD, value_BHTD, attention_mask, **kwargs)
    if base != "sdpa":
        raise RopewalkError(
            f"attention {base!r} cannot read where documents end", hint="use sdpa or flash_attention_2"
        )
    return by_document(run, module, query_BHTD, key_BHTD, value_BHTD, bounds, **kwargs), None


def _implementation(base: str, module: nn.Module) -> Implementation:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if base != "eager":
        found: Implementation = ALL_ATTENTION_FUNCTIONS[base]
        return found
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
    kwargs = {
        name: value for name, value in kwargs.items() if not name.startswith(("cu_seq_lens", "max_length"))
    }
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
