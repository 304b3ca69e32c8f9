"""Start a real server with each schedule in turn and ask the fingerprint which one it runs.

    python tools/runtimes/fingerprints.py PROGRAM PYTHON OUT.jsonl [CASE ...]

PROGRAM is vllm or llama.cpp, PYTHON the interpreter of an environment that has it (`make runtimes`). The bundled model
is served in float32 on a port of this machine, each time from what `ropewalk export` writes; one line a case says what
was found. The exit code is 1 where any was named wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "src"))

from ropewalk.hemp import folder as hemp_folder  # noqa: E402
from ropewalk.runtimes.fingerprint import fingerprint  # noqa: E402
from ropewalk.runtimes.writing import export  # noqa: E402

WINDOW, CLAIM = 512, 4096
# By case: method and factor, the window that is declared, and the name and finding that are right.
CASES: dict[str, tuple[str, dict[str, Any], int, str, str | None]] = {
    "nothing": ("none", {}, WINDOW, "the base's own", None),
    "linear 4": ("linear", {"factor": 4.0}, 4 * WINDOW, "linear 4", None),
    "ntk 4": ("ntk", {"factor": 4.0}, 4 * WINDOW, "ntk 4", None),
    "yarn 4": ("yarn", {"factor": 4.0}, 4 * WINDOW, "yarn 4", None),
    "yarn 8": ("yarn", {"factor": 8.0}, 8 * WINDOW, "yarn 8", None),
    "wrong base": ("abf", {"factor": 4.0, "parameters": {"rope_theta": 5e5}}, 4 * WINDOW, "rope_theta 500000",
                   "wrong-base"),
    "unscaled, claims 8 times": ("none", {}, CLAIM, "the base's own", "unscaled-window"),
}  # fmt: skip
_START_S = 900


def main(program: str, python: str, out: str, *names: str) -> None:
    """Every case, or those named."""
    wrong = []
    for name in names or CASES:
        row = run_case(program, python, name)
        with Path(out).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        print(f"{program} {name}: {'right' if row['right'] else 'WRONG'}: {row['verdict']}", flush=True)
        wrong += [] if row["right"] else [name]
    raise SystemExit(1 if wrong else 0)


def run_case(program: str, python: str, name: str) -> dict[str, Any]:
    """Serve one case and identify it: what was found, and whether it is what was started."""
    *_, window, wanted, finding = CASES[name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work, serving(program, python, name, Path(work)) as url:
        started = time.monotonic()
        lengths = () if window > WINDOW else (WINDOW // 2, WINDOW - 8)
        found = fingerprint(url, "hemp", model="hemp", device="cpu", lengths=lengths)
    errors = [each["id"] for each in found.findings if each["severity"] == "error"]
    best = found.identified[0]
    right = best.best.candidate.name == wanted and errors == ([] if finding is None else [finding])
    return {
        "program": program,
        "case": name,
        "right": right,
        "verdict": found.verdict,
        "findings": [each["id"] for each in found.findings],
        "difference": best.best.difference,
        "log_ratio": best.ratio,
        "values": best.values,
        "claimed": found.claimed_length,
        "served": found.served_length,
        "start_s": round(started - began, 1),
        "ask_s": round(time.monotonic() - started, 1),
    }


@contextlib.contextmanager
def serving(program: str, python: str, name: str, work: Path) -> Iterator[str]:
    """A server of one case, by its address, stopped behind."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = COMMANDS[program](python, name, work, port)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    if "SERVER_PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["SERVER_PYTHONPATH"]
    with (work / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait(process, f"http://127.0.0.1:{port}", work / "log.txt")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"the server ended:\n{log.read_text(encoding='utf-8')[-2000:]}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise SystemExit(f"the server did not start in {_START_S} s:\n{log.read_text(encoding='utf-8')[-2000:]}")


def _vllm(python: str, name: str, work: Path, port: int) -> list[str]:
    method, given, window, *_ = CASES[name]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(hemp_folder())]
    command += ["--served-model-name", "hemp", "--port", str(port), "--host", "127.0.0.1"]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", str(window)]
    content: dict[str, Any] = {}
    if method != "none":
        made = export("hemp", method, to="vllm", **given).exports[0].fragment
        assert made is not None
        content = dict(made.content)
    elif window > WINDOW:
        content = {"max_position_embeddings": window}
    return [*command, "--hf-overrides", json.dumps(content)] if content else command


def _llama_cpp(python: str, name: str, work: Path, port: int) -> list[str]:
    method, given, window, *_ = CASES[name]
    model = work / "model.gguf"
    stretch = {"factor": 1.0, "target": window} if method == "none" else given
    export("hemp", method, to="llama.cpp", output=model, gguf_type="float32", **stretch)
    return [python, str(Path(__file__).with_name("serve_llama_cpp.py")), str(model), str(window), str(port)]


COMMANDS = {"vllm": _vllm, "llama.cpp": _llama_cpp}


if __name__ == "__main__":
    main(*sys.argv[1:])
