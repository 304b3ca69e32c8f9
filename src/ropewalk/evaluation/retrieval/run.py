"""Retrieval tasks on a loaded model: samples that share their text are read once, answers take one forward each.

Every cell of a grid is scored with the same questions, so lengths and depths are compared pairwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from ropewalk.errors import UsageError
from ropewalk.evaluation.retrieval import scores
from ropewalk.evaluation.retrieval.scores import SampleScore, rows_of
from ropewalk.evaluation.tasks.base import Question, Setting
from ropewalk.evaluation.tasks.haystack import IdArray
from ropewalk.evaluation.tasks.registry import PACKED, even_depths, find_kinds, make_groups
from ropewalk.evaluation.tasks.sample import Sample
from ropewalk.text.encoder import Frame, TokenizerEncoder, chat_frame, completion_frame
from ropewalk.text.sentences import sentences_of

STYLES = ("auto", "completion", "chat")
GRIDS = ("shared", "packed")
DEFAULT_DEPTHS = 5
DEFAULT_SAMPLES = 4

OnScore = Callable[[SampleScore], None]
OnTokens = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Asking:
    """What is asked, whoever answers: which tasks, at which lengths and depths, how often, between which text.

    `depths` is a number of even depths, or the depths themselves.
    """

    tasks: Sequence[str]
    lengths: Sequence[int]
    depths: int | Sequence[float] = DEFAULT_DEPTHS
    samples: int = DEFAULT_SAMPLES
    seed: int = 0
    grid: str = "shared"
    haystack: Sequence[str] | None = None
    questions: Sequence[Question] = ()

    @property
    def places(self) -> tuple[float, ...]:
        """The depths one by one."""
        if isinstance(self.depths, int):
            return even_depths(self.depths)
        return tuple(float(depth) for depth in self.depths)

    @property
    def kinds(self) -> list[str]:
        """The tasks' names with groups spelled out; packed, needles or documents of all depths stand in one text."""
        instead = PACKED if self.grid == "packed" else {}
        return [instead.get(name, name) for name in find_kinds(self.tasks)]

    @property
    def material(self) -> dict[str, Any]:
        """The user's text and questions, as every task's setting takes them."""
        haystack = None if self.haystack is None else sentences_of(self.haystack)
        return {"haystack": haystack, "questions": tuple(self.questions)}


@dataclasses.dataclass(frozen=True)
class Course:
    """How a run goes on: the scores that it has from before, and who hears of each new one and of tokens read."""

    finished: Collection[SampleScore] = ()
    on_score: OnScore | None = None
    on_tokens: OnTokens | None = None

    def kept(self, scoring: str) -> dict[Any, SampleScore]:
        """Finished scores of this scoring, by sample."""
        return {score.key: score for score in self.finished if score.scoring == scoring}

    def tell_score(self, score: SampleScore) -> None:
        """As a sample ends, so that an interrupted run loses nothing."""
        if self.on_score is not None:
            self.on_score(score)

    def tell_tokens(self, done: int, total: int) -> None:
        """As tokens are read."""
        if self.on_tokens is not None:
            self.on_tokens(done, total)


ALONE = Course()


@dataclasses.dataclass(frozen=True)
class Plan:
    """All samples of a run, grouped so that each group shares filler and needle; nothing of a model in it."""

    groups: list[list[Sample]]
    scoring: str
    style: str

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(len(group) for group in self.groups)

    @property
    def tasks(self) -> list[str]:
        """The tasks by name, in their order."""
        return list(dict.fromkeys(sample.task for group in self.groups for sample in group))

    def only(self, tasks: Sequence[str], *, scoring: str | None = None, length: int | None = None) -> Plan:
        """The samples of some tasks, or of one length alone, under another scoring; those it cannot score are out."""
        wanted = scoring or self.scoring
        groups = [
            [
                sample
                for sample in group
                if sample.task in tasks
                and length in (None, sample.length)
                and (wanted != "forced-choice" or sample.choices)
            ]
            for group in self.groups
        ]
        return dataclasses.replace(self, groups=[group for group in groups if group], scoring=wanted)


def plan_tasks(
    tokenizer: Any,
    asking: Asking,
    *,
    scoring: str = "teacher-forced",
    style: str = "auto",
    num_choices: int = 8,
    template: str | None = None,
    encoder: Any | None = None,
) -> Plan:
    """Every sample of a run, made before anything is computed: a task that does not fit a length is refused here."""
    scores.check_scoring(scoring)
    if asking.grid not in GRIDS or style not in STYLES:
        wrong, allowed = (asking.grid, GRIDS) if asking.grid not in GRIDS else (style, STYLES)
        raise UsageError(f"{wrong!r} is not one of {', '.join(allowed)}", hint="choose one of them")
    if asking.samples < 1 or num_choices < 2:
        raise UsageError(
            f"samples={asking.samples}, num_choices={num_choices} ask nothing", hint="use 1 and 2 or more"
        )
    if not asking.lengths or min(asking.lengths) < 1:
        raise UsageError("no length to test", hint="give at least one, --lengths 4k..32k")
    places = asking.places
    if not places or not all(0 <= place <= 1 for place in places) or len(set(places)) < len(places):
        raise UsageError(f"depths {list(places)} are not distinct and between 0 and 1", hint="0 is the start")
    used = encoder or TokenizerEncoder(tokenizer)
    frame, chosen = choose_frame(used, style)
    setting = Setting(encoder=used, frame=frame, seed=asking.seed, num_choices=num_choices, **asking.material)
    groups: list[list[Sample]] = []
    for name in asking.kinds:
        groups += make_groups(
            name,
            setting,
            lengths=sorted(set(asking.lengths)),
            depths=places,
            samples=asking.samples,
            template=template,
        )
    if scoring == "forced-choice":
        for group in groups:
            scores.require_choices(group[0])
    return Plan(groups=groups, scoring=scoring, style=chosen)


