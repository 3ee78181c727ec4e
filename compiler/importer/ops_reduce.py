"""Lowerings of reductions, arg-reductions, running sums, top-k and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.errors import ModelError
from ...ir.types import F32, F64, I64
from ..messages import NodeProto
from .ops_shape import axes_of, reshape_to
from .registry import accumulates, lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx

_KINDS = {
    "ReduceSum": "sum", "ReduceProd": "prod", "ReduceMax": "max", "ReduceMin": "min",
    "ReduceMean": "mean",
}  # fmt: skip


def _axes(ctx: Ctx, x: Value) -> tuple[int, ...]:
    """Axes to reduce; none given means all, unless ``noop_with_empty_axes`` says none."""
    axes = axes_of(ctx, 1, x.rank)
    if axes:
        return tuple(sorted(axes))
    if ctx.attr("noop_with_empty_axes", 0):
        return ()
    return tuple(range(x.rank))


def _reduced(ctx: Ctx, x: Value, kind: str, axes: tuple[int, ...], keep: bool) -> Value:
    if not axes:
        return x
    result: Value = ctx.b.op("reduce", x, kind=kind, axes=axes, keepdims=keep)
    return result


@lowering(*_KINDS)
def reduce_(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    return _reduced(ctx, x, _KINDS[node.op_type], _axes(ctx, x), bool(ctx.attr("keepdims", 1)))


@lowering("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
@accumulates
def reduce_composed(ctx: Ctx, node: NodeProto) -> Value:
    b, x, op = ctx.b, ctx.input(0), node.op_type
    axes, keep = _axes(ctx, x), bool(ctx.attr("keepdims", 1))
    inner = x
    if op == "ReduceL1":
        inner = b.op("abs", x) if x.dtype.kind in "if" else x
    elif op != "ReduceLogSum":
        inner = b.op("mul", x, x)
    total = _reduced(ctx, inner, "sum", axes, keep)
    if op in ("ReduceL2", "ReduceLogSum"):
        root = "sqrt" if op == "ReduceL2" else "log"
        if x.dtype.is_float:
            return b.op(root, total)
        return b.op("cast", b.op(root, b.op("cast", total, to=F32)), to=x.dtype)
    return total


@lowering("ReduceLogSumExp")
@accumulates
def reduce_log_sum_exp(ctx: Ctx, node: NodeProto) -> Value:
    """log(sum(exp(x))), shifted by the maximum so that exp does not overflow."""
    b, x = ctx.b, ctx.input(0)
    axes, keep = _axes(ctx, x), bool(ctx.attr("keepdims", 1))
    if not axes:
        return x
    whole = None if x.dtype.is_float else x.dtype
    x = x if whole is None else b.op("cast", x, to=F64)
    top = b.op("reduce", x, kind="max", axes=axes, keepdims=True)
    # An infinite maximum would make inf - inf: shift by 0 there.
    finite = b.op("not", b.op("isinf", top, positive=True, negative=True))
    top = b.op("select", finite, top, 0.0)
    total = b.op("reduce", b.op("exp", b.op("sub", x, top)), kind="sum", axes=axes, keepdims=True)
    result = b.op("add", b.op("log", total), top)
    if whole is not None:
        result = b.op("cast", result, to=whole)
    if keep:
        return result
    return reshape_to(ctx, result, [d for i, d in enumerate(x.shape) if i not in axes])


@lowering("ArgMax", "ArgMin")
def arg_extreme(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    op = "argmax" if node.op_type == "ArgMax" else "argmin"
    return ctx.b.op(
        op, x, axis=ctx.axis(ctx.attr("axis", 0), x.rank), keepdims=bool(ctx.attr("keepdims", 1)),
        select_last=bool(ctx.attr("select_last_index", 0)),
    )  # fmt: skip


@lowering("CumSum", "CumProd")
@accumulates
def cumulate(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    axis = ctx.axis(int(ctx.scalar(ctx.input(1), "axis")), x.rank)
    return ctx.b.op(
        "cumulate", x, kind="sum" if node.op_type == "CumSum" else "prod", axis=axis,
        exclusive=bool(ctx.attr("exclusive", 0)), reverse=bool(ctx.attr("reverse", 0)),
    )  # fmt: skip


@lowering("TopK", since=10)
def top_k(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    x = ctx.input(0)
    axis = ctx.axis(ctx.attr("axis", -1), x.rank)
    k = ctx.dim(ctx.input(1))
    values: tuple[Value, ...] = ctx.b.op(
        "topk", x, axis=axis, k=k, largest=bool(ctx.attr("largest", 1)),
        sorted=bool(ctx.attr("sorted", 1)),
    )  # fmt: skip
    return values


# -- softmax -----------------------------------------------------------------------------------


@lowering("Softmax", "LogSoftmax", since=13)
def softmax(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    axis = ctx.axis(ctx.attr("axis", -1), max(x.rank, 1))
    return ctx.b.op("softmax" if node.op_type == "Softmax" else "log_softmax", x, axis=axis)


@lowering("Hardmax", since=13)
def hardmax(ctx: Ctx, node: NodeProto) -> Value:
    b, x = ctx.b, ctx.input(0)
    axis = ctx.axis(ctx.attr("axis", -1), x.rank)
    first = b.op("argmax", x, axis=axis, keepdims=True, select_last=False)
    ramp = b.op("iota", shape=(x.shape[axis], *(1,) * (x.rank - 1 - axis)), axis=0, dtype=I64)
    return b.op("cast", b.op("eq", first, ramp), to=x.dtype)


def mean_axes(ctx: Ctx, x: Value, axes: tuple[int, ...]) -> Value:
    """Mean over axes that stay as size 1."""
    if not axes:
        raise ModelError("no axes to average over")
    return _reduced(ctx, x, "mean", axes, True)
