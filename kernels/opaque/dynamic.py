"""Kernels whose result size depends on data: nonzero, unique, non-maximum suppression.

All are serial: each result's place depends on everything before it. They write what they find from
the start of buffers that hold the largest possible answer, zero the rest, and return the count.
Unique rows are found by a stable bottom-up merge sort of row numbers; suppression takes the best
remaining box from a heap until enough are kept.
"""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.ops.dynamic import nms_capacity
from ...ir.target import Target
from ...ir.types import DType
from .base import OpaqueKernel, Source, key_expression, number, opaque
from .lines import sift_down


@opaque("nonzero")
def nonzero(node: Node, target: Target) -> OpaqueKernel:
    """Positions of all elements that are not 0 (NaN is not), row-major, one row per axis."""
    x = node.operands[0]
    s = Source(node)
    s.operand("x", 0)
    s.result("y", 0)
    s.result("z", 1)
    s.size("n", x.tensor.numel())
    for k in range(x.rank):
        s.size(f"n{k}", x.shape[k])
    test = "v" if x.dtype.kind == "b" else f"ne(v, {number(x.dtype, 0)})"
    s.line("c = 0")
    with s.block("for i in range(n):"):
        s.line("v = ld(x, i)")
        with s.block(f"if {test}:"):
            s.line("rest = i")
            for k in reversed(range(x.rank)):
                if k:
                    s.line(f"q = idiv(rest, n{k})\nst(y, {k} * n + c, rest - q * n{k})\nrest = q")
                else:
                    s.line("st(y, c, rest)")
            s.line("c = c + 1")
    for k in range(x.rank):
        with s.block("for i in range(c, n):"):
            s.line(f"st(y, {k} * n + i, 0)")
    s.line("st(z, 0, c)")
    return s.finish(1)


# -- unique ------------------------------------------------------------------------------------


def _compare(s: Source, dtype: DType, left: str, right: str) -> None:
    """Sets ``cmp`` to -1, 0 or 1 for rows ``left`` and ``right``."""
    s.line("cmp = 0\ncol = 0")
    with s.block("while col < m:"):
        s.line(key_expression(dtype, "x", f"{left} * m + col", "ka"))
        s.line(key_expression(dtype, "x", f"{right} * m + col", "kz"))
        with s.block("if ka < kz:"):
            s.line("cmp = -1\ncol = m")
        with s.block("elif ka > kz:"):
            s.line("cmp = 1\ncol = m")
        with s.block("else:"):
            s.line("col = col + 1")


def _merge_sort(s: Source, dtype: DType) -> None:
    """Sorts the row numbers 0..n-1 into ``a``; ``b`` is the other buffer of the merges."""
    with s.block("for i in range(n):"):
        s.line("st(a, i, i)")
    s.line("w = 1")
    with s.block("while w < n:"):
        s.line("lo = 0")
        with s.block("while lo < n:"):
            s.line("mid = imin(lo + w, n)\nhi = imin(lo + 2 * w, n)\ni = lo\nj = mid")
            with s.block("for k in range(lo, hi):"):
                s.line("take = 0")
                with s.block("if i >= mid:"):
                    s.line("take = 1")
                with s.block("elif j < hi:"):
                    s.line("ra = ld(a, i)\nrb = ld(a, j)")
                    _compare(s, dtype, "rb", "ra")
                    with s.block("if cmp < 0:"):
                        s.line("take = 1")
                with s.block("if take == 1:"):
                    s.line("st(b, k, ld(a, j))\nj = j + 1")
                with s.block("else:"):
                    s.line("st(b, k, ld(a, i))\ni = i + 1")
            s.line("lo = lo + 2 * w")
        with s.block("for e in range(n):"):
            s.line("st(a, e, ld(b, e))")
        s.line("w = 2 * w")


@opaque("unique")
def unique(node: Node, target: Target) -> OpaqueKernel:
    """First row, class and size of each set of equal rows."""
    x = node.operands[0]
    s = Source(node)
    s.operand("x", 0, raw=True)
    for k, name in enumerate(("first", "inv", "cnt", "total")):
        s.result(name, k)
    s.size("n", x.shape[0])
    s.size("m", x.shape[1])
    s.scratch("a", "i64", x.shape[0])
    s.scratch("b", "i64", x.shape[0])
    _merge_sort(s, x.dtype)
    s.line("c = 0")
    with s.block("for e in range(n):"):
        s.line("st(first, e, 0)\nst(cnt, e, 0)")
    with s.block("for e in range(n):"):
        s.line("cur = ld(a, e)\nnew = 1")
        with s.block("if e > 0:"):
            s.line("prev = ld(a, e - 1)")
            _compare(s, x.dtype, "prev", "cur")
            with s.block("if cmp == 0:"):
                s.line("new = 0")
        with s.block("if new == 1:"):  # the sort is stable: this is the first of its class
            s.line("st(first, c, cur)\nc = c + 1")
        s.line("st(inv, cur, c - 1)\nst(cnt, c - 1, ld(cnt, c - 1) + 1)")
    if not node.attrs["sorted"]:
        _appearance_order(s)
    s.line("st(total, 0, c)")
    return s.finish(1)


