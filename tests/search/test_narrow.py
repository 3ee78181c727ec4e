"""The plain proof against the compiled one and against trying everything."""

from __future__ import annotations

import pytest

from evonnx.search.exact import exhaustive, prove
from evonnx.search.generate import generated
from evonnx.search.narrow import prove_narrow
from evonnx.search.problem import check_solution, make_problem


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


def test_wide_and_limited_problems_are_left_to_others() -> None:
    free = make_problem(12, [], [(v,) for v in range(12)] + [(0, 11), (1, 10)], [1.0] * 14)
    assert prove_narrow(free, limit=3) is None
    assert prove_narrow(free.limited(10.0)) is None
    empty = make_problem(0, [], [], [])
    proof = prove_narrow(empty)
    assert proof is not None
    assert (proof.cost, proof.chosen) == (0.0, ())
