"""Who may import whom: left never imports right, and the light rooms never touch torch."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ropewalk"
# Rooms of one row may import each other and every row above.
ROWS = [
    {"_version", "errors", "units", "files", "manifests", "registry"},
    {"geometry", "schedule", "notations", "map_table"},
    {"methods", "temperature", "dynamic", "position_maps", "map_files"},
    {"analysis"},
    {"planning"},
    {"hemp"},
    {"models"},
    {"runtimes"},
    {"plan"},
    {"attention"},
    {"runs"},
    {"text"},
    {"generation"},
    {"evaluation"},
    {"runtimes/fingerprint"},
    {"training"},
    {"search"},
    {"report"},
    {"cli", "__main__"},
]
RANK = {room: number for number, row in enumerate(ROWS) for room in row}
NUMPY_ONLY = {
    "errors",
    "units",
    "registry",
    "geometry",
    "schedule",
    "notations",
    "methods",
    "temperature",
    "map_table",
    "position_maps",
    "map_files",
    "analysis",
    "planning",
}
HEAVY = {"torch", "transformers", "accelerate", "pydantic", "peft"}


def _room(path: Path) -> str:
    inside = path.relative_to(SOURCE)
    if inside.parts[0] == "runtimes" and inside.stem.startswith("fingerprint"):
        # What a server computes is asked over HTTP with evaluation's own client; what is written for it needs none.
        return "runtimes/fingerprint"
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    room = _room(path)
    assert room in RANK, f"the room {room} has no place in the order: give it one"
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "ropewalk" and len(parts) > 1 and parts[1] in RANK:
            imported = parts[1]
            assert RANK[imported] <= RANK[room], f"{room} imports {imported}"
        if room in NUMPY_ONLY:
            assert parts[0] not in HEAVY, f"{room} imports {parts[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_can_be_read_in_one_go(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420


def _top_imports(path: Path) -> set[str]:
    """Modules of ours that load when this one does: imports inside functions come later and close no circle."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ropewalk"):
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inside or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def _circle(arrows: dict[str, set[str]]) -> list[str]:
    """One circle in a graph, or an empty list."""
    done: set[str] = set()

    def search(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            if found := search(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := search(name, []))), [])


def _name(path: Path) -> str:
    parts = ("ropewalk", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in FILES}
ARROWS = {name: _top_imports(path) - {name} for name, path in MODULES.items()}
SUBROOMS = sorted({path.parent for path in FILES if len(path.relative_to(SOURCE).parts) > 2})


def test_no_modules_import_each_other_not_even_inside_functions():
    every = {name: (_imports(path) & MODULES.keys()) - {name} for name, path in MODULES.items()}
    assert _circle(every) == []


def test_no_rooms_import_each_other_not_even_inside_functions():
    arrows: dict[str, set[str]] = {}
    for path in FILES:
        here = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        there = {
            parts[1]
            for name in _imports(path)
            if len(parts := name.split(".")) > 1 and parts[0] == "ropewalk"
        }
        arrows.setdefault(here, set()).update((there & RANK.keys()) - {here})
    assert _circle(arrows) == []


@pytest.mark.parametrize("room", sorted({path.relative_to(SOURCE).parts[0] for path in SUBROOMS}))
def test_the_folders_of_a_room_import_one_way(room):
    """A folder inside a room stands below or above its neighbour, never both. Files beside the folders are their users
    and their common ground at once, so they do not count."""
    arrows: dict[str, set[str]] = {}
    for name, others in ARROWS.items():
        here = MODULES[name].relative_to(SOURCE).parts
        for other in others:
            there = MODULES[other].relative_to(SOURCE).parts
            if here[0] == there[0] == room and len(here) > 2 and len(there) > 2 and here[1] != there[1]:
                arrows.setdefault(here[1], set()).add(there[1])
    assert _circle(arrows) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_private_names_stay_in_their_module(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ropewalk"):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            assert set(private) <= {"__version__", "_version"}, f"imports {private} of {node.module}"


def _private_members(path: Path) -> tuple[set[str], set[str]]:
    """(names with an underscore that a module gives to its own things, those that it uses of anything but itself)."""
    own, used = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own.add(node.target.id)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            inside = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if inside and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
            elif not inside:
                used.add(node.attr)
    return own, used


# torch's own names for what a module holds; a class of ours holds buffers of the same name.
TORCH = {"_buffers", "_parameters"}


def test_private_members_stay_in_their_module():
    """What another module needs of an object has a name without an underscore."""
    members = {path: _private_members(path) for path in FILES}
    ours = {name for own, _ in members.values() for name in own}
    strange = {
        str(path.relative_to(SOURCE)): sorted(found)
        for path, (own, used) in members.items()
        if (found := (used & ours) - own - TORCH)
    }
    assert strange == {}


# Who calls these writes keywords, and would build a value first only for it to be unpacked here. Everything else
# that needs more than seven things takes one value that has a name.
MANY = {
    "evaluation.compare.compare": "a public verb: the command line's own options",
    "models.extend.extend": "a public verb: the command line's own options",
    "report.plotting.plot": "a public verb: the command line's own options",
    "runtimes.export.export_config": "a public verb: the command line's own options",
    "runtimes.fingerprint.fingerprint": "a public verb: the command line's own options",
    "runtimes.writing.export": "a public verb: the command line's own options",
    "search.tune.tune": "a public verb: the command line's own options",
    "training.parts.loss.losses.chunked_cross_entropy": "public: tensors and the head's constants, as torch's",
    "training.parts.loss.losses._ChunkedCrossEntropy.forward": "autograd takes flat tensors only",
}


def _arguments(node: ast.FunctionDef) -> int:
    found = node.args
    names = [item.arg for item in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"], ["ctx"]))


def _many(body: list[ast.stmt], where: str) -> set[str]:
    found = set()
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            here = f"{where}.{node.name}"
            found |= _many(node.body, here)
            # A command's options and a method's parameters are what its user writes, one by one.
            marks = {ast.unparse(mark).partition("(")[0] for mark in node.decorator_list}
            own = isinstance(node, ast.FunctionDef) and not marks & {"click.command", "method"}
            if own and isinstance(node, ast.FunctionDef) and _arguments(node) > 7:
                found.add(here)
    return found


def test_more_than_seven_arguments_are_argued_for():
    found = set()
    for name, path in MODULES.items():
        found |= _many(ast.parse(path.read_text(encoding="utf-8")).body, name.removeprefix("ropewalk."))
    assert found == set(MANY)
