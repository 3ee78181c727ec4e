"""Quantized operators, composed of exact integer arithmetic.

Zero points are subtracted exactly. A product of quantized matrices keeps its narrow operands (so a
kernel can use 8-bit dot products) and corrects the 32-bit sums afterwards::

    sum (a - za)(b - zb) = sum a b - za sum b - zb sum a + k za zb

The left operand is always made unsigned and the right one signed, which is what processors
multiply: both numbers and zero points are shifted by 128, and differences stay as they are.

A quantized convolution pads with the input's zero point first, so that padding is neutral, and
then corrects by ``za * sum of the filter``. Real numbers are rounded half to even, as ONNX defines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, I8, I32, U8, DType
from .ops_cast import convert
from .ops_conv import read_window
from .ops_shape import reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_MICROSOFT = "com.microsoft"


def integer_range(dtype: DType) -> tuple[int, int]:
    """Smallest and largest number of an integer type."""
    if dtype.kind == "u":
        return 0, (1 << dtype.bits) - 1
    return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1


def is_zero(ctx: Ctx, v: Value | None) -> bool:
    """Whether a zero point is absent or known to be 0."""
    found = None if v is None else ctx.constant(v)
    return v is None or (found is not None and not found.any())


def spread(ctx: Ctx, v: Value, like: Value, axis: int, block: int = 0) -> Value:
    """A scale or zero point with the rank of ``like``: scalar, along ``axis``, or per block."""
    b = ctx.b
    if v.rank == 0:
        return v
    if block and v.rank == like.rank:
        size = like.shape[axis]
        shape = (*v.shape[: axis + 1], block, *v.shape[axis + 1 :])
        wide = b.op("reshape", v, shape=(*v.shape[: axis + 1], 1, *v.shape[axis + 1 :]))
        wide = b.op("expand", wide, shape=shape)
        count = v.shape[axis] * block
        wide = b.op("reshape", wide, shape=(*v.shape[:axis], count, *v.shape[axis + 1 :]))
        if count != size:
            sizes = (*v.shape[:axis], size, *v.shape[axis + 1 :])
            wide = b.op("slice", wide, starts=(0,) * v.rank, sizes=sizes, steps=(1,) * v.rank)
        return wide
    if v.rank != 1:
        raise ModelError(f"scale or zero point {v.type} for {like.type}")
    if v.shape[0] == 1:
        return b.op("reshape", v, shape=())
    axis = ctx.axis(axis, like.rank)
    shape = tuple(v.shape[0] if k == axis else 1 for k in range(like.rank))
    return b.op("reshape", v, shape=shape)


def quotient(ctx: Ctx, x: Value, scale: Value, work: DType) -> Value:
    """``x / scale`` as numbers of ``work``, each rounded to it, in a register type: a quotient of
    halves is divided in float32 and rounded once, which is the same (24 >= 2 * 11 + 2 digits)."""
    b = ctx.b
    x, scale = ctx.as_dtype(x, work), ctx.as_dtype(scale, work)
    if work.bits >= 32:
        return b.op("div", x, scale)
    wide = b.op("div", ctx.as_dtype(x, F32), ctx.as_dtype(scale, F32))
    return ctx.as_dtype(b.op("cast", wide, to=work), F32)


def quantize(
    ctx: Ctx, x: Value, scale: Value, zero: Value | None, to: DType, saturate: bool = True
) -> Value:
    """saturate(round(x / scale) + zero); scale and zero already have x's rank. The division is
    done in the scale's type; floats of at most 8 bits are rounded by the conversion alone."""
    b = ctx.b
    y = quotient(ctx, x, scale, scale.dtype)
    if to.is_integer:
        y = b.op("round", y)
    if zero is not None and not is_zero(ctx, zero):
        y = b.op("add", y, ctx.as_dtype(zero, y.dtype))
    if not to.is_integer:
        return convert(ctx, y, to, saturate)
    low, high = integer_range(to)
    if to.bits >= 32:
        return b.op("cast", y, to=to)  # conversion saturates
    return b.op("cast", b.op("min", b.op("max", y, float(low)), float(high)), to=to)


