"""A frozen model read under given schedules: losses of every token, and the gradient of J in profile and temperature.

Axes: B rows, T tokens, V words, P pairs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from ropewalk.attention.maps import applied
from ropewalk.errors import RopewalkError, one_line
from ropewalk.evaluation.forward.engine import NoRoomError, free_bytes
from ropewalk.evaluation.forward.scored import token_loss
from ropewalk.evaluation.work.processes import Processes
from ropewalk.geometry import FloatArray
from ropewalk.models.live.heads import decoder_of, logits_from, split_works
from ropewalk.position_maps import AnyMap
from ropewalk.schedule import FrequencySchedule
from ropewalk.search.family import Family
from ropewalk.search.heads import HeadLayout, Tempered, TemperedFamily
from ropewalk.search.map_family import MapFamily, gradient_of, turned_frequencies
from ropewalk.search.objective import Terms, Weighed, terms_of
from ropewalk.search.rotation import Rotation
from ropewalk.training.parts.loss.head import install_head, remove_head
from ropewalk.training.parts.loss.losses import shift_labels
from ropewalk.training.parts.loss.options import LossOptions
from ropewalk.training.parts.memory.activations import prepare
from ropewalk.training.parts.memory.options import MemoryOptions

# Values that a layer keeps for backward, in multiples of hidden and intermediate size: an upper estimate.
_KEPT_HIDDEN, _KEPT_INNER = 16, 4
_LOGIT_BYTES = 256 << 20
_TOKENS_AT_ONCE = {"cpu": 8192, "cuda": 65536}
TAIL_SPAN = 256

Read = TypeVar("Read")
Reading = FrequencySchedule | AnyMap | Tempered


class NonFiniteLossError(RopewalkError):
    """A loss or gradient that is not a number."""


@dataclass(frozen=True)
class Slope:
    """J of some rows, and its derivatives by the family's numbers."""

    value: float
    low: FloatArray
    top: FloatArray
    cool: float
    heat: float
    extra: FloatArray = field(default_factory=lambda: np.zeros(0))

    @property
    def flat(self) -> FloatArray:
        """All derivatives as one vector."""
        return np.concatenate([self.low, self.top, self.extra, [self.cool, self.heat]])

    def __add__(self, other: Slope) -> Slope:
        """Of the rows of both."""
        return Slope(
            self.value + other.value,
            self.low + other.low,
            self.top + other.top,
            self.cool + other.cool,
            self.heat + other.heat,
            self.extra + other.extra,
        )


