"""What a lowering sees of the node it lowers: operands, attributes, sizes, regions, refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.errors import Gap, ModelError, UnsupportedError, quote
from ...ir.graph import Graph, Value
from ...ir.types import I64, DType, TensorType, Type
from ..messages import AttributeProto, GraphProto, NodeProto, SparseTensorProto, make_node
from ..needs import DependsOnFeeds, Need
from .origins import inputs_behind, vectors_behind
from .tensors import dtype_of, sparse_to_array, to_array

if TYPE_CHECKING:
    from .graphs import Frame, Importer


@dataclass(frozen=True, slots=True)
class Region:
    """A subgraph as a graph of its own."""

    graph: Graph
    """Inputs: the subgraph's formal inputs, then one per captured value. Closed: every symbol it
    mentions is a plain size of an input or bound inside."""
    captures: tuple[Value, ...]
    """Values of the surrounding graph for the inputs after the formal ones, in order."""


class Ctx:
    """One node being lowered; made by the importer."""

    __slots__ = ("_attrs", "_frame", "_importer", "b", "inputs", "n_outputs", "node", "opset")

    def __init__(
        self,
        importer: Importer,
        frame: Frame,
        node: NodeProto,
        opset: int,
        inputs: list[Value | None],
        attrs: dict[str, AttributeProto],
    ) -> None:
        self._importer, self._frame, self._attrs = importer, frame, attrs
        self.b: Builder = frame.scope.b
        """The builder of the graph that the node belongs to."""
        self.node = node
        self.opset = opset
        """Version of the node's own domain."""
        self.inputs = inputs
        """Operands in order; None where an optional one is absent (trailing ones are cut)."""
        self.n_outputs = len(node.output)
        """Number of outputs the node names (some names may be empty)."""

    # -- operands --------------------------------------------------------------------------

    def input(self, index: int) -> Value:
        """Operand ``index``, which the operator requires."""
        value = self.optional(index)
        if value is None:
            raise ModelError(f"required input {index} is absent")
        return value

    def optional(self, index: int) -> Value | None:
        """Operand ``index``, or None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def wants(self, index: int) -> bool:
        """Whether output ``index`` has a name, that is, may be used."""
        return index < len(self.node.output) and bool(self.node.output[index])

    # -- attributes ------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the node carries the attribute."""
        return name in self._attrs

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute as a Python value: int, float, str, tuples of them, ``np.ndarray`` for a
        tensor, the proto for graphs, types and sparse tensors; ``default`` where absent."""
        found = self._attrs.get(name)
        return default if found is None else attribute_value(found, self._importer)

    def required(self, name: str) -> Any:
        """The attribute, which the operator requires."""
        if name not in self._attrs:
            raise ModelError(f"required attribute {name} is absent")
        return self.attr(name)

    def attr_dtype(self, name: str, default: DType | None = None) -> DType:
        """An attribute that is the number of an element type (``to``, ``dtype``)."""
        number = self.attr(name)
        if number is None:
            if default is None:
                raise ModelError(f"required attribute {name} is absent")
            return default
        return dtype_of(int(number), f"attribute {name}")

    def axis(self, axis: int, rank: int) -> int:
        """``axis`` as a non-negative number; raises ``ModelError`` out of range."""
        if not -rank <= axis < rank:
            raise ModelError(f"axis {axis} is out of range for rank {rank}")
        return axis % rank

    # -- values known while importing ------------------------------------------------------

    def constant(self, value: Value | None) -> np.ndarray | None:
        """The elements of ``value`` if they are known now, else None."""
        if value is None:
            return None
        if value.node.op == "const":
            return self.b.constants.get(value.node.attrs["digest"])
        found = self.b.dims_value(value)
        if found is None or not all(isinstance(d, int) for d in found.ravel()):
            return None
        return found.astype(value.dtype.np)

    def ints(self, value: Value, what: str) -> tuple[int, ...]:
        """Elements of an integer vector that must be known now (axes, perms); else refuses."""
        found = self.constant(value)
        if found is None:
            self.need(f"{what} must be constant; here it is computed while the model runs", value)
        if found.dtype.kind not in "iu" or found.ndim > 1:
            raise ModelError(f"{what} must be a vector of integers, got {value.type}")
        return tuple(int(x) for x in found.reshape(-1))

    def scalar(self, value: Value, what: str) -> int | float | bool:
        """The one element of a tensor that must be known now; else refuses."""
        found = self.constant(value)
        if found is None:
            self.need(f"{what} must be constant; here it is computed while the model runs", value)
        if found.size != 1:
            raise ModelError(f"{what} must be a scalar, got {value.type}")
        item: int | float | bool = found.reshape(()).item()
        return item

    def dims(self, value: Value) -> tuple[Dim, ...]:
        """Elements of an integer vector (or scalar) as sizes.

        What follows from sizes and constants is an expression; an element that depends on data
        becomes a symbol which a ``bind`` node defines while the model runs: the element must
        then be a size, that is, not negative."""
        from .sizes import size_elements

        return size_elements(self, value)

    def dim(self, value: Value) -> Dim:
        """The one element of an integer tensor as a size; see ``dims``."""
        found = self.dims(value)
        if len(found) != 1:
            raise ModelError(f"one size is needed, got {value.type}")
        return found[0]

    def bind(self, value: Value, prefix: str = "d") -> Dim:
        """A symbol defined as the value of a one-element integer tensor while the model runs."""
        scalar = value if value.dtype == I64 else self.b.op("cast", value, to=I64)
        if scalar.rank:
            scalar = self.b.op("reshape", scalar, shape=())
        known = self.b.dims_value(scalar)
        if known is not None:
            item: Dim = known.reshape(-1)[0]
            return item
        symbol = self.b.fresh(prefix)
        bound = self.b.op("bind", scalar, name=str(symbol))
        self._importer.bound.setdefault(bound.node.attrs["name"], (scalar, self.b))
        return _bound_symbol(bound)

    # -- subgraphs and functions -----------------------------------------------------------

    def region(self, graph: GraphProto, types: Sequence[Type | None] | None = None) -> Region:
        """The subgraph as a closed graph; ``types`` override the declared types of its formal
        inputs (None keeps a declaration). May be called again with other types."""
        return self._importer.region(graph, self._frame, types)

    def built_region(
        self,
        types: Sequence[Type | None],
        build: Callable[[Ctx, list[Value]], Sequence[Value]],
    ) -> Region:
        """A region written here instead of in the model: its formal inputs have ``types``, its
        outputs are what ``build`` makes of them with the context of the region."""
        return self._importer.built_region(self, types, build)

    def main_graph(self) -> GraphProto:
        """The model's main graph; refuses for a node of a function, whose names are its own."""
        if self._frame.active:
            self.fail("the operator names values of the main graph, but stands in a function")
        graph: GraphProto = self._importer.source.proto.graph
        return graph

    def inline(self, graph: GraphProto, inputs: Sequence[Value | None] = ()) -> tuple[Value, ...]:
        """The outputs of a subgraph lowered right here, as part of the surrounding graph."""
        return self._importer.inline(graph, self._frame, inputs)

    def lower(
        self,
        op: str,
        *inputs: Value | None,
        n_outputs: int = 1,
        domain: str = "",
        opset: int | None = None,
        **attrs: Any,
    ) -> Any:
        """Lowers another ONNX operator on these values: a ``Value``, or a tuple of them."""
        node = make_node(op, len(inputs), n_outputs, self.node.name, domain, attrs)
        values = self._importer.apply(node, self._frame, list(inputs), opset)
        return values[0] if n_outputs == 1 else values

    def function_body(self) -> tuple[Value | None, ...]:
        """The node expanded by the function body that ONNX publishes for its operator."""
        return self._importer.published_body(self)

    # -- building --------------------------------------------------------------------------

    def as_dtype(self, value: Value, dtype: DType) -> Value:
        """``value`` converted to ``dtype`` where it is of another one."""
        if value.dtype == dtype:
            return value
        result: Value = self.b.op("cast", value, to=dtype)
        return result

    def full(self, shape: Sequence[Dim], number: float, dtype: DType) -> Value:
        """A tensor of one number."""
        scalar = self.b.const(np.asarray(number, dtype=dtype.np))
        if not shape:
            return scalar
        result: Value = self.b.op("expand", scalar, shape=tuple(shape))
        return result

    # -- refusals --------------------------------------------------------------------------

    def describe(self) -> str:
        """Operator, opset and operand types, for messages."""
        types = ", ".join("-" if v is None else str(v.type) for v in self.inputs)
        return f"{op_title(self.node, self.opset)} ({types})"

    def static(self, reason: str, *sizes: Dim) -> tuple[int, ...]:
        """``sizes`` as integers; refuses the node, as ``need`` does, where one is symbolic."""
        found = tuple(d for d in sizes if isinstance(d, int))
        if len(found) < len(sizes):
            self.need(reason, *sizes)
        return found

    def need(self, reason: str, *wanted: Value | Dim) -> NoReturn:
        """Refuses a node until the values and sizes ``wanted`` are known: where they follow from
        small inputs of the model alone, the program is compiled once these are fed (see
        ``needs``); else like ``fail``."""
        self._wait(inputs_behind(self._importer, self.b, wanted), "value", reason)

    def need_length(self, reason: str, value: Value) -> NoReturn:
        """Refuses a node until the length of a vector is known, as ``need`` does; the program is
        compiled once per length, whatever the elements are."""
        length = value.shape[0] if value.rank else 1
        names = vectors_behind(self._importer, length)
        if names:
            self._wait(names, "length", reason)
        self.need(reason, length)

    def _wait(self, names: Sequence[str], aspect: str, reason: str) -> NoReturn:
        if not names:
            self.fail(reason)
        node, what = node_name(self.node), f"{op_title(self.node, self.opset)}: {reason}"
        raise DependsOnFeeds(Need(name, aspect, node, what) for name in names)

    def fail(self, reason: str) -> NoReturn:
        """Refuses a valid node; ``reason`` says what is missing and what would be supported."""
        gap = Gap(node_name(self.node), self.describe(), reason)
        raise UnsupportedError(reason, (gap,))


