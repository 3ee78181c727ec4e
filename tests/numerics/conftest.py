"""Small models that are compiled and run; every promise is checked on compiled code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import evonnx
from evonnx.compiler.importer import import_model
from evonnx.ir import interp
from evonnx.ir.target import Target

KINDS = {"float32": "float", "float64": "double"}
"""Element types that ONNX calls otherwise than NumPy."""


class NumericsLab:
    """Builds models from nodes and runs them compiled."""

    @staticmethod
    def takes(op: str, kind: str, opset: int = 23) -> bool:
        """Whether ONNX lets the operator's first input be of an element type."""
        found = onnx.defs.get_schema(op, opset).inputs[0].types
        return f"tensor({KINDS.get(kind, kind)})" in found

    def model(
        self,
        nodes: Sequence[onnx.NodeProto],
        feeds: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        constants: Mapping[str, Any] | None = None,
        opset: int = 23,
    ) -> onnx.ModelProto:
        """A model whose inputs have the feeds' types and shapes."""
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in feeds.items()
        ]
        held = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
        outs = [onnx.ValueInfoProto(name=n) for n in outputs]
        graph = helper.make_graph(list(nodes), "numerics", inputs, outs, held)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11
        )

    def run(
        self,
        nodes: Sequence[onnx.NodeProto],
        feeds: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        constants: Mapping[str, Any] | None = None,
        opset: int = 23,
        target: str | Target = "cpu",
        threads: int = 1,
    ) -> list[np.ndarray]:
        """Outputs of the compiled model, by the schedule of greedy fusion: many nodes that have
        nothing to do with one another are much to search, and promises are about all schedules."""
        model = self.model(nodes, feeds, outputs, constants, opset)
        compiled = evonnx.compile(model, target=target, threads=threads, search="none")
        return compiled.run(None, feeds)

    def meaning(
        self,
        nodes: Sequence[onnx.NodeProto],
        feeds: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        constants: Mapping[str, Any] | None = None,
    ) -> list[np.ndarray]:
        """Outputs of the reference interpreter."""
        graph = import_model(self.model(nodes, feeds, outputs, constants))
        return list(interp.run(graph, feeds).values())


@pytest.fixture
def lab() -> NumericsLab:
    return NumericsLab()


def _targets() -> list[Target]:
    named = [Target.named(name) for name in ("cpu", "avx2", "generic")]
    return list({t.isa: t for t in named if t.runs_here()}.values())


@pytest.fixture(params=_targets(), ids=lambda t: t.name)
def target(request: pytest.FixtureRequest) -> Target:
    """Every instruction set this machine executes."""
    found: Target = request.param
    return found
