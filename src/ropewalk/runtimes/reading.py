"""`inspect --runtime`: what a program will compute from a config.json as it stands, and what it drops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.methods import schedule as make_schedule
from ropewalk.methods.longrope import longrope_attention_factor
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.writing.carrier import Carried
from ropewalk.models.writing.entries import Entry
from ropewalk.runtimes.ages import stale
from ropewalk.runtimes.answer import Answer, judge
from ropewalk.runtimes.base import Job, Way
from ropewalk.runtimes.registry import find_runtime
from ropewalk.schedule import FrequencySchedule

# What undoes the whole scaling where a program does not honour it.
_WHOLE = {
    "theta", "linear", "llama3", "yarn", "longrope", "proportional", "proportional-factor", "dynamic", "new-keys",
    "converter-theta",
    "converter-linear", "converter-llama3", "converter-yarn", "converter-longrope", "converter-longrope-two-sets",
    "converter-proportional", "converter-proportional-factor",
}  # fmt: skip
_YARN_FIELDS = {
    "yarn-attention": ("attention_factor",),
    "yarn-betas": ("beta_fast", "beta_slow"),
    "yarn-truncate": ("truncate",),
    "yarn-mscale": ("mscale", "mscale_all_dim"),
    "converter-yarn-fields": (
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "truncate",
        "mscale",
        "mscale_all_dim",
    ),
}


@dataclass(frozen=True)
class Reading:
    """One program on one configuration: the answer for it as it stands, the schedule that will run, the window.

    `computes` is None where that is unknown, or where the program does not load the model.
    """

    runtime: str
    title: str
    answer: Answer
    computes: FrequencySchedule | None
    served_length: int | None
    served_note: str
    age: str | None = None

    @property
    def drops(self) -> tuple[str, ...]:
        """What the configuration says and the program does not do."""
        return tuple(
            f"{'/'.join(fact.forms)}: {fact.difference}"
            for fact in self.answer.facts
            if fact.outcome == "ignored"
        )

    def to_json(self) -> dict[str, Any]:
        """For `inspect --json`."""
        made = self.computes
        return (
            {"runtime": self.runtime, "title": self.title}
            | self.answer.to_json()
            | {
                "computes": None
                if made is None
                else {
                    "inv_freq": made.inv_freq.tolist(),
                    "short_inv_freq": None if made.short_inv_freq is None else made.short_inv_freq.tolist(),
                    "attention_factor": made.attention_factor,
                },
                "served_length": self.served_length,
                "served_note": self.served_note,
                "drops": list(self.drops),
                "age": self.age,
            }
        )


def read_as(source: str | Path | Mapping[str, Any] | ModelFacts, names: Sequence[str]) -> tuple[Reading, ...]:
    """What each program makes of a configuration as it stands."""
    facts = source if isinstance(source, ModelFacts) else read_facts(source)
    return tuple(_reading(facts, name) for name in names)


def _reading(facts: ModelFacts, name: str) -> Reading:
    program = find_runtime(name)
    served, note = program.served(facts)
    job = job_as_it_stands(facts)
    # dynamic has no frequencies of its own to make a job of, but programs have a fact about it.
    forms = ("dynamic",) if job is None and facts.rope.rope_type == "dynamic" else None
    if job is None and forms is None:
        raise RopewalkError(
            facts.rope.problem or "its scaling cannot be read", hint="`ropewalk inspect` says what is wrong"
        )
    way = Way("as it stands", program.reading(job) if job is not None else forms or (), True)
    found = judge(program, facts.model_type or facts.text_type, way)
    computed = _computed(facts, found)
    return Reading(program.name, program.title, found, computed, served, note, stale(program, found))


def job_as_it_stands(facts: ModelFacts) -> Job | None:
    """A configuration as if its own scaling had just been written into it; None where it has no static one."""
    made = facts.rope.schedule
    if made is None:
        return None
    used = {
        label: rope
        for label, rope in facts.ropes.items()
        if rope.schedule is not None and (label == facts.main or rope.is_scaled)
    }
    entries = {
        label: Entry(dict(rope.parameters), rope.rope_type, native=True) for label, rope in used.items()
    }
    schedules = {label: rope.schedule for label, rope in used.items() if rope.schedule is not None}
    carried = Carried(dict(facts.config), entries, schedules, old_dialect=_says_it_in_old_keys(facts))
    return Job(facts, made, facts.max_position_embeddings, carried)


def _says_it_in_old_keys(facts: ModelFacts) -> bool:
    """Whether a reader that knows no rope_parameters would see the scaling and the base."""
    text = facts.text
    if not isinstance(text.get("rope_parameters"), Mapping):
        return True
    if facts.rope.is_scaled and facts.rope.rope_type != "default":
        return bool(text.get("rope_scaling"))
    theta = facts.rope.parameters.get("rope_theta")
    # 10000 is what a reader takes that finds no base.
    return bool(text.get("rope_theta", text.get("rotary_emb_base", 10000.0)) == theta)


def _computed(facts: ModelFacts, found: Answer) -> FrequencySchedule | None:
    made = facts.rope.schedule
    if made is None or found.outcome in ("unknown", "refused"):
        return None
    ignored = {form for fact in found.facts if fact.outcome == "ignored" for form in fact.forms}
    # A row may speak of more forms than this configuration needs.
    ignored &= set(() if found.way is None else found.way.forms)
    if ignored & _WHOLE:
        return make_schedule("none", facts.geometry, factor=1.0)
    dropped = {name for form in ignored for name in _YARN_FIELDS.get(form, ())}
    if dropped:
        kept = {name: value for name, value in made.parameters.items() if name not in dropped}
        made = make_schedule("yarn", facts.geometry, factor=made.factor, **kept)
    if "longrope-attention" in ignored:
        original = facts.original_length
        attention = longrope_attention_factor(facts.max_position_embeddings / original, original)
        made = replace(made, attention_factor=attention)
    return replace(made, short_inv_freq=None) if "longrope-two-sets" in ignored else made
