"""Host-level steps: sizes that kernels compute, control flow over bodies, host functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir.dims import sym
from evonnx.ir.errors import FeedError, UnsupportedError, VerifyError
from evonnx.ir.types import BF16, BOOL, F16, F32, I64, STR, SequenceType, TensorType
from evonnx.runtime.executable import Executable
from evonnx.runtime.host import HOST, host
from evonnx.runtime.program import BindStep, Buffer, ControlStep, HostStep, print_program

BELOW = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    c = ptr_bool(bufs, 1)
    st(c, 0, lt(ld(x, 0), f32(prm(params, 0))))
"""
"""Whether the first element is below a number."""

INDEX = """
def kernel(bufs, params, begin, end):
    i = ptr_i64(bufs, 0)
    x = ptr_f32(bufs, 1)
    y = ptr_f32(bufs, 2)
    n = prm(params, 0)
    for t in range(0, n):
        st(y, t, ld(x, t) + f32(ld(i, 0)))
"""
"""``y = x + i``."""

GROW = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    n = prm(params, 0)
    for t in range(0, n):
        st(y, t, ld(x, t))
    st(y, n, f32(n))
"""
"""``y`` is ``x`` and its length appended."""


def positives(m: Any, sources: Any) -> Any:
    """Counts the positive elements and returns that many of the first ones, plus one."""
    x = m.input("x", ("N",))
    count = m.buffer((), dtype=I64)
    m.run(sources["count"], (x, count), (sym("N"),), 1)
    m.steps.append(BindStep("C", count))
    y = m.buffer(("C",))
    z = m.buffer(("C",))
    m.run(sources["affine"], (x, y), (1, 1, 1), sym("C"), flops=10**9)
    m.run(sources["affine"], (y, z), (1, 2, 0), sym("C"), flops=10**9)
    m.output("z", z)
    m.output("count", count)
    return m


@pytest.mark.parametrize("threads", [1, 2])
def test_sizes_that_a_kernel_computes(maker: Any, cache: Any, sources: Any, threads: int) -> None:
    exe = Executable(
        positives(maker, sources).program(), maker.constants, threads=threads, cache=cache
    )
    rng = np.random.default_rng(0)
    for n in [4, 0, 1, 300, 4, 300] + [50] * 40:
        x = rng.integers(-5, 6, n).astype(np.float32)
        count = int((x > 0).sum())
        out = exe.run({"x": x})
        assert out["count"] == count
        assert np.array_equal(out["z"], 2 * (x[:count] + 1))


def test_two_stages_in_a_row(maker: Any, cache: Any, sources: Any) -> None:
    positives(maker, sources)
    z = maker.outs[0][1]
    again = maker.buffer((), dtype=I64)
    maker.run(sources["count"], (z, again), (sym("C"),), 1)
    maker.steps.append(BindStep("D", again))
    w = maker.buffer(("D",))
    maker.run(sources["affine"], (z, w), (1, 1, 0), sym("D"))
    maker.output("w", w)
    exe = Executable(maker.program(), maker.constants, threads=2, cache=cache)
    x = np.array([1, -1, 3, -4], np.float32)
    out = exe.run({"x": x})
    assert np.array_equal(out["z"], [4, 0])
    assert np.array_equal(out["w"], [4])


def body_of_loop(make: Any) -> Any:
    """(i, cond, s, k) -> (s < 100, s + i, s): the state and each state before."""
    m = make()
    i = m.input("i", (), I64)
    m.input("cond", (), BOOL)
    s = m.input("s", (4,))
    m.input("k", (4,))
    cond, following = m.buffer((), dtype=BOOL), m.buffer((4,))
    m.run(INDEX, (i, s, following), (4,), 1)
    m.run(BELOW, (following, cond), (5,), 1)
    for name, b in (("cond", cond), ("s", following), ("item", s)):
        m.output(name, b)
    return m.program()


@pytest.mark.parametrize("trips", [0, 1, 3, 50])
def test_loop(make: Any, cache: Any, trips: int) -> None:
    m = make()
    n, x = m.input("trips", (), I64), m.input("x", (4,))
    final, items = m.buffer((4,)), m.buffer(("T", 4))
    total = m.buffer((4,))
    attrs = {"carried": 1, "symbols": (), "results": ()}
    m.steps.append(
        ControlStep("loop", attrs, (n, None, x, x), (final, items), (body_of_loop(make),))
    )
    m.add(final, x, total)
    for name, b in (("final", final), ("items", items), ("total", total)):
        m.output(name, b)
    program = m.program()
    assert "loop(%0, -, %1, %1) -> %2, %3" in print_program(program)
    exe = Executable(program, m.constants, threads=1, cache=cache)
    x = np.zeros(4, np.float32)
    for _ in range(2):
        out = exe.run({"trips": np.int64(trips), "x": x})
        state, seen, i = x, [], 0
        while i < trips and (i == 0 or state[0] < 5):
            seen.append(state)
            state = state + np.float32(i)
            i += 1
        assert np.array_equal(out["final"], state)
        assert out["items"].shape == (len(seen), 4)
        assert np.array_equal(out["items"], np.array(seen, np.float32).reshape(-1, 4))
        assert np.array_equal(out["total"], state + x)
        assert not np.may_share_memory(out["final"], x)


def test_a_loop_whose_state_grows(make: Any, cache: Any) -> None:
    body = make()
    body.input("i", (), I64)
    cond, s = body.input("cond", (), BOOL), body.input("s", ("S",))
    longer = body.buffer((sym("S") + 1,))
    body.run(GROW, (s, longer), (sym("S"),), 1)
    body.output("cond", cond)
    body.output("s", longer)
    m = make()
    n, x, final = m.input("n", (), I64), m.input("x", ("N",)), m.buffer(("M",))
    attrs = {"carried": 1, "symbols": (), "results": ()}
    m.steps.append(ControlStep("loop", attrs, (n, None, x), (final,), (body.program(),)))
    m.output("y", final)
    exe = Executable(m.program(), m.constants, threads=1, cache=cache)
    out = exe.run({"n": 3, "x": np.array([7, 7], np.float32)})["y"]
    assert out.tolist() == [7, 7, 2, 3, 4]


def test_scan(make: Any, cache: Any) -> None:
    body = make()
    s, e = body.input("s", ("F",)), body.input("e", ("F",))
    total = body.buffer(("F",))
    body.run(body_add(), (s, e, total), (1,), sym("F"))
    body.output("s", total)
    body.output("item", total)
    m = make()
    x, start = m.input("x", ("T", "F")), m.input("start", ("F",))
    final, items = m.buffer(("F",)), m.buffer(("T", "F"))
    attrs = {"carried": 1, "sequences": 1, "symbols": (), "results": ()}
    m.steps.append(ControlStep("scan", attrs, (start, x), (final, items), (body.program(),)))
    m.output("final", final)
    m.output("items", items)
    exe = Executable(m.program(), m.constants, threads=2, cache=cache)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    out = exe.run({"x": x, "start": np.ones(3, np.float32)})
    assert np.array_equal(out["items"], 1 + np.cumsum(x, 0))
    assert np.array_equal(out["final"], 1 + x.sum(0))


def body_add() -> str:
    return """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    z = ptr_f32(bufs, 2)
    for t in range(begin, end):
        st(z, t, ld(x, t) + ld(y, t))
