"""com.microsoft: the fused operators that ONNX Runtime's optimizer writes into models.

Each one is taken apart again into the ops it was fused from; our own passes fuse better for this
machine. Only the quantized LSTM keeps its identity, since it quantizes its state in every step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, I32, I64
from .ops_attention import (
    additive,
    causal_mask,
    grouped_attention,
    merge_heads,
    scaled_queries,
    split_heads,
)
from .ops_quant import dynamically_quantized, integer_product, quantized_matmul, scaled_product
from .ops_recurrent import activations, direction_of, finish, split_bias
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_MS = "com.microsoft"


# -- activations and norms -----------------------------------------------------------------------


@lowering("Gelu", "BiasGelu", domain=_MS)
def gelu(ctx: Ctx, node: NodeProto) -> Value:
    """Exact GELU of x, or of x plus a bias."""
    x = ctx.input(0)
    if node.op_type == "BiasGelu":
        x = ctx.b.op("add", x, ctx.input(1))
    return ctx.b.op("gelu", x, approximate="none")


@lowering("FastGelu", domain=_MS)
def fast_gelu(ctx: Ctx, node: NodeProto) -> Value:
    """GELU by tanh of x plus an optional bias."""
    x, bias = ctx.input(0), ctx.optional(1)
    x = x if bias is None else ctx.b.op("add", x, bias)
    return ctx.b.op("gelu", x, approximate="tanh")


@lowering("QuickGelu", domain=_MS)
def quick_gelu(ctx: Ctx, node: NodeProto) -> Value:
    """x * sigmoid(alpha * x)."""
    b, x = ctx.b, ctx.input(0)
    alpha = ctx.attr("alpha", 1.702)
    return b.op("mul", x, b.op("sigmoid", x if alpha == 1.0 else b.op("mul", x, float(alpha))))


def _rms_norm(ctx: Ctx, x: Value, scale: Value, axis: int) -> Value:
    eps = float(ctx.attr("epsilon", 1e-5))
    return ctx.b.op("rms_norm", x, ctx.as_dtype(scale, x.dtype), axis=axis, eps=eps)


@lowering("SimplifiedLayerNormalization", domain=_MS)
@lowering("SimplifiedLayerNormalization")
def simplified_layer_normalization(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """(x / rms(x) * scale, 1 / rms(x))."""
    b, x = ctx.b, ctx.input(0)
    axis = ctx.axis(ctx.attr("axis", -1), x.rank)
    y = _rms_norm(ctx, x, ctx.input(1), axis)
    if not ctx.wants(1):
        return (y,)
    square = b.op("reduce", b.op("mul", x, x), kind="mean", axes=tuple(range(axis, x.rank)),
                  keepdims=True)  # fmt: skip
    root = b.op("sqrt", b.op("add", square, float(ctx.attr("epsilon", 1e-5))))
    return y, b.op("reciprocal", root)


@lowering("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=_MS)
def skip_layer_normalization(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """Norm of x + skip (+ bias); result 3 is that sum."""
    b, x, skip, scale = ctx.b, ctx.input(0), ctx.input(1), ctx.input(2)
    simple = node.op_type.startswith("SkipSimplified")
    shift, bias = (None, ctx.optional(3)) if simple else (ctx.optional(3), ctx.optional(4))
    total = b.op("add", x, skip)
    if bias is not None:
        total = b.op("add", total, bias)
    if ctx.wants(1) or ctx.wants(2):
        ctx.fail("the training outputs mean and inverse deviation are not supported")
    if simple:
        y = _rms_norm(ctx, total, scale, total.rank - 1)
    else:
        eps = float(ctx.attr("epsilon", 1e-12))
        y = b.op("layer_norm", total, scale, shift, axis=total.rank - 1, eps=eps)
    return (y, None, None, total)


# -- products and convolutions -------------------------------------------------------------------


@lowering("FusedMatMul", "TransposeMatMul", domain=_MS)
def fused_matmul(ctx: Ctx, node: NodeProto) -> Value:
    """alpha * op(A) op(B), last two axes transposed on request."""
    b, x, w = ctx.b, ctx.input(0), ctx.input(1)
    if ctx.attr("transBatchA", 0) or ctx.attr("transBatchB", 0):
        ctx.fail("transBatchA and transBatchB are not supported")
    if min(x.rank, w.rank) < 2:
        y = ctx.lower("MatMul", x, w)
    else:
        y = b.op("dot", x, w, ta=bool(ctx.attr("transA", 0)), tb=bool(ctx.attr("transB", 0)))
    alpha = ctx.attr("alpha", 1.0)
    return y if alpha == 1.0 else b.op("mul", y, float(alpha))


@lowering("FusedGemm", domain=_MS)
def fused_gemm(ctx: Ctx, node: NodeProto) -> Value:
    """Gemm followed by an activation."""
    names = ("alpha", "beta", "transA", "transB")
    attrs = {n: ctx.attr(n) for n in names if ctx.has(n)}
    return activated(ctx, ctx.lower("Gemm", *ctx.inputs, **attrs))


@lowering("FusedConv", domain=_MS)
def fused_conv(ctx: Ctx, node: NodeProto) -> Value:
    """act(Conv(x, w) + bias + z)."""
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    attrs = {n: ctx.attr(n) for n in names if ctx.has(n)}
    y = ctx.lower("Conv", ctx.input(0), ctx.input(1), ctx.optional(2), **attrs)
    z = ctx.optional(3)
    return activated(ctx, y if z is None else ctx.b.op("add", y, z))


def activated(ctx: Ctx, y: Value) -> Value:
    """``y`` through the node's fused activation, if it has one."""
    name = ctx.attr("activation", "")
    params = list(ctx.attr("activation_params", ()))
    if name == "Clip":
        low, high = params
        return ctx.b.op("min", ctx.b.op("max", y, float(low)), float(high))
    keys = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta")}.get(name, ())
    if name not in ("", "Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid", "HardSwish"):
        ctx.fail(f"activation {name[:30]!r} is not supported")
    extra = dict(zip(keys, params, strict=False))
    return ctx.lower(name, y, **extra) if name else y


