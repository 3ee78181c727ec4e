"""A group of nodes as a graph of its own: the unit that becomes one kernel.

``extract`` cuts the members out of a graph: values that come from outside become inputs, values
that are needed outside become outputs, scalar constants stay, and composites are replaced by their
expansion, so whoever reads the result (legality, cost model, lowering) meets core ops and attention
only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .builder import Builder, copy_node
from .graph import Graph, Node, Value
from .ops import lookup
from .types import TensorType

OVERWRITING = ("loops", "contract", "separable")
"""Implementations that may write a result over an operand, see ``overwritable``."""


@dataclass(frozen=True, slots=True)
class GroupGraph:
    """A group cut out of its graph."""

    graph: Graph
    """Inputs named ``x0..``, outputs named ``y0..``."""
    inputs: tuple[Value, ...]
    """Values of the whole graph that the group reads, in order of the inputs."""
    outputs: tuple[Value, ...]
    """Values of the whole graph that the group gives, in order of the outputs."""


def escaping(graph: Graph, members: Iterable[Node]) -> tuple[Value, ...]:
    """Values of ``members`` that other nodes or the graph's outputs need."""
    inside = set(members)
    found: list[Value] = []
    for node in sorted(inside, key=graph.index.__getitem__):
        for v in node.outputs:
            if v in graph.output_values or any(u not in inside for u in graph.users(v)):
                found.append(v)
    return tuple(found)


def keeps_pixels(node: Node) -> bool:
    """Whether a convolution leaves every pixel at its place, with as many channels, and is
    depthwise or pointwise: a kernel can write its result over the image, if it keeps a few lines,
    or a few pixels, until they are not read any more."""
    if node.op != "conv" or node.attrs["layout"] != "last":
        return False
    (image, weights), a = node.operands, node.attrs
    channels, taps = image.shape[-1], weights.shape[:-2]
    depthwise = a["groups"] == channels and 1 <= len(taps) <= 2
    pointwise = a["groups"] == 1 and all(d == 1 for d in taps) and not any(
        (*a["pads_lo"], *a["pads_hi"]))
    return (depthwise or pointwise) and image.shape == node.out.shape and image != weights and all(
        s == 1 for s in a["strides"])


def overwritable(members: Sequence[Node], written: Sequence[Value], over: bool = False
                 ) -> tuple[Value, ...]:
    """Values from outside in whose memory the group may write its result, if nobody needs them
    afterwards: the result is the only one, and each of its elements takes of the value the element
    at its own place and no other, so that this is read before it is written. That is so where all
    nodes of the group that depend on the value are elementwise and of its shape; of a group whose
    kernel is written for it (``over``, see ``variants``) one may also be a convolution that
    ``keeps_pixels``, of which the value is the image. ``members`` come in the order of the graph.
    """
    if len(written) != 1 or not isinstance(written[0].type, TensorType):
        return ()
    result, inside = written[0], set(members)
    outside = dict.fromkeys(v for n in members for v in n.operands if v.node not in inside)
    found = []
    for value in outside:
        kind = value.type
        if (value.node.op == "const" or not isinstance(kind, TensorType)
                or kind.shape != result.shape or kind.nbytes() != result.tensor.nbytes()):
            continue
        behind: set[Value] = {value}
        for n in members:
            if behind.isdisjoint(n.operands):
                continue
            image = over and keeps_pixels(n) and n.operands[1] not in behind
            if not (image or lookup(n.op).has("elementwise")) or n.out.shape != kind.shape:
                break
            behind.add(n.out)
        else:
            found.append(value)
    return tuple(found)


def extract(graph: Graph, members: Iterable[Node], written: Sequence[Value] | None = None
            ) -> GroupGraph:
    """The members as a graph of core ops; members must be closed under nothing but order.
    ``written`` are the values it gives (None: all that ``escaping`` finds)."""
    inside = sorted(set(members), key=graph.index.__getitem__)
    outputs = escaping(graph, inside) if written is None else tuple(written)
    b = Builder(graph.constants)
    mapping: dict[Value, Value] = {}
    inputs: list[Value] = []
    for node in inside:
        for v in node.operands:
            if v in mapping or v.node in inside:
                continue
            if v.node.op == "const" and v.shape == ():
                mapping[v] = b.const_ref(v.node.attrs["digest"], v.tensor)
            else:
                mapping[v] = b.input(f"x{len(inputs)}", v.type)
                inputs.append(v)
        operands = tuple(None if v is None else mapping[v] for v in node.inputs)
        expand = _expansion(node)
        if expand is None:
            results = copy_node(b, node, operands)
        else:
            results = (expand_fully(b, expand(b, operands, node.attrs)),)
        mapping.update(zip(node.outputs, results, strict=True))
    named = [(f"y{i}", mapping[v]) for i, v in enumerate(outputs)]
    return GroupGraph(b.build(named), tuple(inputs), outputs)


def cut_out(graph: Graph, nodes: Sequence[Node], written: Sequence[Value] | None = None) -> Graph:
    """The nodes as a graph of their own that gives the values ``written`` (None: all that are
    needed outside); constants stay constants, composites composites, other values become inputs."""
    b = Builder(graph.constants)
    inside = set(nodes)
    mapping: dict[Value, Value] = {}
    for node in nodes:
        for v in node.operands:
            if v in mapping or v.node in inside:
                continue
            if v.node.op == "const":
                mapping[v] = b.const_ref(v.node.attrs["digest"], v.tensor)
            else:
                mapping[v] = b.input(f"x{len(mapping)}", v.type)
        operands = tuple(None if v is None else mapping[v] for v in node.inputs)
        mapping.update(zip(node.outputs, copy_node(b, node, operands), strict=True))
    outputs = escaping(graph, nodes) if written is None else written
    return b.build([(f"y{k}", mapping[v]) for k, v in enumerate(outputs)])


def _expansion(node: Node) -> Callable[..., Value] | None:
    """What a composite is written out by; None for core ops and what has a kernel."""
    definition = lookup(node.op)
    return None if definition.has("attention") else definition.expand


def expand_fully(b: Builder, value: Value) -> Value:
    """Replaces composites inside an expansion by their own expansions."""
    done: dict[Node, tuple[Value, ...]] = {}
    stack = [value.node]
    while stack:
        node = stack[-1]
        if node in done:
            stack.pop()
            continue
        waiting = [v.node for v in node.operands if v.node not in done]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        operands = tuple(None if v is None else done[v.node][v.index] for v in node.inputs)
        expand = _expansion(node)
        if expand is not None:
            done[node] = (expand_fully(b, expand(b, operands, node.attrs)),)
        elif operands == node.inputs:
            done[node] = node.outputs
        else:
            done[node] = copy_node(b, node, operands)
    return done[value.node][value.index]
