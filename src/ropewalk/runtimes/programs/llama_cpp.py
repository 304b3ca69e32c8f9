"""llama.cpp: metadata keys and factor tensors in the GGUF file, and launch flags where metadata is not read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from ropewalk.methods.build import temperature
from ropewalk.models.facts import ModelFacts
from ropewalk.models.writing.entries import factors_of
from ropewalk.runtimes.base import Fragment, Job, Runtime, Way, runtime
from ropewalk.runtimes.entries import STOPPED, config_forms, stops_pairs

GGUF_FORMS = {
    "default": "no scaling",
    "theta": "rope.freq_base",
    "linear": "rope.scaling.type linear with its factor",
    "yarn": "rope.scaling.type yarn with factor and original_context_length",
    "yarn-attention": "yarn's attention factor through rope.scaling.attn_factor, a multiplier of its own temperature",
    "tensor": "one set of factors in the tensor rope_freqs.weight",
    "tensor-attention": "an attention factor beside that tensor, in rope.scaling.attn_factor",
    "factors": "longrope's two tensors rope_factors_short and rope_factors_long",
    "factors-two-sets": "two tensors that differ: one set for short prompts, one for long ones",
    "factors-attention": "an attention factor beside those, in rope.scaling.attn_factor",
    STOPPED: "pairs that stand still, written as the factor 1e30",
    "layers-all": "every layer type stretched, not the full-attention one alone",
    "converter-linear": "linear by its own converter, from config.json",
    "converter-theta": "a changed rope_theta by its own converter",
    "converter-yarn": "yarn by its own converter",
    "converter-llama3": "llama3 by its own converter",
    "converter-longrope": "longrope of one set by its own converter",
    "converter-yarn-fields": "yarn's attention factor, betas, truncate or mscales by its own converter",
    "converter-longrope-attention": "longrope's attention factor by its own converter",
    "converter-proportional": "type proportional by its own converter: the zero tail and rope_theta",
    "converter-proportional-factor": "proportional's factor by its own converter",
    "converter-stopped-pairs": "pairs that stand still by its own converter",
    "converter-longrope-two-sets": "longrope of two sets by its own converter",
}


@runtime
class LlamaCpp(Runtime):
    """One set goes into a tensor where the architecture loads one; closed forms go into metadata."""

    name = "llama.cpp"
    title = "llama.cpp"
    packages: ClassVar[tuple[str, ...]] = ("xllamacpp", "llama-cpp-python")
    forms: ClassVar[Mapping[str, str]] = GGUF_FORMS | {
        "yarn-betas": "yarn's betas as launch flags",
    }
    two_sets = "the slot's context (-c, -np, unified cache) decides for every prompt"
    # Launch flags exist here; a program that only reads the file has none.
    flags: ClassVar[bool] = True
    output = "gguf"

    def ways(self, job: Job) -> list[Way]:
        """Metadata for what it can say, then one tensor, then two."""
        every = job.carried is not None and bool(job.carried.entries.keys() - {job.facts.main})
        extra = (("layers-all",) if every else ()) + ((STOPPED,) if stops_pairs(job) else ())
        found = [Way(way.name, (*way.forms, *extra), way.native, way.notes) for way in self._plain(job)]
        made = job.schedule
        stays = made.is_identity
        if made.short_inv_freq is None and not stays:
            attention = () if made.attention_factor == 1.0 else ("tensor-attention",)
            # llama3 has no type of its own there: llama.cpp's converter bakes it into this tensor too.
            found.append(Way("rope_freqs", ("tensor", *attention, *extra), made.method == "llama3"))
        if not stays:
            attention = () if made.attention_factor == 1.0 else ("factors-attention",)
            sets = () if made.short_inv_freq is None else ("factors-two-sets",)
            notes = (self.two_sets,) if made.short_inv_freq is not None else ()
            found.append(
                Way("rope_factors", ("factors", *attention, *sets, *extra), made.method == "longrope", notes)
            )
        return found

    def _plain(self, job: Job) -> list[Way]:
        made = job.schedule
        kind = str((made.native or {}).get("type"))
        if kind in ("none", "theta") or made.is_identity:
            return [Way("metadata", ("default" if made.is_identity else "theta",), True)]
        if kind == "linear":
            return [Way("metadata", ("linear",), True)]
        # Its yarn always rounds the bounds; without rounding it is a schedule like any other, for the tensors.
        if kind == "yarn" and made.parameters.get("truncate", True):
            plain = math.isclose(made.attention_factor, temperature(made.factor), rel_tol=1e-9)
            betas = (made.parameters.get("beta_fast", 32.0), made.parameters.get("beta_slow", 1.0))
            forms = ("yarn",) + (() if plain else ("yarn-attention",))
            if betas == (32.0, 1.0):
                return [Way("metadata", forms, True)]
            # Betas are read from the command line alone, not from metadata.
            if self.flags:
                return [Way("metadata and flags", (*forms, "yarn-betas"), True)]
        return []

    def reading(self, job: Job) -> tuple[str, ...]:
        """What its own converter must bring over."""
        found = []
        for form in config_forms(job):
            if form in ("default", "layers-all"):
                found.append(form)
            elif form.startswith("yarn-"):
                found.append("converter-yarn-fields")
            elif form == "longrope-attention":
                found.append("converter-longrope-attention")
            elif form == "longrope-two-sets":
                found.append("converter-longrope-two-sets")
            else:
                found.append(f"converter-{form}")
        # What is known of one set says nothing of two.
        if "converter-longrope-two-sets" in found:
            found.remove("converter-longrope")
        return tuple(dict.fromkeys(found))

    def served(self, facts: ModelFacts) -> tuple[int | None, str]:
        """The declared window: the file's context_length."""
        return facts.max_position_embeddings, "context_length, which -c does not exceed"

    def obstacle(self, job: Job) -> str:
        """There is always a tensor to try."""
        return "no form of its file expresses the schedule"

    def fragment(self, job: Job, way: Way) -> Fragment:
        """Metadata keys without the architecture's name, tensors by name, and the launch line."""
        content = {"metadata": metadata(job, way), "tensors": tensors(job, way)}
        command = " ".join(
            ["llama-server", "-m", "MODEL.gguf", "-c", str(job.target_length), *flags(job, way)]
        )
        notes = (*way.notes, "use an f32 cache and no flash attention when comparing numbers")
        if job.facts.text_path:
            notes += (
                "the file holds the text model: pictures want llama.cpp's mmproj file besides, and layers that predict "
                "further tokens are not in it",
            )
        return Fragment("the GGUF file", content, command, notes)


