"""Simulated annealing over orders (Kirkpatrick, Gelatt and Vecchi, 1983) with exact windows.

Moves are re-cut exactly (``moves``). Restarts: each block of moves cools from hot to cold, from the
best order so far or, every other time, from the last block's; blocks grow, so that a small budget
sees a whole cooling too. Between the blocks, a large neighborhood search (Shaw, 1998): windows of
some dozen nodes of the best schedule are solved exactly while the others stay where they are, each
window once until the schedule changes there.
"""

from __future__ import annotations

import numpy as np

from ..evaluate import Decoded, Genomes, live_bytes
from ..exact import solve_window
from ..problem import Problem
from .base import Base, Polisher, keys_of

IDEALS = 5000
"""Ideals of a window, at most; a wider one is left alone."""
WORTH = 100
"""Evaluations that must be left for a window to be tried."""


class Annealing(Base):
    """Blocks of annealing moves; ``moves`` in the first, then ``growth`` times as many; ``windows``
    of ``window`` nodes solved between blocks (0: none). ``hot`` and ``cold`` are parts of the mean
    cost of a candidate."""

    def __init__(self, moves: int = 2000, growth: float = 1.5, hot: float = 0.5,
                 cold: float = 0.001, windows: int = 8, window: int = 60) -> None:
        self.moves, self.growth, self.hot, self.cold = moves, growth, hot, cold
        self.windows, self.window = windows, window

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        self._problem = problem
        self._polisher = Polisher(problem, seed)
        self._rng = np.random.default_rng([seed, 0x4C4E])
        self._waiting = keys_of(first)
        self._best, self._cost = first[0].copy(), np.inf
        self._groups = np.full(problem.nodes, -1)
        self._last = self._best
        self._block, self._size = 0, float(self.moves)
        self._solved: set[bytes] = set()

    def ask(self) -> Genomes:
        """The given orders first, then the result of one block and of its windows."""
        self.spent = 0
        if len(self._waiting):
            keys, self._waiting = self._waiting, self._waiting[:0]
            return Genomes(keys)
        orders = []
        if self._block and self.windows and self.left > WORTH:
            orders.append(self._repaired())
        room = self.left - self.spent - len(orders) - 1
        if room > 0:
            source = self._last if self._block % 2 else self._best
            before = self._polisher.spent
            most = min(int(self._size), room)
            self._last, _ = self._polisher.polish(source, most, self.hot, self.cold)
            self._block, self._size = self._block + 1, min(1e9, self._size * self.growth)
            self.spent += self._polisher.spent - before
        return Genomes(keys_of(np.stack([*orders, self._last])))

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """Keeps the best order."""
        k = int(np.argmin(found.costs))
        if found.costs[k] < self._cost:
            self._best, self._cost = found.orders[k].copy(), float(found.costs[k])
            self._groups = found.groups[k].copy()

    def _repaired(self) -> np.ndarray:
        """The best order with some windows solved exactly."""
        problem, order, groups = self._problem, self._best.copy(), self._groups.copy()
        n = problem.nodes
        live = np.zeros(n + 1)
        for _ in range(self.windows):
            ends = np.concatenate([[0], np.flatnonzero(groups >= 0) + 1])
            begin = int(ends[np.searchsorted(ends, self._rng.integers(n), side="right") - 1])
            end = int(ends[np.searchsorted(ends, min(n, begin + self.window), side="right") - 1])
            name = order[begin:end].tobytes()
            if end <= begin or name in self._solved:
                continue
            if problem.limited_memory:
                live_bytes(problem.flat, order, np.argsort(order).astype(np.int32), live)
            self._solved.add(name)
            most = min(IDEALS, self.left // 2 - self.spent)
            if most < WORTH:
                break
            chosen, ideals = solve_window(problem, order, begin, end, float(live[begin]), most)
            self.spent += ideals
            if chosen is None:
                continue
            now = groups[begin:end]
            if problem.cost[chosen].sum() >= problem.cost[now[now >= 0]].sum() * (1 - 1e-12):
                continue
            sets = [problem.group(g) for g in chosen]
            order[begin:end] = [v for s in sets for v in s]
            groups[begin:end] = -1
            groups[begin + np.cumsum([len(s) for s in sets]) - 1] = chosen
            self._solved.add(order[begin:end].tobytes())
        return order
