"""The search loop: asks a strategy, evaluates, tells, and keeps the best with its proof or gap.

The problem is split into parts that no candidate connects (``split``); equal parts are searched
once, and the budget is shared by size. The result is a function of (problem, strategy, budget,
seed): never of time or threads. An interrupt ends the search with the best so far.

*Evaluations.* One is a schedule that is scored: a genome that is decoded; an order whose cuts a
walk computes, first in full and then behind every move; a partial schedule that a dynamic program
reaches (an ideal of a window, a beam or a proof). Proposals that change no order, and what is known
without a look at the costs, are none. A search ends at its budget exactly, cutting the last round
short, or before where the strategy is done. Only the given orders are scored whatever the budget.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from .evaluate import Genomes, cut, decode, keys_of
from .problem import Found, InfeasibleError, Problem
from .solutions import check_solution, floor, peak
from .split import Part, split
from .strategies.base import Strategy

Watch = Callable[[int, float, float], None]
"""(evaluations, best cost, lower bound) -> None, after every round."""


@dataclass(slots=True)
class _Run:
    """What is known while a search runs."""

    watch: Watch | None
    spent: int = 0
    began: float = field(default_factory=time.perf_counter)
    history: list[tuple[int, float, float]] = field(default_factory=list)


    def note(self, used: int, classes: Mapping[bytes, _Class], line: bool = True) -> None:
        """Counts evaluations and, with ``line``, writes down what is best now."""
        self.spent += used
        if line:
            total = sum(c.cost * c.count for c in classes.values())
            self.history.append((self.spent, time.perf_counter() - self.began, total))


@dataclass(slots=True)
class _Class:
    """Equal parts: one of them, how many there are, and the best order of its nodes."""

    part: Part
    order: np.ndarray
    count: int = 1
    cost: float = np.inf
    bound: float = 0.0


def search(
    problem: Problem, strategy: Strategy, first: np.ndarray, budget: int, seed: int = 0,
    watch: Watch | None = None, threads: int = 1,
) -> Found:
    """The best solution of ``strategy`` within ``budget`` evaluations, started from the topological
    orders ``first``, i4[k, n]; never worse than the best of them. ``threads`` decode populations
    and do not change the result. Raises ``InfeasibleError`` where all that was found needs more
    memory than the problem's limit."""
    first = np.array(first, np.int32).reshape(-1, problem.nodes)
    whole = Part(problem, tuple(range(problem.nodes)), tuple(range(problem.candidates)))
    fronts = bool(getattr(strategy, "whole", False))
    parts = [whole] if fronts else split(problem)
    classes: dict[bytes, _Class] = {}
    for part in parts:
        key = part.key if len(parts) > 1 else b""
        if key in classes:
            classes[key].count += 1
        else:
            made = classes[key] = _Class(part, _restrict(first[:1], part)[0])
            made.cost = float(part.problem.cost[cut(part.problem, made.order)].sum())
            made.bound = floor(part.problem)
    run = _Run(watch)
    front = ()
    size = max(1, sum(len(c.part.nodes) for c in classes.values()))
    try:
        for c in sorted(classes.values(), key=lambda c: len(c.part.nodes)):
            share = max(0, budget - run.spent) * len(c.part.nodes) // size
            size -= len(c.part.nodes)
            if not fronts and _one_order(c.part.problem):
                c.bound = c.cost
                run.note(1, classes)
                continue
            own = copy.deepcopy(strategy) if len(classes) > 1 else strategy
            _search(c, own, _restrict(first, c.part), share, seed, run, classes, threads)
            front = getattr(own, "front", ())
    except KeyboardInterrupt:
        if not run.history:
            raise
        front = getattr(strategy, "front", ())
    chosen: list[int] = []
    for part in parts:
        c = classes[part.key if len(parts) > 1 else b""]
        chosen += [part.candidates[g] for g in cut(part.problem, c.order)]
    if (needed := peak(problem, chosen)) > problem.limit:
        raise InfeasibleError(problem.limit, needed, False)
    if fault := check_solution(problem, chosen):
        raise AssertionError(f"the search made an impossible schedule: {fault}")
    total = float(sum(problem.cost[g] for g in chosen))
    bound = sum(c.bound * c.count for c in classes.values())
    proven = all(c.bound > 0 and c.cost <= c.bound * (1 + 1e-12) for c in classes.values())
    return Found(total, tuple(chosen), run.spent, total if proven else min(bound, total), proven,
                 run.history, needed, front)  # fmt: skip


def _one_order(problem: Problem) -> bool:
    """Whether the nodes can only run in one order, so that its best cut is the optimum."""
    edges = set(problem.edges)
    return all((v, v + 1) in edges for v in range(problem.nodes - 1))


def _restrict(orders: np.ndarray, part: Part) -> np.ndarray:
    """Orders of all nodes as orders i4[k, n] of the nodes of a part, by their numbers there."""
    if len(part.nodes) == orders.shape[1]:
        return orders
    place = np.full(orders.shape[1], -1, np.int32)
    place[list(part.nodes)] = np.arange(len(part.nodes))
    found = place[orders]
    return np.ascontiguousarray(found[found >= 0].reshape(len(orders), len(part.nodes)))


def _search(c: _Class, strategy: Strategy, first: np.ndarray, budget: int, seed: int, run: _Run,
            classes: dict[bytes, _Class], threads: int) -> None:
    """Searches one part; what is best is in ``c`` at any time."""
    problem = c.part.problem
    first = first[np.sort(np.unique(first, axis=0, return_index=True)[1])]
    strategy.left = budget = max(budget, len(first))
    strategy.start(problem, first, seed)
    (c.cost,) = decode(problem, keys_of(c.order[None])).costs
    begun, spent = False, 0
    while not begun or (spent < budget and not getattr(strategy, "done", False)):
        strategy.left = budget - spent
        asked = strategy.ask()
        genomes = Genomes(asked) if isinstance(asked, np.ndarray) else asked
        room = budget - spent - strategy.spent
        complete = len(genomes) <= room
        if not complete:
            genomes = genomes.head(max(room, 0))
        used = len(genomes) + strategy.spent
        spent += used
        if not len(genomes):
            run.spent += used
            break
        found = decode(problem, genomes, threads)
        if complete:
            strategy.tell(genomes, found)
        k = int(np.argmin(found.costs))
        better = found.costs[k] < c.cost
        if better or (not begun and found.costs[k] == c.cost):
            c.cost, c.order = float(found.costs[k]), found.orders[k].copy()
        run.note(used, classes, better or not begun)
        begun = True
        c.bound = max(c.bound, float(getattr(strategy, "bound", 0.0)))
        if run.watch is not None:
            run.watch(run.spent, sum(x.cost * x.count for x in classes.values()),
                      sum(x.bound * x.count for x in classes.values()))  # fmt: skip
