"""The model around the nodes: signature, initializers, files, external data beyond 2 GB."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, TypeProto, ValueInfoProto, helper

from ...ir.dims import Expr
from ...ir.errors import ModelError, quote
from ...ir.graph import Graph, attr_regions
from ...ir.types import DType, LooseTensor, MapType, OptionalType, TensorType, Type
from .context import OPSET, SINCE, VERSIONS, Exporter, onnx_dtype, tensor_proto

_IR_VERSION = 9
_EXTERNAL_ABOVE = 1_500_000_000
"""Bytes of constants above which they go into a file of their own (protobuf ends at 2 GB)."""
_SMALL = 1024
"""Bytes up to which a constant stays inside the model in any case."""
_ALIGN = 4096


def to_onnx(graph: Graph, *, name: str = "evonnx") -> ModelProto:
    """``graph`` as an ONNX model of opset ``context.OPSET``, checked by ``onnx.checker``.

    Input and output names are kept. Raises ``UnsupportedError`` for an op without an ONNX form,
    ``ModelError`` for a signature that ONNX cannot express."""
    model = _model(graph, Exporter(), name)
    if model.ByteSize() < _EXTERNAL_ABOVE:
        onnx.checker.check_model(model)
    return model


def export_model(graph: Graph, path: str | os.PathLike[str]) -> Path:
    """Writes ``graph`` to ``path``; constants go to ``<name>.data`` beside it where the model
    would come near 2 GB. Returns the path."""
    target = Path(path)
    if _constant_bytes(graph) <= _EXTERNAL_ABOVE:
        target.write_bytes(to_onnx(graph, name=target.stem).SerializeToString())
        return target
    data = target.with_name(target.name + ".data")
    with data.open("wb") as file:

        def store(tensor: str, array: np.ndarray) -> TensorProto:
            if array.nbytes <= _SMALL or array.dtype == object:
                return tensor_proto(tensor, array)
            file.write(b"\0" * (-file.tell() % _ALIGN))
            dense = np.asarray(array, order="C")
            if DType.of(array.dtype).bits < 8:
                dense = np.frombuffer(tensor_proto(tensor, array).raw_data, np.uint8)
            proto = TensorProto(
                name=tensor, dims=array.shape, data_type=onnx_dtype(DType.of(array.dtype))
            )
            proto.data_location = TensorProto.EXTERNAL
            place = {"location": data.name, "offset": file.tell(), "length": dense.nbytes}
            for key, value in place.items():
                proto.external_data.add(key=key, value=str(value))
            dense.tofile(file)
            return proto

        model = _model(graph, Exporter(store), target.stem)
    target.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(target))
    return target


def _constant_bytes(graph: Graph) -> int:
    """Bytes of all constants of a graph and its regions (types say them; nothing is loaded)."""
    sizes: dict[str, int] = {}
    stack = [graph]
    while stack:
        for node in stack.pop().nodes:
            stack.extend(attr_regions(node.attrs))
            if node.op == "const" and isinstance(node.types[0], TensorType):
                nbytes = node.types[0].nbytes()
                sizes[node.attrs["digest"]] = nbytes if isinstance(nbytes, int) else 0
    return sum(sizes.values())


def _model(graph: Graph, e: Exporter, name: str) -> ModelProto:
    _check_names(graph)
    for n in (*graph.input_names, *graph.output_names):
        e.claim(n)
    inputs = []
    for v in graph.inputs:
        e.scope.names[v] = v.node.attrs["name"]
        inputs.append(value_info(v.node.attrs["name"], v.type))
    e.define([(v.type, e.scope.names[v]) for v in graph.inputs], known=True)
    for node in graph.nodes:
        if node.op != "input":
            e.write(node, graph.constants)
    for output, v in graph.outputs:
        inner = e.scope.names[v]
        if inner != output:
            e.scope.nodes.append(
                helper.make_node("Identity", [inner], [output], name=e.fresh("Identity"))
            )
    _name_results(graph, e)
    outputs = [value_info(n, v.type) for n, v in graph.outputs]
    proto = helper.make_graph(
        e.scope.nodes, name or "evonnx", inputs, outputs, list(e.initializers.values())
    )
    versions = VERSIONS | {"": _opset(graph)}
    imports = [helper.make_opsetid(d, versions[d]) for d in sorted(e.domains)]
    model = helper.make_model(proto, producer_name="evonnx", opset_imports=imports)
    model.ir_version = max(_IR_VERSION, helper.find_min_ir_version_for(imports, True))
    return model


def _opset(graph: Graph) -> int:
    """``OPSET``, or the first version that knows the types and ops of the graph."""
    needed, stack = OPSET, [graph]
    while stack:
        for node in stack.pop().nodes:
            stack.extend(attr_regions(node.attrs))
            names = [t.dtype.name for t in node.types if isinstance(t, TensorType)]
            needed = max(needed, *(SINCE.get(n, 0) for n in (node.op, *names)))
    return needed


def _check_names(graph: Graph) -> None:
    """ONNX has one name space for inputs and outputs."""
    values = dict(zip(graph.input_names, graph.inputs, strict=True))
    for name, v in graph.outputs:
        if not name or (name in values and values[name] != v):
            raise ModelError(
                f"ONNX cannot name an output {quote(name)}: the name is taken or empty"
            )
    if "" in values:
        raise ModelError("ONNX cannot name an input with the empty string")


def _name_results(graph: Graph, e: Exporter) -> None:
    """Lets the node that computes an output give it its name, instead of an ``Identity`` behind."""
    producers = {name: node for node in e.scope.nodes for name in node.output}
    readers: dict[str, int] = {}
    for node in e.scope.nodes:
        for name in _reads(node):
            readers[name] = readers.get(name, 0) + 1
    outputs = set(graph.output_names)
    kept = []
    for node in e.scope.nodes:
        source = node.input[0] if node.op_type == "Identity" and len(node.input) == 1 else ""
        maker = producers.get(source)
        if node.output[0] in outputs and maker is not None and readers[source] == 1:
            at = list(maker.output).index(source)
            maker.output[at] = node.output[0]
        else:
            kept.append(node)
    e.scope.nodes[:] = kept


def _reads(node: onnx.NodeProto) -> list[str]:
    """Names a node reads, those inside its subgraphs included."""
    found = list(node.input)
    stack = [a.g for a in node.attribute if a.HasField("g")]
    while stack:
        body = stack.pop()
        found.extend(o.name for o in body.output)
        for inner in body.node:
            found.extend(inner.input)
            stack.extend(a.g for a in inner.attribute if a.HasField("g"))
    return found


def value_info(name: str, t: Type) -> ValueInfoProto:
    """Declaration of an input or output; symbolic sizes are named by their expression."""
    return ValueInfoProto(name=name, type=type_proto(t))


def type_proto(t: Type) -> TypeProto:
    """ONNX's form of a type."""
    if isinstance(t, TensorType):
        shape = [str(d) if isinstance(d, Expr) else d for d in t.shape]
        return helper.make_tensor_type_proto(onnx_dtype(t.dtype), shape)
    if isinstance(t, LooseTensor):
        return helper.make_tensor_type_proto(onnx_dtype(t.dtype), None)
    if isinstance(t, MapType):
        value = helper.make_tensor_type_proto(onnx_dtype(t.value), [])
        return helper.make_map_type_proto(onnx_dtype(t.key), value)
    if isinstance(t, OptionalType):
        return helper.make_optional_type_proto(type_proto(t.elem))
    return helper.make_sequence_type_proto(type_proto(t.elem))
