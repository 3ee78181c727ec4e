"""com.microsoft: operators on images and grids, most of them channels-last forms of ONNX's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, I64
from .ops_microsoft import activated
from .ops_norm import normalized
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_MS = "com.microsoft"
_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode")


def channels_first(ctx: Ctx, x: Value) -> Value:
    """[N, ..., C] as [N, C, ...]."""
    result: Value = ctx.b.op("transpose", x, perm=(0, x.rank - 1, *range(1, x.rank - 1)))
    return result


def channels_last(ctx: Ctx, x: Value) -> Value:
    """[N, C, ...] as [N, ..., C]."""
    result: Value = ctx.b.op("transpose", x, perm=(0, *range(2, x.rank), 1))
    return result


def _given(ctx: Ctx, *names: str) -> dict[str, Any]:
    return {n: ctx.attr(n) for n in names if ctx.has(n)}


@lowering("NhwcMaxPool", domain=_MS)
def nhwc_max_pool(ctx: Ctx, node: NodeProto) -> Value:
    y = ctx.lower("MaxPool", channels_first(ctx, ctx.input(0)), **_given(ctx, *_WINDOW))
    return channels_last(ctx, y)


@lowering("NhwcConv", "NhwcFusedConv", domain=_MS)
def nhwc_conv(ctx: Ctx, node: NodeProto) -> Value:
    """act(Conv(x, w) + bias + z) of channels-last images; weights are [M, C/G, K...]."""
    x, z = channels_first(ctx, ctx.input(0)), ctx.optional(3)
    y = ctx.lower("Conv", x, ctx.input(1), ctx.optional(2), **_given(ctx, *_WINDOW[:-1]))
    y = y if z is None else ctx.b.op("add", y, channels_first(ctx, z))
    return channels_last(ctx, activated(ctx, y))


@lowering("QLinearConv", domain=_MS)
def qlinear_conv(ctx: Ctx, node: NodeProto) -> Value:
    """ONNX's QLinearConv, of channels-last images on request."""
    last = bool(ctx.attr("channels_last", 0))
    x = channels_first(ctx, ctx.input(0)) if last else ctx.input(0)
    y: Value = ctx.lower("QLinearConv", x, *ctx.inputs[1:], **_given(ctx, *_WINDOW[:-1]))
    return channels_last(ctx, y) if last else y


