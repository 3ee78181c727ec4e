"""Floats of at most 8 bits: their codes to float32 and back, as LLVM code.

A register holds the code (an unsigned byte); arithmetic is done in float32. Decoding is exact: the
magnitude is shifted into a float32's place and a multiplication by a power of two corrects the
exponent, denormal numbers included. Encoding rounds to nearest even in integer arithmetic; adding
the power of two whose last bit is the smallest denormal rounds the denormal ones (F. Giesen, "half
to float done quick", 2012, for any width). What is too large becomes infinity, NaN, or the largest
number, whichever the format has; saturation is the caller's, by a minimum and a maximum before.

Formats: OCP "8-bit Floating Point Specification" 1.0 (e4m3fn, e5m2), Graphcore's fnuz variants
(one zero; the code of -0 is NaN), OCP "Microscaling Formats" 1.0 (e8m0, e2m3, e3m2, e2m1). Where
those leave it open, codes are those of ml_dtypes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .words import F32, I8, I32


@dataclass(frozen=True, slots=True)
class Format:
    """Layout of a format: sign, exponent, significand, from the top bit down."""

    exponent: int
    """Bits of the exponent."""
    mantissa: int
    """Bits of the significand that are stored."""
    bias: int
    """Exponent code of 1.0."""
    top: int
    """Code of the largest finite number."""
    overflow: int
    """Code of what is too large; ``top`` where the format has nothing beyond."""
    nan: int | None
    """Code of NaN for a positive sign; None: a NaN becomes a zero of the other sign."""

    @property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.exponent + self.mantissa)

    @property
    def one_zero(self) -> bool:
        """Whether the code of -0 means NaN."""
        return self.nan == self.sign


FORMATS: dict[str, Format] = {
    "f8e4m3fn": Format(4, 3, 7, 0x7E, 0x7F, 0x7F),
    "f8e4m3fnuz": Format(4, 3, 8, 0x7F, 0x80, 0x80),
    "f8e5m2": Format(5, 2, 15, 0x7B, 0x7C, 0x7E),
    "f8e5m2fnuz": Format(5, 2, 16, 0x7F, 0x80, 0x80),
    "f6e2m3": Format(2, 3, 1, 0x1F, 0x1F, None),
    "f6e3m2": Format(3, 2, 3, 0x1F, 0x1F, None),
    "f4e2m1": Format(2, 1, 1, 0x07, 0x07, None),
}
"""Formats with a sign, by element type."""

_INFINITY = 0x7F800000
_QUIET_NAN = 0x7FC00000


def _int(value: int) -> ir.Constant:
    return ir.Constant(I32, value)


def decode(b: ir.IRBuilder, code: Any, dtype: str) -> Any:
    """The float32 of a code (i8)."""
    bits = b.zext(code, I32)
    if dtype == "f8e8m0":
        whole = b.shl(bits, _int(23))
        whole = b.select(b.icmp_unsigned("==", bits, _int(0)), _int(0x400000), whole)
        nan = b.icmp_unsigned("==", bits, _int(255))
        return b.bitcast(b.select(nan, _int(_QUIET_NAN), whole), F32)
    f = FORMATS[dtype]
    magnitude = b.and_(bits, _int(f.sign - 1))
    sign = b.shl(b.and_(bits, _int(f.sign)), _int(31 - f.exponent - f.mantissa))
    placed = b.bitcast(b.shl(magnitude, _int(23 - f.mantissa)), F32)
    scaled = b.bitcast(b.fmul(placed, ir.Constant(F32, 2.0 ** (127 - f.bias))), I32)
    result = b.or_(scaled, sign)
    if f.one_zero:
        nan = b.icmp_unsigned("==", bits, _int(f.sign))
        result = b.select(nan, _int(_QUIET_NAN - (1 << 31)), result)
    elif f.nan is not None:
        special = b.icmp_unsigned(">", magnitude, _int(f.top))
        result = b.or_(result, b.select(special, _int(_INFINITY), _int(0)))
    return b.bitcast(result, F32)


def encode(b: ir.IRBuilder, value: Any, dtype: str) -> Any:
    """The code (i8) of a float32."""
    bits = b.bitcast(value, I32)
    magnitude = b.and_(bits, _int(0x7FFFFFFF))
    if dtype == "f8e8m0":
        return b.trunc(_encode_power(b, bits, magnitude), I8)
    f = FORMATS[dtype]
    kept = 23 - f.mantissa
    odd = b.and_(b.lshr(magnitude, _int(kept)), _int(1))
    moved = b.add(magnitude, _int(((f.bias - 127) << 23) + (1 << (kept - 1)) - 1))
    normal = b.lshr(b.add(moved, odd), _int(kept))
    unit = 2.0 ** (1 - f.bias - f.mantissa)
    magic = ir.Constant(F32, unit * 2.0**23)
    tiny = b.bitcast(b.fadd(b.bitcast(magnitude, F32), magic), I32)
    denormal = b.sub(tiny, b.bitcast(magic, I32))
    small = b.icmp_unsigned("<", magnitude, _int((128 - f.bias) << 23))
    code = b.select(small, denormal, normal)
    large = b.and_(b.not_(small), b.icmp_unsigned(">", code, _int(f.top)))
    code = b.select(large, _int(f.overflow), code)
    is_nan = b.icmp_unsigned(">", magnitude, _int(_INFINITY))
    code = b.select(is_nan, _int(0 if f.nan is None else f.nan), code)
    negative = b.icmp_signed("<", bits, _int(0))
    if f.nan is None:
        negative = b.xor(negative, is_nan)
    elif f.one_zero:
        finite = b.and_(b.icmp_unsigned("!=", code, _int(0)), b.icmp_unsigned("<=", code,
                                                                              _int(f.top)))
        negative = b.and_(negative, finite)
    return b.trunc(b.or_(code, b.select(negative, _int(f.sign), _int(0))), I8)


def _encode_power(b: ir.IRBuilder, bits: Any, magnitude: Any) -> Any:
    """e8m0 of a float32: the nearest power of two, halves upward; NaN beside the range."""
    half = _int(0x400000)
    normal = b.lshr(b.add(magnitude, half), _int(23))
    # Below 2^-126 a float32 is denormal: 2^-127 is its bit 22, code 0.
    low = b.zext(b.icmp_unsigned(">=", magnitude, _int(0x600000)), I32)
    code = b.select(b.icmp_unsigned("<", magnitude, _int(0x800000)), low, normal)
    inside = b.and_(b.icmp_signed(">=", bits, half), b.icmp_signed("<=", bits, _int(0x7F000000)))
    return b.select(inside, code, _int(255))
