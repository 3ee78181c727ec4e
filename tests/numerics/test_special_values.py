"""NaN, infinities, signed zeros and subnormal numbers follow IEEE 754, on every instruction set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

NAN, INF = np.nan, np.inf
SPECIAL = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 1e-45, 3e38, -3e38, 0.5, -0.5,
                    1.5, 1e-40], np.float32)  # fmt: skip

BINARY: dict[str, tuple[dict[str, Any], Callable[[Any, Any], Any]]] = {
    "Add": ({}, np.add), "Sub": ({}, np.subtract), "Mul": ({}, np.multiply),
    "Div": ({}, np.divide), "Max": ({}, np.maximum), "Min": ({}, np.minimum),
    "Pow": ({}, np.power), "Mod": ({"fmod": 1}, np.fmod), "Less": ({}, np.less),
    "Greater": ({}, np.greater), "Equal": ({}, np.equal), "LessOrEqual": ({}, np.less_equal),
    "GreaterOrEqual": ({}, np.greater_equal),
}  # fmt: skip
UNARY = (
    "Relu", "Abs", "Neg", "Ceil", "Floor", "Round", "Sqrt", "Exp", "Log", "Sigmoid", "Tanh", "Erf",
    "Sin", "Cos", "Tan", "Sign", "Reciprocal", "Softplus", "Softsign", "IsNaN", "IsInf",
    "LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "ThresholdedRelu", "Gelu",
    "Mish", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Shrink",
)  # fmt: skip


def assert_close(got: np.ndarray, want: np.ndarray, what: str, ulps: int = 8) -> None:
    """Equal up to some roundings; NaN meets NaN, infinities and zeros are exact."""
    assert got.dtype == want.dtype, what
    assert np.array_equal(np.isnan(got), np.isnan(want)), (what, got, want)
    for g, w in zip(got.ravel(), want.ravel()):
        if w != w or g == w:
            continue
        assert np.isfinite(w), (what, g, w)
        assert abs(float(g) - float(w)) <= ulps * float(np.spacing(np.abs(w))), (what, g, w)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_pairs_of_special_values(lab: Any, target: Any) -> None:
    """Max and Min of a NaN are NaN; comparisons with NaN are false; division by zero is signed."""
    a, b = (v.ravel().copy() for v in np.meshgrid(SPECIAL, SPECIAL))
    nodes = [helper.make_node(op, ["a", "b"], [op], **attrs) for op, (attrs, _) in BINARY.items()]
    results = lab.run(nodes, {"a": a, "b": b}, list(BINARY), target=target)
    for op, got in zip(BINARY, results, strict=True):
        want = BINARY[op][1](a, b)
        if got.dtype == bool or op != "Pow":
            assert np.array_equal(got, want, equal_nan=got.dtype != bool), op
        else:
            assert_close(got, want, op)
    quotient = results[list(BINARY).index("Div")]
    signs = np.signbit(np.divide(a, b))
    known = ~np.isnan(quotient)
    assert np.array_equal(np.signbit(quotient)[known], signs[known])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_functions_of_special_values(lab: Any, target: Any) -> None:
    nodes = [helper.make_node(op, ["a"], [op]) for op in UNARY]
    feeds = {"a": SPECIAL}
    model = lab.model(nodes, feeds, UNARY)
    wanted = ReferenceEvaluator(model).run(None, feeds)
    results = lab.run(nodes, feeds, UNARY, target=target)
    for op, got, want in zip(UNARY, results, wanted, strict=True):
        if op == "Gelu":  # the evaluator rounds 1 + erf near -1: what is finite, in float64
            exact = [0.5 * x * math.erfc(-x / math.sqrt(2)) for x in SPECIAL[3:].tolist()]
            want[3:] = exact
        if op in ("Exp", "Sigmoid", "Mish", "Gelu", "Softplus", "Tan", "Sinh", "Cosh"):
            assert_close(got, want, op, ulps=32)
        else:
            assert_close(got, want, op)


@pytest.mark.parametrize(
    "low, high", [(-1, 1), (NAN, 1), (-1, NAN), (2, -2), (-INF, INF), (INF, INF)]
)
def test_clip(lab: Any, low: float, high: float) -> None:
    """min(max(x, low), high): NaN in any of them is NaN, and the upper limit wins."""
    feeds = {"a": SPECIAL, "l": np.array(low, np.float32), "h": np.array(high, np.float32)}
    (got,) = lab.run([helper.make_node("Clip", ["a", "l", "h"], ["y"])], feeds, ["y"])
    want = np.minimum(np.maximum(SPECIAL, np.float32(low)), np.float32(high))
    assert np.array_equal(got, want, equal_nan=True)


ROWS = np.array([
    [1, NAN, 3, 2, 0.5], [INF, 1, 2, 3, INF], [-INF, 1, INF, 0, 2], [NAN] * 5, [3, 3, 1, 3, 1],
    [-INF] * 5, [-INF, NAN, INF, 0, -0.0], [0.0, -0.0, -0.0, 0.0, -1],
], np.float32)  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_reductions_of_rows_with_nan(lab: Any, target: Any) -> None:
    """A NaN anywhere makes the result NaN; the logarithm of a sum of nothing but exp(-inf) is
    -inf."""
    kinds: dict[str, Callable[[np.ndarray], Any]] = {
        "ReduceSum": np.sum, "ReduceMean": np.mean, "ReduceMax": np.max, "ReduceMin": np.min,
        "ReduceProd": np.prod, "ReduceL1": lambda r: np.abs(r).sum(),
        "ReduceL2": lambda r: np.sqrt(np.square(r).sum()),
        "ReduceSumSquare": lambda r: np.square(r).sum(),
        "ReduceLogSumExp": lambda r: np.log(np.exp(r.astype(np.float64)).sum()),
    }  # fmt: skip
    nodes = [helper.make_node(op, ["a", "axes"], [op], keepdims=0) for op in kinds]
    constants = {"axes": np.array([1])}
    results = lab.run(nodes, {"a": ROWS}, list(kinds), constants, target=target)
    for op, got in zip(kinds, results, strict=True):
        want = np.array([kinds[op](row) for row in ROWS], np.float32)
        assert_close(got, want, op)


@pytest.mark.parametrize("last", [0, 1])
def test_positions_of_extremes(lab: Any, last: int) -> None:
    """The first NaN (the last on request) is the extreme, as in NumPy."""
    nodes = [helper.make_node(op, ["a"], [op], axis=1, keepdims=0, select_last_index=last)
             for op in ("ArgMax", "ArgMin")]  # fmt: skip
    results = lab.run(nodes, {"a": ROWS}, ["ArgMax", "ArgMin"])
    rows = ROWS[:, ::-1] if last else ROWS
    for got, find in zip(results, (np.argmax, np.argmin), strict=True):
        want = find(rows, axis=1)
        assert np.array_equal(got, ROWS.shape[1] - 1 - want if last else want)


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(lab: Any, largest: int) -> None:
    """NaN is larger than every number; equal elements come in the order of their positions."""
    node = helper.make_node("TopK", ["a", "k"], ["v", "i"], axis=1, largest=largest)
    values, places = lab.run([node], {"a": ROWS}, ["v", "i"], {"k": np.array([4])})
    for row, v, i in zip(ROWS, values, places):
        key = [(np.isnan(x), 0.0 if np.isnan(x) else float(x)) for x in row]
        order = sorted(range(len(row)), key=lambda k: (key[k], -k) if largest else (key[k], k),
                       reverse=bool(largest))  # fmt: skip
        assert i.tolist() == order[:4]
        assert np.array_equal(v, row[order[:4]], equal_nan=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_softmax(lab: Any, target: Any) -> None:
    """A NaN, +inf, or nothing but -inf in a row makes the row NaN; -inf alone gets weight 0."""
    rows = np.concatenate([ROWS, [[-INF, 1, 2, -INF, 0]]]).astype(np.float32)
    nodes = [helper.make_node(op, ["a"], [op], axis=1) for op in ("Softmax", "LogSoftmax")]
    soft, log = lab.run(nodes, {"a": rows}, ["Softmax", "LogSoftmax"], target=target)
    shifted = (rows - rows.max(1, keepdims=True)).astype(np.float64)
    total = np.exp(shifted).sum(1, keepdims=True)
    assert_close(soft, (np.exp(shifted) / total).astype(np.float32), "Softmax")
    assert_close(log, (shifted - np.log(total)).astype(np.float32), "LogSoftmax", 32)


def test_pooling_lets_nan_through(lab: Any) -> None:
    x = np.ones((1, 1, 4, 4), np.float32)
    x[0, 0, 1, 2] = NAN
    nodes = [helper.make_node("MaxPool", ["x"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
             helper.make_node("AveragePool", ["x"], ["a"], kernel_shape=[2, 2], strides=[2, 2])]
    want = np.array([[[[1, NAN], [1, 1]]]], np.float32)
    for got in lab.run(nodes, {"x": x}, ["m", "a"]):
        assert np.array_equal(got, want, equal_nan=True)


def test_nan_and_infinity_in_products(lab: Any, target: Any) -> None:
    """0 * inf is NaN, also against a weight that is 0: nothing is skipped."""
    a = np.ones((5, 70), np.float32)
    a[1, 3], a[2, 69], a[3, 0] = NAN, INF, -INF
    b = np.zeros((70, 40), np.float32)
    b[:, ::2] = 1
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    with np.errstate(invalid="ignore"):
        want = a.astype(np.float64) @ b
    for constants, feeds in (({}, {"a": a, "b": b}), ({"b": b}, {"a": a})):
        (got,) = lab.run([node], feeds, ["y"], constants, target=target)
        assert np.array_equal(got, want.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_subnormal_numbers_survive(lab: Any, target: Any, threads: int) -> None:
    """Flush-to-zero is not set, neither in the calling thread nor in the team's."""
    x = np.array([1e-45, 1e-40, -1e-42, 1.1e-38] * 50_000, np.float32)
    a, b = np.full((4, 8), 1e-30, np.float32), np.full((8, 4), 1e-10, np.float32)
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["m"]), helper.make_node("Add", ["x", "x"], ["s"]),
        helper.make_node("Exp", ["e"], ["p"]), helper.make_node("MatMul", ["a", "b"], ["d"]),
    ]  # fmt: skip
    e = np.array([-88, -90, -100, -103], np.float32)
    halved, doubled, small, product = lab.run(
        nodes, {"x": x, "e": e, "a": a, "b": b}, ["m", "s", "p", "d"],
        {"half": np.array(0.5, np.float32)}, target=target, threads=threads,
    )  # fmt: skip
    assert np.array_equal(halved, x * np.float32(0.5))
    assert np.array_equal(doubled, x + x)
    np.testing.assert_allclose(small, np.exp(e.astype(np.float64)), rtol=2e-5, atol=2e-45)
    assert (product > 0).all()
    np.testing.assert_allclose(product, 8e-40, rtol=1e-4)


def test_signed_zeros(lab: Any) -> None:
    zeros = np.array([0.0, -0.0], np.float32)
    nodes = [helper.make_node(op, ["z"], [op]) for op in ("Reciprocal", "Sqrt", "Neg", "Round")]
    nodes.append(helper.make_node("Add", ["z", "zero"], ["Add"]))
    outputs = [n.output[0] for n in nodes]
    constants = {"zero": np.array(0.0, np.float32)}
    inverse, root, neg, rounded, total = lab.run(nodes, {"z": zeros}, outputs, constants)
    assert inverse.tolist() == [INF, -INF]
    assert np.signbit(root).tolist() == [False, True]
    assert np.signbit(neg).tolist() == [True, False]
    assert np.signbit(rounded).tolist() == [False, True]
    assert np.signbit(total).tolist() == [False, False]
