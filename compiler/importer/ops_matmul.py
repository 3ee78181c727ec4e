"""Lowerings of matrix products: MatMul, Gemm, Einsum.

Einsum of any number of operands is a sequence of two-operand contractions, left to right. Each one
is a batched matrix product: letters of both operands that survive are batch axes, letters of both
that do not survive are contracted, the others are rows and columns. A letter that repeats in one
operand takes its diagonal by masking; a letter that only one operand has and nobody needs later
is summed first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dim_functions import bcast
from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.types import I64
from ..messages import NodeProto
from .ops_shape import reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx


def matmul_of(ctx: Ctx, a: Value, w: Value) -> Value:
    """NumPy's matmul: vectors are rows on the left and columns on the right."""
    if a.rank == 0 or w.rank == 0:
        raise ModelError("matmul of a scalar")
    left = a if a.rank > 1 else reshape_to(ctx, a, (1, a.shape[0]))
    right = w if w.rank > 1 else reshape_to(ctx, w, (w.shape[0], 1))
    y: Value = ctx.b.op("dot", left, right, ta=False, tb=False)
    shape = list(y.shape)
    if w.rank == 1:
        shape.pop()
    if a.rank == 1:
        shape.pop(-1 if w.rank == 1 else -2)
    return reshape_to(ctx, y, shape)


@lowering("MatMul")
def matmul(ctx: Ctx, node: NodeProto) -> Value:
    return matmul_of(ctx, ctx.input(0), ctx.input(1))


@lowering("Gemm", since=7)
def gemm(ctx: Ctx, node: NodeProto) -> Value:
    b, a, w, c = ctx.b, ctx.input(0), ctx.input(1), ctx.optional(2)
    if a.rank != 2 or w.rank != 2:
        raise ModelError(f"Gemm multiplies matrices, got {a.type} and {w.type}")
    y = b.op("dot", a, w, ta=bool(ctx.attr("transA", 0)), tb=bool(ctx.attr("transB", 0)))
    alpha, beta = ctx.attr("alpha", 1.0), ctx.attr("beta", 1.0)
    if alpha != 1.0:
        y = b.op("mul", y, alpha if y.dtype.is_float else int(alpha))
    if c is None or beta == 0.0:
        return y
    if beta != 1.0:
        c = b.op("mul", c, beta if c.dtype.is_float else int(beta))
    total = b.op("add", y, c)
    if total.rank != 2:
        raise ModelError(f"Gemm: {c.type} does not broadcast to {y.type}")
    return total


# -- einsum ------------------------------------------------------------------------------------


class _Term:
    """An operand and the letter of each of its axes."""

    __slots__ = ("letters", "value")

    def __init__(self, value: Value, letters: str) -> None:
        self.value, self.letters = value, letters

    def size(self, letter: str) -> Dim:
        return self.value.shape[self.letters.index(letter)]


