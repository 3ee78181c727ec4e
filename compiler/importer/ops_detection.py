"""Detection heads and other ops whose result depends on data: NMS, Unique, RoiAlign, Col2Im.

RoiAlign is gathers and weighted sums: the sample points of all regions form one index tensor. A
number of samples that each region chooses for itself is bounded by the largest one, and samples
beyond a region's own number are masked out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, F64, I64
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx


@lowering("NonMaxSuppression")
def non_max_suppression(ctx: Ctx, node: NodeProto) -> Value:
    """Rows (batch, class, box) of the boxes that are kept."""
    boxes, scores = ctx.input(0), ctx.input(1)
    limit, iou, least = (ctx.optional(k) for k in (2, 3, 4))
    center = ctx.attr("center_point_box", 0)
    if center not in (0, 1):
        raise ModelError(f"center_point_box {center}")
    known = ctx.constant(limit)
    most = None if known is None else max(int(known.reshape(-1)[0]), 0)
    if limit is None:
        limit, most = ctx.b.const(0, I64), 0
    found, count = ctx.b.op(
        "nms", boxes, scores, ctx.as_dtype(limit, I64), iou, least, center=bool(center), limit=most
    )
    return cut(ctx, found, 0, 0, ctx.bind(count, "boxes"))


@lowering("Unique")
def unique(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(values, first positions, classes, counts) of elements, or of slices along an axis."""
    x, axis = ctx.input(0), ctx.attr("axis")
    if axis is None:
        x, axis = reshape_to(ctx, x, (x.tensor.numel(),)), 0
    axis = ctx.axis(axis, x.rank)
    rows = x
    if axis:
        order = (axis, *(k for k in range(x.rank) if k != axis))
        rows = ctx.b.op("transpose", x, perm=order)
    n = rows.shape[0]
    rows = reshape_to(ctx, rows, (n, product(rows.shape[1:])))
    first, inverse, counts, total = ctx.b.op("unique", rows, sorted=bool(ctx.attr("sorted", 1)))
    size = ctx.bind(total, "unique")
    first, counts = cut(ctx, first, 0, 0, size), cut(ctx, counts, 0, 0, size)
    return ctx.b.op("gather", x, first, axis=axis), first, inverse, counts


# -- RoiAlign ----------------------------------------------------------------------------------


def _samples(
    ctx: Ctx, start: Value, length: Value, bins: int, ratio: int
) -> tuple[Value, Value, Value | None]:
    """Along one axis: (sample coordinates [R, bins, G], samples per bin [R], mask).

    ``start`` and ``length`` [R] are a region's first coordinate and extent, floats; so are the
    results."""
    b, real = ctx.b, start.dtype
    step = b.op("div", length, float(bins))
    if ratio > 0:
        count = ctx.full(length.shape, float(ratio), real)
        most: Dim = ratio
    else:
        count = b.op("ceil", step)
        top = b.op("reduce", b.op("cast", b.op("max", count, 1.0), to=I64), kind="max", axes=(0,),
                   keepdims=False)  # fmt: skip
        most = ctx.bind(b.op("max", top, 1), "grid")
    regions = length.shape[0]
    column = (regions, 1, 1)
    bin_ = b.op("iota", shape=(1, bins, 1), axis=1, dtype=real)
    tick = b.op("iota", shape=(1, 1, most), axis=2, dtype=real)
    inside = b.op("div", b.op("add", tick, 0.5), reshape_to(ctx, count, column))
    at = b.op("mul", b.op("add", bin_, inside), reshape_to(ctx, step, column))
    at = b.op("add", at, reshape_to(ctx, start, column))
    mask = None
    if ratio <= 0:
        mask = b.op("lt", tick, reshape_to(ctx, count, column))
    return at, count, mask


