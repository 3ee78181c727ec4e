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
from evonnx.runtime.phases import Access, Shape, arrange, share

TARGET = replace(Target.named("generic"), flops=1e9, l2_rate=1e9, sync_s=1e-6)

access = st.tuples(st.integers(1, 2), st.integers(0, 9), st.integers(1, 4), st.booleans()).map(
    lambda t: (t[0], t[1], t[1] + t[2], t[3])
)
steps = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 16), st.lists(access, max_size=3)),
    min_size=1, max_size=30,
)  # fmt: skip


def clash(a: list[Access], b: list[Access]) -> bool:
    return any(
        s == s2 and (w or w2) and lo < hi2 and lo2 < hi
        for s, lo, hi, w in a
        for s2, lo2, hi2, w2 in b
    )


@given(steps)
def test_phases(drawn: list[tuple[int, int, list[Access]]]) -> None:
    rows = np.zeros((len(drawn), ROW_WORDS), np.int64)
    rows[:, ROW_TILES] = [tiles for tiles, _, _ in drawn]
    shares = [min(tiles, chunks) if tiles > 1 else 0 for tiles, chunks, _ in drawn]
    shape = arrange(rows, shares, [own for _, _, own in drawn])
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
            where += [(phase, unit)] * length
            totals[-1] += 1
            i += length
        unit += 1
    assert i == len(drawn)
    assert totals == expected
    assert (unit, phase + 1) == (shape.units, shape.phases)
    assert max(widths) <= shape.places
    assert shape.places & (shape.places - 1) == 0
    for k, (_, _, own) in enumerate(drawn):
        for j in range(k):
            if clash(own, drawn[j][2]):
                assert where[k] == where[j] and not shares[k] or where[k][0] > where[j][0]


def test_phases_are_not_longer_than_counters() -> None:
    rows = np.zeros((100, ROW_WORDS), np.int64)
    rows[:, ROW_TILES] = 10_000
    shape = arrange(rows, [1000] * 100, [[]] * 100)
    assert shape.phases == 2
    assert rows[:, ROW_TOTAL].max() < 1 << 16


def test_who_shares() -> None:
    ms = 10**6  # scalar operations of a millisecond
    tiles = np.array([1, 2, 64, 64, 64, 0])
    flops = np.array([ms, ms, ms, 10, 0, 0])
    nbytes = np.array([0, 0, 0, 10, 10 * ms, 0])
    assert share(tiles, flops, nbytes, TARGET, 2) == [0, 2, 16, 0, 16, 0]
    assert share(tiles, flops, nbytes, TARGET, 4) == [0, 2, 32, 0, 32, 0]
    assert share(tiles, flops, nbytes, TARGET, 1) == [0] * 6
    assert Shape() == Shape(0, 0, 1)
