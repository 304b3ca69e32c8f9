"""Runs the tests of a mutant in a process of its own, those first that see the changed function.

A mutant that is noticed costs little that way: the tests that call the changed function come first, cheapest first, and
the first that fails ends the run. One that lives has seen every test of its part all the same.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ropewalk"
_PRELOADED = "ignore::pytest.PytestAssertRewriteWarning"
# A process that waits for ever costs no processor time: by the clock it is stopped after so many times its limit.
_CLOCK = 4.0
Code = tuple[str, int]


@dataclass
class Seen:
    """What each test calls and costs, from one run without any mutant."""

    calls: dict[str, set[Code]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu_s: float = 0.0

    def order(self, place: Code | None) -> dict[str, tuple[bool, float]]:
        """A rank for each test: those that call the function at this place first, cheapest first."""
        return {
            test: (place is not None and place not in called, self.seconds.get(test, 0.0))
            for test, called in self.calls.items()
        }


class _Watched:
    """A plugin that writes down which functions of the package each test calls, what its fixtures call among it."""

    def __init__(self) -> None:
        self.seen = Seen()
        self._now: set[Code] = set()
        self._fixtures: dict[str, set[Code]] = {}

    def _called(self, frame: types.FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(SOURCE)):
            self._now.add((str(Path(code.co_filename).relative_to(SOURCE)), code.co_firstlineno))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._now = self.seen.calls.setdefault(item.nodeid, set())
        sys.settrace(self._called)
        threading.settrace(self._called)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            for name in getattr(item, "fixturenames", ()):
                # A fixture that an earlier test has built is this test's as well.
                self.seen.calls[item.nodeid] |= self._fixtures.get(name, set())

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        around, self._now = self._now, self._fixtures.setdefault(fixturedef.argname, set())
        try:
            return (yield)
        finally:
            around |= self._now
            self._now = around

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seen.seconds[report.nodeid] = self.seen.seconds.get(report.nodeid, 0.0) + report.duration


class Ordered:
    """A plugin that sorts the collected tests by a rank; `only_seeing`: leaves those out that do not see the mutant."""

    def __init__(self, ranks: dict[str, tuple[bool, float]], *, only_seeing: bool = False) -> None:
        self.ranks = ranks
        self.only_seeing = only_seeing

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.ranks.get(item.nodeid, (False, 0.0)))
        seeing = [item for item in items if not self.ranks.get(item.nodeid, (False, 0.0))[0]]
        if self.only_seeing and seeing:
            items[:] = seeing


def watched(tests: Sequence[str], limit_s: float) -> Seen | None:
    """Run the tests without any mutant and see what they call; nothing where they fail or are late."""
    with tempfile.TemporaryDirectory() as made:
        written = Path(made) / "seen.json"
        watch = _Watched()

        class Writes:
            """Writes down what was seen, since only a file outlives the child."""

            def pytest_sessionfinish(self) -> None:
                calls = {test: sorted(called) for test, called in watch.seen.calls.items()}
                told = {"calls": calls, "seconds": watch.seen.seconds, "cpu_s": time.process_time()}
                written.write_text(json.dumps(told), encoding="utf-8")

        word = verdict_on(lambda: None, limit_s, tests=tests, plugins=[watch, Writes()])
        if word != "lived":
            return None
        told = json.loads(written.read_text(encoding="utf-8"))
    calls = {test: {(name, line) for name, line in called} for test, called in told["calls"].items()}
    return Seen(calls, told["seconds"], told["cpu_s"])


def function_at(file: str, tree: ast.Module, line: int) -> Code | None:
    """The innermost function that holds a line, as a code object names it; nothing for a line of the module."""
    found: tuple[int, int] | None = None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            inside = first <= line <= (node.end_lineno or first)
            if inside and (found is None or first > found[0]):
                found = (first, node.end_lineno or first)
    return None if found is None else (file, found[0])


def verdict_on(
    put: Callable[[], None],
    limit_s: float,
    *,
    tests: Sequence[str],
    plugins: Sequence[object] = (),
) -> str:
    """ "noticed", "lived" or "late": what the tests say, in a child that has imported nothing of ours yet.

    `put` is called in the child and puts the mutant in place; `limit_s` is processor time, so that a busy machine makes
    no mutant late.
    """
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s) + 1, int(limit_s) + 1))
        _run_tests(put, tests, plugins)
    deadline = time.monotonic() + _CLOCK * limit_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code in (-signal.SIGXCPU, -signal.SIGKILL):
                return "late"
            return "lived" if code == 0 else "noticed"
        time.sleep(0.02)
    # With whatever processes the tests have started.
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "late"


def _run_tests(put: Callable[[], None], tests: Sequence[str], plugins: Sequence[object]) -> None:
    """In the child: never returns."""
    put()
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    words = ["-x", "-q", "-p", "no:cacheprovider", "-W", _PRELOADED]
    try:
        code = int(pytest.main([*words, *tests], plugins=list(plugins)))
    except BaseException:
        code = 1
    os._exit(code)
