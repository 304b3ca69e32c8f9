"""The checks of `verify`, each from what was computed or read to pass, fail or skip with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.checkpoint.weights import find_weights, same_content
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.live.built import NotHereError, disagreement
from ropewalk.models.proof.original import Original
from ropewalk.models.proof.probe import Probe
from ropewalk.models.proof.stock import StockRun
from ropewalk.models.structure.record import RECORD
from ropewalk.models.writing.carrier import carry
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_bytes

_ROUNDING = 1e-3
Status = Literal["pass", "fail", "skip"]
_NEW, _OLD = ("rope_parameters",), ("rope_scaling",)


@dataclass(frozen=True)
class Check:
    """One verdict and its grounds. `was_not_run` tells a skip for want of a run from one with nothing to check."""

    name: str
    status: Status
    detail: str
    was_not_run: bool = False

    def to_json(self) -> dict[str, str]:
        """For `verify --json`."""
        return {"name": self.name, "status": self.status, "detail": self.detail}


@dataclass
class Outcome:
    """Logits and buffers of every run: base, with the schedule applied, after its removal, stock, identity."""

    facts: ModelFacts
    schedule: FrequencySchedule
    probes: list[Probe]
    device: str
    dtype: str
    base: list[np.ndarray] = field(default_factory=list)
    applied: list[np.ndarray] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)
    identity: list[np.ndarray] = field(default_factory=list)
    base_buffers: dict[str, np.ndarray] = field(default_factory=dict)
    stock: StockRun | None = None
    persistent: bool = True
    reason: str = ""
    sinks: bool = False

    @property
    def used(self) -> str:
        """What was run, in words."""
        kinds = {
            "short": "{n} tokens inside the window",
            "contiguous": "{n} tokens in a row, past the original window",
            "gap": "{n} tokens, half at the start and half at the end of the target window "
            "(a contiguous input of that length would cost too much here)",
        }
        said = "; ".join(kinds[probe.name].format(n=len(probe.ids)) for probe in self.probes)
        return f"{self.dtype} on {self.device}: {said}"


def compare_runs(outcome: Outcome) -> dict[str, Check]:
    """The three checks that need forwards."""
    return {"active": _active(outcome), "stock-parity": _parity(outcome), "identity": _identity(outcome)}


def _active(outcome: Outcome) -> Check:
    name, stock = "active", outcome.stock
    assert stock is not None
    if outcome.schedule.is_identity:
        return Check(name, "skip", "the schedule changes nothing (factor 1): there is nothing to be active")
    if len(outcome.probes) < 2:
        return Check(name, "skip", "no input past the original window is affordable here", was_not_run=True)
    probe, base, ours = outcome.probes[-1], outcome.base[-1], stock.logits[-1]
    if not (np.isfinite(ours).all() and np.isfinite(base).all()):
        return Check(name, "fail", "logits past the original window are not finite")
    if _buffers_are_the_bases(outcome):
        return Check(name, "fail", "scaling is off: stock software turns at the base's own frequencies")
    # Any difference will do: a schedule that was ignored gives the very same bits.
    moved = float(np.abs(ours[probe.far_from :] - base[probe.far_from :]).max())
    detail = (
        f"largest logit difference from the base past {outcome.facts.original_length} tokens: {moved:.3g}"
    )
    return Check(name, "pass" if moved > 0 else "fail", detail if moved > 0 else f"scaling is off: {detail}")


def _buffers_are_the_bases(outcome: Outcome) -> bool:
    """Whether every frequency buffer is the base's although the schedule moves some."""
    made, stock = outcome.schedule, outcome.stock
    assert stock is not None
    # With two sets the buffer holds whichever the last input chose.
    if made.short_inv_freq is not None or np.array_equal(made.inv_freq, outcome.facts.geometry.inv_freq):
        return False
    if outcome.facts.rope.is_scaled or not outcome.base_buffers:
        return False
    return all(
        path in stock.buffers and np.array_equal(buffer, stock.buffers[path])
        for path, buffer in outcome.base_buffers.items()
    )


