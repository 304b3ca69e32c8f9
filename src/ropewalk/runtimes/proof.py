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
from ropewalk.models.config import read_config, read_json
from ropewalk.models.facts import ModelFacts
from ropewalk.models.proof.probe import Probe
from ropewalk.models.proof.stock import stock_run
from ropewalk.models.quantised import stored_bits
from ropewalk.models.source import is_gguf, locate
from ropewalk.models.structure.view import view_of
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
class Tolerance:
    """What one type's rounding may do to a next-token log-probability: at the worst position, and on average."""

    largest: float
    mean: float

    def describe(self, dtype: str) -> str:
        """As a phrase."""
        mean = "" if self.mean == self.largest else f" and {self.mean:g} on average"
        return f"tolerance {self.largest:g}{mean} in {dtype}"


# Models are deeper than the one whose rounding is known, and differ more.
_ROUNDING = 3
# float32: where programs compute the same they differ by 1e-6 to 4e-4, a wrong field costs 0.3 and more. The others are
# four to seven times the largest that rounding did to the bundled model, unscaled, in any of transformers, mlx and
# llama.cpp against transformers in float32: 0.044 and 0.0033 on average in float16, 0.22 and 0.022 in bfloat16
# (stretched 8 times up to 0.51 in bfloat16 and 0.13 in float16, both in mlx; docs/log.md).
TOLERANCES = {
    "float32": Tolerance(TOLERANCE, TOLERANCE),
    "float16": Tolerance(0.3, 0.015),
    "bfloat16": Tolerance(0.8, 0.08),
}


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
    dtype: str = "float32"
    # What the program's kernels are known to round on this architecture, whatever the schedule.
    rounding: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """One entry of `checks`."""
        document = {name: getattr(self, name) for name in self.__dataclass_fields__}
        allowed = tolerance_of(self.dtype, self.rounding)
        document |= {"tolerance": allowed.largest, "mean_tolerance": allowed.mean}
        return {"name": f"runtime:{self.runtime}"} | document


