"""Lowerings of normalizations.

Instance and group normalization are ``layer_norm`` over the axes behind the group, with scales
that broadcast; batch normalization at inference is one multiplication and one addition per
channel. Half-precision inputs are normalized in float32, as ``stash_type`` asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.types import F32, DType
from ..messages import NodeProto
from .ops_reduce import mean_axes
from .ops_shape import reshape_to
from .registry import accumulates, lowering

if TYPE_CHECKING:
    from ...ir.builder import Builder
    from ...ir.graph import Value
    from .context import Ctx


def channel_column(ctx: Ctx, v: Value, rank: int) -> Value:
    """A vector of channels as [C, 1, ...], aligned with axis 1 of a tensor of ``rank``."""
    if v.rank != 1:
        raise ModelError(f"one number per channel is needed, got {v.type}")
    return reshape_to(ctx, v, (v.shape[0], *(1,) * (rank - 2)))


@lowering("BatchNormalization", since=14)
def batch_normalization(ctx: Ctx, node: NodeProto) -> Value | tuple[Value | None, ...]:
    x, given = ctx.input(0), [ctx.input(i) for i in range(1, 5)]
    rows = as_rows(ctx, x)
    if ctx.attr("training_mode", 0):
        y, *running = batch_normalized_in_training(ctx, rows, given)[:3]
        return (reshape_to(ctx, y, x.shape), *running)
    if any(ctx.wants(i) for i in range(1, ctx.n_outputs)):
        raise ModelError("running statistics are outputs in training mode only")
    y = batch_normalized(ctx, rows, *_batch_operands(ctx, rows, given))
    return reshape_to(ctx, y, x.shape)


def as_rows(ctx: Ctx, x: Value) -> Value:
    """A vector is a batch of one channel."""
    return reshape_to(ctx, x, (x.shape[0], 1)) if x.rank == 1 else x


def _batch_operands(ctx: Ctx, x: Value, given: Sequence[Value]) -> tuple[Value, ...]:
    """Scale, bias, mean and variance, in float32 at least."""
    if x.rank < 2:
        raise ModelError(f"a tensor with a channel axis is needed, got {x.type}")
    wide = F32 if x.dtype.bits < 32 else x.dtype
    return tuple(ctx.as_dtype(v, wide) for v in given)


def batch_normalized(
    ctx: Ctx, x: Value, scale: Value, bias: Value, mean: Value, var: Value
) -> Value:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, one number per channel."""
    b = ctx.b
    factor = b.op("div", scale, b.op("sqrt", b.op("add", var, ctx.attr("epsilon", 1e-5))))
    offset = b.op("sub", bias, b.op("mul", mean, factor))
    wide = ctx.as_dtype(x, factor.dtype)
    y = b.op("mul", wide, channel_column(ctx, factor, x.rank))
    return ctx.as_dtype(b.op("add", y, channel_column(ctx, offset, x.rank)), x.dtype)


def batch_normalized_in_training(ctx: Ctx, x: Value, given: Sequence[Value]) -> tuple[Value, ...]:
    """(y, running mean, running variance, batch mean, batch variance): normalized by the
    statistics of the batch, which move the running ones by ``1 - momentum``; ``given`` is scale,
    bias, mean and variance."""
    b = ctx.b
    scale, bias, mean, var = _batch_operands(ctx, x, given)
    axes = (0, *range(2, x.rank))
    wide = ctx.as_dtype(x, mean.dtype)
    now = mean_axes(ctx, wide, axes)
    d = b.op("sub", wide, now)
    spread = mean_axes(ctx, b.op("mul", d, d), axes)
    momentum = float(ctx.attr("momentum", 0.9))

    def moved(old: Value, new: Value) -> Value:
        kept = b.op("mul", old, momentum)
        result: Value = b.op("add", kept, b.op("mul", new, 1.0 - momentum))
        return result

    c = x.shape[1]
    root = b.op("sqrt", b.op("add", spread, ctx.attr("epsilon", 1e-5)))
    y = b.op("mul", b.op("div", d, root), channel_column(ctx, scale, x.rank))
    y = ctx.as_dtype(b.op("add", y, channel_column(ctx, bias, x.rank)), x.dtype)
    batch = [reshape_to(ctx, v, (c,)) for v in (now, spread)]
    running = [moved(mean, batch[0]), moved(var, batch[1])]
    kinds = [given[i].dtype for i in (2, 3, 2, 3)]
    rest = (ctx.as_dtype(v, t) for v, t in zip((*running, *batch), kinds, strict=True))
    return (y, *rest)


