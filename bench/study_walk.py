"""One closed form for many geometries: a profile over rotations, fitted to several models at once, judged on others.

    python bench/study_walk.py zoo/models/* --left-out lanyard brace tether --factors 4 8 -o bench/out/walk.json

The profile is m(r), r the rotations of a pair inside the window: a line between knots over ln r, the same for every
model. Its knots and one temperature (1 + c ln s) follow the gradient of J, model by model in turn, on the rows that
`tune` fits on. Then it is measured beside closed forms at their defaults on the held-out half of the library and on
questions of other seeds: on the models of the fit, and on those left out.
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

import ropewalk
from held_out import TASKS, HeldOut
from ropewalk.geometry import FloatArray
from ropewalk.models.load import load_model, load_tokenizer
from ropewalk.search.family import Family, monotone, tuned_schedule
from ropewalk.search.job import skilled_tasks
from ropewalk.search.objective import Objective, Weighed, weigh
from ropewalk.search.reading import Reader
from ropewalk.search.rows import Amounts, gather

KNOTS = np.array([32.0, 16.0, 8.0, 5.6, 4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.5, 0.25, 0.1])
OTHERS = ("yarn", "mrrope-pro", "llama3")
FIRST, SECOND, RATE, HEAT_RATE, FLOOR = 0.9, 0.95, 0.05, 0.01, 0.01


@dataclass
class Walk:
    """Values at the knots, and c."""

    values: FloatArray
    heat: float

    @classmethod
    def start(cls) -> Walk:
        """YaRN with a band of 4 to 0.5 rotations."""
        place = np.clip(np.log(4.0 / KNOTS) / math.log(8.0), 0.0, 1.0)
        return cls(place, 0.1)

    def weights(self, rotations: FloatArray) -> FloatArray:
        """How much each knot counts for each pair, (pairs, knots); beyond the last knots the line is level."""
        # Knots run from fast to slow, so that interpolation wants the negative logarithm.
        at, knots = -np.log(rotations), -np.log(KNOTS)
        return np.stack([np.interp(at, knots, one) for one in np.eye(len(KNOTS))], axis=1)

    def family(self, geometry: Any, factor: float) -> Family:
        """These numbers for a geometry."""
        turns = geometry.rotations[: geometry.num_rotating]
        profile = self.weights(turns) @ self.values
        return Family(geometry, factor, profile, profile, self.heat, self.heat)

    def schedule(self, geometry: Any, factor: float) -> Any:
        """The schedule of these numbers."""
        made = self.family(geometry, factor)
        return tuned_schedule(geometry, factor, made.profile(factor), made.attention_factor(factor))


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
    parser.add_argument("--steps", type=int, default=40)
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
            walk, trace = Walk(np.asarray(document["values"]), document["heat"]), document["trace"]
        document = {
            "knots": KNOTS.tolist(),
            "values": walk.values.tolist(),
            "heat": walk.heat,
            "trace": trace,
        }
        wanted.output.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for item in subjects:
            rows.append(judged(item, walk) | {"left_out": item.name in wanted.left_out})
            wanted.output.write_text(json.dumps(document | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
            show(rows[-1])
    return 0


def subjects_of(source: str, wanted: argparse.Namespace, stack: contextlib.ExitStack) -> list[Subject]:
    """A model once for each factor; the reader is shared."""
    if source == "hemp":
        from ropewalk.hemp import folder

        path, name = str(folder()), "hemp"
    else:
        path, name = source, Path(source).name
    tokenizer = load_tokenizer(path)
    reader = stack.enter_context(Reader(load_model(path, device=wanted.device, dtype="float32")))
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
    """Adam on the knots and c; every model weighs alike, and the rate falls with the cosine of the way."""
    walk, began = Walk.start(), time.monotonic()
    first, second = np.zeros(len(KNOTS) + 1), np.zeros(len(KNOTS) + 1)
    trace = []
    for step in range(steps):
        total, value = np.zeros(len(KNOTS) + 1), 0.0
        for item in subjects:
            slope = item.reader.slopes(
                walk.family(item.geometry, item.factor), item.factor, [item.pair(step)]
            )[0]
            weights = walk.weights(item.geometry.rotations[: item.geometry.num_rotating])
            # One rung: the profile's derivatives stand at the top, and c is `heat`.
            total += np.append(weights.T @ slope.top, slope.heat) / len(subjects)
            value += slope.value / len(subjects)
        first, second = (
            FIRST * first + (1 - FIRST) * total,
            SECOND * second + (1 - SECOND) * total**2,
        )
        mean, square = first / (1 - FIRST ** (step + 1)), second / (1 - SECOND ** (step + 1))
        share = 0.1 + 0.9 * (1 + math.cos(math.pi * step / steps)) / 2
        move = share * mean / (np.sqrt(square) + FLOOR)
        walk = Walk(monotone(walk.values - RATE * move[:-1]), walk.heat - HEAT_RATE * float(move[-1]))
        trace.append(
            {"step": step + 1, "objective": value, "values": walk.values.tolist(), "heat": walk.heat}
        )
        if (step + 1) % 5 == 0:
            print(
                f"step {step + 1}: J {value:.4f}  c {walk.heat:.3f}  {np.round(walk.values, 2).tolist()}  "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
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
                apart = np.subtract(walk["by_row"][key], found["by_row"][key])
                error = 2.2 * apart.std(ddof=1) / math.sqrt(len(apart))
                line += f"  {apart.mean():+.3f} ± {error:.3f}"
        print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
