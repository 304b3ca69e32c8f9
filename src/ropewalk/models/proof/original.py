"""The model that a checkpoint was extended from: a folder where it is here, otherwise rebuilt from what travelled."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.files import sha256_of, write_json
from ropewalk.manifests import inside
from ropewalk.methods import schedule as make_schedule
from ropewalk.models.checkpoint.companions import CONFIG
from ropewalk.models.checkpoint.weights import INDEX, find_weights
from ropewalk.models.config import read_config
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.source import locate
from ropewalk.models.structure.record import RECORD
from ropewalk.models.writing.carrier import carry
from ropewalk.schedule import FrequencySchedule


@dataclass(frozen=True)
class Original:
    """The base of a checkpoint. `folder` is where its own weights are, None when only its configuration is known.
    `loads_as_is` says that this folder's config.json is the base's configuration, and not another file of it.

    `schedule` is what was applied to it, None with the `problem` when the checkpoint does not say.
    """

    name: str
    folder: Path | None
    checkpoint: Path
    config: Mapping[str, Any]
    facts: ModelFacts
    schedule: FrequencySchedule | None
    problem: str | None
    layers: str
    loads_as_is: bool = True

    @contextlib.contextmanager
    def model_folder(self) -> Iterator[Path]:
        """A folder to load the base from: its own, or the checkpoint's weights under the base's configuration."""
        if self.folder is not None and self.loads_as_is:
            yield self.folder
            return
        weights = self.checkpoint if self.folder is None else self.folder
        with tempfile.TemporaryDirectory(prefix="ropewalk-") as place:
            rebuilt = Path(place)
            write_json(rebuilt / CONFIG, dict(self.config))
            found = find_weights(weights)
            for shard in found.shards:
                target = rebuilt / shard.relative_to(weights)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(shard.resolve())
            if found.index is not None:
                (rebuilt / INDEX).symlink_to(found.index.resolve())
            yield rebuilt


def original_of(
    checkpoint: Path, config: Mapping[str, Any], manifest: Mapping[str, Any] | None, base: str | Path | None
) -> Original:
    """The base that was given, or that the manifest names, or the checkpoint with its scaling taken out."""
    schedule, problem, layers = _applied(config, manifest)
    name, folder, own, config_name = "", None, None, CONFIG
    if base is not None:
        given = locate(base, need_weights=True)
        folder, config_name = given.folder, given.config.name
        name, own = str(base), read_config(given.config)
    elif manifest is not None:
        entry = manifest["base"]
        place = Path(entry["folder"])
        config_name = str(entry.get("config_file", CONFIG))
        file = inside(place, config_name, what=f"the base of {checkpoint}")
        # Changed since, it is no base any more: what the manifest kept of it counts.
        here = file.is_file() and sha256_of(file) == entry["config_sha256"]
        # A checkpoint that holds a temperature has weights of its own, which the base's are not to be held against.
        kept = manifest.get("temperature") is None
        folder = place if kept and here and any(place.glob("*.safetensors")) else None
        name = (
            f"{entry['source']}"
            if folder
            else "the checkpoint's weights under the base configuration of its manifest"
        )
        own = dict(entry["config"])
    else:
        name, own = "the checkpoint itself with its scaling taken out", _without_scaling(config)
    facts = read_facts(own)
    return Original(name, folder, checkpoint, own, facts, schedule, problem, layers, config_name == CONFIG)


def _applied(
    config: Mapping[str, Any], manifest: Mapping[str, Any] | None
) -> tuple[FrequencySchedule | None, str | None, str]:
    """The schedule that the manifest promises, or else the one that the configuration describes."""
    if manifest is not None and manifest.get("schedule") is not None:
        return FrequencySchedule.from_json(manifest["schedule"]), None, str(manifest.get("layers", "full"))
    rope = read_facts(config).rope
    return rope.schedule, rope.problem, "full"


def _without_scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    facts = read_facts(config)
    plain = make_schedule("none", facts.geometry, factor=1.0)
    try:
        bare = carry(config, plain, target_length=facts.original_length).config
    except RopewalkError as error:
        raise RopewalkError(
            f"the checkpoint's scaling cannot be taken out ({error.message})",
            hint="name its base with --base",
        ) from error
    bare.pop(RECORD, None)
    return bare
