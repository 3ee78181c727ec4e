"""Float64 transcendental functions as branch-free LLVM IR; see ``vectormath`` for the error table.

- exp: ``x = n ln 2 + r``, polynomial of degree 11 in r, scaled by two powers of two.
- log: ``m = (1 + s) / (1 - s)``, ``log m = 2 s + s R(s^2)`` as in fdlibm (FreeBSD msun e_log.c).
- expm1: ``2^n (e^r - 1) + (2^n - 1)``; tanh, sinh, cosh from it.
- log1p: log of the rounded sum with its rounding error added back (W. Kahan's correction).
- erf: ``x P(x^2)`` below 1, ``1 - e^(-x^2) Q((x - 2.5) / (x + 2.5))`` beyond, the variable after
  M. Shepherd and J. Laframboise, Math. Comp. 36, 1981.
- sin, cos, tan: three-part reduction by pi/2 below 2^20, beyond it 192 digits of 2/pi by table.
- atan: reduction to ``|x| <= tan(pi/8)``; asin, acos by ``asin x = 2 asin sqrt((1 - x) / 2)``.
- pow: ``2^(y log2 |x|)`` with the logarithm as an unevaluated sum of two float64.

Coefficients are our own fits (Lawson's iteration with 50 digits).
"""

from __future__ import annotations

from itertools import pairwise

from llvmlite import ir

from .lanes import Lane, horner
from .words import I64

MAGIC = 6755399441055744.0
"""1.5 * 2^52: adding it to a float64 rounds to a whole number, kept in the low bits."""
LOG2E = 1.4426950408889634
PI = 3.141592653589793
_HALF_PI, _HALF_PI_LOW = 1.5707963267948966, 6.123233995736766e-17
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # 33 bits + rest
_EXP = (
    0.5000000000000011, 0.16666666666666405, 0.04166666666652509, 0.008333333333498711,
    0.0013888888945172173, 0.00019841269499343628, 2.4801491321472573e-05, 2.7557590501135984e-06,
    2.763093765595362e-07, 2.4999628592732507e-08,
)  # fmt: skip
_LOG = (
    0.6666666666666735, 0.3999999999940912, 0.2857142874378157, 0.22222198414964783,
    0.18183573298474884, 0.15313802681100475, 0.14798605494659575,
)  # fmt: skip
_LOG_TAIL = (  # the same with the leading coefficient exactly 2/3
    0.40000000000002295, 0.2857142857008069, 0.22222222523367466, 0.18181784058886816,
    0.1538677183981809, 0.13256472946487707, 0.1319959079035239,
)  # fmt: skip
_ERF_NEAR = (
    0.1283791670955126, -0.37612638903184126, 0.11283791670974182, -0.026866170649059877,
    0.005223977668087846, -0.0008548329799123665, 0.00012055449522407147, -1.4928941307800601e-05,
    1.6525907747524027e-06, -1.7216818256680354e-07, 2.248570534143613e-08, -5.705356136028923e-09,
    1.614964440041231e-09, -2.3463598533505285e-10,
)  # fmt: skip
_ERF_FAR = (
    0.21080636406114356, -0.37173673394897444, 0.25171319321744995, -0.1250330523782647,
    0.03992253908309086, -0.003993701162703931, -0.002642366573627511, 0.0008759106190830415,
    0.00022837121650299316, -0.0001288031639306521, -3.360497472791877e-05, 2.0526500161614324e-05,
    1.1122940724609762e-05, 1.4506056537361032e-06,
)  # fmt: skip
_SIN = (
    -0.16666666666666666, 0.008333333333333044, -0.00019841269840966113, 2.7557319076566453e-06,
    -2.5052071751123146e-08, 1.6054434759843263e-10, -7.396365500724227e-13,
)  # fmt: skip
_COS = (
    0.041666666666666595, -0.0013888888888873318, 2.480158728896387e-05, -2.755731419837943e-07,
    2.0875701795474313e-09, -1.1358508466285138e-11,
)  # fmt: skip
_ATAN = (
    -0.33333333333333326, 0.19999999999997203, -0.1428571428533873, 0.11111111085511187,
    -0.09090908059219287, 0.07692281021005581, -0.06666203354641502, 0.058768107036293774,
    -0.05217142431501972, 0.044987512521535176, -0.03336939576924153, 0.0150942964814598,
)  # fmt: skip
_ASIN = (
    0.16666666666665375, 0.07500000000344735, 0.04464285682222115, 0.030381959379584725,
    0.022371752412750932, 0.017359787566925865, 0.013884435679147367, 0.012174363235789375,
    0.006506060575325931, 0.01958738056204364, -0.016315851185802945, 0.03197435700190587,
)  # fmt: skip


