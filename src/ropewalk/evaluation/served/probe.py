"""Does the server read the whole prompt? Two prompts that differ only at their beginning must be answered differently.

A server that cuts prompts in silence usually still answers, so nothing but the answer's probabilities shows it: if they
are equal to the last digit for two different beginnings, the beginning was not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.evaluation.retrieval.scores import generated
from ropewalk.evaluation.served.endpoint import TooLongError
from ropewalk.evaluation.served.plan import Asked, Gauge
from ropewalk.evaluation.served.server import Reply, Server

# Servers batch requests, which moves probabilities in the last digits even for equal input.
_EQUAL = 1e-6
# A count this far below the expected one is no matter of estimates.
_SHORT_COUNT = 0.85
# A prompt longer by a quarter must be counted longer, however rough the estimates were.
_PLATEAU_GROWTH = 1.25


@dataclass(frozen=True)
class Probe:
    """What the two prompts of one length came to.

    `head_read` is True or False where the answers prove it, None where they do not. `answered` counts right answers
    about the beginning, of two.
    """

    length: int
    expected_tokens: int
    prompt_tokens: int | None
    head_read: bool | None
    answered: int
    refused: str | None = None

    def to_json(self) -> dict[str, Any]:
        """One row of `probes`."""
        return dict(vars(self))


def probe_lengths(server: Server, gauge: Gauge, lengths: Sequence[int], seed: int) -> list[Probe]:
    """One probe a length, from the shortest; the first length that the server refuses is the last one asked."""
    groups = gauge.groups(
        # At the very beginning, which silent truncation takes first.
        "passkey",
        lengths=lengths,
        depths=[0.0],
        samples=2,
        seed=seed,
        options={"num_choices": 2},
    )
    probes: list[Probe] = []
    for pair in zip(*groups, strict=True):
        probes.append(_probe(server, pair))
        if probes[-1].refused is not None:
            break
    return probes


def _probe(server: Server, pair: Sequence[Asked]) -> Probe:
    asked = pair[0]
    try:
        replies = [server.ask(one.text(server.chat), one.max_tokens, logprobs=True) for one in pair]
    except TooLongError as error:
        return Probe(asked.sample.length, round(asked.expected_tokens), None, None, 0, refused=error.message)
    right = sum(generated(one.sample, reply.text).credit for one, reply in zip(pair, replies, strict=True))
    return Probe(
        length=asked.sample.length,
        expected_tokens=round(asked.expected_tokens),
        prompt_tokens=replies[0].prompt_tokens,
        head_read=_differ(*replies),
        answered=int(right),
    )


def _differ(first: Reply, second: Reply) -> bool | None:
    if first.text != second.text:
        return True
    if first.logprobs is None or second.logprobs is None or len(first.logprobs) != len(second.logprobs):
        return None
    largest = max(abs(a - b) for a, b in zip(first.logprobs, second.logprobs, strict=True))
    # Probabilities of exactly one say nothing: a sure answer looks the same whatever stood before it.
    if largest <= _EQUAL and min(first.logprobs) < -_EQUAL:
        return False
    # Between the two bounds it may be the noise of batching, or a beginning that hardly matters.
    return True if largest > 1e-3 else None


def findings_of(probes: Sequence[Probe]) -> list[dict[str, Any]]:
    """What the probes show, worst first: `{id, severity, length, message, fix}`."""
    found = [*_counted_short(probes), *_heads(probes)]
    for probe in probes:
        if probe.refused is not None:
            found.append(
                _finding(
                    "window-refused",
                    "info",
                    probe.length,
                    f"the server refuses {probe.length} tokens ({probe.refused})",
                    "ask for shorter lengths, or start the server with a longer window",
                )
            )
    return found


def _counted_short(probes: Sequence[Probe]) -> list[dict[str, Any]]:
    seen: tuple[int, int] | None = None
    for probe in probes:
        counted = probe.prompt_tokens
        if counted is None:
            continue
        plateau = seen is not None and counted <= seen[1] and probe.length >= _PLATEAU_GROWTH * seen[0]
        if counted < _SHORT_COUNT * probe.expected_tokens or plateau:
            return [
                _finding(
                    "truncates",
                    "error",
                    probe.length,
                    f"the server truncates silently: it was sent about {probe.expected_tokens} tokens and read "
                    f"{counted}",
                    f"start the server with a window of {probe.length} tokens or more (its context size setting)",
                )
            ]
        seen = (probe.length, counted)
    return []


def _heads(probes: Sequence[Probe]) -> list[dict[str, Any]]:
    known = False
    for probe in probes:
        if probe.head_read is False:
            return [
                _finding(
                    "head-unread",
                    "error",
                    probe.length,
                    f"at {probe.length} tokens another beginning of the prompt changes nothing in the answer's "
                    "probabilities: the server truncates silently, or the model cannot attend so far",
                    "start the server with a longer window, and see that it refuses what it cannot read",
                )
            ]
        if probe.head_read is None and probe.refused is None and known and probe.answered == 0:
            return [
                _finding(
                    "head-unanswered",
                    "warning",
                    probe.length,
                    f"at {probe.length} tokens nothing from the beginning of the prompt reaches the answer, though it "
                    "does at shorter lengths: the server may truncate silently, or the model does not reach so far",
                    "compare with the server's log, or with a server that returns log probabilities",
                )
            ]
        known = known or probe.answered > 0
    return []


def _finding(name: str, severity: str, length: int | None, message: str, fix: str) -> dict[str, Any]:
    return {"id": name, "severity": severity, "length": length, "message": message, "fix": fix}
