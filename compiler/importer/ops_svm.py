"""ai.onnx.ml: support vector machines, as LIBSVM defines them.

The kernel's values for all rows and support vectors are one matrix K [N, V]. Every pair of classes
i < j has a decision value, a weighted sum of the kernels of both classes' vectors, so that all
decisions are one product K W; LIBSVM keeps the weights of class i against class j with the vectors
of i in row j - 1 of ``coefficients``, and those with the vectors of j in row i. A class gets the
votes of the pairs that it wins. Probabilities are Platt's for the pairs, joined by coupling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.errors import ModelError
from ...ir.graph import Value
from ...ir.types import F32
from .ops_ml import choose, labels_of, post_transform, rows_of
from .ops_shape import reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ..messages import NodeProto
    from .context import Ctx

_ML = "ai.onnx.ml"
KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")
_LEAST = 1e-7
"""Least probability of a pair."""


def _floats(ctx: Ctx, name: str) -> np.ndarray:
    return np.array(ctx.attr(name, ()), dtype=np.float32)


def _kernel(ctx: Ctx, x: Value, vectors: np.ndarray) -> Value:
    """K [N, V] of rows ``x [N, F]`` and ``vectors [V, F]``."""
    b, kind = ctx.b, ctx.attr("kernel_type", "LINEAR")
    if kind not in KERNELS:
        raise ModelError(f"kernel_type {kind[:20]!r} is none of {', '.join(KERNELS)}")
    if isinstance(x.shape[1], int) and x.shape[1] != vectors.shape[1]:
        raise ModelError(f"support vectors of {vectors.shape[1]} features for {x.type}")
    gamma, offset, degree = (*ctx.attr("kernel_params", ()), 0.0, 0.0, 0.0)[:3]
    if kind == "RBF":
        row = reshape_to(ctx, x, (x.shape[0], 1, x.shape[1]))
        apart = b.op("sub", row, b.const(vectors))
        squares = b.op("reduce", b.op("mul", apart, apart), kind="sum", axes=(2,), keepdims=False)
        result: Value = b.op("exp", b.op("mul", squares, -gamma))
        return result
    dots: Value = b.op("dot", x, b.const(vectors), ta=False, tb=True)
    if kind == "LINEAR":
        return dots
    inner = b.op("add", b.op("mul", dots, gamma), offset)
    if kind == "SIGMOID":
        result = b.op("tanh", inner)
    else:
        result = b.op("pow", inner, b.const(np.float32(degree)))
    return result


def _vectors(ctx: Ctx, count: int) -> np.ndarray:
    given = _floats(ctx, "support_vectors")
    if given.size % count:
        raise ModelError(f"{given.size} numbers of {count} support vectors")
    return given.reshape(count, -1)


@lowering("SVMRegressor", domain=_ML)
def svm_regressor(ctx: Ctx, node: NodeProto) -> Value:
    """[N, F] to f32 [N, 1]; of one class, whether a row belongs to it, as 1 or -1."""
    b, x = ctx.b, ctx.as_dtype(rows_of(ctx, ctx.input(0)), F32)
    count, weights, rho = ctx.attr("n_supports", 0), _floats(ctx, "coefficients"), _rho(ctx)
    if count > 0:
        if weights.size != count:
            raise ModelError(f"{weights.size} coefficients for {count} support vectors")
        x = _kernel(ctx, x, _vectors(ctx, count))  # without vectors the model is linear
    y = b.op("dot", x, b.const(weights.reshape(-1, 1)), ta=False, tb=False)
    y = b.op("add", y, b.const(rho[:1]))
    if ctx.attr("one_class", 0):
        high, low = b.const(np.float32(1)), b.const(np.float32(-1))
        result: Value = b.op("select", b.op("lt", b.const(np.float32(0)), y), high, low)
        return result
    if ctx.attr("post_transform", "NONE") != "NONE":
        ctx.fail("post_transform of SVMRegressor is not supported; NONE is")
    return y


def _rho(ctx: Ctx) -> np.ndarray:
    rho = _floats(ctx, "rho")
    if not rho.size:
        raise ModelError("rho, the offset of the decision, is absent")
    return rho


def _decisions(ctx: Ctx, x: Value, counts: tuple[int, ...], rho: np.ndarray) -> Value:
    """[N, K (K - 1) / 2], positive where the first class of a pair wins."""
    k, total = len(counts), sum(counts)
    weights = _floats(ctx, "coefficients")
    if min(counts) < 0 or weights.size != (k - 1) * total or rho.size != k * (k - 1) // 2:
        raise ModelError(f"{weights.size} coefficients and {rho.size} offsets for {k} classes with"
                         f" {total} support vectors")  # fmt: skip
    weights = weights.reshape(k - 1, total)
    start = np.cumsum((0, *counts))
    table = np.zeros((total, rho.size), np.float32)
    for at, (i, j) in enumerate(zip(*np.triu_indices(k, 1), strict=True)):
        own, other = slice(start[i], start[i + 1]), slice(start[j], start[j + 1])
        table[own, at], table[other, at] = weights[j - 1, own], weights[i, other]
    b, values = ctx.b, _kernel(ctx, x, _vectors(ctx, total))
    result: Value = b.op("add", b.op("dot", values, b.const(table), ta=False, tb=False),
                         b.const(rho))  # fmt: skip
    return result


def _votes(ctx: Ctx, won: Value, k: int) -> Value:
    """Pairs won by each class, f32 [N, K]."""
    pairs = np.arange(k * (k - 1) // 2)
    i, j = np.triu_indices(k, 1)
    table = np.zeros((pairs.size, k), np.float32)
    table[pairs, i], table[pairs, j] = 1, -1
    lost = np.bincount(j, minlength=k).astype(np.float32)
    b = ctx.b
    gained = b.op("dot", ctx.as_dtype(won, F32), b.const(table), ta=False, tb=False)
    result: Value = b.op("add", gained, b.const(lost))
    return result


def _probabilities(ctx: Ctx, decisions: Value, k: int) -> Value:
    """Platt's probability of each pair, coupled: f32 [N, K]."""
    b = ctx.b
    slope, offset = _floats(ctx, "prob_a"), _floats(ctx, "prob_b")
    if not slope.size == offset.size == k * (k - 1) // 2:
        raise ModelError(f"{slope.size} prob_a and {offset.size} prob_b for {k} classes")
    margin = b.op("add", b.op("mul", decisions, b.const(slope)), b.const(offset))
    first = b.op("sigmoid", b.op("neg", margin))
    first = b.op("min", b.op("max", first, _LEAST), 1 - _LEAST)
    result: Value = b.op("couple", first, classes=k)
    return result


