"""Tree ensembles: each tile is one row, which walks down every tree in turn.

Node and column numbers are clamped to their tables and the walk is bounded by the number of nodes,
so tables that contradict themselves give a wrong answer, not a foreign read or an endless loop.
"""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.ops.trees import LEAF, TABLES
from ...ir.target import Target
from .base import OpaqueKernel, Source, number, opaque


@opaque("tree_ensemble")
def tree_ensemble(node: Node, target: Target) -> OpaqueKernel:
    """Aggregated leaf weights of every row."""
    x, how = node.operands[0], node.attrs["aggregate"]
    tables = dict(zip(TABLES, node.operands[1:], strict=True))
    weight = tables["weight"].dtype
    s = Source(node)
    s.operand("x", 0)
    for k in range(len(TABLES)):
        s.operand(f"t{k}", 1 + k)
    s.result("y")
    s.size("f", x.shape[1])
    s.size("nodes", tables["mode"].shape[0])
    s.size("leaves", tables["weight"].shape[0])
    s.size("trees", tables["roots"].shape[0])
    s.size("k", node.attrs["targets"])
    kind = "f64" if weight.name == "f64" else "f32"
    infinity = {"min": f"fdiv({kind}(1.0), {kind}(0.0))", "max": f"fdiv({kind}(-1.0), {kind}(0.0))"}
    s.line(f"unit = {infinity.get(how, number(weight, 0))}")
    with s.block("for t in range(begin, end):"):
        with s.block("for c in range(k):"):
            s.line("st(y, t * k + c, unit)")
        with s.block("for r in range(trees):"):
            s.line("at = imax(imin(i64(ld(t10, r)), nodes - 1), 0)\nsteps = 0")
            _walk(s, node)
            s.line("a = imax(i64(ld(t6, at)), 0)")
            s.line("e = imin(a + i64(ld(t7, at)), leaves)")
            with s.block("for w in range(a, e):"):
                s.line("c = i64(ld(t8, w))")
                with s.block("if c >= 0:"), s.block("if c < k:"):
                    word = {"min": "fmin", "max": "fmax"}.get(how, "fadd")
                    s.line(f"st(y, t * k + c, {word}(ld(y, t * k + c), ld(t9, w)))")
        with s.block("for c in range(k):"):
            s.line("v = ld(y, t * k + c)")
            if how == "average":
                s.line(f"st(y, t * k + c, fdiv(v, {kind}(imax(trees, 1))))")
            elif how != "sum":
                s.line(f"st(y, t * k + c, select(isinf(v), {number(weight, 0)}, v))")
    return s.finish(x.shape[0])


def _walk(s: Source, node: Node) -> None:
    """Moves ``at`` from a root to a leaf."""
    x, value = node.operands[0], node.operands[2]
    compare = "f64" if value.dtype.name == "f64" else "f32"
    s.line("mode = i64(ld(t4, at))")
    with s.block("while mode < 6:"):
        s.line("q = imax(imin(i64(ld(t0, at)), f - 1), 0)")
        s.line(f"v = {compare}(ld(x, t * f + q))" if x.dtype.name != compare else
               "v = ld(x, t * f + q)")
        s.line("b = ld(t1, at)")
        s.line("hit = le(v, b)")
        for number_, word in enumerate(("lt", "ge", "gt", "eq", "ne"), start=1):
            with s.block(f"if mode == {number_}:"):
                s.line(f"hit = {word}(v, b)")
        s.line("hit = bor(hit, band(ld(t5, at), isnan(v)))")
        s.line("at = select(hit, i64(ld(t2, at)), i64(ld(t3, at)))")
        s.line("at = imax(imin(at, nodes - 1), 0)\nmode = i64(ld(t4, at))\nsteps = steps + 1")
        with s.block("if steps > nodes:"):
            s.line(f"mode = {LEAF}")
