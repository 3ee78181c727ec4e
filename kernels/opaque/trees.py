"""Tree ensembles: each tile is one row.

A walk down a tree is a chain of loads, each of which waits for the last, and of tests that no
processor predicts. So ``LANES`` walks go on at a time, as one loop without branches: over as many
trees of one row, or, where there are as many rows, over as many rows of one tree, which then stays
in the cache for a block of them. The two nodes that may follow a node lie side by side, so the next
one is ``child + (test failed)``; a leaf follows itself (its threshold is NaN), so a walk that is
over waits for the others without a test of its own (breadth-first layouts of this kind: Asadi, Lin,
de Vries, "Runtime Optimizations for Tree-based Machine Learning Models", 2014, there as VPRED).
Weights are added in the order of the trees whatever the lanes are.

That layout is made of constant tables, once, and checked then (``ir.ops.trees.walked``): every
walk ends, none leaves the table. Other tables are walked as they are, one tree at a time: node and
column numbers are clamped and the steps are bounded by the number of nodes, so that tables that
contradict themselves give a wrong answer, no foreign read and no endless loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Node
from ...ir.ops.trees import (
    COLUMN_MASK,
    MISSING_SHIFT,
    MODE_SHIFT,
    MODES,
    MOST_WEIGHTS,
    WALKED_WORDS,
    threshold_type,
)
from ...ir.target import Target
from ...ir.types import F32, DType
from .base import OpaqueKernel, Packed, Source, number, opaque

LANES = 8
"""Walks at a time: as many as hide the loads of a step and keep their state in registers."""
BLOCK = 4
"""Groups of ``LANES`` rows that go down one tree before the next."""
_WORDS = {"leq": "le", "lt": "lt", "gte": "ge", "gt": "gt", "eq": "eq", "neq": "ne"}


@dataclass(frozen=True, slots=True)
class WalkedNodes:
    """Recipe of the nodes as walks of several lanes read them."""

    compare: str
    """As the op's attribute."""
    plain: bool
    """Whether codes are columns and nothing else."""
    dtype: DType = F32

    @property
    def spec(self) -> tuple[object, ...]:
        """The transform of the constant."""
        return ("walked_nodes", self.compare, self.plain)


@opaque("tree_ensemble")
def tree_ensemble(node: Node, target: Target) -> OpaqueKernel:
    """Aggregated leaf weights of every row."""
    return _Forest(node).build()