"""


def test_if_with_sizes_from_outside(make: Any, cache: Any, sources: Any) -> None:
    """A branch captures nothing whose shape tells N: it comes through ``symbols``."""
    m = make()
    c, x = m.input("c", (), BOOL), m.input("x", ("N",))
    branches = []
    for k in range(2):
        b = make()
        inner, y = b.input("v", ("N",)), b.buffer(("N",))
        b.run(sources["affine"], (inner, y), (1, 1, k), sym("R") // 2)
        b.output("y", y if k else inner)
        branches.append(b.program())
    y = m.buffer(("M",))
    attrs = {"symbols": (("R", sym("N") * 2),), "results": (), "split": 1}
    m.steps.append(ControlStep("if", attrs, (c, x, x), (y,), tuple(branches)))
    m.output("y", y)
    exe = Executable(m.program(), m.constants, threads=1, cache=cache)
    x = np.arange(5, dtype=np.float32)
    for flag in (True, False):
        out = exe.run({"c": flag, "x": x})["y"]
        assert np.array_equal(out, x if flag else x + 1)
        assert not np.may_share_memory(out, x)


def test_a_size_from_nowhere(make: Any, cache: Any, sources: Any) -> None:
    m = make()
    x, y = m.input("x", (4,)), m.buffer(("Q",))
    m.run(sources["affine"], (x, y), (1, 1, 1), sym("Q"))
    m.output("y", y)
    with pytest.raises(VerifyError, match="size Q is not known yet"):
        Executable(m.program(), m.constants, cache=cache)


def test_negative_sizes(make: Any, cache: Any) -> None:
    m = make()
    n = m.input("n", (), I64)
    m.steps.append(BindStep("C", n))
    m.output("y", m.const(np.zeros(1, np.float32)))
    exe = Executable(m.program(), m.constants, cache=cache)
    with pytest.raises(FeedError, match="negative size C = -3"):
        exe.run({"n": -3})
    assert exe.run({"n": 3})["y"] == 0


def test_host_steps(make: Any, cache: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(
        HOST,
        "test_upper",
        lambda inputs, attrs: [np.char.upper(inputs[0].astype(str)).astype(object)],
    )
    monkeypatch.setitem(
        HOST, "test_lengths",
        lambda inputs, attrs: [np.array([len(s) for s in inputs[0]], np.float32), [1, 2]],
    )  # fmt: skip
    m = make()
    s, upper = m.input("s", ("N",), STR), m.buffer(("N",), dtype=STR)
    lengths, y = m.buffer(("N",)), m.buffer(("N",))
    m.buffers.append(Buffer("seq", SequenceType(m.buffers[y].type), "arena"))
    seq = len(m.buffers) - 1
    m.steps += [HostStep("test_upper", {}, (s,), (upper,))]
    m.steps += [HostStep("test_lengths", {}, (upper,), (lengths, seq))]
    m.run(body_add(), (lengths, lengths, y), (), sym("N"))
    for name, b in (("y", y), ("upper", upper), ("seq", seq)):
        m.output(name, b)
    exe = Executable(m.program(), m.constants, cache=cache)
    out = exe.run({"s": ["ab", "cde", ""]})
    assert out["y"].tolist() == [4, 6, 0]
    assert out["upper"].tolist() == ["AB", "CDE", ""]
    assert out["seq"] == [1, 2]
    with pytest.raises(FeedError, match="'s' is str"):
        exe.run({"s": np.zeros(3)})


@pytest.mark.parametrize("threads", [1, 2])
def test_a_host_step_reads_what_a_call_put_where_it_lies(
    make: Any, cache: Any, sources: Any, monkeypatch: Any, threads: int
) -> None:
    """Operands that stay (a constant, the arena) and operands of the caller (an input, an output),
    over calls of many sizes."""
    monkeypatch.setitem(
        HOST, "test_rows", lambda inputs, attrs: [[a if a is None else a.tolist() for a in inputs]]
    )
    m = make()
    x, fixed = m.input("x", ("N",)), m.const(np.array([3, 4], np.float32))
    y, z = m.buffer(("N",)), m.buffer(("N",))
    m.buffers.append(Buffer("rows", SequenceType(m.buffers[y].type), "arena"))
    rows = len(m.buffers) - 1
    m.run(sources["affine"], (x, y), (1, 2, 0), sym("N"), flops=10**9)
    m.run(sources["affine"], (y, z), (1, 1, 1), sym("N"), flops=10**9)
    m.steps.append(HostStep("test_rows", {}, (x, fixed, y, None, z), (rows,)))
    m.output("z", z)
    m.output("rows", rows)
    exe = Executable(m.program(), m.constants, threads=threads, cache=cache)
    kept = []
    for k, n in enumerate([2, 2, 0, 5, 2, 300, 300, 2]):
        given = np.arange(n, dtype=np.float32) + k
        out = exe.run({"x": given})
        wanted = [given.tolist(), [3, 4], (2 * given).tolist(), None, (2 * given + 1).tolist()]
        assert out["rows"] == wanted
        kept.append((out["z"], wanted[4]))
    assert all(z.tolist() == wanted for z, wanted in kept)


def test_unknown_host_step(make: Any, cache: Any) -> None:
    m = make()
    s, t = m.input("s", ("N",), STR), m.buffer(("N",), dtype=STR)
    m.steps.append(HostStep("none", {}, (s,), (t,)))
    m.output("t", t)
    with pytest.raises(UnsupportedError, match="no host function 'none'"):
        Executable(m.program(), m.constants, cache=cache)


def test_a_host_step_is_registered_once() -> None:
    @host("test_once")
    def one(inputs: Any, attrs: Any) -> Any:
        return inputs

    try:
        with pytest.raises(RuntimeError, match="twice"):
            host("test_once")(one)
    finally:
        del HOST["test_once"]
    assert F32.kind == "f"


def test_an_input_whose_size_the_program_computes(make: Any, cache: Any, sources: Any) -> None:
    """As in the body of a scan: a size arrives as a value, and an input's shape depends on it."""
    m = make()
    n, x = m.input("n", (), I64), m.input("x", (sym("C") + 1,))
    m.steps.append(BindStep("C", n))
    y = m.buffer((sym("C"),))
    m.run(sources["affine"], (x, y), (1, 2, 0), sym("C"))
    m.output("y", y)
    exe = Executable(m.program(), m.constants, cache=cache)
    assert exe.run({"n": 2, "x": np.ones(3, np.float32)})["y"].tolist() == [2, 2]
    with pytest.raises(FeedError, match=r"input 'x' axis 0 has size 4, expected C \+ 1 = 3"):
        exe.run({"n": 2, "x": np.ones(4, np.float32)})


def test_constant_strings(make: Any, cache: Any) -> None:
    m = make()
    words = m.const(np.array(["a", "b"], object))
    m.buffers[words] = Buffer("words", TensorType(STR, (2,)), "const")
    m.output("words", words)
    exe = Executable(m.program(), m.constants, cache=cache)
    assert exe.run({})["words"].tolist() == ["a", "b"]


@pytest.mark.parametrize("dtype", [BF16, BOOL, F16])
def test_views_of_every_element_type(make: Any, cache: Any, dtype: Any) -> None:
    m = make()
    x = m.input("x", (2, 2), dtype)
    m.output("same", x)
    m.output("tail", m.buffer((2,), dtype=dtype, view_of=x, offset=2 * dtype.itemsize))
    exe = Executable(m.program(), m.constants, cache=cache)
    x = np.array([[0, 1], [1, 0]], dtype.np)
    x.flags.writeable = False
    out = exe.run({"x": x})
    assert np.array_equal(out["same"], x)
    assert np.array_equal(out["tail"], x[1])
    assert out["tail"].flags.writeable
