"""Random search: the yardstick every other strategy must beat."""

from __future__ import annotations

import numpy as np

from ..evaluate import Decoded, Genomes
from ..problem import Problem
from .base import Base, keys_of


class Random(Base):
    """Independent uniform priorities, ``batch`` at a time."""

    def __init__(self, batch: int = 64) -> None:
        self.batch = batch

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        self._nodes = problem.nodes
        self._first: np.ndarray | None = first
        self._rng = np.random.default_rng([seed, 0x4A4D])

    def ask(self) -> Genomes:
        """The given orders first, then noise."""
        if self._first is not None:
            keys, self._first = keys_of(self._first), None
            return Genomes(keys)
        return Genomes(self._rng.random((self.batch, self._nodes)))

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """Learns nothing."""
