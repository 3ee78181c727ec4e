"""Lowering of Resize and Upsample: separable interpolation by gathers and weights.

Each resized axis is handled on its own: output position ``o`` maps to a source coordinate ``x``;
nearest takes one tap, linear two, cubic four (Keys 1981, coefficient ``cubic_coeff_a``), and with
antialiasing the kernel is stretched by the reduction. With static sizes taps and weights are
constants, computed in float32 as the reference runtimes do; with symbolic sizes they are ramp
arithmetic. Taps outside the image repeat its edge, unless ``exclude_outside`` gives them weight 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.types import F32, I64
from ..messages import NodeProto
from .ops_shape import axes_of, cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx

_MODES = ("nearest", "linear", "cubic")
_COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_crop_and_resize", "tf_half_pixel_for_nn",
)  # fmt: skip
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")
_MAX_TABLE = 1 << 20
"""Longest axis whose taps are tabulated; beyond, they are computed while the model runs."""

_MAX_TAPS = 8
"""More taps than this (strong antialiasing) become a matrix product."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one node resizes."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


@dataclass(frozen=True, slots=True)
class Axis:
    """One resized axis: old and new size, scale, and the crop in source fractions."""

    axis: int
    size: Dim
    out: Dim
    scale: float | None
    """The given scale; None where sizes decide (``out / size``)."""
    crop: tuple[float, float] | None
    scale_value: Value | None = None
    """The scale, where it is computed while the model runs."""

    def unknown(self) -> tuple[Value | Dim, ...]:
        """What is only known while the model runs, if anything."""
        scale = () if self.scale_value is None else (self.scale_value,)
        return (self.size, self.out, *scale)

    def static(self) -> tuple[int, int]:
        """(old size, new size) where both are numbers."""
        assert isinstance(self.size, int) and isinstance(self.out, int)
        return self.size, self.out


@lowering("Upsample", since=9)
def upsample_9(ctx: Ctx, node: NodeProto) -> Value:
    return _upsample(ctx, _floats(ctx, ctx.input(1), "scales"))


@lowering("Resize", since=10)
def resize_10(ctx: Ctx, node: NodeProto) -> Value:
    return _upsample(ctx, _floats(ctx, ctx.input(1), "scales"))


def _floats(ctx: Ctx, v: Value, what: str) -> tuple[float, ...]:
    found = ctx.constant(v)
    if found is None:
        ctx.need(f"{what} must be constant; give `sizes` where they depend on data", v)
    return tuple(float(x) for x in found.reshape(-1))


def _upsample(ctx: Ctx, scales: Sequence[float]) -> Value:
    mode = ctx.attr("mode", "nearest")
    mode = "linear" if mode == "bilinear" else mode
    plan = Plan(mode, "asymmetric", "simple", -0.75, False, False, 0.0)
    x = ctx.input(0)
    return _resize(ctx, x, plan, _scaled(ctx, x, tuple(range(x.rank)), scales, None))


