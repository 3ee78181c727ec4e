"""Quantization rewritten: the same bytes, of every number."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import evonnx
from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph, Value
from evonnx.ir.types import BF16, F16, F32, F64, I8, I16, I32, U8, DType, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.quantized import cheap_quantization

RNG = np.random.default_rng(12)
SCALE = 0.023529412


def quantize(b: Builder, x: Value, zero: float, to: DType, scale: float = SCALE) -> Value:
    lo, hi = (-128.0, 127.0) if to == I8 else (0.0, 255.0)
    y = b.op("round", b.op("div", x, scale))
    y = b.op("add", y, zero) if zero else y
    return b.op("cast", b.op("min", b.op("max", y, lo), hi), to=to)


def sums(b: Builder, size: int = 500, factor: float = 0.001) -> Value:
    """Numbers that cannot be NaN: 32-bit sums, scaled."""
    total = b.input("x", TensorType(I32, (1, size, 1, 1)))
    return b.op("mul", b.op("cast", total, to=F32), factor)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes if n.op not in ("input", "const")]


def check(graph: Graph, feeds: dict[str, np.ndarray] | None = None) -> tuple[Graph, Counter[str]]:
    fired: Counter[str] = Counter()
    cheap = verify(cheap_quantization(graph, fired))
    if feeds is None:
        x = RNG.integers(-300_000, 300_000, graph.inputs[0].shape)
        x.flat[:4] = 2**31 - 1, -(2**31), 0, 3000
        feeds = {"x": x.astype(np.int32)}
    with np.errstate(all="ignore"):
        want, got = interp.run(graph, feeds), interp.run(cheap, feeds)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array, name)
    return cheap, fired


@pytest.mark.parametrize("to,zero", [(I8, -128.0), (I8, 5.0), (U8, 0.0), (U8, 3.0), (I8, 0.0)])
@pytest.mark.parametrize("relu6", [False, True])
def test_limits(to: DType, zero: float, relu6: bool) -> None:
    b = Builder()
    x = sums(b)
    if relu6:
        x = b.op("min", b.op("relu", x), 6.0)
    q = quantize(b, x, zero, to)
    graph = b.build({"q": q, "y": b.op("cast", q, to=F32)})
    cheap, fired = check(graph)
    assert fired == {"limit once": 1}
    kept = relu6 and (to, zero) in ((I8, -128.0), (U8, 0.0))
    limits = ops(cheap).count("max"), ops(cheap).count("min")
    assert limits == ((0, 1 + (not kept)) if relu6 else (1, 1))


@pytest.mark.parametrize("zero", [-128.0, 5.0])
def test_signed_bytes_become_unsigned(zero: float) -> None:
    """All readers turn the sign over or take the zero point away."""
    b = Builder()
    q = quantize(b, sums(b), zero, I8)
    number = b.op("mul", b.op("sub", b.op("cast", q, to=F32), zero), SCALE)
    turned = b.op("bitxor", b.op("cast", q, to=U8), b.const(128, U8))
    plain = b.op("mul", b.op("cast", q, to=F32), 2.0)
    cheap, fired = check(b.build({"a": number, "b": turned, "c": plain}))
    assert fired == {"store unsigned": 1}
    assert not any(v.dtype == I8 for n in cheap.nodes if n.op != "const" for v in n.outputs
                   if v in {o for m in cheap.nodes for o in m.operands})


@pytest.mark.parametrize("reader", ["output", "reshape", "other bits"])
def test_other_readers_keep_the_sign(reader: str) -> None:
    b = Builder()
    q = quantize(b, sums(b), -128.0, I8)
    results: dict[str, Any] = {"a": b.op("sub", b.op("cast", q, to=F32), -128.0)}
    if reader == "output":
        results["q"] = q
    elif reader == "reshape":
        results["b"] = b.op("reshape", q, shape=(500,))
    else:
        results["b"] = b.op("bitxor", b.op("cast", q, to=U8), b.const(64, U8))
    assert check(b.build(results))[1] == {"limit once": 1}


def test_what_may_be_nan_stays() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (9,)))
    graph = b.build({"y": b.op("cast", quantize(b, x, 3.0, I8), to=F32)})
    assert cheap_quantization(graph) is graph
    halves = b.op("cast", b.op("min", b.op("max", b.op("add", b.op("round", sums(b)), 0.5), 0.0),
                               255.0), to=U8)  # fmt: skip
    graph = b.build({"y": halves})
    assert cheap_quantization(graph) is graph


@pytest.mark.parametrize("size", [0, 1, 17, 64])
@pytest.mark.parametrize("zero,scale", [(-128.0, SCALE), (5.0, 0.3), (-3.0, 0.5)])
def test_compiled(size: int, zero: float, scale: float) -> None:
    """Kernels make the same bytes, of halves, too."""
    b = Builder()
    q = quantize(b, sums(b, size, 0.25), zero, I8, scale)
    out = b.op("mul", b.op("sub", b.op("cast", q, to=F32), zero), scale)
    graph = b.build({"y": out, "q": b.op("bitxor", b.op("cast", q, to=U8), b.const(128, U8))})
    x = RNG.integers(-1000, 1000, (1, size, 1, 1)).astype(np.int32)
    compiled = evonnx.compile(graph, cache=False)
    for array, want in zip(compiled(x), interp.run(graph, {"x": x}).values(), strict=True):
        np.testing.assert_array_equal(array, want)


@pytest.mark.parametrize("to", [F16, BF16, I16, U8, I32, F64])
def test_rounded_numbers_of_other_types(to: DType) -> None:
    """What rounds and converts at once answers 0 for NaN, and only where integers are asked for."""
    b = Builder()
    x = b.input("x", TensorType(F32, (67,)))
    limited = b.op("min", b.op("max", x, 0.0 if to == U8 else -200.0), 200.0)
    graph = b.build({"y": b.op("cast", b.op("round", limited), to=to)})
    feed = RNG.normal(0, 150, 67).astype(np.float32)
    feed[:40:4] = np.nan
    feed[1:9] = np.inf, -np.inf, -0.0, 0.5, 1.5, -0.4, 2.5, -2.5
    with np.errstate(all="ignore"):
        want = interp.run(graph, {"x": feed})["y"]
    got = evonnx.compile(graph, cache=False)(feed)
    assert got.dtype == want.dtype
    got, want = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))
