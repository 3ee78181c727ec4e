"""Particle swarm over random keys (Kennedy and Eberhart, 1995).

A particle is a vector of priorities. It is drawn to its own best and to the best of its neighbors
on a ring; the constriction factor (Clerc and Kennedy, 2002) keeps speeds bounded without a clamp.
After decoding, positions are written back as the ranks of the order (standardized keys), so that
distance means difference of schedules. A particle that has not improved for ``patience`` rounds is
polished by short annealing once and, if that does not help either, starts anew from noise.
"""

from __future__ import annotations

import numpy as np

from ..problem import Problem
from .base import Polisher, keys_of

CONSTRICTION, PULL = 0.7298, 1.496
"""Inertia, and the largest weight of either attraction."""


class Swarm:
    """``size`` particles on a ring."""

    def __init__(self, size: int = 32, patience: int = 6, polish: int = 4000) -> None:
        self.size, self.patience, self.polish = size, patience, polish
        self.spent = 0

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        self._rng = rng = np.random.default_rng([seed, 0x5350])
        self._polisher = Polisher(problem, seed)
        given = keys_of(first)[: self.size]
        noise = rng.random((self.size - len(given), problem.nodes))
        self._at = np.concatenate([given, noise])
        self._speed = (rng.random(self._at.shape) - 0.5) * 0.1
        self._own = self._at.copy()
        self._own_cost = np.full(self.size, np.inf)
        self._orders = np.zeros(self._at.shape, np.int32)
        self._idle = np.zeros(self.size, np.int64)
        self._tried = np.zeros(self.size, bool)
        self._begun = False

    def ask(self) -> np.ndarray:
        """Positions after one step of every particle."""
        self.spent = 0
        if self._begun:
            self._step()
        self._begun = True
        return self._at

    def tell(self, population: np.ndarray, orders: np.ndarray, costs: np.ndarray) -> None:
        """Updates every particle's own best."""
        self._at = keys_of(orders)
        better = costs < self._own_cost
        self._own[better], self._own_cost[better] = self._at[better], costs[better]
        self._orders[better] = orders[better]
        self._idle = np.where(better, 0, self._idle + 1)
        self._tried &= ~better

    def _step(self) -> None:
        rng, n = self._rng, self.size
        around = np.stack([np.arange(n) - 1, np.arange(n), (np.arange(n) + 1) % n])
        leader = around[np.argmin(self._own_cost[around], axis=0), np.arange(n)]
        own, led = rng.random((2, *self._at.shape)) * PULL
        self._speed = (CONSTRICTION * self._speed + own * (self._own - self._at)
                       + led * (self._own[leader] - self._at))
        self._at = self._at + self._speed
        best = int(np.argmin(self._own_cost))
        before = self._polisher.spent
        for k in np.flatnonzero(self._idle >= self.patience):
            self._idle[k] = 0
            if self._tried[k] and k != best:
                self._at[k], self._own_cost[k] = rng.random(self._at.shape[1]), np.inf
                self._own[k], self._speed[k] = self._at[k], 0.0
                self._tried[k] = False
            else:
                order, _ = self._polisher.polish(self._orders[k], self.polish)
                self._at[k], self._speed[k] = keys_of(order[None])[0], 0.0
                self._tried[k] = True
        self.spent = self._polisher.spent - before
