"""MLX (mlx-lm): config.json, where most of its models read the old keys only."""

from __future__ import annotations

import math
from typing import Any

from ropewalk.methods.build import temperature
from ropewalk.models.writing.entries import factors_of
from ropewalk.runtimes.base import Fragment, Job, Runtime, Way, runtime
from ropewalk.runtimes.entries import (
    CONFIG_FORMS,
    NEW_KEYS,
    STOPPED,
    config_forms,
    formula_factor,
    lengths,
    old_reader_forms,
    stops_pairs,
    two_sets,
)

_NEW = "rope_parameters"
_BY_MSCALE, _BY_ORIGINAL = "yarn-attention-by-mscale", "longrope-attention-by-original"


@runtime
class Mlx(Runtime):
    """Yarn ignores attention_factor and truncate, longrope always takes the long set and a factor by formula.

    Two detours carry what is ignored: yarn's attention factor as an mscale that gives it, and longrope's as the
    original window whose formula gives it. Anything else of one set goes as longrope.
    """

    name = "mlx"
    title = "MLX"
    packages = ("mlx-lm",)
    forms = CONFIG_FORMS | {
        _BY_MSCALE: "yarn's attention factor through the mscale that gives it",
        _BY_ORIGINAL: "longrope's attention factor through the original window that gives it",
    }
    two_sets = "it always uses the long set, also for short prompts"

    def ways(self, job: Job) -> list[Way]:
        """The type of the method, then longrope for what that type cannot say."""
        if job.carried is None:
            return []
        entry, forms = job.carried.entries[job.facts.main], set(config_forms(job))
        # Entries that only new keys can hold (gemma4's): mlx-lm's models of such types read those.
        if not job.carried.old_dialect:
            return [Way(_NEW, tuple(sorted({*forms, NEW_KEYS})), entry.native)]
        found: list[Way] = []
        if "longrope" not in forms:
            native = {_BY_MSCALE if form == "yarn-attention" else form for form in forms}
            found.append(Way("rope_scaling", tuple(sorted(native)), entry.native))
        # longrope's factor comes of a formula there that never falls below 1.
        if job.flat and (job.schedule.attention_factor >= 1.0 or not forms & {"longrope", "yarn"}):
            carrier = {"longrope"} | ({"longrope-two-sets"} if two_sets(job) else set())
            formula = formula_factor(
                {"original_max_position_embeddings": job.schedule.geometry.original_length}, job.target_length
            )
            if not math.isclose(formula, job.schedule.attention_factor, rel_tol=1e-9):
                carrier.add(_BY_ORIGINAL)
            carrier |= {STOPPED} if stops_pairs(job) else set()
            notes = (self.two_sets,) if two_sets(job) else ()
            found.append(Way("longrope", tuple(sorted(carrier)), entry.native and "longrope" in forms, notes))
        return found

    def reading(self, job: Job) -> tuple[str, ...]:
        """Every form of its entries, and the old keys."""
        return old_reader_forms(job)

    def obstacle(self, job: Job) -> str:
        """Why there is no way."""
        if job.carried is None:
            return job.refusal or "its config.json cannot hold the schedule"
        if job.carried.old_dialect:
            return "its longrope multiplies cos and sin by 1 or more, and this schedule asks for less"
        return "it reads the old keys, and they cannot say this"

    def fragment(self, job: Job, way: Way) -> Fragment:
        """Old keys and new ones alike, since some of its models read the one and some the other."""
        if way.name == _NEW:
            return Fragment(
                "config.json",
                job.inside({"rope_parameters": job.text["rope_parameters"]} | lengths(job)),
                notes=way.notes,
            )
        names = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "rope_scaling")
        content: dict[str, Any] = {name: job.text.get(name) for name in names if name in job.text}
        scaling = content.get("rope_scaling")
        if way.name == "longrope":
            factors = factors_of(job.schedule, job.schedule.inv_freq)
            short = (
                factors
                if job.schedule.short_inv_freq is None
                else factors_of(job.schedule, job.schedule.short_inv_freq)
            )
            # The factors divide the model's own base; the carried keys may hold a method's changed one.
            content["rope_theta"] = job.schedule.geometry.rope_theta
            scaling = {
                "type": "longrope",
                "rope_type": "longrope",
                "factor": job.schedule.factor,
                "long_factor": factors,
                "short_factor": short,
                "attention_factor": job.schedule.attention_factor,
                "original_max_position_embeddings": job.schedule.geometry.original_length,
            }
            if _BY_ORIGINAL in way.forms:
                # Its factor is sqrt(ln max / ln original).
                attention = job.schedule.attention_factor
                scaling["original_max_position_embeddings"] = job.target_length ** (1.0 / attention**2)
        elif _BY_MSCALE in way.forms:
            made = job.schedule
            per_step = temperature(made.factor) - 1.0
            scaling = {
                # Its factor is 0.1 mscale ln s + 1, divided by the same of mscale_all_dim where that is given.
                name: value
                for name, value in (scaling or {}).items()
                if not name.startswith("mscale")
            }
            scaling["mscale"] = (made.attention_factor - 1.0) / per_step
        content["rope_scaling"] = scaling
        if job.flat:
            theta = content.get("rope_theta", job.entry.get("rope_theta"))
            # Qwen3 reads these and Llama the old keys: a folder that says both alike serves either.
            new = {name: value for name, value in (scaling or {}).items() if name != "type"}
            content["rope_parameters"] = {"rope_type": "default"} | new | {"rope_theta": theta}
        detour: tuple[str, ...] = ()
        if _BY_ORIGINAL in way.forms:
            detour = (
                "its original window is a means to the attention factor: serve this folder with MLX only",
            )
        notes = (*way.notes, *detour, "mlx_lm.convert copies config.json: write the keys before converting")
        return Fragment("config.json", job.inside(content | lengths(job)), notes=notes)
