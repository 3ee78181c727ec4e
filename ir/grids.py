"""Convolutions as windows that move along a line of pixels: what a kernel has to know that reads
each pixel once for all windows it belongs to.

A convolution, depthwise or not, is of that form where pixels and taps of a row are a number of
columns apart, and what lies outside the image is whole columns, rows or planes of the
window. Both are read off the positions, so nothing depends on how the convolution came about.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .access import Cond
from .axes import Axis, coefficient, name_of
from .contraction import MAX_TAPS, ContractionSpace
from .dim_functions import dmax, dmin, floordiv
from .dim_values import substitute
from .dims import Dim, free_vars, product

FEW_CHANNELS, FEW_PRODUCTS = 32, 160
"""Channels and products of a sum of a convolution in one group for which windows are faster than
products of packed panels."""


@dataclass(frozen=True, slots=True)
class Fan:
    """Channels of one group of a convolution, before and after."""

    before: int = 1
    after: int = 1


DEPTHWISE = Fan()


@dataclass(frozen=True, slots=True)
class Taps:
    """Taps of windows along one axis, in units of the grid."""

    count: int
    stride: int
    """Units from one window to the next."""
    dilation: int
    """Units from one tap to the next."""

    def span(self, windows: Dim) -> Dim:
        """Units that so many neighboring windows reach over, at least one of them."""
        return (windows - 1) * self.stride + ((self.count - 1) * self.dilation + 1)


@dataclass(frozen=True, slots=True)
class Reach:
    """How windows move along one axis of an image."""

    taps: Taps
    step: Dim
    """Elements of a unit."""
    at: int = 0
    """Where unit 0 of the first window lies, as ``lo`` and ``hi`` count."""
    unit: int = 1
    """What a unit is, as they count."""
    lo: int | None = None
    hi: Dim = 0
    """Which positions are inside the image; ``lo`` is None where all are."""

    def inside(self, first: Dim, windows: Dim) -> tuple[Dim, Dim]:
        """The first unit inside the image, and the first one behind it, of so many windows from
        number ``first`` on; counted from where that begins."""
        span = self.taps.span(windows)
        if self.lo is None:
            return 0, span
        start = self.at + first * (self.taps.stride * self.unit)

        def number(position: Dim) -> Dim:
            return dmin(dmax(floordiv(position - start + (self.unit - 1), self.unit), 0), span)

        return number(self.lo), number(self.hi)

    def within(self, c: Cond, window: str, tap: str) -> Reach | None:
        """The same where a condition on the axis holds, in the variables of window and tap; None
        where it does not move as they do."""
        step, move = coefficient(c.expr, tap), coefficient(c.expr, window)
        at = substitute(c.expr, {window: 0, tap: 0})
        if not isinstance(move, int) or not isinstance(at, int) or not isinstance(c.lo, int):
            return None
        unit = move // self.taps.stride
        if unit < 1 or (move, step) != (unit * self.taps.stride, unit * self.taps.dilation):
            return None
        return replace(self, at=at, unit=unit, lo=c.lo, hi=c.hi)


@dataclass(frozen=True, slots=True)
class Grid:
    """Windows on a grid of columns and rows."""

    across: Reach
    """The columns of a line of windows."""
    row: Dim
    """Elements from one row of a window to the next."""
    height: Dim = 1
    """Rows of a plane of weights."""
    first_row: Dim = 0
    """First row of the window that lies inside the image."""
    rows: Dim = 1
    """How many do."""
    plane: Dim = 0
    """Elements from one plane of a window to the next."""
    first_plane: Dim = 0
    """First plane of the window that lies inside the image."""
    planes: Dim = 1
    """How many do."""
    down: Reach | None = None
    """The rows of neighboring lines of windows, where these are on the grid as well."""


def fan_of(space: ContractionSpace) -> Fan | None:
    """The channels of a group of a convolution whose weights lie ``[taps, before, groups, after]``
    and whose pixels ``[groups, before]``, dense; None where it is none."""
    if space.channel is not None or len(space.batch) > 1 or len(space.columns) != 1:
        return None
    column = space.columns[0]
    before, after = space.run[-1].hi if space.run else 1, column.hi
    if not space.direct or space.bytes or space.b.kind != "load" or space.anchor.op != "conv":
        return None
    if not isinstance(before, int) or not isinstance(after, int):
        return None
    pixel, weight = space.a.data[1], space.b.data[1]
    wanted: dict[str, Dim] = {name_of(column.var): 1}
    step: Dim = after
    for group in space.batch:
        wanted[name_of(group.var)] = after
        step = group.hi * after
    for axis in reversed(space.body.reduced):
        wanted[name_of(axis.var)] = step
        step = step * axis.hi
    if any(coefficient(weight, name) != size for name, size in wanted.items()):
        return None
    guarded = {n for c in space.body.conds for d in (c.expr, c.lo, c.hi) for n in free_vars(d)}
    taps = product(a.hi for a in space.taps)
    if not isinstance(taps, int) or taps > MAX_TAPS:
        return None
    for group in space.batch:
        if name_of(group.var) in guarded or coefficient(pixel, name_of(group.var)) != before:
            return None
    return Fan(before, after)


def find_grid(space: ContractionSpace) -> Grid | None:
    """The convolution as windows that move along its last axis, if it is of that form."""
    taps, position = [*space.taps, *space.run[:-1]], space.a.data[1]
    if not space.rows or len(taps) > 3:
        return None
    line = name_of(space.rows[-1].var)
    step = coefficient(position, line)
    if not taps and step is not None and not space.body.conds:
        return Grid(Reach(Taps(1, 1, 1), step), 0)
    across = taps[-1] if taps else None
    tap = None if across is None else coefficient(position, name_of(across.var))
    if across is None or tap is None or step is None or not isinstance(across.hi, int):
        return None
    reach = _reach(tap, step, across.hi)
    down = taps[-2] if len(taps) > 1 else None
    deep = taps[-3] if len(taps) > 2 else None
    row, plane = (0 if axis is None else coefficient(position, name_of(axis.var))
                  for axis in (down, deep))
    if reach is None or row is None or plane is None:
        return None
    height, planes = (1 if axis is None else axis.hi for axis in (down, deep))
    grid = Grid(reach, row, height, 0, height, plane, 0, planes, _down(space, down, row))
    left = [axis for axis in (across, down, deep) if axis is not None]
    for c in space.body.conds:
        moved = [axis for axis in left if name_of(axis.var) in free_vars(c.expr)]
        new = _cut(grid, c, line, moved[0], across, deep) if len(moved) == 1 else None
        if new is None:
            return None
        grid = new
        left.remove(moved[0])
    return grid


def _down(space: ContractionSpace, down: Axis | None, row: Dim) -> Reach | None:
    """The rows of neighboring lines of windows, if these are on the grid."""
    if down is None or len(space.rows) < 2 or not isinstance(down.hi, int):
        return None
    line, tap = (name_of(axis.var) for axis in (space.rows[-2], down))
    step = coefficient(space.a.data[1], line)
    reach = None if step is None else _reach(row, step, down.hi)
    for c in space.body.conds:
        if reach is not None and not free_vars(c.expr).isdisjoint((line, tap)):
            reach = reach.within(c, line, tap)
    return reach


def _cut(grid: Grid, c: Cond, line: str, axis: Axis, across: Axis, deep: Axis | None
         ) -> Grid | None:
    """The grid with the condition on one axis of its windows."""
    if axis is across:
        reach = grid.across.within(c, line, name_of(axis.var))
        return None if reach is None else replace(grid, across=reach)
    inside = None if line in free_vars(c.expr) else _vertical(c, axis)
    if inside is None:
        return None
    first, count = inside
    if axis is deep:
        return replace(grid, first_plane=first, planes=count)
    return replace(grid, first_row=first, rows=count)


def _vertical(c: Cond, axis: Axis) -> tuple[Dim, Dim] | None:
    """The first row (or plane) of a window that the condition leaves, and how many."""
    step = coefficient(c.expr, name_of(axis.var))
    if not isinstance(step, int) or step < 1:
        return None
    at = substitute(c.expr, {name_of(axis.var): 0})
    first = dmax(0, floordiv(c.lo - at + (step - 1), step))
    end = dmin(axis.hi, floordiv(c.hi - at + (step - 1), step))
    return first, dmax(0, end - first)


def _reach(tap: Dim, step: Dim, count: int) -> Reach | None:
    """``count`` taps ``tap`` elements apart of windows ``step`` elements apart, if they lie on a
    grid."""
    if isinstance(tap, int) and isinstance(step, int):
        unit = math.gcd(tap, step)
        return Reach(Taps(count, step // unit, tap // unit), unit) if min(tap, step) > 0 else None
    stride = floordiv(step, tap) if tap != 0 else 0
    if not isinstance(stride, int) or stride <= 0 or stride * tap != step:
        return None
    return Reach(Taps(count, stride, 1), tap)
