"""The plain proof against the compiled one and against trying everything."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from evonnx.search import choose, narrow
from evonnx.search.exact import _solve, exhaustive, prove
from evonnx.search.generate import FAMILIES, generated
from evonnx.search.narrow import narrow_beam, prove_narrow, recombine, true_front
from evonnx.search.problem import Problem, make_problem
from evonnx.search.settings import Search
from evonnx.search.solutions import check_solution
from evonnx.search.space import Space


@pytest.mark.parametrize("nodes", [1, 2, 5, 9, 12])
def test_as_trying_everything(nodes: int) -> None:
    for seed in range(8):
        problem = generated(nodes, seed, most=4)
        proof = prove_narrow(problem)
        assert proof is not None
        assert proof.cost == pytest.approx(exhaustive(problem), rel=1e-12)
        assert check_solution(problem, proof.chosen) == ""


@pytest.mark.parametrize("nodes", [40, 200])
def test_as_the_compiled_proof(nodes: int) -> None:
    for seed in range(3):
        problem = generated(nodes, seed)
        plain, compiled = prove_narrow(problem), prove(problem)
        assert plain is not None
        assert compiled is not None
        assert plain.cost == pytest.approx(compiled.cost, rel=1e-12)
        assert (plain.ideals, plain.transitions) == (compiled.ideals, compiled.transitions)
        assert check_solution(problem, plain.chosen) == ""


def test_what_shows_that_other_candidates_must_be_tried() -> None:
    """With candidates left out at random no single node tells whether all candidates of a node are
    ready; the compiled program, which looks at all of them, tries the same ones."""
    rng, shown = np.random.default_rng(0), 0
    for family, seed in itertools.product(["towers", "nasnet", "randwire"], range(3)):
        plain = generated(26, seed, 4, edges=FAMILIES[family](26, seed))
        groups = [g for g in plain.groups if len(g) == 1 or rng.random() < 0.3]
        problem = make_problem(26, plain.edges, groups, rng.integers(1, 97, len(groups)))
        proof, compiled = prove_narrow(problem, 1 << 20), _solve(problem, 1 << 20)
        assert proof is not None and compiled is not None
        assert (proof.cost, proof.ideals, proof.transitions) == (
            compiled.cost, compiled.ideals, compiled.transitions)
        signs = narrow._table_of(problem)._signs
        shown += sum(len(s.others) for s in signs if s is not None)
    assert shown > 20


def test_wide_and_limited_problems_are_left_to_others() -> None:
    free = make_problem(12, [], [(v,) for v in range(12)] + [(0, 11), (1, 10)], [1.0] * 14)
    assert prove_narrow(free, limit=3) is None
    assert prove_narrow(free.limited(10.0)) is None
    empty = make_problem(0, [], [], [])
    proof = prove_narrow(empty)
    assert proof is not None
    assert (proof.cost, proof.chosen) == (0.0, ())


def test_what_is_met_decides_whether_a_proof_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ideal that is met will be visited: a proof ends as soon as too many are met, and at the
    same limit as when it visits them all."""
    problem = towers_problem()
    whole = prove_narrow(problem)
    assert whole is not None
    limit = whole.ideals - 1  # all but the whole graph
    assert prove_narrow(problem, limit) == whole
    visited: list[int] = []
    follow = narrow._Table.following

    def following(table: narrow._Table, ideal: int, ready: int) -> list[int]:
        visited.append(ideal)
        return follow(table, ideal, ready)

    monkeypatch.setattr(narrow._Table, "following", following)
    assert prove_narrow(problem, limit - 1) is None
    for less in (limit // 2, limit // 8):
        visited.clear()
        assert prove_narrow(problem, less) is None
        assert len(visited) < 0.8 * less


def test_a_beam_follows_no_more_than_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes next is worked out for the ideals that are kept, not for all that are met."""
    problem = towers_problem()
    opened: list[int] = []
    ready = narrow._Table.ready

    def counted(table: narrow._Table, after: int, before: int, g: int) -> int:
        opened.append(after)
        return ready(table, after, before, g)

    monkeypatch.setattr(narrow._Table, "ready", counted)
    found = narrow_beam(problem, 4 * problem.nodes)
    assert check_solution(problem, found.chosen) == ""
    assert len(opened) == len(set(opened)) <= found.evaluations <= 4 * problem.nodes + 1


@pytest.mark.parametrize("family", ["towers", "nasnet"])
def test_few_and_many_candidates_of_a_node_are_the_same_ones(
        family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at all candidates of a node and descending by their members find the same ones in
    the same order, variants among them."""
    plain = generated(60, 1, 5, edges=FAMILIES[family](60, 1))
    rng = np.random.default_rng(1)
    groups = [plain.group(g) for g in range(plain.candidates)]
    groups += [groups[g] for g in rng.integers(len(groups), size=50)]
    costs, found = rng.integers(1, 97, len(groups)), []
    for few in (0, 1 << 30):
        monkeypatch.setattr(narrow, "FEW", few)
        problem = make_problem(60, plain.edges, groups, costs)
        found.append((prove_narrow(problem, 3000), narrow_beam(problem, 400)))
    assert found[0] == found[1]


def towers_problem() -> Problem:
    return generated(80, 0, 4, edges=FAMILIES["towers"](80, 0))


def two_objectives(nodes: int, seed: int) -> Problem:
    p = generated(nodes, seed, most=4)
    parts = np.random.default_rng(seed).integers(1, 30, (p.candidates, 2)).astype(float)
    groups = [p.group(g) for g in range(p.candidates)]
    return make_problem(nodes, p.edges, groups, parts.sum(axis=1), parts=parts,
                        objectives=("C", "D"))


def every_sum(p: Problem) -> set[tuple[float, float]]:
    """The objectives of all solutions, by following every order of groups."""
    seen: dict[frozenset[int], set[tuple[float, float]]] = {frozenset(): {(0.0, 0.0)}}
    for _ in range(p.nodes):
        for done, sums in list(seen.items()):
            for g in range(p.candidates):
                group = set(p.group(g))
                needs = {u for v in group for u in p.predecessors(v)} - group
                if not group & done and needs <= done:
                    a, b = p.parts[g]
                    seen.setdefault(done | group, set()).update((x + a, y + b) for x, y in sums)
    return seen[frozenset(range(p.nodes))]


@pytest.mark.parametrize("nodes", [1, 3, 6, 8])
def test_the_true_front(nodes: int) -> None:
    for seed in range(6):
        p = two_objectives(nodes, seed)
        sums = every_sum(p)
        best = {s for s in sums if not any(o != s and o[0] <= s[0] and o[1] <= s[1] for o in sums)}
        front = true_front(p)
        assert front is not None
        assert [point.values for point in front] == sorted(best)
        for point in front:
            assert check_solution(p, point.chosen) == ""
            assert tuple(p.parts[list(point.chosen)].sum(axis=0)) == point.values


def test_fronts_that_are_too_large_are_refused() -> None:
    assert true_front(two_objectives(12, 0), limit=3) is None
    assert true_front(generated(5, 0)) is None  # one objective


@pytest.mark.parametrize("tall", [False, True])
def test_a_beam_is_valid_and_the_optimum_where_it_is_wide_enough(tall: bool) -> None:
    for seed in range(3):
        problem = generated(60, seed, 4, FAMILIES["towers"](60, seed) if tall else None)
        proof = prove_narrow(problem, 1 << 20)
        assert proof is not None
        before = float("inf")
        for states in (0, 60 * 8, 60 * 64, 60 * proof.ideals):
            found = narrow_beam(problem, states)
            assert check_solution(problem, found.chosen) == ""
            assert found.cost == pytest.approx(problem.cost[list(found.chosen)].sum())
            assert proof.cost <= found.cost * (1 + 1e-12) and found.bound <= proof.cost
            assert found.evaluations <= 60 * max(2, states // 60) + 1
            before = min(before, found.cost)
        assert before == pytest.approx(proof.cost, rel=1e-12)


def test_the_best_that_known_solutions_make_together() -> None:
    """Segments of each of them, in the cheapest variants: never worse than either so dressed."""
    better = 0
    for seed in range(6):
        problem = generated(40, seed)
        rng = np.random.default_rng(seed)
        known = []
        for _ in range(2):
            proof = prove_narrow(problem.priced(problem.cost * rng.uniform(0.5, 2.0,
                                                                           problem.candidates)))
            assert proof is not None
            known.append(proof.chosen)
        joined = recombine(problem, known)
        assert joined is not None
        assert check_solution(problem, joined) == ""
        groups = {problem.group(g) for solution in known for g in solution}
        assert {problem.group(g) for g in joined} <= groups
        cheapest = {problem.group(v[0]): float(problem.cost[v[0]]) for v in problem.variants}
        dressed = [sum(cheapest[problem.group(g)] for g in solution) for solution in known]
        cost = float(problem.cost[list(joined)].sum())
        assert cost <= min(dressed) * (1 + 1e-12)
        better += cost < min(dressed) * (1 - 1e-9)
        assert recombine(problem, known, limit=1) is None
    assert better, "two solutions never made a better one"


def test_default_compiles_nothing_for_its_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many ideals for a proof it follows the best of each size."""
    monkeypatch.setattr(choose, "NARROW", 3)
    monkeypatch.setitem(sys.modules, "evonnx.search.exact", None)
    monkeypatch.setitem(sys.modules, "evonnx.search.evaluate", None)
    problem = generated(60, 0)
    found, note = choose.Solver(Search("default")).solve(Space.plain(problem))
    assert note.startswith("too many ideals")
    assert not found.proven and found.bound <= found.cost <= problem.cost[:60].sum()


def test_default_keeps_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "NARROW", 3)
    space = Space.plain(generated(60, 0, 4, FAMILIES["towers"](60, 0)))
    spent = [choose.Solver(Search("default", budget=budget)).solve(space)[0].evaluations
             for budget in (150, 300)]
    assert spent[0] < spent[1]
    assert all(n <= budget + 1 for n, budget in zip(spent, (150, 300), strict=True))
