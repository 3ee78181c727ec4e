"""Scalar functions applied to every element, with NumPy broadcasting.

The scalar meaning of each op is IEEE 754: NaN and infinities propagate, ``max``/``min`` return NaN
if any operand is NaN, integer arithmetic wraps, integer division truncates toward zero and
division by an integer zero gives 0 (the interpreter and every kernel agree).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..access import AccessMap, Region, broadcast_index
from ..dims import Dim
from ..erf import erf, erfc
from ..errors import ModelError
from ..types import BOOL, DType, TensorType
from .base import Attributes, OpDef, broadcast_shapes, exact, register, tensor


def _np_erf(x: np.ndarray) -> np.ndarray:
    return erf(x).astype(x.dtype)


def _np_erfc(x: np.ndarray) -> np.ndarray:
    return erfc(x).astype(x.dtype)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def _int_div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    safe = np.where(b == 0, 1, b).astype(b.dtype)
    q = np.floor_divide(a, safe)
    r = (a - q * safe).astype(a.dtype)
    q = np.where((r != 0) & ((a < 0) != (b < 0)), q + 1, q)
    return np.where(b == 0, 0, q).astype(a.dtype)


def _div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _int_div(a, b) if a.dtype.kind in "iu" else np.divide(a, b)


def _mod(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind in "iu":
        safe = np.where(b == 0, 1, b).astype(b.dtype)
        return np.where(b == 0, 0, np.mod(a, safe)).astype(a.dtype)
    return np.mod(a, b)


def _fmod(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind in "iu":
        safe = np.where(b == 0, 1, b).astype(b.dtype)
        return np.where(b == 0, 0, np.fmod(a, safe)).astype(a.dtype)
    return np.fmod(a, b)


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind in "iu":
        if b.dtype.kind in "iu":
            base, out, e = a.copy(), np.ones_like(a + b.astype(a.dtype)), np.where(b < 0, 0, b)
            base = np.broadcast_to(base, out.shape).copy()
            e = np.broadcast_to(e, out.shape).copy()
            while e.any():
                out = np.where(e & 1, out * base, out).astype(a.dtype)
                base, e = (base * base).astype(a.dtype), e >> 1
            inverse = np.where(a == 1, 1, np.where(a == -1, np.where(b & 1, -1, 1), 0))
            return np.where(b < 0, inverse, out).astype(a.dtype)
    return np.power(a, b.astype(a.dtype))


def _shl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    bits = a.dtype.itemsize * 8
    return np.where(b < bits, np.left_shift(a, np.minimum(b, bits - 1)), 0).astype(a.dtype)


def _shr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    bits = a.dtype.itemsize * 8
    return np.where(b < bits, np.right_shift(a, np.minimum(b, bits - 1)), 0).astype(a.dtype)


def _isinf(x: np.ndarray, attrs: Attributes) -> np.ndarray:
    hit = np.zeros(x.shape, dtype=bool)
    if attrs["positive"]:
        hit |= x == np.inf
    if attrs["negative"]:
        hit |= x == -np.inf
    return hit


def elementwise_access(
    types: Any, attrs: Attributes, index: tuple[Dim, ...], fresh: Any
) -> AccessMap:
    """Every operand at the result's position, broadcast."""
    shape = broadcast_shapes(*[t.shape for t in types])
    return AccessMap(tuple([Region(k, broadcast_index(t, shape, index))
                            for k, t in enumerate(types)]))


def _check_kind(op: str, t: TensorType, kinds: str) -> None:
    if t.dtype.kind not in kinds:
        raise ModelError(f"{op} is not defined for {t.dtype}")


