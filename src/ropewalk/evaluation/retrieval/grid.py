"""Texts that begin alike are read once: a tree over token sequences, walked with one cache that is taken back.

A grid of lengths and depths asks the same filler over and over; up to the needle its cells are the same text. The tree
holds every token that differs between cells exactly once, which is the least any exact method can read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ropewalk.evaluation.tasks.haystack import IdArray

# A forward over a handful of tokens costs as much as one over some more: shorter common stretches are read again.
LEAST_SHARED = 8


@dataclass
class Node:
    """Tokens `start` to `stop` of sequence `source`, which all sequences below share; `ends` end right here."""

    source: int
    start: int
    stop: int
    children: list[Node] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def tokens(self) -> int:
        """Tokens of the whole tree: what a walk has to read."""
        total, stack = 0, [self]
        while stack:
            node = stack.pop()
            total += node.stop - node.start
            stack += node.children
        return total


def tree_of(sequences: Sequence[IdArray], *, least: int = LEAST_SHARED) -> Node:
    """The tree of common beginnings. Its root is empty; equal sequences end at the same node."""
    # Big-endian bytes compare as the tokens do, so sorting them puts common beginnings side by side.
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].astype(">u4").tobytes())
    common = [common_prefix(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    root = Node(source=order[0] if order else 0, start=0, stop=0)
    pending = [(root, low, high) for low, high in _apart(common, 0, len(order), 0)]
    while pending:
        above, low, high = pending.pop()
        # Sorted, so that what a group shares is the least of what its neighbours share.
        stop = min(common[low : high - 1], default=len(sequences[order[low]]))
        # Whatever ends here is a beginning of the others, and sorts before them.
        ends = [index for index in order[low:high] if len(sequences[index]) == stop]
        rest = list(_apart(common, low + len(ends), high, stop))
        if len(rest) + len(ends) > 1 and stop - above.stop < least:
            above.children += [Node(index, above.stop, stop, ends=[index]) for index in ends]
            pending += [(above, *part) for part in rest]
            continue
        node = Node(order[low], above.stop, stop, ends=ends)
        above.children.append(node)
        pending += [(node, *part) for part in rest]
    return root


def _apart(common: Sequence[int], low: int, high: int, shared: int) -> Iterator[tuple[int, int]]:
    """Ranges of neighbours that go on together after `shared` tokens."""
    first = low
    for at in range(low, high):
        if at + 1 == high or common[at] <= shared:
            yield first, at + 1
            first = at + 1


def common_prefix(left: IdArray, right: IdArray) -> int:
    """How many tokens two sequences share from the start."""
    size = min(len(left), len(right))
    different = np.flatnonzero(left[:size] != right[:size])
    return int(different[0]) if len(different) else size
