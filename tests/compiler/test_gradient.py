"""Gradient against central differences in float64, for every kind of op that has a rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import evonnx
from evonnx.compiler.importer import import_model
from evonnx.ir.errors import ModelError, UnsupportedError
from evonnx.ir.interp import run

N = helper.make_node
RNG = np.random.default_rng(5)
TRAINING = "ai.onnx.preview.training"


def _d(*shape: int) -> np.ndarray:
    return RNG.uniform(0.2, 0.9, shape)


def _model(
    nodes: list[Any], feeds: dict[str, np.ndarray], outputs: list[str],
    held: dict[str, np.ndarray] | None = None, shapes: Any = None, opset: int = 17,
) -> onnx.ModelProto:  # fmt: skip
    inputs = [
        helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(a.dtype), (shapes or {}).get(n, a.shape))
        for n, a in feeds.items()
    ]  # fmt: skip
    consts = [numpy_helper.from_array(a, n) for n, a in (held or {}).items()]
    outs = [onnx.ValueInfoProto(name=n) for n in outputs]
    graph = helper.make_graph(nodes, "g", inputs, outs, consts)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(TRAINING, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _check(
    nodes: list[Any], xs: dict[str, np.ndarray], zs: dict[str, np.ndarray] | None = None,
    held: dict[str, np.ndarray] | None = None, shapes: Any = None, tolerance: float = 1e-5,
    opset: int = 17,
) -> None:  # fmt: skip
    """The gradient of the weighted sum of "y" agrees with central differences."""
    feeds = {**xs, **(zs or {})}
    first = import_model(_model(nodes, feeds, ["y"], held, opset=opset))
    weights = RNG.standard_normal(run(first, feeds)["y"].shape)
    held = {**(held or {}), "weights#": weights}
    loss = [*nodes, N("Mul", ["y", "weights#"], ["wy"]), N("ReduceSum", ["wy"], ["l"], keepdims=0)]
    names = list(xs)
    more: dict[str, Any] = {"zs": list(zs)} if zs else {}
    whole = [*loss, N("Gradient", [*names, *(zs or {})], [f"d{n}" for n in names], xs=names,
                      y="l", domain=TRAINING, **more)]  # fmt: skip
    forward = import_model(_model(loss, feeds, ["l"], held, opset=opset))
    compiled = evonnx.compile(
        _model(whole, feeds, [f"d{n}" for n in names], held, shapes, opset), threads=2)
    got = compiled.run(None, feeds)
    for name, g in zip(names, got, strict=True):
        want = np.zeros_like(xs[name])
        for at in np.ndindex(want.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = xs[name].copy()
                moved[at] += step
                ends.append(run(forward, {**feeds, name: moved})["l"])
            want[at] = (ends[0] - ends[1]) / 2e-5
        assert g.shape == want.shape and g.dtype == want.dtype
        np.testing.assert_allclose(g, want, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("op", [
    "Neg", "Abs", "Sqrt", "Exp", "Log", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh",
    "Cosh", "Tanh", "Asinh", "Atanh", "Erf", "Sigmoid", "Reciprocal", "Relu", "Softplus", "Elu",
    "LeakyRelu", "HardSigmoid", "Softmax", "LogSoftmax", "Floor", "Selu", "Identity",
])  # fmt: skip
def test_functions_of_one_number(op: str) -> None:
    _check([N(op, ["x"], ["y"])], {"x": _d(3, 4)})


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"])
def test_functions_of_two_numbers_and_broadcasting(op: str) -> None:
    _check([N(op, ["a", "b"], ["y"])], {"a": _d(2, 1, 3), "b": _d(4, 1)})
    _check([N(op, ["a", "a"], ["y"])], {"a": _d(3)})


REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2",
              "ReduceLogSumExp"]  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("keep", [0, 1])
def test_reductions(op: str, keep: int) -> None:
    node = N(op, ["x"], ["y"], axes=[0, 2], keepdims=keep)
    _check([node], {"x": _d(2, 3, 2)}, opset=12)


@pytest.mark.parametrize(("a", "b"), [((2, 3), (3, 4)), ((5, 2, 3), (3, 2)), ((3,), (2, 3, 4))])
def test_products(a: Any, b: Any) -> None:
    _check([N("MatMul", ["a", "b"], ["y"])], {"a": _d(*a), "b": _d(*b)})


def test_gemm() -> None:
    for ta, tb in ((0, 0), (0, 1), (1, 0), (1, 1)):
        a, b = _d(*((4, 3) if ta else (3, 4))), _d(*((2, 4) if tb else (4, 2)))
        node = N("Gemm", ["a", "b", "c"], ["y"], transA=ta, transB=tb, alpha=0.5)
        _check([node], {"a": a, "b": b, "c": _d(2)})


CONVOLUTIONS: list[dict[str, Any]] = [
    {}, {"strides": [2, 3], "pads": [1, 0, 2, 1]}, {"dilations": [2, 1]}, {"group": 2},
    {"strides": [2, 2], "dilations": [1, 2], "pads": [1, 1, 1, 1], "group": 2},
]  # fmt: skip


@pytest.mark.parametrize("attrs", CONVOLUTIONS)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_convolutions(op: str, attrs: dict[str, Any]) -> None:
    inner = 4 // attrs.get("group", 1) if op == "Conv" else 2
    node = N(op, ["x", "w", "b"], ["y"], **attrs)
    _check([node], {"x": _d(2, 4, 5, 6), "w": _d(4, inner, 2, 3),
                    "b": _d(4 if op == "Conv" else 2 * attrs.get("group", 1))})  # fmt: skip


def test_pools() -> None:
    attrs = {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [1, 1, 0, 0]}
    for op in ("MaxPool", "AveragePool"):
        _check([N(op, ["x"], ["y"], **attrs)], {"x": RNG.permutation(60).reshape(1, 2, 5, 6) / 60})


MOVES: list[tuple[list[Any], dict[str, np.ndarray]]] = [
    ([N("Reshape", ["x", "s"], ["y"])], {"s": np.array([4, 6])}),
    ([N("Transpose", ["x"], ["y"], perm=[2, 0, 1])], {}),
    ([N("Slice", ["x", "a", "b", "c", "d"], ["y"])],
     {"a": np.array([3, 0]), "b": np.array([-9, 3]), "c": np.array([2, 1]),
      "d": np.array([-2, 2])}),
    ([N("Pad", ["x", "p"], ["y"])], {"p": np.array([1, 0, 2, 0, 1, 0])}),
    ([N("Concat", ["x", "x", "x"], ["y"], axis=1)], {}),
    ([N("Gather", ["x", "i"], ["y"], axis=1)], {"i": np.array([[0, 2], [-1, 2]])}),
    ([N("GatherElements", ["x", "i"], ["y"], axis=2)], {"i": RNG.integers(0, 4, (2, 3, 5))}),
    ([N("GatherND", ["x", "i"], ["y"])], {"i": np.array([[0, 1], [0, 1], [1, 2]])}),
    ([N("GatherND", ["x", "i"], ["y"], batch_dims=1)], {"i": np.array([[[0]], [[2]]])}),
    ([N("Expand", ["x", "s"], ["y"])], {"s": np.array([2, 2, 3, 4])}),
    ([N("TopK", ["x", "k"], ["y", "z"])], {"k": np.array([2])}),
    ([N("CumSum", ["x", "k"], ["y"], exclusive=1)], {"k": np.array(1)}),
    ([N("Split", ["x", "s"], ["y", "z"], axis=1)], {"s": np.array([1, 2])}),
    ([N("Where", ["c", "x", "t"], ["y"])],
     {"c": RNG.integers(0, 2, (2, 3, 4)) > 0, "t": np.zeros((1, 1))}),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "held"), MOVES, ids=lambda v: v[0].op_type
                         if isinstance(v, list) else "")  # fmt: skip
def test_moves(nodes: list[Any], held: dict[str, np.ndarray]) -> None:
    _check(nodes, {"x": _d(2, 3, 4)}, held=held)


def test_scatters() -> None:
    index = np.array([[0, 2, 1], [2, 0, 1]])
    for how in ("none", "add"):
        node = N("ScatterElements", ["x", "i", "u"], ["y"], axis=1, reduction=how)
        _check([node], {"x": _d(2, 4), "u": _d(2, 3)}, held={"i": index})
        node = N("ScatterND", ["x", "i", "u"], ["y"], reduction=how)
        _check([node], {"x": _d(4, 3), "u": _d(2, 3)}, held={"i": np.array([[3], [0]])}, opset=16)


def test_norms_and_attention() -> None:
    norm = N("LayerNormalization", ["x", "s", "b"], ["y"])
    _check([norm], {"x": _d(3, 5), "s": _d(5), "b": _d(5)})
    nodes = [
        N("MatMul", ["q", "k"], ["m"]), N("Softmax", ["m"], ["p"]), N("MatMul", ["p", "v"], ["y"]),
    ]  # fmt: skip
    _check(nodes, {"q": _d(2, 3, 4), "k": _d(2, 4, 5), "v": _d(2, 5, 2)})
    _check([N("Det", ["x"], ["y"])], {"x": _d(2, 3, 3)})


def test_a_small_network_with_symbolic_sizes_and_a_second_input() -> None:
    nodes = [
        N("MatMul", ["x", "w"], ["h"]), N("Add", ["h", "b"], ["k"]), N("Tanh", ["k"], ["t"]),
        N("MatMul", ["t", "v"], ["o"]), N("Sub", ["o", "t0"], ["e"]), N("Mul", ["e", "e"], ["s"]),
        N("ReduceSum", ["s"], ["y"]),
    ]  # fmt: skip
    _check(nodes, {"w": _d(3, 4), "b": _d(4), "v": _d(4, 1)}, {"x": _d(5, 3), "t0": _d(5, 1)},
           shapes={"x": ("N", 3), "t0": ("N", 1)})  # fmt: skip


def test_sizes_that_depend_on_data() -> None:
    nodes = [
        N("NonZero", ["m"], ["at"]), N("Squeeze", ["at", "zero"], ["i"]),
        N("Gather", ["x", "i"], ["g"]), N("Mul", ["g", "g"], ["y"]),
        N("Gradient", ["x", "m"], ["d"], xs=["x"], zs=["m"], y="y", domain=TRAINING),
    ]  # fmt: skip
    x, m = _d(5, 2), np.array([1, 0, 1, 1, 0])
    model = _model(nodes, {"x": x, "m": m}, ["y", "d"], {"zero": np.array([0])},
                   {"x": ("N", 2), "m": ("N",)})  # fmt: skip
    y, d = evonnx.compile(model).run(None, {"x": x, "m": m})
    assert y.shape == (3, 2)
    np.testing.assert_allclose(d, 2 * x * m[:, None], rtol=1e-12)


def test_second_derivatives_and_other_points() -> None:
    nodes = [
        N("Mul", ["x", "x"], ["s"]), N("Mul", ["s", "x"], ["y"]),
        N("Gradient", ["x"], ["d"], xs=["x"], y="y", domain=TRAINING),
        N("Gradient", ["x"], ["dd"], xs=["x"], y="d", domain=TRAINING),
        N("Gradient", ["p"], ["at"], xs=["x"], y="y", domain=TRAINING),
        N("Gradient", ["s", "p"], ["ds", ""], xs=["s", "x"], y="y", domain=TRAINING),
    ]  # fmt: skip
    x, p = _d(3), _d(3)
    model = _model(nodes, {"x": x, "p": p}, ["d", "dd", "at", "ds"])
    d, dd, at, ds = evonnx.compile(model).run(None, {"x": x, "p": p})
    for got, want in ((d, 3 * x * x), (dd, 6 * x), (at, 3 * p * p), (ds, p)):
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_what_does_not_depend_is_zero() -> None:
    nodes = [
        N("Floor", ["x"], ["f"]), N("Mul", ["f", "z"], ["y"]),
        N("Gradient", ["x", "z"], ["dx", "dz"], xs=["x", "z"], y="y", domain=TRAINING),
    ]  # fmt: skip
    x, z = 3 * _d(4), _d(4)
    dx, dz = evonnx.compile(_model(nodes, {"x": x, "z": z}, ["dx", "dz"])).run(
        None, {"x": x, "z": z})  # fmt: skip
    assert (dx == 0).all() and (dz == np.floor(x)).all()


def test_refusals_name_the_op() -> None:
    loss = [N("GRU", ["x", "w", "r"], ["y"], hidden_size=2),
            N("Gradient", ["x"], ["d"], xs=["x"], y="y", domain=TRAINING)]  # fmt: skip
    held = {"w": np.ones((1, 6, 3), "f"), "r": np.ones((1, 6, 2), "f")}
    with pytest.raises(UnsupportedError, match="no derivative of gru"):
        evonnx.compile(_model(loss, {"x": np.ones((2, 1, 3), "f")}, ["d"], held))
    nowhere = [N("Gradient", ["x"], ["d"], xs=["x"], y="x", domain=TRAINING)]
    with pytest.raises(ModelError, match="not computed"):
        evonnx.compile(_model(nowhere, {"x": np.ones(2)}, ["d"]))
