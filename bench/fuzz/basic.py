"""Makers of elementwise nodes: functions, arithmetic, comparisons, bits, casts."""

from __future__ import annotations

from typing import Any

import numpy as np

from .sketch import BOOL, FLOATS, INTEGERS, UNSIGNED, Sketch, Var, allowed, np_of

_DOMAIN: dict[str, tuple[float, float]] = {
    "Exp": (-8, 8), "Sinh": (-8, 8), "Cosh": (-8, 8), "Tan": (-1.4, 1.4), "Asin": (-1, 1),
    "Acos": (-1, 1), "Atanh": (-0.95, 0.95), "Softplus": (-20, 20), "Selu": (-20, 20),
    "Celu": (-20, 20), "Elu": (-20, 20), "Mish": (-20, 20),
}  # fmt: skip
_PLAIN = (
    "Abs", "Neg", "Sign", "Floor", "Ceil", "Round", "Relu", "Sigmoid", "Tanh", "Erf", "Sin", "Cos",
    "Atan", "Asinh", "Softsign", "HardSwish", "Reciprocal", "Sqrt", "Log", "Acosh", "Identity",
    *_DOMAIN,
)
_BOUNDED = {"Sigmoid": 1.0, "Tanh": 1.0, "Erf": 1.0, "Sin": 1.0, "Cos": 1.0, "Sign": 1.0,
            "Softsign": 1.0, "Atan": 1.6}  # fmt: skip


def unary(s: Sketch) -> Any:
    """A function of one operand, of any type the schema allows."""
    kind = s.choice(_PLAIN)
    types = sorted(allowed(kind, s.opset) & {*FLOATS, *INTEGERS})
    floats = [t for t in types if t in FLOATS]
    x = s.value(floats if floats and s.flag(0.8) else types)
    if x.floating and not (s.special and s.flag(0.4)):
        if kind in _DOMAIN:
            x = s.tame(x, *_DOMAIN[kind])
        elif kind in ("Sqrt", "Log", "Acosh", "Reciprocal") and s.flag(0.8):
            low = 1.01 if kind == "Acosh" else 0.05
            x = s.op("Add", [s.op("Abs", [x], bound=x.bound), s.scalar(low, x)], bound=x.bound + 2)
    keeps = kind in ("Abs", "Neg", "Relu", "Identity", "HardSwish", "Elu", "Celu", "Mish")
    return s.op(kind, [x], bound=_BOUNDED.get(kind, x.bound if keeps else np.inf))


def activation(s: Sketch) -> Any:
    """A function with attributes."""
    x = s.floats()
    kind = s.choice(("LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid", "ThresholdedRelu", "Gelu",
                     "Shrink", "PRelu", "HardSwish", "Softplus", "Mish", "Swish"))
    alpha = s.choice((0.1, 0.5, 1.0, 1.5))
    if kind == "PRelu":
        slope = s.weight(x.dtype, [int(d or 1) if x.fixed(k) and s.flag() else 1
                                   for k, d in enumerate(x.shape)])
        return s.op(kind, [x, slope], bound=x.bound * 4)
    x = s.tame(x, -30, 30) if kind in ("Elu", "Selu", "Celu", "Softplus", "Mish") else x
    attrs: dict[str, Any] = {
        "Gelu": {"approximate": s.choice(("none", "tanh"))},
        "HardSigmoid": {"alpha": 0.3, "beta": 0.4}, "Shrink": {"lambd": alpha, "bias": 0.25},
        "Selu": {}, "HardSwish": {}, "Softplus": {}, "Mish": {},
    }.get(kind, {"alpha": alpha})
    return s.op(kind, [x], bound=x.bound * 2, **attrs)


def binary(s: Sketch) -> Any:
    """Arithmetic of two broadcasting operands."""
    kind = s.choice(("Add", "Add", "Sub", "Mul", "Mul", "Div", "Max", "Min", "Pow", "Mod"))
    types = sorted(allowed(kind, s.opset) & {*FLOATS, *INTEGERS})
    x = s.floats() if s.flag(0.7) else s.value(types)
    y = s.like(x)
    attrs: dict[str, Any] = {}
    if kind == "Mul" and x.floating and x.bound * y.bound > 1e4:
        x, y = s.tame(x, -100, 100), s.tame(y, -100, 100)
    if kind in ("Div", "Mod") and x.floating and s.flag(0.8):
        y = s.op("Add", [s.op("Abs", [y]), s.scalar(0.5, y)])
    if kind == "Mod" and (x.floating or s.flag(0.4)):
        attrs = {"fmod": 1}
    if kind == "Pow":
        if x.floating:
            x, y = s.op("Abs", [s.tame(x, -8, 8)], bound=8), s.tame(y, -3, 3)
            if s.flag(0.4):
                y = s.scalar(s.choice((0.5, 2.0, 3.0, -1.0, 1.0, 0.0, -2.0)), x)
        else:
            shape = [int(d or 0) for d in y.shape] if y.static else []
            y = s.const(s.rng.integers(0, 4, shape).astype(np_of(y.dtype)))
    pair = [x, y] if kind in ("Div", "Mod", "Pow") or s.flag() else [y, x]
    bound = {"Add": x.bound + y.bound, "Sub": x.bound + y.bound, "Mul": x.bound * y.bound,
             "Max": max(x.bound, y.bound), "Min": max(x.bound, y.bound)}.get(kind, np.inf)
    return s.op(kind, pair, bound=bound, **attrs)


