"""com.microsoft: attention over a cache of keys and values that sequences of different lengths
share (GroupQueryAttention), with rotary positions.

Row ``s`` of a batch entry stands at position ``p + s``, where ``p`` counts the tokens that its
cache holds already. The new keys follow there, so the cache of every entry is gathered from its old
part and the new rows by its own ``p``. A prompt begins an empty cache whatever the buffers hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dim_functions import dmax
from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, I64, DType
from .ops_attention import merge_heads, scaled_queries, split_heads
from .ops_microsoft import rotated
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_MS = "com.microsoft"


@dataclass(frozen=True, slots=True)
class _Step:
    """What the entries of a batch have in common, and where each one stands."""

    batch: Dim
    rows: Dim
    """New tokens per entry, padding included."""
    total: Dim
    """The longest sequence, the new tokens included."""
    past: Value
    """Tokens in the cache before, i64 [B]."""


@lowering("GroupQueryAttention", domain=_MS)
def group_query_attention(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """(output [B, S, N * H], present keys and values [B, Nkv, L, H], scores on request)."""
    _refuse(ctx)
    heads, shared = ctx.required("num_heads"), ctx.required("kv_num_heads")
    q, k, v = _heads(ctx, heads, shared)
    if ctx.optional(14) is not None and ctx.optional(15) is not None:
        q, k = _normalized(ctx, q, 14, "q_norm_epsilon"), _normalized(ctx, k, 15, "k_norm_epsilon")
    step = _step(ctx, q.shape[0], q.shape[2])
    if ctx.attr("do_rotary", 0):
        places = _positions(ctx, step)
        cos, sin = ctx.input(7), ctx.input(8)
        pairs = bool(ctx.attr("rotary_interleaved", 0))
        q, k = (rotated(ctx, t, places, cos, sin, pairs) for t in (q, k))
    keys = _joined(ctx, ctx.optional(3), k, step)
    values = _joined(ctx, ctx.optional(4), v, step)
    seen_k, seen_v = (t if t.shape[2] == step.total else cut(ctx, t, 2, 0, step.total)
                      for t in (keys, values))  # fmt: skip
    y, scores = _attended(ctx, q, seen_k, seen_v, step, heads // shared)
    return merge_heads(ctx, y), keys, values, scores


def _refuse(ctx: Ctx) -> None:
    for name, usual in (("k_quant_type", "NONE"), ("v_quant_type", "NONE"),
                        ("sliding_window_cache", 0)):  # fmt: skip
        if ctx.attr(name, usual) != usual:
            ctx.fail(f"{name} {str(ctx.attr(name))[:20]!r} is not supported; {usual!r} is")
    if ctx.attr("qk_output", 0) not in (0, 1, 2):
        raise ModelError(f"qk_output {ctx.attr('qk_output')}")


def _heads(ctx: Ctx, heads: int, shared: int) -> tuple[Value, Value, Value]:
    """Queries, keys and values [B, N, S, H], from three operands or one packed."""
    q, k, v = ctx.input(0), ctx.optional(1), ctx.optional(2)
    if heads < 1 or shared < 1 or heads % shared:
        raise ModelError(f"{heads} query heads share {shared} key heads")
    if k is not None and v is not None:
        return split_heads(ctx, q, heads), split_heads(ctx, k, shared), split_heads(ctx, v, shared)
    size = q.shape[2] // (heads + 2 * shared)
    ends = (0, heads * size, shared * size, shared * size)
    parts: list[Value] = []
    at: Dim = 0
    for width, n in zip(ends[1:], (heads, shared, shared), strict=True):
        parts.append(split_heads(ctx, cut(ctx, q, 2, at, width), n))
        at = at + width
    return parts[0], parts[1], parts[2]


def _normalized(ctx: Ctx, x: Value, k: int, name: str) -> Value:
    """Every head by its root mean square, in float32."""
    eps = ctx.attr(name) or ctx.attr("qk_norm_epsilon", 1e-6)
    weight = ctx.as_dtype(ctx.input(k), F32)
    y = ctx.b.op("rms_norm", ctx.as_dtype(x, F32), weight, axis=3, eps=float(eps))
    return ctx.as_dtype(y, x.dtype)


def _step(ctx: Ctx, batch: Dim, rows: Dim) -> _Step:
    b = ctx.b
    lengths = reshape_to(ctx, ctx.as_dtype(ctx.input(5), I64), (batch,))
    total = rows if ctx.optional(3) is None else ctx.dim(ctx.input(6))
    new, after = ctx.optional(16), b.op("add", lengths, 1)
    if new is not None:
        past = b.op("sub", after, reshape_to(ctx, ctx.as_dtype(new, I64), (batch,)))
    else:
        past = b.op("max", b.op("sub", after, b.dims([rows], scalar=True)), 0)
        prompt = b.op("eq", b.dims([total], scalar=True), b.dims([rows], scalar=True))
        past = b.op("select", prompt, b.const(0, I64), past)
    return _Step(batch, rows, total, past)


def _positions(ctx: Ctx, step: _Step) -> Value:
    """Position of every new row, i64 [B, S]."""
    b, given = ctx.b, ctx.optional(9)
    if given is not None and given.tensor.numel() != 1:
        return ctx.as_dtype(given, I64)
    ramp = b.op("iota", shape=(1, step.rows), axis=1, dtype=I64)
    result: Value = b.op("add", reshape_to(ctx, step.past, (step.batch, 1)), ramp)
    return result


def _joined(ctx: Ctx, old: Value | None, new: Value, step: _Step) -> Value:
    """The cache [B, N, L, H] with the new rows behind each entry's own old ones; L is the old
    buffer's size or the longest sequence, if that is more. What follows the new rows is 0."""
    b = ctx.b
    if old is None:
        return new
    before, rows = old.shape[2], step.rows
    length = dmax(before, step.total)
    both = b.op("concat", old, ctx.as_dtype(new, old.dtype), axis=2)
    both = b.op("transpose", both, perm=(0, 2, 1, 3))
    at = b.op("iota", shape=(1, length), axis=1, dtype=I64)
    past = reshape_to(ctx, step.past, (step.batch, 1))
    since = b.op("sub", at, past)
    size = b.dims([rows], scalar=True)
    fresh = b.op("and", b.op("le", b.const(0, I64), since), b.op("lt", since, size))
    last = b.op("max", b.dims([before - 1], scalar=True), 0)
    behind = b.op("add", since, b.dims([before], scalar=True))
    index = b.op("select", fresh, behind, b.op("min", at, last))
    shape = (step.batch, length)
    column = reshape_to(ctx, b.op("expand", index, shape=shape), (*shape, 1))
    picked = b.op("gather_nd", both, column, batch_dims=1)
    filled = b.op("expand", b.op("lt", since, size), shape=shape)
    real = reshape_to(ctx, filled, (*shape, 1, 1))
    picked = b.op("select", real, picked, b.const(np.zeros((), old.dtype.np)))
    result: Value = b.op("transpose", picked, perm=(0, 2, 1, 3))
    return result


