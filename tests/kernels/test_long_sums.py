"""Long float sums: blocked on every target, so that rounding does not grow with their length."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Value

from .test_groups import TARGETS, check, run_as_one, tensor

RNG = np.random.default_rng(17)


def total(x: Value, b: Builder, *axes: int) -> Value:
    made: Value = b.op("reduce", x, kind="sum", axes=axes, keepdims=False)
    return made


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape,axes", [
    ((200_003, 4), (0,)), ((3, 40_001, 33), (1,)), ((300, 500, 17), (0, 1)), ((2, 300_007), (1,)),
    ((700, 8, 600), (0, 2)), ((90_000,), (0,)),
])
def test_the_error_does_not_grow_with_the_length(
    shape: tuple[int, ...], axes: tuple[int, ...], target: str
) -> None:
    """Sums of numbers near 1 in one chain would be off by 1e-5 and more."""
    b = Builder()
    x = tensor(b, "x", *shape)
    feeds = {"x": (RNG.standard_normal(shape) + 1).astype(np.float32)}
    graph = b.build({"y": total(x, b, *axes)})
    got = run_as_one(graph, feeds, target=target)[0]["y"]
    exact = feeds["x"].sum(axes, dtype=np.float64)
    assert np.abs(got - exact).max() / np.abs(exact).max() < 3e-6


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [0, 1, 255, 256, 257, 1000])
def test_unknown_lengths_and_special_values(rows: int, target: str) -> None:
    b = Builder()
    x = tensor(b, "x", sym("N"), 19)
    y = total(b.op("mul", x, x), b, 0)
    values = RNG.standard_normal((rows, 19)).astype(np.float32)
    if rows > 3:
        values[rows - 1, 2], values[0, 3], values[1, 4] = np.nan, np.inf, -np.inf
    assert check(y, b, {"x": values}, target=target) == "loops"


def test_kept_values_and_padding_along_a_blocked_axis() -> None:
    """A norm over channels-last pixels keeps what it reads twice; the sum reads beyond an edge."""
    b = Builder()
    x = tensor(b, "x", 700, 24)
    wide = b.op("pad", x, b.const(np.float32(0)), lo=(5, 0), hi=(9, 0), mode="constant")
    mean = b.op("reduce", wide, kind="mean", axes=(0,), keepdims=True)
    d = b.op("exp", b.op("sub", wide, mean))
    y = b.op("mul", d, b.op("reduce", d, kind="sum", axes=(0,), keepdims=True))
    check(y, b, {"x": RNG.standard_normal((700, 24)).astype(np.float32)})
