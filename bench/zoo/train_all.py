"""Trains the zoo in parallel processes, goes on where it was stopped, and packs each finished model as a folder.

    python bench/zoo/train_all.py -o zoo --device cuda --limit 480      # as often as needed, it resumes
    python bench/zoo/train_all.py --show hawser > hawser.yaml           # one recipe, for `ropewalk train`

Under OUT: runs/NAME (the training run), models/NAME (bfloat16 weights, both config dialects, the tokenizer), logs/NAME.
Where the limit comes first, a run is stopped as by ctrl-C and goes on at its last checkpoint the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).parent))
from zoo_recipes import recipe_text, zoo_names


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("zoo"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--limit", type=float, default=480.0, help="seconds of training, then all are stopped"
    )
    parser.add_argument("--grace", type=float, default=20.0, help="seconds to stop in, after the limit")
    parser.add_argument("--only", nargs="*", default=None, help="names; by default all")
    parser.add_argument("--at-once", type=int, default=12, help="how many train at the same time")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every model's tokens")
    parser.add_argument("--pack-unfinished", action="store_true", help="pack the newest checkpoint of each")
    parser.add_argument("--show", metavar="NAME", help="print one recipe and leave")
    return parser.parse_args()


def main() -> int:
    """Train, pack, and say where each model stands."""
    wanted = arguments()
    if wanted.show:
        print(recipe_text(wanted.show, wanted.scale))
        return 0
    names = wanted.only or zoo_names()
    for folder in ("recipes", "runs", "models", "logs"):
        (wanted.output / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        recipe = recipe_text(name, wanted.scale)
        (wanted.output / "recipes" / f"{name}.yaml").write_text(recipe, encoding="utf-8")
    train(wanted, [name for name in names if not finished(wanted.output, name)])
    for name in names:
        if finished(wanted.output, name) or wanted.pack_unfinished:
            pack(wanted.output, name)
        print(f"{name:<10} {standing(wanted.output, name)}", flush=True)
    return 0 if all(finished(wanted.output, name) for name in names) else 4


def finished(output: Path, name: str) -> bool:
    """Whether a run came to its end: an interrupted one has a manifest too, which says so."""
    manifest = output / "runs" / name / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8"))["status"] == "complete"


def train(wanted: argparse.Namespace, names: list[str]) -> None:
    """Run the trainings, at most `at_once` at a time, until all have ended or the limit has come."""
    end = time.monotonic() + wanted.limit
    waiting, running = list(names), dict[str, subprocess.Popen[bytes]]()
    try:
        while (waiting or running) and time.monotonic() < end:
            while waiting and len(running) < wanted.at_once:
                name = waiting.pop(0)
                running[name] = start(wanted, name)
            time.sleep(0.5)
            running = {name: process for name, process in running.items() if process.poll() is None}
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        last = time.monotonic() + wanted.grace
        for process in running.values():
            try:
                process.wait(max(0.1, last - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()


def start(wanted: argparse.Namespace, name: str) -> subprocess.Popen[bytes]:
    """One training in a process with one thread."""
    run, recipe = wanted.output / "runs" / name, wanted.output / "recipes" / f"{name}.yaml"
    command = [
        sys.executable,
        "-m",
        "ropewalk",
        "train",
        str(recipe),
        "-o",
        str(run),
        "--device",
        wanted.device,
    ]
    if run.is_dir():
        command.append("--resume")
    log: IO[bytes] = (wanted.output / "logs" / f"{name}.log").open("ab")
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=os.environ | threads
        )


def pack(output: Path, name: str) -> None:
    """The newest checkpoint as a folder that stock software loads; a model that is packed stays."""
    from ropewalk.training.hemp.ship import ship
    from ropewalk.training.state.checkpoint import list_checkpoints

    target = output / "models" / name
    checkpoints = list_checkpoints(output / "runs" / name / "checkpoints")
    mark = output / "models" / f"{name}.step"
    if not checkpoints or (mark.is_file() and mark.read_text() == checkpoints[-1].name):
        return
    ship([output / "runs" / name], target)
    mark.write_text(checkpoints[-1].name)


def standing(output: Path, name: str) -> str:
    """The last line of a run's metrics in words."""
    metrics = output / "runs" / name / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
    found = [json.loads(line) for line in lines]
    if not found:
        return f"not started; see {output / 'logs' / name}.log"
    train_lines = [line for line in found if line["kind"] == "train"]
    held_out = [f"{line['loss']:.3f}" for line in found if line["kind"] == "evaluation"][-1:]
    last = train_lines[-1] if train_lines else found[-1]
    state = "finished" if finished(output, name) else "unfinished"
    speed = f"{last.get('tokens_per_s') or 0:.0f} tokens/s"
    place = f"step {last.get('step')} length {last.get('length')} tokens {last.get('tokens')}"
    return f"{state} {place} loss {last.get('loss'):.3f} held-out {', '.join(held_out) or '-'} {speed}"


if __name__ == "__main__":
    sys.exit(main())
