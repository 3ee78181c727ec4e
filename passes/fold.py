"""Bounded constant folding.

Walks the graph once in topological order. A node whose operands are all constants is evaluated by
the op table's reference where the result is small enough (``evaluate.py`` states the bounds). An
integer tensor that follows from sizes alone (shape arithmetic) becomes a ``dims`` node, or a
constant if all its elements are known. A conditional with a known condition becomes its branch.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ..ir.builder import Builder
from ..ir.graph import Graph, Node, Value
from ..ir.ops import lookup
from ..ir.types import BOOL, I64, TensorType
from .evaluate import CAP, LOAD_CAP, constants_of, is_known, refusal_to_fold
from .facts import Refusal, scalar_of
from .rebuild import New, carry, inputs_of, with_replaced

SYMBOLIC_LIMIT = 64
"""Most elements of a ``dims`` node; larger shape arithmetic stays as it is."""
_SOURCES = frozenset({"input", "const", "dims", "iota", "bind"})


def fold(graph: Graph, fired: Counter[str] | None = None, everything: bool = False) -> Graph:
    """``graph`` with constant subgraphs evaluated; counts go into ``fired``. With ``everything``
    (the last step before scheduling) results may outgrow their operands: what is constant is
    computed once, when the model is compiled, and not in every call."""

    def folded(builder: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        outs = _folded(builder, node, inputs_of(node, new), everything)
        if outs is not None and fired is not None:
            fired[f"fold {node.op}"] += 1
        return outs

    return with_replaced(graph, folded)


def _folded(
    builder: Builder, node: Node, inputs: tuple[Value | None, ...], everything: bool
) -> tuple[Value, ...] | None:
    """Replacements of the node's outputs, or None where it stays."""
    if node.op in _SOURCES and node.op != "iota":
        return None
    if node.op == "if":
        return _known_branch(builder, node, inputs)
    if all(is_known(v) for v in inputs) and not _large_ramp(node):
        here = Node(node.op, inputs, node.attrs, node.types)
        if refusal_to_fold(here, LOAD_CAP if everything else CAP, everything) is None:
            try:
                return constants_of(builder, here)
            except Refusal:
                return None
    return _symbolic(builder, node, inputs)


def _large_ramp(node: Node) -> bool:
    """Ramps are computed where they are used, unless they are tiny."""
    if node.op != "iota":
        return False
    count = node.out.tensor.numel()
    return not isinstance(count, int) or count > SYMBOLIC_LIMIT


def _symbolic(
    builder: Builder, node: Node, inputs: tuple[Value | None, ...]
) -> tuple[Value, ...] | None:
    """The node as sizes, if it is shape arithmetic."""
    t = node.types[0]
    if len(node.types) != 1 or not isinstance(t, TensorType) or not inputs:
        return None
    if t.dtype.kind not in "iub" or lookup(node.op).has("dynamic"):
        return None
    count = t.numel()
    if not isinstance(count, int) or count > SYMBOLIC_LIMIT:
        return None
    if node.op == "cast" and t.dtype != I64 and inputs[0] is not None and (
        inputs[0].node.op == "dims"
    ):
        return None
    values = builder.dims_value(_in_builder(builder, node, inputs))
    if values is None:
        return None
    flat = list(values.reshape(-1))
    shape = tuple(values.shape)
    if all(isinstance(d, int) for d in flat):
        array = np.array(flat, dtype=np.int64).reshape(shape)
        return (builder.const(array.astype(t.dtype.np)),)
    if t.dtype == BOOL:
        return None
    sizes = builder.op("dims", values=tuple(flat), shape=shape)
    return (sizes if t.dtype == I64 else builder.op("cast", sizes, to=t.dtype),)


def _in_builder(builder: Builder, node: Node, inputs: tuple[Value | None, ...]) -> Value:
    if inputs == node.inputs:
        return node.out
    return builder.node(node.op, inputs, node.attrs, node.origin).out


def _known_branch(
    builder: Builder, node: Node, inputs: tuple[Value | None, ...]
) -> tuple[Value, ...] | None:
    """The outputs of the branch that a constant condition takes, written into the graph."""
    taken = scalar_of(builder.constants, inputs[0])
    if taken is None:
        return None
    region: Graph = node.attrs["then" if taken else "else_"]
    if region.symbol_definers:
        return None
    names = dict(node.attrs["symbols"])
    if any(str(size) != inner for inner, size in names.items()):
        return None  # sizes have other names inside; renaming is left to the run
    split = 1 + node.attrs["split"]
    args = inputs[1:split] if taken else inputs[split:]
    if any(v is None or v.type != own.type for v, own in zip(args, region.inputs, strict=True)):
        return None
    outs = _inline(builder, region, args)
    kept = tuple(v.type == t for v, t in zip(outs, node.types, strict=True))
    return outs if all(kept) else None


def _inline(
    builder: Builder, region: Graph, args: tuple[Value | None, ...]
) -> tuple[Value, ...]:
    builder.constants.update(region.constants)
    mapping: dict[Value, Value] = {}
    for inner, outer in zip(region.inputs, args, strict=True):
        assert outer is not None
        mapping[inner] = outer
    for node in region.nodes:
        if node.op != "input":
            carry(builder, node, mapping)
    return tuple(mapping.get(v, v) for _, v in region.outputs)


def dce(graph: Graph) -> Graph:
    """``graph`` without dead and duplicate nodes: built anew by an interning builder."""
    builder = Builder(graph.constants)
    for v in graph.inputs:
        builder.adopt(v.node)
    mapping: dict[Value, Value] = {}
    for node in graph.nodes:
        carry(builder, node, mapping)
    built = builder.build([(name, mapping.get(v, v)) for name, v in graph.outputs])
    return graph if len(built.nodes) == len(graph.nodes) else built
