"""Retrieval tasks against a served model, to prove that the deployed server really has the longer window."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.retrieval.run import ALONE, GRIDS, Asking, Course
from ropewalk.evaluation.retrieval.scores import SampleScore, generated, rows_of
from ropewalk.evaluation.served.endpoint import Endpoint, EndpointError, TooLongError
from ropewalk.evaluation.served.plan import Asked, Gauge
from ropewalk.evaluation.served.probe import Probe, findings_of, probe_lengths
from ropewalk.evaluation.served.server import Reply, Server
from ropewalk.evaluation.served.workers import in_parallel

API_KEY_VARIABLE = "ROPEWALK_API_KEY"


@dataclass(frozen=True)
class ServedResult:
    """Rows as of a loaded model, and what was found about the server itself."""

    model: str
    api: str
    rows: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    probes: list[Probe]
    scores: list[SampleScore] = field(default_factory=list)

    @property
    def truncates(self) -> bool:
        """Whether the server was caught cutting prompts in silence."""
        return any(finding["id"] in ("truncates", "head-unread") for finding in self.findings)


def connect(
    url: str,
    model: str | None = None,
    *,
    api: str = "auto",
    api_key: str | None = None,
    timeout_s: float = 300.0,
    tries: int = 4,
    backoff_s: float = 1.0,
) -> Server:
    """A server ready to be asked. The key comes from ROPEWALK_API_KEY unless given."""
    key = api_key or os.environ.get(API_KEY_VARIABLE) or None
    endpoint = Endpoint(url, api_key=key, timeout_s=timeout_s, tries=tries, backoff_s=backoff_s)
    return Server(endpoint, model, api=api)


def run_served(
    server: Server,
    asking: Asking,
    *,
    tokenizer: Any | None = None,
    max_tokens: int | None = None,
    workers: int = 4,
    course: Course = ALONE,
) -> ServedResult:
    """Greedy answers to every sample, scored by whether they say the value.

    Lengths that the server refuses are left out and named among the findings. The course hears of each answer as it
    comes, so that a server that dies loses nothing that it answered.
    """
    samples, lengths = asking.samples, asking.lengths
    if asking.grid not in GRIDS or samples < 1 or workers < 1 or not lengths:
        raise UsageError(
            f"grid={asking.grid!r}, samples={samples}, workers={workers}, lengths={list(lengths)} ask nothing",
            hint=f"grid is one of {', '.join(GRIDS)}; the others start at 1",
        )
    names, places = asking.kinds, asking.places
    gauge = Gauge(server, tokenizer, min(lengths), max_tokens=max_tokens)
    probes = probe_lengths(server, gauge, sorted(set(lengths)), asking.seed)
    findings = findings_of(probes)
    taken = [probe.length for probe in probes if probe.refused is None]
    asked = [
        one
        for name in names
        if taken
        for group in gauge.groups(
            name,
            lengths=taken,
            depths=places,
            samples=samples,
            seed=asking.seed,
            options=asking.material,
        )
        for one in group
    ]
    found, cut = _scores(server, asked, course, workers)
    findings += _answer_findings(cut, len(asked))
    if not gauge.counts:
        findings.append(
            _finding("no-usage", "info", "the server does not count tokens: lengths are the tokenizer's")
        )
    return ServedResult(server.model, server.api, rows_of(found), findings, probes, found)


def _scores(
    server: Server,
    asked: Sequence[Asked],
    course: Course,
    workers: int,
) -> tuple[list[SampleScore], int]:
    """Scores in the order of the plan, and how many answers were cut before they began."""
    kept = course.kept("generation")
    todo = [one for one in asked if one.sample.key not in kept]
    total, done, cut = round(sum(one.expected_tokens for one in todo)), 0.0, 0
    for one, reply in in_parallel(lambda one: (one, _asked(server, one)), todo, workers):
        score = generated(one.sample, reply.text, prompt_tokens=reply.prompt_tokens)
        kept[score.key] = score
        # A model that thinks before it speaks used up its room thinking: no wrong answer, but none.
        cut += not reply.text.strip() and reply.finish == "length"
        done += one.expected_tokens
        course.tell_score(score)
        course.tell_tokens(round(done), total)
    return [kept[one.sample.key] for one in asked], cut


def _asked(server: Server, one: Asked) -> Reply:
    try:
        return server.ask(one.text(server.chat), one.max_tokens)
    except EndpointError as error:
        sample = one.sample
        where = f"task {sample.task}, length {sample.length}"
        where += "" if sample.depth is None else f", depth {sample.depth:g}"
        hint = error.hint
        if isinstance(error, TooLongError):
            hint = "its window is barely longer: ask for a little less than the window, or give --tokenizer"
        raise type(error)(f"{where}: {error.message}", hint=hint) from error


def _answer_findings(cut: int, asked: int) -> list[dict[str, Any]]:
    if not cut:
        return []
    return [
        _finding(
            "answers-cut",
            "warning",
            f"{cut} of {asked} answers were cut before they said anything: a model that thinks first needs more room",
            "--max-answer-tokens 2048, or switch the model's thinking off",
        )
    ]


def _finding(name: str, severity: str, message: str, fix: str = "nothing to do") -> dict[str, Any]:
    return {"id": name, "severity": severity, "length": None, "message": message, "fix": fix}
