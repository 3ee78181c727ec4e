"""Recurrent layers step by step: each time step is a launch of its own, and its tiles are blocks of
hidden units.

A layer of few rows and one direction is a chain of products of a few vectors by the same matrix,
which one core reads again from a far cache in every step. Here the threads share each step: a tile
multiplies the state before by its columns of R, of all gates, applies the activations and writes
its units of the new state, so that between two steps there is one barrier and nothing else. A
thread keeps its tile from step to step (``runtime.driver``), so its part of R stays in its own
cache; odd steps go through the tile backward, so that they begin with what the cache still holds
where the part is larger.

The columns of all gates of a block of units lie side by side in one panel: a call of the
micro-kernel gives all that the block's update needs. The state before is read from the result of
the step before, so nothing else is carried from launch to launch, except the cell of an LSTM, in
its result. What a tile computes does not depend on which thread does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.dim_values import evaluate
from ...ir.graph import Node
from ...ir.ops.recurrent import OPERANDS, reversed_directions
from ...ir.target import Target
from ...ir.types import F32, DType, TensorType
from ..micro import igemm
from .base import OpaqueKernel, Packed, opaque
from .recurrent import NAMES, NO_LIMITS, ROWS, Recurrence

LEAST_BYTES = 1 << 18
"""Bytes of R from which on sharing a step saves more than its barrier costs (about 3 us of one
core)."""
_BLOCKS = 2
"""Blocks of units per tile, at least."""


@dataclass(frozen=True, slots=True)
class GatePanels:
    """Recipe of R of one direction as ``[blocks, hidden, gates, width]``, zeros behind the last
    unit."""

    hidden: int
    gates: int
    width: int
    dtype: DType = F32

    @property
    def blocks(self) -> int:
        """Blocks of ``width`` units."""
        return -(-self.hidden // self.width)

    @property
    def elements(self) -> int:
        """Elements of a panel."""
        return self.hidden * self.gates * self.width

    @property
    def spec(self) -> tuple[object, ...]:
        """The transform of the constant."""
        whole = self.blocks * self.width
        return (
            "chain", ("reshape", (self.hidden, self.gates, self.hidden)), ("pad", 2, whole),
            ("reshape", (self.hidden, self.gates, self.blocks, self.width)),
            ("transpose", (2, 0, 1, 3)),
        )  # fmt: skip


def shares_steps(node: Node, target: Target) -> bool:
    """Whether the layer is of one direction and all rows of one length, with constant weights that
    are worth sharing; only then the kernel of this module is right for it."""
    xw, r = node.inputs[:2]
    assert xw is not None
    assert r is not None
    kind = r.type
    if node.op == "qlstm" or r.node.op != "const" or not isinstance(kind, TensorType):
        return False
    if target.cores < 2 or xw.dtype != F32 or kind.dtype != F32 or not kind.is_static:
        return False
    if node.op == "gru" and not node.attrs["linear_before_reset"]:
        return False  # two products in a row
    has = dict(zip(OPERANDS[node.op], node.inputs[2:], strict=False))
    worth = evaluate(kind.nbytes(), {}) >= LEAST_BYTES
    return worth and has.get("lens") is None and xw.shape[2] == 1


class SharedSteps(Recurrence):
    """Writes one kernel, whose last parameter is the number of the step."""

    def __init__(self, node: Node, target: Target) -> None:
        super().__init__(node, target)
        heights = (1,) if self.one_row else (1, ROWS)
        self.of_rows = {rows: igemm(target, mr=rows, panel=self.gates) for rows in heights}
        """Micro-kernels by their rows."""
        self.nr = self.of_rows[1].nr
        self.width = self.nr // self.gates
        hidden = node.operands[1].shape[1]
        assert isinstance(hidden, int)
        self.recipe = GatePanels(hidden, self.gates, self.width)
        self.stride = str(self.width)
        self.tiles = max(1, min(target.cores, self.recipe.blocks // _BLOCKS))

    def build(self) -> OpaqueKernel:
        s = self.s
        self._declare()
        back = reversed_directions(self.node.attrs["direction"])[0]
        s.line("d = 0\nlast = imax(steps - 1, 0)")
        s.line("t = last - k\nbefore = t + 1" if back else "t = k\nbefore = t - 1")
        s.line(f"zeros = {self.kind}(0.0)")
        with s.block("for q in range(begin, end):"):
            s.line("lo = idiv(q * blocks, tiles)\nhi = idiv((q + 1) * blocks, tiles)")
            with s.block("for v in range(lo, hi):"):
                s.line("w = v")
                with s.block("if iand(k, 1) == 1:"):
                    s.line("w = lo + hi - 1 - v")
                s.line(f"ub = w * {self.width}\nwide = imin({self.width}, hid - ub)")
                s.line("r0 = 0")
                with s.block("while r0 < rows:"):
                    s.line(f"rn = imin({ROWS}, rows - r0)")
                    self._product_of_block()
                    with s.block("for r in range(rn):"):
                        self._row_of_block()
                    s.line(f"r0 = r0 + {ROWS}")
        symbols = tuple(tile.symbol for tile in self.of_rows.values())
        packed = Packed(1, self.recipe.blocks * self.recipe.elements, (self.recipe,))
        steps = self.node.operands[0].shape[0]
        return s.finish(self.tiles, symbols, packed).in_rounds(steps)

    def _declare(self) -> None:
        s = self.s
        s.operand("xw", 0)
        s.panels("rw", 1)
        for index, name in enumerate(OPERANDS[self.op]):
            if self.has[name]:
                s.operand(NAMES[name], index + 2)
        s.result("y", 0)
        for index, name in enumerate(self.states):
            s.result(f"{name}n", index + 1)
        for name, size in (
            ("steps", self.node.operands[0].shape[0]), ("rows", self.rows),
            ("hid", self.recipe.hidden), ("blocks", self.recipe.blocks),
            ("cols", self.recipe.hidden * self.gates), ("tiles", self.tiles),
        ):  # fmt: skip
            s.size(name, size)
        s.scratch("g", self.kind, self.nr * ROWS, 4)
        for name in self.states:
            s.scratch(name, self.kind, self.width, 4)
        s.scratch("table", "i64", ROWS)
        s.round("k")

    def _product_of_block(self) -> None:
        """g = the state before times the block's panel."""
        s, size = self.s, self.recipe.elements
        s.line(f"at = addr(rw, w * {size})")
        s.line(f"known = {'steps > 0' if self.has['h0'] else 'k > 0'}")
        with s.block("if known:"):
            with s.block(f"for r in range({1 if self.one_row else ROWS}):"):
                s.line("place = (r0 + imin(r, rn - 1)) * hid")
                with s.block("if k > 0:"):
                    s.line("st(table, r, addr(y, before * rows * hid + place))")
                if self.has["h0"]:
                    with s.block("else:"):
                        s.line("st(table, r, addr(h0, place))")

            def call(rows: int) -> None:
                s.line(f'ccall("{self.of_rows[rows].symbol}", table, 1, 0, hid, at, {4 * size}, '
                       f"64, addr(g, 0), {self.nr}, rn, {self.nr}, i64(0), 0, i64(0), i64(0), "
                       f"{self.nr}, {NO_LIMITS})")

            if self.one_row:
                call(1)
            else:
                with s.block("if rn == 1:"):
                    call(1)
                with s.block("else:"):
                    call(ROWS)
        with s.block("else:"), s.block(f"for j in range(rn * {self.nr}):"):
            s.line("st(g, j, zeros)")

    def _row_of_block(self) -> None:
        """One row: the state before, the gates, the new state."""
        s = self.s
        s.line(f"gb = r * {self.nr}\nsb = 0\nrb0 = (r0 + r) * hid + ub")
        with s.block("if k > 0:"), s.block("for j in range(wide):"):
            s.line("st(h, j, ld(y, before * rows * hid + rb0 + j))")
            if "c" in self.states:
                s.line("st(c, j, ld(cn, rb0 + j))")
        with s.block("else:"), s.block("for j in range(wide):"):
            for name in self.states:
                first = f"ld({name}0, rb0 + j)" if self.has[f"{name}0"] else "zeros"
                s.line(f"st({name}, j, {first})")
        with s.block("if steps > 0:"):
            s.line("xb = (t * rows + r0 + r) * cols + ub\nyb = t * rows * hid + rb0")
            self._add_projected()
            self._update()
        if "c" in self.states:
            with s.block("for j in range(wide):"):
                s.line("st(cn, rb0 + j, ld(c, j))")
        with s.block("if k == last:"), s.block("for j in range(wide):"):
            s.line("st(hn, rb0 + j, ld(h, j))")

    def _add_projected(self) -> None:
        """g += the projected input; what is multiplied by the reset gate of a GRU has a bias of
        its own instead."""
        s, gru = self.s, self.op == "gru"
        for gate in range(self.gates - gru):
            with s.block("for j in range(wide):"):
                place = f"gb + {gate * self.width} + j"
                s.line(f"st(g, {place}, ld(g, {place}) + ld(xw, xb + {gate} * hid + j))")
        if gru and self.has["rb"]:
            with s.block("for j in range(wide):"):
                place = f"gb + {2 * self.width} + j"
                s.line(f"st(g, {place}, ld(g, {place}) + ld(rb, ub + j))")

    def _rows_alive(self, d: int, body: Callable[[int], None]) -> None:
        with self.s.block("for j in range(wide):"):
            body(d)


@opaque("lstm", "qlstm", "gru", "rnn")
def recurrent(node: Node, target: Target) -> OpaqueKernel:
    """The recurrence of one layer, all directions."""
    return (SharedSteps if shares_steps(node, target) else Recurrence)(node, target).build()
