"""Small windows as maps: a reduction over few elements becomes one expression.

A pool of 3x3 pixels is nine loads and eight maxima. Written so, per output element, it is a map
like any other: accumulators live in registers, what precedes and follows is fused, and the loop
over channels vectorizes. Where a window leaves the image, the position is moved back into it and
the neutral element is chosen instead (a select whose condition is the same for a whole row of
channels, so that it costs no branch). Windows along the contiguous axis itself keep guards.
Lowering emits these expressions, and the cost model counts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product as cartesian

from .access import Cond, Region
from .axes import name_of
from .dim_functions import dmax, dmin, within
from .dim_values import substitute
from .dims import Dim, Expr, free_vars
from .elements import Ex, Index, Puller, is_reduction
from .graph import Node
from .ops.reduction import identity
from .tiles import accumulator
from .types import BOOL, I64

_COMBINE = {"sum": "add", "max": "max"}


def write_out(puller: Puller) -> None:
    """Makes ``puller`` answer expressions for the reductions of its graph, all small windows
    (``variants.small_windows``)."""
    puller.provided |= {n.out: partial(window_element, puller, n)
                        for n in puller.graph.nodes if is_reduction(n)}


def window_element(puller: Puller, node: Node, index: Index) -> Ex:
    """One element of a window's result as an expression of its operand's elements: the sum of what
    each step of one of its axes contributes, so that the results of neighbors along that axis have
    terms in common."""
    amap = puller.access(node, index)
    region, = amap.regions
    kind, out = node.attrs["kind"], node.out.dtype
    dtype = accumulator(out)
    unit = Ex("const", dtype, (), identity(kind, dtype).item())
    lane = next((free_vars(i) for i in reversed(index) if isinstance(i, Expr) and free_vars(i)),
                frozenset())
    moving = {name_of(v): e for v, e in amap.reduced if isinstance(v, Expr)}
    outer = _outer(region, list(moving), lane)
    steps: list[dict[str, Dim]] = [{}]
    if outer:
        steps = [{outer: k} for k in range(moving.pop(outer))]  # type: ignore[arg-type]
    points: list[dict[str, Dim]] = [
        dict(zip(moving, point))
        for point in cartesian(*map(range, moving.values()))]  # type: ignore[arg-type]
    total: Ex | None = None
    for step in steps:
        taps = [_tap(puller, node, region, step | point, unit, lane) for point in points]
        value = _sum([tap for tap in taps if tap is not None], kind, unit)
        if value is not None:
            total = value if total is None else _combined(kind, total, value)
    result = unit if total is None else total
    return result if out == dtype else Ex("fn", out, (result,), ("cast", ()))


def _outer(region: Region, names: Sequence[str], lane: frozenset[str]) -> str:
    """The last axis of a window that is not the one that results lie side by side along."""
    along = {name for i in region.index
             if free_vars(i) & lane for name in free_vars(i)}  # type: ignore[arg-type]
    return next((name for name in reversed(names) if name not in along), "")


def _combined(kind: str, a: Ex, b: Ex) -> Ex:
    return Ex("fn", a.dtype, (a, b), (_COMBINE[kind], ()))


def _sum(taps: Sequence[tuple[Ex, tuple[Cond, ...]]], kind: str, unit: Ex) -> Ex | None:
    """What some elements contribute together, each where its conditions hold. Those that all have
    are asked once."""
    if not taps:
        return None
    common = [c for c in taps[0][1] if all(c in conds for _, conds in taps)]
    total: Ex | None = None
    for value, conds in taps:
        value = _where([c for c in conds if c not in common], value, unit)
        total = value if total is None else _combined(kind, total, value)
    assert total is not None
    return _where(common, total, unit)


def _where(conds: Sequence[Cond], value: Ex, unit: Ex) -> Ex:
    """A value where conditions hold, else the neutral element."""
    if not conds:
        return value
    return Ex("fn", unit.dtype, (all_hold(conds), value, unit), ("select", ()))


def _tap(puller: Puller, node: Node, region: Region, mapping: dict[str, Dim], unit: Ex,
         lane: frozenset[str]) -> tuple[Ex, tuple[Cond, ...]] | None:
    """What one element of the window contributes where conditions hold; None where it is always
    outside."""
    index = [substitute(i, mapping) for i in region.index]  # type: ignore[arg-type]
    chosen: list[Cond] = []
    guarded: list[Cond] = []
    for c in region.when:
        c = Cond(substitute(c.expr, mapping), c.lo, c.hi)
        verdict = within(c.expr, c.lo, c.hi)
        if verdict is False:
            return None
        if verdict:
            continue
        if free_vars(c.expr) & lane or c.expr not in index:
            guarded.append(c)
            continue
        k = index.index(c.expr)
        index[k] = dmin(dmax(c.expr, c.lo), c.hi - 1)
        chosen.append(c)
    value = puller.element(node.operands[region.operand], tuple(index))
    if value.dtype != unit.dtype:
        value = Ex("fn", unit.dtype, (value,), ("cast", ()))
    if guarded:
        value = Ex("guard", unit.dtype, (value, unit), tuple(guarded))
    return value, tuple(chosen)


def all_hold(conds: Sequence[Cond]) -> Ex:
    """The conditions as a boolean expression."""
    result: Ex | None = None
    for c in conds:
        position = Ex("index", I64, (), c.expr)
        for test in (Ex("fn", BOOL, (Ex("index", I64, (), c.lo), position), ("le", ())),
                     Ex("fn", BOOL, (position, Ex("index", I64, (), c.hi)), ("lt", ()))):
            result = test if result is None else Ex("fn", BOOL, (result, test), ("and", ()))
    assert result is not None
    return result
