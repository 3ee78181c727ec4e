"""Constant scales and offsets around convolutions and matrix products go into their constants.

Batch normalization arrives as a product and a sum with constants per channel; after these rules a
convolution is followed by one sum at most. All hold up to rounding (sums are reassociated).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.graph import Attrs, Value
from ..facts import Refusal
from ..rule import Answer, Match, Rule, floats, term

# -- where a constant goes ---------------------------------------------------------------------


def _axis_only(c: Value, rank: int, axis: int, extent: Dim) -> bool:
    """Whether ``c``, broadcast against ``rank`` axes, varies along ``axis`` alone."""
    offset = rank - c.rank
    if offset < 0:
        return False
    return all(d == 1 or (k + offset == axis and d == extent) for k, d in enumerate(c.shape))


def _vector(b: Builder, c: Value, shape: tuple[Dim, ...]) -> Value:
    """A constant of one varying axis in another shape (a scalar stays one)."""
    count = int(np.prod([int(d) for d in c.shape], dtype=np.int64))  # type: ignore[arg-type]
    target = tuple(1 for _ in shape) if count == 1 else shape
    return b.op("reshape", c, shape=target)


def _channel_axis(rank: int, layout: str) -> int:
    return 1 if layout == "first" else rank - 1


@term
def per_output(b: Builder, c: Value, w: Value, a: Attrs) -> Value:
    """A constant per output channel, shaped to scale the weights of a convolution."""
    rank, layout = w.rank, a["layout"]
    channels = w.shape[0] if layout == "first" else w.shape[-1]
    if not _axis_only(c, rank, _channel_axis(rank, layout), channels):
        raise Refusal("the constant varies along more than the output channels")
    unit = (1,) * (rank - 1)
    return _vector(b, c, (channels, *unit) if layout == "first" else (*unit, channels))


@term
def per_input(b: Builder, c: Value, w: Value, a: Attrs) -> Value:
    """A constant per input channel, shaped to scale the weights of a convolution."""
    rank, layout = w.rank, a["layout"]
    inner = w.shape[1] if layout == "first" else w.shape[-2]
    outer = w.shape[0] if layout == "first" else w.shape[-1]
    groups = a["groups"]
    if not isinstance(inner, int) or not isinstance(outer, int):
        raise Refusal("the number of channels is not known")
    if not _axis_only(c, rank, _channel_axis(rank, layout), inner * groups):
        raise Refusal("the constant varies along more than the input channels")
    unit = (1,) * (rank - 2)
    if groups == 1 or all(d == 1 for d in c.shape):
        return _vector(b, c, (1, inner, *unit) if layout == "first" else (*unit, inner, 1))
    table = b.op("reshape", c, shape=(groups, 1, inner))
    table = b.op("expand", table, shape=(groups, outer // groups, inner))
    table = b.op("reshape", table, shape=(outer, inner))
    if layout == "first":
        return b.op("reshape", table, shape=(outer, inner, *unit))
    turned = b.op("transpose", table, perm=(1, 0))
    return b.op("reshape", turned, shape=(*unit, inner, outer))


@term
def per_column(b: Builder, c: Value, w: Value, tb: bool) -> Value:
    """A constant per output column, shaped to scale the right matrix of a product."""
    columns = w.shape[-2] if tb else w.shape[-1]
    if not _axis_only(c, max(c.rank, 1), max(c.rank, 1) - 1, columns):
        raise Refusal("the constant varies along more than the columns")
    return _vector(b, c, (columns, 1) if tb else (columns,))


@term
def per_row(b: Builder, c: Value, w: Value, tb: bool) -> Value:
    """A constant per element of the summed axis, shaped to scale the right matrix."""
    rows = w.shape[-1] if tb else w.shape[-2]
    if not _axis_only(c, max(c.rank, 1), max(c.rank, 1) - 1, rows):
        raise Refusal("the constant varies along more than the summed axis")
    return _vector(b, c, (rows,) if tb else (rows, 1))


# -- conditions --------------------------------------------------------------------------------


def moderate(name: str) -> Any:
    """Every element of a constant is finite and of moderate size, so that products with it neither
    overflow nor vanish where the unfolded product would not."""

    def holds(m: Match) -> Answer:
        size = np.abs(m.array(name).astype(np.float64))
        inside = np.isfinite(size) & (size < 1e12) & ((size > 1e-12) | (size == 0))
        return bool(inside.all()) or f"{name} is very large, very small or not finite"

    return holds


def bounded(name: str) -> Any:
    """No element of a constant is very large or not finite (two passes over it, no copies)."""

    def holds(m: Match) -> Answer:
        array = m.array(name)
        ends = [float(array.max()), float(array.min())] if array.size else [0.0]
        return all(abs(e) < 1e12 for e in ends) or f"{name} is very large or not finite"

    return holds


def _no_acc(m: Match) -> Answer:
    return m["a"].get("acc") is None or "the sum has a dtype of its own"


def _unpadded(m: Match) -> Answer:
    widths = (*m["a"]["pads_lo"], *m["a"]["pads_hi"])
    return all(w == 0 for w in widths) or "the padding is zero, not the offset"


def _matrix(m: Match) -> Answer:
    return m["W"].rank == 2 or "the constant is a stack of matrices"


def _keeps_columns(m: Match) -> Answer:
    """A reshape of a product keeps its columns, and broadcasting adds no axes."""
    w, shape = m["W"], m["r"]
    columns = w.shape[-2] if m["t"] else w.shape[-1]
    if not shape or shape[-1] != columns:
        return "the columns are split or merged"
    return m["C"].rank <= len(shape) or "the constant has more axes than the product"


@term
def offset_through(b: Builder, c: Value, w: Value, tb: bool) -> Value:
    """What a constant row vector, added before a product, adds after it."""
    rows = w.shape[-1] if tb else w.shape[-2]
    if not _axis_only(c, max(c.rank, 1), max(c.rank, 1) - 1, rows):
        raise Refusal("the constant varies along more than the summed axis")
    row = b.op("expand", b.op("reshape", c, shape=(1, *c.shape[-1:])), shape=(1, rows))
    result = b.op("dot", row, w, ta=False, tb=tb)
    return b.op("reshape", result, shape=result.shape[-1:])


@term
def offset_conv_through(b: Builder, c: Value, w: Value, a: Attrs) -> Value:
    """What a constant per input channel, added before an unpadded convolution, adds after it."""
    rank, first = w.rank, a["layout"] == "first"
    inner = w.shape[1] if first else w.shape[-2]
    channels = inner * a["groups"]
    if not _axis_only(c, rank, _channel_axis(rank, a["layout"]), channels):
        raise Refusal("the constant varies along more than the input channels")
    kernel = w.shape[2:] if first else w.shape[:-2]
    image = (1, channels, *kernel) if first else (1, *kernel, channels)
    ones = (1,) * (rank - 2)
    attrs = {**a, "dilations": ones, "strides": ones}
    x = b.op("expand", _vector(b, c, (1, channels, *ones) if first else (1, *ones, channels)),
             shape=image)
    return b.op("conv", x, w, **attrs)


_FLOAT = (floats("x"), moderate("C"), _no_acc, bounded("W"))

RULES: tuple[Rule, ...] = (
    # (x ∗ W) C = x ∗ (W C), C per output channel
    Rule("conv_scale", "conv(x, W, **a) * C", "conv(x, fold(W * per_output(C, W, a)), **a)",
         when=_FLOAT, exact=False, sizes="x[n,c,h,w] W[m,c,k,k] C[m,1,1]"),
    # (x ∗ W) / C = x ∗ (W / C), C per output channel
    Rule("conv_divide", "conv(x, W, **a) / C",
         "conv(x, fold(W * per_output(1 / C, W, a)), **a)",
         when=(*_FLOAT, lambda m: bool(m.array("C").all()) or "C has zeros"), exact=False,
         sizes="x[n,c,h,w] W[m,c,k,k] C[m,1,1]"),
    # (x C) ∗ W = x ∗ (W C), C per input channel (zero padding stays zero)
    Rule("scale_conv", "conv(x * C, W, **a)", "conv(x, fold(W * per_input(C, W, a)), **a)",
         when=_FLOAT, exact=False, sizes="x[n,c,h,w] W[m,c,k,k] C[c,1,1]"),
    # (y + B) C = y C + B C
    Rule("affine_scale", "(conv(x, W, **a) + B) * C",
         "conv(x, fold(W * per_output(C, W, a)), **a) + fold(B * C)", exact=False,
         when=(*_FLOAT, moderate("B")), sizes="x[n,c,h,w] W[m,c,k,k] B[m,1,1] C[m,1,1]"),
    # (y - B) = y + (-B): one spelling of an offset
    Rule("conv_minus", "conv(x, W, **a) - C", "conv(x, W, **a) + fold(neg(C))",
         when=(floats("x"),), sizes="x[n,c,h,w] W[m,c,k,k] C[m,1,1]"),
    # (x A) C = x (A C), C per column
    Rule("dot_scale", "dot(x, W, ta=s, tb=t, **a) * C",
         "dot(x, fold(W * per_column(C, W, t)), ta=s, tb=t, **a)",
         when=(*_FLOAT, _matrix), exact=False, sizes="x[n,k] W[k,m] C[m]"),
    # the same behind a reshape of the rows
    Rule("dot_reshape_scale", "reshape(dot(x, W, ta=s, tb=t, **a), shape=r) * C",
         "reshape(dot(x, fold(W * per_column(C, W, t)), ta=s, tb=t, **a), shape=r)",
         when=(*_FLOAT, _matrix, _keeps_columns), exact=False,
         sizes="x[n,k] W[k,m] C[m] r[1,n,m]"),
    # (x C) A = x (A C), C along the summed axis
    Rule("scale_dot", "dot(x * C, W, ta=False, tb=t, **a)",
         "dot(x, fold(W * per_row(C, W, t)), ta=False, tb=t, **a)",
         when=(*_FLOAT, _matrix), exact=False, sizes="x[n,k] W[k,m] C[k]"),
    # (x A + B) C = x (A C) + B C
    Rule("dot_affine_scale", "(dot(x, W, ta=s, tb=t, **a) + B) * C",
         "dot(x, fold(W * per_column(C, W, t)), ta=s, tb=t, **a) + fold(B * C)",
         when=(*_FLOAT, _matrix, moderate("B")), exact=False, sizes="x[n,k] W[k,m] B[m] C[m]"),
    # (x + C) A + B = x A + (C A + B)
    Rule("offset_dot", "dot(x + C, W, ta=False, tb=t, **a) + B",
         "dot(x, W, ta=False, tb=t, **a) + fold(offset_through(C, W, t) + B)",
         when=(*_FLOAT, _matrix), exact=False, sizes="x[n,k] W[k,m] C[k] B[m]"),
    # ((x + C) ∗ W) + B = x ∗ W + (C ∗ W + B) without padding, C per input channel
    Rule("offset_conv", "conv(x + C, W, **a) + B",
         "conv(x, W, **a) + fold(offset_conv_through(C, W, a) + B)",
         when=(*_FLOAT, _unpadded), exact=False, sizes="x[n,c,h,w] W[m,c,k,k] C[c,1,1] B[m,1,1]"),
)
