"""The position maps by name: what each does, its paper and its parameters. `position_maps` computes them.

A table of its own, since methods must know these names (who asks for a schedule by one is told what it is instead) and
maps are made of methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MapInfo:
    """What `ropewalk methods` says about a map. `parameters` are those that `map_for` takes, with their defaults."""

    name: str
    summary: str
    paper: str | None
    parameters: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """What kind of candidate it is in a comparison."""
        return "zones" if self.name == "zones" else "position-map"

    def to_json(self) -> dict[str, Any]:
        """For `methods --json`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "summary": self.summary,
            "paper": self.paper,
            "parameters": dict(self.parameters),
        }


_SHARED = {
    "near": "half the window",
    "discount": 0.0,
    "log_discount": 0.0,
    "far_logits": 1.0,
    "sharpness": 0.0,
}
MAPS: dict[str, MapInfo] = {
    item.name: item
    for item in (
        MapInfo(
            "zones",
            "true distances up to near, beyond it any schedule, continuous where they meet",
            None,
            _SHARED | {"discount": "log", "far_method": "linear"},
        ),
        MapInfo(
            "self-extend",
            "true distances up to near, beyond it positions in groups of one size",
            "arXiv:2401.01325",
            _SHARED | {"group": "what reaches the target"},
        ),
        MapInfo(
            "dpe",
            "self-extend with a group size for each band of pairs",
            "arXiv:2504.18857",
            _SHARED | {"groups": "1 for the fast pairs, up to what reaches the target for the slow ones"},
        ),
        MapInfo("rerope", "distances stop growing at near", "https://kexue.fm/archives/9708", dict(_SHARED)),
        MapInfo(
            "leaky-rerope",
            "distances grow by 1/slowdown beyond near",
            "https://kexue.fm/archives/9708",
            _SHARED | {"slowdown": "what reaches the target"},
        ),
        MapInfo(
            "dual-chunk",
            "positions by chunks: inside, to the chunk before, to all earlier ones",
            "arXiv:2402.17463",
            {"chunk": "three quarters of the window"},
        ),
    )
}
