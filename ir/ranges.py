"""Between which numbers the elements of a value lie, and whether one of them can be NaN.

Interval arithmetic (R. E. Moore, "Interval analysis", 1966): each op turns the ranges of its
operands into one that holds all its results, rounded outward to the result's type. So a range holds
however a result is rounded, and of a sum of a product also where both are rounded at once. What is
not known has the range of its type. The same table serves values of a graph and expressions of
single elements (``elements``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .elements import Ex
from .graph import Constants, Value
from .types import BOOL, F32, F64, DType

DEPTH = 24
"""Ops that a range is followed through; behind them everything is possible."""
EXACT = 32
"""Bits of integers whose sums and products float64, of which ranges are made, tells from those that
wrap."""
_VIEWS = frozenset({"reshape", "transpose", "slice", "expand"})
"""Ops whose elements are elements of their operand."""
_FINITE = 2.0**100
"""Sums of float32 that are below this however they are ordered, or transformed before, are
finite."""
_ROUNDED = 1 + 2.0**-10
"""How much larger rounding makes a sum of products, at most, in any order."""


class Range(NamedTuple):
    """Numbers from ``lo`` to ``hi``, infinities included where they are limits."""

    lo: float
    hi: float
    nan: bool
    """Whether NaN is possible as well."""

    def within(self, lo: float, hi: float) -> bool:
        """Whether all numbers are; NaN is none."""
        return lo <= self.lo and self.hi <= hi


def of_dtype(dtype: DType) -> Range:
    """All numbers of a type; of what is not ordered nothing is known."""
    if dtype == BOOL:
        return Range(0.0, 1.0, False)
    if dtype.kind == "u":
        return Range(0.0, float((1 << dtype.bits) - 1), False)
    if dtype.kind == "i":
        return Range(-float(1 << (dtype.bits - 1)), float((1 << (dtype.bits - 1)) - 1), False)
    return Range(-math.inf, math.inf, True)


def of_op(op: str, dtype: DType, args: Sequence[Range]) -> Range:
    """The results of an elementwise op in ``dtype`` on operands of such ranges."""
    everything = of_dtype(dtype)
    if dtype.is_float and dtype not in (F32, F64) or dtype.is_integer and dtype.bits > EXACT:
        return everything
    compute = _OPS.get(op)
    found = None if compute is None else compute(*args)
    if found is None:
        return everything
    if dtype.is_float:
        return _outward(found, dtype)
    if found.nan:  # becomes 0
        found = Range(min(found.lo, 0.0), max(found.hi, 0.0), False)
    lo, hi = (float(math.trunc(x)) if math.isfinite(x) else x for x in found[:2])
    return Range(lo, hi, False) if everything.lo <= lo and hi <= everything.hi else everything


def _outward(found: Range, dtype: DType) -> Range:
    """The range with its ends rounded to ``dtype``, away from one another."""
    kind = dtype.np.type
    with np.errstate(over="ignore"):
        lo, hi = kind(found.lo), kind(found.hi)
        if float(lo) > found.lo:
            lo = np.nextafter(lo, kind(-math.inf))
        if float(hi) < found.hi:
            hi = np.nextafter(hi, kind(math.inf))
    return Range(float(lo), float(hi), found.nan)


def _sum(a: Range, b: Range) -> Range:
    opposite = a.hi == math.inf == -b.lo or a.lo == -math.inf == -b.hi
    if opposite:
        return Range(-math.inf, math.inf, True)
    return Range(a.lo + b.lo, a.hi + b.hi, a.nan or b.nan)


def _negated(a: Range) -> Range:
    return Range(-a.hi, -a.lo, a.nan)


def _product(a: Range, b: Range) -> Range | None:
    ends = [x * y for x in a[:2] for y in b[:2]]
    if any(map(math.isinf, (*a[:2], *b[:2]))):  # zero times infinity
        return None
    return Range(min(ends), max(ends), a.nan or b.nan)


def _quotient(a: Range, b: Range) -> Range | None:
    if b.nan or b.lo <= 0.0 <= b.hi or math.isinf(b.lo) or math.isinf(b.hi):
        return None
    ends = [x / y for x in a[:2] for y in b[:2]]
    return Range(min(ends), max(ends), a.nan)


def _monotone(fn: Callable[[float], float]) -> Callable[[Range], Range]:
    def of(a: Range) -> Range:
        lo, hi = (float(fn(x)) if math.isfinite(x) else x for x in a[:2])
        return Range(lo, hi, a.nan)

    return of


_OPS: dict[str, Callable[..., Range | None]] = {
    "add": _sum, "sub": lambda a, b: _sum(a, _negated(b)), "mul": _product, "div": _quotient,
    "neg": _negated, "relu": lambda a: Range(max(a.lo, 0.0), max(a.hi, 0.0), a.nan),
    "max": lambda a, b: Range(max(a.lo, b.lo), max(a.hi, b.hi), a.nan or b.nan),
    "min": lambda a, b: Range(min(a.lo, b.lo), min(a.hi, b.hi), a.nan or b.nan),
    "round": _monotone(round), "floor": _monotone(math.floor), "ceil": _monotone(math.ceil),
    "cast": lambda a: a,
}  # fmt: skip
"""Ranges of real results; None where nothing is known."""


def of_element(ex: Ex, depth: int = DEPTH) -> Range:
    """The range of an expression of single elements."""
    if ex.kind == "const" and ex.dtype.kind in "iubf" and not ex.dtype.is_coded:
        number = float(ex.data)
        nan = math.isnan(number)
        return of_dtype(ex.dtype) if nan else Range(number, number, False)
    if ex.kind != "fn" or ex.data[0] not in _OPS or not depth:
        return of_dtype(ex.dtype)
    return of_op(ex.data[0], ex.dtype, [of_element(a, depth - 1) for a in ex.args])


class Ranges:
    """The ranges of values of one graph."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self.found: dict[tuple[Value, int], Range] = {}

    def of(self, value: Value, depth: int = DEPTH) -> Range:
        """The range of a value."""
        key = value, depth
        if key not in self.found:
            self.found[key] = self._of(value, depth)
        return self.found[key]

    def _of(self, value: Value, depth: int) -> Range:
        node, dtype = value.node, value.dtype
        if node.op == "const":
            return self._of_constant(value)
        if not depth or dtype.is_integer and dtype.bits <= 8:
            return of_dtype(dtype)
        if node.op in _VIEWS:
            return self.of(node.operands[0], depth - 1)
        if node.op in ("pad", "concat"):
            parts = [self.of(v, depth - 1) for v in node.operands]
            return Range(min(p.lo for p in parts), max(p.hi for p in parts),
                         any(p.nan for p in parts))
        if node.op == "conv" and dtype == F32:
            return self._of_conv(value, depth)
        if node.op not in _OPS:
            return of_dtype(dtype)
        return of_op(node.op, dtype, [self.of(v, depth - 1) for v in node.operands])

    def _of_constant(self, value: Value) -> Range:
        array = self.constants.get(value.node.attrs["digest"])
        if not array.size or value.dtype.kind not in "iubf" or value.dtype.bits < 8:
            return of_dtype(value.dtype)
        wide = array.astype(np.float64)
        if np.isnan(wide).any():
            return of_dtype(value.dtype)
        return Range(float(wide.min()), float(wide.max()), False)

    def _of_conv(self, value: Value, depth: int) -> Range:
        """Of constant weights: no sum is larger than that of all products' sizes."""
        x, w = value.node.operands
        image = self.of(x, depth - 1)
        if image.nan or w.node.op != "const" or not w.tensor.numel():
            return of_dtype(value.dtype)
        weights = np.abs(self.constants.get(w.node.attrs["digest"]).astype(np.float64))
        inner = -1 if value.node.attrs["layout"] == "last" else 0
        sums = np.moveaxis(weights, inner, 0).reshape(weights.shape[inner], -1).sum(1)
        most = float(sums.max()) * max(-image.lo, image.hi, 0.0) * _ROUNDED
        return Range(-most, most, False) if most < _FINITE else of_dtype(value.dtype)
