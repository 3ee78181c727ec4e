"""``Bounds``: a group takes as long as the largest of its bounds, plus what is always paid.

A kernel runs its phases (``base.Phase``) one after another, and a phase takes as long as the unit
of the core that it keeps busy longest, plus the time its inner loops take to start and end:

====================  =========================================================================
``fma``               operations of a contraction's micro-kernel / flops
``vector``            operations of loops / vector_rate, those of special functions / special_rate
                      with them: they run on the same units, and which is more gives the name
``special``
``load/store``        the larger of bytes loaded / load_rate, bytes written / store_rate; an
                      element that lies apart costs what a vector costs, and one whose line has
                      left the level-1 cache 3 * latency_s; or bytes of scratch and of lines
                      written an element at a time that the level-1 cache loses / l2_rate,
                      half of which does not hide behind the rest
``latency``           (3 * entries of inner loops, 16 of those that end in a sum, operations
                      outside of them / 4, 30 * tiles, 3 of products) * latency_s
====================  =========================================================================

A loop whose length is no multiple of the vector's finishes in steps of half a vector, and then of
one element. ``core`` is the sum
over all phases: the terms above, each the sum of the phases that it binds. On ``w`` threads that
get work (``w = min(threads, tiles)``) it is divided by ``w``, and the bounds of the group are

====================  =========================================================================
``core``              all phases / w, and ``tail``: what the thread with most tiles takes longer,
                      ceil(tiles / w) / tiles of the one-thread core
``l1``                all bytes / (w * l1_rate)
``l2`` ``l3``         bytes that the nearer cache does not hold / the level's bandwidth
``dram``
====================  =========================================================================

and ``launch`` (per kernel), ``sync`` (more than one thread) and ``live`` are added, and half of the
smaller of core and memory, since a loop does not always have the next lines under way (a
micro-kernel has, but for those from main memory). Of ``b``
bytes that are used again and again, a cache of ``c`` bytes misses the part ``clip(2 b / c - 1, 0,
1)``: nothing while they fill half of it, everything from its size on, since other things want a
place in it as well; the last-level cache, which replaces lines almost at random, keeps half of its
size whatever comes by, and misses ``clip(1 - c / (2 b), 0, 1)``. What other groups wrote counts
with the group's own traffic; constants with all constants of the model, since they come round once
per inference. ``live``: a group that overflows its threads' level-2 caches evicts what later groups
would have found there, at most all of it; a model without that term fuses too much. The number of
threads is 1 or all, whichever is faster.

The form is that of A. Abel, S. Sharma and J. Reineke ("Facile: fast, accurate, and interpretable
basic-block throughput prediction", 2023) and of the roofline per memory level (A. Ilic, F. Pratas
and L. Sousa, "Cache-aware roofline model", 2014). ``power`` softens the maximum to a power mean
(2, 4, 8, ...): bounds near the largest then cost something too. All rates come from the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ...ir.errors import OptionError
from ...ir.target import Target
from .base import FREE, SECONDS, Batch, Context, Explanation, GroupFacts, Phases, binding

_ADVICE = {
    "fma": "fewer multiply-adds, narrower types or more threads",
    "vector": "fewer operations or more threads",
    "special": "fewer or cheaper special functions",
    "load/store": "fewer bytes read and written: fuse with a neighbor",
    "l1": "fewer bytes: fuse with a neighbor",
    "l2": "fewer bytes, or values that fit the level-1 caches",
    "l3": "fewer bytes, or values that fit the level-2 caches",
    "dram": "fewer bytes, smaller constants, or a larger last-level cache",
    "latency": "fewer tiles or shorter chains of operations",
    "tail": "more tiles, or a number of tiles that the threads divide",
    "launch": "fewer, larger groups",
    "sync": "larger groups, or one thread",
    "live": "a group that keeps less alive: split it",
}
_ENTRY = 3.0
"""Operations that wait for one another where an inner loop starts and ends: its bounds, the first
load, the first result."""
_LANE_SUM = 13.0
"""Further ones of the sum over the lanes of a vector."""
_TILE, _BLOCK = 30.0, 3.0
"""Operations that wait for one another where a tile of loops starts, and one of products."""
_EXPOSED = 0.5
"""Part of the smaller of core and memory, and of what a core computes and what it reads again from
its level-2 cache, that does not hide behind the other."""
_FAR = 3.0
"""Operations that wait for one another in the time in which a line comes from the level-2 cache,
others being under way."""
_PARALLEL = 4.0
"""Operations outside the inner loops that run in the time of one that waits."""
_OWN = ("fma", "vector", "special", "load/store", "latency")
"""What every core has for itself, phase by phase."""
_MEMORY = ("l1", "l2", "l3", "dram")
_BOUNDS = ("core", *_MEMORY)
"""The group takes the largest of these."""
_FIXED = ("launch", "sync", "live")
"""Terms that are added to the largest bound."""


Miss = Callable[[np.ndarray, np.ndarray | float], np.ndarray]
"""Bytes used in turn, and those of a cache, to the part that the cache does not hold."""


class Bounds:
    """Predicts seconds; see the module."""

    name = "bounds"
    unit = SECONDS
    objectives = ("time",)

    def __init__(self, power: int | None = None) -> None:
        """``power``: None for the plain maximum, else a power of two, at least 2."""
        if power is not None and (power < 2 or power & (power - 1)):
            raise OptionError(f"bounds: power is None or 2, 4, 8, ..., not {power}")
        self.power = power

    def costs(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        """f64[n] seconds."""
        b = Batch.of(groups)
        best = np.full(len(groups), np.inf)
        for threads in sorted({1, max(1, context.threads)}):
            best = np.minimum(best, self._total(self.terms(b, threads, context), b.contract))
        return np.where(b.free, 0.0, best)

    def explain(self, group: GroupFacts, context: Context) -> Explanation:
        """All terms on the number of threads that is faster; the largest one binds."""
        if group.implementation in FREE:
            return Explanation(0.0, {"launch": 0.0}, "launch", "nothing: it does no work")
        found: Explanation | None = None
        alone = Batch.of([group])
        for threads in sorted({1, max(1, context.threads)}):
            terms = self.terms(alone, threads, context)
            total = float(self._total(terms, alone.contract)[0])
            if found is None or total < found.seconds:
                bounds = {name: float(value[0]) for name, value in terms.items()
                          if name != "core"}  # it is the sum of what is listed beside it
                bound = binding(bounds)
                found = Explanation(total, bounds, bound, _ADVICE[bound])
        assert found is not None
        return found

    def terms(self, b: Batch, threads: int, context: Context) -> dict[str, np.ndarray]:
        """Every named term in seconds, f64[n] each, on ``threads`` threads."""
        t = context.target
        tiles = np.maximum(np.ceil(b.tiles), 1.0)
        ways = np.minimum(float(threads), tiles)
        alone = _core(b, t, tiles)
        terms = {name: value / ways for name, value in alone.items()}
        terms |= self._memory(b, t, ways, context.constants)
        core = np.add.reduce([terms[name] for name in _OWN])
        terms["tail"] = core * (ways * np.ceil(tiles / ways) / tiles - 1.0)
        terms["core"] = core + terms["tail"]
        terms["launch"] = b.kernels * t.launch_s
        terms["sync"] = b.kernels * (t.sync_s if threads > 1 else 0.0)
        room = t.l2_bytes * ways
        terms["live"] = np.clip(b.held - room, 0.0, room) / _l3(t, ways)
        return terms

    @staticmethod
    def _memory(b: Batch, t: Target, ways: np.ndarray, constants: float) -> dict[str, np.ndarray]:
        cycle = np.maximum(constants, b.constant)

        def beyond(cache: np.ndarray | float, miss: Miss = _miss) -> np.ndarray:
            """Bytes that ``cache`` does not hold."""
            return np.asarray(b.held * miss(b.held, cache) + b.constant * miss(cycle, cache))

        far = beyond(float(t.l3_bytes), _miss_last)
        return {
            "l1": (b.moved + b.constant) / (ways * t.l1_rate),
            "l2": beyond(t.l1_bytes * ways) / (ways * t.l2_rate),
            "l3": beyond(t.l2_bytes * ways) / _l3(t, ways),
            "dram": far / _shared(t.dram_rate, t.dram_rate_all, ways),
        }

    def _total(self, terms: dict[str, np.ndarray], contract: np.ndarray) -> np.ndarray:
        """The (soft) maximum of the bounds, what does not overlap, and the fixed terms;
        ``contract``: which groups multiply on micro-kernels."""
        memory = np.maximum.reduce([terms[name] for name in _MEMORY])
        bounds = np.stack([terms[name] for name in _BOUNDS])
        top = bounds.max(axis=0)
        if self.power is not None:
            # A group's cost may not depend on its place in the batch: squares, square roots and
            # single additions are rounded correctly; other powers, and NumPy's sums, are not.
            scaled = bounds / np.where(top > 0, top, 1.0)
            steps = int(math.log2(self.power))
            mean = _repeat(np.sqrt, sum(_repeat(np.square, scaled, steps)), steps)
            top = top * mean
        slow = np.where(contract, terms["dram"], memory)  # a micro-kernel asks for lines early
        top = top + _EXPOSED * np.minimum(terms["core"], slow)
        for name in _FIXED:
            top = top + terms[name]
        return top


def _core(b: Batch, t: Target, tiles: np.ndarray) -> dict[str, np.ndarray]:
    """Seconds of one thread on its own units, by what binds each phase."""
    n = len(tiles)
    found = {name: np.zeros(n) for name in _OWN}
    found["latency"] = tiles * np.where(b.contract, _BLOCK, _TILE) * t.latency_s
    for p in b.phases:
        times = _phase(p, t)
        near = np.maximum.reduce(list(times.values()))
        spilled = p.spilled / t.l2_rate
        times["load/store"] = np.maximum(times["load/store"], spilled)
        found["load/store"] += _EXPOSED * np.minimum(near, spilled)
        top = np.maximum(near, spilled)
        left = top.copy()
        for name, value in times.items():  # of equal ones the first binds
            found[name] += np.where(value >= top, left, 0.0)
            left = np.where(value >= top, 0.0, left)
        waits = _ENTRY * p.entries + _LANE_SUM * p.entries * p.sums + p.outer / _PARALLEL
        found["latency"] += waits * t.latency_s
    return found


def _phase(p: Phases, t: Target) -> dict[str, np.ndarray]:
    """Seconds that one phase keeps each unit busy, what comes from the level-2 cache aside."""
    lanes = t.vector_bits / 32
    whole = np.floor(p.length / lanes)
    half, ones = np.divmod(p.length - whole * lanes, lanes / 2)
    steps = np.where(p.scalar > 0, p.length, whole + half + ones)
    wide = np.where(p.length > 0, steps * lanes / np.maximum(p.length, 1e-9), 1.0)
    """Elements computed per element that counts."""
    plain, special = wide * p.plain / t.vector_rate, wide * p.special / t.special_rate
    more = special > plain
    apart = p.apart * (t.vector_bits / 8)
    loads = (wide * p.loads + apart) / t.load_rate + _FAR * p.far * t.latency_s
    stores = wide * p.stores / t.store_rate
    return {
        "fma": p.fma / t.flops,
        "vector": np.where(more, 0.0, plain + special),
        "special": np.where(more, plain + special, 0.0),
        "load/store": np.maximum(loads, stores),
    }


def _miss(nbytes: np.ndarray, cache: np.ndarray | float) -> np.ndarray:
    """The part of ``nbytes`` used in turn that a cache of so many bytes does not hold."""
    return np.clip(2.0 * nbytes / cache - 1.0, 0.0, 1.0)


def _miss_last(nbytes: np.ndarray, cache: np.ndarray | float) -> np.ndarray:
    """The same of the last-level cache, which keeps half of its size whatever comes by."""
    return np.asarray(1.0 - cache / np.maximum(2.0 * nbytes, cache))


def _shared(one: float, all_: float, ways: np.ndarray) -> np.ndarray:
    """Bandwidth of ``ways`` cores where one reaches ``one`` and all together ``all_``."""
    return np.minimum(one * ways, max(one, all_))


def _l3(t: Target, ways: np.ndarray) -> np.ndarray:
    return _shared(t.l3_rate, t.l3_rate_all, ways)


def _repeat(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        x = function(x)
    return x
