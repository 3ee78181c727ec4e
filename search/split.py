"""Splits a problem into parts that can be solved one by one.

Nodes that some candidate holds together belong together, and so do sets of nodes that need each
other (the strongly connected components of what is left: Tarjan, 1972). What remains is an acyclic
graph of parts that no group crosses: the groups of a part may run right after those of the parts it
needs, so the cost of a solution is the sum over the parts, each solved on its own. Equal parts,
such as the layers of a transformer, have equal keys and are solved once.

Under a memory limit this does not hold: parts may have to take turns, so the problem stays whole.
It would hold at a waist, where all nodes of one part run before all of the other whatever the order
(every last node of the one leads to every first node of the other): what is live there is the same
in all orders, so the parts do not compete. But the later part begins with values that it did not
make, which a problem does not know; such problems are not split either.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np

from .problem import Problem, make_problem


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a problem, or all of it."""

    whole: Problem
    nodes: tuple[int, ...]
    """Nodes, ascending; node k of ``problem`` is ``nodes[k]``."""
    candidates: tuple[int, ...]
    """Candidates, ascending; candidate k of ``problem`` is ``candidates[k]``."""

    @cached_property
    def _local(self) -> tuple[list[tuple[int, int]], list[tuple[int, ...]]]:
        place = {v: k for k, v in enumerate(self.nodes)}
        edges = [(place[u], k) for k, v in enumerate(self.nodes)
                 for u in self.whole.predecessors(v) if u in place]  # fmt: skip
        return edges, [tuple(place[v] for v in self.whole.group(g)) for g in self.candidates]

    @cached_property
    def key(self) -> bytes:
        """Equal for parts with equal edges, candidates, costs and objectives."""
        chosen = list(self.candidates)
        return b"%d %s %s %s" % (len(self.nodes), repr(self._local).encode(),
                                 self.whole.cost[chosen].tobytes(),
                                 self.whole.parts[chosen].tobytes())  # fmt: skip

    @cached_property
    def problem(self) -> Problem:
        """The part as a problem of its own, without values."""
        if len(self.nodes) == self.whole.nodes:
            return self.whole
        chosen = list(self.candidates)
        edges, groups = self._local
        return make_problem(len(self.nodes), edges, groups, self.whole.cost[chosen],
                            self.whole.seed, parts=self.whole.parts[chosen],
                            objectives=self.whole.objectives)  # fmt: skip


def split(problem: Problem) -> list[Part]:
    """The parts of a problem in an order in which they can run."""
    n = problem.nodes
    if not n or problem.limited_memory:
        return [Part(problem, tuple(range(n)), tuple(range(problem.candidates)))]
    graph = nx.DiGraph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from(problem.edges)
    for members in {problem.group(g) for g in range(problem.candidates)}:
        for a, b in itertools.pairwise(members):
            graph.add_edge(a, b)
            graph.add_edge(b, a)
    owner = np.empty(n, np.int64)
    parts = [sorted(c) for c in nx.strongly_connected_components(graph)]
    for k, nodes in enumerate(parts):
        owner[nodes] = k
    if len(parts) == 1:
        return [Part(problem, tuple(range(n)), tuple(range(problem.candidates)))]
    held: list[list[int]] = [[] for _ in parts]
    for g in range(problem.candidates):
        held[owner[problem.flat.members[problem.flat.member_ptr[g]]]].append(g)
    return [Part(problem, tuple(parts[k]), tuple(held[k]))
            for k in _ordered(problem, parts, owner)]  # fmt: skip


def _ordered(problem: Problem, parts: list[list[int]], owner: np.ndarray) -> Iterator[int]:
    """The parts in order; of those that are ready the one with the smallest node first."""
    follow: list[set[int]] = [set() for _ in parts]
    for a, b in problem.edges:
        if owner[a] != owner[b]:
            follow[owner[a]].add(int(owner[b]))
    waits = [0] * len(parts)
    for later in follow:
        for k in later:
            waits[k] += 1
    ready = [(nodes[0], k) for k, nodes in enumerate(parts) if not waits[k]]
    heapq.heapify(ready)
    while ready:
        _, k = heapq.heappop(ready)
        yield k
        for later_part in follow[k]:
            waits[later_part] -= 1
            if not waits[later_part]:
                heapq.heappush(ready, (parts[later_part][0], later_part))
