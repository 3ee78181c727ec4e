"""Conversions: Cast and CastLike by ONNX's tables, and BitCast.

The IR's cast rounds to nearest even and turns what an 8-bit float cannot hold into infinity or NaN.
ONNX's default, saturation, is a minimum and a maximum before it. The three ways to round to a power
of two (float8e8m0) are arithmetic on the bits of a float32, whose exponent field is the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes

from ...ir.errors import ModelError
from ...ir.types import F8E8M0, F32, U8, U32, DType
from ..messages import NodeProto
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx

_ROUND = {"up": (0x7FFFFF, 0x400001), "nearest": (0x400000, 0x600000), "down": (0, 0x800000)}
"""Rounding to a power of two -> (what is added before the significand is cut off, the smallest
denormal float32 that becomes 2^-126 and not 2^-127)."""
_SATURATING = ("f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz")
"""Types for which Cast's attribute ``saturate`` chooses; the narrower ones always saturate."""


def convert(
    ctx: Ctx, x: Value, to: DType, saturate: bool = True, round_mode: str = "up"
) -> Value:
    """``x`` as ``to`` by the tables of ONNX's Cast (versions 19 to 28)."""
    if to == x.dtype:
        return x
    if x.dtype.kind == "s" or to.kind == "s":
        from .ops_host import cast_strings

        return cast_strings(ctx, x, to)
    if "c" in x.dtype.kind + to.kind:
        ctx.fail(f"conversions of complex numbers ({x.dtype} to {to}) are not supported; moving"
                 " them is")
    if to == F8E8M0:
        return _to_power(ctx, x, saturate, round_mode)
    if saturate and to.name in _SATURATING:
        x = ctx.as_dtype(x, F32) if not x.dtype.is_float or x.dtype.is_coded else x
        largest = float(ml_dtypes.finfo(to.np).max)
        x = ctx.b.op("min", ctx.b.op("max", x, -largest), largest)
    return ctx.as_dtype(x, to)


def _to_power(ctx: Ctx, x: Value, saturate: bool, round_mode: str) -> Value:
    """``x`` as float8e8m0. The sign, which ONNX leaves unspecified, is ignored. Where the table of
    Cast says nothing, saturation goes to the nearest end and its absence gives NaN."""
    b = ctx.b
    if round_mode not in _ROUND:
        raise ModelError(f"round_mode is up, down or nearest, not {round_mode[:20]!r}")
    more, low = _ROUND[round_mode]

    def at_least(bound: int) -> Value:
        found: Value = b.op("le", b.const(bound, U32), bits)
        return found

    def code(number: int) -> Value:
        return b.const(number, U32)

    bits = b.op("bitand", b.op("bitcast", ctx.as_dtype(x, F32), to=U32), code(0x7FFFFFFF))
    normal = b.op("shr", b.op("add", bits, code(more)), code(23))
    tiny = b.op("cast", at_least(low), to=U32)
    result = b.op("select", at_least(0x800000), normal, tiny)
    nan = at_least(0x7F800001)
    if saturate:
        result = b.op("min", result, code(254))
    else:  # below 2^-127 or above 2^127
        nan = b.op("or", at_least(0x7F000001), b.op("not", at_least(0x400000)))
    result = b.op("select", nan, code(255), result)
    return b.op("bitcast", b.op("cast", result, to=U8), to=F8E8M0)


def _node_cast(ctx: Ctx, x: Value, to: DType) -> Value:
    saturate, mode = bool(ctx.attr("saturate", 1)), ctx.attr("round_mode", "up")
    return convert(ctx, x, to, saturate, mode)


@lowering("Cast", since=6)
def cast(ctx: Ctx, node: NodeProto) -> Value:
    """The conversion to the type ``to``."""
    return _node_cast(ctx, ctx.input(0), ctx.attr_dtype("to"))


@lowering("CastLike")
def cast_like(ctx: Ctx, node: NodeProto) -> Value:
    """The conversion to the type of the second operand."""
    return _node_cast(ctx, ctx.input(0), ctx.input(1).dtype)


@lowering("BitCast")
def bit_cast(ctx: Ctx, node: NodeProto) -> Value:
    """The same bits as another type of the same width."""
    x, to = ctx.input(0), ctx.attr_dtype("to")
    if to == x.dtype:
        return x
    if to.bits != x.dtype.bits:
        raise ModelError(f"BitCast of {x.type} to {to}: the types have different widths")
    return ctx.b.op("bitcast", x, to=to)
