"""What the writers of single ops share: naming, initializers, and sizes as int64 tensors.

A ``Scope`` is one ONNX graph under construction (the model's, or a region's). ONNX scopes are
lexical, so a region reads captured values and sizes by their outer names; every name in the model
is unique. A symbol is a one-element int64 tensor; an expression of sizes becomes integer arithmetic
on them, computed once per scope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ...ir.dim_functions import dmax, known_ge
from ...ir.dim_values import substitute
from ...ir.dims import Dim, Expr, free_symbols, sym
from ...ir.errors import Gap, ModelError, UnsupportedError, quote
from ...ir.graph import Constants, Graph, Node, Value
from ...ir.interp import expansion
from ...ir.ops import lookup
from ...ir.types import I64, DType, TensorType

OPSET = 20
"""Version of the standard operators that is written."""

ML = "ai.onnx.ml"
VERSIONS = {"": OPSET, ML: 5, "com.microsoft": 1}
"""Version of each domain."""

SINCE = {
    "f8e4m3fn": 21, "f8e4m3fnuz": 21, "f8e5m2": 21, "f8e5m2fnuz": 21, "i4": 21, "u4": 21,
    "f4e2m1": 23, "f8e8m0": 24, "i2": 25, "u2": 25, "bitcast": 26, "f6e2m3": 28, "f6e3m2": 28,
}  # fmt: skip
"""Element types and ops that need a later version, and which."""

Writer = Callable[["Exporter", Node, "list[str]"], "str | Sequence[str]"]
"""(exporter, node, names of its operands, "" where absent) -> names of its results."""
WRITERS: dict[str, Writer] = {}
"""How each op is written; composites without an entry are written as their expansion."""


def writes(*ops: str) -> Callable[[Writer], Writer]:
    """Registers the writer of some ops."""

    def register(fn: Writer) -> Writer:
        for op in ops:
            WRITERS[op] = fn
        return fn

    return register


class Scope:
    """One ONNX graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.names: dict[Value, str] = {}
        self.symbols: dict[str, str] = {}
        """Symbol -> name of a one-element int64 tensor."""
        self.dims: dict[Dim, str] = {}
        """Expressions computed already."""


