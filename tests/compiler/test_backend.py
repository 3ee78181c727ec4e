"""The standard backend interface."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.base import Backend

import evonnx
from evonnx import backend

X = np.array([[-1.0, 2.0]], np.float32)


def model(op: str = "Relu") -> onnx.ModelProto:
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_prepare_and_run() -> None:
    rep = backend.prepare(model())
    want = np.maximum(X, 0)
    for inputs in ([X], (X,), {"x": X}, X):
        outputs = rep.run(inputs)
        assert np.array_equal(outputs[0], want)
        assert np.array_equal(outputs["y"], want)
    assert np.array_equal(backend.run_model(model(), [X])[0], want)
    assert isinstance(rep.compiled, evonnx.Compiled)
    with pytest.raises(evonnx.FeedError, match="2 arrays, but the inputs are: "):
        rep.run([X, X])
    with pytest.raises(evonnx.OptionError, match="no option"):
        rep.run([X], fast=True)


def test_run_node() -> None:
    node = helper.make_node("Add", ["a", "b"], ["c"])
    assert np.array_equal(backend.run_node(node, [X, X])[0], X + X)
    old = helper.make_node("Clip", ["a"], ["c"], max=1.0, min=0.0)
    assert np.array_equal(backend.run_node(old, [X], opset_version=6)[0], X.clip(0, 1))


def test_devices_and_support() -> None:
    assert issubclass(backend.EvonnxBackend, Backend)
    assert backend.supports_device("CPU")
    assert backend.supports_device("CPU:0")
    assert not backend.supports_device("CUDA")
    with pytest.raises(evonnx.OptionError, match="CUDA"):
        backend.prepare(model(), "CUDA")
    assert backend.is_compatible(model())
    assert not backend.is_compatible(model(), "CUDA")
    unknown = model("NoSuchOperator")
    assert not backend.is_compatible(unknown)
    with pytest.raises(evonnx.UnsupportedError):
        backend.prepare(unknown)