@lowering("Resize", since=11)
def resize(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    plan = Plan(
        ctx.attr("mode", "nearest"),
        ctx.attr("coordinate_transformation_mode", "half_pixel"),
        ctx.attr("nearest_mode", "round_prefer_floor"), ctx.attr("cubic_coeff_a", -0.75),
        bool(ctx.attr("exclude_outside", 0)), bool(ctx.attr("antialias", 0)),
        ctx.attr("extrapolation_value", 0.0),
    )  # fmt: skip
    axes = axes_of(ctx, len(ctx.inputs), x.rank) or tuple(range(x.rank))
    crops = _crops(ctx, plan, len(axes))
    scales, sizes = (_present(ctx, i) for i in (2, 3))
    if (scales is None) == (sizes is None):
        raise ModelError("exactly one of scales and sizes must be given")
    if scales is not None:
        found = ctx.constant(scales)
        if found is not None:
            return _resize(ctx, x, plan, _scaled(ctx, x, axes, _floats(ctx, scales, ""), crops))
        return _resize(ctx, x, plan, _computed(ctx, x, axes, scales, crops))
    assert sizes is not None
    return _resize(ctx, x, plan, _sized(ctx, x, axes, ctx.dims(sizes), crops))


def _present(ctx: Ctx, index: int) -> Value | None:
    v = ctx.optional(index)
    return None if v is None or v.shape == (0,) else v


def _crops(ctx: Ctx, plan: Plan, n: int) -> list[tuple[float, float]] | None:
    if plan.coordinates != "tf_crop_and_resize":
        return None
    roi = _present(ctx, 1)
    if roi is None:
        raise ModelError("tf_crop_and_resize needs roi")
    found = _floats(ctx, roi, "roi")
    if len(found) != 2 * n:
        raise ModelError(f"roi has {len(found)} elements for {n} axes")
    return [(found[i], found[n + i]) for i in range(n)]


def _scaled(
    ctx: Ctx,
    x: Value,
    axes: Sequence[int],
    scales: Sequence[float],
    crops: list[tuple[float, float]] | None,
) -> list[Axis]:
    if len(scales) != len(axes) or any(not s > 0 for s in scales):
        raise ModelError(f"scales {list(scales)} for {len(axes)} axes")
    result = []
    for k, (axis, s) in enumerate(zip(axes, scales, strict=True)):
        crop = None if crops is None else crops[k]
        size = x.shape[axis]
        span = 1.0 if crop is None else crop[1] - crop[0]
        result.append(Axis(axis, size, _scaled_size(ctx, size, s * span), s, crop))
    return result


def _scaled_size(ctx: Ctx, size: Dim, scale: float) -> Dim:
    """floor(size * scale); exact for scales that are small fractions of powers of two."""
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * np.float32(scale)))
    top, bottom = float(scale).as_integer_ratio()
    if bottom <= 1 << 10 and top <= 1 << 16:
        return (size * top) // bottom
    b = ctx.b
    wide = b.op("mul", b.op("cast", b.dims([size], scalar=True), to=F32), scale)
    return ctx.bind(b.op("cast", b.op("floor", wide), to=I64), "resized")


def _computed(
    ctx: Ctx,
    x: Value,
    axes: Sequence[int],
    scales: Value,
    crops: list[tuple[float, float]] | None,
) -> list[Axis]:
    """Scales computed while the model runs; the sizes that they give are bound."""
    b = ctx.b
    if crops is not None or scales.rank != 1 or scales.shape[0] != len(axes):
        ctx.need(f"scales {scales.type} computed while the model runs, for axes {list(axes)}",
                 scales)  # fmt: skip
    sizes = b.dims([x.shape[a] for a in axes])
    wanted = b.op("mul", b.op("cast", sizes, to=F32), scales)
    whole = b.op("cast", b.op("floor", wanted), to=I64)
    return [
        Axis(a, x.shape[a], d, None, None, reshape_to(ctx, cut(ctx, scales, 0, k, 1), ()))
        for k, (a, d) in enumerate(zip(axes, ctx.dims(whole), strict=True))
    ]


