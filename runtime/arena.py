"""Offsets of buffers in one chunk of memory, from their lifetimes and sizes.

Largest buffer first, each into the smallest gap among the buffers it coexists with (greedy by size:
Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020); two other
orders are tried and the lowest peak wins. No plan can be below the largest sum of bytes alive at
one step, so ``lower_bound`` says how far a plan is from perfect. A program that was compiled for
little memory goes on: buffers that end above the bound move forward in the order, and all are
placed again, many times (squeaky wheel optimization: Joslin and Clements, 1999).

Lifetimes follow from the program, sizes from each call: who coexists with whom is found once, so
that a plan for new sizes looks at a buffer's few neighbours only.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..ir.errors import LimitError
from .plan import ALIGN

_LIMIT = 1 << 46
"""Bytes no machine of today has."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where buffers lie."""

    offsets: list[int]
    """First byte of each buffer, a multiple of ``ALIGN``."""
    peak: int
    """Bytes of the chunk."""
    bound: int
    """Bytes no plan could be below."""


class Arena:
    """Buffers by (first, last) step; ``place`` plans them for their sizes."""

    def __init__(self, lives: Sequence[tuple[int, int]]) -> None:
        self.first = np.array([first for first, _ in lives], np.int64)
        self.last = np.array([last for _, last in lives], np.int64)

    @cached_property
    def _neighbours(self) -> list[list[int]]:
        """Per buffer: the others that are alive at some step it is alive at."""
        found = []
        for i, (first, last) in enumerate(zip(self.first, self.last)):
            meets = (self.first <= last) & (self.last >= first)
            meets[i] = False
            found.append(np.flatnonzero(meets).tolist())
        return found

    def place(self, sizes: np.ndarray, patience: int = 0) -> Plan:
        """The plan for sizes (int64 bytes, in the order of the buffers); buffers alive together
        never overlap. ``patience``: how often a plan above the bound is tried to be made better.
        Raises ``LimitError`` for sizes that no machine could hold."""
        if float(sizes.sum(dtype=np.float64)) > _LIMIT:
            raise LimitError(f"the model needs {sum(map(int, sizes)):,} bytes of memory")
        bound, rounded = self.lower_bound(sizes), _aligned(sizes)
        places = rounded.tolist()
        order: list[int] = []
        best: tuple[list[int], int] | None = None
        for keys in ((self.first, -sizes), (self.first, -sizes * (self.last - self.first + 1)),
                     (-sizes, self.first)):  # fmt: skip
            tried = np.lexsort(keys).tolist()
            found = self._pack(places, tried)
            if best is None or found[1] < best[1]:
                best, order = found, tried
            if best[1] <= bound:
                break
        assert best is not None
        if best[1] > bound:
            best = self._improved(places, order, best, bound, patience)
        return Plan(*best, bound)

    def _improved(self, sizes: list[int], order: list[int], best: tuple[list[int], int],
                  bound: int, tries: int) -> tuple[list[int], int]:
        """The best of a plan and of ``tries`` others, each of the order of the one before with what
        ended above the bound moved forward, to random places."""
        rng = random.Random(len(sizes))
        offsets, order = best[0], list(order)
        for _ in range(tries):
            for i in [i for i in order if offsets[i] + sizes[i] > bound]:
                place = order.index(i)
                order.insert(rng.randrange(place + 1), order.pop(place))
            offsets, peak = self._pack(sizes, order)
            if peak < best[1]:
                best = offsets, peak
            if peak <= bound:
                break
        return best

    def lower_bound(self, sizes: np.ndarray) -> int:
        """The largest sum of (aligned) bytes alive at one step: no plan can be smaller."""
        if not len(sizes):
            return 0
        rounded = _aligned(sizes)
        change = np.zeros(int(self.last.max()) + 2, np.int64)
        np.add.at(change, self.first, rounded)
        np.subtract.at(change, self.last + 1, rounded)
        return int(np.cumsum(change).max())

    def _pack(self, sizes: list[int], order: list[int]) -> tuple[list[int], int]:
        """Best fit in the given order, over the placed neighbours sorted by offset."""
        offsets, ends = [0] * len(sizes), [0] * len(sizes)  # end 0: not placed, or empty
        neighbours = self._neighbours
        peak = 0
        for i in order:
            size = sizes[i]
            best = -1
            best_gap = free = 0
            spans = [(offsets[j], ends[j]) for j in neighbours[i] if ends[j]]
            spans.sort()
            for low, end in spans:
                gap = low - free
                if gap >= size and (best < 0 or gap < best_gap):
                    best, best_gap = free, gap
                if end > free:
                    free = end
            offsets[i] = offset = free if best < 0 else best
            if size:
                ends[i] = offset + size
                if offset + size > peak:
                    peak = offset + size
        return offsets, peak


def _aligned(sizes: np.ndarray) -> np.ndarray:
    return -(-sizes // ALIGN) * ALIGN
