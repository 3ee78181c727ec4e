"""The dataflow graph: immutable nodes, values, constants, and the builder that interns them.

A ``Node`` applies one op of the table to values; a ``Value`` is one of its outputs. A ``Graph`` is
an ordered list of nodes and never changes: users, symbols and digest are computed once. A
``Builder`` makes graphs; it infers types by the op table and interns nodes on
``(op, inputs, attrs)``, so common subexpressions merge while they are built (hash-consing).

Sizes that are only known while the model runs are symbols. ``bind{name}(x)`` defines symbol
``name`` as the scalar ``x``; a node whose types or attributes mention the symbol depends on the
bind. Nodes of control flow may define symbols through their result types.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Union

import numpy as np

from .dims import Dim, Expr, free_symbols, sym
from .errors import ModelError, VerifyError
from .shapes import Memo
from .types import DType, TensorType, Type, type_symbols

Attr = Union[int, float, str, bool, bytes, None, Expr, DType, "Graph", tuple[Any, ...]]


class Attrs(Mapping[str, Any]):
    """A frozen, hashable mapping from attribute names to plain values."""

    __slots__ = ("_hash", "items_")

    def __init__(self, items: Iterable[tuple[str, Any]] = ()) -> None:
        self.items_: tuple[tuple[str, Any], ...] = tuple(sorted(items, key=lambda kv: kv[0]))
        self._hash = hash(tuple((k, type(v), v) for k, v in self.items_))

    def __getitem__(self, key: str) -> Any:
        for k, v in self.items_:
            if k == key:
                return v
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(k for k, _ in self.items_)

    def __len__(self) -> int:
        return len(self.items_)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Attrs)
            and self._hash == other._hash
            and repr(self.items_) == repr(other.items_)
        )

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{k}={v!r}" for k, v in self.items_) + "}"


class Node:
    """One application of an op. Equality is identity: the builder interns equal nodes."""

    __slots__ = ("__weakref__", "attrs", "inputs", "op", "origin", "symbols_", "types")

    def __init__(
        self,
        op: str,
        inputs: tuple[Value | None, ...],
        attrs: Attrs,
        types: tuple[Type, ...],
        origin: tuple[str, ...] = (),
    ) -> None:
        self.op = op
        """Name in the op table."""
        self.inputs = inputs
        """Operands; None where an optional operand is absent."""
        self.attrs = attrs
        """Frozen attributes."""
        self.types = types
        """Type of each output."""
        self.origin = origin
        """Provenance: ONNX node names and rule names; not part of the interning key."""
        self.symbols_: frozenset[str] | None = None
        """What ``node_symbols`` found; None until it is asked."""

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The node's values."""
        if len(self.types) == 1:  # nearly all, and asked for often
            return (Value(self, 0),)
        return tuple([Value(self, i) for i in range(len(self.types))])

    @property
    def out(self) -> Value:
        """The first output."""
        return Value(self, 0)

    @property
    def operands(self) -> tuple[Value, ...]:
        """The inputs that are present."""
        return tuple(v for v in self.inputs if v is not None)

    def __repr__(self) -> str:
        types = ", ".join(str(t) for t in self.types)
        return f"{self.op}{self.attrs!r} : {types}"


class Value:
    """Output ``index`` of ``node``; compares by node identity and index."""

    __slots__ = ("index", "node")

    def __init__(self, node: Node, index: int = 0) -> None:
        self.node, self.index = node, index

    @property
    def type(self) -> Type:
        return self.node.types[self.index]

    @property
    def tensor(self) -> TensorType:
        """The type, which must be a tensor's."""
        t = self.node.types[self.index]
        if not isinstance(t, TensorType):
            raise ModelError(f"{self.node.op} gives {t} where a tensor is needed")
        return t

    @property
    def dtype(self) -> DType:
        return self.tensor.dtype

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.tensor.shape

    @property
    def rank(self) -> int:
        return len(self.tensor.shape)

    @property
    def op(self) -> str:
        return self.node.op

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and self.node is other.node and self.index == other.index

    def __hash__(self) -> int:
        return id(self.node) + self.index

    def __repr__(self) -> str:
        return f"<{self.node.op}#{self.index} {self.type}>"


