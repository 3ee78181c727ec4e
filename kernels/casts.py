"""Words that convert register values: casts, constants, codes and bits.

The word named like an element type converts to it, or makes the constant of a literal. Float to
integer truncates toward zero; NaN becomes 0. To i32, i64 and u64 it saturates; to u32 it saturates
to 64 bits, to 8 and 16 bits, and to fewer, to 32 bits, and then keeps the low bits, as NumPy does
on x86 (ONNX leaves values out of range open). Integers wrap. ``from_<type>`` decodes a float of at
most 8 bits, ``code_<type>`` gives the bits of a float and ``bits_<type>`` takes them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from . import machine_types as types
from .codes import decode, encode
from .intrinsics import fit, narrow, widen
from .lanes import Lane
from .words import (
    CODES,
    F32,
    F64,
    I16,
    I32,
    I64,
    LLVM_VALUES,
    SMALL,
    VALUES,
    call,
    signed,
    simple,
    word,
)


def convert(builder: ir.IRBuilder, value: Any, source: types.Type, target: types.Type) -> Any:
    """``value`` of type ``source`` as type ``target``; see the module's top."""
    if source == target:
        return value
    kind = LLVM_VALUES[target]
    is_float = isinstance(source, types.Float)
    if target == types.boolean:
        zero = ir.Constant(value.type, 0)
        if is_float:
            return builder.fcmp_unordered("!=", value, zero)
        return builder.icmp_unsigned("!=", value, zero)
    if isinstance(target, types.Float):
        if is_float:
            return builder.fpext(value, F64) if kind == F64 else Lane(builder, value).to_f32().v
        return (builder.sitofp if signed(source) else builder.uitofp)(value, kind)
    if is_float:
        return _float_to_integer(builder, value, target, kind)
    width = value.type.width
    if kind.width <= width:
        return builder.trunc(value, kind) if kind.width < width else value
    return (builder.sext if signed(source) else builder.zext)(value, kind)


def _float_to_integer(builder: ir.IRBuilder, value: Any, target: types.Type, kind: Any) -> Any:
    wide, sign = kind, "s" if signed(target) else "u"
    if kind.width < 32:
        wide, sign = I32, "s"
    elif kind.width == 32 and sign == "u":
        wide, sign = I64, "s"
    result = _saturated(builder, value, wide, sign == "s")
    return result if wide == kind else builder.trunc(result, kind)


def _saturated(b: ir.IRBuilder, value: Any, wide: ir.IntType, is_signed: bool) -> Any:
    """``value`` truncated and limited to the integer type; NaN becomes 0.

    By comparisons and selects: LLVM has an intrinsic for it (``fptosi.sat``), which it takes apart
    lane by lane where a loop is vectorized.
    """
    bits = wide.width - is_signed
    low, high = -(1 << bits) if is_signed else 0, 1 << bits
    below, above = ir.Constant(value.type, float(low)), ir.Constant(value.type, float(high))
    fits = b.and_(b.fcmp_ordered(">=", value, below), b.fcmp_ordered("<", value, above))
    safe = b.select(fits, value, ir.Constant(value.type, 0.0))
    whole = (b.fptosi if is_signed else b.fptoui)(safe, wide)
    whole = b.select(b.fcmp_ordered(">=", value, above), ir.Constant(wide, high - 1), whole)
    if not is_signed:  # what is below is 0 already
        return whole
    return b.select(b.fcmp_ordered("<", value, below), ir.Constant(wide, low), whole)


def _pick_whole(v: types.Type) -> types.Type | None:
    return types.int32 if isinstance(v, types.Float) else None


def _emit_whole(b: ir.IRBuilder, _: types.Type, value: Any) -> Any:
    zero = ir.Constant(value.type, 0.0)
    return b.fptosi(b.select(b.fcmp_ordered("ord", value, value), value, zero), I32)


simple("whole", "``v``, a float within the limits of int32, truncated; NaN becomes 0.", 1,
       _pick_whole, _emit_whole)


def _emit_nearest(b: ir.IRBuilder, _: types.Type, value: Any) -> Any:
    return call(b, "llvm.lrint.i32.f32", I32, [value])


simple("nearest", "The int32 nearest to ``v``, a float32 within its limits, halves to even. Of NaN "
       "the low 16 bits are 0: processors answer -2^31 or 0.", 1,
       lambda v: types.int32 if v == types.float32 else None, _emit_nearest)


def _double_to_odd_float(b: ir.IRBuilder, value: Any) -> Any:
    """float64 to float32 rounded to odd, so that a second rounding is as good as one.

    Boldo and Melquiond, "When double rounding is odd", 2005.
    """
    near = b.fptrunc(value, F32)
    back = b.fpext(near, F64)
    exact = b.fcmp_unordered("ueq", back, value)
    bits = b.bitcast(near, I32)
    magnitude = [call(b, "llvm.fabs.f64", F64, [v]) for v in (back, value)]
    above = b.zext(b.fcmp_ordered(">", *magnitude), I32)
    odd = b.or_(b.sub(bits, above), ir.Constant(I32, 1))
    return b.bitcast(b.select(exact, bits, odd), F32)


