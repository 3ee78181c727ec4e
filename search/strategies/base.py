"""The protocol of a strategy, and what strategies share: keys of orders, polishing, segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from ..evaluate import Decoded, Genomes, keys_of
from ..moves import walk
from ..problem import Problem

__all__ = ["Base", "Factory", "Polisher", "Strategy", "best_segments", "keys_of"]


LESSONS = 12
"""Polishings that a small budget is divided into."""
SHORTEST = 200
"""Evaluations of a polishing; a shorter one is not worth its start."""


class Strategy(Protocol):
    """Proposes genomes and learns what they are worth. Random numbers come from ``seed`` alone."""

    spent: int
    """Evaluations made inside the last ``ask`` (see ``run.search`` for what counts as one)."""
    left: int
    """Set before ``start`` and every ``ask``: evaluations that are left, those of the genomes asked
    for among them. Of more genomes than that only the first are decoded, and nothing is told."""
    done: bool
    """Whether there is nothing left to ask for."""
    bound: float
    """No solution is cheaper, as far as the strategy can tell; 0 if it cannot."""

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """Begins on ``problem`` from the topological orders ``first``, i4[k, n], k >= 1; forgets
        what was before."""

    def ask(self) -> Genomes | np.ndarray:
        """Genomes to evaluate, at least one; priorities f8[p, n] alone will do."""

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """What was asked for, and what it turned out to be."""


Factory = Callable[[], Strategy]
"""Makes a strategy with its default parameters."""


class Base:
    """A strategy that never ends and proves nothing."""

    spent = 0
    left = 1 << 62
    done = False
    bound = 0.0


class Polisher:
    """Improves single orders by short annealing, and counts what that costs."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._rng = np.random.default_rng([seed, 0x9011])
        # A move changes the cost by about as much as one group costs.
        self.heat = float(problem.cost.mean()) if problem.candidates else 1.0
        """Temperature at which a typical move is a coin toss; units of cost."""
        self.spent = 0
        """Evaluations made so far: the first cut of every order, and every move."""

    def polish(self, order: np.ndarray, most: int, hot: float = 0.1, cold: float = 0.002
               ) -> tuple[np.ndarray, float]:
        """(order, cost) after at most ``most`` evaluations, at least one; ``hot`` and ``cold`` are
        parts of ``heat``."""
        seed = int(self._rng.integers(1 << 63))
        unit = max(self.heat, 1e-300)
        walked, cost, cuts = walk(self._problem, order, most - 1, hot * unit, cold * unit, seed)
        self.spent += cuts + 1
        return walked, cost

    def length(self, moves: float, left: int) -> int:
        """Evaluations of one polishing of ``moves`` moves per node where ``left`` evaluations are
        left: short enough that ``LESSONS`` of them fit, if that many make sense."""
        full = max(SHORTEST, int(moves * self._problem.nodes))
        return min(full, max(SHORTEST, left // LESSONS), left)


def best_segments(problem: Problem, mother: tuple[np.ndarray, np.ndarray],
                  father: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The order i4[n] that takes the cheaper parent in every segment (waist crossover).

    Parents are (order i4[n], groups i4[n], see ``Decoded``). Where both have finished the same set
    of nodes and both end a group, either may go on as the other does: of the 2^k children for k
    such places this is the best, found in one pass. Equal sets are recognized by their hashes."""
    word, cost = problem.flat.word, problem.cost
    (a, cuts_a), (b, cuts_b) = mother, father
    same = (np.bitwise_xor.accumulate(word[a]) == np.bitwise_xor.accumulate(word[b]))
    ends = np.flatnonzero(same & (cuts_a >= 0) & (cuts_b >= 0)) + 1
    begins = np.concatenate([[0], ends[:-1]])
    sums_a = np.add.reduceat(np.where(cuts_a >= 0, cost[cuts_a], 0.0), begins)
    sums_b = np.add.reduceat(np.where(cuts_b >= 0, cost[cuts_b], 0.0), begins)
    take = np.repeat(sums_b < sums_a, ends - begins)
    child: np.ndarray = np.where(take, b, a)
    return child
