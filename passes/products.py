"""Products taken apart: constant factors and the others, whatever the order and grouping."""

from __future__ import annotations

from ..ir.graph import Constants, Node, Value
from .facts import scalar_of


def strip_scale(constants: Constants, value: Value) -> tuple[float, Value, list[Node]]:
    """(c, v, nodes) with ``value == c * v``: the constant factors at the top of a product."""
    number = 1.0
    nodes: list[Node] = []
    while True:
        node = value.node
        if not value.dtype.is_float or node.op not in ("mul", "div", "neg"):
            return number, value, nodes
        if node.op == "neg":
            scale: float | None = -1.0
            inner = node.inputs[0]
        else:
            scale, inner = _scale_of(constants, node)
        if scale is None or inner is None or inner.type != value.type:
            return number, value, nodes
        number, value = number * scale, inner
        nodes.append(node)


def _scale_of(constants: Constants, node: Node) -> tuple[float | None, Value | None]:
    a, b = node.inputs
    c = scalar_of(constants, b)
    if c is not None:
        if node.op == "mul":
            return float(c), a
        return (1.0 / c if c else None), a
    c = scalar_of(constants, a) if node.op == "mul" else None
    return (None, None) if c is None else (float(c), b)


def factors_of(constants: Constants, value: Value) -> tuple[float, list[Value], list[Node]]:
    """(c, factors, nodes) with ``value == c * f1 * f2 * ...``: a product taken apart."""
    number = 1.0
    factors: list[Value] = []
    nodes: list[Node] = []
    stack = [value]
    while stack:
        scale, v, passed = strip_scale(constants, stack.pop())
        number *= scale
        nodes += passed
        if v.node.op == "mul" and len(nodes) < 16:
            nodes.append(v.node)
            stack.extend(reversed(v.node.operands))
        else:
            factors.append(v)
    return number, factors, nodes