class Constants:
    """Content-addressed table of constant arrays, shared by all graphs of one compilation.

    The digest is SHA-256 over dtype, shape and the SHA-256 of the bytes. ``add_lazy`` keeps a
    loader instead of an array (weights still in a file), keyed by a digest its caller vouches
    for."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._lazy: dict[str, Callable[[], np.ndarray]] = {}

    @staticmethod
    def digest_of(array: np.ndarray) -> str:
        """Content digest of an array (16 hexadecimal digits are printed; 40 are kept)."""
        h = hashlib.sha256()
        if array.dtype == object:
            for item in array.ravel():
                text = item if isinstance(item, bytes) else str(item).encode()
                h.update(len(text).to_bytes(8, "little") + text)
        else:
            h.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return Constants.digest_of_bytes(h.hexdigest(), DType.of(array.dtype), array.shape)

    @staticmethod
    def digest_of_bytes(digest: str, dtype: DType, shape: Sequence[Dim]) -> str:
        """Digest of the array whose bytes have the SHA-256 ``digest`` (hexadecimal)."""
        return hashlib.sha256(f"{dtype}{tuple(shape)}{digest}".encode()).hexdigest()[:40]

    def add(self, array: np.ndarray, digest: str | None = None) -> str:
        """Stores ``array`` (made read-only) and returns its digest (``digest``, where the caller
        has computed it already)."""
        digest = self.digest_of(array) if digest is None else digest
        if digest not in self:
            kept = np.ascontiguousarray(array).reshape(array.shape)
            if kept.flags.writeable:
                kept = kept.view()
                kept.flags.writeable = False
            self._arrays[digest] = kept
        return digest

    def add_lazy(self, digest: str, load: Callable[[], np.ndarray]) -> str:
        """Registers a loader for a constant that is read when first needed."""
        if digest not in self:
            self._lazy[digest] = load
        return digest

    def get(self, digest: str) -> np.ndarray:
        """The array; raises ``VerifyError`` for an unknown digest."""
        load = self._lazy.get(digest)
        if load is not None:
            self._arrays.setdefault(digest, load())
            self._lazy.pop(digest, None)
        elif digest not in self._arrays:
            raise VerifyError(f"constant {digest[:16]} is not in the table")
        return self._arrays[digest]

    def read(self, digest: str) -> np.ndarray:
        """The array; if it is not in memory it is loaded and not kept."""
        found = self._arrays.get(digest)
        if found is None and digest in self._lazy:
            found = self._lazy[digest]()
        return self.get(digest) if found is None else found

    def peek(self, digest: str) -> np.ndarray | None:
        """The array if it is in memory, None if it would have to be loaded (or is unknown)."""
        return self._arrays.get(digest)

    def update(self, other: Constants) -> None:
        """Takes over every constant of ``other``."""
        for digest, array in other._arrays.items():
            self._arrays.setdefault(digest, array)
        for digest, load in other._lazy.items():
            if digest not in self:
                self._lazy[digest] = load

    def __contains__(self, digest: str) -> bool:
        return digest in self._arrays or digest in self._lazy

    def __iter__(self) -> Iterator[str]:
        return iter({**self._arrays, **self._lazy})

    def __len__(self) -> int:
        return len(self._arrays) + len(self._lazy)


def _plain_symbols(type_: Type) -> set[str]:
    """Symbols that a binding of the type reads off directly: those that are a whole dimension."""
    if not isinstance(type_, TensorType):
        return set(type_symbols(type_))
    return {str(d) for d in type_.shape if isinstance(d, Expr) and free_symbols(d) == {str(d)}}


def attr_symbols(value: Any) -> frozenset[str]:
    """Symbols mentioned in an attribute value (region graphs do not leak theirs)."""
    if isinstance(value, Expr):
        return free_symbols(value)
    if isinstance(value, tuple):
        return frozenset().union(*(attr_symbols(v) for v in value))
    return frozenset()


def attr_regions(attrs: Attrs) -> list[Graph]:
    """The region graphs among a node's attributes."""
    return [v for v in attrs.values() if isinstance(v, Graph)]


