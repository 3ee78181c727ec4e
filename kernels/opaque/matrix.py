"""Determinants and inverses: Gaussian elimination with partial pivoting, one matrix per tile.

The work is done in float64 in the thread's scratch. A pivot that is NaN spoils the whole result, as
it does in LAPACK's ``getrf`` (Golub and Van Loan, Matrix Computations, 3.4).
"""

from __future__ import annotations

from ...ir.dims import product
from ...ir.graph import Node
from ...ir.target import Target
from .base import OpaqueKernel, Source, opaque, tensor_shape

_PIVOT = """
best = fabs(ld(a, c * w + c))
p = c
for i in range(c + 1, n):
    v = fabs(ld(a, i * w + c))
    if v > best:
        best = v
        p = i
if p != c:
    sign = -sign
    for j in range(w):
        v = ld(a, c * w + j)
        st(a, c * w + j, ld(a, p * w + j))
        st(a, p * w + j, v)
d = ld(a, c * w + c)
"""
"""Brings the largest element of column ``c`` at or below the diagonal of ``a`` [n, w] to it."""


@opaque("det")
def det(node: Node, target: Target) -> OpaqueKernel:
    """The product of the pivots, its sign changed by every exchange of rows."""
    s, store = _begin(node, 1)
    with s.block("for t in range(begin, end):"):
        s.line("sign = f64(1.0)\nr = f64(1.0)")
        with s.block("for i in range(n * n):"):
            s.line("st(a, i, f64(ld(x, t * n * n + i)))")
        with s.block("for c in range(n):"):
            s.line(_PIVOT.strip() + "\nr = r * d")
            with s.block("if d == 0.0:"):
                s.line("d = f64(1.0)")
            with s.block("for i in range(c + 1, n):"):
                s.line("f = ld(a, i * w + c) / d")
                with s.block("for j in range(c, n):"):
                    s.line("st(a, i * w + j, ld(a, i * w + j) - f * ld(a, c * w + j))")
        s.line(f"st(y, t, {store.format('r * sign')})")
    return s.finish(product(tensor_shape(node.operands[0].type)[:-2]))


@opaque("inverse")
def inverse(node: Node, target: Target) -> OpaqueKernel:
    """Gauss-Jordan elimination of [A | I]."""
    s, store = _begin(node, 2)
    with s.block("for t in range(begin, end):"):
        s.line("sign = f64(1.0)")
        with s.block("for i in range(n):"), s.block("for j in range(n):"):
            s.line("st(a, i * w + j, f64(ld(x, (t * n + i) * n + j)))")
            s.line("st(a, i * w + n + j, f64(0.0))")
            with s.block("if i == j:"):
                s.line("st(a, i * w + n + j, f64(1.0))")
        with s.block("for c in range(n):"):
            s.line(_PIVOT.strip() + "\ne = f64(1.0) / d")
            with s.block("if d == 0.0:"):  # singular: NaN everywhere
                s.line("e = f64(0.0) / d")
            with s.block("for j in range(w):"):
                s.line("st(a, c * w + j, ld(a, c * w + j) * e)")
            with s.block("for i in range(n):"), s.block("if i != c:"):
                s.line("f = ld(a, i * w + c)")
                with s.block("for j in range(w):"):
                    s.line("st(a, i * w + j, ld(a, i * w + j) - f * ld(a, c * w + j))")
        with s.block("for i in range(n):"), s.block("for j in range(n):"):
            s.line(f"st(y, (t * n + i) * n + j, {store.format('ld(a, i * w + n + j)')})")
    return s.finish(product(tensor_shape(node.operands[0].type)[:-2]))


def _begin(node: Node, halves: int) -> tuple[Source, str]:
    """Pointers, sizes and the scratch matrix [n, halves * n]; how a float64 is stored."""
    x = node.operands[0]
    n = x.shape[-1]
    s = Source(node)
    s.operand("x", 0)
    s.result("y")
    s.size("n", n)
    s.size("w", halves * n)
    s.scratch("a", "f64", n * n * halves)
    return s, "{}" if x.dtype.name == "f64" else x.dtype.name + "({})"
