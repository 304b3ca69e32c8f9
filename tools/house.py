"""The house in numbers: rooms, files, lines, arrows and circles of imports, the longest file and function, comments.

    python tools/house.py [FOLDER]        by default src/ropewalk; an older tree: git worktree add /tmp/old COMMIT

An arrow is a pair of modules of which one imports the other when it loads; imports inside functions are counted apart,
since they close no circle. A function counts with its docstring. A comment is a line with a `#`, on its own or behind
code; directives for tools do not count.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

DIRECTIVES = ("# noqa", "# type:", "# fmt:", "#!")


def modules(source: Path) -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = (source.name, *path.relative_to(source).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(nodes: list[ast.stmt] | list[ast.AST], known: dict[str, Path]) -> set[str]:
    """The modules of ours among the imports."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    ours = names & known.keys()
    return {name for name in ours if not any(other.startswith(f"{name}.") for other in ours)}


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected groups of more than one (Tarjan)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in arrows.get(name, ()):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = [stack.pop()]
            while group[-1] != name:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for name in arrows:
        if name not in order:
            visit(name)
    return found


def comments(text: str) -> int:
    """Lines with a comment that is for people."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(DIRECTIVES):
            lines.add(token.start[0])
    return len(lines)


def main(source: Path) -> None:
    """Print one line a room, and the whole."""
    known = modules(source)
    room = {name: path.relative_to(source).parts[0].removesuffix(".py") for name, path in known.items()}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in known.items()}
    top = {name: imported(tree.body, known) - {name} for name, tree in trees.items()}
    every = {name: imported(list(ast.walk(tree)), known) - {name} for name, tree in trees.items()}
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in known.items()}
    said = {name: comments(path.read_text(encoding="utf-8")) for name, path in known.items()}
    functions = [
        ((node.end_lineno or 0) - node.lineno + 1, f"{name}.{node.name}", node)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    ]
    print(f"{'room':<14}{'files':>6}{'lines':>8}{'arrows inside':>15}{'to others':>11}{'a comment in':>14}")
    for place in sorted(
        set(room.values()), key=lambda place: -sum(lines[n] for n in room if room[n] == place)
    ):
        here = [name for name in room if room[name] == place]
        inside = sum(room[other] == place for name in here for other in top[name])
        count, spoken = sum(lines[name] for name in here), sum(said[name] for name in here)
        outside = sum(len(top[name]) for name in here) - inside
        rate = f"{count / spoken:.0f} lines" if spoken else "-"
        print(f"{place:<14}{len(here):>6}{count:>8}{inside:>15}{outside:>11}{rate:>14}")
    rooms: dict[str, set[str]] = {}
    for name, others in every.items():
        rooms.setdefault(room[name], set()).update({room[other] for other in others} - {room[name]})
    longest = max(lines, key=lambda name: lines[name])
    size, name, _ = max(functions, key=lambda item: item[0])
    many = sum(len(node.args.args) + len(node.args.kwonlyargs) > 7 for _, _, node in functions)
    whole = sum(lines.values())
    print(f"\nall: {len(known)} files, {whole} lines, one comment in {whole / sum(said.values()):.0f}")
    print(f"arrows: {sum(map(len, top.values()))} at load, {sum(map(len, every.values()))} in all")
    for arrows, what in ((top, "modules at load"), (every, "modules in all"), (rooms, "rooms in all")):
        found = circles(arrows)
        print(f"circles of {what}: {len(found)}")
        for group in found:
            print(f"    {', '.join(group)}")
    print(f"longest file: {longest}, {lines[longest]} lines; longest function: {name}, {size} lines")
    print(f"more than seven arguments: {many}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "src" / "ropewalk")
