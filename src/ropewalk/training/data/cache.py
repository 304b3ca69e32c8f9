"""Tokens that were made once: kept on disk by the content of their text, mapped into memory, shared by all runs.

    <place>/tokens/<what makes tokens>/ids.bin      token ids (int32), one document after the other
                                       index.bin    for each: digest of its text, place, count, CRC-32 of its ids

<place> is $ROPEWALK_CACHE, or `ropewalk` in the user's cache folder; `none` keeps nothing. Files only grow: the ids of
a document first, its line of the index after them, both under a lock that ends with its process. Whoever is killed in
between loses what was not yet in the index, nothing else; ids that a power cut lost fail their CRC and are made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import one_line
from ropewalk.units import format_bytes

FORMAT = "ropewalk-tokens/1"
VARIABLE = "ROPEWALK_CACHE"
Ids = NDArray[np.int32]
_LINE = np.dtype([("digest", "V16"), ("start", "<u8"), ("count", "<u4"), ("crc", "<u4")])


def cache_place() -> Path | None:
    """The folder of the cache; None where nothing is to be kept."""
    given = os.environ.get(VARIABLE)
    if given:
        return None if given.lower() == "none" else Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ropewalk"


def digest_of(text: str) -> bytes:
    """What a text is found by."""
    # Text out of JSON may hold lone surrogates, which plain UTF-8 refuses.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


class TokenStore:
    """The tokens of texts, by digest, as one way of making tokens makes them.

    `trouble` says in words what keeps the store from being written or read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trouble = ""
        self._found: set[bytes] = set()
        self._made: set[bytes] = set()
        self._places: dict[bytes, tuple[int, int, int]] = {}
        self._lines = 0
        self._ids: Ids = np.empty(0, dtype=np.int32)

    def get(self, digest: bytes) -> Ids | None:
        """The ids of a text, mapped from the file; None where they are not kept, or not as they were written."""
        if self.count(digest) is None:
            return None
        start, count, crc = self._places[digest]
        ids = self._mapped(start + count)[start : start + count]
        if len(ids) < count or zlib.crc32(ids.tobytes()) != crc:
            self.trouble = f"tokens kept in {self.folder} are damaged: those documents are made again"
            # Forgotten, so that `put` writes the text again: of its two lines the later counts.
            del self._places[digest]
            return None
        return ids

    @property
    def made(self) -> int:
        """Documents whose tokens were made here."""
        return len(self._made)

    @property
    def read(self) -> int:
        """Documents whose tokens were there already."""
        return len(self._found - self._made)

    def count(self, digest: bytes) -> int | None:
        """How many tokens a text has, where that is kept."""
        if digest not in self._places:
            # Once before, for what others have kept meanwhile, and once after, for the places of our own lines.
            self._look()
        place = self._places.get(digest)
        if place is None:
            return None
        self._found.add(digest)
        return place[1]

    def put(self, items: Sequence[tuple[bytes, Ids]]) -> None:
        """Keep the ids of texts; those that another process kept meanwhile are left out."""
        self._made |= {digest for digest, _ in items}
        try:
            with self._locked("lock"):
                self._look()
                self._append([item for item in items if item[0] not in self._places])
                self._look()
        except OSError as error:
            self.trouble = f"tokens are not kept: {self.folder} ({one_line(error.strerror or error)})"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process makes many tokens for this store: who waits finds them made."""
        with contextlib.ExitStack() as stack:
            # Without the lock tokens are made twice at worst: a reader's folder may not let itself be locked.
            with contextlib.suppress(OSError):
                stack.enter_context(self._locked("making"))
            yield

    def size(self) -> int:
        """Bytes on disk."""
        return sum(_size(self.folder / name) for name in ("ids.bin", "index.bin"))

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / name, "ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield

    def _append(self, items: Sequence[tuple[bytes, Ids]]) -> None:
        if not items:
            return
        with open(self.folder / "ids.bin", "ab") as stream:
            # What a killed process left behind the last whole document belongs to nobody; only places must be whole.
            stream.write(bytes(-stream.tell() % 4))
            start = stream.tell() // 4
            lines = []
            for digest, ids in items:
                content = ids.astype("<i4").tobytes()
                lines.append((digest, start, len(ids), zlib.crc32(content)))
                stream.write(content)
                start += len(ids)
        with open(self.folder / "index.bin", "ab") as stream:
            # Half a line of a killed process would shift all that follow.
            stream.truncate(stream.tell() // _LINE.itemsize * _LINE.itemsize)
            stream.seek(0, os.SEEK_END)
            stream.write(np.array(lines, dtype=_LINE).tobytes())

    def _look(self) -> None:
        """Take up what the index has gained; of two lines of one text the later counts."""
        path = self.folder / "index.bin"
        if _size(path) // _LINE.itemsize <= self._lines:
            return
        content = np.fromfile(path, dtype=_LINE, offset=self._lines * _LINE.itemsize)
        for digest, start, count, crc in content.tolist():
            self._places[digest] = (start, count, crc)
        self._lines += len(content)

    def _mapped(self, end: int) -> Ids:
        path = self.folder / "ids.bin"
        # Mapped anew once the file has grown; an empty one cannot be mapped.
        if len(self._ids) < end and _size(path) >= 4:
            self._ids = np.memmap(path, dtype="<i4", mode="r", shape=(_size(path) // 4,))
        return self._ids


class TokenCache:
    """The stores of one tokenizer; `told` says what a run had from them."""

    def __init__(self, fingerprint: str | None) -> None:
        """`fingerprint` is the tokenizer's; None for one whose doings are not written down anywhere."""
        self.stores: dict[Path, TokenStore] = {}
        self.fingerprint, self.place = fingerprint, cache_place()
        self.reason = ""
        if self.place is not None and fingerprint is None:
            self.reason = "the tokenizer is not one of the tokenizers library"
        elif self.place is not None and find_spec("fcntl") is None:
            self.reason = "this system has no file locks"

    def store(self, *how: str) -> TokenStore | None:
        """The store of tokens made in a way: texts of the same digest made otherwise lie elsewhere."""
        if self.place is None or self.reason:
            return None
        from tokenizers import __version__

        # With the library's version, since another may cut the same text otherwise.
        key = "\0".join((FORMAT, __version__, str(self.fingerprint), *how))
        folder = self.place / "tokens" / hashlib.sha256(key.encode()).hexdigest()[:20]
        return self.stores.setdefault(folder, TokenStore(folder))

    def told(self) -> list[str]:
        """In words: how many documents came from where, and what went wrong."""
        said = [
            f"tokens: {store.read} documents from the cache {store.folder} ({format_bytes(store.size())}), "
            f"{store.made} made now"
            for store in self.stores.values()
        ]
        if self.reason:
            said.append(f"tokens are not kept: {self.reason}")
        return said + [store.trouble for store in self.stores.values() if store.trouble]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
