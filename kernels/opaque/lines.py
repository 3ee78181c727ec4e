"""Kernels along one axis: running sums and products, arg-extremes, top-k.

The tensor is seen as [outer, n, inner]; tiles are outer positions (top-k, arg-extremes: lines).
Running sums over an axis that is not the last add whole rows, which vectorizes. Arg-extremes of
contiguous lines find the best block and then the position in it; others carry value and position
with selects, no branches. Top-k keeps the k best (key, position) pairs in a binary heap whose root
is the worst of them and empties it from the back (J. Williams 1964), so ties are broken by
position.
"""

from __future__ import annotations

from ...ir.dim_functions import ceil_div
from ...ir.dims import Dim
from ...ir.graph import Node
from ...ir.target import Target
from ...ir.types import DType
from .base import (
    OpaqueKernel,
    Source,
    key_expression,
    line_space,
    number,
    opaque,
    tensor_shape,
)

BLOCK = 256
"""Elements of a contiguous line whose extreme is found before positions are looked at."""


@opaque("cumulate")
def cumulate(node: Node, target: Target) -> OpaqueKernel:
    """Running sum or product; exclusive results lag by one, reverse ones run from the end."""
    x = node.operands[0]
    outer, n, inner = line_space(x.shape, node.attrs["axis"])
    s = Source(node)
    s.operand("x", 0)
    s.result("y")
    s.size("n", n)
    s.size("m", inner)
    unit = number(x.dtype, 0 if node.attrs["kind"] == "sum" else 1)
    kind = "add" if node.attrs["kind"] == "sum" else "mul"
    word = ("f" if x.dtype.is_float else "i") + kind
    at = "(n - 1 - a)" if node.attrs["reverse"] else "a"
    before = "(n - a)" if node.attrs["reverse"] else "(a - 1)"
    with s.block("for t in range(begin, end):"):
        s.line("b = t * n * m")
        if inner == 1:
            s.line(f"acc = {unit}")
            with s.block("for a in range(n):"):
                s.line(f"v = ld(x, b + {at})")
                if node.attrs["exclusive"]:
                    s.line(f"st(y, b + {at}, acc)\nacc = {word}(acc, v)")
                else:
                    s.line(f"acc = {word}(acc, v)\nst(y, b + {at}, acc)")
                if x.dtype.name in ("f16", "bf16"):
                    s.line(f"acc = {x.dtype.name}(acc)")
        else:
            first = unit if node.attrs["exclusive"] else f"ld(x, b + {at} * m + j)"
            source = before if node.attrs["exclusive"] else at
            with s.block("for a in range(imin(n, 1)):"), s.block("for j in range(m):"):
                s.line(f"st(y, b + {at} * m + j, {first})")
            with s.block("for a in range(1, n):"):
                s.line(f"p = b + {before} * m\nq = b + {at} * m\nr = b + {source} * m")
                with s.block("for j in range(m):"):
                    s.line(f"st(y, q + j, {word}(ld(y, p + j), ld(x, r + j)))")
    return s.finish(outer)


@opaque("argmax", "argmin")
def arg_extreme(node: Node, target: Target) -> OpaqueKernel:
    """Position of the largest or smallest element of each line; NaN wins."""
    x = node.operands[0]
    outer, n, inner = line_space(x.shape, node.attrs["axis"])
    largest, last = node.op == "argmax", bool(node.attrs["select_last"])
    s = Source(node)
    s.operand("x", 0)
    s.result("y")
    s.size("n", n)
    s.size("m", inner)
    better = better_element(x.dtype, largest, last)
    if inner == 1 and x.dtype.kind != "b":
        _contiguous_extreme(s, x.dtype, largest, last, n)
        return s.finish(outer)
    with s.block("for t in range(begin, end):"):
        s.line("o = idiv(t, m)\nb = o * n * m + t - o * m")
        s.line("at = 0")
        with s.block("if n > 0:"):
            s.line("best = ld(x, b)")
            with s.block("for a in range(1, n):"):
                s.line("v = ld(x, b + a * m)")
                s.line(f"w = {better}")
                s.line("best = select(w, v, best)\nat = select(w, a, at)")
        s.line("st(y, t, at)")
    return s.finish(outer * inner)


