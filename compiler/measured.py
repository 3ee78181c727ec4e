"""What groups of a graph take: as measured, and of what was not measured as corrected.

Groups are timed where they run, in schedules that share most of them. Of each group of a schedule
it is known which *candidate* of the search it is, of which *structure*, and in which variant. From
that come prices for all candidates:

* Of each structure the fastest variant counts, by its time in that of the variant that most of the
  structure's groups were measured in, at the places that were measured in both; it has to be faster
  by ``FASTER``, since of many variants the luckiest looks best.
* A candidate that was measured costs the median of what it took there. One whose structure was
  measured elsewhere costs what it took on average.
* What was not measured costs what the cost model says times how wrong the model was nearby: the
  nodes of a candidate were measured in other groups, and measured over predicted seconds of these
  are averaged by the nodes' own predicted times.

So a search over these prices asks for candidates that the model prefers *here*; ``hope`` makes them
a little cheaper still, so that they are tried (optimism in the face of uncertainty; Lai and
Robbins, 1985), and without hope they cannot be had at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from ..ir.schedule import Schedule
from ..ir.variants import Variant
from ..search.space import Space, Survey

FASTER = 0.985
"""Part of the time of a structure that another variant may take to replace it."""
_WRONG = 3.0
"""A model is taken to be wrong by this factor at most."""


class Measured:
    """Times of groups of one graph, and the prices that follow from them."""

    def __init__(self, survey: Survey, space: Space) -> None:
        self._survey, self._space = survey, space
        self._predicted = space.problem.cost
        plain = len(survey.number)
        kinds: dict[int, int] = {}
        self.structures: list[int] = []
        """Number of each candidate's structure; other variants of one are the same structure."""
        self._plain: list[int] = []
        """Of each candidate the one without settings."""
        for k, (units, c) in enumerate(survey.offered):
            own = k if k < plain else survey.number[units]
            self._plain.append(own)
            self.structures.append(kinds.setdefault(id(c.cost), len(kinds)) if own == k
                                   else self.structures[own])
        self._asked = {(self._plain[k], c.cost.variant): k
                       for k, (_, c) in enumerate(survey.offered)}
        self.times: dict[int, dict[Variant, dict[int, list[float]]]] = {}
        """Seconds by structure, variant and candidate: one per block."""

    def record(self, schedule: Schedule, places: Sequence[int | None], spent: Sequence[float]
               ) -> None:
        """Adds what the groups of a schedule, which are the candidates ``places``, took in one
        block."""
        for group, k, seconds in zip(schedule.groups, places, spent, strict=True):
            if k is None:
                continue
            variants = self.times.setdefault(self.structures[k], {})
            variants.setdefault(group.variant, {}).setdefault(k, []).append(float(seconds))

    def typical(self, structure: int) -> dict[Variant, dict[int, float]]:
        """The median seconds of a structure's groups, by variant and candidate."""
        return {v: {k: median(t) for k, t in by.items()}
                for v, by in self.times[structure].items()}

    def ratios(self, structure: int) -> dict[Variant, float]:
        """Times of the variants of a structure in that of the one measured in most places."""
        typical = self.typical(structure)
        usual = typical[self.usual(structure)]
        found = {}
        for v, by in typical.items():
            both = by.keys() & usual.keys()
            found[v] = (sum(by[k] for k in both) / max(sum(usual[k] for k in both), 1e-12) if both
                        else _mean(by) / max(_mean(usual), 1e-12))
        return found

    def usual(self, structure: int) -> Variant:
        """The variant of a structure that was measured in most places, of equal ones the first."""
        times = self.times[structure]
        return max(times, key=lambda v: len(times[v]))

    def best(self, structure: int) -> Variant:
        """The fastest variant of a structure that was measured, or its usual one."""
        ratios = self.ratios(structure)
        first = min(ratios, key=ratios.__getitem__)
        return first if ratios[first] < FASTER else self.usual(structure)

    def prices(self, hope: float | None = None, doubt: np.ndarray | None = None) -> np.ndarray:
        """f64[candidates]: seconds of each. What was not measured costs ``hope`` times what is
        expected of it (None: more than any schedule), and that times its structure's ``doubt``."""
        costs = np.full(len(self._predicted), np.inf)
        factors = np.ones(len(costs)) if doubt is None else doubt[self.structures]
        expected = self._expected()
        if hope is not None:
            costs = expected * hope * factors
        known = {s: (self.typical(s), self.ratios(s), self.usual(s), self.best(s))
                 for s in self.times}
        for k, s in enumerate(self.structures):
            if s not in known:
                continue
            typical, ratios, usual, best = known[s]
            own = self._plain[k]
            if own == k:
                here = typical[best].get(k)
                if here is None:
                    here = ratios[best] * typical[usual].get(k, _mean(typical[usual]))
                costs[k] = here
            elif self._survey.offered[k][1].cost.variant in typical:
                costs[k] = np.inf  # the one without settings stands for the best of all variants
            elif hope is not None:
                step = self._predicted[k] / max(self._predicted[own], 1e-12)
                costs[k] = _mean(typical[usual]) * step * hope * factors[k]
        dear = 1.0 + 10.0 * float(costs[np.isfinite(costs)].sum())
        return np.where(np.isfinite(costs), costs, dear)

    def _expected(self) -> np.ndarray:
        """f64[candidates]: predicted seconds, corrected by how wrong predictions were nearby."""
        units = self._space.problem.nodes
        wrong: list[list[float]] = [[] for _ in range(units)]
        members = self._survey.members
        for s in self.times:
            for v, by in self.typical(s).items():
                for k, seconds in by.items():
                    at = self._asked.get((k, v))
                    if at is None or self._predicted[at] <= 0.0 or seconds <= 0.0:
                        continue
                    for u in members[k]:
                        wrong[u].append(seconds / self._predicted[at])
        every = [r for found in wrong for r in found]
        overall = median(every) if every else 1.0
        low, high = overall / _WRONG, overall * _WRONG
        factor = np.array([min(max(median(r), low), high) if r else overall for r in wrong])
        number = self._survey.number
        alone = np.array([self._predicted[number[u,]] if (u,) in number else 0.0
                          for u in range(units)]) + 1e-12
        return np.array([
            cost * float(np.average(factor[list(m)], weights=alone[list(m)]))
            for cost, m in zip(self._predicted, members)])

    def places(self, schedule: Schedule) -> tuple[int | None, ...]:
        """The candidate without settings that each group of a schedule is; None for what is none,
        since a copy that nobody reads was dropped from it."""
        units = self._survey.table.assigned(schedule)
        if len(units) != len(schedule.groups):
            return (None,) * len(schedule.groups)
        return tuple(map(self._survey.number.get, units))

    def schedule(self, chosen: Sequence[int]) -> Schedule:
        """A solution as a schedule, each group in the variant that its price is for."""
        found = self._space.schedule(self._survey.graph, chosen)
        groups = list(found.groups)
        for n, k in enumerate(self.places(found)):
            if k is not None and self.structures[k] in self.times and not groups[n].variant:
                groups[n] = replace(groups[n], variant=self.best(self.structures[k]))
        return replace(found, groups=tuple(groups))


def _mean(times: dict[int, float]) -> float:
    return sum(times.values()) / len(times)