def _corners(ctx: Ctx, at: Value, size: Dim) -> tuple[Value, Value, Value, Value]:
    """(low index, high index, weight of the high one, 0 outside and 1 inside) of coordinates."""
    b = ctx.b
    last = b.dims([size - 1], scalar=True)
    extent = b.op("cast", b.dims([size], scalar=True), to=at.dtype)
    outside = b.op("or", b.op("lt", at, -1.0), b.op("lt", extent, at))
    clean = b.op("max", at, 0.0)
    low = b.op("min", b.op("cast", clean, to=I64), last)
    high = b.op("min", b.op("add", low, 1), last)
    weight = b.op("sub", clean, b.op("cast", low, to=at.dtype))
    weight = b.op("select", b.op("eq", low, last), b.const(0.0, at.dtype), weight)
    inside = b.op("cast", b.op("not", outside), to=at.dtype)
    return low, high, weight, inside


@lowering("RoiAlign", since=16)
def roi_align(ctx: Ctx, node: NodeProto) -> Value:
    """Regions [R, 4] of images [N, C, H, W], resampled bilinearly to [R, C, PH, PW]."""
    b, x, rois, which = ctx.b, ctx.input(0), ctx.input(1), ctx.input(2)
    mode = ctx.attr("mode", "avg")
    half = ctx.attr("coordinate_transformation_mode", "half_pixel")
    if half not in ("half_pixel", "output_half_pixel"):
        raise ModelError(f"coordinate_transformation_mode {half[:20]!r}")
    shift = 0.5 if half == "half_pixel" else 0.0
    bins = (ctx.attr("output_height", 1), ctx.attr("output_width", 1))
    ratio, scale = ctx.attr("sampling_ratio", 0), float(ctx.attr("spatial_scale", 1.0))
    if min(bins) < 1:
        raise ModelError(f"{bins[0]} x {bins[1]} bins")
    if x.rank != 4 or rois.rank != 2 or mode not in ("avg", "max") or not x.dtype.is_float:
        raise ModelError(f"images {x.type}, regions {rois.type}, mode {mode[:20]!r}")
    given, real = x.dtype, F64 if x.dtype == F64 else F32
    x, rois = ctx.as_dtype(x, real), ctx.as_dtype(rois, real)
    edges = [
        b.op("sub", b.op("mul", reshape_to(ctx, cut(ctx, rois, 1, k, 1), (rois.shape[0],)), scale),
             shift)
        for k in range(4)
    ]  # fmt: skip
    samples = []
    for axis, (lo, hi) in enumerate(((1, 3), (0, 2))):  # rows, then columns
        length = b.op("sub", edges[hi], edges[lo])
        if not shift:
            length = b.op("max", length, 1.0)
        samples.append(_samples(ctx, edges[lo], length, bins[axis], ratio))
    return ctx.as_dtype(_resample(ctx, x, which, samples, mode), given)


def _resample(
    ctx: Ctx, x: Value, which: Value, samples: list[tuple[Value, Value, Value | None]], mode: str
) -> Value:
    """Gathers the four neighbors of all sample points and reduces each bin."""
    b = ctx.b
    (ys, ny, my), (xs, nx, mx) = samples
    regions, ph, gh = ys.shape
    _, pw, gw = xs.shape
    grid = (regions, ph, gh, pw, gw)
    image = b.op("transpose", x, perm=(0, 2, 3, 1))
    batch = reshape_to(ctx, ctx.as_dtype(which, I64), (regions, 1, 1, 1, 1))
    row_at = _corners(ctx, reshape_to(ctx, ys, (regions, ph, gh, 1, 1)), x.shape[2])
    col_at = _corners(ctx, reshape_to(ctx, xs, (regions, 1, 1, pw, gw)), x.shape[3])
    inside = b.op("mul", row_at[3], col_at[3])
    parts = []
    for high_row in (False, True):
        for high_col in (False, True):
            index = [
                reshape_to(ctx, b.op("expand", v, shape=grid), (*grid, 1))
                for v in (batch, row_at[high_row], col_at[high_col])
            ]
            pixels = b.op("gather_nd", image, b.op("concat", *index, axis=5), batch_dims=0)
            weights = [
                w[2] if high else b.op("sub", b.const(1.0, x.dtype), w[2])
                for w, high in ((row_at, high_row), (col_at, high_col))
            ]
            weight = b.op("mul", b.op("mul", *weights), inside)
            parts.append(b.op("mul", pixels, reshape_to(ctx, weight, (*weight.shape, 1))))
    return _reduced(ctx, parts, (ny, my), (nx, mx), mode)


