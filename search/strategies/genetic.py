"""A memetic genetic algorithm with biased random keys (BRKGA: Goncalves and Resende, 2011).

A genome is a priority per node; list scheduling decodes it and the exact cuts score it. A
generation keeps the elite, adds mutants, and fills up with children that take each key from an
elite parent with probability ``rho`` and else from another one, or, as often, take the elite
parent's order up to a random place and the other's behind it (which keeps whole runs of nodes
together: the crossover of orders over an ideal). What makes it memetic: the best child and one
random elite are polished by short annealing, and their orders are written back as keys.
"""

from __future__ import annotations

import numpy as np

from ..problem import Problem
from .base import Polisher, keys_of


class Genetic:
    """``size`` genomes; ``elite`` and ``mutants`` are parts of it; ``polish`` moves per learner."""

    def __init__(self, size: int = 64, elite: float = 0.2, mutants: float = 0.1, rho: float = 0.7,
                 polish: int = 4000) -> None:
        self.size, self.elite, self.mutants, self.rho = size, elite, mutants, rho
        self.polish = polish
        self.spent = 0

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        self._rng = np.random.default_rng([seed, 0x6E6E])
        self._polisher = Polisher(problem, seed)
        noise = self._rng.random((max(1, self.size - len(first)), problem.nodes))
        self._ask = np.concatenate([keys_of(first), noise])
        self._keys = np.empty((0, problem.nodes))
        self._orders = np.empty((0, problem.nodes), np.int32)
        self._costs = np.empty(0)

    def ask(self) -> np.ndarray:
        """The next generation's new genomes."""
        self.spent = 0
        if len(self._keys):
            self._ask = self._children()
        return self._ask

    def tell(self, population: np.ndarray, orders: np.ndarray, costs: np.ndarray) -> None:
        """Merges the generation, best first, equal orders once."""
        every = np.concatenate([self._orders, orders])
        total = np.concatenate([self._costs, costs])
        rank = np.argsort(total, kind="stable")
        seen: set[bytes] = set()
        keep = []
        for k in rank:
            name = every[k].tobytes()
            if name not in seen:
                seen.add(name)
                keep.append(k)
        keep = keep[: max(2, int(self.size * self.elite))]
        self._orders, self._costs = every[keep], total[keep]
        self._keys = keys_of(self._orders)

    def _children(self) -> np.ndarray:
        rng, elite, n = self._rng, len(self._keys), self._keys.shape[1]
        mutants = rng.random((max(1, int(self.size * self.mutants)), n))
        count = max(2, self.size - len(mutants) - elite)
        mothers = self._keys[rng.integers(elite, size=count)]
        fathers = np.concatenate([self._keys, mutants])[rng.integers(elite + len(mutants),
                                                                      size=count)]
        uniform = rng.random((count, n)) < self.rho
        prefix = mothers < rng.random((count, 1))
        inherit = np.where(rng.random((count, 1)) < 0.5, uniform, prefix)
        # A key behind the mother's place comes after all of hers.
        children = np.where(inherit, mothers, fathers + np.where(inherit == prefix, 1.0, 0.0))
        before = self._polisher.spent
        learners = [self._orders[0], self._orders[int(rng.integers(elite))]]
        learned = np.stack([self._polisher.polish(o, self.polish)[0] for o in learners])
        self.spent = self._polisher.spent - before
        return np.concatenate([keys_of(learned), children, mutants])
