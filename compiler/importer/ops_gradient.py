"""Lowering of Gradient: the part of the model between ``xs`` and ``y``, differentiated backwards.

The nodes that ``y`` is computed from, up to the tensors of ``xs`` and ``zs``, are imported once
more as a graph with inputs in place of these tensors; ``passes.gradient`` differentiates it at the
values that the node is given. What is computed forward merges with the model's own nodes where
these values are the named tensors themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir.errors import ModelError, UnsupportedError, quote
from ...passes.gradient import gradients
from ..messages import GraphProto, NodeProto, ValueInfoProto
from .registry import lowering
from .scope import free_names

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx


@lowering("Gradient", domain="ai.onnx.preview.training")
def gradient(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """Derivatives of ``y`` (of the sum of its elements) by the tensors of ``xs``."""
    xs, zs, y = ctx.required("xs"), ctx.attr("zs", ()), ctx.required("y")
    names = (*xs, *zs)
    if len(set(names)) != len(names) or len(ctx.inputs) != len(names):
        raise ModelError(f"{len(ctx.inputs)} inputs for {len(names)} tensors, each named once")
    values = [ctx.input(k) for k in range(len(names))]
    part = _between(ctx, names, y)
    region = ctx.region(part, [v.type for v in values])
    wanted = [k for k in range(len(xs)) if ctx.wants(k)]
    try:
        found = gradients(ctx.b, region.graph, [*values, *region.captures], wanted)
    except UnsupportedError as error:
        ctx.fail(f"{quote(y)} cannot be differentiated: {error}")
    by = dict(zip(wanted, found, strict=True))
    return tuple(by.get(k) for k in range(len(xs)))


def _between(ctx: Ctx, names: Sequence[str], y: str) -> GraphProto:
    """The main graph's nodes on the way from ``names`` to ``y``, with ``names`` as inputs."""
    nodes = ctx.main_graph().node
    producer = {name: k for k, n in enumerate(nodes) for name in n.output if name}
    if y not in producer:
        raise ModelError(f"y {quote(y)} is not computed by a node of the main graph")
    cut, needed, stack = set(names), set(), [y]
    while stack:
        name = stack.pop()
        at = producer.get(name)
        if name in cut or at is None or at in needed:
            continue
        needed.add(at)
        stack.extend(n for n in (*nodes[at].input, *free_names(nodes[at])) if n)
    part = GraphProto(name="gradient")
    part.input.extend(ValueInfoProto(name=name) for name in names)
    part.output.append(ValueInfoProto(name=y))
    part.node.extend(_renamed(nodes[k], cut) for k in sorted(needed))
    return part


def _renamed(node: NodeProto, cut: set[str]) -> NodeProto:
    """The node without the outputs that are inputs of the part now."""
    if not cut.intersection(node.output):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    for k, name in enumerate(copy.output):
        if name in cut:
            copy.output[k] = ""
    return copy
