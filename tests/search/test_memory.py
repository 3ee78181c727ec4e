"""Variants, several objectives and memory: every evaluation says what plain Python says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evonnx.search.evaluate import Genomes, cut, decode, keys_of
from evonnx.search.exact import exhaustive, prove, prove_peak
from evonnx.search.generate import generated, remembering
from evonnx.search.moves import anneal
from evonnx.search.problem import COST, GROUP, HASH, WRITTEN, InfeasibleError, make_problem
from evonnx.search.solutions import canonical, check_solution, fingerprint, peak


def test_variants_are_candidates_of_the_same_nodes() -> None:
    groups = [(0,), (1,), (0, 1), (0, 1), (1,)]
    p = make_problem(2, [(0, 1)], groups, [3, 3, 5, 4, 0.5])
    assert p.variants == ((0,), (4, 1), (3, 2))
    assert cut(p, np.arange(2)) == [0, 4]
    proof = prove(p)
    assert proof is not None
    assert (proof.cost, proof.chosen) == (3.5, (0, 4))
    assert exhaustive(p) == 3.5


def test_weights_choose_the_variant() -> None:
    parts = np.array([[9.0, 9], [9, 9], [1, 4], [4, 1]])
    p = make_problem(2, [(0, 1)], [(0,), (1,), (0, 1), (0, 1)], [9, 9, 2, 2], parts=parts,
                     objectives=("C", "D"))
    weights = np.array([[1.0, 0.1, 0], [0.1, 1, 0]])
    found = decode(p, Genomes(np.zeros((2, 2)), weights=weights))
    assert [found.chosen(k) for k in range(2)] == [(2,), (3,)]
    assert found.parts.tolist() == [[1, 4], [4, 1]]
    assert found.prints[0] != found.prints[1]


def test_other_prices() -> None:
    """Pricing anew is making the problem anew."""
    p = generated(30, 2)
    q = remembering(30, 2)
    rng = np.random.default_rng(0)
    for old in (p, q):
        costs = rng.random(old.candidates)
        new = old.priced(costs)
        groups = [old.group(g) for g in range(old.candidates)]
        fresh = make_problem(30, old.edges, groups, costs, old.seed,
                             parts=None if old is p else old.parts, objectives=old.objectives)
        for name in ("cost", "parts", "level_ptr", "levels", "masks", "ceiling", "ceilings"):
            assert np.array_equal(getattr(new.flat, name), getattr(fresh.flat, name)), name
        wrote = new.flat.ends[:-1, WRITTEN].copy().view(np.float64)
        assert np.array_equal(wrote, old.flat.written[new.flat.ends[:-1, GROUP].astype(int)])
        rest = [HASH, COST, GROUP]
        assert np.array_equal(new.flat.ends[:, rest], fresh.flat.ends[:, rest])


@pytest.mark.parametrize("wrong", [
    {"values": [(0, 1.0, [2], False)]}, {"values": [(5, 1.0, [], False)]}, {"limit": np.nan},
    {"values": [(0, -1.0, [1], False)]}, {"written": [1.0]}, {"parts": np.ones((2, 1))},
    {"parts": np.ones((3, 2))}, {"limit": -1.0},
])  # fmt: skip
def test_what_is_no_memory(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        make_problem(3, [(0, 1), (1, 2)], [(0,), (1,), (2,)], [1] * 3, **wrong)  # type: ignore[arg-type]


def test_peak_by_hand() -> None:
    """0 feeds 1 and 2, both feed 3; the value of 3 stays."""
    edges = [(0, 1), (0, 2), (1, 3), (2, 3)]
    values = [(0, 10.0, [1, 2], False), (1, 1.0, [3], False), (2, 2.0, [3], False),
              (3, 5.0, [], True)]
    groups = [(0,), (1,), (2,), (3,), (1, 3)]
    p = make_problem(4, edges, groups, [1.0] * 5, values=values)
    assert p.flat.written.tolist() == [10, 1, 2, 5, 5]
    assert peak(p, [0, 1, 2, 3]) == 13  # the values of 0, 1 and 2
    assert peak(p, [0, 2, 4]) == 17  # 0 and 2 are live while {1, 3} writes; 1 is inside
    assert "needs 17 bytes" in check_solution(p.limited(13), [0, 2, 4])
    assert check_solution(p.limited(13), [0, 1, 2, 3]) == ""


@pytest.mark.parametrize("seed", range(6))
def test_decoding_measures(seed: int) -> None:
    p = remembering(40, seed)
    rng = np.random.default_rng(seed)
    keys, bias = rng.random((12, 40)), rng.normal(0, 0.3, (12, len(p.edges)))
    weights, cuts = rng.random((12, 4)), (rng.random((12, 40)) < 0.3).astype(np.uint8)
    weights[:, 3] *= 0.01
    for genomes in (Genomes(keys), Genomes(keys, bias, weights), Genomes(keys, cuts=cuts)):
        found = decode(p, genomes)
        for k in range(12):
            chosen = found.chosen(k)
            assert check_solution(p, chosen) == ""
            assert found.costs[k] == pytest.approx(p.cost[list(chosen)].sum())
            assert found.parts[k] == pytest.approx(p.parts[list(chosen)].sum(axis=0))
            assert found.peaks[k] == pytest.approx(peak(p, chosen))
        both = decode(p, genomes, threads=3)
        for name in ("orders", "groups", "costs", "parts", "peaks", "prints"):
            assert getattr(found, name).tobytes() == getattr(both, name).tobytes()


def test_given_cuts_take_the_largest_and_cheapest() -> None:
    edges = [(0, 1), (1, 2), (2, 3)]
    groups = [(0,), (1,), (2,), (3,), (2, 3), (1, 2, 3), (1, 2, 3), (0, 1), (1, 2, 3)]
    p = make_problem(4, edges, groups, [1, 1, 1, 1, 1, 3, 2, 1, 4])
    cuts = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0]], np.uint8)
    found = decode(p, Genomes(np.zeros((4, 4)), cuts=cuts))
    assert [found.chosen(k) for k in range(4)] == [(0, 6), (7, 4), (0, 1, 2, 3), (7, 2, 3)]


def test_bias_moves_the_cut() -> None:
    """A price on one edge keeps its ends together; what counts in the end is the true cost."""
    p = make_problem(3, [(0, 1), (1, 2)], [(0,), (1,), (2,), (0, 1), (1, 2)], [1, 1, 1, 3, 4])
    bias = np.array([[0.0, 0], [5, 0], [0, 5]])
    found = decode(p, Genomes(np.zeros((3, 3)), bias))
    assert [found.chosen(k) for k in range(3)] == [(0, 1, 2), (3, 2), (0, 4)]
    assert found.costs.tolist() == [3, 4, 5]


@pytest.mark.parametrize("seed", range(40))
def test_memory_proofs_agree_with_exhaustive_search(seed: int) -> None:
    p = remembering(int(np.random.default_rng(seed).integers(1, 11)), seed)
    least = exhaustive(p, peaks=True)
    proof = prove_peak(p)
    assert proof is not None
    assert proof.peak == least == peak(p, proof.chosen)
    assert check_solution(p, proof.chosen) == ""
    assert proof.cost == pytest.approx(exhaustive(p.limited(least)))
    known = prove_peak(p, known=least)
    assert known is not None
    assert known.peak == least
    for limit in (least, 1.2 * least):
        tight = prove(p.limited(limit))
        assert tight is not None
        assert tight.cost == pytest.approx(exhaustive(p.limited(limit)))
        assert check_solution(p.limited(limit), tight.chosen) == ""
    if least > 0:
        with pytest.raises(InfeasibleError, match="no schedule needs less") as error:
            prove(p.limited(least - 1))
        assert error.value.peak == least


@pytest.mark.parametrize("seed", range(6))
def test_moves_within_the_limit_are_re_cut_exactly(seed: int) -> None:
    free = remembering(80, seed)
    order = np.arange(80, dtype=np.int32)
    (start,) = decode(free, keys_of(order[None])).peaks
    p = free.limited(0.8 * start)
    walked, cost = anneal(p, order, 4000, 1.0, 0.01, seed)
    found = decode(p, keys_of(walked[None]))
    assert cost == pytest.approx(found.costs[0], rel=1e-9)
    assert cost < decode(p, keys_of(order[None])).costs[0]


def test_the_cut_within_a_limit_is_the_best() -> None:
    """All cuts of short orders, tried one by one."""
    for seed in range(20):
        p = remembering(7, seed)
        order = decode(p, np.random.default_rng(seed).random((1, 7))).orders[0]
        variants = {p.group(v[0]): v for v in p.variants}
        found = []
        for bits in itertools.product((0, 1), repeat=6):
            ends = [k + 1 for k in range(6) if bits[k]] + [7]
            sets = [tuple(sorted(order[a:b].tolist()))
                    for a, b in zip([0, *ends[:-1]], ends, strict=True)]  # fmt: skip
            if all(s in variants for s in sets):
                chosen = [variants[s][0] for s in sets]
                found.append((peak(p, chosen), float(p.cost[chosen].sum())))
        least = min(found)[0]
        tight = p.limited(least)
        (cost,) = decode(tight, keys_of(order[None])).costs
        assert cost == pytest.approx(min(c for m, c in found if m <= least))
        heavy = np.array([0.0, 0, 0, 1])
        assert peak(p, cut(p, order, heavy)) == least


def test_equal_schedules_have_one_name() -> None:
    edges = [(0, 2), (1, 3)]
    p = make_problem(4, edges, [(0,), (1,), (2,), (3,)], [1] * 4)
    one, other = [0, 1, 2, 3], [1, 3, 0, 2]
    assert canonical(p, one) == canonical(p, other) == (0, 1, 2, 3)
    assert fingerprint(p, one) == fingerprint(p, other)
    found = decode(p, np.array([[0, 1, 2, 3.0], [2, 0, 3, 1]]))
    assert found.orders.tolist() == [[0, 1, 2, 3], [1, 3, 0, 2]]
    assert found.prints[0] == found.prints[1]
    values = [(0, 1.0, [2], False), (1, 1.0, [3], False)]
    with_memory = make_problem(4, edges, [(0,), (1,), (2,), (3,)], [1] * 4, values=values)
    assert fingerprint(with_memory, one) != fingerprint(with_memory, other)
    apart = decode(with_memory, np.array([[0, 1, 2, 3.0], [2, 0, 3, 1]])).prints
    assert apart[0] != apart[1]
