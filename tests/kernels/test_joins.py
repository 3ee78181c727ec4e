"""Reductions over joined operands: a loop for each of them, on every target."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Value
from evonnx.ir.types import I64, TensorType

from .test_groups import TARGETS, array, check, tensor


def norm(b: Builder, x: Value, axis: int) -> Value:
    mean = b.op("reduce", x, kind="mean", axes=(axis,), keepdims=True)
    d = b.op("sub", x, mean)
    power = b.op("reduce", b.op("mul", d, d), kind="mean", axes=(axis,), keepdims=True)
    return b.op("mul", d, b.op("reciprocal", b.op("sqrt", b.op("add", power, 1e-5))))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("widths", [(5, 9), (1, 16, 1), (33, 40, 7, 3), (64, 64), (0, 9), (1, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_norm_over_a_concat(widths: tuple[int, ...], axis: int, target: str) -> None:
    b = Builder()
    shapes = [(7, w) if axis else (w, 7) for w in widths]
    xs = [tensor(b, f"x{k}", *shape) for k, shape in enumerate(shapes)]
    feeds = {f"x{k}": array(*shape) for k, shape in enumerate(shapes)}
    y = norm(b, b.op("concat", *xs, axis=axis), axis)
    assert check({"y": y}, b, feeds, target=target) == "loops"


@pytest.mark.parametrize("target", TARGETS)
def test_softmax_over_a_concat_with_special_values(target: str) -> None:
    b = Builder()
    x, z = tensor(b, "x", 6, 19), tensor(b, "z", 6, 14)
    joined = b.op("concat", x, b.op("exp", z), axis=1)
    feeds = {"x": array(6, 19), "z": array(6, 14)}
    feeds["x"][0, 18], feeds["z"][1, 0], feeds["x"][2, 3] = np.nan, np.inf, -np.inf
    check(b.op("softmax", joined, axis=1), b, feeds, target=target)


def test_joins_along_two_axes_padding_and_gathered_rows() -> None:
    b = Builder()
    x, z = tensor(b, "x", 4, 6), tensor(b, "z", 4, 3)
    table = tensor(b, "t", 10, 9)
    where = b.input("i", TensorType(I64, (5,)))
    rows = b.op("gather", table, where, axis=0)
    grid = b.op("concat", b.op("concat", x, z, axis=1), rows, axis=0)
    padded = b.op("pad", grid, b.const(np.float32(2)), lo=(0, 3), hi=(0, 20), mode="constant")
    both = b.op("reduce", b.op("mul", padded, padded), kind="sum", axes=(0, 1), keepdims=False)
    feeds = {"x": array(4, 6), "z": array(4, 3), "t": array(10, 9),
             "i": np.array([0, 9, 3, -1, 3])}
    check(both, b, feeds)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_unknown_sizes_keep_their_guards(count: int) -> None:
    b = Builder()
    x, z = tensor(b, "x", 3, sym("N")), tensor(b, "z", 3, 4)
    y = norm(b, b.op("concat", x, z, axis=1), 1)
    check(y, b, {"x": array(3, count), "z": array(3, 4)})
