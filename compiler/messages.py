"""ONNX's protobuf messages, without the rest of the package ``onnx``.

To read a model takes its message classes alone. ``import onnx`` also brings a checker, a parser, a
version converter, a helper for archives, and with these e-mail, CSV and a command line: 6 MB and
0.1 s. So the one generated module is loaded from the folder of the installed package. The classes
are those of ``onnx`` itself, whoever comes first: protobuf has one class for a message of one file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import (
        AttributeProto,
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        SparseTensorProto,
        TensorProto,
        TypeProto,
        ValueInfoProto,
    )
else:

    def _generated():
        """The module that protobuf generated from ``onnx-ml.proto``."""
        from importlib.machinery import PathFinder
        from importlib.util import find_spec, module_from_spec

        package = None if "onnx" in sys.modules else find_spec("onnx")
        folders = None if package is None else package.submodule_search_locations
        spec = folders and PathFinder.find_spec("onnx.onnx_ml_pb2", folders)
        if not spec:
            from onnx import onnx_ml_pb2

            return onnx_ml_pb2
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    _MODULE = _generated()
    AttributeProto = _MODULE.AttributeProto
    FunctionProto = _MODULE.FunctionProto
    GraphProto = _MODULE.GraphProto
    ModelProto = _MODULE.ModelProto
    NodeProto = _MODULE.NodeProto
    SparseTensorProto = _MODULE.SparseTensorProto
    TensorProto = _MODULE.TensorProto
    TypeProto = _MODULE.TypeProto
    ValueInfoProto = _MODULE.ValueInfoProto


def make_node(op: str, inputs: int, outputs: int, name: str, domain: str,
              attributes: Mapping[str, Any]) -> NodeProto:
    """A node whose inputs are called ``i0``, ``i1``, ..., and its outputs ``o0``, ...; attributes
    are integers, floats, text or sequences of one of them, those that are None left out. Raises
    ``TypeError`` for other values, ``ValueError`` for an empty sequence, which has no type."""
    return NodeProto(
        op_type=op, name=name, domain=domain,
        input=[f"i{k}" for k in range(inputs)], output=[f"o{k}" for k in range(outputs)],
        attribute=[_attribute(n, v) for n, v in attributes.items() if v is not None],
    )  # fmt: skip


def _attribute(name: str, value: Any) -> AttributeProto:
    several = isinstance(value, (tuple, list))
    values = list(value) if several else [value]
    if not values:
        raise ValueError(f"attribute {name}: an empty sequence has no type")
    kind: str
    if all(isinstance(v, Integral) for v in values):
        kind, values = "INT", [int(v) for v in values]
    elif all(isinstance(v, Real) for v in values):
        kind, values = "FLOAT", [float(v) for v in values]
    elif all(isinstance(v, str) for v in values):
        kind, values = "STRING", [v.encode() for v in values]
    else:
        raise TypeError(f"attribute {name}: {value!r} is neither numbers nor text")
    plural = f"{kind}S"
    given = {plural.lower(): values} if several else {kind[0].lower(): values[0]}
    number = AttributeProto.AttributeType.Value(plural if several else kind)
    return AttributeProto(name=name, type=number, **given)


__all__ = ["AttributeProto", "FunctionProto", "GraphProto", "ModelProto", "NodeProto",
           "SparseTensorProto", "TensorProto", "TypeProto", "ValueInfoProto", "make_node"]
