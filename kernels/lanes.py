"""Arithmetic on one LLVM value with Python operators, so that formulas read as formulas.

A ``Lane`` is a scalar (the loop vectorizer turns it into a vector lane, hence the name) or a vector
of them. Float operators carry the flag ``contract`` and nothing else: multiply-adds fuse where the
target can, but nothing is reordered, so range reductions stay as written. Python numbers become
constants of the other operand's type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from .words import F32, F64, I32, I64, call, constant, like, suffix

_FLAGS = ("contract",)


class Lane:
    """An LLVM scalar together with the builder that appends to its code."""

    __slots__ = ("b", "v")

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self.b, self.v = builder, value

    @property
    def type(self) -> ir.Type:
        """LLVM type of the value."""
        return self.v.type

    @property
    def wide(self) -> bool:
        """Whether this is float64."""
        return bool(self.element == F64)

    @property
    def element(self) -> ir.Type:
        """LLVM type of one lane."""
        kind = self.v.type
        return kind.element if isinstance(kind, ir.VectorType) else kind

    def lift(self, other: Lane | float) -> Any:
        """The LLVM value of ``other``, a number becoming a constant of this lane's type."""
        return other.v if isinstance(other, Lane) else constant(self.v.type, other)

    def like(self, number: float) -> Lane:
        """A constant of this lane's type."""
        return Lane(self.b, constant(self.v.type, number))

    def _float(self) -> bool:
        return not isinstance(self.element, ir.IntType)

    def _do(self, integer: str, flt: str, other: Lane | float, swap: bool = False) -> Lane:
        pair = (self.v, self.lift(other))
        a, b = pair[::-1] if swap else pair
        if self._float():
            return Lane(self.b, getattr(self.b, flt)(a, b, flags=_FLAGS))
        return Lane(self.b, getattr(self.b, integer)(a, b))

    def __add__(self, other: Lane | float) -> Lane:
        return self._do("add", "fadd", other)

    __radd__ = __add__

    def __sub__(self, other: Lane | float) -> Lane:
        return self._do("sub", "fsub", other)

    def __rsub__(self, other: Lane | float) -> Lane:
        return self._do("sub", "fsub", other, swap=True)

    def __mul__(self, other: Lane | float) -> Lane:
        return self._do("mul", "fmul", other)

    __rmul__ = __mul__

    def __truediv__(self, other: Lane | float) -> Lane:
        return self._do("sdiv", "fdiv", other)

    def __rtruediv__(self, other: Lane | float) -> Lane:
        return self._do("sdiv", "fdiv", other, swap=True)

    def __neg__(self) -> Lane:
        return Lane(self.b, self.b.fneg(self.v) if self._float() else self.b.neg(self.v))

    def __and__(self, other: Lane | int) -> Lane:
        return Lane(self.b, self.b.and_(self.v, self.lift(other)))

    def __or__(self, other: Lane | int) -> Lane:
        return Lane(self.b, self.b.or_(self.v, self.lift(other)))

    def __xor__(self, other: Lane | int) -> Lane:
        return Lane(self.b, self.b.xor(self.v, self.lift(other)))

    def __lshift__(self, other: Lane | int) -> Lane:
        return Lane(self.b, self.b.shl(self.v, self.lift(other)))

    def __rshift__(self, other: Lane | int) -> Lane:
        """Arithmetic shift."""
        return Lane(self.b, self.b.ashr(self.v, self.lift(other)))

    def logical_shift(self, other: Lane | int) -> Lane:
        """Shift right, filling with zeros."""
        return Lane(self.b, self.b.lshr(self.v, self.lift(other)))

    def _compare(self, sign: str, other: Lane | float) -> Lane:
        if self._float():
            compare = self.b.fcmp_unordered if sign == "!=" else self.b.fcmp_ordered
        else:
            compare = self.b.icmp_signed
        return Lane(self.b, compare(sign, self.v, self.lift(other)))

    def __lt__(self, other: Lane | float) -> Lane:
        return self._compare("<", other)

    def __le__(self, other: Lane | float) -> Lane:
        return self._compare("<=", other)

    def __gt__(self, other: Lane | float) -> Lane:
        return self._compare(">", other)

    def __ge__(self, other: Lane | float) -> Lane:
        return self._compare(">=", other)

    def equals(self, other: Lane | float) -> Lane:
        """Comparison ``==`` (a method, since Python's ``==`` must stay a bool)."""
        return self._compare("==", other)

    def isnan(self) -> Lane:
        """Whether the value is NaN."""
        return Lane(self.b, self.b.fcmp_unordered("uno", self.v, self.v))

    def choose(self, yes: Lane | float, no: Lane | float) -> Lane:
        """``yes`` where this boolean holds, else ``no``; at least one must be a Lane."""
        model = yes if isinstance(yes, Lane) else no
        assert isinstance(model, Lane)
        return Lane(self.b, self.b.select(self.v, model.lift(yes), model.lift(no)))

    def call(self, name: str, *others: Lane | float) -> Lane:
        """The LLVM intrinsic ``llvm.name`` of this lane's type."""
        values = [self.v, *(self.lift(o) for o in others)]
        full = f"llvm.{name}.{suffix(self.v.type)}"
        return Lane(self.b, call(self.b, full, self.v.type, values))

    def abs(self) -> Lane:
        """Absolute value."""
        return self.call("fabs")

    def sqrt(self) -> Lane:
        """Square root."""
        return self.call("sqrt")

    def sign_of(self, other: Lane) -> Lane:
        """This magnitude with the sign of ``other``."""
        return self.call("copysign", other)

    def clamp(self, low: float, high: float) -> Lane:
        """Limited to ``[low, high]``; NaN stays NaN."""
        below = (self < low).choose(low, self)
        return (below > high).choose(high, below)

    def bits(self) -> Lane:
        """The bit pattern as an integer of equal width."""
        return self._as("bitcast", I64 if self.wide else I32)

    def real(self) -> Lane:
        """The float whose bit pattern this integer is."""
        return self._as("bitcast", F64 if self.element == I64 else F32)

    def to_f64(self) -> Lane:
        """As float64: from float32 exactly, from a signed integer rounded."""
        if self._float():
            return self if self.wide else self._as("fpext", F64)
        return self._as("sitofp", F64)

    def to_f32(self) -> Lane:
        """As float32, rounded: from float64 or from a signed integer."""
        if self._float():
            return self._as("fptrunc", F32).fenced() if self.wide else self
        return self._as("sitofp", F32)

    def fenced(self) -> Lane:
        """The same float, whose rounding LLVM does not join with a later one to half: there is no
        instruction from float64 to half, and no library here."""
        kind = self.v.type
        return Lane(self.b, call(self.b, f"llvm.arithmetic.fence.{suffix(kind)}", kind, [self.v]))

    def to_i64(self) -> Lane:
        """An integer widened without sign to 64 bits."""
        return self._as("zext", I64)

    def to_i32(self) -> Lane:
        """The low 32 bits of an integer."""
        return self._as("trunc", I32)

    def _as(self, method: str, element: ir.Type) -> Lane:
        """Converted lane by lane."""
        return Lane(self.b, getattr(self.b, method)(self.v, like(self.v.type, element)))


def horner(x: Lane, coefficients: Sequence[float]) -> Lane:
    """The polynomial with ``coefficients`` from the constant term upwards."""
    result = x.like(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result
