"""ai.onnx.ml: linear models, feature preparation, and what all classifiers share.

Post transforms and the choice of a label are ordinary ops; string labels are host steps. Where
ONNX's reference and ONNX Runtime differ, the reference is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32, I64, STR, TensorType
from .ops_host import host_node
from .ops_shape import reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_ML = "ai.onnx.ml"
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def rows_of(ctx: Ctx, x: Value) -> Value:
    """A vector as a matrix of one row."""
    if x.rank == 1:
        return reshape_to(ctx, x, (1, x.shape[0]))
    if x.rank != 2:
        raise ModelError(f"rows [N, F] are needed, got {x.type}")
    return x


def post_transform(ctx: Ctx, y: Value, name: str) -> Value:
    """Scores [N, K] as the attribute ``post_transform`` wants them."""
    b = ctx.b
    if name == "NONE":
        return y
    if name == "LOGISTIC":
        return b.op("sigmoid", y)
    if name == "SOFTMAX":
        return b.op("softmax", y, axis=1)
    if name == "SOFTMAX_ZERO":  # scores of 0 keep a probability of 0; rows of zeros are one half
        most = b.op("reduce", y, kind="max", axes=(1,), keepdims=True)
        zero = b.op("le", b.op("abs", y), 1e-7)
        small = b.op("mul", y, b.op("exp", b.op("neg", most)))
        e = b.op("select", zero, small, b.op("exp", b.op("sub", y, most)))
        total = b.op("reduce", e, kind="sum", axes=(1,), keepdims=True)
        return b.op("select", b.op("eq", total, 0.0), b.const(0.5, y.dtype),
                    b.op("div", e, total))  # fmt: skip
    if name != "PROBIT":
        raise ModelError(f"post_transform {name[:30]!r} is none of {', '.join(TRANSFORMS)}")
    return _probit(ctx, y)


def _probit(ctx: Ctx, y: Value) -> Value:
    """sqrt(2) erfinv(2 y - 1) by S. Winitzki's closed form (2008), as runtimes compute it."""
    b = ctx.b
    x = b.op("sub", b.op("mul", y, 2.0), 1.0)
    log = b.op("log", b.op("mul", b.op("sub", b.const(1.0, y.dtype), x), b.op("add", x, 1.0)))
    half = b.op("add", b.op("mul", log, 0.5), 2.0 / (3.14159 * 0.147))
    inner = b.op("sub", b.op("mul", half, half), b.op("mul", log, 1.0 / 0.147))
    size = b.op("sqrt", b.op("sub", b.op("sqrt", inner), half))
    sign = b.op("select", b.op("lt", x, 0.0), b.const(-1.0, y.dtype), b.const(1.0, y.dtype))
    return b.op("mul", b.op("mul", sign, size), float(np.float32(1.41421356)))


def labels_of(ctx: Ctx) -> tuple[Any, ...]:
    """The class labels of a classifier: ints or strings, () where there are none."""
    ints, strings = ctx.attr("classlabels_int64s", ()), ctx.attr("classlabels_strings", ())
    ints = ints or ctx.attr("classlabels_ints", ())
    if ints and strings:
        raise ModelError("both integer and string labels")
    return tuple(ints or strings)


def label_values(ctx: Ctx, index: Value, labels: Sequence[Any]) -> Value:
    """Labels at positions ``index [N]``."""
    if labels and isinstance(labels[0], str):
        params = {"labels": tuple(labels)}
        return host_node(ctx, "labels", [index], params, [TensorType(STR, index.shape)])[0]
    table = ctx.b.const(np.array(labels, dtype=np.int64))
    return ctx.b.op("gather", table, index, axis=0)


def choose(ctx: Ctx, scores: Value, labels: Sequence[Any]) -> Value:
    """Label of the largest score of each row."""
    best = ctx.b.op("argmax", scores, axis=1, keepdims=False, select_last=False)
    return label_values(ctx, best, labels)


