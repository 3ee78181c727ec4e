"""Lowerings of shape queries, reshapes, joins, splits, constants and ramps.

Shape tensors are evaluated while importing (``ctx.dims``), so that sizes become attributes:
what remains in the graph are ``reshape``, ``expand`` and ``slice`` nodes with symbolic sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dim_functions import ceil_div, dmax, known_ge
from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.shapes import partial_value
from ...ir.types import F32, F64, I64
from ..messages import NodeProto
from .context import vector_type
from .registry import lowering
from .sizes import bind_leaves, nonnegative

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx


# -- queries -----------------------------------------------------------------------------------


@lowering("Shape")
def shape(ctx: Ctx, node: NodeProto) -> Value:
    sizes = ctx.input(0).shape
    rank = len(sizes)
    start, end = ctx.attr("start", 0), ctx.attr("end", rank)
    start = min(max(start + rank if start < 0 else start, 0), rank)
    end = min(max(end + rank if end < 0 else end, 0), rank)
    return ctx.b.dims(sizes[start:end])


@lowering("Size")
def size(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.b.dims([ctx.input(0).tensor.numel()], scalar=True)


# -- reshapes ----------------------------------------------------------------------------------


def reshape_to(ctx: Ctx, x: Value, sizes: Sequence[Dim]) -> Value:
    """``x`` in another shape; the same value where the shape is the same."""
    if tuple(sizes) == x.shape:
        return x
    result: Value = ctx.b.op("reshape", x, shape=tuple(sizes))
    return result


def resolve_reshape(ctx: Ctx, x: Value, wanted: Sequence[Dim], allow_zero: bool) -> tuple[Dim, ...]:
    """Target sizes with 0 (copy) and -1 (the rest) replaced, as ONNX Reshape defines them."""
    sizes: list[Dim] = []
    for axis, d in enumerate(wanted):
        if d == 0 and not allow_zero:
            if axis >= x.rank:
                raise ModelError(f"shape {list(wanted)} copies axis {axis} of {x.type}")
            d = x.shape[axis]
        sizes.append(d)
    free = [axis for axis, d in enumerate(sizes) if d == -1]
    if len(free) > 1 or any(isinstance(d, int) and d < -1 for d in sizes):
        raise ModelError(f"shape {list(wanted)} is not one that {x.type} can be reshaped to")
    if free:
        rest = product(d for axis, d in enumerate(sizes) if axis != free[0])
        total = x.tensor.numel()
        if rest == 0:
            raise ModelError(f"shape {list(wanted)}: -1 beside an axis of size 0 is ambiguous")
        if isinstance(rest, int) and isinstance(total, int) and total % rest:
            raise ModelError(f"shape {list(wanted)} does not divide the {total} elements")
        sizes[free[0]] = total // rest
    return tuple(sizes)


@lowering("Reshape", since=5)
def reshape(ctx: Ctx, node: NodeProto) -> Value:
    x, shape_value = ctx.input(0), ctx.input(1)
    allow_zero = bool(ctx.attr("allowzero", 0))
    if ctx.b.dims_value(shape_value) is None:
        shape_value = _resolved_shape(ctx, x, shape_value, allow_zero)
    return reshape_to(ctx, x, resolve_reshape(ctx, x, ctx.dims(shape_value), allow_zero))


def _resolved_shape(ctx: Ctx, x: Value, wanted: Value, allow_zero: bool) -> Value:
    """A shape computed from data with 0 and -1 replaced by IR arithmetic: sizes to bind.

    Nothing is done where its elements are known not to be special."""
    b, t = ctx.b, vector_type(wanted)
    n = t.shape[0] if t.rank else 1
    if not isinstance(n, int):
        ctx.need_length(f"a symbolic number of dimensions ({t})", wanted)
    bind_leaves(ctx, wanted)
    parts = partial_value(wanted, b.constants, b.dims_memo)
    known = [None] * n if parts is None else list(parts.reshape(-1))
    if all(d is not None for d in known):
        return wanted
    if nonnegative(ctx, wanted):
        return wanted
    sizes = ctx.as_dtype(wanted, I64)
    if not allow_zero:
        own = b.dims([*x.shape[:n], *(0,) * (n - x.rank)])
        sizes = b.op("select", b.op("eq", sizes, 0), own, sizes)
    free = b.op("lt", sizes, 0)
    one = b.const(np.ones((), np.int64))
    rest = b.op("reduce", b.op("select", free, one, sizes), kind="prod", axes=(0,), keepdims=True)
    total = b.dims([x.tensor.numel()], scalar=True)
    return b.op("select", free, b.op("div", total, b.op("max", rest, 1)), sizes)


@lowering("Flatten")
def flatten(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    axis = ctx.attr("axis", 1)
    if not -x.rank <= axis <= x.rank:
        raise ModelError(f"axis {axis} is out of range for {x.type}")
    axis = axis + x.rank if axis < 0 else axis
    return reshape_to(ctx, x, (product(x.shape[:axis]), product(x.shape[axis:])))


def axes_of(ctx: Ctx, index: int, rank: int) -> tuple[int, ...] | None:
    """Axes from operand ``index`` (newer opsets) or the attribute (older ones), non-negative and
    distinct; None where neither is given."""
    value = ctx.optional(index)
    axes = ctx.ints(value, "axes") if value is not None else ctx.attr("axes")
    if axes is None:
        return None
    if isinstance(axes, int):
        axes = (axes,)
    found = tuple(ctx.axis(a, rank) for a in axes)
    if len(set(found)) != len(found):
        raise ModelError(f"axes {list(axes)} are repeated")
    return found


@lowering("Squeeze")
def squeeze(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    axes = axes_of(ctx, 1, x.rank)
    if axes is None:
        sizes = ctx.static("Squeeze without axes needs a static shape: which sizes are 1 is not "
                           "known", *x.shape)
        axes = tuple(i for i, d in enumerate(sizes) if d == 1)
    for a in axes:
        if isinstance(x.shape[a], int) and x.shape[a] != 1:
            raise ModelError(f"axis {a} of {x.type} is not of size 1")
    return reshape_to(ctx, x, [d for i, d in enumerate(x.shape) if i not in axes])


@lowering("Unsqueeze")
def unsqueeze(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    value = ctx.optional(1)
    axes = ctx.ints(value, "axes") if value is not None else ctx.required("axes")
    rank = x.rank + len(axes)
    where = {ctx.axis(a, rank) for a in axes}
    if len(where) != len(axes):
        raise ModelError(f"axes {list(axes)} are repeated")
    rest = iter(x.shape)
    return reshape_to(ctx, x, [1 if i in where else next(rest) for i in range(rank)])


@lowering("Expand")
def expand(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    sizes = ctx.dims(ctx.input(1))
    lead = (1,) * (len(sizes) - x.rank) + x.shape
    if len(lead) == x.rank and all(d == 1 or d == e for d, e in zip(sizes, x.shape[-len(sizes) :])):
        return x
    return ctx.b.op("expand", x, shape=sizes)


@lowering("Tile", since=6)
def tile(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    repeats = ctx.dims(ctx.input(1))
    if len(repeats) != x.rank:
        raise ModelError(f"{len(repeats)} repeats for {x.type}")
    split: list[Dim] = []
    copied: list[Dim] = []
    for d, r in zip(x.shape, repeats, strict=True):
        if r == 1 or d == 1:
            split.append(d)
            copied.append(d if r == 1 else r)
        else:
            split.extend((1, d))
            copied.extend((r, d))
    if all(r == 1 for r in repeats):
        return x
    wide = ctx.b.op("expand", reshape_to(ctx, x, split), shape=tuple(copied))
    if wide.shape != tuple(copied):  # an axis repeated 0 times, or of symbolic size
        wide = ctx.b.op("expand", wide, shape=tuple(copied))
    return reshape_to(ctx, wide, [d * r for d, r in zip(x.shape, repeats, strict=True)])


@lowering("Transpose")
def transpose(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    perm = ctx.attr("perm") or tuple(reversed(range(x.rank)))
    if perm == tuple(range(x.rank)):
        return x
    return ctx.b.op("transpose", x, perm=perm)


# -- joins and splits --------------------------------------------------------------------------


@lowering("Concat", since=4)
def concat(ctx: Ctx, node: NodeProto) -> Value:
    parts = [ctx.input(i) for i in range(len(ctx.inputs))]
    if parts[0].rank == 0:
        raise ModelError("scalars cannot be joined")
    axis = ctx.axis(ctx.required("axis"), parts[0].rank)
    filled = [p for p in parts if not (p.rank == parts[0].rank and p.shape[axis] == 0)]
    kept = filled or parts[:1]
    if len(kept) == 1 and all(p.dtype == kept[0].dtype for p in parts):
        return kept[0]
    return ctx.b.op("concat", *kept, axis=axis)


def cut(ctx: Ctx, x: Value, axis: int, start: Dim, count: Dim, step: int = 1) -> Value:
    """``count`` positions of one axis from ``start`` on."""
    if start == 0 and count == x.shape[axis] and step == 1:
        return x
    starts: list[Dim] = [0] * x.rank
    sizes = list(x.shape)
    steps = [1] * x.rank
    starts[axis], sizes[axis], steps[axis] = start, count, step
    result: Value = ctx.b.op(
        "slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps)
    )
    return result


@lowering("Split", since=2)
def split(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    x = ctx.input(0)
    axis = ctx.axis(ctx.attr("axis", 0), x.rank)
    total, n = x.shape[axis], ctx.n_outputs
    given = ctx.optional(1)
    sizes: Sequence[Dim] | None = ctx.dims(given) if given is not None else ctx.attr("split")
    if sizes is None:
        sizes = _equal_parts(ctx, total, n)
    if len(sizes) != n:
        raise ModelError(f"{len(sizes)} sizes for {n} outputs")
    whole: Dim = 0
    parts: list[Value] = []
    for d in sizes:
        parts.append(cut(ctx, x, axis, whole, d))
        whole = whole + d
    if isinstance(whole, int) and isinstance(total, int) and whole != total:
        raise ModelError(f"sizes {list(sizes)} do not add up to {total}")
    return tuple(parts)


def _equal_parts(ctx: Ctx, total: Dim, n: int) -> list[Dim]:
    wanted = ctx.attr("num_outputs", n)
    if wanted != n:
        raise ModelError(f"num_outputs is {wanted}, but the node has {n} outputs")
    uneven = ctx.has("num_outputs") and total % n != 0
    if isinstance(total, int) and total % n and not uneven:
        raise ModelError(f"an axis of {total} does not split into {n} equal parts")
    chunk = ceil_div(total, n) if uneven else total // n
    last = total - chunk * (n - 1)
    if isinstance(last, int) and last < 0:
        raise ModelError(f"an axis of {total} does not split into {n} parts of {chunk}")
    return [chunk] * (n - 1) + [last]


# -- constants and ramps -----------------------------------------------------------------------


@lowering("Constant")
def constant(ctx: Ctx, node: NodeProto) -> Value:
    forms = [a.name for a in node.attribute]
    if len(forms) != 1:
        raise ModelError(f"one value is needed, got {len(forms)}")
    form, value = forms[0], ctx.attr(forms[0])
    if form in ("value", "sparse_value"):
        if isinstance(value, np.ndarray):
            return ctx.b.const(value)
    elif form in ("value_float", "value_floats"):
        return ctx.b.const(np.asarray(value, dtype=np.float32))
    elif form in ("value_int", "value_ints"):
        return ctx.b.const(np.asarray(value, dtype=np.int64))
    elif form in ("value_string", "value_strings"):
        items = np.empty(() if isinstance(value, str) else len(value), dtype=object)
        items[...] = value
        return ctx.b.const(items)
    raise ModelError(f"the value {form!r} is not one a constant can have")


@lowering("ConstantOfShape")
def constant_of_shape(ctx: Ctx, node: NodeProto) -> Value:
    sizes = ctx.dims(ctx.input(0))
    value = ctx.attr("value", np.zeros(1, dtype=np.float32))
    if value.size != 1:
        raise ModelError(f"the value must be one element, got shape {value.shape}")
    if any(isinstance(d, int) and d < 0 for d in sizes):
        raise ModelError(f"shape {list(sizes)} is negative")
    scalar = ctx.b.const(value.reshape(()))
    return ctx.b.op("expand", scalar, shape=sizes) if sizes else scalar


@lowering("EyeLike")
def eye_like(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    if x.rank != 2:
        raise ModelError(f"a matrix is needed, got {x.type}")
    dtype = ctx.attr_dtype("dtype", x.dtype)
    b = ctx.b
    rows = b.op("iota", shape=x.shape, axis=0, dtype=I64)
    columns = b.op("iota", shape=x.shape, axis=1, dtype=I64)
    hit = b.op("eq", b.op("add", rows, ctx.attr("k", 0)), columns)
    return ctx.as_dtype(hit, dtype)


@lowering("Trilu")
def trilu(ctx: Ctx, node: NodeProto) -> Value:
    b, x = ctx.b, ctx.input(0)
    if x.rank < 2:
        raise ModelError(f"a matrix is needed, got {x.type}")
    k: int | Value = 0
    given = ctx.optional(1)
    if given is not None:
        known = ctx.constant(given)
        k = int(known.reshape(-1)[0]) if known is not None else b.op("reshape", given, shape=())
    rows = b.op("iota", shape=x.shape[-2:], axis=0, dtype=I64)
    columns = b.op("iota", shape=x.shape[-2:], axis=1, dtype=I64)
    diagonal = rows if isinstance(k, int) and k == 0 else b.op("add", rows, k)
    upper = bool(ctx.attr("upper", 1))
    keep = b.op("le", diagonal, columns) if upper else b.op("le", columns, diagonal)
    return b.op("select", keep, x, b.const(np.zeros((), x.dtype.np)))


@lowering("Range")
def range_(ctx: Ctx, node: NodeProto) -> Value:
    b = ctx.b
    start, limit, delta = (ctx.input(i) for i in range(3))
    dtype = start.dtype
    if dtype.kind == "f" and dtype.bits < 32:
        # The count and the steps are exact enough in the wider type only.
        wide = ctx.attr_dtype("stash_type", F32)
        if wide not in (F32, F64):
            ctx.fail(f"stash_type {wide}; f32 and f64 are supported")
        ramp = ctx.lower("Range", *(ctx.as_dtype(v, wide) for v in (start, limit, delta)))
        return ctx.as_dtype(ramp, dtype)
    known = [ctx.constant(v) for v in (start, limit, delta)]
    if all(k is not None for k in known):
        first, last, step = (k.reshape(())[()] for k in known)  # type: ignore[union-attr]
        if step == 0:
            raise ModelError("the step is 0")
        count = max(int(np.ceil((last - first) / step)), 0)
        if count <= 1 << 16:
            return b.const((first + np.arange(count) * step).astype(dtype.np))
    n = _range_count(ctx, start, limit, delta)
    ramp = b.op("iota", shape=(n,), axis=0, dtype=dtype)
    if not (known[2] is not None and known[2].reshape(-1)[0] == 1):
        ramp = b.op("mul", ramp, _as_scalar(ctx, delta))
    if not (known[0] is not None and known[0].reshape(-1)[0] == 0):
        ramp = b.op("add", ramp, _as_scalar(ctx, start))
    return ramp


def _as_scalar(ctx: Ctx, v: Value) -> Value:
    return v if v.rank == 0 else ctx.b.op("reshape", v, shape=())


def _range_count(ctx: Ctx, start: Value, limit: Value, delta: Value) -> Dim:
    """max(ceil((limit - start) / delta), 0), symbolically where sizes decide it."""
    b = ctx.b
    sizes = [b.dims_value(v) for v in (start, limit, delta)]
    if sizes[2] is not None and isinstance(sizes[2].reshape(-1)[0], int):
        step = sizes[2].reshape(-1)[0]
        if step == 0:
            raise ModelError("the step is 0")
        if sizes[0] is not None and step > 0:
            first = sizes[0].reshape(-1)[0]
            last = (
                ctx.dim(limit)
                if sizes[1] is None and first == 0 and limit.dtype.is_integer
                else (None if sizes[1] is None else sizes[1].reshape(-1)[0])
            )
            if last is not None:
                span = last - first
                return ceil_div(span if known_ge(span, 0) else dmax(span, 0), step)
    start, limit, delta = (_as_scalar(ctx, v) for v in (start, limit, delta))
    span_value = b.op("sub", limit, start)
    if start.dtype.is_float:
        count = b.op("cast", b.op("ceil", b.op("div", span_value, delta)), to=I64)
    else:
        wide, step_value = ctx.as_dtype(span_value, I64), ctx.as_dtype(delta, I64)
        # ceil(a / d) for either sign of d, by truncating division: -(floor(-a / d)).
        towards = b.op("sub", step_value, b.op("sign", step_value))
        count = b.op("div", b.op("add", wide, towards), step_value)
    return ctx.bind(b.op("max", count, 0), "range")


@lowering("OneHot", since=11)
def one_hot(ctx: Ctx, node: NodeProto) -> Value:
    b, indices, values = ctx.b, ctx.input(0), ctx.input(2)
    depth_value = ctx.input(1)
    depth = ctx.dim(ctx.as_dtype(depth_value, I64))
    axis = ctx.axis(ctx.attr("axis", -1), indices.rank + 1)
    shape_ = (*indices.shape[:axis], 1, *indices.shape[axis:])
    index = reshape_to(ctx, ctx.as_dtype(indices, I64), shape_)
    size_value = b.dims([depth], scalar=True)
    wrapped = b.op("select", b.op("lt", index, 0), b.op("add", index, size_value), index)
    ramp_shape = (depth, *(1 for _ in indices.shape[axis:]))
    ramp = b.op("iota", shape=ramp_shape, axis=0, dtype=I64)
    off = reshape_to(ctx, cut(ctx, values, 0, 0, 1), ())
    on = reshape_to(ctx, cut(ctx, values, 0, 1, 1), ())
    return b.op("select", b.op("eq", wrapped, ramp), on, off)
