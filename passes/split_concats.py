"""Concatenations of channels dissolved in their readers, so that every piece is used up by itself.

A concatenation holds all of its pieces at once, and again as one. Its readers can often do without:

    conv([x, y]; W)       = conv(x; W_x) + conv(y; W_y)       channels of W by piece, one more sum
    dot([x, y], W)        = dot(x, W_x) + dot(y, W_y)
    depthwise([x, y]; W)  = [depthwise(x; W_x), depthwise(y; W_y)]
    f([x, y])             = [f(x), f(y)]                      f elementwise, pooling, padding

A piece is then read as soon as it is made and needed no longer; the sum so far is one buffer (the
rewriting of SERENITY: B. Ahn et al., "Ordering chaos: memory-aware scheduling of irregularly wired
neural networks for edge devices", 2020, section 3.3). What it costs is that sums go through memory
once per piece, so it is for where memory is scarce. Results are equal up to the order of summation.

A concatenation is dissolved where all who read it, through others of these ops, end in such sums or
in further concatenations. Sums run over the pieces in the order of the graph, those that are made
first being added first.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass

from ..ir.builder import Builder
from ..ir.graph import Attrs, Graph, Node, Value
from ..ir.ops import OPS
from ..ir.types import F32, F64
from .evaluate import fold_tree
from .facts import is_const
from .rebuild import New, with_replaced


@dataclass(frozen=True, slots=True)
class Piece:
    """Some channels of a value."""

    value: Value
    """In the new graph; its last axis is that of the channels."""
    start: int
    """First channel in the whole value."""
    made: int
    """Position in the old graph of the node that gives it to the concatenation."""

    @property
    def size(self) -> int:
        """Number of channels."""
        return int(self.value.shape[-1])  # type: ignore[arg-type]


def split_concats(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` without the concatenations of channels that their readers can do without."""
    dissolving = _dissolving(graph)
    pieces: dict[Value, tuple[Piece, ...]] = {}
    if not dissolving:
        return graph

    def made(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        if node.op == "concat" and _last_axis(node) and (
                node in dissolving or any(v in pieces for v in node.operands)):
            joined = _joined(graph, node, new, pieces)
            if node in dissolving:
                pieces[node.out] = joined
                if fired is not None:
                    fired["dissolve concat"] += 1
                return (node.out,)
            whole = b.op("concat", *(p.value for p in joined), axis=node.out.rank - 1)
            return (whole,)
        split = next((pieces[v] for v in node.operands if v in pieces), None)
        if split is None:
            return None
        if _sums(node):
            return (_sum(b, node, new, split),)
        pieces[node.out] = _each(b, node, new, pieces)
        return (node.out,)

    return with_replaced(graph, made)


def _dissolving(graph: Graph) -> set[Node]:
    """The concatenations all of whose readers can take pieces."""
    takes: dict[Value, bool] = {}
    for node in reversed(graph.nodes):
        for v in node.outputs:
            users = graph.users(v)
            takes[v] = bool(users) and v not in graph.output_values and all(
                _sums(u) and u.operands[0] == v
                or u.op == "concat" and _last_axis(u)
                or _distributes(u, v) and takes[u.out]
                for u in users)  # fmt: skip
    return {n for n in graph.nodes if n.op == "concat" and _last_axis(n) and takes[n.out]
            and len(n.operands) > 1 and not any(map(is_const, n.operands))
            and not all(u.op == "concat" for u in _ends(graph, n))}  # fmt: skip


def _ends(graph: Graph, node: Node) -> list[Node]:
    """Who reads the pieces in the end: sums and further concatenations."""
    found: list[Node] = []
    todo = [node]
    while todo:
        for user in graph.users(todo.pop().out):
            if _sums(user) or user.op == "concat":
                found.append(user)
            else:
                todo.append(user)
    return found


def _last_axis(node: Node) -> bool:
    """Whether a concatenation is one of channels, in known numbers."""
    axis = node.out.rank - 1
    return bool(node.attrs["axis"] == axis
                and all(isinstance(v.shape[-1], int) for v in node.operands))


def _sums(node: Node) -> bool:
    """Whether a node sums over the channels of its first operand with constant weights."""
    if node.op not in ("conv", "dot") or node.out.dtype not in (F32, F64):
        return False
    x, w = node.operands
    if not is_const(w) or node.attrs.get("acc") is not None or x.dtype != node.out.dtype:
        return False
    if node.op == "dot":
        return bool(w.rank == 2 and not node.attrs["ta"])
    return bool(node.attrs["layout"] == "last" and node.attrs["groups"] == 1)


def _distributes(node: Node, v: Value) -> bool:
    """Whether a node does to each channel of ``v`` what it does, and nothing between channels."""
    if len(node.outputs) != 1 or node.operands[0] != v and not OPS[node.op].has("elementwise"):
        return False
    channels = v.shape[-1] if v.rank else None
    if node.op == "pool":
        return bool(node.attrs["layout"] == "last")
    if node.op == "pad":
        return bool(node.attrs["lo"][-1] == node.attrs["hi"][-1] == 0)
    if node.op == "slice":
        return bool(node.attrs["starts"][-1] == 0 and node.attrs["steps"][-1] == 1
                    and node.attrs["sizes"][-1] == channels)
    if node.op == "conv":
        return bool(node.attrs["layout"] == "last" and node.attrs["groups"] == channels
                    and is_const(node.operands[1]))
    if not OPS[node.op].has("elementwise") or node.out.shape != v.shape:
        return False
    others = [u for u in node.operands if u != v]
    return all(is_const(u) and (u.rank == 0 or u.shape[-1] in (1, channels)) for u in others)


def _joined(graph: Graph, node: Node, new: New, pieces: dict[Value, tuple[Piece, ...]]
            ) -> tuple[Piece, ...]:
    """The pieces of a concatenation, those of its operands that are in pieces themselves."""
    found, start = [], 0
    for v in node.operands:
        held = pieces.get(v) or (Piece(new(v), 0, graph.index.get(v.node, -1)),)
        for p in held:
            found.append(Piece(p.value, start, p.made))
            start += p.size
    return tuple(found)


def _part(b: Builder, v: Value, axis: int, start: int, size: int) -> Value:
    """Some elements of a constant along an axis, as a constant."""
    starts, sizes = [0] * v.rank, list(v.shape)
    starts[axis], sizes[axis] = start, size
    part = b.op("slice", v, starts=starts, sizes=sizes, steps=(1,) * v.rank)
    return fold_tree(b, part, cap=sys.maxsize)  # of a constant that is there already


def _sum(b: Builder, node: Node, new: New, pieces: tuple[Piece, ...]) -> Value:
    """A product with each piece, added up."""
    weights = new(node.operands[1])
    axis = weights.rank - 2 if node.op == "conv" or not node.attrs["tb"] else 1
    total: Value | None = None
    for p in sorted(pieces, key=lambda p: (p.made, p.start)):
        part = b.node(node.op, (p.value, _part(b, weights, axis, p.start, p.size)), node.attrs).out
        total = part if total is None else b.op("add", part, total)
    assert total is not None
    return total


def _each(b: Builder, node: Node, new: New, pieces: dict[Value, tuple[Piece, ...]]
          ) -> tuple[Piece, ...]:
    """A node done to each piece."""
    whole = next(v for v in node.operands if v in pieces)
    wide = whole.shape[-1]
    found, start = [], 0
    for p in pieces[whole]:
        attrs = dict(node.attrs.items())
        operands = []
        for v in node.operands:
            if v == whole:
                operands.append(p.value)
            elif node.op == "conv":
                times = int(v.shape[-1]) // int(wide)  # type: ignore[arg-type]
                operands.append(_part(b, new(v), v.rank - 1, p.start * times, p.size * times))
                attrs["groups"] = p.size
            elif v.rank and v.shape[-1] == wide and wide != 1 and node.op != "pad":
                operands.append(_part(b, new(v), v.rank - 1, p.start, p.size))
            else:
                operands.append(new(v))
        if node.op == "slice":
            attrs["sizes"] = (*attrs["sizes"][:-1], p.size)
        out = b.node(node.op, operands, Attrs(attrs.items())).out
        found.append(Piece(out, start, p.made))
        start += int(out.shape[-1])  # type: ignore[arg-type]
    return tuple(found)
