"""Depthwise convolution, and that of narrow groups or of few channels, on micro-kernels, with the
epilogue fused.

A tile is a few lines of the output image, or a part of one where there are few. The micro-kernel
``window`` computes a few neighboring pixels at once: it needs no table, loads each input pixel once
per row of the windows, reads a row of zeros for columns to the left and right of the image, and
what lies above or below the image, or in planes before or behind it, is left out by giving it fewer
rows and planes. Small windows are computed by ``block``, two lines at once, which share
the pixels that are loaded; ``window`` has the lines that are left over. Those that overlap a little
are computed by ``roll``, which goes down a run of lines and reads each row of the image once.
Windows that none has a form of go through a table of addresses (zeros outside the image) to the
micro-kernel ``depthwise``; those of groups are products (``contract``) instead. The last pixels of
a line begin earlier instead of being cut, so some are computed twice, but none is padded.

Bias and limits are applied in registers (``epilogue``), and a channels-first result leaves a strip
of scratch turned; what else follows is a loop nest over a strip. Pixels of a quantized image are
read as bytes (``ContractionSpace.pixels``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..ir.access import Cond, linear_index
from ..ir.axes import Axis, coefficient, name_of
from ..ir.contraction import SPLITS, ContractionSpace, least_rows
from ..ir.dim_functions import ceil_div, dmax, dmin
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr, free_vars, product
from ..ir.elements import Ex, Index, renamer
from ..ir.epilogue import Finish, finish_of
from ..ir.graph import Graph, Value
from ..ir.grids import DEPTHWISE, fan_of, find_grid
from ..ir.lines import Shape, crowded, lines_shape
from ..ir.target import Target
from ..ir.types import F32, I8, I64, U8
from ..ir.variants import best_height
from .lower import Lowering
from .maps import TURN_KERNEL, rows_per_tile
from .micro import MicroKernel, block, depthwise, roll, window
from .micro.depthwise import window_rows
from .nest import (
    Accumulate,
    Address,
    Call,
    Domain,
    Loop,
    Nest,
    Nested,
    SetRows,
    Step,
    Store,
    called,
)  # fmt: skip

BLOCK_ELEMENTS = 1 << 14
"""Output elements of a tile: 64 KB of float32."""
STRIP_ELEMENTS = 1 << 10
"""Sums that wait for their epilogue: a small part of a level-1 cache."""
LARGE = 64
"""Lines and pixels that are expected where nothing is known."""
SHORTEST = 4
"""Micro-tiles of the shortest part of a line that is a tile of its own."""
BLOCK_PIXELS, BLOCK_CHANNELS = 64, 64
"""Pixels of a part of a line whose length is not known or whose result is turned, and channels that
are turned at once: 16 KB."""
_NAMES = {F32: "f32", U8: "u8", I8: "s8"}
"""Element type of pixels -> how micro-kernels call it."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Neighboring pixels ``[first, first + count)`` of ``lines`` lines and the micro-kernel for
    them; ``count`` is 0 or at least the micro-kernel's number of pixels."""

    first: Dim
    count: Dim
    tile: MicroKernel
    lines: Dim
    most: int
    """Lines at most."""