def _define_cast(dtype: str) -> None:
    """Register the word named like the element type: a cast, or a constant of a literal."""
    target = VALUES[dtype]
    coded, rounded = dtype in CODES, dtype in ("f16", "bf16")

    def cast(v: types.Type) -> Any:
        source = types.unliteral(v)
        if not isinstance(source, (types.Number, types.Boolean)) or source not in LLVM_VALUES:
            return None

        def build(builder: ir.IRBuilder, signature: Any, values: list[Any]) -> Any:
            value = values[0]
            plain = isinstance(target, types.Number) and not (coded or rounded or dtype in SMALL)
            if plain and isinstance(value, ir.Constant):
                if isinstance(value.constant, (int, float)):
                    return _constant(value.constant, target)
            if (coded or rounded) and source == types.float64:
                value = _double_to_odd_float(builder, value)
            else:
                value = convert(builder, value, source, types.float32 if coded else target)
            if coded:
                return encode(builder, value, dtype)
            if rounded:
                value = widen(builder, narrow(builder, value, dtype), dtype)
            return fit(builder, value, dtype)

        return target(source), build

    cast.__name__ = dtype if dtype != "bool" else "bool_"
    cast.__doc__ = f"``v`` as {dtype}; of a literal, the constant."
    word(cast)


def _constant(value: float, target: types.Type) -> ir.Constant:
    kind = LLVM_VALUES[target]
    if isinstance(target, types.Float):
        return ir.Constant(kind, float(value))
    whole = int(value)
    if whole != value:
        raise types.TypingError(f"{value} is no constant of type {target}")
    return ir.Constant(kind, whole)


for _dtype in VALUES:
    if _dtype not in ("c64", "c128"):
        _define_cast(_dtype)


def _define_code(dtype: str) -> None:
    """Register ``from_<dtype>``, what a code means."""

    def pick(v: types.Type) -> types.Type | None:
        return types.float32 if v == types.uint8 else None

    def emit(builder: ir.IRBuilder, _: types.Type, value: Any) -> Any:
        return decode(builder, value, dtype)

    simple(f"from_{dtype}", f"The float32 that the {dtype} with code ``v`` is.", 1, pick, emit)


for _dtype in CODES:
    _define_code(_dtype)


def _define_bit_constant(name: str, bits: ir.Type, result: types.Type) -> None:
    def pick(v: types.Type) -> types.Type | None:
        return result if isinstance(v, types.Integer) else None

    def emit(builder: ir.IRBuilder, _: types.Type, value: Any) -> Any:
        short = builder.trunc(value, bits) if value.type.width > bits.width else value
        return builder.bitcast(short, LLVM_VALUES[result])

    simple(name, f"The {result} with the bit pattern ``v``, an integer.", 1, pick, emit)


_define_bit_constant("bits_f32", I32, types.float32)
_define_bit_constant("bits_f64", I64, types.float64)


def _define_bits(dtype: str, code: types.Type) -> None:
    """Register ``code_<dtype>``, the bits of a float, and for 16 bits its inverse."""
    kind, stored = VALUES[dtype], LLVM_VALUES[code]

    def bits(v: types.Type) -> types.Type | None:
        return code if v == kind else None

    def emit_bits(builder: ir.IRBuilder, _: types.Type, value: Any) -> Any:
        return builder.bitcast(narrow(builder, value, dtype), stored)

    simple(f"code_{dtype}", f"The bits that {dtype} ``v`` is stored as.", 1, bits, emit_bits)

    def real(v: types.Type) -> types.Type | None:
        return kind if v == code else None

    def emit_real(builder: ir.IRBuilder, _: types.Type, value: Any) -> Any:
        return widen(builder, value, dtype)

    if stored == I16:
        simple(f"bits_{dtype}", f"The {dtype} stored as the bits ``v``.", 1, real, emit_real)


for _dtype, _code in (
    ("f16", types.uint16), ("bf16", types.uint16), ("f32", types.uint32), ("f64", types.uint64)
):  # fmt: skip
    _define_bits(_dtype, _code)


def _pick_pair(low: types.Type, high: types.Type) -> types.Type | None:
    whole = isinstance(low, types.Integer) and isinstance(high, types.Integer)
    return types.wide if whole else None


def _emit_pair(builder: ir.IRBuilder, _: types.Type, low: Any, high: Any) -> Any:
    kind = LLVM_VALUES[types.wide]
    top = builder.shl(builder.zext(high, kind), ir.Constant(kind, 64))
    return builder.or_(builder.zext(low, kind), top)


simple("pair", "The complex128 with the bits ``low`` and ``high``.", 2, _pick_pair, _emit_pair)
