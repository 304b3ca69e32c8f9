"""Attention temperature on a model, in training and in inference, through the attention interface.

Every rule multiplies the query after its rotation, which multiplies the logits by as much; the closed forms are in
`ropewalk.temperature`. What is constant per head can be folded into the weights: then no code of ours is needed.
Axes: B rows, H heads, T tokens, D head size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ropewalk import temperature as closed
from ropewalk.attention.folding import fold_into, folded_tensors
from ropewalk.attention.interface import (
    add_query_hook,
    attention_modules,
    install_attention,
    remove_attention,
    remove_query_hook,
)
from ropewalk.attention.options import PARAMETER, TemperatureOptions
from ropewalk.errors import RopewalkError, UsageError

# The fewest tokens whose logits are measured.
LEAST_TOKENS = 16


class AppliedTemperature:
    """A temperature on a model until `remove` (or the end of a `with` block), or until it is folded in."""

    def __init__(self, model: Any, options: TemperatureOptions, hooks: dict[int, Any]) -> None:
        self.model, self.options = model, options
        self._hooks = hooks

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the temperature off; a second call does nothing."""
        if not self._hooks:
            return
        modules = attention_modules(self.model)
        for index, hook in self._hooks.items():
            remove_query_hook(modules[index], hook)
            # Learned it is a parameter, measured a buffer: whichever it was must leave no name in a saved checkpoint.
            modules[index]._parameters.pop(PARAMETER, None)
            modules[index]._buffers.pop(PARAMETER, None)
        self._hooks = {}
        remove_attention(self.model)

    @property
    def foldable(self) -> bool:
        """Whether the weights can hold this temperature; one that depends on the position they cannot."""
        return self.options.rule not in ("log-n", "step-log")

    def multipliers(self, tensors: Mapping[str, Tensor] | None = None) -> dict[int, Tensor]:
        """What multiplies the logits of each head now, by layer, float64 (H,); read from a state dict where given."""
        if not self.foldable:
            raise UsageError(
                f"temperature {self.options.rule} depends on the position and is no constant of a head",
                hint="keep it applied, or choose constant or per-head",
            )
        modules, names = attention_modules(self.model), self._names()
        return {
            index: hook.multiplier(modules[index], (tensors or {}).get(f"{names[index]}.{PARAMETER}"))
            for index, hook in self._hooks.items()
        }

    def fold(self) -> None:
        """Write the constants into the query projections (or the query norm's gain) and take the hooks off.

        The model then computes the same with stock code. Position-dependent rules cannot be folded.
        """
        self.check_fold()
        modules = attention_modules(self.model)
        for index, values in self.multipliers().items():
            fold_into(modules[index], values)
        self.remove()

    @torch.no_grad()
    def check_fold(self) -> None:
        """Fold on trial and compare the queries of a few tokens; an architecture that does not obey is refused."""
        modules, wanted = attention_modules(self.model), self._queries()
        tensors = {
            (index, name): item for index in self._hooks for name, item in modules[index].named_parameters()
        }
        before = {key: item.clone() for key, item in tensors.items()}
        try:
            for index, values in self.multipliers().items():
                fold_into(modules[index], values)
                remove_query_hook(modules[index], self._hooks[index])
            got = self._queries()
        finally:
            for key, item in tensors.items():
                item.copy_(before[key])
            for index, hook in self._hooks.items():
                # Off and on again: some are off already, and none may be on twice.
                remove_query_hook(modules[index], hook)
                add_query_hook(modules[index], hook)
        for index, query in wanted.items():
            # Half precision rounds a folded weight anew, and its queries with it.
            loose = 1e-3 if query.dtype in (torch.float32, torch.float64) else 5e-2
            if (got[index] - query).double().abs().max() > loose * query.double().abs().max():
                raise UsageError(
                    f"{type(modules[index]).__name__} does not keep a constant that is folded into its weights",
                    hint="keep the temperature applied instead of folding it",
                )

    def _queries(self) -> dict[int, Tensor]:
        """Queries times scaling of every tempered layer on a few tokens, as its attention gets them."""
        found: dict[int, Tensor] = {}

        def watch(
            module: nn.Module, query: Tensor, key: Tensor, kwargs: dict[str, Any]
        ) -> tuple[Tensor, dict[str, Any]]:
            found[int(module.layer_idx)] = query * scaling_of(module, kwargs)  # type: ignore[arg-type]
            return query, kwargs

        embedding = self.model.get_input_embeddings().weight
        tokens = torch.arange(8, device=embedding.device)[None] % embedding.shape[0]
        modules = attention_modules(self.model)
        training = self.model.training
        for index in self._hooks:
            add_query_hook(modules[index], watch)
        try:
            self.model.eval()
            self.model(input_ids=tokens, use_cache=False)
        finally:
            self.model.train(training)
            for index in self._hooks:
                remove_query_hook(modules[index], watch)
        return found

    def folded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict of the model with the constants folded in and our own names left out; nothing else changes."""
        modules, names = attention_modules(self.model), self._names()
        result = {name: tensor for name, tensor in tensors.items() if not name.endswith(PARAMETER)}
        for index, values in self.multipliers(tensors).items():
            prefix = f"{names[index]}."
            own = {
                name.removeprefix(prefix): item for name, item in result.items() if name.startswith(prefix)
            }
            for name, tensor in folded_tensors(modules[index], own, values).items():
                result[prefix + name] = tensor
        return result

    def _names(self) -> dict[int, str]:
        names = {id(module): name for name, module in self.model.named_modules()}
        return {index: names[id(module)] for index, module in attention_modules(self.model).items()}


def apply_temperature(
    model: Any,
    options: TemperatureOptions,
    *,
    logit_std: Mapping[int, Tensor] | None = None,
    logs: Mapping[int, Tensor] | None = None,
) -> AppliedTemperature:
    """Put a temperature on a model. `per-head` starts from `logit_std` (of `measure_logit_std`), or is given by its
    `logs`: the logarithms of what multiplies each head's logits, by layer; gradients reach them.

    A per-head temperature is H numbers in each layer, `ropewalk_log_temperature`: a buffer, or a parameter that is
    trained with the rest. Fold it before saving, since stock software would not know the name.
    """
    if options.rule == "none" and options.divisor_power is None:
        raise UsageError(
            "a temperature without rule and divisor does nothing", hint="give rule or divisor_power"
        )
    modules = attention_modules(model)
    chosen = chosen_layers(model, options.layers) if logs is None else _given(modules, logs)
    if not chosen:
        raise UsageError(
            "every attention layer slides over a window that does not grow: there is nothing to temper",
            hint="set layers to all, or widen the sliding window instead",
        )
    measured = logit_std is not None and set(chosen) <= set(logit_std)
    if options.rule == "per-head" and logs is None and not measured:
        raise UsageError(
            "per-head temperature starts from each head's measured logits",
            hint="pass logit_std=measure_logit_std(model, tokens)",
        )
    install_attention(model)
    hooks: dict[int, Any] = {}
    for index in chosen:
        if options.rule == "per-head" and logs is not None:
            _start(modules[index], logs[index], options)
        elif options.rule == "per-head":
            assert logit_std is not None
            assert options.factor is not None
            kappa = closed.entropy_matched(options.factor, logit_std[index].cpu().numpy())
            _start(modules[index], torch.from_numpy(kappa).log(), options)
        hooks[index] = _Hook(options)
        add_query_hook(modules[index], hooks[index])
    return AppliedTemperature(model, options, hooks)


def _given(modules: Mapping[int, nn.Module], logs: Mapping[int, Tensor]) -> list[int]:
    """The layers of given temperatures, which must be this model's, head for head."""
    for index, values in logs.items():
        if index not in modules:
            raise UsageError(
                f"temperatures for layer {index}, and the model has layers 0 to {len(modules) - 1}",
                hint="they belong to another model: fit them on this one",
            )
        if values.shape != (num_query_heads(modules[index]),):
            raise UsageError(
                f"{values.numel()} temperatures for the {num_query_heads(modules[index])} heads of layer {index}",
                hint="they belong to another model: fit them on this one",
            )
    return sorted(logs)


