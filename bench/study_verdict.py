"""What predicts use: mean loss, key-token loss, needle and harder tasks beside multi-document question answering.

    python bench/study_verdict.py OUT MODEL[:SCHEDULE,...] ... [--length 2k] [--reference READER] [--share 1.0]

Every MODEL (a folder or `hemp`) is read at one length, as it is (`as is`) or under each of the named schedules: all
readers see the same tokens. Questions of small base models are asked by choice: which of the answers on offer is
likeliest? `doc-qa` is what is to be predicted, as the share of right choices and as the log-probability of the right
one among those on offer, which moves before the share does. Readers are kept in the folder OUT as they end and are not
repeated. Key tokens are chosen at the end, for all readers alike, by the one that reads the tail best (or --reference)
over its own cropped reading. `--share 0.5` asks half as much of everything.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import ropewalk
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.loss import key_tokens
from ropewalk.evaluation.loss.controls import Crop, read_cropped
from ropewalk.evaluation.loss.reading import Reading, means, read_prefix, tail_start
from ropewalk.evaluation.retrieval.run import Asking, plan_tasks, run_plan
from ropewalk.files import write_json
from ropewalk.models.apply import apply
from ropewalk.models.facts import read_facts
from ropewalk.models.load import load_model, load_tokenizer, quiet_transformers
from ropewalk.text.corpus import read_documents
from ropewalk.text.segments import Segments, cut
from ropewalk.units import parse_length

SCHEDULES = ("yarn", "none", "ntk", "by-parts", "mrrope-pro")
SEGMENTS = 4
# Task, scoring, texts, depths: one text holds all needles, or all documents that are asked about.
ASKED: tuple[tuple[str, str, int, tuple[float, ...]], ...] = (
    ("needle", "teacher-forced", 3, (0.0, 0.25, 0.5, 0.75, 1.0)),
    ("bio", "forced-choice", 4, (0.3,)),
    ("bio-compare", "forced-choice", 4, (0.5,)),
    ("doc-qa", "forced-choice", 4, (0.05, 0.2, 0.35, 0.5, 0.65, 0.8)),
)
USE = ("doc-qa", "doc-qa, log share")
MEASURES = ("loss", "key-token loss", "needle", "needle, log", "bio", "bio, log share", "bio-compare", *USE)


def main() -> None:
    """Measure what is missing, then print."""
    given = _arguments()
    folder = Path(given.out)
    folder.mkdir(parents=True, exist_ok=True)
    length = parse_length(given.length)
    for word in given.models:
        for name, source, schedule in _readers(word, length):
            if not (folder / f"{name}.json").exists():
                _measure(folder, name, source, schedule, length, given.share)
    rows = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    _add_key_tokens(folder, rows, length, given)
    _show(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--length", default="2k")
    parser.add_argument("--reference", help="the reader (by its label) that chooses the key tokens")
    parser.add_argument("--share", type=float, default=1.0)
    return parser.parse_args()


def _readers(word: str, length: int) -> Iterator[tuple[str, str, Any]]:
    """(label, model, schedule); None leaves the model as it is."""
    source, _, named = word.partition(":")
    facts = read_facts(source)
    for name in named.split(",") if named else SCHEDULES:
        factor = 1.0 if name == "none" else length / facts.original_length
        made = None if name == "as is" else ropewalk.schedule(name, facts.geometry, factor=factor)
        yield f"{Path(source).name} {name}", source, made


def _loaded(source: str) -> tuple[Any, Any]:
    with quiet_transformers():
        return load_model(source), load_tokenizer(source)


def _segments(tokenizer: Any, length: int, share: float) -> Segments:
    return cut(read_documents(None), tokenizer, length, limit=max(2, round(SEGMENTS * share)))


def _measure(folder: Path, name: str, source: str, schedule: Any, length: int, share: float) -> None:
    """Losses of every token and scores of every question of one reader, written when both are there."""
    model, tokenizer = _loaded(source)
    with apply(model, schedule) if schedule is not None else nullcontext():
        engine = Engine(model)
        segments = _segments(tokenizer, length, share)
        losses = np.stack([read_prefix(engine, [item], length)[0] for item in segments.items])
        found: dict[str, float] = {"loss": float(means(losses, tail_start(length), length).mean())}
        for task, scoring, texts, depths in ASKED:
            asking = Asking([task], [length], depths, max(2, round(texts * share)), grid="packed")
            scores = run_plan(engine, tokenizer, plan_tasks(tokenizer, asking, scoring=scoring))
            found[task] = float(np.mean([score.credit for score in scores]))
            among = [score.choice_logprob for score in scores if score.choice_logprob is not None]
            found[f"{task}, log share" if among else f"{task}, log"] = float(
                np.mean(among or [score.logprob for score in scores])
            )
            found[f"{task}, chance"] = scores[0].chance
    np.save(folder / f"{name}.npy", losses)
    write_json(
        folder / f"{name}.json", found | {"source": source, "window": read_facts(source).original_length}
    )
    print(name, json.dumps({key: round(value, 3) for key, value in found.items()}), flush=True)


def _add_key_tokens(folder: Path, rows: dict[str, Any], length: int, given: argparse.Namespace) -> None:
    """One set for all: where the best reader gains from the whole text over its model's cropped reading."""
    best = given.reference or min(rows, key=lambda name: rows[name]["loss"])
    window = max(row["window"] for row in rows.values())
    path = folder / f"cropped-{rows[best]['window']}-{Path(rows[best]['source']).name}.npz"
    if not path.exists():
        model, tokenizer = _loaded(rows[best]["source"])
        crop = Crop(rows[best]["window"], rows[best]["window"] // 4)
        segments = _segments(tokenizer, length, given.share)
        near = [
            read_cropped(Engine(model), item, crop, opening=segments.opening, first=window)
            for item in segments.items
        ]
        np.savez(path, near=np.stack(near))
    long, short = np.load(folder / f"{best}.npy"), np.load(path)["near"]
    readings = [Reading.prefix({length: list(part)}) for part in (long, short)]
    keys = key_tokens.choose(*readings, length, window, names=(best, "its cropped reading"))
    print(f"\nKey tokens: {json.dumps(keys.to_json())}")
    for name, row in rows.items():
        reading = Reading.prefix({length: list(np.load(folder / f"{name}.npy"))})
        found = key_tokens.key_token_loss(reading, keys, length)
        row["key-token loss"] = None if found is None else found.mean


def _show(rows: dict[str, Any]) -> None:
    print("\n| reader | " + " | ".join(MEASURES) + " |\n" + "|---" * (len(MEASURES) + 1) + "|")
    for name, row in rows.items():
        cells = ["-" if row.get(key) is None else f"{row[key]:.2f}" for key in MEASURES]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(
        "\nRank correlation (Spearman) and its bootstrap interval over readers; losses with their sign turned:\n"
    )
    print(f"| | {' | '.join(USE)} |\n|---|---|---|")
    for key in MEASURES:
        if key in USE:
            continue
        cells = []
        for use in USE:
            both = [(row[key], row[use]) for row in rows.values() if None not in (row.get(key), row.get(use))]
            values = np.array(both, dtype=np.float64).reshape(-1, 2)
            one, other = (-1 if "loss" in key else 1) * values[:, 0], values[:, 1]
            low, high = bootstrap(spearman, one, other)
            cells.append(f"{spearman(one, other):+.2f} ({low:+.2f} to {high:+.2f})")
        print(f"| {key} | {' | '.join(cells)} |")


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of ranks, equal values sharing theirs; NaN where one of the two does not vary."""
    if len(one) < 3:
        return float("nan")
    ranks = [_ranks(one), _ranks(other)]
    if min(float(rank.std()) for rank in ranks) == 0.0:
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def bootstrap(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    one: np.ndarray,
    other: np.ndarray,
    rounds: int = 2000,
) -> tuple[float, float]:
    """The middle 95 % over readers drawn with replacement; draws in which nothing varies are left out."""
    rng, found = np.random.default_rng(0), list[float]()
    for _ in itertools.repeat(None, rounds if len(one) >= 3 else 0):
        drawn = rng.integers(0, len(one), len(one))
        value = statistic(one[drawn], other[drawn])
        found += [] if math.isnan(value) else [value]
    low, high = np.quantile(found, [0.025, 0.975]) if found else (float("nan"), float("nan"))
    return float(low), float(high)


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.array([((values < value).sum() + (values <= value).sum() - 1) / 2 for value in values])


if __name__ == "__main__":
    main()
