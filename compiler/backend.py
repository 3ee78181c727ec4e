"""EvoNNX as a backend of ONNX: the standard interface ``onnx.backend.base`` describes.

    import evonnx.backend
    outputs = evonnx.backend.prepare(model).run([x, y])

``onnx.backend.test.BackendTest(evonnx.backend, __name__)`` runs ONNX's own suite unchanged.
Sequences and optionals are Python lists and None, as ONNX's reference evaluator has them; arrays
of types NumPy lacks are those of ``ml_dtypes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from ..ir.errors import OptionError, quote
from .api import Compiled, check, compile


class EvonnxRep(BackendRep):
    """A compiled model as a backend's representation of it."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled = compiled
        """The callable, with its report."""

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Runs on arrays: a sequence by position, a mapping by name, or one array. Answers a
        named tuple of the outputs in order. Raises ``FeedError``."""
        if kwargs:
            raise OptionError(f"run takes no option {quote(next(iter(kwargs)))}")
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            given = inputs if isinstance(inputs, (list, tuple)) else [inputs]
            feeds = self.compiled._by_name(given, {})
        results = self.compiled.run(None, feeds)
        named: tuple[Any, ...] = namedtupledict("Outputs", self.compiled.output_names)(*results)
        return named


class EvonnxBackend(Backend):
    """``prepare``, ``run_model``, ``run_node`` and ``supports_device`` on EvoNNX."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether every operator of ``model`` is supported on ``device``."""
        return cls.supports_device(device) and not check(model)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> EvonnxRep:
        """Compiles ``model``, with the options of ``evonnx.compile``; raises ``EvonnxError``."""
        if not cls.supports_device(device):
            raise OptionError(f"device {quote(device)}: EvoNNX runs on CPU")
        return EvonnxRep(compile(model, **kwargs))

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Runs one node of the default domain; ``opset_version`` chooses its version (the newest).
        ``outputs_info`` is not needed: types are inferred."""
        opset = int(kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        return cls.run_model(node_model(node, inputs, opset), list(inputs), device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for the CPU, the one device there is."""
        return device.split(":")[0] == "CPU"


def node_model(node: onnx.NodeProto, inputs: Sequence[Any], opset: int) -> onnx.ModelProto:
    """A model of one node whose inputs have the types of ``inputs``."""
    names = [name for name in node.input if name]
    arrays = [np.asarray(value) for value in inputs]
    infos = [onnx.helper.make_tensor_value_info(
                 name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
             for name, a in zip(names, arrays, strict=True)]  # fmt: skip
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", infos, outputs)
    domains = [onnx.helper.make_opsetid("", opset)]
    if node.domain not in ("", "ai.onnx"):
        domains.append(onnx.helper.make_opsetid(node.domain, 1))
    return onnx.helper.make_model(graph, opset_imports=domains)
