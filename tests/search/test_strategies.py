"""Strategies, one by one: operators, fronts, windows, parts, the registry."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from evonnx.ir.errors import LimitError, OptionError
from evonnx.search import evaluate, exact, moves, peaks
from evonnx.search import strategies as registry
from evonnx.search.evaluate import decode, keys_of
from evonnx.search.exact import beam, exhaustive, prove, prove_peak, solve_window
from evonnx.search.generate import generated, remembering, towers, two_objectives
from evonnx.search.narrow import true_front
from evonnx.search.peaks import least_peak
from evonnx.search.problem import InfeasibleError, Problem, make_problem
from evonnx.search.run import search
from evonnx.search.solutions import check_solution, peak
from evonnx.search.split import split
from evonnx.search.strategies import (
    Beam,
    Exact,
    Exhaustive,
    Genetic,
    Nsga2,
    Pymoo,
    Random,
    Swarm,
    strategy,
)  # fmt: skip
from evonnx.search.strategies.base import Base, best_segments
from evonnx.search.strategies.genes import priority_rules
from evonnx.search.strategies.nsga2 import ranked


def in_order(p: Problem) -> np.ndarray:
    return np.arange(p.nodes, dtype=np.int32)[None]


def binary(nodes: int, seed: int) -> Problem:
    """Costs are multiples of 1/1024, so that sums do not depend on their order."""
    p = generated(nodes, seed, most=5)
    return p.priced(np.round(p.cost * 1024) / 1024)


def agree(seeds: range) -> None:
    for seed in seeds:
        p = binary(int(np.random.default_rng(seed).integers(1, 17)), seed)
        least = exhaustive(p)
        found = {name: search(p, strategy(name), in_order(p), 6000, seed).cost
                 for name in ("exact", "exhaustive", "genetic", "swarm", "annealing", "beam")}
        assert found == dict.fromkeys(found, least), seed


def test_small_graphs_bit_for_bit() -> None:
    agree(range(25))


@pytest.mark.slow
def test_five_hundred_small_graphs_bit_for_bit() -> None:
    agree(range(500))


def test_the_best_of_all_children() -> None:
    """Waist crossover is as good as the best mixture of the parents' segments."""
    p = generated(60, 3)
    found = decode(p, np.random.default_rng(5).random((8, 60)))
    for a, b in itertools.combinations(range(8), 2):
        child = best_segments(p, (found.orders[a], found.groups[a]),
                              (found.orders[b], found.groups[b]))
        (cost,) = decode(p, keys_of(child[None])).costs
        assert cost <= min(found.costs[a], found.costs[b]) + 1e-9
    # Two halves, each parent better in one.
    q = make_problem(4, [(0, 1), (1, 2), (2, 3)], [(0,), (1,), (2,), (3,), (0, 1), (2, 3)],
                     [5, 5, 5, 5, 1, 1])  # fmt: skip
    order = np.arange(4, dtype=np.int32)
    left, right = np.array([-1, 4, 2, 3]), np.array([0, 1, -1, 5])
    assert best_segments(q, (order, left), (order, right)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("limit", [np.inf, 0.9])
def test_windows_are_solved_where_they_are(limit: float) -> None:
    free = remembering(40, 4)
    found = decode(free, np.random.default_rng(1).random((1, 40)))
    p = free.limited(max(limit * found.peaks[0], 0) if limit < 1 else limit)
    found = decode(p, found.keys)
    order, groups = found.orders[0], found.groups[0]
    ends = np.flatnonzero(groups >= 0) + 1
    begin, end = int(ends[2]), int(ends[-3])
    whole = free.limited(np.inf)
    live = 0.0
    for w in range(len(whole.flat.nbytes)):
        users = whole.flat.users[whole.flat.user_ptr[w] : whole.flat.user_ptr[w + 1]]
        if whole.flat.maker[w] in order[:begin] and (
            whole.flat.kept[w] or not set(users.tolist()) <= set(order[:begin].tolist())
        ):
            live += whole.flat.nbytes[w]
    chosen, ideals = solve_window(p, order, begin, end, live)
    assert ideals > 1
    if chosen is None:
        assert found.peaks[0] > p.limit
        return
    before = [int(g) for g in groups[:begin] if g >= 0]
    behind = [int(g) for g in groups[end:] if g >= 0]
    new = [*before, *chosen, *behind]
    assert check_solution(free, new) == ""
    assert free.cost[new].sum() <= free.cost[list(found.chosen(0))].sum() + 1e-9


def test_parts_are_solved_one_by_one_and_equal_ones_once() -> None:
    """Six equal layers, no candidate across their borders."""
    layer = generated(20, 7)
    edges, groups, costs = [], [], []
    for k in range(6):
        edges += [(20 * k + a, 20 * k + b) for a, b in layer.edges]
        edges += [(20 * k - 1, 20 * k)] if k else []
        groups += [tuple(20 * k + v for v in layer.group(g)) for g in range(layer.candidates)]
        costs += layer.cost.tolist()
    p = make_problem(120, edges, groups, costs)
    parts = split(p)
    assert [len(s.nodes) for s in parts] == [20] * 6
    assert len({s.key for s in parts}) == 1
    proof, single = prove(p), prove(layer)
    assert proof is not None and single is not None
    assert proof.cost == pytest.approx(6 * single.cost)
    assert proof.ideals == single.ideals
    assert check_solution(p, proof.chosen) == ""
    found = search(p, Genetic(), in_order(p), 5000)
    assert found.cost == pytest.approx(proof.cost)
    assert check_solution(p, found.chosen) == ""


def test_parts_that_need_each_other_stay_together() -> None:
    edges = [(0, 1), (2, 3)]
    p = make_problem(4, edges, [(0,), (1,), (2,), (3,), (0, 3), (1, 2)], [1, 1, 1, 1, 0.1, 0.1])
    assert [s.nodes for s in split(p)] == [(0, 1, 2, 3)]
    q = make_problem(4, edges, [(0,), (1,), (2,), (3,), (0, 3)], [1, 1, 1, 1, 0.1])
    assert [s.nodes for s in split(q)] == [(2,), (0, 3), (1,)]
    random = search(q, Random(), in_order(q), 100)
    assert random.cost == pytest.approx(2.1)


def test_beam_is_a_proof_where_nothing_is_dropped() -> None:
    for seed in range(6):
        p = generated(80, seed)
        proof = prove(p)
        assert proof is not None
        wide, narrow = beam(p, 10_000), beam(p, 1)
        assert wide is not None and narrow is not None
        assert wide.exact and wide.cost == pytest.approx(proof.cost)
        assert narrow.cost >= proof.cost - 1e-9
        assert check_solution(p, narrow.chosen) == ""
        found = search(p, Beam(2), in_order(p), 10**6)
        assert found.proven
        assert found.cost == pytest.approx(proof.cost)
        assert found.gap == pytest.approx(0)


def test_what_proves_says_so() -> None:
    p = generated(14, 0)
    for made in (Exact(), Exhaustive()):
        found = search(p, made, in_order(p), 10**5)
        assert found.proven
        assert found.bound == found.cost == pytest.approx(exhaustive(p))
    with pytest.raises(LimitError, match="more than 10 ideals"):
        search(generated(60, 0), Exact(10), in_order(generated(60, 0)), 10**5)
    with pytest.raises(ValueError, match="16 nodes"):
        search(generated(60, 0), Exhaustive(), in_order(generated(60, 0)), 1)


@pytest.mark.parametrize("name", ["genetic", "swarm", "annealing", "beam"])
def test_memory_limits_hold(name: str) -> None:
    free = remembering(60, 11)
    start = float(decode(free, keys_of(in_order(free))).peaks[0])
    p = free.limited(0.75 * start)
    proof = prove(p)
    assert proof is not None
    found = search(p, strategy(name), in_order(p), 30_000)
    assert check_solution(p, found.chosen) == ""
    assert found.peak == peak(p, found.chosen) <= p.limit
    assert proof.cost - 1e-9 <= found.cost <= 1.1 * proof.cost
    with pytest.raises(InfeasibleError, match="the least found"):
        search(free.limited(1.0), strategy(name), in_order(p), 500)


def test_least_peaks_are_the_proven_ones() -> None:
    for seed in range(6):
        p = remembering(24, seed)
        proof = prove_peak(p)
        assert proof is not None
        least = least_peak(p, in_order(p), 0, seed)
        assert least.peak == peak(p, least.chosen) == proof.peak
        assert least.proven
        assert check_solution(p, least.chosen) == ""
        assert least_peak(p, in_order(p), 0, seed) == least


def test_least_peaks_without_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annealing goes on where descents may meet a few ideals only."""
    monkeypatch.setattr(peaks, "STATES", 1)
    monkeypatch.setattr(peaks, "PROOF", 1)
    for seed in range(4):
        p = remembering(24, seed)
        proof = prove_peak(p)
        assert proof is not None
        least = least_peak(p, in_order(p), 60_000, seed)
        assert least.peak == peak(p, least.chosen)
        assert check_solution(p, least.chosen) == ""
        assert proof.peak <= least.peak <= 1.05 * proof.peak
        assert not least.proven or least.peak == proof.peak


def test_fronts() -> None:
    """Solutions that do not dominate each other, near the optimum of every objective alone."""
    p = remembering(30, 3)
    found = search(p, Nsga2(48), in_order(p), 20_000, seed=1)
    again = search(p, Nsga2(48), in_order(p), 20_000, seed=1)
    assert found.front == again.front
    assert len(found.front) > 5
    values = np.array([point.values for point in found.front])
    assert values.shape[1] == 4
    assert (ranked(values)[0] == 0).all()
    for point in found.front:
        chosen = list(point.chosen)
        assert check_solution(p, chosen) == ""
        assert point.parts == pytest.approx(p.parts[chosen].sum(axis=0))
        assert point.peak == point.values[3] == peak(p, chosen)
    for k in range(3):
        alone = prove(p.priced(p.parts[:, k]))
        assert alone is not None
        assert alone.cost - 1e-9 <= values[:, k].min() <= 1.05 * alone.cost
    two = search(p, Nsga2(32, ("D", "peak")), in_order(p), 2000)
    assert {len(point.values) for point in two.front} == {2}
    with pytest.raises(OptionError, match="of C, D, time, peak, not energy"):
        search(p, Nsga2(objectives=("energy",)), in_order(p), 10)


def test_whole_fronts() -> None:
    """Biases of edges find the points that no weights lead to."""
    for seed in range(3):
        p = two_objectives(16, seed)
        true = true_front(p)
        assert true is not None
        front = {point.values for point in search(p, Nsga2(), in_order(p), 20_000).front}
        assert front == {point.values for point in true}
        hull = search(p, Nsga2(bias=0.0), in_order(p), 20_000).front
        assert {point.values for point in hull} <= front
        assert len(hull) < len(front)


def test_ranks_by_hand() -> None:
    values = np.array([[1.0, 4], [2, 3], [4, 1], [2, 4], [5, 5]])
    rank, crowd = ranked(values)
    assert rank.tolist() == [0, 0, 0, 1, 2]
    assert crowd[:3].tolist() == [np.inf, 2.0, np.inf]


@pytest.mark.parametrize("name", ["pymoo-ga", "pymoo-pso", "pymoo-nsga2", "optuna-tpe",
                                  "optuna-random"])  # fmt: skip
def test_other_peoples_searches(name: str) -> None:
    """They run on our problems, are never worse than the start, and repeat themselves."""
    pytest.importorskip(name.split("-")[0])
    p = remembering(12, 5)
    first = in_order(p)
    found = search(p, strategy(name), first, 300, seed=3)
    again = search(p, strategy(name), first, 300, seed=3)
    assert (found.cost, found.chosen, found.front) == (again.cost, again.chosen, again.front)
    assert exhaustive(p) - 1e-9 <= found.cost <= decode(p, keys_of(first)).costs[0] + 1e-9
    assert found.evaluations >= 300
    if name == "pymoo-nsga2":
        assert (ranked(np.array([point.values for point in found.front]))[0] == 0).all()


def test_optunas_grid_is_used_up() -> None:
    pytest.importorskip("optuna")
    p = generated(5, 1, edges=[(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)])
    found = search(p, strategy("optuna-grid"), in_order(p), 10**6)
    assert found.evaluations == 3**5
    assert found.cost == pytest.approx(exhaustive(p))
    wide = generated(30, 1, edges=towers(30, 1))
    with pytest.raises(OptionError, match="more than 100000 points"):
        search(wide, strategy("optuna-grid"), in_order(wide), 10)
    with pytest.raises(OptionError, match="of GA, PSO, NSGA2, not DE"):
        Pymoo("DE")


@pytest.mark.parametrize("name", registry.STRATEGIES)
@pytest.mark.parametrize("limit", [np.inf, 0.9])
def test_budgets_are_kept(name: str, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations end at the budget, or before it where all is proven; what is reported is what
    was scored, counted from outside."""
    p = remembering(40, 6)
    if limit < 1:
        p = p.limited(limit * float(decode(p, keys_of(in_order(p))).peaks[0]))
    scored = _count_evaluations(monkeypatch)
    for budget in (1, 7, 100, 5000):
        scored.clear()
        try:
            found = search(p, strategy(name), in_order(p), budget, seed=2)
        except InfeasibleError:
            assert limit < 1 and budget <= 100
            continue
        assert found.evaluations <= budget
        assert found.evaluations == budget or found.proven or name == "beam"
        # The order a search starts from is known before it begins.
        assert sum(scored) - 1 == found.evaluations
        assert found.history[-1][0] <= budget


def _count_evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by what decoding, walks and dynamic programs score."""
    scored: list[int] = []

    def counted(module: Any, name: str, count: Callable[[Any, Any], int]) -> None:
        real = getattr(module, name)

        def call(*given: Any) -> Any:
            result = real(*given)
            scored.append(count(given, result))
            return result

        monkeypatch.setattr(module, name, call)

    counted(evaluate, "_decode", lambda given, _: len(given[1]))
    counted(moves, "_anneal", lambda _, result: 1 + int(result[1]))
    counted(exact, "_ideals", lambda _, result: int(result[5]))
    return scored


@pytest.mark.parametrize("genes", [("order", "bias"), ("order", "cuts"), ("cuts",), ("bias",)])
@pytest.mark.parametrize("made", [Genetic, Swarm])
def test_genomes_of_more_than_orders(made: Any, genes: tuple[str, ...]) -> None:
    """They are legal, repeat themselves, and say what the genes made of an order, which exact cuts
    can only improve; a search for cuts of one order stays above its exact cuts."""
    p = generated(40, 5, edges=towers(40, 5))
    seen: list[float] = []
    found = search(p, made(genes=genes), in_order(p), 3000, 1,
                   watch=lambda spent, cost, bound: seen.append(cost))
    assert check_solution(p, found.chosen) == ""
    assert found.chosen == search(p, made(genes=genes), in_order(p), 3000, 1).chosen
    assert found.cost <= seen[-1] + 1e-9
    exact = float(decode(p, keys_of(in_order(p))).costs[0])
    if "order" not in genes:
        assert seen[-1] >= exact - 1e-9
        assert found.cost == pytest.approx(exact)
    with pytest.raises(OptionError, match="of order, bias, cuts, not keys"):
        made(genes=("keys",))


def test_budgets_of_proofs() -> None:
    p = generated(14, 0)
    for name in ("exact", "exhaustive"):
        spent = search(p, strategy(name), in_order(p), 10**5).evaluations
        assert search(p, strategy(name), in_order(p), spent).proven
        with pytest.raises(LimitError):
            search(p, strategy(name), in_order(p), spent // 2)


def test_budgets_over_parts() -> None:
    """A problem of parts gets no more than its budget, and the given orders."""
    edges = [(4 * k + a, 4 * k + b) for k in range(20) for a, b in ((0, 1), (0, 2), (1, 3), (2, 3))]
    groups = [(v,) for v in range(80)] + [(4 * k, 4 * k + 1) for k in range(20)]
    groups += [(4 * k + 2, 4 * k + 3) for k in range(20)]
    costs = np.random.default_rng(0).random(len(groups))
    p = make_problem(80, edges, groups, costs)
    assert len(split(p)) > 20
    for budget in (20, 100, 1000):
        assert search(p, Genetic(), in_order(p), budget).evaluations <= max(budget, len(split(p)))


def test_the_grid_of_priority_rules() -> None:
    """All 243 combinations and the given order, on a graph of any size; a rule says what it is
    called for."""
    pytest.importorskip("optuna")
    p = generated(60, 2, edges=towers(60, 2))
    given = in_order(p)
    place, depth, height, readers, cost = priority_rules(p, given[0])
    assert np.array_equal(np.argsort(place), given[0])
    edges = np.array(p.edges)
    assert (depth[edges[:, 0]] < depth[edges[:, 1]]).all()
    assert (height[edges[:, 0]] > height[edges[:, 1]]).all()
    assert readers.argmax() == np.bincount(edges[:, 0]).argmax()
    alone = {p.group(g)[0]: p.cost[g] for g in range(p.candidates) if len(p.group(g)) == 1}
    assert np.array_equal(np.argsort(cost), sorted(alone, key=lambda v: alone[v]))
    found = search(p, strategy("optuna-rules-grid"), given, 10**6, seed=1)
    assert found.evaluations == 1 + 3**5
    least = min(
        decode(p, (np.array(c) @ np.stack([place, depth, height, readers, cost]))[None]).costs[0]
        for c in itertools.product((-1, 0, 1), repeat=5))  # fmt: skip
    assert found.cost == pytest.approx(min(least, decode(p, keys_of(given)).costs[0]))
    some = search(p, strategy("optuna-rules-tpe"), given, 60, seed=1)
    assert some.evaluations == 60
    assert found.cost - 1e-9 <= some.cost <= decode(p, keys_of(given)).costs[0]


class Lazy(Base):
    """Asks for the given orders again and again."""

    def start(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        self.first = first

    def ask(self) -> np.ndarray:
        return keys_of(self.first)

    def tell(self, genomes: object, found: object) -> None:
        pass


def test_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"exact", "exhaustive", "nsga2", "beam"} <= set(registry.strategies())
    assert set(registry.REGISTRY.shipped) == registry.SHIPPED.keys()
    monkeypatch.setattr(registry.REGISTRY, "_known", {})
    registry.register_strategy("lazy", Lazy)
    assert isinstance(strategy("Lazy"), Lazy)
    with pytest.raises(OptionError, match="registered already"):
        registry.register_strategy("genetic", Lazy)
    with pytest.raises(OptionError, match="no strategy 'none-such'"):
        strategy("none-such")
    registry.register_strategy("wrong", object)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="lacks a part"):
        strategy("wrong")
    point = EntryPoint("Mine", f"{__name__}:Lazy", registry.REGISTRY.group)
    monkeypatch.setattr("evonnx.search.registry._entry_points", lambda group: [point])
    monkeypatch.setattr(EntryPoint, "load", lambda self: Lazy)
    assert "mine" in registry.strategies()
    p = generated(20, 1)
    found = search(p, strategy("mine"), in_order(p), 10)
    assert found.cost == pytest.approx(decode(p, keys_of(in_order(p))).costs[0])
