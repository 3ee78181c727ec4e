"""Products of halves in float32: the same numbers, and nothing else is touched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.interp import run
from evonnx.ir.types import BF16, F16, F32, I32, U8, DType, TensorType
from evonnx.passes.halves import widen_products

RNG = np.random.default_rng(3)
WINDOW: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "pads_lo": (1, 0),
                          "pads_hi": (0, 1), "groups": 1, "layout": "first"}  # fmt: skip


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_products_are_the_same_numbers(dtype: DType) -> None:
    b = Builder()
    x, w = b.input("x", TensorType(dtype, (2, 3, 5, 4))), b.input("w", TensorType(dtype, (4, 4)))
    k = b.const(RNG.standard_normal((3, 3, 2, 2)).astype(dtype.np))
    graph = b.build([
        ("dot", b.op("exp", b.op("dot", x, w, ta=False, tb=True))),
        ("conv", b.op("conv", x, k, **WINDOW)),
        ("turned", b.op("conv_transpose", x, k, output_padding=(0, 0), **WINDOW)),
    ])  # fmt: skip
    fired: Counter[str] = Counter()
    wide = widen_products(graph, fired)
    assert fired == {"widen dot": 1, "widen conv": 1, "widen conv_transpose": 1}
    assert all(n.out.dtype == F32 for n in wide.nodes if n.op in ("dot", "conv"))
    feeds = {v.node.attrs["name"]: RNG.standard_normal(v.shape).astype(dtype.np)
             for v in graph.inputs}  # fmt: skip
    want = run(graph, feeds)
    for name, got in run(wide, feeds).items():
        assert got.dtype == want[name].dtype
        np.testing.assert_array_equal(got, want[name])
    assert widen_products(wide) is wide


def test_other_products_stay() -> None:
    b = Builder()
    x, q = b.input("x", TensorType(F32, (3, 3))), b.input("q", TensorType(U8, (3, 3)))
    graph = b.build([("y", b.op("dot", x, x, ta=False, tb=False)),
                     ("z", b.op("dot", q, q, ta=False, tb=False, acc=I32))])  # fmt: skip
    assert widen_products(graph) is graph
