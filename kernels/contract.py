"""Contractions on a micro-kernel: rows by address, panels of packed columns, a fused epilogue.

``C[row, column] = sum_k A[row, k] * B[k, column]``. B is packed into panels of the micro-kernel's
width (constants once, at load; others by a kernel of their own). A tile is a block of rows times a
block of panels: the addresses of its rows of A are written to a table, one entry per row and tap
(the indirection buffer of Dukhan 2019, which makes convolution a matrix product without im2col);
what is not addressable is computed into scratch first. What follows the contraction is done in
registers by the micro-kernel's store where it can (``epilogue``); a result whose rows lie side by
side goes through a strip of scratch per panel, which a micro-kernel stores turned. Else the
micro-kernel fills a strip of C, and one loop nest applies the epilogue and stores the outputs;
lines that come from far are asked for before the products (``micro.fetch``).

A long sum is cut into chunks of k, outside the loop over panels, so that a chunk of a panel stays
in the level-2 cache for all rows of the tile (K. Goto and R. van de Geijn, 2008); between chunks
partial sums wait in strips. So a tile can have many rows, and B is read few times.

Where the result may lie over A (``Tiling.over``), a tile has all panels of its rows, which it
copies into scratch first; no other tile reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..ir.access import Cond, linear_index
from ..ir.axes import Axis, coefficient, name_of, places
from ..ir.contraction import SPLITS, ContractionSpace, least_rows, panels_together, rows_of_block
from ..ir.dim_functions import ceil_div, dmax, dmin
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr, free_vars, product
from ..ir.elements import Ex, map_dims, parts, renamer
from ..ir.epilogue import Finish, Operand, finish_of
from ..ir.graph import Graph
from ..ir.types import BF16, F32, I64, DType
from ..ir.variants import WAY_BYTES, Tiling
from .lower import Lowering
from .maps import TURN_KERNEL, tile_map
from .micro import MicroKernel, narrowed
from .nest import (
    Accumulate,
    Address,
    BufferDecl,
    Call,
    Claim,
    Domain,
    Loop,
    Nest,
    Nested,
    SetRows,
    Step,
    Store,
    called,
)  # fmt: skip

FETCH_KERNEL = "mk_fetch"
NO_LIMITS = tuple(Ex("const", F32, (), sign * math.inf) for sign in (-1, 1))


@dataclass(frozen=True, slots=True)
class Panels:
    """How a constant B is packed once: element (outer, panel, k, lane) lies at
    ``offset + outer . strides + (panel * width + lane) * column_stride + k . strides``."""

    offset: int
    outer: tuple[tuple[int, int], ...]
    column: tuple[int, int]
    inner: tuple[tuple[int, int], ...]
    width: int
    group: int = 1
    """Successive k that lie side by side (4 for bytes)."""
    winograd: int = 0
    """Side of the squares of outputs for which the 3x3 elements of each k are transformed first
    (see ``winograd``); 0: they are not."""
    dtype: DType = F32
    """Element type of the panels; four bytes count as one float32."""

    @property
    def spec(self) -> tuple[object, ...]:
        """The transform of the constant (``runtime.constants``)."""
        return ("panels", self.offset, self.outer, self.column, self.inner, self.width, self.group,
                self.winograd)


@dataclass(frozen=True, slots=True)
class Contraction:
    """A lowered contraction: the main nest, and where B's panels come from."""

    nest: Nest
    """Buffers: inputs, packed B, outputs, scratch."""
    packed_elements: Dim
    panels: tuple[int, tuple[Panels, ...]] | None
    """(input number, a recipe per phase) where B is a constant."""
    pack: Nest | None
    """Otherwise the kernel that packs it; buffers: inputs, packed B."""
    externs: tuple[str, ...]
    """Symbols of the micro-kernels that the main nest calls."""