def _parse(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """Letters per operand and of the result; an ellipsis becomes capital letters unused so far."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    names = left.split(",")
    if len(names) != len(ranks) or not re.fullmatch(r"[A-Za-z.,]*", left):
        raise ModelError(f"equation {equation[:80]!r} for {len(ranks)} operands")
    spare = [c for c in "ZYXWVUTSRQPONMLKJIHGFEDCBAzyxwvutsrqponmlkjihgfedcba" if c not in text]
    widest = max((r - len(n.replace("...", "")) for n, r in zip(names, ranks) if "..." in n),
                 default=0)  # fmt: skip
    if widest < 0 or widest > len(spare):
        raise ModelError(f"equation {equation[:80]!r} does not fit ranks {ranks}")
    dots = "".join(reversed(spare[:widest]))
    terms = []
    for name, rank in zip(names, ranks, strict=True):
        if "..." in name:
            k = rank - len(name.replace("...", ""))
            name = name.replace("...", dots[widest - k :] if k else "")
        if len(name) != rank or "." in name:
            raise ModelError(f"equation {equation[:80]!r} does not fit ranks {ranks}")
        terms.append(name)
    if arrow:
        out = right.replace("...", dots)
    else:
        plain = left.replace(",", "").replace(".", "")
        out = dots + "".join(sorted(c for c in set(plain) if plain.count(c) == 1))
    if len(set(out)) != len(out) or not set(out) <= set("".join(terms)):
        raise ModelError(f"equation {equation[:80]!r}: the result's letters")
    return terms, out


@lowering("Einsum")
def einsum(ctx: Ctx, node: NodeProto) -> Value:
    values = [ctx.input(i) for i in range(len(ctx.inputs))]
    names, out = _parse(ctx.required("equation"), [v.rank for v in values])
    terms = [_diagonal(ctx, _Term(v, n)) for v, n in zip(values, names, strict=True)]
    acc = terms[0]
    for k, term in enumerate(terms[1:], start=1):
        needed = set(out).union(*(t.letters for t in terms[k + 1 :]))
        acc = _contract(ctx, acc, term, needed)
    acc = _sum_out(ctx, acc, set(out))
    return _permuted(ctx, acc, out).value


def _permuted(ctx: Ctx, term: _Term, letters: str) -> _Term:
    perm = tuple(term.letters.index(c) for c in letters)
    if perm == tuple(range(len(perm))):
        return term
    return _Term(ctx.b.op("transpose", term.value, perm=perm), letters)


def _diagonal(ctx: Ctx, term: _Term) -> _Term:
    """Repeated letters of one operand: all but the diagonal is masked, then summed away."""
    b = ctx.b
    while len(set(term.letters)) != len(term.letters):
        letter = next(c for c in term.letters if term.letters.count(c) > 1)
        first = term.letters.index(letter)
        second = term.letters.index(letter, first + 1)
        x = term.value
        ones = [1] * x.rank
        ramps = []
        for axis in (first, second):
            extent: list[Dim] = list(ones)
            extent[axis] = x.shape[axis]
            ramps.append(b.op("iota", shape=tuple(extent), axis=axis, dtype=I64))
        masked = b.op("select", b.op("eq", *ramps), x, b.const(np.zeros((), x.dtype.np)))
        kept = b.op("reduce", masked, kind="sum", axes=(second,), keepdims=False)
        term = _Term(kept, term.letters[:second] + term.letters[second + 1 :])
    return term


def _sum_out(ctx: Ctx, term: _Term, needed: set[str]) -> _Term:
    axes = tuple(i for i, c in enumerate(term.letters) if c not in needed)
    if not axes:
        return term
    value = ctx.b.op("reduce", term.value, kind="sum", axes=axes, keepdims=False)
    return _Term(value, "".join(c for c in term.letters if c in needed))


def _summed(ctx: Ctx, term: _Term, letters: list[str]) -> _Term:
    """The operand summed along letters that stay, with size 1."""
    if not letters:
        return term
    axes = tuple(sorted(term.letters.index(x) for x in letters))
    value = ctx.b.op("reduce", term.value, kind="sum", axes=axes, keepdims=True)
    return _Term(value, term.letters)


def _contract(ctx: Ctx, a: _Term, c: _Term, needed: set[str]) -> _Term:
    """One batched matrix product of two terms."""
    a = _sum_out(ctx, a, needed | set(c.letters))
    c = _sum_out(ctx, c, needed | set(a.letters))
    shared = [x for x in a.letters if x in c.letters]
    batch = [x for x in shared if x in needed]
    inner = [x for x in shared if x not in needed]
    rows = [x for x in a.letters if x not in shared]
    columns = [x for x in c.letters if x not in shared]
    sizes = {x: bcast(a.size(x), c.size(x)) for x in batch}
    # Where one operand repeats its one element along a letter, the other is summed along it.
    longer_a = [x for x in inner if a.size(x) != 1 == c.size(x)]
    longer_c = [x for x in inner if c.size(x) != 1 == a.size(x)]
    a, c = _summed(ctx, a, longer_a), _summed(ctx, c, longer_c)
    letters = "".join(batch + rows + columns)
    if not inner:
        product_ = ctx.b.op(
            "mul",
            _spread(ctx, a, batch + rows, len(columns)),
            _permuted(ctx, c, "".join(batch + columns)).value
            if not rows
            else _spread_right(ctx, c, batch, len(rows), columns),
        )
        return _Term(product_, letters)
    left = _permuted(ctx, a, "".join(batch + rows + inner))
    right = _permuted(ctx, c, "".join(batch + inner + columns))
    depth = product(left.size(x) for x in inner)
    left_m = reshape_to(
        ctx,
        left.value,
        (*(left.size(x) for x in batch), product(left.size(x) for x in rows), depth),
    )
    right_m = reshape_to(
        ctx,
        right.value,
        (*(right.size(x) for x in batch), depth, product(right.size(x) for x in columns)),
    )
    y = ctx.b.op("dot", left_m, right_m, ta=False, tb=False)
    shape = (*(sizes[x] for x in batch), *(left.size(x) for x in rows),
             *(right.size(x) for x in columns))  # fmt: skip
    return _Term(reshape_to(ctx, y, shape), letters)


def _spread(ctx: Ctx, term: _Term, order: list[str], trailing: int) -> Value:
    """The operand in ``order`` with ``trailing`` axes of size 1 behind."""
    value = _permuted(ctx, term, "".join(order)).value
    return reshape_to(ctx, value, (*value.shape, *(1,) * trailing))


def _spread_right(
    ctx: Ctx, term: _Term, batch: list[str], middle: int, columns: list[str]
) -> Value:
    """The operand as batch axes, ``middle`` axes of size 1, columns."""
    value = _permuted(ctx, term, "".join(batch + columns)).value
    n = len(batch)
    return reshape_to(ctx, value, (*value.shape[:n], *(1,) * middle, *value.shape[n:]))


@lowering("Det", since=11)
def determinant(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.b.op("det", ctx.input(0))
