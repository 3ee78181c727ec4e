"""com.microsoft: embeddings, biases and gates of language and diffusion models."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import product
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, I32, I64
from .ops_attention import split_heads
from .ops_norm import normalized
from .ops_quant import dequantize, scalar_if_one
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_MS = "com.microsoft"


# -- embeddings ----------------------------------------------------------------------------------


@lowering("EmbedLayerNormalization", domain=_MS)
def embed_layer_normalization(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """(norm of word + position (+ segment) embeddings, number of ones of the mask, the sum)."""
    tables = [ctx.input(2), ctx.input(3), ctx.optional(4)]
    total = _embedded(ctx, tables, ctx.optional(8))
    y = normalized(ctx, total, 2, float(ctx.attr("epsilon", 1e-12)), ctx.input(5), ctx.input(6))
    return y, _mask_index(ctx, ctx.optional(7)), total


@lowering("QEmbedLayerNormalization", domain=_MS)
def quantized_embed_layer_normalization(
    ctx: Ctx, node: NodeProto
) -> tuple[Value | None, ...]:
    """The same with quantized tables, scales and zero points behind them."""

    def real(k: int) -> Value | None:
        data = ctx.optional(k)
        if data is None:
            return None
        at = k - 2  # scales stand in the order of the tables from operand 8 on, then zero points
        scale, zero = (scalar_if_one(ctx, ctx.input(first + at)) for first in (8, 13))
        return dequantize(ctx, data, scale, zero)

    tables = [real(k) for k in range(2, 7)]
    total = _embedded(ctx, tables[:3], None)
    scale, shift = tables[3:]
    assert scale is not None
    y = normalized(ctx, total, 2, float(ctx.attr("epsilon", 1e-12)), scale, shift)
    return y, _mask_index(ctx, ctx.optional(7))


def _embedded(ctx: Ctx, tables: list[Value | None], position_ids: Value | None) -> Value:
    b, ids, segments = ctx.b, ctx.input(0), ctx.optional(1)
    words, positions, kinds = tables
    assert words is not None and positions is not None
    length = ids.shape[1]
    if position_ids is None:
        where = cut(ctx, positions, 0, 0, length)
    else:
        where = b.op("gather", positions, position_ids, axis=0)
    total = b.op("add", b.op("gather", words, ids, axis=0), where)
    if kinds is not None and segments is not None:
        total = b.op("add", total, b.op("gather", kinds, segments, axis=0))
    result: Value = total
    return result


def _mask_index(ctx: Ctx, mask: Value | None) -> Value:
    batch = ctx.input(0).shape[0]
    if mask is None:
        return ctx.full((batch,), 0, I32)
    one = ctx.b.op("eq", ctx.as_dtype(mask, I32), ctx.b.const(1, I32))
    result: Value = ctx.b.op("reduce", ctx.b.op("cast", one, to=I32), kind="sum", axes=(1,),
                             keepdims=False)  # fmt: skip
    return result


@lowering("WordConvEmbedding", domain=_MS)
def word_conv_embedding(ctx: Ctx, node: NodeProto) -> Value:
    """Words as rows of characters [S, W] (0 ends a word): the maxima of tanh(conv) over the
    windows that lie inside the word, or over the first one."""
    b, ids, w, bias, table = ctx.b, *(ctx.input(k) for k in range(4))
    if ids.rank != 2 or w.rank != 4:
        raise ModelError(f"words {ids.type}, weights {w.type}: [S, W] and [M, 1, k, D] are needed")
    words, width = ids.shape
    filters, _, window, depth = w.shape
    image = reshape_to(ctx, b.op("gather", table, ids, axis=0), (words, 1, width, depth))
    y = b.op("conv", image, w, strides=(1, 1), dilations=(1, 1), pads_lo=(0, 0), pads_hi=(0, 0),
             groups=1, layout="first")  # fmt: skip
    y = b.op("tanh", b.op("add", y, reshape_to(ctx, bias, (filters, 1, 1))))
    zero = b.const(np.zeros((), ids.dtype.np))
    real = b.op("cast", b.op("lt", zero, ids), to=I64)
    length = b.op("reduce", real, kind="sum", axes=(1,), keepdims=True)
    count = b.op("max", b.op("sub", length, b.dims([window - 1], scalar=True)), 1)
    ramp = b.op("iota", shape=(1, y.shape[2]), axis=1, dtype=I64)
    keep = reshape_to(ctx, b.op("lt", ramp, count), (words, 1, y.shape[2], 1))
    kept = b.op("select", keep, y, b.const(np.asarray(-np.inf, y.dtype.np)))
    best = b.op("reduce", kept, kind="max", axes=(2, 3), keepdims=False)
    empty = b.op("eq", cut(ctx, ids, 1, 0, 1), zero)
    return b.op("select", empty, b.const(np.zeros((), y.dtype.np)), best)


# -- gates ---------------------------------------------------------------------------------------


@lowering("BiasSoftmax", domain=_MS)
def bias_softmax(ctx: Ctx, node: NodeProto) -> Value:
    """softmax(data + bias) over the axes from ``axis`` on; the bias repeats over the axes just
    before these (inner broadcast) or over the first ones."""
    b, x, bias = ctx.b, ctx.input(0), ctx.input(1)
    axis = ctx.axis(ctx.attr("axis", 1), x.rank)
    if bias.rank != x.rank:
        lead = x.rank - bias.rank
        bias = reshape_to(ctx, bias, (*(1,) * lead, *bias.shape))
    total = b.op("add", x, bias)
    rows = reshape_to(ctx, total, (product(x.shape[:axis]), product(x.shape[axis:])))
    return reshape_to(ctx, b.op("softmax", rows, axis=1), x.shape)


@lowering("BiasAdd", domain=_MS)
def bias_add(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.b.op("add", ctx.b.op("add", ctx.input(0), ctx.input(1)), ctx.input(2))


@lowering("BiasSplitGelu", domain=_MS)
def bias_split_gelu(ctx: Ctx, node: NodeProto) -> Value:
    """With x + bias in two halves: left * gelu(right)."""
    b = ctx.b
    total = b.op("add", ctx.input(0), ctx.input(1))
    half = total.shape[-1] // 2
    left, right = (cut(ctx, total, total.rank - 1, k * half, half) for k in (0, 1))
    return b.op("mul", left, b.op("gelu", right, approximate="none"))


@lowering("GemmFastGelu", domain=_MS)
def gemm_fast_gelu(ctx: Ctx, node: NodeProto) -> Value:
    y, bias = ctx.lower("MatMul", ctx.input(0), ctx.input(1)), ctx.optional(2)
    return ctx.b.op("gelu", y if bias is None else ctx.b.op("add", y, bias), approximate="tanh")


@lowering("BiasDropout", domain=_MS)
def bias_dropout(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """Dropout(data + bias) + residual, and the mask."""
    b, total, bias, residual = ctx.b, ctx.input(0), ctx.input(1), ctx.optional(2)
    total = b.op("add", total, bias)
    given = {"seed": ctx.attr("seed")} if ctx.has("seed") else {}
    y, mask = ctx.lower("Dropout", total, ctx.optional(3), ctx.optional(4), n_outputs=2,
                        opset=13, **given)  # fmt: skip
    return (y if residual is None else b.op("add", y, residual), mask)


@lowering("ScaledSiLU", domain=_MS)
def scaled_silu(ctx: Ctx, node: NodeProto) -> Value:
    """z * sigmoid(z) with z = scale * x."""
    b, x, scale = ctx.b, ctx.input(0), ctx.optional(1)
    if scale is not None:
        x = b.op("mul", x, ctx.as_dtype(reshape_to(ctx, scale, ()), x.dtype))
    elif ctx.attr("alpha", 1.0) != 1.0:
        x = b.op("mul", x, float(ctx.attr("alpha")))
    return b.op("mul", x, b.op("sigmoid", x))


@lowering("GatedRMSNorm", domain=_MS)
def gated_rms_norm(ctx: Ctx, node: NodeProto) -> Value:
    """x / rms(x) * scale * act(gate), over groups of as many elements as the scale has."""
    b, x, scale, gate = ctx.b, ctx.input(0), ctx.input(1), ctx.input(2)
    kind, c = ctx.attr("activation", "silu"), scale.shape[0]
    if kind not in ("silu", "swish", "sigmoid"):
        raise ModelError(f"activation {kind[:20]!r}")
    wide, z, factor = (ctx.as_dtype(v, F32) if v.dtype.bits < 32 else v for v in (x, gate, scale))
    rows = reshape_to(ctx, wide, (*x.shape[:-1], x.shape[-1] // c, c))
    y = b.op("rms_norm", rows, factor, axis=rows.rank - 1, eps=float(ctx.attr("epsilon", 1e-5)))
    y = reshape_to(ctx, y, x.shape)
    open_ = b.op("sigmoid", z)
    open_ = open_ if kind == "sigmoid" else b.op("mul", z, open_)
    return ctx.as_dtype(b.op("mul", y, open_), x.dtype)


@lowering("GatedAdd", domain=_MS)
def gated_add(ctx: Ctx, node: NodeProto) -> Value:
    if ctx.optional(3) is not None:
        ctx.fail("a projected gate (gate_weight) is not supported; a plain one is")
    return ctx.b.op("add", ctx.input(0), ctx.b.op("mul", ctx.input(1), ctx.input(2)))


@lowering("CausalConvWithState", "LinearAttention", domain=_MS)
def stateful(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """The operators that ONNX took over in opset 27, where they are no more than these."""
    causal = node.op_type == "CausalConvWithState"
    names = ("activation",) if causal else (
        "chunk_size", "kv_num_heads", "q_num_heads", "scale", "update_rule")  # fmt: skip
    usual = {"dilation": 1, "ndim": 1, "state_channels_last": -1}
    for a in node.attribute:
        if a.name not in names and ctx.attr(a.name) != usual.get(a.name, 0):
            ctx.fail(f"attribute {a.name[:40]!r} = {ctx.attr(a.name)!r} is not supported")
    given = {n: ctx.attr(n) for n in names if ctx.has(n)}
    found: tuple[Value | None, ...] = ctx.lower(
        node.op_type, *ctx.inputs, n_outputs=2, opset=27, **given)
    return found


# -- positions -----------------------------------------------------------------------------------


@lowering("RelativePositionBias", domain=_MS)
def relative_position_bias(ctx: Ctx, node: NodeProto) -> Value:
    """[1, heads, rows, columns] of a table [buckets, heads]: T5's buckets of distances, exact up
    to half of them and logarithmic beyond (Raffel et al. 2020)."""
    b, table = ctx.b, ctx.input(0)
    rows, columns = (ctx.dim(ctx.input(k)) for k in (1, 2))
    both, far = bool(ctx.attr("is_bidirectional", 0)), ctx.required("max_distance")
    buckets = table.shape[0]
    if not isinstance(buckets, int):
        ctx.fail(f"a table of {table.type}: the number of buckets must be static")
    row = b.op("iota", shape=(rows, 1), axis=0, dtype=I64)
    distance = b.op("sub", row, b.op("iota", shape=(1, columns), axis=1, dtype=I64))
    offset = b.const(0, I64)
    if both:
        buckets //= 2
        ahead = b.op("lt", distance, b.const(0, I64))
        offset = b.op("select", ahead, b.const(buckets, I64), offset)
        distance = b.op("abs", distance)
    else:
        distance = b.op("max", distance, 0)
    exact = buckets // 2
    near = b.op("lt", distance, b.const(exact, I64))
    ratio = b.op("div", b.op("cast", b.op("max", distance, 1), to=F32), float(exact))
    step = (buckets - exact) / math.log(far / exact)
    log = b.op("cast", b.op("mul", b.op("log", ratio), step), to=I64)
    large = b.op("min", b.op("add", log, exact), buckets - 1)
    bucket = b.op("add", offset, b.op("select", near, distance, large))
    bias = b.op("transpose", b.op("gather", table, bucket, axis=0), perm=(2, 0, 1))
    return reshape_to(ctx, bias, (1, *bias.shape))


@lowering("GatedRelativePositionBias", domain=_MS)
def gated_relative_position_bias(ctx: Ctx, node: NodeProto) -> Value:
    """rel_pos * (gate_u * (gate_r * eco_a - 1) + 2), gates from a projection of the queries."""
    b, heads = ctx.b, ctx.required("num_heads")
    if ctx.optional(6) is not None:
        ctx.fail("token_offset is not supported")
    x, bias, positions, w, shift, eco = (ctx.input(k) for k in range(6))
    q = split_heads(ctx, b.op("add", x, bias), heads)
    y = b.op("add", b.op("dot", q, w, ta=False, tb=False), shift)
    n, _, s, d = y.shape
    pairs = reshape_to(ctx, y, (n, heads, s, 2, d // 2))
    sums = b.op("reduce", pairs, kind="sum", axes=(4,), keepdims=False)
    gates = b.op("sigmoid", sums)
    u, r = (cut(ctx, gates, 3, k, 1) for k in (0, 1))
    factor = b.op("add", b.op("mul", u, b.op("sub", b.op("mul", r, eco), 1.0)), 2.0)
    return b.op("mul", factor, positions)


@lowering("GemmaRotaryEmbedding", domain=_MS)
def gemma_rotary_embedding(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """q cos + q_rot sin and the same of k, the angles being rounded to their type."""
    b, angle = ctx.b, ctx.input(0)
    turned = [ctx.as_dtype(b.op(f, angle), ctx.input(1).dtype) for f in ("cos", "sin")]
    n, s, d = angle.shape
    cos, sin = (reshape_to(ctx, v, (n, 1, s, d)) for v in turned)

    def embed(k: int) -> Value:
        result: Value = b.op("add", b.op("mul", ctx.input(k), cos),
                             b.op("mul", ctx.input(k + 1), sin))  # fmt: skip
        return result

    return embed(1), embed(3)