def _contiguous_extreme(s: Source, dtype: DType, largest: bool, last: bool, n: Dim) -> None:
    """Lines whose elements are neighbors: extremes of blocks, then one search of the best block.
    Both loops vectorize, which carrying value and position along does not."""
    word = ("f" if dtype.is_float else "i") + ("max" if largest else "min")
    same = "eq(v, best)"
    if dtype.is_float:
        same = f"bor({same}, band(isnan(v), isnan(best)))"
    found = "at = imax(at, select(w, a, 0))" if last else "at = imin(at, select(w, a, n))"
    s.size("blocks", ceil_div(n, BLOCK))
    s.line(f"width = i64({BLOCK})")
    with s.block("for t in range(begin, end):"):
        s.line("b = t * n\nat = 0")
        with s.block("if n > 0:"):
            s.line("best = ld(x, b)\nhit = 0")
            with s.block("for k in range(blocks):"):
                s.line("lo = k * width\nhi = imin(lo + width, n)\nv = ld(x, b + lo)")
                with s.block("for a in range(lo, hi):"):
                    s.line(f"v = {word}(v, ld(x, b + a))")
                s.line(f"w = {better_element(dtype, largest, last)}")
                s.line("best = select(w, v, best)\nhit = select(w, lo, hit)")
            s.line("end2 = imin(hit + width, n)\nat = hit" if last else
                   "end2 = imin(hit + width, n)\nat = n")
            with s.block("for a in range(hit, end2):"):
                s.line(f"v = ld(x, b + a)\nw = {same}\n{found}")
        s.line("st(y, t, at)")


def better_element(dtype: DType, largest: bool = True, last: bool = False) -> str:
    """Source of the test whether ``v`` replaces ``best``."""
    if dtype.kind == "b":
        strict = "band(v, bnot(best))" if largest else "band(best, bnot(v))"
        return f"bor({strict}, bnot(bxor(v, best)))" if last else strict
    word = ("ge" if last else "gt") if largest else ("le" if last else "lt")
    if not dtype.is_float:
        return f"{word}(v, best)"
    if last:
        return f"bor(isnan(v), {word}(v, best))"
    return f"band(bnot(isnan(best)), bor(isnan(v), {word}(v, best)))"


SIFT_DOWN = """
p = {start}
kp = ld(hk, p)
ip = ld(hi, p)
c = 2 * p + 1
while c < {size}:
    if c + 1 < {size}:
        if ld(hk, c + 1) < ld(hk, c):
            c = c + 1
        elif ld(hk, c + 1) == ld(hk, c):
            if ld(hi, c + 1) > ld(hi, c):
                c = c + 1
    kc = ld(hk, c)
    ic = ld(hi, c)
    go = 0
    if kc < kp:
        go = 1
    elif kc == kp:
        if ic > ip:
            go = 1
    if go == 1:
        st(hk, p, kc)
        st(hi, p, ic)
        p = c
        c = 2 * p + 1
    else:
        c = {size}
st(hk, p, kp)
st(hi, p, ip)
"""
"""Restores a heap of (key ``hk``, position ``hi``) pairs below ``start``: the root has the smallest
key and, among equal keys, the largest position."""


def sift_down(s: Source, start: str, size: str) -> None:
    """Emits ``SIFT_DOWN`` at the current depth."""
    s.line(SIFT_DOWN.strip().format(start=start, size=size))


def pop_all(s: Source, size: str) -> None:
    """Empties the heap from the back: the pairs end up best first."""
    s.line(f"left = {size}")
    with s.block("while left > 1:"):
        s.line("left = left - 1")
        s.line("kt = ld(hk, 0)\nit = ld(hi, 0)")
        s.line("st(hk, 0, ld(hk, left))\nst(hi, 0, ld(hi, left))")
        s.line("st(hk, left, kt)\nst(hi, left, it)")
        sift_down(s, "0", "left")


@opaque("topk")
def topk(node: Node, target: Target) -> OpaqueKernel:
    """The k best elements of each line, best first, and their positions."""
    x, k = node.operands[0], tensor_shape(node.types[0])[node.attrs["axis"]]
    outer, n, inner = line_space(x.shape, node.attrs["axis"])
    s = Source(node)
    s.operand("x", 0, raw=True)
    s.result("y", 0, raw=True)
    s.result("z", 1)
    s.size("n", n)
    s.size("m", inner)
    s.size("kn", k)
    s.line("kn = imin(kn, n)")
    s.scratch("hk", "i64", k)
    s.scratch("hi", "i64", k)
    key = key_expression(x.dtype, "x", "b + a * m", "key")
    if not node.attrs["largest"]:
        key += "\nkey = inot(key)"
    with s.block("for t in range(begin, end):"):
        s.line("o = idiv(t, m)\nj = t - o * m\nb = o * n * m + j\ne = o * kn * m + j")
        with s.block("for a in range(kn):"):
            s.line(key)
            s.line("st(hk, a, key)\nst(hi, a, a)")
        s.line("h = idiv(kn, 2)")
        with s.block("while h > 0:"):
            s.line("h = h - 1")
            sift_down(s, "h", "kn")
        with s.block("if kn > 0:"), s.block("for a in range(kn, n):"):
            s.line(key)
            with s.block("if key > ld(hk, 0):"):
                s.line("st(hk, 0, key)\nst(hi, 0, a)")
                sift_down(s, "0", "kn")
        pop_all(s, "kn")
        with s.block("for a in range(kn):"):
            s.line("w = ld(hi, a)")
            s.line("st(y, e + a * m, ld(x, b + w * m))\nst(z, e + a * m, w)")
    return s.finish(outer * inner)
