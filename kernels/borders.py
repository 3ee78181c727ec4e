"""Borders of windows: maps are cut so that only their first and last elements meet guards.

Windows along the contiguous axis itself (``ir.windows``) keep guards for what lies outside; the map
is cut (``border_cut``) so that only its first and last few elements meet them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..ir.access import Cond
from ..ir.axes import Axis, coefficient, name_of
from ..ir.dims import Dim, free_vars, substitute
from ..ir.elements import Ex
from ..ir.tiles import SHORT


def border_cut(values: Sequence[Ex], axes: Sequence[Axis]
               ) -> tuple[int, list[tuple[Dim, Dim]]] | None:
    """An axis that vectors lie along, in three pieces (start, size), guards holding throughout the
    middle one; None where there is nothing to gain. That is the innermost axis or, where that one
    is short, the one around it: without guards the two are one loop."""
    conds = list(_guards(values))
    for k in range(len(axes) - 1, -1, -1):
        bounds = _borders(conds, axes[k])
        if bounds is not None:
            return k, bounds
        extent = axes[k].hi
        if not isinstance(extent, int) or extent > SHORT:
            break
    return None


def _borders(conds: Iterable[Cond], axis: Axis) -> list[tuple[Dim, Dim]] | None:
    """The pieces of one axis."""
    if not isinstance(axis.hi, int) or axis.lo != 0:
        return None
    size, name = axis.hi, name_of(axis.var)
    lo, hi = 0, size
    for c in conds:
        step = coefficient(c.expr, name)
        if free_vars(c.expr) != {name} or not isinstance(step, int) or step <= 0:
            continue
        start = substitute(c.expr, {name: 0})
        if isinstance(start, int) and isinstance(c.lo, int) and isinstance(c.hi, int):
            lo = max(lo, -((start - c.lo) // step))
            hi = min(hi, -((start - c.hi) // step))
    if (lo, hi) == (0, size) or 2 * (hi - lo) < size:
        return None
    return [(a, b - a) for a, b in ((0, lo), (lo, hi), (hi, size)) if b > a]


def _guards(values: Iterable[Ex]) -> Iterable[Cond]:
    stack = list(values)
    seen = set(stack)
    while stack:
        ex = stack.pop()
        if ex.kind == "guard":
            yield from ex.data
        for a in ex.args:
            if a not in seen:
                seen.add(a)
                stack.append(a)
