"""Wrong sizes are errors, never reads beyond a buffer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import evonnx
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.errors import FeedError, ModelError
from evonnx.ir.graph import Value
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
    "layer_norm": (
        lambda b: b.op("layer_norm", pair(b)[0], fixed(b, 5), fixed(b, 5), axis=1, eps=1e-5),
        {"x": (2, 9), "y": (2, 2), "f2": (5,), "f3": (5,)}),
    "rms_norm": (lambda b: b.op("rms_norm", pair(b)[0], fixed(b, 5), axis=1, eps=1e-5),
                 {"x": (2, 9), "y": (2, 2), "f2": (5,)}),
    "pool": (lambda b: b.op("pool", b.input("x", TensorType(F32, (1, 1, N))), kind="max",
                            kernel=(9,), strides=(1,), dilations=(1,), pads_lo=(0,), pads_hi=(0,),
                            layout="first"), {"x": (1, 1, 3)}),
    "conv kernel": (
        lambda b: b.op("conv", b.input("x", TensorType(F32, (1, 1, N))), fixed(b, 1, 1, 9),
                       strides=(1,), dilations=(1,), pads_lo=(0,), pads_hi=(0,), groups=1,
                       layout="first"), {"x": (1, 1, 3), "f1": (1, 1, 9)}),
    "gather of nothing": (
        lambda b: b.op("gather", pair(b)[0], b.input("z", TensorType(I64, (4,))), axis=1),
        {"x": (2, 0), "y": (2, 2), "z": (4,)}),
    "gather_elements of nothing": (
        lambda b: b.op("gather_elements", pair(b)[0], b.input("z", TensorType(I64, (2, 1))),
                       axis=1), {"x": (2, 0), "y": (2, 2), "z": (2, 1)}),
    "gather_nd of nothing": (
        lambda b: b.op("gather_nd", pair(b)[0], b.input("z", TensorType(I64, (3, 2))),
                       batch_dims=0), {"x": (2, 0), "y": (2, 2), "z": (3, 2)}),
    **{f"pad {mode} of nothing": (
        lambda b, mode=mode: b.op("pad", pair(b)[0], 0.0, lo=(0, 1), hi=(0, M), mode=mode),
        {"x": (2, 0), "y": (2, 2)}) for mode in ("edge", "reflect", "wrap")},
}  # fmt: skip

NOT_STATIC: dict[str, Callable[[Builder], Value]] = {
    "gather of nothing": lambda b: b.op("gather", fixed(b, 2, 0), index(b, 4), axis=1),
    "gather_elements of nothing": lambda b: b.op(
        "gather_elements", fixed(b, 2, 0), index(b, 2, 1), axis=1),
    "gather_elements beside": lambda b: b.op(
        "gather_elements", fixed(b, 2, 3), index(b, 2, 5), axis=0),
    "gather_nd of nothing": lambda b: b.op(
        "gather_nd", fixed(b, 0, 3), index(b, 2, 1), batch_dims=0),
    "gather_nd batches": lambda b: b.op(
        "gather_nd", fixed(b, 4, 3), index(b, 2, 1), batch_dims=1),
    "scatter_elements beside": lambda b: b.op(
        "scatter_elements", fixed(b, 2, 3), index(b, 2, 5), fixed(b, 2, 5), axis=0,
        reduction="none"),
    "scatter_elements updates": lambda b: b.op(
        "scatter_elements", fixed(b, 2, 3), index(b, 2, 3), fixed(b, 1, 3), axis=0,
        reduction="none"),
    "scatter_nd updates": lambda b: b.op(
        "scatter_nd", fixed(b, 4, 3), index(b, 2, 1), fixed(b, 1, 3), reduction="none"),
    "scatter_nd ranks": lambda b: b.op(
        "scatter_nd", fixed(b, 4, 3), index(b, 2, 1), fixed(b, 2), reduction="none"),
    "layer_norm": lambda b: b.op(
        "layer_norm", fixed(b, 2, 3), fixed(b, 5), None, axis=1, eps=1e-5),
    "rms_norm": lambda b: b.op("rms_norm", fixed(b, 2, 3), fixed(b, 2), axis=1, eps=1e-5),
    "pool": lambda b: b.op(
        "pool", fixed(b, 1, 1, 3), kind="max", kernel=(9,), strides=(1,), dilations=(1,),
        pads_lo=(0,), pads_hi=(0,), layout="first"),
    "pad of nothing": lambda b: b.op(
        "pad", fixed(b, 2, 0), 0.0, lo=(0, 1), hi=(0, 0), mode="edge"),
}  # fmt: skip
"""Kernels would read or write beyond a buffer; all sizes are known."""


def fixed(b: Builder, *shape: int) -> Value:
    return b.input(f"f{len(b.inputs)}", TensorType(F32, shape))


def index(b: Builder, *shape: int) -> Value:
    return b.input(f"i{len(b.inputs)}", TensorType(I64, shape))


@pytest.mark.parametrize("name", CASES)
def test_sizes_that_do_not_fit(name: str) -> None:
    make, shapes = CASES[name]
    b = Builder()
    y = make(b)
    compiled = evonnx.compile(b.build({"out": y}), threads=1, pipeline="canon")
    feeds = {k: np.zeros(s, np.int64 if k == "z" else np.float32) for k, s in shapes.items()}
    with pytest.raises(FeedError, match=r"differ|broadcast|larger"):
        compiled.run(None, feeds)


@pytest.mark.parametrize("name", NOT_STATIC)
def test_known_sizes_that_do_not_fit(name: str) -> None:
    with pytest.raises(ModelError):
        NOT_STATIC[name](Builder())


def test_nothing_is_looked_up_in_nothing() -> None:
    """An empty axis is no error where there is no index."""
    b = Builder()
    x, at = pair(b)[0], b.input("z", TensorType(I64, (M,)))
    compiled = evonnx.compile(b.build({"out": b.op("gather", x, at, axis=1)}), threads=1)
    (y,) = compiled.run(None, {"x": np.zeros((2, 0), np.float32), "z": np.zeros(0, np.int64),
                               "y": np.zeros((2, 0), np.float32)})  # fmt: skip
    assert y.shape == (2, 0)
