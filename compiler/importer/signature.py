"""What ONNX says about an operator at an opset: counts, types, attributes, function body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, TypeProto
from onnx.defs import OpSchema

from ...ir.errors import ModelError, quote
from ...ir.graph import Value
from ...ir.types import LooseTensor, MapType, OptionalType, SequenceType, TensorType, Type
from .tensors import DTYPE_OF

_NUMBER_OF = {dtype: number for number, dtype in DTYPE_OF.items()}
_TENSOR_TEXT = {d.name: f"tensor({TensorProto.DataType.Name(n).lower()})"
                for n, d in DTYPE_OF.items()}  # fmt: skip
"""How ONNX spells the type of a tensor, by the name of its element type."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One operator at one opset."""

    schema: OpSchema
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: Mapping[str, int]
    """Attribute types by name, as ``AttributeProto`` numbers them."""
    required: tuple[str, ...]
    operands: tuple[Operand, ...]
    """The declared inputs in order; a variadic one is the last and stands for all that follow."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One declared input of an operator."""

    name: str
    variable: str
    """The type variable that all operands which share it agree on; empty for the inputs of a
    variadic parameter that may differ from one another."""
    types: frozenset[str]
    """Types allowed, as ONNX spells them."""


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
        tuple(Operand(p.name, p.type_str if p.is_homogeneous else "", frozenset(p.types))
              for p in schema.inputs),
    )


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
