"""Depthwise convolution on its micro-kernels, with the epilogue fused.

A tile is a few rows of the output image. Where the windows of neighboring pixels lie inside the
image from left to right, the micro-kernel ``window`` computes a few of them at once: it needs no
table, loads each input pixel once per row of the window, and what lies above or below the image is
left out by giving it fewer rows of the window. Pixels at the left and right border, and windows
that ``window`` has no form of, go through a table of addresses (zeros outside the image) to the
micro-kernel ``depthwise``. Groups of pixels at the end of a run begin earlier instead of being cut,
so some pixels are computed twice, but none is padded.

Bias and limits are applied in registers (``epilogue``); what else follows is a loop nest over a
strip of scratch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..ir.access import Cond, linear_index
from ..ir.axes import Axis, coefficient, name_of
from ..ir.dims import Dim, Expr, ceil_div, dmax, dmin, floordiv, free_vars, product, substitute
from ..ir.elements import Ex, renamer
from ..ir.epilogue import Finish, finish_of
from ..ir.graph import Graph
from ..ir.target import Target
from ..ir.tiles import ContractionSpace
from ..ir.types import F32, I64
from .lower import Lowering, rows_per_tile
from .micro import MicroKernel, depthwise, window
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
)  # fmt: skip

BLOCK_ELEMENTS = 1 << 14
"""Output elements of a tile: 64 KB of float32."""
WIDEST = 9
"""Widest window that ``window`` is written for: its weights stay in registers."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Neighboring pixels ``[first, first + count)`` of a line and the micro-kernel for them;
    ``count`` is 0 or at least the micro-kernel's number of pixels."""

    first: Dim
    count: Dim
    tile: MicroKernel


@dataclass(frozen=True, slots=True)
class _Inside:
    """What ``window`` needs to know of a convolution."""

    stride: int
    """Pixels from one window to the next."""
    pixel: Dim
    """Elements from one pixel of a window to the next."""
    row: Dim
    """Elements from one row of a window to the next."""
    width: int
    first_row: Dim
    """First row of the window that lies inside the image."""
    rows: Dim
    """How many do."""
    start: Dim
    """First pixel of the line whose window lies inside the image from left to right."""
    count: Dim
    """How many do."""