class DepthwiseWriter:
    """Writes the nest of one group."""

    def __init__(self, low: Lowering, target: Target, windows: bool) -> None:
        self.low = low
        self.space = ContractionSpace(low)
        self.target = target
        channel, rows = self.space.channel, self.space.rows
        fan = DEPTHWISE if channel is not None else fan_of(self.space)
        assert fan is not None
        self.fan = fan
        """Channels that are summed into how many."""
        self.channels = [channel] if channel is not None else [
            *self.space.batch, *self.space.columns]
        """Axes of the channels of the result: groups, and the channels of one."""
        groups = product(a.hi for a in (self.channels if channel is not None else self.space.batch))
        self.before, self.after = groups * fan.before, groups * fan.after
        """Channels of a pixel before and after the convolution."""
        self.lane = self.low.names.var(self.after, "c")
        self.lead = rows[:-1]
        self.line = rows[-1] if rows else Axis(0, 1)
        self.number: Dim = self.lead[-1].var if self.lead else 0
        """Number of a line in the result."""
        self.taps = product(a.hi for a in self.space.taps)
        self.dtype = _NAMES[self.space.pixels]
        if self.space.zero:
            self.dtype += "z"
        self.most = depthwise(target).mr
        self.grid = find_grid(self.space) if windows else None
        self.pixel = self.low.names.var(self.line.hi, "r")
        self.slice: tuple[Dim, Dim] | None = None
        """The channels that are computed, the first and how many; None: all."""

    def nest(self) -> tuple[Nest, tuple[str, ...]]:
        """The whole kernel, and the micro-kernels it calls."""
        steps, lead = self.prepared(), list(self.lead)
        work, size = self.part * self.after, self.shape.lines
        per = dmax(1, BLOCK_ELEMENTS // work) if isinstance(work, int) and work else dmax(
            1, ceil_div(BLOCK_ELEMENTS, dmax(work, 1)))
        if size == 1:
            steps += self.steps(1)
        else:
            line = lead[-1]
            even = isinstance(line.hi, int) and line.hi % size == 0
            b = self.low.names.var(ceil_div(line.hi, size))
            steps += self.several(line.var, b * size, size if even else dmin(
                size, line.hi - b * size), size)
            lead[-1], per = Axis(b, ceil_div(line.hi, size)), dmax(1, per // size)
        parts = ceil_div(self.line.hi, self.part) if self.part != 0 else 1
        rows = (*lead, Axis(self.line_part, parts)) if isinstance(
            self.line_part, Expr) else tuple(lead)
        self.low.domains.append(Domain(rows, tuple(steps), rows_per_tile(rows, per)))
        nest = replace(self.low.nest(), shared=True, unrolled=True)
        return nest, called(nest)

    def prepared(self) -> list[Step]:
        """What a tile begins with; decides how the image is cut, and makes scratch."""
        low, c = self.low, self.after
        self.zeros = low.new_scratch(self.space.pixels, self.before)
        self.strip = low.next_scratch(F32)
        self.finish = self.epilogue(0)[1]
        if self.finish is not None and self.finish.turned and self.grid is None:
            self.finish = None
        self.cut_line()
        self.shape = self.block()
        segments = [s for lines in {1, self.shape.lines} for s in self.segments(lines)]
        if self.turned:
            low.new_scratch(F32, BLOCK_CHANNELS * BLOCK_PIXELS)
        elif self.finish is None:
            low.new_scratch(F32, c * max(
                (s.most * self.together(s) for s in segments), default=1))
        if self.grid is None:
            most = max((s.tile.mr for s in segments), default=1)
            self.table = low.new_scratch(I64, self.taps * most)
        if not self.space.body.conds:
            return []
        z, kind = low.names.var(self.before), self.space.pixels
        zero = Ex("const", kind, (), 0.0 if kind == F32 else int(self.space.zero))
        return [Loop((Axis(z, self.before),) if isinstance(z, Expr) else (),
                     (Store(self.zeros, z, zero),))]

    def steps(self, lines: Dim) -> list[Step]:
        """What computes one part of ``lines`` neighboring lines."""
        segments = self.segments(lines)
        return [self.turned_part(segments)] if self.turned else list(map(self.segment, segments))

    def several(self, line: Dim, first: Dim, count: Dim, most: Dim,
                lets: tuple[tuple[Dim, Dim], ...] = ()) -> list[Step]:
        """What computes one part of ``count`` lines from ``first`` on, at most ``most``: runs of
        lines, or blocks of them and what is left one by one. ``line`` is the variable of their
        number, of which ``lets`` are made."""
        size = self.shape.lines
        blocks = count // size
        # A loop even around one block: what is known of its number must not outlive it.
        k = self.low.names.var(most // size + 1)
        if self.shape.rolled:
            run = self.steps(dmin(size, count - k * size))
            return [Nested((Axis(k, ceil_div(count, size)),), tuple(run),
                           ((line, first + k * size), *lets))]
        found: list[Step] = [Nested((Axis(k, blocks),), tuple(self.steps(size)),
                                    ((line, first + k * size), *lets))]
        if count != blocks * size:
            rest = Axis(line, first + count, first + blocks * size)
            found.append(Nested((rest,), tuple(self.steps(1)), lets))
        return found

    def most_lines(self) -> Dim:
        """Neighboring lines that may be computed together."""
        return self.lead[-1].hi if self.lead else 1

    def block(self) -> Shape:
        """Lines that are computed at once, and pixels of each in a tile."""
        grid, finish, most = self.grid, self.finish, self.most_lines()
        alone = Shape(1, 1, math.inf)
        if grid is None or grid.down is None or self.fan != DEPTHWISE or self.turned or (
                not isinstance(self.number, Expr)):
            return alone
        if finish is not None:
            bias = 0 if finish.bias is None else finish.bias.position
            if self.line_step(bias) != 0 or self.line_step(finish.out.position) is None:
                return alone
        step = grid.across.step
        if not isinstance(step, int) or crowded(step * self.space.pixels.itemsize):
            return alone
        lines = least_rows(most)
        if not isinstance(most, int):
            lines = max(lines, LARGE)
        every = max(lines, least_rows(product(a.hi for a in self.lead)))
        sizes = lines, least_rows(self.part) or LARGE, every
        rolls = grid.planes == 1 and finish is not None  # the strip of a run would be too large
        return lines_shape(self.target, grid.down.taps, grid.across.taps, *sizes, rolls,
                           self.dtype.endswith("z"))

    @property
    def turned(self) -> bool:
        """Whether the result is stored turned."""
        return self.finish is not None and self.finish.turned

    def cut_line(self) -> None:
        """Parts of a line: the whole, or so many that there are tiles enough."""
        length, lines = self.line.hi, least_rows(product(a.hi for a in self.lead))
        most = window_rows(self.target, self.fan) if self.grid else self.most
        self.part: Dim = length
        """Pixels of a part."""
        if isinstance(length, int):
            count = min(-(-SPLITS // max(lines, 1)), length // (SHORTEST * most))
            if self.turned:
                count = max(count, -(-length // BLOCK_PIXELS))
            if count > 1:
                self.part = min(-(-length // (count * most)) * most, length)
        elif lines < SPLITS or self.turned:
            self.part = BLOCK_PIXELS
        parts = ceil_div(length, self.part) if self.part != 0 else 1
        self.line_part = self.low.names.var(parts)
        self.begin = self.first = self.line_part * self.part
        self.count: Dim = self.part
        """The part's first pixel, and how many it has; what lies before ``begin`` is another
        part's as well."""
        if isinstance(self.line_part, Expr):
            if isinstance(length, int):
                self.first = dmin(self.first, length - self.part)
            else:
                self.count = dmin(self.part, length - self.first)

    # -- runs of pixels --------------------------------------------------------------------

    def segments(self, lines: Dim) -> list[_Segment]:
        """The pixels of a part of so many lines by micro-kernel."""
        first, count, grid, several = self.first, self.count, self.grid, lines != 1

        def tile(pixels: int) -> MicroKernel:
            if grid is None:
                return depthwise(self.target, self.dtype, pixels)
            taps = grid.across.taps
            if several:
                assert grid.down is not None
                windows = self.target, grid.down.taps, taps
                if self.shape.rolled:
                    return roll(*windows, pixels, self.dtype)
                return block(*windows, self.shape.lines, pixels, self.dtype)
            return window(self.target, taps.count, taps.stride, self.dtype, pixels, taps.dilation,
                          self.fan)

        room = self.shape.lines if several else 1
        most = self.shape.pixels if several else self.most if grid is None else window_rows(
            self.target, self.fan)
        if isinstance(count, int):
            pixels = max(1, min(most, count)) if grid is None or several else best_height(
                range(min(most, count), 0, -1), count) if count else 1
            return [_Segment(first, count, tile(pixels), lines, room)] if count else []
        whole = count // most * most
        return [_Segment(first, whole, tile(most), lines, room),
                _Segment(first + whole, count - whole, tile(1), lines, room)]

    # -- one run ---------------------------------------------------------------------------

    def together(self, s: _Segment) -> int:
        """Pixels of a line of a strip: micro-kernels go on by themselves from tile to tile, as far
        as the strip stays in the level-1 cache."""
        c, tile = self.after, s.tile.mr
        if self.grid is None or not isinstance(c, int):
            return tile
        tiles = max(1, STRIP_ELEMENTS // (max(c, 1) * tile * s.most))
        if not isinstance(s.count, int):
            return tile
        return min(tiles * tile, max(s.count, 1)) if s.count > tile else tile

    def segment(self, s: _Segment) -> Step:
        """The calls for one run of pixels, each with its epilogue."""
        if self.grid is not None and self.finish is not None:
            return self.call(s, s.first, s.count, self.slice)
        size = self.together(s)
        q = self.low.names.var(ceil_div(self.part if isinstance(s.count, Expr) else s.count, size))
        first = s.first + dmin(q * size, s.count - size) if isinstance(q, Expr) else s.first
        steps: list[Step] = [] if self.grid else [self.fill_table(first, size)]
        steps.append(self.call(s, first, size, self.slice))
        if self.finish is None:
            loop, _ = self.epilogue(first, size, s.lines)
            lowest = dmax(s.first + q * size, self.begin)  # nothing is stored twice
            axes = (Axis(self.pixel, first + size, lowest),) if isinstance(
                self.pixel, Expr) else ()
            lead = loop.axes[:1] if s.lines != 1 else ()
            inner = loop.axes[len(lead):]
            if self.slice is not None:
                first_one, channels = self.slice
                inner = (Axis(self.lane, first_one + channels, first_one),)
            steps.append(replace(loop, axes=(*lead, *axes, *inner)))
        return Nested((Axis(q, ceil_div(s.count, size)),) if isinstance(q, Expr) else (),
                      tuple(steps))

    def turned_part(self, segments: Sequence[_Segment]) -> Step:
        """A part of a line, a few channels at a time: into a strip, which is stored turned."""
        c, n, finish = self.after, self.low.names, self.finish
        assert finish is not None
        b = n.var(ceil_div(c, BLOCK_CHANNELS))
        origin, channels = b * BLOCK_CHANNELS, dmin(BLOCK_CHANNELS, c - b * BLOCK_CHANNELS)
        calls = [self.call(s, s.first, s.count, (origin, channels)) for s in segments]
        mapping: dict[str, Dim] = {name_of(v): at for v, at in (
            (self.pixel, self.first), (self.lane, origin)) if isinstance(v, Expr)}
        out = Address(finish.out.buffer, substitute(finish.out.position, mapping))
        turn = Call(TURN_KERNEL, (Address(self.strip, 0), BLOCK_CHANNELS, self.count, channels, out,
                                  finish.out.stride))
        axes = (Axis(b, ceil_div(c, BLOCK_CHANNELS)),) if isinstance(b, Expr) else ()
        return Nested(axes, (*calls, turn))

    def call(self, s: _Segment, first: Dim, pixels: Dim, part: tuple[Dim, Dim] | None = None
             ) -> Call:
        """The micro-kernel of ``s`` for ``pixels`` from ``first`` on, of all channels or of
        ``part``: the first and how many."""
        c, (weights, place) = self.after, self.space.b.data
        place = substitute(place, dict.fromkeys(free_vars(place), 0))
        origin, channels = (0, c) if part is None else part
        out, ldo, *end = self.finishing(first, origin)
        grid, symbol = self.grid, s.tile.symbol
        if grid is None:
            return Call(symbol, (Address(self.table, 0), self.taps, Address(weights, place), c, c,
                                 out, ldo, *end))
        mapping: dict[str, Dim] = {name_of(a.var): 0 for a in self.space.body.reduced}
        mapping |= {name_of(self.line.var): first}
        mapping |= self.channel_mapping(origin)
        buffer, position = self.space.a.data
        position = renamer(mapping)(position) + grid.first_plane * grid.plane
        left, right = grid.across.inside(first, pixels)
        row = grid.across.taps.count * self.fan.before * c
        plane = grid.height * row
        skipped, column = grid.first_plane * plane, grid.across.step
        if s.lines != 1:
            assert grid.down is not None
            top, bottom = grid.down.inside(self.lead[-1].var, s.lines)
            if self.shape.rolled:
                return Call(symbol, (
                    s.lines, pixels, Address(buffer, position), column, grid.down.step, top, bottom,
                    left, right, Address(self.zeros, 0), Address(weights, place + skipped + origin),
                    c, channels, out, ldo, self.from_line(pixels), *end))
            return Call(symbol, (
                pixels, Address(buffer, position), column, grid.down.step, top, bottom, grid.plane,
                grid.planes, left, right, Address(self.zeros, 0),
                Address(weights, place + skipped + origin), c, plane, channels, out, ldo,
                self.from_line(pixels), *end))
        skipped += grid.first_row * row
        return Call(symbol, (
            pixels, Address(buffer, position + grid.first_row * grid.row), column, grid.row,
            grid.rows, grid.plane, grid.planes, left, right, Address(self.zeros, 0),
            Address(weights, place + skipped + origin), c, plane, channels, out, ldo, *end))

    def from_line(self, pixels: Dim) -> Dim:
        """Elements from one line of results to the next, of a strip of so many ``pixels``."""
        step = pixels * self.after if self.finish is None else self.line_step(
            self.finish.out.position)
        assert step is not None
        return step

    @property
    def line_names(self) -> set[str]:
        """Variables that a line's number is told by."""
        return {name_of(v) for v in (self.number, self.lead[-1].var)}

    def line_step(self, position: Dim) -> Dim | None:
        """How far a position moves from one line to the next; None where that is uneven."""
        total: Dim = 0
        for name in sorted(self.line_names):
            step = coefficient(position, name)
            if step is None:
                return None
            total = total + step
        return total

    def finishing(self, first: Dim, origin: Dim = 0) -> tuple[Address | Dim | Ex, ...]:
        """Output, elements from pixel to pixel, bias, limits and zero point, where pixels from
        ``first`` and channels from ``origin`` on are computed."""
        finish = self.finish
        zero = (Ex("const", F32, (), self.space.zero),) if self.space.zero else ()
        if finish is None:
            bounds = (-math.inf, math.inf)
            return (Address(self.strip, origin), self.after, 0,
                    *(Ex("const", F32, (), b) for b in bounds), *zero)
        mapping: dict[str, Dim] = {name_of(v): at for v, at in (
            (self.pixel, first), (self.lane, origin)) if isinstance(v, Expr)}
        out, stride = Address(finish.out.buffer, substitute(finish.out.position, mapping)), (
            finish.out.stride)
        if finish.turned:
            stride = BLOCK_CHANNELS
            out = Address(self.strip, (first - self.first) * stride)
        bias: Address | Dim = 0
        if finish.bias is not None:
            bias = Address(finish.bias.buffer, substitute(finish.bias.position, mapping))
        bounds = (finish.lo, finish.hi)
        return (out, stride, bias, *(Ex("const", F32, (), b) for b in bounds), *zero)

    def channel_mapping(self, origin: Dim) -> dict[str, Dim]:
        """The variables of the channels at the first of a group, ``origin``."""
        places = (origin // self.fan.after, 0)
        return {name_of(a.var): at for a, at in zip(self.channels, places)
                if isinstance(a.var, Expr)}

    def fill_table(self, first: Dim, mr: int) -> SetRows:
        """Addresses of what ``mr`` neighboring pixels read."""
        i = self.low.names.var(mr)
        rename = renamer({name_of(self.line.var): first + i} if isinstance(
            self.line.var, Expr) else {})
        start = renamer(self.channel_mapping(0))
        buffer, position = self.space.a.data
        taps = self.space.taps
        tap = linear_index(tuple(a.hi for a in taps), tuple(a.var for a in taps))
        conds = tuple(Cond(rename(x.expr), rename(x.lo), rename(x.hi))
                      for x in self.space.body.conds)
        inner = (Axis(i, mr),) if isinstance(i, Expr) else ()
        return SetRows((*taps, *inner), self.table, tap * mr + i,
                       Address(buffer, rename(start(position))), conds, self.zeros)

    def epilogue(self, first: Dim, pixels: Dim = 0, lines: Dim = 1) -> tuple[Loop, Finish | None]:
        """Everything after the convolution: over lines, if there are several, and channels of a
        pixel of the strip of ``pixels`` that begins at pixel ``first``; in registers if it can
        be."""
        low, lane, line = self.low, self.lane, self.low.names.var(lines)
        place = line * pixels + self.pixel - first
        cell = Ex("load", F32, (), (self.strip, place * self.after + lane))
        low.puller.start()
        low.puller.provided[self.space.anchor.out] = lambda index: cell
        body: list[Store | Accumulate] = []
        for k, (_, index) in self.space.late.items():
            v = low.graph.outputs[k][1]
            ex = low.puller.element(v, index)
            body.append(Store(low.first_output + k, self.position(v, index), ex))
        axes, body = low.simplify([a for a in self.channels if isinstance(a.var, Expr)], body)
        mapping: dict[str, Dim] = {}
        if isinstance(self.pixel, Expr):
            mapping[name_of(self.line.var)] = self.pixel
        if len(axes) == 1:
            mapping[name_of(axes[0].var)] = lane
            axes = [Axis(lane, self.after)]
        elif axes:  # what follows takes the channels of a group apart
            mapping[name_of(lane)] = linear_index(
                tuple(a.hi for a in axes), tuple(a.var for a in axes))
        if isinstance(line, Expr):
            mapping |= {name_of(v): v + line for v in (self.number, self.lead[-1].var)}
        body = low.rename(body, mapping)
        finish = self.in_registers(body, cell) if len(axes) == 1 else None
        lead = [Axis(line, lines)] if isinstance(line, Expr) else []
        return Loop((*lead, *axes), tuple(body)), finish

    def position(self, v: Value, index: Index) -> Dim:
        """Where an element of an output is stored."""
        return linear_index(v.shape, index)

    def in_registers(self, body: Sequence[Store | Accumulate], cell: Ex) -> Finish | None:
        """The epilogue as bias and limits, if it is no more."""
        only = body[0] if len(body) == 1 else None
        if not isinstance(only, Store):
            return None
        row = name_of(self.pixel) if isinstance(self.pixel, Expr) else ""
        finish = finish_of(only.buffer, only.position, only.value, cell, row,
                           name_of(self.lane), self.low.puller.gathers)
        return None if finish is None or finish.residual is not None else finish


def lower_depthwise(graph: Graph, target: Target, windows: bool = True
                    ) -> tuple[Nest, tuple[str, ...]]:
    """Lowers a group around one convolution, depthwise or of any groups on a grid, and names the
    micro-kernels it calls; ``windows`` False reads all pixels through the table, of a depthwise one
    only. Raises ``Refused``."""
    return DepthwiseWriter(Lowering(graph), target, windows).nest()