# --- exponentials ---------------------------------------------------------------------------------


def _split_exp(x: Lane) -> tuple[Lane, Lane]:
    """``e^r - 1`` with ``x = n ln 2 + r``, ``|r| <= ln 2 / 2``, and ``n`` as an integer."""
    shifted = x * LOG2E + MAGIC
    n = shifted - MAGIC
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    return (r * r) * horner(r, _EXP) + r, shifted.bits() - 0x4338000000000000


def _power_of_two(n: Lane) -> Lane:
    return ((n << 52) + 0x3FF0000000000000).real()


def _scale(p: Lane, n: Lane) -> Lane:
    half = n >> 1
    return p * _power_of_two(half) * _power_of_two(n - half)


def exp64(x: Lane) -> Lane:
    """e^x."""
    p, n = _split_exp(x.clamp(-746.0, 710.0))
    return _scale(p + 1.0, n)


def expm1_64(x: Lane) -> Lane:
    """e^x - 1 without cancellation; keeps -0."""
    p, n = _split_exp(x.clamp(-50.0, 710.0))
    top = n.equals(1024).choose(n - 1, n)  # 2^1024 is no float64
    scale = _power_of_two(top)
    result = p * scale + (scale - 1.0)
    result = n.equals(1024).choose(result * 2.0 + 1.0, result)
    return x.equals(0.0).choose(x, result)


def tanh64(x: Lane) -> Lane:
    """Hyperbolic tangent."""
    t = expm1_64(x.abs() * -2.0)
    large = x.abs() > 1.0
    quotient = large.choose(t + 1.0, -t) / (t + 2.0)
    return large.choose(1.0 - 2.0 * quotient, quotient).sign_of(x)


def sigmoid64(x: Lane) -> Lane:
    """1 / (1 + e^-x)."""
    e = exp64(-x.abs())
    return (x < 0.0).choose(e, 1.0) / (e + 1.0)


def _half_exp(x: Lane) -> Lane:
    """e^x / 2, finite wherever sinh and cosh are."""
    p, n = _split_exp(x.clamp(0.0, 712.0))
    return _scale(p + 1.0, n - 1)


def sinh64(x: Lane) -> Lane:
    """Hyperbolic sine; keeps -0."""
    size = x.abs()
    t = expm1_64(size)
    small = t * 0.5 + (t / (t + 1.0)) * 0.5
    return (size > 22.0).choose(_half_exp(size), small).sign_of(x)


def cosh64(x: Lane) -> Lane:
    """Hyperbolic cosine."""
    half = _half_exp(x.abs())
    return half + 0.25 / half


# --- logarithms -----------------------------------------------------------------------------------


def _normalize(x: Lane) -> tuple[Lane, Lane]:
    """``(n, f)`` with ``x = 2^n (1 + f)``, ``1 + f`` in [sqrt(1/2), sqrt(2)), n as float64."""
    tiny = x < 2.2250738585072014e-308
    y = tiny.choose(x * 2.0**54, x)
    shifted = y.bits() - 0x3FE6A09E667F3BCD
    n = (shifted >> 52).to_f64() + tiny.choose(y.like(-54.0), 0.0)
    return n, ((shifted & 0xFFFFFFFFFFFFF) + 0x3FE6A09E667F3BCD).real() - 1.0


def _log_domain(x: Lane, result: Lane) -> Lane:
    """``result`` with the values of the logarithm at infinity, NaN, negative numbers and zero."""
    result = (x < float("inf")).choose(result, x)
    result = (x < 0.0).choose(float("nan"), result)
    return x.equals(0.0).choose(float("-inf"), result)