def _parity(outcome: Outcome) -> Check:
    name, stock = "stock-parity", outcome.stock
    assert stock is not None
    if stock.foreign:
        return Check(name, "fail", f"the stock process loaded {stock.foreign[0]}")
    pairs = list(zip(outcome.applied, stock.logits, strict=True))
    if all(np.array_equal(one, other) for one, other in pairs):
        return Check(
            name, "pass", f"bit-equal logits in a fresh process with transformers {stock.transformers} alone"
        )
    apart = max(float(np.abs(one - other).max()) for one, other in pairs)
    return Check(name, "fail", f"stock logits differ from in-memory application by up to {apart:.3g}")


def _identity(outcome: Outcome) -> Check:
    name, stock = "identity", outcome.stock
    assert stock is not None
    for what, logits in (
        ("removing the schedule", outcome.after),
        ("the model's own schedule", outcome.identity),
    ):
        if logits and not all(
            np.array_equal(one, other) for one, other in zip(logits, outcome.base, strict=True)
        ):
            return Check(name, "fail", f"{what} does not give the base's logits back")
    still = _unmoved(outcome)
    if isinstance(still, Check):
        return still
    first = _first_token(outcome)
    if isinstance(first, Check):
        return first
    short = outcome.schedule.short_inv_freq
    inside = short is not None and np.array_equal(short, outcome.schedule.geometry.inv_freq)
    if (
        inside
        and outcome.schedule.attention_factor == 1.0
        and not np.array_equal(stock.logits[0], outcome.base[0])
    ):
        return Check(name, "fail", "inputs inside the window should be untouched and are not")
    detail = f"bit-identical to the base: factor 1, removal{first}, {still} frequencies that the schedule leaves alone"
    return Check(name, "pass", detail)


def _first_token(outcome: Outcome) -> str | Check:
    """The first token sees itself alone, so no rotation touches it: the same bits as the base's, or it is not said."""
    assert outcome.stock is not None
    if outcome.sinks or outcome.probes[0].keep:
        return ""
    ours, base = outcome.stock.logits[0][0], outcome.base[0][0]
    if np.array_equal(ours, base):
        return ", first token"
    # Experts take tokens in groups; other tokens' choices change the groups, and with them the order of additions.
    if outcome.facts.experts and np.abs(ours - base).max() <= _ROUNDING * max(np.abs(base).max(), 1.0):
        return ", first token (to rounding: experts take tokens in groups)"
    return Check(
        "identity", "fail", "the first token, which no rotation touches, has other logits than the base's"
    )


def _unmoved(outcome: Outcome) -> int | Check:
    """How many frequencies the schedule leaves alone, each compared by bits in the stock process."""
    assert outcome.stock is not None
    alone = outcome.schedule.stretch == 1.0
    if not np.array_equal(outcome.schedule.geometry.inv_freq, outcome.facts.geometry.inv_freq):
        return 0
    count = 0
    for path, buffer in outcome.base_buffers.items():
        other = outcome.stock.buffers.get(path)
        if buffer.shape != alone.shape or other is None or outcome.facts.rope.is_scaled:
            continue
        if not np.array_equal(buffer[alone], other[alone]):
            return Check("identity", "fail", f"{path} changed where the schedule leaves frequencies alone")
        count += int(alone.sum())
    return count