def node_symbols(node: Node) -> frozenset[str]:
    """Symbols that the node's types and attributes mention."""
    if node.symbols_ is None:
        found = frozenset().union(*(type_symbols(t) for t in node.types))
        for _, value in node.attrs.items_:
            found |= attr_symbols(value)
        node.symbols_ = found
    return node.symbols_


class Graph:
    """An immutable dataflow graph, nodes in topological order."""

    def __init__(
        self,
        inputs: Sequence[Value],
        outputs: Sequence[tuple[str, Value]],
        nodes: Sequence[Node],
        constants: Constants,
    ) -> None:
        self.inputs = tuple(inputs)
        """Values of the ``input`` nodes, in the order of the signature."""
        self.outputs = tuple(outputs)
        """(name, value) pairs in the order of the signature."""
        self.nodes = tuple(nodes)
        """All nodes, operands before users."""
        self.constants = constants
        """The table that ``const`` nodes refer to."""

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(v.node.attrs["name"] for v in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.outputs)

    @cached_property
    def _users(self) -> dict[Value, tuple[Node, ...]]:
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for v in dict.fromkeys(node.operands):
                found.setdefault(v, []).append(node)
        return {v: tuple(ns) for v, ns in found.items()}

    def users(self, value: Value) -> tuple[Node, ...]:
        """Nodes that read ``value``, each once, in topological order."""
        return self._users.get(value, ())

    @cached_property
    def output_values(self) -> frozenset[Value]:
        return frozenset(v for _, v in self.outputs)

    @cached_property
    def index(self) -> dict[Node, int]:
        """Position of each node in ``nodes``."""
        return {n: i for i, n in enumerate(self.nodes)}

    @cached_property
    def symbol_definers(self) -> dict[str, Node]:
        """For each symbol that is not an input's: the node whose run defines it."""
        known = set().union(*(_plain_symbols(v.type) for v in self.inputs), set())
        found: dict[str, Node] = {}
        for node in self.nodes:
            if node.op == "bind":
                found[node.attrs["name"]] = node
        for node in self.nodes:
            for t in node.types:
                for s in sorted(type_symbols(t)):
                    if s not in known and s not in found:
                        found[s] = node
        return {s: n for s, n in found.items() if s not in known}

    def dependencies(self, node: Node) -> tuple[Node, ...]:
        """Nodes that must run before ``node``: operands' nodes and definers of its symbols."""
        deps = {v.node: None for v in node.operands}
        definers = self.symbol_definers
        if definers and (symbols := node_symbols(node)):
            for s in sorted(symbols):
                definer = definers.get(s)
                if definer is not None and definer is not node:
                    deps[definer] = None
        return tuple(deps)

    @cached_property
    def digest(self) -> str:
        """Content digest: structure, attributes, types and constants; provenance excluded."""
        h = hashlib.sha256()
        number = {n: i for i, n in enumerate(self.nodes)}

        def ref(v: Value | None) -> str:
            return "-" if v is None else f"{number[v.node]}.{v.index}"

        for node in self.nodes:
            attrs = ", ".join(f"{k}={_attr_digest(v)}" for k, v in node.attrs.items())
            inputs = ",".join(ref(v) for v in node.inputs)
            h.update(f"{node.op}({inputs}){{{attrs}}}:{node.types}\n".encode())
        h.update(";".join(ref(v) for v in self.inputs).encode())
        h.update(";".join(f"{name!r}={ref(v)}" for name, v in self.outputs).encode())
        return h.hexdigest()[:40]

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and (self is other or self.digest == other.digest)

    def __repr__(self) -> str:
        return f"<Graph {len(self.nodes)} nodes {self.digest[:12]}>"


def _attr_digest(value: Any) -> str:
    return f"graph:{value.digest}" if isinstance(value, Graph) else repr(value)


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
