"""Parallel products and convolutions of one value merged into one.

Products ``x A``, ``x B`` with constant matrices become ``x [A B]`` and two slices; convolutions of
one image with kernels of one size likewise. What follows all of them in the same way, an
elementwise op without a second operand or with a constant per channel, is done before the slices,
so that the merged op keeps its epilogue. Sums per output are the same as before, so the results are
equal up to the order of summation inside a kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..ir.builder import Builder
from ..ir.dim_functions import known_ge
from ..ir.dims import Dim
from ..ir.graph import Attrs, Graph, Node, Value
from ..ir.ops import OPS
from ..ir.ops.base import sum_dims
from .evaluate import CAP, fold_tree
from .facts import Refusal, is_const
from .rebuild import New, with_replaced

WIDEST = 4096
"""Most output channels of a merged op: wider ones gain nothing."""


@dataclass
class Group:
    """Sibling nodes and the ops that follow each of them in the same way."""

    members: list[Node]
    chains: list[list[Node]]
    """Per member: the nodes that follow it, one after the other."""
    axis: int
    """The axis of the channels in the result."""


def merge_siblings(
    graph: Graph, fired: Counter[str] | None = None, ops: Sequence[str] = ("dot", "conv")
) -> Graph:
    """``graph`` with parallel products (``ops``: dot, conv) of one value merged."""
    groups = [g for g in _groups(graph, ops) if _pays(g)]
    if not groups:
        return graph
    starts = {g.members[0]: g for g in groups}
    ends: dict[Value, Value] = {}

    def merged(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        group = starts.get(node)
        if group is not None:
            with suppress(Refusal):
                ends.update(_merge(b, group, new(node.operands[0])))
                if fired is not None:
                    fired[f"merge {node.op}"] += 1
        end = ends.get(node.outputs[0])
        return None if end is None else (end,)

    return with_replaced(graph, merged)


def _groups(graph: Graph, ops: Sequence[str]) -> list[Group]:
    found: dict[tuple[object, ...], list[Node]] = {}
    for node in graph.nodes:
        if node.op in ops and is_const(node.operands[1]) and not is_const(node.operands[0]):
            key = _key(node)
            if key is not None:
                found.setdefault(key, []).append(node)
    groups = []
    for members in found.values():
        if len(members) < 2:
            continue
        first = members[0]
        axis = first.out.rank - 1
        if first.op == "conv" and first.attrs["layout"] == "first":
            axis = 1
        groups.append(Group(members, _common_chains(graph, members, axis), axis))
    return groups


def _key(node: Node) -> tuple[object, ...] | None:
    """What siblings have in common; None for nodes that cannot be merged."""
    x, w = node.operands
    if node.op == "dot":
        return (node.op, x, node.attrs, w.dtype) if w.rank == 2 else None
    if node.attrs["groups"] != 1:
        return None
    kernel = w.shape[2:] if node.attrs["layout"] == "first" else w.shape[:-2]
    return (node.op, x, node.attrs, w.dtype, kernel)


def _pays(group: Group) -> bool:
    channels = sum_dims(n.out.shape[group.axis] for n in group.members)
    nbytes = sum_dims(n.operands[1].tensor.nbytes() for n in group.members)
    return known_ge(WIDEST, channels) and known_ge(CAP, nbytes)


def _common_chains(graph: Graph, members: Sequence[Node], axis: int) -> list[list[Node]]:
    """The longest run of ops that follow every member in the same way."""
    chains: list[list[Node]] = [[] for _ in members]
    ends = list(members)
    while True:
        followers = [_follower(graph, end, axis) for end in ends]
        first = followers[0]
        if first is None or not all(
            f is not None and f.op == first.op and f.attrs == first.attrs
            and _constant_side(f, end) == _constant_side(first, ends[0])
            for f, end in zip(followers, ends, strict=True)
        ):  # fmt: skip
            return chains
        ends = [f for f in followers if f is not None]
        for chain, end in zip(chains, ends, strict=True):
            chain.append(end)


def _constant_side(node: Node, source: Node) -> int | None:
    return next((k for k, v in enumerate(node.operands) if v.node is not source), None)


def _follower(graph: Graph, node: Node, axis: int) -> Node | None:
    """The only user of the node, if it is elementwise with constants per channel besides."""
    users = graph.users(node.out)
    if len(users) != 1 or node.out in graph.output_values:
        return None
    user = users[0]
    if not OPS[user.op].has("elementwise") or user.out.shape != node.out.shape:
        return None
    rank = node.out.rank
    for v in user.operands:
        if v.node is node:
            continue
        skip = rank - v.rank
        if not is_const(v) or any(
            d != 1 and k + skip != axis for k, d in enumerate(v.shape)
        ):
            return None
    return user if len(user.operands) <= 2 else None


def _merge(b: Builder, group: Group, x: Value) -> dict[Value, Value]:
    """Builds the merged op on ``x``; answers the replacement of each chain's last value."""
    first, axis = group.members[0], group.axis
    weights = [n.operands[1] for n in group.members]
    b.default_origin = tuple(dict.fromkeys(o for n in group.members for o in n.origin))
    joined = fold_tree(b, b.op("concat", *weights, axis=_weight_axis(first)))
    y = b.node(first.op, (x, joined), first.attrs).out
    widths = [n.out.shape[axis] for n in group.members]
    for step in zip(*group.chains, strict=True):
        y = _follow(b, y, step, group, widths)
    ends: dict[Value, Value] = {}
    at: Dim = 0
    for member, chain, width in zip(group.members, group.chains, widths, strict=True):
        starts: list[Dim] = [0] * y.rank
        starts[axis] = at
        sizes = (*y.shape[:axis], width, *y.shape[axis + 1 :])
        cut = b.op("slice", y, starts=starts, sizes=sizes, steps=(1,) * y.rank)
        ends[(chain[-1] if chain else member).out] = cut
        at = at + width
    return ends


def _weight_axis(node: Node) -> int:
    """The axis of output channels in the constant."""
    if node.op == "dot":
        return 0 if node.attrs["tb"] else 1
    return 0 if node.attrs["layout"] == "first" else node.operands[1].rank - 1


def _follow(
    b: Builder, y: Value, step: Sequence[Node], group: Group, widths: Sequence[object]
) -> Value:
    """One op of the common chain on the merged value."""
    head = step[0]
    source = group.members[0] if head is group.chains[0][0] else (
        group.chains[0][group.chains[0].index(head) - 1]
    )
    side = _constant_side(head, source)
    if side is None:
        return b.node(head.op, (y,) * len(head.inputs), head.attrs).out  # a square: y twice
    shape = [1] * (y.rank - group.axis)
    parts = []
    for node, width in zip(step, widths, strict=True):
        c = node.operands[side]
        full = (width, *shape[1:])
        if c.rank > len(full):
            c = b.op("reshape", c, shape=c.shape[c.rank - len(full) :])
        parts.append(b.op("expand", c, shape=full))
    constant = fold_tree(b, b.op("concat", *parts, axis=0))
    inputs = (constant, y) if side == 0 else (y, constant)
    return b.node(head.op, inputs, Attrs(head.attrs.items())).out
