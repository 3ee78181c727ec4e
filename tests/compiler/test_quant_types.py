"""QuantizeLinear and DequantizeLinear for every type and granularity of the newest schemas."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import evonnx

OPSET = 28
TARGETS = (
    np.int8, np.uint8, np.int16, np.uint16, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2,
    ml_dtypes.uint2, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e5m2fnuz, ml_dtypes.float4_e2m1fn, ml_dtypes.float6_e2m3fn,
    ml_dtypes.float6_e3m2fn,
)  # fmt: skip
REALS = (np.float32, np.float16, ml_dtypes.bfloat16)
SHAPE, AXIS = (3, 8, 5), 1
SCALES = {"tensor": (), "axis": (8,), "block": (3, 2, 5)}
RNG = np.random.default_rng(9)


def name(t: Any) -> str:
    return np.dtype(t).name


def both(node: Any, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(compiled, ONNX's reference)."""
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
             for n, a in feeds.items()]
    out = [helper.make_empty_tensor_value_info("y")]
    model = helper.make_model(helper.make_graph([node], "quant", infos, out),
                              opset_imports=[helper.make_opsetid("", OPSET)], ir_version=13)
    got = evonnx.compile(model, threads=1).run(["y"], feeds)[0]
    with np.errstate(all="ignore"):
        return got, ReferenceEvaluator(model).run(None, feeds)[0]


def attributes(granularity: str) -> dict[str, int]:
    """Of a node: the axis, and blocks of four along it."""
    return {} if granularity == "tensor" else {"axis": AXIS} | (
        {"block_size": 4} if granularity == "block" else {})


def zero_of(to: Any, shape: tuple[int, ...]) -> np.ndarray:
    if "float" in name(to):
        return np.zeros(shape, to)
    return RNG.integers(max(int(ml_dtypes.iinfo(to).min), -3), 2, shape).clip(
        int(ml_dtypes.iinfo(to).min), None).astype(to)


@pytest.mark.parametrize("granularity", SCALES)
@pytest.mark.parametrize("to", TARGETS, ids=name)
def test_quantize(to: Any, granularity: str) -> None:
    scale = RNG.choice([0.25, 0.5, 1.0, 3.0], SCALES[granularity])
    x = RNG.standard_normal(SHAPE) * RNG.choice([1.0, 30.0, 1e5], SHAPE)
    for real in REALS[: 3 if granularity == "tensor" else 1]:
        x_, scale_ = np.clip(x, -1e4, 1e4).astype(real), np.asarray(scale).astype(real)
        node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **attributes(granularity))
        zero = zero_of(to, SCALES[granularity])
        got, want = both(node, {"x": x_, "s": scale_, "z": zero})
        assert got.dtype == want.dtype == to
        assert (got.view(np.uint8) == want.view(np.uint8)).all(), real


@pytest.mark.parametrize("granularity", SCALES)
@pytest.mark.parametrize("source", TARGETS, ids=name)
def test_dequantize(source: Any, granularity: str) -> None:
    codes = RNG.integers(0, 16 if "4" in name(source) else 256, SHAPE).astype(np.int16)
    bits = (ml_dtypes.iinfo if "int" in name(source) else ml_dtypes.finfo)(source).bits
    x = (codes.astype(source) if bits > 8
         else (codes % (1 << bits)).astype(np.uint8).view(source))
    scale = RNG.choice([0.25, 0.5, 1.0, 3.0], SCALES[granularity])
    zero = zero_of(source, SCALES[granularity])
    for real in (*REALS, ml_dtypes.float8_e8m0fnu)[: 4 if granularity == "tensor" else 1]:
        attrs = attributes(granularity)
        if real is ml_dtypes.float8_e8m0fnu:
            attrs["output_dtype"] = helper.np_dtype_to_tensor_dtype(np.dtype(np.float16))
            scale = np.asarray(0.25)
        node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], **attrs)
        got, want = both(node, {"x": x, "s": np.asarray(scale).astype(real), "z": zero})
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("to", TARGETS[8:12], ids=name)
def test_quantize_without_saturation(to: Any, saturate: int) -> None:
    x = np.array([1e6, -1e6, 3.0, np.inf, -np.inf, np.nan, 0.0], np.float32)
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], saturate=saturate,
                            output_dtype=helper.np_dtype_to_tensor_dtype(np.dtype(to)))
    got, want = both(node, {"x": x, "s": np.asarray(2.0, np.float32)})
    assert got.dtype == to
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


def test_precision_of_the_division() -> None:
    """In the scale's type, unless ``precision`` says another; then rounded to it."""
    x = np.array([2049.0, 3.49999, 2.50001], np.float32)
    scale = np.asarray(1.0, np.float16)
    half = helper.np_dtype_to_tensor_dtype(np.dtype(np.float16))
    plain = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    wide = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], precision=1)
    narrow = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], precision=half)
    zero = np.asarray(1, np.int16)
    feeds = {"x": x, "s": scale, "z": zero}
    assert both(plain, feeds)[0].tolist() == [2049, 5, 3]
    assert both(wide, feeds)[0].tolist() == [2050, 4, 4]
    got, want = both(narrow, feeds)
    assert got.tolist() == want.tolist() == [2049, 5, 3]


@pytest.mark.parametrize("kinds", [(ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
                                   (ml_dtypes.float8_e5m2fnuz, np.int8)])  # fmt: skip
def test_products_of_quantized_floats(kinds: tuple[Any, Any]) -> None:
    """QLinearMatMul of float8: products of what the codes stand for."""
    ta, tb = kinds
    a = RNG.integers(-8, 9, (3, 6)).astype(np.float32).astype(ta)
    b = RNG.integers(-4, 5, (6, 4)).astype(np.float32).astype(tb)
    one, zero = np.asarray(1.0, np.float32), np.zeros((), ta)
    feeds = {"a": a, "sa": one, "za": zero, "b": b, "sb": one * 2, "zb": np.zeros((), tb),
             "sy": one * 4, "zy": zero}  # fmt: skip
    node = helper.make_node("QLinearMatMul", list(feeds), ["y"])
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in feeds.items()]
    model = helper.make_model(
        helper.make_graph([node], "q", infos, [helper.make_empty_tensor_value_info("y")]),
        opset_imports=[helper.make_opsetid("", 21)])  # fmt: skip
    got = evonnx.compile(model).run(["y"], feeds)[0]
    exact = a.astype(np.float32) @ b.astype(np.float32) / 2
    top = float(ml_dtypes.finfo(ta).max)
    np.testing.assert_array_equal(got.astype(np.float32),
                                  exact.clip(-top, top).astype(ta).astype(np.float32))
