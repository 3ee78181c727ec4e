"""Quantized operators against ONNX Runtime; sums are exact integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from evonnx.compiler.importer import import_model

RNG = np.random.default_rng(17)


def _f(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def _q(dtype: Any, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def _half(dtype: Any) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.array((info.min + info.max + 1) // 2 + 3, dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantize_rounds_half_to_even_and_saturates(lab: Any, dtype: Any) -> None:
    x = np.concatenate([np.arange(-20, 20) * 0.5, [1e9, -1e9, 0.0]]).astype(np.float32)
    held = {"s": np.array(1.0, np.float32), "z": _half(dtype)}
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    lab.check([node], {"x": x}, ["y"], held, tolerance=0)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_axis_there_and_back(lab: Any, axis: int) -> None:
    x = _f(3, 4, 5, scale=20)
    n = x.shape[axis]
    held = {"s": np.abs(_f(n)) + 0.1, "z": _q(np.uint8, n)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    lab.check(nodes, {"x": x}, ["q", "y"], held, tolerance=1e-6)


def test_blocks(lab: Any) -> None:
    held = {"s": np.abs(_f(4, 2)) + 0.1, "z": _q(np.int8, 4, 2)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1, block_size=3),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1, block_size=3),
    ]
    lab.check(nodes, {"x": _f(4, 6, scale=20)}, ["q", "y"], held, tolerance=1e-6, opset=21)


def test_dequantize_wide_integers(lab: Any) -> None:
    x = np.array([2**24 + 1, -(2**31), 7], np.int32)
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"])
    lab.check([node], {"x": x}, ["y"], {"s": np.array(0.5, np.float32)}, tolerance=0)


@pytest.mark.parametrize("low", [-3.0, 0.5, 0.0])
def test_dynamic_quantization(lab: Any, low: float) -> None:
    x = np.abs(_f(4, 7)) + np.float32(low) if low else np.zeros((4, 7), np.float32)
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    lab.check([node], {"x": x}, ["y", "s", "z"], tolerance=1e-6)


@pytest.mark.parametrize("right", [np.uint8, np.int8])
@pytest.mark.parametrize("zeros", ["none", "left", "both", "columns"])
def test_matmul_integer(lab: Any, right: Any, zeros: str) -> None:
    feeds = {"a": _q(np.uint8, 2, 3, 70)}
    held = {"b": _q(right, 70, 5)}
    names = ["a", "b"]
    if zeros != "none":
        held["za"] = np.array(131, np.uint8)
        names.append("za")
    if zeros in ("both", "columns"):
        held["zb"] = _half(right) if zeros == "both" else _q(right, 5)
        names.append("zb")
    lab.check([helper.make_node("MatMulInteger", names, ["y"])], feeds, ["y"], held, tolerance=0)


def test_a_zero_point_of_zero_costs_nothing(lab: Any) -> None:
    node = helper.make_node("MatMulInteger", ["a", "b", "za", "zb"], ["y"])
    held = {"b": _q(np.int8, 4, 5), "za": np.array(0, np.uint8), "zb": np.array(0, np.int8)}
    model = lab.model([node], {"a": _q(np.uint8, 3, 4)}, ["y"], held)
    assert [n.op for n in import_model(model).nodes] == ["input", "const", "dot"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qlinear_matmul(lab: Any, dtype: Any) -> None:
    held = {
        "sa": np.array(0.02, np.float32), "za": _half(dtype), "b": _q(dtype, 6, 5),
        "sb": np.array(0.03, np.float32), "zb": _half(dtype),
        "sy": np.array(0.05, np.float32), "zy": _half(dtype),
    }  # fmt: skip
    node = helper.make_node("QLinearMatMul", ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], ["y"])
    lab.check([node], {"a": _q(dtype, 4, 6)}, ["y"], held, tolerance=1)


@pytest.mark.parametrize("zeros", ["none", "image", "weights", "both", "far"])
@pytest.mark.parametrize(
    "attrs", [{}, {"pads": [1, 2, 0, 1], "strides": [2, 1]}, {"group": 2, "pads": [1, 1, 1, 1]}]
)
def test_conv_integer(lab: Any, zeros: str, attrs: dict[str, Any]) -> None:
    held = {"w": _q(np.uint8, 6, 4 // attrs.get("group", 1), 3, 2)}
    names = ["x", "w"]
    if zeros != "none":
        held["z"] = np.array(0 if zeros == "weights" else 100, np.uint8)
        names.append("z")
    if zeros in ("weights", "both", "far"):
        held["zw"] = np.array(0 if zeros == "far" else 121, np.uint8)
        held["w"] = held["w"] if zeros == "far" else np.clip(held["w"], 9, 240)
        names.append("zw")
    node = helper.make_node("ConvInteger", names, ["y"], **attrs)
    lab.check([node], {"x": _q(np.uint8, 2, 4, 7, 6)}, ["y"], held, tolerance=0)
    conv, = [n for n in import_model(lab.model([node], {"x": _q(np.uint8, 2, 4, 7, 6)}, ["y"], held)
                                     ).nodes if n.op == "conv" and n.out.shape[1] == 6]
    narrow = zeros in ("weights", "both") or attrs.get("group", 1) == 1
    assert (conv.operands[1].dtype.name == "i8") == narrow


def test_zero_points_are_subtracted_from_weights_that_leave_room(lab: Any) -> None:
    node = helper.make_node("MatMulInteger", ["a", "b", "za", "zb"], ["y"])
    held = {"b": np.clip(_q(np.uint8, 9, 5), 20, 200), "za": np.array(7, np.uint8),
            "zb": np.array([100, 110, 120, 130, 140], np.uint8)}  # fmt: skip
    feeds = {"a": _q(np.uint8, 3, 9)}
    lab.check([node], feeds, ["y"], held, tolerance=0)
    model = lab.model([node], feeds, ["y"], held)
    assert all(n.op != "reduce" or n.operands[0].shape != (3, 9) for n in import_model(model).nodes)


@pytest.mark.parametrize("groups", [1, 2])
def test_qlinear_conv(lab: Any, groups: int) -> None:
    held = {
        "sx": np.array(0.02, np.float32), "zx": np.array(117, np.uint8),
        "w": _q(np.int8, 6, 4 // groups, 3, 3), "sw": np.abs(_f(6, scale=0.05)) + 0.01,
        "zw": np.zeros(6, np.int8), "sy": np.array(0.4, np.float32),
        "zy": np.array(121, np.uint8), "b": _q(np.int16, 6).astype(np.int32),
    }  # fmt: skip
    names = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"]
    node = helper.make_node("QLinearConv", names, ["y"], pads=[1, 1, 1, 1], group=groups)
    lab.check([node], {"x": _q(np.uint8, 1, 4, 6, 5)}, ["y"], held, tolerance=1)


@pytest.mark.parametrize("zero", [-128, 5])
@pytest.mark.parametrize("per_filter", [False, True])
def test_a_convolution_of_dequantized_operands_is_an_integer_one(
    lab: Any, zero: int, per_filter: bool
) -> None:
    n = 16 if per_filter else 1
    held = {
        "sx": np.array(0.02, np.float32), "zx": np.array(zero, np.int8),
        "w": _q(np.int8, 16, 4, 3, 3), "zw": np.zeros(n, np.int8),
        "sw": np.abs(_f(n, scale=0.05)) + np.float32(0.01), "b": _f(16),
    }  # fmt: skip
    if not per_filter:
        held |= {k: held[k].reshape(()) for k in ("sw", "zw")}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["c"], axis=0),
        helper.make_node("Conv", ["a", "c", "b"], ["y"], pads=[1, 1, 1, 1]),
    ]
    feeds = {"x": _q(np.int8, 1, 4, 7, 6)}
    lab.check(nodes, feeds, ["y"], held, tolerance=1e-4)
    graph = import_model(lab.model(nodes, feeds, ["y"], held))
    assert [str(n.types[0].dtype) for n in graph.nodes if n.op == "conv"] == ["i32"]
