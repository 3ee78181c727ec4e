"""LSTM, GRU and RNN: the whole time loop of one direction and a block of rows is one tile.

Projected inputs arrive ready (see ``ir.ops.recurrent``). Per step, gates = projected input +
h R is a product with a small left side: rows are taken four at a time and the hidden units in
blocks, so that every loaded vector of R is used by four rows and every gate is loaded and stored
once per block; the inner loops run over contiguous gate columns and vectorize. Then one loop over
the hidden units applies activations and updates the state. State and gates stay in scratch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...ir.dims import ceil_div
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.ops.recurrent import OPERANDS, reversed_directions
from ...ir.target import Target
from .base import OpaqueKernel, Source, opaque

ROWS = 4
"""Rows of a block."""
_UNROLL = {1: 8, ROWS: 4}
"""Hidden units per pass over the gates, by number of rows."""
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_OPTIONAL = {"lens": "len_", "h0": "h0", "c0": "c0", "peep": "pe", "rb": "rb"}


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


class _Recurrence:
    """Writes one kernel; holds what its parts share."""

    def __init__(self, node: Node) -> None:
        self.node, self.op = node, node.op
        self.s = Source(node)
        xw = node.inputs[0]
        assert xw is not None
        self.kind = "f64" if xw.dtype.name == "f64" else "f32"
        self.gates = _GATES[node.op]
        self.states = ("h", "c") if node.op == "lstm" else ("h",)
        self.has = {
            name: k + 2 < len(node.inputs) and node.inputs[k + 2] is not None
            for k, name in enumerate(OPERANDS[node.op])
        }
        self.rows = xw.shape[1]
        self.one_row = self.rows == 1

    def build(self) -> OpaqueKernel:
        s, xw = self.s, self.node.inputs[0]
        assert xw is not None
        self._declare()
        with s.block("for q in range(begin, end):"):
            s.line(f"d = idiv(q, blocks)\nr0 = (q - d * blocks) * {ROWS}")
            s.line(f"rn = imin({ROWS}, rows - r0)")
            self._initial_state()
            walks = reversed_directions(self.node.attrs["direction"])
            s.line("back = d" if len(walks) == 2 else f"back = {int(walks[0])}")
            with s.block("for k in range(steps):"):
                self._load_gates()
                self._recurrence()
                self._update()
            self._finish()
        return s.finish(xw.shape[2] * ceil_div(self.rows, ROWS))

    def _declare(self) -> None:
        s, node = self.s, self.node
        xw, r = node.operands[:2]
        s.operand("xw", 0)
        s.operand("rw", 1)
        for k, name in enumerate(OPERANDS[self.op]):
            if self.has[name]:
                s.operand(_OPTIONAL[name], k + 2)
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
        held = 1 if self.one_row else ROWS
        size = 8 if self.kind == "f64" else 4
        s.scratch("g", self.kind, hidden * self.gates * held, size)
        for name in self.states:
            s.scratch(name, self.kind, hidden * held, size)
        if self._resets_first():
            s.scratch("rh", self.kind, hidden * held, size)

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
        if not self._resets_first():
            self._product("h", "0", "cols")
            return
        self._product("h", "0", "2 * hid")
        self._per_direction(self._reset)
        self._product("rh", "2 * hid", "cols")

    def _reset(self, d: int) -> None:
        """rh = reset gate * h."""
        s = self.s
        with s.block("for r in range(rn):"), s.block("for j in range(hid):"):
            s.line(f"zr = {self._clip('ld(g, r * cols + hid + j)')}")
            gate = _activation(self.kind, self.node.attrs["activations"][2 * d], "zr")
            s.line(f"st(rh, r * hid + j, {gate} * ld(h, r * hid + j))")

    def _product(self, state: str, lo: str, hi: str) -> None:
        """g[:, lo:hi] += state R[d, :, lo:hi]."""
        s = self.s
        if self.one_row:
            s.line("r = 0")
            self._passes(state, 1, lo, hi)
            return
        with s.block(f"if rn == {ROWS}:"):
            s.line("r = 0")
            self._passes(state, ROWS, lo, hi)
        with s.block("else:"), s.block("for r in range(rn):"):
            self._passes(state, 1, lo, hi)

    def _passes(self, state: str, rows: int, lo: str, hi: str) -> None:
        s, unroll = self.s, _UNROLL[rows]
        s.line("u = 0")
        for step in (unroll, 1):
            with s.block(f"while u + {step} <= hid:"):
                for i in range(rows):
                    for e in range(step):
                        s.line(f"v{i}{e} = ld({state}, (r + {i}) * hid + u + {e})")
                s.line("rb0 = (d * hid + u) * cols")
                with s.block(f"for j in range({lo}, {hi}):"):
                    for e in range(step):
                        s.line(f"w{e} = ld(rw, rb0 + {e} * cols + j)")
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
        self._per_direction({"lstm": self._lstm, "gru": self._gru, "rnn": self._rnn}[self.op])

    def _rows_alive(self, d: int, body: Callable[[int], None]) -> None:
        """One loop over rows that are not over yet, and in it one over the hidden units."""
        s = self.s
        with s.block("for r in range(rn):"):
            self._row_time()
            with s.block("if k < n:"):
                s.line("yb = ((t * dirs + d) * rows + r0 + r) * hid\ngb = r * cols\nsb = r * hid")
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
                value = f"ld(g, gb + {k} * hid + j)"
                if peep is None or not self.has["peep"]:
                    return value
                return f"{value} + ld(pe, (d * 3 + {peep}) * hid + j) * {cell}"

            s.line("ce = ld(c, sb + j)")
            self._act(3 * d, "gi", gate(0, 0, "ce"))
            if self.node.attrs["input_forget"]:
                s.line(f"gf = {self.kind}(1.0) - gi")
            else:
                self._act(3 * d, "gf", gate(2, 2, "ce"))
            self._act(3 * d + 1, "gc", gate(3, None, ""))
            s.line("cn2 = gf * ce + gi * gc")
            self._act(3 * d, "go", gate(1, 1, "cn2"))
            self._act(3 * d + 2, "ch", "cn2")
            s.line("hv = go * ch\nst(c, sb + j, cn2)\nst(h, sb + j, hv)\nst(y, yb + j, hv)")

        self._rows_alive(d, body)

    def _gru(self, d: int) -> None:
        def body(d: int) -> None:
            s = self.s
            self._act(2 * d, "gz", "ld(g, gb + j)")
            inner = "ld(g, gb + 2 * hid + j)"
            if not self._resets_first():
                self._act(2 * d, "gr", "ld(g, gb + hid + j)")
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
                    s.line("zb = ((tz * dirs + d) * rows + r0 + r) * hid")
                    with s.block("for j in range(hid):"):
                        s.line(f"st(y, zb + j, {self.kind}(0.0))")
            s.line("ob = (d * rows + r0 + r) * hid")
            for name in self.states:
                with s.block("for j in range(hid):"):
                    s.line(f"st({name}n, ob + j, ld({name}, r * hid + j))")


@opaque("lstm", "gru", "rnn")
def recurrent(node: Node, target: Target) -> OpaqueKernel:
    """The recurrence of one layer, all directions."""
    return _Recurrence(node).build()
