"""The facts: what a program computes from a form of writing on an architecture, and how that is known.

One file a program in `facts/`, plain JSON, one row a line:

    {"architecture": "qwen3", "forms": ["linear", "yarn"], "outcome": "exact",
     "known_by": {"measured": {"versions": {"mlx-lm": "0.32.2", "transformers": "5.23.0"},
                               "max_logprob_difference": 1.8e-4, "lengths": [512, 1024, 2048], "date": "2026-11-21"}}}

`architecture` is the `model_type` of config.json, `forms` are names from the program's own closed list. What has no
row is unknown; nothing is inferred from another architecture.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError

FORMAT = "ropewalk-facts/1"
# From the best to the worst. A way of writing is as good as the worst of the forms that it needs.
OUTCOMES = ("exact", "approximate", "unknown", "ignored", "refused")
# Largest difference of a next-token log-probability, in float32, at which two programs count as computing the same.
TOLERANCE = 1e-3
_MEASURED = {"versions", "max_logprob_difference", "stock_difference", "lengths", "date", "note"}
_SOURCE = {"project", "version", "commit", "file", "function", "note"}


@dataclass(frozen=True)
class Evidence:
    """How a fact is known: `measured` in a run, read in the `source`, or `unknown`. `details` is as in the file."""

    kind: str
    details: Mapping[str, Any]

    @property
    def versions(self) -> dict[str, str]:
        """The releases that it was known for, by distribution or project."""
        if self.kind == "measured":
            return {str(name): str(version) for name, version in self.details["versions"].items()}
        if self.kind == "source":
            version = self.details.get("version") or str(self.details.get("commit"))[:12]
            return {str(self.details["project"]): str(version)}
        return {}

    @property
    def difference(self) -> float | None:
        """The largest log-probability difference that was measured."""
        value = self.details.get("max_logprob_difference") if self.kind == "measured" else None
        return None if value is None else float(value)

    @property
    def rounding(self) -> float | None:
        """How far from stock transformers the program is whatever the schedule, where its kernels round more than
        the tolerance allows; `difference` is then beside transformers that rounds alike, and the note says what."""
        value = self.details.get("stock_difference") if self.kind == "measured" else None
        return None if value is None else float(value)

    def describe(self) -> str:
        """One line for people."""
        if self.kind == "measured":
            known = ", ".join(f"{name} {version}" for name, version in self.versions.items())
            size = "" if self.difference is None else f", largest difference {self.difference:.2g}"
            if self.rounding is not None:
                size += f" {self.details.get('note', '')}, {self.rounding:.2g} otherwise"
            return f"measured ({known}{size})"
        if self.kind == "source":
            version = next(iter(self.versions.values()))
            where = ", ".join(
                str(self.details[name]) for name in ("file", "function") if name in self.details
            )
            return f"read in its source, not run ({self.details['project']} {version}: {where})"
        return "unknown"

    def to_json(self) -> dict[str, Any]:
        """As in the facts file."""
        return {self.kind: dict(self.details)}


UNKNOWN = Evidence("unknown", {})


@dataclass(frozen=True)
class Fact:
    """One row: on this architecture these forms have this outcome; `difference` says what is not the same."""

    architecture: str
    forms: tuple[str, ...]
    outcome: str
    difference: str | None
    known_by: Evidence

    def to_json(self) -> dict[str, Any]:
        """As in the facts file."""
        row: dict[str, Any] = {"architecture": self.architecture, "forms": list(self.forms)}
        row["outcome"] = self.outcome
        if self.difference is not None:
            row["difference"] = self.difference
        return row | {"known_by": self.known_by.to_json()}


class Facts:
    """Every fact about one program."""

    def __init__(self, runtime: str, rows: Iterable[Fact]) -> None:
        self.runtime = runtime
        self.rows = tuple(sorted(rows, key=lambda fact: (fact.architecture, fact.forms)))
        self._by_form: dict[tuple[str, str], Fact] = {}
        for fact in self.rows:
            for form in fact.forms:
                key = (fact.architecture, form)
                if key in self._by_form:
                    raise DamagedError(
                        f"facts of {runtime}: {fact.architecture} has two rows for {form!r}",
                        hint="keep the one that is known better",
                    )
                self._by_form[key] = fact

    @property
    def architectures(self) -> tuple[str, ...]:
        """The model types that anything is known about."""
        return tuple(sorted({fact.architecture for fact in self.rows}))

    def of(self, architecture: str, form: str) -> Fact:
        """The fact about one form on one architecture; an unknown one where there is no row."""
        found = self._by_form.get((architecture, form))
        if found is not None:
            return found
        return Fact(architecture, (form,), "unknown", None, UNKNOWN)

    def dump(self) -> str:
        """The text of the facts file: sorted, one row a line."""
        rows = ",\n".join("  " + json.dumps(fact.to_json(), ensure_ascii=False) for fact in self.rows)
        head = f'{{"format": {json.dumps(FORMAT)}, "runtime": {json.dumps(self.runtime)}, "facts": ['
        return f"{head}\n{rows}\n]}}\n" if rows else f"{head}]}}\n"


def read_facts_text(text: str, forms: Mapping[str, str], where: str) -> Facts:
    """Parse and check one facts file; `forms` is the program's closed list."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise DamagedError(f"{where} is not JSON ({error})", hint="mend the file") from error
    _check(where, document.get("format") == FORMAT, f"format is not {FORMAT!r}")
    _check(where, set(document) == {"format", "runtime", "facts"}, "keys are format, runtime, facts")
    return Facts(str(document["runtime"]), [_fact(row, forms, where) for row in document["facts"]])


