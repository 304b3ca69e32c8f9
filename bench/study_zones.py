"""Zones and position maps beside single tables and the cropped control: text by position, pass keys, time.

    python bench/study_zones.py MODEL --segments 24 [--only yarn,zones] [--keys 4] [--tasks passkey,kv] [--map FILE]

Two lines a candidate: mean loss between the edges 0, L/2, L, 2L, 4L, 6L, 8L of held-out text, the share of answers
found at the target (8 windows unless --target says another) for each task, at three depths, seconds for the text; then
the difference to cropping in each band (inside the window to the unmodified model) with its 95 % interval over the
segments, paired.
`--map` adds what `ropewalk tune --search zones` wrote.
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
from ropewalk.evaluation.statistics.intervals import mean_interval
from ropewalk.map_files import nearest_table, read_map
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
    for near in (2, 4):
        found[f"table nearest to zones w=L/{near}"] = lambda near=near: ropewalk.apply(
            model,
            nearest_table(
                map_for("zones", geometry, target, near=geometry.original_length // near), geometry, target
            ),
        )
    found["self-extend"] = mapped("self-extend")
    found["self-extend log"] = mapped("self-extend", discount="log")
    found["self-extend -1"] = mapped("self-extend", discount=-1.0)
    for name in ("dpe", "rerope", "leaky-rerope", "dual-chunk"):
        found[name] = mapped(name)
    found["dpe log"] = mapped("dpe", discount="log")
    return found


def chosen(found: dict[str, Any], only: str) -> dict[str, Any]:
    """Those that the words of `only` name, or whose names begin with one that names none; all where it is empty."""
    words = [word.strip() for word in only.split(",") if word.strip()]

    def asked(name: str) -> bool:
        return any(name == word or (word not in found and name.startswith(word)) for word in words)

    return {name: enter for name, enter in found.items() if not words or asked(name)}


def interval(differences: np.ndarray[Any, Any]) -> str:
    """Mean and 95 % interval of paired differences (Student's t)."""
    found = mean_interval(differences.tolist())
    half = float("nan") if found.high is None else found.high - found.mean
    return f"{found.mean:+.3f}±{half:.3f}"


def found_keys(engine: Engine, tokenizer: Any, length: int, tasks: list[str], samples: int) -> str:
    """The share of answers found at a length, three depths, for each task."""
    if not samples:
        return "-"
    found = []
    for task in tasks:
        rows = run_tasks(engine, tokenizer, tasks=[task], lengths=[length], depths=3, samples=samples)
        found.append(f"{np.mean([row['accuracy'] for row in rows]):.2f}")
    return " ".join(found)


def bands_of(losses: list[Any], edges: list[int]) -> np.ndarray[Any, Any]:
    """Mean loss of each segment between neighbouring edges; entry t of a row is the loss of token t + 1."""
    rows = [np.asarray(row, dtype=np.float64) for row in losses]
    pairs = list(itertools.pairwise(edges))
    return np.array(
        [
            [row[max(0, a - 1) : b - 1].mean() if len(row) > max(0, a - 1) else np.nan for a, b in pairs]
            for row in rows
        ]
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--target", type=int)
    parser.add_argument("--segments", type=int, default=5)
    parser.add_argument("--keys", type=int, default=4)
    parser.add_argument("--tasks", default="passkey,needle,kv")
    parser.add_argument("--only", default="")
    parser.add_argument("--map", action="append", default=[])
    given = parser.parse_args()
    model, tokenizer = load_model(given.model), load_tokenizer(given.model)
    window = read_facts(model.config.to_dict()).original_length
    target, tasks = given.target or 8 * window, given.tasks.split(",")
    segments = cut(held_out_documents(), tokenizer, target, limit=given.segments)
    edges = [
        edge
        for edge in (0, window // 2, window, 2 * window, 4 * window, 6 * window, 8 * window)
        if edge < target
    ]
    edges.append(target)
    engine = Engine(model)

    began = time.perf_counter()
    crop = Crop.of(window)
    # The control's losses begin with an empty place for the first token, which nothing predicts.
    control = bands_of([read_cropped(engine, item, crop)[1:] for item in segments.items], edges)
    # Inside the window the line to hold is the unmodified model's.
    inside = [number for number, edge in enumerate(edges[1:]) if edge <= window]
    plain = bands_of([engine.nll(item.ids[:window])[0].numpy() for item in segments.items], edges)
    control[:, inside] = plain[:, inside]

    def told(name: str, rows: np.ndarray[Any, Any], began: float, keys: str) -> None:
        bands = " ".join(f"{value:.3f}" for value in rows.mean(0))
        print(f"{name:28s} {bands}   {keys}   {time.perf_counter() - began:.1f} s", flush=True)
        if rows is not control:
            print(" " * 29 + " ".join(interval(column) for column in (rows - control).T), flush=True)

    print(
        f"{given.model}: {len(segments.items)} segments of {target}, edges {edges}, tasks {given.tasks}",
        flush=True,
    )
    keys = found_keys(engine, tokenizer, window, tasks, given.keys)
    told("unmodified, then cropped", control, began, f"{keys} inside the window")
    found = chosen(candidates(model, target), given.only)
    for path in given.map:
        found[path] = lambda path=path: applied(model, read_map(path).plan)
    for name, enter in found.items():
        with contextlib.ExitStack() as stack:
            stack.enter_context(enter())
            began = time.perf_counter()
            losses = [engine.nll(item.ids)[0].numpy() for item in segments.items]
            spent = time.perf_counter()
            keys = found_keys(engine, tokenizer, target, tasks, given.keys)
            told(name, bands_of(losses, edges), began + time.perf_counter() - spent, keys)


if __name__ == "__main__":
    main()