def _visible(ctx: Ctx, step: _Step) -> Value:
    """Which keys a row may read, bool [B, 1, 1, S or 1, T]."""
    b = ctx.b
    key = b.op("iota", shape=(1, 1, step.total), axis=2, dtype=I64)
    past = reshape_to(ctx, step.past, (step.batch, 1, 1))
    if not ctx.attr("causal", 1):
        after = b.op("add", past, b.dims([step.rows], scalar=True))
        seen = b.op("lt", key, after)
    else:
        row = b.op("add", past, b.op("iota", shape=(1, step.rows, 1), axis=1, dtype=I64))
        seen = b.op("le", key, row)
        window = ctx.attr("local_window_size", -1)
        if window >= 0:
            seen = b.op("and", seen, b.op("lt", b.op("sub", row, key), b.const(window, I64)))
    return reshape_to(ctx, seen, (step.batch, 1, 1, *seen.shape[1:]))


def _attended(
    ctx: Ctx, q: Value, k: Value, v: Value, step: _Step, group: int
) -> tuple[Value, Value | None]:
    """Outputs [B, N, S, H], and the scores before or after the softmax where they are wanted."""
    b = ctx.b
    n, heads, rows, size = q.shape
    shared, dtype = k.shape[1], q.dtype
    q, scale = scaled_queries(ctx, q, ctx.attr("scale", 0.0) or None)
    wide = F32 if dtype.bits < 32 else dtype
    q5 = reshape_to(ctx, ctx.as_dtype(q, wide), (n, shared, group, rows, size))
    k5, v5 = (reshape_to(ctx, ctx.as_dtype(t, wide), (n, shared, 1, *t.shape[2:])) for t in (k, v))
    low = b.const(np.asarray(-np.inf, wide.np))
    bias = _bias(ctx, shared, group, wide)
    softcap, sink = float(ctx.attr("softcap", 0.0)), _sink(ctx, shared, group, wide)
    seen = _visible(ctx, step)
    if not softcap and sink is None and not ctx.wants(3):
        mask = b.op("select", seen, b.const(np.zeros((), wide.np)), low)
        mask = mask if bias is None else b.op("add", mask, bias)
        y = b.op("attention", q5, k5, v5, mask, scale=scale)
        return ctx.as_dtype(reshape_to(ctx, y, (n, heads, rows, v.shape[3])), dtype), None
    scores = b.op("mul", b.op("dot", q5, k5, ta=False, tb=True), scale)
    if softcap:
        scores = b.op("mul", b.op("tanh", b.op("mul", scores, 1.0 / softcap)), softcap)
    if bias is not None:
        scores = b.op("add", scores, bias)
    scores = b.op("select", seen, scores, low)
    weights = _weights(ctx, scores, sink)
    y = b.op("dot", weights, v5, ta=False, tb=False)
    shown = scores if ctx.attr("qk_output", 0) == 1 else weights
    if ctx.wants(3):
        shown = ctx.as_dtype(reshape_to(ctx, shown, (n, heads, rows, step.total)), dtype)
    return ctx.as_dtype(reshape_to(ctx, y, (n, heads, rows, v.shape[3])), dtype), shown


