"""The scheduling problem in arrays: table, decoder, moves, proofs and strategies agree."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evonnx.search.evaluate import WALKS, Genomes, cut, decode
from evonnx.search.exact import exhaustive, prove
from evonnx.search.generate import (
    FAMILIES,
    generated,
    inception,
    nasnet,
    order_only,
    randwire,
    remembering,
    towers,
)
from evonnx.search.moves import _movable, anneal, walk
from evonnx.search.problem import Found, Problem, make_problem
from evonnx.search.run import search
from evonnx.search.solutions import check_solution, floor
from evonnx.search.strategies import STRATEGIES
from evonnx.search.strategies.base import keys_of

DIAMOND = [(0, 1), (0, 2), (1, 3), (2, 3)]


def diamond(extra: dict[tuple[int, ...], float]) -> Problem:
    groups = {(v,): 1.0 for v in range(4)} | extra
    return make_problem(4, DIAMOND, list(groups), list(groups.values()))


def best_cut(problem: Problem, order: np.ndarray) -> float:
    """The best cuts of an order, by trying all of them."""
    table = {problem.group(g): float(problem.cost[g]) for g in range(problem.candidates)}
    n, least = problem.nodes, np.inf
    for bits in itertools.product((0, 1), repeat=n - 1):
        ends = [k + 1 for k in range(n - 1) if bits[k]] + [n]
        parts = [tuple(sorted(order[a:b].tolist()))
                 for a, b in zip([0, *ends[:-1]], ends, strict=True)]  # fmt: skip
        if all(p in table for p in parts):
            least = min(least, sum(table[p] for p in parts))
    return least


def test_lookups_of_many_candidates() -> None:
    """Levels of several words, and more nodes than a word has bits: the groups by cut genes, and
    the price of exact cuts, are those of a dictionary of sets."""
    p = generated(140, 4, most=5, edges=FAMILIES["randwire"](140, 4))
    assert len(p.flat.masks) > len(p.flat.levels) > 500
    table: dict[frozenset[int], float] = {}
    for g in range(p.candidates):
        table[frozenset(p.group(g))] = float(p.cost[g])
    rng = np.random.default_rng(0)
    keys, cuts = rng.random((4, 140)), (rng.random((4, 140)) < 0.2).astype(np.uint8)
    given, exact = decode(p, Genomes(keys, cuts=cuts)), decode(p, keys)
    for k, order in enumerate(given.orders.tolist()):
        found, i = [], 140
        while i:
            room = next((b for b in range(1, 5) if i == b or cuts[k, order[i - 1 - b]]), 5)
            size = next(b for b in range(room, 0, -1) if frozenset(order[i - b : i]) in table)
            found.append(frozenset(order[i - size : i]))
            i -= size
        assert [frozenset(p.group(g)) for g in given.chosen(k)] == found[::-1]
        least = [0.0]
        for i in range(1, 141):
            least.append(min(least[i - b] + table.get(frozenset(order[i - b : i]), np.inf)
                             for b in range(1, min(5, i) + 1)))  # fmt: skip
        assert exact.costs[k] == pytest.approx(least[140])


@pytest.mark.parametrize(("edges", "groups", "cost"), [
    ([(1, 0)], [(0,), (1,)], [1, 1]), ([(0, 2)], [(0,), (1,)], [1, 1]), ([], [(0,)], [1]),
    ([], [(0,), (1,)], [1, -1]), ([], [(0,), (1,)], [1, np.nan]),
    ([], [(0,), (1,), (1, 0)], [1] * 3),
    ([], [(0,), (1,), (0, 0)], [1] * 3), ([], [(0,), (1,)], [1]),
])  # fmt: skip
def test_what_is_no_problem(edges: list[tuple[int, int]], groups: list[tuple[int, ...]],
                            cost: list[float]) -> None:
    with pytest.raises(ValueError):
        make_problem(2, edges, groups, cost)


def test_arrays_have_the_same_types_with_and_without_values() -> None:
    """Everything would be compiled again for others."""
    groups = [(v,) for v in range(4)]
    plain = make_problem(4, DIAMOND, groups, [1.0] * 4)
    full = make_problem(4, DIAMOND, groups, [1] * 4, values=[(0, 8, [1, 2], False)], limit=99)
    for one, other in zip(plain.flat, full.flat, strict=True):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        assert np.ndim(one) == np.ndim(other)


def test_groups_must_be_ordered_jointly() -> None:
    """{0, 1} and {2, 3} are convex each and together; {1, 2} is not an interval of every order."""
    p = diamond({(0, 1): 0.5, (2, 3): 0.5, (1, 2): 0.1})
    proof = prove(p)
    assert proof is not None
    assert proof.cost == exhaustive(p) == 1.0
    assert [p.group(g) for g in proof.chosen] == [(0, 1), (2, 3)]
    assert "runs before" in check_solution(p, proof.chosen[::-1])
    assert "in no group" in check_solution(p, proof.chosen[:1])
    assert "in two groups" in check_solution(p, [*proof.chosen, proof.chosen[0]])


def test_two_groups_that_need_each_other() -> None:
    """Each of {0, 3} and {1, 2} could run, both cannot: pairwise convexity is not enough."""
    edges = [(0, 1), (2, 3)]
    groups = {(v,): 1.0 for v in range(4)} | {(0, 3): 0.1, (1, 2): 0.1}
    p = make_problem(4, edges, list(groups), list(groups.values()))
    proof = prove(p)
    assert proof is not None
    assert proof.cost == exhaustive(p) == pytest.approx(2.1)


def test_decoding_lists_and_cuts() -> None:
    p = generated(9, 3, most=4)
    keys = np.random.default_rng(0).random((40, 9))
    found = decode(p, keys)
    orders, costs = found.orders, found.costs
    for key, order, cost in zip(keys, orders, costs, strict=True):
        place = np.argsort(order)
        for v in range(9):
            for u in p.predecessors(v):
                assert place[u] < place[v]
        for a, b in itertools.pairwise(order):  # the smaller key first, unless it had to wait
            waited = a in p.predecessors(b)
            assert key[a] < key[b] or waited
        assert cost == pytest.approx(best_cut(p, order))
        chosen = cut(p, order)
        assert check_solution(p, chosen) == ""
        assert sum(p.cost[chosen]) == pytest.approx(cost)
    assert np.array_equal(decode(p, found.keys).orders, orders)


@pytest.mark.parametrize("edges", [
    [], [(0, b) for b in range(1, 120)], [(b % 60, b) for b in range(60, 120)], towers(120, 0),
], ids=["none", "star", "pairs", "towers"])  # fmt: skip
def test_list_schedules_of_wide_graphs(edges: list[tuple[int, int]]) -> None:
    p = make_problem(120, edges, [(v,) for v in range(120)], [1.0] * 120)
    population = np.round(np.random.default_rng(1).random((6, 120)), 2)  # with ties
    for key, order in zip(population, decode(p, population).orders, strict=True):
        done: list[int] = []
        waits = set(range(120))
        while waits:
            ready = [v for v in waits if not waits.intersection(p.predecessors(v))]
            done.append(min(ready, key=lambda v: (key[v], v)))
            waits.remove(done[-1])
        assert order.tolist() == done


@pytest.mark.parametrize("seed", range(8))
def test_re_cut_moves_are_exact(seed: int) -> None:
    """What annealing believes an order costs is what decoding it from scratch says."""
    p = generated(120, seed)
    order = np.arange(120, dtype=np.int32)
    hot = float(p.cost.mean())
    walked, cost = anneal(p, order, 3000, hot, hot / 100, seed)
    (truth,) = decode(p, keys_of(walked[None])).costs
    assert cost == pytest.approx(truth, rel=1e-9)
    assert cost <= decode(p, keys_of(order[None])).costs[0]
    again, _ = anneal(p, order, 3000, hot, hot / 100, seed)
    assert np.array_equal(walked, again)


def test_what_can_move() -> None:
    """Every node but the waists; a chain has nothing else."""
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5), (3, 5)]
    for more, movable in (([], {1, 2}), ([(5, 6)], {1, 2}), ([(6, 7)], set(range(8)))):
        n = 1 + max(b for _, b in edges + more)
        p = make_problem(n, edges + more, [(v,) for v in range(n)], [1.0] * n)
        order = np.arange(n, dtype=np.int32)
        assert set(_movable(p.flat, order, order).tolist()) == movable
    chain = make_problem(3, [(0, 1), (1, 2)], [(0,), (1,), (2,)], [1.0] * 3)
    walked, cost, cuts = walk(chain, np.arange(3, dtype=np.int32), 100, 1, 0.1, 0)
    assert (walked.tolist(), cost, cuts) == ([0, 1, 2], 3.0, 0)


def test_proof_and_exhaustive_search_agree() -> None:
    for seed in range(120):
        p = generated(int(np.random.default_rng(seed).integers(1, 14)), seed, most=5)
        proof = prove(p)
        assert proof is not None
        assert proof.cost == pytest.approx(exhaustive(p), abs=1e-12), seed
        assert check_solution(p, proof.chosen) == ""
        assert sum(p.cost[list(proof.chosen)]) == pytest.approx(proof.cost)
        assert floor(p) <= proof.cost + 1e-9


def test_independent_branches_do_not_multiply() -> None:
    """Twelve chains of ten nodes: 11**12 ideals, of which one order each is looked at."""
    edges = [(10 * c + k, 10 * c + k + 1) for c in range(12) for k in range(9)]
    groups = [(v,) for v in range(120)] + edges
    p = make_problem(120, edges, groups, [1.0] * 120 + [1.5] * len(edges))
    proof = prove(p)
    assert proof is not None
    assert proof.cost == 12 * 5 * 1.5
    assert proof.ideals < 1000


def test_graphs_that_are_too_wide_are_refused() -> None:
    assert prove(generated(60, 0), limit=50) is None
    with pytest.raises(ValueError, match="16 nodes"):
        exhaustive(generated(60, 0))
    empty = make_problem(0, [], [], [])
    assert prove(empty) is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_wirings(family: str) -> None:
    """Any number of nodes, connected, the same for the same seed; the optimum can be proven."""
    for nodes in (1, 7, 40, 150):
        edges = FAMILIES[family](nodes, 3)
        assert edges == FAMILIES[family](nodes, 3)
        assert all(0 <= a < b < nodes for a, b in edges)
        assert {b for _, b in edges} >= set(range(32, nodes))
    p = generated(40, 3, 3, edges=FAMILIES[family](40, 3))
    proof = prove(p)
    assert proof is not None
    assert check_solution(p, proof.chosen) == ""


def test_published_wirings() -> None:
    """Nodes and edges as the papers have them."""
    assert len(inception(6).sizes) == 1 + 6 * 9
    assert inception(1).sizes[-1] == 64 + 64 + 96 + 64
    stage = randwire(1, 0)
    assert len(stage.sizes) == 32
    assert len(stage.edges) == 32 * 4 // 2
    two = randwire(2, 0)
    assert len(two.sizes) == 66
    assert {a for a, _ in two.edges} == set(range(65))
    cells = nasnet(2)
    assert cells.sizes.count(5.0) == 2
    with pytest.raises(ValueError, match="of 32 nodes has no 33"):
        stage.first(33)
    p = order_only(cells, 4.0)
    assert p.flat.nbytes.tolist() == [4.0 * size for size in cells.sizes]


def run(name: str, p: Problem, budget: int, seed: int = 0) -> Found:
    first = np.arange(p.nodes, dtype=np.int32)[None]
    return search(p, STRATEGIES[name](), first, budget, seed)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(name: str) -> None:
    p = generated(60, 5)
    proof = prove(p)
    assert proof is not None
    start = decode(p, keys_of(np.arange(60, dtype=np.int32)[None])).costs[0]
    found = run(name, p, 30_000)
    again = run(name, p, 30_000)
    assert (found.cost, found.chosen) == (again.cost, again.chosen)
    assert check_solution(p, found.chosen) == ""
    assert proof.cost - 1e-9 <= found.cost <= start
    assert found.evaluations >= 30_000 or found.proven
    costs = [cost for _, _, cost in found.history]
    assert costs == sorted(costs, reverse=True)
    assert found.bound <= proof.cost + 1e-9
    if name not in ("random", "nsga2"):
        assert found.cost <= proof.cost * 1.01


@pytest.mark.parametrize("name", [n for n in STRATEGIES if n not in ("random", "nsga2")])
def test_small_graphs_are_solved(name: str) -> None:
    for seed in range(20):
        p = generated(12, seed, most=5)
        assert run(name, p, 20_000, seed).cost == pytest.approx(exhaustive(p)), seed


def test_an_interrupt_keeps_the_best() -> None:
    p = generated(40, 1)
    seen = []

    def stop(evaluations: int, best: float, bound: float) -> None:
        assert 0 < bound <= best
        seen.append(best)
        if len(seen) == 3:
            raise KeyboardInterrupt

    first = np.arange(40, dtype=np.int32)[None]
    found = search(p, STRATEGIES["genetic"](), first, 10**9, watch=stop)
    assert found.cost <= seen[-1] + 1e-9


@pytest.mark.parametrize("nodes", [0, 1, 5, 90])
def test_genomes_together_are_decoded_as_each_alone(nodes: int) -> None:
    """Whole blocks of genomes, what is left of one, and slices on threads give the same bytes."""
    p = remembering(nodes, 3) if nodes else make_problem(0, [], [], [])
    rng = np.random.default_rng(5)
    count = 2 * WALKS + 3
    keys, cuts = rng.random((count, nodes)), (rng.random((count, nodes)) < 0.2).astype(np.uint8)
    for genes in (None, cuts):
        together = decode(p, Genomes(keys, cuts=genes))
        shared = decode(p, Genomes(keys, cuts=genes), threads=3)
        for k in range(count):
            own = None if genes is None else genes[k : k + 1]
            alone = decode(p, Genomes(keys[k : k + 1], cuts=own))
            for name in ("orders", "groups", "costs", "parts", "peaks", "prints"):
                expected = getattr(alone, name).tobytes()
                assert getattr(together, name)[k : k + 1].tobytes() == expected
                assert getattr(shared, name)[k : k + 1].tobytes() == expected
