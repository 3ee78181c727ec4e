"""Quantization made cheap: limits applied once, signed bytes stored as unsigned.

``cast(min(max(round(x) + z, -128), 127))``, which quantization ends in, is rewritten where ``x``
cannot be NaN (``ir.ranges``; NaN would become 0):

- whole limits may be applied before rounding, and are left out where ``x`` keeps them anyway, as it
  does after limits of its own (ReLU6);
- the zero point is added to integers, so that rounding and conversion are one instruction; sums of
  floats that are not exact are beyond the limits, before and after;
- products want unsigned bytes on their left, and windows take the zero point away: a signed byte
  whose sign is turned over by its readers, or that becomes a number again, is stored with 128 more,
  as an unsigned one. With ``z = -128``, as after ReLU, nothing is added and nothing taken away.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ..ir.builder import Builder
from ..ir.graph import Graph, Node, Value
from ..ir.ranges import Ranges, of_dtype
from ..ir.types import F32, I8, I32, U8, DType
from .facts import scalar_of
from .rebuild import New, with_replaced

SHIFT = 128
"""What an unsigned byte is more than the signed one whose sign bit is turned over."""
LARGEST = 2.0**20
"""Limits and zero points are below this."""


@dataclass(frozen=True, slots=True)
class _Form:
    """``min(max(round(x) + zero, lo), hi)``."""

    x: Value
    zero: int
    lo: float
    hi: float


class _Quantized:
    """The conversions of float32 to bytes in one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ranges = Ranges(graph.constants)
        self.forms: dict[Node, _Form] = {}
        """What is rewritten."""
        for node in graph.nodes:
            form = self.form_of(node) if _converts(node, F32, I8, U8) else None
            if form is not None:
                self.forms[node] = form
        self.shifted = {n for n in self.forms if n.out.dtype == I8 and self.can_shift(n)}
        """Conversions to signed bytes that become unsigned ones."""

    def form_of(self, node: Node) -> _Form | None:
        """The form of what a node converts, if it is of it and every result is a byte."""
        y, all_bytes = node.operands[0], of_dtype(node.out.dtype)
        found = self.ranges.of(y)
        if found.nan or not found.within(all_bytes.lo, all_bytes.hi):
            return None
        lo, hi, zero = -math.inf, math.inf, 0.0
        while y.node.op in ("min", "max"):
            term = self.term_of(y.node)
            if term is None:
                return None
            # Those outside are applied after those inside.
            hi = min(hi, max(lo, term[1])) if y.node.op == "min" else hi
            lo = max(lo, min(hi, term[1])) if y.node.op == "max" else lo
            y = term[0]
        if y.node.op == "add":
            term = self.term_of(y.node)
            if term is None:
                return None
            y, zero = term
        return _Form(y.node.operands[0], int(zero), lo, hi) if y.node.op == "round" else None

    def term_of(self, node: Node) -> tuple[Value, float] | None:
        """Of ``op(x, c)`` with a whole number c: x and c."""
        for k, v in reversed(list(enumerate(node.operands))):
            number, x = self.number(v), node.operands[1 - k]
            if number is not None and x.shape == node.out.shape:
                whole = abs(number) < LARGEST and number == round(number)
                return (x, number) if whole else None
        return None

    def number(self, value: Value) -> float | None:
        """The number that a constant is."""
        found = scalar_of(self.graph.constants, value)
        return None if found is None else float(found)

    def can_shift(self, node: Node) -> bool:
        """Whether a signed byte may be stored with ``SHIFT`` more."""
        users = self.graph.users(node.out)
        if not users or node.out in self.graph.output_values:
            return False
        return all(_converts(u, I8, F32) or self.is_turned(u) for u in users)

    def is_turned(self, node: Node) -> bool:
        """Whether a node reads a signed byte only for its bits with the sign turned over."""
        if not _converts(node, I8, U8) or node.out in self.graph.output_values:
            return False
        return all(u.op == "bitxor" and SHIFT in map(self.number, u.operands)
                   for u in self.graph.users(node.out))

    # -- what stands for what ----------------------------------------------------------------

    def replaced(self, b: Builder, node: Node, new: New) -> Value | None:
        """What stands for a node, None for itself."""
        if node in self.forms:
            return self.converted(b, node, new)
        if node.op == "bitxor":
            turned = next((v.node for v in node.operands if v.node.op == "cast"), None)
            return None if turned is None else self.byte(turned, new)
        if node.op == "cast":
            byte = self.byte(node, new)
            if byte is None or node.out.dtype == U8:
                return byte  # read by nobody any more, or a byte already
            return b.op("sub", b.op("cast", byte, to=F32), float(SHIFT))
        if node.op == "sub" and node.operands[0].node.op == "cast":
            byte, zero = self.byte(node.operands[0].node, new), self.term_of(node)
            if byte is None or zero is None or zero[0] != node.operands[0]:
                return None
            number = b.op("cast", byte, to=F32)
            return b.op("sub", number, zero[1] + SHIFT) if zero[1] + SHIFT else number
        return None

    def byte(self, cast: Node, new: New) -> Value | None:
        """The unsigned byte that stands for the signed one that ``cast`` converts."""
        source = cast.operands[0]
        return new(source) if source.node in self.shifted else None

    def converted(self, b: Builder, node: Node, new: New) -> Value:
        """A byte by its form."""
        form, moved = self.forms[node], node in self.shifted
        rounded = self.ranges.of(form.x)
        x, lo, hi = new(form.x), form.lo - form.zero, form.hi - form.zero
        if rounded.lo < lo - 0.5:
            x = b.op("max", x, lo)
        if rounded.hi > hi + 0.5:
            x = b.op("min", x, hi)
        y = b.op("round", x)
        zero = form.zero + SHIFT * moved
        if zero:
            y = b.op("add", b.op("cast", y, to=I32), zero)
        return b.op("cast", y, to=U8 if moved else node.out.dtype)


def _converts(node: Node, source: DType, *to: DType) -> bool:
    return node.op == "cast" and node.out.dtype in to and node.operands[0].dtype == source


def cheap_quantization(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with its conversions of float32 to bytes rewritten."""
    if not any(_converts(n, F32, I8, U8) for n in graph.nodes):
        return graph
    found = _Quantized(graph)
    if not found.forms:
        return graph
    kept = {n for n in found.forms if n not in found.shifted and _is_cheap(n, found.forms[n])}
    for node in kept:
        del found.forms[node]

    def replaced(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        made = found.replaced(b, node, new)
        if made is None:
            return None
        if fired is not None and node in found.forms:
            fired["store unsigned" if node in found.shifted else "limit once"] += 1
        return (made,)

    return with_replaced(graph, replaced)


def _is_cheap(node: Node, form: _Form) -> bool:
    """Whether a conversion is what it would become."""
    return node.operands[0].node.op == "round" and not form.zero
