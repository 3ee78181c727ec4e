"""Groups bound by memory as models of a few nodes."""

from __future__ import annotations

import onnx
import pytest

from evonnx.bench.streams import GROUPS


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_has_the_shape_it_says(name: str) -> None:
    """As inference finds it from operands and attributes."""
    group = GROUPS[name]()
    model = group.model()
    onnx.checker.check_model(model)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    found = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
    assert tuple(d.dim_value for d in found.type.tensor_type.shape.dim) == group.result
