"""``Bounds``: a group takes as long as the largest of its named bounds, plus what is always paid.

On ``w`` threads that get work (``w = min(threads, tiles)``) the bounds are

====================  =========================================================================
``fma``               operations of a contraction's micro-kernel / (w * flops)
``vector``            other operations / (w * vector_rate)
``special``           operations of special functions / (w * special_rate)
``load/store``        the larger of bytes loaded / (w * load_rate), bytes written / (w *
                      store_rate); loaded is what the group reads or, if more, what the inner loop
                      of its contraction does, and a vector for each element that lies apart
``l1``                all bytes / (w * l1_rate)
``l2`` ``l3``         bytes that the nearer cache does not hold / the level's bandwidth
``dram``
``latency``           (tiles * nodes + 6 * loops) / w * latency_s: a tile runs its operations one
                      after another, and so do start and end of an inner loop
``tail``              the thread with most tiles: ceil(tiles / w) / tiles of the one-thread work
====================  =========================================================================

and ``launch``, ``sync`` (more than one thread) and ``live`` are added. Of ``b`` bytes that are
used again and again, a cache of ``c`` bytes misses the part ``clip(b / c - 1, 0, 1)``: nothing
while they fit, everything from twice its size on. What other groups wrote counts with the group's
own traffic; constants with all constants of the model, since they come round once per inference.
``live``: a group that overflows its threads' level-2 caches evicts what later groups would have
found there, at most all of it; a model without that term fuses too much. The number of threads is
1 or all, whichever is faster.

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
from .base import FREE, SECONDS, Batch, Context, Explanation, GroupFacts, binding

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
_ENTRY = 6.0
"""Operations that wait for one another where an inner loop starts and ends: its bounds, the first
load, the sum over the lanes of a vector."""
_OWN = ("fma", "vector", "special", "load/store", "l1")
"""What every core has for itself."""
_FIXED = ("launch", "sync", "live")
"""Terms that are added to the largest bound."""


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
            best = np.minimum(best, self._total(self.terms(b, threads, context)))
        return np.where(b.free, 0.0, best)

    def explain(self, group: GroupFacts, context: Context) -> Explanation:
        """All terms on the number of threads that is faster; the largest one binds."""
        if group.implementation in FREE:
            return Explanation(0.0, {"launch": 0.0}, "launch", "nothing: it does no work")
        found: Explanation | None = None
        for threads in sorted({1, max(1, context.threads)}):
            terms = self.terms(Batch.of([group]), threads, context)
            total = float(self._total(terms)[0])
            if found is None or total < found.seconds:
                bounds = {name: float(value[0]) for name, value in terms.items()}
                bound = binding(bounds)
                found = Explanation(total, bounds, bound, _ADVICE[bound])
        assert found is not None
        return found

    def terms(self, b: Batch, threads: int, context: Context) -> dict[str, np.ndarray]:
        """Every named term in seconds, f64[n] each, on ``threads`` threads."""
        t = context.target
        tiles = np.maximum(np.ceil(b.tiles), 1.0)
        ways = np.minimum(float(threads), tiles)
        terms = _compute(b, t, ways) | self._memory(b, t, ways, context.constants)
        terms["latency"] = (tiles * b.nodes + _ENTRY * b.loops) / ways * t.latency_s
        work = np.maximum.reduce([terms[name] for name in _OWN])
        terms["tail"] = work * (ways * np.ceil(tiles / ways) / tiles)
        terms["launch"] = np.full(len(tiles), t.launch_s)
        terms["sync"] = np.full(len(tiles), t.sync_s if threads > 1 else 0.0)
        room = t.l2_bytes * ways
        terms["live"] = np.clip(b.moved - room, 0.0, room) / _l3(t, ways)
        return terms

    @staticmethod
    def _memory(b: Batch, t: Target, ways: np.ndarray, constants: float) -> dict[str, np.ndarray]:
        cycle = np.maximum(constants, b.constant)

        def beyond(cache: np.ndarray | float) -> np.ndarray:
            """Bytes that ``cache`` does not hold."""
            return np.asarray(b.moved * _miss(b.moved, cache) + b.constant * _miss(cycle, cache))

        loaded = np.maximum(b.inputs + b.constant, b.loads) + b.scalars * (t.vector_bits / 8)
        loads, stores = loaded / (ways * t.load_rate), b.outputs / (ways * t.store_rate)
        return {
            "load/store": np.maximum(loads, stores),
            "l1": (b.moved + b.constant) / (ways * t.l1_rate),
            "l2": beyond(t.l1_bytes * ways) / (ways * t.l2_rate),
            "l3": beyond(t.l2_bytes * ways) / _l3(t, ways),
            "dram": beyond(float(t.l3_bytes)) / _shared(t.dram_rate, t.dram_rate_all, ways),
        }

    def _total(self, terms: dict[str, np.ndarray]) -> np.ndarray:
        """The (soft) maximum of the bounds, and the fixed terms."""
        bounds = np.stack([value for name, value in terms.items() if name not in _FIXED])
        top = bounds.max(axis=0)
        if self.power is not None:
            # A group's cost may not depend on its place in the batch: squares, square roots and
            # single additions are rounded correctly; other powers, and NumPy's sums, are not.
            scaled = bounds / np.where(top > 0, top, 1.0)
            steps = int(math.log2(self.power))
            mean = _repeat(np.sqrt, sum(_repeat(np.square, scaled, steps)), steps)
            top = top * mean
        for name in _FIXED:
            top = top + terms[name]
        return top


def _compute(b: Batch, t: Target, ways: np.ndarray) -> dict[str, np.ndarray]:
    plain = b.flops - b.special
    return {
        "fma": np.where(b.contract, plain, 0.0) / (ways * t.flops),
        "vector": np.where(b.contract, 0.0, plain) / (ways * t.vector_rate),
        "special": b.special / (ways * t.special_rate),
    }


def _miss(nbytes: np.ndarray, cache: np.ndarray | float) -> np.ndarray:
    """The part of ``nbytes`` used in turn that a cache of so many bytes does not hold."""
    return np.clip(nbytes / cache - 1.0, 0.0, 1.0)


def _shared(one: float, all_: float, ways: np.ndarray) -> np.ndarray:
    """Bandwidth of ``ways`` cores where one reaches ``one`` and all together ``all_``."""
    return np.minimum(one * ways, max(one, all_))


def _l3(t: Target, ways: np.ndarray) -> np.ndarray:
    return _shared(t.l3_rate, t.l3_rate_all, ways)


def _repeat(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        x = function(x)
    return x