def _log_of(n: Lane, f: Lane, low: Lane | float) -> Lane:
    """``n ln 2 + log(1 + f) + low``."""
    s = f / (f + 2.0)
    square = s * s
    half = 0.5 * (f * f)
    r = square * horner(square, _LOG)
    return n * _LN2_HIGH - ((half - (s * (half + r) + (n * _LN2_LOW + low))) - f)


def log64(x: Lane) -> Lane:
    """Natural logarithm."""
    n, f = _normalize(x)
    return _log_domain(x, _log_of(n, f, 0.0))


def log1p_64(x: Lane) -> Lane:
    """log(1 + x) without cancellation; keeps -0."""
    u = x + 1.0
    # What the rounding of 1 + x lost, relative to u: log(u + c) = log u + c / u.
    lost = (u > 2.0).choose(1.0 - (u - x), x - (u - 1.0))
    n, f = _normalize(u)
    result = _log_of(n, f, lost / u)
    result = _log_domain(u, result)
    small = x.abs() < 2.0**-53
    return small.choose(x, result)


def asinh64(x: Lane) -> Lane:
    """Inverse hyperbolic sine."""
    size = x.abs()
    huge = size > 2.0**500  # its square overflows
    t = huge.choose(size.like(1.0), size)
    small = log1p_64(t + t * t / ((t * t + 1.0).sqrt() + 1.0))
    return huge.choose(log64(size) + 0.6931471805599453, small).sign_of(x)


def acosh64(x: Lane) -> Lane:
    """Inverse hyperbolic cosine; NaN below 1."""
    huge = x > 2.0**500
    t = huge.choose(x.like(2.0), x) - 1.0
    small = log1p_64(t + (t * 2.0 + t * t).sqrt())
    result = huge.choose(log64(x) + 0.6931471805599453, small)
    return (x < 1.0).choose(float("nan"), result)


def atanh64(x: Lane) -> Lane:
    """Inverse hyperbolic tangent; NaN outside [-1, 1]."""
    size = x.abs()
    return (log1p_64(2.0 * size / (1.0 - size)) * 0.5).sign_of(x)


# --- error function -------------------------------------------------------------------------------


def erf64(x: Lane) -> Lane:
    """Error function."""
    size, square = x.abs(), x * x
    near = x * horner(square, _ERF_NEAR) + x
    t = size.clamp(0.0, 6.0)
    q = horner((t - 2.5) / (t + 2.5), _ERF_FAR)
    far = (1.0 - exp64(-(t * t)) * q).sign_of(x)
    return (size < 1.0).choose(near, far)


# --- circular functions ---------------------------------------------------------------------------


def sine_cosine(r: Lane) -> tuple[Lane, Lane]:
    """Sine and cosine of ``|r| <= pi/4``."""
    square = r * r
    sine = (r * square) * horner(square, _SIN) + r
    half = 0.5 * square
    whole = 1.0 - half
    # The part of 1 - r^2/2 that rounding lost is added back.
    cosine = whole + (((1.0 - whole) - half) + (square * square) * horner(square, _COS))
    return sine, cosine


_TWO_OVER_PI = (  # binary digits of 2/pi, 64 at a time, the first word before the point
    0,
    0xA2F9836E4E441529, 0xFC2757D1F534DDC0, 0xDB6295993C439041, 0xFE5163ABDEBBC561,
    0xB7246E3A424DD2E0, 0x06492EEA09D1921C, 0xFE1DEB1CB129A73E, 0xE88235F52EBB4484,
    0xE99C7026B45F7E41, 0x3991D639835339F4, 0x9C845F8BBDF9283B, 0x1FF897FFDE05980F,
    0xEF2F118B5A0A6D1F, 0x6D367ECF27CB09B7, 0x4F463F669E5FEA2D, 0x7527BAC7EBE5F17B,
    0x3D0739F78A5292EA, 0x6BFB5FB11F8D5D08, 0x56033046FC7B6BAB, 0xF0CFBC209AF4361D,
)  # fmt: skip


