"""The proven optimum of narrow graphs in plain Python: what ``exact`` does, nothing to compile.

``narrow_beam`` keeps the best ideals of each size only: what is left of the program where a graph
is too wide for it. ``recombine`` follows all of the few that groups of known solutions lead to.
``true_front`` follows all sums of two objectives that no other dominates instead of the least one:
the exact front of small problems.

The same dynamic program over ideals as ``exact``, which explains it, with sets as long integers. A
network is narrow: most have a few ideals per node, and Python visits some ten thousand of them in
the time that a just-in-time compiler needs to start. So this is what a compilation asks first; and
as it shares no code with ``exact``, each is a test of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nsmallest
from operator import itemgetter

import numpy as np

from .problem import Found, Point, Problem, Proof
from .solutions import floor, peak, shares

_Label = tuple[float, float, int, int, int]
"""(first objective, second, the ideal before, place among its labels, candidate that led here)."""


def prove_narrow(problem: Problem, limit: int = 20_000) -> Proof | None:
    """The optimum over all partitions into candidates that can be put in order; None where the
    graph has more than ``limit`` ideals, or a memory limit (then the order matters, and ``exact``
    has to look at all ideals)."""
    return None if problem.limit < float("inf") else _walk(problem, limit, None)


def narrow_beam(problem: Problem, states: int) -> Found:
    """A good partition of a problem without a memory limit; about ``states`` ideals are followed.
    Of the ideals of one size those are kept that cost least beyond their nodes' cheapest shares
    (``solutions.shares``), which is the same as with a lower bound for the rest of the nodes."""
    width = max(2, states // max(problem.nodes, 1))
    walked = _walk(problem, problem.nodes * width + 1, width)
    assert walked is not None  # no level is wider
    return Found(walked.cost, walked.chosen, walked.ideals, floor(problem), peak=walked.peak)


def recombine(problem: Problem, solutions: Sequence[Sequence[int]], limit: int = 20_000
              ) -> tuple[int, ...] | None:
    """The cheapest solution that consists of groups of ``solutions``, each in its cheapest variant;
    None where that takes more than ``limit`` ideals. The memory limit is not looked at."""
    groups = {problem.groups[g] for solution in solutions for g in solution}
    proof = _walk(problem, limit, None, [v[0] for v in problem.variants
                                         if problem.groups[v[0]] in groups])
    return None if proof is None else proof.chosen


def _walk(problem: Problem, limit: int, width: int | None, only: Iterable[int] | None = None
          ) -> Proof | None:
    """The program over ideals, ``width`` of each size if that is given; None where more than
    ``limit`` are visited. ``only`` these candidates are looked at, if they are given."""
    n = problem.nodes
    table = _Table(problem, only)
    members, sizes = table.members, table.sizes
    costs = problem.cost.tolist()
    beyond = (problem.cost - (0.0 if width is None else _shares_of(problem))).tolist()
    best: list[dict[int, tuple[float, int, int, float]]] = [{} for _ in range(n + 1)]
    """By size and ideal: its cost, the ideal before, the candidate that led here, and its rank in a
    beam."""
    best[0][0] = (0.0, 0, -1, 0.0)
    ready: dict[int, int] = {0: table.sources}
    visited = tried = 0
    met = 1
    for size in range(n):
        if width is not None and len(best[size]) > width:
            ranked = nsmallest(width, enumerate(best[size].items()), key=_rank)
            best[size] = dict(entry for _, entry in sorted(ranked, key=itemgetter(0)))
        visited += len(best[size])
        if visited > limit or width is None and met - len(best[n]) > limit:
            return None  # without a width, all that are met will be visited
        for ideal, (cost, before, last, rank) in best[size].items():
            if last >= 0:  # only now: most that a beam meets it drops
                ready[ideal] = table.ready(ideal, ready[before], last)
            following = table.following(ideal, ready[ideal])
            tried += len(following)
            for g in following:
                total = cost + costs[g]
                after = ideal | members[g]
                level = best[size + sizes[g]]
                known = level.get(after)
                if known is None:
                    met += 1
                if known is None or total < known[0]:
                    level[after] = (total, ideal, g, rank + beyond[g])
    whole = (1 << n) - 1
    chosen = []
    at = whole
    while at:
        _, before, g, _ = best[at.bit_count()][at]
        chosen.append(g)
        at = before
    return Proof(best[n][whole][0], tuple(reversed(chosen)), visited + 1, tried)


def _rank(entry: tuple[int, tuple[int, tuple[float, int, int, float]]]) -> float:
    return entry[1][1][3]


def _shares_of(problem: Problem) -> np.ndarray:
    """f8[g]: what the members of each candidate cost at their cheapest shares."""
    f = problem.flat
    if not problem.candidates:
        return np.zeros(0)
    found: np.ndarray = np.add.reduceat(shares(problem)[f.members], f.member_ptr[:-1])
    return found


def true_front(problem: Problem, limit: int = 100_000) -> tuple[Point, ...] | None:
    """All solutions of a problem of two objectives that no other dominates, one for each pair of
    sums, by the first objective; None where there are more than ``limit`` partial ones, a memory
    limit, or another number of objectives. Labels of ideals as those of nodes in multi-criteria
    shortest paths (Martins, 1984)."""
    if problem.parts.shape[1] != 2 or problem.limited_memory:
        return None
    n = problem.nodes
    table, parts = _Table(problem), problem.parts.tolist()
    best: list[dict[int, list[_Label]]] = [{} for _ in range(n + 1)]
    best[0][0] = [(0.0, 0.0, 0, 0, -1)]
    ready: dict[int, int] = {0: table.sources}
    visited = 0
    for size in range(n):
        for ideal, labels in best[size].items():
            labels[:] = _undominated(labels)
            visited += len(labels)
            if visited > limit:
                return None
            now = ready.pop(ideal)
            for g in table.following(ideal, now):
                after, (one, two) = ideal | table.members[g], parts[g]
                level = best[size + table.sizes[g]]
                if after not in level:
                    level[after], ready[after] = [], table.ready(after, now, g)
                level[after] += [(a + one, b + two, ideal, k, g)
                                 for k, (a, b, *_) in enumerate(labels)]
    found = []
    for label in _undominated(best[n][(1 << n) - 1]):
        chosen, at = [], label
        while at[4] >= 0:
            chosen.append(at[4])
            at = best[at[2].bit_count()][at[2]][at[3]]
        solution = tuple(reversed(chosen))
        found.append(Point(label[:2], label[:2], peak(problem, solution), solution))
    return tuple(found)


def _undominated(labels: list[_Label]) -> list[_Label]:
    """The labels that no other is as good as in both objectives, the first one ascending; what
    differs by rounding alone is equal."""
    kept: list[_Label] = []
    for label in sorted(labels):
        if not kept or label[1] < kept[-1][1] * (1 - 1e-12):
            kept.append(label)
    return kept


class _Table:
    """A problem as sets of bits."""

    def __init__(self, problem: Problem, only: Iterable[int] | None = None) -> None:
        """``only``: candidates that may follow, if not all."""
        n = problem.nodes
        allowed = range(problem.candidates) if only is None else frozenset(only)
        self.whole = (1 << n) - 1
        self.needs = [sum(1 << u for u in problem.predecessors(v)) for v in range(n)]
        self.sources = sum(1 << v for v in range(n) if not self.needs[v])
        self.users: list[list[int]] = [[] for _ in range(n)]
        for before, after in problem.edges:
            self.users[before].append(after)
        self.members: list[int] = [0] * problem.candidates
        self.sizes: list[int] = [0] * problem.candidates
        self.behind: list[int] = [0] * problem.candidates
        """Nodes that use a result of each candidate."""
        self.first: list[list[tuple[int, int, int]]] = [[] for _ in range(n)]
        """(number, nodes it needs, members) of candidates by the first of their members."""
        self.holders: list[list[tuple[int, int]]] = [[] for _ in range(n)]
        """(nodes it needs, members) of candidates by each of their members."""
        used = [sum(1 << w for w in users) for users in self.users]
        for g, group in enumerate(problem.groups):
            if g not in allowed:
                continue
            mask = needs = behind = 0
            for v in group:
                mask |= 1 << v
                needs |= self.needs[v]
                behind |= used[v]
            needs &= ~mask
            self.members[g], self.sizes[g], self.behind[g] = mask, len(group), behind & ~mask
            self.first[group[0]].append((g, needs, mask))
            for v in group:
                self.holders[v].append((needs, mask))

    def following(self, ideal: int, ready: int) -> list[int]:
        """Candidates that may come next, of independent ones only the one with the first node."""
        found, missing = [], self.whole ^ ideal  # a complement has a sign, which takes time
        while ready:
            v = (ready & -ready).bit_length() - 1
            ready &= ready - 1
            for g, needs, members in self.first[v]:
                if not (needs & missing or members & ideal):
                    found.append(g)
            for needs, members in self.holders[v]:
                if needs & missing and not members & ideal:
                    break
            else:
                break  # all groups that can hold v are possible now: one of them comes first
        return found

    def ready(self, after: int, before: int, g: int) -> int:
        """The nodes that are ready behind an ideal that grew by a candidate."""
        missing = self.whole ^ after
        found, behind = before & missing, self.behind[g] & missing
        while behind:
            low = behind & -behind
            behind ^= low
            if not self.needs[low.bit_length() - 1] & missing:
                found |= low
        return found