class _Forest:
    """Writes one kernel."""

    def __init__(self, node: Node) -> None:
        self.node, self.s = node, Source(node)
        x, nodes, _, weights, _ = node.operands
        self.how: str = node.attrs["aggregate"]
        self.compare: str = node.attrs["compare"]
        self.real = weights.dtype
        words = nodes.shape[1]
        assert isinstance(words, int)
        self.words = words
        self.value = threshold_type(words)
        self.nan: bool = node.attrs["nan"] and x.dtype.is_float
        self.lanes: bool = node.attrs["adjacent"] and nodes.node.op == "const"
        self.plain = self.compare != "mixed" and not self.nan

    def build(self) -> OpaqueKernel:
        s = self.s
        x, nodes, _, weights, roots = self.node.operands
        for k, name in enumerate(("x", "nd", "tg", "wt", "rt")):
            s.operand(name, k)
        s.line(f"vl = ptr_{self.value.name}(bufs, 1)")
        s.result("y")
        s.size("f", x.shape[1])
        s.size("count", nodes.shape[0])
        s.size("leaves", weights.shape[0])
        s.size("trees", roots.shape[0])
        s.size("k", self.node.attrs["targets"])
        kind = self.real.name
        infinity = {
            "min": f"fdiv({kind}(1.0), {kind}(0.0))", "max": f"fdiv({kind}(-1.0), {kind}(0.0))",
        }  # fmt: skip
        s.line(f"unit = {infinity.get(self.how, number(self.real, 0))}")
        s.line("last = u64(imax(count - 1, 0))\nfl = f - 1\nusable = trees")
        with s.block("if imin(f, count) == 0:"):
            s.line("usable = 0")
        if not self.lanes:
            self._rows_of_general_tables()
            return s.finish(x.shape[0])
        with s.block(f"if f < i64(ld(nd, count * {WALKED_WORDS})):"):
            s.line("usable = 0")
        self._rows_of_lanes()
        elements = (nodes.shape[0] + 1) * WALKED_WORDS
        recipe = WalkedNodes(self.compare, self.plain)
        return s.finish(x.shape[0], (), Packed(1, elements, (recipe,)))

    # -- several walks at a time -----------------------------------------------------------

    def _rows_of_lanes(self) -> None:
        """All rows: blocks of whole groups, lane by lane a row; what is left one by one, lane by
        lane a tree."""
        s = self.s
        s.scratch("ends", "i64", LANES)
        s.line("t = begin")
        with s.block("while t < end:"):
            s.line(f"groups = imin(idiv(end - t, {LANES}), {BLOCK})\nby_tree = 0")
            s.line(f"past = t + groups * {LANES}")
            with s.block("if groups == 0:"):
                s.line("groups = 1\nby_tree = 1\npast = t + 1")
            s.line("by_row = 1 - by_tree")
            with s.block("for i in range(t * k, past * k):"):
                s.line("st(y, i, unit)")
            self._look_for_gaps()
            s.line("r = 0")
            with s.block("while r < usable:"):
                with s.block("for g in range(groups):"):
                    self._group()
                s.line(f"r = r + 1 + by_tree * {LANES - 1}")
            self._complete("past")
            s.line("t = past")

    def _look_for_gaps(self) -> None:
        """Sets ``gaps``: whether x has a NaN in rows ``t`` to ``past``. Where it has none, no node
        needs to know which way a NaN goes."""
        s = self.s
        if not self.nan:
            return
        s.line("seen = 0")
        with s.block("for i in range(t * f, past * f):"):
            s.line("seen = ior(seen, select(isnan(ld(x, i)), i64(1), i64(0)))")
        s.line("gaps = seen != 0")

    def _group(self) -> None:
        """Walks of all lanes and what they add."""
        s = self.s
        s.line(f"row = t + g * {LANES}")
        for e in range(LANES):
            s.line(f"root = i64(ld(rt, imin(r + {e} * by_tree, usable - 1)))")
            s.line(f"at{e} = 2 * i64(imin(u64(root), last))")
            s.line(f"xb{e} = (row + {e} * by_row) * f")
        if not self.nan or self.compare == "mixed":
            self._walk_lanes(self.nan)
        else:
            with s.block("if gaps:"):
                self._walk_lanes(True)
            with s.block("else:"):
                self._walk_lanes(False)
        for e in range(LANES):
            s.line(f"st(ends, {e}, at{e})")
        s.line("row = row * k")
        with s.block(f"for lane in range(imin({LANES}, usable - r + by_row * {LANES})):"):
            s.line("at = ld(ends, lane)\na = i64(ld(nd, at * 2))")
            s.line(f"e = imin(a + iand(i64(ld(nd, at * 2 + 1)), {MOST_WEIGHTS}), leaves)")
            self._add_weights("row")
            s.line("row = row + by_row * k")

    def _walk_lanes(self, nan: bool) -> None:
        """Moves every ``at``, which counts pairs of words, to a leaf."""
        s = self.s
        stride, place = (1, 0) if self.value.itemsize == 8 else (2, 1)
        s.line("moved = 1")
        with s.block("while moved != 0:"):
            s.line("moved = 0")
            for e in range(LANES):
                s.line(f"code = i64(ld(nd, at{e} * 2 + 2))")
                column = "code" if self.plain else f"iand(code, {COLUMN_MASK})"
                s.line(f"v = {self._loaded(f'ld(x, xb{e} + {column})')}")
                s.line(f"b = ld(vl, at{e} * {stride} + {place})")
                self._test(nan)
                s.line(f"next = i64(ld(nd, at{e} * 2 + 3)) + select(hit, i64(0), i64(2))")
                s.line("next = hidden(next)")  # no gathers: they take longer
                s.line(f"moved = ior(moved, hidden(ixor(next, at{e})))\nat{e} = next")

    # -- tables as they are ----------------------------------------------------------------

    def _rows_of_general_tables(self) -> None:
        s = self.s
        with s.block("for t in range(begin, end):"):
            with s.block("for c in range(k):"):
                s.line("st(y, t * k + c, unit)")
            with s.block("for r in range(usable):"):
                self._walk()
                s.line(f"a = imax(i64(ld(nd, at * {self.words} + 1)), 0)")
                s.line(f"e = imin(a + i64(ld(nd, at * {self.words} + 2)), leaves)")
                self._add_weights("t * k")
            self._complete("(t + 1)")

    def _walk(self) -> None:
        """Moves ``at`` from the root of tree ``r`` to a leaf."""
        s, words = self.s, self.words
        s.line("at = i64(imin(u64(i64(ld(rt, r))), last))")
        s.line(f"code = i64(ld(nd, at * {words}))\nsteps = 0")
        with s.block("while code >= 0:"):
            s.line(f"q = imin(iand(code, {COLUMN_MASK}), fl)")
            s.line(f"v = {self._loaded('ld(x, t * f + q)')}")
            s.line(f"b = ld(vl, {'at * 4 + 3' if words == 4 else 'at * 3 + 2'})")
            self._test(self.nan)
            s.line(f"next = ld(nd, at * {words} + select(hit, i64(1), i64(2)))")
            s.line("at = i64(imin(u64(i64(next)), last))")
            s.line(f"code = i64(ld(nd, at * {words}))\nsteps = steps + 1")
            with s.block("if steps > count:"):
                s.line("code = -1")

    # -- both ------------------------------------------------------------------------------

    def _loaded(self, load: str) -> str:
        same = self.node.operands[0].dtype == self.value
        return load if same else f"{self.value.name}({load})"

    def _test(self, nan: bool) -> None:
        """Sets ``hit``: whether the test of the node with code ``code`` holds for ``v`` and
        ``b``."""
        s = self.s
        if self.compare != "mixed":
            s.line(f"hit = {_WORDS[self.compare]}(v, b)")
        else:
            s.line(f"mode = iand(ishr(code, {MODE_SHIFT}), 7)\nhit = le(v, b)")
            for number_, name in enumerate(MODES[1:], start=1):
                s.line(f"hit = select(mode == {number_}, {_WORDS[name]}(v, b), hit)")
        if nan:
            s.line(f"miss = iand(ishr(code, {MISSING_SHIFT}), 1) == 1")
            s.line("hit = bor(hit, band(miss, isnan(v)))")

    def _add_weights(self, row: str) -> None:
        """Adds weights ``a`` to ``e`` of the list to the scores that begin at ``row``."""
        s = self.s
        word = {"min": "fmin", "max": "fmax"}.get(self.how, "fadd")
        with s.block("for p in range(a, e):"):
            s.line("c = i64(ld(tg, p))")
            with s.block("if c >= 0:"), s.block("if c < k:"):
                s.line(f"st(y, {row} + c, {word}(ld(y, {row} + c), ld(wt, p)))")

    def _complete(self, past: str) -> None:
        """From the aggregates of rows ``t`` to ``past`` to their scores."""
        s, kind = self.s, self.real.name
        if self.how == "sum":
            return
        with s.block(f"for i in range(t * k, {past} * k):"):
            s.line("score = ld(y, i)")
            if self.how == "average":
                s.line(f"st(y, i, fdiv(score, {kind}(imax(trees, 1))))")
            else:
                s.line(f"st(y, i, select(isinf(score), {number(self.real, 0)}, score))")