def _digits(b: ir.IRBuilder, index: Lane) -> list[Lane]:
    """Four words of the digits of 2/pi from word ``index`` on."""
    kind = ir.ArrayType(I64, len(_TWO_OVER_PI))
    table = b.module.globals.get("two_over_pi")
    if table is None:
        table = ir.GlobalVariable(b.module, kind, "two_over_pi")
        table.initializer = ir.Constant(kind, list(_TWO_OVER_PI))
        table.global_constant, table.linkage = True, "internal"
    zero = ir.Constant(I64, 0)
    return [Lane(b, b.load(b.gep(table, [zero, (index + i).v]))) for i in range(4)]


def _high_product(a: Lane, b: Lane) -> Lane:
    """Upper 64 bits of the unsigned 128-bit product, by 32-bit halves."""
    a0, a1, b0, b1 = a & 0xFFFFFFFF, a.logical_shift(32), b & 0xFFFFFFFF, b.logical_shift(32)
    low = (a0 * b0).logical_shift(32)
    middle = a1 * b0 + low
    other = a0 * b1 + (middle & 0xFFFFFFFF)
    return a1 * b1 + middle.logical_shift(32) + other.logical_shift(32)


def _unsigned_less(a: Lane, b: Lane) -> Lane:
    return Lane(a.b, a.b.icmp_unsigned("<", a.v, b.v))


def _reduce_large(x: Lane) -> tuple[Lane, Lane]:
    """Payne and Hanek: fraction (times pi/2) and quadrant of ``m 2^e 2/pi``, ``|x| >= 1``."""
    bits = x.bits()
    skip = (bits.logical_shift(52) & 0x7FF) - (1077 - 64)
    skip = (skip < 0).choose(0, skip)  # smaller numbers: the answer is not used
    skip = (skip > 1033).choose(1033, skip)  # infinity and NaN: any digits
    words = _digits(x.b, skip.logical_shift(6))
    shift = skip & 63
    back = shift ^ 63
    w0, w1, w2 = ((a << shift) | b.logical_shift(1).logical_shift(back) for a, b in pairwise(words))
    m = (bits & 0xFFFFFFFFFFFFF) | 0x10000000000000
    # 128 bits of m * (w0 w1 w2), the top two of them the quadrant.
    low = w1 * m + _high_product(w2, m)
    carry = _unsigned_less(low, w1 * m).choose(low.like(1), 0)
    high = w0 * m + _high_product(w1, m) + carry
    quadrant = (high + (1 << 61)) >> 62
    high = high - (quadrant << 62)
    negative = high < 0
    # Magnitude of the signed 128-bit fraction, so that its leading digits are kept.
    flip = negative.choose(high.like(-1), 0)
    high, low = high ^ flip, low ^ flip
    value = (high.to_f64() * 2.0**64 + _unsigned_to_f64(low)) * (PI * 2.0**-127)
    fraction = negative.choose(-value, value)
    return (bits < 0).choose(-fraction, fraction), (bits < 0).choose(-quadrant, quadrant)


def _unsigned_to_f64(x: Lane) -> Lane:
    return Lane(x.b, x.b.uitofp(x.v, ir.DoubleType()))


def _reduce(x: Lane) -> tuple[Lane, Lane]:
    """``(r, q)`` with ``x = r + q pi/2`` modulo 2 pi, ``|r| <= pi/4``."""
    shifted = x * (2.0 / PI) + MAGIC
    n = shifted - MAGIC
    r = ((x - n * 1.5707963267341256) - n * 6.077100506303966e-11) - n * 2.0222662487959506e-21
    far, quadrant = _reduce_large(x)
    large = x.abs() >= 2.0**20
    return large.choose(far, r), large.choose(quadrant, shifted.bits())


def _sine_of(x: Lane, shift: int) -> Lane:
    r, quadrant = _reduce(x)
    sine, cosine = sine_cosine(r)
    quadrant = quadrant + shift
    value = (quadrant & 1).equals(0).choose(sine, cosine)
    flipped = (value.bits() ^ ((quadrant & 2) << 62)).real()
    return (x.abs() < float("inf")).choose(flipped, x - x)


