"""A memetic genetic algorithm with biased random keys (BRKGA: Goncalves and Resende, 2011).

A genome is a priority per node; list scheduling decodes it, the exact cuts score it, and its order
is written back as standardized keys (Wang et al., 2010). A generation keeps the elite, equal
schedules once, and makes children of an elite parent and another one:

- biased uniform: each key from the elite parent with probability ``rho`` (BRKGA);
- ideal prefix: the elite parent's order up to a random place and the other's behind it, which keeps
  whole runs of nodes together: the crossover of orders over an ideal;
- group injection: some groups of the other parent, whole, into the order of the elite one
  (Falkenauer's crossover for grouping problems, 1996);
- waist crossover (``base.best_segments``): the cheaper parent in every segment between places where
  both have finished the same nodes: the best of 2^k children;
- mutants are noise.

What makes it memetic (Moscato, 1989): the waist child of the best two parents, an injected child
and a random elite are polished by short annealing over legal moves of single nodes and runs, cooler
with every generation that brought nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluate import Decoded, Genomes, decode
from ..problem import Problem
from .base import Base, Polisher, best_segments, keys_of
from .genes import Layout, checked

COOLING = 0.65
"""What is left of the heat of polishing after a generation that brought nothing."""

SAMPLED = 4
"""A small budget is spent on noise by one part in so many, at most."""


class Genetic(Base):
    """``size`` genomes; ``elite`` and ``mutants`` are parts of it; ``rho`` is the elite parent's
    share of the keys; ``polish`` moves per node and learner (0: a plain genetic algorithm, which it
    also is where ``genes``, see ``genes``, lack the order or have cuts)."""

    def __init__(self, size: int = 40, elite: float = 0.3, mutants: float = 0.1, rho: float = 0.7,
                 polish: float = 45.0, genes: Sequence[str] = ("order",)) -> None:
        self.size, self.elite, self.mutants, self.rho = size, elite, mutants, rho
        self.polish, self.genes = polish, checked(genes)

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        self._problem = problem
        self._rng = np.random.default_rng([seed, 0x6E6E])
        self._polisher = Polisher(problem, seed)
        size = min(self.size, max(2, self.left // SAMPLED))
        self._layout = Layout(problem, self.genes, first[0])
        noise = self._layout.noise(self._rng, max(1, size - len(first)))
        self._ask = np.concatenate([self._layout.vectors(first), noise])
        self._rest = self._layout.rest(self._ask)[:0]
        self._orders = np.empty((0, problem.nodes), np.int32)
        self._groups = np.empty((0, problem.nodes), np.int32)
        self._costs, self._prints = np.empty(0), np.empty(0, np.uint64)
        self._hot = 0.3

    def ask(self) -> Genomes:
        """The next generation's new genomes."""
        self.spent = 0
        if len(self._orders):
            self._ask = self._children()
        return self._layout.genomes(self._ask)

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """Merges the generation, best first, equal schedules once."""
        before = self._costs[0] if len(self._costs) else np.inf
        costs = np.concatenate([self._costs, found.costs])
        prints = np.concatenate([self._prints, found.prints])
        rank = np.argsort(costs, kind="stable")
        _, once = np.unique(prints[rank], return_index=True)
        keep = rank[np.sort(once)][: max(2, int(self.size * self.elite))]
        self._orders = np.concatenate([self._orders, found.orders])[keep]
        self._groups = np.concatenate([self._groups, found.groups])[keep]
        self._rest = np.concatenate([self._rest, self._layout.rest(self._ask)])[keep]
        self._costs, self._prints = costs[keep], prints[keep]
        if self._costs[0] >= before * (1 - 1e-9):
            self._hot = self._hot * COOLING if self._hot > 0.02 else 0.3

    def _children(self) -> np.ndarray:
        rng, n = self._rng, self._problem.nodes
        keys = self._layout.vectors(self._orders, self._rest)
        elite, width = keys.shape
        mutants = self._layout.noise(rng, max(1, int(self.size * self.mutants)))
        count = max(2, self.size - len(mutants) - elite)
        mothers = keys[rng.integers(elite, size=count)]
        others = np.concatenate([keys, mutants])
        fathers = others[rng.integers(len(others), size=count)]
        uniform = rng.random((count, width)) < self.rho
        prefix = mothers < rng.random((count, 1))
        prefix[:, n:] = uniform[:, n:]
        inherit = np.where(rng.random((count, 1)) < 0.5, uniform, prefix)
        # A key behind the mother's place comes after all of hers.
        behind = np.where(inherit == prefix, 1.0, 0.0)
        behind[:, n:] = 0.0
        children = np.where(inherit, mothers, fathers + behind)
        return np.concatenate([*self._learned(len(children) + len(mutants)), children, mutants])

    def _learned(self, others: int) -> list[np.ndarray]:
        """Vectors of the waist child and of three polished orders, as far as evaluations are left
        beside those of the ``others`` of the generation."""
        elite, before = len(self._orders), self._polisher.spent
        left = self.left - others
        if left < 12 or self.polish <= 0 or "order" not in self.genes or "cuts" in self.genes:
            return []
        a, b, c = (int(self._rng.integers(elite)) for _ in range(3))
        learners = [self._waists(), self._injected(a, b), self._orders[c]]
        learned = []
        most = self._polisher.length(self.polish, left)
        for order in learners:
            room = left - self.spent - (self._polisher.spent - before) - 1 - len(learners)
            if room > 0:
                learned.append(self._polisher.polish(order, min(most, room), self._hot)[0])
        self.spent += self._polisher.spent - before
        return [self._layout.vectors(np.stack([learners[0], *learned]))]

    def _parent(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        return self._orders[k], self._groups[k]

    def _waists(self) -> np.ndarray:
        """The best segments of the best genome and two others."""
        a, b = self._rng.integers(len(self._orders), size=2)
        child = best_segments(self._problem, self._parent(0), self._parent(int(a)))
        if b == a:
            return child
        self.spent += 1
        found = decode(self._problem, keys_of(child[None]))
        return best_segments(self._problem, (found.orders[0], found.groups[0]),
                             self._parent(int(b)))

    def _injected(self, into: int, source: int) -> np.ndarray:
        """Some neighboring groups of one genome, each as a run at the middle of where its nodes
        are in another; not yet listed in a possible order, which decoding does."""
        keys = keys_of(self._orders[into][None])
        order, groups = self._parent(source)
        ends = np.flatnonzero(groups >= 0)
        count = min(len(ends), 4 + int(self._rng.integers(12)))
        begin = int(self._rng.integers(len(ends) - count + 1))
        for k in range(begin, begin + count):
            run = order[ends[k - 1] + 1 if k else 0 : ends[k] + 1]
            keys[0, run] = np.median(keys[0, run]) + np.arange(len(run)) * 1e-9
        self.spent += 1
        found: np.ndarray = decode(self._problem, keys).orders[0]
        return found
