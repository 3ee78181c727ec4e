"""Strategies that prove, or stop by themselves: ideal DP, beam search, exhaustive search.

They make their solution inside of ``ask`` and hand it out as an order; see ``exact`` for how.
"""

from __future__ import annotations

import numpy as np

from ...ir.errors import LimitError
from ..evaluate import Decoded, Genomes
from ..exact import Proof, beam, exhaustive_solution, prove
from ..problem import Problem
from .base import Base, keys_of

AHEAD = 8
"""Ideals that one ideal leads to, about."""


class _Prover(Base):
    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``; nothing is drawn, so the seed does not matter."""
        self._problem, self._first = problem, first
        self.done, self.bound, self.spent = False, 0.0, 0

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """Learns nothing."""

    def _hand_out(self, chosen: tuple[int, ...]) -> Genomes:
        order = [v for g in chosen for v in self._problem.group(g)]
        rows = np.array(order, np.int32).reshape(1, -1)
        return Genomes(keys_of(np.concatenate([rows, self._first])))


class Exact(_Prover):
    """The proven optimum by dynamic programming over at most ``ideals`` ideals; ``LimitError``
    where there are more, or more than the budget."""

    def __init__(self, ideals: int = 1_000_000) -> None:
        self.ideals = ideals

    def ask(self) -> Genomes:
        """The optimum."""
        most = min(self.ideals, self.left - 1)
        proof = prove(self._problem, most) if most > 0 else None
        if proof is None:
            raise LimitError(f"exact search: the graph has more than {most} ideals; take "
                             "annealing, or allow more (a budget counts every ideal)")
        self.done, self.bound, self.spent = True, proof.cost, proof.ideals
        return self._hand_out(proof.chosen)


class Exhaustive(_Prover):
    """Every order of groups of at most 16 nodes, in plain Python; ``OptionError`` for more,
    ``LimitError`` where that takes more evaluations (sets of finished nodes) than the budget."""

    def ask(self) -> Genomes:
        """The optimum."""
        cost, chosen, self.spent = exhaustive_solution(self._problem)
        if self.spent >= self.left:
            raise LimitError(f"exhaustive search: {self.spent} evaluations are not enough in a "
                             f"budget of {self.left}")
        self.done, self.bound = True, cost if chosen else 0.0
        return self._hand_out(chosen) if chosen else Genomes(keys_of(self._first))


class Beam(_Prover):
    """Beam search over ideals, ``width`` of each size at first, then four times as many, until none
    is dropped or ``ideals`` are visited."""

    def __init__(self, width: int = 16, ideals: int = 1_000_000) -> None:
        self.width, self.ideals = width, ideals

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        super().start(problem, first, seed)
        # A beam that is too wide for a small budget finds nothing.
        self._width = max(1, min(self.width, self.left // (AHEAD * max(1, problem.nodes))))

    def ask(self) -> Genomes:
        """What the next wider beam finds."""
        most = min(self.ideals, self.left - 1)
        proof: Proof | None = beam(self._problem, self._width, most) if most > 0 else None
        self._width *= 4
        self.spent = max(0, most) if proof is None else proof.ideals
        if proof is None:
            self.done = True
            return Genomes(keys_of(self._first))
        if proof.exact:
            self.done, self.bound = True, proof.cost
        return self._hand_out(proof.chosen)