def dialects(config: Mapping[str, Any]) -> Check:
    """Read the configuration with the new keys alone and with the old keys alone; both must mean the same."""
    name = "dialects"
    # Without our own note, which no other reader has.
    bare = {key: value for key, value in config.items() if key != RECORD}
    whole = read_facts(bare)
    text = whole.text
    has_new, has_old = text.get("rope_parameters") is not None, text.get("rope_scaling") is not None
    if has_new and not has_old:
        if not _old_keys_can_say(bare, whole):
            return Check(
                name, "pass", "rope_parameters alone: the old keys cannot say this, and do not contradict it"
            )
        if whole.rope.is_scaled and whole.rope.rope_type != "default":
            return Check(
                name, "fail", "older readers see no scaling: rope_scaling is missing (see `extend --repair`)"
            )
    try:
        readings = [read_facts(_without(bare, whole.text_path, keys)) for keys in (_NEW, _OLD)]
    except RopewalkError as error:
        return Check(name, "fail", f"one dialect alone cannot be read ({one_line(error, 200)})")
    # Without the new keys the old ones speak, and the other way round.
    for reading, word in zip(readings, ("old", "new"), strict=True):
        one, other = reading.rope.schedule, whole.rope.schedule
        if one is None or other is None:
            return Check(name, "fail", f"{whole.rope.problem or reading.rope.problem}")
        alike = np.allclose(one.inv_freq, other.inv_freq, rtol=1e-12, atol=0)
        if not alike or abs(one.attention_factor - other.attention_factor) > 1e-12:
            return Check(
                name, "fail", f"the {word} keys alone give other frequencies or another attention factor"
            )
    return Check(name, "pass", "rope_parameters, and rope_theta with rope_scaling, give the same frequencies")


def frequencies(config: Mapping[str, Any]) -> Check:
    """Whether the real class, built without weights, computes the schedule that the configuration means."""
    name, facts = "frequencies", read_facts(config)
    if not facts.known or facts.auto_map:
        return Check(name, "skip", f"the installed transformers has no class for {facts.text_type}")
    if facts.rope.schedule is None:
        return Check(name, "skip", facts.rope.problem or "no single schedule")
    try:
        other = disagreement(config, facts)
    except NotHereError as error:
        return Check(name, "skip", one_line(error, 240))
    except RopewalkError as error:
        return Check(name, "fail", one_line(error, 240))
    if other is not None:
        return Check(name, "fail", f"stock software reads other values: {other}")
    return Check(name, "pass", "stock transformers builds it and computes this schedule (no weights needed)")


def _old_keys_can_say(config: Mapping[str, Any], facts: ModelFacts) -> bool:
    """Whether `extend` would write this model's scaling in the old keys too."""
    own = facts.rope.schedule
    if own is None:
        return True
    try:
        return carry(config, own, target_length=facts.max_position_embeddings).old_dialect
    except RopewalkError:
        return False


def _without(config: Mapping[str, Any], path: tuple[str, ...], keys: tuple[str, ...]) -> dict[str, Any]:
    """The configuration with some keys of its text model taken away."""
    fresh = dict(config)
    if path:
        fresh[path[0]] = _without(config[path[0]], path[1:], keys)
        return fresh
    return {key: value for key, value in fresh.items() if key not in keys}


def weights_of(folder: Path, original: Original, temperature: Any = None) -> Check:
    """Whether every weight file is the base's: the same file on disk, or the same SHA-256."""
    name = "weights"
    if isinstance(temperature, Mapping):
        count = len(temperature.get("tensors", ()))
        said = f"{count} tensors hold the temperature {one_line(temperature.get('name'), 40)}; the rest is not compared"
        return Check(name, "skip", said)
    if original.folder is None:
        return Check(
            name, "skip", f"the base's weights are not here (base: {original.name}): name them with --base"
        )
    try:
        found, base = find_weights(folder), find_weights(original.folder)
    except RopewalkError as error:
        missing = not any(folder.glob("*.safetensors"))
        return Check(name, "skip" if missing else "fail", one_line(error, 240))
    names = {shard.relative_to(folder): shard for shard in found.shards}
    theirs = {shard.relative_to(original.folder): shard for shard in base.shards}
    if set(names) != set(theirs):
        return Check(
            name, "fail", f"{len(names)} weight files here, {len(theirs)} in the base, under other names"
        )
    for relative, shard in names.items():
        if not same_content(shard, theirs[relative]):
            return Check(name, "fail", f"{relative} differs from the base's")
    linked = sum(shard.samefile(theirs[relative]) for relative, shard in names.items())
    total = format_bytes(found.total_bytes)
    return Check(
        name,
        "pass",
        f"{len(names)} files, {total}: {linked} the base's own, {len(names) - linked} equal by SHA-256",
    )
