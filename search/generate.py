"""Generated scheduling problems: chains of blocks with skips and branches, as networks have them.

For studies and tests: the candidates are all connected convex sets up to a size, and a group costs
the larger of its work and its traffic plus a launch, so the optimum is not the largest group.
``network`` is easy (the given order is nearly best), ``towers`` is not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .problem import Problem, make_problem


def network(nodes: int, seed: int) -> list[tuple[int, int]]:
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


def towers(nodes: int, seed: int, most: int = 4) -> list[tuple[int, int]]:
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


def generated(nodes: int, seed: int, most: int = 6,
              edges: list[tuple[int, int]] | None = None) -> Problem:
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
    """All connected convex sets of at most ``most`` nodes."""
    above: list[set[int]] = []
    for v in range(nodes):
        above.append(set().union(*(above[u] | {u} for u in preds[v])))
    below: list[set[int]] = [set() for _ in range(nodes)]
    for v in reversed(range(nodes)):
        below[v] = set().union(*(below[w] | {w} for w in succs[v]))
    level: set[tuple[int, ...]] = {(v,) for v in range(nodes)}
    while level:
        yield from level
        grown = {tuple(sorted({*g, w})) for g in level for v in g for w in preds[v] | succs[v]
                 if w not in g and len(g) < most}  # fmt: skip
        level = {g for g in grown
                 if not (set().union(*(above[v] for v in g)) & set().union(*(below[v] for v in g)))
                 - set(g)}  # fmt: skip