@cache
def facts_of(runtime: str, forms: tuple[str, ...], folder: Path | None = None) -> Facts:
    """The facts of a program, from its file in a folder: this package's, or that of whoever brings the program."""
    name = f"{file_stem(runtime)}.json"
    place = files("ropewalk.runtimes").joinpath("facts") if folder is None else folder
    text = place.joinpath(name).read_text(encoding="utf-8")
    return read_facts_text(text, dict.fromkeys(forms, ""), f"facts/{name}")


def file_stem(runtime: str) -> str:
    """The name under which a program has its file in `programs/` and in `facts/`."""
    return runtime.replace(".", "_").replace("-", "_")


def _check(where: str, good: bool, rule: str) -> None:
    if not good:
        raise DamagedError(f"{where}: {rule}", hint="correct the row")


def _fact(row: Mapping[str, Any], forms: Mapping[str, str], where: str) -> Fact:
    named = f"{where}: {row.get('architecture')} {row.get('forms')}"
    _check(named, set(row) <= {"architecture", "forms", "outcome", "difference", "known_by"}, "unknown key")
    for key in ("architecture", "forms", "outcome", "known_by"):
        _check(named, key in row, f"{key} is missing")
    strange = sorted(set(row["forms"]) - set(forms))
    _check(named, not strange and bool(row["forms"]), f"forms {strange} are not in {sorted(forms)}")
    _check(named, row["forms"] == sorted(row["forms"]), "forms are not sorted")
    outcome, difference = row["outcome"], row.get("difference")
    _check(named, outcome in OUTCOMES, f"outcome {outcome!r} is none of {OUTCOMES}")
    _check(named, outcome == "exact" or bool(difference), f"{outcome} needs a difference in words")
    evidence = _evidence(row["known_by"], named)
    _check(named, (evidence.kind == "unknown") == (outcome == "unknown"), "only unknown is known by nothing")
    size = evidence.difference
    if outcome == "exact" and evidence.kind == "measured":
        _check(named, size is not None and size <= TOLERANCE, f"exact asks for a difference <= {TOLERANCE:g}")
    # A difference that small would have been called exact: the row or the run is wrong.
    if outcome in ("approximate", "ignored") and size is not None:
        _check(named, size > TOLERANCE, f"{outcome} with a difference <= {TOLERANCE:g}")
    return Fact(row["architecture"], tuple(row["forms"]), outcome, difference, evidence)


def _evidence(given: Any, where: str) -> Evidence:
    _check(where, isinstance(given, dict) and len(given) == 1, "known_by holds measured, source or unknown")
    kind, details = next(iter(given.items()))
    _check(where, kind in ("measured", "source", "unknown"), f"known_by {kind!r}")
    if kind == "measured":
        _check(where, set(details) <= _MEASURED, f"measured takes {sorted(_MEASURED)}")
        _check(where, bool(details.get("versions")), "measured needs versions")
        _check(where, bool(details.get("date")), "measured needs a date")
    elif kind == "source":
        _check(where, set(details) <= _SOURCE, f"source takes {sorted(_SOURCE)}")
        for key in ("project", "file"):
            _check(where, bool(details.get(key)), f"source needs {key}")
        _check(where, bool(details.get("version") or details.get("commit")), "source needs version or commit")
    return Evidence(kind, details)
