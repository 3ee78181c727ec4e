"""Scalar functions in ONNX; what ONNX lacks (erfc, floored modulo of floats, shifts of signed
integers, extrema of booleans) is composed."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.graph import Node
from ...ir.types import BOOL, F8E8M0, F32, I64, U8, U16, U32, U64, DType
from .context import Exporter, onnx_dtype, writes

_SAME = {
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "round": "Round",
    "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "sin": "Sin", "cos": "Cos", "tan": "Tan",
    "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh",
    "tanh": "Tanh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh", "erf": "Erf",
    "sigmoid": "Sigmoid", "reciprocal": "Reciprocal", "not": "Not", "bitnot": "BitwiseNot",
    "isnan": "IsNaN", "add": "Add", "sub": "Sub", "mul": "Mul", "pow": "Pow",
    "and": "And", "or": "Or", "xor": "Xor", "bitand": "BitwiseAnd", "bitor": "BitwiseOr",
    "bitxor": "BitwiseXor", "lt": "Less", "le": "LessOrEqual", "eq": "Equal",
}  # fmt: skip


@writes(*_SAME)
def _same(e: Exporter, node: Node, xs: list[str]) -> str:
    return str(e.emit(_SAME[node.op], *xs))


@writes("relu")
def _relu(e: Exporter, node: Node, xs: list[str]) -> str:
    t = node.out.dtype
    return str(e.emit("Relu", xs[0]) if t.is_float else e.emit("Max", xs[0], e.literal(0, t)))


@writes("erfc")
def _erfc(e: Exporter, node: Node, xs: list[str]) -> str:
    return str(e.emit("Sub", e.literal(1, node.out.dtype), e.emit("Erf", xs[0])))


@writes("isinf")
def _isinf(e: Exporter, node: Node, xs: list[str]) -> str:
    return str(
        e.emit("IsInf", xs[0], detect_positive=int(node.attrs["positive"]),
               detect_negative=int(node.attrs["negative"]))
    )  # fmt: skip


@writes("cast")
def _cast(e: Exporter, node: Node, xs: list[str]) -> str:
    """The IR's conversion to a float of at most 8 bits does not saturate."""
    to: DType = node.attrs["to"]
    attrs: dict[str, Any] = {"saturate": 0} if to.is_coded and to.bits == 8 else {}
    if to == F8E8M0:
        attrs["round_mode"] = "nearest"
    return str(e.emit("Cast", xs[0], to=onnx_dtype(to), **attrs))


@writes("bitcast")
def _bitcast(e: Exporter, node: Node, xs: list[str]) -> str:
    return str(e.emit("BitCast", xs[0], to=onnx_dtype(node.attrs["to"])))


@writes("max", "min")
def _extremum(e: Exporter, node: Node, xs: list[str]) -> str:
    if node.out.dtype == BOOL:
        return str(e.emit("Or" if node.op == "max" else "And", *xs))
    return str(e.emit("Max" if node.op == "max" else "Min", *xs))


@writes("select")
def _select(e: Exporter, node: Node, xs: list[str]) -> str:
    return e.where(xs[0], xs[1], xs[2], node.out.dtype)


def _divided(e: Exporter, node: Node, xs: list[str], op: str, **attrs: Any) -> str:
    """An integer division; dividing by zero gives 0 instead of an error."""
    t, known = node.out.dtype, e.known(node.inputs[1])
    if t.is_float or (known is not None and bool(np.all(known))):
        return str(e.emit(op, *xs, **attrs))
    by_zero = e.emit("Equal", xs[1], e.literal(0, t))
    safe = e.where(by_zero, e.literal(1, t), xs[1], t)
    return e.where(by_zero, e.literal(0, t), e.emit(op, xs[0], safe, **attrs), t)


@writes("div")
def _div(e: Exporter, node: Node, xs: list[str]) -> str:
    return _divided(e, node, xs, "Div")


@writes("fmod")
def _fmod(e: Exporter, node: Node, xs: list[str]) -> str:
    return _divided(e, node, xs, "Mod", fmod=1)


@writes("mod")
def _mod(e: Exporter, node: Node, xs: list[str]) -> str:
    t = node.out.dtype
    if t.is_integer:
        return _divided(e, node, xs, "Mod")
    rest, zero = e.emit("Mod", *xs, fmod=1), e.literal(0, t)
    other_sign = e.emit("Xor", e.emit("Less", rest, zero), e.emit("Less", xs[1], zero))
    wrong = e.emit("And", other_sign, e.emit("Not", e.emit("Equal", rest, zero)))
    return str(e.emit("Where", wrong, e.emit("Add", rest, xs[1]), rest))


_UNSIGNED = {8: U8, 16: U16, 32: U32, 64: U64}


@writes("shl", "shr")
def _shift(e: Exporter, node: Node, xs: list[str]) -> str:
    """ONNX shifts unsigned integers by less than their width."""
    t: DType = node.out.dtype
    unsigned = _UNSIGNED[t.bits]
    count = e.cast(xs[1], I64)
    inside = e.emit("Less", count, e.literal(t.bits))
    inside = e.emit("And", inside, e.emit("Not", e.emit("Less", count, e.literal(0))))
    by = e.cast(e.emit("Where", inside, count, e.literal(0)), unsigned)
    direction = "LEFT" if node.op == "shl" else "RIGHT"

    def shifted(x: str) -> str:
        return e.cast(e.emit("BitShift", e.cast(x, unsigned), by, direction=direction), t)

    result = shifted(xs[0])
    if node.op == "shr" and t.kind == "i":  # an arithmetic shift: ~(~x >> n) where x < 0
        below = e.emit("Less", xs[0], e.literal(0, t))
        flipped = e.emit("BitwiseNot", shifted(e.emit("BitwiseNot", xs[0])))
        result = e.where(below, flipped, result, t)
    return e.where(inside, result, e.literal(0, t), t)


@writes("softmax", "log_softmax")
def _softmax(e: Exporter, node: Node, xs: list[str]) -> str:
    op = "Softmax" if node.op == "softmax" else "LogSoftmax"
    return str(e.emit(op, xs[0], axis=node.attrs["axis"]))


@writes("gelu")
def _gelu(e: Exporter, node: Node, xs: list[str]) -> str:
    if node.out.dtype != F32:
        from ...ir.interp import expansion

        return e.inline(expansion(node), xs)[0]
    return str(e.emit("Gelu", xs[0], approximate=node.attrs["approximate"]))


@writes("layer_norm")
def _layer_norm(e: Exporter, node: Node, xs: list[str]) -> str:
    x, scale, bias = node.inputs
    assert x is not None
    assert scale is not None
    tail = x.shape[node.attrs["axis"] :]
    whole = scale.shape == tail and (bias is None or bias.shape == tail)
    if not whole or node.out.dtype.bits < 32:
        from ...ir.interp import expansion

        return e.inline(expansion(node), [v for v in xs if v])[0]
    return str(
        e.emit("LayerNormalization", *xs, axis=node.attrs["axis"], epsilon=node.attrs["eps"])
    )
