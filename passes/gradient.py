"""Reverse-mode differentiation of a graph: adjoints from the result back to the inputs.

One backward sweep over the nodes that the result depends on and that depend on a wanted input; each
op's rule (``vjp``, ``vjp_movement``) turns the adjoint of a result into the adjoints of its
operands (Griewank and Walther, Evaluating Derivatives, 2008, chapter 3). What an op computes only
piecewise constantly (rounding, comparisons) passes nothing back. Everything is built from ops of
the IR, so a gradient can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir.builder import Builder, copy_node
from ..ir.errors import UnsupportedError
from ..ir.graph import Graph, Node, Value
from ..ir.types import TensorType
from .expand import expand
from .vjp import RULES, Backward, zeros_like
from .vjp_movement import RULES as MOVES

_RULES = {**RULES, **MOVES}

CONSTANT = frozenset({
    "sign", "floor", "ceil", "round", "eq", "lt", "le", "isnan", "isinf", "argmax", "argmin",
    "not", "and", "or", "xor", "dims", "iota", "bind", "nonzero", "unique", "nms",
})  # fmt: skip
"""Ops whose results have no derivative but zero."""


def gradients(
    b: Builder, graph: Graph, inputs: Sequence[Value], wanted: Sequence[int]
) -> list[Value]:
    """Derivatives of the sum of the graph's first output by the ``wanted`` inputs, built in ``b``
    with ``inputs`` in the place of the graph's inputs.

    Raises ``UnsupportedError`` naming an op that the result depends on by which it cannot be
    differentiated."""
    graph = expand(graph)
    formal = list(graph.inputs)
    here = dict(zip(formal, inputs, strict=True))
    active = _active(graph, {formal[k] for k in wanted})
    for node in graph.nodes:
        _bring(b, node, here)
    result = graph.outputs[0][1]
    adjoints: dict[Value, Value] = {}
    if result in active:
        y = here[result]
        adjoints[result] = b.op("expand", b.const(np.ones((), y.dtype.np)), shape=y.shape)
    for node in reversed(graph.nodes):
        _backward(b, node, here, adjoints, active)
    return [adjoints.get(formal[k], zeros_like(b, inputs[k])) for k in wanted]


def _active(graph: Graph, wanted: set[Value]) -> set[Value]:
    """Floating-point values that depend on a wanted input by more than constant pieces."""
    active = set(wanted)
    for node in graph.nodes:
        if node.op in CONSTANT or not any(v in active for v in node.operands):
            continue
        active |= {v for v in node.outputs
                   if isinstance(v.type, TensorType) and v.dtype.is_float}  # fmt: skip
    return active


def _bring(b: Builder, node: Node, here: dict[Value, Value]) -> None:
    """The node's values in ``b``; a size that ``b`` knows already is not bound again."""
    if node.op == "input":
        return
    if node.op == "bind":
        known = b.dims_value(here[node.operands[0]])
        if known is not None and str(known.reshape(-1)[0]) == node.attrs["name"]:
            here[node.out] = here[node.operands[0]]
            return
    inputs = tuple(None if v is None else here[v] for v in node.inputs)
    for old, new in zip(node.outputs, copy_node(b, node, inputs), strict=True):
        here[old] = new


def _backward(
    b: Builder, node: Node, here: dict[Value, Value], adjoints: dict[Value, Value],
    active: set[Value],
) -> None:  # fmt: skip
    """Adds what the node's adjoints give to those of its operands."""
    found = [adjoints.get(v) for v in node.outputs]
    if all(g is None for g in found) or not any(v in active for v in node.operands):
        return
    rule = _RULES.get(node.op)
    if rule is None:
        types = ", ".join(str(v.type) for v in node.operands)
        raise UnsupportedError(
            f"no derivative of {node.op} ({types}) is known; differentiable are: "
            f"{', '.join(sorted(_RULES))}"
        )
    operands = tuple(None if v is None else here[v] for v in node.inputs)
    outs = tuple(here[v] for v in node.outputs)
    wants = tuple(v is not None and v in active for v in node.inputs)
    parts = rule(Backward(b, node.attrs, operands, outs, tuple(found), wants))
    for v, part in zip(node.inputs, parts, strict=True):
        if v is None or part is None or v not in active:
            continue
        before = adjoints.get(v)
        adjoints[v] = part if before is None else b.op("add", before, part)
