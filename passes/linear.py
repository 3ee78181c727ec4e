"""Products with constant matrices moved before what commutes with them.

A product over channels (``dot`` with a constant matrix, or a convolution of one pixel) is linear in
each pixel by itself, and resampling an image (gathers along other axes, weighted with constants and
added) is linear in each channel by itself. So both commute, and an image is multiplied where it has
fewer pixels: ``up(x) W = up(x W)``. A product of a concatenation of channels is the sum of the
products of its parts, each of which may then be moved. Two products in a row are one, with a matrix
that is multiplied while compiling, in float64: ``(x V + b) W = x (V W) + b W``.

All hold up to rounding, and are done only where operations are saved and nothing else reads what
lies between. SegFormer's decoder (E. Xie et al., 2021) is an example of all three.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.builder import Builder
from ..ir.graph import Graph, Node, Value
from ..ir.types import F32, F64
from .evaluate import fold_tree
from .facts import array_of, is_const
from .rebuild import New, with_replaced

SAVES = 64
"""Operations to be saved per element of the result; a part that is split off costs an addition."""
LARGE = 1e12
"""Elements of matrices that are multiplied while compiling are smaller."""


def move_products(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with products over channels done before resampling, and as few as can be."""
    mover = _Mover(graph, Counter() if fired is None else fired)
    return with_replaced(graph, mover.moved)


@dataclass(frozen=True)
class _Chain:
    """``reshape(x V + offset)``, of which the reshape and the offset may be absent."""

    x: Value
    matrix: Value
    """``[k, n]``, or its transpose."""
    turned: bool
    offset: Value | None


@dataclass(frozen=True)
class _Part:
    """One operand of a concatenation of channels, or all that a product multiplies."""

    value: Value
    source: Value
    """The image of which ``value`` is a resampling; ``value`` itself where it is none."""
    between: Sequence[Node]
    """The nodes that resample ``source`` to ``value``, in the graph's order."""

    @property
    def resampled(self) -> bool:
        return self.source != self.value


