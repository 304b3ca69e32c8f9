"""Zones and position maps beside single tables and the cropped control: text by position, pass keys, time.

    python bench/study_zones.py MODEL --target 4096 --segments 5 [--only zones] [--keys 4]

One line a candidate: mean loss between the edges 0, L/2, L, 2L, 4L, 6L, 8L of held-out text, the share of pass keys
found at the target, seconds for the text.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from typing import Any

import numpy as np

import ropewalk
from ropewalk.attention.maps import applied
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.loss.controls import Crop, read_cropped
from ropewalk.evaluation.retrieval.run import run_tasks
from ropewalk.models.facts import read_facts
from ropewalk.models.load import load_model, load_tokenizer
from ropewalk.position_maps import map_for
from ropewalk.text.corpus import held_out_documents
from ropewalk.text.segments import cut


def candidates(model: Any, target: int) -> dict[str, Any]:
    """Name -> context manager factory."""
    facts = read_facts(model.config.to_dict())
    geometry, factor = facts.geometry, target / facts.original_length

    def single(method: str) -> Any:
        return lambda: ropewalk.apply(model, ropewalk.schedule(method, geometry, factor=factor))

    def mapped(name: str, **parameters: Any) -> Any:
        return lambda: applied(model, map_for(name, geometry, target, **parameters))

    found: dict[str, Any] = {"yarn": single("yarn"), "mrrope-pro": single("mrrope-pro")}
    for method in ("linear", "by-parts", "yarn", "ntk"):
        found[f"zones {method} log"] = mapped("zones", far_method=method)
    found["zones linear 0"] = mapped("zones", discount=0.0)
    found["zones linear -1"] = mapped("zones", discount=-1.0)
    found["zones linear log w=L/4"] = mapped("zones", near=geometry.original_length // 4)
    found["self-extend"] = mapped("self-extend")
    found["self-extend log"] = mapped("self-extend", discount="log")
    found["self-extend -1"] = mapped("self-extend", discount=-1.0)
    for name in ("dpe", "rerope", "leaky-rerope", "dual-chunk"):
        found[name] = mapped(name)
    found["dpe log"] = mapped("dpe", discount="log")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--target", type=int, default=4096)
    parser.add_argument("--segments", type=int, default=5)
    parser.add_argument("--keys", type=int, default=4)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    model, tokenizer = load_model(given.model), load_tokenizer(given.model)
    window = read_facts(model.config.to_dict()).original_length
    segments = cut(held_out_documents(), tokenizer, given.target, limit=given.segments)
    edges = [
        edge
        for edge in (0, window // 2, window, 2 * window, 4 * window, 6 * window, 8 * window)
        if edge < given.target
    ]
    edges.append(given.target)
    engine = Engine(model)

    def told(name: str, losses: list[Any], began: float, keys: str) -> None:
        curve = np.mean([np.asarray(row, dtype=np.float64) for row in losses], axis=0)
        bands = " ".join(f"{curve[max(0, a - 1) : b - 1].mean():.3f}" for a, b in itertools.pairwise(edges))
        print(f"{name:28s} {bands}   {keys}   {time.perf_counter() - began:.1f} s", flush=True)

    if not given.only:
        began = time.perf_counter()
        crop = Crop.of(window)
        told("cropped", [read_cropped(engine, item, crop) for item in segments.items], began, "-")
    for name, enter in candidates(model, given.target).items():
        if given.only not in name:
            continue
        with contextlib.ExitStack() as stack:
            stack.enter_context(enter())
            began = time.perf_counter()
            losses = [engine.nll(item.ids)[0].numpy() for item in segments.items]
            spent = time.perf_counter()
            keys = "-"
            if given.keys:
                rows = run_tasks(
                    engine, tokenizer, tasks=["passkey"], lengths=[given.target], depths=3, samples=given.keys
                )
                keys = f"{np.mean([row['accuracy'] for row in rows]):.2f}"
            told(name, losses, began + time.perf_counter() - spent, keys)


if __name__ == "__main__":
    main()
