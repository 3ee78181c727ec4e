"""The least peak memory of an order, by beam search and annealing under a limit that comes down.

A beam over ideals, by peak and live bytes, is one start, a list schedule of what leaves least live
another, beside the given orders. A peak is a maximum, which tells a move nothing unless it changes
the highest place. Under a limit just below the peak every place above it counts, as in the soft
budgets of SERENITY (Ahn et al., 2020), and moves are re-cut exactly as for cost. Each time the
limit is met it is set below the new peak; when a walk fails, the next one is longer and its step
down smaller. ``exact.prove_peak`` proves the end.
"""

from __future__ import annotations

import itertools

import numpy as np

from .evaluate import cut, decode, keys_of
from .exact import beam
from .moves import anneal
from .problem import Problem, peak

SMALLEST = 1e-3
"""Part of the peak by which the limit comes down at least."""
WIDTH, IDEALS = 256, 300_000
"""Ideals of one size that the beam keeps, and of all sizes."""


def least_peak(problem: Problem, first: np.ndarray, budget: int = 200_000, seed: int = 0
               ) -> tuple[float, tuple[int, ...]]:
    """(bytes, candidates in order): the least peak found within ``budget`` moves from the orders
    ``first``, i4[k, n]; never more than the best of them. The problem's own limit does not count;
    the cost is the least for the order that was found."""
    rng = np.random.default_rng([seed, 0x9EAC])
    orders = np.array(first, np.int32).reshape(-1, problem.nodes)
    only = np.zeros(problem.parts.shape[1] + 1)
    only[-1] = 1.0
    free = problem.limited(np.inf)
    listed = [frugal(free)]
    if (found := beam(free, WIDTH, IDEALS, peaks=True)) is not None:
        listed.append(np.array([v for g in found.chosen for v in free.group(g)]))
    orders = np.concatenate([orders, np.array(listed, np.int32)])
    peaks = [peak(free, cut(free, order, only)) for order in orders]
    best = int(np.argmin(peaks))
    order, least = orders[best], peaks[best]
    step, block, spent = 0.1, max(2000, budget // 50), 0
    ceiling = max(problem.flat.ceiling, 1e-300)
    while spent < budget and least > 0:
        block = min(block, budget - spent)
        below = free.limited(least * (1 - step))
        walked, cost = anneal(below, order, block, 0.5 * ceiling, 0.01 * ceiling,
                              int(rng.integers(1 << 63)))  # fmt: skip
        spent += block
        if cost < ceiling:
            order = walked
            least = peak(free, cut(free, order, only))
        else:
            step, block = max(SMALLEST, step * 0.6), int(block * 1.3)
    best_cut = decode(free.limited(least), keys_of(order[None]))
    return float(best_cut.peaks[0]), best_cut.chosen(0)


def frugal(problem: Problem) -> np.ndarray:
    """i4[n]: an order, one node at a time: of those that are ready the one that leaves least live,
    then the one that needs least, then the first."""
    f = problem.flat
    alone = {problem.group(g)[0]: float(f.written[g]) for g in range(problem.candidates)
             if len(problem.group(g)) == 1}  # fmt: skip
    waits = [len(problem.predecessors(v)) for v in range(problem.nodes)]
    follow: list[list[int]] = [[] for _ in waits]
    for a, b in problem.edges:
        follow[a].append(b)
    readers = (np.diff(f.user_ptr) + f.kept).tolist()
    nbytes = f.nbytes.tolist()
    read = [f.needs[a:b].tolist() for a, b in itertools.pairwise(f.need_ptr)]
    made = [sum(nbytes[w] for w in range(a, b) if readers[w])
            for a, b in itertools.pairwise(f.value_ptr)]  # fmt: skip

    def wish(v: int) -> tuple[float, float, int]:
        return made[v] - sum(nbytes[w] for w in read[v] if readers[w] == 1), alone[v], v

    ready = {v for v, count in enumerate(waits) if not count}
    order = []
    while ready:
        best = min(ready, key=wish)
        ready.remove(best)
        order.append(best)
        for w in read[best]:
            readers[w] -= 1
        for v in follow[best]:
            waits[v] -= 1
            if not waits[v]:
                ready.add(v)
    return np.array(order, np.int32)
