"""SGLang: `--json-model-override-args`, or the same keys in config.json."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ropewalk.methods.build import temperature
from ropewalk.models.facts import ModelFacts
from ropewalk.models.structure.values import is_number
from ropewalk.runtimes.base import Fragment, Job, Runtime, Way, runtime
from ropewalk.runtimes.entries import CONFIG_FORMS, config_forms, lengths, old_reader_forms, two_sets

_MSCALES, _MULTIPLIER = "longrope-mscales", "yarn-attn-factor"


@runtime
class Sglang(Runtime):
    """Reads `rope_scaling`; its yarn takes `attn_factor`, a multiplier, and not `attention_factor`."""

    name = "sglang"
    title = "SGLang"
    packages = ("sglang",)
    forms = CONFIG_FORMS | {
        _MSCALES: "longrope's attention factor through short_mscale and long_mscale",
        _MULTIPLIER: "yarn's attention factor through attn_factor, a multiplier of its own temperature",
    }
    two_sets = "--context-length decides for every prompt"

    output = "overrides"

    def ways(self, job: Job) -> list[Way]:
        """The old keys, with attention factors under SGLang's names."""
        if job.carried is None or not job.flat:
            return []
        entry = job.carried.entries[job.facts.main]
        own = {"longrope-attention": _MSCALES, "yarn-attention": _MULTIPLIER}
        if job.facts.mla is None:
            # The fragment says with this one factor what the two mscales amount to.
            own["yarn-mscale"] = _MULTIPLIER
        forms = tuple(sorted({own.get(form, form) for form in config_forms(job)}))
        notes = (self.two_sets,) if two_sets(job) else ()
        return [Way("rope_scaling", forms, entry.native, notes)]

    def reading(self, job: Job) -> tuple[str, ...]:
        """Every form of its entries, and the old keys."""
        return old_reader_forms(job)

    def served(self, facts: ModelFacts) -> tuple[int | None, str]:
        """The declared window, times the factor where the entry names no original window."""
        entry = facts.rope.parameters
        if entry.get("original_max_position_embeddings") is None and facts.rope.rope_type not in (
            "default",
            "llama3",
        ):
            factor = facts.rope.factor
            served = int(facts.max_position_embeddings * factor)
            return served, f"max_position_embeddings times factor {factor:g}: give --context-length"
        return facts.max_position_embeddings, "max_position_embeddings"

    def obstacle(self, job: Job) -> str:
        """Why there is no way."""
        if job.carried is None:
            return job.refusal or "its config.json cannot hold the schedule"
        return "one entry for each layer type is nothing that its override can say in the old keys"

    def fragment(self, job: Job, way: Way) -> Fragment:
        """The override document and the launch line."""
        entry = dict(job.text["rope_parameters"])
        kind = entry["rope_type"]
        theta = entry.pop("rope_theta")
        entry["type"] = kind
        if kind == "yarn":
            entry.pop("attention_factor", None)
            entry["attn_factor"] = job.schedule.attention_factor / _own_temperature(job)
            if job.facts.mla is None:
                entry = {name: value for name, value in entry.items() if not name.startswith("mscale")}
        elif kind == "longrope":
            # Both sets get it: transformers has one attention factor for the two.
            entry |= dict.fromkeys(("short_mscale", "long_mscale"), job.schedule.attention_factor)
        scaling: dict[str, Any] | None = None if kind == "default" else entry
        content = job.inside({"rope_theta": theta, "rope_scaling": scaling} | lengths(job))
        command = (
            f"python -m sglang.launch_server --model-path MODEL --context-length {job.target_length} "
            f"--json-model-override-args {shlex.quote(json.dumps(content))}"
        )
        return Fragment("--json-model-override-args, or config.json", content, command, way.notes)


def _own_temperature(job: Job) -> float:
    """What SGLang's yarn multiplies cos and sin by before `attn_factor`: 0.1 ln s + 1, or MLA's ratio of two."""
    made, entry = job.schedule, job.text["rope_parameters"]
    if job.facts.mla is None:
        return temperature(made.factor)
    mscale, everywhere = (
        float(entry[name]) if is_number(entry.get(name)) else 0.0 for name in ("mscale", "mscale_all_dim")
    )
    return temperature(made.factor, mscale or 1.0) / temperature(made.factor, everywhere)
