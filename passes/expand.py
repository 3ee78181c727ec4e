"""Expansion of composites into core ops: all of them, or those named.

For targets and tests that have no kernel for ``softmax``, ``layer_norm``, ``attention`` and the
like. What an expansion contains is expanded as well, if it is among the named ops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from ..ir.builder import Builder
from ..ir.graph import Graph, Node, Value
from ..ir.ops import OPS
from ..ir.types import F32
from .rebuild import New, inputs_of, with_replaced

COMPOSITES: tuple[str, ...] = tuple(sorted(n for n, o in OPS.items() if o.expand is not None))
"""Ops that have an expansion."""


def expand(graph: Graph, names: Collection[str] = (), fired: Counter[str] | None = None) -> Graph:
    """``graph`` without the composites in ``names`` (all if empty)."""
    wanted = frozenset(names or COMPOSITES)
    return _expand(graph, lambda n: n.op in wanted, fired)


def expand_wide_attention(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` without attention of anything but float32, for which there is a kernel."""
    return _expand(graph, lambda n: n.op == "attention" and any(
        v.dtype != F32 for v in n.operands), fired)


def _expand(graph: Graph, wanted: Callable[[Node], bool], fired: Counter[str] | None) -> Graph:
    def expanded(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        define = OPS[node.op].expand
        if define is None or not wanted(node):
            return None
        if fired is not None:
            fired[f"expand {node.op}"] += 1
        return (define(b, inputs_of(node, new), node.attrs),)

    while any(map(wanted, graph.nodes)):
        graph = with_replaced(graph, expanded)
    return graph
