"""Padding of thin images made explicit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.types import F32, TensorType
from evonnx.passes.thin import CHANNELS, pad_thin_images

RNG = np.random.default_rng(5)


def image_conv(channels: int, groups: int = 1, dilation: int = 1, kernel: int = 3) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 7, 8, channels)))
    w = RNG.standard_normal((kernel, kernel, channels // groups, 4 * groups)).astype(np.float32)
    y = b.op("conv", x, b.const(w), strides=(2, 1), dilations=(dilation, dilation),
             pads_lo=(1, 2), pads_hi=(0, 1), groups=groups, layout="last")
    return b.build({"y": y})


def test_the_padding_moves_out_and_the_numbers_stay() -> None:
    graph = image_conv(3)
    fired: Counter[str] = Counter()
    padded = pad_thin_images(graph, fired)
    assert [n.op for n in padded.nodes if n.op not in ("input", "const")] == ["pad", "conv"]
    assert fired == {"pad_thin_image": 1}
    feeds = {"x": RNG.standard_normal((2, 7, 8, 3)).astype(np.float32)}
    np.testing.assert_array_equal(interp.run(padded, feeds)["y"], interp.run(graph, feeds)["y"])


@pytest.mark.parametrize("graph", [
    image_conv(CHANNELS + 1), image_conv(2, groups=2), image_conv(3, dilation=2),
    image_conv(3, kernel=1),
])  # fmt: skip
def test_other_convolutions_stay(graph: Graph) -> None:
    assert pad_thin_images(graph) is graph
