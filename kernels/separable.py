"""A depthwise convolution and the pointwise ones around it: lines of pixels from the one to the
other through the caches.

A tile is a few whole lines of what the depthwise convolution computes. The thread that has it
computes these lines as the depthwise kernel does (``depthwise``), with all that follows up to the
pointwise convolution, into scratch that stays in its level-2 cache; they are the rows of a block of
the product (``contract``), which then goes over all columns. A pointwise convolution before it has
computed the lines that the windows of the tile read, by windows of its own, into scratch as well.
So the values between never leave the core. Sums are added up in the order in which the kernels of
the parts add them, and come out equal. (Only micro-tiles of four rows and fewer sum in another
order than taller ones; either kernel takes them where rows are as few.)

What it costs: the right operand is read once per tile, and lines that windows on both sides of the
border between two tiles read are read, or computed, twice.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.axes import Axis, name_of, places
from ..ir.dim_functions import ceil_div, dmin
from ..ir.dims import Dim, Expr, product
from ..ir.elements import Ex, Index
from ..ir.graph import Value
from ..ir.lines import MOST_LINES
from ..ir.separable import SeparableSpace
from ..ir.target import Target
from ..ir.types import F32, I64
from ..ir.variants import WAY_BYTES, Tiling
from .contract import Contraction, ContractionWriter
from .depthwise import DepthwiseWriter
from .lower import Lowering
from .micro import MicroKernel
from .nest import Address, Domain, Nest, Nested, SetRows, Step

LINE = 16
"""Elements of a line of memory: what keeps rows off multiples of a cache way."""


class _Lines(DepthwiseWriter):
    """Writes whole lines of a convolution by windows."""

    def __init__(self, low: Lowering, target: Target, first: Dim, most: Dim, pixel: int | None
                 ) -> None:
        """``first``: number of the first line; there are at most ``most``. The result is scratch
        that begins with it, its pixels ``pixel`` elements apart; None: it lies as it does without
        other parts."""
        super().__init__(low, target, windows=True)
        self.first_line, self.room, self.pixel_step = first, most, pixel
        lead = [a for a in self.lead if isinstance(a.var, Expr)]
        self.outer = lead
        """Axes of the lines."""
        self.number = lead[0].var if len(lead) == 1 else low.names.var(product(a.hi for a in lead))
        """Number of a line."""

    def lines(self, last: Dim) -> Step:
        """The lines from the first on, up to ``last``."""
        steps = self.prepared()
        if not isinstance(self.number, Expr):
            return Nested((), (*steps, *self.steps(1)))
        lets: tuple[tuple[Dim, Dim], ...] = ()
        if len(self.outer) > 1:
            at = places(self.outer, self.number)
            lets = tuple((axis.var, at[name_of(axis.var)]) for axis in self.outer)
        if self.shape.lines > 1:
            return Nested((), (*steps, *self.several(
                self.number, self.first_line, last - self.first_line, self.room, lets)))
        each = Axis(self.number, last, self.first_line)
        return Nested((), (*steps, Nested((each,), tuple(self.steps(1)), lets)))

    def most_lines(self) -> Dim:
        if len(self.outer) <= 1:
            return self.room
        height, most = self.outer[-1].hi, MOST_LINES  # blocks of lines lie within an image
        return most if isinstance(height, int) and height % most == self.room % most == 0 else 1

    def read_from(self, first: Dim, line: int) -> None:
        """The image is scratch that begins with line ``first``, of ``line`` elements each."""
        buffer, position = self.space.a.data
        self.space.a = Ex("load", F32, (), (buffer, position - first * line))

    def cut_line(self) -> None:
        self.part = self.count = self.line.hi
        self.line_part = self.begin = self.first = 0

    def position(self, v: Value, index: Index) -> Dim:
        if self.pixel_step is None:
            return super().position(v, index)
        place = (self.number - self.first_line) * self.line.hi + self.line.var
        return place * self.pixel_step + sum(a.var for a in self.channels)


def window_lines(low: Lowering, space: SeparableSpace, target: Target, result: int, first: Dim,
                 lines: int, pixel: int | None = None) -> Step:
    """Computes up to ``lines`` lines of the depthwise convolution, from line ``first`` on, into
    buffer ``result``: scratch that begins with it, pixels ``pixel`` elements apart, or an output.
    What its windows read is computed before that where it is a part of the group."""
    last, needed = dmin(space.lines.count, first + lines), space.needed
    graph = space.window.low.graph
    if space.before is None or needed is None:
        return _Lines(low.part(graph, result), target, first, lines, pixel).lines(last)
    wide, most = needed.lines, needed.most(lines)
    scratch = low.new_scratch(F32, most * wide.width * wide.channels)
    begin = low.names.var(wide.count)
    before = _Lines(low.part(space.before.low.graph, scratch), target, begin, most, wide.channels)
    window = _Lines(low.part(graph, result, scratch), target, first, lines, pixel)
    window.read_from(begin, wide.width * wide.channels)
    start, end = needed.range(first, last - 1)
    lets = ((begin, start),) if isinstance(begin, Expr) else ()
    return Nested((), (before.lines(end), window.lines(last)), lets)


class _Writer(ContractionWriter):
    """Writes the pointwise convolution behind it."""

    def __init__(self, space: SeparableSpace, tile: MicroKernel, constants: frozenset[int],
                 plan: Tiling, lines: int) -> None:
        assert space.product is not None
        self.parts, self.between, self.lines_per_tile = space, space.lines, lines
        super().__init__(space.product.low.graph, tile, constants, plan, inner=1)

    def block_rows(self) -> Dim:
        return self.lines_per_tile * self.between.width

    def cut_panels(self, block: Dim) -> None:
        """All panels, since the block is computed first; it need not be whole micro-tiles."""
        self.block, self.covered = block, ceil_div(block, self.mr) * self.mr
        self.row_blocks = ceil_div(self.row_count, block) if block != 0 else 0
        self.panel_block, self.panel_blocks = self.panels, 1

    def rows_of_a(self) -> list[Step]:
        """Computes the lines of the block, and writes the table of its rows."""
        n, between = self.names, self.between
        pixel = between.channels
        if pixel * F32.itemsize % WAY_BYTES == 0:
            pixel += LINE
        scratch = self.low.new_scratch(F32, self.block * pixel)
        first = self.row_axis.var * self.lines_per_tile
        lines = window_lines(self.low, self.parts, self.tile.target, scratch, first,
                             self.lines_per_tile, pixel)
        self.tap_count = 1
        self.table = self.low.new_scratch(I64, self.covered)
        q, i = n.var(ceil_div(self.block, self.mr)), n.var(self.mr)
        axes = [Axis(v, e) for v, e in ((q, self.micro_tiles), (i, self.mr)) if isinstance(v, Expr)]
        local = q * self.mr + i
        row = dmin(local, self.last_row - self.first_row - 1)
        table = SetRows((), self.table, local, Address(scratch, row * pixel), (), -1)
        return [lines, Nested(tuple(axes), (table,))]


def lower_lines(space: SeparableSpace, target: Target, lines: int) -> Nest:
    """Lowers a depthwise convolution and the pointwise one before it, ``lines`` lines per tile."""
    low = Lowering(space.window.low.graph, inner=1)
    blocks = ceil_div(space.lines.count, lines)
    block = low.names.var(blocks)
    step = window_lines(low, space, target, low.first_output, block * lines, lines)
    axes = (Axis(block, blocks),) if isinstance(block, Expr) else ()
    low.domains.append(Domain(axes, (step,)))
    return replace(low.nest(), shared=True, unrolled=True)


def lower_separable(space: SeparableSpace, tile: MicroKernel, constants: frozenset[int],
                    plan: Tiling, lines: int) -> Contraction:
    """Lowers a depthwise convolution and the pointwise one behind it, perhaps with one before,
    ``lines`` lines of pixels per tile, the product as ``plan`` says; ``constants`` are the inputs
    known at load time."""
    made = _Writer(space, tile, constants, plan, lines).contraction()
    return replace(made, nest=replace(made.nest, unrolled=True))
