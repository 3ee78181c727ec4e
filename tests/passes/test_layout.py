"""Channels-last: random networks compute the same, and transposes stay at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, Expr, sym
from evonnx.ir.graph import Graph, Value
from evonnx.ir.interp import run
from evonnx.ir.types import F32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.layout import images_are_last, to_channels_last
from evonnx.passes.reshape_blocks import blocks_of


class Net:
    """A random network of image ops and what stands between them."""

    def __init__(self, seed: int, rank: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.rank = rank
        self.b = Builder()

    def const(self, *shape: int) -> Value:
        return self.b.const(self.rng.standard_normal(shape).astype(np.float32) * 0.3)

    def conv(self, x: Value) -> Value:
        r, c = self.rank - 2, int(x.shape[1])
        k, g = int(self.rng.choice([1, 3])), int(self.rng.choice([1, c]))
        y = self.b.op("conv", x, self.const(c, c // g, *(k,) * r), strides=(1,) * r,
                      dilations=(1,) * r, pads_lo=(k // 2,) * r, pads_hi=(k // 2,) * r, groups=g,
                      layout="first")  # fmt: skip
        return self.b.op("add", y, self.const(c, *(1,) * r))

    def step(self, x: Value, other: Value) -> Value:
        b, r = self.b, self.rank - 2
        n, c, *s = x.shape
        spatial = tuple(range(2, self.rank))
        back = tuple(self.rng.permutation(self.rank))
        choices = {
            "conv": lambda: self.conv(x),
            "relu": lambda: b.op("relu", x),
            "residual": lambda: b.op("add", x, other),
            "gate": lambda: b.op("mul", x, b.op("sigmoid", self.conv(
                b.op("reduce", x, kind="mean", axes=spatial, keepdims=True)))),
            "pool": lambda: b.op("pool", x, kind="max", kernel=(3,) * r, strides=(1,) * r,
                                 dilations=(1,) * r, pads_lo=(1,) * r, pads_hi=(1,) * r,
                                 layout="first"),
            "join": lambda: b.op("slice", b.op("concat", x, other, axis=1),
                                 starts=(0, 1, *(0,) * r), sizes=x.shape, steps=(1,) * x.rank),
            "pad": lambda: b.op("slice", b.op(
                "pad", x, b.const(np.float32(0)), lo=(0, 1, *(0,) * r), hi=(0, 0, *(1,) * r),
                mode="constant"), starts=(0,) * x.rank, sizes=x.shape, steps=(1,) * x.rank),
            "softmax": lambda: b.op("softmax", x, axis=int(self.rng.integers(1, self.rank))),
            "norm": lambda: b.op("layer_norm", x, self.const(int(s[-1])), None, axis=x.rank - 1,
                                 eps=1e-5),
            "groups": lambda: b.op("reshape", b.op("relu", b.op("layer_norm", b.op("mul", b.op(
                "reshape", x, shape=(n, 2, c // 2 * int(np.prod(s)))), b.const(np.float32(1.5))),
                self.const(2, 1), self.const(2, 1), axis=2, eps=1e-5)), shape=x.shape),
            "group norm": lambda: b.op("reshape", b.op("layer_norm", b.op(
                "reshape", x, shape=(n, 2, c // 2, *s)), self.const(2, c // 2, *(1,) * r),
                self.const(2, c // 2, *(1,) * r), axis=2, eps=1e-5), shape=x.shape),
            "there": lambda: b.op("transpose", b.op("tanh", b.op("transpose", x, perm=back)),
                                  perm=tuple(np.argsort(back))),
            "shuffle": lambda: b.op("reshape", b.op("transpose", b.op(
                "reshape", x, shape=(n, 2, c // 2, *s)), perm=(0, 2, 1, *range(3, 3 + r))),
                shape=x.shape),
            "flat": lambda: b.op("reshape", b.op("softmax", b.op(
                "reshape", x, shape=(n, c, int(np.prod(s)))), axis=2), shape=x.shape),
            "gather": lambda: b.op("gather", x, b.const(np.array([1, 0, 3, 2])), axis=1),
            "wide": lambda: b.op("add", x, self.const(1, c, *s)),
        }  # fmt: skip
        result: Value = choices[str(self.rng.choice(list(choices)))]()
        return result

    def graph(self, steps: int) -> Graph:
        shape = (2, 4, *range(5, 3 + self.rank))
        x = self.b.input("x", TensorType(F32, shape))
        values = [x, self.conv(x)]
        for _ in range(steps):
            values.append(self.step(values[-1], values[int(self.rng.integers(len(values)))]))
        head = self.b.op("reduce", values[-1], kind="mean", axes=tuple(range(2, self.rank)),
                         keepdims=False)  # fmt: skip
        return self.b.build({"y": values[-1], "head": head})


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_random_networks(rank: int) -> None:
    for seed in range(40):
        net = Net(seed, rank)
        graph = net.graph(10)
        after = verify(to_channels_last(graph))
        assert images_are_last(after) is True
        x = net.rng.standard_normal(graph.inputs[0].shape)
        want, got = (run(g, {"x": x}, float64=True) for g in (graph, after))
        for name in want:
            np.testing.assert_allclose(got[name], want[name], atol=1e-8, err_msg=f"seed {seed}")


def test_only_the_edge_transposes() -> None:
    net = Net(0, 4)
    h = sym("h")
    x = net.b.input("x", TensorType(F32, (1, 4, h, h)))
    y = net.b.op("relu", net.conv(x))
    for _ in range(3):
        y = net.b.op("relu", net.b.op("add", y, net.conv(net.b.op("relu", net.conv(y)))))
    y = net.b.op("reduce", y, kind="mean", axes=(2, 3), keepdims=False)
    after = to_channels_last(net.b.build({"y": y}))
    assert [n.op for n in after.nodes].count("transpose") == 1


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("side", [sym("h"), 6, 0])
def test_norms_of_groups_of_channels_stay_channels_last(
    side: Dim, groups: int, apart: bool
) -> None:
    net = Net(1, 4)
    b = net.b
    x = b.input("x", TensorType(F32, (2, 8, side, side)))
    y = x
    for _ in range(2):
        y = net.conv(y)
        per = 8 // groups
        rows = (2, groups, per, side, side) if apart else (2, groups, per * side * side)
        column = (groups, per, 1, 1) if apart else (groups, 1)
        z = b.op("layer_norm", b.op("reshape", y, shape=rows), net.const(*column),
                 net.const(*column), axis=2, eps=1e-5)
        y = b.op("relu", b.op("add", y, b.op("reshape", z, shape=y.shape)))
    graph = b.build({"y": y})
    after = verify(to_channels_last(graph))
    ops = [n.op for n in after.nodes]
    if side != 0:  # one transpose at the entry, one at the exit
        assert ops.count("transpose") == 2 and "layer_norm" not in ops
    size = 5 if isinstance(side, Expr) else side
    feed = np.random.default_rng(0).standard_normal((2, 8, size, size)).astype(np.float32)
    feed[0, :1, :1] = np.inf
    with np.errstate(all="ignore"):
        want, got = (run(g, {"x": feed}, float64=True)["y"] for g in (graph, after))
    np.testing.assert_allclose(got, want, atol=1e-8)


def test_rows_that_others_read_are_still_there() -> None:
    net = Net(2, 4)
    b = net.b
    y = net.conv(b.input("x", TensorType(F32, (1, 4, 5, 6))))
    rows = b.op("reshape", y, shape=(1, 2, 60))
    norm = b.op("layer_norm", rows, net.const(2, 1), None, axis=2, eps=1e-5)
    back = b.op("reshape", norm, shape=y.shape)
    other = b.op("reduce", norm, kind="max", axes=(2,), keepdims=False)
    graph = b.build({"y": net.conv(back), "rows": rows, "other": other})
    x = net.rng.standard_normal((1, 4, 5, 6)).astype(np.float32)
    want, got = (run(g, {"x": x}, float64=True) for g in (graph, verify(to_channels_last(graph))))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=1e-8)


def test_blocks() -> None:
    n, h = sym("n"), sym("h")
    assert blocks_of((2, 3, 4), (6, 4)) == [((0, 1), (0,)), ((2,), (1,))]
    assert blocks_of((n, 8, h), (n, 2, 4, h)) == [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,))]
    assert blocks_of((n, 8, h), (n * 8, h)) == [((0, 1), (0,)), ((2,), (1,))]
    assert blocks_of((1, 6), (3, 1, 2)) == [((1,), (0, 2))]


@pytest.mark.parametrize("width,stride,alone,first", [
    (40, 1, True, True), (40, 2, True, False), (20, 1, True, False), (40, 1, False, False),
])
def test_a_small_pool_that_stands_alone_stays_along_lines(
    width: int, stride: int, alone: bool, first: bool
) -> None:
    net = Net(3, 4)
    b = net.b
    x = b.input("x", TensorType(F32, (1, 4, 6, width)))
    y = b.op("pool", b.op("relu", x), kind="max", kernel=(3, 3), strides=(1, stride),
             dilations=(1, 1), pads_lo=(1, 1), pads_hi=(1, 1), layout="first")
    y = b.op("tanh", y) if alone else net.conv(y)
    graph = b.build({"y": y})
    turned = to_channels_last(graph)
    assert images_are_last(turned) is True
    pool, = (n for n in turned.nodes if n.op == "pool")
    assert (pool.attrs["layout"] == "first") == first
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 4, 6, width)).astype(np.float32)}
    np.testing.assert_allclose(run(turned, feeds)["y"], run(graph, feeds)["y"], 1e-5, 1e-5)
