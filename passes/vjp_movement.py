"""Adjoints of ops that move elements: what was copied several times is summed, what was left out
gets zero. The counterpart of ``vjp``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..ir.dims import Dim
from ..ir.errors import UnsupportedError
from ..ir.graph import Value
from ..ir.types import I64
from .vjp import Backward, Rule, reduced_to, zeros_like

RULES: dict[str, Rule] = {}
"""Op -> its adjoints."""


def _rule(name: str) -> Callable[[Rule], Rule]:
    def add(fn: Rule) -> Rule:
        RULES[name] = fn
        return fn

    return add


@_rule("reshape")
def _reshape(w: Backward) -> Sequence[Value | None]:
    return (w.op("reshape", w.g, shape=w.x().shape),)


@_rule("transpose")
def _transpose(w: Backward) -> Sequence[Value | None]:
    perm = w.attrs["perm"]
    return (w.op("transpose", w.g, perm=tuple(perm.index(k) for k in range(len(perm)))),)


@_rule("expand")
def _expand(w: Backward) -> Sequence[Value | None]:
    return (reduced_to(w.b, w.g, w.x().shape),)


@_rule("slice")
def _slice(w: Backward) -> Sequence[Value | None]:
    g, a, x = w.g, w.attrs, w.x()
    zero = w.b.const(np.zeros((), x.dtype.np))
    for k, (start, size, step) in enumerate(
        zip(a["starts"], a["sizes"], a["steps"], strict=True)
    ):
        if step < 0:  # read backwards: turned around, it is a slice with a positive step
            start, g = start + (size - 1) * step, _reversed(w, g, k)
        if abs(step) > 1:
            g, size = _spaced(w, g, k, abs(step)), size * abs(step)
        g = _placed(w, g, zero, k, start, x.shape[k], size)
    return (g,)


def _reversed(w: Backward, g: Value, axis: int) -> Value:
    starts: list[Dim] = [0] * g.rank
    starts[axis] = g.shape[axis] - 1
    steps = [1] * g.rank
    steps[axis] = -1
    return w.op("slice", g, starts=tuple(starts), sizes=g.shape, steps=tuple(steps))


def _spaced(w: Backward, g: Value, axis: int, step: int) -> Value:
    """``step - 1`` zeros behind every position of ``axis``."""
    shape = (*g.shape[: axis + 1], 1, *g.shape[axis + 1 :])
    hi = [0] * len(shape)
    hi[axis + 1] = step - 1
    wide = w.op("pad", w.op("reshape", g, shape=shape), w.b.const(np.zeros((), g.dtype.np)),
                lo=(0,) * len(shape), hi=tuple(hi), mode="constant")  # fmt: skip
    merged = (*g.shape[:axis], g.shape[axis] * step, *g.shape[axis + 1 :])
    return w.op("reshape", wide, shape=merged)


def _placed(
    w: Backward, g: Value, zero: Value, axis: int, start: Dim, total: Dim, size: Dim
) -> Value:
    """``g`` from ``start`` on in an axis of ``total``, zeros around it; what spacing added beyond
    the end is cut off."""
    hi = total - start - size
    if start == 0 and hi == 0:
        return g
    los: list[Dim] = [0] * g.rank
    his: list[Dim] = [0] * g.rank
    los[axis], his[axis] = start, hi
    if isinstance(hi, int) and hi < 0:
        his[axis] = 0
        g = w.op("pad", g, zero, lo=tuple(los), hi=tuple(his), mode="constant")
        sizes = [*g.shape]
        sizes[axis] = total
        return w.op("slice", g, starts=(0,) * g.rank, sizes=tuple(sizes), steps=(1,) * g.rank)
    return w.op("pad", g, zero, lo=tuple(los), hi=tuple(his), mode="constant")


@_rule("pad")
def _pad(w: Backward) -> Sequence[Value | None]:
    x, lo, hi = w.x(), w.attrs["lo"], w.attrs["hi"]
    if w.attrs["mode"] != "constant" or w.wants[1]:
        raise UnsupportedError("no derivative of pad is known but by constants")
    if not all(isinstance(p, int) and p >= 0 for p in (*lo, *hi)):
        raise UnsupportedError(f"no derivative of pad by {lo}, {hi} is known")
    return (w.op("slice", w.g, starts=lo, sizes=x.shape, steps=(1,) * x.rank), None)


@_rule("concat")
def _concat(w: Backward) -> Sequence[Value | None]:
    axis = w.attrs["axis"]
    parts: list[Value] = []
    at: Dim = 0
    for x in w.xs:
        assert x is not None
        starts: list[Dim] = [0] * x.rank
        starts[axis] = at
        parts.append(w.op("slice", w.g, starts=tuple(starts), sizes=x.shape, steps=(1,) * x.rank))
        at = at + x.shape[axis]
    return parts


@_rule("gather")
def _gather(w: Backward) -> Sequence[Value | None]:
    x, index, axis = w.x(0), w.x(1), w.attrs["axis"]
    r = index.rank
    order = (*range(axis, axis + r), *range(axis), *range(axis + r, w.g.rank))
    front = (axis, *(k for k in range(x.rank) if k != axis))
    rows = tuple(x.shape[k] for k in front)
    empty = w.op("expand", w.b.const(np.zeros((), x.dtype.np)), shape=rows)
    where = w.op("reshape", index, shape=(*index.shape, 1))
    filled = w.op("scatter_nd", empty, where, w.op("transpose", w.g, perm=order), reduction="add")
    back = tuple(front.index(k) for k in range(x.rank))
    return (w.op("transpose", filled, perm=back), None)


@_rule("gather_elements")
def _gather_elements(w: Backward) -> Sequence[Value | None]:
    empty = zeros_like(w.b, w.x(0))
    return (w.op("scatter_elements", empty, w.x(1), w.g, axis=w.attrs["axis"], reduction="add"),
            None)  # fmt: skip


@_rule("gather_nd")
def _gather_nd(w: Backward) -> Sequence[Value | None]:
    x, index, batch = w.x(0), w.x(1), w.attrs["batch_dims"]
    lead = index.shape[:-1]
    columns = [w.op("iota", shape=(*lead, 1), axis=k, dtype=I64) for k in range(batch)]
    wide = index if index.dtype == I64 else w.op("cast", index, to=I64)
    where = w.op("concat", *columns, wide, axis=len(lead)) if columns else wide
    return (w.op("scatter_nd", zeros_like(w.b, x), where, w.g, reduction="add"), None)


@_rule("scatter_elements")
def _scatter_elements(w: Backward) -> Sequence[Value | None]:
    index, axis = w.x(1), w.attrs["axis"]
    if w.attrs["reduction"] not in ("none", "add") or index.shape != w.x(2).shape:
        raise UnsupportedError("derivatives of scatters are known of writing and adding")
    kept = w.g
    if w.attrs["reduction"] == "none":
        zeros = zeros_like(w.b, w.x(2))
        kept = w.op("scatter_elements", w.g, index, zeros, axis=axis, reduction="none")
    return (kept, None, w.op("gather_elements", w.g, index, axis=axis))


@_rule("scatter_nd")
def _scatter_nd(w: Backward) -> Sequence[Value | None]:
    if w.attrs["reduction"] not in ("none", "add"):
        raise UnsupportedError("derivatives of scatters are known of writing and adding")
    kept = w.g
    if w.attrs["reduction"] == "none":
        zeros = zeros_like(w.b, w.x(2))
        kept = w.op("scatter_nd", w.g, w.x(1), zeros, reduction="none")
    return (kept, None, w.op("gather_nd", w.g, w.x(1), batch_dims=0))


@_rule("topk")
def _topk(w: Backward) -> Sequence[Value | None]:
    empty = zeros_like(w.b, w.x())
    axis = w.attrs["axis"]
    return (w.op("scatter_elements", empty, w.ys[1], w.g, axis=axis, reduction="add"),)