class _Writer:
    """Writes the nest of one depthwise group."""

    def __init__(self, graph: Graph, target: Target, windows: bool) -> None:
        self.low = Lowering(graph)
        self.space = ContractionSpace(self.low)
        self.target = target
        assert self.space.channel is not None
        self.channel = self.space.channel
        rows = self.space.rows
        self.lead = rows[:-1]
        self.line = rows[-1] if rows else Axis(0, 1)
        self.taps = product(a.hi for a in self.space.taps)
        self.most = depthwise(target).mr
        self.inside = self.find_inside() if windows else None
        self.pixel = self.low.names.var(self.line.hi, "r")

    def nest(self) -> tuple[Nest, tuple[str, ...]]:
        """The whole kernel, and the micro-kernels it calls."""
        low, c = self.low, self.channel.hi
        segments = self.segments()
        most = max((s.tile.mr for s in segments), default=1)
        self.table = low.new_scratch(I64, self.taps * most)
        self.zeros = low.new_scratch(F32, c)
        self.strip = low.first_scratch + len(low.scratch)
        self.finish = self.epilogue(0)[1]
        if self.finish is None:
            low.new_scratch(F32, c * most)
        steps: list[Step] = []
        if self.space.body.conds:
            z = low.names.var(c)
            steps.append(Loop((Axis(z, c),) if isinstance(z, Expr) else (),
                              (Store(self.zeros, z, Ex("const", F32, (), 0.0)),)))
        steps += [self.segment(s) for s in segments]
        work = self.line.hi * c
        per = dmax(1, BLOCK_ELEMENTS // work) if isinstance(work, int) and work else dmax(
            1, ceil_div(BLOCK_ELEMENTS, dmax(work, 1)))
        lead = tuple(self.lead)
        low.domains.append(Domain(lead, tuple(steps), rows_per_tile(lead, per)))
        nest = replace(low.nest(), shared=True, unrolled=True)
        return nest, tuple(dict.fromkeys(s.tile.symbol for s in segments))

    # -- runs of pixels --------------------------------------------------------------------

    def segments(self) -> list[_Segment]:
        """The pixels of a line by micro-kernel."""
        length, inside = self.line.hi, self.inside
        if inside is None:
            return self.by_table(0, length)
        tile = window(self.target, inside.width, inside.stride)
        first, count = inside.start, inside.count
        if isinstance(first, int) and isinstance(count, int) and isinstance(length, int):
            if count < tile.mr:
                return self.by_table(0, length)
            end = first + count
            return [*self.by_table(0, first), _Segment(first, count, tile),
                    *self.by_table(end, length - end)]
        one = depthwise(self.target, mr=1)
        left = dmin(first, length)
        count = dmin(1, count // tile.mr) * count  # too few for one call are at the border, too
        return [_Segment(0, left, one), _Segment(first, count, tile),
                _Segment(left + count, length - left - count, one)]

    def by_table(self, first: Dim, count: Dim) -> list[_Segment]:
        """Segments through a table of addresses."""
        if isinstance(count, int):
            tile = depthwise(self.target, mr=max(1, min(self.most, count)))
            return [_Segment(first, count, tile)] if count else []
        whole = count // self.most * self.most
        return [_Segment(first, whole, depthwise(self.target)),
                _Segment(first + whole, count - whole, depthwise(self.target, mr=1))]

    def find_inside(self) -> _Inside | None:
        """The convolution as ``window`` sees it, if it is of that form."""
        taps, position = self.space.taps, self.space.a.data[1]
        if not isinstance(self.line.var, Expr) or not taps or len(taps) > 2:
            return None
        line, across = name_of(self.line.var), taps[-1]
        pixel, step = (coefficient(position, n) for n in (name_of(across.var), line))
        width = across.hi
        if pixel is None or step is None or not isinstance(width, int) or width > WIDEST:
            return None
        stride = floordiv(step, pixel) if pixel != 0 else 0
        if not isinstance(stride, int) or stride < 1 or stride * pixel != step:
            return None
        down = taps[0] if len(taps) == 2 else None
        row = coefficient(position, name_of(down.var)) if down is not None else 0
        if row is None:
            return None
        start: Dim = 0
        count: Dim = self.line.hi
        first_row: Dim = 0
        rows: Dim = down.hi if down is not None else 1
        for c in self.space.body.conds:
            names = free_vars(c.expr)
            if line in names:
                found = self.horizontal(c, line, name_of(across.var), width, stride)
                if found is None or start != 0 or count != self.line.hi:
                    return None
                start, count = found
            elif down is not None and coefficient(c.expr, name_of(down.var)) == 1 and (
                name_of(across.var) not in names and first_row == 0 and rows == down.hi
            ):
                at = substitute(c.expr, {name_of(down.var): 0})
                first_row = dmax(0, c.lo - at)
                rows = dmax(0, dmin(down.hi, c.hi - at) - first_row)
            else:
                return None
        return _Inside(stride, pixel, row, width, first_row, rows, start, count)

    def horizontal(self, c: Cond, line: str, across: str, width: int, stride: int
                   ) -> tuple[Dim, Dim] | None:
        """(first pixel, number of pixels) whose windows satisfy ``c`` at every tap."""
        step = coefficient(c.expr, across)
        at = substitute(c.expr, {line: 0, across: 0})
        if not isinstance(step, int) or step < 1 or not isinstance(at, int) or (
            not isinstance(c.lo, int)
        ):
            return None
        move = stride * step
        if coefficient(c.expr, line) != move:
            return None
        start = max(0, -((at - c.lo) // move))
        # The last tap of the last window: move * x + step * (width - 1) + at < hi.
        end = dmin(self.line.hi, floordiv(c.hi - 1 - at - step * (width - 1), move) + 1)
        return start, dmax(0, end - start)

    # -- one run ---------------------------------------------------------------------------

    def segment(self, s: _Segment) -> Nested:
        """The calls for one run of pixels, each with its epilogue."""
        q = self.low.names.var(ceil_div(s.count, s.tile.mr))
        first = s.first + dmin(q * s.tile.mr, s.count - s.tile.mr) if isinstance(
            q, Expr) else s.first
        inside = s.tile.symbol.startswith("mk_window")
        steps: list[Step] = [] if inside else [self.fill_table(first, s.tile.mr)]
        steps.append(self.call(first, s.tile, inside))
        if self.finish is None:
            loop, _ = self.epilogue(first)
            end = first + s.tile.mr
            axes = (Axis(self.pixel, end, s.first + q * s.tile.mr),) if isinstance(
                self.pixel, Expr) else ()
            steps.append(replace(loop, axes=(*axes, *loop.axes)))
        return Nested((Axis(q, ceil_div(s.count, s.tile.mr)),) if isinstance(q, Expr) else (),
                      tuple(steps))

    def call(self, first: Dim, tile: MicroKernel, inside: bool) -> Call:
        """The micro-kernel for pixels from ``first`` on."""
        c, (weights, _) = self.channel.hi, self.space.b.data
        end = self.finishing(first)
        if not inside:
            return Call(tile.symbol, (Address(self.table, 0), self.taps, Address(weights, 0), c, c,
                                      *end))
        i = self.inside
        assert i is not None
        mapping: dict[str, Dim] = {name_of(a.var): 0 for a in self.space.taps}
        mapping |= {name_of(self.line.var): first}
        if isinstance(self.channel.var, Expr):
            mapping[name_of(self.channel.var)] = 0
        buffer, position = self.space.a.data
        x = Address(buffer, renamer(mapping)(position) + i.first_row * i.row)
        w = Address(weights, i.first_row * (i.width * c))
        return Call(tile.symbol, (x, i.pixel, i.row, i.rows, w, c, c, *end))

    def finishing(self, first: Dim) -> tuple[Address | Dim | Ex, ...]:
        """Output, bias and limits: the last arguments of a call."""
        finish = self.finish
        if finish is None:
            bounds = (-math.inf, math.inf)
            return (Address(self.strip, 0), self.channel.hi, 0,
                    *(Ex("const", F32, (), b) for b in bounds))
        mapping: dict[str, Dim] = {name_of(v): at for v, at in (
            (self.pixel, first), (self.channel.var, 0)) if isinstance(v, Expr)}
        out = Address(finish.out.buffer, substitute(finish.out.position, mapping))
        bias: Address | Dim = 0
        if finish.bias is not None:
            bias = Address(finish.bias.buffer, substitute(finish.bias.position, mapping))
        bounds = (finish.lo, finish.hi)
        return (out, finish.out.stride, bias, *(Ex("const", F32, (), b) for b in bounds))

    def fill_table(self, first: Dim, mr: int) -> SetRows:
        """Addresses of what ``mr`` neighboring pixels read."""
        i = self.low.names.var(mr)
        rename = renamer({name_of(self.line.var): first + i} if isinstance(
            self.line.var, Expr) else {})
        start = renamer({name_of(self.channel.var): 0} if isinstance(
            self.channel.var, Expr) else {})
        buffer, position = self.space.a.data
        taps = self.space.taps
        tap = linear_index(tuple(a.hi for a in taps), tuple(a.var for a in taps))
        conds = tuple(Cond(rename(x.expr), rename(x.lo), rename(x.hi))
                      for x in self.space.body.conds)
        inner = (Axis(i, mr),) if isinstance(i, Expr) else ()
        return SetRows((*taps, *inner), self.table, tap * mr + i,
                       Address(buffer, rename(start(position))), conds, self.zeros)

    def epilogue(self, first: Dim) -> tuple[Loop, Finish | None]:
        """Everything after the convolution: over channels of a pixel of the strip that begins at
        pixel ``first``, and in registers if it can be."""
        low = self.low
        at = (self.pixel - first) * self.channel.hi + self.channel.var
        cell = Ex("load", F32, (), (self.strip, at))
        low.puller.start()
        low.puller.provided[self.space.anchor.out] = lambda index: cell
        body: list[Store | Accumulate] = []
        for k, (_, index) in self.space.late.items():
            v = low.graph.outputs[k][1]
            ex = low.puller.element(v, index)
            body.append(Store(low.first_output + k, linear_index(v.shape, index), ex))
        if isinstance(self.pixel, Expr):
            body = low.rename(body, {name_of(self.line.var): self.pixel})
        axes = (self.channel,) if isinstance(self.channel.var, Expr) else ()
        return Loop(axes, tuple(body)), self.in_registers(body, cell)

    def in_registers(self, body: Sequence[Store | Accumulate], cell: Ex) -> Finish | None:
        """The epilogue as bias and limits, if it is no more."""
        only = body[0] if len(body) == 1 else None
        if not isinstance(only, Store) or not isinstance(self.channel.var, Expr):
            return None
        row = name_of(self.pixel) if isinstance(self.pixel, Expr) else ""
        finish = finish_of(only.buffer, only.position, only.value, cell, row,
                           name_of(self.channel.var))
        return None if finish is None or finish.residual is not None else finish


def lower_depthwise(graph: Graph, target: Target, windows: bool = True
                    ) -> tuple[Nest, tuple[str, ...]]:
    """Lowers a group around one depthwise convolution, and names the micro-kernels it calls;
    ``windows`` False reads all pixels through the table. Raises ``Refused``."""
    return _Writer(graph, target, windows).nest()