def _infer_unary(op: str, kinds: str, out: DType | None) -> Any:
    def infer(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
        t = tensor(types[0], op)
        _check_kind(op, t, kinds)
        return (t if out is None else t.with_dtype(out),)

    return infer


def _infer_binary(op: str, kinds: str, out: DType | None) -> Any:
    def infer(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
        a, b = tensor(types[0], op), tensor(types[1], op)
        other = "iu" if a.dtype.is_integer else "iuf"
        if a.dtype != b.dtype and not (op in ("pow", "shl", "shr") and b.dtype.kind in other):
            raise ModelError(f"{op}: operand types differ: {a} and {b}")
        _check_kind(op, a, kinds)
        return (TensorType(out or a.dtype, broadcast_shapes(a.shape, b.shape)),)

    return infer


def _unary(
    name: str,
    fn: Callable[..., np.ndarray],
    kinds: str = "f",
    out: DType | None = None,
    flops: int = 1,
    doc: str = "",
) -> None:
    quiet = exact(fn)

    def reference(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
        x = args[0]
        small = DType.of(x.dtype).is_float and x.dtype.itemsize < 4
        result = quiet(x.astype(np.float32)) if small else quiet(x)
        return (np.asarray(result).astype(types[0].dtype.np),)

    register(OpDef(name, (1, 1), _infer_unary(name, kinds, out), reference,
                   frozenset({"elementwise"}), elementwise_access, flops, doc=doc or f"{name}(x)"))


def _binary(
    name: str,
    fn: Callable[..., np.ndarray],
    kinds: str = "iuf",
    out: DType | None = None,
    flops: int = 1,
    commutative: bool = False,
    doc: str = "",
) -> None:
    quiet = exact(fn)

    def reference(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
        a, b = args
        if DType.of(a.dtype).is_float and a.dtype.itemsize < 4:
            a = a.astype(np.float32)
            b = b.astype(np.float32) if DType.of(b.dtype).is_float else b
        return (np.asarray(quiet(a, b)).astype(types[0].dtype.np),)

    traits = {"elementwise"} | ({"commutative"} if commutative else set())
    register(OpDef(name, (2, 2), _infer_binary(name, kinds, out), reference, frozenset(traits),
                   elementwise_access, flops, doc=doc or f"{name}(a, b)"))


def _half_even(x: np.ndarray) -> np.ndarray:
    return np.rint(x)


# erfc stands for 1 - erf(x) in graphs: compiled, its error is small beside 1, not beside itself.
for _name, _fn, _kinds, _flops in (
    ("neg", np.negative, "iuf", 1), ("abs", np.abs, "iuf", 1), ("sign", np.sign, "iuf", 1),
    ("floor", np.floor, "f", 1), ("ceil", np.ceil, "f", 1), ("round", _half_even, "f", 1),
    ("sqrt", np.sqrt, "f", 4), ("exp", np.exp, "f", 12), ("log", np.log, "f", 16),
    ("sin", np.sin, "f", 20), ("cos", np.cos, "f", 20), ("tan", np.tan, "f", 30),
    ("asin", np.arcsin, "f", 30), ("acos", np.arccos, "f", 30), ("atan", np.arctan, "f", 30),
    ("sinh", np.sinh, "f", 30), ("cosh", np.cosh, "f", 30), ("tanh", np.tanh, "f", 16),
    ("asinh", np.arcsinh, "f", 40), ("acosh", np.arccosh, "f", 40),
    ("atanh", np.arctanh, "f", 40), ("erf", _np_erf, "f", 24), ("erfc", _np_erfc, "f", 24),
    ("sigmoid", _sigmoid, "f", 16), ("reciprocal", np.reciprocal, "f", 4),
    ("relu", lambda x: np.maximum(x, np.zeros((), x.dtype)), "iuf", 1),
):  # fmt: skip
    _unary(_name, _fn, _kinds, flops=_flops)
_unary("not", np.logical_not, "b")
_unary("bitnot", np.invert, "iu")
_unary("isnan", np.isnan, "f", BOOL)


def _ref_isinf(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    return (_isinf(args[0], attrs),)


register(OpDef("isinf", (1, 1), _infer_unary("isinf", "f", BOOL), _ref_isinf,
               frozenset({"elementwise"}), elementwise_access, 1, attrs=("positive", "negative"),
               doc="whether x is an infinity of a wanted sign"))

_BINARY: tuple[tuple[str, Callable[..., np.ndarray], str, bool, int], ...] = (
    ("add", np.add, "iuf", True, 1), ("sub", np.subtract, "iuf", False, 1),
    ("mul", np.multiply, "iuf", True, 1), ("div", _div, "iuf", False, 4),
    ("pow", _pow, "iuf", False, 30), ("mod", _mod, "iuf", False, 6),
    ("fmod", _fmod, "iuf", False, 6),
    ("max", np.maximum, "iufb", True, 1), ("min", np.minimum, "iufb", True, 1),
    ("and", np.logical_and, "b", True, 1), ("or", np.logical_or, "b", True, 1),
    ("xor", np.logical_xor, "b", True, 1),
    ("bitand", np.bitwise_and, "iu", True, 1), ("bitor", np.bitwise_or, "iu", True, 1),
    ("bitxor", np.bitwise_xor, "iu", True, 1), ("shl", _shl, "iu", False, 1),
    ("shr", _shr, "iu", False, 1),
)  # fmt: skip
for _name, _function, _kinds, _commutes, _flops in _BINARY:
    _binary(_name, _function, _kinds, flops=_flops, commutative=_commutes)
_binary("eq", np.equal, "iufb", BOOL, commutative=True)
_binary("lt", np.less, "iuf", BOOL)
_binary("le", np.less_equal, "iuf", BOOL)


def _infer_select(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    c, a, b = (tensor(t, "select") for t in types)
    if c.dtype != BOOL or a.dtype != b.dtype:
        raise ModelError(f"select needs a bool and two equal types, got {c}, {a}, {b}")
    return (TensorType(a.dtype, broadcast_shapes(c.shape, a.shape, b.shape)),)


register(OpDef("select", (3, 3), _infer_select,
               lambda args, attrs, types: (np.where(args[0], args[1], args[2]),),
               frozenset({"elementwise"}), elementwise_access, 1, doc="a where c holds, else b"))
