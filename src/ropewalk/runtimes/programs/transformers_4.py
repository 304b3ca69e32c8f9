"""Hugging Face transformers 4: `rope_theta` and `rope_scaling`; `rope_parameters` is not known there."""

from __future__ import annotations

from ropewalk.runtimes.base import Fragment, Job, Runtime, Way, runtime
from ropewalk.runtimes.entries import CONFIG_FORMS, config_forms, lengths, old_reader_forms, two_sets


@runtime
class Transformers4(Runtime):
    """Releases before 5, and readers made after them."""

    name = "transformers-4"
    title = "transformers 4"
    packages = ("transformers",)
    forms = CONFIG_FORMS
    two_sets = "it switches at max_position_embeddings unless original_max_position_embeddings stands at the top level"

    def ways(self, job: Job) -> list[Way]:
        """The old keys, where they can say the same."""
        if job.carried is None or not job.carried.old_dialect:
            return []
        entry = job.carried.entries[job.facts.main]
        return [Way("config.json", config_forms(job), entry.native, job.carried.notes)]

    def reading(self, job: Job) -> tuple[str, ...]:
        """Every form of its entries, and the old keys."""
        return old_reader_forms(job)

    def obstacle(self, job: Job) -> str:
        """Why the old keys cannot hold it."""
        if job.carried is None:
            return job.refusal or "its config.json cannot hold the schedule"
        return "the older keys hold one flat entry, and this model has one for each layer type or a type of its own"

    def fragment(self, job: Job, way: Way) -> Fragment:
        """`rope_theta` and `rope_scaling`; the original window at the top level where the switch depends on it."""
        names = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "rope_scaling")
        content = {name: job.text.get(name) for name in names if name in job.text or name == "rope_scaling"}
        content |= lengths(job)
        if two_sets(job):
            content["original_max_position_embeddings"] = job.schedule.geometry.original_length
        notes = way.notes
        if job.kind == "yarn":
            notes += (
                "early 4.x releases took max_position_embeddings for YaRN's original window: check inv_freq there, "
                "or leave max_position_embeddings at the original value for them",
            )
        return Fragment("config.json", job.inside(content), notes=notes)
