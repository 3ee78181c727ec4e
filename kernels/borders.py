"""Loops cut so that their vectors meet no guards: at borders of windows, at joins of operands.

Windows along the contiguous axis itself (``ir.windows``) keep guards for what lies outside; the map
is cut (``border_cut``) so that only its first and last few elements meet them. Where operands of a
concatenation meet along a loop, there is a loop for each of them (``joins``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from ..ir.access import Cond
from ..ir.axes import Axis, coefficient, name_of
from ..ir.dim_functions import within
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr, free_vars
from ..ir.elements import Ex
from ..ir.tiles import SHORT

JOINS = 8
"""Pieces that a loop is cut into, at most."""


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


def joins(axes: Sequence[Axis], values: Sequence[Ex]) -> tuple[int, list[tuple[Dim, Dim]]] | None:
    """An axis of loops along which operands of a concatenation (or a value and its padding) meet,
    in pieces (start, size) that each read one of them; None where there is no such axis."""
    conds = list(_guards(values))
    for k, axis in enumerate(axes):
        if not isinstance(axis.hi, int) or not isinstance(axis.var, Expr) or axis.lo != 0:
            continue
        name, edges = name_of(axis.var), {0, axis.hi}
        for c in conds:
            if free_vars(c.expr) != {name} or coefficient(c.expr, name) != 1:
                continue
            start = substitute(c.expr, {name: 0})
            ends = [e - start for e in (c.lo, c.hi) if isinstance(e - start, int)]
            edges.update(e for e in ends if isinstance(e, int) and 0 < e < axis.hi)
        if 2 < len(edges) <= JOINS + 1:
            cuts = sorted(edges)
            return k, [(a, b - a) for a, b in pairwise(cuts)]
    return None


def decided(ex: Ex, memo: dict[Ex, Ex]) -> Ex:
    """``ex`` without the guards whose conditions the ranges of loop variables decide."""
    found = memo.get(ex)
    if found is not None:
        return found
    args = tuple(decided(a, memo) for a in ex.args)
    result = ex if args == ex.args else Ex(ex.kind, ex.dtype, args, ex.data)
    if ex.kind == "guard":
        verdicts = [(c, within(c.expr, c.lo, c.hi)) for c in ex.data]
        left = tuple(c for c, verdict in verdicts if verdict is None)
        if any(verdict is False for _, verdict in verdicts):
            result = args[1]
        else:
            result = Ex("guard", ex.dtype, args, left) if left else args[0]
    memo[ex] = result
    return result
