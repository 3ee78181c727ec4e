"""com.microsoft: weights of a few bits, with a scale per block.

Packed numbers are unpacked by shifts and masks, low bits first; a block's zero point is taken away
and its scale applied, and what follows is an ordinary product or gather. Where the weights are
constants the folder may do all of this once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, I64, U8
from .ops_quant import spread
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_MS = "com.microsoft"


def unpacked(ctx: Ctx, v: Value, bits: int, count: Dim) -> Value:
    """Bytes whose last axis packs numbers of ``bits``, as one byte per number; ``count`` of them
    in a row (the padding behind is cut off)."""
    if v.dtype != U8 or bits not in (1, 2, 4, 8) or v.rank < 1:
        raise ModelError(f"numbers of {bits} bits in {v.type}: u8 with 1, 2, 4 or 8 is needed")
    if bits < 8:
        b, each = ctx.b, 8 // bits
        shifts = b.const(np.arange(0, 8, bits, dtype=np.uint8))
        wide = b.op("shr", reshape_to(ctx, v, (*v.shape, 1)), shifts)
        wide = b.op("bitand", wide, b.const(np.uint8((1 << bits) - 1)))
        v = reshape_to(ctx, wide, (*v.shape[:-1], v.shape[-1] * each))
    return v if v.shape[-1] == count else cut(ctx, v, v.rank - 1, 0, count)


@lowering("MatMulNBits", domain=_MS)
def matmul_nbits(ctx: Ctx, node: NodeProto) -> Value:
    """A [.., K] times the transpose of weights [N, K] that are packed by blocks along K."""
    b, a, w = ctx.b, ctx.input(0), ctx.input(1)
    n, k, bits = ctx.required("N"), ctx.required("K"), ctx.attr("bits", 4)
    bias = ctx.optional(5)
    if ctx.attr("weight_prepacked", 0):
        ctx.fail("weights in a packed order of another machine (weight_prepacked) are unknown")
    if 0 in w.shape:
        y = ctx.full((*a.shape[:-1], n), 0, a.dtype)
    else:
        weights = _weights(ctx, w, n, k, bits, ctx.required("block_size"))
        rows = ctx.as_dtype(a, F32) if a.dtype.bits < 32 else a
        y = b.op("dot", _matrix(ctx, rows), ctx.as_dtype(weights, rows.dtype), ta=False, tb=True)
        y = ctx.as_dtype(reshape_to(ctx, y, (*a.shape[:-1], n)), a.dtype)
    return y if bias is None else b.op("add", y, bias)


def _matrix(ctx: Ctx, a: Value) -> Value:
    return reshape_to(ctx, a, (1, a.shape[0])) if a.rank == 1 else a


def _weights(ctx: Ctx, w: Value, n: int, k: int, bits: int, block: int) -> Value:
    """(q - zero) * scale, float [N, K]."""
    b = ctx.b
    blocks = -(-k // block)
    scales, zeros, order = ctx.input(2), ctx.optional(3), ctx.optional(4)
    w = reshape_to(ctx, w, (n, blocks, block * bits // 8))
    q = b.op("cast", unpacked(ctx, w, bits, block), to=F32)
    scale = ctx.as_dtype(reshape_to(ctx, scales, (n, blocks)), F32)
    zero: Value = b.const(np.float32(1 << (bits - 1)))
    if zeros is not None:
        if zeros.dtype == U8:
            zeros = reshape_to(ctx, zeros, (n, (blocks * bits + 7) // 8))
            zeros = unpacked(ctx, zeros, bits, blocks)
        zero = ctx.as_dtype(reshape_to(ctx, zeros, (n, blocks)), F32)
    flat = (n, blocks * block)
    if order is not None:  # the group of every input feature is given
        q = cut(ctx, reshape_to(ctx, q, flat), 1, 0, k)
        scale = b.op("gather", scale, cut(ctx, order, 0, 0, k), axis=1)
        zero = b.op("gather", zero, cut(ctx, order, 0, 0, k), axis=1) if zero.rank else zero
        return b.op("mul", b.op("sub", q, zero), scale)
    zero = reshape_to(ctx, zero, (n, blocks, 1)) if zero.rank else zero
    real = b.op("mul", b.op("sub", q, zero), reshape_to(ctx, scale, (n, blocks, 1)))
    real = reshape_to(ctx, real, flat)
    return real if blocks * block == k else cut(ctx, real, 1, 0, k)


@lowering("GatherBlockQuantized", domain=_MS)
def gather_block_quantized(ctx: Ctx, node: NodeProto) -> Value:
    """Rows of a quantized table, dequantized after they are gathered."""
    b, data, index, scales = ctx.b, ctx.input(0), ctx.input(1), ctx.input(2)
    zeros, bits = ctx.optional(3), ctx.attr("bits", 4)
    packed = data.dtype == U8 and bits < 8
    axis = ctx.axis(ctx.attr("gather_axis", 0), data.rank)
    along = ctx.axis(ctx.attr("quantize_axis", 1), data.rank)
    block = ctx.attr("block_size", 128)
    if axis == along:
        raise ModelError(f"data is gathered and quantized along the same axis {axis}")
    parts = []
    for v in (data, scales, zeros):
        taken = None if v is None else b.op("gather", v, ctx.as_dtype(index, I64), axis=axis)
        parts.append(taken)
    rows, scale, zero = parts
    assert rows is not None and scale is not None
    if packed:
        rows = unpacked(ctx, rows, bits, rows.shape[-1] * (8 // bits))
        zero = None if zero is None else unpacked(ctx, zero, bits, scale.shape[-1])
    moved = along + index.rank - 1 if along > axis else along
    real = b.op("cast", rows, to=F32)
    if zero is not None:
        real = b.op("sub", real, spread(ctx, b.op("cast", zero, to=F32), real, moved, block))
    elif data.dtype == U8:
        real = b.op("sub", real, float(1 << (bits - 1)))
    wide = spread(ctx, ctx.as_dtype(scale, F32), real, moved, block)
    return ctx.as_dtype(b.op("mul", real, wide), scales.dtype)
