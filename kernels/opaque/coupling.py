"""Pairwise coupling (see ``ir.ops.coupling``): each tile is one row, iterated to its own end."""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.ops.coupling import ROUNDS, TOLERANCE
from ...ir.target import Target
from .base import OpaqueKernel, Source, number, opaque


@opaque("couple")
def couple(node: Node, target: Target) -> OpaqueKernel:
    """Probabilities of the classes of every row, from those of pairs."""
    r, k = node.operands[0], node.attrs["classes"]
    s = Source(node)
    s.operand("r", 0)
    s.result("p")
    s.size("pairs", r.shape[1])
    s.line(f"k = {k}")
    s.scratch("q", r.dtype.name, k * k)
    s.scratch("g", r.dtype.name, k)
    zero, one = number(r.dtype, 0), number(r.dtype, 1)
    with s.block("for t in range(begin, end):"):
        s.line("o = t * k")
        _matrix(s, zero, one)
        s.line("left = 1")
        with s.block(f"for step in range({max(ROUNDS, k)}):"), s.block("if left > 0:"):
            s.line(f"level = {zero}")
            with s.block("for i in range(k):"):
                s.line(f"a = {zero}")
                with s.block("for j in range(k):"):
                    s.line("a = fadd(a, fmul(ld(q, i * k + j), ld(p, o + j)))")
                s.line("st(g, i, a)\nlevel = fadd(level, fmul(a, ld(p, o + i)))")
            s.line(f"worst = {zero}")
            with s.block("for i in range(k):"):
                s.line("worst = fmax(worst, fabs(fsub(ld(g, i), level)))")
            with s.block(f"if lt(worst, {number(r.dtype, TOLERANCE / k)}):"):
                s.line("left = 0")
            with s.block("else:"), s.block("for i in range(k):"):
                _step(s, one)
    return s.finish(r.shape[0])


def _matrix(s: Source, zero: str, one: str) -> None:
    """``q`` and the starting point 1 / K; pair (i, j) with i < j is number at + j - i - 1."""
    with s.block("for i in range(k * k):"):
        s.line(f"st(q, i, {zero})")
    s.line("at = t * pairs")
    with s.block("for i in range(k):"):
        s.line(f"st(p, o + i, fdiv({one}, {s.node.types[0].dtype.name}(k)))")  # type: ignore[union-attr]
        with s.block("for j in range(i + 1, k):"):
            s.line(f"u = ld(r, at)\nv = fsub({one}, u)\nat = at + 1")
            s.line("w = neg(fmul(u, v))\nst(q, i * k + j, w)\nst(q, j * k + i, w)")
            s.line("st(q, i * k + i, fadd(ld(q, i * k + i), fmul(v, v)))")
            s.line("st(q, j * k + j, fadd(ld(q, j * k + j), fmul(u, u)))")


def _step(s: Source, one: str) -> None:
    """Moves class ``i`` to its best probability and scales the sum back to 1."""
    s.line("d = ld(q, i * k + i)\nb = ld(g, i)\nz = fdiv(fsub(level, b), d)")
    s.line(f"w = fadd({one}, z)\nst(p, o + i, fadd(ld(p, o + i), z))")
    s.line("level = fadd(level, fmul(z, fadd(fmul(z, d), fadd(b, b))))")
    s.line("level = fdiv(fdiv(level, w), w)")
    with s.block("for j in range(k):"):
        s.line("st(g, j, fdiv(fadd(ld(g, j), fmul(z, ld(q, i * k + j))), w))")
        s.line("st(p, o + j, fdiv(ld(p, o + j), w))")
