"""Ranges hold every result, infinities and NaN included."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evonnx.ir import interp, ranges
from evonnx.ir.builder import Builder
from evonnx.ir.elements import Ex
from evonnx.ir.graph import Value
from evonnx.ir.ranges import Range, Ranges
from evonnx.ir.types import F32, I8, I32, I64, U8, TensorType

RNG = np.random.default_rng(11)
UNARY = ("relu", "neg", "round", "floor", "ceil")
BINARY = ("add", "sub", "mul", "div", "max", "min")
NUMBERS = (0.0, -0.0, 1.5, -3.0, 0.0235294122, 2.0**24 + 2, 1e30, -1e38, math.inf, -math.inf)
SPECIAL = np.array([0.0, -0.0, 1e38, -1e38, 1e-45, math.inf, -math.inf, math.nan], np.float32)


def random_value(b: Builder, x: Value) -> Value:
    """A few random ops on ``x``."""
    for _ in range(RNG.integers(1, 9)):
        op = str(RNG.choice([*UNARY, *BINARY, "clip", "byte"]))
        number = b.const(np.float32(RNG.choice(NUMBERS)))
        if op == "clip":
            lo, hi = np.sort(RNG.normal(0, 100, 2)).astype(np.float32)
            x = b.op("min", b.op("max", x, b.const(lo)), b.const(hi))
        elif op == "byte":
            x = b.op("cast", b.op("min", b.op("max", x, -128.0), 127.0), to=I8)
            x = b.op("cast", x, to=F32)
        else:
            x = b.op(op, x) if op in UNARY else b.op(op, *RNG.permutation([x, number]))
    return x


def holds(found: Range, y: np.ndarray) -> bool:
    numbers = y[~np.isnan(y)].astype(np.float64)
    return (found.nan or not np.isnan(y).any()) and bool(
        ((numbers >= found.lo) & (numbers <= found.hi)).all())


@pytest.mark.parametrize("_", range(200))
def test_random_expressions(_: int) -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (40,)))
    graph = b.build({"y": random_value(b, x)})
    feed = np.concatenate([RNG.normal(0, 200, 32).astype(np.float32), SPECIAL])
    with np.errstate(all="ignore"):
        y = interp.run(graph, {"x": feed})["y"]
    found = Ranges(graph.constants).of(graph.outputs[0][1])
    assert holds(found, y), (graph, found)


def test_what_is_known() -> None:
    number = Ex("const", F32, (), 6.0)
    limited = Ex("fn", F32, (Ex("fn", F32, (Ex("load", F32, (), (0, 0)),), ("relu", ())), number),
                 ("min", ()))
    assert ranges.of_element(limited) == Range(0, 6, True)
    assert ranges.of_element(Ex("load", U8, (), (0, 0))) == Range(0, 255, False)
    wide = Ex("fn", F32, (Ex("load", I32, (), (0, 0)),), ("cast", ()))
    assert ranges.of_element(wide) == Range(-(2.0**31), 2.0**31, False)
    deep = limited
    for _ in range(ranges.DEPTH):
        deep = Ex("fn", F32, (deep,), ("neg", ()))
    assert ranges.of_element(deep) == Range(-math.inf, math.inf, True)


@pytest.mark.parametrize("layout", ["last", "first"])
def test_convolutions_of_bytes(layout: str) -> None:
    """Constant weights bound their sums; NaN among them, or pixels that may be NaN, do not."""
    shape = (1, 4, 5, 2) if layout == "last" else (1, 2, 4, 5)
    weights = RNG.standard_normal((3, 3, 2, 6) if layout == "last" else (6, 2, 3, 3))
    attrs = {"strides": (1, 1), "dilations": (1, 1), "pads_lo": (1, 1), "pads_hi": (1, 1),
             "groups": 1, "layout": layout}
    b = Builder()
    q = b.input("q", TensorType(U8, shape))
    w = b.const(weights.astype(np.float32))
    pixels = b.op("pad", b.op("cast", q, to=F32), 7.0, lo=(0, 0, 0, 0), hi=(0, 1, 1, 0),
                  mode="constant")
    graph = b.build({"y": b.op("conv", pixels if layout == "last" else b.op("cast", q, to=F32), w,
                               **attrs)})
    found = Ranges(graph.constants).of(graph.outputs[0][1])
    y = interp.run(graph, {"q": RNG.choice([0, 255], shape).astype(np.uint8)})["y"]
    assert holds(found, y) and not found.nan and found.hi < 255 * np.abs(weights).sum()
    x = b.input("x", TensorType(F32, shape))
    broken = weights.astype(np.float32)
    broken.flat[3] = np.nan
    for image, kernel in ((x, w), (b.op("cast", q, to=F32), b.const(broken))):
        assert Ranges(b.constants).of(b.op("conv", image, kernel, **attrs)).nan


def test_integers() -> None:
    """Those that may wrap can be anything; quotients are truncated."""
    few, all_longs = Range(0, 100, False), ranges.of_dtype(I64)
    assert ranges.of_op("add", U8, [few, few]) == Range(0, 200, False)
    assert ranges.of_op("mul", U8, [few, few]) == ranges.of_dtype(U8)
    assert ranges.of_op("neg", I8, [few]) == Range(-100, 0, False)
    halves = ranges.of_op("div", I32, [Range(-7, 9, False), Range(2, 2, False)])
    assert halves == Range(-3, 4, False)
    longs = Range(0, 2.0**63, False)
    assert ranges.of_op("add", I64, [longs, Range(1, 1, False)]) == all_longs
    assert ranges.of_op("cast", I8, [Range(-3.7, 2.5, True)]) == Range(-3, 2, False)
