"""A depthwise convolution and the pointwise one behind it: lines of pixels from the one to the
other through the caches.

A tile is a few whole lines of the image between the two. The thread that has it computes these
lines as the depthwise kernel does (``depthwise``), with all that follows up to the pointwise
convolution, into scratch that stays in its level-2 cache; they are the rows of a block of the
product (``contract``), which then goes over all columns. So the value between never leaves the
core. Sums are added up in the order in which the two kernels add them, and come out equal. (Only
micro-tiles of four rows and fewer sum in another order than taller ones; either kernel takes them
where rows are as few.)

What it costs: the right operand is read once per tile, and windows that reach over the border
between two tiles read their lines twice.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.axes import Axis
from ..ir.dim_functions import ceil_div, dmin
from ..ir.dims import Dim, Expr, product
from ..ir.elements import Index
from ..ir.graph import Value
from ..ir.separable import SeparableSpace
from ..ir.types import F32, I64
from ..ir.variants import WAY_BYTES, Tiling
from .contract import Contraction, ContractionWriter
from .depthwise import DepthwiseWriter
from .lower import Lowering
from .micro import MicroKernel
from .nest import Address, Nested, SetRows, Step

LINE = 16
"""Elements of a line of memory: what keeps rows off multiples of a cache way."""


class _Lines(DepthwiseWriter):
    """Writes the depthwise half: whole lines, into scratch."""

    def __init__(self, low: Lowering, tile: MicroKernel, first: Dim, pixel: int) -> None:
        """``first``: number of the line that scratch begins with; its pixels lie ``pixel`` elements
        apart."""
        super().__init__(low, tile.target, windows=True)
        self.first_line, self.pixel_step = first, pixel
        lead = [a for a in self.lead if isinstance(a.var, Expr)]
        self.outer = lead
        """Axes of the lines."""
        self.number = lead[0].var if len(lead) == 1 else low.names.var(product(a.hi for a in lead))
        """Number of a line."""

    def lines(self, last: Dim) -> Step:
        """The lines from the first on, up to ``last``."""
        steps = tuple(self.steps())
        if not isinstance(self.number, Expr):
            return Nested((), steps)
        lets: list[tuple[Dim, Dim]] = []
        rest: Dim = self.number
        for axis in reversed(self.outer[1:]):
            lets.append((axis.var, rest % axis.hi))
            rest = rest // axis.hi
        if len(self.outer) > 1:
            lets.append((self.outer[0].var, rest))
        return Nested((Axis(self.number, last, self.first_line),), steps, tuple(lets))

    def cut_line(self) -> None:
        self.part = self.count = self.line.hi
        self.line_part = self.begin = self.first = 0

    def position(self, v: Value, index: Index) -> Dim:
        place = (self.number - self.first_line) * self.line.hi + self.line.var
        return place * self.pixel_step + sum(a.var for a in self.channels)


class _Writer(ContractionWriter):
    """Writes the pointwise half around it."""

    def __init__(self, space: SeparableSpace, tile: MicroKernel, constants: frozenset[int],
                 plan: Tiling, lines: int) -> None:
        self.between, self.lines_per_tile = space.lines, lines
        self.window = space.halves.window
        super().__init__(space.halves.product, tile, constants, plan, inner=1)

    def block_rows(self) -> Dim:
        return self.lines_per_tile * self.between.width

    def cut_panels(self, block: Dim) -> None:
        """All panels, since the block is computed first."""
        self.block = block
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
        half = _Lines(self.low.part(self.window, scratch), self.tile, first, pixel)
        lines = half.lines(dmin(between.count, first + self.lines_per_tile))
        self.tap_count = 1
        self.table = self.low.new_scratch(I64, ceil_div(self.block, self.mr) * self.mr)
        q, i = n.var(ceil_div(self.block, self.mr)), n.var(self.mr)
        axes = [Axis(v, e) for v, e in ((q, self.micro_tiles), (i, self.mr)) if isinstance(v, Expr)]
        local = q * self.mr + i
        row = dmin(local, self.last_row - self.first_row - 1)
        table = SetRows((), self.table, local, Address(scratch, row * pixel), (), -1)
        return [lines, Nested(tuple(axes), (table,))]


def lower_separable(space: SeparableSpace, tile: MicroKernel, constants: frozenset[int],
                    plan: Tiling, lines: int) -> Contraction:
    """Lowers a depthwise convolution and the pointwise one behind it, ``lines`` lines of pixels per
    tile, the product as ``plan`` says; ``constants`` are the inputs known at load time."""
    made = _Writer(space, tile, constants, plan, lines).contraction()
    return replace(made, nest=replace(made.nest, unrolled=True))
