"""Integer products through the whole compiler: exact for every shape, signedness and packing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import evonnx

RNG = np.random.default_rng(29)


def _q(dtype: Any, *shape: int) -> np.ndarray:
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def _compiled(lab: Any, node: Any, feeds: Any, held: Any, shapes: Any = None) -> np.ndarray:
    model = lab.model([node], feeds, ["y"], held, shapes=shapes)
    compiled = evonnx.compile(model, threads=1)
    result: np.ndarray = compiled.run(None, feeds)[0]
    return result


@pytest.mark.parametrize(("m", "k", "n"), [(1, 64, 40), (7, 13, 5), (33, 260, 130), (3, 3, 1)])
@pytest.mark.parametrize("left", [np.uint8, np.int8])
@pytest.mark.parametrize("right", [np.uint8, np.int8])
def test_matmul_by_a_constant(
    lab: Any, m: int, k: int, n: int, left: Any, right: Any
) -> None:
    a, b = _q(left, m, k), _q(right, k, n)
    if left is np.int8:
        pytest.importorskip("onnxruntime")
    za, zb = np.array(9, left), np.array(-7 if right is np.int8 else 7, right)
    node = helper.make_node("MatMulInteger", ["a", "b", "za", "zb"], ["y"])
    got = _compiled(lab, node, {"a": a}, {"b": b, "za": za, "zb": zb})
    want = (a.astype(np.int64) - int(za)) @ (b.astype(np.int64) - int(zb))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("k", [8, 11])
def test_matmul_of_two_activations(lab: Any, k: int) -> None:
    """Neither side is known when the model is loaded: the right one is packed in each call."""
    feeds = {"a": _q(np.uint8, 2, 5, k), "b": _q(np.int8, 2, k, 37)}
    got = _compiled(lab, helper.make_node("MatMulInteger", ["a", "b"], ["y"]), feeds, {})
    want = feeds["a"].astype(np.int64) @ feeds["b"].astype(np.int64)
    np.testing.assert_array_equal(got, want)


def test_symbolic_rows(lab: Any) -> None:
    b = _q(np.int8, 30, 20)
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    for rows in (1, 4, 19):
        a = _q(np.uint8, rows, 30)
        got = _compiled(lab, node, {"a": a}, {"b": b}, {"a": ("N", 30)})
        np.testing.assert_array_equal(got, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize("attrs", [{}, {"pads": [1, 1, 1, 1]}, {"strides": [2, 2], "group": 2}])
@pytest.mark.parametrize("channels", [4, 6])
def test_convolution(lab: Any, attrs: dict[str, Any], channels: int) -> None:
    groups = attrs.get("group", 1)
    x, w = _q(np.uint8, 1, channels, 9, 8), _q(np.int8, 10, channels // groups, 3, 3)
    z = np.array(100, np.uint8)
    node = helper.make_node("ConvInteger", ["x", "w", "z"], ["y"], **attrs)
    got = _compiled(lab, node, {"x": x}, {"w": w, "z": z})
    model = lab.model([node], {"x": x}, ["y"], {"w": w, "z": z})
    np.testing.assert_array_equal(got, lab.ours(model, {"x": x})["y"])


def test_fused_scaling_equals_onnx_runtime(lab: Any) -> None:
    """What follows the integer product (correction, scale, bias) is one kernel with it."""
    x = RNG.standard_normal((6, 50)).astype(np.float32)
    held = {"b": _q(np.int8, 50, 33), "s": np.array(0.01, np.float32),
            "c": RNG.standard_normal(33).astype(np.float32)}  # fmt: skip
    node = helper.make_node("DynamicQuantizeMatMul", ["x", "b", "s", "", "c"], ["y"],
                            domain="com.microsoft")  # fmt: skip
    got = _compiled(lab, node, {"x": x}, held)
    want = lab.theirs(lab.model([node], {"x": x}, ["y"], held), {"x": x})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
