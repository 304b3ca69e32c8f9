"""`ropewalk.inspect`: what a rotary embedding is, which pairs break past the window, what is wrong in its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.analysis import base_bound, out_of_bound
from ropewalk.geometry import RopeGeometry
from ropewalk.models.config import read_config, tokenizer_settings
from ropewalk.models.defects.encoding import encoding_rules
from ropewalk.models.defects.finding import Finding, sorted_findings
from ropewalk.models.defects.findings import find
from ropewalk.models.defects.tidy import tidy
from ropewalk.models.drafts import companion_remarks
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.observations import Observation, observe
from ropewalk.models.quantised import stored_bits
from ropewalk.models.source import CONFIG_NAME, Place, locate
from ropewalk.models.structure.values import naming
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import parse_target


@dataclass(frozen=True)
class Pair:
    """One rotary pair: `rotations` and `seen_share` in the original window, `stretch` under the file's own scaling.

    `out_of_bound` says, for a target, whether the pair reaches angles there that training never saw.
    """

    index: int
    wavelength: float
    rotations: float
    seen_share: float
    stretch: float | None
    out_of_bound: bool | None

    def to_json(self) -> dict[str, Any]:
        """Every field; a pair that stands still has no wavelength."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class InspectResult:
    """What `ropewalk inspect` prints: the facts, the pairs of the main rotary entry, and the findings."""

    source: str
    facts: ModelFacts
    pairs: tuple[Pair, ...]
    findings: tuple[Finding, ...]
    target_length: int | None
    base_bound: float | None
    observations: tuple[Observation, ...] = ()
    companions: tuple[str, ...] = ()

    @property
    def geometry(self) -> RopeGeometry:
        """The original geometry of the layers that see the whole context."""
        return self.facts.geometry

    @property
    def schedule(self) -> FrequencySchedule | None:
        """What the file asks for now; None for dynamic scaling and for what cannot be computed."""
        return self.facts.rope.schedule

    @property
    def critical_dim(self) -> int:
        """Dimensions whose pairs complete a turn in the original window."""
        return self.geometry.critical_dim

    @property
    def quantised(self) -> dict[str, Any] | None:
        """How the weights are stored where they are quantised; the rotary part is configuration all the same."""
        found = stored_bits(self.facts.config, self.facts.text)
        return None if found is None else {"method": found[0], "bits": found[1]}

    @property
    def worst(self) -> str | None:
        """The gravest severity found."""
        return self.findings[0].severity if self.findings else None

    def to_json(self) -> dict[str, Any]:
        """The document of `inspect --json`."""
        facts, rope = self.facts, self.facts.rope
        return {
            "source": self.source,
            "geometry": geometry_json(self.geometry) | {"num_layers": facts.num_layers},
            "scaling": scaling_json(facts),
            "pairs": [pair.to_json() for pair in self.pairs],
            "critical_dim": self.critical_dim,
            "target_length": self.target_length,
            "base_bound": self.base_bound,
            "layers": facts.layers.to_json(),
            "ropes": {label: other.to_json() for label, other in facts.ropes.items()},
            "main": rope.layer_type,
            "model": facts.to_json(),
            "findings": [finding.to_json() for finding in self.findings],
            "observations": [each.to_json() for each in self.observations],
            "companions": list(self.companions),
            "quantised": self.quantised,
        }


def geometry_json(geometry: RopeGeometry) -> dict[str, Any]:
    """A geometry with the counts that follow from it."""
    return geometry.to_json() | {
        "half_dim": geometry.half_dim,
        "num_rotating": geometry.num_rotating,
        "critical_dim": geometry.critical_dim,
        "pairs_below_one_turn": int(np.sum(geometry.rotations[: geometry.num_rotating] < 1.0)),
    }


def scaling_json(facts: ModelFacts) -> dict[str, Any]:
    """The scaling that the file asks for."""
    rope = facts.rope
    made = rope.schedule
    return {
        "rope_type": rope.rope_type,
        "method": None if made is None else made.method,
        "factor": rope.factor,
        "attention_factor": None if made is None else made.attention_factor,
        "softmax_scale": rope.softmax_scale,
        "active": rope.is_scaled,
        "original_length": rope.geometry.original_length,
        "max_position_embeddings": facts.max_position_embeddings,
        "parameters": {} if made is None else dict(made.parameters),
        "problem": rope.problem,
    }


def inspect(source: str | Path | Mapping[str, Any], target: str | int | None = None) -> InspectResult:
    """Look at a model's configuration: a folder, a config.json, `hemp`, a Hub id, or the mapping itself.

    `target` is a length in tokens (32768, "32k") or a multiple of the original window ("8x"); with it the result says
    which pairs go out of bound there under the file's own scaling, and the base bound. Nothing heavy is imported.
    """
    config, tokenizer, name, place = _read(source)
    with naming(CONFIG_NAME if place is None else str(place.config)):
        # Mended for the reading alone: what is wrong is found in the file as it stands.
        facts = read_facts(tidy(config)[0])
    length = None if target is None else parse_target(target, facts.original_length)
    # Once, for the findings and for whoever prints it: a scan may take a while.
    bound = None if length is None else base_bound(facts.geometry.rotary_dim, length)
    findings = find(config, facts, target_length=length, tokenizer=tokenizer, base_bound=bound)
    if place is not None:
        findings = sorted_findings([*encoding_rules(place.config), *findings])
    beside = companion_remarks(facts, place)
    geometry, made = facts.geometry, facts.rope.schedule
    past = None if length is None or made is None else out_of_bound(made, length)
    stretch = None if made is None else made.stretch
    rotations, wavelength = geometry.rotations, geometry.wavelength
    pairs = tuple(
        Pair(
            index=i,
            wavelength=float(wavelength[i]),
            rotations=float(rotations[i]),
            seen_share=float(min(1.0, rotations[i])),
            stretch=None if stretch is None else float(stretch[i]),
            out_of_bound=None if past is None else bool(past[i]),
        )
        for i in range(geometry.half_dim)
    )
    return InspectResult(name, facts, pairs, tuple(findings), length, bound, observe(facts), beside)


def _read(
    source: str | Path | Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any] | None, str, Place | None]:
    """The configuration, the tokenizer's settings beside it, a name for the model, and where it is."""
    if isinstance(source, Mapping):
        name = str(source.get("_name_or_path") or source.get("model_type") or "config")
        return dict(source), None, name, None
    place = locate(source)
    return read_config(place.config), tokenizer_settings(place.config), str(source), place
