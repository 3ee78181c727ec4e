"""Convolutions of 3x3 pixels with fewer multiplications: Winograd's F(2x2, 3x3).

Four neighboring outputs (2x2) depend on 4x4 pixels. With ``Y = A^T [(G g G^T) * (B^T d B)] A`` they
take 16 multiplications per pair of channels instead of 36 (S. Winograd, "Arithmetic complexity of
computations", 1980; A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks",
2016). The transforms of pixels and results add and subtract only; that of the weights is done once,
in float64, when they are packed.

A tile of the kernel is a block of such 2x2 tiles times a block of panels: the pixels of the block
are transformed into scratch, ``[16][tiles][channels]``; per panel sixteen matrix products of the
same micro-kernel as elsewhere give ``[16][tiles][columns]``; a loop nest transforms those back and
applies whatever follows.

Rounding errors grow a little, since sums of neighbors are rounded before they are multiplied; an
infinity or NaN reaches all of the 2x2 outputs whose 4x4 pixels contain it (``docs/NUMERICS.md``).
Whether it is used is decided by the schedule, and unasked by ``ir.winograd``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..ir.access import Cond, linear_index
from ..ir.axes import Axis, name_of
from ..ir.dims import Dim, Expr, ceil_div, dmax, dmin, product, within
from ..ir.elements import Ex, Refused, map_dims, renamer
from ..ir.graph import Graph
from ..ir.types import F32, I64
from ..ir.variants import WAY_BYTES, Tiling
from ..ir.windows import all_hold
from ..ir.winograd import winograd_form
from .contract import NO_LIMITS, Contraction, Panels, _Writer
from .micro import MicroKernel
from .nest import Accumulate, Address, Call, Loop, Nested, SetRows, Step, Store

SIZE = 4
"""Pixels of one side of a transformed tile; SIZE - 2 outputs."""
POINTS = SIZE * SIZE
CHAIN = 64
"""Products that one accumulator takes in a row. Fewer than elsewhere (``micro.gemm``), so that the
errors of sums make up for those of the transforms."""
_ZERO = Ex("const", F32, (), 0.0)


class _WinogradWriter(_Writer):
    """Writes the nest; a row is a 2x2 tile of outputs."""

    def sizes(self) -> None:
        """Sizes of blocks: transformed pixels take about a quarter of the level-2 cache."""
        s = self.space
        node = s.anchor
        self.reduced = list(s.body.reduced)
        self.image, self.line, self.pixel, _ = s.index[node]
        images = winograd_form(s, constant=True)
        if isinstance(images, str):
            raise Refused(f"it has no Winograd convolution: {images}")
        self.counts = images.squares(SIZE - 2)
        self.extents = node.out.shape[1:3]
        self.channels = self.reduced[2].hi
        assert isinstance(self.channels, int)
        self.row_stride = self.channels
        if self.channels * F32.itemsize % WAY_BYTES == 0:
            self.row_stride += 16  # rows off multiples of a cache way, see `variants.tiling`
        self.element, self.sum, self.slack = F32, F32, 0
        self.panel_depth = self.depth = POINTS * self.channels
        self.row_count = product(self.counts)
        self.column, self.outer = s.columns[0], []
        self.panel_count = self.panels = ceil_div(self.column.hi, self.nr)
        self.batches = self.chunks = 1
        self.together, self.dear = False, True
        self.cut_panels(self.block_rows())

    def block_rows(self) -> Dim:
        most = self.tile.target.l2_bytes // 4 // (POINTS * F32.itemsize * self.row_stride)
        most = (self.plan.block or min(max(most // self.mr, 1), 8)) * self.mr
        if not isinstance(self.row_count, int):
            return most
        blocks = max(1, -(-self.row_count // most))
        return max(1, -(-self.row_count // (blocks * self.mr))) * self.mr

    def constant_panels(self) -> tuple[int, Panels] | None:
        found = super().constant_panels()
        return None if found is None else (found[0], replace(found[1], winograd=True))

    # -- pixels ----------------------------------------------------------------------------

    def rows_of_a(self) -> list[Step]:
        """Transforms the block's pixels, and writes the table of its rows."""
        n, low = self.names, self.low
        self.pixels = low.new_scratch(F32, POINTS * self.block * self.row_stride)
        self.table = low.new_scratch(I64, self.block)
        r = n.var(self.block)
        rows = (Axis(r, self.block),) if isinstance(r, Expr) else ()
        table = SetRows(rows, self.table, r, Address(self.pixels, r * self.row_stride), (), -1)
        t = n.var(self.block)
        place, lets = self.places(self.first_row + t)
        count = self.last_row - self.first_row
        c = self.reduced[2]
        values = _both_ways([[self.element_at(place, i, j) for j in range(SIZE)]
                             for i in range(SIZE)], _transformed)
        local = t * self.row_stride + c.var
        body = tuple(
            Store(self.pixels, (i * SIZE + j) * self.block * self.row_stride + local, values[i][j])
            for i in range(SIZE) for j in range(SIZE))  # fmt: skip
        axes = (Axis(t, count),) if isinstance(t, Expr) else ()
        return [table, Nested(axes, (Loop((c,), body),), lets)]

    def places(self, tile: Dim) -> tuple[tuple[Dim, ...], tuple[tuple[Dim, Dim], ...]]:
        """Variables (image, row of tiles, column of tiles), and what they are for a tile."""
        _, down, across = self.counts
        variables = tuple(self.names.var(count) for count in self.counts)
        values = tile // (down * across), tile // across % down, tile % across
        return variables, tuple((v, value) for v, value in zip(variables, values, strict=True)
                                if isinstance(v, Expr))

    def element_at(self, place: tuple[Dim, ...], i: int, j: int) -> Ex:
        """Pixel (i, j) of the 4x4 that a tile reads; zero outside the image."""
        node = self.space.anchor
        image, down, across = place
        conds: list[Cond] = []
        at: list[Dim] = []
        for start, offset, lo, size in zip((down, across), (i, j), node.attrs["pads_lo"],
                                           node.operands[0].shape[1:3], strict=True):
            position = start * 2 + (offset - lo)
            if within(position, 0, size) is not True:
                conds.append(Cond(position, 0, size))
                position = dmin(dmax(position, 0), size - 1)
            at.append(position + lo)
        ky, kx, _ = self.reduced
        mapping: dict[str, Dim] = {name_of(ky.var): 0, name_of(kx.var): 0,
                                   name_of(self.line): at[0], name_of(self.pixel): at[1]}
        if isinstance(self.image, Expr):
            mapping[name_of(self.image)] = image
        value = map_dims(self.space.a, renamer(mapping))
        if not conds:
            return value
        return Ex("fn", F32, (all_hold(conds), value, _ZERO), ("select", ()))

    # -- products and results --------------------------------------------------------------

    def panel_loop(self) -> list[Step]:
        """Per panel sixteen products and the way back."""
        n = self.names
        j, q, e = n.var(self.panels, "j"), n.var(ceil_div(self.block, self.mr)), n.var(POINTS)
        k = n.var(ceil_div(self.channels, CHAIN))
        self.strip = self.low.new_scratch(F32, POINTS * self.block * self.nr)
        assert isinstance(e, Expr)
        to = Address(self.strip, e * (self.block * self.nr) + q * (self.mr * self.nr))
        first = k * CHAIN
        b = Address(self.packed, ((j * POINTS + e) * self.channels + first) * self.nr)
        axes = ((e, POINTS), (q, self.micro_tiles), (k, ceil_div(self.channels, CHAIN)))
        inner = tuple(Axis(v, hi) for v, hi in axes if isinstance(v, Expr))
        arguments = (
            Address(self.table, q * self.mr), 1, e * (self.block * self.row_stride) + first,
            dmin(CHAIN, self.channels - first), b, 0, 0, to, self.nr, self.mr, self.nr, to,
            dmin(k, 1), 0, 0, 0, *NO_LIMITS)
        results = self.results(j)
        return [Nested(panels, (Call(tile.symbol, arguments, inner), results))
                for tile, panels in self.pieces(j)]

    def results(self, j: Dim) -> Nested:
        """The outputs of a panel: one loop where no tile sticks out of the image, else one for
        each of the four outputs of a tile."""
        n = self.names
        tile, lane = n.var(self.row_count, "r"), n.var(self.nr, "c")
        local = (tile - self.first_row) * self.nr + lane
        cells = [[Ex("load", F32, (), (self.strip, (i * SIZE + k) * (self.block * self.nr) + local))
                  for k in range(SIZE)] for i in range(SIZE)]
        values = _both_ways(cells, _collected)
        (image, down, across), lets = self.places(tile)
        width = dmin(self.nr, self.column.hi - j * self.nr)
        lanes = (Axis(lane, width, most=self.nr),) if isinstance(lane, Expr) else ()
        loops: list[Loop] = []
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            at = (down * 2 + y, across * 2 + x)
            mapping: dict[str, Dim] = {
                name_of(self.line): at[0], name_of(self.pixel): at[1],
                name_of(self.column.var): j * self.nr + lane}
            if isinstance(self.image, Expr):
                mapping[name_of(self.image)] = image
            guard = tuple(Cond(p, 0, size) for p, size in zip(at, self.extents, strict=True)
                          if within(p, 0, size) is not True)
            body = tuple(self.late_stores(values[y][x], mapping))
            loops.append(Loop(lanes, body, guard=guard))
        if not any(loop.guard for loop in loops):
            loops = [Loop(lanes, tuple(item for loop in loops for item in loop.body))]
        axes = (Axis(tile, self.last_row, self.first_row),) if isinstance(tile, Expr) else ()
        return Nested(axes, tuple(loops), lets)

    def late_stores(self, value: Ex, mapping: dict[str, Dim]) -> list[Store | Accumulate]:
        """What follows the convolution, for one of a tile's outputs."""
        low = self.low
        low.puller.start()
        low.puller.provided[self.space.anchor.out] = lambda index: value
        body: list[Store | Accumulate] = []
        for k, (_, index) in self.space.late.items():
            v = low.graph.outputs[k][1]
            ex = low.puller.element(v, index)
            body.append(Store(low.first_output + k, linear_index(v.shape, index), ex))
        return low.rename(body, mapping)


