"""ExLlama (exllamav2, exllamav3): config.json's old keys."""

from __future__ import annotations

from ropewalk.models.facts import ModelFacts
from ropewalk.runtimes.base import Fragment, Job, Runtime, Way, runtime
from ropewalk.runtimes.entries import CONFIG_FORMS, config_forms, lengths, old_reader_forms, two_sets


@runtime
class Exllama(Runtime):
    """Reads `rope_scaling` beside `rope_theta`."""

    name = "exllama"
    title = "ExLlama"
    packages = ("exllamav3", "exllamav2")
    forms = CONFIG_FORMS
    two_sets = "the cache's length decides for every prompt"

    def ways(self, job: Job) -> list[Way]:
        """The old keys, where they can say the same."""
        if job.carried is None or not job.carried.old_dialect:
            return []
        entry = job.carried.entries[job.facts.main]
        return [
            Way("rope_scaling", config_forms(job), entry.native, (self.two_sets,) if two_sets(job) else ())
        ]

    def reading(self, job: Job) -> tuple[str, ...]:
        """Every form of its entries, and the old keys."""
        return old_reader_forms(job)

    def served(self, facts: ModelFacts) -> tuple[int | None, str]:
        """The declared window."""
        return (
            facts.max_position_embeddings,
            "max_position_embeddings, unless the cache is made for another length",
        )

    def obstacle(self, job: Job) -> str:
        """Why there is no way."""
        if job.carried is None:
            return job.refusal or "its config.json cannot hold the schedule"
        return "it reads the old keys, and they cannot say this"

    def fragment(self, job: Job, way: Way) -> Fragment:
        """The old keys, and the new ones alike for releases that read them."""
        names = ("rope_theta", "rope_local_base_freq", "rope_scaling", "rope_parameters")
        # rope_scaling even where it is null: an older one in the file would go on being read.
        content = {name: job.text.get(name) for name in names if name in job.text or name == "rope_scaling"}
        return Fragment("config.json", job.inside(content | lengths(job)), notes=way.notes)
