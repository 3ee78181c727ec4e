"""The dataflow graph: immutable nodes, values and constants.

A ``Node`` applies one op of the table to values; a ``Value`` is one of its outputs. A ``Graph`` is
an ordered list of nodes and never changes: users, symbols and digest are computed once. What makes
graphs is a ``builder.Builder``.

Sizes that are only known while the model runs are symbols. ``bind{name}(x)`` defines symbol
``name`` as the scalar ``x``; a node whose types or attributes mention the symbol depends on the
bind. Nodes of control flow may define symbols through their result types.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from .dims import Dim, Expr, free_symbols
from .errors import ModelError, VerifyError
from .types import DType, TensorType, Type, type_symbols


class Attrs(Mapping[str, Any]):
    """A frozen, hashable mapping from attribute names to plain values: numbers, text, bytes, None,
    sizes, element types, region graphs, and tuples of these."""

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
        return tuple([v for v in self.inputs if v is not None])

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