class Exporter:
    """Writes one model."""

    def __init__(self, store: Callable[[str, np.ndarray], TensorProto] | None = None) -> None:
        self.store = store or tensor_proto
        """Makes the tensor of a constant: inside the model, or in a file beside it."""
        self.initializers: dict[str, TensorProto] = {}
        self.scope = Scope()
        self.domains: set[str] = {""}
        """Operator domains in use."""
        self._taken: set[str] = set()
        self._literals: dict[tuple[Any, ...], str] = {}
        self._digests: dict[str, str] = {}
        self._node: Node | None = None
        self._constants = Constants()

    # -- names and nodes -------------------------------------------------------------------

    def fresh(self, stem: str) -> str:
        """A name that nothing in the model has."""
        k = len(self._taken)
        name = f"{stem}_{k}"
        while name in self._taken:
            k += 1
            name = f"{stem}_{k}"
        self._taken.add(name)
        return name

    def claim(self, name: str) -> str:
        """Takes a name that comes from the graph's signature."""
        self._taken.add(name)
        return name

    def emit(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attrs: Any) -> Any:
        """Adds an ONNX node; its output name, or a list of them if there are several."""
        self.domains.add(domain)
        names = [self.fresh(op.lower()) for _ in range(outputs)]
        operands = list(inputs)
        while operands and not operands[-1]:
            operands.pop()
        node = helper.make_node(op, operands, names, name=self.fresh(op), domain=domain, **attrs)
        if self._node is not None and self._node.origin:
            node.doc_string = "from " + ", ".join(self._node.origin)
        self.scope.nodes.append(node)
        return names[0] if outputs == 1 else names

    def write(self, node: Node, constants: Constants) -> None:
        """Writes one node of the graph that ``scope`` stands for."""
        names, kept = self.scope.names, (self._node, self._constants)
        self._node, self._constants = node, constants
        operands = ["" if v is None else names[v] for v in node.inputs]
        writer = WRITERS.get(node.op)
        if node.op == "const":
            results: Sequence[str] | str = self.constant(node.attrs["digest"], constants)
        elif writer is not None:
            results = writer(self, node, operands)
        elif lookup(node.op).expand is not None:
            results = self.inline(expansion(node), [o for o in operands if o])
        else:
            self.refuse(node, "has no ONNX form")
        results = [results] if isinstance(results, str) else results
        names.update(zip(node.outputs, results, strict=True))
        self.define(
            [(v.type, name) for v, name in zip(node.outputs, results, strict=True)], known=True
        )
        self._node, self._constants = kept

    def refuse(self, node: Node, reason: str) -> Any:
        """Raises ``UnsupportedError`` naming the node."""
        where = node.origin[0] if node.origin else node.op
        types = ", ".join("-" if v is None else str(v.type) for v in node.inputs)
        gap = Gap(where, node.op, f"{reason}; operands: {types or 'none'}")
        raise UnsupportedError(f"cannot be exported to ONNX: {gap}", (gap,))

    def inline(self, body: Graph, operands: Sequence[str]) -> list[str]:
        """Writes ``body`` into the current scope; the names of its outputs."""
        outer = self.scope.names
        self.scope.names = dict(zip(body.inputs, operands, strict=True))
        for node in body.nodes:
            if node.op != "input":
                self.write(node, body.constants)
        results = [self.scope.names[v] for _, v in body.outputs]
        self.scope.names = outer
        return results

    # -- constants -------------------------------------------------------------------------

    def constant(self, digest: str, constants: Constants) -> str:
        """Name of the initializer that holds a constant."""
        if digest not in self._digests:
            name = self.fresh("const")
            self.initializers[name] = self.store(name, constants.get(digest))
            self._digests[digest] = name
        return self._digests[digest]

    def known(self, v: Value | None) -> np.ndarray | None:
        """The array of an operand that is a constant, else None."""
        if v is None or v.op != "const":
            return None
        return self._constants.get(v.node.attrs["digest"])

    def literal(self, value: Any, dtype: DType = I64) -> str:
        """Name of an initializer that holds a number or a list of numbers."""
        array = np.asarray(value).astype(dtype.np)
        key = (dtype.name, array.shape, array.tobytes())
        if key not in self._literals:
            name = self.fresh("const")
            self.initializers[name] = tensor_proto(name, array)
            self._literals[key] = name
        return self._literals[key]

    # -- sizes -----------------------------------------------------------------------------

    def define(self, typed: Sequence[tuple[Any, str]], known: bool = False) -> None:
        """Finds the symbols that the shapes of these values determine, and how to compute them.

        Raises ``ModelError`` for a symbol of theirs that is left over (not if ``known``)."""
        sizes = [
            (dim, axis, name)
            for t, name in typed
            if isinstance(t, TensorType)
            for axis, dim in enumerate(t.shape)
            if isinstance(dim, Expr) and not free_symbols(dim) <= self.scope.symbols.keys()
        ]
        for linear in (False, True):
            for dim, axis, name in sizes:
                unknown = sorted(free_symbols(dim) - self.scope.symbols.keys())
                if len(unknown) == 1 and (linear or dim == sym(unknown[0])):
                    self._solve(dim, unknown[0], axis, name)
        for dim, _, name in sizes:
            left = free_symbols(dim) - self.scope.symbols.keys()
            if left and not known:
                raise ModelError(
                    f"size {min(left)} does not follow from the shape of {quote(name)}"
                )

    def _solve(self, dim: Dim, symbol: str, axis: int, name: str) -> None:
        """Defines ``symbol`` by ``shape(name)[axis] == dim``, linear in it with constants."""
        offset = substitute(dim, {symbol: 0})
        slope = substitute(dim, {symbol: 1}) - offset
        if not isinstance(slope, int) or slope == 0 or offset + slope * sym(symbol) != dim:
            return
        size = self.emit("Shape", name, start=axis, end=axis + 1)
        if offset != 0:
            size = self.emit("Sub", size, self.dim(offset))
        if slope != 1:
            size = self.emit("Div", size, self.literal([slope]))
        self.scope.symbols[symbol] = size

    def dim(self, d: Dim) -> str:
        """Name of a one-element int64 tensor that holds ``d``."""
        if not isinstance(d, Expr):
            return self.literal([d])
        if d not in self.scope.dims:
            total = ""
            for monomial, coef in d.terms:
                term = "" if coef == 1 and monomial else self.literal([coef])
                for atom, power in monomial:
                    factor = self._atom(atom)
                    for _ in range(power):
                        term = self.emit("Mul", term, factor) if term else factor
                total = self.emit("Add", total, term) if total else term
            self.scope.dims[d] = total
        return self.scope.dims[d]

    def _atom(self, atom: Any) -> str:
        if atom.kind == "sym":
            if atom.name not in self.scope.symbols:
                raise ModelError(f"size {atom.name} is not defined where it is used")
            return self.scope.symbols[atom.name]
        args = [self.dim(a) for a in atom.args]
        if atom.kind in ("max", "min"):
            return str(self.emit(atom.kind.capitalize(), *args))
        if atom.kind == "mod":
            return str(self.emit("Mod", *args))
        if atom.kind == "floordiv":  # ONNX divides toward zero
            if not known_ge(atom.args[0], 0):
                args[0] = self.emit("Sub", args[0], self.emit("Mod", *args))
            return str(self.emit("Div", *args))
        size = args[0]  # a broadcast: the first that is not 1
        for other in args[1:]:
            size = self.emit("Where", self.emit("Equal", size, self.literal([1])), other, size)
        return size

    def dims(self, sizes: Sequence[Dim]) -> str:
        """Name of an int64 vector of sizes."""
        if all(isinstance(d, int) for d in sizes):
            return self.literal(np.array(sizes, dtype=np.int64))
        parts = [self.dim(d) for d in sizes]
        return parts[0] if len(parts) == 1 else str(self.emit("Concat", *parts, axis=0))

    def count(self, d: Dim) -> str:
        """Name of an int64 scalar that holds ``d``."""
        if isinstance(d, int):
            return self.literal(d)
        return str(self.emit("Squeeze", self.dim(d)))

    # -- small compositions ----------------------------------------------------------------

    def cast(self, name: str, to: DType) -> str:
        """``name`` converted."""
        return str(self.emit("Cast", name, to=onnx_dtype(to)))

    def reshape(self, name: str, shape: Sequence[Dim]) -> str:
        """``name`` in another shape."""
        return str(self.emit("Reshape", name, self.dims(shape), allowzero=1))

    def transpose(self, name: str, perm: Sequence[int]) -> str:
        """``name`` with its axes permuted; itself if they stay."""
        if list(perm) == list(range(len(perm))):
            return name
        return str(self.emit("Transpose", name, perm=list(perm)))

    def where(self, condition: str, a: str, b: str, dtype: DType) -> str:
        """``a`` where the condition holds, else ``b``, by way of int64 for the integers that
        runtimes do not select."""
        if dtype.is_integer and dtype.name not in ("i32", "i64", "u8"):
            wide = self.emit("Where", condition, self.cast(a, I64), self.cast(b, I64))
            return self.cast(wide, dtype)
        return str(self.emit("Where", condition, a, b))

    def padded_to(self, name: str, sizes: Sequence[Dim], rank: int) -> str:
        """``name`` padded with zeros at the end of every axis, up to ``sizes``."""
        shape = self.emit("Shape", name)
        behind = self.emit("Max", self.emit("Sub", self.dims(sizes), shape), self.literal([0]))
        pads = self.emit("Concat", self.literal([0] * rank), behind, axis=0)
        return str(self.emit("Pad", name, pads))


def nonnegative(d: Dim) -> Dim:
    """``d`` clamped at 0."""
    return dmax(d, 0)


def onnx_dtype(dtype: DType) -> int:
    """ONNX's number of an element type."""
    if dtype.kind == "s":
        return int(TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(dtype.np))


def tensor_proto(name: str, array: np.ndarray) -> TensorProto:
    """A constant as a tensor inside the model."""
    if array.dtype == object:
        flat = [x if isinstance(x, bytes) else str(x).encode() for x in array.ravel()]
        tensor = TensorProto(name=name, dims=array.shape, data_type=TensorProto.STRING)
        tensor.string_data.extend(flat)
        return tensor
    return numpy_helper.from_array(np.asarray(array, order="C"), name)