def threshold_label(ctx: Ctx, score: Value, labels: Sequence[Any], positive: bool) -> Value:
    """The second label where ``score [N, 1]`` exceeds one half (a margin: zero), else the first."""
    hit = ctx.b.op("lt", ctx.b.const(0.5 if positive else 0.0, score.dtype), score)
    index = reshape_to(ctx, ctx.b.op("cast", hit, to=I64), (score.shape[0],))
    return label_values(ctx, index, labels)


def binary_scores(ctx: Ctx, y: Value, transform: str, positive: bool) -> Value:
    """[N, 2] scores from the one score ``y [N, 1]``, as ONNX Runtime defines them.

    ``positive``: all weights are positive, so the score is a probability; else it is a margin."""
    b = ctx.b
    if transform == "PROBIT":
        ctx.fail("post_transform PROBIT of a classifier with one score is not supported")
    if transform == "LOGISTIC":
        high = b.op("sigmoid", y)
        low = b.op("sub", b.const(1.0, y.dtype), high) if positive else (
            b.op("sigmoid", b.op("neg", y)))
    else:
        high = y
        low = b.op("sub", b.const(1.0, y.dtype), y) if positive else b.op("neg", y)
    return b.op("concat", low, high, axis=1)


# -- linear models -----------------------------------------------------------------------------


def _linear(ctx: Ctx, x: Value, count: int) -> Value:
    """Products x W^T + b with the attributes ``coefficients`` and ``intercepts``."""
    b = ctx.b
    x = ctx.as_dtype(rows_of(ctx, x), F32)
    weights = np.array(ctx.required("coefficients"), dtype=np.float32)
    if count < 1 or weights.size % count:
        raise ModelError(f"{weights.size} coefficients for {count} targets")
    y = b.op("dot", x, b.const(weights.reshape(count, -1)), ta=False, tb=True)
    bias = ctx.attr("intercepts", ())
    if not bias:
        return y
    if len(bias) != count:
        raise ModelError(f"{len(bias)} intercepts for {count} targets")
    return b.op("add", y, b.const(np.array(bias, dtype=np.float32)))


@lowering("LinearRegressor", domain=_ML)
def linear_regressor(ctx: Ctx, node: NodeProto) -> Value:
    """[N, F] to [N, targets]."""
    count, transform = ctx.attr("targets", 1), ctx.attr("post_transform", "NONE")
    y = _linear(ctx, ctx.input(0), count)
    if count == 1 and transform != "PROBIT":
        return y  # runtimes transform a single score by PROBIT only
    return post_transform(ctx, y, transform)


