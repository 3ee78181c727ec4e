"""Schedules within a limit of bytes: found wherever one exists, whatever is left out on the way."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evonnx.search import peaks
from evonnx.search.descend import Descent
from evonnx.search.exact import exhaustive, prove_peak
from evonnx.search.generate import remembering
from evonnx.search.problem import Problem, make_problem
from evonnx.search.solutions import check_solution, peak


def in_place(nodes: int, seed: int) -> Problem:
    """A generated problem with groups that write over what nobody else reads, and few sizes, so
    that many moves cost nothing."""
    p = remembering(nodes, seed)
    f, rng = p.flat, np.random.default_rng([seed, 3])
    sizes = rng.integers(0, 4, len(f.nbytes)).astype(float)
    users = [f.users[a:b].tolist() for a, b in itertools.pairwise(f.user_ptr)]
    values = [(int(f.maker[w]), sizes[w], users[w], bool(f.kept[w])) for w in range(len(sizes))]
    groups = [p.group(g) for g in range(p.candidates)]
    plain = make_problem(nodes, p.edges, groups, p.cost, values=values)
    written = plain.flat.written.copy()
    for g, members in enumerate(groups):
        ended = [sizes[w] for w in range(len(sizes)) if not f.kept[w] and users[w]
                 and f.maker[w] not in members and set(users[w]) <= {*members}]  # fmt: skip
        if ended and rng.random() < 0.7:
            written[g] -= min(written[g], max(ended))
    return make_problem(nodes, p.edges, groups, p.cost, values=values, written=written)


def waisted(seed: int) -> Problem:
    """Two problems behind one another, joined by one node, with groups across it."""
    rng = np.random.default_rng(seed)
    one, two = in_place(6, seed), in_place(6, seed + 1000)
    edges = [*one.edges, *((v, 6) for v in range(6)), *((6, v + 7) for v in range(6)),
             *((a + 7, b + 7) for a, b in two.edges)]  # fmt: skip
    groups = [one.group(g) for g in range(one.candidates)] + [(6,)]
    groups += [tuple(v + 7 for v in two.group(g)) for g in range(two.candidates)]
    groups += [(5, 6), (6, 7), (5, 6, 7)][: int(rng.integers(4))]
    values = [(v, float(rng.integers(1, 5)), [w for u, w in edges if u == v], False)
              for v in range(13)]  # fmt: skip
    return make_problem(13, edges, groups, np.ones(len(groups)), values=values)


def check(p: Problem, least: float) -> None:
    descent = Descent(p)
    for limit in (least, least + 0.5, 1.3 * least, np.inf):
        found, final, _ = descent.within(limit, 100_000)
        assert final
        assert found is not None
        assert check_solution(p, found) == ""
        assert peak(p, found) <= limit
    if least > 0:
        assert descent.within(least - 0.5, 100_000)[:2] == (None, True)


@pytest.mark.parametrize("make", [in_place, remembering])
def test_small_graphs(make) -> None:  # type: ignore[no-untyped-def]
    for seed in range(150):
        p = make(int(np.random.default_rng(seed).integers(1, 12)), seed)
        check(p, exhaustive(p, peaks=True))


def test_waists() -> None:
    cut = 0
    for seed in range(40):
        p = waisted(seed)
        least = exhaustive(p, peaks=True)
        check(p, least)
        cut += len(list(Descent(p)._parts(least))) > 1
    assert cut > 10


def test_larger_graphs() -> None:
    for seed in range(8):
        p = in_place(30, seed)
        proof = prove_peak(p)
        assert proof is not None
        check(p, proof.peak)


def test_too_many_ideals_are_no_answer() -> None:
    p = remembering(40, 1)
    found, final, met = Descent(p).within(p.flat.nbytes.max(), 3)
    assert (found, final, met) == (None, False, 3)


def test_without_a_proof_the_bound_lies_below_every_schedule(monkeypatch: pytest.MonkeyPatch
                                                             ) -> None:
    """Descents that may meet few ideals prove little, and nothing that is wrong."""
    monkeypatch.setattr(peaks, "STATES", 1)
    monkeypatch.setattr(peaks, "PROOF", 2)
    proven = 0
    for seed in range(30):
        p = in_place(8, seed)
        least = exhaustive(p, peaks=True)
        found = peaks.least_peak(p, np.arange(p.nodes), 50)
        assert 0 <= found.bound <= least <= found.peak
        assert not found.proven or found.bound == found.peak == least
        proven += found.proven
    assert proven < 30
