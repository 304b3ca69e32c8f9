"""Run every schedule of the zoo through one program and write what came out, case by case.

    python tools/runtimes/measure.py PROGRAM PYTHON ZOO [ARCHITECTURE ...]

PROGRAM is mlx, vllm or llama.cpp, PYTHON the interpreter of an environment that has it (`make runtimes`). Each way
in which the program's file in `ropewalk.runtimes.programs` writes a schedule is run; ZOO/ARCHITECTURE/PROGRAM.jsonl
gets one line a way: the forms that it rests on, and the largest difference of a next-token log probability from stock
transformers at 1, 2 and 4 times the original window. `collect.py` makes facts of these.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "src"))

from tokenizers import Tokenizer  # noqa: E402
from tokenizers.models import BPE  # noqa: E402
from tokenizers.pre_tokenizers import ByteLevel  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

from ropewalk.models.facts import read_facts  # noqa: E402
from ropewalk.runtimes.answer import job_for  # noqa: E402
from ropewalk.runtimes.base import Job, Runtime, Way  # noqa: E402
from ropewalk.runtimes.gguf.convert import convert  # noqa: E402
from ropewalk.runtimes.registry import find_runtime  # noqa: E402
from ropewalk.schedule import FrequencySchedule  # noqa: E402

RUNNERS = ROOT / "src" / "ropewalk" / "runtimes" / "runners"
WINDOW, FACTOR = 256, 4
# Filling a cache that these models do not need would take vLLM longer than running them.
_CACHE_BYTES = 64 << 20
# The zoo's vocabulary, and a plain letter in it.
_TOKENS, _PLAIN = 128, 65
# Loading takes this program seconds, so one case stands for all fields of yarn; where it fails, run the others too.
_FEWER = {
    "vllm": ("none", "ntk", "linear", "linear-all", "llama3", "yarn-every", "yarn-mscale", "mrrope-pro",
             "longrope-two-sets")
}  # fmt: skip


def main(program: str, python: str, zoo: str, *names: str) -> None:
    """Every architecture of the zoo, or those named."""
    for name in names or sorted(path.parent.name for path in Path(zoo).glob("*/cases.json")):
        folder = Path(zoo) / name
        report = folder / f"{program}.jsonl"
        if report.exists():
            continue
        rows = measure(find_runtime(program), python, folder)
        report.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for row in rows:
            said = row.get("error") or [f"{value:.1e}" for value in row["differences"]]
            print(f"{name} {row['case']} {row['way']} {','.join(row['forms'])}: {said}", flush=True)


def measure(runtime: Runtime, python: str, folder: Path) -> list[dict[str, Any]]:
    """Every way of writing every case, run in one process of the program."""
    document = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    work = folder / runtime.name
    work.mkdir(exist_ok=True)
    # One run tells about one set of forms: the last case that needs just these, where cases grow harder.
    planned = list(
        {
            tuple(about["forms"]): (item, about) for item, about in _planned(runtime, document, folder, work)
        }.values()
    )
    jobs, out = work / "jobs.json", work / "out.jsonl"
    jobs.write_text(json.dumps({"items": [item for item, _ in planned]}), encoding="utf-8")
    runner = RUNNERS / f"run_{runtime.name.replace('.', '_')}.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if not out.exists():
        with (work / "log.txt").open("w", encoding="utf-8") as log:
            subprocess.run(
                [python, str(runner), str(jobs), str(out)], stdout=log, stderr=log, env=environment
            )
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    by_name = {row["name"]: row for row in answers}
    plain = next(case["reference"] for case in document["cases"] if case["name"] == "none")
    return [_row(about, by_name[item["name"]], plain) for item, about in planned]


def _planned(
    runtime: Runtime, document: dict[str, Any], folder: Path, work: Path
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    base = json.loads((folder / "base" / "config.json").read_text(encoding="utf-8"))
    facts = read_facts(base)
    for case in document["cases"]:
        if "config" not in case or case["name"] not in _FEWER.get(runtime.name, (case["name"],)):
            continue
        made = FrequencySchedule.from_json(case["schedule"])
        job = job_for(facts, made, target_length=FACTOR * WINDOW, layers=case["layers"])
        for way in runtime.ways(job):
            name = f"{case['name']}.{way.name.replace(' ', '_')}"
            about = {
                "architecture": document["architecture"],
                "case": case["name"],
                "way": way.name,
                "forms": list(way.forms),
                "reference": case["reference"],
                # With the rounding of the program's own kernels, where that is more than the tolerance.
                "rounded": case.get(f"reference_{runtime.name}"),
            }
            item = {"name": name, "prompts": document["prompts"], "max_length": FACTOR * WINDOW}
            item["cache_bytes"] = _CACHE_BYTES
            yield item | write(runtime, job, way, folder / "base", work / name), about


def write(runtime: Runtime, job: Job, way: Way, base: Path, out: Path) -> dict[str, Any]:
    """The model as this way writes it: a folder with the fragment laid over its configuration."""
    out.mkdir(exist_ok=True)
    if runtime.name == "llama.cpp":
        return _write_gguf(runtime, job, way, base, out)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    merged = _laid_over(config, runtime.fragment(job, way).content)
    (out / "config.json").write_text(json.dumps(merged), encoding="utf-8")
    for path in base.iterdir():
        if path.name != "config.json" and not (out / path.name).exists():
            os.link(path, out / path.name)
    return {"model": str(out)}


def _write_gguf(runtime: Runtime, job: Job, way: Way, base: Path, out: Path) -> dict[str, Any]:
    """The model as a GGUF file; one request a place, so only some are asked."""
    content = runtime.fragment(job, way).content
    give_tokenizer(base)
    target = out / "model.gguf"
    if not target.exists():
        convert(base, target, job.facts, content["metadata"], content["tensors"], dtype="float32")
    places = sorted(
        {round((FACTOR * WINDOW - 2) * share / 11) for share in range(1, 12)} | {WINDOW - 2, 2 * WINDOW - 2}
    )
    flags = {name: float(value) for name, value in _flags(job, way)}
    return {
        "model": str(target),
        "vocabulary": _TOKENS,
        "positions": places,
        "plain_token": _PLAIN,
        "flags": flags,
    }


def give_tokenizer(base: Path) -> None:
    """A tokenizer of single bytes beside a model that has none: a GGUF file wants one."""
    if (base / "tokenizer.json").exists():
        return
    vocabulary = {char: at for at, char in enumerate(sorted(ByteLevel.alphabet())[:_TOKENS])}
    plain = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(base)


def _flags(job: Job, way: Way) -> list[tuple[str, Any]]:
    given = job.schedule.parameters
    named = (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow"))
    return [(name, given[key]) for name, key in named if "yarn-betas" in way.forms and key in given]


def _laid_over(config: dict[str, Any], content: Any) -> dict[str, Any]:
    made = dict(config)
    for key, value in content.items():
        inner = made.get(key)
        nested = isinstance(value, dict) and isinstance(inner, dict) and key.endswith("_config")
        made[key] = _laid_over(inner, value) if nested else value
    return made


def _row(about: dict[str, Any], answer: dict[str, Any], plain: list[list[float]]) -> dict[str, Any]:
    """Differences by length; `from_plain` tells a program that rotates unscaled, `scale` that the case shows at all."""
    reference, rounded = about.pop("reference"), about.pop("rounded")
    row = about | {"versions": answer.get("versions", {}), "scale": _largest(plain, reference)}
    if "error" in answer:
        return row | {"error": answer["error"]}
    row |= {
        "differences": _by_length(answer["logprobs"], reference),
        "from_plain": _largest(answer["logprobs"], plain),
    }
    if rounded is None:
        return row
    return row | {"from_stock": row["differences"], "differences": _by_length(answer["logprobs"], rounded)}


def _by_length(told: list[list[float]], wanted: list[list[float]]) -> list[float]:
    """The largest difference of each prompt."""
    return [_largest([one], [other]) for one, other in zip(told, wanted, strict=True)]


def _largest(told: list[list[float]], wanted: list[list[float]]) -> float:
    """The largest difference where both are there."""
    pairs = [
        pair
        for rows in zip(told, wanted, strict=True)
        for pair in zip(*rows, strict=True)
        if pair[0] is not None
    ]
    # A NaN compares false with everything: it must not pass as no difference.
    return max(abs(a - b) if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in pairs)


if __name__ == "__main__":
    main(*sys.argv[1:])