def _bound_symbol(bound: Value) -> Dim:
    from ...ir.dims import sym

    return sym(bound.node.attrs["name"])


def node_name(node: NodeProto) -> str:
    """The node's name, or its first output's, made safe for messages."""
    return quote(node.name or next((o for o in node.output if o), "") or "(unnamed)")


def op_title(node: NodeProto, opset: int) -> str:
    """``domain::Op`` with its opset, made safe for messages."""
    op, domain = quote(node.op_type)[1:-1], quote(node.domain)[1:-1]
    return f"{domain + '::' if domain else ''}{op} (opset {opset})"


def attribute_value(a: AttributeProto, importer: Importer) -> Any:
    """An attribute as a Python value; raises ``ModelError`` for a malformed one."""
    kind = a.type
    if kind == AttributeProto.INT:
        return a.i
    if kind == AttributeProto.FLOAT:
        return a.f
    if kind == AttributeProto.STRING:
        return a.s.decode("utf-8", "surrogateescape")
    if kind == AttributeProto.INTS:
        return tuple(a.ints)
    if kind == AttributeProto.FLOATS:
        return tuple(a.floats)
    if kind == AttributeProto.STRINGS:
        return tuple(s.decode("utf-8", "surrogateescape") for s in a.strings)
    if kind == AttributeProto.TENSOR:
        return to_array(a.t, importer.source.files)
    if kind == AttributeProto.GRAPH:
        return a.g
    if kind == AttributeProto.SPARSE_TENSOR:
        sparse: SparseTensorProto = a.sparse_tensor
        return sparse_to_array(sparse, importer.source.files)
    if kind == AttributeProto.TYPE_PROTO:
        return a.tp
    if kind == AttributeProto.GRAPHS:
        return tuple(a.graphs)
    if kind == AttributeProto.TENSORS:
        return tuple(to_array(t, importer.source.files) for t in a.tensors)
    raise ModelError(f"attribute {quote(a.name)} has no readable type ({kind})")


def vector_type(value: Value) -> TensorType:
    """Type of an operand that must be a vector or scalar of integers."""
    t = value.tensor
    if not t.dtype.is_integer or t.rank > 1:
        raise ModelError(f"a vector of integers is needed, got {t}")
    return t
