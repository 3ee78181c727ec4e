"""The arena of the definition's order, by hand."""

from __future__ import annotations

import numpy as np

from evonnx.bench.arenas import definition
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Value
from evonnx.ir.types import F32, TensorType

IMAGE = 8 * 8 * 16 * 4


def conv(b: Builder, x: Value) -> Value:
    w = b.const(np.ones((3, 3, 16, 16), np.float32))
    made: Value = b.op("conv", x, w, strides=(1, 1), dilations=(1, 1), groups=1, layout="last",
                       pads_lo=(1, 1), pads_hi=(1, 1))
    return made


def test_activations_behind_convolutions_take_nothing_and_sums_do() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 8, 8, 16)))
    first = b.op("relu", b.op("add", conv(b, x), b.const(np.ones(16, np.float32))))
    second = conv(b, first)
    total = b.op("add", second, first)
    graph = b.build({"y": b.op("tanh", b.op("reshape", b.op("exp", total), shape=(1024,)))})
    plan = definition(graph)
    assert plan.peak == plan.bound == 3 * IMAGE  # the operands of the sum, and the sum