class Reader:
    """One frozen model. `tokens` counts what was read, a backward pass as what it costs beside a forward one.

    Several processes share out the rows, and each has what all of them read: their searches go the same way.
    """

    def __init__(
        self,
        model: Any,
        *,
        checkpointing: bool | None = None,
        processes: Processes | None = None,
        temperatures: str = "one",
    ) -> None:
        self.model = model
        self.layout = None if temperatures == "one" else HeadLayout.of(model, temperatures)
        self.processes = processes or Processes()
        self.rotation = Rotation(model)
        self.device = model.get_input_embeddings().weight.device
        model.eval()
        probe = torch.arange(8, device=self.device)[None] % model.get_input_embeddings().weight.shape[0]
        if not self.rotation.felt(probe):
            raise RopewalkError(
                f"{type(model).__name__} does not rotate by the frequencies of its rotary module",
                hint="compare closed forms by their configuration instead: ropewalk extend, then ropewalk compare",
            )
        self.tokens = 0.0
        self.tail = max(1, min(TAIL_SPAN, self.original_length // 2))
        self._checkpointing = checkpointing
        self._recomputed = False
        self._frozen = [tensor for tensor in model.parameters() if tensor.requires_grad]
        for tensor in self._frozen:
            tensor.requires_grad_(False)
        self._decoder = decoder_of(model)
        with torch.no_grad():
            if not split_works(model, self._decoder, probe):
                self._decoder = None
        self.installed = install_head(model, LossOptions(kernel="auto"))

    @property
    def original_length(self) -> int:
        """The model's own window."""
        return self.rotation.geometry.original_length

    def close(self) -> None:
        """Give the model its own forward and its gradients back."""
        remove_head(self.model)
        for tensor in self._frozen:
            tensor.requires_grad_(True)
        if self._recomputed:
            off = getattr(self.model, "activation_checkpointing_disable", None)
            (off or self.model.gradient_checkpointing_disable)()
            self.model.eval()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def terms(self, schedule: Reading | None, rows: Sequence[Weighed], kept_first: int = 0) -> Terms:
        """What a schedule or zones (None: the model as it is) come to on rows."""
        answers = [item.row.answer for item in rows]
        losses, found = self.read(schedule, [item.row.ids for item in rows], kept_first, answers)
        return terms_of(rows, losses, found, self.original_length, self.tail)

    @torch.no_grad()
    def read(
        self,
        schedule: Reading | None,
        rows: Sequence[Any],
        kept_first: int = 0,
        answers: Sequence[tuple[int, ...]] | None = None,
    ) -> tuple[list[FloatArray], list[bool]]:
        """For each row the loss of every token (entry 0 is 0), and whether greedy decoding would write its answer."""
        mine = [number for number in range(len(rows)) if self.processes.mine(number)]

        def work() -> dict[int, tuple[FloatArray, bool]]:
            return self._read(schedule, rows, kept_first, answers, mine)

        every = self._shared(work)
        return [every[number][0] for number in range(len(rows))], [
            every[number][1] for number in range(len(rows))
        ]

    def _read(
        self,
        schedule: Reading | None,
        rows: Sequence[Any],
        kept_first: int,
        answers: Sequence[tuple[int, ...]] | None,
        mine: Sequence[int],
    ) -> dict[int, tuple[FloatArray, bool]]:
        """This process's rows by their numbers, those of one length together."""
        found: dict[int, tuple[FloatArray, bool]] = {}
        by_length: dict[int, list[int]] = {}
        for number in mine:
            by_length.setdefault(len(rows[number]), []).append(number)
        with self._turned(schedule, kept_first):
            for length, numbers in by_length.items():
                step = max(1, _TOKENS_AT_ONCE["cpu" if self.device.type == "cpu" else "cuda"] // length)
                for start in range(0, len(numbers), step):
                    part = numbers[start : start + step]
                    losses, greedy = self._forward(np.stack([rows[number] for number in part]))
                    for place, number in enumerate(part):
                        marked = list(answers[number]) if answers else []
                        found[number] = losses[place], bool(marked) and bool(greedy[place][marked].all())
        return found

    def _shared(self, work: Callable[[], dict[int, Read]]) -> dict[int, Read]:
        """The union of every process's part, and of what they counted; what fails in one fails in all."""
        if self.processes.world == 1:
            return work()
        before, part, failure = self.tokens, dict[int, Read](), None
        try:
            part = work()
        except RopewalkError as error:
            failure = error
        told = (
            None
            if failure is None
            else (isinstance(failure, NonFiniteLossError), failure.message, failure.hint)
        )
        # Failures as plain values: an exception of another process need not unpickle here.
        every = self.processes.gather((part, self.tokens - before, told))
        self.tokens = before + sum(tokens for _, tokens, _ in every)
        for _, _, found in every:
            if found is not None:
                raise (NonFiniteLossError if found[0] else RopewalkError)(found[1], hint=found[2])
        return {number: value for values, _, _ in every for number, value in values.items()}

    def _forward(self, ids: Any) -> tuple[FloatArray, Any]:
        """Losses (B, T) and whether each token is the likeliest, the first column empty."""
        ids_BT = torch.as_tensor(ids, device=self.device)
        rows, length = ids_BT.shape
        self.tokens += rows * length
        words = self.model.get_input_embeddings().weight.shape[0]
        step = max(1, _LOGIT_BYTES // (4 * words * rows))
        losses = torch.zeros(rows, length, dtype=torch.float32, device=self.device)
        greedy = torch.zeros(rows, length, dtype=torch.bool, device=self.device)
        try:
            if self._decoder is None:
                hidden_BTC, logits_BTV = None, self.model(input_ids=ids_BT, use_cache=False).logits
            else:
                hidden_BTC = self._decoder(input_ids=ids_BT, use_cache=False).last_hidden_state
            for first in range(0, length - 1, step):
                last = min(first + step, length - 1)
                if hidden_BTC is None:
                    piece = logits_BTV[:, first:last]
                else:
                    piece = logits_from(
                        self.model, self._decoder, ids_BT[:, first:last], hidden_BTC[:, first:last]
                    )
                targets = ids_BT[:, first + 1 : last + 1]
                losses[:, first + 1 : last + 1] = token_loss(piece, targets)
                greedy[:, first + 1 : last + 1] = piece.argmax(-1) == targets
        except torch.OutOfMemoryError as error:
            raise NoRoomError(
                f"{rows} rows of {length} tokens do not fit the device ({one_line(error, 120)})",
                hint="use --dtype bfloat16 or a shorter --target",
            ) from error
        if not bool(torch.isfinite(losses).all()):
            raise NonFiniteLossError(
                "the model's loss is not a finite number", hint="try --dtype float32 and --attn eager"
            )
        return losses.double().cpu().numpy(), greedy.cpu().numpy()

    @contextlib.contextmanager
    def _turned(self, schedule: Reading | None, kept_first: int) -> Iterator[None]:
        if schedule is None:
            yield
            return
        if isinstance(schedule, AnyMap):
            with applied(self.model, schedule):
                yield
            return
        if isinstance(schedule, Tempered):
            assert self.layout is not None
            heads = torch.from_numpy(schedule.heads)
            with self.layout.applied(self.model, heads), self._turned(schedule.schedule, kept_first):
                yield
            return
        inv_freq = torch.tensor(schedule.inv_freq, dtype=torch.float64)
        with self.rotation.turning(inv_freq, schedule.attention_factor, kept_first):
            yield

    def slopes(self, family: Family, factor: float, groups: Sequence[Sequence[Weighed]]) -> list[Slope]:
        """For each group of rows the sum of their parts of J at a factor, and its gradient in the family's numbers.

        All processes share out the rows.
        """
        rows = [(place, item) for place, group in enumerate(groups) for item in group]
        every = self._shared(
            lambda: {
                number: self._slope(family, factor, item)
                for number, (_, item) in enumerate(rows)
                if self.processes.mine(number)
            }
        )
        sums: dict[int, Slope] = {}
        for number, (place, _) in enumerate(rows):
            sums[place] = sums[place] + every[number] if place in sums else every[number]
        return [sums[place] for place in range(len(groups))]

    def _slope(self, family: Family, factor: float, item: Weighed) -> Slope:
        if isinstance(family, MapFamily):
            slope = self._map_slope(family, item)
        else:
            slope = self._schedule_slope(family, factor, item)
        if not math.isfinite(slope.value) or not np.isfinite(slope.flat).all():
            raise NonFiniteLossError(
                "the loss or its gradient is not a finite number", hint="try --dtype float32 and --attn eager"
            )
        return slope

    def _map_slope(self, family: MapFamily, item: Weighed) -> Slope:
        leaves = family.leaves()
        plan = family.plan()
        total = self._backward(item, lambda: applied(self.model, plan, leaves.fitted))
        top, cool, heat, extra = leaves.gradients()
        return Slope(total, np.zeros_like(top), top, cool, heat, extra)

    def _schedule_slope(self, family: Family, factor: float, item: Weighed) -> Slope:
        numbers = {
            name: torch.tensor(getattr(family, name), dtype=torch.float64, requires_grad=True)
            for name in ("low", "top", "cool", "heat")
        }
        share, log = family.share(factor), math.log(factor)
        profile = (1 - share) * numbers["low"] + share * numbers["top"]
        heat = 1.0 + log * ((1 - share) * numbers["cool"] + share * numbers["heat"])
        inv_freq = turned_frequencies(family.geometry, factor, profile)
        # The model's graph ends at these; the small one from the family's numbers is gone through once, after it.
        leaves = inv_freq.detach().requires_grad_(True), heat.detach().requires_grad_(True)
        heads = torch.tensor(family.extra, dtype=torch.float64, requires_grad=True)

        @contextlib.contextmanager
        def under() -> Iterator[None]:
            with contextlib.ExitStack() as stack:
                if isinstance(family, TemperedFamily):
                    assert self.layout is not None
                    stack.enter_context(self.layout.applied(self.model, heads))
                factor = leaves[1].to(device=self.device, dtype=torch.float32)
                stack.enter_context(self.rotation.turning(leaves[0], factor))
                yield

        total = self._backward(item, under)
        if leaves[0].grad is None or leaves[1].grad is None:
            raise RopewalkError(
                f"no gradient reaches the frequencies of {type(self.model).__name__}",
                hint="use --search sweep, or --search cma",
            )
        torch.autograd.backward([inv_freq, heat], [leaves[0].grad, leaves[1].grad])
        grads = {name: gradient_of(tensor) for name, tensor in numbers.items()}
        cool, heated = float(grads["cool"]), float(grads["heat"])
        return Slope(total, grads["low"], grads["top"], cool, heated, gradient_of(heads))

    def _backward(self, item: Weighed, under: Callable[[], AbstractContextManager[None]]) -> float:
        """One row's part of J; its gradient is added to whatever leaves the model is read under."""
        ids_BT = torch.as_tensor(item.row.ids, device=self.device)[None]
        weights = torch.as_tensor(item.weights, dtype=torch.float32, device=self.device)[None]
        self._choose_memory(item.row.length)
        labels = shift_labels(ids_BT)
        shifted = torch.cat([weights[:, 1:], weights.new_zeros(1, 1)], dim=1)
        try:
            with torch.enable_grad(), under():
                loss = self.model(input_ids=ids_BT, target_ids=labels, token_weights=shifted).loss
                loss.backward()
        except torch.OutOfMemoryError as error:
            raise NoRoomError(
                f"a gradient over {item.row.length} tokens does not fit the device ({one_line(error, 120)})",
                hint="use --dtype bfloat16, a shorter --target, or --search sweep, which needs no gradient",
            ) from error
        # Weights are frozen: backward goes through activations alone, about a forward's work; recomputing is one more.
        self.tokens += item.row.length * (3 if self._recomputed else 2)
        return float(loss.detach())

    def _choose_memory(self, length: int) -> None:
        """Switch activation checkpointing on where a row's activations would take a quarter of the free memory."""
        if self._recomputed or self._checkpointing is False:
            return
        facts = self.rotation.facts
        hidden = facts.hidden_size
        width = _KEPT_HIDDEN * hidden + _KEPT_INNER * (facts.intermediate_size or 4 * hidden)
        size = length * facts.num_layers * width * self.model.dtype.itemsize
        if self._checkpointing or 4 * size > free_bytes(self.device):
            self._recompute()

    def _recompute(self) -> None:
        from transformers.modeling_layers import GradientCheckpointingLayer

        prepare(self.model, MemoryOptions(checkpointing=True))
        for module in self.model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                # Its own flag alone: dropout inside belongs to its children, which stay in evaluation mode.
                module.training = True
        self._recomputed = True
