"""A model's forward that ends in a loss instead of logits, so that the logits of a long row are never whole.

The loss is computed inside the model's own forward: DDP and FSDP see every parameter used where they expect it.
Axes: B rows, T tokens, C hidden size, V vocabulary.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.errors import UsageError, one_line
from ropewalk.training.parts.loss.liger import liger_sum, liger_usable
from ropewalk.training.parts.loss.losses import IGNORE, chunked_cross_entropy, shift_labels, token_losses
from ropewalk.training.parts.loss.options import LossOptions

# (losses_BT of this forward, function that gives losses of other rows) -> weights_BT
LossesOf = Callable[..., Tensor]
Weigher = Callable[[Tensor, LossesOf], Tensor]


@dataclass(frozen=True)
class Head:
    """What stands between the last hidden state and the logits: linear layer, scale, cap."""

    layer: nn.Linear
    scale: float | None
    softcap: float | None

    @classmethod
    def of(cls, model: Any) -> Head:
        """Read from model and config: final_logit_softcapping, logit_scale (times), logits_scaling (divided)."""
        layer = model.get_output_embeddings()
        if not isinstance(layer, nn.Linear):
            raise UsageError(
                f"the output layer is a {type(layer).__name__}, not a linear layer",
                hint="set loss.kernel to plain, or leave lm_head out of the LoRA targets",
            )
        config = model.config.get_text_config()
        softcap = getattr(config, "final_logit_softcapping", None)
        scale = getattr(config, "logit_scale", None)
        divided = getattr(config, "logits_scaling", None)
        if scale is None and divided is not None:
            scale = 1.0 / divided
        return cls(
            layer, None if scale in (None, 1.0) else float(scale), None if not softcap else float(softcap)
        )

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the functions in `losses`."""
        return {"bias": self.layer.bias, "scale": self.scale, "softcap": self.softcap}


@dataclass(frozen=True)
class Installed:
    """The loss kernel in use, and why it is the plain one where `auto` could have had another."""

    kernel: str
    remark: str | None = None


def install_head(model: Any, options: LossOptions) -> Installed:
    """Make `model(..., target_ids=labels_BT)` return the SUM of the tokens' losses as `.loss`, without logits.

    `target_ids` are shifted labels. Without them the model's forward is untouched. `token_weights` weigh the tokens;
    `weigher` is called with the losses of all tokens (no gradient) and returns the weights. The chunked result is
    compared with the model's own on a few tokens first: where it differs (an architecture that does something else
    after its last layer), `auto` takes the plain loss, any other is refused.
    """
    device = next(model.parameters()).device
    kernel: str = options.kernel
    reason = None
    if kernel != "plain":
        reason = _unfit(model)
        if reason is not None and kernel != "auto":
            raise UsageError(f"loss.kernel={kernel} does not fit: {reason}", hint="set loss.kernel to plain")
        if kernel == "liger" and not liger_usable(device):
            raise UsageError(
                "loss.kernel=liger needs liger-kernel and a GPU", hint="install liger-kernel, or use chunked"
            )
        if kernel == "auto":
            kernel = "plain" if reason is not None else "liger" if liger_usable(device) else "chunked"
    # A second installation stands around the model's own forward too, not around the first one.
    if not hasattr(model, "_ropewalk_forward"):
        model._ropewalk_forward = model.forward
    model.forward = types.MethodType(
        _forward_with(kernel, options.chunk or (256 if device.type == "cpu" else 1024)), model
    )
    remark = None if reason is None else f"the loss keeps whole logits in memory: {reason}"
    return Installed(kernel, remark)


def remove_head(model: Any) -> None:
    """Give the model its own forward back."""
    if hasattr(model, "_ropewalk_forward"):
        del model.forward
        del model._ropewalk_forward


def _unfit(model: Any) -> str | None:
    """Why a loss from the last hidden state would not be the model's own, or None."""
    if getattr(model.config, "output_router_logits", False):
        return "output_router_logits asks for the router's loss, which the inner model does not give"
    try:
        return _differs(model, Head.of(model))
    except UsageError as error:
        return error.message


def _forward_with(kernel: str, chunk: int) -> Callable[..., Any]:
    def forward(
        self: Any,
        *args: Any,
        target_ids: Tensor | None = None,
        token_weights: Tensor | None = None,
        weigher: Weigher | None = None,
        **kwargs: Any,
    ) -> Any:
        if target_ids is None:
            return self._ropewalk_forward(*args, **kwargs)
        # Beside the memory: with a cache transformers ignores the borders of documents.
        kwargs["use_cache"] = False
        run = _plain_loss if kernel == "plain" else _fused_loss
        return run(self, args, kwargs, Wanted(target_ids, token_weights, weigher, kernel, chunk))

    return forward