def _reduced(
    ctx: Ctx,
    parts: list[Value],
    rows: tuple[Value, Value | None],
    columns: tuple[Value, Value | None],
    mode: str,
) -> Value:
    b = ctx.b
    fold = "add" if mode == "avg" else "max"
    total = parts[0]
    for p in parts[1:]:
        total = b.op(fold, total, p)
    regions, _, gh, _, gw, _ = total.shape
    shapes = ((regions, 1, gh, 1, 1, 1), (regions, 1, 1, 1, gw, 1))
    for mask, shape in zip((rows[1], columns[1]), shapes, strict=True):
        if mask is not None:
            neutral = b.const(0.0 if mode == "avg" else -np.inf, total.dtype)
            total = b.op("select", reshape_to(ctx, mask, shape), total, neutral)
    y = b.op("reduce", total, kind="sum" if mode == "avg" else "max", axes=(2, 4), keepdims=False)
    if mode == "avg":
        count = b.op("max", b.op("mul", rows[0], columns[0]), 1.0)
        y = b.op("div", y, reshape_to(ctx, count, (regions, 1, 1, 1)))
    return b.op("transpose", y, perm=(0, 3, 1, 2))


@lowering("MaxRoiPool")
def max_roi_pool(ctx: Ctx, node: NodeProto) -> Value:
    """Maxima over a grid of bins of regions [R, 5] (image, x1, y1, x2, y2)."""
    pooled = ctx.required("pooled_shape")
    if len(pooled) != 2 or min(pooled) < 1:
        raise ModelError(f"pooled_shape {list(pooled)[:8]}")
    return ctx.b.op("max_roi_pool", ctx.input(0), ctx.input(1), pooled=pooled,
                    scale=float(ctx.attr("spatial_scale", 1.0)))  # fmt: skip


# -- Col2Im ------------------------------------------------------------------------------------


@lowering("Col2Im")
def col2im(ctx: Ctx, node: NodeProto) -> Value:
    """Columns [N, C*K, L] added into images: a transposed convolution by unit filters."""
    b, x = ctx.b, ctx.input(0)
    image, block = ctx.dims(ctx.input(1)), ctx.ints(ctx.input(2), "block_shape")
    rank, taps = len(block), int(np.prod(block))
    strides = ctx.attr("strides", (1,) * rank)
    dilations, pads = ctx.attr("dilations", (1,) * rank), ctx.attr("pads", (0,) * (2 * rank))
    channels = x.shape[1]
    if x.rank != 3 or not isinstance(channels, int) or channels % taps:
        raise ModelError(f"columns {x.type} for blocks {block}")
    sizes: list[Dim] = []
    extra: list[Dim] = []
    for k in range(rank):
        span = (block[k] - 1) * dilations[k] + 1
        padded = image[k] + pads[k] + pads[rank + k]
        sizes.append((padded - span) // strides[k] + 1)
        extra.append(padded - ((sizes[k] - 1) * strides[k] + span))
    groups = channels // taps
    eye = np.tile(np.eye(taps, dtype=x.dtype.np), (groups, 1)).reshape(channels, 1, *block)
    cells = reshape_to(ctx, x, (x.shape[0], channels, *sizes))
    return b.op(
        "conv_transpose", cells, b.const(eye), strides=tuple(strides),
        dilations=tuple(dilations), pads_lo=tuple(pads[:rank]), pads_hi=tuple(pads[rank:]),
        groups=groups, layout="first", output_padding=tuple(extra),
    )  # fmt: skip