def metadata(job: Job, way: Way) -> dict[str, Any]:
    """The keys to set, under the architecture's name in the file. Any older scaling must be removed from it first."""
    made, form = job.schedule, way.forms[0]
    native = made.native or {}
    base = (
        float(native.get("rope_theta", made.geometry.rope_theta))
        if form == "theta"
        else made.geometry.rope_theta
    )
    # Without a larger window in the file the server keeps to the old one, whatever -c asks for.
    keys: dict[str, Any] = {"context_length": job.target_length, "rope.freq_base": float(base)}
    if form in ("linear", "yarn"):
        keys |= {"rope.scaling.type": form, "rope.scaling.factor": float(made.factor)}
    elif form in ("tensor", "factors"):
        # Under linear or yarn llama.cpp would scale the tensor's frequencies once more.
        keys["rope.scaling.type"] = "none" if form == "tensor" else "longrope"
        keys["rope.scaling.attn_factor"] = float(made.attention_factor)
    # llama.cpp needs it for yarn and for two sets; for the others it tells a reader from where the file was stretched.
    if form in ("linear", "yarn", "tensor", "factors"):
        keys["rope.scaling.original_context_length"] = made.geometry.original_length
    # llama.cpp multiplies this by yarn's own temperature; beside factor tensors it stands alone.
    if "yarn-attention" in way.forms:
        keys["rope.scaling.attn_factor"] = made.attention_factor / temperature(made.factor)
    return keys


def tensors(job: Job, way: Way) -> dict[str, list[float]]:
    """The factor tensors, theta/theta' a pair."""
    made, form = job.schedule, way.forms[0]
    long = factors_of(made, made.inv_freq)
    if form == "tensor":
        return {"rope_freqs.weight": long}
    if form == "factors":
        # llama.cpp chooses between the two tensors by its context, so one set stands in both.
        short = long if made.short_inv_freq is None else factors_of(made, made.short_inv_freq)
        return {"rope_factors_long.weight": long, "rope_factors_short.weight": short}
    return {}


def flags(job: Job, way: Way) -> list[str]:
    """What metadata cannot say: yarn's betas."""
    if "yarn-betas" not in way.forms:
        return []
    given = job.schedule.parameters
    return [
        "--yarn-beta-fast",
        f"{given.get('beta_fast', 32.0):g}",
        "--yarn-beta-slow",
        f"{given.get('beta_slow', 1.0):g}",
    ]