def choose_frame(encoder: Any, style: str) -> tuple[Frame, str]:
    """`auto` takes the chat template where the tokenizer has one."""
    has_template = bool(getattr(getattr(encoder, "tokenizer", None), "chat_template", None))
    if style == "chat" or (style == "auto" and has_template):
        return chat_frame(encoder), "chat"
    return completion_frame(encoder), "completion"


def run_tasks(
    model: Any,
    tokenizer: Any,
    *,
    finished: Collection[SampleScore] = (),
    on_score: OnScore | None = None,
    on_tokens: OnTokens | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Rows `{task, length, depth, accuracy, chance, logprob, samples, scoring, ci, template}`.

    `model` is a loaded model or an `Engine`; the other keywords are the fields of `Asking` and those of `plan_tasks`.
    `finished` scores are kept and not computed again; `on_score` is called as each sample ends, so that an interrupted
    run loses nothing.
    """
    fields = {field.name for field in dataclasses.fields(Asking)} & settings.keys()
    asking = Asking(**{name: settings.pop(name) for name in fields})
    plan = plan_tasks(tokenizer, asking, **settings)
    return rows_of(run_plan(model, tokenizer, plan, Course(finished, on_score, on_tokens)))


def run_plan(
    model: Any,
    tokenizer: Any,
    plan: Plan,
    course: Course = ALONE,
    share: tuple[int, int] = (0, 1),
) -> list[SampleScore]:
    """Scores of every sample of the plan, or of this process's share of its groups (`rank`, `world`).

    A group is always walked whole in the same order, so the numbers do not depend on how groups are shared out.
    """
    from ropewalk.evaluation.forward.engine import Engine
    from ropewalk.evaluation.retrieval.reader import Reader

    engine = model if isinstance(model, Engine) else Engine(model)
    reader = Reader(engine, tokenizer, plan.scoring)
    kept = course.kept(plan.scoring)
    walks = [walk for group in plan.groups[share[0] :: share[1]] for walk in reader.walks(group)]
    total = sum(walk.tree.tokens() for walk in walks)
    done, found = 0, list[SampleScore]()
    for walk in walks:
        for score, read in reader.scores(walk, kept):
            found.append(score)
            if score.key not in kept:
                course.tell_score(score)
            course.tell_tokens(done + read, total)
        done += walk.tree.tokens()
    return found


def run_cropped(
    model: Any,
    tokenizer: Any,
    plan: Plan,
    length: int,
    course: Course = ALONE,
    share: tuple[int, int] = (0, 1),
) -> list[SampleScore]:
    """The same samples, asked of the model that sees the last `length` tokens alone, the answer among them."""
    from ropewalk.evaluation.forward.engine import Engine
    from ropewalk.evaluation.retrieval.reader import Reader

    engine = model if isinstance(model, Engine) else Engine(model)
    reader = Reader(engine, tokenizer, plan.scoring)
    kept = course.kept(plan.scoring)
    samples = [sample for group in plan.groups[share[0] :: share[1]] for sample in group]
    total, done, found = sum(min(length, sample.length) for sample in samples), 0, list[SampleScore]()
    for sample in samples:
        score = kept.get(sample.key)
        if score is None:
            score = reader.alone(sample, cropped_prompt(sample, length))
            course.tell_score(score)
        found.append(score)
        done += min(length, sample.length)
        course.tell_tokens(done, total)
    return found


def cropped_prompt(sample: Sample, length: int) -> IdArray:
    """The end of a prompt that fits into `length` tokens with its answer, behind what every prompt begins with.

    That is the tokenizer's BOS or the chat template's first words: whoever crops still sends a whole message.
    """
    prompt = sample.prompt_ids
    opening = np.asarray(sample.layout.frame.before.ids, dtype=np.int64)
    if len(prompt) + len(sample.answer_ids) <= length:
        return prompt
    room = length - len(sample.answer_ids) - len(opening)
    if room < 1:
        raise UsageError(
            f"an answer of {len(sample.answer_ids)} tokens leaves no room in a window of {length}",
            hint="ask another task, or leave the controls out",
        )
    return np.concatenate([opening, prompt[-room:]])
