"""Convolutions of 3x3 pixels with fewer multiplications: Winograd's F(m x m, 3 x 3), m from 2 to 4.

Neighboring outputs, a square of ``m x m``, depend on ``(m + 2)^2`` pixels. With ``Y = A^T [(G g
G^T) * (B^T d B)] A`` they take ``(m + 2)^2`` multiplications per pair of channels instead of ``9
m^2``: 16 instead of 36, 25 instead of 81, 36 instead of 144 (S. Winograd, "Arithmetic complexity of
computations", 1980; A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks",
2016). The transform of the weights is done once, in float64, when they are packed; those of pixels
and results are micro-kernels (``micro.winograd``).

A tile of the kernel is a block of such squares times a block of panels: the pixels of the block are
transformed into scratch, ``[(m + 2)^2][squares][channels]``; per panel ``(m + 2)^2`` products of
the same micro-kernel as elsewhere give ``[(m + 2)^2][squares][columns]``; those are transformed
back, square by square, and a loop nest applies whatever follows to those in the image.

Rounding errors grow, since sums of neighbors are rounded before they are multiplied; an infinity or
NaN reaches all outputs of the squares whose pixels contain it (``docs/NUMERICS.md``). Whether it is
used, and ``m``, is decided by the schedule, and unasked by ``ir.winograd``.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.access import Cond, linear_index
from ..ir.axes import Axis, name_of
from ..ir.dim_functions import ceil_div, dmax, dmin
from ..ir.dims import Dim, Expr, product
from ..ir.elements import Ex, Names, Refused, map_dims, renamer
from ..ir.graph import Graph
from ..ir.types import F32, I64
from ..ir.variants import WAY_BYTES, Tiling
from ..ir.winograd import RUNS, Transforms, winograd_form
from .contract import NO_LIMITS, Contraction, ContractionWriter, Panels
from .micro import MicroKernel, pixels, results
from .micro.winograd import ADDRESSES
from .nest import Accumulate, Address, Call, Claim, Loop, Nested, SetRows, Step, Store

LINE = 16
"""Elements of a cache line."""


class _WinogradWriter(ContractionWriter):
    """Writes the nest; a row is a square of outputs."""

    def sizes(self) -> None:
        """Sizes of blocks: transformed pixels take about a quarter of the level-2 cache."""
        s = self.space
        node = s.anchor
        self.reduced = list(s.body.reduced)
        self.image, self.line, self.pixel, _ = s.index[node]
        images = winograd_form(s, constant=True)
        if isinstance(images, str):
            raise Refused(f"it has no Winograd convolution: {images}")
        self.side = self.plan.winograd
        self.transforms = Transforms(self.side)
        self.size = self.transforms.size
        self.points = self.size**2
        self.at_once = RUNS[self.side]
        self.counts = images.squares(self.side)
        self.extents = node.out.shape[1:3]
        self.channels = self.reduced[2].hi
        assert isinstance(self.channels, int)
        self.row_stride = self.channels
        if self.channels * F32.itemsize % WAY_BYTES == 0:
            self.row_stride += LINE  # rows off multiples of a cache way, see `variants.tiling`
        self.element, self.sum, self.slack = F32, F32, 0
        self.panel_depth = self.depth = self.points * self.channels
        self.row_count = product(self.counts)
        self.column, self.outer = s.columns[0], []
        self.panel_count = self.panels = ceil_div(self.column.hi, self.nr)
        self.batches = self.chunks = 1
        self.together, self.dear = False, True
        self.cut_panels(self.block_rows())
        assert isinstance(self.block, int)
        self.pixel_plane = _apart(self.block * self.row_stride)
        """Elements from the pixels of one of the points to those of the next."""
        self.sum_plane = _apart(self.block * self.nr)
        """The same of sums."""

    def block_rows(self) -> Dim:
        most = self.tile.target.l2_bytes // 4 // (self.points * F32.itemsize * self.row_stride)
        most = (self.plan.block or min(max(most // self.mr, 1), 8)) * self.mr
        if not isinstance(self.row_count, int):
            return most
        blocks = max(1, -(-self.row_count // most))
        return max(1, -(-self.row_count // (blocks * self.mr))) * self.mr

    def constant_panels(self) -> tuple[int, Panels] | None:
        found = super().constant_panels()
        return None if found is None else (found[0], replace(found[1], winograd=self.side))

    # -- pixels ----------------------------------------------------------------------------

    def rows_of_a(self) -> list[Step]:
        """Transforms the block's pixels, and writes the table of its rows."""
        n, low = self.names, self.low
        self.pixels = low.new_scratch(F32, self.points * self.pixel_plane)
        self.table = low.new_scratch(I64, self.block)
        self.square = low.new_scratch(I64, self.size * ADDRESSES)
        self.zeros = low.new_scratch(F32, self.channels)
        r, t, z = n.var(self.block), n.var(self.block), n.var(self.channels)
        rows, squares, channels = (
            (Axis(v, hi),) if isinstance(v, Expr) else ()
            for v, hi in ((r, self.block), (t, self.last_row - self.first_row), (z, self.channels)))
        zeros = Loop(channels, (Store(self.zeros, z, Ex("const", F32, (), 0.0)),))
        table = SetRows(rows, self.table, r, Address(self.pixels, r * self.row_stride), (), -1)
        lets = _Lets(n)
        place = self.places(self.first_row + t, lets)
        call = Call(pixels(self.tile.target, self.side).symbol, (
            Address(self.square, 0), self.channels, Address(self.pixels, t * self.row_stride),
            self.pixel_plane))
        steps = (self.addresses(place), call)
        return [zeros, table, Nested(squares, steps, lets.made())]

    def places(self, tile: Dim, lets: _Lets) -> tuple[Dim, Dim, Dim]:
        """Image, row of squares and column of squares of a square."""
        image, down, across = self.counts
        return (lets.name(tile // (down * across), image), lets.name(tile // across % down, down),
                lets.name(tile % across, across))

    def addresses(self, place: tuple[Dim, Dim, Dim]) -> SetRows:
        """Addresses of the pixels that a square of outputs reads; of zeros outside the image.
        Every border is looked at, whether or not the image needs it: one source for all sizes. The
        addresses behind a line's last pixel are never read."""
        node, names = self.space.anchor, self.names
        ky, kx, channel = self.reduced
        down, across = names.var(self.size), names.var(ADDRESSES)
        line, pixel = (start * self.side + offset
                       for start, offset in zip(place[1:], (down, across), strict=True))
        fixed: dict[str, Dim] = {name_of(ky.var): 0, name_of(kx.var): 0,
                                 name_of(self.line): line, name_of(self.pixel): pixel}
        for variable, value in ((self.image, place[0]), (channel.var, 0)):
            if isinstance(variable, Expr):
                fixed[name_of(variable)] = value
        conds = tuple(Cond(at - lo, 0, size) for at, lo, size in zip(
            (line, pixel), node.attrs["pads_lo"], node.operands[0].shape[1:3], strict=True))
        buffer, position = map_dims(self.space.a, renamer(fixed)).data
        axes = tuple(Axis(v, hi) for v, hi in ((down, self.size), (across, ADDRESSES))
                     if isinstance(v, Expr))
        return SetRows(axes, self.square, down * ADDRESSES + across, Address(buffer, position),
                       conds, self.zeros, fixed=True)

    # -- products and results --------------------------------------------------------------

    def panel_loop(self) -> list[Step]:
        """Per panel a product for each point, and the way back."""
        n = self.names
        j, q, e = n.var(self.panels, "j"), n.var(ceil_div(self.block, self.mr)), n.var(self.points)
        runs = ceil_div(self.channels, self.at_once)
        k = n.var(runs)
        self.strip = self.low.new_scratch(F32, self.points * self.sum_plane)
        self.square_strip = self.low.new_scratch(F32, self.side**2 * self.nr)
        assert isinstance(e, Expr)
        to = Address(self.strip, e * self.sum_plane + q * (self.mr * self.nr))
        first = k * self.at_once
        b = Address(self.packed, ((j * self.points + e) * self.channels + first) * self.nr)
        axes = ((e, self.points), (q, self.micro_tiles), (k, runs))
        inner = tuple(Axis(v, hi) for v, hi in axes if isinstance(v, Expr))
        arguments = (
            Address(self.table, q * self.mr), 1, e * self.pixel_plane + first,
            dmin(self.at_once, self.channels - first), b, 0, 0, to, self.nr, self.mr, self.nr, to,
            dmin(k, 1), 0, 0, 0, *NO_LIMITS)
        panels = (Axis(j, self.last_panel, self.first_panel),) if isinstance(j, Expr) else ()
        calls = [Call(tile.symbol, arguments, (*once, *inner)) for tile, once in self.tiles(j)]
        return [Nested(panels, (*calls, self.results(j)))]

    def tiles(self, j: Dim) -> list[tuple[MicroKernel, tuple[Axis, ...]]]:
        """The micro-kernels of panel ``j``, each in a loop that runs once for its panels and not at
        all for others: so the way back is written once."""
        pieces = self.pieces(j)
        if len(pieces) == 1:
            return [(pieces[0][0], ())]
        assert isinstance(self.panel_count, int)
        last = dmax(j - (self.panel_count - 2), 0)
        (full, *_), (narrow, *_) = pieces
        return [(tile, (Axis(self.names.var(2), times),))
                for tile, times in ((full, 1 - last), (narrow, last))]

    def results(self, j: Dim) -> Nested:
        """The outputs of a panel: a square's are collected in a strip, and what follows is applied
        to those that do not stick out of the image."""
        n = self.names
        tile, lane = n.var(self.row_count, "r"), n.var(self.nr, "c")
        lets = _Lets(n)
        width = dmin(self.nr, self.column.hi - j * self.nr)
        lanes = (Axis(lane, width, most=self.nr),) if isinstance(lane, Expr) else ()
        collected = Call(results(self.tile.target, self.side).symbol, (
            Address(self.strip, (tile - self.first_row) * self.nr), self.sum_plane, width,
            Address(self.square_strip, 0), self.nr))
        image, *places = self.places(tile, lets)
        firsts = [lets.name(place * self.side, extent)
                  for place, extent in zip(places, self.extents, strict=True)]
        down, across = ((n.var(self.side), dmin(self.side, extent - first))
                        for first, extent in zip(firsts, self.extents, strict=True))
        inside = tuple(Axis(v, hi, most=self.side) for v, hi in (down, across)
                       if isinstance(v, Expr))
        mapping: dict[str, Dim] = {
            name_of(self.line): firsts[0] + down[0], name_of(self.pixel): firsts[1] + across[0],
            name_of(self.column.var): j * self.nr + lane}
        if isinstance(self.image, Expr):
            mapping[name_of(self.image)] = image
        at = (down[0] * self.side + across[0]) * self.nr + lane
        value = Ex("load", F32, (), (self.square_strip, at))
        stores = self.late_stores(value, mapping)
        stored = Loop((*inside, *lanes), tuple(stores))
        pieces = -(-self.nr // LINE)
        piece = n.var(pieces)
        to_lines = renamer({name_of(lane): piece * LINE})
        claimed = Loop((*inside, Axis(piece, ceil_div(width, LINE), most=pieces)),
                       tuple(Claim(s.buffer, to_lines(s.position)) for s in stores))
        axes = (Axis(tile, self.last_row, self.first_row),) if isinstance(tile, Expr) else ()
        return Nested(axes, (claimed, collected, stored), lets.made())

    def late_stores(self, value: Ex, mapping: dict[str, Dim]) -> list[Store | Accumulate]:
        """What follows the convolution, for one of a square's outputs."""
        low = self.low
        low.puller.start()
        low.puller.provided[self.space.anchor.out] = lambda index: value
        body: list[Store | Accumulate] = []
        for k, (_, index) in self.space.late.items():
            v = low.graph.outputs[k][1]
            ex = low.puller.element(v, index)
            body.append(Store(low.first_output + k, linear_index(v.shape, index), ex))
        return low.rename(body, mapping)


class _Lets:
    """Positions that a square computes once."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.pairs: list[tuple[Dim, Dim]] = []

    def name(self, value: Dim, extent: Dim) -> Dim:
        """A variable for ``value``, which is below ``extent``."""
        variable = self.names.var(extent)
        if isinstance(variable, Expr):
            self.pairs.append((variable, value))
        return variable

    def made(self) -> tuple[tuple[Dim, Dim], ...]:
        """(variable, value) of all, in order."""
        return tuple(self.pairs)


def _apart(elements: int) -> int:
    """As many elements, or a line more where planes of so many would compete for the same
    sets of a level-1 cache: multiples of half a way."""
    return elements + (LINE if elements * F32.itemsize % (WAY_BYTES // 2) == 0 else 0)


def lower_winograd(graph: Graph, tile: MicroKernel, constants: frozenset[int], plan: Tiling
                   ) -> Contraction:
    """Lowers a group of ``ir.winograd``'s form; raises ``Refused`` for others."""
    return _WinogradWriter(graph, tile, constants, plan).contraction()
