"""What ONNX says about an operator at an opset: counts, attribute types, function body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TypeProto
from onnx.defs import OpSchema

from ...ir.errors import ModelError, quote
from ...ir.graph import Value
from ...ir.types import LooseTensor, MapType, OptionalType, SequenceType, TensorType, Type
from .tensors import DTYPE_OF

_NUMBER_OF = {dtype: number for number, dtype in DTYPE_OF.items()}


@dataclass(frozen=True, slots=True)
class Signature:
    """One operator at one opset."""

    schema: OpSchema
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    """Attribute types by name, as ``AttributeProto`` numbers them."""
    required: tuple[str, ...]


@lru_cache(maxsize=4096)
def signature(domain: str, op: str, opset: int) -> Signature | None:
    """ONNX's declaration, or None where the operator is not known at that opset."""
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except (onnx.defs.SchemaError, ValueError, TypeError):
        return None
    attributes = schema.attributes
    return Signature(
        schema,
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {name: int(a.type.value) for name, a in attributes.items()},
        tuple(name for name, a in attributes.items() if a.required),
    )


def check_node(node: NodeProto, attrs: Mapping[str, AttributeProto], sig: Signature) -> None:
    """Raises ``ModelError`` where the node does not fit ONNX's declaration."""
    for what, count, (low, high) in (
        ("inputs", len(node.input), sig.inputs), ("outputs", len(node.output), sig.outputs),
    ):  # fmt: skip
        if not low <= count <= high:
            raise ModelError(f"takes {low} to {high} {what}, has {count}")
    for name, a in attrs.items():
        expected = sig.attributes.get(name)
        if expected is None:
            if sig.schema.deprecated:
                continue
            raise ModelError(f"there is no attribute {quote(name)}")
        if a.type != expected:
            raise ModelError(
                f"attribute {quote(name)} has type {_type_name(a.type)}, not {_type_name(expected)}"
            )
    for name in sig.required:
        if name not in attrs:
            raise ModelError(f"required attribute {name} is absent")


def _type_name(number: int) -> str:
    names = AttributeProto.AttributeType
    return names.Name(number) if number in names.values() else str(number)  # type: ignore[arg-type]


def function_body(
    sig: Signature, opset: int, node: NodeProto, inputs: list[Value | None]
) -> FunctionProto | None:
    """The body that ONNX publishes for the operator, or None."""
    schema = sig.schema
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        version = max(versions, default=opset)
        text = schema.get_function_with_opset_version(version)
        return FunctionProto.FromString(text) if isinstance(text, bytes) else text
    if schema.has_context_dependent_function:
        # The builder reads one type per operand the schema allows, without looking at the count.
        count = max(len(node.input), min(sig.inputs[1], 32))
        padded = [*inputs, *(None for _ in range(count - len(inputs)))]
        types = [_type_proto(None if v is None else v.type).SerializeToString() for v in padded]
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        version = max(versions, default=opset)
        data = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), types
        )
        return FunctionProto.FromString(data) if data else None
    return None


def _type_proto(type_: Type | None) -> TypeProto:
    proto = TypeProto()
    if isinstance(type_, TensorType):
        proto.tensor_type.elem_type = _NUMBER_OF[type_.dtype]
        for d in type_.shape:
            dim = proto.tensor_type.shape.dim.add()
            if isinstance(d, int):
                dim.dim_value = d
            else:
                dim.dim_param = str(d)
    elif isinstance(type_, LooseTensor):
        proto.tensor_type.elem_type = _NUMBER_OF[type_.dtype]
    elif isinstance(type_, MapType):
        proto.map_type.key_type = _NUMBER_OF[type_.key]
        proto.map_type.value_type.tensor_type.elem_type = _NUMBER_OF[type_.value]
    elif isinstance(type_, SequenceType):
        proto.sequence_type.elem_type.CopyFrom(_type_proto(type_.elem))
    elif isinstance(type_, OptionalType):
        proto.optional_type.elem_type.CopyFrom(_type_proto(type_.elem))
    return proto


def dtype_number(value: Value) -> int:
    """ONNX's number of the element type of ``value``."""
    return _NUMBER_OF[value.dtype]