@lowering("LinearClassifier", domain=_ML)
def linear_classifier(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(labels [N], scores [N, K])."""
    labels = labels_of(ctx)
    count = len(ctx.attr("intercepts", ())) or len(labels)
    transform = ctx.attr("post_transform", "NONE")
    y = _linear(ctx, ctx.input(0), count)
    if count == 1:  # both signs of the one score are transformed, as by ONNX's reference
        labels = labels if len(labels) == 2 else (0, 1)
        b = ctx.b
        threshold = 0.0 if transform in ("NONE", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT") else 0.5
        if transform == "LOGISTIC":
            y = b.op("sigmoid", y)
        hit = b.op("lt", b.const(threshold, y.dtype), y)
        index = reshape_to(ctx, b.op("cast", hit, to=I64), (y.shape[0],))
        low = b.op("sub", b.const(1.0, y.dtype), y) if transform == "LOGISTIC" else b.op("neg", y)
        both = b.op("concat", low, y, axis=1)
        if transform.startswith("SOFTMAX") or transform == "PROBIT":
            both = post_transform(ctx, both, transform)
        return label_values(ctx, index, labels), both
    labels = labels or tuple(range(count))
    return choose(ctx, y, labels), post_transform(ctx, y, transform)


# -- feature preparation -------------------------------------------------------------------------


@lowering("Scaler", domain=_ML)
def scaler(ctx: Ctx, node: NodeProto) -> Value:
    """(x - offset) * scale, one number or one per feature."""
    b, y = ctx.b, ctx.as_dtype(ctx.input(0), F32)
    offset, scale = ctx.attr("offset", ()), ctx.attr("scale", ())
    if offset:
        y = b.op("sub", y, b.const(np.array(offset, np.float32)))
    return b.op("mul", y, b.const(np.array(scale, np.float32))) if scale else y


@lowering("Normalizer", domain=_ML)
def normalizer(ctx: Ctx, node: NodeProto) -> Value:
    """Rows divided by their maximum, sum of magnitudes or length; rows of zeros stay."""
    b, x = ctx.b, ctx.as_dtype(ctx.input(0), F32)
    norm = ctx.attr("norm", "MAX")
    axes = (x.rank - 1,)
    if norm == "MAX":
        size = b.op("reduce", x, kind="max", axes=axes, keepdims=True)
    elif norm == "L1":
        size = b.op("reduce", b.op("abs", x), kind="sum", axes=axes, keepdims=True)
    elif norm == "L2":
        size = b.op("sqrt", b.op("reduce", b.op("mul", x, x), kind="sum", axes=axes,
                                 keepdims=True))  # fmt: skip
    else:
        raise ModelError(f"norm {norm[:20]!r} is not MAX, L1 or L2")
    one = b.const(1.0, F32)
    return b.op("div", x, b.op("select", b.op("eq", size, 0.0), one, size))


@lowering("Binarizer", domain=_ML)
def binarizer(ctx: Ctx, node: NodeProto) -> Value:
    """1 above the threshold, else 0."""
    x = ctx.input(0)
    limit = ctx.b.const(np.asarray(ctx.attr("threshold", 0.0), dtype=x.dtype.np))
    return ctx.b.op("cast", ctx.b.op("lt", limit, x), to=x.dtype)


@lowering("Imputer", domain=_ML)
def imputer(ctx: Ctx, node: NodeProto) -> Value:
    """Replaces one value (NaN by default) by a number per feature."""
    b, x = ctx.b, ctx.input(0)
    kind = "float" if x.dtype.is_float else "int64"
    values = ctx.attr(f"imputed_value_{kind}s", ())
    if not values:
        raise ModelError(f"no imputed_value_{kind}s for {x.type}")
    old = ctx.attr(f"replaced_value_{kind}", 0)
    new = b.const(np.array(values if len(values) > 1 else values[0], dtype=x.dtype.np))
    if x.dtype.is_float and np.isnan(old):
        missing = b.op("isnan", x)
    else:
        missing = b.op("eq", x, b.const(np.asarray(old, dtype=x.dtype.np)))
    return b.op("select", missing, new, x)


@lowering("ArrayFeatureExtractor", domain=_ML)
def array_feature_extractor(ctx: Ctx, node: NodeProto) -> Value:
    """Columns of the last axis."""
    x, index = ctx.input(0), ctx.input(1)
    flat = reshape_to(ctx, index, (index.tensor.numel(),))
    y = ctx.b.op("gather", x, flat, axis=x.rank - 1)
    return reshape_to(ctx, y, (1, y.shape[0])) if x.rank == 1 else y


@lowering("FeatureVectorizer", domain=_ML)
def feature_vectorizer(ctx: Ctx, node: NodeProto) -> Value:
    """Joins the features of all operands as f32."""
    parts = [ctx.as_dtype(rows_of(ctx, v), F32) for v in ctx.inputs if v is not None]
    sizes = ctx.attr("inputdimensions", tuple(p.shape[1] for p in parts))
    if len(sizes) != len(parts):
        raise ModelError(f"{len(sizes)} inputdimensions for {len(parts)} operands")
    return ctx.b.op("concat", *map(_columns, [ctx] * len(parts), parts, sizes), axis=1)


def _columns(ctx: Ctx, x: Value, count: Dim) -> Value:
    """The first ``count`` columns of ``x [N, F]``; those it lacks are zeros."""
    have = x.shape[1]
    if not isinstance(have, int) or not isinstance(count, int):
        if count != have:
            ctx.fail(f"{count} of {have} columns: how many there are must be known")
        return x
    if count <= have:
        result: Value = ctx.b.op("slice", x, starts=(0, 0), sizes=(x.shape[0], count),
                                 steps=(1, 1))  # fmt: skip
        return result
    padded: Value = ctx.b.op("concat", x, ctx.full((x.shape[0], count - have), 0.0, F32), axis=1)
    return padded