def _stage_type(ctx: Ctx, x: Value) -> DType:
    """The type of the first stage: what ``stash_type`` asks for, but no narrower than float32 or
    the operand."""
    asked = ctx.attr_dtype("stash_type", F32)
    if not asked.is_float:
        raise ModelError(f"stash_type {asked} is not a floating-point type")
    return max((F32, x.dtype, asked), key=lambda t: t.bits)


def normalized(
    ctx: Ctx, x: Value, axis: int, eps: float, scale: Value, bias: Value | None
) -> Value:
    """``layer_norm`` over the axes from ``axis`` on, in float32 at least."""
    wide = _stage_type(ctx, x)
    if scale.dtype != x.dtype and scale.dtype != wide:
        raise ModelError(f"scale {scale.type} for {x.type}")
    y = ctx.b.op(
        "layer_norm", ctx.as_dtype(x, wide), ctx.as_dtype(scale, wide),
        None if bias is None else ctx.as_dtype(bias, wide), axis=axis, eps=float(eps),
    )  # fmt: skip
    if y.shape != x.shape:
        raise ModelError(f"scale {scale.type} does not broadcast to {x.type}")
    return ctx.as_dtype(y, x.dtype)


@lowering("LayerNormalization")
def layer_normalization(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    b, x = ctx.b, ctx.input(0)
    axis = ctx.axis(ctx.attr("axis", -1), x.rank)
    eps = ctx.attr("epsilon", 1e-5)
    y = normalized(ctx, x, axis, eps, ctx.input(1), ctx.optional(2))
    if not ctx.wants(1) and not ctx.wants(2):
        return (y,)
    axes = tuple(range(axis, x.rank))
    wide = ctx.as_dtype(x, _stage_type(ctx, x))
    mean = mean_axes(ctx, wide, axes)
    d = b.op("sub", wide, mean)
    variance = mean_axes(ctx, b.op("mul", d, d), axes)
    inverse = b.op("reciprocal", b.op("sqrt", b.op("add", variance, eps)))
    stash = ctx.attr_dtype("stash_type", F32)
    return (y, ctx.as_dtype(mean, stash), ctx.as_dtype(inverse, stash))


@lowering("RMSNormalization")
def rms_normalization(ctx: Ctx, node: NodeProto) -> Value:
    x, scale = ctx.input(0), ctx.input(1)
    axis = ctx.axis(ctx.attr("axis", -1), x.rank)
    wide = _stage_type(ctx, x)
    y = ctx.b.op("rms_norm", ctx.as_dtype(x, wide), ctx.as_dtype(scale, wide), axis=axis,
                 eps=float(ctx.attr("epsilon", 1e-5)))  # fmt: skip
    return ctx.as_dtype(y, scale.dtype)


@lowering("InstanceNormalization")
def instance_normalization(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    if x.rank < 3:
        raise ModelError(f"an image is needed, got {x.type}")
    scale, bias = (channel_column(ctx, ctx.input(i), x.rank) for i in (1, 2))
    return normalized(ctx, x, 2, ctx.attr("epsilon", 1e-5), scale, bias)


@lowering("GroupNormalization", since=21)
def group_normalization(ctx: Ctx, node: NodeProto) -> Value:
    x, scale, bias = ctx.input(0), ctx.input(1), ctx.input(2)
    groups = ctx.required("num_groups")
    if x.rank < 3 or groups < 1:
        raise ModelError(f"num_groups {groups} of {x.type}")
    n, c = x.shape[:2]
    if isinstance(c, int) and c % groups:
        raise ModelError(f"{c} channels do not split into {groups} groups")
    split: tuple[Dim, ...] = (n, groups, c // groups, *x.shape[2:])
    rows = reshape_to(ctx, x, split)
    column = (groups, c // groups, *(1,) * (x.rank - 2))
    scale, bias = (reshape_to(ctx, v, column) for v in (scale, bias))
    return reshape_to(ctx, normalized(ctx, rows, 2, ctx.attr("epsilon", 1e-5), scale, bias),
                      x.shape)  # fmt: skip


@lowering("MeanVarianceNormalization", since=9)
@accumulates
def mean_variance_normalization(ctx: Ctx, node: NodeProto) -> Value:
    """(x - mean) / (deviation + 1e-9)."""
    b, x = ctx.b, ctx.input(0)
    axes = tuple(sorted({ctx.axis(a, x.rank) for a in ctx.attr("axes", (0, 2, 3))}))
    centered = b.op("sub", x, mean_axes(ctx, x, axes))
    deviation = b.op("sqrt", mean_axes(ctx, b.op("mul", centered, centered), axes))
    return b.op("div", centered, b.op("add", deviation, 1e-9))


@lowering("LRN")
@accumulates
def local_response_normalization(ctx: Ctx, node: NodeProto) -> Value:
    b, x, size = ctx.b, ctx.input(0), ctx.required("size")
    alpha, beta, bias = ctx.attr("alpha", 1e-4), ctx.attr("beta", 0.75), ctx.attr("bias", 1.0)
    if x.rank < 3 or size < 1:
        raise ModelError(f"size {size} of {x.type}")
    # A window over channels is one along the rows of a [pixels, C, 1] image, channels-last.
    perm = (0, *range(2, x.rank), 1)
    pixels, c = x.shape[0] * product(x.shape[2:]), x.shape[1]
    last = b.op("transpose", x, perm=perm)
    square = reshape_to(ctx, b.op("mul", last, last), (pixels, c, 1))
    total = b.op(
        "pool", square, kind="sum", kernel=(size,), strides=(1,), dilations=(1,),
        pads_lo=((size - 1) // 2,), pads_hi=(size // 2,), layout="last",
    )  # fmt: skip
    total = b.op("add", b.op("mul", reshape_to(ctx, total, last.shape), alpha / size), bias)
    y = b.op("div", last, _power(b, total, beta, alpha >= 0 and bias >= 0))
    return b.op("transpose", y, perm=(0, x.rank - 1, *range(1, x.rank - 1)))


def _power(b: Builder, x: Value, exponent: float, positive: bool) -> Value:
    """``x ** exponent``; multiples of 1/4 by square roots, which are exact to a rounding each and
    cheaper, where ``x`` is known not to be negative (only of -inf would the answer differ)."""
    if not positive or exponent not in (0.25, 0.5, 0.75):
        return b.op("pow", x, exponent)
    root = b.op("sqrt", x)
    if exponent == 0.5:
        return root
    fourth = b.op("sqrt", root)
    return fourth if exponent == 0.25 else b.op("mul", root, fourth)


@lowering("LpNormalization")
@accumulates
def lp_normalization(ctx: Ctx, node: NodeProto) -> Value:
    b, x, p = ctx.b, ctx.input(0), ctx.attr("p", 2)
    axis = ctx.axis(ctx.attr("axis", -1), x.rank)
    if p not in (1, 2):
        raise ModelError(f"p is 1 or 2, not {p}")
    inner = b.op("abs", x) if p == 1 else b.op("mul", x, x)
    norm = b.op("reduce", inner, kind="sum", axes=(axis,), keepdims=True)
    norm = norm if p == 1 else b.op("sqrt", norm)
    zero = b.const(np.zeros((), x.dtype.np))
    safe = b.op("select", b.op("eq", norm, zero), b.const(np.ones((), x.dtype.np)), norm)
    return b.op("div", x, safe)
