"""Programs of hand-made kernels: results, feeds, views, memory that is never shared."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from evonnx.ir.dims import sym
from evonnx.ir.errors import CompileError, FeedError, VerifyError
from evonnx.runtime.constants import settle
from evonnx.runtime.driver import BARRIER, PARALLEL, ROW_FLAGS, ROW_WORDS
from evonnx.runtime.executable import Executable, resident_peak
from evonnx.runtime.phases import Shape
from evonnx.runtime.plan import layout
from evonnx.runtime.program import BindStep, KernelStep, SizeCheck, print_program


@pytest.fixture(params=[1, 2, 4])
def threads(request: Any) -> int:
    return int(request.param)


def chain(m: Any, n: int = 64, length: int = 6) -> Any:
    """``length`` affine steps one after another."""
    at = m.input("x", (n,))
    for k in range(length):
        following = m.buffer((n,))
        m.affine(at, following, 2, k)
        at = following
    m.output("y", at)
    return m


def reference(x: np.ndarray, length: int = 6) -> np.ndarray:
    for k in range(length):
        x = 2 * x + np.float32(k)
    return x


def test_chain(maker: Any, cache: Any, threads: int) -> None:
    exe = Executable(chain(maker).program(), maker.constants, threads=threads, cache=cache)
    x = np.arange(64, dtype=np.float32)
    for _ in range(3):
        assert np.array_equal(exe.run({"x": x})["y"], reference(x))


def test_the_plan_reuses_memory(maker: Any, cache: Any) -> None:
    exe = Executable(chain(maker, 4096, 9).program(), maker.constants, threads=1, cache=cache)
    peak = exe.predicted_peak()
    assert peak.arena == peak.bound == 2 * 4 * 4096
    assert peak.outputs == 4 * 4096


def test_constants_scratch_and_rows(maker: Any, cache: Any, sources: Any, threads: int) -> None:
    w = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    x = maker.input("x", (8, 16))
    c = maker.const(w)
    s, r = maker.buffer((8, 16)), maker.buffer((8, 16))
    maker.add(x, c, s)
    maker.run(sources["scratch"], (s, r), (16,), 8, scratch_bytes=64, flops=10**9)
    maker.output("r", r)
    exe = Executable(maker.program(), maker.constants, threads=threads, cache=cache)
    v = np.ones((8, 16), np.float32)
    assert np.array_equal(exe.run({"x": v})["r"], (v + w)[:, ::-1])


def test_packed_constants_are_aligned(maker: Any, cache: Any) -> None:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = maker.input("x", (4, 3))
    c = maker.const(w, ("chain", ("transpose", (1, 0)), ("reshape", (4, 3))), (4, 3))
    y = maker.buffer((4, 3))
    maker.add(x, c, y)
    maker.output("y", y)
    exe = Executable(maker.program(), maker.constants, threads=1, cache=cache)
    assert np.array_equal(exe.run({"x": np.zeros((4, 3), np.float32)})["y"], w.T)
    assert all(a.ctypes.data % 64 == 0 for a in exe.parts.constants.values())


def test_packed_constants_of_another_program_are_shared(maker: Any, cache: Any) -> None:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    x = maker.input("x", (4, 3))
    c = maker.const(w, ("transpose", (1, 0)), (4, 3))
    y = maker.buffer((4, 3))
    maker.add(x, c, y)
    maker.output("y", y)
    first = Executable(maker.program(), maker.constants, threads=1, cache=cache)
    known = first.parts.constants
    second = Executable(maker.program(), maker.constants, threads=1, cache=cache, known=known)
    assert second.parts.constants.keys() == known.keys()
    assert all(second.parts.constants[key] is known[key] for key in known)
    other = ("other", None), np.zeros(3, np.float32)
    third = Executable(maker.program(), maker.constants, threads=1, cache=cache,
                       known=dict([other]))
    assert third.parts.constants.keys() == known.keys(), "nothing but what the program needs"
    for exe in (second, third):
        assert np.array_equal(exe.run({"x": np.zeros((4, 3), np.float32)})["y"], w.T)


def test_large_constants_stay_where_they_are() -> None:
    big = np.zeros((1 << 20) + 8, np.float32)[1:]
    assert settle(big, fresh=False) is big
    assert settle(big[:5], fresh=False).ctypes.data % 64 == 0
    odd = np.zeros((1 << 22) + 1, np.uint8)[1:].view(np.float32)
    assert settle(odd, fresh=False) is not odd


def test_unknown_transform(maker: Any, cache: Any) -> None:
    maker.input("x", (4,))
    y = maker.const(np.zeros(4, np.float32), ("fold", 1))
    maker.output("y", y)
    with pytest.raises(CompileError, match="no transform 'fold'"):
        Executable(maker.program(), maker.constants, cache=cache)


def test_outputs_never_share_memory(maker: Any, cache: Any) -> None:
    """Outputs that are an input, a constant, the same value twice, or pieces of one value."""
    x = maker.input("x", (8,))
    c = maker.const(np.arange(8, dtype=np.float32))
    y = maker.buffer((8,))
    maker.add(x, c, y)
    for name, b in (("x", x), ("c", c), ("y", y), ("again", y)):
        maker.output(name, b)
    maker.output("head", maker.buffer((4,), view_of=y))
    maker.output("tail", maker.buffer((2, 2), view_of=y, offset=16))
    exe = Executable(maker.program(), maker.constants, threads=1, cache=cache)
    modes = [o.mode for o in layout(exe.program).outputs]
    assert modes == ["copy", "copy", "own", "copy", "copy", "copy"]  # one owner per value
    fed = np.ones(8, np.float32)
    first, second = exe.run({"x": fed}), exe.run({"x": fed})
    arrays = [fed, *first.values(), *second.values()]
    for i, a in enumerate(arrays):
        for b in arrays[:i]:
            assert not np.may_share_memory(a, b)
    want = np.arange(8) + 1
    for out in (first, second):
        assert np.array_equal(out["y"], want)
        assert np.array_equal(out["head"], want[:4])
        assert np.array_equal(out["tail"], want[4:].reshape(2, 2))
        out["c"][:] = -1
    assert np.array_equal(exe.run({"x": fed})["c"], np.arange(8))


def test_a_reshaped_output_is_not_copied(maker: Any, cache: Any) -> None:
    x = maker.input("x", (2, 8))
    y = maker.buffer((2, 8))
    maker.affine(x, y, 1, 1)
    maker.output("y", maker.buffer((16,), view_of=y))
    exe = Executable(maker.program(), maker.constants, threads=1, cache=cache)
    assert exe.predicted_peak().arena == 0
    assert np.array_equal(exe.run({"x": np.zeros((2, 8), np.float32)})["y"], np.ones(16))


def test_output_memory_is_reused_only_when_dropped(maker: Any, cache: Any) -> None:
    exe = Executable(chain(maker).program(), maker.constants, threads=1, cache=cache)
    x = np.arange(64, dtype=np.float32)
    first = exe.run({"x": x})["y"]
    address = first.ctypes.data
    piece = first[3:5]
    del first
    second = exe.run({"x": x + 1})["y"]
    assert second.ctypes.data != address
    assert np.array_equal(piece, reference(x)[3:5])
    address = second.ctypes.data
    del second
    assert exe.run({"x": x})["y"].ctypes.data == address


def test_outputs_of_equal_bytes_and_other_shapes(maker: Any, cache: Any, sources: Any) -> None:
    """The memory is written again, the array has the shape of the call."""
    x = maker.input("x", ("N", "M"))
    y = maker.buffer(("N", "M"))
    maker.run(sources["affine"], (x, y), (1, 2, 1), sym("N") * sym("M"))
    maker.output("y", y)
    exe = Executable(maker.program(), maker.constants, threads=1, cache=cache)
    for shape in ((2, 8), (4, 4), (2, 8), (2, 8), (16, 1), (1, 16)):
        fed = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        got = exe.run({"x": fed})["y"]
        assert got.shape == shape and np.array_equal(got, fed * 2 + 1)
        assert got.flags.writeable and got.flags.c_contiguous
        held = got[:1]
        again = exe.run({"x": fed + 1})["y"]
        assert np.array_equal(held, fed[:1] * 2 + 1)
        assert not np.may_share_memory(again, held)
        del got, held, again
    wide, high = np.ones((2, 8), np.float32), np.ones((4, 4), np.float32)
    address = exe.run({"x": wide})["y"].ctypes.data
    assert [exe.run({"x": v})["y"].ctypes.data for v in (wide, high, wide)] == [address] * 3


def test_small_steps_leave_the_team_alone(maker: Any, cache: Any) -> None:
    x, y = maker.input("x", (8,)), maker.buffer((8,))
    maker.affine(x, y, 2, 1, flops=8)
    maker.output("y", y)
    exe = Executable(maker.program(), maker.constants, threads=2, cache=cache)
    assert np.array_equal(exe.run_in_order([np.ones(8, np.float32)])[0], np.full(8, 3))
    assert exe._team is None
    with pytest.raises(FeedError, match="missing 'x'"):
        exe.run_in_order([None])
    with pytest.raises(FeedError, match="got dtype float64"):
        exe.run_in_order([np.ones(8)])


def test_writing_into_views_of_an_output(maker: Any, cache: Any) -> None:
    """Concatenation without copies: two steps write the halves of one output."""
    x = maker.input("x", (8,))
    whole = maker.buffer((16,), "output")
    for k in range(2):
        maker.affine(x, maker.buffer((8,), "output", view_of=whole, offset=32 * k), 1, k)
    maker.output("y", whole)
    exe = Executable(maker.program(), maker.constants, threads=2, cache=cache)
    x = np.arange(8, dtype=np.float32)
    assert np.array_equal(exe.run({"x": x})["y"], np.concatenate([x, x + 1]))


def symbolic(m: Any, sources: Any) -> Any:
    n, k = sym("N"), sym("K")
    x = m.input("x", (n, k))
    b = m.input("b", (k,))
    s, y = m.buffer((n, k)), m.buffer((n, k))
    del b
    m.affine(x, s, 3, 1, tiles=n)
    m.run(sources["scratch"], (s, y), (k,), n, scratch_bytes=4 * k)
    m.output("y", y)
    m.output("flat", m.buffer((n * k,), view_of=s))
    return m


def test_symbolic_sizes(maker: Any, cache: Any, sources: Any, threads: int) -> None:
    exe = Executable(
        symbolic(maker, sources).program(), maker.constants, threads=threads, cache=cache
    )
    growing = [(i, 2 * i) for i in range(50)]
    for n, k in [(1, 1), (3, 5), (0, 4), (64, 100), (3, 5), (7, 0), *growing]:
        x = np.random.default_rng(n).integers(-99, 99, (n, k)).astype(np.float32)
        out = exe.run({"x": x, "b": np.zeros(k, np.float32)})
        assert np.array_equal(out["y"], (x * 3 + 1)[:, ::-1])
        assert np.array_equal(out["flat"], (x * 3 + 1).ravel())
    assert exe.bindings.made == 55
    assert exe.bindings.count == 55


def test_shape_errors(maker: Any, cache: Any, sources: Any) -> None:
    exe = Executable(symbolic(maker, sources).program(), maker.constants, cache=cache)
    ok = {"x": np.zeros((2, 3), np.float32), "b": np.zeros(3, np.float32)}
    exe.run(ok)
    for change, text in [
        ({"b": np.zeros(4, np.float32)}, r"input 'b' axis 0 has size 4, but K is 3 by input 'x'"),
        ({"x": np.zeros((2, 3, 1), np.float32)}, r"'x' is f32\[N, K\], got shape \[2, 3, 1\]"),
        ({"x": np.zeros((2, 3))}, "got dtype float64"),
        ({"z": np.zeros(3)}, r"unknown 'z'; the model takes 'x' f32\[N, K\], 'b' f32\[K\]"),
        ({"x": None}, "missing 'x'"),
        ({"b": ["a", "b", "c"]}, "'b' is f32"),
        ({"b": [1e400, 1, object()]}, "'b' is f32"),
    ]:
        with pytest.raises(FeedError, match=text):
            exe.run({**ok, **change})
    with pytest.raises(FeedError, match="missing 'x', 'b'; unknown 'q'"):
        exe.run({"q": np.zeros(1)})
    exe.run(ok)


def test_static_shape_error(maker: Any, cache: Any) -> None:
    exe = Executable(chain(maker).program(), maker.constants, cache=cache)
    with pytest.raises(FeedError, match=r"input 'x' axis 0 has size 63, expected 64"):
        exe.run({"x": np.zeros(63, np.float32)})
    with pytest.raises(FeedError, match="missing 'x'"):
        exe.run({})


def test_feeds_are_brought_into_form(maker: Any, cache: Any) -> None:
    exe = Executable(chain(maker, 8).program(), maker.constants, threads=1, cache=cache)
    x = np.arange(8, dtype=np.float32)
    raw = np.zeros(8 * 4 + 1, np.uint8)
    misaligned = raw[1:].view(np.float32)
    misaligned[:] = x

    class Own(np.ndarray):
        pass

    readonly = x.copy()
    readonly.flags.writeable = False
    strided = np.repeat(x, 2)[::2]
    swapped, own = x.astype(">f4"), x.view(Own)
    for value in (strided, swapped, misaligned, list(x), tuple(range(8)), own, readonly):
        out = exe.run({"x": value})["y"]
        assert np.array_equal(out, reference(x))
        assert type(out) is np.ndarray
        assert out.flags.writeable


def test_scalars(maker: Any, cache: Any) -> None:
    x, y = maker.input("x", ()), maker.buffer(())
    maker.affine(x, y, 5, 1, tiles=1)
    maker.output("y", y)
    exe = Executable(maker.program(), maker.constants, cache=cache)
    for value in (2, 2.0, np.float32(2), np.array(2, np.float32)):
        out = exe.run({"x": value})["y"]
        assert out.shape == ()
        assert out == 11


def test_checks(maker: Any, cache: Any) -> None:
    a, b, y = maker.input("a", ("N",)), maker.input("b", ("M",)), maker.buffer(("N",))
    maker.checks.append(SizeCheck("broadcast", sym("M"), sym("N"), "Add 'sum'"))
    maker.add(a, b, y)
    maker.output("y", y)
    exe = Executable(maker.program(), maker.constants, cache=cache)
    with pytest.raises(FeedError, match="sizes 3 and 4 do not broadcast: Add 'sum'"):
        exe.run({"a": np.zeros(4, np.float32), "b": np.zeros(3, np.float32)})


def test_independent_steps_need_no_barrier(maker: Any, cache: Any) -> None:
    x = maker.input("x", (64,))
    ys = [maker.buffer((64,)) for _ in range(3)]
    for k, y in enumerate(ys):
        maker.affine(x, y, 1, k)
    z, s = maker.buffer((64,)), maker.buffer((64,))
    maker.add(ys[0], ys[1], z, flops=10**9)
    maker.add(z, ys[2], s, flops=10**9)
    maker.output("s", s)
    exe = Executable(maker.program(), maker.constants, threads=2, cache=cache)
    table = exe.binding({"x": (64,)}).tables[0]
    assert table is not None
    rows = table.words[: ROW_WORDS * 5].reshape(5, ROW_WORDS)
    both = PARALLEL | BARRIER
    assert rows[:, ROW_FLAGS].tolist() == [PARALLEL, PARALLEL, PARALLEL, both, both]
    assert table.shape == Shape(units=5, phases=3, places=4)
    v = np.ones(64, np.float32)
    assert np.array_equal(exe.run({"x": v})["s"], 3 * v + 3)


def test_a_program_that_breaks_an_invariant(maker: Any) -> None:
    x, y = maker.input("x", (4,)), maker.buffer((4,))
    maker.add(x, y, maker.buffer((4,)))
    with pytest.raises(VerifyError, match="buffer 1 is read before anything wrote it"):
        Executable(maker.program(), maker.constants)
    maker.steps[:] = [KernelStep("none", (x, y), (), 1, n_outputs=1)]
    with pytest.raises(VerifyError, match="there is no kernel 'none'"):
        Executable(maker.program(), maker.constants)
    maker.steps[:] = [BindStep("S", x)]
    maker.output("y", y)
    with pytest.raises(VerifyError, match="output 'y'"):
        Executable(maker.program(), maker.constants)


def test_text(maker: Any, sources: Any) -> None:
    text = print_program(symbolic(maker, sources).program())
    assert "%0 = input f32[N, K]" in text
    assert "outputs 'y'=%3, 'flat'=%4" in text
    assert "tiles=N scratch=4*K" in text


FRESH = """
import pickle, sys
import numpy as np
sys.path[:] = {path!r}
from evonnx.runtime.cache import ObjectCache
from evonnx.runtime.executable import Executable, measure_peak
program, constants = pickle.load(sys.stdin.buffer)
exe = Executable(program, constants, threads=2, cache=ObjectCache({folder!r}))
x = np.ones({n}, np.float32)
exe.run({{"x": x}})
print(measure_peak(exe, {{"x": x}}), exe.predicted_peak().total)
"""
"""A process of its own: in the heap of a long-lived one are gaps that are resident still."""


def test_measured_peak(maker: Any, cache: Any) -> None:
    if resident_peak() is None:
        pytest.skip("this system does not tell its resident peak")
    n = 1 << 22
    program = chain(maker, n, 5).program()
    text = FRESH.format(path=sys.path, folder=str(cache.folder.parent), n=n)
    told = subprocess.run([sys.executable, "-c", text], check=True, capture_output=True,
                          input=pickle.dumps((program, maker.constants)))
    measured, predicted = map(int, told.stdout.split())
    assert abs(measured - predicted) < 0.05 * predicted
