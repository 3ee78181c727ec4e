"""Division by a constant, exact, by one multiplication and one fused multiplication and addition.

``x / y`` for a ``y`` that is known when the kernel is written is ``RN(x zh + RN(x zl))``, where
``zh`` is ``1 / y`` rounded toward zero and ``zl`` about what is left of it (N. Brisebarre,
J.-M. Muller and S. K. Raina, "Accelerating correctly rounded floating-point division when the
divisor is known in advance", 2004). That takes two operations where a division of vectors takes as
long as ten, and is the correctly rounded quotient unless the exact one lies within ``2^-45`` of its
size around the middle of two neighboring numbers. For one divisor there is a handful of such
dividends; they are the solutions of linear congruences and are all tried (``reciprocal``), so what
is used is proved. Where a ``zl`` fails, its neighbors mostly do not.

``zh`` and ``zl`` have the sign of ``y``, so that infinities do not cancel; signed zeros and NaN
come out as from a division. A quotient below ``2^-100`` may be one unit in the last place off, for
which ``zl`` may be too small. Therefore only quotients that are rounded to whole numbers, as
quantization does, are computed so (``emit``).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from . import machine_types as types
from .words import F32, call, same_float, simple

DIGITS = 24
"""Binary digits of a float32."""
_NEAR = 18
"""Bound of ``|x 2^k - m y|`` for integer significands x, y and middles m (25 digits): the relative
error, ``3 2^-47`` of a neighboring ``zl``, ``2^-47`` of ``x zl`` and a little more where that is
subnormal, times ``2^25 2^24``."""
_RANGE = 2.0**60
"""Divisors beyond this, or below its reciprocal, are left to the division."""


def _unit(q: Fraction) -> Fraction:
    """What the last of ``DIGITS`` binary digits of a positive number is worth."""
    size = q.numerator.bit_length() - q.denominator.bit_length()
    unit = Fraction(2) ** (size - DIGITS)
    return unit if q < unit * (1 << DIGITS) else 2 * unit


def _nearest(q: Fraction) -> Fraction:
    """A positive number rounded to ``DIGITS`` binary digits, halves to even."""
    unit = _unit(q)
    return round(q / unit) * unit


def _hard_dividends(y: int) -> list[int]:
    """All significands ``x`` for which ``x / y`` is that near the middle of two numbers.

    Such a middle is ``m 2^-k`` with an odd ``m`` of 25 digits, where k is 24 if x >= y, else 25,
    and ``x 2^k - m y = c`` for a small c, so ``m = -c / y`` modulo ``2^k``."""
    twos = (y & -y).bit_length() - 1
    found = []
    for k in (DIGITS, DIGITS + 1):
        modulus = 1 << (k - twos)
        inverse = pow(y >> twos, -1, modulus)
        for c in (*range(-_NEAR, 0), *range(1, _NEAR + 1)):
            if c % (1 << twos):
                continue
            first = -(c >> twos) * inverse % modulus
            start = first + -(-((1 << DIGITS) - first) // modulus) * modulus
            for m in range(start, 1 << (DIGITS + 1), modulus):
                x = (m * y + c) >> k
                if (1 << (DIGITS - 1)) <= x < (1 << DIGITS) and (x >= y) == (k == DIGITS):
                    found.append(x)
    return found


@lru_cache(maxsize=1024)
def reciprocal(divisor: float) -> tuple[float, float] | None:
    """``(zh, zl)`` for a float32 divisor, so that ``fma(x, zh, x * zl)`` is the quotient; ``zl`` is
    0 for powers of two. None where that is not proved, or where the divisor is no ordinary number.
    """
    if not 1 / _RANGE <= abs(divisor) <= _RANGE:
        return None
    sign = -1 if divisor < 0 else 1
    y = abs(Fraction(divisor))
    exact = 1 / y
    unit = _unit(exact)
    high = exact // unit * unit
    if high == exact:
        return sign * float(high), 0.0
    near = _nearest(exact - high)
    dividends = [(x, _nearest(x / y)) for x in _hard_dividends(int(y / _unit(y)))]
    for low in (near, near + _unit(near), near - _unit(near)):
        if all(_nearest(x * high + _nearest(x * low)) == want for x, want in dividends):
            return sign * float(high), sign * float(low)
    return None


def _fuses(builder: ir.IRBuilder) -> bool:
    """Whether the target adds to a product before it rounds."""
    target = getattr(builder.module, "evonnx_target", None)
    return target is not None and target.has("fma")


def emit(builder: ir.IRBuilder, _: types.Type, x: Any, y: Any) -> Any:
    """The quotient as above where ``y`` is a constant and the target allows it; else divided."""
    constant = isinstance(y, ir.Constant) and x.type == F32 and _fuses(builder)
    pair = reciprocal(float(np.float32(y.constant))) if constant else None
    if pair is None:
        return builder.fdiv(x, y)
    high, low = (ir.Constant(F32, part) for part in pair)
    if pair[1] == 0.0:
        return builder.fmul(x, high)
    return call(builder, "llvm.fma.f32", F32, [x, high, builder.fmul(x, low)])


simple("quotient", "``a / b``, of which only the nearest whole number is used.", 2, same_float,
       emit)
