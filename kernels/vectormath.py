"""Words for transcendental functions of float32 and float64, made of operations LLVM can vectorize.

No library calls, no branches; selects and bit casts only. float32 versions of the functions that
networks spend time in (exp, log, tanh, sigmoid, erf, erfc, sin, cos) compute in float32; the rest
goes through the float64 formulas of ``widemath``, rounded once. Maximum errors in units of the last
place of the result, over all inputs including denormals (measured by tests/kernels):

=========================  =======  =======   ============================================
function                   float32  float64   method
=========================  =======  =======   ============================================
exp                        1.1      1.1       2^n e^r, r by two-part ln 2, polynomial
log                        1.5      1.1       2^n m, polynomial; float64: atanh series
tanh                       2.7     2.5       m / (m + 2), m = e^(2 abs x) - 1; 16 lanes: by
                                              pieces, (t + u) / (1 + t u)
sigmoid                    3.1      2.5       e / (1 + e) or 1 / (1 + e), e = e^-abs x
erf                        1.5      2.5       x P(x^2) near 0, 1 - e^-Q outside
erfc                       -        -         by pieces or 2^-Q; its error is absolute
sin, cos                   1.7      2.5       reduction by pi/2: see below
tan                        0.6      4         quotient of both
pow                        0.6      2         see ``widemath``
all others                 0.6      2.5       see ``widemath``
=========================  =======  =======   ============================================

Method of exp, log and sin: W. Cody and W. Waite, Software Manual for the Elementary Functions,
1980, in the branch-free form of S. Moshier's Cephes library; erf as one polynomial and one
exponential after N. Juffa. All coefficients are our own: weighted minimax fits (Lawson's
iteration, 50 digits) with the leading ones rounded before the rest was fitted again.

The float32 reduction of sin and cos subtracts multiples of pi/2 in float64 below 2^25 and is exact
beyond: there the argument is an integer times a power of two, and a 96-bit window of the digits of
2/pi times that integer gives quadrant and fraction (M. Payne and R. Hanek, 1983).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from . import machine_types as types
from . import widemath
from .lanes import Lane, horner
from .micro.softmax import POWER, POWER_SHIFT
from .words import I32, I64, call, same_float, simple, suffix

LOG2E = 1.4426950408889634
_MAGIC = 12582912.0  # 1.5 * 2^23: adding it rounds to whole numbers
_SIXTEENTHS = 786432.0  # 1.5 * 2^19: adding it rounds to multiples of 1/16
_LN2_LEADING, _LN2_REST = 0.6931471824645996, -1.904654299957768e-09  # in 24 bits, and what lacks
_ROOTS = [float(np.float32(2.0 ** (k / 16))) for k in range(16)]
_CUBIC = (0.5000162124633789, 0.16666793823242188)
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # the first has 9 bits: exact times n
_EXP = (
    0.4999999403953552, 0.16666515171527863, 0.04166823998093605, 0.008369384333491325,
    0.0013824414927512407,
)  # fmt: skip
_LOG = (
    0.3333331048488617, -0.25, 0.20002225041389465, -0.16668492555618286, 0.14218132197856903,
    -0.12397352606058121, 0.11889579147100449, -0.11719564348459244, 0.06794269382953644,
)  # fmt: skip
_ERF_NEAR = (
    0.12837916612625122, -0.37612631916999817, 0.11283675581216812, -0.026858452707529068,
    0.005198870785534382, -0.000811933830846101, 8.27439216664061e-05,
)  # fmt: skip
_ERF_FAR = (
    1.128641128540039, 0.6351808309555054, 0.10618871450424194, -0.02372114360332489,
    0.0036233800929039717, -0.0003181771608069539, 1.0775571354315616e-05,
)  # fmt: skip
_ERFC = (
    1.6279085874557495, 0.9184163808822632, 0.1484816074371338, -0.02825368009507656,
    0.0007746289484202862, 0.0014894419582560658, -0.0004455077287275344, 4.535860716714524e-05,
)  # fmt: skip
_ERFC_END = 7.051  # there the fit is 127
_ERFC_STEP, _ERFC_TERMS = 0.3, 6
_TANH = (-0.3333258628845215, 0.13277550041675568, -0.04606404900550842)
_TANH_SLOPE, _TANH_START, _TANH_END = 0.82, 0.5, 9.05  # a position is slope y + start, below 8
_SIN = (-0.16666653752326965, 0.00833211001008749, -0.00019508562400005758)
_COS = (0.04166664555668831, -0.0013887302484363317, 2.4430881239823066e-05)


def _split_exp(x: Lane) -> tuple[Lane, Lane]:
    """``e^r - 1`` with ``x = n ln 2 + r``, ``|r| <= ln 2 / 2``, and ``n`` as an integer."""
    shifted = x * LOG2E + _MAGIC
    n = shifted - _MAGIC
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    return (r * r) * horner(r, _EXP) + r, shifted.bits() - 0x4B400000


def _power_of_two(n: Lane) -> Lane:
    return ((n << 23) + 0x3F800000).real()


def _scale(p: Lane, n: Lane) -> Lane:
    """``p * 2^n`` for any ``n`` of at most 9 bits, rounded once: by the instruction that does so,
    or in two steps."""
    target = getattr(p.b.module, "evonnx_target", None)
    if target is not None and target.has("avx512f"):
        full = f"llvm.ldexp.{suffix(p.type)}.{suffix(n.type)}"
        return Lane(p.b, call(p.b, full, p.type, [p.v, n.v]))
    half = n >> 1
    return p * _power_of_two(half) * _power_of_two(n - half)


def _small_exp2(t: Lane) -> Lane:
    """``2^t`` of float32 for ``-127.5 < t < 127``, 0 at the lower end (``micro.softmax`` says how);
    relative error 1.7e-7 for ``t`` as it is."""
    shifted = t + POWER_SHIFT
    r = t - (shifted - POWER_SHIFT)
    return horner(r, POWER) * (shifted.bits() << 23).real()


def exp32(x: Lane) -> Lane:
    """e^x of float32."""
    x = x.clamp(-104.0, 89.0)
    if _permutes(x):
        return _exp_by_table(x)
    p, n = _split_exp(x)
    return _scale(p + 1.0, n)


def _permutes(x: Lane) -> bool:
    """Whether a vector is one that a register of 16 numbers can be looked up in."""
    target = getattr(x.b.module, "evonnx_target", None)
    return getattr(x.type, "count", 1) == 16 and target is not None and target.has("avx512f")


def _looked_up(x: Lane, table: Sequence[float], at: Lane) -> Lane:
    """Numbers of a table of 16 in the lanes of ``x``; the last bits of ``at`` say which."""
    numbers = ir.Constant(x.type, table)
    return Lane(x.b, call(x.b, "llvm.x86.avx512.permvar.sf.512", x.type, [numbers, at.v]))


def _exp_by_table(x: Lane) -> Lane:
    """e^x of 16 lanes, -104 <= x <= 89: ``2^n e^r`` with ``n`` a multiple of 1/16.

    The fraction's power is looked up in a register (P. Tang, "Table-driven implementation of the
    exponential function", 1989), so that a cubic is enough for ``e^r - 1``. Adding a large number
    rounds to such a multiple and leaves its fraction in the last bits, where the permutation looks;
    scaling takes the integer below. ``x`` less ``n`` times the leading part of ln 2 is exact.
    """
    b, shifted = x.b, x.call("fma", LOG2E, _SIXTEENTHS)
    n = shifted - _SIXTEENTHS
    r = n.call("fma", -_LN2_LEADING, x)
    r = n.call("fma", -_LN2_REST, r)
    root = _looked_up(x, _ROOTS, shifted.bits())
    p = (r * r).call("fma", r * _CUBIC[1] + _CUBIC[0], r)
    value = root.call("fma", p, root)
    all_lanes, rounding = ir.Constant(ir.IntType(16), -1), ir.Constant(I32, 4)
    scaled = call(b, "llvm.x86.avx512.mask.scalef.ps.512", x.type,
                  [value.v, n.v, value.v, all_lanes, rounding])
    return Lane(b, scaled)


def _at_least(x: Lane, low: float) -> Lane:
    """The larger one; NaN stays NaN."""
    return (x < low).choose(low, x)


def _small_exp(x: Lane) -> Lane:
    """e^x of float32 for -87 < x < 88, where one scaling suffices."""
    p, n = _split_exp(x)
    return (p + 1.0) * _power_of_two(n)


def log32(x: Lane) -> Lane:
    """Natural logarithm of float32."""
    tiny = x < 2.0**-126
    y = tiny.choose(x * 2.0**23, x)
    offset = tiny.choose(y.like(-23.0), 0.0)
    # Exponent such that the rest lies in [sqrt(1/2), sqrt(2)).
    shifted = y.bits() - 0x3F3504F3
    n = (shifted >> 23).to_f32() + offset
    f = ((shifted & 0x7FFFFF) + 0x3F3504F3).real() - 1.0
    square = f * f
    low = n * _LN2_LOW + (f * square) * horner(f, _LOG) - 0.5 * square
    result = n * _LN2_HIGH + (f + low)
    result = (x < float("inf")).choose(result, x)  # inf and NaN map to themselves
    result = (x < 0.0).choose(float("nan"), result)
    return x.equals(0.0).choose(float("-inf"), result)


def tanh32(x: Lane) -> Lane:
    """Hyperbolic tangent of float32: ``m / (m + 2)`` of ``m = e^(2 abs x) - 1``; 1 beyond 10."""
    if _permutes(x):
        return _tanh_by_table(x)
    twice = x.abs() * 2.0
    p, n = _split_exp((twice > 20.0).choose(20.0, twice))
    scale = _power_of_two(n)
    m = p * scale + (scale - 1.0)
    return (m / (m + 2.0)).sign_of(x)


def _tanh_pieces() -> tuple[list[float], list[float]]:
    """A number in the middle of each of 16 pieces of [0, ``_TANH_END``], and ``tanh`` of it: of
    those near the middle the one where rounding both to float32 costs least, since that is made
    more by what is added. Its place is what the last two bits of the exponent and the first two
    digits of a position say, of which an octave has four pieces; the first piece's is 0."""
    centers, values = [0.0] * 16, [0.0] * 16
    for k in range(1, 16):
        width = 2.0 ** (k // 4 - 3)
        position = 4 * width + (k % 4 + 0.5) * width
        middle = (position - _TANH_START) / _TANH_SLOPE
        nearest = np.float32(math.tanh(middle))
        step = np.spacing(nearest)
        numbers = [t for n in range(-64, 65) if (t := float(nearest + n * step)) < 1]
        pairs = [(float(np.float32(math.atanh(t))), t) for t in numbers]
        near = [(c, t) for c, t in pairs if abs(c - middle) < width / 16]
        best = min(near or pairs, key=lambda p: abs(
            math.tanh(p[0]) - p[1] if near else p[0] - middle))
        place = int(np.float32(position).view(np.uint32)) >> 21 & 15
        centers[place], values[place] = best
    return centers, values


def _tanh_by_table(x: Lane) -> Lane:
    """``tanh`` of 16 lanes by that of a sum, ``(t + u) / (1 + t u)``: ``t``, of the middle of a
    piece, is looked up in a register, ``u``, of the distance from there, is an odd polynomial."""
    y = x.abs()
    y = (y > _TANH_END).choose(_TANH_END, y)
    piece = y.call("fma", _TANH_SLOPE, _TANH_START).bits().logical_shift(21)
    centers, values = _TANH_PIECES
    d, t = y - _looked_up(x, centers, piece), _looked_up(x, values, piece)
    square = d * d
    u = (d * square).call("fma", horner(square, _TANH), d)
    return ((t + u) / t.call("fma", u, 1.0)).sign_of(x)


def sigmoid32(x: Lane) -> Lane:
    """1 / (1 + e^-x) of float32."""
    y = _at_least(-x.abs(), -104.0)
    if _permutes(x):
        e = _exp_by_table(y)
    else:
        p, n = _split_exp(y)
        e = _scale(p + 1.0, n)
    return (x < 0.0).choose(e, 1.0) / (e + 1.0)


def erf32(x: Lane) -> Lane:
    """Error function of float32."""
    size, square = x.abs(), x * x
    near = x * horner(square, _ERF_NEAR) + x
    t = size.clamp(0.0, 4.0)
    far = (1.0 - _small_exp(-(t * horner(t, _ERF_FAR)))).sign_of(x)
    return (size < 0.92).choose(near, far)


def erfc32(x: Lane) -> Lane:
    """``1 - erf(x)`` of float32 by one exponential: ``erfc(y) = 2^-Q(y)`` of ``y = abs x``. Largest
    absolute error 1.8e-7, on average 1.8e-8 (1 less an exact ``erf`` has 0.9e-7 and 1.4e-8);
    2 and 0 far out. In the tail, where 1 less ``erf`` is 0, few digits are right."""
    size = x.abs()
    if _permutes(x):
        return _erfc_by_table(x, size)
    y = (size > _ERFC_END).choose(_ERFC_END, size)
    tail = _small_exp2(-(y * horner(y, _ERFC)))
    return (x > 0.0).choose(tail, 2.0 - tail)


def _erfc_pieces() -> list[list[float]]:
    """Coefficients of ``erfc(_ERFC_STEP (n + r))``, ``abs r <= 1/2``, from the constant one on,
    each for n from 0 to 15: interpolated in Chebyshev's nodes. It starts at 1 and ends at 0."""
    r = np.cos(np.pi * (np.arange(_ERFC_TERMS) + 0.5) / _ERFC_TERMS) / 2
    pieces = []
    for n in range(15):
        values = np.array([math.erfc(_ERFC_STEP * (n + t)) for t in r])
        pieces.append(np.polynomial.Polynomial.fit(r, values, _ERFC_TERMS - 1).convert().coef)
    pieces[0][0] = 1.0
    table = np.array([*pieces, np.zeros(_ERFC_TERMS)], np.float32)
    return [[float(c) for c in column] for column in table.T]


def _erfc_by_table(x: Lane, size: Lane) -> Lane:
    """``erfc`` of 16 lanes by pieces, whose coefficients are looked up in registers; largest
    absolute error 1.4e-7."""
    z = size * (1 / _ERFC_STEP)
    z = (z > 15.0).choose(15.0, z)
    shifted = z + _MAGIC
    r, piece = z - (shifted - _MAGIC), shifted.bits()
    *rest, tail = (_looked_up(x, table, piece) for table in _ERFC_PIECES)
    for coefficient in reversed(rest):
        tail = tail * r + coefficient
    return (x > 0.0).choose(tail, 2.0 - tail)


# --- sine and cosine ------------------------------------------------------------------------------

_TWO_OVER_PI = (  # binary digits of 2/pi behind the point, 64 at a time
    0xA2F9836E4E441529, 0xFC2757D1F534DDC0, 0xDB6295993C439041, 0xFE5163ABDEBBC561,
)  # fmt: skip


def _reduce(x: Lane) -> tuple[Lane, Lane]:
    """``(r, q)`` with ``x = r + q pi/2`` modulo 2 pi, float64 ``|r| <= pi/4`` and integer q."""
    wide = x.to_f64()
    shifted = wide * (2.0 / 3.141592653589793) + widemath.MAGIC
    n = shifted - widemath.MAGIC
    # 27 bits in the first part: exact times n.
    r = wide - n * 1.570796325802803 - n * 9.920935796805404e-10
    far, quadrant = _reduce_large(x)
    large = x.abs() >= 2.0**25
    return large.choose(far, r), large.choose(quadrant, shifted.bits()).to_i32()


def _reduce_large(x: Lane) -> tuple[Lane, Lane]:
    """The same for ``2^25 <= |x| < inf``, exactly: quadrant and fraction of ``m 2^e 2/pi``."""
    builder, bits = x.b, x.bits()
    # Skip the digits whose product with the integer m 2^e is a multiple of 4.
    skip = (bits.logical_shift(23) & 0xFF) - 152
    skip = (skip < 0).choose(0, skip).to_i64()
    shift = skip & 63
    words = [Lane(builder, ir.Constant(I64, w)) for w in _TWO_OVER_PI]
    second = skip > 63
    high, middle, low = (second.choose(words[i + 1], words[i]) for i in range(3))
    back = shift ^ 63
    window = (high << shift) | middle.logical_shift(1).logical_shift(back)
    rest = ((middle << shift) | low.logical_shift(1).logical_shift(back)).logical_shift(32)
    m = ((bits & 0x7FFFFF) | 0x800000).to_i64()
    product = window * m + (rest * m).logical_shift(32)
    quadrant = (product + (1 << 61)) >> 62
    fraction = (product - (quadrant << 62)).to_f64() * (3.141592653589793 * 2.0**-63)
    negative = bits < 0
    fraction = negative.choose(-fraction, fraction)
    return fraction, negative.choose(-quadrant, quadrant)


def _sine_of(x: Lane, shift: int) -> Lane:
    """sin(x + shift pi/2) of float32."""
    wide, quadrant = _reduce(x)
    r = wide.to_f32()
    square = r * r
    sine = (r * square) * horner(square, _SIN) + r
    cosine = (square * square) * horner(square, _COS) + (1.0 - 0.5 * square)
    quadrant = quadrant + shift
    value = (quadrant & 1).equals(0).choose(sine, cosine)
    flipped = (value.bits() ^ ((quadrant & 2) << 30)).real()
    # Infinity has no sine; NaN - NaN stays NaN.
    return (x.abs() < float("inf")).choose(flipped, x - x)


def sin32(x: Lane) -> Lane:
    """Sine of float32; keeps -0."""
    result = _sine_of(x, 0)
    return x.equals(0.0).choose(x, result)


def cos32(x: Lane) -> Lane:
    """Cosine of float32."""
    return _sine_of(x, 1)


def tan32(x: Lane) -> Lane:
    """Tangent of float32, the quotient in float64."""
    r, quadrant = _reduce(x)
    sine, cosine = widemath.sine_cosine(r)
    odd = (quadrant & 1).equals(1)
    value = (odd.choose(-cosine, sine) / odd.choose(sine, cosine)).to_f32()
    value = (x.abs() < float("inf")).choose(value, x - x)
    return x.equals(0.0).choose(x, value)


def _widened(function: Callable[..., Lane]) -> Callable[..., Lane]:
    """The float32 version of a float64 function, rounded once."""
    return lambda *xs: function(*(x.to_f64() for x in xs)).to_f32()


_ERFC_PIECES = _erfc_pieces()
_TANH_PIECES = _tanh_pieces()

_FUNCTIONS: dict[str, tuple[Callable[..., Lane], Callable[..., Lane]]] = {
    "exp": (exp32, widemath.exp64),
    "log": (log32, widemath.log64),
    "tanh": (tanh32, widemath.tanh64),
    "sigmoid": (sigmoid32, widemath.sigmoid64),
    "erf": (erf32, widemath.erf64),
    "erfc": (erfc32, lambda x: 1.0 - widemath.erf64(x)),
    "sin": (sin32, widemath.sin64),
    "cos": (cos32, widemath.cos64),
    "tan": (tan32, widemath.tan64),
    "pow": (widemath.pow32, widemath.pow64),
    "expm1": (_widened(widemath.expm1_64), widemath.expm1_64),
    "log1p": (_widened(widemath.log1p_64), widemath.log1p_64),
    "asin": (_widened(widemath.asin64), widemath.asin64),
    "acos": (_widened(widemath.acos64), widemath.acos64),
    "atan": (_widened(widemath.atan64), widemath.atan64),
    "sinh": (_widened(widemath.sinh64), widemath.sinh64),
    "cosh": (_widened(widemath.cosh64), widemath.cosh64),
    "asinh": (_widened(widemath.asinh64), widemath.asinh64),
    "acosh": (_widened(widemath.acosh64), widemath.acosh64),
    "atanh": (_widened(widemath.atanh64), widemath.atanh64),
}
"""Name -> builder for float32 and for float64."""


def _register(name: str, narrow: Callable[..., Lane], wide: Callable[..., Lane]) -> None:
    arity = 2 if name == "pow" else 1
    doc = f"{name} of a float; errors in the table of ``vectormath``."

    def emit(builder: ir.IRBuilder, result: types.Type, *values: Any) -> Any:
        function = narrow if result == types.float32 else wide
        return function(*(Lane(builder, v) for v in values)).v

    simple(name, doc, arity, same_float, emit)


for _name, (_narrow, _wide) in _FUNCTIONS.items():
    _register(_name, _narrow, _wide)