class _Plan:
    """Sizes and variables of one contraction's tiling."""

    def __init__(self, graph: Graph, tile: MicroKernel, constants: frozenset[int],
                 plan: Tiling | None = None, after: _Plan | None = None,
                 phase: tuple[int, ...] | None = None, inner: int = 0) -> None:
        """``after``: the phase of the same contraction that was written before; ``inner``: so many
        of the last inputs are computed by the kernel itself."""
        self.plan = Tiling(0, tile.mr, tile.nv) if plan is None else plan
        self.base: Dim = 0
        """Where packed B begins."""
        if after is None:
            self.low = Lowering(graph, packed=1, inner=inner)
        else:
            self.low, self.base = after.low, after.base + after.packed_elements
            self.low.reuse_scratch()
            del self.low.puller.provided[after.space.anchor.out]
        self.packed = len(self.low.inputs)
        self.space: ContractionSpace = ContractionSpace(self.low, phase)
        self.mr, self.nr, self.tile = tile.mr, tile.nr, tile
        self.constants = constants
        self.stored = brief_weights(self.space, constants)
        """B as it is stored and packed, of bfloat16; None: packed as float32."""
        self.panel_type = F32 if self.stored is None else BF16
        self.names = self.low.names
        self.sizes()

    def sizes(self) -> None:
        """Merges the reduced axes that are one run of A, and sizes the tiles."""
        s = self.space
        self.reduced = list(s.body.reduced)
        self.direct, self.run, self.taps = s.direct and not self.plan.over, s.run, s.taps
        self.klen = product(a.hi for a in self.run)
        self.depth = product(a.hi for a in self.reduced)
        self.panel_depth = self.depth
        """Packed elements of one column; an element has 32 bits."""
        self.element, self.sum, self.slack = F32, F32, 0
        """Types of A and C; elements that may be read behind computed rows."""
        self.row_count = product(a.hi for a in s.rows)
        self.cut_depth()
        self.column = s.columns[-1]
        self.outer = s.columns[:-1]
        self.panel_count = ceil_div(self.column.hi, self.nr)
        self.panels = product(a.hi for a in self.outer) * self.panel_count
        self.batches = product(a.hi for a in s.batch)
        self.together, self.dear = self.interleaved(), not s.direct
        """Whether a tile has the whole batch; whether its rows of A are computed first."""
        self.cut_panels(self.block_rows())

    @property
    def packed_elements(self) -> Dim:
        """Elements of packed B."""
        return self.batches * self.panels * self.panel_depth * self.nr

    def cut_panels(self, block: Dim) -> None:
        """Blocks of ``block`` rows, whole micro-tiles, and of as many panels as keep a few threads
        busy. ``covered`` are the rows of all micro-tiles of a block."""
        self.block = self.covered = block
        self.row_blocks = ceil_div(self.row_count, block)
        tiles = SPLITS if self.together else self.batches * self.row_blocks
        self.panel_block: Dim
        self.panel_blocks: Dim
        if self.plan.over:
            self.panel_block, self.panel_blocks = self.panels, 1
            return
        if isinstance(tiles, int) and isinstance(self.panels, int):
            self.panel_block = panels_together(self.panels, tiles, self.dear)
        else:
            most = self.panels * tiles
            self.panel_block = dmax(1, ceil_div(most, SPLITS) if self.dear else most // SPLITS)
        if self.chunks != 1:  # strips of all panels of a tile wait for the next chunk
            room = self.tile.target.l2_bytes // 4 // (4 * self.nr)
            self.panel_block = dmin(self.panel_block, dmax(1, room // block) if isinstance(
                block, Expr) else max(1, room // block))
        self.panel_blocks = ceil_div(self.panels, self.panel_block)

    def cut_depth(self) -> None:
        """Chunks of k: of the run where there are no taps, else of taps; one where all rows are one
        micro-tile anyway."""
        self.chunks: Dim = 1
        self.chunk, self.by_taps = self.klen, bool(self.taps)
        """Elements of the run, or taps, that one chunk takes."""
        rows = self.row_count
        if isinstance(rows, int) and rows <= self.mr:
            return
        if not self.by_taps:
            length = self.plan.depth
            self.chunks = dmax(1, ceil_div(self.klen, length))
            self.chunk = ceil_div(self.klen, self.chunks) if isinstance(self.klen, int) else length
        elif isinstance(self.depth, int) and isinstance(self.klen, int) and self.depth:
            taps = self.depth // self.klen
            most = max(1, self.plan.depth // self.klen)
            self.chunks = -(-taps // most)
            self.chunk = -(-taps // self.chunks)

    def block_rows(self) -> Dim:
        """Rows of one tile: whole micro-tiles, evenly; a chunk of A takes about 3/8 of the
        level-2 cache."""
        rows, depth = self.row_count, self.depth
        most = 8 * self.mr
        if self.plan.block is not None:
            most = self.plan.block * self.mr
        elif isinstance(depth, int) and isinstance(self.chunks, int) and depth:
            left = self.tile.target.l2_bytes * 3 // 32 // -(-depth // self.chunks)
            most = min(max(left // self.mr, 1), 16) * self.mr
        beside = 0 if self.together or self.plan.over else self.batches * self.panels
        if self.plan.block is None and isinstance(beside, int):
            return rows_of_block(rows, most, self.mr, beside) or most
        if not isinstance(rows, int):
            return most
        blocks = max(1, -(-rows // most))
        return max(1, -(-rows // (blocks * self.mr))) * self.mr

    def interleaved(self) -> bool:
        """Whether the results of a row lie side by side for all of the batch (the groups of a
        convolution). Threads that share a row would write to the same cache lines: a tile is a
        block of rows with the whole batch, if the B of all of it stays in the level-2 cache."""
        size = self.batches * self.panels * self.depth * self.nr * 4
        if not isinstance(size, int) or size > self.tile.target.l2_bytes // 2:
            return False
        names = [name_of(axes[-1].var) for axes in (self.space.batch, self.space.rows) if axes]
        if len(names) < 2:
            return False
        for k, (_, index) in self.space.late.items():
            position = linear_index(self.low.graph.outputs[k][1].shape, index)
            inner, outer = (coefficient(position, name) for name in names)
            if not isinstance(inner, int) or not isinstance(outer, int) or inner >= outer:
                return False
        return True


class ContractionWriter(_Plan):
    """Writes the nests."""

    def contraction(self) -> Contraction:
        """The main nest and the packing."""
        self.write()
        return _assembled([self])

    def write(self) -> None:
        """The domain of the products."""
        self.start()
        steps: list[Step] = []
        steps.extend(self.rows_of_a())
        steps.extend(self.panel_loop())
        self.low.domains.append(self.domain(tuple(steps)))

    def domain(self, steps: tuple[Step, ...]) -> Domain:
        """The tile space. A thread has a run of tiles: rows before panels, so that it has whole
        rows of the result, which most often are what it reads next."""
        batch, rows, panels = self.space.batch, self.row_axis, self.panel_axis
        if self.together:
            return Domain((rows, *batch, panels), steps, self.batches * self.panel_blocks)
        if not isinstance(self.depth, int) or least_rows(self.row_count) < self.mr * 2:
            return Domain((*batch, panels, rows), steps)
        return Domain((*batch, rows, panels), steps)

    def start(self) -> None:
        """Variables of the tile: its block of rows and its block of panels."""
        self.start_rows()
        pb = self.names.var(self.panel_blocks)
        self.panel_axis = Axis(pb, self.panel_blocks)
        self.first_panel = pb * self.panel_block
        self.last_panel = dmin(self.panels, self.first_panel + self.panel_block) if isinstance(
            pb, Expr) else self.panels

    def start_rows(self) -> None:
        """Variables of the tile's block of rows."""
        rb = self.names.var(self.row_blocks)
        self.row_axis = Axis(rb, self.row_blocks)
        self.first_row = rb * self.block
        self.last_row = dmin(self.row_count, self.first_row + self.block) if isinstance(
            rb, Expr) else self.row_count
        self.micro_tiles = ceil_div(self.last_row - self.first_row, self.mr)

    def row_mapping(self, row: Dim) -> dict[str, Dim]:
        """The row axes' variables as functions of a linear row."""
        return places(self.space.rows, row)

    # -- operand A -------------------------------------------------------------------------

    def rows_of_a(self) -> list[Step]:
        """Steps that write the table of row addresses (and A itself where it is computed)."""
        n = self.names
        taps = product(a.hi for a in self.taps)
        self.tap_count = taps
        self.table = self.low.new_scratch(I64, self.block * taps)
        q = n.var(ceil_div(self.block, self.mr))
        i = n.var(self.mr)
        axes = [Axis(v, e) for v, e in ((q, self.micro_tiles), (i, self.mr)) if isinstance(v, Expr)]
        local = q * self.mr + i
        row = dmin(self.first_row + local, self.row_count - 1)
        variable = n.var(self.row_count, "r")
        tap = linear_index(tuple(a.hi for a in self.taps), tuple(a.var for a in self.taps))
        where = (q * taps + tap) * self.mr + i
        if not self.direct:
            return self.computed_rows(axes, local, row, variable, where)
        zeros = -1
        steps: list[Step] = []
        rename = renamer(self.row_mapping(variable))
        start = renamer({name_of(a.var): 0 for a in self.run})
        buffer, position = self.space.a.data
        conds = tuple(Cond(rename(c.expr), rename(c.lo), rename(c.hi))
                      for c in self.space.body.conds)
        if conds:
            zeros = self.low.new_scratch(self.element, self.klen)
            z = n.var(self.klen)
            unit = Ex("const", self.element, (), 0.0 if self.element == F32 else 0)
            steps.append(Loop((Axis(z, self.klen),) if isinstance(z, Expr) else (),
                              (Store(zeros, z, unit),)))
        table = SetRows(tuple(self.taps), self.table, where,
                        Address(buffer, rename(start(position))), conds, zeros)
        lets = ((variable, row),) if isinstance(variable, Expr) else ()
        steps.append(Nested(tuple(axes), (table,), lets))
        return steps

    def computed_rows(self, axes: list[Axis], local: Dim, row: Dim, variable: Dim, where: Dim
                      ) -> list[Step]:
        """A is an expression or strided along k: its block is computed into scratch."""
        stride = self.depth  # off multiples of a cache way, see `variants.tiling`
        if isinstance(stride, int) and stride and stride * self.element.itemsize % WAY_BYTES == 0:
            stride = stride + 64 // self.element.itemsize
        block = self.low.new_scratch(self.element, self.block * stride + self.slack)
        value = map_dims(self.space.a, renamer(self.row_mapping(variable)))
        k = linear_index(tuple(a.hi for a in self.run), tuple(a.var for a in self.run))
        fill = Loop(tuple(self.run), (Store(block, local * stride + k, value),))
        table = SetRows((), self.table, where, Address(block, local * stride), (), -1)
        lets = ((variable, row),) if isinstance(variable, Expr) else ()
        return [Nested(tuple(axes), (fill, table), lets)]

    # -- the product and its epilogue ------------------------------------------------------

    def panel_loop(self) -> list[Step]:
        """All chunks of k but the last, then the last with the epilogue."""
        n, low = self.names, self.low
        j = n.var(self.panels, "j")
        q = n.var(ceil_div(self.block, self.mr))
        self.micro = (Axis(q, self.micro_tiles),) if isinstance(q, Expr) else ()
        self.strip = low.next_scratch(self.sum)
        strip = (j - self.first_panel) * (self.covered * self.nr) if self.chunks != 1 else 0
        loop, finish = self.epilogue(j, strip)
        body = [item for item in loop.body if not isinstance(item, Claim)]
        if self.chunks != 1 or finish is None or finish.turned:
            count = self.panel_block if self.chunks != 1 else 1
            low.new_scratch(self.sum, count * self.covered * self.nr)
        steps: list[Step] = []
        pieces = self.pieces(j)
        if self.chunks != 1:
            t = n.var(self.chunks - 1)
            axes = (Axis(t, self.chunks - 1),) if isinstance(t, Expr) else ()
            steps.append(Nested(axes, tuple(
                Nested(panels, (self.strip_call(tile, q, j, t, strip),))
                for tile, panels, _ in pieces)))
        last = self.chunks - 1
        for tile, panels, width in pieces:
            if finish is None:
                call = self.strip_call(tile, q, j, last, strip)
                asked = self.asked(body, q, width)
                products = Nested(self.micro, (*asked, replace(call, axes=()))) if asked else call
                steps.append(Nested(panels, (products, self.as_wide(loop, width))))
            else:
                call = self.finish_call(tile, q, j, last, strip, finish, width)
                steps.append(Nested(panels, (call, *self.turn(strip, finish, width))))
        return steps

    def pieces(self, j: Dim) -> list[tuple[MicroKernel, tuple[Axis, ...], Dim]]:
        """The panels of a tile by micro-kernel, and how many columns they have: the last one has a
        narrower one of its own where it is not filled."""

        def axes(first: Dim, last: Dim) -> tuple[Axis, ...]:
            return (Axis(j, last, first),) if isinstance(j, Expr) else ()

        columns, count = self.column.hi, self.panel_count
        if isinstance(columns, int) and isinstance(count, int) and columns:
            width = columns - (count - 1) * self.nr
            narrow = narrowed(self.tile, width)
            if count == 1 or width == self.nr:
                return [(narrow, axes(self.first_panel, self.last_panel), width)]
            if narrow != self.tile and not self.outer:
                end = dmin(self.last_panel, count - 1)
                return [(self.tile, axes(self.first_panel, end), self.nr),
                        (narrow, axes(dmax(self.first_panel, count - 1), self.last_panel), width)]
        panel = j % count if self.outer else j
        left = dmin(self.nr, columns - panel * self.nr)
        return [(self.tile, axes(self.first_panel, self.last_panel), left)]

    def as_wide(self, loop: Loop, width: Dim) -> Loop:
        """The epilogue of a panel of ``width`` columns."""
        return replace(loop, axes=tuple(
            replace(a, hi=width) if a.var == self.epilogue_lane else a for a in loop.axes))

    def strip_call(self, tile: MicroKernel, q: Dim, j: Dim, t: Dim, strip: Dim) -> Call:
        """Chunk ``t`` of panel ``j``, added to its strip."""
        to = Address(self.strip, strip + q * (self.mr * self.nr))
        return Call(tile.symbol, (
            *self.chunk_of(q, j, t), to, self.nr, self.mr, self.nr, to, self.more(t),
            0, 0, 0, *NO_LIMITS), self.micro)

    def finish_call(self, tile: MicroKernel, q: Dim, j: Dim, t: Dim, strip: Dim, finish: Finish,
                    width: Dim) -> Call:
        """The last chunk of panel ``j``, of ``width`` columns, with the epilogue in registers."""
        origin = {name_of(v): at for v, at in (
            (self.epilogue_row, self.first_row + q * self.mr), (self.epilogue_lane, 0)
        ) if isinstance(v, Expr)}

        def at(operand: Operand | None) -> Address | Dim:
            return 0 if operand is None else Address(
                operand.buffer, substitute(operand.position, origin))

        own = Address(self.strip, strip + q * (self.mr * self.nr))
        part: Address | Dim = own if self.chunks != 1 else 0
        to = (own, self.nr) if finish.turned else (at(finish.out), finish.out.stride)
        residual = finish.residual
        limits = (Ex("const", F32, (), bound) for bound in (finish.lo, finish.hi))
        return Call(tile.symbol, (
            *self.chunk_of(q, j, t), *to,
            self.last_row - self.first_row - q * self.mr, width,
            part, self.more(t), at(finish.bias), at(residual),
            0 if residual is None else residual.stride, *limits), self.micro)

    def asked(self, body: Sequence[Store | Accumulate], q: Dim, width: Dim) -> tuple[Call, ...]:
        """Asks for the lines of a panel that the epilogue of micro-tile ``q`` reads and writes,
        where rows do not follow one another and all are more than the level-2 cache keeps."""
        row, lane = self.epilogue_row, self.epilogue_lane
        if not isinstance(row, Expr) or not isinstance(lane, Expr):
            return ()
        matrices = {e.data: e.dtype.itemsize for e in parts([item.value for item in body])
                    if e.kind == "load" and e.data[0] < len(self.low.inputs)}
        matrices |= {(item.buffer, item.position): item.value.dtype.itemsize for item in body}
        first = self.first_row + q * self.mr
        origin = {name_of(row): first, name_of(lane): 0}
        count = dmin(self.mr, self.last_row - first)
        calls, line = [], 0
        for (buffer, position), size in matrices.items():
            step = coefficient(position, name_of(row))
            if step is None or coefficient(position, name_of(lane)) != 1:
                continue
            if isinstance(step, int) and step <= self.nr:
                continue  # one row for all, or rows that the processor foresees
            at = Address(buffer, substitute(position, origin))
            calls.append(Call(FETCH_KERNEL, (at, step * size, count, width * size)))
            line += size
        elements = self.batches * self.row_count * self.column.hi * product(
            a.hi for a in self.outer)
        near = isinstance(elements, int) and elements * line <= self.tile.target.l2_bytes
        return () if near else tuple(calls)

    def turn(self, strip: Dim, finish: Finish, width: Dim) -> tuple[Call, ...]:
        """Stores the strip of a panel turned, where the result lies so."""
        if not finish.turned:
            return ()
        origin = {name_of(v): at for v, at in (
            (self.epilogue_row, self.first_row), (self.epilogue_lane, 0)) if isinstance(v, Expr)}
        out = Address(finish.out.buffer, substitute(finish.out.position, origin))
        return (Call(TURN_KERNEL, (
            Address(self.strip, strip), self.nr, self.last_row - self.first_row, width, out,
            finish.out.stride)),)

    def more(self, t: Dim) -> Dim:
        """Whether chunk ``t`` adds to the chunks before it."""
        return dmin(t, 1) if self.chunks != 1 else 0

    def chunk_of(self, q: Dim, j: Dim, t: Dim) -> tuple[Address | Dim, ...]:
        """Where chunk ``t`` of A and B is: the first arguments of a call."""
        panel = self.packed_base() + j * (self.panel_depth * self.nr)
        row = q * (self.tap_count * self.mr)
        first = t * self.chunk if self.chunks != 1 else 0
        whole = self.tap_count if self.by_taps else self.klen
        count = dmin(self.chunk, whole - first) if self.chunks != 1 else whole
        line = self.panel_type.itemsize * self.nr
        step = ceil_div(line, dmax(1, self.micro_tiles))
        if self.by_taps:
            ahead = self.panel_depth * line + q * (count * self.klen * step)
            return (Address(self.table, row + first * self.mr), count, 0, self.klen,
                    Address(self.packed, panel + first * (self.klen * self.nr)), ahead, step)
        ahead = self.panel_depth * line + q * (count * step)
        return (Address(self.table, row), 1, first, count,
                Address(self.packed, panel + first * self.nr), ahead, step)

    def packed_base(self) -> Dim:
        """Where the batch's panels begin."""
        batch = self.space.batch
        index = linear_index(tuple(a.hi for a in batch), tuple(a.var for a in batch))
        return self.base + index * (self.panels * self.panel_depth * self.nr)

    def epilogue(self, j: Dim, strip: Dim) -> tuple[Loop, Finish | None]:
        """Everything after the contraction: over one strip of C, and in registers if it can be."""
        low, n = self.low, self.names
        row = self.epilogue_row = n.var(self.row_count, "r")
        lane = self.epilogue_lane = n.var(self.nr, "c")
        panel = j % self.panel_count if self.outer else j
        cell = Ex("load", self.sum, (), (
            self.strip, strip + (row - self.first_row) * self.nr + lane))
        low.puller.start()
        low.puller.provided[self.space.anchor.out] = lambda index: cell
        body: list[Store | Accumulate] = []
        for k, (_, index) in self.space.late.items():
            v = low.graph.outputs[k][1]
            ex = low.puller.element(v, index)
            body.append(Store(low.first_output + k, linear_index(v.shape, index), ex))
        rows, body = low.simplify(self.space.rows, body)
        mapping = {name_of(self.column.var): panel * self.nr + lane}
        mapping |= places(self.outer, j // self.panel_count if self.outer else j)
        body = low.rename(body, mapping | places(rows, row))
        axes = [Axis(row, self.last_row, self.first_row)] if isinstance(row, Expr) else []
        axes += [Axis(lane, self.nr, most=self.nr)] if isinstance(lane, Expr) else []
        if _rows_together(body, row, lane):
            axes.reverse()
        loop = Loop(tuple(axes), tuple(body))
        only = body[0] if len(body) == 1 else None
        if not isinstance(only, Store) or self.sum != F32:
            return loop, None
        return loop, finish_of(only.buffer, only.position, only.value, cell,
                               name_of(row) if isinstance(row, Expr) else "", name_of(lane),
                               low.puller.gathers)

    # -- operand B -------------------------------------------------------------------------

    def constant_panels(self) -> tuple[int, Panels] | None:
        """The packing recipe where B is a constant read at affine positions of constant size."""
        b = self.space.b if self.stored is None else self.stored
        if b.kind != "load" or b.data[0] not in self.constants:
            return None
        position = b.data[1]
        parts = []
        for axes in ([*self.space.batch, *self.outer], [self.column], self.reduced):
            found = []
            for a in axes:
                step = coefficient(position, name_of(a.var))
                if not isinstance(step, int) or not isinstance(a.hi, int):
                    return None
                found.append((a.hi, step))
            parts.append(tuple(found))
        offset = substitute(position, dict.fromkeys(free_vars(position), 0))
        if not isinstance(offset, int):
            return None
        return b.data[0], Panels(offset, parts[0], parts[1][0], parts[2], self.nr,
                                 dtype=self.panel_type)

    def packing(self) -> Nest:
        """A kernel that packs B for this call."""
        n = self.names
        s = self.space
        p, lane = n.var(self.panel_count), n.var(self.nr)
        column = p * self.nr + lane
        value = map_dims(s.b, renamer({name_of(self.column.var): column}))
        inside = Cond(column, 0, self.column.hi)
        zero = Ex("const", F32, (), 0.0)
        if not (isinstance(self.column.hi, int) and self.column.hi % self.nr == 0):
            value = Ex("guard", F32, (value, zero), (inside,))
        order = [*s.batch, *self.outer, Axis(p, self.panel_count), *self.reduced,
                 Axis(lane, self.nr)]
        axes = [a for a in order if isinstance(a.var, Expr)]
        at = self.base + linear_index(tuple(a.hi for a in axes), tuple(a.var for a in axes))
        domain = tile_map(axes, (Store(self.packed, at, value),), n)
        inputs = [BufferDecl("in", v.dtype) for v in self.low.inputs]
        gathers = dict(self.low.puller.gathers)
        return Nest((*inputs, BufferDecl("out", F32)), (domain,), gathers)


def _assembled(writers: Sequence[ContractionWriter]) -> Contraction:
    """One contraction of what all phases wrote, a domain each."""
    last = writers[-1]
    nest = last.low.nest()
    inputs = len(last.low.inputs)
    packed = BufferDecl("in", last.panel_type)
    buffers = (*nest.buffers[:inputs], packed, *nest.buffers[inputs:])
    nest = replace(nest, buffers=buffers, shared=True)
    size = last.base + last.packed_elements
    found = [p for p in (w.constant_panels() for w in writers) if p is not None]
    if len(found) == len(writers):
        recipes = tuple(recipe for _, recipe in found)
        return Contraction(nest, size, (found[0][0], recipes), None, called(nest))
    packs = [w.packing() for w in writers]
    pack = replace(packs[-1], domains=tuple(d for p in packs for d in p.domains))
    return Contraction(nest, size, None, pack, called(nest))


def brief_weights(space: ContractionSpace, constants: frozenset[int]) -> Ex | None:
    """B as it is stored, where it is a constant of bfloat16 that is widened; else None."""
    b = space.b
    if b.kind != "fn" or b.data[0] != "cast" or b.args[0].dtype != BF16:
        return None
    inner: Ex = b.args[0]
    if inner.kind != "load" or inner.data[0] not in constants:
        return None
    axes = (*space.batch, *space.columns, *space.body.reduced)
    fixed = all(isinstance(a.hi, int) and isinstance(
        coefficient(inner.data[1], name_of(a.var)), int) for a in axes)
    return inner if fixed else None


def _rows_together(body: Sequence[Store | Accumulate], row: Dim, lane: Dim) -> bool:
    """Whether every store lies side by side along rows, not along columns (channels-first results):
    then the loop over rows belongs inside."""
    if not isinstance(row, Expr) or not isinstance(lane, Expr):
        return False
    return all(coefficient(item.position, name_of(row)) == 1
               and coefficient(item.position, name_of(lane)) != 1 for item in body)


def lower_contraction(graph: Graph, tile: MicroKernel, constants: frozenset[int],
                      plan: Tiling | None = None) -> Contraction:
    """Lowers a group around one contraction as ``plan`` says (None: as nobody asks otherwise);
    ``constants`` are the inputs known at load time. Raises ``Refused`` where the group is not of
    that form."""
    writers = [ContractionWriter(graph, tile, constants, plan)]
    writers[0].write()
    for phase in writers[0].space.phases[1:]:
        writers.append(ContractionWriter(graph, tile, constants, plan, writers[-1], phase))
        writers[-1].write()
    return _assembled(writers)

