"""Packing the right-hand matrix of a contraction into panels ``[ceil(n / nr)][k][nr]``.

A panel holds ``nr`` columns, row by row, so that the GEMM tile reads it front to back with unit
stride (K. Goto and R. van de Geijn, 2008); columns beyond ``n`` are zero. Constants are packed once
by NumPy (``pack_b``); values computed at run time (attention) by a compiled kernel with two fast
paths: rows with unit stride are copied vector by vector, and columns with unit stride (``B`` given
transposed) are transposed in registers, ``width`` by ``width`` elements in log2(width) rounds of
two-input shuffles (the butterfly of J. Eklundh, 1972). Other strides are copied one by one.

The same butterfly turns any matrix (``turn_text``); blocks at its edges are read and written under
masks.
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
            code.branch(
                rows,
                lambda: code.branch(
                    full,
                    lambda: self._copy_rows(origin, to, None),
                    lambda: self._copy_rows(origin, to, self._mask(left)),
                ),
                lambda: code.branch(
                    columns,
                    lambda: self._transpose(origin, to, left),
                    lambda: self._one_by_one(origin, to, left),
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

    def _transpose(self, origin: str, to: str, left: str) -> None:
        """Blocks of ``width`` k by ``width`` columns, of which ``left`` are there."""
        code, width = self.code, self.width

        def block(k: str, _: Carried) -> Carried:
            sources = rows_from(code, self.kind, code.at(self.kind, origin, k), "%sn", width)
            first = code.at(self.kind, to, code.let(f"mul nsw i64 {k}, {self.nr}"))
            targets = rows_from(code, self.kind, first, self.nr, width)
            steps = code.let(f"sub nsw i64 %k, {k}")
            turn_block(code, self.kind, sources, targets, left, steps, filled=True)
            return []

        code.loop(0, "%k", width, [], block)

    def _one_by_one(self, origin: str, to: str, left: str) -> None:
        """All k, element by element; zero from column ``left`` on."""
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
        code.loop(0, "%k", 1, [], row)


def butterfly(code: Code, vector: str, rows: list[str]) -> list[str]:
    """Transposes as many vectors as they have lanes: swaps off-diagonal blocks of 1, 2, 4, ...
    lanes."""
    width, distance = len(rows), 1
    while distance < width:
        swapped = list(rows)
        for i in range(width):
            if i & distance:
                continue
            a, b = rows[i], rows[i + distance]
            low = [lane if not lane & distance else width + lane - distance
                   for lane in range(width)]
            high = [lane + distance if not lane & distance else width + lane
                    for lane in range(width)]
            swapped[i] = code.shuffle(vector, a, b, low)
            swapped[i + distance] = code.shuffle(vector, a, b, high)
        rows, distance = swapped, distance * 2
    return rows


def rows_from(code: Code, kind: str, base: str, step: str | int, count: int) -> list[str]:
    """Addresses of ``count`` rows, ``step`` elements apart."""
    return [code.at(kind, base, code.let(f"mul nsw i64 {step}, {r}")) for r in range(count)]


def turn_block(code: Code, kind: str, sources: list[str], targets: list[str], rows: str,
               columns: str, filled: bool = False) -> None:
    """Transposes the first ``rows`` by ``columns`` elements of a block as large as the vectors;
    with ``filled``, rows that are missing become zeros in what is written."""
    width = len(sources)
    vector, size = f"<{width} x {kind}>", SIZES[kind]

    def masks(lanes: str, count: str) -> list[str]:
        """Per row: the first ``lanes`` lanes, none from row ``count`` on."""
        kept, kind = code.lane_mask(width, lanes), f"<{width} x i1>"
        return [code.let(f"select i1 {code.let(f'icmp slt i64 {r}, {count}')}, {kind} {kept}, "
                         f"{kind} zeroinitializer") for r in range(width)]

    def whole() -> None:
        loaded = [code.load(vector, at, size) for at in sources]
        for at, value in zip(targets, butterfly(code, vector, loaded)):
            code.store(vector, value, at, size)

    def edge() -> None:
        loaded = [code.masked_load(kind, width, at, mask)
                  for at, mask in zip(sources, masks(columns, rows))]
        lanes = str(width) if filled else rows
        turned = butterfly(code, vector, loaded)
        for at, value, mask in zip(targets, turned, masks(lanes, columns)):
            code.masked_store(kind, width, value, at, mask)

    code.branch(code.let(f"icmp sge i64 {code.least(rows, columns)}, {width}"), whole, edge)


def turn_text(name: str, target: Target) -> str:
    """LLVM IR of ``turn(src, lds, m, n, dst, ldd)``: ``dst[j, i] = src[i, j]`` of float32 for
    ``i < m`` and ``j < n``; rows are ``lds`` and ``ldd`` elements apart."""
    width = target.lanes(32)
    code = Code(name, [("ptr noalias readonly", "src"), ("i64", "lds"), ("i64", "m"), ("i64", "n"),
                       ("ptr noalias", "dst"), ("i64", "ldd")], target)  # fmt: skip

    def corner(base: str, row: str, step: str, column: str) -> list[str]:
        at = code.let(f"add nsw i64 {code.let(f'mul nsw i64 {row}, {step}')}, {column}")
        return rows_from(code, "float", code.at("float", base, at), step, width)

    def across(i: str, _: Carried) -> Carried:
        rows = code.let(f"sub nsw i64 %m, {i}")

        def along(j: str, _: Carried) -> Carried:
            columns = code.let(f"sub nsw i64 %n, {j}")
            turn_block(code, "float", corner("%src", i, "%lds", j), corner("%dst", j, "%ldd", i),
                       rows, columns)
            return []

        code.loop(0, "%n", width, [], along)
        return []

    code.loop(0, "%m", width, [], across)
    return code.text()
