"""``compile(weights="bf16")``: results within the stated bound, half the bytes, refusals."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import evonnx
from evonnx.ir.target import Target

RNG = np.random.default_rng(11)


def layer(rows: int | str, depth: int, columns: int, *, transposed: bool = False
          ) -> tuple[Any, np.ndarray, np.ndarray]:
    weights = RNG.standard_normal((depth, columns)).astype(np.float32)
    bias = RNG.standard_normal(columns).astype(np.float32)
    stored = weights.T.copy() if transposed else weights
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["z"], transB=int(transposed)),
             helper.make_node("Relu", ["z"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
        [onnx.numpy_helper.from_array(stored, "w"), onnx.numpy_helper.from_array(bias, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, weights, bias


@pytest.mark.parametrize("target", ["cpu", "avx2", "generic"])
@pytest.mark.parametrize("rows,depth,columns", [
    (1, 96, 64), (1, 7, 33), (3, 300, 5), (40, 1100, 50), (17, 64, 1), (1, 1, 1), (5, 0, 8),
    (0, 8, 8),
])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_are_those_of_the_rounded_weights(
    target: str, rows: int, depth: int, columns: int, transposed: bool
) -> None:
    if not Target.named(target).runs_here():
        pytest.skip(f"this machine cannot run {target}")
    model, weights, bias = layer(rows, depth, columns, transposed=transposed)
    compiled = evonnx.compile(model, weights="bf16", target=target, threads=1)
    x = RNG.standard_normal((rows, depth)).astype(np.float32)
    rounded = weights.astype(ml_dtypes.bfloat16).astype(np.float64)
    want = np.maximum(x.astype(np.float64) @ rounded + bias, 0)
    got = compiled(x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    exact = x.astype(np.float64) @ weights.astype(np.float64) + bias
    bound = np.abs(x).astype(np.float64) @ np.abs(weights) * 2.0**-8 + 1e-4
    assert (np.abs(got - np.maximum(exact, 0)) <= bound).all()


def test_unknown_rows_special_values_and_half_the_bytes() -> None:
    model, weights, bias = layer("N", 64, 48)
    half = evonnx.compile(model, weights="bf16", threads=1)
    full = evonnx.compile(model, threads=1)
    assert half.executable.constant_bytes <= full.executable.constant_bytes - weights.nbytes // 2
    for rows in (1, 0, 20):
        x = RNG.standard_normal((rows, 64)).astype(np.float32)
        np.testing.assert_allclose(half(x), full(x), atol=0.1)
    x = np.zeros((2, 64), np.float32)
    x[0, 3] = np.nan
    got = half(x)
    assert np.isnan(got[0]).all()
    np.testing.assert_allclose(got[1], np.maximum(bias, 0), rtol=1e-6)


def test_refusals() -> None:
    model, _, _ = layer(1, 8, 8)
    with pytest.raises(evonnx.OptionError, match=r"None or .bf16."):
        evonnx.compile(model, weights="f8")
    with pytest.raises(evonnx.OptionError, match="rounded"):
        evonnx.compile(model, weights="bf16", check=True)
    node = helper.make_node("Exp", ["x"], ["y"])
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])])
    other = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(evonnx.OptionError, match="constant right operand"):
        evonnx.compile(other, weights="bf16")
