"""Units, phases and chunks: whatever depends on one another is kept apart, nothing is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evonnx.ir.target import Target
from evonnx.runtime.driver import (
    BARRIER,
    PARALLEL,
    ROW_CHUNK,
    ROW_CHUNKS,
    ROW_FLAGS,
    ROW_TILES,
    ROW_TOTAL,
    ROW_WORDS,
)  # fmt: skip
from evonnx.runtime.phases import Access, Shape, arrange, has_stages, share
from evonnx.runtime.program import KernelStep

TARGET = replace(Target.named("generic"), flops=1e9, l2_rate=1e9, sync_s=1e-6)

access = st.tuples(st.integers(1, 2), st.integers(0, 9), st.integers(1, 4), st.booleans()).map(
    lambda t: (t[0], t[1], t[1] + t[2], t[3])
)
stage = st.one_of(st.none(), st.none(), st.integers(0, 3))
steps = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 16), st.lists(access, max_size=3), stage),
    min_size=1, max_size=30,
)  # fmt: skip


def step(group: int, stage: int | None = None) -> KernelStep:
    return KernelStep("k", (), (), 1, group=group, stage=stage)


def clash(a: list[Access], b: list[Access]) -> bool:
    return any(
        s == s2 and (w or w2) and lo < hi2 and lo2 < hi
        for s, lo, hi, w in a
        for s2, lo2, hi2, w2 in b
    )


@given(steps)
def test_phases(drawn: list[tuple[int, int, list[Access], int | None]]) -> None:
    rows = np.zeros((len(drawn), ROW_WORDS), np.int64)
    rows[:, ROW_TILES] = [tiles for tiles, _, _, _ in drawn]
    shares = [min(tiles, chunks) if tiles > 1 else 0 for tiles, chunks, _, _ in drawn]
    stages = [number for _, _, _, number in drawn]
    shape = arrange(rows, shares, [own for _, _, own, _ in drawn],
                    [step(k // 2, number) for k, number in enumerate(stages)])  # fmt: skip
    i = unit = 0
    phase = -1
    where: list[tuple[int, int]] = []  # (phase, unit) of every step
    totals: list[int] = []
    expected: list[int] = []
    widths: list[int] = []
    while i < len(drawn):
        if i == 0 or rows[i, ROW_FLAGS] & BARRIER:
            phase += 1
            totals.append(0)
            widths.append(0)
            expected.append(int(rows[i, ROW_TOTAL]))
        widths[-1] += 1
        if rows[i, ROW_FLAGS] & PARALLEL:
            chunks, size = int(rows[i, ROW_CHUNKS]), int(rows[i, ROW_CHUNK])
            assert (chunks - 1) * size < drawn[i][0] <= chunks * size
            totals[-1] += chunks
            where.append((phase, unit))
            i += 1
        else:
            length = int(rows[i, ROW_CHUNKS])
            assert length >= 1
            assert all(shares[k] == 0 for k in range(i, i + length))
            assert not rows[i + 1 : i + length, ROW_FLAGS].any()
            assert len(set(stages[i : i + length])) == 1
            if stages[i] is not None:
                assert {k // 2 for k in range(i, i + length)} == {i // 2}
            where += [(phase, unit)] * length
            totals[-1] += 1
            i += length
        unit += 1
    assert i == len(drawn)
    assert totals == expected
    assert (unit, phase + 1) == (shape.units, shape.phases)
    assert max(widths) <= shape.places
    assert shape.places & (shape.places - 1) == 0
    for k, (_, _, own, _) in enumerate(drawn):
        if k and stages[k] != stages[k - 1]:
            assert where[k][0] > where[k - 1][0]
        for j in range(k):
            if clash(own, drawn[j][2]):
                assert where[k] == where[j] and not shares[k] or where[k][0] > where[j][0]


def test_phases_are_not_longer_than_counters() -> None:
    rows = np.zeros((100, ROW_WORDS), np.int64)
    rows[:, ROW_TILES] = 10_000
    shape = arrange(rows, [1000] * 100, [[]] * 100, [step(0)] * 100)
    assert shape.phases == 2
    assert rows[:, ROW_TOTAL].max() < 1 << 16


def test_who_shares() -> None:
    ms = 10**6  # scalar operations of a millisecond
    tiles = np.array([1, 2, 64, 64, 64, 0])
    flops = np.array([ms, ms, ms, 10, 0, 0])
    nbytes = np.array([0, 0, 0, 10, 10 * ms, 0])
    assert share(tiles, flops, nbytes, TARGET, 2) == [0, 2, 64, 0, 64, 0]
    assert share(tiles, flops, nbytes, TARGET, 4) == [0, 2, 64, 0, 64, 0]
    assert share(tiles, flops, nbytes, TARGET, 1) == [0] * 6
    assert Shape() == Shape(0, 0, 1)


def test_a_share_below_the_team_is_the_number_of_chunks() -> None:
    tiles, none = np.array([64, 64, 64, 2, 64]), np.zeros(5)
    given = np.array([1, 3, 9, 3, 0])
    assert share(tiles, none, none, TARGET, 4, given) == [0, 3, 4, 2, 0]
    assert share(tiles, none, none, TARGET, 2, given) == [0, 2, 2, 2, 0]
    assert share(tiles, none, none, TARGET, 1, given) == [0] * 5


def test_groups_of_a_stage_are_units_of_one_phase() -> None:
    rows = np.zeros((5, ROW_WORDS), np.int64)
    rows[:, ROW_TILES] = 8
    steps = [step(0), step(1, 7), step(1, 7), step(2, 7), step(3)]
    shape = arrange(rows, [0, 0, 0, 4, 0], [[]] * 5, steps)
    assert rows[:, ROW_FLAGS].tolist() == [0, BARRIER, 0, PARALLEL, BARRIER]
    assert rows[:, ROW_CHUNKS].tolist() == [1, 2, 0, 4, 1]
    assert rows[:, ROW_TOTAL].tolist() == [1, 5, 0, 0, 1]
    assert shape == Shape(4, 3, 2)
    assert has_stages(steps)
    assert not has_stages([step(0), step(1), step(2, 7), step(2, 7), step(3, 8)])
