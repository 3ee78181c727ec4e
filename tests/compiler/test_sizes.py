"""Wrong sizes are errors, never reads beyond a buffer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import evonnx
from evonnx.ir.dims import sym
from evonnx.ir.errors import FeedError
from evonnx.ir.graph import Builder, Value
from evonnx.ir.types import F32, I64, TensorType

N, M = sym("N"), sym("M")


def image(b: Builder) -> Value:
    return b.op("conv", b.input("x", TensorType(F32, (1, 6, 6, N))),
                b.input("y", TensorType(F32, (3, 3, M, 4))), strides=(1, 1), dilations=(1, 1),
                pads_lo=(0, 0), pads_hi=(0, 0), groups=1, layout="last")


def pair(b: Builder) -> tuple[Value, Value]:
    return b.input("x", TensorType(F32, (2, N))), b.input("y", TensorType(F32, (2, M)))


CASES: dict[str, tuple[Callable[[Builder], Value], dict[str, tuple[int, ...]]]] = {
    "slice": (lambda b: b.op("slice", pair(b)[0], starts=(0, 1), sizes=(2, M), steps=(1, 1)),
              {"x": (2, 3), "y": (2, 3)}),
    "slice backwards": (
        lambda b: b.op("slice", pair(b)[0], starts=(0, M), sizes=(2, 2), steps=(1, -1)),
        {"x": (2, 3), "y": (2, 3)}),
    "concat": (lambda b: b.op("concat", *pair(b), axis=0), {"x": (2, 3), "y": (2, 1)}),
    "add": (lambda b: b.op("add", *pair(b)), {"x": (2, 3), "y": (2, 2)}),
    "dot": (lambda b: b.op("dot", *pair(b), ta=False, tb=True), {"x": (2, 3), "y": (2, 1)}),
    "conv": (image, {"x": (1, 6, 6, 5), "y": (3, 3, 4, 4)}),
    "reshape": (lambda b: b.op("reshape", pair(b)[0], shape=(M,)), {"x": (2, 3), "y": (2, 5)}),
    "topk": (lambda b: b.op("topk", pair(b)[0], axis=1, k=M, largest=True, sorted=True)[0],
             {"x": (2, 3), "y": (2, 4)}),
    "gather_elements": (
        lambda b: b.op("gather_elements", pair(b)[0], b.input("z", TensorType(I64, (1, M))),
                       axis=0), {"x": (2, 3), "y": (2, 4), "z": (1, 4)}),
}


@pytest.mark.parametrize("name", CASES)
def test_sizes_that_do_not_fit(name: str) -> None:
    make, shapes = CASES[name]
    b = Builder()
    y = make(b)
    compiled = evonnx.compile(b.build({"out": y}), threads=1, pipeline="canon")
    feeds = {k: np.zeros(s, np.int64 if k == "z" else np.float32) for k, s in shapes.items()}
    with pytest.raises(FeedError):
        compiled.run(None, feeds)
