"""Walks a tree of prompts with one cache and scores the samples at its ends. This is where the model is asked."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.forward.engine import Context, Engine, Scored, token_loss
from ropewalk.evaluation.retrieval import scores
from ropewalk.evaluation.retrieval.grid import Node, tree_of
from ropewalk.evaluation.retrieval.scores import SampleScore, Told
from ropewalk.evaluation.tasks.haystack import IdArray
from ropewalk.evaluation.tasks.sample import Sample

# A generated answer may wander a little before it says the value.
SPARE_TOKENS = 16

Kept = Mapping[Any, SampleScore]


@dataclass(frozen=True)
class Walk:
    """Samples that are read with one cache, and the tree of their prompts."""

    samples: list[Sample]
    prompts: list[IdArray]
    tree: Node
    capacity: int
    rope_length: int


class Reader:
    """Scores samples with one engine."""

    def __init__(self, engine: Engine, tokenizer: Any, scoring: str) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.scoring = scoring
        if scoring == "generation" and not engine.chunkable:
            raise UsageError(
                "this model does not continue a text exactly from its cache, so it cannot generate here",
                hint="use --scoring teacher-forced",
            )

    def walks(self, group: list[Sample]) -> list[Walk]:
        """The group's trees: one, unless the model's rotation depends on the length of the text."""
        lengths = sorted({sample.length for sample in group})
        regime = self.engine.regime
        parts = [lengths] if regime is None else regime.groups(lengths)
        return [self._walk([sample for sample in group if sample.length in part]) for part in map(set, parts)]

    def _walk(self, samples: list[Sample]) -> Walk:
        prompts = [sample.prompt_ids for sample in samples]
        answers = max(len(ids) for sample in samples for ids in _continuations(sample))
        longest = max(sample.length for sample in samples)
        capacity = max(len(prompt) for prompt in prompts) + answers + SPARE_TOKENS
        return Walk(samples, prompts, tree_of(prompts), capacity=capacity, rope_length=longest)

    def scores(self, walk: Walk, kept: Kept) -> Iterator[tuple[SampleScore, int]]:
        """Each score with the number of tokens read by then. Branches whose samples are all kept are not read."""
        yield from self._along(walk, kept) if self.engine.chunkable else self._one_by_one(walk, kept)

    def _along(self, walk: Walk, kept: Kept) -> Iterator[tuple[SampleScore, int]]:
        start = self.engine.context(capacity=walk.capacity, rope_length=walk.rope_length)
        # Depth first, so that one cache is enough: it is taken back to where the next branch begins.
        waiting, read = [(walk.tree, start, True)], 0
        while waiting:
            node, above, last = waiting.pop()
            read += node.stop - node.start
            wanted = any(sample.key not in kept for sample in _below(node, walk.samples))
            if wanted:
                context = above if start.rewinds or last else above.fork()
                with named(walk.samples[node.source]):
                    context.crop(node.start).extend(
                        _tensor(walk.prompts[node.source][node.start : node.stop])
                    )
            for sample in (walk.samples[index] for index in node.ends):
                yield (kept[sample.key] if sample.key in kept else self._ask(context, sample)), read
            inner = context if wanted else above
            # The first one put here is the last one taken: it may use up the context that its siblings had to copy.
            waiting += [(child, inner, rank == 0) for rank, child in enumerate(reversed(node.children))]

    def alone(self, sample: Sample, prompt: IdArray) -> SampleScore:
        """One sample behind a prompt that shares nothing: the end of its own, where the context is cropped."""
        with named(sample):
            if self.engine.chunkable:
                answers = max(len(ids) for ids in _continuations(sample))
                # The rotation of the text that is there: the spare room behind it may lie past the window.
                context = self.engine.context(
                    _tensor(prompt),
                    capacity=len(prompt) + answers + SPARE_TOKENS,
                    rope_length=len(prompt) + len(sample.answer_ids),
                )
                return self._ask(context, sample)
            told = [self._whole(prompt, ids) for ids in self._asked(sample)]
            return self._scored(sample, told)

    def _ask(self, context: Context, sample: Sample) -> SampleScore:
        with named(sample):
            if self.scoring == "generation":
                room = len(sample.answer_ids) + SPARE_TOKENS
                written = context.generate(room, stop=self._stops())
                return scores.generated(sample, str(self.tokenizer.decode(written, skip_special_tokens=True)))
            return self._scored(sample, [context.score(ids) for ids in self._asked(sample)])

    def _asked(self, sample: Sample) -> list[tuple[int, ...]]:
        return _continuations(sample) if self.scoring == "forced-choice" else [sample.answer_ids]

    def _scored(self, sample: Sample, told: Sequence[Told]) -> SampleScore:
        if self.scoring == "teacher-forced":
            return scores.teacher_forced(sample, told[0])
        return scores.forced_choice(sample, [sum(said.logprobs) for said in told])

    def _one_by_one(self, walk: Walk, kept: Kept) -> Iterator[tuple[SampleScore, int]]:
        """For models whose cache does not continue a text exactly: one whole forward for every answer."""
        reads = itertools.accumulate(len(prompt) for prompt in walk.prompts)
        for sample, prompt, read in zip(walk.samples, walk.prompts, reads, strict=True):
            if sample.key in kept:
                # Progress is told in the tree's tokens; prompts that are read whole come to more.
                yield kept[sample.key], min(read, walk.tree.tokens())
                continue
            with named(sample):
                told = [self._whole(prompt, ids) for ids in self._asked(sample)]
            yield self._scored(sample, told), min(read, walk.tree.tokens())

    @torch.inference_mode()
    def _whole(self, prompt: IdArray, answer: Sequence[int]) -> Scored:
        ids_BT = self.engine.tensor(torch.tensor([[*prompt.tolist(), *answer]]))
        with self.engine.guard():
            logits_BTV = self.engine.model(input_ids=ids_BT[:, :-1], use_cache=False).logits[
                :, -len(answer) :
            ]
        losses_BT = token_loss(logits_BTV, ids_BT[:, -len(answer) :])
        if not bool(torch.isfinite(losses_BT).all()):
            raise RopewalkError(
                f"the model's output near position {len(prompt)} is not a finite number",
                hint="try --dtype float32",
            )
        logprobs, greedy = losses_BT[0].neg().tolist(), logits_BTV[0].argmax(-1).tolist()
        return Scored(tuple(answer), tuple(logprobs), tuple(greedy))

    def _stops(self) -> list[int]:
        # Both, since chat models end a turn with a token that their tokenizer does not call the end.
        settings = getattr(self.engine.model, "generation_config", None)
        found = [getattr(settings, "eos_token_id", None), getattr(self.tokenizer, "eos_token_id", None)]
        flat = [token for entry in found for token in (entry if isinstance(entry, list) else [entry])]
        return [int(token) for token in flat if token is not None]


def _tensor(ids: IdArray) -> torch.Tensor:
    return torch.from_numpy(ids.astype("int64"))


def _continuations(sample: Sample) -> list[tuple[int, ...]]:
    """The right answer first, then the wrong ones."""
    return [sample.answer_ids, *(choice.ids for choice in sample.choices)]


@contextlib.contextmanager
def named(sample: Sample) -> Iterator[None]:
    """Failures inside the block name the cell they happened in."""
    try:
        yield
    except RopewalkError as error:
        depth = "" if sample.depth is None else f", depth {sample.depth:g}"
        where = f"task {sample.task}, length {sample.length}{depth}"
        raise type(error)(f"{where}: {error.message}", hint=error.hint) from error


def _below(node: Node, samples: Sequence[Sample]) -> Iterator[Sample]:
    waiting = [node]
    while waiting:
        inner = waiting.pop()
        yield from (samples[index] for index in inner.ends)
        waiting += inner.children
