"""The longest sequence that one step can train in a given memory: plain Trainer, and a recipe that saves memory.

Every length is one child process that does two steps of one row; its peak resident memory is what counts.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import compare_series, write_results
from train_model import plain_trainer, recipe

ROOT = Path(__file__).parents[1]
BUDGET_BYTES = 2 * 1024**3
SHORTEST = 1024
TIMES = (1, 2, 4)


def child(kind: str, length: int) -> None:
    """Train two steps, then print this process's peak resident memory in bytes."""
    with tempfile.TemporaryDirectory(dir=ROOT / "bench" / "out") as folder:
        work = Path(folder)
        if kind == "plain":
            plain_trainer(work, length=length, rows=1, steps=2, callbacks=[]).train()
        else:
            import ropewalk

            memory = {"checkpointing": True, "offload": "disk", "offload_folder": str(work / "activations")}
            parts = {"memory": memory, "loss": {"kernel": "chunked", "chunk": 512}}
            ropewalk.train(
                recipe(work, length=length, rows=1, steps=2, **parts),
                output=work / "run",
                device="cpu",
                quiet=True,
            )
    print(json.dumps({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def peak(kind: str, length: int) -> int:
    """Peak resident memory of a child process that trains at this length."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", kind, str(length)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{kind} at {length} failed: {done.stderr[-600:]}")
    found: int = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    print(f"{kind:<6} {length:>7} tokens  {found / 2**20:8.0f} MiB", flush=True)
    return found


def longest_plain() -> int:
    """The longest length within the budget, to 256 tokens."""
    low = SHORTEST
    if peak("plain", low) > BUDGET_BYTES:
        sys.exit(f"the budget of {BUDGET_BYTES} bytes does not hold a plain step of {low} tokens")
    high = 2 * low
    while peak("plain", high) <= BUDGET_BYTES:
        low, high = high, 2 * high
    while high - low > 256:
        middle = (low + high) // 2
        low, high = (middle, high) if peak("plain", middle) <= BUDGET_BYTES else (low, middle)
    return low


def main() -> None:
    """Find the longest of plain, then try its multiples with ours until the budget is passed."""
    if "--child" in sys.argv:
        child(sys.argv[2], int(sys.argv[3]))
        return
    (ROOT / "bench" / "out").mkdir(parents=True, exist_ok=True)
    plain = longest_plain()
    reached, used = 0, 0
    for times in TIMES:
        found = peak("ours", times * plain)
        if found > BUDGET_BYTES:
            break
        reached, used = times * plain, found
    if not reached:
        sys.exit(f"the saving recipe does not even reach {plain} tokens in the budget")
    result = compare_series(
        "longest sequence in 2 GiB",
        "1/tokens",
        [1 / reached],
        [1 / plain],
        target=">= 4",
        plain_tokens=plain,
        our_tokens=reached,
        our_peak_bytes=used,
        vocabulary=32768,
    )
    write_results([result], ROOT / "bench" / "out" / "train_memory.json")


if __name__ == "__main__":
    main()
