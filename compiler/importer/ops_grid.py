"""Lowering of GridSample: gathers at the corners around each sampling point.

The image is read as rows of channels, [N, positions, C]; each corner (or cubic tap) of every
sampling point is one gather of such rows, weighted and summed. Padding modes fold coordinates
(border, reflection) or leave taps outside out (zeros). Integers are interpolated as real numbers
and cut off, as ONNX's reference does.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.types import F32, F64, I64
from ..messages import NodeProto
from .ops_resize import Plan, _symbolic_weights
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx

_MODES = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic",
          "cubic": "cubic"}  # fmt: skip


@lowering("GridSample", since=16)
def grid_sample(ctx: Ctx, node: NodeProto) -> Value:
    b, x, grid = ctx.b, ctx.input(0), ctx.input(1)
    mode = _MODES.get(ctx.attr("mode", "bilinear" if ctx.opset < 20 else "linear"))
    padding = ctx.attr("padding_mode", "zeros")
    aligned = bool(ctx.attr("align_corners", 0))
    r = x.rank - 2
    if mode is None or padding not in ("zeros", "border", "reflection"):
        raise ModelError(f"mode {ctx.attr('mode')!r}, padding_mode {padding[:20]!r}")
    if r < 1 or grid.rank != x.rank or (isinstance(grid.shape[-1], int) and grid.shape[-1] != r):
        raise ModelError(f"image {x.type}, grid {grid.type}")
    given = x.dtype
    if not given.is_float and mode != "nearest":
        x = ctx.as_dtype(x, F64 if given.bits > 16 else F32)
    sizes, outs = x.shape[2:], grid.shape[1:-1]
    n, points = grid.shape[0], product(outs)
    rows = b.op("transpose", x, perm=(0, *range(2, x.rank), 1))
    rows = reshape_to(ctx, rows, (x.shape[0], product(sizes), x.shape[1]))
    axes = []
    for k in range(r):  # the grid's last axis is x first, y second
        g = reshape_to(ctx, cut(ctx, grid, grid.rank - 1, r - 1 - k, 1), (n, points))
        at = ctx.as_dtype(g, x.dtype) if x.dtype.is_float else g
        axes.append(_axis_taps(ctx, at, sizes[k], mode, padding, aligned))
    total: Value | None = None
    for corner in itertools.product(*axes):
        part = _corner(ctx, rows, sizes, corner)
        total = part if total is None else b.op("add", total, part)
    assert total is not None
    y = b.op("transpose", total, perm=(0, 2, 1))
    return ctx.as_dtype(reshape_to(ctx, y, (n, x.shape[1], *outs)), given)


_Tap = tuple["Value", "Value | None", "Value | None"]
"""On one axis: positions i64[N, P], their weights (None: 1), whether they are inside the image
(None: all of them)."""


def _corner(ctx: Ctx, rows: Value, sizes: tuple[Dim, ...], corner: tuple[_Tap, ...]) -> Value:
    """Weighted rows [N, P, C] at one combination of taps; a tap outside the image is 0, whatever
    the pixel holds that is read in its place."""
    b = ctx.b
    linear: Value | None = None
    weight: Value | None = None
    inside: Value | None = None
    for size, (index, w, ok) in zip(sizes, corner, strict=True):
        if linear is None:
            linear = index
        else:
            linear = b.op("add", b.op("mul", linear, b.dims([size], scalar=True)), index)
        if w is not None:
            weight = w if weight is None else b.op("mul", weight, w)
        if ok is not None:
            inside = ok if inside is None else b.op("and", inside, ok)
    assert linear is not None
    column = (*linear.shape, 1)
    picked: Value = b.op("gather_nd", rows, reshape_to(ctx, linear, column), batch_dims=1)
    if weight is not None:
        picked = b.op("mul", picked, reshape_to(ctx, weight, column))
    if inside is not None:
        zero = b.const(np.zeros((), rows.dtype.np))
        picked = b.op("select", reshape_to(ctx, inside, column), picked, zero)
    return picked


def _axis_taps(ctx: Ctx, g: Value, size: Dim, mode: str, padding: str, aligned: bool) -> list[_Tap]:
    b = ctx.b
    extent = b.op("cast", b.dims([size], scalar=True), to=g.dtype)
    if aligned:
        x = b.op("mul", b.op("mul", b.op("add", g, 1.0), 0.5), b.op("sub", extent, 1.0))
    else:
        x = b.op("mul", b.op("sub", b.op("mul", b.op("add", g, 1.0), extent), 1.0), 0.5)
    if mode != "cubic":
        x = _folded(ctx, x, extent, padding, aligned)
    if mode == "nearest":
        return [_tap(ctx, b.op("round", x), size, extent, None, padding, aligned)]
    base = b.op("floor", x)
    plan = Plan(mode, "half_pixel", "floor", -0.75, False, False, 0.0)
    return [
        _tap(ctx, b.op("add", base, float(k)) if k else base, size, extent, w, padding, aligned)
        for k, w in _symbolic_weights(ctx, plan, b.op("sub", x, base))
    ]


def _folded(ctx: Ctx, x: Value, extent: Value, padding: str, aligned: bool) -> Value:
    """Coordinates folded into the image, for border and reflection."""
    b = ctx.b
    if padding == "zeros":
        return x
    top = b.op("sub", extent, 1.0)
    if padding == "border":
        return b.op("min", b.op("max", x, 0.0), top)
    low = 0.0 if aligned else -0.5
    span = top if aligned else extent
    shifted = b.op("abs", b.op("sub", x, low) if low else x)
    period = b.op("max", b.op("mul", span, 2.0), 1e-6)
    inside = b.op("fmod", shifted, period)
    folded = b.op("min", inside, b.op("sub", period, inside))
    folded = b.op("add", folded, low) if low else folded
    return b.op("min", b.op("max", folded, 0.0), top)


def _tap(
    ctx: Ctx, at: Value, size: Dim, extent: Value, weight: Value | None, padding: str,
    aligned: bool,
) -> _Tap:  # fmt: skip
    b = ctx.b
    inside = None
    if padding == "zeros":
        top = b.op("sub", extent, 1.0)
        zero = b.const(np.zeros((), at.dtype.np))
        inside = b.op("and", b.op("le", zero, at), b.op("le", at, top))
    else:
        at = _folded(ctx, at, extent, padding, aligned)
        at = b.op("round", at) if padding == "reflection" else at
    last = b.op("sub", b.dims([size], scalar=True), 1)
    index = b.op("cast", at, to=I64)
    return b.op("min", b.op("max", index, 0), last), weight, inside
