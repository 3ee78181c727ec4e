"""Expansion of composites into core ops: all of them, or those named.

For targets and tests that have no kernel for ``softmax``, ``layer_norm``, ``attention`` and the
like. What an expansion contains is expanded as well, if it is among the named ops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from ..ir.graph import Builder, Graph, Value
from ..ir.ops import OPS
from .driver import carry

COMPOSITES: tuple[str, ...] = tuple(sorted(n for n, o in OPS.items() if o.expand is not None))
"""Ops that have an expansion."""


def expand(graph: Graph, names: Collection[str] = (), fired: Counter[str] | None = None) -> Graph:
    """``graph`` without the composites in ``names`` (all if empty)."""
    wanted = frozenset(names or COMPOSITES)
    while any(n.op in wanted for n in graph.nodes):
        builder = Builder(graph.constants)
        for v in graph.inputs:
            builder.adopt(v.node)
        mapping: dict[Value, Value] = {}
        for node in graph.nodes:
            define = OPS[node.op].expand
            if node.op not in wanted or define is None:
                carry(builder, node, mapping)
                continue
            inputs = tuple(None if v is None else mapping.get(v, v) for v in node.inputs)
            builder.default_origin = node.origin
            mapping[node.out] = define(builder, inputs, node.attrs)
            builder.default_origin = ()
            if fired is not None:
                fired[f"expand {node.op}"] += 1
        graph = builder.build([(name, mapping.get(v, v)) for name, v in graph.outputs])
    return graph
