"""One closed form for many geometries: a band over rotations, fitted to several models at once, judged on others.

    python bench/study_walk.py zoo/models/* --left-out lanyard stay --factors 8 -o bench/out/walk.json

With r the rotations of a pair inside the window and delta the step of ln theta from pair to pair,

    m = plateau * clip((a - ln r) / (a - b), 0, 1) ** power,    a = a0 + a1 (delta - 0.4),   b = b0 + b1 (delta - 0.4)
    attention factor = 1 + c ln s

The seven numbers follow the gradient of J, all models a step, on the rows that `tune` fits on. Then the form is
measured beside others at their defaults on the held-out half of the library and on questions of other seeds: on the
models of the fit, and on those left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ropewalk
from held_out import TASKS, HeldOut
from ropewalk.geometry import FloatArray
from ropewalk.models.load import load_model, load_tokenizer
from ropewalk.search.family import Family
from ropewalk.search.job import skilled_tasks
from ropewalk.search.objective import Objective, Weighed, weigh
from ropewalk.search.reading import Reader
from ropewalk.search.rows import Amounts, gather
from study_zones import interval

OTHERS = ("yarn", "mrrope-pro", "llama3")
FIRST, SECOND, FLOOR = 0.9, 0.95, 0.01
# Where the numbers begin, and how far one moves in a step at the full rate.
START = {
    "a0": math.log(8.0),
    "a1": 0.0,
    "b0": math.log(0.7),
    "b1": 0.0,
    "power": 0.26,
    "plateau": 1.0,
    "c": 0.1,
}
RATES = {"a0": 0.06, "a1": 0.06, "b0": 0.04, "b1": 0.06, "power": 0.04, "plateau": 0.01, "c": 0.004}
MIDDLE = 0.4
# Of a text and a question, for each model a step.
PAIRS = 2


@dataclass(frozen=True)
class Walk:
    """The numbers above; `power` as a logarithm, so that it stays positive."""

    numbers: dict[str, float]

    def profile(self, geometry: Any) -> tuple[dict[str, Tensor], Tensor]:
        """The numbers as leaves, and m of the pairs that turn."""
        leaf = {
            name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for name, value in self.numbers.items()
        }
        turns = torch.tensor(geometry.rotations[: geometry.num_rotating], dtype=torch.float64).log()
        delta = float(turns[0] - turns[1]) - MIDDLE
        fast, slow = leaf["a0"] + leaf["a1"] * delta, leaf["b0"] + leaf["b1"] * delta
        # Never closer than a tenth, or no band is left.
        place = ((fast - turns) / (fast - slow).clamp(min=0.1)).clamp(1e-9, 1.0)
        return leaf, leaf["plateau"] * place ** leaf["power"].exp()

    def family(self, geometry: Any, factor: float) -> Family:
        """These numbers for a geometry."""
        profile, heat = self.profile(geometry)[1].detach().numpy(), self.numbers["c"]
        return Family(geometry, factor, profile, profile, heat, heat)

    def schedule(self, geometry: Any, factor: float) -> Any:
        """The schedule of these numbers."""
        return self.family(geometry, factor).schedule(factor)

    def slope(self, geometry: Any, top: FloatArray, heat: float) -> FloatArray:
        """Derivatives by the numbers, given those by the profile and by c."""
        leaf, profile = self.profile(geometry)
        profile.backward(torch.tensor(top))
        found = {name: 0.0 if item.grad is None else float(item.grad) for name, item in leaf.items()}
        return np.array(list((found | {"c": heat}).values()))


@dataclass
class Subject:
    """A model at a factor: its rows to fit on, and what it is judged on."""

    name: str
    factor: float
    reader: Reader
    text: list[Weighed]
    planted: list[Weighed]
    held_out: HeldOut

    @property
    def geometry(self) -> Any:
        """The model's own."""
        return self.reader.rotation.geometry

    def pair(self, number: int) -> list[Weighed]:
        """A text and a question, in turn."""
        planted = [self.planted[number % len(self.planted)]] if self.planted else []
        return [self.text[number % len(self.text)], *planted]