def sin64(x: Lane) -> Lane:
    """Sine; keeps -0."""
    return x.equals(0.0).choose(x, _sine_of(x, 0))


def cos64(x: Lane) -> Lane:
    """Cosine."""
    return _sine_of(x, 1)


def tan64(x: Lane) -> Lane:
    """Tangent; keeps -0."""
    r, quadrant = _reduce(x)
    sine, cosine = sine_cosine(r)
    odd = (quadrant & 1).equals(1)
    value = odd.choose(-cosine, sine) / odd.choose(sine, cosine)
    value = (x.abs() < float("inf")).choose(value, x - x)
    return x.equals(0.0).choose(x, value)


def atan64(x: Lane) -> Lane:
    """Inverse tangent."""
    size = x.abs()
    far, middle = size > 2.414213562373095, size > 0.4142135623730951
    top = far.choose(size.like(-1.0), middle.choose(size - 1.0, size))
    bottom = far.choose(size, middle.choose(size + 1.0, 1.0))
    t = top / bottom
    t = size.equals(float("inf")).choose(t.like(0.0), t)
    square = t * t
    low = far.choose(t.like(_HALF_PI_LOW), middle.choose(t.like(0.5 * _HALF_PI_LOW), 0.0))
    base = far.choose(t.like(_HALF_PI), middle.choose(t.like(0.5 * _HALF_PI), 0.0))
    return (base + (t + ((t * square) * horner(square, _ATAN) + low))).sign_of(x)


def _asin_parts(x: Lane) -> tuple[Lane, Lane]:
    """Whether ``|x| > 1/2``, and asin of ``|x|`` or of ``sqrt((1 - |x|) / 2)``."""
    size = x.abs()
    large = size > 0.5
    z = large.choose((1.0 - size) * 0.5, size * size)
    root = large.choose(z.sqrt(), size)
    return large, (root * z) * horner(z, _ASIN) + root


def asin64(x: Lane) -> Lane:
    """Inverse sine; NaN outside [-1, 1]."""
    large, part = _asin_parts(x)
    return large.choose(_HALF_PI - (2.0 * part - _HALF_PI_LOW), part).sign_of(x)


def acos64(x: Lane) -> Lane:
    """Inverse cosine; NaN outside [-1, 1]."""
    large, part = _asin_parts(x)
    near = (x < 0.0).choose(PI - (2.0 * part - 2.0 * _HALF_PI_LOW), 2.0 * part)
    return large.choose(near, _HALF_PI - (part.sign_of(x) - _HALF_PI_LOW))


# --- power ----------------------------------------------------------------------------------------


def _pow_domain(x: Lane, y: Lane, magnitude: Lane) -> Lane:
    """``|x|^y`` to ``x^y`` with the special values of C99, appendix F.9.4.4."""
    builder, size, infinite = x.b, x.abs(), float("inf")
    half = y * 0.5
    whole = _whole(y)
    odd = Lane(builder, builder.and_(whole.v, builder.not_(_whole(half).v)))
    negative = x.bits() < 0
    flip = Lane(builder, builder.and_(negative.v, odd.v))
    result = flip.choose(-magnitude, magnitude)
    lost = Lane(builder, builder.and_((x < 0.0).v, builder.not_(whole.v)))
    lost = Lane(builder, builder.and_(lost.v, (size < infinite).v))
    result = lost.choose(float("nan"), result)
    unit = Lane(builder, builder.and_(x.equals(-1.0).v, y.abs().equals(infinite).v))
    one = Lane(builder, builder.or_(unit.v, builder.or_(x.equals(1.0).v, y.equals(0.0).v)))
    return one.choose(1.0, result)


def _whole(y: Lane) -> Lane:
    """Whether ``y`` is a whole number (every float64 from 2^52 on, and infinity, is)."""
    size = y.abs()
    rounded = (size + 2.0**52) - 2.0**52
    large = size >= 2.0**52
    return Lane(y.b, y.b.or_(rounded.equals(size).v, large.v))


