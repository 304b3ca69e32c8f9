"""One schedule in every reader's own words: transformers 5 and 4, vLLM, SGLang, llama.cpp, MLX.

What each reader computes from which key was measured where it could be run, and read in its source elsewhere;
`basis` says which.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ropewalk.methods.build import temperature
from ropewalk.methods.longrope import longrope_attention_factor
from ropewalk.models.carrier import Carried
from ropewalk.models.facts import ModelFacts
from ropewalk.models.structure.entries import factors_of
from ropewalk.models.structure.ropes import DEFAULT
from ropewalk.models.structure.values import is_number
from ropewalk.schedule import FrequencySchedule

MEASURED, READ = "measured", "read in its source"
_UNCHECKED = "one entry for each layer type was not checked in this reader"


@dataclass(frozen=True)
class Dialect:
    """A schedule for one reader: `content` is what to write, `how` where; not exact always has a `reason`."""

    name: str
    title: str
    exact: bool
    how: str
    content: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    reason: str | None = None
    basis: str = MEASURED
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        names = ("name", "title", "exact", "how", "command", "reason", "basis")
        document = {name: getattr(self, name) for name in names}
        return document | {"content": dict(self.content), "notes": list(self.notes)}


@dataclass(frozen=True)
class Job:
    """What every writer of a dialect needs: the facts, the schedule, the configuration that carries it."""

    facts: ModelFacts
    schedule: FrequencySchedule
    carried: Carried
    target_length: int

    @property
    def kind(self) -> str:
        """The stock type that the configuration uses for the main entry."""
        return self.carried.entries[self.facts.main].kind

    @property
    def text(self) -> Mapping[str, Any]:
        """The text model's part of the configuration."""
        here: Mapping[str, Any] = self.carried.config
        for key in self.facts.text_path:
            here = here[key]
        return here

    @property
    def flat(self) -> bool:
        """Whether one rotary entry serves all layers."""
        return tuple(self.facts.ropes) == (DEFAULT,)

    @property
    def unlike_measured(self) -> bool:
        """Whether the model has a structure on which no reader but transformers was run."""
        return not self.flat or self.facts.mla is not None

    def inside(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Content of the text model, wrapped for a composite."""
        wrapped: dict[str, Any] = dict(content)
        for key in reversed(self.facts.text_path):
            wrapped = {key: wrapped}
        return wrapped

    def lengths(self) -> dict[str, Any]:
        """The length keys of the text model as the carrier wrote them."""
        names = (
            "max_position_embeddings",
            "original_max_position_embeddings",
            "head_dim",
            "n_positions",
            "max_seq_len",
        )
        before = self.facts.text
        return {
            name: self.text[name]
            for name in names
            if name in self.text
            and (self.text[name] != before.get(name) or name == "max_position_embeddings")
        }


def transformers5(job: Job) -> Dialect:
    """`rope_parameters`, exact by construction: the carrier refuses what would not be."""
    content = job.inside({"rope_parameters": job.text["rope_parameters"]} | job.lengths())
    return Dialect("transformers", "transformers 5", True, "in config.json", content, notes=job.carried.notes)


def transformers4(job: Job) -> Dialect:
    """`rope_theta` and `rope_scaling`, for readers that know no `rope_parameters`."""
    title, how = "transformers 4 and older readers", "in config.json"
    if not job.carried.old_dialect:
        reason = "the older keys hold one flat entry, and this model has one for each layer type or a type of its own"
        return Dialect("transformers-4", title, False, how, reason=reason)
    names = ("rope_theta", "rotary_emb_base", "rope_local_base_freq", "rope_scaling")
    content = {name: job.text.get(name) for name in names if name in job.text or name == "rope_scaling"}
    notes: tuple[str, ...] = ()
    if job.kind == "yarn":
        notes = (
            "early 4.x releases took max_position_embeddings for YaRN's original window: check inv_freq there, "
            "or leave max_position_embeddings at the original value for them",
        )
    return Dialect(
        "transformers-4", title, True, how, job.inside(content | job.lengths()), basis=READ, notes=notes
    )


def vllm(job: Job) -> Dialect:
    """`--hf-overrides`; its longrope takes the attention factor under two names of its own."""
    entries = _copied(job.text["rope_parameters"])
    basis, notes = READ if job.unlike_measured else MEASURED, []
    for label, made in job.carried.schedules.items():
        entry = entries if job.flat else entries[label]
        if entry["rope_type"] != "longrope":
            continue
        formula = longrope_attention_factor(
            job.target_length / made.geometry.original_length, made.geometry.original_length
        )
        if not math.isclose(formula, made.attention_factor, rel_tol=1e-9):
            entry |= dict.fromkeys(("short_mscale", "long_mscale"), made.attention_factor)
            basis = READ
            notes.append(
                "vLLM computes longrope's attention factor itself unless short_mscale and long_mscale are given"
            )
        if made.short_inv_freq is not None:
            notes.append("vLLM picks the set by --max-model-len, not by the prompt")
    content = job.inside({"rope_parameters": entries} | job.lengths())
    command = f"vllm serve MODEL --max-model-len {job.target_length} --hf-overrides {shlex.quote(json.dumps(content))}"
    reason = None
    if job.schedule.geometry.proportional and job.kind != "proportional":
        reason = "its longrope rotates a partial head, not a zero tail"
    how = "on the command line, or in config.json"
    return Dialect(
        "vllm", "vLLM", reason is None, how, content, command, reason, basis, tuple(dict.fromkeys(notes))
    )


def sglang(job: Job) -> Dialect:
    """`--json-model-override-args`; its yarn reads `attn_factor`, a multiplier."""
    title, how = "SGLang", "on the command line, or in config.json"
    entries = _copied(job.text["rope_parameters"])
    if not job.flat or job.kind == "proportional":
        return Dialect("sglang", title, False, how, reason=_UNCHECKED, basis=READ)
    entry = dict(entries)
    entry["type"] = entry["rope_type"]
    theta = entry.pop("rope_theta")
    made = job.schedule
    reason: str | None = None
    if job.kind == "yarn":
        entry.pop("attention_factor", None)
        entry["attn_factor"] = made.attention_factor / _own_temperature(job)
        if job.facts.mla is None:
            entry = {name: value for name, value in entry.items() if not name.startswith("mscale")}
        if made.parameters.get("truncate") is False:
            reason = "its yarn rounds the ramp's bounds (truncate)"
    elif job.kind == "longrope":
        entry |= dict.fromkeys(("short_mscale", "long_mscale"), made.attention_factor)
    if job.facts.mla is not None and job.kind not in ("default", "yarn"):
        reason = "its MLA models were read with yarn only"
    content = job.inside(
        {"rope_theta": theta, "rope_scaling": None if job.kind == "default" else entry} | job.lengths()
    )
    arguments = shlex.quote(json.dumps(content))
    command = (
        f"python -m sglang.launch_server --model-path MODEL --context-length {job.target_length} "
        f"--json-model-override-args {arguments}"
    )
    return Dialect("sglang", title, reason is None, how, content, command, reason, READ)


def _own_temperature(job: Job) -> float:
    """What SGLang's yarn multiplies cos and sin by before `attn_factor`: 0.1 ln s + 1, or MLA's ratio of two."""
    made = job.schedule
    if job.facts.mla is None:
        return temperature(made.factor)
    entry = job.text["rope_parameters"]
    mscale, everywhere = (
        float(entry[name]) if is_number(entry.get(name)) else 0.0 for name in ("mscale", "mscale_all_dim")
    )
    return temperature(made.factor, mscale or 1.0) / temperature(made.factor, everywhere)


def llama_cpp(job: Job) -> Dialect:
    """Launch flags for what they can say; factors baked into the GGUF file for everything else."""
    title, made = "llama.cpp", job.schedule
    native = str((made.native or {}).get("type"))
    if job.facts.mla is not None and job.kind != "default":
        reason = "its graphs for MLA models have a YaRN temperature of their own, not checked here"
        return Dialect("llama.cpp", title, False, "", reason=reason, basis=READ)
    size = ["-c", str(job.target_length)]
    if not job.flat:
        reason = "its flags and its file hold one set of frequencies, this model has one for each layer type"
        return Dialect("llama.cpp", title, False, "", reason=reason, basis=READ)
    if native in ("none", "theta"):
        flags = [
            "--rope-scaling",
            "none",
            "--rope-freq-base",
            f"{job.text['rope_parameters']['rope_theta']:.10g}",
        ]
        return _flags(job, flags + size)
    if native == "linear":
        return _flags(job, ["--rope-scaling", "linear", "--rope-scale", f"{made.factor:.10g}", *size])
    if native == "yarn" and made.parameters.get("truncate", True):
        given = made.parameters
        flags = ["--rope-scaling", "yarn", "--rope-scale", f"{made.factor:.10g}"]
        flags += ["--yarn-orig-ctx", str(made.geometry.original_length)]
        flags += ["--yarn-beta-fast", f"{given.get('beta_fast', 32.0):g}"]
        flags += ["--yarn-beta-slow", f"{given.get('beta_slow', 1.0):g}"]
        flags += ["--yarn-attn-factor", f"{made.attention_factor / temperature(made.factor):.10g}"]
        return _flags(job, flags + size)
    content: dict[str, Any] = {
        "rope_freqs.weight": factors_of(made, made.inv_freq),
        "rope.scaling.type": "none",
        "rope.scaling.attn_factor": made.attention_factor,
        "rope.freq_base": made.geometry.rope_theta,
        "context_length": job.target_length,
    }
    notes: tuple[str, ...] = ("use an f32 cache and no flash attention when comparing numbers",)
    if made.short_inv_freq is not None:
        notes = ("one file a regime: this is the long set", *notes)
    how = "in the GGUF file: a tensor of one factor a pair, and these metadata keys under the architecture's name"
    return Dialect("llama.cpp", title, True, how, content, notes=notes)


def _theta(job: Job) -> float:
    return float((job.schedule.native or {}).get("rope_theta", job.schedule.geometry.rope_theta))


def _flags(job: Job, flags: list[str]) -> Dialect:
    command = " ".join(["llama-server", "-m", "MODEL.gguf", *flags])
    return Dialect(
        "llama.cpp", "llama.cpp", True, "launch flags, over an unscaled GGUF", {"flags": flags}, command
    )


def mlx(job: Job) -> Dialect:
    """The old keys only; its longrope always takes the long set and an attention factor by formula."""
    title, how = "MLX", "in config.json: it reads the old keys only"
    if not job.carried.old_dialect:
        unsaid = "it ignores rope_parameters without a word, and the old keys cannot say this"
        return Dialect("mlx", title, False, how, reason=unsaid)
    if not job.flat:
        return Dialect("mlx", title, False, how, reason=_UNCHECKED, basis=READ)
    made = job.schedule
    reason: str | None = None
    content = {name: job.text.get(name) for name in ("rope_theta", "rope_local_base_freq", "rope_scaling")}
    content = {name: value for name, value in content.items() if value is not None or name == "rope_scaling"}
    lengths = job.lengths()
    basis = READ if job.unlike_measured else MEASURED
    if job.kind == "yarn" and made.parameters.get("truncate") is False:
        reason = "its yarn ignores truncate"
    elif job.kind == "yarn" and not math.isclose(_mlx_yarn(made), made.attention_factor, rel_tol=1e-9):
        reason = "its yarn ignores attention_factor"
    elif job.kind == "longrope":
        original = made.geometry.original_length
        if made.short_inv_freq is not None:
            reason = "it always uses the long set"
        elif made.attention_factor == 1.0 and job.target_length != original:
            # It takes sqrt(1 + ln(max/original)/ln(original)); equal lengths make that 1.
            content["rope_scaling"] = dict(content["rope_scaling"] or {}) | {
                "original_max_position_embeddings": job.target_length
            }
            basis = READ
        elif not math.isclose(
            longrope_attention_factor(job.target_length / original, original), made.attention_factor
        ):
            reason = "it computes the attention factor itself, from the two lengths"
    notes = ("mlx_lm's own converter copies config.json: write the keys before converting",)
    return Dialect(
        "mlx", title, reason is None, how, job.inside(content | lengths), None, reason, basis, notes
    )


def _mlx_yarn(made: FrequencySchedule) -> float:
    """mscale over mscale_all_dim, with 1 and 0 where they are not given."""
    mscale = float(made.parameters.get("mscale", 1.0))
    return temperature(made.factor, mscale) / temperature(
        made.factor, float(made.parameters.get("mscale_all_dim", 0.0))
    )


def _copied(entries: Mapping[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(entries))
    return copied


WRITERS: dict[str, Callable[[Job], Dialect]] = {
    "transformers": transformers5,
    "transformers-4": transformers4,
    "vllm": vllm,
    "sglang": sglang,
    "llama.cpp": llama_cpp,
    "mlx": mlx,
}
