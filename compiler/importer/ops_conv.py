"""Lowerings of convolutions and pooling windows.

``auto_pad`` becomes explicit pads: SAME covers ``ceil(size / stride)`` outputs, the odd element of
padding at the end (UPPER) or the start (LOWER). A mean over windows is the sum divided by the
number of elements counted, which is a constant where sizes are static and ramp arithmetic where
they are symbolic. ``ceil_mode`` extends the padding at the end so that the last, partial window is
a full one over padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dim_functions import ceil_div, dmax, dmin
from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.types import I64
from ..messages import NodeProto
from .ops_shape import reshape_to
from .registry import accumulates, lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx


_MAX_TABLE = 1 << 22
"""Taps that are counted while importing; beyond, the counts are ramp arithmetic."""


@dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a window over the spatial axes."""

    kernel: tuple[Dim, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    lo: tuple[Dim, ...]
    hi: tuple[Dim, ...]

    def attrs(self) -> dict[str, Any]:
        """As the IR's window ops spell it."""
        return {"strides": self.strides, "dilations": self.dilations, "pads_lo": self.lo,
                "pads_hi": self.hi}  # fmt: skip


def _spatial(ctx: Ctx, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    found = ctx.attr(name) or (default,) * rank
    if len(found) != rank:
        raise ModelError(f"{name} {list(found)} for {rank} spatial axes")
    return tuple(found)


def read_window(ctx: Ctx, sizes: Sequence[Dim], kernel: Sequence[Dim]) -> Window:
    """Strides, dilations and pads of a node over axes of ``sizes``."""
    rank = len(sizes)
    if rank < 1 or len(kernel) != rank:
        raise ModelError(f"kernel {list(kernel)} for {rank} spatial axes")
    strides, dilations = _spatial(ctx, "strides", rank), _spatial(ctx, "dilations", rank)
    if min(*strides, *dilations) < 1 or any(isinstance(k, int) and k < 1 for k in kernel):
        raise ModelError(f"kernel {list(kernel)}, strides {strides}, dilations {dilations}")
    auto = ctx.attr("auto_pad", "NOTSET") or "NOTSET"
    pads = ctx.attr("pads") or (0,) * (2 * rank)
    if len(pads) != 2 * rank or any(p < 0 for p in pads):
        raise ModelError(f"pads {list(pads)} for {rank} spatial axes")
    lo: list[Dim] = list(pads[:rank])
    hi: list[Dim] = list(pads[rank:])
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        for i, (d, k) in enumerate(zip(sizes, kernel, strict=True)):
            span = (k - 1) * dilations[i] + 1
            total = dmax((ceil_div(d, strides[i]) - 1) * strides[i] + span - d, 0)
            small, large = total // 2, total - total // 2
            lo[i], hi[i] = (small, large) if auto == "SAME_UPPER" else (large, small)
    elif auto == "VALID":
        lo, hi = [0] * rank, [0] * rank
    elif auto != "NOTSET":
        raise ModelError(f"auto_pad {auto[:20]!r}")
    return Window(tuple(kernel), strides, dilations, tuple(lo), tuple(hi))


def _check_kernel_shape(ctx: Ctx, kernel: Sequence[Dim]) -> None:
    declared = ctx.attr("kernel_shape")
    if declared and any(
        isinstance(k, int) and k != d for k, d in zip(kernel, declared, strict=False)
    ):
        raise ModelError(f"kernel_shape {list(declared)} beside weights of {list(kernel)}")


def add_bias(ctx: Ctx, y: Value, bias: Value | None) -> Value:
    """``y`` plus one number per channel (axis 1)."""
    if bias is None:
        return y
    if bias.rank != 1:
        raise ModelError(f"the bias must be a vector, got {bias.type}")
    column = reshape_to(ctx, bias, (1, bias.shape[0], *(1,) * (y.rank - 2)))
    result: Value = ctx.b.op("add", y, column)
    return result


@lowering("Conv")
def conv(ctx: Ctx, node: NodeProto) -> Value:
    x, w = ctx.input(0), ctx.input(1)
    if x.rank < 3 or w.rank != x.rank:
        raise ModelError(f"image {x.type}, weights {w.type}")
    kernel = w.shape[2:]
    _check_kernel_shape(ctx, kernel)
    window = read_window(ctx, x.shape[2:], kernel)
    groups = ctx.attr("group", 1)
    if groups < 1 or (isinstance(w.shape[0], int) and w.shape[0] % groups):
        raise ModelError(f"{w.shape[0]} output channels in {groups} groups")
    from .ops_quant import quantized_convolution

    y = quantized_convolution(ctx, x, w)
    if y is None:
        y = ctx.b.op("conv", x, w, groups=groups, layout="first", **window.attrs())
    return add_bias(ctx, y, ctx.optional(2))


@lowering("ConvTranspose")
def conv_transpose(ctx: Ctx, node: NodeProto) -> Value:
    x, w = ctx.input(0), ctx.input(1)
    if x.rank < 3 or w.rank != x.rank:
        raise ModelError(f"image {x.type}, weights {w.type}")
    groups = ctx.attr("group", 1)
    if groups < 1 or (isinstance(w.shape[0], int) and w.shape[0] % groups):
        raise ModelError(f"{w.shape[0]} input channels in {groups} groups")
    rank = x.rank - 2
    kernel = w.shape[2:]
    _check_kernel_shape(ctx, kernel)
    strides, dilations = _spatial(ctx, "strides", rank), _spatial(ctx, "dilations", rank)
    lo, hi, extra = _transposed_pads(
        ctx, x.shape[2:], kernel, strides, dilations, _spatial(ctx, "output_padding", rank, 0)
    )
    y = ctx.b.op(
        "conv_transpose", x, w, strides=strides, dilations=dilations, pads_lo=lo, pads_hi=hi,
        groups=groups, layout="first", output_padding=extra,
    )  # fmt: skip
    return add_bias(ctx, y, ctx.optional(2))


def _transposed_pads(
    ctx: Ctx,
    sizes: Sequence[Dim],
    kernel: Sequence[Dim],
    strides: Sequence[int],
    dilations: Sequence[int],
    extra: tuple[int, ...],
) -> tuple[tuple[Dim, ...], tuple[Dim, ...], tuple[Dim, ...]]:
    """(lo, hi, padding of the output) of a transposed convolution; ``output_shape`` and SAME
    decide them by the size of the result, the odd element going where ONNX says."""
    rank = len(sizes)
    pads = ctx.attr("pads") or (0,) * (2 * rank)
    if len(pads) != 2 * rank:
        raise ModelError(f"pads {list(pads)} for {rank} spatial axes")
    auto = ctx.attr("auto_pad", "NOTSET") or "NOTSET"
    wanted = ctx.attr("output_shape")
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ModelError(f"auto_pad {auto[:20]!r}")
    if wanted is None and not auto.startswith("SAME"):
        if auto == "VALID":
            pads = (0,) * (2 * rank)
        return tuple(pads[:rank]), tuple(pads[rank:]), extra
    if wanted is not None and len(wanted) == rank + 2:
        wanted = wanted[2:]
    lo: list[Dim] = []
    hi: list[Dim] = []
    beyond: list[Dim] = list(extra)
    for i in range(rank):
        if wanted is not None and not isinstance(sizes[i], int):
            ctx.need(f"output_shape {list(wanted)}: the image's sizes must be static", sizes[i])
        out = wanted[i] if wanted is not None else sizes[i] * strides[i]
        span = (kernel[i] - 1) * dilations[i] + 1
        total = strides[i] * (sizes[i] - 1) + extra[i] + span - out
        if isinstance(total, int) and total < 0:  # beyond what the kernel reaches: zeros
            beyond[i], total = beyond[i] - total, 0
        half = total // 2
        lo.append(half if auto == "SAME_UPPER" else total - half)
        hi.append(total - half if auto == "SAME_UPPER" else half)
    return tuple(lo), tuple(hi), tuple(beyond)


# -- pooling -----------------------------------------------------------------------------------


def _pool_window(ctx: Ctx, x: Value) -> tuple[Window, Window]:
    """(the window as declared, the window with the end padding that ``ceil_mode`` adds)."""
    if x.rank < 3:
        raise ModelError(f"an image is needed, got {x.type}")
    sizes = x.shape[2:]
    window = read_window(ctx, sizes, ctx.required("kernel_shape"))
    if not ctx.attr("ceil_mode", 0):
        return window, window
    hi: list[Dim] = []
    for i, d in enumerate(sizes):
        span = (window.kernel[i] - 1) * window.dilations[i] + 1
        stride = window.strides[i]
        padded = d + window.lo[i] + window.hi[i]
        out = ceil_div(padded - span, stride) + 1
        # The last window must start inside the image or its leading padding.
        starts_in = ceil_div(d + window.lo[i], stride)
        out = dmin(out, starts_in)
        need = dmax((out - 1) * stride + span - padded, 0)
        hi.append(window.hi[i] + need)
    return window, Window(window.kernel, window.strides, window.dilations, window.lo, tuple(hi))


def _pool(ctx: Ctx, x: Value, kind: str, window: Window) -> Value:
    result: Value = ctx.b.op(
        "pool", x, kind=kind, kernel=window.kernel, layout="first", **window.attrs()
    )
    return result


@lowering("MaxPool")
def max_pool(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(maxima, their flat positions): in an image column-major where ``storage_order`` is 1."""
    x = ctx.input(0)
    _, window = _pool_window(ctx, x)
    y = _pool(ctx, x, "max", window)
    if not ctx.wants(1):
        return (y,)
    column_major = bool(ctx.attr("storage_order", 0))
    return y, ctx.b.op(
        "pool_argmax", x, kernel=window.kernel, column_major=column_major, **window.attrs()
    )


@lowering("AveragePool")
@accumulates
def average_pool(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    declared, window = _pool_window(ctx, x)
    return mean_of(ctx, x, declared, window, bool(ctx.attr("count_include_pad", 0)))


def mean_of(ctx: Ctx, x: Value, declared: Window, window: Window, include_pad: bool) -> Value:
    """Sum over windows, divided by the elements counted: those of the image, or also those of
    the declared padding (never those that ``ceil_mode`` adds)."""
    total = _pool(ctx, x, "sum", window)
    plain = all(p == 0 for p in (*window.lo, *window.hi))
    if plain or (include_pad and window.hi == declared.hi):
        count = product(window.kernel)
        assert isinstance(count, int)
        result: Value = ctx.b.op("mul", total, 1.0 / count)
        return result
    counts: Value | None = None
    for i in range(len(window.kernel)):
        one = _axis_counts(ctx, x.shape[2 + i], total.shape[2 + i], i, declared, window,
                           include_pad)  # fmt: skip
        one = reshape_to(ctx, one, (one.shape[0], *(1,) * (len(window.kernel) - 1 - i)))
        counts = one if counts is None else ctx.b.op("mul", counts, one)
    assert counts is not None
    divisor = ctx.b.op("cast", counts, to=x.dtype)
    from .tidy import tidy

    mean: Value = ctx.b.op("div", total, tidy(ctx.b, divisor))
    return mean


def _axis_counts(
    ctx: Ctx, size: Dim, outs: Dim, i: int, declared: Window, window: Window, include_pad: bool
) -> Value:
    """How many taps of one axis each window counts, [outs] i64."""
    b = ctx.b
    lo, stride, dilation = window.lo[i], window.strides[i], window.dilations[i]
    kernel = window.kernel[i]
    begin: Dim = 0 if include_pad else lo
    end = lo + size + (declared.hi[i] if include_pad else 0)
    if isinstance(outs, int) and isinstance(kernel, int) and isinstance(begin, int):
        if isinstance(end, int) and outs * kernel <= _MAX_TABLE:
            starts = np.arange(outs) * stride
            taps = starts[:, None] + np.arange(kernel)[None, :] * dilation
            return b.const(((taps >= begin) & (taps < end)).sum(axis=1).astype(np.int64))
    starts_v = b.op("mul", b.op("iota", shape=(outs, 1), axis=0, dtype=I64), stride)
    offsets = b.op("mul", b.op("iota", shape=(1, kernel), axis=1, dtype=I64), dilation)
    taps_v = b.op("add", starts_v, offsets)
    inside = b.op("and", b.op("le", b.dims([begin], scalar=True), taps_v),
                  b.op("lt", taps_v, b.dims([end], scalar=True)))  # fmt: skip
    result: Value = b.op("reduce", b.op("cast", inside, to=I64), kind="sum", axes=(1,),
                         keepdims=False)  # fmt: skip
    return result


@lowering("LpPool")
@accumulates
def lp_pool(ctx: Ctx, node: NodeProto) -> Value:
    b, x, p = ctx.b, ctx.input(0), ctx.attr("p", 2)
    _, window = _pool_window(ctx, x)
    if p == 2:
        return b.op("sqrt", _pool(ctx, b.op("mul", x, x), "sum", window))
    size = b.op("abs", x)
    if p == 1:
        return _pool(ctx, size, "sum", window)
    return b.op("pow", _pool(ctx, b.op("pow", size, float(p)), "sum", window), 1.0 / p)


def _global_axes(x: Value) -> tuple[int, ...]:
    if x.rank < 3:
        raise ModelError(f"an image is needed, got {x.type}")
    return tuple(range(2, x.rank))


@lowering("GlobalAveragePool", "GlobalMaxPool")
def global_pool(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    kind = "mean" if node.op_type == "GlobalAveragePool" else "max"
    return ctx.b.op("reduce", x, kind=kind, axes=_global_axes(x), keepdims=True)


@lowering("GlobalLpPool")
@accumulates
def global_lp_pool(ctx: Ctx, node: NodeProto) -> Value:
    b, x, p = ctx.b, ctx.input(0), ctx.attr("p", 2)
    powers = b.op("pow", b.op("abs", x), float(p))
    total = b.op("reduce", powers, kind="sum", axes=_global_axes(x), keepdims=True)
    return b.op("pow", total, 1.0 / p)


@lowering("MaxUnpool")
def max_unpool(ctx: Ctx, node: NodeProto) -> Value:
    """Scatters the pooled values to their flat positions in the unpooled image."""
    b, x, at = ctx.b, ctx.input(0), ctx.input(1)
    sizes = _unpooled_shape(ctx, x)
    flat = reshape_to(ctx, x, (x.tensor.numel(),))
    index = reshape_to(ctx, at, (x.tensor.numel(),))
    empty = ctx.full((product(sizes),), 0, x.dtype)
    filled = b.op("scatter_elements", empty, index, flat, axis=0, reduction="none")
    y = reshape_to(ctx, filled, sizes)
    given = ctx.optional(2)
    if given is None:
        return y
    wanted = ctx.dims(given)
    if len(wanted) != x.rank:
        raise ModelError(f"output_shape has {len(wanted)} sizes for {x.type}")
    if wanted == sizes:
        return y
    # Positions count in the image that the strides give; the rest of a larger one is 0.
    more = tuple(w - d for w, d in zip(wanted, sizes, strict=True))
    if any(isinstance(d, int) and d < 0 for d in more):
        raise ModelError(f"output_shape {wanted} is smaller than {sizes}, which the strides give")
    zero = b.const(np.zeros((), x.dtype.np))
    padded = b.op("pad", y, zero, lo=(0,) * x.rank, hi=more, mode="constant")
    return reshape_to(ctx, padded, wanted)


def _unpooled_shape(ctx: Ctx, x: Value) -> tuple[Dim, ...]:
    window = read_window(ctx, x.shape[2:], ctx.required("kernel_shape"))
    return (*x.shape[:2], *(
        (d - 1) * s + k - lo - hi for d, s, k, lo, hi in zip(
            x.shape[2:], window.strides, window.kernel, window.lo, window.hi, strict=True)
    ))  # fmt: skip
