"""Composite ops: named functions with a published meaning and an expansion into core ops.

They exist so that a graph says ``softmax`` where the model means softmax; lowering expands them
inside a group, and whatever has no better kernel runs as its expansion. Attention has one and stays
what it is, so it declares what it reads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..access import AccessMap, FreshVar, Region, broadcast_index
from ..dims import Dim
from ..errors import ModelError
from ..types import F32, F64, TensorType
from .base import Attributes, OpDef, broadcast_shapes, register, tensor

if TYPE_CHECKING:
    from ..builder import Builder
    from ..graph import Value

Index = tuple[Dim, ...]


def _same_type(op: str) -> Any:
    def infer(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
        t = tensor(types[0], op)
        if not t.dtype.is_float:
            raise ModelError(f"{op} is not defined for {t.dtype}")
        if "axis" in attrs and not 0 <= attrs["axis"] < max(t.rank, 1):
            raise ModelError(f"{op}: axis {attrs['axis']} of {t}")
        return (t,)

    return infer


def _infer_norm(op: str) -> Any:
    same = _same_type(op)

    def infer(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
        (t,) = same(types, attrs)
        for p in types[1:]:
            if p is None:
                continue
            beside = zip(reversed(p.shape), reversed(t.shape), strict=False)
            if p.rank > t.rank or any(
                isinstance(d, int) and isinstance(e, int) and d not in (1, e) for d, e in beside
            ):
                raise ModelError(f"{op}: {p} does not broadcast to {t}")
        return (t,)

    return infer


def _softmax(b: Builder, xs: tuple[Any, ...], attrs: Attributes) -> Value:
    axes = (attrs["axis"],)
    top = b.op("reduce", xs[0], kind="max", axes=axes, keepdims=True)
    e = b.op("exp", b.op("sub", xs[0], top))
    total = b.op("reduce", e, kind="sum", axes=axes, keepdims=True)
    if xs[0].dtype in (F32, F64):  # at least 1: its reciprocal loses one rounding and nothing else
        return b.op("mul", e, b.op("reciprocal", total))
    return b.op("div", e, total)


def _log_softmax(b: Builder, xs: tuple[Any, ...], attrs: Attributes) -> Value:
    axes = (attrs["axis"],)
    shifted = b.op("sub", xs[0], b.op("reduce", xs[0], kind="max", axes=axes, keepdims=True))
    total = b.op("reduce", b.op("exp", shifted), kind="sum", axes=axes, keepdims=True)
    return b.op("sub", shifted, b.op("log", total))


def _layer_norm(b: Builder, xs: tuple[Any, ...], attrs: Attributes) -> Value:
    x, scale, bias = xs
    axes = tuple(range(attrs["axis"], x.rank))
    d = b.op("sub", x, b.op("reduce", x, kind="mean", axes=axes, keepdims=True))
    variance = b.op("reduce", b.op("mul", d, d), kind="mean", axes=axes, keepdims=True)
    inverse = b.op("reciprocal", b.op("sqrt", b.op("add", variance, attrs["eps"])))
    y = b.op("mul", b.op("mul", d, inverse), scale)
    return y if bias is None else b.op("add", y, bias)


def _rms_norm(b: Builder, xs: tuple[Any, ...], attrs: Attributes) -> Value:
    x, scale = xs
    axes = tuple(range(attrs["axis"], x.rank))
    square = b.op("reduce", b.op("mul", x, x), kind="mean", axes=axes, keepdims=True)
    inverse = b.op("reciprocal", b.op("sqrt", b.op("add", square, attrs["eps"])))
    return b.op("mul", b.op("mul", x, inverse), scale)


def _gelu(b: Builder, xs: tuple[Any, ...], attrs: Attributes) -> Value:
    x = xs[0]
    if attrs["approximate"] == "tanh":  # Hendrycks and Gimpel 2016
        cube = b.op("mul", b.op("mul", b.op("mul", x, x), x), 0.044715)
        inner = b.op("mul", b.op("add", x, cube), math.sqrt(2.0 / math.pi))
        gate = b.op("add", b.op("tanh", inner), 1.0)
    else:
        gate = b.op("erfc", b.op("mul", x, -math.sqrt(0.5)))  # 1 + erf(x / sqrt 2)
    return b.op("mul", b.op("mul", x, 0.5), gate)  # in this order nothing overflows


def _attention(b: Builder, xs: tuple[Any, ...], attrs: Attributes) -> Value:
    q, k, v, mask = xs
    if q.dtype.bits < 32:  # scores and weights keep the precision of float32
        wide = tuple(None if x is None else b.op("cast", x, to=F32) for x in xs)
        return b.op("cast", _attention(b, wide, attrs), to=q.dtype)
    scores = b.op("dot", q, k, ta=False, tb=True)
    if attrs["scale"] != 1.0:
        scores = b.op("mul", scores, attrs["scale"])
    if mask is not None:
        scores = b.op("add", scores, mask)
    weights = b.op("softmax", scores, axis=scores.rank - 1)
    if attrs.get("safe"):  # a row without a finite score has the weights 0 instead of NaN
        weights = b.op("select", b.op("isnan", weights), b.const(0.0, weights.dtype), weights)
    return b.op("dot", weights, v, ta=False, tb=False)


def _infer_attention(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    q, k, v = (tensor(t, "attention") for t in types[:3])
    if min(q.rank, k.rank, v.rank) < 2 or not q.dtype == k.dtype == v.dtype:
        raise ModelError(f"attention: queries {q}, keys {k}, values {v}")
    batch = broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    return (TensorType(q.dtype, (*batch, q.shape[-2], v.shape[-1])),)


def _access_attention(types: tuple[Any, ...], attrs: Attributes, index: Index, fresh: FreshVar
                      ) -> AccessMap:
    q, k, v, *mask = (t for t in types if t is not None)
    batch = broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    keys, depth = k.shape[-2:]
    key, inner = fresh(keys), fresh(depth)

    def of(t: TensorType) -> Index:
        return broadcast_index(TensorType(t.dtype, t.shape[:-2]), batch, index[:-2])

    regions = [Region(0, (*of(q), index[-2], inner)), Region(1, (*of(k), key, inner)),
               Region(2, (*of(v), key, index[-1]))]
    if mask:
        scores = (*batch, q.shape[-2], keys)
        regions.append(Region(3, broadcast_index(mask[0], scores, (*index[:-1], key))))
    return AccessMap(tuple(regions), ((key, keys), (inner, depth)))


_COMPOSITE = frozenset({"composite"})
register(OpDef("softmax", (1, 1), _same_type("softmax"), None, _COMPOSITE, expand=_softmax,
               attrs=("axis",), doc="exp(x - max) / sum along an axis"))
register(OpDef("log_softmax", (1, 1), _same_type("log_softmax"), None, _COMPOSITE,
               expand=_log_softmax, attrs=("axis",), doc="log of softmax"))
register(OpDef("layer_norm", (3, 3), _infer_norm("layer_norm"), None, _COMPOSITE,
               expand=_layer_norm, attrs=("axis", "eps"),
               doc="(x - mean) / sqrt(variance + eps) * scale + bias over the axes from `axis`"))
register(OpDef("rms_norm", (2, 2), _infer_norm("rms_norm"), None, _COMPOSITE, expand=_rms_norm,
               attrs=("axis", "eps"), doc="x / sqrt(mean(x*x) + eps) * scale"))
register(OpDef("gelu", (1, 1), _same_type("gelu"), None, _COMPOSITE, expand=_gelu,
               attrs=("approximate",), doc="x * normal CDF(x), exact (erf) or tanh form"))
register(OpDef("attention", (4, 4), _infer_attention, None, _COMPOSITE | {"attention"},
               _access_attention, expand=_attention,
               attrs=("scale", "safe"),
               doc="softmax(q k^T * scale + mask) v; mask may be absent; safe: NaN weights are 0"))
