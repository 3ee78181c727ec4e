"""Transposed convolutions lowered to convolutions compute the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.types import F32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes import conv_transpose
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


@pytest.fixture
def all_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """No transposed convolution is left to the kernel of all phases."""
    monkeypatch.setattr(conv_transpose, "PHASES", 0)


@pytest.mark.usefixtures("all_lowered")
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


@pytest.mark.usefixtures("all_lowered")
def test_three_dimensions_and_layout() -> None:
    rng = np.random.default_rng(4)
    graph = build(rng, 3, 3, 2, 1, 1, 1, 1, 1)
    after = to_channels_last(verify(lower_conv_transpose(graph)))
    x = rng.standard_normal(graph.inputs[0].shape)
    a, b = (run(g, {"x": x}, float64=True)["y"] for g in (graph, after))
    np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.usefixtures("all_lowered")
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


@pytest.mark.parametrize("c,m,k,s,d,groups,kept", [
    (64, 32, 4, 2, 1, 1, True),  # what the phases together pad and crop is computed in vain
    (64, 32, 3, 2, 1, 1, True), (64, 3, 3, 2, 1, 1, True),
    (64, 3, 4, 2, 1, 1, False),  # twelve columns fill a vector better than three do
    (64, 32, 4, 2, 1, 2, False), (64, 32, 3, 2, 2, 1, False), (64, 32, 8, 8, 1, 1, False),
    (64, 32, 3, 1, 1, 1, False), (64, 32, 1, 2, 1, 1, False),
])  # fmt: skip
@pytest.mark.parametrize("symbolic", [False, True])
def test_plain_ones_are_left_to_their_kernel(
    c: int, m: int, k: int, s: int, d: int, groups: int, kept: bool, symbolic: bool
) -> None:
    b = Builder()
    spatial = (sym("h"), sym("w")) if symbolic else (16, 16)
    x = b.input("x", TensorType(F32, (1, c, *spatial)))
    w = b.const(np.ones((c, m, k, k), np.float32))
    pads = ((k - s) // 2 if k > s else 0,) * 2
    y = b.op("conv_transpose", x, w, strides=(s, s), dilations=(d, d), pads_lo=pads, pads_hi=pads,
             groups=groups, layout="first", output_padding=(0, 0))  # fmt: skip
    after = lower_conv_transpose(b.build([("y", y)]))
    assert any(n.op == "conv_transpose" for n in after.nodes) == kept
