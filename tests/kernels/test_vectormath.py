"""Errors of the transcendental words in units of the last place, over dense samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

rng = np.random.default_rng(1)
ANY_BITS = rng.integers(0, 2**32, 2_000_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
SPECIAL = np.array(
    [0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-38, 1.17549435e-38, 3.4e38, -3.4e38, 1,
     -1, 2, -2, 0.5, -0.5, 88.72, 88.73, -87.3, -103.9, -104, 1.5707964, 3.1415927, 709.5, -745],
    np.float32,
)  # fmt: skip
erf = np.vectorize(math.erf, otypes=[np.float64])
erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# name: (reference, interval of extra samples, bound for float32, bound for float64)
CASES = {
    "exp": (np.exp, (-105, 90), 1.1, 1.1),
    "log": (np.log, (0, 10), 1.5, 1.1),
    "tanh": (np.tanh, (-10, 10), 2.7, 2.5),
    "sigmoid": (sigmoid, (-105, 105), 3.1, 2.5),
    "erf": (erf, (-4.5, 4.5), 1.5, 2.5),
    "sin": (np.sin, (-50, 50), 1.7, 2.5),
    "cos": (np.cos, (-50, 50), 1.7, 2.5),
    "tan": (np.tan, (-50, 50), 0.6, 4),
    "expm1": (np.expm1, (-20, 90), 0.6, 2.5),
    "log1p": (np.log1p, (-1, 10), 0.6, 2),
    "asin": (np.arcsin, (-1.01, 1.01), 0.6, 2.5),
    "acos": (np.arccos, (-1.01, 1.01), 0.6, 2.5),
    "atan": (np.arctan, (-10, 10), 0.6, 2.5),
    "sinh": (np.sinh, (-90, 90), 0.6, 2.5),
    "cosh": (np.cosh, (-90, 90), 0.6, 2.5),
    "asinh": (np.arcsinh, (-10, 10), 0.6, 2.5),
    "acosh": (np.arccosh, (1, 10), 0.6, 2.5),
    "atanh": (np.arctanh, (-1, 1), 0.6, 2.5),
}


def errors(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance in units of the last place of the exact result rounded to ``got``'s type."""
    info = np.finfo(got.dtype)
    limit = np.asarray(info.max, exact.dtype) * (1 + np.asarray(info.eps, exact.dtype) / 4)
    with np.errstate(all="ignore"):
        exact = np.where(np.abs(exact) > limit, np.sign(exact) * np.inf, exact)
        exponent = np.floor(np.log2(np.maximum(np.abs(exact), info.tiny)))
        distance = np.abs(got.astype(exact.dtype) - exact) / 2.0 ** (exponent - info.nmant)
        same = (np.isnan(got) & np.isnan(exact)) | (got == exact)
    return np.nan_to_num(np.where(same, 0, distance), nan=np.inf, posinf=np.inf)


def samples(name: str) -> np.ndarray:
    low, high = CASES[name][1]
    spread = np.exp2(rng.uniform(-30, 10, 200_000)) * rng.choice([-1, 1], 200_000)
    near = rng.uniform(low, high, 500_000)
    if name == "erf":  # its reference is a Python function
        return np.concatenate([near[:200_000], spread[:50_000], SPECIAL]).astype(np.float32)
    with np.errstate(invalid="ignore"):  # signaling NaN among the random bits
        return np.concatenate([ANY_BITS, near, spread, SPECIAL]).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_float32(run, name):
    reference, _, bound, _ = CASES[name]
    x = samples(name)
    with np.errstate(all="ignore"):
        exact = reference(x.astype(np.float64))
    distance = errors(run.elementwise(f"{name}(a)", "f32", a_f32=x), exact)
    worst = int(distance.argmax())
    assert distance[worst] <= bound, f"{name}({x[worst]!r}) is {distance[worst]:.2f} ulp off"


