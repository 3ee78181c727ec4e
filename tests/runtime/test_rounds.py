"""Steps of several launches: each sees its number and everything that the last one wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir.dims import sym
from evonnx.runtime.executable import Executable
from evonnx.runtime.profile import profile

TURN = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    n = prm(params, 0)
    k = prm(params, 1)
    for i in range(begin, end):
        if k == 0:
            st(y, i, ld(x, i))
        else:
            st(y, k * n + i, ld(y, (k - 1) * n + imod(i + k, n)) * f32(2) + f32(k))
"""
"""Row k of y is row k - 1, turned by k, times 2, plus k: every tile reads what others wrote."""


def program(m: Any, rounds: Any, size: int = 24) -> Any:
    """Affine, the rounds, affine: steps of one launch around those of many."""
    x, before = m.input("x", (size,)), m.buffer((size,))
    m.affine(x, before, 3, 1, tiles=4)
    rows = m.buffer((rounds, size))
    m.run(TURN, (before, rows), (size,), size, flops=10**9, rounds=rounds)
    end = m.buffer((rounds, size), "output")
    m.affine(rows, end, 1, 5, tiles=4)
    m.output("y", end)
    return m.program()


def turned(first: np.ndarray, rounds: int) -> np.ndarray:
    """What ``TURN`` makes of ``first`` in so many launches."""
    rows = [first]
    for k in range(1, rounds):
        rows.append(np.roll(rows[-1], -k) * 2 + k)
    return np.array(rows, np.float32)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rounds", [1, 2, 9])
def test_every_launch_sees_the_last(maker: Any, cache: Any, threads: int, rounds: int) -> None:
    exe = Executable(program(maker, rounds), maker.constants, threads=threads, cache=cache)
    x = np.arange(24, dtype=np.float32) % 5
    for _ in range(20):
        assert np.array_equal(exe.run({"x": x})["y"], turned(x * 3 + 1, rounds) + 5)
    times = profile(exe, {"x": x})
    assert [t.runs for t in times] == [1, 1, 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_launches_may_depend_on_sizes(make: Any, cache: Any, threads: int
                                                    ) -> None:
    m = make()
    n = sym("n")
    extent = m.input("extent", (n,))
    x, rows = m.input("x", (24,)), m.buffer((n, 24), "output")
    m.run(TURN, (x, rows), (24,), 24, flops=10**9, rounds=n)
    sums = m.buffer((n,), "output")
    m.add(extent, extent, sums)
    m.output("y", rows)
    m.output("s", sums)
    exe = Executable(m.program(), m.constants, threads=threads, cache=cache)
    values = np.arange(24, dtype=np.float32)
    for rounds in (3, 1, 7, 3):
        got = exe.run({"extent": np.ones(rounds, np.float32), "x": values})
        assert np.array_equal(got["y"], turned(values, rounds))
        assert np.array_equal(got["s"], np.full(rounds, 2, np.float32))