def main() -> int:
    """Fit, judge, and print a line for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--left-out", nargs="*", default=[], help="names that the fit does not see")
    parser.add_argument("--factors", nargs="+", type=float, default=[8.0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--given", type=Path, help="what an earlier call wrote: judge it, fit nothing")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/out/walk.json"))
    wanted = parser.parse_args()
    with contextlib.ExitStack() as stack:
        subjects = [made for source in wanted.models for made in subjects_of(source, wanted, stack)]
        seen = [item for item in subjects if item.name not in wanted.left_out]
        if wanted.given is None:
            walk, trace = fit(seen, wanted.steps)
        else:
            document = json.loads(wanted.given.read_text(encoding="utf-8"))
            walk, trace = Walk(document["numbers"]), document["trace"]
        document = {"numbers": walk.numbers, "trace": trace}
        wanted.output.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for item in subjects:
            rows.append(judged(item, walk) | {"left_out": item.name in wanted.left_out})
            wanted.output.write_text(json.dumps(document | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
            show(rows[-1])
    return 0


def subjects_of(source: str, wanted: argparse.Namespace, stack: contextlib.ExitStack) -> list[Subject]:
    """A model once for each factor; the reader is shared."""
    tokenizer, name = load_tokenizer(source), Path(source).name
    reader = stack.enter_context(Reader(load_model(source, device=wanted.device, dtype="float32")))
    tasks, _ = skilled_tasks(reader, tokenizer, TASKS, 0, [])
    found = []
    for factor in wanted.factors:
        length = round(factor * reader.original_length)
        rows = gather(tokenizer, None, [length], tasks, 0, Amounts()).fit[length]
        text, planted = (
            weigh(part, reader.original_length, Objective()) for part in (rows.text, rows.planted)
        )
        found.append(Subject(name, factor, reader, text, planted, HeldOut.of(reader, tokenizer, length)))
    return found


def fit(subjects: list[Subject], steps: int) -> tuple[Walk, list[dict[str, Any]]]:
    """Adam on the numbers; every model weighs alike, and the rate falls with the cosine of the way."""
    walk, began = Walk(START), time.monotonic()
    first, second, rates = np.zeros(len(START)), np.zeros(len(START)), np.array(list(RATES.values()))
    trace = []
    for step in range(steps):
        total, value = np.zeros(len(START)), 0.0
        for item in subjects:
            family = walk.family(item.geometry, item.factor)
            rows = [row for number in range(PAIRS) for row in item.pair(step * PAIRS + number)]
            slope = item.reader.slopes(family, item.factor, [rows])[0]
            # One rung: the profile's derivatives stand at the top, and c is `heat`.
            total += walk.slope(item.geometry, slope.top, slope.heat) / len(subjects)
            value += slope.value / len(subjects)
        first, second = FIRST * first + (1 - FIRST) * total, SECOND * second + (1 - SECOND) * total**2
        mean, square = first / (1 - FIRST ** (step + 1)), second / (1 - SECOND ** (step + 1))
        share = 0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2
        move = rates * share * mean / (np.sqrt(square) + FLOOR)
        walk = Walk(
            {name: old - float(one) for (name, old), one in zip(walk.numbers.items(), move, strict=True)}
        )
        trace.append({"step": step + 1, "objective": value, "numbers": walk.numbers})
        said = "  ".join(f"{name} {one:.3f}" for name, one in walk.numbers.items())
        print(f"step {step + 1}: J {value:.4f}  {said}  {time.monotonic() - began:.0f} s", flush=True)
    return walk, trace


def judged(item: Subject, walk: Walk) -> dict[str, Any]:
    """The walk beside the others' defaults on what nothing was fitted to."""
    made = {name: ropewalk.schedule(name, item.geometry, factor=item.factor) for name in OTHERS}
    made["walk"] = walk.schedule(item.geometry, item.factor)
    found = {name: item.held_out.measure(item.reader, schedule) for name, schedule in made.items()}
    own = item.held_out.measure(item.reader, None)
    return {
        "name": item.name,
        "factor": item.factor,
        "geometry": item.geometry.to_json(),
        "own": own,
        "found": found,
    }


def show(row: dict[str, Any]) -> None:
    """Mean, tail, window and answers at the target of each; the walk's differences in pairs, with their intervals."""
    mark = " (left out)" if row["left_out"] else ""
    print(f"\n{row['name']}{mark}, {row['factor']:g} times")
    walk = row["found"]["walk"]
    for name, found in row["found"].items():
        last = list(found["retrieval"].values())[-1].values()
        line = f"{name:<11} {found['loss']:.3f} {found['loss_at_target']:.3f} "
        line += f"{found['loss_in_window'] - row['own']['loss_in_window']:+.3f}  "
        line += " ".join(f"{value:.2f}" for value in last)
        if name != "walk":
            for key in ("loss", "loss_at_target"):
                line += f"  {interval(np.subtract(walk['by_row'][key], found['by_row'][key]))}"
        print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
