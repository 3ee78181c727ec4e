"""Neighboring windows computed together, so that what they have in common is read once.

The terms of small windows that are written out (``ir.windows``) are shared by windows beside them:
those of 3 lines that move by one have two lines in common. So one point of the iteration space is
several neighbors along the axis where these share most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..ir.axes import Axis, name_of
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr
from ..ir.elements import Index, parts

if TYPE_CHECKING:
    from .lower import Lowering

TOGETHER, SHARED = 4, 0.84
"""Neighboring windows that are computed together, and the part of what two of them read one by one
from which on it is worth that: 5 of 6 lines of pixels where windows of 3 move by 2. Measured on
Zen 4."""


def neighbors(low: Lowering, axes: list[Axis], index: Index, outputs: Sequence[int]
              ) -> list[tuple[list[Axis], list[Index]]]:
    """Parts of the iteration space of windows: in the first a point is ``TOGETHER`` neighbors along
    the axis where two of them read least, in the other what is left. One part with a place for each
    point where nothing is worth that."""
    whole = [(axes, [index])]
    if not axes or axes[-1].hi == 0:
        return whole
    best, least = -1, SHARED
    for k, axis in enumerate(axes[:-1]):
        if isinstance(axis.hi, int) and axis.hi >= 2 and isinstance(axis.var, Expr):
            one, two = (_loads(low, _at(index, axis, axis.var + d), outputs) for d in range(2))
            part = len(one | two) / max(len(one) + len(two), 1)
            best, least = (k, part) if part < least else (best, least)
    if best < 0:
        return whole
    axis, found = axes[best], []
    assert isinstance(axis.hi, int)
    groups, rest = divmod(axis.hi, TOGETHER)
    for count, many, start in ((groups, TOGETHER, 0), (1, rest, axis.hi - rest)):
        if count and many:
            v = low.names.var(count)
            new = [*axes[:best], *([Axis(v, count)] if count > 1 else []), *axes[best + 1:]]
            found.append((new, [_at(index, axis, v * many + start + m) for m in range(many)]))
    return found


def _at(index: Index, axis: Axis, place: Dim) -> Index:
    """An index at another place along an axis."""
    return tuple(substitute(i, {name_of(axis.var): place}) for i in index)


def _loads(low: Lowering, index: Index, outputs: Sequence[int]) -> set[tuple[int, Dim]]:
    """Buffers and positions that the outputs at an index read."""
    low.puller.start()
    values = [low.puller.element(low.graph.outputs[k][1], index) for k in outputs]
    return {ex.data for ex in parts(values) if ex.kind == "load"}
