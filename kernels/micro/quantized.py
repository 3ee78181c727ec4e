"""Exact integer GEMM tile: ``C[r, :] = sum over taps and k of A_t[r, k] B[t, k, :]`` in 32 bits.

A holds unsigned bytes, B signed bytes, C wraps in int32; rows come through a table of addresses as
in ``gemm``. Other signedness is a shift of zero points by 128, which the caller folds into the
correction it makes for them anyway: with ``flip`` the tile reads signed bytes and adds 128 to each
(an exclusive or of the sign bit), and unsigned weights are packed as ``b - 128``.

Four consecutive k travel as one 32-bit lane. Where the processor has AVX-512 VNNI one ``vpdpbusd``
per vector does the four products and their sum without saturation. Other x86 processors widen
both sides to 16 bits, even and odd bytes apart, and use ``pmaddwd`` twice, exact since
``2 * 255 * 128 < 2^31`` (the byte instruction ``pmaddubsw`` saturates and is not used). Elsewhere
the four products are 32-bit multiplications. A is read four bytes at a time, so up to three bytes
behind a row are read (they meet zeros in B): buffers need that much slack at their end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...ir.target import Target
from .irtext import Carried, Code

GROUP = 4
"""Successive k that share one 32-bit lane."""
_MADD = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}
_LOW = 0x00FF00FF


def pack_b_i8(w: npt.NDArray[np.int8], nr: int) -> npt.NDArray[np.int8]:
    """``w[taps, K, N]`` as panels ``[ceil(N / nr), taps, ceil(K / 4), nr, 4]``, zero-padded."""
    taps, k, n = w.shape
    groups, panels = -(-k // GROUP), -(-n // nr)
    padded = np.zeros((taps, groups * GROUP, panels * nr), np.int8)
    padded[:, :k, :n] = w
    split = padded.reshape(taps, groups, GROUP, panels, nr)
    return np.ascontiguousarray(split.transpose(3, 0, 1, 4, 2))


class _Multiplier:
    """How four byte products are added to a 32-bit lane on one target."""

    def __init__(self, code: Code, target: Target, width: int) -> None:
        self.code, self.width = code, width
        self.vector = f"<{width} x i32>"
        self.bytes = f"<{4 * width} x i8>"
        self.halves = f"<{2 * width} x i16>"
        self.vnni = target.has("avx512vnni") and target.vector_bits >= 512
        self.madd = "" if target.arch != "x86_64" else f"llvm.x86.{_MADD[width]}"

    def prepare(self, value: str, signed: bool) -> tuple[str, ...]:
        """What of a vector (of A unsigned, of B signed) is shared by many products."""
        if self.vnni:
            return (self._cast(self.vector, value, self.bytes),)
        if self.madd:
            return self._halves(value, signed)
        return tuple(self._byte(value, j, signed) for j in range(GROUP))

    def _cast(self, source: str, value: str, target: str) -> str:
        return self.code.let(f"bitcast {source} {value} to {target}")

    def _splat(self, number: int) -> str:
        return "<" + ", ".join([f"i32 {number}"] * self.width) + ">"

    def _halves(self, value: str, signed: bool) -> tuple[str, ...]:
        """Even and odd bytes as 16-bit lanes."""
        if not signed:
            odd = self.code.let(f"lshr {self.vector} {value}, {self._splat(8)}")
            parts = [
                self.code.let(f"and {self.vector} {part}, {self._splat(_LOW)}")
                for part in (value, odd)
            ]
            return tuple(self._cast(self.vector, part, self.halves) for part in parts)
        whole = self._cast(self.vector, value, self.halves)
        eight = "<" + ", ".join(["i16 8"] * (2 * self.width)) + ">"
        up = self.code.let(f"shl {self.halves} {whole}, {eight}")
        return tuple(self.code.let(f"ashr {self.halves} {part}, {eight}") for part in (up, whole))

    def _byte(self, value: str, j: int, signed: bool) -> str:
        shifted = self.code.let(f"shl {self.vector} {value}, {self._splat(24 - 8 * j)}")
        how = "ashr" if signed else "lshr"
        return self.code.let(f"{how} {self.vector} {shifted}, {self._splat(24)}")

    def accumulate(self, acc: str, a: tuple[str, ...], b: tuple[str, ...]) -> str:
        """``acc`` plus the four products of each lane."""
        code, vector = self.code, self.vector
        if self.vnni:
            name = f"llvm.x86.avx512.vpdpbusd.{32 * self.width}"
            code.declare(f"{vector} @{name}({vector}, {self.bytes}, {self.bytes})")
            return code.let(
                f"call {vector} @{name}({vector} {acc}, {self.bytes} {a[0]}, {self.bytes} {b[0]})"
            )
        for x, y in zip(a, b):
            if self.madd:
                code.declare(f"{vector} @{self.madd}({self.halves}, {self.halves})")
                product = code.let(
                    f"call {vector} @{self.madd}({self.halves} {x}, {self.halves} {y})"
                )
            else:
                product = code.let(f"mul {vector} {x}, {y}")
            acc = code.let(f"add {vector} {acc}, {product}")
        return acc


def igemm_i8_text(
    name: str, target: Target, mr: int, nv: int, half: bool, panel_nv: int, flip: bool
) -> str:
    """LLVM IR of a tile of ``mr`` rows and ``nv`` of the ``panel_nv`` vectors of a panel, and
    ``half`` a one.

    Arguments as in ``gemm``; ``klen`` counts elements, and each tap of B holds
    ``ceil(klen / 4)`` groups.
    """
    width = target.lanes(32)
    nr = panel_nv * width
    code = Code(
        name,
        [
            ("ptr noalias readonly", "rows"), ("i64", "taps"), ("i64", "klen"),
            ("ptr noalias readonly", "b"), ("ptr noalias", "c"), ("i64", "ldc"),
        ],
        target,
    )  # fmt: skip
    columns = [_Multiplier(code, target, lanes) for lanes in [width] * nv + [width // 2] * half]
    count = len(columns)
    kinds = [*[column.vector for column in columns] * mr, "ptr"]

    def tap(index: str, values: Carried) -> Carried:
        table = code.at("i64", "%rows", code.let(f"mul nsw i64 {index}, {mr}"))
        rows = [code.load("ptr", code.at("i64", table, r), 8) for r in range(mr)]

        def group(k: str, values: Carried) -> Carried:
            acc, panel = list(values[:-1]), values[-1]
            bs = [
                column.prepare(
                    code.load(column.vector, code.at("i32", panel, v * width), 4), signed=True
                )
                for v, column in enumerate(columns)
            ]
            for r in range(mr):
                word = code.load("i32", code.at("i8", rows[r], k), 1)
                if flip:
                    word = code.let(f"xor i32 {word}, {0x80808080 - (1 << 32)}")
                shared: dict[int, tuple[str, ...]] = {}
                for v, column in enumerate(columns):
                    if column.width not in shared:
                        splat = code.splat("i32", column.width, word)
                        shared[column.width] = column.prepare(splat, signed=False)
                    cell = r * count + v
                    acc[cell] = column.accumulate(acc[cell], shared[column.width], bs[v])
            return [*acc, code.at("i32", panel, nr)]

        return code.loop(0, "%klen", GROUP, list(zip(kinds, values)), group)

    start = [*((kind, "zeroinitializer") for kind in kinds[:-1]), ("ptr", "%b")]
    result = code.loop(0, "%taps", 1, start, tap)
    for r in range(mr):
        row = code.at("i32", "%c", code.let(f"mul nsw i64 %ldc, {r}"))
        for v, column in enumerate(columns):
            value = result[r * count + v]
            code.store(column.vector, value, code.at("i32", row, v * width), 4)
    return code.text()


def pack_i8_text(name: str, target: Target, nv: int) -> str:
    """LLVM IR of ``pack(src, stride_k, stride_n, k, n, dst, bias)``: one tap, any strides.

    Every byte has ``bias`` (0, or 128 for unsigned weights) subtracted.
    """
    nr = nv * target.lanes(32)
    code = Code(
        name,
        [
            ("ptr noalias readonly", "src"), ("i64", "sk"), ("i64", "sn"), ("i64", "k"),
            ("i64", "n"), ("ptr noalias", "dst"), ("i64", "bias"),
        ],
        target,
    )  # fmt: skip
    less = code.let("trunc i64 %bias to i8")
    columns = code.let(f"sdiv i64 {code.let(f'add nsw i64 %n, {nr - 1}')}, {nr}")
    columns = code.let(f"mul nsw i64 {columns}, {nr}")
    groups = code.let("sdiv i64 " + code.let(f"add nsw i64 %k, {GROUP - 1}") + f", {GROUP}")
    depth = code.let(f"mul nsw i64 {groups}, {GROUP}")

    def column(j: str, _: Carried) -> Carried:
        panel = code.let(f"mul nsw i64 {code.let(f'udiv i64 {j}, {nr}')}, {depth}")
        panel = code.let(f"mul nsw i64 {panel}, {nr}")
        lane = code.let(f"mul nsw i64 {code.let(f'urem i64 {j}, {nr}')}, {GROUP}")
        base = code.at("i8", "%dst", code.let(f"add nsw i64 {panel}, {lane}"))
        source = code.at("i8", "%src", code.let(f"mul nsw i64 {j}, %sn"))
        inside = code.let(f"icmp slt i64 {j}, %n")
        limit = code.let(f"select i1 {inside}, i64 %k, i64 0")

        def address(k: str) -> str:
            row = code.let(f"mul nsw i64 {code.let(f'udiv i64 {k}, {GROUP}')}, {nr * GROUP}")
            return code.at("i8", base, code.let(f"add nsw i64 {row}, " + code.let(
                f"urem i64 {k}, {GROUP}")))  # fmt: skip

        def element(k: str, _: Carried) -> Carried:
            value = code.load("i8", code.at("i8", source, code.let(f"mul nsw i64 {k}, %sk")), 1)
            code.store("i8", code.let(f"sub i8 {value}, {less}"), address(k), 1)
            return []

        def blank(k: str, _: Carried) -> Carried:
            code.store("i8", "0", address(k), 1)
            return []

        code.loop(0, limit, 1, [], element)
        code.loop(limit, depth, 1, [], blank)
        return []

    code.loop(0, columns, 1, [], column)
    return code.text()
