"""Lowerings of reductions, arg-reductions, running sums, top-k and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import NodeProto

from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.types import F32, I64
from .ops_shape import axes_of, reshape_to
from .registry import lowering

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
def reduce_log_sum_exp(ctx: Ctx, node: NodeProto) -> Value:
    """log(sum(exp(x))), shifted by the maximum so that exp does not overflow."""
    b, x = ctx.b, ctx.input(0)
    axes, keep = _axes(ctx, x), bool(ctx.attr("keepdims", 1))
    if not axes:
        return x
    if not x.dtype.is_float:
        ctx.fail(f"ReduceLogSumExp of {x.dtype} is not supported; of floats it is")
    top = b.op("reduce", x, kind="max", axes=axes, keepdims=True)
    # An infinite maximum would make inf - inf: shift by 0 there.
    finite = b.op("not", b.op("isinf", top, positive=True, negative=True))
    top = b.op("select", finite, top, 0.0)
    total = b.op("reduce", b.op("exp", b.op("sub", x, top)), kind="sum", axes=axes, keepdims=True)
    result = b.op("add", b.op("log", total), top)
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
def cumulate(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    axis = ctx.axis(int(ctx.scalar(ctx.input(1), "axis")), x.rank)
    return ctx.b.op(
        "cumulate", x, kind="sum" if node.op_type == "CumSum" else "prod", axis=axis,
        exclusive=bool(ctx.attr("exclusive", 0)), reverse=bool(ctx.attr("reverse", 0)),
    )  # fmt: skip


@lowering("TopK")
def top_k(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    x = ctx.input(0)
    axis = ctx.axis(ctx.attr("axis", -1), x.rank)
    k: Dim = ctx.dim(ctx.input(1)) if ctx.opset >= 10 else ctx.required("k")
    values: tuple[Value, ...] = ctx.b.op(
        "topk", x, axis=axis, k=k, largest=bool(ctx.attr("largest", 1)),
        sorted=bool(ctx.attr("sorted", 1)),
    )  # fmt: skip
    return values


# -- softmax -----------------------------------------------------------------------------------


def _rows(ctx: Ctx, x: Value, default: int) -> tuple[Value, int]:
    """(operand, axis). Before opset 13 the operand is coerced to a matrix at ``axis``; where
    only one axis is left behind it, that is the same as normalizing along it."""
    axis = ctx.axis(ctx.attr("axis", default), max(x.rank, 1))
    if ctx.opset >= 13:
        return x, axis
    if axis == x.rank - 1 or product(x.shape[axis + 1 :]) == 1:
        return x, axis
    return reshape_to(ctx, x, (product(x.shape[:axis]), product(x.shape[axis:]))), 1


@lowering("Softmax", "LogSoftmax")
def softmax(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    rows, axis = _rows(ctx, x, -1 if ctx.opset >= 13 else 1)
    op = "softmax" if node.op_type == "Softmax" else "log_softmax"
    return reshape_to(ctx, ctx.b.op(op, rows, axis=axis), x.shape)


@lowering("Hardmax")
def hardmax(ctx: Ctx, node: NodeProto) -> Value:
    b, x = ctx.b, ctx.input(0)
    rows, axis = _rows(ctx, x, -1 if ctx.opset >= 13 else 1)
    first = b.op("argmax", rows, axis=axis, keepdims=True, select_last=False)
    extent = (rows.shape[axis], *(1,) * (rows.rank - 1 - axis))
    ramp = b.op("iota", shape=extent, axis=0, dtype=I64)
    hot = b.op("cast", b.op("eq", first, ramp), to=x.dtype)
    return reshape_to(ctx, hot, x.shape)


def mean_axes(ctx: Ctx, x: Value, axes: tuple[int, ...]) -> Value:
    """Mean over axes that stay as size 1."""
    if not axes:
        raise ModelError("no axes to average over")
    return _reduced(ctx, x, "mean", axes, True)
