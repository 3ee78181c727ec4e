"""Depthwise convolution whose result may lie over the image it reads.

A tile is a slice of the channels over a whole image: no other tile reads what it overwrites. It
goes down the image line by line. A line is computed into scratch, as without this (``depthwise``),
and stored when no line to come has it in its windows: as many lines later as windows reach up. So
scratch is a ring of that many lines and one more.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ..ir.access import linear_index
from ..ir.axes import Axis, name_of
from ..ir.dim_functions import dmax, dmin
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr
from ..ir.elements import Ex, Index
from ..ir.graph import Graph, Value
from ..ir.lines import EVEN, Shape
from ..ir.target import Target
from ..ir.types import F32
from .depthwise import DepthwiseWriter
from .lower import Lowering
from .nest import Domain, Loop, Nest, Nested, Step, Store, called


class _OverWriter(DepthwiseWriter):
    """Writes the nest; ``outer`` is the kernel whose result lies over its image."""

    def __init__(self, outer: Lowering, target: Target) -> None:
        self.outer, self.ring = outer, outer.next_scratch(F32)
        super().__init__(outer.part(outer.graph, self.ring), target, windows=True)
        lanes, channels = target.lanes(32), self.after
        assert isinstance(channels, int)
        width = lanes * max(1, -(-channels // lanes) // EVEN)
        count = -(-channels // width)
        block = self.low.names.var(count)
        self.blocks = Axis(block, count)
        self.origin = block * width
        self.width = min(width, channels)
        """Channels of a slice, at most."""
        if count > 1:
            self.slice = self.origin, dmin(width, channels - self.origin)
        (_, self.index), = self.space.late.values()
        inside = self.index[1:-1]
        self.down = next((a for a in self.lead if len(inside) == 2 and a.var == inside[0]), None)
        """The axis of lines; None where an image is one line."""
        above = int(self.space.anchor.attrs["pads_lo"][0])
        self.later = 0 if self.down is None else max(0, above)
        """Lines that are computed before one is stored."""

    def over(self) -> None:
        """The domain of the kernel."""
        down = self.down
        self.outer.new_scratch(F32, (self.later + 1) * self.line.hi * self.width)
        steps = self.prepared()
        if down is None:
            steps += [*self.steps(1), self.stored(0, 1)]
        else:
            line = down.var - self.later
            steps.append(Nested((down,), (*self.steps(1), self.stored(dmax(line, 0), line + 1))))
            if self.later:
                steps.append(self.stored(dmax(down.hi - self.later, 0), down.hi))
        rows = [*(a for a in self.lead if a is not down), self.blocks]
        rows = [a for a in rows if isinstance(a.var, Expr)]
        self.outer.domains.append(Domain(tuple(rows), tuple(steps)))

    def stored(self, first: Dim, last: Dim) -> Step:
        """Stores the lines ``first`` to ``last`` - 1 over those of the image."""
        names, (_, result) = self.low.names, self.outer.graph.outputs[0]
        origin, count = self.slice or (0, self.after)
        mapping: dict[str, Dim] = {}
        axes: list[Axis] = []
        if self.down is not None:
            line = names.var(self.down.hi)
            mapping[name_of(self.down.var)] = line
            axes.append(Axis(line, last, first))
        pixel, lane = names.var(self.line.hi), names.var(self.after)
        for old, new, axis in ((self.line.var, pixel, Axis(pixel, self.line.hi)),
                               (self.channels[0].var, lane, Axis(lane, origin + count, origin))):
            if isinstance(old, Expr):
                mapping[name_of(old)] = new
                axes.append(axis)
        value = Ex("load", F32, (), (self.ring, substitute(self.position(result, self.index),
                                                           mapping)))
        place = substitute(linear_index(result.shape, self.index), mapping)
        return Loop(tuple(axes), (Store(self.outer.first_output, place, value),))

    def position(self, v: Value, index: Index) -> Dim:
        line = 0 if self.down is None else self.down.var % (self.later + 1)
        return (line * self.line.hi + self.line.var) * self.width + (
            self.channels[0].var - self.origin)

    def cut_line(self) -> None:
        self.part = self.count = self.line.hi
        self.line_part = self.begin = self.first = 0

    def block(self) -> Shape:
        return Shape(1, 1, math.inf)  # a line is stored when none behind it reads it


def lower_depthwise_over(graph: Graph, target: Target) -> tuple[Nest, tuple[str, ...]]:
    """Lowers a group around one depthwise convolution that leaves pixels at their places, so that
    its result may lie over them, and names the micro-kernels it calls. Raises ``Refused``."""
    low = Lowering(graph)
    _OverWriter(low, target).over()
    nest = replace(low.nest(), shared=True, unrolled=True)
    return nest, called(nest)
