"""How the steps of a segment are shared: units, phases, chunks.

A step is split among threads where that saves more than it costs. Steps that are not split form
runs, each done by one thread in order. A new phase begins only before a step that conflicts (one
writes what the other touches, addresses compared after planning) with something of the phase that
is not in its own run: independent siblings share a phase and need not wait for one another. A split
step is cut into more chunks than threads where the chunks stay long enough, so that a thread that
is held up costs the others little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.target import Target
from .driver import BARRIER, PARALLEL, ROW_CHUNK, ROW_CHUNKS, ROW_FLAGS, ROW_TILES, ROW_TOTAL

_CHUNK_S = 20e-6
"""Estimated time of a chunk below which a step is not cut into more chunks than threads."""
_CHUNKS = 8
"""Most chunks per thread."""
_MOST = 60_000
"""Chunks of a phase; counters have 16 bits."""

Access = tuple[int, int, int, bool]
"""(base slot, first byte, end, written)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Extent of a segment's parallel structure; all zero where nothing is split."""

    units: int = 0
    phases: int = 0
    places: int = 1
    """Power of two, not below the units of any phase: so many units have words of their own."""


def share(
    tiles: np.ndarray, flops: np.ndarray, nbytes: np.ndarray, target: Target, threads: int
) -> list[int]:
    """For each step: the number of chunks to cut it into, 0 where one thread should do it all.

    Splitting costs two synchronizations; chunks are kept longer than ``_CHUNK_S``.
    """
    seconds = flops / target.flops + nbytes / target.l2_rate
    ways = np.clip(np.minimum(tiles, threads), 1, None)
    worth = seconds * (1 - 1 / ways) > 2 * target.sync_s
    each = np.clip(seconds / threads / _CHUNK_S, 1, _CHUNKS).astype(np.int64)
    chunks = np.minimum(tiles, each * threads)
    return [int(c) if w else 0 for c, w in zip(chunks, worth)]


def arrange(rows: np.ndarray, shares: Sequence[int], touched: Sequence[Sequence[Access]]) -> Shape:
    """Fills in flags, chunks and totals of the rows (int64, one per step)."""
    flags, sizes, chunks, totals = ([0] * len(rows) for _ in range(4))
    tiles = rows[:, ROW_TILES].tolist()
    units = phases = most = 0
    in_phase = total = start = run = 0  # start: first row of the phase; run: first row of the run
    running = False
    pending: list[Access] = []
    """What the phase's units touch, the current run excepted."""
    current: list[Access] = []
    """What the current run touches."""
    for i, (count, own) in enumerate(zip(shares, touched)):
        split = count > 0
        if split or not running:
            pending += current
            current = []
        if i == 0 or total + count > _MOST or _conflict(own, pending):
            if i > 0:
                totals[start] = total
                flags[i] = BARRIER
            phases += 1
            most = max(most, in_phase)
            in_phase = total = 0
            start, running = i, False
            pending, current = [], []
        if split:
            sizes[i] = size = -(-tiles[i] // count)
            flags[i] |= PARALLEL
            chunks[i] = -(-tiles[i] // size)
            total += chunks[i]
            running = False
        elif not running:
            run, running = i, True
            chunks[i] = 1
            total += 1
        else:
            chunks[run] += 1
        if split or run == i:
            units += 1
            in_phase += 1
        current += own
    totals[start] = total
    rows[:, ROW_FLAGS], rows[:, ROW_CHUNK] = flags, sizes
    rows[:, ROW_CHUNKS], rows[:, ROW_TOTAL] = chunks, totals
    most = max(most, in_phase)
    return Shape(units, phases, 1 << max(0, most - 1).bit_length())


def _conflict(own: Sequence[Access], pending: Sequence[Access]) -> bool:
    for s, lo, hi, w in own:
        for s2, lo2, hi2, w2 in pending:
            if lo < hi2 and lo2 < hi and s == s2 and (w or w2):
                return True
    return False