# -- attention -----------------------------------------------------------------------------------


def _key_padding(ctx: Ctx, mask: Value, batch: Dim, columns: Dim, like: Value) -> Value:
    """A key mask as numbers to add: [B, L] of 0 and 1, lengths [B], or [B, S, L]."""
    b = ctx.b
    low = float(ctx.attr("mask_filter_value", -10000.0))
    if mask.rank == 1:
        if mask.shape[0] != batch:
            ctx.fail(f"a mask index {mask.type} with starts beside lengths is not supported")
        column = b.op("iota", shape=(1, columns), axis=1, dtype=I64)
        lengths = reshape_to(ctx, ctx.as_dtype(mask, I64), (batch, 1))
        keep = b.op("lt", column, lengths)
    else:
        keep = b.op("lt", b.const(0, I32), ctx.as_dtype(mask, I32))
    if mask.rank in (1, 2):
        keep = reshape_to(ctx, keep, (batch, 1, 1, columns))
    elif mask.rank == 3:
        keep = reshape_to(ctx, keep, (batch, 1, *mask.shape[1:]))
    zero = b.const(np.zeros((), like.dtype.np))
    return b.op("select", keep, zero, b.const(np.asarray(low, like.dtype.np)))


def _attend(
    ctx: Ctx, q: Value, k: Value, v: Value, masks: list[Value], past: Dim
) -> Value:
    """Attention of [B, H, S, D] with the node's scale, masks and causality; [B, S, H*Dv]."""
    q, scale = scaled_queries(ctx, q, ctx.attr("scale", 0.0) or None)
    if ctx.attr("unidirectional", 0):
        masks = [*masks, causal_mask(ctx, q.shape[2], k.shape[2], past, q)]
    mask = None
    for m in masks:
        mask = m if mask is None else ctx.b.op("add", mask, m)
    return merge_heads(ctx, grouped_attention(ctx, q, k, v, mask, scale))


