"""The least peak memory of any order and fusion, and whether it is proven.

Schedules below a limit that comes down, each found by a descent (``descend``) in tens of
milliseconds; where a descent says that there is none, the limit is a bound, and once it lies just
below what was found, the proof. As long as there is no proof, annealing goes on from what was
found: a peak is a maximum, which tells a move nothing unless it changes the highest place, but
under a limit just below it every place above it counts, as in the soft budgets of SERENITY (Ahn et
al., 2020), and moves are re-cut exactly as for cost. Each time the limit is met it is set below the
new peak; when a walk fails, the next one is longer and its step down smaller. What stays open in
the end is halved a few times: descents under lower limits say where schedules become impossible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .descend import Descent
from .evaluate import cut, decode, keys_of
from .moves import anneal
from .problem import Problem
from .solutions import peak

SMALLEST = 1e-3
"""Part of the peak by which the limit comes down at least."""
STATES = 20_000
"""Ideals that a descent may meet on the way down."""
PROOF = 300_000
"""Ideals that the last descent may meet, below what was found: about a second."""
HALVINGS = 6
"""Times that what lies between bound and result is halved where there is no proof."""


@dataclass(frozen=True, slots=True)
class Least:
    """A schedule of little memory."""

    peak: float
    """Bytes it needs."""
    chosen: tuple[int, ...]
    """Candidates in order, of the least cost for the order of their nodes under this peak."""
    proven: bool
    """Whether no schedule needs a byte less."""
    bound: float
    """No schedule needs fewer bytes."""
    evaluations: int
    """Ideals met and moves tried."""


def least_peak(problem: Problem, first: np.ndarray, budget: int = 200_000, seed: int = 0) -> Least:
    """The least peak found, with ``budget`` moves of annealing where it cannot be proven without
    (0: nothing else is tried then), from the orders ``first``, i4[k, n]; never more than the best
    of them. The problem's own limit does not count."""
    orders = np.array(first, np.int32).reshape(-1, problem.nodes)
    only = np.zeros(problem.parts.shape[1] + 1)
    only[-1] = 1.0
    free = problem.limited(np.inf)
    peaks = [peak(free, cut(free, order, only)) for order in orders]
    best = int(np.argmin(peaks))
    way = _Way(free, only, orders[best], peaks[best])
    if problem.nodes and not way.descend() and budget:
        way.walk(budget, np.random.default_rng([seed, 0x9EAC]))
        way.narrow()
    cheap = decode(free.limited(way.least), keys_of(way.order[None]))
    least = float(cheap.peaks[0])
    bound = least if way.proven else min(way.bound, least)
    return Least(least, cheap.chosen(0), way.proven, bound, way.spent)


class _Way:
    """The way down."""

    def __init__(self, problem: Problem, only: np.ndarray, order: np.ndarray, least: float) -> None:
        self.problem, self.only, self.order, self.least = problem, only, order, least
        self.descent = Descent(problem)
        self.bound = 0.0
        self.proven, self.spent = False, 0

    def descend(self) -> bool:
        """Descents until one fails by a small step, then one for the proof, which is answered."""
        step = 0.1
        while step > SMALLEST and self.bound < self.least - 1:
            if not self._below(self.least * (1 - step), STATES):
                step /= 2
        while not self.proven and self._below(self.least - 1, PROOF):
            pass
        return self.proven

    def _below(self, limit: float, states: int) -> bool:
        """Whether a descent under a limit finds a schedule, which is the best one then."""
        found = None
        if limit > self.bound:
            found, final, met = self.descent.within(limit, states)
            self.spent += met
            if found is None and final:
                self.bound = limit
        if found is not None:
            self.order = np.array([v for g in found for v in self.problem.group(g)], np.int32)
            self.least = peak(self.problem, cut(self.problem, self.order, self.only))
        self.proven = self.bound >= self.least - 1
        return found is not None

    def walk(self, budget: int, rng: np.random.Generator) -> None:
        """Annealing with ``budget`` moves, and a descent from where it ends."""
        step, block, spent, before = 0.1, max(2000, budget // 50), 0, self.least
        ceiling = max(self.problem.flat.ceiling, 1e-300)
        while spent < budget and self.least - 1 > self.bound:
            block = min(block, budget - spent)
            below = self.problem.limited(max(self.least * (1 - step), self.bound))
            walked, cost = anneal(below, self.order, block, 0.5 * ceiling, 0.01 * ceiling,
                                  int(rng.integers(1 << 63)))  # fmt: skip
            spent += block
            if cost < ceiling:
                self.order = walked
                self.least = peak(self.problem, cut(self.problem, self.order, self.only))
            else:
                step, block = max(SMALLEST, step * 0.6), int(block * 1.3)
        self.spent += spent
        self.proven = self.bound >= self.least - 1
        if self.least < before and not self.proven:
            self.descend()

    def narrow(self) -> None:
        """Halves what lies between the bound and what was found, as far as descents decide."""
        open_ = self.least
        for _ in range(0 if self.proven else HALVINGS):
            middle = (self.bound + open_) / 2
            if self._below(middle, PROOF):
                open_ = self.least
            elif self.bound < middle:
                open_ = middle
