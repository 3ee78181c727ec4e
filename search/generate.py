"""Generated scheduling problems: wirings of made-up and of published networks, and their costs.

For studies and tests. ``generated`` prices a wiring: the candidates are all connected convex sets
up to a size, and a group costs the larger of its work and its traffic plus a launch, so the optimum
is not the largest group. ``order_only`` asks for the order of least memory instead. ``FAMILIES``
are wirings of any number of nodes: ``network`` is easy (the given order is nearly best), ``towers``
is not; ``randwire``, ``inception`` and ``nasnet`` are wired as the papers have them.

    problem = generated(300, seed=1, edges=FAMILIES["randwire"](300, 1))
    memory = order_only(nasnet(6))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import networkx as nx
import numpy as np

from .problem import Problem, make_problem

Edges = list[tuple[int, int]]


class Wiring(NamedTuple):
    """Nodes 0, 1, ... in definition order."""

    edges: Edges
    """(before, after), sorted."""
    sizes: list[float]
    """Relative size of the value that each node makes."""

    def first(self, nodes: int) -> Edges:
        """The edges among the first nodes. Raises ``ValueError`` where there are fewer."""
        if nodes > len(self.sizes):
            raise ValueError(f"a wiring of {len(self.sizes)} nodes has no {nodes}")
        return [(a, b) for a, b in self.edges if b < nodes]


def network(nodes: int, seed: int) -> Edges:
    """Edges of a chain of blocks; some have a second branch, some a skip connection."""
    rng = np.random.default_rng(seed)
    edges: set[tuple[int, int]] = set()
    tail, v = 0, 1
    while v < nodes:
        size = int(rng.integers(2, 7))
        block = list(range(v, min(nodes, v + size)))
        split = len(block) // 2 if rng.random() < 0.4 and len(block) > 3 else len(block)
        for branch in (block[:split], block[split:-1]):
            before = tail
            for u in branch:
                edges.add((before, u))
                before = u
            if branch and before != block[-1]:
                edges.add((before, block[-1]))
        if rng.random() < 0.5 and tail != block[-1]:
            edges.add((tail, block[-1]))
        tail, v = block[-1], block[-1] + 1
    return sorted(edges)


def towers(nodes: int, seed: int, most: int = 4) -> Edges:
    """Edges of a chain of modules, each of up to ``most`` parallel chains of 2 to 8 nodes with
    skips inside, joined by one node."""
    rng = np.random.default_rng([seed, 3])
    edges: set[tuple[int, int]] = set()
    tail, v = 0, 1
    while v < nodes:
        ends = []
        for _ in range(int(rng.integers(1, most + 1))):
            chain = [tail]
            for _ in range(min(int(rng.integers(2, 9)), nodes - v)):
                edges.add((chain[-1], v))
                if len(chain) > 1 and rng.random() < 0.25:
                    edges.add((chain[-int(rng.integers(1, min(4, len(chain)) + 1))], v))
                chain.append(v)
                v += 1
            if len(chain) > 1:
                ends.append(chain[-1])
        if v < nodes:
            edges |= {(u, v) for u in ends}
            tail, v = v, v + 1
    return sorted(edges)


def randwire(stages: int, seed: int, nodes: int = 32, near: int = 4, rewired: float = 0.75
             ) -> Wiring:
    """Stages of RandWire (Xie et al., 2019), one behind the other: the nodes of each are a random
    graph WS(nodes, near, rewired) of Watts and Strogatz with edges from small to large numbers.
    What has no predecessor in its stage reads the end of the stage before, and one node averages
    what nobody reads. A single stage is the random graph alone. All values have one size."""
    edges: set[tuple[int, int]] = set()
    begin, tail = 0, -1
    for stage in range(stages):
        graph = nx.connected_watts_strogatz_graph(nodes, near, rewired, seed=seed * stages + stage)
        inner = {(min(a, b), max(a, b)) for a, b in graph.edges}
        edges |= {(begin + a, begin + b) for a, b in inner}
        if tail >= 0:
            edges |= {(tail, begin + v) for v in set(range(nodes)) - {b for _, b in inner}}
        tail = begin + nodes
        if stages > 1:
            edges |= {(begin + v, tail) for v in set(range(nodes)) - {a for a, _ in inner}}
        begin = tail + 1
    return Wiring(sorted(edges), [1.0] * (begin if stages > 1 else nodes))


def inception(modules: int) -> Wiring:
    """Modules of Inception-v3's first kind (Szegedy et al., 2016): branches 1x1; 1x1, 5x5; 1x1,
    3x3, 3x3; pool, 1x1; and their concatenation. Sizes are channels."""
    edges, sizes, tail = [], [192.0], 0
    for _ in range(modules):
        ends = []
        for branch in ((64,), (48, 64), (64, 96, 96), (sizes[tail], 64)):
            before = tail
            for channels in branch:
                sizes.append(float(channels))
                edges.append((before, len(sizes) - 1))
                before = len(sizes) - 1
            ends.append(before)
        sizes.append(float(sum(sizes[e] for e in ends)))
        tail = len(sizes) - 1
        edges += [(e, tail) for e in ends]
    return Wiring(sorted(edges), sizes)


def nasnet(cells: int) -> Wiring:
    """Cells of NASNet-A (Zoph et al., 2018): five sums of two operations on the last two cells'
    outputs or on earlier sums, concatenated; a separable convolution is two nodes. Definition
    order: all operations of a block, block after block; every value has one size, a concatenation
    five."""
    edges, sizes, last = [(0, 1)], [1.0, 1.0], [0, 1]

    def node(inputs: list[int], size: float = 1.0) -> int:
        sizes.append(size)
        edges.extend((i, len(sizes) - 1) for i in sorted({*inputs}))
        return len(sizes) - 1

    def separable(v: int) -> int:
        return node([node([v])])

    for _ in range(cells):
        h, old = node([last[1]]), node([last[0]])
        left = [separable(h), separable(old), node([h]), node([old]), separable(h)]
        right = [h, separable(h), old, node([old]), separable(old)]
        sums = [node([a, b]) for a, b in zip(left, right, strict=True)]
        last = [last[1], node(sums, 5.0)]
    return Wiring(sorted(set(edges)), sizes)


FAMILIES: dict[str, Callable[[int, int], Edges]] = {
    "network": network,
    "towers": towers,
    "randwire": lambda nodes, seed: randwire(nodes // 33 + 2, seed).first(nodes),
    "inception": lambda nodes, seed: inception(nodes // 9 + 1).first(nodes),
    "nasnet": lambda nodes, seed: nasnet(nodes // 21 + 1).first(nodes),
}
"""Families of wirings: (nodes, seed) -> edges. The last two have one wiring; seeds price it."""


def order_only(wiring: Wiring, nbytes: float = 1.0) -> Problem:
    """The problem of the order of least memory: every node is a group, values take ``nbytes`` for
    each unit of their size, those without consumers are kept."""
    nodes = len(wiring.sizes)
    users: list[list[int]] = [[] for _ in range(nodes)]
    for a, b in wiring.edges:
        users[a].append(b)
    values = [(v, wiring.sizes[v] * nbytes, users[v], not users[v]) for v in range(nodes)]
    return make_problem(nodes, wiring.edges, [(v,) for v in range(nodes)], [1.0] * nodes,
                        values=values)  # fmt: skip


def generated(nodes: int, seed: int, most: int = 6, edges: Edges | None = None) -> Problem:
    """Convex connected candidates of at most ``most`` nodes of ``network`` or of other ``edges``; a
    group costs the larger of its work and its traffic, plus a launch."""
    edges = network(nodes, seed) if edges is None else edges
    rng = np.random.default_rng([seed, 1])
    work, size = rng.lognormal(0, 1, nodes), rng.lognormal(0, 1, nodes)
    preds: list[set[int]] = [set() for _ in range(nodes)]
    succs: list[set[int]] = [set() for _ in range(nodes)]
    for a, b in edges:
        preds[b].add(a)
        succs[a].add(b)

    def cost(group: tuple[int, ...]) -> float:
        inside = set(group)
        ins = {u for v in group for u in preds[v]} - inside
        outs = [v for v in group if not succs[v] <= inside or not succs[v]]
        moved = sum(size[u] for u in ins) + sum(size[v] for v in outs)
        return float(max(sum(work[v] for v in group), moved) + 0.5)

    groups = sorted(convex(nodes, preds, succs, most))
    return make_problem(nodes, edges, groups, [cost(g) for g in groups], seed)


def two_objectives(nodes: int, seed: int, most: int = 4, edges: Edges | None = None) -> Problem:
    """A generated problem of two objectives, whole numbers: D is what a group reads and writes, C
    the work of its nodes and some that is done again, the more the larger the group: so bytes are
    bought with operations. The cost is their sum."""
    plain = generated(nodes, seed, most, edges)
    rng = np.random.default_rng([seed, 9])
    work, size = rng.integers(1, 50, (2, nodes)).tolist()
    preds = [set(plain.predecessors(v)) for v in range(nodes)]
    succs: list[set[int]] = [set() for _ in range(nodes)]
    for a, b in plain.edges:
        succs[a].add(b)
    groups, parts = [plain.group(g) for g in range(plain.candidates)], []
    for group in groups:
        inside = set(group)
        read = {u for v in group for u in preds[v]} - inside
        written = [v for v in group if not succs[v] or not succs[v] <= inside]
        again = (len(group) - 1) * int(rng.integers(9))
        parts.append((sum(work[v] for v in group) + again,
                      sum(size[u] for u in read) + sum(size[v] for v in written)))
    both = np.array(parts, np.float64)
    return make_problem(nodes, plain.edges, groups, both.sum(axis=1), seed, parts=both,
                        objectives=("C", "D"))


def remembering(nodes: int, seed: int, most: int = 4, limit: float = np.inf) -> Problem:
    """A generated problem with variants, three random objectives (C, D, time), and values of all
    kinds: with one reader, with many, kept, two of one node."""
    plain = generated(nodes, seed, most)
    rng = np.random.default_rng([seed, 7])
    groups = [plain.group(g) for g in range(plain.candidates)]
    groups += [groups[g] for g in rng.integers(len(groups), size=len(groups) // 3)]
    users: list[list[int]] = [[] for _ in range(nodes)]
    for a, b in plain.edges:
        users[a].append(b)
    values = [(v, float(rng.integers(1, 50)), users[v], bool(rng.random() < 0.1))
              for v in range(nodes)]
    values += [(v, 3.0, users[v][:1], False) for v in range(0, nodes, 4)]
    parts = rng.random((len(groups), 3))
    return make_problem(nodes, plain.edges, groups, parts @ [1.0, 0.5, 0.2], seed, parts=parts,
                        objectives=("C", "D", "time"), values=values, limit=limit)


def convex(nodes: int, preds: list[set[int]], succs: list[set[int]], most: int
           ) -> Iterator[tuple[int, ...]]:
    """All connected convex sets of at most ``most`` nodes: no path leaves one and comes back."""
    above, below = [0] * nodes, [0] * nodes  # sets as bits
    for v in range(nodes):
        for u in preds[v]:
            above[v] |= above[u] | 1 << u
    for v in reversed(range(nodes)):
        for w in succs[v]:
            below[v] |= below[w] | 1 << w
    near = [sum(1 << w for w in preds[v] | succs[v]) for v in range(nodes)]
    level = {1 << v: (above[v], below[v], near[v]) for v in range(nodes)}
    for size in range(1, most + 1):
        yield from map(_members, level)
        grown: dict[int, tuple[int, int, int]] = {}
        for group, (over, under, around) in level.items() if size < most else ():
            for w in _members(around & ~group):
                more = group | 1 << w
                if more not in grown:
                    grown[more] = over | above[w], under | below[w], around | near[w]
        level = {g: bits for g, bits in grown.items() if not bits[0] & bits[1] & ~g}


def _members(bits: int) -> tuple[int, ...]:
    found = []
    while bits:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return tuple(found)
