"""Builds graphs, and copies them node by node.

A ``Builder`` infers types by the op table and interns nodes on ``(op, inputs, attrs)``, so common
subexpressions merge while they are built (hash-consing).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .dims import Dim, Expr, sym
from .errors import VerifyError
from .graph import Attrs, Constants, Graph, Node, Value, node_symbols
from .shapes import Memo
from .types import DType, TensorType, Type, type_symbols


class Builder:
    """Builds one graph: infers types, interns nodes, hands out fresh symbols."""

    def __init__(self, constants: Constants | None = None) -> None:
        self.constants = constants if constants is not None else Constants()
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.default_origin: tuple[str, ...] = ()
        """Provenance given to nodes that are built without one of their own."""
        self._interned: dict[tuple[Any, ...], Node] = {}
        self.taken: set[str] = set()
        self.dims_memo = Memo()
        """Cache of ``shapes.symbolic_value`` for this builder's values."""

    # -- sources ---------------------------------------------------------------------------

    def input(self, name: str, type_: Type) -> Value:
        """Declares the next graph input."""
        node = Node("input", (), Attrs({"name": name}.items()), (type_,), (name,))
        self._note(type_)
        self.nodes.append(node)
        self.inputs.append(node.out)
        return node.out

    def const(
        self, array: np.ndarray | np.generic | float, dtype: DType | None = None
    ) -> Value:
        """A constant tensor (a Python number becomes a scalar of ``dtype``)."""
        arr = np.asarray(array) if dtype is None else np.asarray(array).astype(dtype.np)
        digest = self.constants.add(arr)
        return self.const_ref(digest, TensorType(DType.of(arr.dtype), arr.shape))

    def const_ref(self, digest: str, type_: TensorType) -> Value:
        """A constant that is in the table already."""
        return self._intern("const", (), Attrs([("digest", digest)]), (type_,), ()).out

    def dims(self, values: Sequence[Dim], scalar: bool = False) -> Value:
        """An int64 tensor whose elements are symbolic dimensions; a constant if all are ints."""
        if all(isinstance(v, int) for v in values):
            flat = np.array(values, dtype=np.int64)
            return self.const(flat.reshape(()) if scalar else flat)
        shape = () if scalar else (len(values),)
        result = self.op("dims", values=tuple(values), shape=shape)
        assert isinstance(result, Value)
        return result

    def fresh(self, prefix: str = "n") -> Dim:
        """A new symbol that no value of this builder mentions."""
        stem = re.sub(r"[^A-Za-z0-9_]", "_", prefix) or "n"
        stem = stem if not stem[0].isdigit() else f"n{stem}"
        k = 0
        while f"{stem}.{k}" in self.taken:
            k += 1
        self.taken.add(f"{stem}.{k}")
        return sym(f"{stem}.{k}")

    def reserve(self, symbols: Iterable[str]) -> None:
        """Names that ``fresh`` must not hand out."""
        self.taken |= set(symbols)

    # -- operations ------------------------------------------------------------------------

    def op(self, op: str, *inputs: Any, origin: tuple[str, ...] = (), **attrs: Any) -> Any:
        """Applies ``op``: a ``Value``, or a tuple of them where the op has several outputs.

        Python numbers among the inputs become scalar constants of the first operand's dtype (of
        the first branch's for ``select``)."""
        values = self._coerce(inputs, skip=int(op == "select"))
        frozen = Attrs((k, _freeze(v)) for k, v in attrs.items())
        node = self.node(op, values, frozen, origin)
        return node.out if len(node.types) == 1 else node.outputs

    def node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Attrs,
        origin: tuple[str, ...] = (),
        types: tuple[Type, ...] | None = None,
    ) -> Node:
        """Applies ``op`` and returns the node; ``types`` overrides inference (region ops)."""
        from .ops import lookup

        values = tuple(inputs)
        key = (op, values, attrs)
        found = self._interned.get(key)
        if found is not None:
            return found
        if types is None:
            types = lookup(op).infer_types(values, attrs)
        return self._intern(op, values, attrs, types, origin)

    def _coerce(self, inputs: Sequence[Any], skip: int = 0) -> tuple[Value | None, ...]:
        types = (v.type for v in inputs[skip:] if isinstance(v, Value))
        like = next((t.dtype for t in types if isinstance(t, TensorType)), None)
        return tuple(
            v if v is None or isinstance(v, Value) else self.const(v, like) for v in inputs
        )

    def _intern(
        self,
        op: str,
        inputs: tuple[Value | None, ...],
        attrs: Attrs,
        types: tuple[Type, ...],
        origin: tuple[str, ...],
    ) -> Node:
        key = (op, inputs, attrs)
        found = self._interned.get(key)
        if found is not None:
            return found
        node = Node(op, inputs, attrs, types, origin or self.default_origin)
        for t in types:
            self._note(t)
        self.nodes.append(node)
        self._interned[key] = node
        return node

    def _note(self, t: Type) -> None:
        """Remembers the symbols and the sizes of a new value."""
        self.taken |= type_symbols(t)
        if isinstance(t, TensorType):
            self.dims_memo.sizes.update(d for d in t.shape if isinstance(d, Expr))

    def adopt(self, node: Node) -> Node:
        """Takes over a node of another graph whose operands are in this builder already; returns
        the node that was interned first. Its symbols are not reserved."""
        if node.op == "input":
            self.nodes.append(node)
            self.inputs.append(node.out)
            return node
        found = self._interned.setdefault((node.op, node.inputs, node.attrs), node)
        if found is node:
            self.nodes.append(node)
        return found

    # -- shape arithmetic ------------------------------------------------------------------

    def dims_value(self, value: Value) -> np.ndarray | None:
        """The elements of a small integer tensor as an object array of ``Dim``, if they follow
        from constants and sizes alone; else None."""
        from .shapes import symbolic_value

        return symbolic_value(value, self.constants, self.dims_memo)

    def assume_dims(self, value: Value, elements: np.ndarray) -> None:
        """Declares the elements of an integer tensor: symbols that ``bind`` nodes define as
        exactly these elements."""
        self.dims_memo[value] = elements

    # -- result ----------------------------------------------------------------------------

    def build(
        self, outputs: Mapping[str, Value] | Sequence[tuple[str, Value]]
    ) -> Graph:
        """The graph of everything the outputs need (dead nodes are dropped; inputs are kept, and
        so are the definitions of their sizes)."""
        pairs = list(outputs.items()) if isinstance(outputs, Mapping) else list(outputs)
        whole = Graph(self.inputs, pairs, self.nodes, self.constants)
        live: dict[Node, tuple[Node, ...]] = {v.node: () for v in self.inputs}
        stack = [v.node for _, v in pairs]
        sizes = {s for v in self.inputs for s in type_symbols(v.type)}
        stack += [n for n in self.nodes if n.op == "bind" and n.attrs["name"] in sizes]
        while stack:
            node = stack.pop()
            if node not in live:
                live[node] = whole.dependencies(node)
                stack.extend(live[node])
        ordered = _order([n for n in self.nodes if n in live], live)
        return Graph(self.inputs, pairs, ordered, self.constants)


