"""`verify --runtime`: the same tokens through stock transformers and through the real program, position by position."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.models.facts import ModelFacts
from ropewalk.models.proof.probe import Probe
from ropewalk.models.proof.stock import stock_run
from ropewalk.models.source import locate
from ropewalk.runtimes.environments import RUNNABLE, how_to_get, interpreter
from ropewalk.runtimes.export import Exported, ExportResult
from ropewalk.runtimes.known import TOLERANCE, file_stem
from ropewalk.runtimes.registry import find_runtime
from ropewalk.runtimes.writing import export

TIMEOUT_S = 1800
# Programs that tell one position a request are asked at so many.
NUM_ASKED = 24
_MAX_ROWS_BYTES = 1 << 30


@dataclass(frozen=True)
class RuntimeCheck:
    """One program's outcome: pass, fail or skip, the differences, and what was expected."""

    runtime: str
    status: str
    detail: str
    expected: str
    largest: float | None = None
    mean: float | None = None
    worst_position: int | None = None
    positions: int = 0
    versions: dict[str, str] | None = None
    # The largest difference among positions of the first 1, 2, 4 ... original windows, by that multiple.
    by_length: dict[int, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """One entry of `checks`."""
        document = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"name": f"runtime:{self.runtime}"} | document | {"tolerance": TOLERANCE}


def verify_runtimes(checkpoint: str | Path, names: Sequence[str]) -> tuple[RuntimeCheck, ...]:
    """Run an extended checkpoint in each program beside stock transformers, both in float32.

    Each program gets what `export --to` writes for it. A difference of a next-token log-probability above 1e-3
    anywhere fails, with its position and the facts that promised otherwise.
    """
    programs = [find_runtime(name) for name in names]
    unknown = [program.title for program in programs if program.name not in RUNNABLE]
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)} cannot be run from here", hint=f"these can: {', '.join(RUNNABLE)}"
        )
    place = locate(checkpoint, need_weights=True)
    found: list[RuntimeCheck] = []
    with tempfile.TemporaryDirectory(prefix="ropewalk-runtime-") as work:
        reference: _Reference | None = None
        for program in programs:
            python = interpreter(program.name)
            if python is None:
                found.append(RuntimeCheck(program.name, "skip", how_to_get(program.name), "not run"))
                continue
            made = export(
                place.folder,
                to=program.name,
                output=Path(work) / file_stem(program.name),
                gguf_type="float32",
                weights="symlink",
                allow_approximate=True,
            )
            reference = reference or _Reference.of(place.folder, made)
            found.append(_check(made, reference, python, Path(work)))
    return tuple(found)


@dataclass(frozen=True)
class _Prompt:
    """Tokens and what stock transformers gives each of them: log p(ids[i + 1] | ids[: i + 1]), from `first` on."""

    ids: tuple[int, ...]
    first: int
    logprobs: np.ndarray