def _sized(
    ctx: Ctx,
    x: Value,
    axes: Sequence[int],
    sizes: Sequence[Dim],
    crops: list[tuple[float, float]] | None,
) -> list[Axis]:
    if len(sizes) != len(axes):
        raise ModelError(f"{len(sizes)} sizes for {len(axes)} axes")
    policy = ctx.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [
            Axis(a, x.shape[a], d, None, None if crops is None else crops[k])
            for k, (a, d) in enumerate(zip(axes, sizes, strict=True))
        ]
    if policy not in ("not_larger", "not_smaller"):
        raise ModelError(f"keep_aspect_ratio_policy {policy[:20]!r}")
    old = ctx.static(f"keep_aspect_ratio_policy {policy} needs static sizes",
                     *(x.shape[a] for a in axes))
    new = ctx.static(f"keep_aspect_ratio_policy {policy} needs static sizes", *sizes)
    if min(old, default=1) < 1 or min(new, default=1) < 0:
        raise ModelError(f"keep_aspect_ratio_policy {policy}: no ratio of {new} to {old}")
    ratios = [d / o for d, o in zip(new, old, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [Axis(a, o, int(scale * o + 0.5), scale, None) for a, o in zip(axes, old, strict=True)]


def _resize(ctx: Ctx, x: Value, plan: Plan, axes: list[Axis]) -> Value:
    _check(plan)
    dtype = x.dtype
    y = x
    outside: list[tuple[int, np.ndarray]] = []
    for a in axes:
        plain = a.scale in (None, 1.0) and a.scale_value is None
        if a.out == a.size and a.crop is None and plain:
            continue
        if _tabulated(a):
            if min(a.static()) <= 0:
                ctx.fail(f"resizing an axis of {a.size} to {a.out}")
            y, mask = _static_axis(ctx, y, plan, a)
            if mask is not None and mask.any():
                outside.append((a.axis, mask))
        else:
            y = _symbolic_axis(ctx, y, plan, a)
    for axis, mask in outside:
        shape = (len(mask), *(1,) * (x.rank - 1 - axis))
        fill = ctx.b.const(np.asarray(plan.extrapolation, y.dtype.np))
        y = ctx.b.op("select", ctx.b.const(mask.reshape(shape)), fill, y)
    if y.dtype != dtype and dtype.is_integer:
        y = ctx.b.op("round", y)
    return ctx.as_dtype(y, dtype)


def _tabulated(a: Axis) -> bool:
    """Whether taps and weights are computed now, as constants."""
    return (
        isinstance(a.out, int)
        and isinstance(a.size, int)
        and a.scale_value is None
        and a.out <= _MAX_TABLE
    )


def _check(plan: Plan) -> None:
    if plan.mode not in _MODES or plan.nearest not in _NEAREST:
        raise ModelError(f"mode {plan.mode[:20]!r}, nearest_mode {plan.nearest[:20]!r}")
    if plan.coordinates not in _COORDINATES:
        raise ModelError(f"coordinate_transformation_mode {plan.coordinates[:30]!r}")


# -- static sizes ------------------------------------------------------------------------------


def coordinates(plan: Plan, a: Axis) -> np.ndarray:
    """Source coordinate of every output position, float32[out]."""
    f = np.float32
    count = a.static()[1]
    size, out = f(a.static()[0]), f(count)
    scale = f(a.scale) if a.scale is not None else out / size
    o = np.arange(count, dtype=np.float32)
    kind = plan.coordinates
    if kind == "asymmetric":
        return (o / scale).astype(np.float32)
    if kind == "align_corners":
        wide = scale * size  # not rounded down, as ONNX's own tests have it
        return o * f(0) if wide == 1 else (o * (size - 1) / (wide - 1)).astype(np.float32)
    if kind == "pytorch_half_pixel" and a.out == 1:
        return o * f(0)
    if kind == "tf_half_pixel_for_nn":
        return ((o + f(0.5)) / scale).astype(np.float32)
    if kind == "tf_crop_and_resize":
        assert a.crop is not None
        start, end = f(a.crop[0]), f(a.crop[1])
        if a.out == 1:
            return np.array([f(0.5) * (start + end) * (size - 1)], dtype=np.float32)
        return (start * (size - 1) + o * (end - start) * (size - 1) / (out - 1)).astype(np.float32)
    x = ((o + f(0.5)) / scale - f(0.5)).astype(np.float32)
    if kind == "half_pixel_symmetric":
        # Keeps the centers of source and result together where scale * size is not whole.
        adjustment = out / (scale * size)
        x = x + (size / f(2)) * (f(1) - adjustment)
    return x.astype(np.float32)


def _nearest_index(plan: Plan, a: Axis, x: np.ndarray) -> np.ndarray:
    if plan.nearest == "simple":  # opset 10: truncates when enlarging, else rounds up
        larger = a.scale is not None and a.scale >= 1
        index = np.floor(x) if larger else np.ceil(x)
    elif plan.nearest == "round_prefer_floor":
        index = np.ceil(x - np.float32(0.5))
    elif plan.nearest == "round_prefer_ceil":
        index = np.floor(x + np.float32(0.5))
    else:
        index = np.floor(x) if plan.nearest == "floor" else np.ceil(x)
    return np.clip(index, 0, a.static()[0] - 1).astype(np.int64)


def _kernel(plan: Plan, t: np.ndarray) -> np.ndarray:
    """Interpolation weight at distance ``t``."""
    t = np.abs(t)
    if plan.mode == "linear":
        return np.maximum(1 - t, 0)
    k = plan.cubic
    near = ((k + 2) * t - (k + 3)) * t * t + 1
    far = ((k * t - 5 * k) * t + 8 * k) * t - 4 * k
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def taps(plan: Plan, a: Axis, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(source positions i64[out, taps], weights float64[out, taps])."""
    size, out = a.static()
    scale = a.scale if a.scale is not None else out / size
    shrink = min(scale, 1.0) if plan.antialias else 1.0
    support = (1.0 if plan.mode == "linear" else 2.0) / shrink
    x = x.astype(np.float64)
    count = 2 * int(np.ceil(support))
    first = np.floor(x).astype(np.int64) - count // 2 + 1
    if shrink < 1.0:
        first = first - 1
        count += 2
    index = first[:, None] + np.arange(count)[None, :]
    weights = _kernel(plan, (index - x[:, None]) * shrink)
    if plan.exclude_outside:
        weights = np.where((index >= 0) & (index < size), weights, 0.0)
        weights = weights / weights.sum(axis=1, keepdims=True)
    if plan.antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    index = np.clip(index, 0, size - 1)
    used = np.abs(weights).max(axis=0) > 0
    return index[:, used], weights[:, used]


def _static_axis(ctx: Ctx, y: Value, plan: Plan, a: Axis) -> tuple[Value, np.ndarray | None]:
    b = ctx.b
    size, out = a.static()
    x = coordinates(plan, a)
    mask = None
    if plan.coordinates == "tf_crop_and_resize":
        mask = (x < 0) | (x > size - 1)
    if plan.mode == "nearest":
        return b.op("gather", y, b.const(_nearest_index(plan, a, x)), axis=a.axis), mask
    if plan.mode == "linear" and not plan.antialias and not plan.exclude_outside:
        x = np.clip(x, 0, size - 1)
    index, weights = taps(plan, a, x)
    y = y if y.dtype.is_float else b.op("cast", y, to=F32)
    if index.shape[1] > _MAX_TAPS:
        return _by_matrix(ctx, y, a, index, weights), mask
    column = (out, *(1,) * (y.rank - 1 - a.axis))
    total: Value | None = None
    for k in range(index.shape[1]):
        picked = b.op("gather", y, b.const(index[:, k]), axis=a.axis)
        weight = b.const(weights[:, k].astype(y.dtype.np).reshape(column))
        part = b.op("mul", picked, weight)
        total = part if total is None else b.op("add", total, part)
    assert total is not None
    return total, mask


def _by_matrix(ctx: Ctx, y: Value, a: Axis, index: np.ndarray, weights: np.ndarray) -> Value:
    """The axis times a dense [size, out] matrix of weights."""
    b = ctx.b
    matrix = np.zeros(a.static())
    for k in range(index.shape[1]):
        np.add.at(matrix, (index[:, k], np.arange(len(index))), weights[:, k])
    perm = (*(i for i in range(y.rank) if i != a.axis), a.axis)
    back = tuple(perm.index(i) for i in range(y.rank))
    moved = y if a.axis == y.rank - 1 else b.op("transpose", y, perm=perm)
    if y.rank == 1:
        moved = reshape_to(ctx, moved, (1, a.size))
    done = b.op("dot", moved, b.const(matrix.astype(y.dtype.np)), ta=False, tb=False)
    if y.rank == 1:
        return reshape_to(ctx, done, (a.out,))
    result: Value = done if a.axis == y.rank - 1 else b.op("transpose", done, perm=back)
    return result


# -- symbolic sizes ----------------------------------------------------------------------------


def _as_float(ctx: Ctx, d: Dim) -> Value:
    result: Value = ctx.b.op("cast", ctx.b.dims([d], scalar=True), to=F32)
    return result


def _symbolic_coordinates(ctx: Ctx, plan: Plan, a: Axis) -> Value:
    b = ctx.b
    size, out = _as_float(ctx, a.size), _as_float(ctx, a.out)
    if a.scale_value is not None:
        scale = a.scale_value
    else:
        scale = b.const(np.float32(a.scale)) if a.scale is not None else b.op("div", out, size)
    o = b.op("iota", shape=(a.out,), axis=0, dtype=F32)
    kind = plan.coordinates
    if kind == "asymmetric":
        return b.op("div", o, scale)
    if kind == "align_corners":
        wide = out if a.scale is None and a.scale_value is None else b.op("mul", size, scale)
        span = b.op("sub", wide, 1.0)
        span = b.op("select", b.op("eq", span, 0.0), b.const(np.float32(1)), span)
        return b.op("div", b.op("mul", o, b.op("sub", size, 1.0)), span)
    shifted = b.op("div", b.op("add", o, 0.5), scale)
    if kind == "tf_half_pixel_for_nn":
        return shifted
    if kind == "tf_crop_and_resize":
        ctx.need(f"{kind} of an axis of {a.size} to {a.out} needs static sizes", *a.unknown())
    x = b.op("sub", shifted, 0.5)
    if kind == "half_pixel_symmetric":
        adjustment = b.op("div", out, b.op("mul", scale, size))
        return b.op("add", x, b.op("mul", b.op("mul", size, 0.5), b.op("sub", 1.0, adjustment)))
    if kind == "pytorch_half_pixel":
        single = b.op("lt", out, b.const(np.float32(1.5)))  # one output takes position 0
        return b.op("select", single, b.const(np.float32(0)), x)
    return x


def _symbolic_axis(ctx: Ctx, y: Value, plan: Plan, a: Axis) -> Value:
    """Taps and weights by ramp arithmetic."""
    b = ctx.b
    x = _symbolic_coordinates(ctx, plan, a)
    last = b.op("sub", b.dims([a.size], scalar=True), 1)

    def clamped(i: Value) -> Value:
        return b.op("min", b.op("max", i, 0), last)

    if plan.mode == "nearest":
        whole = _nearest_value(ctx, plan, a, x)
        return b.op("gather", y, clamped(b.op("cast", whole, to=I64)), axis=a.axis)
    if plan.antialias or plan.exclude_outside:
        ctx.need("antialias and exclude_outside need static sizes", *a.unknown())
    y = y if y.dtype.is_float else b.op("cast", y, to=F32)
    base = b.op("floor", x)
    ratio = b.op("sub", x, base)
    first = b.op("cast", base, to=I64)
    column = (a.out, *(1,) * (y.rank - 1 - a.axis))
    total: Value | None = None
    for k, weight in _symbolic_weights(ctx, plan, ratio):
        index = clamped(b.op("add", first, k))
        weight = ctx.as_dtype(reshape_to(ctx, weight, column), y.dtype)
        part = b.op("mul", b.op("gather", y, index, axis=a.axis), weight)
        total = part if total is None else b.op("add", total, part)
    assert total is not None
    return total


def _nearest_value(ctx: Ctx, plan: Plan, a: Axis, x: Value) -> Value:
    b = ctx.b
    kind = plan.nearest
    if kind == "simple":
        kind = "floor" if a.scale is not None and a.scale >= 1 else "ceil"
    if kind == "round_prefer_floor":
        return b.op("ceil", b.op("sub", x, 0.5))
    if kind == "round_prefer_ceil":
        return b.op("floor", b.op("add", x, 0.5))
    return b.op(kind, x)


def _symbolic_weights(ctx: Ctx, plan: Plan, r: Value) -> list[tuple[int, Value]]:
    """(offset from the floor, weight) of each tap; ``r`` is the distance from the floor."""
    b = ctx.b
    one_minus = b.op("sub", b.const(np.ones((), r.dtype.np)), r)
    if plan.mode == "linear":
        return [(0, one_minus), (1, r)]
    k = plan.cubic

    def near(t: Value) -> Value:  # ((k + 2) t - (k + 3)) t^2 + 1
        inner = b.op("sub", b.op("mul", t, k + 2), k + 3)
        return b.op("add", b.op("mul", b.op("mul", inner, t), t), 1.0)

    def far(t: Value) -> Value:  # ((k t - 5 k) t + 8 k) t - 4 k
        inner = b.op("add", b.op("mul", b.op("sub", b.op("mul", t, k), 5 * k), t), 8 * k)
        return b.op("sub", b.op("mul", inner, t), 4 * k)

    beyond = b.op("add", r, 1.0)
    behind = b.op("add", one_minus, 1.0)
    return [(-1, far(beyond)), (0, near(r)), (1, near(one_minus)), (2, far(behind))]
