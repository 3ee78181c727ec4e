"""Sums in the order in which their terms are made: which sums, which order, equal results."""

from __future__ import annotations

from collections import Counter

import numpy as np

import evonnx
from evonnx.compiler.feeds import random_feeds
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph, Value
from evonnx.ir.interp import run
from evonnx.ir.types import F32, I32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.order_sums import order_sums

IMAGE = TensorType(F32, (1, 6, 5, 8))


def conv(b: Builder, x: Value, seed: int = 0) -> Value:
    w = np.random.default_rng(seed).standard_normal((3, 3, 8, 8)).astype(np.float32) / 9
    made: Value = b.op("conv", x, b.const(w), strides=(1, 1), dilations=(1, 1), groups=1,
                       layout="last", pads_lo=(1, 1), pads_hi=(1, 1))
    return made


def late_first(b: Builder) -> tuple[Value, list[Value]]:
    """A sum that begins with the term that needs the two others, scaled."""
    x = b.input("x", IMAGE)
    one, two = conv(b, x, 1), conv(b, x, 2)
    late = conv(b, b.op("mul", one, two), 3)
    terms = [b.op("mul", v, s) for v, s in ((late, 0.5), (one, 2.0), (two, 3.0))]
    return b.op("add", b.op("add", terms[0], terms[1]), terms[2]), terms


def same(graph: Graph, other: Graph) -> None:
    feeds = random_feeds({v.node.attrs["name"]: v.type for v in graph.inputs})
    want, got = run(graph, feeds, float64=True), run(other, feeds, float64=True)
    for name, value in want.items():
        assert np.allclose(got[name], value, rtol=1e-9, atol=1e-9)


def test_what_is_made_last_is_added_last() -> None:
    b, fired = Builder(), Counter[str]()
    total, _ = late_first(b)
    graph = b.build({"y": b.op("tanh", total)})
    ordered = order_sums(graph, fired)
    verify(ordered)
    assert fired == {"order sum": 1}
    last = next(n for n in reversed(ordered.nodes) if n.op == "add")
    assert [v.node.op for v in last.operands] == ["add", "mul"]
    assert last.operands[1].node.operands[0].node.operands[0].node.op == "mul"  # the late one
    same(graph, ordered)
    feeds = random_feeds({"x": IMAGE})
    got = evonnx.compile(ordered, pipeline="", threads=1)(**feeds)
    assert np.allclose(got, run(graph, feeds)["y"], rtol=1e-4, atol=1e-5)
    assert order_sums(ordered) is ordered


def test_peaks_are_lower_for_it() -> None:
    """Many terms, added in the reverse of the order in which they come out of one another."""
    b = Builder()
    v = b.input("x", IMAGE)
    made = []
    for k in range(6):
        v = conv(b, v, k)
        made.append(v)
    total = made[-1]
    for v in reversed(made[:-1]):
        total = b.op("add", total, v)
    graph = b.build({"y": b.op("tanh", total)})
    plain = evonnx.compile(graph, pipeline="", threads=1, search="none")
    least = evonnx.compile(graph, pipeline="", threads=1, objective="peak", cache=False)
    arenas = [c.executable.predicted_peak().arena for c in (plain, least)]
    assert arenas[1] <= 4 * IMAGE.nbytes() < arenas[0]  # type: ignore[operator]
    same(graph, least.graph)


def test_what_stays() -> None:
    """Sums that others read or that are outputs, of two terms, of integers, of other shapes."""
    for case in range(5):
        b = Builder()
        total, terms = late_first(b)
        partial = total.node.operands[0]
        outs = {"y": total}
        if case == 0:
            outs["p"] = partial
        elif case == 1:
            outs["p"] = b.op("tanh", partial)
        elif case == 2:
            outs = {"y": partial}
        elif case == 3:
            ints = [b.input(name, TensorType(I32, (4,))) for name in "abc"]
            outs = {"y": b.op("add", b.op("add", b.op("abs", ints[0]), ints[1]), ints[2])}
        else:
            row = b.input("row", TensorType(F32, (8,)))
            outs = {"y": b.op("add", b.op("add", terms[0], row), b.op("neg", row))}
        graph = b.build(outs)
        assert order_sums(graph) is graph, case
