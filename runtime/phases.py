"""How the steps of a segment are shared: units, phases, chunks.

A step is split among threads where that saves more than it costs. Steps that are not split form
runs, each done by one thread in order. A new phase begins only before a step that conflicts (one
writes what the other touches, addresses compared after planning) with something of the phase that
is not in its own run: independent siblings share a phase and need not wait for one another. A split
step is cut into more chunks than threads where the chunks stay long enough, so that a thread that
is held up costs the others little.

Where the schedule gives stages, a phase is a stage: it begins and ends with one, the steps of one
group that are not split form a run, and those of different groups are different units, which
threads take up side by side. Memory is planned so that the groups of a stage never conflict. A
share below the team's size is the number of chunks, so that no more threads than that ever work on
the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..ir.target import Target
from .driver import BARRIER, PARALLEL, ROW_CHUNK, ROW_CHUNKS, ROW_FLAGS, ROW_TILES, ROW_TOTAL
from .program import KernelStep

_CHUNK_S = 2e-6
"""Estimated time of a chunk below which a step is not cut into more chunks than threads."""
_CHUNKS = 32
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
    tiles: np.ndarray, flops: np.ndarray, nbytes: np.ndarray, target: Target, threads: int,
    given: np.ndarray | None = None,
) -> list[int]:
    """For each step: the number of chunks to cut it into, 0 where one thread should do it all.

    ``given`` are the threads that the schedule demands, 0 where it demands nothing: then a step is
    split if that saves more than two synchronizations. Chunks are kept longer than ``_CHUNK_S``.
    """
    seconds = flops / target.flops + nbytes / target.l2_rate
    ways = np.clip(np.minimum(tiles, threads), 1, None)
    worth = seconds * (1 - 1 / ways) > 2 * target.sync_s
    each = np.clip(seconds / threads / _CHUNK_S, 1, _CHUNKS).astype(np.int64)
    chunks = np.minimum(tiles, each * threads)
    if given is not None and threads > 1:
        chunks = np.where((given > 0) & (given < threads), np.minimum(tiles, given), chunks)
        worth = np.where(given > 0, chunks > 1, worth)
    return [int(c) if w else 0 for c, w in zip(chunks, worth)]


def has_stages(steps: Sequence[KernelStep]) -> bool:
    """Whether groups are to run side by side, which needs a team even if none is split."""
    return any(
        a.stage is not None and a.stage == b.stage and a.group != b.group
        for a, b in pairwise(steps)
    )


def arrange(
    rows: np.ndarray, shares: Sequence[int], touched: Sequence[Sequence[Access]],
    steps: Sequence[KernelStep],
) -> Shape:
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
        stage, before = steps[i].stage, steps[max(0, i - 1)].stage
        joins = running and not split and (stage is None or steps[i].group == steps[run].group)
        if not joins:
            pending += current
            current = []
        if i == 0 or stage != before or total + count > _MOST or _conflict(own, pending):
            if i > 0:
                totals[start] = total
                flags[i] = BARRIER
            phases += 1
            most = max(most, in_phase)
            in_phase = total = 0
            start, joins = i, False
            pending, current = [], []
        if split:
            sizes[i] = size = -(-tiles[i] // count)
            flags[i] |= PARALLEL
            chunks[i] = -(-tiles[i] // size)
            total += chunks[i]
        elif joins:
            chunks[run] += 1
        else:
            run = i
            chunks[i] = 1
            total += 1
        running = not split
        if not joins:
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
