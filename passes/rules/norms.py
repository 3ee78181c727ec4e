"""Decomposed softmax, log-softmax, layer norm and RMS norm recognized as what they are.

A norm is recognized by its core (scale one, no bias); the constants that follow are absorbed one by
one, so that every spelling with or without scale and bias ends in the same node.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import product
from ...ir.graph import Value
from ..facts import Refusal, scalar_of
from ..rule import Answer, Match, Rule, attribute, broadcasts_into, floats, term

# -- helpers -----------------------------------------------------------------------------------


@attribute
def only_axis(axes: tuple[int, ...]) -> int:
    """The one axis of a reduction."""
    return axes[0]


@term
def ones_for(b: Builder, x: Value, axes: tuple[int, ...]) -> Value:
    """The scale that changes nothing: ones over the normalized axes."""
    shape = tuple(x.shape[a] for a in sorted(axes))
    count = product(shape)
    if not isinstance(count, int) or count > 1 << 16:
        return b.const(1.0, x.dtype)
    sizes = [d for d in shape if isinstance(d, int)]
    return b.const(np.ones(sizes, dtype=x.dtype.np))


def _one_axis(m: Match) -> Answer:
    return len(m["a"]) == 1 or "several axes"


def _trailing(m: Match) -> Answer:
    rank, axes = m["x"].rank, sorted(m["a"])
    if not axes:
        return "no axes"
    return axes == list(range(rank - len(axes), rank)) or "the axes are not the last ones"


def _same_axes(m: Match) -> Answer:
    return sorted(m["a"]) == sorted(m["c"]) or "mean and variance are over different axes"


def _scalar_eps(m: Match) -> Answer:
    eps = m.scalar("E")
    if eps is None or not 0 <= eps < 1:
        return "epsilon is not one small number"
    return True


@term
def normalized(b: Builder, x: Value, axes: tuple[int, ...], eps: Value) -> Value:
    """The core of a layer norm over trailing axes."""
    number = scalar_of(b.constants, eps)
    if number is None:
        raise Refusal("epsilon is not one number")
    ones = ones_for(b, x, axes)
    return b.op("layer_norm", x, ones, None, axis=min(axes), eps=float(number))


@term
def rms_normalized(b: Builder, x: Value, axes: tuple[int, ...], eps: Value) -> Value:
    """The core of an RMS norm over trailing axes."""
    number = scalar_of(b.constants, eps)
    if number is None:
        raise Refusal("epsilon is not one number")
    ones = ones_for(b, x, axes)
    return b.op("rms_norm", x, ones, axis=min(axes), eps=float(number))


def _within(name: str) -> Any:
    """The affine operand varies over the normalized axes only."""

    def holds(m: Match) -> Answer:
        x, v = m["x"], m[name]
        inner = x.shape[m["k"] :]
        shape = v.shape
        while len(shape) > len(inner) and shape[0] == 1:
            shape = shape[1:]
        return broadcasts_into(shape, inner) or f"{name} of {v.shape} is not over {inner}"

    return holds


@term
def tail(b: Builder, v: Value, x: Value, axis: int) -> Value:
    """An affine operand with the axes that are not normalized (all 1) taken off."""
    rank = x.rank - axis
    return v if v.rank <= rank else b.op("reshape", v, shape=v.shape[v.rank - rank :])


def _ones(name: str) -> Any:
    def holds(m: Match) -> Answer:
        return m.scalar(name) == 1 or f"{name} is not one everywhere"

    return holds


def _count_is_extent(m: Match) -> Answer:
    """The divisor of a sum is the number of its terms."""
    count: Any = 1
    for axis in m["a"]:
        count = count * m["x"].shape[axis]
    return m.scalar("C") == count or f"the divisor is not the count {count}"


def _inverse_count(m: Match) -> Answer:
    count: Any = 1
    for axis in m["a"]:
        count = count * m["x"].shape[axis]
    c = m.scalar("C")
    if c is None or not isinstance(count, int) or count == 0:
        return "the factor is not one number, or the count is not known"
    return abs(c * count - 1) <= 1e-6 or f"the factor is not 1 / {count}"


_NORM = (floats("x"), _trailing, _scalar_eps)
_LAYER = (*_NORM, _same_axes)

RULES: tuple[Rule, ...] = (
    # sum x / n = mean x
    Rule("mean_quotient", "reduce(x, kind='sum', axes=a, keepdims=k) / C",
         "reduce(x, kind='mean', axes=a, keepdims=k)", when=(floats("x"), _count_is_extent),
         exact=False),
    Rule("mean_product", "reduce(x, kind='sum', axes=a, keepdims=k) * C",
         "reduce(x, kind='mean', axes=a, keepdims=k)", when=(floats("x"), _inverse_count),
         exact=False),
    # e^(x - max x) / sum e^(x - max x)
    Rule("softmax", "(e := exp(x - largest(x, axes=a))) / total(e, axes=a)",
         "softmax(x, axis=only_axis(a))", when=(floats("x"), _one_axis), exact=False),
    # log softmax
    Rule("log_softmax", "log(softmax(x, axis=k))", "log_softmax(x, axis=k)", exact=False),
    # (x - max x) - log sum e^(x - max x)
    Rule("log_softmax_shifted", "(d := x - largest(x, axes=a)) - log(total(exp(d), axes=a))",
         "log_softmax(x, axis=only_axis(a))", when=(floats("x"), _one_axis), exact=False),
    # (x - mean x) / sqrt(var x + eps)
    Rule("layer_norm_quotient",
         "(d := x - mean(x, axes=a)) / sqrt(mean(d * d, axes=c) + E)",
         "normalized(x, a, E)", when=_LAYER, exact=False),
    # (x - mean x) * (1 / sqrt(var x + eps))
    Rule("layer_norm_product",
         "(d := x - mean(x, axes=a)) * reciprocal(sqrt(mean(d * d, axes=c) + E))",
         "normalized(x, a, E)", when=_LAYER, exact=False),
    # x / sqrt(mean x^2 + eps)
    Rule("rms_norm_quotient", "x / sqrt(mean(x * x, axes=a) + E)", "rms_normalized(x, a, E)",
         when=_NORM, exact=False),
    # x * (1 / sqrt(mean x^2 + eps))
    Rule("rms_norm_product", "x * reciprocal(sqrt(mean(x * x, axes=a) + E))",
         "rms_normalized(x, a, E)", when=_NORM, exact=False),
    # d / sqrt(mean d^2 + eps) with d = x - mean x
    Rule("layer_norm_centered", "rms_norm(x - mean(x, axes=a), S, axis=k, eps=e)",
         "layer_norm(x, S, none, axis=k, eps=e)",
         when=(_trailing, lambda m: min(m["a"]) == m["k"] or "other axes"), exact=False),
    # norm(x) s: the scale
    Rule("layer_norm_scale", "layer_norm(x, O, none, axis=k, eps=e) * s",
         "layer_norm(x, tail(s, x, k), none, axis=k, eps=e)", when=(_ones("O"), _within("s"))),
    Rule("rms_norm_scale", "rms_norm(x, O, axis=k, eps=e) * s",
         "rms_norm(x, tail(s, x, k), axis=k, eps=e)", when=(_ones("O"), _within("s"))),
    # norm(x) + b: the bias
    Rule("layer_norm_bias", "layer_norm(x, s, none, axis=k, eps=e) + b",
         "layer_norm(x, s, tail(b, x, k), axis=k, eps=e)", when=(_within("b"),)),
)
