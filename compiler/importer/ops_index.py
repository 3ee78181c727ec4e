"""Lowerings of slicing, padding, gathering, scattering and block rearrangement.

Slice bounds out of range are clamped, the start of a descending slice to the first element (NumPy:
to the place before it, which leaves nothing). With symbolic sizes the clamps become
min and max of sizes; bounds computed from data are clamped by IR arithmetic first, so that every
symbol that is bound is a legal start or count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dim_functions import ceil_div, dmax, dmin, known_ge
from ...ir.dims import Dim, Expr
from ...ir.errors import ModelError
from ...ir.shapes import partial_value
from ...ir.types import I64
from ..messages import NodeProto
from .ops_shape import cut, reshape_to
from .registry import accumulates, lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx
    from .registry import Result

_FAR = 1 << 30
"""Bounds beyond this mean "to the end" (exporters write INT_MAX or INT64_MAX)."""


# -- slice -------------------------------------------------------------------------------------


@lowering("Slice", since=10)
def slice_(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    starts, ends = _bounds(ctx, ctx.input(1)), _bounds(ctx, ctx.input(2))
    axes_value, steps_value = ctx.optional(3), ctx.optional(4)
    axes = ctx.ints(axes_value, "axes") if axes_value is not None else tuple(range(len(starts)))
    steps = ctx.ints(steps_value, "steps") if steps_value is not None else (1,) * len(starts)
    return _slice(ctx, x, starts, ends, axes, steps)


def _bounds(ctx: Ctx, value: Value) -> tuple[Dim | Value, ...]:
    """Elements of a bounds vector: sizes where known, else scalar values."""
    b, t = ctx.b, value.tensor
    if t.rank > 1 or not t.dtype.is_integer:
        raise ModelError(f"slice bounds must be a vector of integers, got {t}")
    count = t.shape[0] if t.rank else 1
    if not isinstance(count, int):
        ctx.need_length(f"a symbolic number of slice bounds ({t})", value)
    found = partial_value(value, b.constants, b.dims_memo)
    flat: list[Dim | None] = [None] * count if found is None else list(found.reshape(-1))
    if any(d is None for d in flat):
        from .sizes import bind_leaves

        bind_leaves(ctx, value)
        found = partial_value(value, b.constants, b.dims_memo)
        flat = [None] * count if found is None else list(found.reshape(-1))
    wide = ctx.as_dtype(value, I64)
    return tuple(
        reshape_to(ctx, cut(ctx, wide, 0, i, 1) if t.rank else wide, ()) if d is None else d
        for i, d in enumerate(flat)
    )


def _slice(
    ctx: Ctx,
    x: Value,
    starts: Sequence[Dim | Value],
    ends: Sequence[Dim | Value],
    axes: Sequence[int],
    steps: Sequence[int],
) -> Value:
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ModelError(
            f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes, {len(steps)} steps"
        )
    where = [ctx.axis(a, x.rank) for a in axes]
    if len(set(where)) != len(where):
        raise ModelError(f"axes {list(axes)} are repeated")
    first: list[Dim] = [0] * x.rank
    sizes = list(x.shape)
    strides = [1] * x.rank
    for axis, lo, hi, step in zip(where, starts, ends, steps, strict=True):
        if step == 0:
            raise ModelError("a step of 0")
        first[axis], sizes[axis] = _window(ctx, x.shape[axis], lo, hi, step)
        strides[axis] = step
    if tuple(sizes) == x.shape and all(s == 0 for s in first) and all(s == 1 for s in strides):
        return x
    return ctx.b.op("slice", x, starts=tuple(first), sizes=tuple(sizes), steps=tuple(strides))


def _window(ctx: Ctx, size: Dim, lo: Dim | Value, hi: Dim | Value, step: int) -> tuple[Dim, Dim]:
    """(first position, count) of ``lo:hi:step`` on an axis of ``size``."""
    if isinstance(lo, (int, Expr)) and isinstance(hi, (int, Expr)):
        found = _known_window(size, lo, hi, step)
        if found is not None:
            return found
    return _computed_window(ctx, size, lo, hi, step)


def _known_window(size: Dim, lo: Dim, hi: Dim, step: int) -> tuple[Dim, Dim] | None:
    if isinstance(size, int) and isinstance(lo, int) and isinstance(hi, int):
        if step < 0 and lo < 0:
            lo = max(lo + size, 0)
        span = range(*slice(lo, hi, step).indices(size))
        return (span.start if len(span) else 0), len(span)
    if step > 0:
        start, end = _clamp_up(size, lo), _clamp_up(size, hi)
        if start is None or end is None:
            return None
        gap = _span(size, start, end, lo, hi)
        return start, gap if step == 1 else ceil_div(gap, step)
    return _known_down(size, lo, hi, step)


def _clamp_up(size: Dim, bound: Dim) -> Dim | None:
    """A bound of an ascending slice as a position in ``0..size``; None if its sign is unknown."""
    if isinstance(bound, int) and bound >= _FAR:
        return size
    if isinstance(bound, int) and bound < 0:
        return 0 if bound <= -_FAR else dmax(size + bound, 0)
    if known_ge(bound, 0):
        return dmin(bound, size)
    if known_ge(-bound, 1):
        return dmax(size + bound, 0)
    # A size minus a size (or minus a constant) is meant as a position: k - 1, total - window.
    return None


def _span(size: Dim, start: Dim, end: Dim, lo: Dim, hi: Dim) -> Dim:
    """``max(end - start, 0)``, with the forms that keep sizes short."""
    if isinstance(lo, int) and -_FAR < lo < 0 and end == size:
        return dmin(size, -lo)  # the last k
    if isinstance(lo, int) and lo >= 0 and end == size:
        return dmax(size - lo, 0)
    if start == 0:
        return end
    gap = end - start
    if known_ge(gap, 0):
        return gap
    if known_ge(hi - lo, 0) and isinstance(lo, (int, Expr)) and known_ge(lo, 0):
        # min(hi, size) - min(lo, size) with lo <= hi is never negative.
        return gap
    return dmax(gap, 0)


def _known_down(size: Dim, lo: Dim, hi: Dim, step: int) -> tuple[Dim, Dim] | None:
    """A descending slice; only the whole reversal and static bounds are closed forms."""
    if not isinstance(lo, int) or not isinstance(hi, int):
        return None
    if lo >= 0:
        start: Dim = dmin(lo, size - 1) if lo < _FAR else size - 1
    else:
        start = size - 1 if lo == -1 else dmin(dmax(size + lo, 0), size - 1)
    if hi >= 0:
        stop: Dim = hi
    else:
        stop = -1 if hi <= -_FAR else dmax(size + hi, -1)
    if stop == -1 and start == size - 1:
        return dmax(start, 0), ceil_div(size, -step)
    # The first position is -1 where the axis is empty; the count is 0 then.
    return dmax(start, 0), ceil_div(dmax(start - stop, 0), -step)


def _computed_window(
    ctx: Ctx, size: Dim, lo: Dim | Value, hi: Dim | Value, step: int
) -> tuple[Dim, Dim]:
    """Clamps by IR arithmetic, then binds the first position and the count."""
    b = ctx.b
    n = b.dims([size], scalar=True)

    def position(bound: Dim | Value, low: int) -> Value:
        if isinstance(bound, (int, Expr)):
            known = _clamp_up(size, bound) if step > 0 else None
            if known is not None:
                return b.dims([known], scalar=True)
            bound = b.dims([bound], scalar=True)
        wrapped = b.op("select", b.op("lt", bound, 0), b.op("add", bound, n), bound)
        top = n if step > 0 else b.op("sub", n, 1)
        result: Value = b.op("min", b.op("max", wrapped, low), top)
        return result

    start, stop = position(lo, 0), position(hi, 0 if step > 0 else -1)
    gap = b.op("sub", stop, start) if step > 0 else b.op("sub", start, stop)
    stride = abs(step)
    if stride != 1:
        gap = b.op("div", b.op("add", gap, stride - 1), stride)
    count = b.op("max", gap, 0)
    if isinstance(lo, int) and lo == 0 and step > 0:
        return 0, ctx.bind(count, "cut")
    first = b.op("max", start, 0)
    if isinstance(hi, int) and hi >= _FAR and step == 1:
        begin = ctx.bind(first, "start")
        return begin, size - begin
    return ctx.bind(first, "start"), ctx.bind(count, "cut")


# -- pad ---------------------------------------------------------------------------------------


@lowering("Pad", since=11)
def pad(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    fill = ctx.optional(2)
    if fill is None:
        fill = ctx.b.const(np.zeros((), dtype=x.dtype.np))
    axes_value = ctx.optional(3)
    axes = ctx.ints(axes_value, "axes") if axes_value is not None else range(x.rank)
    where = tuple(ctx.axis(a, x.rank) for a in axes)
    return _pad(ctx, x, ctx.dims(ctx.input(1)), where, reshape_to(ctx, fill, ()))


@lowering("CenterCropPad", since=18)
def center_crop_pad(ctx: Ctx, node: NodeProto) -> Value:
    """Axes cut or filled with zeros to given sizes around their middle; the odd element falls at
    the end."""
    x = ctx.input(0)
    axes = ctx.attr("axes", tuple(range(x.rank)))
    where = [ctx.axis(a, x.rank) for a in axes]
    wanted = ctx.dims(ctx.input(1))
    if len(wanted) != len(where) or len(set(where)) != len(where):
        raise ModelError(f"{len(wanted)} sizes for axes {list(axes)} of {x.type}")
    starts: list[Dim] = [0] * x.rank
    sizes, lo, hi = list(x.shape), list(starts), list(starts)
    for a, size in zip(where, wanted, strict=True):
        have = x.shape[a]
        starts[a] = dmax(have - size, 0) // 2
        sizes[a] = dmin(have, size)
        missing = dmax(size - have, 0)
        lo[a] = missing // 2
        hi[a] = missing - missing // 2
    if sizes != list(x.shape):
        x = ctx.b.op("slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=(1,) * x.rank)
    if any(p != 0 for p in (*lo, *hi)):
        zero = ctx.b.const(np.zeros((), x.dtype.np))
        x = ctx.b.op("pad", x, zero, lo=tuple(lo), hi=tuple(hi), mode="constant")
    full = list(x.shape)
    for a, size in zip(where, wanted, strict=True):
        full[a] = size
    return reshape_to(ctx, x, full)


def _pad(ctx: Ctx, x: Value, pads: Sequence[Dim], axes: Sequence[int], fill: Value) -> Value:
    mode = ctx.attr("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ModelError(f"mode {mode[:20]!r} is not constant, reflect, edge or wrap")
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise ModelError(f"{len(pads)} pads for axes {list(axes)} of {x.type}")
    lo: list[Dim] = [0] * x.rank
    hi: list[Dim] = [0] * x.rank
    for k, axis in enumerate(axes):
        lo[axis], hi[axis] = pads[k], pads[k + len(axes)]
    x, lo, hi = _crop(ctx, x, lo, hi)
    if all(p == 0 for p in (*lo, *hi)):
        return x
    return ctx.b.op("pad", x, fill, lo=tuple(lo), hi=tuple(hi), mode=mode)


def _crop(ctx: Ctx, x: Value, lo: list[Dim], hi: list[Dim]) -> tuple[Value, list[Dim], list[Dim]]:
    """Negative pads remove elements: they are cut off first, as ONNX defines."""
    for axis in range(x.rank):
        start: Dim = 0
        count = x.shape[axis]
        if not known_ge(lo[axis], 0):
            start, lo[axis] = dmax(-lo[axis], 0), dmax(lo[axis], 0)
        if not known_ge(hi[axis], 0):
            count, hi[axis] = count - dmax(-hi[axis], 0), dmax(hi[axis], 0)
        x = cut(ctx, x, axis, start, count - start)
    return x, lo, hi


# -- gathers and scatters ----------------------------------------------------------------------


@lowering("Gather")
def gather(ctx: Ctx, node: NodeProto) -> Value:
    x, indices = ctx.input(0), ctx.input(1)
    axis = ctx.axis(ctx.attr("axis", 0), x.rank)
    known = ctx.constant(indices) if indices.tensor.is_static and indices.rank <= 1 else None
    if known is not None and known.size == 1:
        size, k = x.shape[axis], int(known.reshape(-1)[0])
        k = k if k >= 0 or not isinstance(size, int) else k + size
        if isinstance(size, int) and not 0 <= k < size:
            raise ModelError(f"index {k} is out of range for axis {axis} of {x.type}")
        at: Dim | None = k if k >= 0 else _from_end(size, k)
        if at is not None and (isinstance(size, int) or k < 0):
            one = cut(ctx, x, axis, at, 1)
            return (
                one
                if indices.rank
                else reshape_to(ctx, one, (*x.shape[:axis], *x.shape[axis + 1 :]))
            )
    return ctx.b.op("gather", x, indices, axis=axis)


def _from_end(size: Dim, k: int) -> Dim | None:
    at = size + k
    return at if known_ge(at, 0) else None


@lowering("GatherElements")
def gather_elements(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    axis = ctx.axis(ctx.attr("axis", 0), x.rank)
    return ctx.b.op("gather_elements", x, ctx.input(1), axis=axis)


@lowering("GatherND")
def gather_nd(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.b.op("gather_nd", ctx.input(0), ctx.input(1), batch_dims=ctx.attr("batch_dims", 0))


@lowering("Scatter", "ScatterElements", "ScatterND")
def scatter(ctx: Ctx, node: NodeProto) -> Result:
    """Duplicates are combined in the order of the updates."""
    many = ctx.attr("reduction", "none") in ("add", "mul")
    return (accumulates(_scattered) if many else _scattered)(ctx, node)


def _scattered(ctx: Ctx, node: NodeProto) -> Result:
    x, at, updates = (ctx.input(k) for k in range(3))
    how: dict[str, Any] = {"reduction": ctx.attr("reduction", "none")}
    if node.op_type != "ScatterND":
        how["axis"] = ctx.axis(ctx.attr("axis", 0), x.rank)
    op = "scatter_nd" if node.op_type == "ScatterND" else "scatter_elements"
    combined: Value = ctx.b.op(op, x, at, updates, **how)
    return combined


@lowering("TensorScatter")
def tensor_scatter(ctx: Ctx, node: NodeProto) -> Value:
    """Writes ``update`` into the cache at a position per batch row (opset 24)."""
    b, cache, update, at = ctx.b, ctx.input(0), ctx.input(1), ctx.optional(2)
    axis = ctx.axis(ctx.attr("axis", -2), cache.rank)
    mode = ctx.attr("mode", "linear")
    if mode not in ("linear", "circular") or axis == 0:
        raise ModelError(f"mode {mode[:20]!r}, axis {axis}")
    ramp = b.op("iota", shape=update.shape, axis=axis, dtype=I64)
    if at is not None:
        starts = ctx.as_dtype(at, I64)
        ramp = b.op("add", ramp, reshape_to(ctx, starts, (at.shape[0], *(1,) * (cache.rank - 1))))
    if mode == "circular":
        ramp = b.op("mod", ramp, b.dims([cache.shape[axis]], scalar=True))
    return b.op("scatter_elements", cache, ramp, update, axis=axis, reduction="none")


# -- block rearrangement -----------------------------------------------------------------------


@lowering("DepthToSpace")
def depth_to_space(ctx: Ctx, node: NodeProto) -> Value:
    x, k = ctx.input(0), ctx.required("blocksize")
    mode = ctx.attr("mode", "DCR")
    if x.rank != 4 or k < 1 or mode not in ("DCR", "CRD"):
        raise ModelError(f"blocksize {k}, mode {mode[:20]!r} of {x.type}")
    n, c, h, w = x.shape
    if isinstance(c, int) and c % (k * k):
        raise ModelError(f"{c} channels do not split into blocks of {k} x {k}")
    depth = c // (k * k)
    if mode == "DCR":
        split, perm = (n, k, k, depth, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (n, depth, k, k, h, w), (0, 1, 4, 2, 5, 3)
    blocks = ctx.b.op("transpose", reshape_to(ctx, x, split), perm=perm)
    return reshape_to(ctx, blocks, (n, depth, h * k, w * k))


@lowering("SpaceToDepth")
def space_to_depth(ctx: Ctx, node: NodeProto) -> Value:
    x, k = ctx.input(0), ctx.required("blocksize")
    if x.rank != 4 or k < 1:
        raise ModelError(f"blocksize {k} of {x.type}")
    n, c, h, w = x.shape
    if any(isinstance(d, int) and d % k for d in (h, w)):
        raise ModelError(f"{x.type} does not split into blocks of {k} x {k}")
    mode = ctx.attr("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise ModelError(f"mode {mode[:20]!r}")
    blocks = reshape_to(ctx, x, (n, c, h // k, k, w // k, k))
    perm = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    blocks = ctx.b.op("transpose", blocks, perm=perm)
    return reshape_to(ctx, blocks, (n, c * k * k, h // k, w // k))


@lowering("ReverseSequence")
def reverse_sequence(ctx: Ctx, node: NodeProto) -> Value:
    """Row ``b`` of the batch axis has its first ``lens[b]`` positions of the time axis reversed."""
    b, x, lens = ctx.b, ctx.input(0), ctx.input(1)
    batch, time = ctx.attr("batch_axis", 1), ctx.attr("time_axis", 0)
    if {batch, time} != {0, 1} or x.rank < 2:
        raise ModelError(f"batch_axis {batch}, time_axis {time} of {x.type}")
    ramp = b.op("iota", shape=x.shape[:2], axis=time, dtype=I64)
    count = lens.shape[0]
    row = reshape_to(ctx, lens, (count, 1) if batch == 0 else (1, count))
    mirrored = b.op("sub", b.op("sub", row, 1), ramp)
    index = b.op("select", b.op("lt", ramp, row), mirrored, ramp)
    tail = (1,) * (x.rank - 2)
    index = reshape_to(ctx, index, (*index.shape, *tail))
    index = b.op("expand", index, shape=x.shape) if x.rank > 2 else index
    return b.op("gather_elements", x, index, axis=time)
