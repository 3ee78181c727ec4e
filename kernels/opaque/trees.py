"""Tree ensembles: each tile is one row, which walks down every tree in turn.

Where the table has every tree in preorder, the node that follows a failed test is the next one. The
two ways of a test are then different code, a branch that the processor predicts, so that it runs
ahead into later trees instead of waiting for three loads per step. Node and column numbers are
clamped to their tables and the walks are bounded by the number of nodes: tables that contradict
themselves give a wrong answer, no foreign read and no endless loop.
"""

from __future__ import annotations

from ...ir.graph import Node
from ...ir.ops.trees import COLUMN_MASK, MISSING_SHIFT, MODE_SHIFT, MODES, threshold_type
from ...ir.target import Target
from .base import OpaqueKernel, Source, number, opaque

_WORDS = {"leq": "le", "lt": "lt", "gte": "ge", "gt": "gt", "eq": "eq", "neq": "ne"}


@opaque("tree_ensemble")
def tree_ensemble(node: Node, target: Target) -> OpaqueKernel:
    """Aggregated leaf weights of every row."""
    x, nodes, _, weights, roots = node.operands
    how, weight = node.attrs["aggregate"], weights.dtype
    s = Source(node)
    value = threshold_type(nodes.shape[1]).name
    for k, name in enumerate(("x", "nd", "tg", "wt", "rt")):
        s.operand(name, k)
    s.line(f"vl = ptr_{value}(bufs, 1)")
    s.result("y")
    s.size("f", x.shape[1])
    s.size("count", nodes.shape[0])
    s.size("leaves", weights.shape[0])
    s.size("trees", roots.shape[0])
    s.size("k", node.attrs["targets"])
    kind = weight.name
    infinity = {"min": f"fdiv({kind}(1.0), {kind}(0.0))", "max": f"fdiv({kind}(-1.0), {kind}(0.0))"}
    s.line(f"unit = {infinity.get(how, number(weight, 0))}")
    s.line("last = u64(imax(count - 1, 0))\nfl = f - 1")
    with s.block("for t in range(begin, end):"):
        with s.block("for c in range(k):"):
            s.line("st(y, t * k + c, unit)")
        s.line("usable = trees\nif imin(f, count) == 0:\n    usable = 0")
        with s.block("for r in range(usable):"):
            _walk(s, node)
            _add_leaf(s, how)
        with s.block("for c in range(k):"):
            s.line("v = ld(y, t * k + c)")
            if how == "average":
                s.line(f"st(y, t * k + c, fdiv(v, {kind}(imax(trees, 1))))")
            elif how != "sum":
                s.line(f"st(y, t * k + c, select(isinf(v), {number(weight, 0)}, v))")
    return s.finish(x.shape[0])


def _walk(s: Source, node: Node) -> None:
    """Moves ``at`` from the root of tree ``r`` to a leaf."""
    x, nodes = node.operands[:2]
    words = nodes.shape[1]
    assert isinstance(words, int)
    value = threshold_type(words)
    s.line("at = i64(imin(u64(i64(ld(rt, r))), last))")
    s.line(f"code = i64(ld(nd, at * {words}))\nsteps = 0")
    with s.block("while code >= 0:"):
        s.line(f"q = imin(iand(code, {COLUMN_MASK}), fl)")
        load = "ld(x, t * f + q)"
        s.line(f"v = {load if x.dtype == value else f'{value.name}({load})'}")
        s.line(f"b = ld(vl, {'at * 4 + 3' if words == 4 else 'at * 3 + 2'})")
        _test(s, node)
        with s.block("if hit:"):
            s.line(f"at = i64(imin(u64(i64(ld(nd, at * {words} + 1))), last))")
        with s.block("else:"):
            if node.attrs["preorder"]:
                s.line("at = imin(at + 1, count - 1)")
            else:
                s.line(f"at = i64(imin(u64(i64(ld(nd, at * {words} + 2))), last))")
        s.line(f"code = i64(ld(nd, at * {words}))\nsteps = steps + 1")
        with s.block("if steps > count:"):
            s.line("code = -1")


def _test(s: Source, node: Node) -> None:
    """Sets ``hit``: whether the test of the node with code ``code`` holds for ``v`` and ``b``."""
    if node.attrs["compare"] != "mixed":
        s.line(f"hit = {_WORDS[node.attrs['compare']]}(v, b)")
    else:
        s.line(f"mode = iand(ishr(code, {MODE_SHIFT}), 7)\nhit = le(v, b)")
        for number_, name in enumerate(MODES[1:], start=1):
            s.line(f"hit = select(mode == {number_}, {_WORDS[name]}(v, b), hit)")
    if node.attrs["nan"]:
        s.line(f"miss = iand(ishr(code, {MISSING_SHIFT}), 1) == 1")
        s.line("hit = bor(hit, band(miss, isnan(v)))")


def _add_leaf(s: Source, how: str) -> None:
    """Adds the weights of the leaf ``at``."""
    words = s.node.operands[1].shape[1]
    s.line(f"a = imax(i64(ld(nd, at * {words} + 1)), 0)")
    s.line(f"e = imin(a + i64(ld(nd, at * {words} + 2)), leaves)")
    with s.block("for p in range(a, e):"):
        s.line("c = i64(ld(tg, p))")
        with s.block("if c >= 0:"), s.block("if c < k:"):
            word = {"min": "fmin", "max": "fmax"}.get(how, "fadd")
            s.line(f"st(y, t * k + c, {word}(ld(y, t * k + c), ld(wt, p)))")
