"""The document and the table of `bench_tune.py`: a line a method, the mean over seeds, the spread of the tail loss."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Kinds of cells of which there is one for each seed.
SEEDED = ("sweep", "tune", "heads", "switched", "layers", "zones", "cma", "evolution")


def merged(folder: Path, sources: Sequence[str], kinds: Sequence[str], seeds: int) -> dict[str, Any]:
    """All finished cells of all models, and the names of those that are missing."""
    models: dict[str, Any] = {}
    for source in sources:
        cells = {
            file.stem: json.loads(file.read_text(encoding="utf-8"))
            for file in sorted((folder / Path(source).name).glob("*.json"))
        }
        expected = []
        for kind in kinds:
            if kind in SEEDED:
                expected += [f"{kind} {seed}" for seed in range(seeds)]
            elif kind in ("landscape", "ladder"):
                expected.append("landscape" if kind == "landscape" else "ladder 0")
        controls = cells.pop("controls", {})
        missing = [name for name in expected if name not in cells]
        models[Path(source).name] = controls | {"cells": cells, "missing": missing}
    return models


def print_table(name: str, model: dict[str, Any]) -> None:
    """A line for each method: mean over seeds, and the spread of the tail loss."""
    if "controls" not in model:
        print(f"\n{name}: nothing measured")
        return
    geometry, controls = model["geometry"], model["controls"]
    own = model["measured"]
    print(
        f"\n{name}: L {geometry['original_length']}, head_dim {geometry['head_dim']}, rope_theta "
        f"{geometry['rope_theta']:g}; in the window {own['loss_in_window']:.3f}, cropped {controls['cropped']:.3f}, "
        f"retrieval in the window {shares(own['retrieval'], 0)}"
    )
    print(
        f"{'':<28} {'mean':>6} {'tail':>6} {'spread':>6} {'window':>7}  retrieval at 2L, 4L, 8L   seconds  forwards"
    )
    rows: dict[str, list[dict[str, Any]]] = {}
    for cell, found in model["cells"].items():
        if "measured" in found:
            label = cell if cell.startswith("default") else cell.rpartition(" ")[0]
            rows.setdefault(label, []).append(found)
    ordered = sorted(rows.items(), key=lambda item: mean_of(item[1], "loss_at_target"))
    for label, found in ordered:
        tails = [item["measured"]["loss_at_target"] for item in found]
        spread = max(tails) - min(tails)
        cost = mean_of(found, "loss_in_window") - own["loss_in_window"]
        retrieval = "  ".join(
            f"{statistics.mean(share(item['measured']['retrieval'], place) for item in found):.2f}"
            for place in range(1, len(own["retrieval"]))
        )
        print(
            f"{label.removeprefix('default '):<28} {mean_of(found, 'loss'):6.3f} {statistics.mean(tails):6.3f} "
            f"{spread:6.3f} {cost:+7.3f}  {retrieval:<24} {statistics.mean(i['seconds'] for i in found):8.1f} "
            f"{statistics.mean(i['forward_equivalents'] for i in found):9.0f}"
        )


def mean_of(cells: list[dict[str, Any]], key: str) -> float:
    """Mean of a measured figure over seeds."""
    return statistics.mean(item["measured"][key] for item in cells)


def share(retrieval: dict[str, dict[str, float]], place: int) -> float:
    """Mean over tasks at the place-th length."""
    by_length = [retrieval[key] for key in sorted(retrieval, key=int)]
    values = list(by_length[place].values()) if place < len(by_length) else []
    return statistics.mean(values) if values else math.nan


def shares(retrieval: dict[str, dict[str, float]], place: int) -> str:
    """Each task's share at the place-th length."""
    by_length = [retrieval[key] for key in sorted(retrieval, key=int)]
    return ", ".join(f"{task} {value:.2f}" for task, value in by_length[place].items())