def _appearance_order(s: Source) -> None:
    """Renumbers the classes by their first rows."""
    with s.block("for e in range(c):"):
        s.line("st(b, e, ld(cnt, e))")
    with s.block("for e in range(n):"):
        s.line("st(a, e, -1)")
    s.line("k = 0")
    with s.block("for e in range(n):"):  # a: old class -> new class
        s.line("old = ld(inv, e)")
        with s.block("if ld(a, old) < 0:"):
            s.line("st(a, old, k)\nst(first, k, e)\nst(cnt, k, ld(b, old))\nk = k + 1")
        s.line("st(inv, e, ld(a, old))")


# -- non-maximum suppression -------------------------------------------------------------------


def _corners(s: Source, kind: str, center: bool, at: str, tag: str) -> None:
    """Sets ``y0 x0 y1 x1`` (with ``tag`` appended) of the box at element ``at``."""
    s.line("\n".join(f"e{k} = ld(bx, {at} + {k})" for k in range(4)))
    if center:
        half = f"{kind}(0.5)"
        s.line(f"y0{tag} = e1 - e3 * {half}\nx0{tag} = e0 - e2 * {half}")
        s.line(f"y1{tag} = e1 + e3 * {half}\nx1{tag} = e0 + e2 * {half}")
    else:
        s.line(f"y0{tag} = fmin(e0, e2)\nx0{tag} = fmin(e1, e3)")
        s.line(f"y1{tag} = fmax(e0, e2)\nx1{tag} = fmax(e1, e3)")
    s.line(f"ar{tag} = (y1{tag} - y0{tag}) * (x1{tag} - x0{tag})")


def _suppression(s: Source, kind: str, center: bool) -> None:
    """Keeps box ``it`` of batch ``b`` unless it overlaps one that was kept since ``start``."""
    zero = f"{kind}(0.0)"
    _corners(s, kind, center, "(b * n + it) * 4", "a")
    s.line("drop = 0\nk = start")
    with s.block("while k < total:"):
        s.line("kb = ld(out, k * 3 + 2)")
        _corners(s, kind, center, "(b * n + kb) * 4", "b")
        s.line(f"hgt = fmax(fmin(y1a, y1b) - fmax(y0a, y0b), {zero})")
        s.line(f"wid = fmax(fmin(x1a, x1b) - fmax(x0a, x0b), {zero})")
        s.line("both = hgt * wid\nuni = ara + arb - both")
        tests = [f"gt({v}, {zero})" for v in ("both", "ara", "arb", "uni")]
        tests.append("gt(fdiv(both, uni), bound)")
        text = tests[0]
        for t in tests[1:]:
            text = f"band({text}, {t})"
        s.line("k = k + 1")
        with s.block(f"if {text}:"):
            s.line("drop = 1\nk = total")
    with s.block("if drop == 0:"):
        s.line("st(out, total * 3, b)\nst(out, total * 3 + 1, cl)\nst(out, total * 3 + 2, it)")
        s.line("total = total + 1")


@opaque("nms")
def nms(node: Node, target: Target) -> OpaqueKernel:
    """Greedy suppression per batch and class, best score first, ties by position."""
    boxes, scores, limit, iou, least = node.inputs
    assert boxes is not None and scores is not None
    kind = boxes.dtype.name
    per_class, capacity = nms_capacity(boxes.tensor, scores.tensor, node.attrs["limit"])
    s = Source(node)
    s.operand("bx", 0)
    s.operand("sc", 1)
    s.operand("scr_", 1, raw=True)
    for index, name in ((2, "lim"), (3, "iou"), (4, "lst")):
        if node.inputs[index] is not None:
            s.operand(name, index)
    s.result("out", 0)
    s.result("cnt", 1)
    s.size("nb", boxes.shape[0])
    s.size("nc", scores.shape[1])
    s.size("n", boxes.shape[1])
    s.size("cap", capacity)
    s.size("most", per_class)
    s.scratch("hk", "i64", boxes.shape[1])
    s.scratch("hi", "i64", boxes.shape[1])
    s.line("most = imin(most, i64(ld(lim, 0)))" if limit is not None else "most = 0")
    s.line(f"bound = {f'{kind}(ld(iou, 0))' if iou is not None else f'{kind}(0.0)'}")
    if least is not None:
        s.line(f"low = {kind}(ld(lst, 0))")
    s.line("total = 0")
    with s.block("for b in range(nb):"), s.block("for cl in range(nc):"):
        s.line("start = total\nsb = (b * nc + cl) * n\nleft = 0")
        with s.block("for i in range(n):"):
            s.line("v = ld(sc, sb + i)")
            with s.block("if gt(v, low):" if least is not None else "if bnot(isnan(v)):"):
                s.line(key_expression(boxes.dtype, "scr_", "sb + i", "key"))
                s.line("st(hk, left, inot(key))\nst(hi, left, neg(i))\nleft = left + 1")
        s.line("h = idiv(left, 2)")
        with s.block("while h > 0:"):  # the root: largest score, then smallest position
            s.line("h = h - 1")
            sift_down(s, "h", "left")
        with s.block("while left > 0:"):
            s.line("it = neg(ld(hi, 0))\nleft = left - 1")
            s.line("st(hk, 0, ld(hk, left))\nst(hi, 0, ld(hi, left))")
            with s.block("if left > 0:"):
                sift_down(s, "0", "left")
            with s.block("if total - start >= most:"):
                s.line("left = 0")
            with s.block("else:"):
                _suppression(s, kind, node.attrs["center"])
    with s.block("for i in range(total * 3, cap * 3):"):
        s.line("st(out, i, 0)")
    s.line("st(cnt, 0, total)")
    return s.finish(1)
