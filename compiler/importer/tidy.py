"""Keeps imported shape arithmetic small: what is known while importing is written as it is.

Exported models compute shapes with long chains of tiny ops. Where all elements of a small integer
result follow from sizes, the result is one ``dims`` node (or a constant); where all operands of
a small result are constants, it is computed at once by the op's reference.
"""

from __future__ import annotations

import numpy as np

from ...ir.builder import Builder
from ...ir.errors import EvonnxError
from ...ir.graph import Node, Value
from ...ir.ops import lookup
from ...ir.types import I64, TensorType

_MAX_SIZES = 64
_MAX_FOLDED = 256
_MAX_OPERAND = 4096
_LEAVES = frozenset({"input", "const", "dims", "bind", "random_mersenne", "random_normal",
                     "random_uniform"})  # fmt: skip
_COMPUTED = frozenset({"elementwise", "movement", "reduction", "gather"})


def tidy(b: Builder, value: Value) -> Value:
    """``value``, or the constant or ``dims`` node that it is known to equal."""
    t = value.type
    if value.node.op in _LEAVES or not isinstance(t, TensorType):
        return value
    n = t.numel()
    if not isinstance(n, int) or n > _MAX_FOLDED or t.dtype.kind in "sc":
        return value
    if t.dtype.kind in "iub" and n <= _MAX_SIZES:
        sizes = b.dims_value(value)
        if sizes is not None:
            return _written(b, value, sizes)
    return _folded(b, value)


def _written(b: Builder, value: Value, sizes: np.ndarray) -> Value:
    flat = list(sizes.reshape(-1))
    if all(isinstance(d, int) for d in flat):
        return b.const(sizes.astype(value.dtype.np))
    if value.rank > 1 or value.dtype.kind == "b":
        return value
    written = b.dims(flat, scalar=value.rank == 0)
    result: Value = written if value.dtype == I64 else b.op("cast", written, to=value.dtype)
    return result


def _folded(b: Builder, value: Value) -> Value:
    """The constant that ``value`` is, if every leaf under it is a small constant."""
    order = _constant_cone(value)
    if order is None:
        return value
    arrays: dict[Value, np.ndarray] = {}
    for node in order:
        if node.op == "const":
            arrays[node.out] = b.constants.get(node.attrs["digest"])
            continue
        op = lookup(node.op)
        if op.reference is None:
            return value
        args = [None if v is None else arrays[v] for v in node.inputs]
        try:
            results = op.reference(args, node.attrs, node.types)
        except (EvonnxError, IndexError, ValueError):
            return value
        for out, array in zip(node.outputs, results, strict=True):
            arrays[out] = np.asarray(array)
    return b.const(arrays[value])


def _constant_cone(value: Value) -> list[Node] | None:
    """Nodes that ``value`` is computed by, operands first; None if one is not constant."""
    order: list[Node] = []
    stack = [(value.node, False)]
    seen: set[Node] = set()
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
            continue
        if node in seen:
            continue
        seen.add(node)
        if len(seen) > 32 or not _small(node):
            return None
        if node.op != "const" and not (lookup(node.op).traits & _COMPUTED or node.op == "iota"):
            return None
        stack.append((node, True))
        stack.extend((v.node, False) for v in node.operands)
    return order


def _small(node: Node) -> bool:
    for t in node.types:
        if not isinstance(t, TensorType) or t.dtype.kind in "sc":
            return False
        n = t.numel()
        if not isinstance(n, int) or n > _MAX_OPERAND:
            return False
    return True