@dataclass(frozen=True)
class Wanted:
    """The loss that one forward is asked for: of which labels, weighed how, by which kernel in which chunks."""

    target_ids: Tensor
    token_weights: Tensor | None
    weigher: Weigher | None
    kernel: str
    chunk: int


def _fused_loss(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: Wanted) -> Any:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    token_weights, chunk = wanted.token_weights, wanted.chunk
    head = Head.of(model)
    weight_VC, settings = head.layer.weight, head.arguments()
    backbone = _backbone(model)
    hidden_BTC = backbone(*args, **kwargs).last_hidden_state

    def losses_of(labels_BT: Tensor, **inputs: Any) -> Tensor:
        with torch.no_grad():
            hidden = backbone(**inputs).last_hidden_state
            return token_losses(hidden, weight_VC, labels_BT, chunk=chunk, **settings)

    if wanted.weigher is not None:
        # The chunked loss makes its gradients on the way forward: weights made of losses must be there before.
        own = token_losses(hidden_BTC.detach(), weight_VC, wanted.target_ids, chunk=chunk, **settings)
        token_weights = wanted.weigher(own, losses_of)
    if wanted.kernel == "liger" and token_weights is None and head.scale is None:
        loss = liger_sum(hidden_BTC, weight_VC, wanted.target_ids, bias=head.layer.bias, softcap=head.softcap)
    else:
        loss = chunked_cross_entropy(
            hidden_BTC,
            weight_VC,
            wanted.target_ids,
            token_weights_BT=token_weights,
            chunk=chunk,
            denominator=1.0,
            **settings,
        )
    return CausalLMOutputWithPast(loss=loss)


def _plain_loss(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], wanted: Wanted) -> Any:
    from transformers.modeling_outputs import MoeCausalLMOutputWithPast

    output = model._ropewalk_forward(*args, **kwargs)
    losses_BT = _losses_of_logits(output.logits, wanted.target_ids)

    def losses_of(labels_BT: Tensor, **inputs: Any) -> Tensor:
        with torch.no_grad():
            return _losses_of_logits(model._ropewalk_forward(**inputs).logits, labels_BT)

    token_weights = wanted.token_weights
    if wanted.weigher is not None:
        token_weights = wanted.weigher(losses_BT.detach(), losses_of)
    loss = (losses_BT if token_weights is None else losses_BT * token_weights).sum()
    return MoeCausalLMOutputWithPast(loss=loss, aux_loss=getattr(output, "aux_loss", None))


def _losses_of_logits(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    flat = logits_BTV.reshape(-1, logits_BTV.shape[-1]).float()
    losses = nn.functional.cross_entropy(flat, labels_BT.reshape(-1), ignore_index=IGNORE, reduction="none")
    return losses.view(labels_BT.shape)


def _backbone(model: Any) -> nn.Module:
    inner: nn.Module | None = getattr(model, model.base_model_prefix, None)
    if inner is None or inner is model:
        raise UsageError(
            f"{type(model).__name__} has no inner model that gives hidden states",
            hint="set loss.kernel to plain",
        )
    return inner


@torch.no_grad()
def _differs(model: Any, head: Head) -> str | None:
    """Why the loss from the hidden state is not the model's own, or None where it is."""
    training = model.training
    # Dropout would draw differently in the two forwards that are compared.
    model.eval()
    size = min(16, model.get_input_embeddings().weight.shape[0])
    tokens = torch.arange(size, device=model.get_input_embeddings().weight.device)[None]
    try:
        hidden = _backbone(model)(input_ids=tokens, use_cache=False).last_hidden_state
        mine = chunked_cross_entropy(hidden, head.layer.weight, shift_labels(tokens), **head.arguments())
        logits = model(input_ids=tokens, use_cache=False).logits.float()
        labels = shift_labels(tokens).view(-1)
        plain = nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), labels, ignore_index=IGNORE)
    except (AttributeError, TypeError, RuntimeError, UsageError) as error:
        return one_line(error, 160)
    finally:
        model.train(training)
    whole = hidden.dtype == torch.float32 and not torch.is_autocast_enabled(hidden.device.type)
    if not torch.allclose(mine.float(), plain, rtol=1e-4 if whole else 5e-3, atol=1e-4):
        return f"its own loss on {size} tokens is {plain:.5f}, that of its last hidden state {mine:.5f}"
    return None