def dequantize(
    ctx: Ctx, x: Value, scale: Value, zero: Value | None, to: DType | None = None
) -> Value:
    """(x - zero) * scale in ``to`` (the scale's type), computed in float32 at least: differences of
    at most 16 bits are exact there."""
    b = ctx.b
    to = scale.dtype if to is None else to
    real = F32 if to.bits < 32 else to
    if x.dtype.bits < 32 or is_zero(ctx, zero):
        y = b.op("cast", x, to=real)
        if not is_zero(ctx, zero):
            y = b.op("sub", y, ctx.as_dtype(zero, real))  # type: ignore[arg-type]
    else:
        y = b.op("cast", b.op("sub", x, zero), to=real)
    return ctx.as_dtype(b.op("mul", y, ctx.as_dtype(scale, real)), to)


# -- QuantizeLinear and its inverse --------------------------------------------------------------


@lowering("QuantizeLinear")
@lowering("QuantizeLinear", domain=_MICROSOFT)
def quantize_linear(ctx: Ctx, node: NodeProto) -> Value:
    """saturate(round(x / scale) + zero), per tensor, axis or block."""
    x, scale, zero = ctx.input(0), ctx.input(1), ctx.optional(2)
    to = U8 if zero is None else zero.dtype
    if ctx.attr("output_dtype", 0):
        to = ctx.attr_dtype("output_dtype")
        if zero is not None and zero.dtype != to:
            raise ModelError(f"output_dtype {to} for a zero point {zero.type}")
    axis = ctx.axis(ctx.attr("axis", 1), x.rank) if x.rank > 1 else 0
    block = ctx.attr("block_size", 0)
    work = scale.dtype
    if ctx.attr("precision", 0):
        work = ctx.attr_dtype("precision")
    elif not work.is_float or work.is_coded:  # a power of two or an integer: no precision to use
        work = x.dtype if x.dtype.is_float else F32
    wide = None if zero is None else spread(ctx, zero, x, axis, block)
    scale = spread(ctx, ctx.as_dtype(scale, work), x, axis, block)
    return quantize(ctx, x, scale, wide, to, bool(ctx.attr("saturate", 1)))


@lowering("DequantizeLinear")
@lowering("DequantizeLinear", domain=_MICROSOFT)
def dequantize_linear(ctx: Ctx, node: NodeProto) -> Value:
    """(x - zero) * scale, per tensor, axis or block."""
    x, scale, zero = ctx.input(0), ctx.input(1), ctx.optional(2)
    axis = ctx.axis(ctx.attr("axis", 1), x.rank) if x.rank > 1 else 0
    block = ctx.attr("block_size", 0)
    wide = None if zero is None else spread(ctx, zero, x, axis, block)
    to = ctx.attr_dtype("output_dtype") if ctx.attr("output_dtype", 0) else scale.dtype
    if not to.is_float or to.is_coded:
        raise ModelError(f"a result of {to} for a scale {scale.type}: output_dtype is needed")
    return dequantize(ctx, x, spread(ctx, scale, x, axis, block), wide, to)


def dynamic_parameters(ctx: Ctx, x: Value) -> tuple[Value, Value]:
    """(scale f32 scalar, zero point as f32 scalar) that cover the values of ``x`` and 0 by u8."""
    b, axes = ctx.b, tuple(range(x.rank))
    top = b.op("max", b.op("reduce", x, kind="max", axes=axes, keepdims=False), 0.0)
    low = b.op("min", b.op("reduce", x, kind="min", axes=axes, keepdims=False), 0.0)
    scale = b.op("div", b.op("sub", top, low), 255.0)
    scale = b.op("select", b.op("eq", scale, 0.0), b.const(1.0, F32), scale)
    zero = b.op("round", b.op("div", b.op("neg", low), scale))
    return scale, b.op("min", b.op("max", zero, 0.0), 255.0)