def pow32(x: Lane, y: Lane) -> Lane:
    """x^y of float32 through float64: ``e^(y log |x|)``, rounded once."""
    wide, exponent = x.to_f64(), y.to_f64()
    magnitude = exp64(exponent * log64(wide.abs()))
    return _pow_domain(wide, exponent, magnitude).to_f32()


def _two_product(a: Lane, b: Lane) -> tuple[Lane, Lane]:
    """``a b`` rounded, and the rounding error (Dekker 1971, split by masking 27 bits)."""
    product = _plain(a, b, "fmul")
    ah = (a.bits() & -0x8000000).real()
    bh = (b.bits() & -0x8000000).real()
    al, bl = _plain(a, ah, "fsub"), _plain(b, bh, "fsub")
    error = _plain(_plain(ah, bh, "fmul"), product, "fsub")
    for u, v in ((ah, bl), (al, bh), (al, bl)):
        error = _plain(error, _plain(u, v, "fmul"), "fadd")
    return product, error


def _plain(a: Lane, b: Lane, operation: str) -> Lane:
    """An operation that must not be contracted."""
    return Lane(a.b, getattr(a.b, operation)(a.v, b.v))


def _two_sum(a: Lane, b: Lane) -> tuple[Lane, Lane]:
    """``a + b`` rounded, and the rounding error, for ``|a| >= |b|`` (Dekker 1971)."""
    total = _plain(a, b, "fadd")
    return total, _plain(b, _plain(total, a, "fsub"), "fsub")


def _log_pair(x: Lane) -> tuple[Lane, Lane]:
    """Logarithm of a positive finite number as a sum of two float64, about 2^-66 accurate."""
    n, f = _normalize(x)
    bottom = f + 2.0
    _, bottom_low = _two_sum(f.like(2.0), f)
    s = f / bottom
    product, error = _two_product(s, bottom)
    # s_low completes the quotient: (f - s bottom - s bottom_low) / bottom.
    s_low = (_plain(_plain(f, product, "fsub"), error, "fsub") - s * bottom_low) / bottom
    square = s * s
    # log(1 + f) = 2 s + s R(s^2); the leading 2/3 s^3 needs more digits than float64 has.
    cube, cube_low = _two_product(s, square)
    _, square_low = _two_product(s, s)
    cube_low = cube_low + s * square_low
    third, third_low = _two_product(cube, cube.like(2.0 / 3.0))
    third_low = third_low + cube_low * (2.0 / 3.0) + cube * 3.700743415417188e-17
    rest = cube * (square * horner(square, _LOG_TAIL))
    high, low = _two_sum(n * _LN2_HIGH, s * 2.0)
    high, carry = _two_sum_any(high, third)
    low = low + carry + (n * _LN2_LOW + (rest + (third_low + s_low * (square * 2.0 + 2.0))))
    return _two_sum(high, low)


def _two_sum_any(a: Lane, b: Lane) -> tuple[Lane, Lane]:
    """``a + b`` rounded, and the rounding error (Knuth)."""
    total = _plain(a, b, "fadd")
    bb = _plain(total, a, "fsub")
    lost = _plain(a, _plain(total, bb, "fsub"), "fsub")
    return total, _plain(lost, _plain(b, bb, "fsub"), "fadd")


def pow64(x: Lane, y: Lane) -> Lane:
    """x^y; the logarithm carries extra digits, so the error stays at a few units."""
    size = x.abs()
    usable = Lane(x.b, x.b.and_((size > 0.0).v, (size < float("inf")).v))
    high, low = _log_pair(usable.choose(size, 1.0))
    bounded = y.clamp(-1e300, 1e300)
    product, error = _two_product(bounded, high)
    error = error + bounded * low
    inside = product.abs() < 800.0
    power = exp64(product)
    corrected = inside.choose(power * error + power, power)
    corrected = (power < float("inf")).choose(corrected, power)
    plain = exp64(y * log64(size))  # zero, infinity and NaN
    return _pow_domain(x, y, usable.choose(y.isnan().choose(y, corrected), plain))
