"""Changes the mathematics one small step at a time and asks the tests whether they notice.

    python tools/mutants.py                               every mutant of the rooms below
    python tools/mutants.py --room methods --share 0.1    a tenth of one room's, the same tenth each time
    python tools/mutants.py --write survivors.json

A mutant is one edit of one file: an operator exchanged (+ and -, * and /, < and <=, and, or, ==), a number changed, a
condition turned, an `and` half dropped, a default or a returned value replaced, a call of min, max, floor or ceil
exchanged. Docstrings, annotations, messages of errors and `to_json` are not mutated. Each mutant runs in a process of
its own.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# Imported before the children are made, so that a mutant costs its tests alone.
import click  # noqa: F401
import hypothesis
import numpy  # noqa: F401
import pydantic  # noqa: F401
import pytest
import rich.console  # noqa: F401
import yaml  # noqa: F401

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ropewalk"
# room -> (files, the tests that must notice)
_METHODS = ("all_pairs", "bands", "build", "llama3", "longrope", "ntk", "resonance", "stopped", "yarn")
_PLANNING = ("advice", "cost", "memory", "options", "setups", "shape", "variants")
_ANALYSIS = ("bounds", "coverage", "decay", "reach")
ROOMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "methods": (
        (*(f"methods/{name}.py" for name in _METHODS), "notations.py"),
        ("tests/methods/test_methods_plain.py", "tests/methods/test_methods_notations.py"),
    ),
    "temperature": (("temperature.py",), ("tests/test_temperature.py",)),
    "analysis": (tuple(f"analysis/{name}.py" for name in _ANALYSIS), ("tests/analysis/test_analysis.py",)),
    "base": (("analysis/base.py",), ("tests/analysis/test_base_bound.py",)),
    "planning": (
        (
            *(f"planning/{name}.py" for name in _PLANNING),
            "plan.py", "models/quantised.py", "models/feedforward.py",
        ),
        ("tests/planning",),
    ),
}  # fmt: skip
_PRELOADED = "ignore::pytest.PytestAssertRewriteWarning"
# Tests that cost more than all the others together and see nothing that those do not.
_DEAR = ("transformers_own", "table_holds_what", "recipe_is_one", "parity")
# Mutants that change nothing anybody can see, with the reason; `file:line text` as printed, without the line number.
EQUIVALENT_FILE = ROOT / "tools" / "mutants_equivalent.json"
_ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
_COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_CALLED = {"min": "max", "max": "min", "floor": "ceil", "ceil": "floor", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One edit: where, what it was and what it became."""

    room: str
    file: str
    line: int
    before: str
    after: str

    @property
    def key(self) -> str:
        """The same edit after lines have moved."""
        return f"{self.file}: {self.before} -> {self.after}"


def mutants_of(room: str) -> Iterator[tuple[Mutant, ast.Module]]:
    """Every mutant of a room with its tree."""
    for name in ROOMS[room][0]:
        source = (SOURCE / name).read_text(encoding="utf-8")
        tree = ast.parse(source)
        for place in _places(tree):
            yield from _edits(room, name, tree, place)


def _places(tree: ast.Module) -> list[int]:
    """Indices (in walking order) of the nodes that may change; text for people is left out."""
    skipped: set[int] = set()
    nodes = list(ast.walk(tree))
    for node in nodes:
        hidden: list[ast.AST] = []
        if isinstance(node, ast.Raise) or (isinstance(node, ast.FunctionDef) and node.name == "to_json"):
            hidden = [node]
        elif isinstance(node, ast.AnnAssign):
            hidden = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            hidden = [*node.decorator_list, *([node.returns] if node.returns else [])]
            hidden += [arg.annotation for arg in [*node.args.args, *node.args.kwonlyargs] if arg.annotation]
        elif isinstance(node, ast.JoinedStr | ast.ImportFrom | ast.Import):
            hidden = [node]
        for root in hidden:
            skipped |= {id(inner) for inner in ast.walk(root)}
    return [index for index, node in enumerate(nodes) if id(node) not in skipped]


def _edits(room: str, name: str, tree: ast.Module, index: int) -> Iterator[tuple[Mutant, ast.Module]]:
    nodes = list(ast.walk(tree))
    node = nodes[index]
    for number in range(_count(node)):
        changed = copy.deepcopy(tree)
        target = list(ast.walk(changed))[index]
        line = getattr(target, "lineno", 0)
        before = ast.unparse(target)
        _apply(target, number)
        after = ast.unparse(target)
        if after != before:
            yield Mutant(room, name, line, before, after), ast.fix_missing_locations(changed)


def _count(node: ast.AST) -> int:
    if isinstance(node, ast.BinOp):
        return int(type(node.op) in _ARITHMETIC)
    if isinstance(node, ast.Compare):
        return len(node.ops)
    if isinstance(node, ast.BoolOp):
        return 1 + len(node.values)
    if isinstance(node, ast.UnaryOp):
        return int(isinstance(node.op, ast.USub | ast.Not))
    if isinstance(node, ast.IfExp):
        return 2
    if isinstance(node, ast.Constant):
        return int(isinstance(node.value, bool | int | float))
    if isinstance(node, ast.Call):
        return int(_called(node) in _CALLED)
    if isinstance(node, ast.AugAssign):
        return 1
    return 0


