"""The search loop: asks a strategy, evaluates, tells, and keeps the best with its proof or gap.

The result is a function of (problem, strategy, budget, seed): never of time or threads. An
interrupt ends the search with the best so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from .evaluate import cut, decode
from .problem import Found, InfeasibleError, Problem, check_solution, floor, peak
from .strategies.base import Strategy

Watch = Callable[[int, float], None]
"""(evaluations, best cost) -> None, after every round."""


def search(
    problem: Problem, strategy: Strategy, first: np.ndarray, budget: int, seed: int = 0,
    watch: Watch | None = None,
) -> Found:
    """The best solution of ``strategy`` within ``budget`` evaluations, started from the topological
    orders ``first``, i4[k, n]; never worse than the best of them. Raises ``InfeasibleError``
    where all that was found needs more memory than the problem's limit."""
    began = time.perf_counter()
    best, order = np.inf, np.array(first[0], np.int32)
    history: list[tuple[int, float, float]] = []
    spent = 0
    strategy.start(problem, np.array(first, np.int32), seed)
    try:
        while spent < budget or not spent:
            population = strategy.ask()
            found = decode(problem, population)
            strategy.tell(population, found.orders, found.costs)
            spent += len(population) + strategy.spent
            k = int(np.argmin(found.costs))
            if found.costs[k] < best:
                best, order = float(found.costs[k]), found.orders[k].copy()
                history.append((spent, time.perf_counter() - began, best))
            if watch is not None:
                watch(spent, best)
    except KeyboardInterrupt:
        if not np.isfinite(best):
            raise
    chosen = cut(problem, order)
    if (needed := peak(problem, chosen)) > problem.limit:
        raise InfeasibleError(problem.limit, needed, False)
    if fault := check_solution(problem, chosen):
        raise AssertionError(f"the search made an impossible schedule: {fault}")
    total = float(sum(problem.cost[g] for g in chosen))
    return Found(total, tuple(chosen), spent, floor(problem), history=history, peak=needed)