def test_erfc(run):
    """The absolute error, ends and NaN; what 1 less an error function would have lost."""
    x = np.concatenate([samples("erf"), [5.0, 7.05, 7.051, 7.06, 9, -9]]).astype(np.float32)
    got = run.elementwise("erfc(a)", "f32", a_f32=x)
    exact = erfc(x)
    np.testing.assert_allclose(got, exact, 0, 1.9e-7)
    assert (got[x > 7.1] == 0).all()
    assert (got[x < -7.1] == 2).all()
    middle = np.abs(x) < 3
    assert np.abs(got[middle] - exact[middle]).mean() < 5e-8
    high = middle & (x > 0)
    np.testing.assert_allclose(got[high], exact[high], 1e-3)
    wide = run.elementwise("erfc(a)", "f64", a_f64=x)
    np.testing.assert_allclose(wide, exact, 0, 4.5e-16)


needs_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 60, reason="long double is no wider than float64 here"
)


@needs_long_double
@pytest.mark.parametrize("name", CASES)
def test_float64(run, name):
    reference, (low, high), _, bound = CASES[name]
    low, high = {"exp": (-746, 711), "sinh": (-711, 711), "cosh": (-711, 711)}.get(
        name, (low, high)
    )
    x = np.concatenate(
        [
            rng.uniform(low, high, 60_000),
            np.exp2(rng.uniform(-60, 10, 30_000)) * rng.choice([-1, 1], 30_000),
            np.exp2(rng.uniform(-1000, 1000, 30_000)),
            SPECIAL.astype(np.float64),
        ]
    )
    wide = np.float64 if name == "erf" else np.longdouble
    with np.errstate(all="ignore"):
        exact = reference(x.astype(wide))
    distance = errors(run.elementwise(f"{name}(a)", "f64", a_f64=x), exact)
    worst = int(distance.argmax())
    assert distance[worst] <= bound, f"{name}({x[worst]!r}) is {distance[worst]:.2f} ulp off"


POW_SPECIAL = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 2, -2, 0.5, -0.5, 3, -3, 1e30])


@needs_long_double
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_pow(run, dtype):
    kind = np.float32 if dtype == "f32" else np.float64
    a = np.concatenate([np.exp2(rng.uniform(-30, 30, 100_000)), rng.uniform(0.5, 2, 100_000)])
    b = np.concatenate([rng.uniform(-5, 5, 100_000), rng.uniform(-300, 300, 100_000)])
    special = np.array(np.meshgrid(POW_SPECIAL, POW_SPECIAL)).reshape(2, -1)
    whole = np.array(np.meshgrid(np.arange(-20, 21), np.arange(-9, 10))).reshape(2, -1)
    a = np.concatenate([a, special[0], whole[0]]).astype(kind)
    b = np.concatenate([b, special[1], whole[1]]).astype(kind)
    with np.errstate(all="ignore"):
        exact = np.power(a.astype(np.longdouble), b.astype(np.longdouble))
    got = run.elementwise("pow(a, b)", dtype, **{f"a_{dtype}": a, f"b_{dtype}": b})
    assert errors(got, exact).max() <= (0.6 if dtype == "f32" else 2)
    known = ~np.isnan(got)
    assert (np.signbit(got) == np.signbit(exact))[known].all()


@pytest.mark.parametrize("name", ["sin", "tan", "tanh", "erf", "asin", "atan", "sinh", "expm1"])
def test_odd_functions_keep_negative_zero(run, name):
    got = run.elementwise(f"{name}(a)", "f32", a_f32=np.array([0.0, -0.0]))
    assert np.signbit(got).tolist() == [False, True]


def test_sine_of_huge_arguments(run):
    """Every exponent of float32, against the 80-bit reference that reduces exactly as well."""
    x = np.concatenate([np.exp2(np.arange(20.0, 128.0)) * m for m in (1.0, 1.2, 1.5, 1.9999)])
    x = x.astype(np.float32)
    exact = np.sin(x.astype(np.longdouble)).astype(np.float64)
    assert errors(run.elementwise("sin(a)", "f32", a_f32=x), exact).max() <= 1.7
