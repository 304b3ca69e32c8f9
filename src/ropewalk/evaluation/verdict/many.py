"""Many rows measured on the same tokens and questions: figures, order, verdict. The body of `compare`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.evaluation.candidates.controls import CROPPED, UNMODIFIED
from ropewalk.evaluation.local import Local, Measured
from ropewalk.evaluation.loss import key_tokens
from ropewalk.evaluation.loss.key_tokens import KeyTokens
from ropewalk.evaluation.loss.reading import Reading, by_length, means, tail_start
from ropewalk.evaluation.request import CompareRequest
from ropewalk.evaluation.result import CompareResult, FineTuning, LeftOut, LossRow, Paired, Row, Verdict
from ropewalk.evaluation.retrieval.scores import SampleScore, rows_of, tasks_at_chance
from ropewalk.evaluation.statistics.intervals import Interval
from ropewalk.evaluation.verdict import sentences
from ropewalk.evaluation.verdict.effective import length_score
from ropewalk.evaluation.verdict.ranking import (
    Criterion,
    Figures,
    FloatArray,
    Order,
    Owners,
    against,
    criteria_of,
    group_of,
    mean_of,
    order,
)
from ropewalk.evaluation.verdict.worth import fine_tuning

if TYPE_CHECKING:
    from ropewalk.evaluation.candidates.rows import Queue

CURVE_POINTS = 64

Against = dict[str, dict[str, tuple[Interval, float]]]


class Many:
    """Everything that was measured, and what follows from it."""

    def __init__(
        self,
        local: Local,
        queue: Queue,
        measured: Mapping[str, Measured],
        contexts: Mapping[int, Any],
        reference: tuple[Reading, Reading] | None = None,
    ) -> None:
        """`reference` are the whole and the cropped reading of `--reference`."""
        self.reference = reference
        self.local, self.queue, self.measured, self.contexts = local, queue, measured, contexts
        assert isinstance(local.request, CompareRequest)
        self.request = local.request
        self.original, self.target = queue.facts.original_length, queue.target
        self.controls = [control.name for control in queue.controls]
        self.rows = [row.name for row in queue.rows if row.name in measured]
        self.segment_owners: list[int] = [] if local.segments is None else local.segments.owners
        self.unable = self._unable()
        # The cropped control that reads the tail best: the one to beat.
        names = [control.name for control in self.queue.controls if control.cropped]
        self.cropped = min(names, key=lambda name: mean_of(self._tail(self.measured[name].reading)) or 0.0)
        self.keys = self._keys()
        self.owners = self._owners()
        self.figures = {name: self._figures(found) for name, found in measured.items()}

    def _unable(self) -> list[LeftOut]:
        """Tasks that do not enter the verdict: the unmodified model cannot do them inside its own window."""
        scores = self.measured[UNMODIFIED].scores
        if not any(score.length == self.original for score in scores):
            return []
        why = "the unmodified model does not do it inside its own window"
        return [LeftOut(name=task, why=why) for task in tasks_at_chance(scores, self.original)]

    def _counted(self, scores: Sequence[SampleScore], length: int) -> list[SampleScore]:
        """The scores that count at a length, in one order for every row."""
        out = {item.name for item in self.unable}
        found = [score for score in scores if score.length == length and score.task not in out]
        # As text, since a depth is a number or None.
        return sorted(found, key=lambda score: repr(score.key))

    def _tail(self, reading: Reading | None) -> FloatArray | None:
        if reading is None:
            return None
        return means(reading.losses[self.target], tail_start(self.target), self.target)

    def _keys(self) -> KeyTokens | None:
        """The key tokens of the run: by `--reference`, or by the mean of the rows that read the tail best.

        One row alone would win on its own tokens: those on which it happened to do well were picked.
        """
        near = self.measured[self.cropped].reading
        if near is None or self.target <= self.original or not self.rows:
            return None
        if self.request.reference is not None:
            if self.reference is None:
                # Interrupted before it was read.
                return None
            (far, near), names = self.reference, (self.request.reference, "its cropped context")
        else:
            far, name = self._best_rows()
            names = (name, self.cropped)
        return key_tokens.choose(
            far,
            near,
            self.target,
            self.original,
            names=names,
            bounds=(self.request.key_gain, self.request.key_floor),
            owners=self.segment_owners,
        )

    def _best_rows(self) -> tuple[Reading, str]:
        criterion = Criterion("loss", "tail", -1, self.segment_owners)
        tails = {name: Figures(tail=self._tail(self.measured[name].reading)) for name in self.rows}
        best = group_of(criterion, tails)
        readings = [r for name in best if (r := self.measured[name].reading) is not None]
        rows = [
            np.mean([reading.losses[self.target][i] for reading in readings], axis=0)
            for i in range(len(readings[0].losses[self.target]))
        ]
        name = best[0] if len(best) == 1 else f"the mean of {', '.join(best)}"
        return Reading.prefix({self.target: rows}), name

    def _owners(self) -> Owners:
        keys: list[Hashable] = []
        if self.keys is not None:
            # One document alone: its segments are the units, never its tokens.
            named = self.segment_owners
            named = named if len(set(named)) > 1 else list(range(len(named)))
            for owner, mask in zip(named, self.keys.masks, strict=True):
                keys += [owner] * int(mask.sum())
        asked = self._counted(self.measured[UNMODIFIED].scores, self.target)
        return Owners(self.segment_owners, keys, [(score.task, score.index) for score in asked])

    def _figures(self, found: Measured) -> Figures:
        reading = found.reading
        # In the order of `_counted`, which is the same for every row: differences are taken pair by pair.
        credits = [score.credit for score in self._counted(found.scores, self.target)]
        keys = (
            None
            if reading is None or self.keys is None
            else np.concatenate(key_tokens.losses_of(reading, self.keys, self.target))
        )
        window = min(self.original, self.target)
        return Figures(
            tail=self._tail(reading),
            inside=None if reading is None else means(reading.losses[window], 1, window),
            keys=keys,
            credits=np.array(credits) if credits else None,
        )

    def result(self, run: str, seconds: float, *, complete: bool) -> CompareResult:
        """The document."""
        told = self.keys is not None and self.keys.told
        chosen = criteria_of(self.request.rank, self._of(self.rows), self.owners, keys_told=told)
        placed = order(chosen, self._of(self.rows))
        gaps = self._gaps()
        rows = {name: self._row(name, gaps) for name in [*self.controls, *self.rows]}
        methods = self._ranked([rows[name] for name in placed.names], placed)
        controls = {name: rows[name] for name in self.controls}
        crop = self.local.crop
        assert crop is not None
        plan = self.local.plan
        return CompareResult(
            model=self.request.model,
            original_length=self.original,
            target_length=self.target,
            factor=self.target / self.original,
            lengths=self.local.lengths,
            text=self.local.text_used(self._seconds()),
            tasks=self.request.retrieval_tasks,
            questions=0 if plan is None else plan.samples,
            chance=max((score.chance for score in self.measured[UNMODIFIED].scores), default=None),
            seed=self.request.seed,
            controls=controls,
            crop_length=crop.length,
            crop_stride=crop.stride,
            contexts=crop.contexts,
            cropped_is=self.cropped,
            methods=methods,
            not_measured=[*self.queue.left_out, *self.local.not_asked],
            key_tokens=None if self.keys is None else self.keys.to_json(),
            verdict=self._verdict(methods, controls, placed),
            remarks=self.local.remarks,
            complete=complete,
            seconds=seconds,
            request=self.request.model_copy(update={"hashes": self.local.hashes}),
            run=run,
        )

    def _of(self, names: Sequence[str]) -> dict[str, Figures]:
        return {name: self.figures[name] for name in names}

    def _seconds(self) -> float | None:
        """What one reader took for text and questions; None where it was kept from an earlier call."""
        plain = self.measured[UNMODIFIED]
        return None if plain.kept else round(plain.seconds, 3)

    def _gaps(self) -> dict[str, Against]:
        """Every row beside the controls. Against cropping all rows and measures are one family."""
        segments, questions = self.owners.segments, self.owners.questions
        tail, inside = Criterion("loss", "tail", -1, segments), Criterion("window", "inside", -1, segments)
        found = Criterion("retrieval", "credits", 1, questions)
        rows, cropped = self._of(self.rows), self.figures[self.cropped]
        plain = self.figures[UNMODIFIED]
        able = [c for c in (tail, found) if c.values(cropped) is not None]
        return {
            "cropped": against(cropped, rows, able),
            "unmodified": against(plain, rows, [c for c in (tail,) if c.values(plain) is not None]),
            "window": against(plain, rows, [c for c in (inside,) if c.values(plain) is not None]),
        }

    def _row(self, name: str, gaps: Mapping[str, Against]) -> Row:
        found, figures = self.measured[name], self.figures[name]
        reading, owners = found.reading, self.segment_owners
        score = self._length_score(found.scores)
        return Row(
            **found.candidate.to_json(),
            loss=[]
            if reading is None
            else [LossRow(**row.to_json()) for row in by_length(reading, self.local.lengths, owners)],
            loss_at_target=mean_of(figures.tail),
            loss_in_window=mean_of(figures.inside),
            key_token_loss=mean_of(figures.keys),
            retrieval=rows_of(found.scores),
            retrieval_by_task=self._by_task(found.scores),
            retrieval_at_target=mean_of(figures.credits),
            retrieval_in_window=_share(self._counted(found.scores, self.original)),
            length_score=None if score is None else score.mean,
            length_score_ci=None if score is None else score.pair,
            curve=[] if reading is None else self._curve(reading),
            loss_vs_unmodified=_paired(gaps["unmodified"], "loss", name),
            loss_vs_cropped=_paired(gaps["cropped"], "loss", name),
            window_cost=_paired(gaps["window"], "window", name),
            retrieval_vs_cropped=_paired(gaps["cropped"], "retrieval", name),
            seconds=round(found.seconds, 2),
        )

    def _length_score(self, scores: Sequence[SampleScore]) -> Interval | None:
        if self.target <= self.original:
            return None
        both = [*self._counted(scores, self.original), *self._counted(scores, self.target)]
        return length_score(both, self.target, self.original) if both else None

    def _by_task(self, scores: Sequence[SampleScore]) -> dict[str, dict[str, float | None]]:
        tasks = dict.fromkeys(score.task for score in scores)
        return {
            task: {
                "at_target": _share([s for s in scores if s.task == task and s.length == self.target]),
                "in_window": _share([s for s in scores if s.task == task and s.length == self.original]),
                "chance": max(s.chance for s in scores if s.task == task),
            }
            for task in tasks
        }

    def _curve(self, reading: Reading) -> list[float]:
        """Mean loss in equal parts of the target length."""
        rows = np.array([row[1 : self.target] for row in reading.losses[self.target]], dtype=np.float64)
        points = min(CURVE_POINTS, self.target - 1)
        return [round(float(part.mean()), 5) for part in np.array_split(np.nanmean(rows, axis=0), points)]

    def _ranked(self, rows: Sequence[Row], placed: Order) -> list[Row]:
        by = {
            "rank_text": _places(rows, "loss_at_target", 1),
            "rank_key": _places(rows, "key_token_loss", 1),
            "rank_retrieval": _places(rows, "retrieval_at_target", -1),
        }
        return [
            row.model_copy(
                update={"rank": number, "group": row.name in placed.group}
                | {key: places.get(row.name) for key, places in by.items()}
            )
            for number, row in enumerate(rows, start=1)
        ]

    def _verdict(self, rows: Sequence[Row], controls: Mapping[str, Row], placed: Order) -> Verdict:
        text = [r.name for r in rows if _better(r.loss_vs_cropped, -1)]
        answers = [r.name for r in rows if _better(r.retrieval_vs_cropped, 1)]
        draft = Verdict(
            rank_by=self.request.rank,
            criteria=placed.criteria,
            recommended=placed.recommended,
            group=placed.group,
            text=_first(rows, "rank_text"),
            key_tokens=_first(rows, "rank_key") if self.keys is not None and self.keys.told else None,
            retrieval=next((r.name for r in rows if r.rank_retrieval == 1 and r.retrieval_at_target), None),
            beats_cropping=bool(text),
            text_beats_cropping=text,
            retrieval_beats_cropping=answers,
            not_counted=self.unable,
            fine_tuning=self._fine_tuning(rows, controls),
            closing="",
            next="",
            points=[],
            summary="",
        )
        return sentences.worded(draft, rows, controls, self._about())

    def _about(self) -> sentences.About:
        return sentences.About(
            model=self.request.model,
            original_length=self.original,
            target_length=self.target,
            cropped=self.cropped,
            contexts="" if self.local.crop is None else self.local.crop.contexts,
            keys=self.keys,
            segment_units=len(set(self.segment_owners)),
            by_other=self.request.reference is not None,
        )

    def _fine_tuning(self, rows: Sequence[Row], controls: Mapping[str, Row]) -> FineTuning | None:
        reading = self.measured[CROPPED].reading
        if reading is None or not self.contexts or self.local.segments is None:
            return None
        start = tail_start(self.target)
        by_context = {c: means(found, start, self.target) for c, found in self.contexts.items()}
        by_context[self.original] = means(reading.losses[self.target], start, self.target)
        best = _first(rows, "rank_text")
        inside = controls[UNMODIFIED].retrieval_in_window
        most = max((row.retrieval_at_target or 0.0 for row in rows), default=0.0)
        return fine_tuning(
            by_context,
            self.segment_owners,
            self.target,
            len(self.local.segments.items) * (self.target - start),
            None if best is None else self.figures[best].tail,
            None if inside is None else max(0.0, inside - most),
        )


def _share(scores: Sequence[SampleScore]) -> float | None:
    return sum(score.credit for score in scores) / len(scores) if scores else None


def _paired(found: Against, criterion: str, name: str) -> Paired | None:
    pair = found.get(criterion, {}).get(name)
    if pair is None:
        return None
    interval, family = pair
    return Paired(
        difference=interval.mean, low=interval.low, high=interval.high, p=interval.p, p_family=family
    )


def _better(gap: Paired | None, sign: int) -> bool:
    return gap is not None and gap.surely and sign * gap.difference > 0


def _places(rows: Sequence[Row], key: str, sign: int) -> dict[str, int]:
    known = [row for row in rows if getattr(row, key) is not None]
    ordered = sorted(known, key=lambda row: sign * getattr(row, key))
    return {row.name: place for place, row in enumerate(ordered, start=1)}


def _first(rows: Sequence[Row], key: str) -> str | None:
    return next((row.name for row in rows if getattr(row, key) == 1), None)
