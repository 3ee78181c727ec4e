"""Which inputs are read as positions, so that the runtime can refuse one that lies outside.

A kernel clamps a position that it reads into its axis: that keeps a wrong one from reaching foreign
memory, but hides it (a token id beyond the vocabulary reads the last row). Where a gather takes its
positions from an input and nothing computes with them on the way, what the input may hold is known
before the first kernel runs. Positions that a model computes are the model's own affair.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.dims import free_symbols
from ..ir.graph import Graph, Node, Value
from ..ir.ops import lookup
from ..ir.types import TensorType
from ..runtime.program import IndexRange, bare_symbol

_WHOLE = frozenset({"reshape", "transpose"})
"""Movement that drops no element."""


def index_ranges(graph: Graph) -> tuple[IndexRange, ...]:
    """What gathers demand of the graph's inputs, each demand once."""
    inputs = {v: k for k, v in enumerate(graph.inputs)}
    shapes = [v.type.shape for v in graph.inputs if isinstance(v.type, TensorType)]
    known = {name for shape in shapes for d in shape if (name := bare_symbol(d)) is not None}
    found: dict[tuple[object, ...], IndexRange] = {}
    for node in graph.nodes:
        if not lookup(node.op).has("gather"):
            continue
        for r in _demands(node, inputs):
            if free_symbols(r.extent) <= known:
                found.setdefault((r.input, r.column, r.extent), r)
    return tuple(found.values())


def _demands(node: Node, inputs: dict[Value, int]) -> Iterator[IndexRange]:
    data, index = node.operands[0].tensor, node.operands[1].tensor
    where = f"{node.op} {'/'.join(node.origin)}"[:120]
    if node.op != "gather_nd":
        source = inputs.get(_source(node.operands[1], _WHOLE))
        if source is not None:
            yield IndexRange(source, None, data.shape[node.attrs["axis"]], where)
        return
    source = inputs.get(_source(node.operands[1], frozenset()))
    first, depth = node.attrs["batch_dims"], index.shape[-1]
    if source is not None and isinstance(depth, int):
        for k in range(depth):
            yield IndexRange(source, k, data.shape[first + k], where)


def _source(v: Value, through: frozenset[str]) -> Value:
    """What ``v`` holds the elements of, all of them and unchanged."""
    while v.node.op in through or _widens(v):
        v = v.node.operands[0]
    return v


def _widens(v: Value) -> bool:
    """Whether ``v`` is a cast that keeps every integer."""
    if v.node.op != "cast":
        return False
    a, b = v.node.operands[0].type, v.type
    assert isinstance(a, TensorType) and isinstance(b, TensorType)
    if not (a.dtype.is_integer and b.dtype.is_integer):
        return False
    signs = b.dtype.kind == a.dtype.kind or b.dtype.kind == "i" and b.dtype.bits > a.dtype.bits
    return signs and b.dtype.bits >= a.dtype.bits
