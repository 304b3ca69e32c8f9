"""What a server might compute: candidate schedules, the base's log probabilities under each, and their likelihood."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ropewalk.methods import schedule
from ropewalk.models.apply import apply
from ropewalk.models.facts import ModelFacts
from ropewalk.runtimes.fingerprint_asking import Said
from ropewalk.schedule import FrequencySchedule

FACTORS = (2.0, 4.0, 8.0, 16.0, 32.0)
BASES = (1e4, 1e5, 5e5, 1e6, 5e6, 1e7)
# Neighbouring tokens share their cause, so that many of them count as one observation.
_SHARED = 8
# Two float32 programs agree to about this: a smaller mean difference says nothing more.
_FLOOR = 2e-4
# A candidate this close is the server's schedule itself: no factor beside it needs to be tried.
CLOSE = 1e-3
# The ratio from which one schedule is named and not two.
SURE = math.log(1000.0)
Values = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Candidate:
    """A schedule that the server may run; None is the base as its own configuration has it."""

    name: str
    schedule: FrequencySchedule | None
    kind: str
    factor: float = 1.0


@dataclass(frozen=True)
class Match:
    """How well one candidate explains what the server said.

    `difference` is the mean |log p - log p'|; `log_ratio` how much less likely it is than the best, in natural logs.
    """

    candidate: Candidate
    difference: float
    largest: float
    log_ratio: float

    def to_json(self) -> dict[str, Any]:
        """One row of `candidates`."""
        row = {name: getattr(self, name) for name in ("difference", "largest", "log_ratio")}
        return {"name": self.candidate.name, "kind": self.candidate.kind} | row


def candidates(facts: ModelFacts, expected: FrequencySchedule | None, claimed: int | None) -> list[Candidate]:
    """None, linear, ntk, yarn, llama3 at usual factors and at the claimed and expected ones, other bases, the expected
    one. A schedule that is there already is not there twice."""
    geometry, original = facts.geometry, facts.original_length
    factors = set(FACTORS)
    if claimed is not None and claimed > original:
        factors.add(claimed / original)
    if expected is not None and expected.factor > 1:
        factors.add(expected.factor)
    found = [Candidate("the base's own", None, "base")]
    if expected is not None:
        found += _expected(expected)
    if facts.rope.is_scaled:
        found.append(Candidate("no scaling", schedule("none", geometry, factor=1), "none"))
    for method in ("linear", "ntk", "yarn", "llama3"):
        for factor in sorted(factors):
            found.append(of_method(facts, method, factor))
    found += [of_base(facts, base) for base in BASES]
    return _distinct(found, facts.rope.schedule)


def of_method(facts: ModelFacts, method: str, factor: float) -> Candidate:
    """A method at a factor."""
    return Candidate(
        f"{method} {factor:.4g}", schedule(method, facts.geometry, factor=factor), method, factor
    )


def of_base(facts: ModelFacts, base: float) -> Candidate:
    """Another rope_theta and nothing else. `factor` is the base here, which a search moves."""
    changed = replace(facts.geometry, rope_theta=base)
    plain, other = schedule("none", facts.geometry, factor=1), schedule("none", changed, factor=1)
    native = {"type": "theta", "rope_theta": base}
    return Candidate(
        f"rope_theta {base:.6g}", replace(plain, inv_freq=other.inv_freq, native=native), "base-changed", base
    )


def _expected(made: FrequencySchedule) -> list[Candidate]:
    name = f"as expected ({made.method} {made.factor:.4g})"
    if made.short_inv_freq is None:
        return [Candidate(name, made, "expected", made.factor)]
    # Programs choose one of the two sets for every prompt, by a setting.
    short = replace(made, inv_freq=made.short_inv_freq, short_inv_freq=None, native=None)
    long = replace(made, short_inv_freq=None, native=None)
    return [
        Candidate(f"{name}, the long set", long, "expected", made.factor),
        Candidate(f"{name}, the short set", short, "expected-short", made.factor),
    ]


def _distinct(found: Iterable[Candidate], own: FrequencySchedule | None) -> list[Candidate]:
    kept: list[Candidate] = []
    seen: list[FrequencySchedule] = []
    for candidate in found:
        made = own if candidate.schedule is None else candidate.schedule
        if made is not None:
            if any(_same(made, other) for other in seen):
                continue
            seen.append(made)
        kept.append(candidate)
    return kept


def _same(one: FrequencySchedule, other: FrequencySchedule) -> bool:
    # Pairs that stand still are 0 or divided by 1e30, and both are below this.
    alike = np.allclose(one.inv_freq, other.inv_freq, rtol=1e-6, atol=1e-25)
    return bool(alike) and math.isclose(one.attention_factor, other.attention_factor, rel_tol=1e-6)


class References:
    """The base model on this machine, under one candidate after the other."""

    def __init__(self, model: Any, said: Said) -> None:
        self.model = model
        self.said = said
        self.told = np.array([value for _, _, value in said.values])
        self._made: dict[str, Values] = {}

    def of(self, candidate: Candidate) -> Values:
        """The base's log probabilities of what the server was asked about, under that candidate."""
        if candidate.name not in self._made:
            if candidate.schedule is None:
                self._made[candidate.name] = self._forward()
            else:
                with apply(self.model, candidate.schedule, layers="full"):
                    self._made[candidate.name] = self._forward()
        return self._made[candidate.name]

    def _forward(self) -> Values:
        import torch

        device = next(self.model.parameters()).device
        # The row before a place foretells it.
        places = torch.tensor([place - 1 for place, _, _ in self.said.values], device=device)
        tokens = torch.tensor([token for _, token, _ in self.said.values], device=device)
        # A server that lists alternatives names the same place several times; its row is normalised once.
        unique, back = torch.unique(places, return_inverse=True)
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor([self.said.ids], device=device), use_cache=False
            ).logits[0]
            scores = torch.log_softmax(logits[unique].float(), dim=-1)
        found: Values = scores[back, tokens].double().cpu().numpy()
        return found

    def matches(self, tried: Sequence[Candidate]) -> list[Match]:
        """Every candidate, the likeliest first.

        The differences are taken for Laplace-distributed with the scale of the best candidate's own, which stands for
        the server's number format; `_SHARED` neighbouring values count as one.
        """
        sizes = {candidate.name: np.abs(self.told - self.of(candidate)) for candidate in tried}
        means = {name: float(size.mean()) for name, size in sizes.items()}
        best = min(means.values())
        scale, counted = max(best, _FLOOR), len(self.told) / _SHARED
        rows = [
            Match(
                candidate,
                means[candidate.name],
                float(sizes[candidate.name].max()),
                counted * (means[candidate.name] - best) / scale,
            )
            for candidate in tried
        ]
        return sorted(rows, key=lambda row: row.log_ratio)


