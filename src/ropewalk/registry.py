"""Things that are known by a name (methods, tasks, programs, generators, ...): how one is added, found and listed.

A thing says its own name in its own file and registers itself there; whoever adds one edits no list. Commands are the
exception: `--help` must name them all without importing any, so `cli.main` has a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module, metadata
from typing import Any, Generic, TypeVar

from ropewalk.errors import RopewalkError, UsageError, near_miss, one_line

Thing = TypeVar("Thing")


class Registry(Mapping[str, Thing], Generic[Thing]):
    """One kind of thing by name.

    `folder` is a package whose every file is imported when the first name is asked for, `group` the entry points by
    which other packages bring theirs; `first` are the names that lists begin with, the rest follows as it was found.
    """

    def __init__(
        self, what: str, *, folder: str | None = None, group: str | None = None, first: Iterable[str] = ()
    ) -> None:
        self.what, self.folder, self.group, self.first = what, folder, group, tuple(first)
        self._things: dict[str, Thing] = {}
        self._homes: dict[str, tuple[str, str]] = {}
        self._complete = False

    def add(self, name: str, thing: Thing, home: Any = None) -> None:
        """Register a thing. A name taken twice is an error: nothing may be shadowed without a word.

        `home` is the function or class that was written under that name, where the thing itself is made from it; the
        same one again (a module that is loaded anew) replaces itself.
        """
        home = thing if home is None else home
        place = (
            str(getattr(home, "__module__", "?")),
            str(getattr(home, "__qualname__", type(home).__name__)),
        )
        known = self._homes.get(name, place)
        if known != place:
            raise RopewalkError(
                f"{self.what} {name!r} is registered twice ({known[0]} and {place[0]})",
                hint="rename one of them",
            )
        self._things[name], self._homes[name] = thing, place

    def find(self, name: str, *, otherwise: str | None = None, count: int = 2, cutoff: float = 0.5) -> Thing:
        """The thing of that name; an unknown one suggests near misses, or says `otherwise`."""
        if name in self:
            return self[name]
        otherwise = otherwise or f"use one of {', '.join(self)}"
        hint = near_miss(name, self, otherwise=otherwise, count=count, cutoff=cutoff)
        raise UsageError(f"no {self.what} {one_line(name, 60)!r}", hint=hint)

    def __contains__(self, name: object) -> bool:
        # What is there already is found without loading a stranger's package.
        if name not in self._things:
            self._load()
        return name in self._things

    def __getitem__(self, name: str) -> Thing:
        if name not in self._things:
            self._load()
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        ranked = [name for name in self.first if name in self._things]
        return iter([*ranked, *(name for name in self._things if name not in self.first)])

    def __len__(self) -> int:
        self._load()
        return len(self._things)

    def _load(self) -> None:
        if self._complete:
            return
        # Before the work, not after it: the files that load here may ask for their neighbours.
        self._complete = True
        if self.folder is not None:
            from pkgutil import iter_modules

            for found in iter_modules(import_module(self.folder).__path__):
                import_module(f"{self.folder}.{found.name}")
            # Whoever imported one of the files before the others must not change the order of a list.
            ours = sorted(self._things, key=lambda name: self._homes[name][0])
            self._things = {name: self._things[name] for name in ours}
        for entry in () if self.group is None else metadata.entry_points(group=self.group):
            try:
                entry.load()
            # A refusal of ours (a name taken twice) says more than that the plug-in does not load.
            except RopewalkError:
                raise
            except Exception as error:
                raise RopewalkError(
                    f"the {self.what} plug-in {entry.name!r} ({entry.value}) does not load: {one_line(error)}",
                    hint="mend or uninstall the package that brings it",
                ) from error