def _order(nodes: list[Node], needs: Mapping[Node, tuple[Node, ...]]) -> list[Node]:
    """Stable topological order (iterative depth-first)."""
    done: set[Node] = set()
    for node in nodes:
        if not done.issuperset(needs[node]):
            break
        done.add(node)
    else:
        return nodes
    done.clear()
    order: list[Node] = []
    for root in nodes:
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, expanded = stack.pop()
            if node in done:
                continue
            if expanded:
                done.add(node)
                order.append(node)
                continue
            stack.append((node, True))
            stack.extend((d, False) for d in reversed(needs[node]) if d not in done)
    return order


def _freeze(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(v) for v in value)
    if isinstance(value, np.ndarray):
        raise VerifyError("an array cannot be an attribute: make it a constant")
    if isinstance(value, np.generic):
        return value.item()
    return value


RebuildFn = Callable[[Builder, Node, tuple[Value | None, ...]], "tuple[Value, ...] | None"]


def rebuild(graph: Graph, fn: RebuildFn) -> Graph:
    """Copies ``graph`` node by node; ``fn`` may answer replacement outputs (None: a copy)."""
    builder = Builder(graph.constants)
    mapping: dict[Value, Value] = {}
    for v in graph.inputs:
        mapping[v] = builder.input(v.node.attrs["name"], v.type)
    for node in graph.nodes:
        builder.reserve(node_symbols(node))
    for node in graph.nodes:
        if node.op == "input":
            continue
        inputs = tuple(None if v is None else mapping[v] for v in node.inputs)
        outs = fn(builder, node, inputs)
        if outs is None:
            outs = copy_node(builder, node, inputs)
        for old, new in zip(node.outputs, outs, strict=True):
            mapping[old] = new
    return builder.build([(name, mapping[v]) for name, v in graph.outputs])


def copy_node(
    builder: Builder, node: Node, inputs: tuple[Value | None, ...]
) -> tuple[Value, ...]:
    """The same op on other inputs, in another builder. Types are kept where the inputs' types
    did not change, else inferred again."""
    same = all(
        a is b or a is not None and b is not None and (a.type is b.type or a.type == b.type)
        for a, b in zip(node.inputs, inputs, strict=True)
    )
    if not same:
        return builder.node(node.op, inputs, node.attrs, node.origin).outputs
    made = builder.node(node.op, inputs, node.attrs, node.origin, node.types)
    made.symbols_ = made.symbols_ or node.symbols_
    return made.outputs
