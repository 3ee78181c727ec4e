"""Convolutions of unusual form as models of one node."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from evonnx.bench.nodes import NODES


@pytest.mark.parametrize("name", NODES)
def test_a_node_has_the_shapes_it_says(name: str) -> None:
    """As inference finds them from image, weights and attributes."""
    shape = NODES[name]
    node = helper.make_node(shape.op, ["x", "w"], ["y"], **dict(shape.attributes))
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", shape.x), ("w", shape.w))]
    result = helper.make_tensor_value_info("y", 1, None)
    model = helper.make_model(helper.make_graph([node], "g", ends, [result]))
    found = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
    assert tuple(d.dim_value for d in found.type.tensor_type.shape.dim) == shape.y
