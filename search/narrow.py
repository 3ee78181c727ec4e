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

from collections.abc import Iterable, Iterator, Sequence
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


_Prefix = tuple[int, int, list[int], "list[_Prefix]"]
"""The first members of some candidates, ascending: (the bit of the last of them, nodes that this
one needs beside those before it, candidates of just these members, prefixes with one member more).

Members come in topological order, so what one of them needs is in the ideal or among those before
it; where it is not, no candidate behind this prefix may come next."""


class _Signs(NamedTuple):
    """What shows, where a node is ready, that another candidate that can hold it is not."""

    missing: int
    """Nodes any of which is missing."""
    others: list[tuple[int, int]]
    """(nodes any of which is missing, nodes all of which are), for what that does not tell."""


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
        self.above = [0] * n
        """Nodes that each node needs, and what they need."""
        for before, after in problem.edges:
            self.used[before] |= 1 << after
            self.above[after] |= 1 << before
        for v in range(n):
            for u in problem.predecessors(v):
                self.above[v] |= self.above[u]
        self.groups = problem.groups
        self.members = [0] * problem.candidates
        self.every = [0] * problem.candidates
        """Nodes that each candidate needs."""
        self.behind = [-1] * problem.candidates
        """Nodes that use a result of each candidate, once that was asked for."""
        self.holders: list[list[int]] = [[] for _ in range(n)]
        """Candidates by each of their members, small ones first."""
        self.first: list[list[int]] = [[] for _ in range(n)]
        """Candidates by the first of their members."""
        self._trees: dict[int, _Prefix] = {}
        """The prefixes of one member."""
        self._signs: list[_Signs | None] = [None] * n
        """Of each node, once they were asked for."""
        numbers = range(problem.candidates) if only is None else sorted(only)
        self._plant(numbers)
        for g in numbers:
            self.first[self.groups[g][0]].append(g)
        for g in sorted(numbers, key=np.diff(problem.flat.member_ptr).tolist().__getitem__):
            for v in self.groups[g]:
                self.holders[v].append(g)

    def _plant(self, numbers: Iterable[int]) -> None:
        """Grows the trees of prefixes of these candidates."""
        path: list[tuple[int, int, _Prefix]] = []
        """(members, nodes they need, prefix) of the prefixes of one candidate."""
        before: tuple[int, ...] = ()
        for g in sorted(numbers, key=self.groups.__getitem__):
            group, shared = self.groups[g], 0
            for u, v in zip(before, group, strict=False):
                if u != v:
                    break
                shared += 1
            del path[shared:]
            members, every, prefix = path[-1] if path else (0, 0, None)
            for v in group[shared:]:
                needs = self.needs[v] & ~members
                longer: _Prefix = (1 << v, needs, [], [])
                if prefix is None:
                    self._trees[v] = longer
                else:
                    prefix[3].append(longer)
                members, every, prefix = members | 1 << v, every | needs, longer
                path.append((members, every, prefix))
            path[-1][2][2].append(g)
            self.members[g], self.every[g], before = members, every, group

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
                for g in first:
                    if not (self.every[g] & missing or self.members[g] & ideal):
                        found.append(g)
            signs = self._signs[v] or self._find_signs(v)
            if signs.missing & missing:
                continue
            for needs, members in signs.others:
                if needs & missing and not members & ideal:
                    break
            else:
                break  # all groups that can hold v are possible now: one of them comes first
        return found

    def _find_signs(self, v: int) -> _Signs:
        """What shows, while ``v`` is ready, that a candidate with it may come but not yet: none of
        its members is done, and some node that it needs is missing. Where all its members are
        behind ``v`` none of them can be done, so that the node is missing says it all; and whatever
        comes before such a node is missing only if it is, and shows nothing else. So small
        candidates leave little for large ones to show: a few sets, of hundreds of candidates."""
        single, told = 0, self.above[v]  # what comes before ``v`` is not missing
        others: list[tuple[int, int]] = []
        for g in self.holders[v]:
            members = self.members[g]
            if members & told:
                continue
            tells = self.every[g] & ~told
            if not tells:
                continue
            if all(self.needs[u] & members for u in self.groups[g] if u != v):
                single |= tells
                told |= tells
                for u in _bits(tells):
                    told |= self.above[u]
            else:
                others.append((tells, members))
        found = self._signs[v] = _Signs(single, [
            (needs & ~told, members) for needs, members in others
            if needs & ~told and not members & told])  # fmt: skip
        return found

    def _many(self, v: int, missing: int) -> list[int]:
        """Candidates that may come next and begin with ``v``, which is ready: what no prefix of one
        rules out."""
        found: list[int] = []
        branches = [[self._trees[v]]]
        for branch in branches:
            for last, needs, numbers, longer in branch:
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


def _bits(nodes: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while nodes:
        yield (nodes & -nodes).bit_length() - 1
        nodes &= nodes - 1
