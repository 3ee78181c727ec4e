"""Depthwise convolution on its micro-kernel, with the epilogue fused.

A tile is a block of output pixels. As for the other contractions, the addresses of the pixels that
a window covers are written to a table (zeros outside the image); the micro-kernel then computes a
few pixels over all channels at once, vectors of channels in registers, and one loop nest applies
whatever follows and stores the outputs.
"""

from __future__ import annotations

from ..ir.access import linear_index
from ..ir.axes import Axis, name_of
from ..ir.dims import Dim, Expr, ceil_div, dmin, product
from ..ir.elements import Ex
from ..ir.graph import Graph
from ..ir.types import F32
from .contract import Writer
from .micro import MicroKernel
from .nest import Accumulate, Address, Call, Domain, Loop, Nest, Nested, Store

BLOCK_ELEMENTS = 1 << 14
"""Output elements of a tile: 64 KB of float32."""


class _Depthwise(Writer):
    """Writes the nest of one depthwise group."""

    packs = False

    def sizes(self) -> None:
        s = self.space
        assert s.channel is not None
        self.channel = s.channel
        self.direct, self.run, self.taps = s.direct, s.run, s.taps
        self.klen = self.channel.hi
        self.row_count = product(a.hi for a in s.rows)
        tiles = 8
        if isinstance(self.klen, int) and self.klen:
            tiles = min(max(BLOCK_ELEMENTS // (self.klen * self.mr), 1), 32)
        self.block = tiles * self.mr
        self.row_blocks = ceil_div(self.row_count, self.block)

    def nest(self) -> Nest:
        """The whole kernel."""
        self.start_rows()
        self.strip = self.low.new_scratch(F32, self.klen * self.mr)
        steps = self.rows_of_a()
        n = self.names
        q = n.var(ceil_div(self.block, self.mr))
        taps = self.tap_count
        weights = self.space.b.data
        call = Call(self.tile.symbol, (
            Address(self.table, q * (taps * self.mr)), taps, Address(weights[0], 0), self.klen,
            self.klen, Address(self.strip, 0), self.klen))
        axes = (Axis(q, self.micro_tiles),) if isinstance(q, Expr) else ()
        steps.append(Nested(axes, (call, self.window_epilogue(q))))
        self.low.domains.append(Domain((self.row_axis,), tuple(steps)))
        nest = self.low.nest()
        return Nest(nest.buffers, nest.domains, nest.gathers, shared=True)

    def window_epilogue(self, q: Dim) -> Loop:
        """Everything after the convolution, over the pixels of one call."""
        low, n = self.low, self.names
        row = n.var(self.row_count, "r")
        lo = self.first_row + q * self.mr
        at = (row - lo) * self.klen + self.channel.var
        low.puller.start()
        low.puller.provided[self.space.anchor.out] = lambda index: Ex(
            "load", F32, (), (self.strip, at))
        body: list[Store | Accumulate] = []
        for k, (_, index) in self.space.late.items():
            v = low.graph.outputs[k][1]
            ex = low.puller.element(v, index)
            body.append(Store(low.first_output + k, linear_index(v.shape, index), ex))
        keep = frozenset((name_of(self.channel.var),))
        rows, body = low.simplify(self.space.rows, body, keep)
        body = low.rename(body, self.linear_mapping(rows, row))
        axes = [Axis(row, dmin(self.row_count, lo + self.mr), lo)] if isinstance(row, Expr) else []
        return Loop((*axes, self.channel), tuple(body))


def lower_depthwise(graph: Graph, tile: MicroKernel) -> Nest:
    """Lowers a group around one depthwise convolution; raises ``Refused``."""
    return _Depthwise(graph, tile, frozenset()).nest()
