"""Contractions of bytes on the integer micro-kernel: unsigned A times signed B into 32-bit sums.

The tiling is that of ``contract``. What differs: four successive k lie side by side in a packed
panel, so a panel is counted in groups of four; sums are integers; and the micro-kernel reads whole
groups of A, so rows that do not end with one are copied to scratch, which has room behind its end.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.access import Cond, linear_index
from ..ir.axes import Axis, name_of, places
from ..ir.dim_functions import ceil_div
from ..ir.dims import Dim, Expr
from ..ir.elements import Ex, map_dims, renamer
from ..ir.graph import Graph
from ..ir.types import I8, I32, U8
from ..ir.variants import Tiling
from .contract import Contraction, ContractionWriter, Panels
from .maps import tile_map
from .micro import MicroKernel
from .nest import Address, BufferDecl, Call, Nest, Store

GROUP = 4
"""Successive k that the micro-kernel multiplies at once."""


class _ByteWriter(ContractionWriter):
    """Writes the nests of one byte contraction."""

    def sizes(self) -> None:
        """As for floats, with panels counted in groups of four bytes."""
        super().sizes()
        self.panel_depth = ceil_div(self.depth, GROUP)
        self.element, self.sum, self.slack = U8, I32, 2 * GROUP

    def cut_depth(self) -> None:
        """Sums of bytes are not cut."""
        self.chunks, self.chunk, self.by_taps = 1, self.klen, bool(self.taps)

    def strip_call(self, tile: MicroKernel, q: Dim, j: Dim, t: Dim, strip: Dim) -> Call:
        """The whole sum of panel ``j`` into its strip."""
        base = self.packed_base() + j * (self.panel_depth * self.nr)
        return Call(tile.symbol, (
            Address(self.table, q * (self.tap_count * self.mr)), self.tap_count, self.klen,
            Address(self.packed, base), Address(self.strip, q * (self.mr * self.nr)), self.nr),
            self.micro)

    def constant_panels(self) -> tuple[int, Panels] | None:
        """The recipe of ``contract``, grouped."""
        found = super().constant_panels()
        return None if found is None else (found[0], replace(found[1], group=GROUP))

    def packing(self) -> Nest:
        """A kernel that packs B for this call, byte by byte."""
        n, s = self.names, self.space
        p, lane = n.var(self.panel_count), n.var(self.nr)
        run, byte = n.var(self.panel_depth), n.var(GROUP)
        column, k = p * self.nr + lane, run * GROUP + byte
        mapping = {name_of(self.column.var): column}
        mapping |= places([a for a in self.reduced if isinstance(a.var, Expr)], k)
        value = map_dims(s.b, renamer(mapping))
        inside = (Cond(column, 0, self.column.hi), Cond(k, 0, self.depth))
        value = Ex("guard", I8, (value, Ex("const", I8, (), 0)), inside)
        order = [*s.batch, *self.outer, Axis(p, self.panel_count), Axis(run, self.panel_depth),
                 Axis(lane, self.nr), Axis(byte, GROUP)]
        axes = [a for a in order if isinstance(a.var, Expr)]
        at = linear_index(tuple(a.hi for a in axes), tuple(a.var for a in axes))
        domain = tile_map(axes, (Store(self.packed, at, value),), n)
        inputs = [BufferDecl("in", v.dtype) for v in self.low.inputs]
        gathers = dict(self.low.puller.gathers)
        return Nest((*inputs, BufferDecl("out", I8)), (domain,), gathers)


def lower_byte_contraction(
    graph: Graph, tile: MicroKernel, constants: frozenset[int], plan: Tiling
) -> Contraction:
    """Lowers a group around one contraction of bytes; see ``contract.lower_contraction``."""
    return _ByteWriter(graph, tile, constants, plan).contraction()