def _fn(op: str, a: Ex, b: Ex) -> Ex:
    return Ex("fn", F32, (a, b), (op, ()))


def _transformed(d: Sequence[Ex]) -> list[Ex]:
    """``B^T d`` of four numbers."""
    return [_fn("sub", d[0], d[2]), _fn("add", d[1], d[2]), _fn("sub", d[2], d[1]),
            _fn("sub", d[1], d[3])]  # fmt: skip


def _collected(m: Sequence[Ex]) -> list[Ex]:
    """``A^T m`` of four numbers."""
    return [_fn("add", _fn("add", m[0], m[1]), m[2]), _fn("sub", _fn("sub", m[1], m[2]), m[3])]


def _both_ways(grid: Sequence[Sequence[Ex]], along: Callable[[Sequence[Ex]], list[Ex]]
               ) -> list[list[Ex]]:
    """``along`` applied to the columns of a grid, then to the rows."""
    columns = [along(column) for column in zip(*grid, strict=True)]
    return [along(row) for row in zip(*columns, strict=True)]


def lower_winograd(graph: Graph, tile: MicroKernel, constants: frozenset[int], plan: Tiling
                   ) -> Contraction:
    """Lowers a group of ``ir.winograd``'s form; raises ``Refused`` for others."""
    return _WinogradWriter(graph, tile, constants, plan).contraction()
