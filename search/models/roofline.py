"""``Roofline``: compute or memory, whichever takes longer (S. Williams, A. Waterman and D.
Patterson, "Roofline: an insightful visual performance model for multicore architectures", 2009).

A group on ``t`` threads takes

    max(C / (t * flops * e), D_const / r(constants) + D_moved / r(D_moved)) + launch + sync(t)

``e`` is 0.8 for micro-kernels and 0.25 for emitted loops (few multiply-adds pair up there);
``r(b)`` is the bandwidth of the smallest memory that holds ``b`` bytes: weights come round once per
inference, so what counts for them is the size of all constants together. A group runs on one
thread where that is faster. It knows nothing of tiles, special functions and latency: ``bounds``
does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import FREE, SECONDS, Batch, Context, Explanation, GroupFacts, binding

MICRO_KERNEL = 0.8
"""Part of the peak that a contraction micro-kernel reaches."""
LOOPS = 0.25
"""Part of the peak that emitted loops reach."""

_ADVICE = {
    "compute": "fewer operations or more threads",
    "memory": "fewer bytes: fuse with a neighbor, or keep them in a nearer memory",
    "launch": "fewer, larger groups",
}


class Roofline:
    """Predicts seconds from C and D; see the module."""

    name = "roofline"
    unit = SECONDS
    objectives = ("time",)

    def bandwidth(self, nbytes: np.ndarray, threads: int, context: Context) -> np.ndarray:
        """f64[n]: bytes per second from the smallest memory that holds ``nbytes`` (f64[n])."""
        t = context.target
        far = min(t.dram_rate * threads, max(t.dram_rate_all, t.dram_rate))
        near = np.where(nbytes <= t.l3_bytes, t.l3_rate * threads, far)
        return np.where(nbytes <= t.l2_bytes * threads, t.l2_rate * threads, near)

    def _terms(self, b: Batch, threads: int, context: Context) -> tuple[np.ndarray, ...]:
        """(compute, memory, fixed) seconds on ``threads`` threads, f64[n] each."""
        t = context.target
        reached = np.where(b.contract, MICRO_KERNEL, LOOPS)
        compute = b.flops / (threads * t.flops * reached)
        constants = np.maximum(context.constants, b.constant)
        memory = b.constant / self.bandwidth(constants, threads, context)
        memory = memory + b.moved / self.bandwidth(b.moved, threads, context)
        fixed = np.full(len(b.flops), t.launch_s + (t.sync_s if threads > 1 else 0.0))
        return compute, memory, fixed

    def costs(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        """f64[n] seconds."""
        b = Batch.of(groups)
        best = np.full(len(groups), np.inf)
        for threads in sorted({1, max(1, context.threads)}):
            compute, memory, fixed = self._terms(b, threads, context)
            best = np.minimum(best, np.maximum(compute, memory) + fixed)
        return np.where(b.free, 0.0, best)

    def explain(self, group: GroupFacts, context: Context) -> Explanation:
        """Compute, memory and fixed time on the number of threads that is faster."""
        if group.implementation in FREE:
            return Explanation(0.0, {"launch": 0.0}, "launch", "nothing: it does no work")
        found: Explanation | None = None
        for threads in sorted({1, max(1, context.threads)}):
            terms = (float(v[0]) for v in self._terms(Batch.of([group]), threads, context))
            bounds = dict(zip(("compute", "memory", "launch"), terms, strict=True))
            total = max(bounds["compute"], bounds["memory"]) + bounds["launch"]
            if found is None or total < found.seconds:
                bound = binding(bounds)
                found = Explanation(total, bounds, bound, _ADVICE[bound])
        assert found is not None
        return found