def variadic(s: Sketch) -> Any:
    """Max, Min, Sum, Mean of several operands."""
    kind = s.choice(("Max", "Min", "Sum", "Mean"))
    x = s.floats() if kind in ("Sum", "Mean") or s.flag(0.6) else s.value(INTEGERS)
    return s.op(kind, [x, *(s.like(x) for _ in range(s.number(0, 2)))], bound=x.bound * 4)


def compare(s: Sketch) -> Any:
    """A comparison."""
    kind = s.choice(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"))
    types = sorted(allowed(kind, s.opset) & {*FLOATS, *INTEGERS, BOOL})
    x = s.floats() if s.flag(0.6) else s.value(types)
    return s.op(kind, [x, s.like(x)])


def logic(s: Sketch) -> Any:
    """And, Or, Xor, Not, IsNaN, IsInf."""
    kind = s.choice(("And", "Or", "Xor", "Not", "IsNaN", "IsInf"))
    if kind == "IsNaN":
        return s.op(kind, [s.floats()])
    if kind == "IsInf":
        return s.op(kind, [s.floats()], detect_negative=s.number(0, 1),
                    detect_positive=s.number(0, 1))
    x = s.value((BOOL,))
    return s.op(kind, [x] if kind == "Not" else [x, s.like(x)])


def bits(s: Sketch) -> Any:
    """Bitwise functions and shifts."""
    kind = s.choice(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift"))
    x = s.value(UNSIGNED if kind == "BitShift" else INTEGERS)
    if kind == "BitShift":
        y = s.const(s.rng.integers(0, 9, ()).astype(np_of(x.dtype)))
        return s.op(kind, [x, y], direction=s.choice(("LEFT", "RIGHT")))
    return s.op(kind, [x] if kind == "BitwiseNot" else [x, s.like(x)])


def where(s: Sketch) -> Any:
    """Where."""
    x = s.floats() if s.flag(0.7) else s.value((*INTEGERS, BOOL))
    c = s.value((BOOL,), fits=lambda v: v.rank <= x.rank and v.shapes == x.shapes) if (
        s.flag(0.4)) else s.like(x, BOOL)
    return s.op("Where", [c, x, s.like(x)], bound=x.bound * 2)


def cast(s: Sketch) -> Any:
    """Casts between all types; floats are brought into range before they become integers."""
    x = s.value((*FLOATS, *INTEGERS, BOOL))
    targets = (*FLOATS, *INTEGERS, BOOL)
    to = s.choice(FLOATS) if s.flag() else s.choice(targets)
    bound = x.bound
    if x.floating and to in INTEGERS:
        x = in_range(s, x, 0 if to in UNSIGNED else -100, 100)
        bound = 100
    elif x.floating and to in FLOATS and to != x.dtype:
        x = s.tame(x, -6e4, 6e4)
    if s.flag(0.2):
        return s.op("CastLike", [x, s.const(np.zeros((), np_of(to)))], bound=bound)
    return s.op("Cast", [x], bound=bound, to=to)


def in_range(s: Sketch, x: Var, low: float, high: float) -> Var:
    """``x`` without NaN, clipped: what may become an integer everywhere alike."""
    if s.special or not np.isfinite(x.bound):
        x = s.op("Where", [s.op("IsNaN", [x]), s.scalar(0.25, x), x], bound=x.bound)
    return s.op("Clip", [x, s.scalar(low, x), s.scalar(high, x)], bound=max(abs(low), abs(high)))


def clip(s: Sketch) -> Any:
    """Clip with any of its bounds."""
    x = s.floats() if s.flag(0.6) else s.value(INTEGERS)
    low = s.scalar(s.choice((0, 1, 2) if x.dtype in UNSIGNED else (-3, -0.5, 0)), x)
    high = s.scalar(s.choice((3, 5, 6)), x)
    ends = s.choice(([low, high], [low], [None, high]))
    return s.op("Clip", [x, *ends], bound=x.bound)


MAKERS = {unary: 10, activation: 4, binary: 12, variadic: 2, compare: 3, logic: 2, bits: 2,
          where: 3, cast: 4, clip: 2}
"""Makers and how often they are drawn."""