def _start(module: nn.Module, logs: Tensor, options: TemperatureOptions) -> None:
    like = next(module.parameters())
    # As logarithms, so that no training step can turn a temperature negative.
    values = logs.to(device=like.device, dtype=torch.float32)
    if options.learned:
        module.register_parameter(PARAMETER, nn.Parameter(values))
    else:
        module.register_buffer(PARAMETER, values)


def chosen_layers(model: Any, layers: Literal["full", "all"]) -> list[int]:
    """Indices of the attention layers that a temperature concerns."""
    modules = attention_modules(model)
    if layers == "all":
        return list(modules)
    from ropewalk.models.structure.layers import layers_of
    from ropewalk.models.structure.view import view_of

    sliding = set(layers_of(view_of(model.config.to_dict())).sliding)
    # A temperature answers a growing number of keys, which a window does not have.
    return [index for index in modules if index not in sliding]


@torch.no_grad()
def measure_logit_std(model: Any, input_ids: Tensor, *, queries: int = 64) -> dict[int, Tensor]:
    """The standard deviation of each head's attention logits over the keys a query sees, by layer, float64 (H,).

    The mean over `queries` queries spread over the second half of the row; `input_ids` (B, T) should be text.
    """
    found: dict[int, list[Tensor]] = {}

    def watch(
        module: nn.Module, query_BHTD: Tensor, key_BHTD: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        length = query_BHTD.shape[2]
        # An early query sees few keys, and their spread says little about a long text.
        places = torch.linspace(length // 2, length - 1, min(queries, length - length // 2)).long()
        keys = key_BHTD.repeat_interleave(query_BHTD.shape[1] // key_BHTD.shape[1], dim=1).double()
        logits = query_BHTD[:, :, places].double() @ keys.transpose(2, 3) * scaling_of(module, kwargs)
        seen = torch.arange(length)[None, :] <= places[:, None]
        seen = seen.to(logits.device)
        count = seen.sum(-1)
        mean = (logits * seen).sum(-1) / count
        variance = ((logits - mean[..., None]) ** 2 * seen).sum(-1) / count
        found.setdefault(int(module.layer_idx), []).append(variance.mean(dim=(0, 2)))  # type: ignore[arg-type]
        return query_BHTD, kwargs

    if input_ids.shape[1] < LEAST_TOKENS:
        raise UsageError(
            f"{input_ids.shape[1]} tokens say little about attention",
            hint=f"give {LEAST_TOKENS} or more, best text",
        )
    modules = attention_modules(model)
    install_attention(model)
    for module in modules.values():
        add_query_hook(module, watch)
    training = model.training
    try:
        model.eval()
        model(input_ids=input_ids, use_cache=False)
    finally:
        model.train(training)
        for module in modules.values():
            remove_query_hook(module, watch)
        remove_attention(model)
    return {index: torch.stack(parts).mean(0).sqrt() for index, parts in found.items()}


class _Hook:
    """Multiplies queries in place of the rule's formula, and replaces the scaling where a divisor is given."""

    def __init__(self, options: TemperatureOptions) -> None:
        self.options = options

    def __call__(
        self, module: nn.Module, query_BHTD: Tensor, key_BHTD: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        options = self.options
        if options.divisor_power is not None:
            kwargs = kwargs | {
                "scaling": 1.0 / closed.divisor(query_BHTD.shape[-1], power=options.divisor_power)
            }
        if options.rule == "constant":
            query_BHTD = query_BHTD * self._constant()
        elif options.rule == "per-head":
            kappa = getattr(module, PARAMETER).exp()
            query_BHTD = (query_BHTD * kappa[None, :, None, None]).to(query_BHTD.dtype)
        elif options.rule != "none":
            growth = self._by_position(query_BHTD, kwargs)
            query_BHTD = query_BHTD * growth.to(query_BHTD.dtype)
        return query_BHTD, kwargs

    def multiplier(self, module: nn.Module, log_kappa: Tensor | None) -> Tensor:
        """Per head, float64: rule times the change of the divisor."""
        values = torch.ones(num_query_heads(module), dtype=torch.float64)
        if self.options.rule == "constant":
            values = values * self._constant()
        elif self.options.rule == "per-head":
            log_kappa = getattr(module, PARAMETER) if log_kappa is None else log_kappa
            values = log_kappa.detach().double().cpu().exp()
        if self.options.divisor_power is not None:
            wanted = 1.0 / closed.divisor(_query_dim(module), power=self.options.divisor_power)
            values = values * (wanted / scaling_of(module, {}))
        return values

    def _constant(self) -> float:
        options = self.options
        return (
            # Squared: cosines and sines stand in query and key, so that logits get the value twice.
            closed.constant(options.factor if options.factor is not None else 1.0, value=options.value) ** 2
        )

    def _by_position(self, query_BHTD: Tensor, kwargs: dict[str, Any]) -> Tensor:
        positions = kwargs.get("position_ids")
        if positions is None:
            raise RopewalkError(
                f"this architecture does not tell its attention the positions, which {self.options.rule} needs",
                hint="use constant or per-head",
            )
        positions_BT = positions.double()[:, -query_BHTD.shape[2] :]
        if self.options.rule == "log-n":
            assert self.options.original_length is not None
            growth = ((positions_BT + 1).log() / math.log(self.options.original_length)).clamp(min=1.0)
        else:
            steps = ((positions_BT + 1) / self.options.period).floor() + 1
            growth = steps.log() * self.options.coefficient + 1
        spread: Tensor = growth[:, None, :, None]
        return spread


def num_query_heads(module: Any) -> int:
    """Query heads of an attention module."""
    for owner, name in ((module, "num_heads"), (module.config, "num_attention_heads")):
        if isinstance(getattr(owner, name, None), int):
            return int(getattr(owner, name))
    raise RopewalkError(
        f"{type(module).__name__} does not tell its number of heads", hint="report the architecture"
    )


def _query_dim(module: Any) -> int:
    for name in ("qk_head_dim", "head_dim", "head_size"):
        if isinstance(getattr(module, name, None), int):
            return int(getattr(module, name))
    raise RopewalkError(
        f"{type(module).__name__} does not tell its head size", hint="report the architecture"
    )


def scaling_of(module: Any, kwargs: dict[str, Any]) -> float:
    """What an attention call multiplies its logits by."""
    given = kwargs.get("scaling")
    if given is None:
        given = getattr(module, "scaling", None)
    return float(given) if given is not None else _query_dim(module) ** -0.5
