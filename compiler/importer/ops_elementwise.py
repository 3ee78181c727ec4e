"""Lowerings of scalar functions: arithmetic, comparison, logic and activations.

Operands broadcast as NumPy does, as ONNX has it from opset 7 on (before: ``ops_legacy``). Python
numbers among operands become constants of the tensor's type.
"""

from __future__ import annotations

from functools import reduce as fold
from typing import TYPE_CHECKING

import numpy as np

from ...ir.errors import ModelError
from ...ir.types import F32, F64
from ..messages import NodeProto
from .registry import accumulates, lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx
    from .registry import Result

_UNARY = {
    "Abs": "abs", "Neg": "neg", "Floor": "floor", "Ceil": "ceil", "Round": "round",
    "Sqrt": "sqrt", "Exp": "exp", "Log": "log", "Sin": "sin", "Cos": "cos", "Tan": "tan",
    "Asin": "asin", "Acos": "acos", "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh",
    "Tanh": "tanh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "Erf": "erf",
    "Sigmoid": "sigmoid", "Reciprocal": "reciprocal", "Relu": "relu", "Sign": "sign",
    "Not": "not", "BitwiseNot": "bitnot", "IsNaN": "isnan",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "and", "Or": "or",
    "Xor": "xor", "BitwiseAnd": "bitand", "BitwiseOr": "bitor", "BitwiseXor": "bitxor",
    "Less": "lt", "LessOrEqual": "le",
}  # fmt: skip


