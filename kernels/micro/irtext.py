"""A writer of LLVM IR text for micro-kernels: values in SSA form, counted loops, vector operations.

Micro-kernels are small and fixed, so they are written as text: no Numba, no llvmlite object graph.
``Code.loop`` is the only control structure: a counted loop whose carried values become phi nodes,
guarded against zero trips.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from ...ir.target import Target

Carried = list[str]

SIZES = {"float": 4, "double": 8, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "half": 2}
"""Bytes of the scalar LLVM types used here."""
IN_ORDER = '"evonnx-in-order"'
"""Attribute of a function whose instructions are to stay in their order. LLVM's scheduler moves
loads ahead, which a tile that fills the registers has no room for: it then keeps some of its sums
in memory."""


class Code:
    """The text of one LLVM function under construction."""

    def __init__(self, name: str, parameters: Sequence[tuple[str, str]], target: Target,
                 in_order: bool = False) -> None:
        """Start ``void name(parameters)``; a parameter is ``(type with attributes, name)``;
        ``in_order``: see ``IN_ORDER``."""
        self._lines: list[str] = []
        self._count = 0
        self._declared: set[str] = set()
        self._attributes = f'nounwind "prefer-vector-width"="{target.vector_bits}"'
        if in_order:
            self._attributes += f" {IN_ORDER}"
        shown = ", ".join(f"{kind} %{label}" for kind, label in parameters)
        self._head = f"define void @{name}({shown}) #0 {{"
        self.block = "entry"
        self._lines.append("entry:")

    def let(self, text: str) -> str:
        """Append ``%n = text`` and return ``%n``."""
        self._count += 1
        name = f"%v{self._count}"
        self._lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Append an instruction without a result."""
        self._lines.append(f"  {text}")

    def label(self, stem: str) -> str:
        """A fresh block name."""
        self._count += 1
        return f"{stem}{self._count}"

    def place(self, label: str) -> None:
        """Start the block ``label``."""
        self._lines.append(f"{label}:")
        self.block = label

    def declare(self, text: str) -> None:
        """Declare an intrinsic once: ``float @llvm.fma.f32(float, float, float)``."""
        self._declared.add(f"declare {text}")

    def text(self) -> str:
        """The finished module text; the function returns at its current end."""
        body = "\n".join([self._head, *self._lines, "  ret void", "}", *sorted(self._declared)])
        return f"{body}\nattributes #0 = {{ {self._attributes} }}\n"

    # --- control ----------------------------------------------------------------------------------

    def loop(
        self,
        start: str | int,
        stop: str | int,
        step: int,
        carried: Sequence[tuple[str, str]],
        body: Callable[[str, Carried], Carried],
    ) -> Carried:
        """``for i in range(start, stop, step)``: ``body(i, values)`` gives the next values.

        ``carried`` holds ``(type, initial value)``. Returns the values after the last trip.
        """
        before, head, leave = self.block, self.label("loop"), self.label("next")
        enter = self.let(f"icmp slt i64 {start}, {stop}")
        self.do(f"br i1 {enter}, label %{head}, label %{leave}")
        self.place(head)
        phis = [f"%p{self._fresh()}" for _ in range(len(carried) + 1)]
        at = len(self._lines)
        after = body(phis[0], phis[1:])
        following = self.let(f"add nsw i64 {phis[0]}, {step}")
        again = self.let(f"icmp slt i64 {following}, {stop}")
        latch = self.block
        self.do(f"br i1 {again}, label %{head}, label %{leave}")
        kinds = ["i64", *(kind for kind, _ in carried)]
        first = [str(start), *(value for _, value in carried)]
        self._lines[at:at] = [
            f"  {phi} = phi {kind} [ {a}, %{before} ], [ {b}, %{latch} ]"
            for phi, kind, a, b in zip(phis, kinds, first, [following, *after])
        ]
        self.place(leave)
        return [
            self.let(f"phi {kind} [ {a}, %{before} ], [ {b}, %{latch} ]")
            for (kind, a), b in zip(carried, after)
        ]

    def branch(
        self, condition: str, yes: Callable[[], None], no: Callable[[], None] | None = None
    ) -> None:
        """Run ``yes`` where ``condition`` (i1) holds, else ``no``; neither yields a value."""
        then, other, done = self.label("then"), self.label("else"), self.label("join")
        self.do(f"br i1 {condition}, label %{then}, label %{other}")
        self.place(then)
        yes()
        self.do(f"br label %{done}")
        self.place(other)
        if no is not None:
            no()
        self.do(f"br label %{done}")
        self.place(done)

    def when(
        self, condition: str, kinds: Sequence[str], values: Carried, body: Callable[[], Carried]
    ) -> Carried:
        """The values of ``body`` (of types ``kinds``) where ``condition`` (i1) holds, else
        ``values``."""
        before, then, done = self.block, self.label("then"), self.label("join")
        self.do(f"br i1 {condition}, label %{then}, label %{done}")
        self.place(then)
        after = body()
        latch = self.block
        self.do(f"br label %{done}")
        self.place(done)
        return [
            self.let(f"phi {kind} [ {a}, %{before} ], [ {b}, %{latch} ]")
            for kind, a, b in zip(kinds, values, after)
        ]

    def _fresh(self) -> int:
        self._count += 1
        return self._count

    def least(self, a: str, b: str) -> str:
        """The smaller of two signed i64."""
        return self.let(f"select i1 {self.let(f'icmp slt i64 {a}, {b}')}, i64 {a}, i64 {b}")

    # --- memory and vectors -----------------------------------------------------------------------

    def at(self, kind: str, base: str, index: str | int) -> str:
        """Address of element ``index`` of ``base``."""
        return self.let(f"getelementptr {kind}, ptr {base}, i64 {index}")

    def opaque(self, kind: str, value: str) -> str:
        """The same value, of which LLVM does not know how it came about: addresses in a loop that
        are computed from it get no counters of their own, for which registers would be lacking."""
        return self.let(f"freeze {kind} {value}")

    def load(self, kind: str, address: str, align: int) -> str:
        """Load a value with the given alignment in bytes."""
        return self.let(f"load {kind}, ptr {address}, align {align}")

    def store(self, kind: str, value: str, address: str, align: int) -> None:
        """Store a value with the given alignment in bytes."""
        self.do(f"store {kind} {value}, ptr {address}, align {align}")

    def prefetch(self, address: str, write: bool = False, near: bool = False) -> None:
        """Ask for the cache line at ``address``, to read or to ``write``, in the level-2 cache or
        ``near``, in the level-1 cache; any address is allowed."""
        self.declare("void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        how = f"i32 {int(write)}, i32 {2 + near}, i32 1"
        self.do(f"call void @llvm.prefetch.p0(ptr {address}, {how})")

    def splat(self, kind: str, width: int, scalar: str) -> str:
        """A vector with ``scalar`` in every lane."""
        vector = f"<{width} x {kind}>"
        one = self.let(f"insertelement {vector} poison, {kind} {scalar}, i32 0")
        return self.shuffle(vector, one, "poison", [0] * width)

    def number(self, kind: str, width: int, value: float) -> str:
        """A vector with the number ``value``, of ``kind`` float or double, in every lane."""
        if kind == "float":  # written as the float64 of the same value
            value = struct.unpack("f", struct.pack("f", value))[0]
        return self.splat(kind, width, f"0x{struct.unpack('Q', struct.pack('d', value))[0]:016X}")

    def shuffle(self, vector: str, a: str, b: str, lanes: Sequence[int]) -> str:
        """Lanes of ``a`` then ``b`` picked by number."""
        picked = ", ".join(f"i32 {lane}" for lane in lanes)
        return self.let(
            f"shufflevector {vector} {a}, {vector} {b}, <{len(lanes)} x i32> <{picked}>"
        )

    def multiply_add(self, vector: str, acc: str, a: str, b: str) -> str:
        """``acc + a b``, fused where the target can."""
        product = self.let(f"fmul contract {vector} {a}, {b}")
        return self.let(f"fadd contract {vector} {acc}, {product}")

    def limited(self, kind: str, lanes: Sequence[int], values: Carried) -> Carried:
        """Vectors of so many ``lanes`` each, between the arguments ``%lo`` and ``%hi``; NaN stays
        NaN. A limit that is infinite costs a branch for all of them."""
        kinds = [f"<{n} x {kind}>" for n in lanes]
        for limit, sign, end in (("%lo", "lt", "0xFFF0000000000000"),
                                 ("%hi", "gt", "0x7FF0000000000000")):
            def body(limit: str = limit, sign: str = sign, inner: Carried = values) -> Carried:
                splats = {n: self.splat(kind, n, limit) for n in dict.fromkeys(lanes)}
                result = []
                for n, vector, value in zip(lanes, kinds, inner, strict=True):
                    beyond = self.let(f"fcmp o{sign} {vector} {value}, {splats[n]}")
                    result.append(self.let(f"select <{n} x i1> {beyond}, {vector} {splats[n]}, "
                                           f"{vector} {value}"))
                return result

            there = self.let(f"fcmp one {kind} {limit}, {end}")
            values = self.when(there, kinds, values, body)
        return values

    def lane_mask(self, width: int, count: str) -> str:
        """``<width x i1>``: lanes below ``count`` (an i64)."""
        vector = f"<{width} x i64>"
        numbers = ", ".join(f"i64 {lane}" for lane in range(width))
        limit = self.splat("i64", width, count)
        return self.let(f"icmp slt {vector} <{numbers}>, {limit}")

    def masked_load(self, kind: str, width: int, address: str, mask: str) -> str:
        """Lanes under ``mask`` from memory, zero elsewhere; untouched memory is never read."""
        vector, align = f"<{width} x {kind}>", SIZES[kind]
        name = f"llvm.masked.load.v{width}{_short(kind)}.p0"
        self.declare(f"{vector} @{name}(ptr, <{width} x i1>, {vector})")
        return self.let(
            f"call {vector} @{name}(ptr align {align} {address}, <{width} x i1> {mask}, "
            f"{vector} zeroinitializer)"
        )

    def masked_store(self, kind: str, width: int, value: str, address: str, mask: str) -> None:
        """Store the lanes under ``mask``."""
        vector, align = f"<{width} x {kind}>", SIZES[kind]
        name = f"llvm.masked.store.v{width}{_short(kind)}.p0"
        self.declare(f"void @{name}({vector}, ptr, <{width} x i1>)")
        self.do(
            f"call void @{name}({vector} {value}, ptr align {align} {address}, "
            f"<{width} x i1> {mask})"
        )


def _short(kind: str) -> str:
    return {"float": "f32", "double": "f64", "half": "f16"}.get(kind, kind)