def dynamically_quantized(ctx: Ctx, x: Value) -> tuple[Value, Value, Value]:
    """(x as u8, scale, zero point u8)."""
    scale, zero = dynamic_parameters(ctx, x)
    small = ctx.as_dtype(zero, U8)
    return quantize(ctx, x, scale, zero, U8), scale, small


@lowering("DynamicQuantizeLinear")
def dynamic_quantize_linear(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(x as u8, scale, zero point), from the range of x and 0."""
    return dynamically_quantized(ctx, ctx.input(0))


# -- products ----------------------------------------------------------------------------------


def _flipped(ctx: Ctx, v: Value, to: DType) -> Value:
    """A byte of the other signedness, shifted by 128: its sign bit is turned over."""
    b = ctx.b
    known = ctx.constant(v)
    if known is not None:
        return b.const((known.astype(v.dtype.np).view(np.uint8) ^ np.uint8(128)).view(to.np))
    top = b.const(128, U8)
    if to == U8:
        return b.op("bitxor", b.op("cast", v, to=U8), top)
    return b.op("cast", b.op("bitxor", v, top), to=to)


def _sided(
    ctx: Ctx, v: Value, zero: Value | None, wanted: DType
) -> tuple[Value, Value | None]:
    """An operand and its zero point as unsigned (left) or signed (right) bytes."""
    if v.dtype == wanted or v.dtype not in (U8, I8):
        return v, zero
    zero = ctx.b.const(0, v.dtype) if zero is None else zero
    return _flipped(ctx, v, wanted), _flipped(ctx, zero, wanted)


def _absorbed(
    ctx: Ctx, w: Value, zero: Value | None, axis: int
) -> tuple[Value, Value | None]:
    """Constant weights with their zero points (one, or one along ``axis``) subtracted where the
    differences still are signed bytes, which spares correcting for them."""
    weights, zeros = ctx.constant(w), ctx.constant(zero)
    if w.dtype != I8 or weights is None or zeros is None or not zeros.any() or zeros.ndim > 1:
        return w, zero
    shape = [1] * weights.ndim
    if zeros.size > 1:
        shape[axis] = zeros.size
    moved = weights.astype(np.int16) - zeros.astype(np.int16).reshape(shape)
    low, high = integer_range(I8)
    if moved.size and (moved.min() < low or moved.max() > high):
        return w, zero
    return ctx.b.const(moved, I8), None


def _row_zero(ctx: Ctx, zero: Value, a: Value) -> Value:
    """Zero point of the left matrix: scalar, per row, or already of its rank."""
    if zero.rank == 1 and zero.shape[0] != 1:
        return ctx.b.op("reshape", zero, shape=(zero.shape[0], 1))
    return ctx.b.op("reshape", zero, shape=()) if zero.rank == 1 else zero


def integer_product(
    ctx: Ctx, a: Value, b_: Value, za: Value | None, zb: Value | None
) -> Value:
    """i32 sums of (a - za)(b - zb) over the inner axis, operands of rank 2 or more."""
    b = ctx.b
    a, za = _sided(ctx, a, za, U8)
    b_, zb = _sided(ctx, b_, zb, I8)
    b_, zb = _absorbed(ctx, b_, zb, -1)
    total = b.op("dot", a, b_, ta=False, tb=False, acc=I32)
    wide_a = None if is_zero(ctx, za) else ctx.as_dtype(_row_zero(ctx, za, a), I32)  # type: ignore[arg-type]
    wide_b = None if is_zero(ctx, zb) else _column_zero(ctx, zb)  # type: ignore[arg-type]
    if wide_a is not None:
        sums = b.op("reduce", ctx.as_dtype(b_, I32), kind="sum", axes=(b_.rank - 2,),
                    keepdims=True)  # fmt: skip
        total = b.op("sub", total, b.op("mul", wide_a, sums))
    if wide_b is not None:
        rows = b.op("reduce", ctx.as_dtype(a, I32), kind="sum", axes=(a.rank - 1,), keepdims=True)
        if wide_a is not None:
            depth = ctx.as_dtype(b.dims([a.shape[-1]], scalar=True), I32)
            rows = b.op("sub", rows, b.op("mul", wide_a, depth))
        total = b.op("sub", total, b.op("mul", wide_b, rows))
    return total


def _column_zero(ctx: Ctx, zero: Value) -> Value:
    if zero.rank == 1 and zero.shape[0] == 1:
        zero = ctx.b.op("reshape", zero, shape=())
    return ctx.as_dtype(zero, I32)


def matrices(ctx: Ctx, a: Value, b_: Value) -> tuple[Value, Value, list[Dim] | None]:
    """Operands of numpy.matmul with ranks of at least 2; the result's shape if it has fewer."""
    if a.rank >= 2 and b_.rank >= 2:
        return a, b_, None
    shape: list[Dim] = [*(a.shape[:-1] if a.rank > 1 else b_.shape[:-2])]
    if a.rank == 0 or b_.rank == 0:
        raise ModelError(f"a product of {a.type} and {b_.type}")
    if a.rank == 1:
        a = ctx.b.op("reshape", a, shape=(1, a.shape[0]))
    if b_.rank == 1:
        b_ = ctx.b.op("reshape", b_, shape=(b_.shape[0], 1))
    else:
        shape.append(b_.shape[-1])
    return a, b_, shape


def quantized_matmul(
    ctx: Ctx, a: Value, b_: Value, za: Value | None, zb: Value | None
) -> Value:
    """MatMulInteger on any ranks."""
    a, b_, shape = matrices(ctx, a, b_)
    y = integer_product(ctx, a, b_, za, zb)
    return y if shape is None else ctx.b.op("reshape", y, shape=tuple(shape))


@lowering("MatMulInteger")
def matmul_integer(ctx: Ctx, node: NodeProto) -> Value:
    """i32 product of A - a_zero and B - b_zero."""
    return quantized_matmul(ctx, ctx.input(0), ctx.input(1), ctx.optional(2), ctx.optional(3))


@lowering("QLinearMatMul")
def qlinear_matmul(ctx: Ctx, node: NodeProto) -> Value:
    """The product of two quantized matrices, quantized."""
    a, sa, za, b_, sb, zb, sy, zy = (ctx.input(k) for k in range(8))
    if a.dtype.is_float or b_.dtype.is_float:
        left = _centered(ctx, a, _row_zero(ctx, za, a))
        total = ctx.lower("MatMul", left, _centered(ctx, b_, scalar_if_one(ctx, zb)))
    else:
        total = quantized_matmul(ctx, a, b_, za, zb)
    rows = _row_zero(ctx, sa, a)
    factor = ctx.b.op("div", ctx.b.op("mul", rows, scalar_if_one(ctx, sb)),
                      scalar_if_one(ctx, sy))  # fmt: skip
    return requantize(ctx, total, factor, zy)


def _centered(ctx: Ctx, v: Value, zero: Value) -> Value:
    """``v - zero`` in float32."""
    wide = ctx.as_dtype(v, F32)
    return wide if is_zero(ctx, zero) else ctx.b.op("sub", wide, ctx.as_dtype(zero, F32))


def scalar_if_one(ctx: Ctx, v: Value) -> Value:
    """A vector of one element as a scalar."""
    return ctx.b.op("reshape", v, shape=()) if v.rank == 1 and v.shape[0] == 1 else v


def requantize(ctx: Ctx, total: Value, factor: Value, zero: Value) -> Value:
    """saturate(round(total * factor) + zero) in the zero point's type."""
    b = ctx.b
    factor = ctx.as_dtype(factor, F32)
    y = b.op("mul", ctx.as_dtype(total, F32), factor)
    y = b.op("round", y) if zero.dtype.is_integer else y
    zero = scalar_if_one(ctx, zero)
    if not is_zero(ctx, zero):
        y = b.op("add", y, ctx.as_dtype(zero, F32))
    if not zero.dtype.is_integer:
        return convert(ctx, y, zero.dtype)
    low, high = integer_range(zero.dtype)
    return b.op("cast", b.op("min", b.op("max", y, float(low)), float(high)), to=zero.dtype)


# -- convolutions ------------------------------------------------------------------------------


def integer_convolution(
    ctx: Ctx, x: Value, w: Value, zx: Value | None, zw: Value | None
) -> Value:
    """i32 sums of (x - zx)(w - zw) under the node's Conv attributes."""
    b, tail = ctx.b, (1,) * (x.rank - 2)
    if x.rank < 3 or w.rank != x.rank:
        raise ModelError(f"image {x.type}, weights {w.type}")
    window = read_window(ctx, x.shape[2:], w.shape[2:])
    x, zx = _sided(ctx, x, zx, U8)
    w, zw = _sided(ctx, w, None if zw is None else scalar_if_one(ctx, zw), I8)
    w, zw = _absorbed(ctx, w, zw, 0)
    attrs: dict[str, Any] = {**window.attrs(), "groups": ctx.attr("group", 1), "layout": "first"}
    zero_x = None if is_zero(ctx, zx) else reshape_to(ctx, zx, ())  # type: ignore[arg-type]
    if zero_x is not None and any(p != 0 for p in (*window.lo, *window.hi)):
        x = b.op("pad", x, ctx.as_dtype(zero_x, x.dtype), lo=(0, 0, *window.lo),
                 hi=(0, 0, *window.hi), mode="constant")  # fmt: skip
        attrs |= {"pads_lo": (0,) * len(tail), "pads_hi": (0,) * len(tail)}
    boxes: Value | None = None
    taps = tuple(d for d in w.shape[1:] if isinstance(d, int))
    if not is_zero(ctx, zw):
        wide = ctx.as_dtype(zw, I32)  # type: ignore[arg-type]
        wide = reshape_to(ctx, wide, (*wide.shape, *tail))
        if attrs["groups"] == 1 and len(taps) == w.rank - 1:
            # weights stay bytes: every window's sum, times the zero point, is taken away
            ones = b.const(np.ones((1, *taps)), I8)
            boxes = b.op("mul", b.op("conv", x, ones, **attrs, acc=I32), wide)
        else:
            shape = (*wide.shape[: -len(tail)], 1, *tail)
            w = b.op("sub", ctx.as_dtype(w, I32), reshape_to(ctx, wide, shape))
    total = b.op("conv", x, w, **attrs, acc=I32)
    if zero_x is not None:
        sums = b.op("reduce", ctx.as_dtype(w, I32), kind="sum", axes=tuple(range(1, w.rank)),
                    keepdims=False)  # fmt: skip
        sums = reshape_to(ctx, sums, (w.shape[0], *tail))
        if boxes is not None:
            sums = b.op("sub", sums, b.op("mul", wide, b.const(math.prod(taps), I32)))
        total = b.op("sub", total, b.op("mul", sums, ctx.as_dtype(zero_x, I32)))
    return total if boxes is None else b.op("sub", total, boxes)


@lowering("ConvInteger")
def conv_integer(ctx: Ctx, node: NodeProto) -> Value:
    """i32 convolution of x - x_zero with w - w_zero."""
    return integer_convolution(ctx, ctx.input(0), ctx.input(1), ctx.optional(2), ctx.optional(3))


@lowering("QLinearConv")
def qlinear_conv(ctx: Ctx, node: NodeProto) -> Value:
    """The convolution of a quantized image, quantized; the bias is i32."""
    b = ctx.b
    x, sx, zx, w, sw, zw, sy, zy = (ctx.input(k) for k in range(8))
    bias = ctx.optional(8)
    total = integer_convolution(ctx, x, w, zx, zw)
    tail = (1,) * (x.rank - 2)
    if bias is not None:
        total = b.op("add", total, b.op("reshape", bias, shape=(bias.shape[0], *tail)))
    factor = b.op("div", b.op("mul", scalar_if_one(ctx, sx), scalar_if_one(ctx, sw)),
                  scalar_if_one(ctx, sy))  # fmt: skip
    if factor.rank:
        factor = b.op("reshape", factor, shape=(factor.shape[0], *tail))
    return requantize(ctx, total, factor, zy)


# -- quantize-dequantize pairs -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dequantized:
    """What a value was dequantized from."""

    data: Value
    """8-bit numbers."""
    scale: Value
    zero: Value | None
    """Zero point as 8-bit number, or None for 0."""


def dequantized(ctx: Ctx, v: Value) -> Dequantized | None:
    """The 8-bit source of ``(cast(q) - cast(z)) * scale``, as ``dequantize`` builds it, or None."""
    if v.node.op != "mul" or v.dtype != F32:
        return None
    inner, scale = v.node.operands[0], v.node.operands[-1]
    zero = None
    if inner.node.op == "sub":
        inner, offset = inner.node.operands[0], inner.node.operands[-1]
        known = ctx.constant(offset)
        if known is None:
            return None
    if inner.node.op != "cast" or inner.node.operands[0].dtype not in (U8, I8):
        return None
    data = inner.node.operands[0]
    if v.node.operands[0].node.op == "sub":
        zero = ctx.b.const(known.astype(data.dtype.np))  # type: ignore[union-attr]
    return Dequantized(data, scale, zero)


def quantized_convolution(ctx: Ctx, x: Value, w: Value) -> Value | None:
    """Conv of dequantized operands as an exact integer convolution, scaled once; None where the
    float convolution serves better (grouped windows, rows that are no whole groups of bytes)."""
    a, c = dequantized(ctx, x), dequantized(ctx, w)
    channels = x.shape[1]
    if a is None or c is None or ctx.attr("group", 1) != 1 or not isinstance(channels, int):
        return None
    per_image = a.scale.rank == 0 and (a.zero is None or a.zero.rank == 0)
    filters = c.scale.rank in (0, w.rank) and c.scale.shape[1:] in ((), (1,) * (w.rank - 1))
    if channels % 4 or not per_image or not filters or not is_zero(ctx, _signed_zero(ctx, c)):
        return None
    zero = None if c.zero is None else reshape_to(ctx, c.zero, (c.zero.tensor.numel(),))
    total = integer_convolution(ctx, a.data, c.data, a.zero, zero)
    factor = ctx.b.op("mul", a.scale, reshape_to(ctx, c.scale, (c.scale.tensor.numel(),)))
    tail = (1,) * (x.rank - 2)
    factor = reshape_to(ctx, factor, (factor.shape[0], *tail))
    return ctx.b.op("mul", ctx.b.op("cast", total, to=F32), factor)


def _signed_zero(ctx: Ctx, c: Dequantized) -> Value | None:
    """The filters' zero point once they are signed bytes."""
    if c.data.dtype == I8:
        return c.zero
    known = None if c.zero is None else ctx.constant(c.zero)
    shifted = np.array(-128) if known is None else known.astype(np.int16) - 128
    return ctx.b.const(shifted.astype(np.int8))


# -- com.microsoft -----------------------------------------------------------------------------


@lowering("MatMulIntegerToFloat", domain=_MICROSOFT)
def matmul_integer_to_float(ctx: Ctx, node: NodeProto) -> Value:
    """A, B, a_scale, b_scale, a_zero, b_zero, bias."""
    a, b_, sa, sb = (ctx.input(k) for k in range(4))
    total = quantized_matmul(ctx, a, b_, ctx.optional(4), ctx.optional(5))
    return scaled_product(ctx, total, sa, sb, ctx.optional(6))


def scaled_product(ctx: Ctx, total: Value, sa: Value, sb: Value, bias: Value | None) -> Value:
    """Integer sums as real numbers, by the scales of both operands."""
    b = ctx.b
    factor = b.op("mul", scalar_if_one(ctx, sa), scalar_if_one(ctx, sb))
    y = b.op("mul", b.op("cast", total, to=factor.dtype), factor)
    return y if bias is None else b.op("add", y, bias)


@lowering("DynamicQuantizeMatMul", domain=_MICROSOFT)
def dynamic_quantize_matmul(ctx: Ctx, node: NodeProto) -> Value:
    """A (float), B (quantized), b_scale, b_zero, bias."""
    a, b_, sb = (ctx.input(k) for k in range(3))
    small, scale, zero = dynamically_quantized(ctx, a)
    total = quantized_matmul(ctx, small, b_, zero, ctx.optional(3))
    return scaled_product(ctx, total, scale, sb, ctx.optional(4))


@lowering("QLinearAdd", "QLinearMul", domain=_MICROSOFT)
def qlinear_binary(ctx: Ctx, node: NodeProto) -> Value:
    """A, a_scale, a_zero, B, b_scale, b_zero, c_scale, c_zero (zero points may be absent)."""
    a = _real(ctx, 0)
    c = _real(ctx, 3)
    y = ctx.b.op("add" if node.op_type == "QLinearAdd" else "mul", a, c)
    return _store(ctx, y, 6, ctx.input(0).dtype)


def _real(ctx: Ctx, k: int) -> Value:
    """Operand ``k`` (quantized, scale, zero point) as real numbers."""
    x, scale, zero = ctx.input(k), ctx.input(k + 1), ctx.optional(k + 2)
    zero = None if zero is None else scalar_if_one(ctx, zero)
    return dequantize(ctx, x, scalar_if_one(ctx, scale), zero)


def _store(ctx: Ctx, y: Value, k: int, dtype: DType) -> Value:
    """``y`` quantized by scale ``k`` and zero point ``k + 1``."""
    zero = ctx.optional(k + 1)
    zero = None if zero is None else scalar_if_one(ctx, zero)
    return quantize(ctx, y, scalar_if_one(ctx, ctx.input(k)), zero, dtype)


@lowering("QLinearSigmoid", "QLinearLeakyRelu", domain=_MICROSOFT)
def qlinear_unary(ctx: Ctx, node: NodeProto) -> Value:
    """X, x_scale, x_zero, y_scale, y_zero."""
    x = _real(ctx, 0)
    if node.op_type == "QLinearSigmoid":
        y = ctx.b.op("sigmoid", x)
    else:
        y = ctx.lower("LeakyRelu", x, alpha=ctx.attr("alpha", 0.01))
    return _store(ctx, y, 3, ctx.input(0).dtype)


@lowering("QLinearSoftmax", domain=_MICROSOFT)
def qlinear_softmax(ctx: Ctx, node: NodeProto) -> Value:
    """X, x_scale, x_zero, y_scale, y_zero; ``opset`` says whether trailing axes are flattened."""
    x = _real(ctx, 0)
    opset = ctx.attr("opset", 13)
    y = ctx.lower("Softmax", x, axis=ctx.attr("axis", -1), opset=int(opset))
    return _store(ctx, y, 3, ctx.input(0).dtype)


@lowering("QLinearAveragePool", "QLinearGlobalAveragePool", domain=_MICROSOFT)
def qlinear_average_pool(ctx: Ctx, node: NodeProto) -> Value:
    """X, x_scale, x_zero, y_scale, y_zero; channels last on request."""
    x = _real(ctx, 0)
    last = bool(ctx.attr("channels_last", 0))
    r = x.rank
    if last:
        x = ctx.b.op("transpose", x, perm=(0, r - 1, *range(1, r - 1)))
    if node.op_type == "QLinearGlobalAveragePool":
        y = ctx.lower("GlobalAveragePool", x)
    else:
        names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
        y = ctx.lower("AveragePool", x, **{n: ctx.attr(n) for n in names if ctx.has(n)})
    if last:
        y = ctx.b.op("transpose", y, perm=(0, *range(2, r), 1))
    return _store(ctx, y, 3, ctx.input(0).dtype)


@lowering("QLinearConcat", domain=_MICROSOFT)
def qlinear_concat(ctx: Ctx, node: NodeProto) -> Value:
    """y_scale, y_zero, then (X, scale, zero) per operand."""
    parts = [_real(ctx, k) for k in range(2, len(ctx.inputs), 3)]
    axis = ctx.axis(ctx.required("axis"), parts[0].rank)
    return _store(ctx, ctx.b.op("concat", *parts, axis=axis), 0, ctx.input(2).dtype)
