"""Concatenations dissolved in their readers: what is dissolved, and equal results."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import evonnx
from evonnx.compiler.feeds import random_feeds
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph, Value
from evonnx.ir.interp import run
from evonnx.ir.types import F32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.split_concats import split_concats

ONES = {"strides": (1, 1), "dilations": (1, 1)}


def conv(b: Builder, x: Value, channels: int, kernel: int = 1, groups: int = 1, **attrs: object
         ) -> Value:
    rng = np.random.default_rng(channels + kernel)
    w = rng.standard_normal((kernel, kernel, int(x.shape[-1]) // groups, channels))  # type: ignore[call-overload]
    pads = (kernel // 2,) * 2
    given = {**ONES, "pads_lo": pads, "pads_hi": pads, "groups": groups, "layout": "last", **attrs}
    made: Value = b.op("conv", x, b.const(w.astype(np.float32) / kernel), **given)
    return made


def branches(b: Builder, widths: tuple[int, ...] = (3, 8, 1, 5)) -> Value:
    """Branches of one image, concatenated."""
    x = b.input("x", TensorType(F32, (2, 7, 6, 4)))
    made: Value = b.op("concat", *(b.op("tanh", conv(b, x, n, 3)) for n in widths), axis=3)
    return made


def per_channel(b: Builder, v: Value) -> Value:
    return b.const(np.linspace(-1, 1, int(v.shape[-1]), dtype=np.float32))  # type: ignore[call-overload]


def separable(b: Builder, v: Value) -> Value:
    return conv(b, conv(b, v, 2 * int(v.shape[-1]), 3, int(v.shape[-1])), 6)  # type: ignore[call-overload]


def pooled(b: Builder, v: Value, kind: str) -> Value:
    made: Value = b.op("pool", v, kind=kind, kernel=(3, 3), pads_lo=(1, 1), pads_hi=(1, 1),
                       layout="last", strides=(2, 2), dilations=(1, 1))
    return made


def product(b: Builder, v: Value, tb: bool) -> Value:
    w = np.random.default_rng(3).standard_normal((17, 5)).astype(np.float32)
    made: Value = b.op("dot", v, b.const(np.ascontiguousarray(w.T) if tb else w), ta=False, tb=tb)
    return made


READERS = {
    "conv": lambda b, v: conv(b, v, 6, 3),
    "strided": lambda b, v: conv(b, b.op("relu", v), 6, 3, strides=(2, 2)),
    "affine": lambda b, v: conv(b, b.op("add", b.op("mul", v, per_channel(b, v)), 0.5), 6),
    "separable": separable,
    "max": lambda b, v: conv(b, pooled(b, v, "max"), 6),
    "mean": lambda b, v: conv(b, b.op("mul", pooled(b, v, "sum"), 1 / 9), 6),
    "pad": lambda b, v: conv(b, b.op("pad", v, b.const(np.float32(0)), lo=(0, 1, 0, 0),
                                     hi=(0, 0, 2, 0), mode="constant"), 6),
    "slice": lambda b, v: conv(b, b.op("slice", v, starts=(0, 1, 0, 0), sizes=(2, 3, 6, 17),
                                       steps=(1, 2, 1, 1)), 6),
    "square": lambda b, v: conv(b, b.op("mul", v, v), 6),
    "dot": lambda b, v: product(b, v, False),
    "turned dot": lambda b, v: product(b, v, True),
    "two": lambda b, v: b.op("add", conv(b, v, 6), conv(b, b.op("relu", v), 6, 3)),
    "nested": lambda b, v: conv(b, b.op("concat", b.op("relu", v), conv(b, v, 3), axis=3), 6),
}


def built(reader: str) -> Graph:
    b = Builder()
    return b.build({"y": READERS[reader](b, branches(b))})


@pytest.mark.parametrize("reader", READERS)
def test_readers_take_pieces(reader: str) -> None:
    graph, fired = built(reader), Counter[str]()
    lean = split_concats(graph, fired)
    verify(lean)
    assert fired["dissolve concat"] == 2 if reader == "nested" else 1
    assert not any(n.op == "concat" for n in lean.nodes)
    feeds = random_feeds({"x": graph.inputs[0].type})
    want = run(graph, feeds, float64=True)["y"]
    assert np.allclose(run(lean, feeds, float64=True)["y"], want, rtol=1e-9, atol=1e-9)
    feeds["x"][0, 3, 2, 1], feeds["x"][1, 0, 0, 0] = np.nan, np.inf
    assert np.array_equal(np.isnan(run(lean, feeds)["y"]), np.isnan(run(graph, feeds)["y"]))
    got = evonnx.compile(lean, pipeline="", threads=2)(**feeds)
    assert np.allclose(got, run(graph, feeds)["y"], rtol=1e-3, atol=1e-3, equal_nan=True)


def test_what_stays() -> None:
    """Outputs, readers that mix channels, other axes, weights that are fed."""
    for case in range(5):
        b = Builder()
        v = branches(b)
        y = conv(b, v, 6)
        outs = {"y": y}
        if case == 0:
            outs["v"] = v
        elif case == 1:
            outs["z"] = b.op("softmax", v, axis=3)
        elif case == 2:
            outs["z"] = b.op("relu", v)
        elif case == 3:
            w = b.input("w", TensorType(F32, (1, 1, 17, 2)))
            outs["z"] = b.op("conv", v, w, **ONES, pads_lo=(0, 0), pads_hi=(0, 0), groups=1,
                             layout="last")
        else:
            b = Builder()
            x = b.input("x", TensorType(F32, (1, 4, 4, 4)))
            outs = {"y": conv(b, b.op("concat", x, b.op("tanh", x), axis=1), 3)}
        graph = b.build(outs)
        assert split_concats(graph) is graph, case


def test_pieces_are_added_in_the_order_they_are_made() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 4, 4, 4)))
    first, second = b.op("tanh", x), b.op("exp", x)
    graph = b.build({"y": conv(b, b.op("concat", second, first, axis=3), 6)})
    lean = split_concats(graph)
    convs = [n for n in lean.nodes if n.op == "conv"]
    assert [n.operands[0].node.op for n in convs] == ["tanh", "exp"]
