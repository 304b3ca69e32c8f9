"""Hugging Face transformers 5: `rope_parameters`, exact where config.json holds the schedule and the class was run."""

from __future__ import annotations

from ropewalk.runtimes.base import Fragment, Job, Runtime, Way, runtime
from ropewalk.runtimes.entries import CONFIG_FORMS, config_forms, lengths


@runtime
class Transformers(Runtime):
    """Reads `rope_parameters`, or the old pair of keys."""

    name = "transformers"
    title = "transformers 5"
    packages = ("transformers",)
    forms = CONFIG_FORMS
    two_sets = (
        "the longest row of the batch decides, at each call: a cache made with the short set stays as it was"
    )

    def ways(self, job: Job) -> list[Way]:
        """The one that `extend` writes."""
        if job.carried is None:
            return []
        entry = job.carried.entries[job.facts.main]
        return [Way("config.json", config_forms(job), entry.native, job.carried.notes)]

    def reading(self, job: Job) -> tuple[str, ...]:
        """Every form of its entries."""
        return config_forms(job)

    def obstacle(self, job: Job) -> str:
        """Why config.json cannot hold it."""
        return job.refusal or "its config.json cannot hold the schedule"

    def fragment(self, job: Job, way: Way) -> Fragment:
        """`rope_parameters`, and the old keys beside it where they can say the same.

        Stock transformers lets `rope_scaling` win over `rope_parameters`, so a fragment pasted over another scaling
        must replace both.
        """
        assert job.carried is not None
        names = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "rope_scaling")
        old = {name: job.text[name] for name in names if name in job.text}
        if "rope_scaling" in job.facts.text or job.carried.old_dialect:
            old.setdefault("rope_scaling", None)
        content = {"rope_parameters": job.text["rope_parameters"]} | old | lengths(job)
        return Fragment("config.json", job.inside(content), notes=way.notes)