@lowering("Attention", domain=_MS)
def attention(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """input [B, S, D], weights [D, 3*N*H], bias, mask_index, past, attention_bias."""
    b, x, w = ctx.b, ctx.input(0), ctx.input(1)
    bias, mask, past, extra = (ctx.optional(k) for k in (2, 3, 4, 5))
    if ctx.optional(6) is not None or ctx.attr("do_rotary", 0):
        ctx.fail("past_sequence_length and do_rotary are not supported")
    y = b.op("dot", x, w, ta=False, tb=False)
    return _self_attention(ctx, y if bias is None else b.op("add", y, bias), mask, past, extra)


@lowering("QAttention", domain=_MS)
def quantized_attention(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """input, weights, bias, their scales, mask_index, their zero points, past."""
    x, w, bias, sx, sw = (ctx.input(k) for k in range(5))
    mask, zx, zw, past = (ctx.optional(k) for k in range(5, 9))
    if ctx.attr("do_rotary", 0) or ctx.attr("past_present_share_buffer", 0):
        ctx.fail("do_rotary and past_present_share_buffer are not supported")
    y = scaled_product(ctx, quantized_matmul(ctx, x, w, zx, zw), sx, sw, bias)
    return _self_attention(ctx, y, mask, past, None)


def _self_attention(
    ctx: Ctx, y: Value, mask: Value | None, past: Value | None, extra: Value | None
) -> tuple[Value | None, ...]:
    """Attention of the projections ``y`` [B, S, 3*N*H], and the present keys and values."""
    b, heads, width = ctx.b, ctx.required("num_heads"), y.shape[2]
    sizes = ctx.attr("qkv_hidden_sizes") or (width // 3,) * 3
    parts: list[Value] = []
    at: Dim = 0
    for size in sizes:
        parts.append(split_heads(ctx, cut(ctx, y, 2, at, size), heads))
        at = at + size
    q, k, v = parts
    before: Dim = 0
    if past is not None:
        before = past.shape[3]
        olds = [reshape_to(ctx, cut(ctx, past, 0, i, 1), past.shape[1:]) for i in (0, 1)]
        k, v = (b.op("concat", o, n, axis=2) for o, n in zip(olds, (k, v), strict=True))
    masks = []
    if mask is not None:
        masks.append(_key_padding(ctx, mask, y.shape[0], k.shape[2], q))
    if extra is not None:
        masks.append(additive(ctx, extra, q))
    out = _attend(ctx, q, k, v, masks, before)
    if not ctx.wants(1):
        return (out,)
    present = b.op("concat", *(reshape_to(ctx, t, (1, *t.shape)) for t in (k, v)), axis=0)
    return out, present


@lowering("MultiHeadAttention", domain=_MS)
def multi_head_attention(ctx: Ctx, node: NodeProto) -> tuple[Value | None, ...]:
    """query, key, value, bias, key_padding_mask, attention_bias, past_key, past_value."""
    b, heads = ctx.b, ctx.required("num_heads")
    q, k, v = _projections(ctx, heads)
    past_k, past_v = ctx.optional(6), ctx.optional(7)
    if len(ctx.inputs) > 8:
        ctx.fail("past_sequence_length and cache_indirection are not supported")
    before: Dim = 0
    if past_k is not None and past_v is not None:
        before = past_k.shape[2]
        k, v = b.op("concat", past_k, k, axis=2), b.op("concat", past_v, v, axis=2)
    padding, extra = ctx.optional(4), ctx.optional(5)
    masks = []
    if padding is not None:
        masks.append(_key_padding(ctx, padding, q.shape[0], k.shape[2], q))
    if extra is not None:
        masks.append(additive(ctx, extra, q))
    return _attend(ctx, q, k, v, masks, before), k, v


def _projections(ctx: Ctx, heads: int) -> tuple[Value, Value, Value]:
    """Queries, keys and values as [B, N, S, H], from flat, packed or split operands."""
    b, q, k, v, bias = ctx.b, ctx.input(0), ctx.optional(1), ctx.optional(2), ctx.optional(3)
    if k is None:  # packed [B, S, N, 3, H]
        if q.rank != 5 or v is not None:
            raise ModelError(f"packed queries, keys and values must be [B, S, N, 3, H]: {q.type}")
        flat = [_unpacked(ctx, q, i) for i in range(3)]
    elif v is None:  # keys and values packed [B, L, N, 2, H]
        if k.rank != 5:
            raise ModelError(f"packed keys and values must be [B, L, N, 2, H]: {k.type}")
        flat = [q, _unpacked(ctx, k, 0), _unpacked(ctx, k, 1)]
    else:
        flat = [q, k, v]
    if bias is not None:
        at: Dim = 0
        for i, x in enumerate(flat):
            size = x.shape[2] if x.rank == 3 else x.shape[1] * x.shape[3]
            piece = cut(ctx, bias, 0, at, size)
            at = at + size
            if x.rank == 4:  # [B, N, L, H]
                piece = reshape_to(ctx, piece, (1, x.shape[1], 1, x.shape[3]))
            flat[i] = b.op("add", x, piece)
    split = [x if x.rank == 4 else split_heads(ctx, x, heads) for x in flat]
    return split[0], split[1], split[2]


def _unpacked(ctx: Ctx, x: Value, i: int) -> Value:
    """[B, S, N, k, H] as [B, S, N*H] of one of the k."""
    n, s, heads, _, width = x.shape
    return reshape_to(ctx, cut(ctx, x, 3, i, 1), (n, s, heads * width))


@lowering("RotaryEmbedding", domain=_MS)
def rotary_embedding(ctx: Ctx, node: NodeProto) -> Value:
    """x, position_ids, cos_cache, sin_cache; halves, or pairs where interleaved."""
    b, x, ids, cos, sin = ctx.b, *(ctx.input(k) for k in range(4))
    heads = ctx.attr("num_heads", 0)
    flat = x.rank == 3
    half = cos.shape[1]
    if not isinstance(half, int):
        ctx.fail("the rotary dimension must be static")
    if flat:
        heads = heads or x.shape[2] // (half * 2)
        if not isinstance(heads, int):
            ctx.fail("the number of heads must be static, or num_heads given")
        x = split_heads(ctx, x, heads)
    s = x.shape[2]
    if ids.tensor.numel() == 1 and s != 1:
        ramp = b.op("iota", shape=(1, s), axis=1, dtype=I64)
        ids = b.op("add", ramp, reshape_to(ctx, ctx.as_dtype(ids, I64), (1, 1)))
    y = rotated(ctx, x, ids, cos, sin, bool(ctx.attr("interleaved", 0)))
    return merge_heads(ctx, y) if flat else y


def rotated(ctx: Ctx, x: Value, places: Value, cos: Value, sin: Value, pairs: bool) -> Value:
    """[B, N, S, H] turned by the angles [positions, r / 2] of ``places`` [B or 1, S]: the first r
    elements of a head, whose partners are neighbors (``pairs``) or half of r apart."""
    b, half = ctx.b, cos.shape[1]
    n, h, s, d = x.shape
    whole = half * 2
    rest = None if whole == d else cut(ctx, x, 3, whole, d - whole)
    x = x if rest is None else cut(ctx, x, 3, 0, whole)
    c, z = (reshape_to(ctx, t, (*t.shape[:-2], 1, *t.shape[-2:]))
            for t in (b.op("gather", m, places, axis=0) for m in (cos, sin)))  # fmt: skip
    if pairs:
        two = reshape_to(ctx, x, (n, h, s, half, 2))
        even, odd = (reshape_to(ctx, cut(ctx, two, 4, i, 1), (n, h, s, half)) for i in (0, 1))
    else:
        even, odd = cut(ctx, x, 3, 0, half), cut(ctx, x, 3, half, half)
    first = b.op("sub", b.op("mul", even, c), b.op("mul", odd, z))
    second = b.op("add", b.op("mul", odd, c), b.op("mul", even, z))
    if pairs:
        both = [reshape_to(ctx, t, (*t.shape, 1)) for t in (first, second)]
        y = reshape_to(ctx, b.op("concat", *both, axis=4), (n, h, s, whole))
    else:
        y = b.op("concat", first, second, axis=3)
    result: Value = y if rest is None else b.op("concat", y, rest, axis=3)
    return result


# -- the quantized LSTM --------------------------------------------------------------------------


@lowering("DynamicQuantizeLSTM", domain=_MS)
def dynamic_quantize_lstm(ctx: Ctx, node: NodeProto) -> Any:
    """X, W [D, I, 4H], R [D, H, 4H], B, lens, h0, c0, P, then scales and zero points of W and R."""
    b, x, w, r = ctx.b, ctx.input(0), ctx.input(1), ctx.input(2)
    direction, directions = direction_of(ctx)
    if x.rank != 3 or w.rank != 3 or r.rank != 3 or r.shape[0] != directions:
        raise ModelError(f"X {x.type}, W {w.type}, R {r.type}, {direction}")
    steps, rows, size = x.shape
    hidden, columns = r.shape[1], r.shape[2]
    small, unit, zero = dynamically_quantized(ctx, reshape_to(ctx, x, (steps * rows, size)))
    parts = []
    for d in range(directions):
        one = reshape_to(ctx, cut(ctx, w, 0, d, 1), w.shape[1:])
        total = integer_product(ctx, small, one, zero, _of_direction(ctx, 9, d))
        factor = b.op("mul", unit, _of_direction(ctx, 8, d))
        y = b.op("mul", b.op("cast", total, to=F32), factor)
        parts.append(reshape_to(ctx, y, (steps * rows, 1, columns)))
    y = parts[0] if directions == 1 else b.op("concat", *parts, axis=1)
    bias, _ = split_bias(ctx, "LSTM", ctx.optional(3), hidden)
    y = y if bias is None else b.op("add", y, bias)
    xw = reshape_to(ctx, y, (steps, rows, directions, columns))
    scale, offset = (_per_column(ctx, k, r) for k in (10, 11))
    clip = ctx.attr("clip")
    operands = (xw, r, scale, offset, ctx.optional(4), ctx.optional(5), ctx.optional(6),
                ctx.optional(7))  # fmt: skip
    return finish(
        ctx, "qlstm", operands, direction=direction,
        activations=activations(ctx, "LSTM", directions), clip=clip if clip else None,
        input_forget=bool(ctx.attr("input_forget", 0)),
    )  # fmt: skip


def _of_direction(ctx: Ctx, k: int, d: int) -> Value:
    """Scale or zero point of direction ``d``: a scalar or one per column."""
    v = ctx.input(k)
    one = cut(ctx, v, 0, d, 1)
    return reshape_to(ctx, one, v.shape[1:] if v.rank == 2 else ())


def _per_column(ctx: Ctx, k: int, r: Value) -> Value:
    """Scale or zero point as [D, 4H]."""
    v = ctx.input(k)
    column = v if v.rank == 2 else reshape_to(ctx, v, (v.shape[0], 1))
    shape = (r.shape[0], r.shape[2])
    return column if column.shape == shape else ctx.b.op("expand", column, shape=shape)