@lowering("SVMClassifier", domain=_ML)
def svm_classifier(ctx: Ctx, node: NodeProto) -> tuple[Value, ...]:
    """(labels [N], scores); scores are probabilities [N, K], decisions of all pairs, or, of a
    linear model without support vectors, one score per class."""
    x, labels = ctx.as_dtype(rows_of(ctx, ctx.input(0)), F32), labels_of(ctx)
    counts = tuple(ctx.attr("vectors_per_class", ()))
    transform = ctx.attr("post_transform", "NONE")
    if not labels:
        raise ModelError("SVMClassifier without class labels")
    if sum(counts) == 0:
        return _linear(ctx, x, labels, transform)
    k = len(labels)
    if len(counts) != k or k < 2:
        ctx.fail(f"vectors of {len(counts)} classes for {k} labels; 2 or more of each are needed")
    b, rho = ctx.b, _rho(ctx)
    decisions = _decisions(ctx, x, counts, rho)
    won = b.op("lt", b.const(np.float32(0)), decisions)
    label = choose(ctx, _votes(ctx, won, k), labels)
    if ctx.attr("prob_a", ()):
        return label, post_transform(ctx, _probabilities(ctx, decisions, k), transform)
    if k > 2:
        return label, post_transform(ctx, decisions, transform)
    return label, _two_sided(ctx, decisions, transform)


def _two_sided(ctx: Ctx, score: Value, transform: str) -> Value:
    """[N, 2] of the one decision of two classes. ONNX's reference transforms both signs of it, as
    here; ONNX Runtime 1.32 answers 1 - s and s for SOFTMAX and SOFTMAX_ZERO."""
    if transform == "PROBIT":
        ctx.fail("post_transform PROBIT of a decision, which is no probability, is not supported")
    both = ctx.b.op("concat", ctx.b.op("neg", score), score, axis=1)
    return post_transform(ctx, both, transform)


def _linear(ctx: Ctx, x: Value, labels: tuple[object, ...], transform: str) -> tuple[Value, ...]:
    """LIBLINEAR's form: one weighted sum of the features for each class."""
    b, weights = ctx.b, _floats(ctx, "coefficients")
    k = len(labels)
    if k < 3:  # ONNX's reference and its runtimes choose different labels
        ctx.fail("a linear model needs 3 class labels or more; use LinearClassifier for 2")
    if not weights.size or weights.size % k:
        raise ModelError(f"{weights.size} coefficients for {k} classes")
    y = b.op("dot", x, b.const(weights.reshape(k, -1)), ta=False, tb=True)
    y = b.op("add", y, b.const(_rho(ctx)[:1]))
    return choose(ctx, y, labels), post_transform(ctx, y, transform)
