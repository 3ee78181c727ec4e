"""Fed positions outside the axis they are read into are refused, by name, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import evonnx
from evonnx.ir.errors import FeedError

TABLE = np.arange(20, dtype=np.float32).reshape(5, 4)


def model(nodes: list[Any], shape: list[Any], dtype: int = TensorProto.INT64) -> onnx.ModelProto:
    """``y`` from the index ``i``; ``t`` is the table, ``d`` an input with symbolic rows."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("i", dtype, shape),
         helper.make_tensor_value_info("d", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(TABLE, "t"),
         onnx.numpy_helper.from_array(np.array([0, -1]), "flat")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


D = np.zeros((2, 3), np.float32)


def refused(compiled: Any, i: np.ndarray, d: np.ndarray = D) -> str:
    with pytest.raises(FeedError) as caught:
        compiled(i=i, d=d)
    return str(caught.value)


def test_a_token_beyond_the_table_is_refused_by_name() -> None:
    gather = helper.make_node("Gather", ["t", "i"], ["y"], name="words", axis=0)
    compiled = evonnx.compile(model([gather], ["n"]))
    ids = np.array([0, 4, -5, -1])
    assert np.array_equal(compiled(i=ids, d=D), TABLE[ids])
    text = refused(compiled, np.array([0, 1, 5, 9]))
    assert "input 'i' holds 5 at [2]" in text and "words" in text and "from -5 to 4" in text
    assert "holds -6 at [1]" in refused(compiled, np.array([0, -6]))
    assert compiled(i=np.array([], np.int64), d=D).shape == (0, 4)


@pytest.mark.parametrize("dtype", [TensorProto.INT32, TensorProto.INT64])
def test_through_moves_and_casts(dtype: int) -> None:
    nodes = [
        helper.make_node("Cast", ["i"], ["c"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["c", "flat"], ["r"]),
        helper.make_node("Transpose", ["r"], ["p"], perm=[1, 0]),
        helper.make_node("Gather", ["t", "p"], ["y"], axis=1),
    ]
    compiled = evonnx.compile(model(nodes, [2, 2], dtype))
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    assert "holds 4 at [1, 0]" in refused(compiled, np.array([[0, 1], [4, 3]], kind))
    compiled(i=np.array([[0, 1], [-4, 3]], kind), d=D)


def test_the_size_of_a_fed_axis_counts() -> None:
    gather = helper.make_node("Gather", ["d", "i"], ["y"], axis=0)
    compiled = evonnx.compile(model([gather], ["n"]))
    assert "size 2" in refused(compiled, np.array([2]))
    compiled(i=np.array([2]), d=np.zeros((3, 3), np.float32))
    text = refused(compiled, np.array([0]), np.zeros((0, 3), np.float32))
    assert "size 1 is larger than 0" in text


def test_columns_of_gather_nd() -> None:
    node = helper.make_node("GatherND", ["t", "i"], ["y"])
    compiled = evonnx.compile(model([node], ["n", 2]))
    index = np.array([[4, 3], [0, -4]])
    assert np.array_equal(compiled(i=index, d=D), TABLE[[4, 0], [3, 0]])
    assert "holds 4 at [1, 1]" in refused(compiled, np.array([[4, 3], [3, 4]]))


def test_gather_elements() -> None:
    node = helper.make_node("GatherElements", ["t", "i"], ["y"], axis=1)
    compiled = evonnx.compile(model([node], [5, 1]))
    assert "holds -5 at [4, 0]" in refused(compiled, np.array([[0], [1], [2], [3], [-5]]))


def test_what_the_model_computes_is_its_own_affair() -> None:
    nodes = [helper.make_node("Clip", ["i", "low", "high"], ["c"]),
             helper.make_node("Gather", ["t", "c"], ["y"], axis=0)]
    proto = model(nodes, ["n"])
    proto.graph.initializer.extend(
        [onnx.numpy_helper.from_array(np.array(v), k) for k, v in (("low", 0), ("high", 4))])
    out = evonnx.compile(proto)(i=np.array([-9, 9]), d=D)
    assert np.array_equal(out, TABLE[[0, 4]])


def test_a_saved_model_refuses_too(tmp_path: Path) -> None:
    gather = helper.make_node("Gather", ["t", "i"], ["y"], axis=0)
    evonnx.compile(model([gather], ["n"])).save(tmp_path / "m.evonnx")
    assert "holds 7" in refused(evonnx.load(tmp_path / "m.evonnx"), np.array([7]))
