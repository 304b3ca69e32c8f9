"""Peak memory of a loss table at the longest length, beside the plain script's and beside weights + cache + a chunk.

Each figure is one fresh process: its peak resident memory less what it held before the model was made.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness import compare_series, write_results

ROOT = Path(__file__).parents[1]
LENGTH = 16_384
RUNS = 3
KIB = 1024


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (peak) of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * KIB
    raise RuntimeError(f"no {field} in /proc/self/status")


def child(way: str, length: int) -> None:
    """Measure one way in this process and print bytes."""
    from eval_model import make_ids, make_model, plain_loss
    from ropewalk.evaluation.forward.engine import Engine

    plain_loss(make_model(64, hidden=64, layers=1), make_ids(16))
    before = resident("VmRSS")
    model, ids = make_model(length), make_ids(length)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # Making random weights has a peak of its own; only the measurement's counts.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    kv = 0.0
    if way == "ours":
        shape = model.config
        kv = 2.0 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * length
        kv *= model.dtype.itemsize
        Engine(model).nll(ids)
    else:
        plain_loss(model, ids)
    print(json.dumps({"peak": resident("VmHWM") - before, "weights": weights, "kv": kv}))


def measured(way: str, length: int) -> dict[str, float]:
    """One child's figures."""
    done = subprocess.run(
        [sys.executable, __file__, way, str(length)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{way} at {length} failed: {done.stderr[-400:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Ours and theirs in turn; then ours against a run of one single chunk plus the longer cache."""
    from ropewalk.evaluation.forward.engine import _CHUNK

    chunk = _CHUNK["cpu"]
    pairs = [
        (measured("ours", LENGTH), measured("plain", LENGTH), measured("ours", chunk)) for _ in range(RUNS)
    ]
    ours = [long["peak"] for long, _, _ in pairs]
    theirs = [plain["peak"] for _, plain, _ in pairs]
    limit = [short["peak"] - short["kv"] + long["kv"] for long, _, short in pairs]
    name = f"peak at {LENGTH} tokens"
    results = [
        compare_series(name, "bytes", ours, theirs, target=">= 4", weights=pairs[0][0]["weights"]),
        compare_series(
            f"{name}, limit", "bytes", ours, limit, target=">= 1/1.2 = 0.83", kv=pairs[0][0]["kv"]
        ),
    ]
    write_results(results, ROOT / "bench" / "out" / "eval-memory.json")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        child(sys.argv[1], int(sys.argv[2]))
    else:
        main()
