"""Facts from measurements: the lines that `measure.py` wrote, joined with what the facts file already says.

    python tools/runtimes/collect.py PROGRAM ZOO DATE

Forms that a run proved exact are exact; of a run that was not, those forms are to blame that no other run proved. An
architecture on which even the unscaled model differs is left out: something else than the rotation is different there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "src"))

from ropewalk.runtimes.base import Runtime  # noqa: E402
from ropewalk.runtimes.known import TOLERANCE, Evidence, Fact, Facts, file_stem  # noqa: E402
from ropewalk.runtimes.registry import facts_about, find_runtime  # noqa: E402

# A case must move log probabilities by this much, or agreeing on it would prove nothing.
_SHOWS = 0.05
_WORDS = {
    "yarn-truncate": "yarn's truncate is not read: bounds are rounded",
    "yarn-attention": "yarn's attention_factor is not read",
    "yarn-attention-by-mscale": "yarn's mscale is not read",
    "yarn-mscale": "yarn's mscale and mscale_all_dim are not computed as in transformers",
    "longrope-attention-by-original": "longrope's attention factor does not follow the given original window",
    "longrope-mscales": "short_mscale and long_mscale do not carry the attention factor",
}
_ROUNDED = "beside transformers with gelu in half precision, as its CPU kernel has it"
# llama.cpp's own words stay in its log: it counts tensors that nobody asked for.
_REFUSED_TENSORS = "a file with factor tensors is refused at load"
_UNSCALED = "it rotates unscaled, without a word"


def main(program: str, zoo: str, date: str) -> None:
    """Write the program's facts file anew."""
    runtime = find_runtime(program)
    known = {(fact.architecture, form): fact for fact in facts_about(runtime).rows for form in fact.forms}
    for path in sorted(Path(zoo).glob(f"*/{program}.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for fact in measured(rows, runtime, date) if rows else ():
            place = (fact.architecture, fact.forms[0])
            known[place] = better(known.get(place), fact)
    path = ROOT / "src" / "ropewalk" / "runtimes" / "facts" / f"{file_stem(program)}.json"
    path.write_text(Facts(program, joined(known.values(), known)).dump(), encoding="utf-8")


def better(known: Fact | None, fresh: Fact) -> Fact:
    """The measured fact, but where it cannot know: prompts are sent one at a time, which shows nothing of a batch whose
    longest prompt chooses between two sets for all, and without vLLM's compiler. What is known of those stays."""
    eager = known is not None and known.outcome == "unknown" and "compiler" in (known.difference or "")
    if fresh.outcome == "exact" and known is not None and eager:
        return known
    alone = fresh.outcome == "exact" and fresh.forms[0].endswith("-two-sets")
    if alone and known is not None and known.outcome == "approximate" and known.known_by.kind == "source":
        return known
    if known is not None and known.outcome == fresh.outcome and known.difference:
        # A run that confirms what was read knows less about why.
        return replace(fresh, difference=known.difference)
    return fresh


def measured(rows: list[dict[str, Any]], runtime: Runtime, date: str) -> list[Fact]:
    """One fact a form of one architecture."""
    name = rows[0]["architecture"]
    plain = next((row for row in rows if row["case"] == "none"), None)
    if all("not supported" in row.get("error", "") for row in rows):
        forms = sorted({form for row in rows for form in row["forms"]})
        return [_fault(name, form, rows[0], runtime, date) for form in forms]
    # One that runs scaled and not unscaled shows by what is exact that nothing else is different.
    runs = plain if plain is not None and "error" not in plain else _best(rows)
    if runs is None or max(runs["differences"]) > TOLERANCE:
        why = (
            "nothing ran"
            if runs is None
            else f"differs by {max(runs['differences']):.2g} whatever the schedule"
        )
        print(f"{name}: {why}: left out")
        return []
    shown = [row for row in rows if row["case"] == "none" or row["scale"] > _SHOWS]
    good = [row for row in shown if "error" not in row and max(row["differences"]) <= TOLERANCE]
    exact = {form for row in good for form in row["forms"]}
    found = []
    stock = [max(row["from_stock"]) for row in good if "from_stock" in row]
    rounded = max(stock) if stock and max(stock) > TOLERANCE else None
    for form in sorted(exact):
        size = max(max(row["differences"]) for row in good if form in row["forms"])
        evidence = _evidence(rows[0], runtime, date, size)
        if rounded is not None:
            about = {"stock_difference": float(f"{rounded:.1e}"), "note": _ROUNDED}
            evidence = replace(evidence, details=dict(evidence.details) | about)
        found.append(Fact(name, (form,), "exact", None, evidence))
    blamed: dict[str, dict[str, Any]] = {}
    for row in shown:
        if row in good:
            continue
        guilty = [form for form in row["forms"] if form not in exact]
        if not guilty:
            print(f"{name} {row['case']}: {row['forms']} are exact apart and not together: LOOK")
        for form in guilty:
            # The run that needs least besides says most about a form.
            if form not in blamed or len(row["forms"]) < len(blamed[form]["forms"]):
                blamed[form] = row
    return found + [_fault(name, form, row, runtime, date) for form, row in sorted(blamed.items())]


def _best(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return min(
        (row for row in rows if "error" not in row), key=lambda row: max(row["differences"]), default=None
    )


def _fault(name: str, form: str, row: dict[str, Any], runtime: Runtime, date: str) -> Fact:
    if "error" in row:
        said = row["error"].splitlines()[0][:160]
        evidence = _evidence(row, runtime, date, None, note=said)
        tensors = form.partition("-")[0] in ("tensor", "factors")
        words = _REFUSED_TENSORS if tensors else f"the program refuses it at load ({said})"
        return Fact(name, (form,), "refused", words, evidence)
    size = max(row["differences"])
    evidence = _evidence(row, runtime, date, size)
    if row["from_plain"] <= TOLERANCE:
        return Fact(name, (form,), "ignored", _UNSCALED, evidence)
    if form in ("longrope-two-sets", "factors-two-sets"):
        return Fact(name, (form,), "ignored", runtime.two_sets, evidence)
    # A GGUF file's keys are read wherever they are right at all: what differs there is for a person to say.
    if form in _WORDS and runtime.output != "gguf":
        return Fact(name, (form,), "ignored", _WORDS[form], evidence)
    return Fact(name, (form,), "approximate", "it computes other frequencies than transformers", evidence)


def _evidence(
    row: dict[str, Any], runtime: Runtime, date: str, size: float | None, note: str | None = None
) -> Evidence:
    versions = {name: row["versions"][name] for name in runtime.packages if name in row["versions"]}
    details: dict[str, Any] = {"versions": versions | {"transformers": "5.23.0"}}
    if size is not None:
        details["max_logprob_difference"] = min(float(f"{size:.1e}"), 99.0)
    details |= {"lengths": [256, 512, 1024], "date": date}
    return Evidence("measured", details if note is None else details | {"note": note})


def joined(facts: Iterable[Fact], keys: Iterable[tuple[str, str]]) -> list[Fact]:
    """One row for all forms of an architecture that have the same outcome in the same words."""
    groups: dict[tuple[Any, ...], list[tuple[str, Fact]]] = {}
    for (architecture, form), fact in zip(keys, facts, strict=True):
        about = {
            key: value for key, value in fact.known_by.details.items() if key != "max_logprob_difference"
        }
        key = (
            architecture,
            fact.outcome,
            fact.difference,
            fact.known_by.kind,
            json.dumps(about, sort_keys=True),
        )
        groups.setdefault(key, []).append((form, fact))
    rows = []
    for key, members in groups.items():
        sizes = [fact.known_by.difference for _, fact in members if fact.known_by.difference is not None]
        # For what is wrong the smallest is said: each of the forms is off by at least so much.
        size = (
            {} if not sizes else {"max_logprob_difference": max(sizes) if key[1] == "exact" else min(sizes)}
        )
        details = dict(members[0][1].known_by.details) | size
        rows.append(
            Fact(
                key[0], tuple(sorted(form for form, _ in members)), key[1], key[2], Evidence(key[3], details)
            )
        )
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
