"""Start-up: how long until an answer, beside a process that only imports transformers and reads the same config."""

from __future__ import annotations

import sys
from pathlib import Path

from harness import compare_commands, write_results

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "examples" / "configs" / "llama-2-7b.json"
TRANSFORMERS = (
    "import json, sys; from transformers import AutoConfig; "
    "document = json.load(open(sys.argv[1])); print(AutoConfig.for_model(**document).rope_parameters)"
)
COMMANDS = {
    "ropewalk --help": ["--help"],
    "ropewalk methods": ["methods"],
    "ropewalk inspect": ["inspect", str(CONFIG)],
    "ropewalk plan": ["plan", str(CONFIG), "--target", "32k"],
}


def main() -> None:
    """Every light command in turn with the plain way."""
    plain = [sys.executable, "-c", TRANSFORMERS, str(CONFIG)]
    results = [
        compare_commands(name, [sys.executable, "-m", "ropewalk", *words], plain, target="under 0.3 s")
        for name, words in COMMANDS.items()
    ]
    write_results(results, ROOT / "bench" / "out" / "startup.json")


if __name__ == "__main__":
    main()