def verify_runtimes(
    checkpoint: str | Path, names: Sequence[str], dtype: str = "float32"
) -> tuple[RuntimeCheck, ...]:
    """Run an extended checkpoint in each program beside stock transformers.

    Each program gets what `export --to` writes for it and computes in `dtype`; transformers computes in float32, so
    that one side rounds and not both. A difference of a next-token log-probability above the type's tolerance (in
    float32 1e-3 anywhere) fails, with its position and the facts that promised otherwise.
    """
    if dtype not in TOLERANCES:
        raise UsageError(
            f"dtype={one_line(dtype, 40)!r} has no stated tolerance", hint=f"use {', '.join(TOLERANCES)}"
        )
    programs = [find_runtime(name) for name in names]
    unknown = [program.title for program in programs if program.name not in RUNNABLE]
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)} cannot be run from here", hint=f"these can: {', '.join(RUNNABLE)}"
        )
    if is_gguf(locate(checkpoint).config):
        raise UsageError(
            f"{checkpoint} is a GGUF file, and stock transformers has nothing of its precision to compare it with",
            hint="give the checkpoint folder: the file for llama.cpp is made from it",
        )
    place = locate(checkpoint, need_weights=True)
    config = read_config(place.config)
    stored = stored_bits(config, view_of(config).text)
    if stored is not None:
        # Another program unpacks such weights by kernels of its own, which differ more than rotations may.
        said = (
            f"its weights are quantised ({stored[0]}): no float type has them, so there is nothing to compare to the "
            "tolerance; `ropewalk verify` checks the configuration, and verifying the unquantised model with the same "
            "schedule shows what the program makes of it"
        )
        return tuple(RuntimeCheck(each.name, "skip", said, "not run", dtype=dtype) for each in programs)
    found: list[RuntimeCheck] = []
    with tempfile.TemporaryDirectory(prefix="ropewalk-runtime-") as work:
        reference: _Reference | None = None
        for program in programs:
            python = interpreter(program.name)
            if python is None:
                found.append(
                    RuntimeCheck(program.name, "skip", how_to_get(program.name), "not run", dtype=dtype)
                )
                continue
            made = export(
                place.folder,
                to=program.name,
                output=Path(work) / file_stem(program.name),
                gguf_type=dtype,
                # Temporary folders often lie on another file system, which hard links do not reach.
                weights="symlink",
                # What is known to be wrong is run all the same: the run may show otherwise.
                allow_approximate=True,
            )
            reference = reference or _Reference.of(place.folder, made)
            found.append(_check(made, reference, (python, dtype), Path(work)))
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
        # Logits of a whole long prompt in a large vocabulary fill memory: the last rows alone, up to a GiB.
        rows = max(64, _MAX_ROWS_BYTES // (4 * (facts.vocab_size or 1)))
        # transformers takes the long set for all of a long prompt, which cannot show that the short one is dropped.
        asked = (
            [ids] if made.schedule.short_inv_freq is None else [ids, ids[: min(facts.original_length, 512)]]
        )
        probes = [
            Probe(f"runtime {number}", each, None, max(0, len(each) - rows), 0)
            for number, each in enumerate(asked)
        ]
        run = stock_run(folder, probes, device="cpu", dtype="float32", attn=None, trust_remote_code=False)
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
    # One place of the window stays free, since servers want to write a token.
    count = max(2, min(target_length - 1, 4 * length, length + 2048))
    vocabulary = facts.vocab_size or 256
    low = min(3, vocabulary - 1)
    block = np.random.default_rng(0).integers(low, min(vocabulary, 50_000), size=min(96, count))
    return tuple(int(value) for value in np.resize(block, count))


def _check(made: ExportResult, reference: _Reference, how: tuple[str, str], work: Path) -> RuntimeCheck:
    """One program's outcome; `how` is its interpreter and the type that it computes in."""
    python, dtype = how
    exported = made.exports[0]
    item = _item(made, exported, reference) | {"dtype": dtype}
    try:
        row = run_item(exported.runtime, python, item, work)
    except RopewalkError as error:
        return RuntimeCheck(
            exported.runtime, "fail", one_line(error, 400), exported.answer.describe(), dtype=dtype
        )
    window = reference.facts.original_length
    checks = []
    for prompt, told in zip(reference.prompts, row["logprobs"], strict=True):
        span = (prompt.first, window)
        checks.append(judged(exported, prompt.logprobs, told, span, row["versions"], dtype))
    # A failed prompt comes before any that passed: one that told nothing has no difference to be ranked by.
    worst = max(checks, key=lambda check: (check.status != "pass", check.largest or 0.0))
    if worst is checks[0]:
        return worst
    return replace(worst, detail=f"a short prompt: {worst.detail}")


def judged(
    exported: Exported,
    wanted: np.ndarray,
    told: Sequence[float | None],
    span: tuple[int, int],
    versions: dict[str, str],
    dtype: str = "float32",
) -> RuntimeCheck:
    """The verdict on one program's log-probabilities, from position 0; None marks places that were not asked for.

    `span` is the position of the first one `wanted`, and the original window; `dtype` what the program computed in.
    """
    first, window = span
    known = [fact.known_by.rounding for fact in exported.answer.facts]
    rounding = max((size for size in known if size is not None), default=0.0)
    allowed = tolerance_of(dtype, rounding)
    expected = exported.answer.describe()
    name = exported.runtime
    # A mask of its own: no number of the program's may pass for a place that was not asked.
    asked = np.array([value is not None for value in told], dtype=bool)
    values = np.array([value or 0.0 for value in told], dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(values))
    if broken.size:
        said = f"the program computes no number at position {broken[0]} and {broken.size - 1} more"
        return RuntimeCheck(name, "fail", said, expected, versions=versions, dtype=dtype)
    asked, values = asked[first:], values[first:]
    if not asked.any():
        said = "the program told no log-probability"
        return RuntimeCheck(name, "fail", said, expected, versions=versions, dtype=dtype)
    differences = np.where(asked, np.abs(values - wanted), 0.0)
    worst = int(np.argmax(differences))
    largest, mean = float(differences[worst]), float(differences[asked].mean())
    size = f"largest difference {largest:.2g} at position {worst + first}, mean {mean:.2g}, {allowed.describe(dtype)}"
    status = "pass" if largest <= allowed.largest and mean <= allowed.mean else "fail"
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
        dtype,
        rounding,
    )


def tolerance_of(dtype: str, rounding: float = 0.0) -> Tolerance:
    """The type's tolerance, or more where a program's kernels are known to round more on an architecture."""
    plain = TOLERANCES[dtype]
    return Tolerance(max(plain.largest, _ROUNDING * rounding), max(plain.mean, rounding))


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
        # The number of a token of one plain letter, which a server writes out at once.
        path = locate(made.source).folder / "tokenizer.json"
        vocabulary = (read_json(path).get("model") or {}).get("vocab") if path.is_file() else None
        number = vocabulary.get("A") if isinstance(vocabulary, dict) else None
        return item | {
            "model": exported.files[0],
            "positions": [int(place) for place in places],
            "plain_token": number if isinstance(number, int) else 65,
            "flags": _runner_flags(made),
        }
    if exported.runtime == "vllm":
        assert exported.fragment is not None
        # vLLM's export has no weights: its overrides lie over the checkpoint itself.
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


def run_item(runtime: str, python: str, item: dict[str, Any], work: Path) -> dict[str, Any]:
    """One item through a program's runner: the row that it wrote, or RopewalkError with the program's own words."""
    jobs, out = work / f"{file_stem(runtime)}-jobs.json", work / f"{file_stem(runtime)}-out.jsonl"
    jobs.write_text(json.dumps({"items": [item]}), encoding="utf-8")
    # Our packages would be found before the program's own, whose pins differ.
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
        # A traceback ends with what went wrong.
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