@lowering(*_UNARY)
def unary(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    op = _UNARY[node.op_type]
    if op == "abs" and x.dtype.kind in "ub":
        return x
    return ctx.b.op(op, x)


@lowering(*_BINARY, since=7)
def binary(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.b.op(_BINARY[node.op_type], ctx.input(0), ctx.input(1))


@lowering("Greater", "GreaterOrEqual", since=7)
def greater(ctx: Ctx, node: NodeProto) -> Value:
    op = "lt" if node.op_type == "Greater" else "le"
    return ctx.b.op(op, ctx.input(1), ctx.input(0))


@lowering("Equal", since=7)
def equal(ctx: Ctx, node: NodeProto) -> Value:
    a, b = ctx.input(0), ctx.input(1)
    if a.dtype.kind == "s":
        from .ops_host import equal_strings

        return equal_strings(ctx, a, b)
    return ctx.b.op("eq", a, b)


@lowering("Pow", since=7)
def power(ctx: Ctx, node: NodeProto) -> Value:
    x, e = ctx.input(0), ctx.input(1)
    if e.dtype.kind == "f" and x.dtype.kind in "iu":
        # A real power is truncated, which forgives no rounding: whole exponents multiply, and
        # what is within a few roundings of a whole number (9 to the 0.5) is that number.
        b, e = ctx.b, ctx.as_dtype(e, F64)
        y = b.op("pow", ctx.as_dtype(x, F64), e)
        near = b.op("round", y)
        whole = b.op("le", b.op("abs", b.op("sub", y, near)), b.op("mul", near, 2.0**-50))
        y = b.op("cast", b.op("select", whole, near, y), to=x.dtype)
        exact = b.op("pow", x, b.op("cast", e, to=x.dtype))
        return b.op("select", b.op("eq", e, b.op("round", e)), exact, y)
    return ctx.b.op("pow", x, e if e.dtype == x.dtype else ctx.as_dtype(e, x.dtype))


@lowering("Mod")
def modulo(ctx: Ctx, node: NodeProto) -> Value:
    a, b = ctx.input(0), ctx.input(1)
    fmod = ctx.attr("fmod", 0)
    if a.dtype.is_float and not fmod and ctx.opset < 28:
        raise ModelError(f"Mod of {a.dtype} needs fmod=1")
    return ctx.b.op("fmod" if fmod else "mod", a, b)


@lowering("BitShift")
def bit_shift(ctx: Ctx, node: NodeProto) -> Value:
    direction = ctx.required("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise ModelError(f"direction is LEFT or RIGHT, not {direction[:20]!r}")
    x, by = ctx.input(0), ctx.input(1)
    if direction == "RIGHT" and x.dtype.kind == "i":
        by = ctx.b.op("min", by, x.dtype.bits - 1)  # the sign fills however far it goes
    return ctx.b.op("shl" if direction == "LEFT" else "shr", x, by)


@lowering("IsInf")
def is_inf(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.b.op(
        "isinf", ctx.input(0), positive=bool(ctx.attr("detect_positive", 1)),
        negative=bool(ctx.attr("detect_negative", 1)),
    )  # fmt: skip


@lowering("Sum", "Max", "Min", "Mean", since=8)
def variadic(ctx: Ctx, node: NodeProto) -> Result:
    adds = node.op_type in ("Sum", "Mean") and len(ctx.inputs) > 1
    return (accumulates(_combined) if adds else _combined)(ctx, node)


def _combined(ctx: Ctx, node: NodeProto) -> Result:
    op = {"Sum": "add", "Mean": "add", "Max": "max", "Min": "min"}[node.op_type]
    parts = [ctx.input(i) for i in range(len(ctx.inputs))]
    total = fold(lambda x, y: ctx.b.op(op, x, y), parts)
    if node.op_type == "Mean" and len(parts) > 1:
        return ctx.b.op("mul", total, 1.0 / len(parts))
    return total


@lowering("Where")
def where(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.b.op("select", ctx.input(0), ctx.input(1), ctx.input(2))


# -- limits and copies --------------------------------------------------------------------------


@lowering("Clip", since=11)
def clip(ctx: Ctx, node: NodeProto) -> Value:
    x, low, high = ctx.input(0), ctx.optional(1), ctx.optional(2)
    if low is not None:
        x = ctx.b.op("max", x, _scalar(ctx, low))
    if high is not None:
        x = ctx.b.op("min", x, _scalar(ctx, high))
    return x


def _scalar(ctx: Ctx, value: Value) -> Value:
    """A one-element operand without axes, so that it cannot change the result's rank."""
    return value if value.rank == 0 else ctx.b.op("reshape", value, shape=())


@lowering("Identity")
def identity(ctx: Ctx, node: NodeProto) -> Value:
    return ctx.input(0)


# -- activations -------------------------------------------------------------------------------


@lowering("LeakyRelu")
def leaky_relu(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    scaled = ctx.b.op("mul", x, ctx.attr("alpha", 0.01))
    return ctx.b.op("select", ctx.b.op("lt", x, 0.0), scaled, x)


@lowering("PRelu", since=7)
def prelu(ctx: Ctx, node: NodeProto) -> Value:
    x, slope = ctx.input(0), ctx.input(1)
    zero = ctx.b.const(np.zeros((), x.dtype.np))
    scaled = ctx.b.op("mul", x, slope)
    return ctx.b.op("select", ctx.b.op("lt", x, zero), scaled, x)


@lowering("Elu")
def elu(ctx: Ctx, node: NodeProto) -> Value:
    return _elu(ctx, ctx.input(0), ctx.attr("alpha", 1.0))


def _elu(ctx: Ctx, x: Value, alpha: float) -> Value:
    b = ctx.b
    # exp of the negative part only: exp of a large x would overflow beside the branch not taken.
    low = b.op("sub", b.op("exp", b.op("min", x, 0.0)), 1.0)
    if alpha != 1.0:
        low = b.op("mul", low, alpha)
    return b.op("select", b.op("lt", x, 0.0), low, x)


@lowering("Celu")
def celu(ctx: Ctx, node: NodeProto) -> Value:
    b, x, alpha = ctx.b, ctx.input(0), ctx.attr("alpha", 1.0)
    low = b.op("sub", b.op("exp", b.op("div", b.op("min", x, 0.0), alpha)), 1.0)
    return b.op("add", b.op("relu", x), b.op("mul", low, alpha))


@lowering("Selu", since=6)
def selu(ctx: Ctx, node: NodeProto) -> Value:
    alpha = ctx.attr("alpha", 1.67326319217681884765625)
    gamma = ctx.attr("gamma", 1.05070102214813232421875)
    return ctx.b.op("mul", _elu(ctx, ctx.input(0), alpha), gamma)


@lowering("HardSigmoid")
def hard_sigmoid(ctx: Ctx, node: NodeProto) -> Value:
    return _hard_sigmoid(ctx, ctx.input(0), ctx.attr("alpha", 0.2), ctx.attr("beta", 0.5))


def _hard_sigmoid(ctx: Ctx, x: Value, alpha: float, beta: float) -> Value:
    b = ctx.b
    return b.op("min", b.op("max", b.op("add", b.op("mul", x, alpha), beta), 0.0), 1.0)


@lowering("HardSwish")
def hard_swish(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    return ctx.b.op("mul", x, _hard_sigmoid(ctx, x, 1.0 / 6.0, 0.5))


@lowering("Swish")
def swish(ctx: Ctx, node: NodeProto) -> Value:
    b, x, alpha = ctx.b, ctx.input(0), ctx.attr("alpha", 1.0)
    return b.op("mul", x, b.op("sigmoid", x if alpha == 1.0 else b.op("mul", x, alpha)))


def softplus_of(ctx: Ctx, x: Value) -> Value:
    """log(1 + exp(x)) without overflow: max(x, 0) + log(1 + exp(-|x|))."""
    b = ctx.b
    tail = b.op("exp", b.op("neg", b.op("abs", x)))
    return b.op("add", b.op("relu", x), b.op("log", b.op("add", tail, 1.0)))


@lowering("Softplus")
def softplus(ctx: Ctx, node: NodeProto) -> Value:
    return softplus_of(ctx, ctx.input(0))


@lowering("Softsign")
def softsign(ctx: Ctx, node: NodeProto) -> Value:
    b, x = ctx.b, ctx.input(0)
    return b.op("div", x, b.op("add", b.op("abs", x), 1.0))


@lowering("Mish")
def mish(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    return ctx.b.op("mul", x, ctx.b.op("tanh", softplus_of(ctx, x)))


@lowering("ThresholdedRelu")
def thresholded_relu(ctx: Ctx, node: NodeProto) -> Value:
    b, x, alpha = ctx.b, ctx.input(0), ctx.attr("alpha", 1.0)
    limit = b.const(np.asarray(alpha, x.dtype.np))
    return b.op("select", b.op("lt", limit, x), x, b.const(np.zeros((), x.dtype.np)))


@lowering("Shrink")
def shrink(ctx: Ctx, node: NodeProto) -> Value:
    b, x = ctx.b, ctx.input(0)
    lambd, bias = ctx.attr("lambd", 0.5), ctx.attr("bias", 0.0)
    if not x.dtype.is_float:
        wide = _shrink(ctx, b.op("cast", x, to=F32), lambd, bias)
        return b.op("cast", wide, to=x.dtype)
    return _shrink(ctx, x, lambd, bias)


def _shrink(ctx: Ctx, x: Value, lambd: float, bias: float) -> Value:
    b = ctx.b
    limit, zero = b.const(lambd, x.dtype), b.const(0.0, x.dtype)
    high = b.op("select", b.op("lt", limit, x), b.op("sub", x, bias), zero)
    return b.op("select", b.op("lt", x, b.op("neg", limit)), b.op("add", x, bias), high)


@lowering("Gelu")
def gelu(ctx: Ctx, node: NodeProto) -> Value:
    approximate = ctx.attr("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise ModelError(f"approximate is none or tanh, not {approximate[:20]!r}")
    return ctx.b.op("gelu", ctx.input(0), approximate=approximate)
