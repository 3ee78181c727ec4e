"""Products over channels before resampling, and products in a row: same results, less work."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph, Value
from evonnx.ir.interp import run
from evonnx.ir.types import F32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.linear import move_products

RNG = np.random.default_rng(3)
DIRECT = {"dilations": (1, 1), "groups": 1, "layout": "last", "pads_hi": (0, 0),
          "pads_lo": (0, 0), "strides": (1, 1)}


def const(b: Builder, *shape: int) -> Value:
    made: Value = b.const(RNG.standard_normal(shape).astype(np.float32))
    return made


def image(b: Builder, name: str, *shape: object) -> Value:
    return b.input(name, TensorType(F32, shape))


def doubled(b: Builder, x: Value, axis: int) -> Value:
    """Linear interpolation to twice the size along one axis."""
    n = x.shape[axis]
    low, high = (np.clip(np.arange(2 * n) // 2 + k, 0, n - 1) for k in (0, 1))
    weight = RNG.random(2 * n).astype(np.float32).reshape(-1, *[1] * (x.rank - 1 - axis))
    left = b.op("mul", b.op("gather", x, b.const(low), axis=axis), b.const(weight))
    right = b.op("mul", b.const(1 - weight), b.op("gather", x, b.const(high), axis=axis))
    return b.op("add", left, right)


def up(b: Builder, x: Value) -> Value:
    return doubled(b, doubled(b, x, 1), 2)


def check(graph: Graph) -> tuple[Graph, Counter[str]]:
    """The graph after the pass, which computes the same, and what was done."""
    fired: Counter[str] = Counter()
    after = move_products(graph, fired)
    verify(after)
    feeds = {v.node.attrs["name"]: RNG.standard_normal([3 if not isinstance(d, int) else d
             for d in v.shape]).astype(np.float32) for v in graph.inputs}  # fmt: skip
    got, want = run(after, feeds, float64=True), run(graph, feeds, float64=True)
    for name, value in want.items():
        scale = np.abs(value).max(initial=1e-3)
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-6 * scale)
    return after, fired


def shapes(graph: Graph, op: str) -> list[tuple[object, ...]]:
    return [n.out.shape for n in graph.nodes if n.op == op]


def test_an_image_is_multiplied_where_it_is_small() -> None:
    b = Builder()
    y = b.op("conv", up(b, image(b, "x", 1, 4, 5, 64)), const(b, 1, 1, 64, 48), **DIRECT)
    after, fired = check(b.build({"y": y}))
    assert fired == {"product before resampling": 1}
    assert shapes(after, "dot") == [(1, 4, 5, 48)]


def test_parts_of_a_concat_go_their_own_ways() -> None:
    """Resampled, a product itself, and neither."""
    b = Builder()
    small = b.op("dot", image(b, "s", 1, 20, 8), const(b, 64, 8), ta=False, tb=True)
    small = b.op("reshape", b.op("add", small, const(b, 64)), shape=(1, 4, 5, 64))
    plain = b.op("dot", image(b, "p", 1, 80, 8), const(b, 8, 96), ta=False, tb=False)
    plain = b.op("reshape", b.op("add", const(b, 96), plain), shape=(1, 8, 10, 96))
    parts = [up(b, small), image(b, "a", 1, 8, 10, 6), plain, image(b, "c", 1, 8, 10, 7)]
    y = b.op("conv", b.op("concat", *parts, axis=3), const(b, 1, 1, 173, 32), **DIRECT)
    after, fired = check(b.build({"y": b.op("relu", b.op("add", y, const(b, 32)))}))
    assert fired == {"product before resampling": 1, "products in a row": 2}
    assert sorted(shapes(after, "dot"), key=str) == [(1, 20, 32), (1, 8, 10, 32), (1, 80, 32)]


@pytest.mark.parametrize("turned", [False, True])
def test_products_in_a_row(turned: bool) -> None:
    b = Builder()
    x = b.op("dot", image(b, "x", sym("N"), 40), const(b, *((64, 40) if turned else (40, 64))),
             ta=False, tb=turned)
    y = b.op("dot", b.op("add", x, const(b, 64)), const(b, 64, 30), ta=False, tb=False)
    after, fired = check(b.build({"y": y}))
    assert fired == {"products in a row": 1}
    assert len(shapes(after, "dot")) == 1


def kept(name: str) -> Graph:
    """Graphs that stay as they are."""
    b = Builder()
    x = image(b, "x", 1, 4, 5, 64)
    wide = up(b, x)
    outputs = {}
    if name == "read elsewhere":
        outputs["w"] = wide
    if name == "more channels":
        y = b.op("conv", wide, const(b, 1, 1, 64, 65), **DIRECT)
    elif name == "weights along channels":
        y = b.op("dot", b.op("mul", x, const(b, 64)), const(b, 64, 8), ta=False, tb=False)
    elif name == "gathered channels":
        x = b.op("gather", x, b.const(np.arange(128) // 2), axis=3)
        y = b.op("dot", x, const(b, 128, 8), ta=False, tb=False)
    elif name == "a window":
        y = b.op("conv", wide, const(b, 3, 3, 64, 8), **DIRECT)
    elif name == "a narrow middle":
        y = b.op("dot", x, const(b, 64, 4), ta=False, tb=False)
        y = b.op("dot", y, const(b, 4, 64), ta=False, tb=False)
    elif name == "infinite weights":
        y = b.op("dot", x, b.const(np.full((64, 80), np.inf, np.float32)), ta=False, tb=False)
        y = b.op("dot", y, const(b, 80, 64), ta=False, tb=False)
    elif name == "two images":
        z = b.op("add", wide, up(b, image(b, "z", 1, 4, 5, 64)))
        y = b.op("dot", z, const(b, 64, 8), ta=False, tb=False)
    else:
        y = b.op("dot", wide, const(b, 64, 8), ta=False, tb=False)
    return b.build({"y": y, **outputs})


@pytest.mark.parametrize("name", [
    "read elsewhere", "more channels", "weights along channels", "gathered channels", "a window",
    "a narrow middle", "infinite weights", "two images",
])  # fmt: skip
def test_nothing_is_moved(name: str) -> None:
    graph = kept(name)
    assert move_products(graph) is graph


def test_long_chains_of_sums() -> None:
    b = Builder()
    x, y = image(b, "x", 4, 8), image(b, "y", 4, 8)
    for _ in range(3000):
        x = b.op("add", x, y)
    graph = b.build({"z": b.op("dot", x, const(b, 8, 8), ta=False, tb=False)})
    assert move_products(graph).digest == graph.digest
