"""The protocol of a strategy, and what strategies share: keys of orders, and polishing."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..evaluate import keys_of
from ..moves import anneal
from ..problem import Problem

__all__ = ["Polisher", "Strategy", "keys_of"]


class Strategy(Protocol):
    """Proposes genomes and learns what they cost."""

    spent: int
    """Evaluations made inside ``ask`` since it was last called (re-cuts of single moves)."""

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """Begins on ``problem`` from the topological orders ``first``, i4[k, n], k >= 1."""

    def ask(self) -> np.ndarray:
        """Genomes to evaluate: priorities f8[p, n], p >= 1."""

    def tell(self, population: np.ndarray, orders: np.ndarray, costs: np.ndarray) -> None:
        """What was asked for, as orders i4[p, n], and their costs f8[p]."""


class Polisher:
    """Improves single orders by short annealing, and counts what that costs."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._rng = np.random.default_rng([seed, 0x9011])
        # A move changes the cost by about as much as one group costs.
        self.heat = float(problem.cost.mean()) if problem.candidates else 1.0
        """Temperature at which a typical move is a coin toss; units of cost."""
        self.spent = 0
        """Moves made so far."""

    def polish(self, order: np.ndarray, moves: int, hot: float = 0.1, cold: float = 0.002
               ) -> tuple[np.ndarray, float]:
        """(order, cost) after ``moves`` moves; ``hot`` and ``cold`` are parts of ``heat``."""
        self.spent += moves
        seed = int(self._rng.integers(1 << 63))
        unit = max(self.heat, 1e-300)
        return anneal(self._problem, order, moves, hot * unit, cold * unit, seed)
