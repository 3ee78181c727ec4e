"""LSTM, GRU and RNN: the whole time loop of one direction and a block of rows is one tile (where
that would be few tiles see ``recurrent_steps``).

Projected inputs arrive ready (see ``ir.ops.recurrent``). Per step, gates = projected input +
h R is a product with a small left side, of four rows at most. Then one loop over the hidden units
applies activations and updates the state. State and gates stay in scratch.

Constant weights are packed into panels once and multiplied by the micro-kernels of contractions,
sums in registers. What bounds such a product is how fast the weights arrive, step after step the
same: odd steps go through the panels backward, so that they begin with those that the cache still
holds. Other weights (computed, of float64, or narrower than a panel) are read where they are:
hidden units in blocks, so that every loaded vector of R is used by four rows and every gate is
loaded and stored once per block; the inner loops run over contiguous gate columns and vectorize.

All rows of a quantized step share one range, so a tile is one direction with all rows. Its bytes
are multiplied exactly: packed, the state counts from 0, and what its zero point adds is taken off
by the sums of the columns of R, which are the products of R and ones. Unpacked, whole numbers are
held as floats (their sums are exact up to 2^24).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from ...ir.dim_functions import ceil_div
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.ops.recurrent import GATES, OPERANDS, reversed_directions
from ...ir.target import Target
from ...ir.types import F32, TensorType
from ..contract import Panels
from ..contract_bytes import GROUP
from ..micro import MicroKernel, igemm, igemm_i8
from .base import OpaqueKernel, Packed, Source

ROWS = 4
"""Rows of a block."""
_PANEL = 4
"""Vectors of a packed panel: as many sums as hide the latency of a multiply-add of one row."""
_UNROLL = {1: 8, ROWS: 4}
"""Hidden units per pass over the gates, by number of rows."""
NAMES = {"lens": "len_", "h0": "h0", "c0": "c0", "peep": "pe", "rb": "rb", "scale": "rs",
         "zero": "rz"}  # fmt: skip
"""Operands and their names in the source."""
NO_LIMITS = f"bits_f32({0xFF800000}), bits_f32({0x7F800000})"
"""Limits of a tile's results: -inf and inf."""


def _literal(kind: str, value: float) -> str:
    if not math.isfinite(value):
        raise UnsupportedError(f"recurrent activation parameter {value} is not finite")
    return f"{kind}({float(value)!r})"


def _activation(kind: str, act: tuple[str, float, float], x: str) -> str:
    """Source of an ONNX activation of the name or number ``x``."""
    name, alpha, beta = act
    a, b = _literal(kind, alpha), _literal(kind, beta)
    zero, one = f"{kind}(0.0)", f"{kind}(1.0)"
    table = {
        "relu": f"fmax({x}, {zero})",
        "tanh": f"tanh({x})",
        "sigmoid": f"sigmoid({x})",
        "affine": f"({a} * {x} + {b})",
        "leakyrelu": f"select(ge({x}, {zero}), {x}, {a} * {x})",
        "thresholdedrelu": f"select(bor(gt({x}, {a}), isnan({x})), {x}, {zero})",
        "scaledtanh": f"({a} * tanh({b} * {x}))",
        "hardsigmoid": f"fmin(fmax({a} * {x} + {b}, {zero}), {one})",
        "elu": f"select(ge({x}, {zero}), {x}, {a} * (exp(fmin({x}, {zero})) - {one}))",
        "softsign": f"fdiv({x}, {one} + fabs({x}))",
        "softplus": f"(fmax({x}, {zero}) + log({one} + exp(neg(fabs({x})))))",
    }
    return table[name]


@dataclass(frozen=True, slots=True)
class _Part:
    """Neighboring columns of R in panels."""

    first: int
    """First column."""
    columns: int
    count: int
    """Panels of one direction."""
    start: int
    """Elements of the packed weights before it."""


