"""Building a graph anew with some of its nodes replaced: what every pass ends in.

Nodes whose operands did not change are taken over as they are, so that what is known about a node
(its inferred types, that no rule applies to it) stays known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir.builder import Builder, copy_node
from ..ir.graph import Graph, Node, Value

New = Callable[[Value], Value]
"""A value of the old graph -> what stands for it in the new one."""
Make = Callable[[Builder, Node, New], Sequence[Value] | None]
"""Builds the new outputs of a node; None takes the node over."""


def with_replaced(graph: Graph, make: Make) -> Graph:
    """``graph`` with the outputs of nodes replaced by what ``make(builder, node, new)`` builds of
    ``new(operand)``, the node's origin being the default one; ``graph`` itself where ``make``
    answers None for every node."""
    builder = Builder(graph.constants)
    for v in graph.inputs:
        builder.adopt(v.node)
    mapping: dict[Value, Value] = {}

    def new(value: Value) -> Value:
        return mapping.get(value, value)

    changed = False
    for node in graph.nodes:
        builder.default_origin = node.origin
        outs = make(builder, node, new)
        builder.default_origin = ()
        if outs is None:
            carry(builder, node, mapping)
            continue
        changed = True
        for old, out in zip(node.outputs, outs, strict=True):
            mapping[old] = out
    if not changed:
        return graph
    return builder.build([(name, new(v)) for name, v in graph.outputs])


def inputs_of(node: Node, new: New) -> tuple[Value | None, ...]:
    """The operands of a node in the new graph; None for absent ones."""
    return tuple(None if v is None else new(v) for v in node.inputs)


def carry(builder: Builder, node: Node, mapping: dict[Value, Value]) -> None:
    """Brings a node over into ``builder``: itself if its operands are unchanged, else a copy.
    ``mapping`` holds only the values that changed; inputs are there already."""
    if node.op == "input":
        return
    if not any(v in mapping for v in node.inputs if v is not None):
        kept = builder.adopt(node)
        if kept is node:
            return
        outs = kept.outputs
    else:
        inputs = tuple(None if v is None else mapping.get(v, v) for v in node.inputs)
        outs = copy_node(builder, node, inputs)
    for old, out in zip(node.outputs, outs, strict=True):
        mapping[old] = out
