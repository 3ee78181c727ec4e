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
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from .problem import Found, Point, Problem, Proof
from .solutions import floor, peak, shares

FEW = 16
"""Candidates with one first member up to which they are looked at one by one; more of them as a
tree of their members."""

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
    cost = problem.cost.tolist()
    best = {problem.groups[g]: g for solution in solutions for g in solution}
    for g, group in enumerate(problem.groups):
        if group in best:
            best[group] = min(best[group], g, key=lambda k: (cost[k], k))
    proof = _walk(problem, limit, None, _Table(problem, best.values()))
    return None if proof is None else proof.chosen


def _walk(problem: Problem, limit: int, width: int | None, table: _Table | None = None
          ) -> Proof | None:
    """The program over ideals, ``width`` of each size if that is given; None where more than
    ``limit`` are visited. The candidates of ``table`` are looked at, if that is given."""
    n = problem.nodes
    table = _table_of(problem) if table is None else table
    members, sizes = table.members, np.diff(problem.flat.member_ptr).tolist()
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
    table, parts = _table_of(problem), problem.parts.tolist()
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
                level = best[size + len(table.groups[g])]
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


class _Prefix(NamedTuple):
    """The first members of some candidates, ascending: those with one member more are its branches.

    Members come in topological order, so what one of them needs is in the ideal or among those
    before it; where it is not, no candidate behind this prefix may come next."""

    last: int
    """The bit of its last member."""
    needs: int
    """Nodes that this one needs, beside those before it."""
    numbers: list[int]
    """Candidates of just these members."""
    longer: list[_Prefix]
    members: int
    every: int
    """Nodes that any of the members needs, beside the members."""


class _Table:
    """A problem as sets of bits."""

    def __init__(self, problem: Problem, only: Iterable[int] | None = None) -> None:
        """``only``: candidates that may follow, if not all."""
        n = problem.nodes
        self.whole = (1 << n) - 1
        self.needs = [sum(1 << u for u in problem.predecessors(v)) for v in range(n)]
        self.sources = sum(1 << v for v in range(n) if not self.needs[v])
        self.used = [0] * n
        """Nodes that use a result of each node."""
        for before, after in problem.edges:
            self.used[before] |= 1 << after
        self.groups = problem.groups
        self.members = [0] * problem.candidates
        self.behind = [-1] * problem.candidates
        """Nodes that use a result of each candidate, once that was asked for."""
        self.holders: list[list[tuple[int, int]]] = [[] for _ in range(n)]
        """(nodes it needs, members) of candidates by each of their members."""
        self._prefixes: dict[tuple[int, ...], _Prefix] = {}
        self._single = [self._prefix((v,)) for v in range(n)]
        self.first: list[list[tuple[int, int, int]]] = [[] for _ in range(n)]
        """(number, nodes it needs, members) of candidates by the first of their members."""
        for g in range(problem.candidates) if only is None else sorted(only):
            found = self._prefix(self.groups[g])
            found.numbers.append(g)
            self.members[g] = found.members
            pair = found.every, found.members
            for v in self.groups[g]:
                self.holders[v].append(pair)
            self.first[self.groups[g][0]].append((g, *pair))

    def _prefix(self, members: tuple[int, ...]) -> _Prefix:
        """The tree grown to the prefix of these members."""
        found = self._prefixes.get(members)
        if found is None:
            v = members[-1]
            before = self._prefix(members[:-1]) if len(members) > 1 else None
            inside, needed = (before.members, before.every) if before is not None else (0, 0)
            needs = self.needs[v] & ~inside
            found = self._prefixes[members] = _Prefix(1 << v, needs, [], [], inside | 1 << v,
                                                      needed | needs)
            if before is not None:
                before.longer.append(found)
        return found

    def following(self, ideal: int, ready: int) -> list[int]:
        """Candidates that may come next, of independent ones only the one with the first node."""
        found: list[int] = []
        missing = self.whole ^ ideal  # a complement has a sign, which takes time
        while ready:
            v = (ready & -ready).bit_length() - 1
            ready &= ready - 1
            first = self.first[v]
            if len(first) > FEW:
                found += self._many(v, missing)
            else:
                for g, needs, members in first:
                    if not (needs & missing or members & ideal):
                        found.append(g)
            holders = self.holders[v]
            for k, (needs, members) in enumerate(holders):
                if needs & missing and not members & ideal:
                    if k > FEW:  # the next ideal is much like this one, so ask it first
                        holders.insert(0, holders.pop(k))
                    break
            else:
                break  # all groups that can hold v are possible now: one of them comes first
        return found

    def _many(self, v: int, missing: int) -> list[int]:
        """Candidates that may come next and begin with ``v``, which is ready: what no prefix of one
        rules out."""
        found: list[int] = []
        branches = [[self._single[v]]]
        for branch in branches:
            for last, needs, numbers, longer, _, _ in branch:
                if last & missing and not needs & missing:
                    found += numbers
                    if longer:
                        branches.append(longer)
        found.sort()
        return found

    def ready(self, after: int, before: int, g: int) -> int:
        """The nodes that are ready behind an ideal that grew by a candidate."""
        missing, behind = self.whole ^ after, self.behind[g]
        if behind < 0:
            behind = 0
            for v in self.groups[g]:
                behind |= self.used[v]
            self.behind[g] = behind
        found, behind = before & missing, behind & missing
        while behind:
            low = behind & -behind
            behind ^= low
            if not self.needs[low.bit_length() - 1] & missing:
                found |= low
        return found


_TABLES: WeakKeyDictionary[Problem, _Table] = WeakKeyDictionary()


def _table_of(problem: Problem) -> _Table:
    """The table of all candidates, made once for the proof and the beam that follows it."""
    found = _TABLES.get(problem)
    if found is None:
        found = _TABLES[problem] = _Table(problem)
    return found
