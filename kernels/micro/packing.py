"""Packing the right-hand matrix of a contraction into panels ``[ceil(n / nr)][k][nr]``.

A panel holds ``nr`` columns, row by row, so that the GEMM tile reads it front to back with unit
stride (K. Goto and R. van de Geijn, 2008); columns beyond ``n`` are zero. Constants are packed once
by NumPy (``pack_b``); values computed at run time (attention) by a compiled kernel with two fast
paths: rows with unit stride are copied vector by vector, and columns with unit stride (``B`` given
transposed) are transposed in registers, ``width`` by ``width`` elements in log2(width) rounds of
two-input shuffles (the butterfly of J. Eklundh, 1972). Other strides are copied one by one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...ir.target import Target
from .irtext import SIZES, Carried, Code

_LLVM = {"f32": "float", "f64": "double"}


def pack_b(w: npt.NDArray[np.generic], nr: int) -> npt.NDArray[np.generic]:
    """``w[K, N]`` as panels ``[ceil(N / nr), K, nr]``, zero where a panel is wider than ``w``."""
    k, n = w.shape
    panels = -(-n // nr)
    padded = np.zeros((k, panels * nr), w.dtype)
    padded[:, :n] = w
    return np.ascontiguousarray(padded.reshape(k, panels, nr).transpose(1, 0, 2))


def pack_b_text(name: str, target: Target, dtype: str, nv: int) -> str:
    """LLVM IR of ``pack(src, stride_k, stride_n, k, n, dst)``; strides in elements."""
    return _Packer(name, target, dtype, nv).text()


class _Packer:
    def __init__(self, name: str, target: Target, dtype: str, nv: int) -> None:
        self.kind = _LLVM[dtype]
        self.size = SIZES[self.kind]
        self.width, self.nv = target.lanes(8 * self.size), nv
        self.nr = nv * self.width
        self.vector = f"<{self.width} x {self.kind}>"
        parameters = [
            ("ptr noalias readonly", "src"), ("i64", "sk"), ("i64", "sn"), ("i64", "k"),
            ("i64", "n"), ("ptr noalias", "dst"),
        ]  # fmt: skip
        self.code = Code(name, parameters, target)

    def text(self) -> str:
        code = self.code
        panel_size = code.let(f"mul nsw i64 %k, {self.nr}")

        def vector_of_columns(first: str, _: Carried) -> Carried:
            """``width`` columns from ``first`` on, all k; ``first`` is a multiple of width."""
            panel = code.let(f"udiv i64 {first}, {self.nr}")
            inside = code.let(f"urem i64 {first}, {self.nr}")
            offset = code.let(f"mul nsw i64 {panel}, {panel_size}")
            to = code.at(self.kind, "%dst", code.let(f"add nsw i64 {offset}, {inside}"))
            origin = code.at(self.kind, "%src", code.let(f"mul nsw i64 {first}, %sn"))
            left = code.let(f"sub i64 %n, {first}")
            rows = code.let("icmp eq i64 %sn, 1")
            full = code.let(f"icmp sge i64 {left}, {self.width}")
            columns = code.let("icmp eq i64 %sk, 1")
            columns = code.let(f"and i1 {columns}, {full}")
            code.branch(
                rows,
                lambda: code.branch(
                    full,
                    lambda: self._copy_rows(origin, to, None),
                    lambda: self._copy_rows(origin, to, self._mask(left)),
                ),
                lambda: code.branch(
                    columns,
                    lambda: self._transpose(origin, to),
                    lambda: self._one_by_one(origin, to, left, "0"),
                ),
            )
            return []

        rounded = code.let(f"add nsw i64 %n, {self.nr - 1}")
        panels = code.let(f"sdiv i64 {rounded}, {self.nr}")
        columns = code.let(f"mul nsw i64 {panels}, {self.nr}")
        code.loop(0, columns, self.width, [], vector_of_columns)
        return code.text()

    def _mask(self, left: str) -> str:
        return self.code.lane_mask(self.width, left)

    def _copy_rows(self, origin: str, to: str, mask: str | None) -> None:
        code = self.code

        def row(k: str, _: Carried) -> Carried:
            source = code.at(self.kind, origin, code.let(f"mul nsw i64 {k}, %sk"))
            if mask is None:
                value = code.load(self.vector, source, self.size)
            else:
                value = code.masked_load(self.kind, self.width, source, mask)
            self._store(to, k, value)
            return []

        code.loop(0, "%k", 1, [], row)

    def _store(self, to: str, k: str, value: str) -> None:
        code = self.code
        address = code.at(self.kind, to, code.let(f"mul nsw i64 {k}, {self.nr}"))
        code.store(self.vector, value, address, self.size)

    def _transpose(self, origin: str, to: str) -> None:
        """Blocks of ``width`` k by ``width`` columns; the rest of k one by one."""
        code, width = self.code, self.width
        whole = code.let(f"and i64 %k, {-width}")

        def block(k: str, _: Carried) -> Carried:
            rows = []
            for column in range(width):
                at = code.let(f"mul nsw i64 %sn, {column}")
                source = code.at(self.kind, origin, code.let(f"add nsw i64 {at}, {k}"))
                rows.append(code.load(self.vector, source, self.size))
            for step, row in enumerate(self._butterfly(rows)):
                self._store(to, code.let(f"add nsw i64 {k}, {step}"), row)
            return []

        code.loop(0, whole, width, [], block)
        self._one_by_one(origin, to, str(width), whole)

    def _butterfly(self, rows: list[str]) -> list[str]:
        """Transpose ``width`` vectors: swap off-diagonal blocks of 1, 2, 4, ... lanes."""
        width, distance = self.width, 1
        while distance < width:
            swapped = list(rows)
            for i in range(width):
                if i & distance:
                    continue
                a, b = rows[i], rows[i + distance]
                low = [
                    lane if not lane & distance else width + lane - distance
                    for lane in range(width)
                ]
                high = [
                    lane + distance if not lane & distance else width + lane
                    for lane in range(width)
                ]
                swapped[i] = self.code.shuffle(self.vector, a, b, low)
                swapped[i + distance] = self.code.shuffle(self.vector, a, b, high)
            rows, distance = swapped, distance * 2
        return rows

    def _one_by_one(self, origin: str, to: str, left: str, start: str) -> None:
        """Rows ``start`` to k, element by element; zero from column ``left`` on."""
        code = self.code

        def row(k: str, _: Carried) -> Carried:
            base = code.let(f"mul nsw i64 {k}, %sk")
            target = code.at(self.kind, to, code.let(f"mul nsw i64 {k}, {self.nr}"))

            def element(column: str, _: Carried) -> Carried:
                at = code.let(f"mul nsw i64 {column}, %sn")
                source = code.at(self.kind, origin, code.let(f"add nsw i64 {at}, {base}"))
                value = code.load(self.kind, source, self.size)
                code.store(self.kind, value, code.at(self.kind, target, column), self.size)
                return []

            def blank(column: str, _: Carried) -> Carried:
                address = code.at(self.kind, target, column)
                code.store(self.kind, "0.0", address, self.size)
                return []

            code.loop(0, used, 1, [], element)
            code.loop(used, self.width, 1, [], blank)
            return []

        inside = code.let(f"icmp slt i64 {left}, {self.width}")
        some = code.let(f"select i1 {inside}, i64 {left}, i64 {self.width}")
        positive = code.let(f"icmp sgt i64 {some}, 0")
        used = code.let(f"select i1 {positive}, i64 {some}, i64 0")
        code.loop(start, "%k", 1, [], row)