@lowering("GroupNorm", "SkipGroupNorm", domain=_MS)
def group_norm(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(act(norm(s)), s) with s = x, or x + skip + bias; the norm is over groups of channels."""
    b, x = ctx.b, ctx.input(0)
    last, groups = bool(ctx.attr("channels_last", 1)), ctx.required("groups")
    total = x
    if node.op_type == "SkipGroupNorm":
        skip, bias = ctx.input(3), ctx.optional(4)
        if skip.rank == 2:
            middle = (1,) * (x.rank - 2)
            n, c = skip.shape
            skip = reshape_to(ctx, skip, (n, *middle, c) if last else (n, c, *middle))
        total = b.op("add", x, skip)
        if bias is not None:
            tail = () if last else (1,) * (x.rank - 2)
            total = b.op("add", total, reshape_to(ctx, bias, (bias.shape[0], *tail)))
    image = channels_first(ctx, total) if last else total
    n, c, *sizes = image.shape
    rows = reshape_to(ctx, image, (n, groups, c // groups, *sizes))
    shape: tuple[Dim, ...] = (groups, c // groups, *(1,) * len(sizes))
    scale, bias = (reshape_to(ctx, ctx.as_dtype(ctx.input(k), F32), shape) for k in (1, 2))
    y = normalized(ctx, rows, 2, float(ctx.attr("epsilon", 1e-5)), scale, bias)
    y = reshape_to(ctx, y, image.shape)
    if ctx.required("activation"):
        y = b.op("mul", y, b.op("sigmoid", y))
    return (channels_last(ctx, y) if last else y, total)


@lowering("GridSample", domain=_MS)
def grid_sample(ctx: Ctx, node: NodeProto) -> Value:
    given = _given(ctx, "align_corners", "mode", "padding_mode")
    result: Value = ctx.lower("GridSample", ctx.input(0), ctx.input(1), opset=16, **given)
    return result


@lowering("ConvTransposeWithDynamicPads", domain=_MS)
def conv_transpose_with_pads(ctx: Ctx, node: NodeProto) -> Value:
    """X, W, pads, B; the pads must be known when the model is compiled."""
    names = ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "strides")
    given, pads = _given(ctx, *names), ctx.optional(2)
    if pads is not None:
        given["pads"] = list(ctx.ints(pads, "pads"))
    result: Value = ctx.lower(
        "ConvTranspose", ctx.input(0), ctx.input(1), ctx.optional(3), **given)
    return result


@lowering("CropAndResize", domain=_MS)
def crop_and_resize(ctx: Ctx, node: NodeProto) -> Value:
    """Boxes [R, 4] (y1, x1, y2, x2 as fractions of the image) of images, resampled to one size;
    samples outside the image get ``extrapolation_value``."""
    b, x, boxes, which = ctx.b, ctx.input(0), ctx.input(1), ctx.input(2)
    mode = ctx.attr("mode", "bilinear")
    if x.rank != 4 or boxes.rank != 2 or mode not in ("bilinear", "nearest"):
        raise ModelError(f"images {x.type}, boxes {boxes.type}, mode {mode[:20]!r}")
    sizes = ctx.dims(ctx.input(3))
    regions = boxes.shape[0]
    places = [_crop_places(ctx, boxes, k, x.shape[2 + k], sizes[k]) for k in (0, 1)]
    grid = (regions, *sizes)
    image = b.op("transpose", x, perm=(0, 2, 3, 1))
    batch = reshape_to(ctx, ctx.as_dtype(which, I64), (regions, 1, 1))
    shapes = ((regions, sizes[0], 1), (regions, 1, sizes[1]))
    at = [reshape_to(ctx, p, s) for p, s in zip(places, shapes, strict=True)]
    y = _crop_samples(ctx, image, batch, at, grid, mode)
    inside = None
    for k, p in enumerate(at):
        top = b.op("cast", b.dims([x.shape[2 + k] - 1], scalar=True), to=p.dtype)
        zero = b.const(np.zeros((), p.dtype.np))
        ok = b.op("and", b.op("le", zero, p), b.op("le", p, top))
        inside = ok if inside is None else b.op("and", inside, ok)
    assert inside is not None
    outside = b.const(np.asarray(ctx.attr("extrapolation_value", 0.0), x.dtype.np))
    y = b.op("select", reshape_to(ctx, inside, (*grid, 1)), y, outside)
    return b.op("transpose", y, perm=(0, 3, 1, 2))


def _crop_places(ctx: Ctx, boxes: Value, k: int, size: Dim, count: Dim) -> Value:
    """Sampled coordinates [R, count] on axis ``k``: corners aligned, or the middle for one."""
    b, n = ctx.b, boxes.shape[0]
    first, last = (cut(ctx, boxes, 1, c, 1) for c in (k, k + 2))
    top = b.op("cast", b.dims([size - 1], scalar=True), to=boxes.dtype)
    if count == 1:
        return b.op("mul", b.op("mul", b.op("add", first, last), 0.5), top)
    step = b.op("div", b.op("mul", b.op("sub", last, first), top),
                b.op("cast", b.dims([count - 1], scalar=True), to=boxes.dtype))  # fmt: skip
    ramp = b.op("iota", shape=(1, count), axis=1, dtype=boxes.dtype)
    at = b.op("add", b.op("mul", first, top), b.op("mul", ramp, step))
    return reshape_to(ctx, at, (n, count))


def _crop_samples(
    ctx: Ctx, image: Value, batch: Value, at: list[Value], grid: tuple[Dim, ...], mode: str
) -> Value:
    """Pixels [R, h, w, C] of channels-last images at fractional rows and columns."""
    b = ctx.b
    sizes = image.shape[1:3]

    def clamped(v: Value, k: int) -> Value:
        last = b.op("sub", b.dims([sizes[k]], scalar=True), 1)
        result: Value = b.op("min", b.op("max", b.op("cast", v, to=I64), 0), last)
        return result

    def picked(row: Value, column: Value) -> Value:
        parts = [reshape_to(ctx, b.op("expand", v, shape=grid), (*grid, 1))
                 for v in (batch, row, column)]  # fmt: skip
        result: Value = b.op("gather_nd", image, b.op("concat", *parts, axis=3), batch_dims=0)
        return result

    if mode == "nearest":
        # halves go away from zero; coordinates inside the image are not negative
        near = [clamped(b.op("floor", b.op("add", v, 0.5)), k) for k, v in enumerate(at)]
        return picked(near[0], near[1])
    low = [b.op("floor", v) for v in at]
    weights = [reshape_to(ctx, b.op("sub", v, f), (*v.shape, 1))
               for v, f in zip(at, low, strict=True)]  # fmt: skip
    index = [(clamped(f, k), clamped(b.op("ceil", v), k))
             for k, (f, v) in enumerate(zip(low, at, strict=True))]  # fmt: skip

    def mixed(first: Value, second: Value, weight: Value) -> Value:
        result: Value = b.op("add", first, b.op("mul", b.op("sub", second, first), weight))
        return result

    rows = [mixed(picked(i, index[1][0]), picked(i, index[1][1]), weights[1]) for i in index[0]]
    return mixed(rows[0], rows[1], weights[0])


@lowering("Rfft", domain=_MS)
def rfft(ctx: Ctx, node: NodeProto) -> Value:
    """One-sided transform of the last axis: [..., n] to [..., n / 2 + 1, 2]."""
    _check_fft(ctx)
    x = ctx.input(0)
    column = reshape_to(ctx, x, (product(x.shape[:-1]), x.shape[-1], 1))
    y = ctx.lower("DFT", column, opset=17, axis=1, onesided=1)
    return reshape_to(ctx, y, (*x.shape[:-1], *y.shape[1:]))


@lowering("Irfft", domain=_MS)
def irfft(ctx: Ctx, node: NodeProto) -> Value:
    """Real signals [..., 2 * (bins - 1)] of one-sided spectra [..., bins, 2]."""
    _check_fft(ctx)
    x = ctx.input(0)
    rows = reshape_to(ctx, x, (product(x.shape[:-2]), *x.shape[-2:]))
    y = ctx.lower("DFT", rows, opset=17, axis=1, onesided=1, inverse=1)
    return reshape_to(ctx, y, (*x.shape[:-2], y.shape[1]))


def _check_fft(ctx: Ctx) -> None:
    if ctx.attr("signal_ndim", 1) != 1 or ctx.attr("normalized", 0) or not ctx.attr("onesided", 1):
        ctx.fail("transforms of one axis, one-sided and not normalized, are supported")
