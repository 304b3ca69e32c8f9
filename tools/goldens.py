"""Writes tests/golden/schedules.json: every method on three geometries. A refactor leaves it as it is."""

from __future__ import annotations

import json
from pathlib import Path

import ropewalk

TARGET = Path(__file__).parents[1] / "tests" / "golden" / "schedules.json"
GEOMETRIES = {
    "llama-2": ropewalk.RopeGeometry(head_dim=128, rope_theta=10000.0, original_length=4096),
    "small": ropewalk.RopeGeometry(head_dim=64, rope_theta=10000.0, original_length=512),
    "partial": ropewalk.RopeGeometry(80, 1000000.0, 32768, partial_rotary_factor=0.4),
}


def goldens() -> dict[str, dict[str, object]]:
    """name/geometry/factor -> frequencies and attention factor."""
    return {
        f"{name} | {label} | {factor}": {
            "inv_freq": made.inv_freq.tolist(),
            "attention_factor": made.attention_factor,
        }
        for name in sorted(ropewalk.methods())
        for label, geometry in GEOMETRIES.items()
        for factor in (2, 8)
        for made in [ropewalk.schedule(name, geometry, factor=factor)]
    }


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(goldens(), indent=1) + "\n", encoding="utf-8")
    print(f"{len(goldens())} schedules in {TARGET}")
