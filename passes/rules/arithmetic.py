"""Identities of scalar arithmetic, bit by bit unless marked otherwise.

``x + 0.0`` turns -0.0 into 0.0 and stays; ``x + (-0.0)`` and ``x - 0.0`` change nothing. ``x * 0``
and ``x - x`` are not constants (NaN, infinities).
"""

from __future__ import annotations

import math

import numpy as np

from ...ir.types import BOOL
from ..rule import Answer, Match, Rule, floats, integers, scalar


def _exact_reciprocal(m: Match) -> Answer:
    c = m.scalar("C")
    if c is None or not math.isfinite(c) or math.frexp(abs(c))[0] != 0.5 or abs(c) > 2.0**100:
        return "the divisor is not a moderate power of two"
    return abs(c) > 2.0**-100 or "the divisor is too small"


def _signed(m: Match) -> Answer:
    return m["x"].dtype.kind != "u" or "unsigned integers wrap"


def _bools(m: Match) -> Answer:
    return m["x"].dtype == BOOL or "x is not boolean"


def no_cancellation(m: Match) -> Answer:
    """Adding and subtracting a large number is a way to round, and must stay."""
    a, b = (m.array(k).astype(np.float64) for k in "AB")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return "A or B is not finite"
    total, largest = np.abs(a + b), np.maximum(np.abs(a), np.abs(b))
    return bool((total >= 0.5 * largest).all()) or "A and B cancel"


def _moderate_product(m: Match) -> Answer:
    a, b = (np.abs(m.array(k).astype(np.float64)) for k in "AB")
    inside = all(bool(((v > 1e-12) & (v < 1e12)).all()) for v in (a, b, a * b))
    return inside or "A, B or A * B is very large or small"


RULES: tuple[Rule, ...] = (
    # x + (-0.0) = x
    Rule("add_zero", "x + -0.0", "x"),
    # x - 0 = x
    Rule("sub_zero", "x - 0", "x"),
    # x * 1 = x
    Rule("mul_one", "x * 1", "x"),
    # x / 1 = x
    Rule("div_one", "x / 1", "x"),
    # x ** 1 = x
    Rule("pow_one", "x ** 1", "x"),
    # x ** 2 = x * x
    Rule("pow_two", "x ** 2", "x * x", when=(floats("x"),), shared=True, exact=False),
    # x ** 3 = x * x * x
    Rule("pow_three", "x ** 3", "x * x * x", when=(floats("x"),), shared=True, exact=False),
    # x / 2^k = x * 2^-k
    Rule("div_power_of_two", "x / C", "x * fold(1 / C)", shared=True,
         when=(floats("x"), scalar("C"), _exact_reciprocal)),
    # x * (-1) = -x
    Rule("mul_minus_one", "x * -1", "neg(x)", when=(floats("x"),), shared=True),
    # -(-x) = x
    Rule("neg_neg", "neg(neg(x))", "x", shared=True),
    # x - (-y) = x + y
    Rule("sub_neg", "x - neg(y)", "x + y", shared=True),
    # x + (-y) = x - y
    Rule("add_neg", "x + neg(y)", "x - y"),
    # abs(-x) = abs(x)
    Rule("abs_neg", "abs(neg(x))", "abs(x)", when=(_signed,), shared=True),
    # abs(abs(x)) = abs(x)
    Rule("abs_abs", "abs(abs(x))", "abs(x)", shared=True),
    # 1 / (1 / x): not an identity (overflow); 1 / x = reciprocal(x)
    Rule("one_over", "1 / x", "reciprocal(x)", when=(floats("x"),), shared=True),
    # (x + A) + B = x + (A + B), in modular arithmetic exactly
    Rule("add_add_integer", "(x + A) + B", "x + fold(A + B)", when=(integers("x"),)),
    # (x + A) + B = x + (A + B), up to rounding, unless A and B cancel
    Rule("add_add", "(x + A) + B", "x + fold(A + B)", exact=False,
         when=(floats("x"), no_cancellation)),
    # (x * A) * B = x * (A * B), in modular arithmetic exactly
    Rule("mul_mul_integer", "(x * A) * B", "x * fold(A * B)", when=(integers("x"),)),
    # (x * A) * B = x * (A * B), up to rounding, while A * B neither overflows nor vanishes
    Rule("mul_mul", "(x * A) * B", "x * fold(A * B)", exact=False,
         when=(floats("x"), _moderate_product)),
    # max(max(x, A), B) = max(x, max(A, B)); NaN in A or B stays NaN
    Rule("max_max", "max(max(x, A), B)", "max(x, fold(max(A, B)))"),
    # min(min(x, A), B) = min(x, min(A, B))
    Rule("min_min", "min(min(x, A), B)", "min(x, fold(min(A, B)))"),
    # max(x, x) = x
    Rule("max_same", "max(x, x)", "x"),
    # min(x, x) = x
    Rule("min_same", "min(x, x)", "x"),
    # not not x = x
    Rule("not_not", "lnot(lnot(x))", "x", shared=True),
    # x and x = x
    Rule("and_same", "land(x, x)", "x"),
    # x or x = x
    Rule("or_same", "lor(x, x)", "x"),
    # x and true = x
    Rule("and_true", "land(x, True)", "x"),
    # x or false = x
    Rule("or_false", "lor(x, False)", "x"),
    # (x = true) = x
    Rule("eq_true", "eq(x, True)", "x", when=(_bools,)),
    # select(true, x, y) = x
    Rule("select_true", "select(True, x, y)", "x"),
    # select(false, x, y) = y
    Rule("select_false", "select(False, x, y)", "y"),
    # select(c, x, x) = x
    Rule("select_same", "select(c, x, x)", "x"),
    # select(not c, x, y) = select(c, y, x)
    Rule("select_not", "select(lnot(c), x, y)", "select(c, y, x)", shared=True),
    # floor(floor(x)) = floor(x)
    Rule("floor_floor", "floor(floor(x))", "floor(x)", shared=True),
    # ceil(ceil(x)) = ceil(x)
    Rule("ceil_ceil", "ceil(ceil(x))", "ceil(x)", shared=True),
    # round(round(x)) = round(x)
    Rule("round_round", "round(round(x))", "round(x)", shared=True),
)
