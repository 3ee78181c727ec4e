"""Declared ONNX types as IR types, and names of sizes as symbols.

A ``dim_param`` becomes a symbol whose name is the parameter's made into an identifier; different
parameters keep different symbols. A dimension without a name, or with a negative value as some
exporters write it, gets a fresh symbol.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...ir.dims import Dim, sym
from ...ir.errors import LimitError, ModelError, UnsupportedError, quote
from ...ir.types import LooseTensor, MapType, OptionalType, SequenceType, TensorType, Type
from ..messages import TypeProto, ValueInfoProto
from .tensors import check_size, dtype_of

if TYPE_CHECKING:
    from ...ir.builder import Builder

_RESERVED = frozenset({"max", "min", "bcast"})
_MAX_RANK = 64


Occurrence = tuple[str, int]
"""(input, axis) where a size name stands."""


class SizeNames:
    """Symbols of one model's named sizes."""

    def __init__(
        self,
        fixed: Mapping[str, int] | None = None,
        groups: Mapping[tuple[str, Occurrence], int] | None = None,
    ) -> None:
        self.fixed = dict(fixed or {})
        """Sizes the caller fixed, by the model's own name or the symbol's."""
        self.groups = dict(groups or {})
        """Occurrences of a name that are sizes of their own, by group; see ``sharing``."""
        self.symbols: dict[tuple[str, int], str] = {}
        """Symbol of each name (and group) that the model uses."""
        self._taken: set[str] = set()

    def symbol(self, param: str, at: Occurrence | None = None) -> str:
        """The symbol's name of the size called ``param`` in the model; raises ``ModelError`` where
        that is no text."""
        if not isinstance(param, str):  # protobuf hands on as bytes what is not UTF-8
            raise ModelError(f"the name {quote(param)} of a size is not UTF-8")
        key = (param, 0 if at is None else self.groups.get((param, at), 0))
        name = self.symbols.get(key)
        if name is None:
            name = self._identifier(param)
            self.symbols[key] = name
            self._taken.add(name)
        return name

    def dim(self, param: str, at: Occurrence | None = None) -> Dim:
        """The size called ``param`` in the model, or what the caller fixed it to."""
        name = self.symbol(param, at)
        value = self.fixed.get(param, self.fixed.get(name))
        return sym(name) if value is None else value

    def check_used(self) -> None:
        """Raises ``ModelError`` for a fixed size that the model does not name."""
        known = {p for p, _ in self.symbols} | set(self.symbols.values())
        unknown = sorted(set(self.fixed) - known)
        if unknown:
            raise ModelError(
                f"sizes: the model has no size {quote(unknown[0])}; there are "
                + (", ".join(quote(p) for p in sorted(p for p, _ in self.symbols)) or "none")
            )

    def _identifier(self, param: str) -> str:
        stem = re.sub(r"[^A-Za-z0-9_]+", "_", param)[:40].strip("_") or "d"
        if stem[0].isdigit() or stem in _RESERVED:
            stem = f"n_{stem}"
        name, k = stem, 2
        while name in self._taken:
            name, k = f"{stem}_{k}", k + 1
        return name


def type_of(
    proto: TypeProto, b: Builder, sizes: SizeNames, name: str, depth: int = 0
) -> Type | None:
    """The IR type of a declaration; None where it says nothing (or has no shape).

    Unnamed dimensions get fresh symbols that start with ``name``."""
    if depth > 8:
        raise LimitError(f"the type of {quote(name)} is nested too deep")
    kind = proto.WhichOneof("value")
    if kind is None:
        return None
    if kind == "tensor_type":
        if depth and not proto.tensor_type.HasField("shape"):
            return LooseTensor(dtype_of(proto.tensor_type.elem_type, f"value {quote(name)}"))
        return _tensor(proto.tensor_type, b, sizes, name)
    if kind == "map_type":
        what = f"value {quote(name)}"
        value = proto.map_type.value_type
        if value.WhichOneof("value") != "tensor_type":
            raise UnsupportedError(f"{what} is a map to what is no tensor; maps hold single values")
        return MapType(dtype_of(proto.map_type.key_type, what),
                       dtype_of(value.tensor_type.elem_type, what))
    if kind == "sequence_type":
        elem = type_of(proto.sequence_type.elem_type, b, sizes, name, depth + 1)
        return None if elem is None else SequenceType(elem)
    if kind == "optional_type":
        elem = type_of(proto.optional_type.elem_type, b, sizes, name, depth + 1)
        return None if elem is None else OptionalType(elem)
    raise UnsupportedError(f"{quote(name)} is declared as {kind}, which is not supported")


def _tensor(proto: TypeProto.Tensor, b: Builder, sizes: SizeNames, name: str) -> TensorType | None:
    what = f"value {quote(name)}"
    dtype = dtype_of(proto.elem_type, what)
    if not proto.HasField("shape"):
        return None
    if len(proto.shape.dim) > _MAX_RANK:
        raise LimitError(f"{what} declares {len(proto.shape.dim)} dimensions")
    shape: list[Dim] = []
    for axis, d in enumerate(proto.shape.dim):
        kind = d.WhichOneof("value")
        if kind == "dim_value" and d.dim_value >= 0:
            shape.append(d.dim_value)
        elif kind == "dim_param" and d.dim_param:
            shape.append(sizes.dim(d.dim_param, (name, axis)))
        else:
            shape.append(b.fresh(f"{name[:40]}_{axis}"))
    result = TensorType(dtype, tuple(shape))
    check_size(result, what)
    return result


def lacks_rank(info: ValueInfoProto) -> bool:
    """Whether an input is declared as a tensor without a shape."""
    return info.type.WhichOneof("value") == "tensor_type" and not (
        info.type.tensor_type.HasField("shape"))


def input_type(info: ValueInfoProto, b: Builder, sizes: SizeNames) -> Type:
    """Type of a graph input; raises where the model does not declare a usable one."""
    if not info.HasField("type") or info.type.WhichOneof("value") is None:
        raise ModelError(f"input {quote(info.name)} has no type")
    found = type_of(info.type, b, sizes, info.name)
    if found is None:
        raise UnsupportedError(
            f"input {quote(info.name)} has no shape; its rank must be known:"
            " give it in `shapes={name: (sizes or names)}`"
        )
    return found


def with_element_shape(t: Type, shape: tuple[Dim, ...], what: str) -> Type:
    """The type of a container whose tensors have ``shape``; raises ``ModelError`` for a map."""
    if isinstance(t, SequenceType):
        return SequenceType(with_element_shape(t.elem, shape, what))
    if isinstance(t, OptionalType):
        return OptionalType(with_element_shape(t.elem, shape, what))
    if isinstance(t, MapType):
        raise ModelError(f"{what} is {t}; it takes no shape")
    return TensorType(t.dtype, shape)
