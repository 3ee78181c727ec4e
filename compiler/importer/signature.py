"""Whether a node fits what ONNX declares of its operator; the body that ONNX publishes for one.

A body is ``onnx.defs``' own to build, by code for some operators: the one thing that a model may
need the whole of ``onnx`` for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...ir.errors import ModelError, quote
from ...ir.graph import Value
from ...ir.types import LooseTensor, MapType, OptionalType, SequenceType, TensorType, Type
from ..messages import AttributeProto, FunctionProto, NodeProto, TensorProto, TypeProto
from .declarations import Operand, Signature
from .tensors import DTYPE_OF

if TYPE_CHECKING:
    from onnx.defs import OpSchema

_NUMBER_OF = {dtype: number for number, dtype in DTYPE_OF.items()}
_TENSOR_TEXT = {d.name: f"tensor({TensorProto.DataType.Name(n).lower()})"
                for n, d in DTYPE_OF.items()}  # fmt: skip
"""How ONNX spells the type of a tensor, by the name of its element type."""


def check_node(
    node: NodeProto,
    inputs: Sequence[Value | None],
    attrs: Mapping[str, AttributeProto],
    sig: Signature,
) -> None:
    """Raises ``ModelError`` where the node does not fit ONNX's declaration."""
    for what, count, (low, high) in (
        ("inputs", len(node.input), sig.inputs), ("outputs", len(node.output), sig.outputs),
    ):  # fmt: skip
        if not low <= count <= high:
            takes = f"{low}" if low == high else f"{low} to {high}"
            raise ModelError(f"takes {takes} {what}, has {count}")
    for name, a in attrs.items():
        expected = sig.attributes.get(name)
        if expected is None:
            if sig.deprecated:
                continue
            raise ModelError(f"there is no attribute {quote(name)}")
        if a.type != expected:
            raise ModelError(
                f"attribute {quote(name)} has type {_type_name(a.type)}, not {_type_name(expected)}"
            )
    for name in sig.required:
        if name not in attrs:
            raise ModelError(f"required attribute {name} is absent")
    _check_operands(inputs, sig.operands)


def _check_operands(inputs: Sequence[Value | None], operands: Sequence[Operand]) -> None:
    """Raises ``ModelError`` where the types of the inputs break the operator's type constraints:
    each is of a type its parameter allows, and those that share a type variable agree."""
    bound: dict[str, tuple[str, Operand]] = {}
    for i, value in enumerate(inputs):
        if value is None:
            continue
        operand = operands[min(i, len(operands) - 1)]
        text = _type_text(value.type)
        if not text:
            continue
        if text not in operand.types:
            raise ModelError(f"input {i} ({operand.name}) is a {text}; at this opset the operator"
                             f" takes {_listed(operand.types)}")
        if operand.variable:
            first, other = bound.setdefault(operand.variable, (text, operand))
            if first != text:
                raise ModelError(
                    f"input {i} ({operand.name}) is a {text}, but {other.name} is a {first};"
                    f" the operator takes both of one type {operand.variable}"
                )


def _listed(types: Iterable[str]) -> str:
    """The types, those of tensors first, cut where they are many."""
    names = sorted(types, key=lambda t: (not t.startswith("tensor"), t))
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _type_text(type_: Type) -> str:
    """``tensor(float)`` and the like, as ONNX spells types; empty where it is not known whole (what
    an empty sequence holds)."""
    if isinstance(type_, TensorType):
        return _TENSOR_TEXT[type_.dtype.name]
    if isinstance(type_, LooseTensor):
        return "" if type_.none else _TENSOR_TEXT[type_.dtype.name]
    if isinstance(type_, MapType):
        key = _TENSOR_TEXT[type_.key.name].removeprefix("tensor(")[:-1]
        return f"map({key},{_TENSOR_TEXT[type_.value.name]})"
    elem = _type_text(type_.elem)
    container = "seq" if isinstance(type_, SequenceType) else "optional"
    return elem and f"{container}({elem})"


def _type_name(number: int) -> str:
    names = AttributeProto.AttributeType
    return names.Name(number) if number in names.values() else str(number)


def function_body(
    sig: Signature, opset: int, node: NodeProto, inputs: list[Value | None]
) -> FunctionProto | None:
    """The body that ONNX publishes for the operator, or None."""
    if not sig.has_body:
        return None
    schema = _schema(sig)
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


def defaults(sig: Signature) -> dict[str, AttributeProto]:
    """The default values of the operator's attributes, by name."""
    return {name: a.default_value for name, a in _schema(sig).attributes.items()
            if a.default_value.name}  # fmt: skip


def _schema(sig: Signature) -> OpSchema:
    from onnx import defs

    return defs.get_schema(sig.op, sig.since, sig.domain)


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
