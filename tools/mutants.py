"""Changes the mathematics one small step at a time and asks the tests whether they notice.

    python tools/mutants.py                               every mutant of the rooms below
    python tools/mutants.py --room methods --share 0.1    a tenth of one room's, the same tenth each time
    python tools/mutants.py --room training --count 40 --seed 1     forty, drawn by a seed
    python tools/mutants.py --write survivors.json

What each room holds and which tests must notice stands in `mutant_rooms.py`. A mutant is one edit of one file: an
operator exchanged (+ and -, * and /, < and <=, and, or, ==), a number changed, a condition turned, an `and` half
dropped, a default or a returned value replaced, a call of min, max, floor or ceil exchanged. Docstrings, annotations,
decorators, messages of errors, assertions and `to_json` are not mutated. Each mutant runs in a process of its own.
One that the tests do not finish with within the limit is counted apart: neither noticed nor lived.
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
import random
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

# Imported before the children are made, so that a mutant costs its tests alone.
import click  # noqa: F401
import hypothesis
import numpy  # noqa: F401
import pydantic  # noqa: F401
import rich.console  # noqa: F401
import yaml  # noqa: F401
from mutant_rooms import ROOMS, TORCH, Part
from mutant_tests import SOURCE, Ordered, Seen, function_at, verdict_on, watched

ROOT = Path(__file__).parents[1]
# Seconds of processor: how long tests may take without a mutant, and with one at the least.
_PLAIN_LIMIT_S, _LEAST_LIMIT_S, _TIMES_PLAIN = 600.0, 10.0, 3.0
# Tests that cost more than all the others together and see nothing that those do not.
_DEAR = ("transformers_own", "table_holds_what", "recipe_is_one", "parity")
# Mutants that change nothing anybody can see: their key, which outlives moved lines, and the reason.
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
    text: str = ""

    @property
    def key(self) -> str:
        """The same edit after lines have moved."""
        return f"{self.file}: {self.before} -> {self.after} in: {self.text}"


# A mutant, the walking order of its node, and which of the ways that this node can change it is.
Found = tuple[Mutant, tuple[int, int]]


def mutants_of(room: str) -> Iterator[Found]:
    """Every mutant of a room, with where it is made."""
    for name in (file for part in ROOMS[room] for file in part.files):
        source = (SOURCE / name).read_text(encoding="utf-8")
        tree, lines = ast.parse(source), source.splitlines()
        nodes = list(ast.walk(tree))
        for index in _places(nodes):
            before = ast.unparse(nodes[index])
            for number in range(_count(nodes[index])):
                changed = copy.deepcopy(nodes[index])
                _apply(changed, number)
                after = ast.unparse(changed)
                if after != before:
                    line = getattr(changed, "lineno", 0)
                    yield Mutant(room, name, line, before, after, lines[line - 1].strip()), (index, number)


def changed_tree(file: str, index: int, number: int) -> ast.Module:
    """The tree of a file with the node at `index` (in walking order) changed in its way of this number."""
    tree = ast.parse((SOURCE / file).read_text(encoding="utf-8"))
    _apply(list(ast.walk(tree))[index], number)
    return ast.fix_missing_locations(tree)


def _places(nodes: list[ast.AST]) -> list[int]:
    """Indices (in walking order) of the nodes that may change; text for people is left out."""
    skipped: set[int] = set()
    for node in nodes:
        hidden: list[ast.AST] = []
        if isinstance(node, ast.Raise) or (isinstance(node, ast.FunctionDef) and node.name == "to_json"):
            hidden = [node]
        elif isinstance(node, ast.AnnAssign):
            hidden = [node.annotation]
        elif isinstance(node, ast.FunctionDef):
            hidden = [*node.decorator_list, *([node.returns] if node.returns else [])]
            hidden += [arg.annotation for arg in [*node.args.args, *node.args.kwonlyargs] if arg.annotation]
        elif isinstance(node, ast.ClassDef):
            hidden = [*node.decorator_list]
        elif isinstance(node, ast.JoinedStr | ast.ImportFrom | ast.Import):
            hidden = [node]
        elif isinstance(node, ast.keyword) and node.arg == "strict":
            # zip(..., strict=True) says what always holds, as an assert does.
            hidden = [node]
        elif isinstance(node, ast.Assert):
            hidden = [node]
        for root in hidden:
            skipped |= {id(inner) for inner in ast.walk(root)}
    return [index for index, node in enumerate(nodes) if id(node) not in skipped]


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


def putting(mutant: Mutant, tree: ast.Module) -> Callable[[], None]:
    """What puts a changed module before the one on disk, in this process alone."""
    name = "ropewalk." + mutant.file.removesuffix(".py").replace("/", ".")
    return lambda: sys.meta_path.insert(0, _Mutated(name, tree))


def tests_of(part: Part) -> list[str]:
    """The words that tell pytest which tests must notice a mutant of a part."""
    return ["-k", f"not ({' or '.join(_DEAR)})", *part.tests]


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


def _drawn(found: list[Found], count: int | None, seed: int) -> list[Found]:
    """So many of them, drawn by a seed, in their order."""
    if count is None or count >= len(found):
        return found
    return [found[place] for place in sorted(random.Random(seed).sample(range(len(found)), count))]


def _try_room(room: str, chosen: list[Found], limit_s: float | None, *, quick: bool) -> list[Mutant]:
    """Run a room's mutants, print those that lived or were late and the score; those that lived."""
    equivalent = (
        set(json.loads(EQUIVALENT_FILE.read_text(encoding="utf-8"))) if EQUIVALENT_FILE.exists() else set()
    )
    began = time.monotonic()
    told: dict[str, list[Mutant]] = {"noticed": [], "lived": [], "late": [], "equivalent": []}
    for part in ROOMS[room]:
        here = [found for found in chosen if found[0].file in part.files]
        tried = [found for found in here if found[0].key not in equivalent]
        told["equivalent"] += [mutant for mutant, _ in here if mutant.key in equivalent]
        seen = _seen(room, part, limit_s) if tried else Seen()
        for mutant, place in tried:
            word = _verdict(mutant, changed_tree(mutant.file, *place), part, seen, limit_s, quick=quick)
            told[word].append(mutant)
            if word != "noticed":
                print(f"{word:5}  {mutant.file}:{mutant.line}: {mutant.before} -> {mutant.after}", flush=True)
    count = len(chosen) - len(told["equivalent"])
    print(
        f"{room}: {len(told['noticed'])} of {count} noticed ({100 * len(told['noticed']) / max(count, 1):.1f} %), "
        f"{len(told['late'])} late, {len(told['equivalent'])} equivalent, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return told["lived"]


def _verdict(
    mutant: Mutant, tree: ast.Module, part: Part, seen: Seen, limit_s: float | None, *, quick: bool
) -> str:
    place = function_at(mutant.file, tree, mutant.line)
    limit_s = limit_s or max(_LEAST_LIMIT_S, _TIMES_PLAIN * seen.cpu_s)
    order = Ordered(seen.order(place), only_seeing=quick)
    return verdict_on(putting(mutant, tree), limit_s, tests=tests_of(part), plugins=[order])


def _seen(room: str, part: Part, limit_s: float | None) -> Seen:
    """What the tests of a part call, which must hold without any mutant."""
    seen = watched(tests_of(part), limit_s or _PLAIN_LIMIT_S)
    if seen is None:
        sys.exit(f"{room}: without any mutant {' '.join(part.tests)} fail or are late")
    return seen


def main() -> None:
    """Run the mutants and print the score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--room", action="append", choices=list(ROOMS), help="several at once; default all")
    parser.add_argument("--share", type=float, default=1.0, help="the share of the mutants to try")
    parser.add_argument("--count", type=int, help="try so many of a room, drawn by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--limit",
        type=float,
        help="seconds of processor after which a mutant is late; default three times the tests without any",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="ask only the tests that call the changed function: a mutant that others would notice counts as living",
    )
    parser.add_argument("--write", type=Path, help="a JSON file for the survivors")
    parser.add_argument("--again", type=Path, help="only the mutants of such a file")
    given = parser.parse_args()
    quiet_settings()
    rooms = given.room or list(ROOMS)
    if TORCH.intersection(rooms):
        # Imported before the children are made, so that a mutant costs its tests alone.
        import accelerate  # noqa: F401
        import torch  # noqa: F401
        import transformers.models.llama.modeling_llama  # noqa: F401
    found = json.loads(given.again.read_text(encoding="utf-8")) if given.again else []
    again = {Mutant(**one).key for one in found}
    lived: list[Mutant] = []
    for room in rooms:
        all_of_them = [
            one
            for one in mutants_of(room)
            if (one[0].key in again if given.again else _chosen(one[0], given.share))
        ]
        lived += _try_room(room, _drawn(all_of_them, given.count, given.seed), given.limit, quick=given.quick)
    if given.write:
        given.write.write_text(json.dumps([asdict(mutant) for mutant in lived], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
