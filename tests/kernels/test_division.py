"""Division by constants through two products: the same bits as the division, or the division."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from evonnx.kernels import division

rng = np.random.default_rng(5)
DIVISORS = [float(np.float32(v)) for v in (*rng.uniform(0.001, 0.1, 12), -0.3, 7.0, 1e-6, 3e9)]


def dividends(y: float) -> np.ndarray:
    """Random numbers, ties of the quotient, what is hardest for ``y``, and special values."""
    significand = int(abs(Fraction(y)) / division._unit(abs(Fraction(y))))
    hard = np.array(division._hard_dividends(significand), np.float32)
    scales = 2.0 ** np.array([-60, -24, -23, -20, 0, 60])
    halves = (rng.integers(-300, 300, 2000) + 0.5) * y
    special = [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, -1e-45, 3e38, -3e38]
    x = [rng.standard_normal(20000), np.outer(hard, scales).ravel(), -hard, halves, special]
    return np.concatenate(x).astype(np.float32)


def test_quotients(run):
    for y in (*DIVISORS, 0.25, 1e-30, 0.0, np.inf, np.nan):
        bits = int(np.float32(y).view(np.uint32))
        x = dividends(y) if y in DIVISORS else FEW
        constant = f"f32({y!r})" if np.isfinite(y) else f"bits_f32({bits})"
        text = f"quotient(a, {constant})"
        with np.errstate(all="ignore"):
            want = x / np.float32(y)
        got = run.elementwise(text, "f32", a_f32=x)
        small = np.abs(want) < 2.0**-100
        np.testing.assert_array_equal(got[~small], want[~small], str(y))
        np.testing.assert_array_equal(np.signbit(got[small]), np.signbit(want[small]))
        np.testing.assert_array_equal(np.rint(got[small]), np.rint(want[small]))


FEW = dividends(0.3)


def test_nearest(run):
    """Rounded and converted at once, by its low 16 bits; those of NaN are 0."""
    whole = np.arange(-400, 400)
    x = np.concatenate([whole, whole + 0.5, rng.normal(0, 3e4, 500), [np.nan] * 33, [-0.0]])
    x = x.astype(np.float32)
    want = np.nan_to_num(np.rint(x)).astype(np.int64)
    for kind in ("u8", "i8", "u16", "i16"):
        got = run.elementwise(f"{kind}(nearest(a))", kind, a_f32=x)
        np.testing.assert_array_equal(got, want.astype(got.dtype))
        got = run.elementwise(f"{kind}(iadd(nearest(a), i32(1000)))", kind, a_f32=x)
        np.testing.assert_array_equal(got, (want + 1000).astype(got.dtype))


def test_unproved_divisors_are_divided_by():
    """Some divisors have a dividend that no pair serves; ordinary ones mostly have a pair."""
    assert division.reciprocal(0.0) is division.reciprocal(float("inf")) is None
    assert division.reciprocal(float("nan")) is division.reciprocal(1e-30) is None
    assert division.reciprocal(-0.25) == (-4.0, 0.0)
    found = [division.reciprocal(float(np.float32(v))) for v in rng.uniform(0.001, 0.1, 200)]
    assert 150 < sum(pair is not None for pair in found) < 200


@pytest.mark.parametrize("y", DIVISORS[:2])
def test_every_significand(y):
    """All 2^23 dividends of one binade, with the fused operation done in 64 binary digits: the sum
    of the two products needs more, but only next to a middle, which the hard dividends are."""
    pair = division.reciprocal(y)
    assert pair is not None
    x = np.arange(1 << 23, 1 << 24).astype(np.float32)
    low = (x * np.float32(pair[1])).astype(np.longdouble)
    got = (x.astype(np.longdouble) * np.longdouble(pair[0]) + low).astype(np.float32)
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("no 64-digit arithmetic here")
    np.testing.assert_array_equal(got, x / np.float32(y))
