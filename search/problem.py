"""The scheduling problem as flat arrays: a graph, and a table of groups with their costs.

Nodes are numbered in a topological order. A *candidate* is a set of nodes that may be one kernel,
with its cost under some model; every single node is a candidate. A solution is a partition of the
nodes into candidates that can be put in order; its cost is the sum. Every partition whose groups
can be ordered jointly is the intervals of some topological order, so {order} x {cuts} loses none.

Sets are recognized by Zobrist's hash (1970): a random word per node, combined by exclusive or, so
that a growing interval costs one operation per node; an open-addressing table maps the hash of a
candidate to its number. Equal hashes of different candidates are found while the table is built,
and a solution is checked node by node in the end, so a collision can cost quality, never truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

MOST_NODES = 48
"""Nodes in one candidate, at most."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Nodes ``0..n-1`` in topological order, candidates ``0..g-1``; see the module."""

    pred_ptr: np.ndarray
    """i4[n + 1]: where the predecessors of each node begin in ``preds``."""
    preds: np.ndarray
    """i4[m]: predecessors, each once."""
    succ_ptr: np.ndarray
    """i4[n + 1]"""
    succs: np.ndarray
    """i4[m]"""
    member_ptr: np.ndarray
    """i4[g + 1]: where the members of each candidate begin."""
    members: np.ndarray
    """i4: members in ascending order."""
    cost: np.ndarray
    """f8[g]: cost of each candidate; finite, not negative."""
    word: np.ndarray
    """u8[n]: Zobrist's random word of each node."""
    keys: np.ndarray
    """u8[2^k]: the hash table's keys; 0 is empty."""
    values: np.ndarray
    """i4[2^k]: candidate of the key."""
    longest: np.ndarray
    """i4[n]: members of the largest candidate that holds the node."""

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.longest)

    @property
    def candidates(self) -> int:
        """Number of candidates."""
        return len(self.cost)

    def priced(self, cost: np.ndarray) -> Problem:
        """The same groups at other costs, f8[g]. Raises ``ValueError`` for costs that are none."""
        return replace(self, cost=_checked(cost, self.candidates))

    def group(self, candidate: int) -> tuple[int, ...]:
        """Members of a candidate."""
        start, stop = self.member_ptr[candidate : candidate + 2]
        return tuple(int(v) for v in self.members[start:stop])


@dataclass(slots=True)
class Found:
    """The best solution of a search."""

    cost: float
    chosen: tuple[int, ...]
    """Candidates in execution order."""
    evaluations: int
    """Schedules scored: whole decodes and re-cut moves."""
    bound: float
    """No solution is cheaper: the proven optimum, or ``problem.floor``."""
    proven: bool = False
    """Whether ``cost`` is the proven optimum."""
    history: list[tuple[int, float, float]] = field(default_factory=list)
    """(evaluations, seconds, best cost), a line per improvement."""

    @property
    def gap(self) -> float:
        """Part by which the cost may be above the optimum, at most."""
        return self.cost / self.bound - 1.0 if self.bound > 0 else 0.0


def make_problem(
    nodes: int, edges: Iterable[tuple[int, int]], groups: Sequence[Sequence[int]],
    cost: Sequence[float] | np.ndarray, seed: int = 0,
) -> Problem:
    """The problem of ``nodes`` nodes, (before, after) ``edges`` with before < after, and candidate
    ``groups`` (ascending, distinct, all single nodes among them) with their costs. ``seed`` draws
    the hash words. Raises ``ValueError`` for what is not such a problem."""
    pairs = sorted(set(edges))
    if any(not 0 <= a < b < nodes for a, b in pairs):
        raise ValueError("an edge leads backwards or to a node that does not exist")
    costs = _checked(cost, len(groups))
    if set(range(nodes)) - {g[0] for g in groups if len(g) == 1}:
        raise ValueError("every node alone is a candidate")
    if any(len(g) > MOST_NODES for g in groups):
        raise ValueError(f"a candidate has at most {MOST_NODES} nodes")
    word = np.random.default_rng(seed).integers(1, 1 << 63, nodes, np.uint64)
    keys, values = _table(groups, word)
    longest = np.ones(nodes, np.int32)
    for g in groups:
        longest[list(g)] = np.maximum(longest[list(g)], len(g))
    after = sorted((b, a) for a, b in pairs)
    return Problem(
        _starts((b for b, _ in after), nodes), np.array([a for _, a in after], np.int32),
        _starts((a for a, _ in pairs), nodes), np.array([b for _, b in pairs], np.int32),
        np.cumsum([0, *(len(g) for g in groups)], dtype=np.int32),
        np.array([v for g in groups for v in g], np.int32),
        costs, word, keys, values, longest,
    )  # fmt: skip


def _checked(cost: Sequence[float] | np.ndarray, count: int) -> np.ndarray:
    costs = np.asarray(cost, np.float64)
    if costs.shape != (count,) or not np.isfinite(costs).all() or (costs < 0).any():
        raise ValueError("there is one finite cost, not negative, per candidate")
    return costs


def _starts(owners: Iterable[int], nodes: int) -> np.ndarray:
    counts = np.zeros(nodes + 1, np.int32)
    for owner in owners:
        counts[owner + 1] += 1
    return np.cumsum(counts, dtype=np.int32)


def _table(groups: Sequence[Sequence[int]], word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = 1 << max(4, (3 * len(groups)).bit_length())
    keys, values = np.zeros(size, np.uint64), np.zeros(size, np.int32)
    seen: dict[int, int] = {}
    for k, g in enumerate(groups):
        key = int(np.bitwise_xor.reduce(word[list(g)]))
        if key == 0 or key in seen:
            raise ValueError(f"candidates {seen.get(key)} and {k} are the same set")
        seen[key] = k
        slot = key & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], values[slot] = key, k
    return keys, values


def check_solution(problem: Problem, chosen: Sequence[int]) -> str:
    """Why the candidates ``chosen``, in this order, are no solution; "" if they are one."""
    place = np.full(problem.nodes, -1)
    for k, candidate in enumerate(chosen):
        for v in problem.group(candidate):
            if place[v] >= 0:
                return f"node {v} is in two groups"
            place[v] = k
    if (place < 0).any():
        return f"node {int(np.argmin(place))} is in no group"
    for v in range(problem.nodes):
        for p in problem.preds[problem.pred_ptr[v] : problem.pred_ptr[v + 1]]:
            if place[p] > place[v]:
                return f"node {v} runs before node {p}, which it needs"
    return ""


def floor(problem: Problem) -> float:
    """A lower bound of every solution: each candidate's cost is split evenly over its members, and
    a node pays at least its cheapest share."""
    size = np.diff(problem.member_ptr)
    share = np.repeat(problem.cost / size, size)
    least = np.full(problem.nodes, np.inf)
    np.minimum.at(least, problem.members, share)
    return float(least.sum())
