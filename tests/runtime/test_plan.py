"""The memory planner: no two live buffers overlap, and plans are near the bound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evonnx.ir.dim_functions import bcast, ceil_div, dmax, dmin
from evonnx.ir.dims import sym
from evonnx.ir.errors import FeedError, LimitError, ModelError
from evonnx.ir.target import Target
from evonnx.runtime.arena import Arena, Plan
from evonnx.runtime.frame import PAGE, allocate, data_address
from evonnx.runtime.plan import ALIGN, aligned, layout
from evonnx.runtime.sizes import Sizes
from evonnx.runtime.tables import PeriodTemplate

Life = tuple[int, int, int]
"""Bytes, first and last step of a buffer."""

lifetimes = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 40), st.integers(0, 12)).map(
        lambda t: (t[0], t[1], t[1] + t[2])
    ),
    max_size=60,
)


def plan(lives: list[Life], patience: int = 0) -> Plan:
    sizes = np.array([n for n, _, _ in lives], np.int64)
    return Arena([life[1:] for life in lives]).place(sizes, patience)


@given(lifetimes, st.sampled_from([0, 3]))
def test_live_buffers_never_overlap(lives: list[Life], patience: int) -> None:
    found = plan(lives, patience)
    assert found.peak <= plan(lives).peak
    for i, (a, (n, first, last)) in enumerate(zip(found.offsets, lives)):
        assert a % ALIGN == 0
        assert a + aligned(n) <= found.peak or n == 0
        for b, (m, begin, end) in zip(found.offsets[:i], lives[:i]):
            if first <= end and begin <= last:
                assert a + n <= b or b + m <= a or not n * m
    assert found.bound <= found.peak <= sum(aligned(n) for n, _, _ in lives)
    steps = range(max((last for _, _, last in lives), default=0) + 1)
    alive = [sum(aligned(n) for n, first, last in lives if first <= s <= last) for s in steps]
    assert found.bound == max(alive)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=80))
def test_chains_are_planned_perfectly(sizes: list[int]) -> None:
    """Each value lives for two steps, as in a chain of layers: the bound is reached."""
    found = plan([(n, i, i + 1) for i, n in enumerate(sizes)])
    assert found.peak <= found.bound * 1.35


def test_patience_closes_gaps() -> None:
    lives = [(1, 4, 8), (1, 5, 8), (1, 0, 3), (3, 2, 5), (2, 7, 8), (2, 6, 8), (2, 3, 7)]
    lives = [(n * ALIGN, first, last) for n, first, last in lives]
    assert plan(lives).peak > plan(lives).bound
    assert plan(lives, 50).peak == plan(lives).bound
    assert plan(lives, 50) == plan(lives, 50)


def test_nothing_to_place() -> None:
    assert plan([]) == Plan([], 0, 0)


def test_absurd_sizes() -> None:
    with pytest.raises(LimitError, match="bytes of memory"):
        plan([(1 << 50, 0, 1)])


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_sizes_as_one_function(n: int, k: int) -> None:
    a, b = sym(["a", "b"][0]), sym("b")
    dims = [a, 3, a * b + 7, ceil_div(a * 3, b), dmax(a, b), dmin(a, b, 5), (a * a - b) // b * 2,
            (a + 1) % b]  # fmt: skip
    sizes = Sizes(["b", "a"])
    slots = [sizes.slot(d) for d in dims]
    values = sizes.evaluate([k, n])
    got = [values[s] for s in slots]
    assert got == [n, 3, n * k + 7, -(-3 * n // k), max(n, k), min(n, k, 5),
                   (n * n - k) // k * 2, (n + 1) % k]  # fmt: skip


def test_size_errors() -> None:
    a, b = sym("a"), sym("b")
    sizes = Sizes(["a", "b"])
    sizes.slot(bcast(a, b))
    assert sizes.evaluate([1, 5]) == [5]
    with pytest.raises(FeedError, match="sizes 3 and 5 do not broadcast"):
        sizes.evaluate([3, 5])
    sizes.slot(a // b)
    with pytest.raises(ModelError, match="divides by zero"):
        sizes.evaluate([0, 0])
    sizes.slot(sym("c"))
    with pytest.raises(ModelError, match="size c is not known here"):
        sizes.evaluate([1, 1])


def test_symbol_names_are_only_keys() -> None:
    """A name may look like anything an identifier may; none of it is executed or shadows."""
    sizes = Sizes(["s", "max", "f", "a0"])
    dims = [sym("s") + sym("max"), dmax(sym("f"), sym("a0"))]
    for d in dims:
        sizes.slot(d)
    assert sizes.evaluate([1, 2, 3, 4]) == [3, 4]


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_programs_keep_live_buffers_apart(make: Any, data: Any) -> None:
    """Random chains with skips and views: whatever a step touches is intact when it runs."""
    make, n = make(), sym("N")
    values = [make.input("x", ("N",))]
    for _ in range(data.draw(st.integers(1, 25))):
        a, b = (data.draw(st.sampled_from(values)) for _ in range(2))
        y = make.buffer((n * data.draw(st.integers(1, 9)),))
        make.run("add", (a, b, y), (1,), n)
        values.append(y if data.draw(st.booleans()) else make.buffer((n,), view_of=y))
    make.output("y", values[-1])
    program = make.program()
    shape = layout(program)
    period = PeriodTemplate(shape, 0, {k.symbol: 1 for k in program.kernels.values()})
    size = data.draw(st.integers(1, 3000))
    bound = period.bind([size], ((size,),), None, {}, Target.detect(), 2)
    spans = [
        (bound.offsets[r], bound.offsets[r] + bound.sizes[slot], first, last)
        for r, slot, first, last in period.arena
    ]
    for i, (lo, hi, first, last) in enumerate(spans):
        assert hi <= bound.chunk
        for lo2, hi2, first2, last2 in spans[:i]:
            if first <= last2 and first2 <= last:
                assert hi <= lo2 or hi2 <= lo
    assert bound.bound <= bound.chunk


def test_large_memory_begins_at_a_page():
    """Results never begin a few lines behind an operand, in the last 12 bits of their addresses."""
    for nbytes in (0, 1, PAGE - 1, PAGE, PAGE + 1, 100_000):
        raw, address = allocate(nbytes)
        assert address % (PAGE if nbytes >= PAGE else ALIGN) == 0
        assert data_address(raw) <= address
        assert address + nbytes <= data_address(raw) + raw.nbytes
