"""`ropewalk tune` beside closed forms, a sweep, CMA-ES and LongRoPE's evolution, on several models, with seeds.

    python bench/bench_tune.py --models zoo/models/* --device cuda --seeds 3 -o bench/out/tune.json --limit 480

Every result is measured on the held-out half of the library and on planted answers of other seeds than any search saw.
Finished cells lie under OUT.parts; the same call goes on with what is missing, so it can be run in pieces. Each model
has a process of its own. The cell `landscape` measures a fixed set of bands on search rows: from these a rule for a
closed form can be looked for.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from held_out import TASKS, HeldOut
from tune_table import merged, print_table

LANDSCAPE_POINTS, LANDSCAPE_PAIRS = 320, 4


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, help="model folders, or hemp")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--factor", type=float, default=8.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", default="32steps", help="of tune")
    parser.add_argument("--trials", type=int, default=200, help="of cma")
    parser.add_argument("--iterations", type=int, default=40, help="of evolution; 40 are published")
    parser.add_argument(
        "--cells", default="default,tune,sweep,landscape,cma,evolution,ladder", help="kinds, in order"
    )
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2, help="of each process")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds, then no new cell is begun")
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/out/tune.json"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Workers for all models, then one document and the table."""
    wanted = arguments()
    if wanted.one:
        Bench(wanted, wanted.one).run()
        return 0
    supervise(wanted)
    document = {
        "settings": {key: str(value) for key, value in vars(wanted).items() if key != "one"},
        "models": merged(parts(wanted), wanted.models, wanted.cells.split(","), wanted.seeds),
    }
    wanted.output.parent.mkdir(parents=True, exist_ok=True)
    wanted.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for name, model in document["models"].items():
        print_table(name, model)
    left = [f"{name}: {kind}" for name, model in document["models"].items() for kind in model["missing"]]
    print(f"{len(left)} cells missing" + (f" ({', '.join(left[:6])} ...)" if left else ""))
    return 4 if left else 0


def supervise(wanted: argparse.Namespace) -> None:
    """A process a model, at most `at_once` at a time; past the limit and a grace they are ended."""
    began = time.monotonic()
    waiting, running = list(wanted.models), dict[str, subprocess.Popen[bytes]]()
    base = [sys.executable, __file__, *sys.argv[1:], "--one"]
    parts(wanted).mkdir(parents=True, exist_ok=True)
    while (waiting or running) and time.monotonic() - began < wanted.limit + 60:
        while waiting and len(running) < wanted.at_once and time.monotonic() - began < wanted.limit:
            name = waiting.pop(0)
            with (parts(wanted) / f"{Path(name).name}.log").open("ab") as log:
                left = wanted.limit - (time.monotonic() - began)
                environment = os.environ | {
                    "OMP_NUM_THREADS": str(wanted.threads),
                    "ROPEWALK_BENCH_LEFT": str(left),
                }
                running[name] = subprocess.Popen([*base, name], stdout=log, stderr=log, env=environment)
        time.sleep(0.5)
        running = {name: process for name, process in running.items() if process.poll() is None}
    for process in running.values():
        process.send_signal(signal.SIGINT)
    for process in running.values():
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def parts(wanted: argparse.Namespace) -> Path:
    """Where finished cells lie."""
    return Path(f"{wanted.output}.parts")


