"""Put every causal architecture of the installed transformers through Ropewalk and write docs/architectures.md.

    python tools/architectures.py            all of them (some minutes), one process, tiny models
    python tools/architectures.py llama phi3 these only, to the screen
    ... --keep FILE                          results go to FILE as they come, and a later call goes on from there

Exit code 1 when an architecture fails.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architectures.md"
sys.path.insert(0, str(ROOT / "tests" / "models"))

# Shared with the tests, and only importable from here on.
import examine  # noqa: E402
import tiny  # noqa: E402


def main(names: Sequence[str]) -> int:
    """Examine, print or write, and say by exit code whether every type is handled."""
    options = argparse.ArgumentParser()
    options.add_argument("names", nargs="*")
    options.add_argument("--keep", type=Path)
    given = options.parse_args(names)
    kept = _kept(given.keep)
    results = []
    for name in given.names or tiny.causal_types():
        if name not in kept:
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as place:
                kept[name] = examine.examine(name, Path(place))
            seconds = time.perf_counter() - started
            print(f"{name}: {verdict(kept[name])} ({seconds:.1f} s)", file=sys.stderr, flush=True)
            if given.keep:
                with given.keep.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(dataclasses.asdict(kept[name])) + "\n")
        results.append(kept[name])
    if given.names:
        print("\n".join(row(result) for result in results))
    else:
        PAGE.write_text(page(results), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}")
    return int(any(result.kind == "rope" and not result.handled for result in results))


def _kept(path: Path | None) -> dict[str, examine.TypeResult]:
    """Results of an earlier call, by type."""
    found = {}
    if path is not None and path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            document = json.loads(line)
            methods = [examine.MethodResult(**method) for method in document.pop("methods")]
            found[document["model_type"]] = examine.TypeResult(**document, methods=methods)
    return found


def verdict(result: examine.TypeResult) -> str:
    """One word or reason for a type."""
    if result.kind != "rope":
        return {"none": "no RoPE", "unbuilt": "not built"}[result.kind] + f" ({result.reason})"
    if result.passed:
        held = [found.method for found in result.methods if found.parity is None]
        return f"passed; in memory only: {', '.join(held)}" if held else "passed"
    return "in memory only" if result.handled else f"FAILED {result.error}"


def row(result: examine.TypeResult) -> str:
    """One line of the table."""
    cells = {
        found.method: f"`{found.written_as}`" if found.parity else "in memory" for found in result.methods
    }
    wanted = [cells.get(method, "-") for method in examine.METHODS]
    layers = "sliding layers" if result.layers == "all" else ""
    structure = "; ".join(part for part in (result.structure, layers) if part)
    return f"| {result.model_type} | {structure} | {' | '.join(wanted)} | {verdict(result).split(';')[0]} |"


def page(results: Sequence[examine.TypeResult]) -> str:
    """The whole page."""
    rope = [result for result in results if result.kind == "rope"]
    plain = [result for result in results if result.kind == "none"]
    unbuilt = [result for result in results if result.kind == "unbuilt"]
    passed = [result for result in rope if result.passed]
    partly = [result for result in passed if any(found.parity is None for found in result.methods)]
    reasons = sorted({f"`{r.model_type}`: {m.reason}" for r in rope for m in r.methods if m.reason})
    lines = [
        "# Architectures",
        "",
        f"Written by `make test-architectures` with transformers {transformers.__version__} and torch "
        f"{torch.__version__.split('+')[0]}. Every causal language model type is built tiny and put through the same "
        "steps: its geometry is read from its configuration; `linear`, `ntk`, `yarn` and `mrrope-pro` (which no stock "
        "type knows) are applied at factor 4 in memory and written to disk; frequencies are read back from the live "
        "modules; logits past the window must change; a stock reload must give the in-memory logits bit for bit; "
        "removal, and the model's own schedule, must give the original logits bit for bit.",
        "",
        f"Of {len(results)} types, {len(rope)} rotate and can be built, {len(plain)} have no rotary embeddings in "
        f"their text decoder, and {len(unbuilt)} cannot be built here.",
        "",
        f"- **{len(passed)} of {len(rope)} pass**, {len(passed) - len(partly)} of them with all four methods on disk "
        f"and {len(partly)} with some methods in memory only.",
        f"- {len(rope) - len(passed)} are held in memory only: their configuration can carry no scaling at all, and "
        "`ropewalk extend` refuses them with the reason.",
        "",
        "A cell names the stock `rope_type` that was written (`default` is a changed rope_theta, `longrope` the "
        'universal carrier); "in memory" means that `ropewalk.apply` works and `ropewalk extend` refuses.',
        "",
        "| type | rotary part | linear | ntk | yarn | mrrope-pro | |",
        "|---|---|---|---|---|---|---|",
        *[row(result) for result in rope],
        "",
        "## Why some cannot be written",
        "",
        *[f"- {reason}" for reason in reasons],
        "",
        "## No rotary embeddings",
        "",
        ", ".join(result.model_type for result in plain) + ".",
        "",
        "## Not built",
        "",
        *[f"- {result.model_type}: {result.reason}" for result in unbuilt],
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
