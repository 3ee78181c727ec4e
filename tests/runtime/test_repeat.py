"""Loops whose iterations are one native call, against the same loops in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evonnx.ir.dims import sym
from evonnx.ir.types import BOOL, I64
from evonnx.runtime.executable import Executable
from evonnx.runtime.program import BindStep, ControlStep, Program

STEP = """
def kernel(bufs, params, begin, end):
    i = ptr_i64(bufs, 0)
    x = ptr_f32(bufs, 1)
    y = ptr_f32(bufs, 2)
    for t in range(begin, end):
        st(y, t, ld(x, t) + f32(ld(i, 0)))
"""
"""``y = x + i``, one element a tile."""

BELOW = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    c = ptr_bool(bufs, 1)
    st(c, 0, lt(ld(x, 0), f32(prm(params, 0))))
"""


def _executable(
    make: Any, cache: Any, body: Program, step: Callable[[Any], ControlStep], outputs: Any,
    threads: int = 1,
) -> Executable:
    m = make()
    ends = step(m)
    m.steps.append(ends)
    for name, b in zip(outputs, ends.outputs, strict=True):
        m.output(name, b)
    found = Executable(m.program(), m.constants, threads=threads, cache=cache)
    assert found._runner.loops, "the loop should be native"
    return found


def _counting_body(make: Any, limit: int | None, flops: int) -> Program:
    """(i, cond, s) -> (cond or s + i < limit, s + i, s + i, s): a state, which is an item, too,
    and the state before as another."""
    m = make()
    i, cond, s = m.input("i", (), I64), m.input("cond", (), BOOL), m.input("s", (40,))
    following, alive = m.buffer((40,)), cond
    m.run(STEP, (i, s, following), (), 40, flops=flops)
    if limit is not None:
        alive = m.buffer((), dtype=BOOL)
        m.run(BELOW, (following, alive), (limit,), 1)
    for name, b in (("c", alive), ("s", following), ("new", following), ("old", s)):
        m.output(name, b)
    return m.program()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("limit", [None, 50, 40_000])
def test_a_loop_of_unknown_length(make: Any, cache: Any, threads: int, limit: int | None) -> None:
    """Items outgrow their first memory; a condition ends the loop, or stays what it was."""

    def step(m: Any) -> ControlStep:
        n, x = m.input("n", (), I64), m.input("x", (40,))
        outs = m.buffer((40,)), m.buffer(("T", 40)), m.buffer(("T", 40))
        attrs = {"carried": 1, "symbols": (), "results": ()}
        return ControlStep("loop", attrs, (n, None, x), outs, (body,))

    body = _counting_body(make, limit, 10**9 if threads == 2 else 0)
    exe = _executable(make, cache, body, step, ("s", "new", "old"), threads)
    x = np.arange(40, dtype=np.float32)
    for trips in (0, 1, 2, 64, 65, 200, 300, 2):
        states = [x]
        while len(states) <= trips and (
            limit is None or len(states) == 1 or states[-1][0] < limit
        ):
            states.append(states[-1] + np.float32(len(states) - 1))
        out = exe.run({"n": np.int64(trips), "x": x})
        assert np.array_equal(out["s"], states[-1])
        assert np.array_equal(out["new"], np.array(states[1:], np.float32).reshape(-1, 40))
        assert np.array_equal(out["old"], np.array(states[:-1], np.float32).reshape(-1, 40))
        assert np.array_equal(x, np.arange(40))


def test_a_loop_without_a_bound(make: Any, cache: Any) -> None:
    def step(m: Any) -> ControlStep:
        x, outs = m.input("x", (40,)), (m.buffer((40,)), m.buffer(("T", 40)), m.buffer(("T", 40)))
        attrs = {"carried": 1, "symbols": (), "results": ()}
        return ControlStep("loop", attrs, (None, None, x), outs, (body,))

    body = _counting_body(make, 40_000, 0)
    out = _executable(make, cache, body, step, ("s", "new", "old")).run(
        {"x": np.zeros(40, np.float32)}
    )
    states = np.cumsum(np.arange(400))
    count = int((states < 40_000).sum()) + 1
    assert np.array_equal(out["new"][:, 0], states[:count])


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_scan_with_a_size_it_captures(make: Any, cache: Any, sources: Any, steps: int) -> None:
    """States that stay, that become what is captured, that are items; items that are inputs."""
    body = make()
    s, kept = body.input("s", ("F",)), body.input("kept", ("F",))
    again, e = body.input("again", ("F",)), body.input("e", ("F",))
    size, captured = body.input("size", (), I64), body.input("k", ("F",))
    body.steps.append(BindStep("C", size))
    total, more = body.buffer(("F",)), body.buffer(("C",))
    body.add(s, e, total)
    body.run(sources["affine"], (total, more), (1, 2, 0), sym("C"), flops=10**9)
    for name, b in (("s", total), ("kept", kept), ("again", captured)):
        body.output(name, b)
    for name, b in (("more", more), ("before", again), ("state", kept), ("element", e)):
        body.output(name, b)

    def step(m: Any) -> ControlStep:
        x, start, k = m.input("x", ("T", "F")), m.input("start", ("F",)), m.input("k", ("F",))
        n = m.input("n", (), I64)
        outs = tuple(m.buffer(("F",)) for _ in range(3))
        outs += tuple(m.buffer(("T", d)) for d in ("D", "F", "F", "F"))
        attrs = {"carried": 3, "sequences": 1, "symbols": (), "results": ()}
        return ControlStep("scan", attrs, (start, start, start, x, n, k), outs, (body.program(),))

    names = ("s", "kept", "again", "more", "before", "state", "element")
    exe = _executable(make, cache, body.program(), step, names)
    rng = np.random.default_rng(steps)
    for _ in range(3):
        x = rng.standard_normal((steps, 3)).astype(np.float32)
        start, k = rng.standard_normal((2, 3)).astype(np.float32)
        out = exe.run({"x": x, "start": start, "k": k, "n": 2})
        sums = [start]
        for row in x:
            sums.append(sums[-1] + row)
        assert np.array_equal(out["s"], sums[-1])
        assert np.array_equal(out["kept"], start)
        assert np.array_equal(out["again"], k)
        assert np.array_equal(out["more"], 2 * np.array(sums[1:])[:, :2])
        assert np.array_equal(out["before"], np.array([start] + [k] * (steps - 1)))
        assert np.array_equal(out["state"], np.tile(start, (steps, 1)))
        assert np.array_equal(out["element"], x)



def test_a_scan_over_numbers(make: Any, cache: Any) -> None:
    """Elements and states of rank 0."""
    body = make()
    s, e, total = body.input("s", ()), body.input("e", ()), body.buffer(())
    body.add(s, e, total)
    body.output("s", total)
    body.output("sum", total)

    def step(m: Any) -> ControlStep:
        x, start = m.input("x", ("T",)), m.input("start", ())
        outs = m.buffer(()), m.buffer(("T",))
        attrs = {"carried": 1, "sequences": 1, "symbols": (), "results": ()}
        return ControlStep("scan", attrs, (start, x), outs, (body.program(),))

    exe = _executable(make, cache, body.program(), step, ("s", "sums"))
    x = np.arange(1, 6, dtype=np.float32)
    out = exe.run({"x": x, "start": np.array(10, np.float32)})
    assert out["s"] == 25
    assert np.array_equal(out["sums"], 10 + np.cumsum(x))
