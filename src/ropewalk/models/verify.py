"""`verify`: six checks that an extended checkpoint is what it says, in stock software as in ours."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, RopewalkError, UsageError, one_line
from ropewalk.manifests import changed_entries
from ropewalk.models.apply import apply
from ropewalk.models.checkpoint.companions import CONFIG
from ropewalk.models.checkpoint.manifest import read_manifest
from ropewalk.models.checkpoint.weights import find_weights
from ropewalk.models.config import read_config
from ropewalk.models.facts import read_facts
from ropewalk.models.live.long_positions import AngleError, angle_errors
from ropewalk.models.load import load_model, pick_device, refuse_remote_code
from ropewalk.models.proof.checks import (
    Check,
    Outcome,
    Status,
    compare_runs,
    dialects,
    frequencies,
    weights_of,
)
from ropewalk.models.proof.original import Original, original_of
from ropewalk.models.proof.probe import dtype_that_fits, probes_for, run, takes_positions
from ropewalk.models.proof.stock import stock_run
from ropewalk.models.quantised import stored_bits
from ropewalk.models.source import is_gguf, locate
from ropewalk.models.structure.view import view_of
from ropewalk.schedule import FrequencySchedule

NAMES = ("active", "stock-parity", "identity", "frequencies", "dialects", "weights")
FORWARDS = NAMES[:3]


@dataclass(frozen=True)
class Verified:
    """The outcome of `verify`: one check per name, in the order of `NAMES`.

    `passed` says that no check failed, `unproven` names what no forward has shown: a gate takes both. `changed` are
    files that are no longer what `extend` wrote; of weights it knows the size alone. They may have been meant, so that
    no check fails for them.
    """

    folder: Path
    base: str
    schedule: FrequencySchedule | None
    checks: tuple[Check, ...]
    used: str
    angle_errors: tuple[AngleError, ...]
    changed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """No check failed (a skipped one says why it could not run)."""
        return all(check.status != "fail" for check in self.checks)

    @property
    def unproven(self) -> tuple[str, ...]:
        """The checks that need a forward and got none. A schedule that changes nothing has no activity to show."""
        return tuple(check.name for check in self.checks if check.name in FORWARDS and check.was_not_run)

    def to_json(self) -> dict[str, Any]:
        """The document of `verify --json`."""
        return {
            "checkpoint": str(self.folder),
            "base": self.base,
            "checks": [check.to_json() for check in self.checks],
            "passed": self.passed,
            "unproven": list(self.unproven),
            "used": self.used,
            "changed": list(self.changed),
            "angle_error": [error.to_json() for error in self.angle_errors],
        }


def verify(
    checkpoint: str | Path,
    *,
    base: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "sdpa",
    trust_remote_code: bool = False,
) -> Verified:
    """Check an extended checkpoint against the model it came from. Nothing raises for a failed check; see `passed`.

    1. `active`: past the original window its logits differ from the base's.
    2. `stock-parity`: a fresh process with stock transformers alone gives the bits of in-memory application.
    3. `identity`: where the schedule changes nothing, nothing changes, to the bit.
    4. `frequencies`: the stock class, built without weights, computes the schedule.
    5. `dialects`: old and new keys of config.json give the same frequencies.
    6. `weights`: the weights are the base's, by hash.

    `base` defaults to what the checkpoint's manifest names; without it, to the checkpoint's own weights under the
    unscaled configuration. `dtype="auto"` is float32 where it fits into memory, else bfloat16.
    """
    place = locate(checkpoint)
    if is_gguf(place.config):
        raise UsageError(
            f"{place.config} is a GGUF file, which stock transformers does not compute as it is stored: there is "
            "nothing to compare it with",
            hint="`ropewalk inspect` reads the schedule in it; `verify OUT --runtime llama.cpp` runs the file made "
            "from a checkpoint; `verify http://HOST/v1 --base MODEL` asks a server that runs it",
        )
    if place.config.name != CONFIG:
        raise UsageError(
            f"{place.config} is not what stock software would load from {place.folder}, which is its {CONFIG}",
            hint="give the folder, or extend the file into a folder of its own first",
        )
    folder = place.folder
    refuse_remote_code(folder, trust_remote_code)
    config = read_config(folder)
    manifest = read_manifest(folder)
    original = original_of(folder, config, manifest, base)
    # First what needs no forward, so that a machine too small for the model still answers half.
    checks = {"frequencies": frequencies(config), "dialects": dialects(config)}
    checks["weights"] = weights_of(folder, original, (manifest or {}).get("temperature"))
    used = "no forward was run"
    try:
        outcome = _run(folder, config, manifest, original, (device, dtype, attn, trust_remote_code))
    except DamagedError:
        raise
    except RopewalkError as error:
        detail = one_line(error, 400)
        # No ground to run on is no verdict; any other failure is the checkpoint's.
        status: Status = "skip" if isinstance(error, _CannotRunError) else "fail"
        checks |= {name: Check(name, status, detail, was_not_run=status == "skip") for name in FORWARDS}
    else:
        used = outcome.used
        checks |= compare_runs(outcome)
    schedule = original.schedule
    errors = () if schedule is None else tuple(angle_errors(schedule))
    done = tuple(checks[name] for name in NAMES)
    changed = changed_entries(folder, (manifest or {}).get("files"))
    return Verified(folder, original.name, schedule, done, used, errors, tuple(changed))


class _CannotRunError(RopewalkError):
    """This machine or this folder gives no ground to run the model at all."""


def _run(
    folder: Path,
    config: Mapping[str, Any],
    manifest: Mapping[str, Any] | None,
    original: Original,
    options: tuple[str, str, str, bool],
) -> Outcome:
    """Every forward that the first three checks need: ours first, then the fresh process, never both in memory."""
    device_name, dtype, attn, trust = options
    try:
        found = find_weights(folder)
        if original.schedule is None:
            raise RopewalkError(
                original.problem or "its scaling cannot be read", hint="`ropewalk inspect` says why"
            )
        device = pick_device(device_name)
        parameters = found.num_parameters
        chosen = dtype_that_fits(parameters, found.total_bytes, device) if dtype == "auto" else dtype
    except DamagedError:
        raise
    except RopewalkError as error:
        raise _CannotRunError(error.message, hint=error.hint) from error
    target = read_facts(config).max_position_embeddings
    with original.model_folder() as where, _quantised(config):
        model = load_model(where, device=str(device), dtype=chosen, attn=attn, trust_remote_code=trust)
    # What really runs, should this architecture lack the wanted kind.
    attn = model.config._attn_implementation
    facts = original.facts
    probes = probes_for(facts, target, parameters, device.type, offsets=takes_positions(model))
    outcome = Outcome(facts, original.schedule, probes, str(device), chosen)
    outcome.base = [run(model, probe) for probe in probes]
    outcome.sinks = any(name.endswith("sinks") for name, _ in model.named_parameters())
    outcome.base_buffers = _buffers(model)
    with (
        _tempered(model, folder, manifest),
        apply(model, original.schedule, layers=original.layers, target_length=target) as applied,
    ):
        outcome.persistent, outcome.reason = applied.persistent, applied.reason
        outcome.applied = [run(model, probe) for probe in probes]
    outcome.after = [run(model, probe) for probe in probes]
    # The base's own scaling applied to it must change nothing.
    own = facts.rope.schedule
    if own is not None:
        with apply(model, own, layers=original.layers, target_length=facts.max_position_embeddings):
            outcome.identity = [run(model, probe) for probe in probes]
    del model
    _free(device.type)
    outcome.stock = stock_run(
        folder, probes, device=str(device), dtype=chosen, attn=attn, trust_remote_code=trust
    )
    return outcome


@contextlib.contextmanager
def _tempered(model: Any, folder: Path, manifest: Mapping[str, Any] | None) -> Iterator[None]:
    """Inside the block the tensors that hold a folded temperature are the checkpoint's, all others the base's.

    Without them the base under the schedule is another model than the checkpoint, and no scaling would be at fault.
    """
    said = (manifest or {}).get("temperature")
    names = said.get("tensors") if isinstance(said, Mapping) else None
    if not isinstance(names, list) or not names:
        yield
        return
    from safetensors import safe_open

    own, kept = model.state_dict(), dict[str, Any]()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in sorted(set(file.keys()) & set(names) & set(own)):
                kept[name] = own[name].clone()
                own[name].copy_(file.get_tensor(name))
    try:
        yield
    finally:
        for name, tensor in kept.items():
            own[name].copy_(tensor)


@contextlib.contextmanager
def _quantised(config: Mapping[str, Any]) -> Iterator[None]:
    """Quantised weights load only where their own software is: without it nothing about the checkpoint is wrong."""
    try:
        yield
    except RopewalkError as error:
        found = stored_bits(config, view_of(config).text)
        if found is None:
            raise
        raise _CannotRunError(
            f"its weights are quantised ({found[0]}) and do not load here: {error.message}",
            hint="only the configuration was checked; run verify where they load",
        ) from error


def _free(device: str) -> None:
    """Give the first model's memory back before the other process asks for as much."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def _buffers(model: Any) -> dict[str, Any]:
    """Every one-dimensional frequency buffer as float32 numpy, by name."""
    return {
        name: buffer.detach().float().cpu().numpy().copy()
        for name, buffer in model.named_buffers()
        if "inv_freq" in name and buffer.dim() == 1
    }
