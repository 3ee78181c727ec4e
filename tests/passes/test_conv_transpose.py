"""Transposed convolutions lowered to convolutions compute the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evonnx.ir.dims import sym
from evonnx.ir.graph import Builder, Graph
from evonnx.ir.interp import run
from evonnx.ir.types import F32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.conv_transpose import lower_conv_transpose
from evonnx.passes.layout import to_channels_last


def build(rng: np.random.Generator, rank: int, k: int, s: int, d: int, lo: int, hi: int, extra: int,
          groups: int, symbolic: bool = False, layout: str = "first") -> Graph:  # fmt: skip
    b = Builder()
    spatial = tuple(sym(f"s{i}") if symbolic else 5 + i for i in range(rank))
    c, mg = 2 * groups, 3
    shape = (2, c, *spatial) if layout == "first" else (2, *spatial, c)
    x = b.input("x", TensorType(F32, shape))
    w = b.const(rng.standard_normal((c, mg, *(k for _ in spatial))).astype(np.float32))
    y = b.op("conv_transpose", x, w, strides=(s,) * rank, dilations=(d,) * rank,
             pads_lo=(lo,) * rank, pads_hi=(hi,) * rank, groups=groups, layout=layout,
             output_padding=(extra,) * rank)  # fmt: skip
    return b.build([("y", y)])


CASES = [
    (rank, k, s, d, lo, hi, extra, groups)
    for rank, k, s, d in itertools.product((1, 2), (1, 2, 3, 4, 5), (1, 2, 3), (1, 2))
    for lo, hi, extra, groups in ((0, 0, 0, 1), (1, 1, 1, 1), (0, 1, 0, 2), (2, 1, 0, 1))
    if lo + hi < 4 * s + (k - 1) * d and extra < max(s, d)
]


@pytest.mark.parametrize("layout", ["first", "last"])
def test_lowered(layout: str) -> None:
    rng = np.random.default_rng(3)
    for case in CASES:
        graph = build(rng, *case, layout=layout)
        after = verify(lower_conv_transpose(graph))
        assert not any(n.op == "conv_transpose" for n in after.nodes), case
        x = rng.standard_normal(graph.inputs[0].shape)
        a, b = (run(g, {"x": x}, float64=True)["y"] for g in (graph, after))
        assert a.shape == b.shape, case
        np.testing.assert_allclose(a, b, atol=1e-9, err_msg=str(case))


def test_three_dimensions_and_layout() -> None:
    rng = np.random.default_rng(4)
    graph = build(rng, 3, 3, 2, 1, 1, 1, 1, 1)
    after = to_channels_last(verify(lower_conv_transpose(graph)))
    x = rng.standard_normal(graph.inputs[0].shape)
    a, b = (run(g, {"x": x}, float64=True)["y"] for g in (graph, after))
    np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.parametrize("k,s,lo", [(2, 2, 0), (4, 2, 1), (16, 8, 4)])
def test_symbolic_sizes(k: int, s: int, lo: int) -> None:
    rng = np.random.default_rng(5)
    graph = build(rng, 1, k, s, 1, lo, lo, 0, 1, symbolic=True)
    after = verify(lower_conv_transpose(graph))
    assert not any(n.op == "conv_transpose" for n in after.nodes)
    for size in (1, 2, 7):
        x = rng.standard_normal((2, 2, size))
        a, b = (run(g, {"x": x}, float64=True)["y"] for g in (graph, after))
        np.testing.assert_allclose(a, b, atol=1e-9)
