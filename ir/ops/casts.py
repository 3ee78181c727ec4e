"""Conversion of numbers and reinterpretation of bits, element by element.

``cast`` is what compiled code does, for every input (``kernels/casts.py``, ``kernels/codes.py``):

- anything but zero is True; integers wrap to the low bits of a narrower type;
- float to integer truncates toward zero, NaN becomes 0. To i32, i64 and u64 it saturates, to u32
  it saturates to 64 bits and keeps the low ones, to fewer bits to 32 and keeps the low ones;
- floats round to nearest even. What a type of at most 8 bits cannot hold becomes its infinity, or
  its NaN, or, where it has neither, its largest number: ONNX's cast without saturation;
- to e8m0 (powers of two) it rounds to the nearest power, halves upward; what is not between the
  smallest and the largest one becomes NaN (ONNX Cast, column "non-saturate + nearest").

Integers reach floats of at most 16 bits through float32, as a kernel converts them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ModelError
from ..types import F8E8M0, F64, DType
from .base import Attributes, OpDef, register, tensor
from .elementwise import elementwise_access


def cast_array(x: np.ndarray, to: DType) -> np.ndarray:
    """``x`` converted to ``to``; see the module's top."""
    if to.kind == "s" or x.dtype == object:
        return x.astype(object if to.kind == "s" else to.np)
    source = DType.of(x.dtype)
    if source.is_coded:
        x = x.astype(np.float32)
    if to.kind == "b":
        return np.asarray(x != 0)
    if to.is_integer:
        return _to_integer(_whole(x, to) if source.is_float else x, to)
    if to.is_float and to.bits < 32 and source != F64:
        x = x.astype(np.float32)
    return _powers(x) if to == F8E8M0 else x.astype(to.np)


def _whole(x: np.ndarray, to: DType) -> np.ndarray:
    """Floats truncated and saturated to the integer type that the conversion to ``to`` passes."""
    via = np.dtype(np.int32 if to.bits < 32 else np.int64 if to.name == "u32" else to.np)
    info = np.iinfo(via)
    clean = np.trunc(np.nan_to_num(x.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
    # 2^63 and 2^64 are floats, their predecessors are not: compare with the next one up.
    inside = (clean >= float(info.min)) & (clean < float(info.max // 2 + 1) * 2.0)
    kept = np.where(inside, clean, 0.0).astype(via)
    return np.where(inside, kept, np.where(clean < 0, info.min, info.max).astype(via))


def _to_integer(x: np.ndarray, to: DType) -> np.ndarray:
    """Integers (or bools) with only the low bits of ``to`` kept."""
    if to.bits >= 8:
        return x.astype(to.np)
    low = x.astype(np.int64) & ((1 << to.bits) - 1)
    half = 1 << (to.bits - 1)
    return ((low ^ half) - half if to.kind == "i" else low).astype(np.int8).astype(to.np)


def _powers(x: np.ndarray) -> np.ndarray:
    """Floats as e8m0."""
    bits = np.ascontiguousarray(x.astype(np.float32)).view(np.int32).reshape(x.shape)
    code = np.where(bits < 0x800000, bits >= 0x600000, (bits + 0x400000) >> 23)
    inside = (bits >= 0x400000) & (bits <= 0x7F000000)
    return np.where(inside, code, 255).astype(np.uint8).view(F8E8M0.np)


def _infer_cast(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t, to = tensor(types[0], "cast"), attrs["to"]
    if t.dtype != to and "c" in t.dtype.kind + to.kind:
        raise ModelError(f"cast of {t} to {to}: complex numbers have no conversions")
    return (t.with_dtype(to),)


def _ref_cast(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    with np.errstate(all="ignore"):
        return (cast_array(args[0], types[0].dtype),)


register(OpDef("cast", (1, 1), _infer_cast, _ref_cast, frozenset({"elementwise"}),
               elementwise_access, 1, attrs=("to",),
               doc="conversion: truncates float to int, NaN to 0; rounds to nearest even"))


def _infer_bitcast(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t, to = tensor(types[0], "bitcast"), attrs["to"]
    if t.dtype.bits != to.bits or to.bits > 64 or "s" in t.dtype.kind + to.kind:
        raise ModelError(f"bitcast of {t} to {to}: types of one width up to 64 bits are needed")
    return (t.with_dtype(to),)


def bitcast_array(x: np.ndarray, to: DType) -> np.ndarray:
    """The elements of ``to`` with the bits of ``x``'s; a bool is whether any bit is set."""
    x = np.ascontiguousarray(x).reshape(x.shape)
    if to.bits < 8:
        return (x.view(np.uint8) & ((1 << to.bits) - 1)).view(to.np)
    return x.view(np.uint8) != 0 if to.kind == "b" else x.view(to.np)


def _ref_bitcast(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    return (bitcast_array(args[0], types[0].dtype),)


register(OpDef("bitcast", (1, 1), _infer_bitcast, _ref_bitcast, frozenset({"elementwise"}),
               elementwise_access, 1, attrs=("to",), doc="the same bits as another type"))
