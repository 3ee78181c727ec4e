"""Convolutions with kernels of one plane are convolutions of images."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph
from evonnx.ir.types import F32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.planes import flatten_planes

RNG = np.random.default_rng(6)


def video_conv(kernel: tuple[int, int, int] = (1, 3, 2), depth: Any = 4, groups: int = 1,
               layout: str = "last", **changes: tuple[int, ...]) -> Graph:
    b = Builder()
    shape = (2, depth, 6, 5, 4) if layout == "last" else (2, 4, depth, 6, 5)
    weights = (*kernel, 4 // groups, 6) if layout == "last" else (6, 4 // groups, *kernel)
    attrs: dict[str, Any] = {"strides": (1, 2, 1), "dilations": (1, 1, 2), "pads_lo": (0, 1, 2),
                             "pads_hi": (0, 0, 1), **changes}
    w = b.const(RNG.standard_normal(weights).astype(np.float32))
    x = b.input("x", TensorType(F32, shape))
    return b.build({"y": b.op("conv", x, w, groups=groups, layout=layout, **attrs)})


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("depth", [4, 1, 0, "D"])
def test_depth_joins_the_batch(depth: Any, groups: int) -> None:
    graph = video_conv(depth=sym("D") if depth == "D" else depth, groups=groups)
    fired: Counter[str] = Counter()
    flat = verify(flatten_planes(graph, fired))
    conv, = (n for n in flat.nodes if n.op == "conv")
    assert conv.out.rank == 4 and fired == {"flatten_planes": 1}
    x = RNG.standard_normal((2, 3 if depth == "D" else depth, 6, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(interp.run(flat, {"x": x})["y"], interp.run(graph, {"x": x})["y"])


@pytest.mark.parametrize("graph", [
    video_conv((2, 3, 3)), video_conv(strides=(2, 1, 1)), video_conv(pads_lo=(1, 0, 0)),
    video_conv(layout="first"),
])  # fmt: skip
def test_other_convolutions_stay(graph: Graph) -> None:
    assert flatten_planes(graph) is graph
