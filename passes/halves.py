"""Products of half-precision numbers as products in float32.

Kernels multiply halves by converting them, so a product that says so itself has the fast kernels of
float32, constant weights are converted once, and conversions fuse with what is around. The result
is the same: sums of halves are kept in float32 and rounded once.
"""

from __future__ import annotations

from collections import Counter

from ..ir.builder import Builder
from ..ir.graph import Graph, Node, Value
from ..ir.types import F32
from .rebuild import New, inputs_of, with_replaced

PRODUCTS = frozenset({"dot", "conv", "conv_transpose", "attention"})
"""Ops that are widened."""


def widen_products(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with the products of float16 and bfloat16 done in float32."""

    def narrow(v: Value) -> bool:
        return v.dtype.is_float and not v.dtype.is_coded and v.dtype.bits < 32

    wanted = {n for n in graph.nodes if n.op in PRODUCTS and all(map(narrow, n.operands))}
    wanted = {n for n in wanted if n.attrs.get("acc") is None}
    if not wanted:
        return graph

    def widened(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        if node not in wanted:
            return None
        wide = (None if v is None else b.op("cast", v, to=F32) for v in inputs_of(node, new))
        y = b.op(node.op, *wide, **node.attrs)
        if fired is not None:
            fired[f"widen {node.op}"] += 1
        return (b.op("cast", y, to=node.out.dtype),)

    return with_replaced(graph, widened)