def _bias(ctx: Ctx, shared: Dim, group: int, wide: DType) -> Value | None:
    """attention_bias [B or 1, N or 1, S, T] by groups of heads."""
    bias = ctx.optional(10)
    if bias is None:
        return None
    lead = (1, 1) if bias.shape[1] == 1 else (shared, group)
    shaped = reshape_to(ctx, bias, (bias.shape[0], *lead, *bias.shape[2:]))
    return ctx.as_dtype(shaped, wide)


def _sink(ctx: Ctx, shared: Dim, group: int, wide: DType) -> Value | None:
    """A score per head that takes part in the softmax without a value of its own, or None."""
    sink = ctx.optional(11)
    if sink is not None:
        shaped = reshape_to(ctx, sink, (1, shared, group, 1, 1))
        return ctx.as_dtype(shaped, wide)
    if ctx.attr("smooth_softmax", -1) == 1:
        return ctx.full((1, 1, 1, 1, 1), 0.0, wide)
    return None


def _weights(ctx: Ctx, scores: Value, sink: Value | None) -> Value:
    b = ctx.b
    if sink is None:
        plain: Value = b.op("softmax", scores, axis=4)
        return plain
    top = b.op("max", b.op("reduce", scores, kind="max", axes=(4,), keepdims=True), sink)
    parts = b.op("exp", b.op("sub", scores, top))
    total = b.op("reduce", parts, kind="sum", axes=(4,), keepdims=True)
    total = b.op("add", total, b.op("exp", b.op("sub", sink, top)))
    result: Value = b.op("div", parts, total)
    return result
