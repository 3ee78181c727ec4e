"""Optuna's samplers as strategies (Akiba et al., "Optuna", 2019), for comparison: the same keys,
decoder and budget as ours.

Needs the extra ``search``. Samplers see a number from 0 to 1 per node; the grid has three of them
per node and is for small graphs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.errors import OptionError
from ..evaluate import Decoded, Genomes
from ..problem import Problem
from .base import Base, keys_of

SAMPLERS = ("tpe", "grid", "random")
LEVELS = (0.0, 0.5, 1.0)
MOST_POINTS = 100_000
"""Points of a grid, at most."""


class Optuna(Base):
    """One of ``SAMPLERS`` with Optuna's defaults, asked for ``batch`` trials at a time. Raises
    ``OptionError`` for another sampler, where Optuna is not installed, and for too large a grid."""

    def __init__(self, sampler: str = "tpe", batch: int = 16) -> None:
        if sampler not in SAMPLERS:
            raise OptionError(f"optuna: of {', '.join(SAMPLERS)}, not {sampler}")
        self.sampler, self.batch = sampler, batch

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        try:
            import optuna
        except ImportError as error:
            raise OptionError("optuna is not installed: pip install evonnx[search]") from error
        names = [f"k{v}" for v in range(problem.nodes)]
        self._points = MOST_POINTS
        if self.sampler == "grid":
            self._points = len(LEVELS) ** problem.nodes
            if self._points > MOST_POINTS:
                raise OptionError(f"optuna's grid: {problem.nodes} nodes give more than "
                                  f"{MOST_POINTS} points; take tpe or random")
            grid = {name: list(LEVELS) for name in names}
            sampler: Any = optuna.samplers.GridSampler(grid, seed=seed)
        elif self.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self._floats: dict[str, Any] = {name: optuna.distributions.FloatDistribution(0, 1)
                                        for name in names}  # fmt: skip
        self.done = False
        if self.sampler == "tpe":
            for keys in keys_of(first):
                self._study.enqueue_trial(dict(zip(names, keys.tolist(), strict=True)))

    def ask(self) -> Genomes:
        """The next trials."""
        count = min(self.batch, self._points, self.left)
        self._trials = [self._study.ask(self._floats) for _ in range(count)]
        return Genomes(np.array([list(t.params.values()) for t in self._trials]).reshape(
            count, len(self._floats)))  # fmt: skip

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """Costs of the trials."""
        if self.sampler == "grid":
            self._points -= len(self._trials)
            self.done = self._points <= 0
        for trial, cost in zip(self._trials, found.costs.tolist(), strict=True):
            if not self.done:  # a grid that is used up would stop a loop that is not Optuna's
                self._study.tell(trial, cost)
