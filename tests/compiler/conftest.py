"""Fixtures that import small ONNX models and compare them with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import evonnx
from evonnx.compiler.importer import import_model
from evonnx.ir.interp import run


class OnnxLab:
    """Builds models, runs them by the reference interpreter and by ONNX Runtime."""

    def model(
        self,
        nodes: Sequence[onnx.NodeProto],
        feeds: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        constants: Mapping[str, np.ndarray] | None = None,
        opset: int = 17,
        shapes: Mapping[str, Sequence[int | str]] | None = None,
    ) -> onnx.ModelProto:
        """A model whose inputs have the feeds' types; ``shapes`` declares symbolic sizes."""
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(a.dtype), (shapes or {}).get(name, a.shape)
            )
            for name, a in feeds.items()
        ]
        outs = [onnx.ValueInfoProto(name=name) for name in outputs]
        held = [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()]
        graph = helper.make_graph(list(nodes), "lab", inputs, outs, held)
        imports = [
            helper.make_opsetid("", opset),
            helper.make_opsetid("com.microsoft", 1),
            helper.make_opsetid("ai.onnx.ml", 5 if opset > 20 else 3),
        ]
        return helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10)

    def ours(self, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Results of the interpreter on the imported model."""
        return run(import_model(model), feeds)

    def theirs(self, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Results of ONNX Runtime."""
        ort = pytest.importorskip("onnxruntime")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(model.SerializeToString(), options)
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(None, dict(feeds)), strict=True))

    def check(
        self,
        nodes: Sequence[onnx.NodeProto],
        feeds: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        constants: Mapping[str, np.ndarray] | None = None,
        opset: int = 17,
        tolerance: float = 2e-5,
        shapes: Mapping[str, Sequence[int | str]] | None = None,
    ) -> dict[str, Any]:
        """Asserts that both agree; answers our results."""
        model = self.model(nodes, feeds, outputs, constants, opset, shapes)
        wanted, got = self.theirs(model, feeds), self.ours(model, feeds)
        for name in outputs:
            assert_same(got[name], wanted[name], tolerance)
        return got


    def check_compiled(
        self,
        nodes: Sequence[onnx.NodeProto],
        feeds: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        constants: Mapping[str, np.ndarray] | None = None,
        opset: int = 17,
        tolerance: float = 2e-5,
    ) -> None:
        """As ``check``, for the compiled model."""
        model = self.model(nodes, feeds, outputs, constants, opset)
        got = evonnx.compile(model, cache=False).run(outputs, feeds)
        wanted = self.theirs(model, feeds)
        for name, value in zip(outputs, got, strict=True):
            assert_same(value, wanted[name], tolerance)


def assert_same(got: Any, want: Any, tolerance: float) -> None:
    """Equal values: arrays, lists of arrays, lists of dictionaries."""
    if isinstance(want, list):
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            if isinstance(b, dict):
                assert list(a) == list(b)
                np.testing.assert_allclose(list(a.values()), list(b.values()), atol=tolerance)
            else:
                assert_same(a, b, tolerance)
    elif want.dtype == object:
        assert got.shape == want.shape and (got == want).all()
    else:
        assert got.shape == want.shape and got.dtype == want.dtype
        whole = want.dtype.kind in "iu"
        wide = np.int64 if whole else np.float64
        np.testing.assert_allclose(got.astype(wide), want.astype(wide), atol=tolerance,
                                   rtol=0 if whole else tolerance)  # fmt: skip


@pytest.fixture
def lab() -> OnnxLab:
    return OnnxLab()


