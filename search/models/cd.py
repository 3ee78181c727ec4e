"""``CD``: the plain sums. C counts scalar operations, D counts bytes; nothing else is looked at.

As a scalar model a group costs ``alpha * C + beta * D``. As a two-objective model (``parts``) it
costs the vector (C, D), and a schedule the sum of the vectors of its groups: what fusion saves is
D, what recomputation costs is C.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.errors import OptionError
from .base import Batch, Context, Explanation, GroupFacts, binding


class CD:
    """Weighted sum of operations and bytes; see the module."""

    name = "cd"
    unit = "weighted C + D"
    objectives = ("C", "D")

    def __init__(self, alpha: float = 1.0, beta: float = 1.0) -> None:
        """``alpha`` is the price of an operation, ``beta`` of a byte; neither may be negative."""
        if not (0 <= alpha < np.inf and 0 <= beta < np.inf):
            raise OptionError(f"cd: weights are finite and not negative, got {alpha} and {beta}")
        self.alpha, self.beta = float(alpha), float(beta)

    def parts(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        """f64[n, 2]: C and D of each group."""
        b = Batch.of(groups)
        nbytes = b.constant + b.moved
        return np.stack([np.where(b.free, 0.0, b.flops), np.where(b.free, 0.0, nbytes)], axis=1)

    def costs(self, groups: Sequence[GroupFacts], context: Context) -> np.ndarray:
        """f64[n]: ``alpha * C + beta * D``."""
        both = self.parts(groups, context)
        return np.asarray(self.alpha * both[:, 0] + self.beta * both[:, 1])

    def explain(self, group: GroupFacts, context: Context) -> Explanation:
        """The two terms of the sum."""
        c, d = self.parts([group], context)[0]
        bounds = {"C": self.alpha * float(c), "D": self.beta * float(d)}
        bound = binding(bounds)
        advice = {"C": "fewer operations", "D": "fewer bytes: fuse with a neighbor"}[bound]
        return Explanation(float(self.costs([group], context)[0]), bounds, bound, advice)