class _Mover:
    def __init__(self, graph: Graph, fired: Counter[str]) -> None:
        self.graph, self.fired = graph, fired
        self.sources: dict[Value, Value] = {}
        """By resampled value, the image it is a resampling of."""
        for node in graph.nodes:
            inner = {self.source(u) for u in _resampled(node)}
            if len(inner) == 1:
                self.sources[node.out] = inner.pop()

    def moved(self, b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        """What stands for a product; None for other nodes and where nothing is gained."""
        if not _is_product(node):
            return None
        x, w = node.operands
        concat = x.node.op == "concat" and x.node.attrs["axis"] == x.rank - 1 and self.private(x)
        values = x.node.operands if concat else (x,)
        if not all(isinstance(value.shape[-1], int) for value in values):
            return None
        parts = [self.part(value) for value in values]
        wanted = [self.saved(part, w, node) >= SAVES for part in parts]
        if not any(wanted) or not self.moderate(w):
            return None
        matrix = _matrix(b, node)
        plain: list[tuple[Value, Value]] = []
        resampled: list[Value] = []
        products: list[Value] = []
        offsets: list[Value] = []
        at = 0
        for part, gains in zip(parts, wanted, strict=True):
            width = part.value.shape[-1]
            assert isinstance(width, int)
            rows = _rows(b, matrix, at, width)
            at += width
            if not gains:
                plain.append((new(part.value), rows))
                continue
            y, offset = self.term(b, part, fold_tree(b, rows), new)
            (resampled if part.resampled else products).append(y)
            offsets.extend(() if offset is None else (offset,))
        if plain:
            joined = [values[0] if len(values) == 1 else b.op("concat", *values, axis=axis)
                      for values, axis in zip(zip(*plain), (x.rank - 1, 0))]
            products.append(b.op("dot", joined[0], fold_tree(b, joined[1]), ta=False, tb=False))
        # What is resampled is one operand of the last product's epilogue, offsets included.
        terms = [*resampled, *offsets, *products] if resampled else [*products, *offsets]
        total = terms[0]
        for term in terms[1:]:
            total = b.op("add", total, term)
        return (total,)

    def private(self, v: Value, within: Sequence[Node] = ()) -> bool:
        """Whether one node alone reads a value, or only those ``within``."""
        users = self.graph.users(v)
        if v in self.graph.output_values:
            return False
        return len(users) == 1 or bool(within) and all(u in within for u in users)

    # -- resampling ------------------------------------------------------------------------

    def source(self, v: Value) -> Value:
        """The image of which ``v`` is a resampling; ``v`` itself where it is none."""
        return self.sources.get(v, v)

    def part(self, v: Value) -> _Part:
        source = self.source(v)
        found: dict[Node, None] = {}
        stack = [v]
        while stack:
            u = stack.pop()
            if u != source and u.node not in found:
                found[u.node] = None
                stack.extend(_resampled(u.node))
        return _Part(v, source, sorted(found, key=self.graph.index.__getitem__))

    def saved(self, part: _Part, w: Value, product: Node) -> float:
        """Operations that are saved per element of the result."""
        width, outs = part.value.shape[-1], product.out.shape[-1]
        if not isinstance(width, int) or not isinstance(outs, int) or not outs:
            return 0.0
        if not self.private(part.value):
            return 0.0
        if not part.resampled:
            return self.chained(part.value, outs)
        nodes = [*part.between, *self.graph.users(part.value)]
        if outs > width or not all(self.private(n.out, nodes) for n in part.between):
            return 0.0
        pixels, fewer = _pixels(part.value), _pixels(part.source)
        if pixels is None or fewer is None or not pixels:
            return 0.0
        return 2.0 * width * (1 - fewer / pixels)

    def term(self, b: Builder, part: _Part, rows: Value, new: New) -> tuple[Value, Value | None]:
        """``part`` times ``rows``, multiplied before it is resampled; and what is to be added."""
        source, outs = part.source, rows.shape[-1]
        alone = not part.resampled or self.private(source, part.between)
        chain = self.chain(source) if alone and isinstance(outs, int) and self.chained(
            source, outs) > 0 else None
        offset: Value | None = None
        if chain is None:
            y = b.op("dot", new(source), rows, ta=False, tb=False)
        else:
            y, offset = _joined(b, chain, rows, new)
            self.fired["products in a row"] += 1
        y_shape = (*source.shape[:-1], outs)
        if not part.resampled:
            return y if y.shape == y_shape else b.op("reshape", y, shape=y_shape), offset
        if offset is not None:
            y = b.op("add", y, offset)
        if y.shape != y_shape:
            y = b.op("reshape", y, shape=y_shape)
        self.fired["product before resampling"] += 1
        return self.resample(b, part, y, new), None

    def resample(self, b: Builder, part: _Part, y: Value, new: New) -> Value:
        """The nodes between ``part``'s source and its value, done to ``y``."""
        done = {part.source: y}
        for n in part.between:
            done[n.out] = b.op(n.op, *(done.get(u, new(u)) for u in n.operands), **n.attrs)
        return done[part.value]

    # -- products in a row -----------------------------------------------------------------

    def chain(self, v: Value) -> _Chain | None:
        """The product that ``v`` is, with what is added to it."""
        if v.node.op == "reshape":
            inner = v.node.operands[0]
            if inner.rank == 0 or inner.shape[-1] != v.shape[-1] or not self.private(inner):
                return None
            v = inner
        offset = None
        if v.node.op == "add":
            for one, other in (v.node.operands, v.node.operands[::-1]):
                if is_const(other) and other.shape == (v.shape[-1],) and self.private(one):
                    v, offset = one, other
                    break
        if v.node.op != "dot" or not _is_product(v.node):
            return None
        x, w = v.node.operands
        small = all(c is None or self.moderate(c) for c in (w, offset))
        return _Chain(x, w, v.node.attrs["tb"], offset) if small else None

    def moderate(self, c: Value) -> bool:
        """Whether a constant is finite and not very large."""
        array = array_of(self.graph.constants, c)
        return array.size == 0 or bool(array.max() < LARGE and array.min() > -LARGE)

    def chained(self, v: Value, outs: int) -> float:
        """Operations saved per element of the result where ``v`` is a product itself."""
        chain = self.chain(v)
        if chain is None:
            return 0.0
        depth, width = chain.x.shape[-1], v.shape[-1]
        if not isinstance(depth, int) or not isinstance(width, int):
            return 0.0
        return 2.0 * (width * (depth + outs) - depth * outs) / outs


def _is_product(node: Node) -> bool:
    """Whether a node multiplies the channels of each pixel with a constant matrix."""
    if node.op not in ("dot", "conv") or node.out.dtype not in (F32, F64):
        return False
    a, (x, w) = node.attrs, node.operands
    if not is_const(w) or is_const(x) or w.dtype != x.dtype or a.get("acc") is not None:
        return False
    if node.op == "dot":
        return w.rank == 2 and x.rank >= 2 and not a["ta"]
    return bool(
        a["layout"] == "last" and a["groups"] == 1 and all(k == 1 for k in w.shape[:-2])
        and all(s == 1 for s in a["strides"]) and not any((*a["pads_lo"], *a["pads_hi"]))
    )


def _matrix(b: Builder, node: Node) -> Value:
    """The matrix ``[k, n]`` of a product."""
    w = node.operands[1]
    if node.op == "dot":
        return b.op("transpose", w, perm=(1, 0)) if node.attrs["tb"] else w
    return b.op("reshape", w, shape=w.shape[-2:])


def _rows(b: Builder, matrix: Value, first: int, count: int) -> Value:
    sizes = (count, matrix.shape[1])
    return b.op("slice", matrix, starts=(first, 0), sizes=sizes, steps=(1, 1))


def _resampled(node: Node) -> tuple[Value, ...]:
    """The operands in which a node is linear, channel by channel; none where it is not."""
    if node.op not in ("gather", "add", "mul"):
        return ()
    v, rank = node.out, node.out.rank
    if rank < 2 or v.dtype not in (F32, F64):
        return ()
    if node.op == "gather":
        x, index = node.operands
        inside = node.attrs["axis"] < x.rank - 1
        return (x,) if inside and x.rank == rank and index.rank == 1 else ()
    if node.op == "add":
        x, y = node.operands
        return (x, y) if x.shape == y.shape and not is_const(x) and not is_const(y) else ()
    if node.op == "mul":
        for x, c in (node.operands, node.operands[::-1]):
            if is_const(c) and x.shape == v.shape and c.shape[-1:] in ((), (1,)):
                return (x,)
    return ()


def _pixels(v: Value) -> int | None:
    sizes = v.shape[:-1]
    return math.prod(s for s in sizes if isinstance(s, int)) if all(
        isinstance(s, int) for s in sizes) else None


def _joined(b: Builder, chain: _Chain, rows: Value, new: New) -> tuple[Value, Value | None]:
    """``chain`` times ``rows`` as one product, and the offset after it."""
    kind, wide = rows.dtype, b.op("cast", rows, to=F64)

    def times(matrix: Value, turned: bool) -> Value:
        made = b.op("dot", b.op("cast", matrix, to=F64), wide, ta=turned, tb=False)
        return fold_tree(b, b.op("cast", made, to=kind))

    y = b.op("dot", new(chain.x), times(chain.matrix, chain.turned), ta=False, tb=False)
    if chain.offset is None:
        return y, None
    row = times(b.op("reshape", chain.offset, shape=(1, *chain.offset.shape)), False)
    return y, fold_tree(b, b.op("reshape", row, shape=row.shape[-1:]))
