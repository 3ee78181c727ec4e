"""Indirect GEMM tiles: the contraction inside matrix products and convolutions.

One call computes ``C[r, :] = sum over taps t and k of A_t[r, k] B[t, k, :]`` for ``mr`` rows and
one panel of ``nr`` columns. A row of A is reached through a table of addresses (M. Dukhan, "The
Indirect Convolution Algorithm", 2019): for a matrix product there is one tap whose addresses are
rows; for a convolution over channels-last images there is one tap per kernel element, and a row is
the channels of one input pixel (zeros outside the image). So no im2col is ever written.

The ``mr * nv`` accumulator vectors stay in registers over all taps and k (K. Goto and R. van de
Geijn, 2008): each step loads ``nv`` vectors of the packed panel and broadcasts ``mr`` scalars. Tile
sizes by register file are those of ``ir.variants.micro_tile``. Few rows leave the multiply-add
latency exposed, so tiles of up to 4 rows keep several sets of accumulators, one per unrolled step,
and sum them at the end.

What often follows a product is done in registers before the only store: a partial sum of earlier k,
a bias, a residual, limits. Each is skipped where it is absent, by a branch per tile, so that one
tile serves all of them. Edges are stored under masks.

A sum of ``n`` terms in one chain loses about ``sqrt(n)`` roundings. So in longer sums no
accumulator runs over more than ``CHAIN`` products: before it would, it is added to a total in
memory and starts anew (blocked summation; N. Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, section 4.2). Sums of up to twice as many never touch that memory. Sets of
accumulators share such a run: each sums a part.

A panel comes from far the first time it is used. So while one panel is multiplied, lines of the
next are prefetched, spread evenly over all micro-tiles that share the panel.

Nor is a result near when it is stored, and what waits for its lines holds up the next tile. So a
tile of many products first asks for the lines that it will write, and for those of the residual,
unless its rows follow one another so closely that the processor foresees them.

A panel may hold bfloat16, half the bytes: widened by a shift as it is loaded, it is multiplied and
summed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.target import Target
from ...ir.variants import PREFETCHES, micro_tile, row_parts, sets_of_sums
from .irtext import SIZES, Carried, Code

_LLVM = {"f32": "float", "f64": "double"}
_BY_ROW = {"rows": "ptr", "c": "ptr", "m": "i64", "part": "ptr", "res": "ptr"}
"""Arguments that go on with the rows, and their types."""
CHAIN = 128
"""Products of a run that is summed by itself, by one accumulator or by a tile's several sets: a
power of two. Sums of up to twice as many are one run, since two would cost 2 %."""
EXPECTED = 128
"""Products of one sum, and elements from row to row of the result, from which on a tile asks for
the lines of its result first. Measured on Zen 4."""


def tile_shape(target: Target, dtype: str = "f32") -> tuple[int, int, int]:
    """``(mr, nv, width)``: rows, vectors per row, lanes per vector of the full tile."""
    rows, vectors, _ = micro_tile(target)
    return rows, vectors, target.lanes(32 if dtype == "f32" else 64)


@dataclass(frozen=True)
class Tile:
    """What distinguishes one GEMM tile from another."""

    dtype: str
    """``f32`` or ``f64``."""
    mr: int
    """Rows."""
    nv: int
    """Vectors of the panel that are computed."""
    panel_nv: int
    """Vectors of a panel."""
    half: bool = False
    """Whether half a vector of columns follows the ``nv`` whole ones."""
    strided: bool = False
    """Whether successive k of a row of A are ``ldk`` elements apart, not 1."""
    brief: bool = False
    """Whether the panel holds bfloat16, the upper halves of float32."""

    def parameters(self) -> list[tuple[str, str]]:
        """LLVM types and names of the arguments.

        ``rows``: addresses ``[taps][mr]``; of each, ``klen`` elements from element ``first`` on
        meet the panel ``b``, ``[taps][klen][panel width]``. ``ahead``: bytes from ``b`` to what is
        needed later; with every k one line is prefetched, ``step`` bytes after the last. ``c``: the
        first element written, rows ``ldc`` apart; ``m`` rows and ``n`` columns are written, at most
        those of the tile. ``part``: sums to start from, ``[mr][panel width]``, unless ``more`` is
        0. ``bias``: ``n`` elements, added to each row. ``res``: added element by element, rows
        ``ldr`` apart. Both may be null. ``lo``, ``hi``: limits of the result, -inf and inf for
        none; NaN stays NaN. ``ldk``, of strided tiles only: elements between neighboring k of A.
        """
        kind = _LLVM[self.dtype]
        return [
            ("ptr noalias readonly", "rows"), ("i64", "taps"), ("i64", "first"), ("i64", "klen"),
            ("ptr noalias readonly", "b"), ("i64", "ahead"), ("i64", "step"), ("ptr", "c"),
            ("i64", "ldc"), ("i64", "m"), ("i64", "n"), ("ptr", "part"), ("i64", "more"),
            ("ptr", "bias"), ("ptr", "res"), ("i64", "ldr"), (kind, "lo"), (kind, "hi"),
            *([("i64", "ldk")] if self.strided else []),
        ]  # fmt: skip


def igemm_text(name: str, target: Target, tile: Tile) -> str:
    """LLVM IR of a tile; parameters as ``Tile.parameters`` lists them."""
    return _Writer(name, target, tile).text()


class _Writer:
    """Writes one tile: accumulators are numbered ``[set][row][vector]``. One vector and a half are
    three halves, and rows are taken in parts then (``row_parts``)."""

    def __init__(self, name: str, target: Target, tile: Tile) -> None:
        self.tile, self.kind = tile, _LLVM[tile.dtype]
        self.size = SIZES[self.kind]
        self.width = target.lanes(8 * self.size)
        self.parts = max(1, parts := row_parts(tile.mr, tile.nv, tile.half))
        self.lanes = [self.width // 2] * 3 if parts else [
            *[self.width] * tile.nv, *[self.width // 2] * tile.half]
        self.starts = [sum(self.lanes[:v]) for v in range(len(self.lanes))]
        self.vectors = [f"<{lanes} x {self.kind}>" for lanes in self.lanes]
        self.nv, self.columns = len(self.lanes), sum(self.lanes)
        self.nr = tile.panel_nv * self.width
        self.panel_kind = "i16" if tile.brief else self.kind
        self.aligned = self.lanes[0] * self.size
        self.code = Code(name, tile.parameters(), target)
        self.mr = tile.mr // self.parts
        self.at = {name: f"%{name}" for name in _BY_ROW}
        """Arguments, of the part of the rows that is computed."""
        self.per_set = self.mr * self.nv
        mixed = len(set(self.lanes)) > 1
        self.sets = sets_of_sums(target, tile.mr, tile.nv, tile.half)
        # A power of two (see `main` in _run). Unrolled, a tile that fills the registers spills, and
        # one of whole and half vectors broadcasts each element for both.
        spare = target.registers - self.per_set - self.nv
        self.unroll = max(self.sets, 1 if spare < 3 or mixed else 2)
        self.cells, self.zero = self.sets * self.per_set, "zeroinitializer"
        self.chain = CHAIN
        self.cell_kinds = [self.vectors[cell % self.nv] for cell in range(self.cells)]
        self.kinds = [*self.cell_kinds, "ptr", "ptr", "i64", "i64"]
        self.prefetches = tile.mr >= PREFETCHES

    def text(self) -> str:
        """The whole function."""
        code = self.code
        self.totals = code.let(f"alloca [{self.cells} x {self.vectors[0]}], align 64")
        total = code.let("mul nsw i64 %taps, %klen")
        short = code.let(f"icmp sle i64 {total}, {2 * self.chain}")
        self.most = code.let(f"select i1 {short}, i64 {2 * self.chain}, i64 {self.chain}")
        self.many = code.let(f"icmp sge i64 {code.least(total, '%ldc')}, {EXPECTED}")
        if self.parts == 1:
            self._rows()
            return code.text()
        steps: dict[str, str | int] = {"rows": self.mr, "part": self.mr * self.nr, "m": -self.mr}
        for name, step in (("c", "ldc"), ("res", "ldr")):
            steps[name] = code.let(f"mul nsw i64 %{step}, {self.mr}")

        def part(_: str, values: Carried) -> Carried:
            self.at = dict(zip(_BY_ROW, values, strict=True))
            code.branch(code.let(f"icmp sgt i64 {self.at['m']}, 0"), self._rows)
            return [code.let(f"add nsw i64 {value}, {steps[name]}") if name == "m" else
                    code.at("i64" if name == "rows" else self.kind, value, steps[name])
                    for name, value in zip(_BY_ROW, values, strict=True)]

        code.loop(0, str(self.parts), 1, list(zip(_BY_ROW.values(), self.at.values())), part)
        return code.text()

    def _rows(self) -> None:
        """The rows of one part."""
        code = self.code
        code.branch(self.many, self._expect)

        def tap(index: str, values: Carried) -> Carried:
            entry = code.let(f"mul nsw i64 {index}, {self.tile.mr}")
            table = code.at("i64", self.at["rows"], entry)
            starts = [code.load("ptr", code.at("i64", table, r), 8) for r in range(self.mr)]
            skipped = code.let("mul nsw i64 %first, %ldk") if self.tile.strided else "%first"
            rows = [code.at(self.kind, start, skipped) for start in starts]
            carried = list(zip(self.kinds, values))
            return code.loop(0, "%klen", self.chain, carried, lambda k, v: self._run(rows, k, v))

        ahead = code.at("i8", "%b", "%ahead")
        start = [*((kind, self.zero) for kind in self.cell_kinds), ("ptr", "%b"), ("ptr", ahead),
                 ("i64", "0"), ("i64", "0")]  # fmt: skip
        *acc, _, _, _, stored = code.loop(0, "%taps", 1, start, tap)
        sums = self._reduce_sets(self._with_totals(stored, acc))
        self._finish(sums)

    def _expect(self) -> None:
        """Asks for the lines of the result and of the residual."""
        code = self.code

        def lines(base: str, step: str, write: bool) -> None:
            for r in range(self.mr):
                row = code.at(self.kind, base, code.let(f"mul nsw i64 {step}, {r}"))
                for v in range(self.nv):
                    code.prefetch(code.at(self.kind, row, self.starts[v]), write, near=True)

        lines(self.at["c"], "%ldc", True)
        code.branch(self._present("res"), lambda: lines(self.at["res"], "%ldr", False))

    def _present(self, name: str) -> str:
        """Whether an address is given."""
        return self.code.let(f"icmp ne ptr %{name}, null")

    def _run(self, rows: list[str], first: str, values: Carried) -> Carried:
        """Up to ``chain`` k of one tap from ``first``. Carried: accumulators, place in the panel,
        place that is prefetched, products taken since the accumulators were 0, and whether there
        are totals of those before."""
        code, acc, places = self.code, values[: self.cells], values[self.cells : -2]
        taken, stored = values[-2:]
        end = code.least(code.let(f"add nsw i64 {first}, {self.chain}"), "%klen")
        length = code.let(f"sub nsw i64 {end}, {first}")
        after = code.let(f"add nsw i64 {taken}, {length}")
        full = code.let(f"icmp sgt i64 {after}, {self.most}")

        def flush() -> Carried:
            self._store_totals(self._with_totals(stored, acc))
            return [*[self.zero] * self.cells, length, "1"]

        kinds = [*self.cell_kinds, "i64", "i64"]
        *acc, taken, stored = code.when(full, kinds, [*acc, after, stored], flush)
        main = code.let(f"and i64 {end}, {-self.unroll}")

        def many(k: str, values: Carried) -> Carried:
            acc, panel, ahead = list(values[:-2]), values[-2], values[-1]
            for u in range(self.unroll):
                ku = code.let(f"add nsw i64 {k}, {u}") if u else k
                at = code.at(self.panel_kind, panel, u * self.nr)
                self._step(ku, at, rows, acc, u % self.sets)
                ahead = self._prefetch(ahead)
            return [*acc, code.at(self.panel_kind, panel, self.unroll * self.nr), ahead]

        def one(k: str, values: Carried) -> Carried:
            acc, panel, ahead = list(values[:-2]), values[-2], values[-1]
            self._step(k, panel, rows, acc, 0)
            return [*acc, code.at(self.panel_kind, panel, self.nr), self._prefetch(ahead)]

        state = code.loop(first, main, self.unroll, list(zip(self.kinds, [*acc, *places])), many)
        return [*code.loop(main, end, 1, list(zip(self.kinds, state)), one), taken, stored]

    def _prefetch(self, ahead: str) -> str:
        """Asks for the line at ``ahead``; the next place."""
        if not self.prefetches:
            return ahead
        self.code.prefetch(ahead)
        return self.code.at("i8", ahead, "%step")

    def _total(self, cell: int) -> str:
        return self.code.at(self.vectors[0], self.totals, cell)

    def _store_totals(self, values: Carried) -> None:
        for cell in range(self.cells):
            self.code.store(self.cell_kinds[cell], values[cell], self._total(cell), self.aligned)

    def _with_totals(self, stored: str, acc: Carried) -> Carried:
        """Accumulators plus what was taken out of them before, if anything was."""
        code = self.code

        def added() -> Carried:
            olds = [code.load(kind, self._total(cell), self.aligned)
                    for cell, kind in enumerate(self.cell_kinds)]
            return [self._sum(x, y, cell) for cell, (x, y) in enumerate(zip(olds, acc))]

        return code.when(code.let(f"icmp ne i64 {stored}, 0"), self.cell_kinds, acc, added)

    def _step(self, k: str, panel: str, rows: list[str], acc: Carried, which: int) -> None:
        """One k: the accumulators of set ``which``, in place."""
        code = self.code
        bs = [self._panel_vector(panel, v) for v in range(self.nv)]
        index = code.let(f"mul nsw i64 {k}, %ldk") if self.tile.strided else k
        for r in range(self.mr):
            scalar = code.load(self.kind, code.at(self.kind, rows[r], index), self.size)
            for v in range(self.nv):
                cell = which * self.per_set + r * self.nv + v
                a = code.splat(self.kind, self.lanes[v], scalar)
                acc[cell] = code.multiply_add(self.vectors[v], acc[cell], a, bs[v])

    def _panel_vector(self, panel: str, v: int) -> str:
        """Vector ``v`` of one k of the panel."""
        if not self.tile.brief:
            return self._vector_at(panel, v, [])
        code, lanes = self.code, self.lanes[v]
        raw = code.load(f"<{lanes} x i16>", code.at("i16", panel, self.starts[v]), 2)
        wide = code.let(f"zext <{lanes} x i16> {raw} to <{lanes} x i32>")
        bits = code.let(f"shl <{lanes} x i32> {wide}, {code.splat('i32', lanes, '16')}")
        return code.let(f"bitcast <{lanes} x i32> {bits} to {self.vectors[v]}")

    def _reduce_sets(self, acc: Carried) -> list[str]:
        """The sums ``[row][vector]`` over all sets."""
        sums = list(acc[: self.per_set])
        for s in range(1, self.sets):
            for cell in range(self.per_set):
                other = acc[s * self.per_set + cell]
                sums[cell] = self._sum(sums[cell], other, cell)
        return sums

    # -- the store -------------------------------------------------------------------------

    def _finish(self, sums: list[str]) -> None:
        """What follows the product, and the store: whole tiles without masks, others with them."""
        code, m = self.code, self.at["m"]
        enough = code.let(f"icmp sge i64 {m}, {self.mr}")
        wide = code.let(f"icmp sge i64 %n, {self.columns}")

        def edge() -> None:
            masks = []
            for v, lanes in enumerate(self.lanes):
                masks.append(code.lane_mask(lanes, code.let(f"sub i64 %n, {self.starts[v]}")))
            values = self._followed(sums, masks)
            for r in range(self.mr):
                inside = code.let(f"icmp sgt i64 {m}, {r}")
                code.branch(inside, lambda r=r: self._store_row(values, r, masks))  # type: ignore[misc]

        def whole() -> None:
            values = self._followed(sums, [])
            for r in range(self.mr):
                self._store_row(values, r, [])

        code.branch(code.let(f"and i1 {enough}, {wide}"), whole, edge)

    def _followed(self, sums: list[str], masks: list[str]) -> list[str]:
        """Partial sum, bias, residual and limits, those that are there."""
        code = self.code
        kinds = self.cell_kinds[: self.per_set]

        more = code.let("icmp ne i64 %more, 0")
        values = code.when(more, kinds, sums, lambda: self._plus_part(sums))
        before = values
        there = self._present("bias")
        values = code.when(there, kinds, before, lambda: self._plus_bias(before, masks))
        biased = values
        there = self._present("res")
        values = code.when(there, kinds, biased, lambda: self._plus_res(biased, masks))
        return code.limited(self.kind, self.lanes * self.mr, values)

    def _vector_at(self, base: str, v: int, masks: list[str]) -> str:
        """Vector ``v`` of the row that begins at ``base``; only what is inside is read."""
        place = self.code.at(self.kind, base, self.starts[v])
        if masks:
            return self.code.masked_load(self.kind, self.lanes[v], place, masks[v])
        return self.code.load(self.vectors[v], place, self.size)

    def _sum(self, a: str, b: str, cell: int) -> str:
        return self.code.let(f"fadd {self.cell_kinds[cell]} {a}, {b}")

    def _plus_part(self, sums: list[str]) -> list[str]:
        rows = [self.code.at(self.kind, self.at["part"], r * self.nr) for r in range(self.mr)]
        parts = [self._vector_at(row, v, []) for row in rows for v in range(self.nv)]
        return [self._sum(a, b, cell) for cell, (a, b) in enumerate(zip(parts, sums))]

    def _plus_bias(self, sums: list[str], masks: list[str]) -> list[str]:
        nv = self.nv
        bias = [self._vector_at("%bias", v, masks) for v in range(nv)]
        return [self._sum(value, bias[cell % nv], cell) for cell, value in enumerate(sums)]

    def _plus_res(self, sums: list[str], masks: list[str]) -> list[str]:
        code, nv = self.code, self.nv
        result = []
        last = code.let(f"sub nsw i64 {self.at['m']}, 1") if masks else ""
        for r in range(self.mr):
            at = code.least(str(r), last) if masks else str(r)
            row = code.at(self.kind, self.at["res"], code.let(f"mul nsw i64 %ldr, {at}"))
            for v in range(nv):
                cell = r * nv + v
                result.append(self._sum(sums[cell], self._vector_at(row, v, masks), cell))
        return result

    def _store_row(self, values: list[str], r: int, masks: list[str]) -> None:
        code = self.code
        row = code.at(self.kind, self.at["c"], code.let(f"mul nsw i64 %ldc, {r}"))
        for v, lanes in enumerate(self.lanes):
            place, value = code.at(self.kind, row, self.starts[v]), values[r * self.nv + v]
            if masks:
                code.masked_store(self.kind, lanes, value, place, masks[v])
            else:
                code.store(self.vectors[v], value, place, self.size)
