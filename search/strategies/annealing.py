"""Simulated annealing over orders (Kirkpatrick, Gelatt and Vecchi, 1983), moves re-cut exactly.

Restarts: each block of moves cools from hot to cold, from the best order so far or, every other
time, from the last block's; blocks grow, so that a small budget sees a whole cooling too.
"""

from __future__ import annotations

import numpy as np

from ..problem import Problem
from .base import Polisher, keys_of


class Annealing:
    """Blocks of annealing moves; ``moves`` in the first, then ``growth`` times as many."""

    def __init__(self, moves: int = 20_000, growth: float = 1.5, hot: float = 0.5,
                 cold: float = 0.001) -> None:
        self.moves, self.growth, self.hot, self.cold = moves, growth, hot, cold
        self.spent = 0

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        self._polisher = Polisher(problem, seed)
        self._waiting = keys_of(first)
        self._best, self._cost = first[0].copy(), np.inf
        self._last = self._best
        self._block, self._size = 0, float(self.moves)

    def ask(self) -> np.ndarray:
        """The given orders first, then the result of one block."""
        self.spent = 0
        if len(self._waiting):
            keys, self._waiting = self._waiting, self._waiting[:0]
            return keys
        source = self._last if self._block % 2 else self._best
        count = int(self._size)
        self._last, _ = self._polisher.polish(source, count, self.hot, self.cold)
        self._block, self._size = self._block + 1, self._size * self.growth
        self.spent = count
        return keys_of(self._last[None])

    def tell(self, population: np.ndarray, orders: np.ndarray, costs: np.ndarray) -> None:
        """Keeps the best order."""
        k = int(np.argmin(costs))
        if costs[k] < self._cost:
            self._best, self._cost = orders[k].copy(), float(costs[k])
