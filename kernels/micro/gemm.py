"""Indirect GEMM tiles: the contraction inside matrix products and convolutions.

One call computes ``C[r, :] = sum over taps t and k of A_t[r, k] B[t, k, :]`` for ``mr`` rows and
one panel of ``nr`` columns. A row of A is reached through a table of addresses (M. Dukhan, "The
Indirect Convolution Algorithm", 2019): for a matrix product there is one tap whose addresses are
rows; for a convolution over channels-last images there is one tap per kernel element, and a row is
the channels of one input pixel (zeros outside the image). So no im2col is ever written.

The ``mr * nv`` accumulator vectors stay in registers over all taps and k (K. Goto and R. van de
Geijn, 2008): each step loads ``nv`` vectors of the packed panel and broadcasts ``mr`` scalars. Tile
sizes by register file: 14x2 vectors for 32 registers of 512 bits, 6x2 for 16 registers, 8x2 for 32
registers of 128 bits. Few rows leave the multiply-add latency exposed, so tiles of up to 4 rows
keep several sets of accumulators, one per unrolled step, and sum them at the end.
"""

from __future__ import annotations

from ...ir.target import Target
from .irtext import SIZES, Carried, Code

_LLVM = {"f32": "float", "f64": "double"}


def tile_shape(target: Target, dtype: str = "f32") -> tuple[int, int, int]:
    """``(mr, nv, width)``: rows, vectors per row, lanes per vector of the full tile."""
    width = target.lanes(32 if dtype == "f32" else 64)
    if target.registers >= 32:
        return (14 if target.vector_bits >= 512 else 8), 2, width
    return 6, 2, width


def igemm_text(
    name: str, target: Target, dtype: str, mr: int, nv: int, panel_nv: int, strided: bool
) -> str:
    """LLVM IR of a tile of ``mr`` rows and ``nv`` of the ``panel_nv`` vectors of a panel."""
    kind = _LLVM[dtype]
    size = SIZES[kind]
    width = target.lanes(8 * size)
    vector, nr = f"<{width} x {kind}>", panel_nv * width
    parameters = [
        ("ptr noalias readonly", "rows"), ("i64", "taps"), ("i64", "klen"),
        ("ptr noalias readonly", "b"), ("ptr noalias", "c"), ("i64", "ldc"),
    ]  # fmt: skip
    if strided:
        parameters.append(("i64", "ldk"))
    code = Code(name, parameters, target)
    room = (target.registers - nv - 1) // (mr * nv)
    sets = (4 if room >= 4 else 2 if room >= 2 else 1) if mr <= 4 else 1
    unroll = max(2, sets)  # a power of two: see `main`
    cells = [(s, r, v) for s in range(sets) for r in range(mr) for v in range(nv)]
    number = {cell: index for index, cell in enumerate(cells)}
    main = code.let(f"and i64 %klen, {-unroll}")

    def step(k: str, panel: str, rows: list[str], acc: Carried, which: int) -> None:
        """One k: ``acc`` of set ``which`` in place."""
        bs = [code.load(vector, code.at(kind, panel, v * width), size) for v in range(nv)]
        index = code.let(f"mul nsw i64 {k}, %ldk") if strided else k
        for r in range(mr):
            a = code.splat(kind, width, code.load(kind, code.at(kind, rows[r], index), size))
            for v in range(nv):
                cell = number[which, r, v]
                acc[cell] = code.multiply_add(vector, acc[cell], a, bs[v])

    def tap(index: str, values: Carried) -> Carried:
        table = code.at("i64", "%rows", code.let(f"mul nsw i64 {index}, {mr}"))
        rows = [code.load("ptr", code.at("i64", table, r), 8) for r in range(mr)]

        def many(k: str, values: Carried) -> Carried:
            acc, panel = list(values[:-1]), values[-1]
            for u in range(unroll):
                ku = code.let(f"add nsw i64 {k}, {u}") if u else k
                step(ku, code.at(kind, panel, u * nr), rows, acc, u % sets)
            return [*acc, code.at(kind, panel, unroll * nr)]

        def one(k: str, values: Carried) -> Carried:
            acc, panel = list(values[:-1]), values[-1]
            step(k, panel, rows, acc, 0)
            return [*acc, code.at(kind, panel, nr)]

        kinds = [*[vector] * len(cells), "ptr"]
        values = code.loop(0, main, unroll, list(zip(kinds, values)), many)
        return code.loop(main, "%klen", 1, list(zip(kinds, values)), one)

    start = [*((vector, "zeroinitializer") for _ in cells), ("ptr", "%b")]
    result = code.loop(0, "%taps", 1, start, tap)
    for r in range(mr):
        row = code.at(kind, "%c", code.let(f"mul nsw i64 %ldc, {r}"))
        for v in range(nv):
            total = result[number[0, r, v]]
            for s in range(1, sets):
                total = code.let(f"fadd {vector} {total}, {result[number[s, r, v]]}")
            code.store(vector, total, code.at(kind, row, v * width), size)
    return code.text()