def _apply(node: ast.AST, number: int) -> None:
    if isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = _ARITHMETIC.get(type(node.op), ast.Sub)()
    elif isinstance(node, ast.Compare):
        node.ops[number] = _COMPARED[type(node.ops[number])]()
    elif isinstance(node, ast.BoolOp):
        if number == 0:
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        else:
            node.values.pop(number - 1)
            if len(node.values) == 1:
                node.values.append(node.values[0])
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = (node.body, node.body) if number else (node.orelse, node.orelse)
    elif isinstance(node, ast.Constant):
        value = node.value
        node.value = (
            (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 2 + 1
        )
    elif isinstance(node, ast.Call):
        other = _CALLED[_called(node)]
        if isinstance(node.func, ast.Name):
            node.func.id = other
        elif isinstance(node.func, ast.Attribute):
            node.func.attr = other


def _called(node: ast.Call) -> str:
    function = node.func
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module its changed text; everything else is found as always."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name, self.tree = name, tree

    def find_spec(self, fullname: str, path: object, target: object = None) -> object:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        exec(compile(self.tree, f"<mutant of {self.name}>", "exec"), module.__dict__)


def survives(
    mutant: Mutant,
    tree: ast.Module,
    limit_s: float,
    *,
    tests: Sequence[str] | None = None,
    plugins: Sequence[object] = (),
) -> bool:
    """Whether the tests pass with the mutant in place, in a child that has imported nothing of ours yet.

    The tests are the room's, without the dear ones, or those that are named.
    """
    child = os.fork()
    if child == 0:
        _run_tests(mutant, tree, tests, plugins)
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(
    mutant: Mutant, tree: ast.Module, tests: Sequence[str] | None, plugins: Sequence[object]
) -> None:
    """In the child: never returns."""
    name = "ropewalk." + mutant.file.removesuffix(".py").replace("/", ".")
    sys.meta_path.insert(0, _Mutated(name, tree))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    words = ["-x", "-q", "-p", "no:cacheprovider", "-W", _PRELOADED]
    if tests is None:
        words += ["-k", f"not ({' or '.join(_DEAR)})", *ROOMS[mutant.room][1]]
    try:
        code = int(pytest.main([*words, *(tests or ())], plugins=list(plugins)))
    except BaseException:
        code = 1
    os._exit(code)


def _chosen(mutant: Mutant, share: float) -> bool:
    digest = hashlib.sha256(f"{mutant.key}:{mutant.line}".encode()).digest()
    return digest[0] / 256 + digest[1] / 65536 < share


def quiet_settings() -> None:
    """Before any test: our sources first, one thread, the same examples each time."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT / "src"))
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    hypothesis.settings.register_profile("mutants", derandomize=True, deadline=None, database=None)
    hypothesis.settings.load_profile("mutants")


def main() -> None:
    """Run the mutants and print the score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--room", action="append", choices=list(ROOMS), help="several at once; default all")
    parser.add_argument("--share", type=float, default=1.0, help="the share of the mutants to try")
    parser.add_argument(
        "--limit", type=float, default=120.0, help="seconds after which a mutant counts as noticed"
    )
    parser.add_argument("--write", type=Path, help="a JSON file for the survivors")
    parser.add_argument("--again", type=Path, help="only the mutants of such a file")
    given = parser.parse_args()
    quiet_settings()
    equivalent = (
        set(json.loads(EQUIVALENT_FILE.read_text(encoding="utf-8"))) if EQUIVALENT_FILE.exists() else set()
    )
    found = json.loads(given.again.read_text(encoding="utf-8")) if given.again else []
    again = {f"{one['file']}: {one['before']} -> {one['after']}" for one in found}
    lived: list[Mutant] = []
    for room in given.room or ROOMS:
        tried, same, began = 0, 0, time.monotonic()
        survivors: list[Mutant] = []
        name = ROOMS[room][0][0]
        whole = ast.parse((SOURCE / name).read_text(encoding="utf-8"))
        if not survives(Mutant(room, name, 0, "", ""), whole, given.limit):
            sys.exit(f"{room}: the tests fail without any mutant")
        for mutant, tree in mutants_of(room):
            if mutant.key not in again if given.again else not _chosen(mutant, given.share):
                continue
            if mutant.key in equivalent:
                same += 1
                continue
            tried += 1
            if survives(mutant, tree, given.limit):
                survivors.append(mutant)
                print(f"{mutant.file}:{mutant.line}: {mutant.before} -> {mutant.after}", flush=True)
        killed = tried - len(survivors)
        score = 100 * killed / max(tried, 1)
        took = time.monotonic() - began
        print(
            f"{room}: {killed} of {tried} noticed ({score:.1f} %), {same} equivalent, {took:.0f} s",
            flush=True,
        )
        lived += survivors
    if given.write:
        given.write.write_text(json.dumps([asdict(mutant) for mutant in lived], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
