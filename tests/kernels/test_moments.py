"""Mean and variance of rows added up in one pass: special values, outliers, rounding."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph
from evonnx.ir.groups import extract
from evonnx.ir.types import F32, TensorType
from evonnx.kernels.lower import lower_loops
from evonnx.kernels.nest import Loop

from .test_groups import TARGETS, array, run_as_one, tensor

SIZES = (49, 130, 1024, 1025, 20000)


def moments(n: int, name: str) -> Graph:
    """The variance of rows, or the rows without it and their mean."""
    b = Builder()
    x = tensor(b, "x", sym("N"), n)
    away = b.op("sub", x, b.op("reduce", x, kind="mean", axes=(1,), keepdims=True))
    variance = b.op("reduce", b.op("mul", away, away), kind="mean", axes=(1,), keepdims=True)
    y = b.op("div", away, b.op("sqrt", b.op("add", variance, 1e-5)))
    return b.build({name: {"variance": variance, "y": y}[name]})


@pytest.mark.parametrize("target", TARGETS)
def test_rounding(target: str) -> None:
    """Also where the first element, or one that stands for the mean, lies far away."""
    for n in SIZES:
        x = array(13, n)
        x[1] += 1000
        x[2, 0], x[3, n // 2], x[4, -1] = 1e4, 1e4, -1e4
        x[5], x[6], x[7] = 3, -1e-20, 1e6 * x[7]
        x[8, ::2] = 1e5
        wide = x.astype(np.float64)
        away = wide - wide.mean(1, keepdims=True)
        variance = (away**2).mean(1, keepdims=True)
        got = run_as_one(moments(n, "variance"), {"x": x}, target)[0]["variance"]
        largest = np.abs(wide).max(1, keepdims=True)
        assert (np.abs(got - variance) <= 2e-5 * variance + 1e-12 * largest**2).all()
        assert (got >= 0).all()
        assert (got[5:7] == 0).all(), "rows of one number"
        got = run_as_one(moments(n, "y"), {"x": x}, target)[0]["y"]
        root = np.sqrt(variance + 1e-5)
        assert (np.abs(got - away / root) <= 3e-5 * np.abs(away / root)
                + 5e-7 * largest / root).all()


@pytest.mark.parametrize("target", TARGETS)
def test_special_values(target: str) -> None:
    for n in (49, 130, 1030):
        x = array(9, n)
        x[0, 0], x[1, -1], x[2, n // 2] = np.inf, np.inf, np.nan
        x[3, 0], x[4, 0], x[5, 0], x[6] = -np.inf, np.nan, 1e25, np.inf
        with np.errstate(all="ignore"):
            away = x - x.mean(1, keepdims=True)
            variance = (away * away).mean(1, keepdims=True)
            got = run_as_one(moments(n, "variance"), {"x": x}, target)[0]["variance"]
            np.testing.assert_allclose(got, variance, 1e-5)
            got = run_as_one(moments(n, "y"), {"x": x}, target)[0]["y"]
            np.testing.assert_allclose(got, away / np.sqrt(variance + np.float32(1e-5)), 1e-4, 1e-4)


@pytest.mark.parametrize("n,loops", [(128, 3), (129, 2), (1024, 2), (1025, 3), (16384, 3)])
def test_passes(n: int, loops: int) -> None:
    b = Builder()
    x, g, c = (b.input(k, TensorType(F32, s)) for k, s in (("x", (2, n)), ("g", (n,)), ("c", (n,))))
    graph = b.build({"y": b.op("layer_norm", x, g, c, axis=1, eps=1e-5)})
    nest = lower_loops(extract(graph, [v for v in graph.nodes if v.op == "layer_norm"]).graph)
    steps = [s for s in nest.domains[0].steps if isinstance(s, Loop)]
    assert len(steps) == loops
