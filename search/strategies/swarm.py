"""Particle swarm over random keys (Kennedy and Eberhart, 1995), with exact learning.

A particle is a vector of priorities. It is drawn to its own best and to the best of its neighbors
on a ring; the constriction factor (Clerc and Kennedy, 2002) keeps speeds bounded without a clamp.
After decoding, positions are written back as the ranks of the order (standardized keys: Wang et
al., 2010), so that distance means difference of schedules.

Hybrid: when a round brings particles nothing for ``patience`` rounds, a particle's own best takes
over what its leader does better (``base.best_segments``) and is polished by short annealing; a
particle that does not gain by that either starts anew from noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluate import Decoded, Genomes
from ..problem import Problem
from .base import Base, Polisher, best_segments
from .genes import Layout, checked

CONSTRICTION, PULL = 0.7298, 1.496
"""Inertia, and the largest weight of either attraction."""

COOLING = 0.5
"""What is left of a particle's heat after each polishing: in two seconds a particle of a graph of a
thousand nodes is polished only four times, and at 0.8 it was still hot then."""

SAMPLED = 4
"""A small budget is spent on the first positions by one part in so many, at most."""


class Swarm(Base):
    """``size`` particles on a ring (fewer where the budget is small); ``polish`` moves per node, of
    at most ``learners`` particles in a round (0: none, a plain swarm, which it also is where
    ``genes``, see ``genes``, lack the order or have cuts)."""

    def __init__(self, size: int = 24, patience: int = 2, polish: float = 30.0, learners: int = 4,
                 genes: Sequence[str] = ("order",)) -> None:
        self.size, self.patience, self.polish, self.learners = size, patience, polish, learners
        self.genes = checked(genes)

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        self._problem = problem
        self._rng = rng = np.random.default_rng([seed, 0x5350])
        self._polisher = Polisher(problem, seed)
        size = min(self.size, max(3, len(first), self.left // SAMPLED))
        self._layout = Layout(problem, self.genes, first[0])
        given = self._layout.vectors(first)[:size]
        noise = self._layout.noise(rng, size - len(given))
        self._at = np.concatenate([given, noise])
        self._speed = (rng.random(self._at.shape) - 0.5) * 0.1
        self._own = self._at.copy()
        self._costs = np.full(size, np.inf)
        self._orders = np.zeros((size, problem.nodes), np.int32)
        self._groups = np.zeros((size, problem.nodes), np.int32)
        self._idle = np.zeros(size, np.int64)
        self._failed = np.zeros(size, np.int64)
        self._learned = np.zeros(size, bool)
        self._hot = np.full(size, 0.3)
        self._begun = False

    def ask(self) -> Genomes:
        """Positions after one step of every particle."""
        self.spent = 0
        if self._begun:
            self._step()
        self._begun = True
        return self._layout.genomes(self._at)

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """Updates every particle's own best."""
        self._at = self._layout.vectors(found.orders, self._layout.rest(self._at))
        better = found.costs < self._costs * (1 - 1e-12)
        self._own[better], self._costs[better] = self._at[better], found.costs[better]
        self._orders[better], self._groups[better] = found.orders[better], found.groups[better]
        self._idle = np.where(better, 0, self._idle + 1)
        self._failed[better] = 0
        self._failed[self._learned & ~better] += 1

    def _step(self) -> None:
        rng, n = self._rng, len(self._at)
        around = np.stack([np.arange(n) - 1, np.arange(n), (np.arange(n) + 1) % n])
        leader = around[np.argmin(self._costs[around], axis=0), np.arange(n)]
        own, led = rng.random((2, *self._at.shape)) * PULL
        self._speed = (CONSTRICTION * self._speed + own * (self._own - self._at)
                       + led * (self._own[leader] - self._at))
        self._at = self._at + self._speed
        best = int(np.argmin(self._costs))
        before = self._polisher.spent
        self._learned[:] = False
        room = self.left - n
        most = self._polisher.length(self.polish, room)
        plain = self.polish <= 0 or "order" not in self.genes or "cuts" in self.genes
        longest = np.argsort(-self._idle, kind="stable")[: 0 if plain else self.learners]
        for k in longest[self._idle[longest] >= self.patience]:
            if self._failed[k] > 5 and k != best:
                self._at[k], self._costs[k] = self._layout.noise(rng, 1)[0], np.inf
                self._own[k], self._speed[k] = self._at[k], 0.0
                self._idle[k], self._failed[k], self._hot[k] = 0, 0, 0.3
            else:
                left = room - (self._polisher.spent - before)
                if left > 0:
                    self._learn(int(k), best if rng.random() < 0.3 else int(leader[k]),
                                min(most, left))  # fmt: skip
        self.spent = self._polisher.spent - before

    def _learn(self, k: int, leader: int, most: int) -> None:
        """A particle takes over its leader's better segments and is polished, each time cooler."""
        order = self._orders[k]
        if leader != k and np.isfinite(self._costs[leader]):
            order = best_segments(self._problem, (order, self._groups[k]),
                                  (self._orders[leader], self._groups[leader]))
        order, _ = self._polisher.polish(order, most, float(self._hot[k]))
        self._hot[k] = self._hot[k] * COOLING if self._hot[k] > 0.02 else 0.2
        self._at[k], self._speed[k] = self._layout.vectors(order[None])[0], 0.0
        self._learned[k] = True