@dataclass(frozen=True)
class _Reference:
    """What stock transformers says: a long prompt, and a short one where the schedule has a set for those."""

    facts: ModelFacts
    prompts: tuple[_Prompt, ...]

    @classmethod
    def of(cls, folder: Path, made: ExportResult) -> _Reference:
        facts = made.job.facts
        ids = tokens_for(facts, made.target_length)
        rows = max(64, _MAX_ROWS_BYTES // (4 * (facts.vocab_size or 1)))
        asked = (
            [ids] if made.schedule.short_inv_freq is None else [ids, ids[: min(facts.original_length, 512)]]
        )
        probes = [
            Probe(f"runtime {number}", each, None, max(0, len(each) - rows), 0)
            for number, each in enumerate(asked)
        ]
        run = stock_run(folder, probes, device="cpu", dtype="float32", attn="sdpa", trust_remote_code=False)
        return cls(
            facts,
            tuple(
                _Prompt(probe.ids, probe.keep, _told(logits, probe.ids[probe.keep + 1 :]))
                for probe, logits in zip(probes, run.logits, strict=True)
            ),
        )


def _told(logits: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """The log-probability of each wanted token at its place."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return np.asarray(scores[np.arange(len(wanted)), np.array(wanted)])


def tokens_for(facts: ModelFacts, target_length: int) -> tuple[int, ...]:
    """A block of random tokens over and over, past the original window: models that copy make positions matter."""
    length = facts.original_length
    count = max(2, min(target_length - 1, 4 * length, length + 2048))
    vocabulary = facts.vocab_size or 256
    low = min(3, vocabulary - 1)
    block = np.random.default_rng(0).integers(low, min(vocabulary, 50_000), size=min(96, count))
    return tuple(int(value) for value in np.resize(block, count))


def _check(made: ExportResult, reference: _Reference, python: str, work: Path) -> RuntimeCheck:
    exported = made.exports[0]
    item = _item(made, exported, reference)
    try:
        row = run_item(exported.runtime, python, item, work)
    except RopewalkError as error:
        return RuntimeCheck(exported.runtime, "fail", one_line(error, 400), exported.answer.describe())
    window = reference.facts.original_length
    checks = []
    for prompt, told in zip(reference.prompts, row["logprobs"], strict=True):
        values = np.array([np.nan if value is None else value for value in told], dtype=np.float64)
        span = (prompt.first, window)
        checks.append(judged(exported, prompt.logprobs, values[prompt.first :], span, row["versions"]))
    worst = max(checks, key=lambda check: (check.status != "pass", check.largest or 0.0))
    if worst is checks[0]:
        return worst
    return replace(worst, detail=f"a short prompt: {worst.detail}")


def judged(
    exported: Exported,
    wanted: np.ndarray,
    told: np.ndarray,
    span: tuple[int, int],
    versions: dict[str, str],
) -> RuntimeCheck:
    """The verdict on one program's log-probabilities; NaN in `told` marks places that were not asked for.

    `span` is the position of the first one, and the original window.
    """
    first, window = span
    expected = exported.answer.describe()
    asked = ~np.isnan(told)
    name = exported.runtime
    if not asked.any():
        return RuntimeCheck(name, "fail", "the program told no log-probability", expected, versions=versions)
    differences = np.where(asked, np.abs(told - wanted), 0.0)
    worst = int(np.argmax(differences))
    largest, mean = float(differences[worst]), float(differences[asked].mean())
    size = f"largest difference {largest:.2g} at position {worst + first}, mean {mean:.2g}, tolerance {TOLERANCE:g}"
    status = "pass" if largest <= TOLERANCE else "fail"
    if status == "pass" and not exported.answer.exact:
        size += f"; known as {exported.answer.outcome} until now"
    elif status == "fail" and exported.answer.exact:
        forms = ", ".join(exported.answer.way.forms) if exported.answer.way else "nothing"
        size += f"; the fact that {forms} is exact on {exported.answer.architecture} is wrong here"
    elif status == "fail":
        size += f"; as expected: {exported.answer.describe()}"
    return RuntimeCheck(
        name,
        status,
        size,
        expected,
        largest,
        mean,
        worst + first,
        int(asked.sum()),
        versions,
        _by_length(differences, asked, first, window),
    )


def _by_length(differences: np.ndarray, asked: np.ndarray, first: int, window: int) -> dict[int, float]:
    """The largest difference within the first window, within two, within four, as far as the tokens go."""
    found: dict[int, float] = {}
    multiple, end = 1, first + differences.size + 1
    while multiple == 1 or multiple * window <= end:
        inside = max(0, multiple * window - first)
        if asked[:inside].any():
            found[multiple] = float(differences[:inside].max())
        multiple *= 2
    return found


def _item(made: ExportResult, exported: Exported, reference: _Reference) -> dict[str, Any]:
    """The job for a program's runner."""
    folder = Path(exported.files[0]).parent
    item: dict[str, Any] = {
        "name": "checkpoint",
        "max_length": made.target_length,
        "prompts": [list(prompt.ids) for prompt in reference.prompts],
        "vocabulary": reference.facts.vocab_size,
    }
    if exported.runtime == "llama.cpp":
        places = np.unique(
            [
                place
                for prompt in reference.prompts
                for place in np.linspace(prompt.first, len(prompt.ids) - 2, NUM_ASKED).astype(int)
            ]
        )
        plain = _plain_token(made)
        flags = _runner_flags(made)
        return item | {
            "model": exported.files[0],
            "positions": [int(place) for place in places],
            "plain_token": plain,
            "flags": flags,
        }
    if exported.runtime == "vllm":
        assert exported.fragment is not None
        source = locate(made.source).folder
        return item | {"model": str(source.absolute()), "overrides": dict(exported.fragment.content)}
    return item | {"model": str(folder)}


def _runner_flags(made: ExportResult) -> dict[str, float]:
    """Launch flags by the names of the runner's parameters."""
    way = made.exports[0].answer.way
    if way is None or "yarn-betas" not in way.forms:
        return {}
    given = made.schedule.parameters
    return {f"yarn_{name}": float(given[name]) for name in ("beta_fast", "beta_slow") if name in given}


def _plain_token(made: ExportResult) -> int:
    """The number of a token of one plain letter, which a server writes out at once."""
    from ropewalk.models.config import read_json

    path = locate(made.source).folder / "tokenizer.json"
    vocabulary = (read_json(path).get("model") or {}).get("vocab") if path.is_file() else None
    number = vocabulary.get("A") if isinstance(vocabulary, dict) else None
    return number if isinstance(number, int) else 65


def run_item(runtime: str, python: str, item: dict[str, Any], work: Path) -> dict[str, Any]:
    """One item through a program's runner: the row that it wrote, or RopewalkError with the program's own words."""
    jobs, out = work / f"{file_stem(runtime)}-jobs.json", work / f"{file_stem(runtime)}-out.jsonl"
    jobs.write_text(json.dumps({"items": [item]}), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with as_file(files("ropewalk.runtimes.runners").joinpath(f"run_{file_stem(runtime)}.py")) as script:
        command = [python, str(script), str(jobs), str(out)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RopewalkError(f"it took more than {TIMEOUT_S} s", hint="try a smaller model") from error
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    if not lines:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise RopewalkError(
            f"it does not run ({one_line(last[0], 240)})", hint="build it again: make runtimes"
        )
    row: dict[str, Any] = json.loads(lines[-1])
    if "error" in row:
        raise RopewalkError(
            f"it refuses ({one_line(row['error'], 300)})", hint="`ropewalk export` says what is known"
        )
    return row
