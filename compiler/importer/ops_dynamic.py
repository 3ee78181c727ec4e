"""Lowerings of ops whose result size depends on data: NonZero, Compress.

The op fills a buffer of the largest possible size and counts; ``bind`` makes the count a symbol
and ``slice`` cuts the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.errors import ModelError
from ...ir.types import BOOL
from ..messages import NodeProto
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx


def nonzero_of(ctx: Ctx, x: Value) -> Value:
    """Positions of the elements that are not zero, i64[rank, count]."""
    if x.rank == 0:
        x = reshape_to(ctx, x, (1,))
    padded, count = ctx.b.op("nonzero", x)
    return cut(ctx, padded, 1, 0, ctx.bind(count, "count"))


@lowering("NonZero")
def nonzero(ctx: Ctx, node: NodeProto) -> Value:
    found = nonzero_of(ctx, ctx.input(0))
    return found if ctx.input(0).rank else cut(ctx, found, 0, 0, 0)


@lowering("Compress")
def compress(ctx: Ctx, node: NodeProto) -> Value:
    x, condition = ctx.input(0), ctx.input(1)
    if condition.dtype != BOOL or condition.rank != 1:
        raise ModelError(f"the condition must be a vector of bool, got {condition.type}")
    axis = ctx.attr("axis")
    if axis is None:
        x, axis = reshape_to(ctx, x, (x.tensor.numel(),)), 0
    axis = ctx.axis(axis, x.rank)
    where = nonzero_of(ctx, condition)
    index = reshape_to(ctx, where, (where.shape[1],))
    return ctx.b.op("gather", x, index, axis=axis)
