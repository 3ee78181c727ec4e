"""List scheduling against a heap: any number of nodes and genomes, any keys."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from evonnx.search.evaluate import decode
from evonnx.search.lists import FEW
from evonnx.search.problem import Problem, make_problem


def scheduled(problem: Problem, keys: np.ndarray) -> list[int]:
    """The order by a heap, in plain Python."""
    f = problem.flat
    waits = np.diff(f.pred_ptr).tolist()
    ready = [(keys[v], v) for v in range(problem.nodes) if not waits[v]]
    heapq.heapify(ready)
    found = []
    while ready:
        _, v = heapq.heappop(ready)
        found.append(v)
        for s in f.succs[f.succ_ptr[v] : f.succ_ptr[v + 1]].tolist():
            waits[s] -= 1
            if not waits[s]:
                heapq.heappush(ready, (keys[s], s))
    return found


def graph(nodes: int, edges: int, seed: int) -> Problem:
    ends = np.sort(np.random.default_rng(seed).integers(0, max(1, nodes), (edges, 2)), axis=1)
    return make_problem(nodes, [(a, b) for a, b in ends.tolist() if a < b],
                        [(v,) for v in range(nodes)], [1.0] * nodes)


@pytest.mark.parametrize("genomes", [0, 1, FEW, FEW + 1, 21])
@pytest.mark.parametrize(("nodes", "edges"), [
    (0, 0), (1, 0), (2, 1), (63, 40), (64, 300), (65, 0), (200, 2000), (300, 120), (4100, 9000),
])  # fmt: skip
def test_orders(nodes: int, edges: int, genomes: int) -> None:
    """With many successors, few and none, and with more nodes than a word of words has bits."""
    problem = graph(nodes, edges, nodes + edges)
    keys = np.random.default_rng(genomes).random((genomes, nodes))
    found = decode(problem, keys).orders
    assert found.tolist() == [scheduled(problem, k) for k in keys]


@pytest.mark.parametrize("kind", ["equal", "ties", "clumped", "infinite", "huge", "tiny", "signs"])
def test_keys(kind: str) -> None:
    """Keys that do not spread evenly over buckets are ranked as well."""
    problem, rng = graph(300, 500, 1), np.random.default_rng(2)
    keys = rng.random((3, 300))
    if kind == "equal":
        keys[:] = 0.5
    elif kind == "ties":
        keys = np.round(keys, 1)
    elif kind == "clumped":
        keys[:, ::50] *= 1e12
    elif kind == "infinite":
        keys[:, ::7], keys[:, ::11] = np.inf, -np.inf
    elif kind == "huge":
        keys = (keys - 0.5) * 1.7e308 * 2
    elif kind == "tiny":
        keys = keys * 5e-322
    else:
        keys = np.where(keys < 0.5, -0.0, 0.0) + rng.integers(-1, 2, (3, 300))
    assert decode(problem, keys).orders.tolist() == [scheduled(problem, k) for k in keys]


def test_keys_that_oppose_the_graph() -> None:
    """Along a chain whose keys descend every node waits for all before it: genome by genome then,
    and as ever beside one of those."""
    problem = make_problem(150, [(v, v + 1) for v in range(149)], [(v,) for v in range(150)],
                           [1.0] * 150)  # fmt: skip
    opposed = np.tile(np.linspace(1.0, 0.0, 150), (5, 1))
    assert decode(problem, opposed).orders.tolist() == [list(range(150))] * 5
    wide = graph(200, 260, 3)
    keys = np.random.default_rng(0).random((20, 200))
    keys[7] = np.linspace(1.0, 0.0, 200)
    assert decode(wide, keys).orders.tolist() == [scheduled(wide, k) for k in keys]


def test_more_nodes_than_a_pack_can_number() -> None:
    problem = graph(33_000, 40_000, 0)
    keys = np.random.default_rng(0).random((4, 33_000))
    assert decode(problem, keys).orders.tolist() == [scheduled(problem, k) for k in keys]
