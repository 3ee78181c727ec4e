"""Optuna's samplers as strategies (Akiba et al., "Optuna", 2019), for comparison: the same keys,
decoder and budget as ours.

Needs the extra ``search``. Over "keys", samplers see a number from 0 to 1 per node; the grid has
three of them per node and is for small graphs. Over "rules" they see the few discrete genes of a
hyper-heuristic: with which coefficient each priority rule (``genes.priority_rules``) enters the
priorities. There the grid is complete: 243 points for a graph of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir.errors import OptionError
from ..evaluate import Decoded, Genomes
from ..problem import Problem
from .base import Base, keys_of
from .genes import COEFFICIENTS, RULES, priority_rules

SAMPLERS = ("tpe", "grid", "random")
OVER = ("keys", "rules")
LEVELS = (0.0, 0.5, 1.0)
MOST_POINTS = 100_000
"""Points of a grid, at most."""


class Optuna(Base):
    """One of ``SAMPLERS`` with Optuna's defaults over one of ``OVER``, asked for ``batch`` trials
    at a time. Raises ``OptionError`` for another sampler, where Optuna is not installed, and for
    too large a grid."""

    def __init__(self, sampler: str = "tpe", batch: int = 16, over: str = "keys") -> None:
        for word, known in ((sampler, SAMPLERS), (over, OVER)):
            if word not in known:
                raise OptionError(f"optuna: of {', '.join(known)}, not {word}")
        self.sampler, self.batch, self.over = sampler, batch, over

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``."""
        try:
            import optuna
        except ImportError as error:
            raise OptionError("optuna is not installed: pip install evonnx[search]") from error
        self._first: np.ndarray | None = first
        self._rules = priority_rules(problem, first[0]) if self.over == "rules" else None
        options = optuna.distributions
        self._genes: dict[str, Any] = {name: options.CategoricalDistribution(COEFFICIENTS)
                                       for name in RULES}  # fmt: skip
        levels: Sequence[float] = COEFFICIENTS
        if self._rules is None:
            levels = LEVELS
            self._genes = {f"k{v}": options.FloatDistribution(0, 1) for v in range(problem.nodes)}
        self._points = 1 << 62
        if self.sampler == "grid":
            self._points = len(levels) ** len(self._genes)
            if self._points > MOST_POINTS:
                raise OptionError(f"optuna's grid: {problem.nodes} nodes give more than "
                                  f"{MOST_POINTS} points; take tpe or random, or rules")
            grid = {name: list(levels) for name in self._genes}
            sampler: Any = optuna.samplers.GridSampler(grid, seed=seed)
        elif self.sampler == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(sampler=sampler, direction="minimize")
        self.done = False
        if self.sampler == "tpe" and self._rules is None:
            for keys in keys_of(first):
                self._study.enqueue_trial(dict(zip(self._genes, keys.tolist(), strict=True)))

    def ask(self) -> Genomes:
        """The given orders first where rules are what is sampled, then the next trials."""
        self._trials: list[Any] = []
        if self._rules is not None and self._first is not None:
            keys, self._first = keys_of(self._first), None
            return Genomes(keys)
        count = min(self.batch, self._points, self.left)
        self._trials = [self._study.ask(self._genes) for _ in range(count)]
        values = np.array([[t.params[name] for name in self._genes] for t in self._trials])
        values = values.reshape(count, len(self._genes))
        return Genomes(values if self._rules is None else values @ self._rules)

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """Costs of the trials."""
        if self.sampler == "grid":
            self._points -= len(self._trials)
            self.done = self._points <= 0
        for trial, cost in zip(self._trials, found.costs.tolist()):
            if not self.done:  # a grid that is used up would stop a loop that is not Optuna's
                self._study.tell(trial, cost)