class _Product:
    """How the product with constant weights R is written: tiles and packed panels."""

    def __init__(self, node: Node, target: Target, quantized: bool, resets_first: bool) -> None:
        r = node.inputs[1]
        assert r is not None
        self.directions, self.hidden, self.columns = [d for d in r.shape if isinstance(d, int)]
        self.quantized = quantized
        self.tiles: dict[int, MicroKernel] = (
            {1: igemm_i8(target, 1)} if quantized
            else {rows: igemm(target, mr=rows, panel=_PANEL) for rows in (1, ROWS)}
        )
        """Micro-kernels by their rows."""
        self.width = self.tiles[1].nr
        """Columns of a panel."""
        self.depth = -(-self.hidden // GROUP) if quantized else self.hidden
        """float32 elements of a column of a panel; four bytes are one."""
        self.elements = self.depth * self.width
        """float32 elements of a panel."""
        self.size = 4 * self.elements
        """Bytes of a panel."""
        cuts = (0, 2 * self.hidden, self.columns) if resets_first else (0, self.columns)
        self.parts: list[_Part] = []
        start = 0
        for first, end in pairwise(cuts):
            count = -(-(end - first) // self.width)
            self.parts.append(_Part(first, end - first, count, start))
            start += self.directions * count * self.elements
        self._total = start
        self.wide = self.parts[0].count * self.width
        """Columns of all panels of the first part."""

    @classmethod
    def of(
        cls, node: Node, target: Target, quantized: bool, resets_first: bool
    ) -> _Product | None:
        """For constant weights that fill a panel; None for others."""
        xw, r = node.inputs[:2]
        assert xw is not None
        assert r is not None
        kind = r.type
        if r.node.op != "const" or not isinstance(kind, TensorType) or not kind.is_static:
            return None
        if xw.dtype != F32 or kind.dtype.name != ("i8" if quantized else "f32"):
            return None
        found = cls(node, target, quantized, resets_first)
        return found if found.hidden > 0 and found.columns >= found.width else None

    def packed(self) -> Packed:
        """The recipe of the panels."""
        matrix = self.hidden * self.columns
        panels = tuple(
            Panels(
                part.first, ((self.directions, matrix),), (part.columns, 1),
                ((self.hidden, self.columns),), self.width, GROUP if self.quantized else 1,
            )
            for part in self.parts
        )  # fmt: skip
        return Packed(1, self._total, panels)


class Recurrence:
    """Writes one kernel; holds what its parts share."""

    def __init__(self, node: Node, target: Target) -> None:
        self.node, self.op = node, node.op
        self.s = Source(node)
        xw = node.inputs[0]
        assert xw is not None
        self.kind = "f64" if xw.dtype.name == "f64" else "f32"
        self.gates = GATES[node.op]
        self.quantized = node.op == "qlstm"
        self.states = ("h", "c") if "lstm" in node.op else ("h",)
        self.has = {
            name: k + 2 < len(node.inputs) and node.inputs[k + 2] is not None
            for k, name in enumerate(OPERANDS[node.op])
        }
        self.rows = xw.shape[1]
        self.one_row = self.rows == 1
        self.stride = "hid"
        """Elements from gate to gate of one row of g."""
        self.panels = _Product.of(node, target, self.quantized, self._resets_first())

    def build(self) -> OpaqueKernel:
        s, xw = self.s, self.node.inputs[0]
        assert xw is not None
        self._declare()
        with s.block("for q in range(begin, end):"):
            if self.quantized:
                s.line("d = q\nr0 = 0\nrn = rows")
            else:
                s.line(f"d = idiv(q, blocks)\nr0 = (q - d * blocks) * {ROWS}")
                s.line(f"rn = imin({ROWS}, rows - r0)")
            self._initial_state()
            walks = reversed_directions(self.node.attrs["direction"])
            s.line("back = d" if len(walks) == 2 else f"back = {int(walks[0])}")
            if self.quantized and self.panels is not None:
                self._sum_columns(self.panels)
            with s.block("for k in range(steps):"):
                self._load_gates()
                self._recurrence()
                self._update()
            self._finish()
        tiles = xw.shape[2] * (1 if self.quantized else ceil_div(self.rows, ROWS))
        if self.panels is None:
            return s.finish(tiles)
        externs = [t.symbol for rows, t in self.panels.tiles.items() if rows in self._heights()]
        return s.finish(tiles, tuple(externs), self.panels.packed())

    def _heights(self) -> tuple[int, ...]:
        """Rows of the products of packed panels."""
        return (1,) if self.one_row or self.quantized else (1, ROWS)

    def _declare(self) -> None:
        s, node = self.s, self.node
        xw, r = node.operands[:2]
        s.operand("xw", 0)
        if self.panels is None:
            s.operand("rw", 1)
        else:
            s.panels("rw", 1)
        for k, name in enumerate(OPERANDS[self.op]):
            if self.has[name]:
                s.operand(NAMES[name], k + 2)
        s.result("y", 0)
        for k, name in enumerate(self.states):
            s.result(f"{name}n", k + 1)
        hidden = r.shape[1]
        s.size("steps", xw.shape[0])
        s.size("rows", self.rows)
        s.size("dirs", xw.shape[2])
        s.size("hid", hidden)
        s.size("cols", hidden * self.gates)
        s.size("blocks", ceil_div(self.rows, ROWS))
        held = self.rows if self.quantized else 1 if self.one_row else ROWS
        size = 8 if self.kind == "f64" else 4
        s.scratch("g", self.kind, hidden * self.gates * held, size)
        for name in self.states:
            s.scratch(name, self.kind, hidden * held, size)
        if self._resets_first():
            s.scratch("rh", self.kind, hidden * held, size)
        if self.panels is not None:
            self._declare_panels(self.panels)
        elif self.quantized:
            s.scratch("hq", self.kind, hidden * held, size)

    def _declare_panels(self, panels: _Product) -> None:
        """What a product of packed panels needs."""
        s = self.s
        s.scratch("table", "i64", ROWS)
        s.size("depth", panels.depth)
        if not self.quantized:
            return
        hidden, wide = panels.hidden, panels.wide
        s.scratch("uq", "u8", hidden + 2 * GROUP, 1)
        s.scratch("ones", "u8", hidden + 2 * GROUP, 1)
        s.scratch("whole", "i32", wide, 4)
        s.scratch("sums", "i32", wide, 4)

    def _resets_first(self) -> bool:
        return self.op == "gru" and not self.node.attrs["linear_before_reset"]

    def _initial_state(self) -> None:
        s = self.s
        for name, given in zip(self.states, ("h0", "c0"), strict=False):
            with s.block("for r in range(rn):"), s.block("for j in range(hid):"):
                value = f"ld({given}, (d * rows + r0 + r) * hid + j)"
                s.line(f"st({name}, r * hid + j, "
                       f"{value if self.has[given] else self.kind + '(0.0)'})")

    def _row_time(self) -> None:
        """Sets ``n`` (steps of the row) and ``t`` (the time of step ``k``, 0 if it is over)."""
        s = self.s
        s.line("n = imin(imax(i64(ld(len_, r0 + r)), 0), steps)" if self.has["lens"] else
               "n = steps")
        s.line("t = k")
        with s.block("if back == 1:"):
            s.line("t = imax(n - 1 - k, 0)")
        s.line("xb = ((t * rows + r0 + r) * dirs + d) * cols")

    def _load_gates(self) -> None:
        """Starts the gates with the projected input (what is multiplied by the reset gate of a
        GRU starts with its own bias)."""
        s = self.s
        inner = self.op == "gru" and self.node.attrs["linear_before_reset"]
        if self.quantized:
            with s.block("for j in range(rn * cols):"):
                s.line(f"st(g, j, {self.kind}(0.0))")
            return
        with s.block("for r in range(rn):"):
            self._row_time()
            with s.block(f"for j in range({'2 * hid' if self.op == 'gru' else 'cols'}):"):
                s.line("st(g, r * cols + j, ld(xw, xb + j))")
            if self.op == "gru":
                bias = "ld(rb, d * hid + j)" if self.has["rb"] else f"{self.kind}(0.0)"
                value = bias if inner else f"ld(xw, xb + 2 * hid + j) + {bias}"
                with s.block("for j in range(hid):"):
                    s.line(f"st(g, r * cols + 2 * hid + j, {value})")

    def _recurrence(self) -> None:
        if self.quantized:
            self._state_range()
            if self.panels is None:
                self._quantize_state()
                self._product("hq", "0", "cols")
                self._add_scaled()
            else:
                self._multiply_bytes(self.panels)
            return
        if not self._resets_first():
            self._product("h", "0", "cols")
            return
        self._product("h", "0", "2 * hid")
        self._per_direction(self._reset)
        self._product("rh", "2 * hid", "cols")

    def _state_range(self) -> None:
        """Sets ``hs`` to the unit of the quantized state and ``hz`` to its zero point.

        Rows that are over keep their last state and still count, as they do not in ONNX Runtime;
        rows of one length are the case that exists."""
        s, k = self.s, self.kind
        s.line(f"top = {k}(0.0)\nlow = {k}(0.0)")
        with s.block("for j in range(rn * hid):"):
            s.line("hv = ld(h, j)\ntop = fmax(top, hv)\nlow = fmin(low, hv)")
        s.line(f"hs = (top - low) * {k}({1 / 255!r})" if k == "f64" else
               f"hs = fdiv(top - low, {k}(255.0))")
        s.line(f"hs = select(gt(hs, {k}(0.0)), hs, {k}(1.0))")
        s.line(f"hz = fmin(fmax(rint(fdiv(neg(low), hs)), {k}(0.0)), {k}(255.0))")

    def _quantize_state(self) -> None:
        """Sets ``hq`` to the whole numbers (quantized h) - (zero point)."""
        s, k = self.s, self.kind
        with s.block("for j in range(rn * hid):"):
            s.line("hv = rint(fdiv(ld(h, j), hs)) + hz")
            s.line(f"st(hq, j, fmin(fmax(hv, {k}(0.0)), {k}(255.0)) - hz)")

    def _add_scaled(self) -> None:
        """g = projected input + (g - zero * sum of hq) * unit * scale."""
        s, k = self.s, self.kind
        with s.block("for r in range(rn):"):
            self._row_time()
            s.line(f"total = {k}(0.0)")
            with s.block("for j in range(hid):"):
                s.line("total = total + ld(hq, r * hid + j)")
            with s.block("for j in range(cols):"):
                s.line(f"gv = ld(g, r * cols + j) - {k}(ld(rz, d * cols + j)) * total")
                s.line("gv = ld(xw, xb + j) + gv * (hs * ld(rs, d * cols + j))")
                s.line("st(g, r * cols + j, gv)")

    def _reset(self, d: int) -> None:
        """rh = reset gate * h."""
        s = self.s
        with s.block("for r in range(rn):"), s.block("for j in range(hid):"):
            s.line(f"zr = {self._clip('ld(g, r * cols + hid + j)')}")
            gate = _activation(self.kind, self.node.attrs["activations"][2 * d], "zr")
            s.line(f"st(rh, r * hid + j, {gate} * ld(h, r * hid + j))")

    # -- products of packed panels ---------------------------------------------------------

    def _sum_columns(self, panels: _Product) -> None:
        """``sums`` = the columns of R[d], each added up."""
        s = self.s
        with s.block("for j in range(hid):"):
            s.line("st(ones, j, u8(1))")
        self._byte_panels(panels, "ones", "sums")

    def _byte_panels(self, panels: _Product, state: str, into: str) -> None:
        s, part = self.s, panels.parts[0]
        s.line(f"st(table, 0, addr({state}, 0))")
        with s.block(f"for w in range({part.count}):"):
            s.line(f"at = addr(rw, (d * {part.count} + w) * (depth * {panels.width}))")
            s.line(f'ccall("{panels.tiles[1].symbol}", table, 1, hid, at, '
                   f"addr({into}, w * {panels.width}), {panels.width})")

    def _multiply_bytes(self, panels: _Product) -> None:
        """g = projected input + (quantized h - zero point) (R - zero) * unit * scale. A state that
        is no number makes the gates of its row none (``bad``)."""
        s, k = self.s, self.kind
        s.line("hzi = i32(hz)")
        with s.block("for r in range(rn):"):
            self._row_time()
            s.line(f"bad = {k}(0.0)\ntotal = i32(0)")
            with s.block("for j in range(hid):"):
                s.line("hv = rint(fdiv(ld(h, r * hid + j), hs)) + hz")
                s.line(f"bad = bad + hv * {k}(0.0)")
                s.line(f"hv = select(isnan(hv), {k}(0.0), hv)")
                s.line(f"hi = i32(fmin(fmax(hv, {k}(0.0)), {k}(255.0)))")
                s.line("total = i32(total + hi)\nst(uq, j, u8(hi))")
            s.line("total = i32(total - hzi * i32(hid))")
            self._byte_panels(panels, "uq", "whole")
            with s.block("for j in range(cols):"):
                s.line("taken = hzi * ld(sums, j) + i32(ld(rz, d * cols + j)) * total")
                s.line("gv = i32(ld(whole, j) - i32(taken))")
                s.line(f"gs = {k}(gv) * (hs * ld(rs, d * cols + j)) + bad")
                s.line("st(g, r * cols + j, ld(xw, xb + j) + gs)")

    def _multiply_panels(self, panels: _Product, state: str, lo: str) -> None:
        """g[:, part] += state R[d, :, part] for the part of the columns that begins at ``lo``."""
        s = self.s
        part = panels.parts[0 if lo == "0" else 1]
        with s.block(f"for r in range({1 if self.one_row else ROWS}):"):
            s.line("ri = imin(r, rn - 1)" if not self.one_row else "ri = r")
            s.line(f"st(table, r, addr({state}, ri * hid))")
        with s.block(f"for v in range({part.count}):"):
            s.line(f"w = v\nahead = {panels.size}")
            with s.block("if iand(k, 1) == 1:"):
                s.line(f"w = {part.count - 1} - v\nahead = {-panels.size}")
            s.line(f"at = addr(rw, {part.start} + (d * {part.count} + w) * {panels.elements})")
            s.line(f"ga = addr(g, {part.first} + w * {panels.width})")
            s.line(f"wide = imin({panels.width}, {part.columns} - w * {panels.width})")

            def call(rows: int) -> None:
                s.line(f'ccall("{panels.tiles[rows].symbol}", table, 1, 0, hid, at, ahead, 64, ga, '
                       "cols, rn, wide, i64(0), 0, i64(0), ga, cols, "
                       f"{NO_LIMITS})")

            if self.one_row:
                call(1)
                return
            with s.block("if rn == 1:"):
                call(1)
            with s.block("else:"):
                call(ROWS)

    # -- products of R where it is ---------------------------------------------------------

    def _product(self, state: str, lo: str, hi: str) -> None:
        """g[:, lo:hi] += state R[d, :, lo:hi]."""
        s = self.s
        if self.panels is not None:
            self._multiply_panels(self.panels, state, lo)
            return
        if self.one_row:
            s.line("r = 0")
            self._passes(state, 1, lo, hi)
            return
        if self.quantized:
            with s.block("for r in range(rn):"):
                self._passes(state, 1, lo, hi)
            return
        with s.block(f"if rn == {ROWS}:"):
            s.line("r = 0")
            self._passes(state, ROWS, lo, hi)
        with s.block("else:"), s.block("for r in range(rn):"):
            self._passes(state, 1, lo, hi)

    def _passes(self, state: str, rows: int, lo: str, hi: str) -> None:
        s, unroll = self.s, _UNROLL[rows]
        load = f"{self.kind}(ld(rw, {{}}))" if self.quantized else "ld(rw, {})"
        s.line("u = 0")
        for step in (unroll, 1):
            with s.block(f"while u + {step} <= hid:"):
                for i in range(rows):
                    for e in range(step):
                        s.line(f"v{i}{e} = ld({state}, (r + {i}) * hid + u + {e})")
                s.line("rb0 = (d * hid + u) * cols")
                with s.block(f"for j in range({lo}, {hi}):"):
                    for e in range(step):
                        s.line(f"w{e} = {load.format(f'rb0 + {e} * cols + j')}")
                    for i in range(rows):
                        total = f"ld(g, (r + {i}) * cols + j)"
                        for e in range(step):
                            total += f" + v{i}{e} * w{e}"
                        s.line(f"st(g, (r + {i}) * cols + j, {total})")
                s.line(f"u = u + {step}")

    def _clip(self, value: str) -> str:
        bound = self.node.attrs["clip"]
        if bound is None:
            return value
        high, low = _literal(self.kind, bound), _literal(self.kind, -bound)
        return f"fmax(fmin({value}, {high}), {low})"

    def _per_direction(self, emit: Callable[[int], None]) -> None:
        """Emits once, or per direction where activations differ."""
        acts = self.node.attrs["activations"]
        half = len(acts) // 2
        if self.node.attrs["direction"] != "bidirectional" or acts[:half] == acts[half:]:
            emit(0)
            return
        with self.s.block("if d == 0:"):
            emit(0)
        with self.s.block("else:"):
            emit(1)

    def _update(self) -> None:
        update = {"gru": self._gru, "rnn": self._rnn}.get(self.op, self._lstm)
        self._per_direction(update)

    def _rows_alive(self, d: int, body: Callable[[int], None]) -> None:
        """One loop over rows that are not over yet, and in it one over the hidden units."""
        s = self.s
        with s.block("for r in range(rn):"):
            self._row_time()
            with s.block("if k < n:"):
                s.line("yb = ((t * rows + r0 + r) * dirs + d) * hid")
                s.line("gb = r * cols\nsb = r * hid\nub = 0")
                with s.block("for j in range(hid):"):
                    body(d)

    def _act(self, index: int, name: str, value: str) -> None:
        """``name`` = activation ``index`` of the clipped ``value``."""
        act = self.node.attrs["activations"][index]
        self.s.line(f"{name}p = {self._clip(value)}")
        self.s.line(f"{name} = {_activation(self.kind, act, name + 'p')}")

    def _lstm(self, d: int) -> None:
        def body(d: int) -> None:
            s = self.s

            def gate(k: int, peep: int | None, cell: str) -> str:
                value = f"ld(g, gb + {k} * {self.stride} + j)"
                if peep is None or not self.has["peep"]:
                    return value
                return f"{value} + ld(pe, (d * 3 + {peep}) * hid + ub + j) * {cell}"

            s.line("ce = ld(c, sb + j)")
            self._act(3 * d, "gi", gate(0, 0, "ce"))
            if self.node.attrs["input_forget"]:
                s.line(f"gf = {self.kind}(1.0) - gi")
            else:
                self._act(3 * d, "gf", gate(2, 2, "ce"))
            self._act(3 * d + 1, "gc", gate(3, None, ""))
            s.line("cn2 = gf * ce + gi * gc")
            self._act(3 * d, "go", gate(1, 1, "cn2"))
            last = self.node.attrs["activations"][3 * d + 2]  # `clip` is for the gates
            s.line(f"ch = {_activation(self.kind, last, 'cn2')}")
            s.line("hv = go * ch\nst(c, sb + j, cn2)\nst(h, sb + j, hv)\nst(y, yb + j, hv)")

        self._rows_alive(d, body)

    def _gru(self, d: int) -> None:
        def body(d: int) -> None:
            s = self.s
            self._act(2 * d, "gz", "ld(g, gb + j)")
            inner = f"ld(g, gb + 2 * {self.stride} + j)"
            if not self._resets_first():
                self._act(2 * d, "gr", f"ld(g, gb + {self.stride} + j)")
                inner = f"ld(xw, xb + 2 * hid + j) + gr * {inner}"
            self._act(2 * d + 1, "gn", inner)
            s.line(f"hv = ({self.kind}(1.0) - gz) * gn + gz * ld(h, sb + j)")
            s.line("st(h, sb + j, hv)\nst(y, yb + j, hv)")

        self._rows_alive(d, body)

    def _rnn(self, d: int) -> None:
        def body(d: int) -> None:
            self._act(d, "hv", "ld(g, gb + j)")
            self.s.line("st(h, sb + j, hv)\nst(y, yb + j, hv)")

        self._rows_alive(d, body)

    def _finish(self) -> None:
        """Zeros behind the end of short rows; the last states."""
        s = self.s
        with s.block("for r in range(rn):"):
            if self.has["lens"]:
                s.line("k = 0")
                self._row_time()
                with s.block("for tz in range(n, steps):"):
                    s.line("zb = ((tz * rows + r0 + r) * dirs + d) * hid")
                    with s.block("for j in range(hid):"):
                        s.line(f"st(y, zb + j, {self.kind}(0.0))")
            s.line("ob = (d * rows + r0 + r) * hid")
            for name in self.states:
                with s.block("for j in range(hid):"):
                    s.line(f"st({name}n, ob + j, ld({name}, r * hid + j))")
