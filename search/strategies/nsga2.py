"""NSGA-II for fronts of several objectives (Deb, Pratap, Agarwal and Meyarivan, 2002).

A genome is a priority per node, a weight per objective, the memory peak among them, and a bias per
edge. The weights say what its order is cut for, so that one generation looks in many directions;
they alone would only find points on the convex hull of what the order allows, and a bias, which
makes cutting single edges dearer or cheaper, finds those behind it. Parents are chosen
by tournaments of (rank of the non-dominated front, crowding distance); keys are crossed like those
of the genetic algorithm, weights are blended and mutated by factors. Survivors are the best fronts,
the last one by crowding. Every generation one genome per direction is also polished by annealing
for its own weights. Schedules that no other dominates are archived; ``front`` answers them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.errors import OptionError
from ..evaluate import Decoded, Genomes
from ..moves import walk
from ..problem import Point, Problem
from .base import Base, keys_of

EDGES = 2.0
"""Edges of a genome whose bias changes, on average."""
PEAK = "peak"
"""Name of the memory peak among the objectives."""


class Archive:
    """Schedules that no other dominates in the named objectives (all, and the peak where the
    problem has values, if none are named). Raises ``OptionError`` for what it does not have."""

    def __init__(self, problem: Problem, names: Sequence[str]) -> None:
        known = (*problem.objectives, *([PEAK] if problem.remembers else []))
        wrong = [name for name in names if name not in known]
        if wrong:
            raise OptionError(f"objectives: of {', '.join(known)}, not {', '.join(wrong)}")
        self._problem = problem
        self.columns = [known.index(name) for name in names or known]
        """Column of each objective among the parts, the peak behind them."""
        self._points: dict[int, Point] = {}

    def add(self, found: Decoded) -> np.ndarray:
        """Keeps what belongs here; answers the objectives f8[p, c] to be minimized, those over the
        memory limit behind all others."""
        values = np.column_stack([found.parts, found.peaks])[:, self.columns]
        limit = self._problem.limit
        for k in np.flatnonzero(found.peaks <= limit):
            self._remember(found, int(k), values[k])
        over = np.maximum(0.0, found.peaks - limit)
        late = np.where(over > 0, 1e6 * (1 + over / max(1.0, limit)), 1.0)
        fined: np.ndarray = values * late[:, None]
        return fined

    def _remember(self, found: Decoded, k: int, value: np.ndarray) -> None:
        name = int(found.prints[k])
        for point in self._points.values():
            if all(a <= b for a, b in zip(point.values, value, strict=True)):
                return
        self._points = {n: p for n, p in self._points.items()
                        if not all(b <= a for a, b in zip(p.values, value, strict=True))}
        parts = tuple(found.parts[k].tolist())
        self._points[name] = Point(tuple(value.tolist()), parts, float(found.peaks[k]),
                                   found.chosen(k))  # fmt: skip

    @property
    def front(self) -> tuple[Point, ...]:
        """The schedules, by the first objective."""
        return tuple(sorted(self._points.values(), key=lambda p: p.values))


class Nsga2(Base):
    """``size`` genomes; ``objectives`` to minimize, by name (all of the problem's, and the peak
    where it has values, if none are named); ``polish`` moves per node and generation; ``bias`` is
    the part of the genomes that begin with one."""

    whole = True
    """Not to be split: fronts of parts do not add up."""

    def __init__(self, size: int = 128, objectives: Sequence[str] = (), polish: float = 4.0,
                 bias: float = 0.5) -> None:
        self.size, self.objectives, self.polish = size, tuple(objectives), polish
        self.bias = bias

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        """See ``Strategy``. Raises ``OptionError`` for an objective the problem does not have."""
        self._problem = problem
        self._archive = Archive(problem, self.objectives)
        self._columns = self._archive.columns
        self._rng = rng = np.random.default_rng([seed, 0x4E32])
        count = min(self.size, max(1, self.left - len(first)))
        noise = rng.random((max(1, count - len(first)), problem.nodes))
        self._ask = Genomes(np.concatenate([keys_of(first), noise]))
        self._ask.weights = self._drawn(len(self._ask.keys))
        self._ask.bias = np.zeros((len(self._ask.keys), len(problem.flat.preds)))
        self._ask.bias = self._shaken(self._ask.bias, self._ask.weights)
        self._ask.bias[: len(self._columns)] = 0.0
        self._bias = self._ask.bias[:0]
        self._keys = np.empty((0, problem.nodes))
        self._weights = np.empty((0, problem.parts.shape[1] + 1))
        self._values = np.empty((0, len(self._columns)))
        self._prints = np.empty(0, np.uint64)

    def _drawn(self, count: int) -> np.ndarray:
        """Random directions: log-uniform weights over what the objectives may be at most; the
        first ones are the objectives alone."""
        top = np.append(self._problem.flat.ceilings, max(1.0, self._problem.flat.written.sum()))
        use = np.zeros(len(top))
        use[[c if c < len(top) - 1 else -1 for c in self._columns]] = 1.0
        weights = use * 10.0 ** self._rng.uniform(-2, 2, (count, len(top)))
        for k, column in enumerate(self._columns[:count]):
            weights[k] = 1e-6 * use
            weights[k, column] = 1.0
        found: np.ndarray = weights / np.maximum(top, 1e-300)
        return found

    def ask(self) -> Genomes:
        """The next generation's children."""
        self.spent = 0
        if len(self._keys):
            self._ask = self._children()
        return self._ask

    def tell(self, genomes: Genomes, found: Decoded) -> None:
        """Survival of the best fronts; infeasible genomes come behind all others."""
        values = self._archive.add(found)
        keys = np.concatenate([self._keys, found.keys])
        assert genomes.weights is not None and genomes.bias is not None
        bias = np.concatenate([self._bias, genomes.bias])
        weights = np.concatenate([self._weights, genomes.weights])
        every = np.concatenate([self._values, values])
        prints = np.concatenate([self._prints, found.prints])
        _, once = np.unique(prints, return_index=True)
        once = np.sort(once)
        rank, crowd = ranked(every[once])
        keep = once[np.lexsort((-crowd, rank))][: self.size]
        self._keys, self._weights, self._bias = keys[keep], weights[keep], bias[keep]
        self._values, self._prints = every[keep], prints[keep]

    @property
    def front(self) -> tuple[Point, ...]:
        """What no other dominates, by the first objective."""
        return self._archive.front

    def _children(self) -> Genomes:
        rng, n = self._rng, self._problem.nodes
        rank, crowd = ranked(self._values)
        pairs = rng.integers(len(rank), size=(self.size, 2, 2))
        a, b = pairs[..., 0], pairs[..., 1]
        better = (rank[a] < rank[b]) | ((rank[a] == rank[b]) & (crowd[a] >= crowd[b]))
        mother, father = np.where(better, a, b).T
        mothers, fathers = self._keys[mother], self._keys[father]
        uniform = rng.random((self.size, n)) < 0.7
        prefix = mothers < rng.random((self.size, 1))
        inherit = np.where(rng.random((self.size, 1)) < 0.5, uniform, prefix)
        keys = np.where(inherit, mothers, fathers + np.where(inherit == prefix, 1.0, 0.0))
        jump = rng.random((self.size, n)) < 1.0 / n
        keys = np.where(jump, rng.random((self.size, n)), keys)
        blend = rng.random((self.size, 1))
        weights = self._weights[mother] ** blend * self._weights[father] ** (1 - blend)
        weights = weights * np.exp(rng.normal(0, 0.3, weights.shape))
        fresh = rng.random(self.size) < 0.1
        weights[fresh] = self._drawn(self.size)[fresh]
        mixed = rng.random((self.size, self._bias.shape[1])) < 0.5
        bias = np.where(mixed, self._bias[mother], self._bias[father])
        bias[fresh] = 0.0
        bias = self._shaken(bias, weights)
        bias[: self._polish(keys, weights, mother)] = 0.0
        return Genomes(keys, bias, weights)

    def _shaken(self, bias: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Biases f8[p, m] with a few edges drawn anew in some genomes, in the size of a group's
        price at the genome's weights."""
        heat = (self._problem.parts @ weights[:, :-1].T).mean(axis=0)[:, None]
        count = max(1, bias.shape[1])
        hit = self._rng.random(bias.shape) < min(1.0, EDGES / count)
        hit &= self._rng.random((len(bias), 1)) < self.bias
        found: np.ndarray = np.where(hit, heat * self._rng.normal(0, 1, bias.shape), bias)
        return found

    def _polish(self, keys: np.ndarray, weights: np.ndarray, mother: np.ndarray) -> int:
        """The first children are their mothers, annealed for their weights; answers how many."""
        room = self.left - len(keys)
        most = min(int(self.polish * self._problem.nodes), room // (2 * len(self._columns) + 2))
        count = min(len(self._columns) + 1, len(keys)) if most > 1 else 0
        for k in range(count):
            order = np.argsort(self._keys[mother[k]], kind="stable").astype(np.int32)
            weights[k] = self._weights[mother[k]]
            heat = float((self._problem.parts @ weights[k, :-1]).mean())
            if heat <= 0:
                continue
            seed = int(self._rng.integers(1 << 63))
            walked, _, cuts = walk(self._problem, order, most - 1, 0.05 * heat, 0.002 * heat, seed,
                                   weights[k])  # fmt: skip
            keys[k] = keys_of(walked[None])[0]
            self.spent += cuts + 1
        return count


def ranked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(front i8[p], crowding distance f8[p]) of objectives f8[p, k]: front 0 is dominated by
    nobody, front 1 by front 0 only, and so on; the ends of a front have infinite distance."""
    count = len(values)
    no_worse = np.all(values[:, None] <= values[None], axis=2)
    dominates: np.ndarray = np.logical_and(
        no_worse, np.any(values[:, None] < values[None], axis=2))  # fmt: skip
    rank, crowd = np.full(count, -1), np.zeros(count)
    waits, level = dominates.sum(axis=0), 0
    while (rank < 0).any():
        front = np.flatnonzero((waits == 0) & (rank < 0))
        rank[front] = level
        waits = waits - dominates[front].sum(axis=0)
        for column in values[front].T:
            at = np.argsort(column, kind="stable")
            spread = column[at[-1]] - column[at[0]]
            crowd[front[at[[0, -1]]]] = np.inf
            if spread > 0 and len(front) > 2:
                crowd[front[at[1:-1]]] += (column[at[2:]] - column[at[:-2]]) / spread
        level += 1
    return rank, crowd