def refined(facts: ModelFacts, references: References, best: Candidate) -> Candidate | None:
    """The factor (or base) between the tried ones that explains the answers best; None where nothing can be moved."""
    if best.kind == "base-changed":
        low, high = best.factor / 4.0, best.factor * 4.0
    elif best.kind in ("linear", "ntk", "yarn", "llama3"):
        low, high = max(1.0001, best.factor / 2.0), best.factor * 2.0
    else:
        return None

    def make(value: float) -> Candidate:
        return of_base(facts, value) if best.kind == "base-changed" else of_method(facts, best.kind, value)

    # Golden section: one forward a step, ended where the factor is known to 2 %.
    left, right = math.log(low), math.log(high)
    golden = (math.sqrt(5.0) - 1.0) / 2.0

    def cost(at: float) -> float:
        return float(np.abs(references.told - references.of(make(math.exp(at)))).mean())

    inner, outer = right - golden * (right - left), left + golden * (right - left)
    at_inner, at_outer = cost(inner), cost(outer)
    while right - left > 0.02:
        if at_inner < at_outer:
            right, outer, at_outer = outer, inner, at_inner
            inner = right - golden * (right - left)
            at_inner = cost(inner)
        else:
            left, inner, at_inner = inner, outer, at_outer
            outer = left + golden * (right - left)
            at_outer = cost(outer)
    return make(math.exp((left + right) / 2.0))
