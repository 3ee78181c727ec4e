"""Lowering of ONNX Attention: the ``attention`` composite with masks, caches and shared heads.

Queries of several heads that share one key/value head are grouped: [B, H, T, D] becomes
[B, Hkv, H/Hkv, T, D] against keys [B, Hkv, 1, S, D], so that nothing is copied.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.types import F32, I64
from ..messages import NodeProto
from .ops_shape import reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx


def split_heads(ctx: Ctx, x: Value, heads: int) -> Value:
    """[B, T, H*D] as [B, H, T, D]."""
    n, t, width = x.shape
    if heads < 1 or (isinstance(width, int) and width % heads):
        raise ModelError(f"{heads} heads of {x.type}")
    parts = reshape_to(ctx, x, (n, t, heads, width // heads))
    result: Value = ctx.b.op("transpose", parts, perm=(0, 2, 1, 3))
    return result


def merge_heads(ctx: Ctx, x: Value) -> Value:
    """[B, H, T, D] as [B, T, H*D]."""
    n, h, t, d = x.shape
    rows = ctx.b.op("transpose", x, perm=(0, 2, 1, 3))
    return reshape_to(ctx, rows, (n, t, h * d))


def additive(ctx: Ctx, mask: Value, like: Value) -> Value:
    """A mask as numbers to add: False becomes -inf."""
    if mask.dtype.kind != "b":
        return ctx.as_dtype(mask, like.dtype)
    zero = ctx.b.const(np.zeros((), like.dtype.np))
    low = ctx.b.const(np.asarray(-np.inf, like.dtype.np))
    result: Value = ctx.b.op("select", mask, zero, low)
    return result


def causal_mask(ctx: Ctx, rows: Dim, columns: Dim, past: Dim, like: Value) -> Value:
    """[rows, columns]: 0 where the column's position is not after the row's, else -inf."""
    b = ctx.b
    row = b.op("iota", shape=(rows, 1), axis=0, dtype=I64)
    column = b.op("iota", shape=(1, columns), axis=1, dtype=I64)
    if past != 0:
        row = b.op("add", row, b.dims([past], scalar=True))
    return additive(ctx, b.op("le", column, row), like)


def grouped_attention(
    ctx: Ctx, q: Value, k: Value, v: Value, mask: Value | None, scale: float
) -> Value:
    """Attention of [B, H, T, D] queries over [B, Hkv, S, D] keys and values."""
    b = ctx.b
    heads, shared = q.shape[1], k.shape[1]
    if q.dtype.bits < 32:
        # ONNX's body scales both operands, so that the scores of halves stay in range.
        root = b.const(np.sqrt(np.float32(scale)).astype(q.dtype.np))
        q, k, scale = b.op("mul", q, root), b.op("mul", k, root), 1.0
    if heads == shared or shared == 1:
        result: Value = b.op("attention", q, k, v, mask, scale=scale)
        return result
    if not isinstance(heads, int) or not isinstance(shared, int) or heads % shared:
        raise ModelError(f"{heads} query heads share {shared} key heads")
    n, _, t, d = q.shape
    group = heads // shared
    q5 = reshape_to(ctx, q, (n, shared, group, t, d))
    k5, v5 = (reshape_to(ctx, x, (x.shape[0], shared, 1, *x.shape[2:])) for x in (k, v))
    if mask is not None and mask.rank >= 3:
        lead = mask.shape[:-3]
        if mask.shape[-3] == 1:
            mask = reshape_to(ctx, mask, (*lead, 1, 1, *mask.shape[-2:]))
        else:
            mask = reshape_to(ctx, mask, (*lead, shared, group, *mask.shape[-2:]))
    y = b.op("attention", q5, k5, v5, mask, scale=scale)
    return reshape_to(ctx, y, (n, heads, t, v.shape[3]))


def scaled_queries(ctx: Ctx, q: Value, scale: float | None) -> tuple[Value, float]:
    """Queries [..., D] and the factor of their scores: 1 / sqrt(D) where none is given, applied to
    the queries if D is not known yet."""
    if scale is not None:
        return q, float(scale)
    depth = q.shape[-1]
    if isinstance(depth, int):
        return q, 1.0 / math.sqrt(depth)
    b = ctx.b
    root = b.op("sqrt", b.op("cast", b.dims([depth], scalar=True), to=F32))
    return b.op("div", q, ctx.as_dtype(root, q.dtype)), 1.0


def _unusual(ctx: Ctx) -> bool:
    """Whether the node asks for more than the composite says: ONNX's body is used then."""
    return bool(
        ctx.attr("softcap", 0.0) or ctx.wants(3) or ctx.optional(6) is not None
        or ctx.attr("left_window_size", -1) >= 0 or ctx.attr("right_window_size", -1) >= 0
        or ctx.attr_dtype("softmax_precision", ctx.input(0).dtype) != ctx.input(0).dtype
    )  # fmt: skip


def _masked_rows(ctx: Ctx, y: Value, mask: Value) -> Value:
    """A query that may attend to nothing gives 0, as ONNX defines, not 0 / 0."""
    b = ctx.b
    if mask.rank < 2:
        mask = reshape_to(ctx, mask, (1, *mask.shape))
    low = b.const(np.asarray(-np.inf, mask.dtype.np))
    best = b.op("reduce", mask, kind="max", axes=(mask.rank - 1,), keepdims=True)
    result: Value = b.op("select", b.op("le", best, low), b.const(np.zeros((), y.dtype.np)), y)
    return result


@lowering("Attention", since=23)
def attention(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    if _unusual(ctx):
        return ctx.function_body()
    b = ctx.b
    q, k, v = (ctx.input(i) for i in range(3))
    flat = q.rank == 3
    if flat:
        q = split_heads(ctx, q, ctx.required("q_num_heads"))
        k = split_heads(ctx, k, ctx.required("kv_num_heads"))
        v = split_heads(ctx, v, ctx.required("kv_num_heads"))
    if q.rank != 4 or k.rank != 4 or v.rank != 4:
        raise ModelError(f"queries {q.type}, keys {k.type}, values {v.type}")
    past: Dim = 0
    past_k, past_v = ctx.optional(4), ctx.optional(5)
    if past_k is not None and past_v is not None:
        past = past_k.shape[2]
        k = b.op("concat", past_k, k, axis=2)
        v = b.op("concat", past_v, v, axis=2)
    q, scale = scaled_queries(ctx, q, ctx.attr("scale"))
    mask = given = ctx.optional(3)
    if mask is not None:
        mask = additive(ctx, mask, q)
    if ctx.attr("is_causal", 0):
        triangle = causal_mask(ctx, q.shape[2], k.shape[2], past, q)
        mask = triangle if mask is None else b.op("add", mask, triangle)
    y = grouped_attention(ctx, q, k, ctx.as_dtype(v, q.dtype), mask, scale)
    if given is not None and mask is not None:
        y = _masked_rows(ctx, y, mask)
    return (merge_heads(ctx, y) if flat else y, k, v)
