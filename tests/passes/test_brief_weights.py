"""Weights as bfloat16: which matrices are rounded, how, and what stays as it is."""

from __future__ import annotations

from collections import Counter

import ml_dtypes
import numpy as np

from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.types import BF16, F32, TensorType
from evonnx.passes.brief_weights import round_weights

RNG = np.random.default_rng(7)
PLAIN = {"ta": False, "tb": False}


def product(weights: np.ndarray, times: int = 1) -> Graph:
    b = Builder()
    w = b.const(weights)
    xs = [b.input(f"x{k}", TensorType(F32, (3, weights.shape[0]))) for k in range(times)]
    return b.build([(f"y{k}", b.op("dot", x, w, **PLAIN)) for k, x in enumerate(xs)])


def test_weights_are_rounded_to_nearest_even_and_widened() -> None:
    weights = RNG.standard_normal((5, 4)).astype(np.float32)
    graph, fired = product(weights), Counter[str]()
    rounded = round_weights(graph, fired)
    assert fired == {"round weights": 1}
    assert [n.out.dtype for n in rounded.nodes if n.op == "const"] == [BF16]
    feeds = {"x0": RNG.standard_normal((3, 5)).astype(np.float32)}
    want = feeds["x0"] @ weights.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_allclose(run(rounded, feeds)["y0"], want, rtol=1e-6)


def test_nan_and_infinity_stay_and_overflow_is_no_infinity() -> None:
    weights = np.array([[np.nan, np.inf], [-np.inf, 1.0]], np.float32)
    assert round_weights(product(weights)) is not product(weights)
    kept = round_weights(product(weights))
    (const,) = (n for n in kept.nodes if n.op == "const")
    np.testing.assert_array_equal(
        kept.constants.get(const.attrs["digest"]).astype(np.float32), weights)
    large = product(np.full((2, 2), np.finfo(np.float32).max, np.float32))
    assert round_weights(large) is large


def test_what_is_read_twice_and_what_is_no_constant_stays() -> None:
    twice = product(RNG.standard_normal((5, 4)).astype(np.float32), times=2)
    assert round_weights(twice) is twice
    b = Builder()
    x, w = b.input("x", TensorType(F32, (3, 5))), b.input("w", TensorType(F32, (5, 4)))
    graph = b.build([("y", b.op("dot", x, w, **PLAIN))])
    assert round_weights(graph) is graph


def test_other_readers_of_the_constant_see_it_as_it_is() -> None:
    b = Builder()
    table = b.const(RNG.standard_normal((9, 5)).astype(np.float32))
    graph = b.build([("row", b.op("neg", table)),
                     ("y", b.op("dot", b.input("x", TensorType(F32, (3, 5))), table, ta=False,
                                tb=True))])
    rounded = round_weights(graph)
    feeds = {"x": np.zeros((3, 5), np.float32)}
    np.testing.assert_array_equal(run(rounded, feeds)["row"], run(graph, feeds)["row"])
    assert sorted(str(n.out.dtype) for n in rounded.nodes if n.op == "const") == ["bf16", "f32"]
