"""Lowering alone: nests run by their interpreter against the reference interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.dim_values import evaluate
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph
from evonnx.ir.groups import extract
from evonnx.ir.target import Target
from evonnx.ir.types import F32, I64, TensorType
from evonnx.kernels.contract import lower_contraction
from evonnx.kernels.depthwise import lower_depthwise
from evonnx.kernels.emit import emit
from evonnx.kernels.lower import lower_loops
from evonnx.kernels.micro import igemm
from evonnx.kernels.nest import Nest
from evonnx.kernels.nest_interp import run_nest
from evonnx.kernels.nest_text import print_nest

RNG = np.random.default_rng(3)
TARGET = Target.named("generic")


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def compare(graph: Graph, nest: Nest, feeds: dict[str, np.ndarray], packed: Nest | None = None,
            packed_size: int = 0) -> None:
    """Runs the nest on the graph's inputs and compares every output."""
    binding, arrays = interp.bind_feeds(graph, feeds)
    outs = [np.full([evaluate(d, binding) for d in v.shape], np.nan, v.dtype.np)
            for _, v in graph.outputs]
    between = []
    if packed is not None:
        between = [np.full(packed_size, np.nan, np.float32)]
        run_nest(packed, [*arrays, *between], binding)
    run_nest(nest, [*arrays, *between, *outs], binding)
    want = interp.run(graph, feeds)
    for (name, _), got in zip(graph.outputs, outs, strict=True):
        np.testing.assert_allclose(got, want[name], rtol=1e-4, atol=1e-5)


def cut(graph: Graph) -> Graph:
    """The whole graph as a group."""
    return extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")]).graph


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis: int) -> None:
    b = Builder()
    x = b.input("x0", TensorType(F32, (sym("N"), 3, 5)))
    graph = cut(b.build({"y0": b.op("softmax", x, axis=axis)}))
    compare(graph, lower_loops(graph), {"x0": array(2, 3, 5)})


def test_gather_concat_pad() -> None:
    b = Builder()
    x = b.input("x0", TensorType(F32, (3, 4)))
    i = b.input("x1", TensorType(I64, (5,)))
    y = b.op("concat", b.op("gather", x, i, axis=1), x, axis=1)
    y = b.op("pad", y, 9.0, lo=(0, 2), hi=(1, 0), mode="constant")
    graph = cut(b.build({"y0": y}))
    compare(graph, lower_loops(graph), {"x0": array(3, 4), "x1": np.array([0, -1, 3, 2, 1])})


def test_product_with_run_time_panels() -> None:
    b = Builder()
    x = b.input("x0", TensorType(F32, (2, 9, 5)))
    w = b.input("x1", TensorType(F32, (7, 5)))
    graph = cut(b.build({"y0": b.op("relu", b.op("dot", x, w, ta=False, tb=True))}))
    lowered = lower_contraction(graph, igemm(TARGET), frozenset())
    assert lowered.pack is not None and isinstance(lowered.packed_elements, int)
    compare(graph, lowered.nest, {"x0": array(2, 9, 5), "x1": array(7, 5)}, lowered.pack,
            lowered.packed_elements)


@pytest.mark.parametrize("groups,kernel", [(1, (3, 3, 4, 6)), (2, (3, 3, 2, 6)), (1, (1, 1, 4, 6))])
def test_convolution(groups: int, kernel: tuple[int, ...]) -> None:
    b = Builder()
    x = b.input("x0", TensorType(F32, (1, 5, 6, 4)))
    w = b.input("x1", TensorType(F32, kernel))
    pad = (kernel[0] // 2,) * 2
    y = b.op("conv", x, w, strides=(1, 2), dilations=(1, 1), pads_lo=pad, pads_hi=pad,
             groups=groups, layout="last")
    graph = cut(b.build({"y0": b.op("add", y, 1.0)}))
    lowered = lower_contraction(graph, igemm(TARGET), frozenset())
    assert lowered.pack is not None and isinstance(lowered.packed_elements, int)
    compare(graph, lowered.nest, {"x0": array(1, 5, 6, 4), "x1": array(*kernel)}, lowered.pack,
            lowered.packed_elements)


@pytest.mark.parametrize("groups,before,after", [(3, 1, 1), (3, 1, 4), (2, 4, 4), (5, 2, 2)])
def test_depthwise(groups: int, before: int, after: int) -> None:
    """And convolutions of narrow groups."""
    b = Builder()
    image, kernel = (2, 5, 9, groups * before), (3, 3, before, groups * after)
    x, w = b.input("x0", TensorType(F32, image)), b.input("x1", TensorType(F32, kernel))
    y = b.op("conv", x, w, strides=(2, 1), dilations=(1, 1), pads_lo=(1, 1), pads_hi=(1, 1),
             groups=groups, layout="last")
    graph = cut(b.build({"y0": b.op("relu", y)}))
    nest, _ = lower_depthwise(graph, TARGET)
    compare(graph, nest, {"x0": array(*image), "x1": array(*kernel)})


def test_text_and_source_are_deterministic() -> None:
    def make() -> Nest:
        b = Builder()
        x = b.input("x0", TensorType(F32, (sym("N"), 7)))
        return lower_loops(cut(b.build({"y0": b.op("softmax", x, axis=1)})))

    assert print_nest(make()) == print_nest(make())
    assert emit(make()).source == emit(make()).source
    assert "sum=" in print_nest(make())


def test_sizes_are_arguments() -> None:
    def source(n: int) -> str:
        b = Builder()
        x = b.input("x0", TensorType(F32, (n, 100, 48)))
        return emit(lower_loops(cut(b.build({"y0": b.op("softmax", x, axis=2)})))).source

    assert source(20) == source(30)


@pytest.mark.parametrize("rows", [(7,), (8,), (11,), (3, 9), (12, 2)])
def test_rows_side_by_side(rows: tuple[int, ...]) -> None:
    """Several rows in the same loops, and the rest one by one: values kept between phases lie
    apart, and not-a-number and infinity stay in their rows."""
    b = Builder()
    x = b.input("x0", TensorType(F32, (*rows, 5)))
    y = b.op("softmax", b.op("tanh", x), axis=len(rows))
    y = b.op("add", y, b.op("reduce", x, axes=(len(rows),), kind="sum", keepdims=True))
    graph = cut(b.build({"y0": y}))
    values = array(*rows, 5)
    flat = values.reshape(-1, 5)
    flat[1, 2], flat[-1, 0] = np.nan, np.inf
    nest = lower_loops(graph)
    assert len(nest.domains) == (2 if rows[-1] >= 8 and rows[-1] % 4 else 1)
    assert bool(nest.domains[0].lets) == (rows[-1] >= 8)
    compare(graph, nest, {"x0": values})


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("last,least", [(480, 9), (100, 2), (40, 1)])
def test_one_image_is_several_tiles(last: int, least: int, step: int) -> None:
    """Of a batch of no known size, whose images are runs of memory or lines that lie apart."""
    b = Builder()
    x = b.input("x0", TensorType(F32, (sym("N"), 90 * step, last)))
    part = b.op("slice", x, starts=(0, 4, 0), sizes=(sym("N"), 82, last), steps=(1, step, 1))
    graph = cut(b.build({"y0": b.op("neg", part)}))
    nest = lower_loops(graph)
    assert evaluate(emit(nest).tiles, {"N": 1}) >= least
    compare(graph, nest, {"x0": array(2, 90 * step, last)})
