"""Loss tables: `prefix` beside one forward per length and beside the limit, `sliding` beside the plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eval_model import bare_forward, make_ids, make_model, plain_loss, plain_sliding
from harness import compare_functions, write_results
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.loss.reading import Reading, by_length, read_prefix
from ropewalk.evaluation.loss.sliding import plan_windows, windows_loss
from ropewalk.text.segments import Segment

ROOT = Path(__file__).parents[1]
LENGTH = 8192
LENGTHS = [LENGTH * share // 8 for share in range(1, 9)]
WINDOW, STRIDE, SPAN = 2048, 256, 4096


def main() -> None:
    """Every figure with the answers compared first: a fast wrong number is no benchmark."""
    model, ids = make_model(LENGTH), make_ids(LENGTH)
    engine = Engine(model)
    segment = Segment("random", 0, ids[0].numpy())

    def table() -> list[float]:
        rows = read_prefix(engine, [segment], LENGTH)
        return [row.loss.mean for row in by_length(Reading.prefix(dict.fromkeys(LENGTHS, rows)), LENGTHS)]

    def one_by_one() -> list[float]:
        return [plain_loss(model, ids[:, :length]) for length in LENGTHS]

    def sliding() -> float:
        windows = plan_windows(SPAN, WINDOW, STRIDE)
        return float(np.nanmean(windows_loss(engine, ids[0, :SPAN].numpy(), windows)))

    def loop() -> float:
        return plain_sliding(model, ids[:, :SPAN], WINDOW, STRIDE)

    np.testing.assert_allclose(table(), one_by_one(), rtol=1e-4)
    np.testing.assert_allclose(sliding(), loop(), rtol=1e-4)
    results = [
        compare_functions("prefix, 8 lengths", table, one_by_one, runs=3, warmup=0, target=">= 4"),
        compare_functions(
            "prefix beside the limit",
            table,
            lambda: bare_forward(model, ids),
            runs=5,
            warmup=0,
            target=">= 1/1.15 = 0.87",
        ),
        compare_functions("sliding", sliding, loop, runs=3, warmup=0, target=">= 1.5"),
    ]
    write_results(results, ROOT / "bench" / "out" / "eval-loss.json")


if __name__ == "__main__":
    main()
