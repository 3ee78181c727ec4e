"""Depthwise convolution on its micro-kernel, with the epilogue fused.

A tile is a few rows of the output image. Along a row, the addresses of the pixels that the windows
of a few neighboring pixels cover are written to a table (zeros outside the image); the micro-kernel
computes those pixels over all channels at once, vectors of channels in registers, and one loop nest
applies whatever follows and stores the outputs. Working along image rows keeps the table free of
divisions: what lies outside vertically is known for the whole row.
"""

from __future__ import annotations

from ..ir.access import Cond, linear_index
from ..ir.axes import Axis, name_of
from ..ir.dims import Dim, Expr, ceil_div, dmax, dmin, product
from ..ir.elements import Ex, renamer
from ..ir.graph import Graph
from ..ir.tiles import ContractionSpace
from ..ir.types import F32, I64
from .lower import Lowering
from .micro import MicroKernel
from .nest import (
    Accumulate,
    Address,
    Call,
    Domain,
    Loop,
    Nest,
    Nested,
    SetRows,
    Store,
)  # fmt: skip

BLOCK_ELEMENTS = 1 << 14
"""Output elements of a tile: 64 KB of float32."""


class _Writer:
    """Writes the nest of one depthwise group."""

    def __init__(self, graph: Graph, tile: MicroKernel) -> None:
        self.low = Lowering(graph)
        self.space = ContractionSpace(self.low)
        self.tile, self.mr = tile, tile.mr
        assert self.space.channel is not None
        self.channel = self.space.channel
        rows = self.space.rows
        self.lead = rows[:-1]
        self.line = rows[-1] if rows else Axis(0, 1)
        self.taps = product(a.hi for a in self.space.taps)
        self.table = self.low.new_scratch(I64, self.taps * self.mr)
        self.strip = self.low.new_scratch(F32, self.channel.hi * self.mr)
        self.zeros = self.low.new_scratch(F32, self.channel.hi)

    def nest(self) -> Nest:
        """The whole kernel."""
        names = self.low.names
        q = names.var(ceil_div(self.line.hi, self.mr))
        weights = self.space.b.data[0]
        c = self.channel.hi
        call = Call(self.tile.symbol, (
            Address(self.table, 0), self.taps, Address(weights, 0), c, c,
            Address(self.strip, 0), c))
        z = names.var(c)
        clear = Loop((Axis(z, c),) if isinstance(z, Expr) else (),
                     (Store(self.zeros, z, Ex("const", F32, (), 0.0)),))
        axes = (Axis(q, ceil_div(self.line.hi, self.mr)),) if isinstance(q, Expr) else ()
        steps = (clear, Nested(axes, (self.fill_table(q), call, self.epilogue(q))))
        work = self.line.hi * c
        per = dmax(1, BLOCK_ELEMENTS // work) if isinstance(work, int) and work else dmax(
            1, ceil_div(BLOCK_ELEMENTS, dmax(work, 1)))
        self.low.domains.append(Domain(tuple(self.lead), steps, per))
        nest = self.low.nest()
        return Nest(nest.buffers, nest.domains, nest.gathers, shared=True, unrolled=True)

    def fill_table(self, q: Dim) -> SetRows:
        """Addresses of what ``mr`` neighboring pixels read; pixels beyond the line repeat it."""
        i = self.low.names.var(self.mr)
        pixel = dmin(q * self.mr + i, self.line.hi - 1)
        rename = renamer({name_of(self.line.var): pixel} if isinstance(self.line.var, Expr) else {})
        start = renamer({name_of(self.channel.var): 0})
        buffer, position = self.space.a.data
        taps = self.space.taps
        tap = linear_index(tuple(a.hi for a in taps), tuple(a.var for a in taps))
        conds = tuple(Cond(rename(x.expr), rename(x.lo), rename(x.hi))
                      for x in self.space.body.conds)
        inner = (Axis(i, self.mr),) if isinstance(i, Expr) else ()
        return SetRows((*taps, *inner), self.table, tap * self.mr + i,
                       Address(buffer, rename(start(position))), conds, self.zeros)

    def epilogue(self, q: Dim) -> Loop:
        """Everything after the convolution, over the pixels of one call."""
        low = self.low
        pixel = low.names.var(self.line.hi, "r")
        lo = q * self.mr
        at = (pixel - lo) * self.channel.hi + self.channel.var
        low.puller.start()
        low.puller.provided[self.space.anchor.out] = lambda index: Ex(
            "load", F32, (), (self.strip, at))
        body: list[Store | Accumulate] = []
        for k, (_, index) in self.space.late.items():
            v = low.graph.outputs[k][1]
            ex = low.puller.element(v, index)
            body.append(Store(low.first_output + k, linear_index(v.shape, index), ex))
        if not isinstance(pixel, Expr):
            return Loop((self.channel,), tuple(body))
        body = low.rename(body, {name_of(self.line.var): pixel})
        return Loop((Axis(pixel, dmin(self.line.hi, lo + self.mr), lo), self.channel), tuple(body))


def lower_depthwise(graph: Graph, tile: MicroKernel) -> Nest:
    """Lowers a group around one depthwise convolution; raises ``Refused``."""
    return _Writer(graph, tile).nest()