class Bench:
    """All cells of one model."""

    def __init__(self, wanted: argparse.Namespace, source: str) -> None:
        self.wanted, self.source = wanted, source
        self.end = time.monotonic() + float(os.environ.get("ROPEWALK_BENCH_LEFT", "inf"))
        self.folder = parts(wanted) / Path(source).name
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Every missing cell, in order, until the time is up."""
        import ropewalk
        from ropewalk.search.reading import Reader

        self.tokenizer = ropewalk.load_tokenizer(self.source)
        self.model = ropewalk.load_model(self.source, device=self.wanted.device, dtype=self.wanted.dtype)
        # The layout serves rows that were fitted with it; other rows have no temperatures of heads.
        with Reader(self.model, temperatures="heads") as reader:
            self.reader = reader
            self.geometry = reader.rotation.geometry
            self.length = round(self.wanted.factor * reader.original_length)
            self.rows = HeldOut.of(reader, self.tokenizer, self.length)
            self.cell("controls", self.controls)
            for kind in self.wanted.cells.split(","):
                getattr(self, f"cells_{kind}")()

    def cell(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Measure a cell and keep it, unless it is there or the time is up."""
        file = self.folder / f"{name}.json"
        if file.is_file() or time.monotonic() > self.end:
            return
        began, tokens = time.monotonic(), self.reader.tokens
        try:
            found = work()
        except Exception as error:
            # One search that cannot run (a package that is missing) must not take the others with it.
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            return
        found.setdefault("seconds", time.monotonic() - began)
        found.setdefault("forward_equivalents", (self.reader.tokens - tokens) / self.length)
        from ropewalk.search.heads import Tempered

        schedule, kept = found.pop("made", None), found.pop("kept_first", 0)
        if schedule is not None:
            found["schedule"] = schedule.to_json()
            heads = np.asarray(found.get("heads", []))
            found["measured"] = self.rows.measure(
                self.reader, Tempered(schedule, heads) if heads.size else schedule, kept
            )
        file.with_suffix(".tmp").write_text(json.dumps(found), encoding="utf-8")
        file.with_suffix(".tmp").rename(file)
        print(f"{name}: {found['seconds']:.1f} s", flush=True)

    def controls(self) -> dict[str, Any]:
        """The unmodified model and the cropped one."""
        from ropewalk.search.job import controls_of
        from ropewalk.search.rows import Rows

        found = controls_of(self.reader, Rows(self.rows.text, []), self.length)
        own = self.rows.measure(self.reader, None)
        return {"geometry": self.geometry.to_json(), "controls": found, "measured": own}

    def cells_default(self) -> None:
        """Each closed form at its defaults."""
        from ropewalk.search.sweep import closed_forms

        for candidate in closed_forms(self.geometry, self.wanted.factor):
            name = f"default {candidate.slug}"
            self.cell(
                name, lambda made=candidate.schedule, label=candidate.name: {"made": made, "label": label}
            )

    def each_seed(self, kind: str, work: Callable[[int], dict[str, Any]]) -> None:
        """A cell for each seed."""
        for seed in range(self.wanted.seeds):
            self.cell(f"{kind} {seed}", lambda seed=seed: work(seed))

    def cells_sweep(self) -> None:
        """The best of the sweep: what a fit with the same seed started from, where there was one."""
        self.each_seed("sweep", self.swept)

    def swept(self, seed: int) -> dict[str, Any]:
        """The sweep inside a fit, with what was read and how long it took until the first step; else one of its own."""
        from ropewalk.schedule import FrequencySchedule

        fitted, run = self.folder / f"tune {seed}.json", self.folder / "runs" / f"fit-{seed}"
        if not fitted.is_file():
            return self.tuned(seed, "sweep")
        part = json.loads((run / "parts" / "start.json").read_text(encoding="utf-8"))
        cost = json.loads(fitted.read_text(encoding="utf-8"))["sweep_cost"]
        return {"made": FrequencySchedule.from_json(part["schedule"]), "label": part["name"], **cost}

    def cells_tune(self) -> None:
        """The gradient fit."""
        self.each_seed("tune", lambda seed: self.tuned(seed, "fit"))

    def cells_heads(self) -> None:
        """The gradient fit with a temperature a head."""
        self.each_seed("heads", lambda seed: self.tuned(seed, "fit", temperatures="heads"))

    def cells_switched(self) -> None:
        """The sweep's best in every layer for queries past the window alone: what layers start from."""
        self.each_seed("switched", self.switched)

    def switched(self, seed: int) -> dict[str, Any]:
        """Costs what the sweep costs."""
        from ropewalk.position_maps import LayerTables

        found = self.swept(seed)
        layers = self.model.config.get_text_config().num_hidden_layers
        return {**found, "made": LayerTables.of(found["made"], layers)}

    def cells_layers(self) -> None:
        """The gradient fit of a table for each layer."""
        self.each_seed("layers", lambda seed: self.tuned(seed, "layers"))

    def cells_zones(self) -> None:
        """The gradient fit of zones."""
        self.each_seed("zones", lambda seed: self.tuned(seed, "zones"))

    def cells_ladder(self) -> None:
        """One fit for 2, 4 and 8; measured at the highest."""
        self.cell("ladder 0", lambda: self.tuned(0, "fit", ladder=[2.0, 4.0, 8.0]))

    def tuned(
        self, seed: int, search: str, ladder: list[float] | None = None, temperatures: str = "one"
    ) -> dict[str, Any]:
        """A run of tune, whose own costs are counted."""
        import shutil

        import ropewalk
        from ropewalk.map_files import read_map
        from ropewalk.models.stretch import read_schedules

        kind = f"{'-ladder' if ladder else ''}{'' if temperatures == 'one' else '-' + temperatures}"
        run = self.folder / "runs" / f"{search}-{seed}{kind}"
        shutil.rmtree(run, ignore_errors=True)
        began = time.monotonic()
        cost: dict[str, float] = {}

        def on_told(told: Any) -> None:
            if told.point is not None and not cost:
                # The first point of the fit: one step behind the sweep.
                cost.update(
                    seconds=time.monotonic() - began, forward_equivalents=told.point.forward_equivalents
                )

        result = ropewalk.tune(
            self.source,
            target=None if ladder else self.length,
            ladder=ladder,
            search=search,
            budget=self.wanted.budget,
            seed=seed,
            temperatures=temperatures,
            output=run,
            device=self.wanted.device,
            dtype=self.wanted.dtype,
            on_told=on_told,
        )
        found = result.to_json()
        return {
            "made": read_map(result.map).plan if result.map else read_schedules(result.schedule).rungs[-1],
            "heads": result.rungs[-1].heads.tolist(),
            "seconds": time.monotonic() - began,
            "forward_equivalents": result.forward_equivalents,
            "sweep_cost": cost,
            "result": {
                key: found[key]
                for key in (
                    "start",
                    "kept_start",
                    "stopped",
                    "before",
                    "after",
                    "controls",
                    "curve",
                    "sweep",
                    "steps",
                    "passes",
                    "remarks",
                    "rungs",
                    "tasks",
                )
            },
        }

    def search_job(self, seed: int) -> Any:
        """Rows of a search: those that tune with that seed would have."""
        from ropewalk.search.job import make_rungs, skilled_tasks
        from ropewalk.search.objective import Objective
        from ropewalk.search.rows import Amounts, gather

        tasks, inside = skilled_tasks(self.reader, self.tokenizer, TASKS, seed, [])
        material = gather(self.tokenizer, None, [self.length], tasks, seed, Amounts())
        return make_rungs(self.reader, material, [self.wanted.factor], Objective(), inside)[0]

    def cells_cma(self) -> None:
        """CMA-ES over five numbers, on the rows of the sweep."""
        self.each_seed("cma", self.cma)

    def cma(self, seed: int) -> dict[str, Any]:
        """The best of its trials."""
        from ropewalk.search.cma import Study, schedule_at, search_cma

        rung = self.search_job(seed)
        rows, enough = rung.sweep_rows(), self.wanted.trials
        points = search_cma(
            self.reader,
            self.wanted.factor,
            rows,
            Study("bench", None, seed),
            lambda count: count >= enough,
            lambda *_: None,
        )
        best = points[0]
        return {
            "made": schedule_at(self.geometry, self.wanted.factor, best.numbers),
            "numbers": dict(best.numbers),
        }

    def cells_evolution(self) -> None:
        """LongRoPE's search."""
        self.each_seed("evolution", self.evolution)

    def evolution(self, seed: int) -> dict[str, Any]:
        """The best individual, measured with its kept first tokens."""
        from ropewalk.search.evolution import EvolutionSettings, evolve, schedule_of

        texts = [item.row for item in self.search_job(seed).text]
        settings = EvolutionSettings(iterations=self.wanted.iterations, seed=seed)
        found = evolve(self.reader, texts, self.wanted.factor, settings, lambda population: None)
        return {
            "made": schedule_of(self.geometry, self.wanted.factor, found.best),
            "kept_first": found.best.kept_first,
            "curve": found.curve,
            "best": found.best.to_json(),
        }

    def cells_landscape(self) -> None:
        """The same bands on every model, on its search rows."""
        self.cell("landscape", self.landscape)

    def landscape(self) -> dict[str, Any]:
        """J's terms at fixed points of the five numbers."""
        from ropewalk.search.cma import SPACE, START, schedule_at
        from ropewalk.search.reading import NonFiniteLossError

        rung = self.search_job(99)
        pairs = LANDSCAPE_PAIRS
        rows = [*rung.text[:pairs], *rung.planted[: 2 * pairs]]
        rng = np.random.default_rng(5)
        points = [dict(START)] + [
            {key: float(low + (high - low) * rng.random()) for key, (low, high) in SPACE.items()}
            for _ in range(LANDSCAPE_POINTS)
        ]
        found = []
        for numbers in points:
            made = schedule_at(self.geometry, self.wanted.factor, numbers)
            try:
                terms = self.reader.terms(made, rows).to_json()
            except NonFiniteLossError:
                terms = {}
            found.append({"numbers": numbers, **terms})
        return {"points": found, "factor": self.wanted.factor}


if __name__ == "__main__":
    sys.exit(main())
