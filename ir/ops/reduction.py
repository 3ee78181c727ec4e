"""Reductions along axes, arg-reductions, running reductions, top-k."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..access import AccessMap, Region
from ..dims import Dim
from ..errors import ModelError
from ..types import I64, DType, TensorType
from .base import Attributes, OpDef, register, tensor

REDUCE_KINDS = ("sum", "prod", "max", "min", "mean")


def reduced_shape(
    shape: tuple[Dim, ...], axes: tuple[int, ...], keepdims: bool
) -> tuple[Dim, ...]:
    """Shape after reducing ``axes``."""
    if keepdims:
        return tuple(1 if i in axes else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def _check_axes(t: TensorType, axes: tuple[int, ...], op: str) -> None:
    if len(set(axes)) != len(axes) or not all(0 <= a < t.rank for a in axes):
        raise ModelError(f"{op}: axes {axes} of {t}")


def _infer_reduce(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "reduce")
    _check_axes(t, attrs["axes"], "reduce")
    if attrs["kind"] not in REDUCE_KINDS or t.dtype.kind not in "biuf" or (
        t.dtype.kind == "b" and attrs["kind"] not in ("max", "min")
    ):
        raise ModelError(f"reduce: kind {attrs['kind']!r} of {t.dtype}")
    return (t.with_shape(reduced_shape(t.shape, attrs["axes"], attrs["keepdims"])),)


def _full_index(
    t: TensorType, axes: tuple[int, ...], keepdims: bool, index: tuple[Dim, ...], fresh: Any
) -> tuple[tuple[Dim, ...], tuple[tuple[Dim, Dim], ...]]:
    rest = iter(index)
    at: list[Dim] = []
    reduced: list[tuple[Dim, Dim]] = []
    for axis, size in enumerate(t.shape):
        if axis in axes:
            v = fresh(size)
            reduced.append((v, size))
            at.append(v)
            if keepdims:
                next(rest)
        else:
            at.append(next(rest))
    return tuple(at), tuple(reduced)


def _access_reduce(
    types: Any, attrs: Attributes, index: tuple[Dim, ...], fresh: Any
) -> AccessMap:
    at, reduced = _full_index(types[0], attrs["axes"], attrs["keepdims"], index, fresh)
    return AccessMap((Region(0, at),), reduced)


def identity(kind: str, dtype: DType) -> Any:
    """Neutral element of a reduction, which is also the value over no elements."""
    if kind in ("sum", "mean"):
        return dtype.np.type(0)
    if kind == "prod":
        return dtype.np.type(1)
    if dtype.kind == "b":
        return np.bool_(kind == "min")
    if dtype.is_float:
        return dtype.np.type(-np.inf if kind == "max" else np.inf)
    info = np.iinfo(dtype.np)
    return dtype.np.type(info.min if kind == "max" else info.max)


def _ref_reduce(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    x, kind, axes = args[0], attrs["kind"], tuple(attrs["axes"])
    dtype = DType.of(x.dtype)
    keep = bool(attrs["keepdims"])
    work = x.astype(np.float32) if dtype.is_float and dtype.bits < 32 else x
    with np.errstate(all="ignore"):
        if kind in ("max", "min"):
            fn: Any = np.maximum if kind == "max" else np.minimum
            if dtype.kind == "b":
                fn = np.logical_or if kind == "max" else np.logical_and
            out = fn.reduce(work, axis=axes, keepdims=keep,
                            initial=work.dtype.type(identity(kind, dtype)))
        elif kind == "prod":
            out = np.prod(work, axis=axes, keepdims=keep, dtype=work.dtype)
        else:
            out = np.sum(work, axis=axes, keepdims=keep, dtype=work.dtype)
            if kind == "mean":
                n = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
                out = out / work.dtype.type(n) if dtype.is_float else (
                    np.zeros_like(out) if n == 0 else np.trunc(out / n))
    return (np.asarray(out).astype(x.dtype),)


register(OpDef("reduce", (1, 1), _infer_reduce, _ref_reduce, frozenset({"reduction"}),
               _access_reduce, attrs=("kind", "axes", "keepdims"),
               doc="sum, prod, max, min or mean over axes; over nothing, the neutral element"))


def _infer_arg(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "argmax")
    _check_axes(t, (attrs["axis"],), "argmax")
    if t.dtype.kind not in "biuf" or t.dtype.is_coded:
        raise ModelError(f"argmax is not defined for {t.dtype}")
    return (TensorType(I64, reduced_shape(t.shape, (attrs["axis"],), attrs["keepdims"])),)


def _ref_arg(sign: int) -> Any:
    def reference(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
        x, axis = args[0], attrs["axis"]
        fn = np.argmax if sign > 0 else np.argmin
        if x.shape[axis] == 0:
            raise ModelError("argmax over an axis of size 0")
        if attrs["select_last"]:
            out = x.shape[axis] - 1 - fn(np.flip(x, axis), axis=axis)
        else:
            out = fn(x, axis=axis)
        out = np.asarray(out, dtype=np.int64)
        return (np.expand_dims(out, axis) if attrs["keepdims"] else out,)

    return reference


for _name, _sign in (("argmax", 1), ("argmin", -1)):
    register(OpDef(_name, (1, 1), _infer_arg, _ref_arg(_sign), frozenset({"opaque", "scan"}),
                   attrs=("axis", "keepdims", "select_last"),
                   doc="position of the extreme along an axis; NaN counts as the extreme"))


def _infer_cumulate(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "cumulate")
    _check_axes(t, (attrs["axis"],), "cumulate")
    if t.dtype.kind not in "biuf" or t.dtype.is_coded:
        raise ModelError(f"cumulate is not defined for {t.dtype}")
    return (t,)


def _ref_cumulate(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    x, axis = args[0], attrs["axis"]
    fn = np.cumsum if attrs["kind"] == "sum" else np.cumprod
    work = np.flip(x, axis) if attrs["reverse"] else x
    with np.errstate(all="ignore"):
        if attrs["exclusive"]:
            lead = list(x.shape)
            lead[axis] = min(1, x.shape[axis])
            cut = np.take(work, np.arange(max(x.shape[axis] - 1, 0)), axis=axis)
            unit = np.full(lead, 0 if attrs["kind"] == "sum" else 1, dtype=x.dtype)
            work = np.concatenate([unit, cut], axis=axis)
        out = fn(work, axis=axis, dtype=x.dtype)
    return (np.asarray(np.flip(out, axis) if attrs["reverse"] else out, order="C"),)


register(OpDef("cumulate", (1, 1), _infer_cumulate, _ref_cumulate, frozenset({"opaque", "scan"}),
               attrs=("kind", "axis", "exclusive", "reverse"),
               doc="running sum or product along an axis"))


def _infer_topk(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "topk")
    _check_axes(t, (attrs["axis"],), "topk")
    if t.dtype.kind not in "biuf" or t.dtype.is_coded:
        raise ModelError(f"topk is not defined for {t.dtype}")
    size, k = t.shape[attrs["axis"]], attrs["k"]
    if isinstance(size, int) and isinstance(k, int) and not 0 <= k <= size:
        raise ModelError(f"topk: k {k} of an axis of {size}")
    shape = tuple(k if i == attrs["axis"] else d for i, d in enumerate(t.shape))
    return (t.with_shape(shape), TensorType(I64, shape))


def _ref_topk(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    x, axis, k = args[0], attrs["axis"], attrs["k"]
    if attrs["largest"]:
        flipped = np.flip(x, axis)
        order = x.shape[axis] - 1 - np.flip(np.argsort(flipped, axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    order = np.take(order, np.arange(k), axis=axis)
    return (np.take_along_axis(x, order, axis), order.astype(np.int64))


register(OpDef("topk", (1, 1), _infer_topk, _ref_topk, frozenset({"opaque", "sort"}),
               attrs=("axis", "k", "largest", "sorted"),
               doc="the k largest or smallest, in order, ties by position; NaN is the largest"))
