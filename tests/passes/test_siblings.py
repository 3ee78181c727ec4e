"""Parallel products merged: equal results, fewer products, common followers kept together."""

from __future__ import annotations

import numpy as np

from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.types import F32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.siblings import merge_siblings

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def same(before: Graph, after: Graph) -> None:
    feeds = {v.node.attrs["name"]: array(*v.shape) for v in before.inputs}
    want, got = run(before, feeds, float64=True), run(verify(after), feeds, float64=True)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=1e-9)


def count(graph: Graph, op: str) -> int:
    return sum(n.op == op for n in graph.nodes)


def test_query_key_value() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 5, 8)))
    outs = {}
    for name, width in (("q", 8), ("k", 8), ("v", 6)):
        y = b.op("dot", x, b.const(array(8, width)), ta=False, tb=False)
        y = b.op("add", b.const(array(width)), y)
        outs[name] = b.op("relu", y)
    graph = b.build(outs)
    after = merge_siblings(graph)
    assert count(after, "dot") == 1 and count(after, "add") == 1 and count(after, "relu") == 1
    same(graph, after)


def test_different_followers_end_the_chain() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 8)))
    p = b.op("dot", x, b.const(array(3, 8)), ta=False, tb=True)
    q = b.op("dot", x, b.const(array(5, 8)), ta=False, tb=True)
    graph = b.build({"p": b.op("tanh", b.op("mul", p, 2.0)), "q": b.op("exp", b.op("mul", q, 3.0))})
    after = merge_siblings(graph)
    assert count(after, "dot") == 1 and count(after, "mul") == 1 and count(after, "tanh") == 1
    same(graph, after)


def test_followers_that_read_the_product_twice() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 8)))
    p, q = (b.op("dot", x, b.const(array(n, 8)), ta=False, tb=True) for n in (3, 5))
    graph = b.build({"p": b.op("mul", p, p), "q": b.op("mul", q, q)})
    after = merge_siblings(graph)
    assert count(after, "dot") == 1 and count(after, "mul") == 1
    same(graph, after)


def test_inception() -> None:
    for layout in ("first", "last"):
        b = Builder()
        shape = (1, 4, 6, 6) if layout == "first" else (1, 6, 6, 4)
        x = b.input("x", TensorType(F32, shape))
        branches = []
        for width in (3, 2, 4):
            w = array(width, 4, 1, 1) if layout == "first" else array(1, 1, 4, width)
            y = b.op("conv", x, b.const(w), strides=(1, 1), dilations=(1, 1), pads_lo=(0, 0),
                     pads_hi=(0, 0), groups=1, layout=layout)  # fmt: skip
            bias = array(width, 1, 1) if layout == "first" else array(width)
            branches.append(b.op("relu", b.op("add", y, b.const(bias))))
        joined = b.op("concat", *branches, axis=1 if layout == "first" else 3)
        graph = b.build({"y": joined, "z": branches[1]})
        after = merge_siblings(graph)
        assert count(after, "conv") == 1 and count(after, "relu") == 1
        same(graph, after)
