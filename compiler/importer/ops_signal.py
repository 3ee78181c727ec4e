"""Lowerings of DFT, STFT and mel weights: spectra by products with Fourier matrices.

A transform of length ``n`` is a product with an [n, bins] matrix of cosines and one of sines; for
the lengths that speech front ends use (a few hundred) that is as fast as a fast transform and
fuses with what follows. Frames of an STFT are read by a convolution whose kernels are the
windowed Fourier basis: framing costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.errors import ModelError
from ...ir.types import F32, F64, I64, TensorType
from ..messages import NodeProto
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx

_MAX_LENGTH = 4096
_PRECISE = 64
"""Up to this length sums are kept in float64: that costs nothing there, and parts that cancel come
out as the zeros that they are."""


def fourier_basis(n: int, bins: int, inverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """(cosines, sines) float64[n, bins] of exp(-2 pi i k t / n), or of its conjugate."""
    phase = np.outer(np.arange(n), np.arange(bins)) % n
    angle = 2.0 * np.pi * phase / n
    return np.cos(angle), np.sin(angle) if inverse else -np.sin(angle)


@lowering("DFT", since=17)
def dft_17(ctx: Ctx, node: NodeProto) -> Value:
    return _dft(ctx, ctx.attr("axis", 1))


@lowering("DFT", since=20)
def dft_20(ctx: Ctx, node: NodeProto) -> Value:
    axis = ctx.optional(2)
    return _dft(ctx, -2 if axis is None else int(ctx.scalar(axis, "axis")))


def _dft(ctx: Ctx, axis: int) -> Value:
    b, x = ctx.b, ctx.input(0)
    axis = ctx.axis(axis, x.rank)
    parts = 2 if x.shape[-1] == 2 else 1
    if x.rank < 2 or axis == x.rank - 1 or x.shape[-1] not in (1, 2):
        raise ModelError(f"axis {axis} of {x.type}: the last axis holds 1 or 2 parts")
    given = ctx.optional(1)
    length = ctx.dim(given) if given is not None else x.shape[axis]
    inverse, onesided = bool(ctx.attr("inverse", 0)), bool(ctx.attr("onesided", 0))
    if not isinstance(length, int) or length > _MAX_LENGTH:
        ctx.need(f"a transform of length {length}: it must be static and at most {_MAX_LENGTH}",
                 length)  # fmt: skip
    if inverse and onesided:
        return _real_inverse(ctx, x, axis, length if given is not None else None)
    x = _fitted(ctx, x, axis, length)
    bins = length // 2 + 1 if onesided else length
    cosines, sines = (m / (length if inverse else 1) for m in fourier_basis(length, bins, inverse))
    # [.., n, .., parts] -> [parts][.., n]: the transformed axis goes last.
    order = [i for i in range(x.rank - 1) if i != axis]
    halves = []
    for p in range(parts):
        half = reshape_to(ctx, cut(ctx, x, x.rank - 1, p, 1), x.shape[:-1])
        halves.append(b.op("transpose", half, perm=(*order, axis)) if order else
                      reshape_to(ctx, half, (1, length)))  # fmt: skip
    real, imaginary = _transform(ctx, halves, cosines, sines)
    both = b.op("concat", *(reshape_to(ctx, v, (*v.shape, 1)) for v in (real, imaginary)),
                axis=real.rank)  # fmt: skip
    if not order:
        return reshape_to(ctx, both, (bins, 2))
    back = [*order, axis]
    perm = tuple(back.index(i) for i in range(x.rank - 1))
    return b.op("transpose", both, perm=(*perm, x.rank - 1))


def _real_inverse(ctx: Ctx, x: Value, axis: int, length: int | None) -> Value:
    """The real signal of a one-sided spectrum [.., bins, .., 2]: bins other than the first and
    (for an even length) the last stand for two."""
    b, bins = ctx.b, x.shape[axis]
    if not isinstance(bins, int) or x.shape[-1] != 2:
        ctx.need(f"the inverse one-sided transform of {x.type}: static and complex is supported",
                 *x.shape)  # fmt: skip
    n = 2 * (bins - 1) if length is None else length
    x = _fitted(ctx, x, axis, n // 2 + 1)
    bins = n // 2 + 1
    twice = np.full((bins, 1), 2.0)
    twice[0] = 1.0
    if n % 2 == 0:
        twice[-1] = 1.0
    cosines, sines = (m.T * twice / n for m in fourier_basis(n, bins, True))
    order = [i for i in range(x.rank - 1) if i != axis]
    halves = []
    for p in range(2):
        half = reshape_to(ctx, cut(ctx, x, x.rank - 1, p, 1), x.shape[:-1])
        half = b.op("transpose", half, perm=(*order, axis))
        halves.append(half if order else reshape_to(ctx, half, (1, bins)))
    kind = x.dtype.np
    y = b.op(
        "sub", b.op("dot", halves[0], b.const(cosines.astype(kind)), ta=False, tb=False),
        b.op("dot", halves[1], b.const(sines.astype(kind)), ta=False, tb=False),
    )  # fmt: skip
    if not order:
        return reshape_to(ctx, y, (n, 1))
    back = [*order, axis]
    y = b.op("transpose", y, perm=tuple(back.index(i) for i in range(x.rank - 1)))
    return reshape_to(ctx, y, (*y.shape, 1))


def _transform(
    ctx: Ctx, halves: list[Value], cosines: np.ndarray, sines: np.ndarray
) -> tuple[Value, Value]:
    b, kind = ctx.b, halves[0].dtype
    wide = F64 if len(cosines) <= _PRECISE else kind
    rows = [h if h.rank > 1 else reshape_to(ctx, h, (1, h.shape[0])) for h in halves]
    rows = [ctx.as_dtype(h, wide) for h in rows]
    c, s = b.const(cosines.astype(wide.np)), b.const(sines.astype(wide.np))

    def dot(v: Value, m: Value) -> Value:
        y: Value = b.op("dot", v, m, ta=False, tb=False)
        return y

    real, imaginary = dot(rows[0], c), dot(rows[0], s)
    if len(rows) == 2:
        real, imaginary = (b.op("sub", real, dot(rows[1], s)),
                           b.op("add", imaginary, dot(rows[1], c)))  # fmt: skip
    return ctx.as_dtype(real, kind), ctx.as_dtype(imaginary, kind)


def _fitted(ctx: Ctx, x: Value, axis: int, length: int) -> Value:
    """The axis cut, or filled with zeros, to ``length``."""
    have = x.shape[axis]
    if have == length:
        return x
    if not isinstance(have, int):
        ctx.need(f"a transform of length {length} over an axis of symbolic size {have}", have)
    if have > length:
        return cut(ctx, x, axis, 0, length)
    hi = [0] * x.rank
    hi[axis] = length - have
    zero = ctx.b.const(np.zeros((), x.dtype.np))
    result: Value = ctx.b.op("pad", x, zero, lo=(0,) * x.rank, hi=tuple(hi), mode="constant")
    return result


@lowering("STFT")
def stft(ctx: Ctx, node: NodeProto) -> Value:
    x = ctx.input(0)
    step = ctx.scalar(ctx.input(1), "frame_step")
    window, length_value = ctx.optional(2), ctx.optional(3)
    if length_value is not None:
        length = int(ctx.scalar(length_value, "frame_length"))
    elif window is None:
        raise ModelError("one of window and frame_length must be given")
    elif isinstance(window.shape[0], int):
        length = window.shape[0]
    else:
        ctx.need(f"a window {window.type}: its length must be static", window.shape[0])
    if step < 1 or not 1 <= length <= _MAX_LENGTH:
        ctx.fail(f"frames of {length} every {step}; a frame may have {_MAX_LENGTH} samples")
    complex_input = x.rank == 3 and x.shape[2] == 2
    if x.rank == 3 and x.shape[2] == 1:
        x = reshape_to(ctx, x, x.shape[:2])
    if x.rank != 2 and not complex_input:
        raise ModelError(f"a signal is [batch, length, 1 or 2], got {x.type}")
    bins = length // 2 + 1 if ctx.attr("onesided", 1) else length
    if complex_input:
        if bins != length:
            raise ModelError("onesided=1 is for real signals; this one is complex")
        return _complex_stft(ctx, x, _kernels(ctx, x.tensor, window, length, bins), int(step))
    y = _framed(ctx, x, _kernels(ctx, x.tensor, window, length, bins), int(step))
    # [B, 2 * bins, frames] -> [B, frames, bins, 2]
    n, _, frames = y.shape
    return ctx.b.op("transpose", reshape_to(ctx, y, (n, 2, bins, frames)), perm=(0, 3, 2, 1))


def _complex_stft(ctx: Ctx, x: Value, kernels: Value, step: int) -> Value:
    """Frames of [batch, length, 2]: the transforms of both parts, F(re) + i F(im)."""
    b, (n, length, _) = ctx.b, x.shape
    parts = reshape_to(ctx, b.op("transpose", x, perm=(0, 2, 1)), (2 * n, length))
    y = _framed(ctx, parts, kernels, step)
    bins, frames = y.shape[1] // 2, y.shape[2]
    each = reshape_to(ctx, y, (n, 4, bins, frames))  # re F(re), im F(re), re F(im), im F(im)
    rr, ir, ri, ii = (cut(ctx, each, 1, k, 1) for k in range(4))
    both = b.op("concat", b.op("sub", rr, ii), b.op("add", ir, ri), axis=1)
    return b.op("transpose", both, perm=(0, 3, 2, 1))


def _kernels(ctx: Ctx, signal: TensorType, window: Value | None, length: int, bins: int) -> Value:
    """Windowed Fourier basis as convolution kernels [2 * bins, 1, length]."""
    b = ctx.b
    basis = np.concatenate([m.T for m in fourier_basis(length, bins, False)])
    kind = signal.dtype.np
    if window is None:
        return b.const(basis[:, None, :].astype(kind))
    if window.rank != 1 or window.shape[0] != length:
        raise ModelError(f"window {window.type} for frames of {length}")
    known = ctx.constant(window)
    if known is not None:
        windowed = basis * known.astype(np.float64)
        return b.const(windowed[:, None, :].astype(kind))
    result: Value = b.op("mul", b.const(basis[:, None, :].astype(kind)), window)
    return result


def _framed(ctx: Ctx, x: Value, kernels: Value, step: int) -> Value:
    image = reshape_to(ctx, x, (x.shape[0], 1, x.shape[1]))
    result: Value = ctx.b.op(
        "conv", image, kernels, strides=(step,), dilations=(1,), pads_lo=(0,), pads_hi=(0,),
        groups=1, layout="first",
    )  # fmt: skip
    return result


@lowering("MelWeightMatrix")
def mel_weight_matrix(ctx: Ctx, node: NodeProto) -> Value:
    """Triangular filters with centers equally spaced in mel (ONNX operator documentation)."""
    names = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")
    mels, dft, rate, low, high = (ctx.scalar(ctx.input(i), name) for i, name in enumerate(names))
    bins = int(dft) // 2 + 1
    if not 0 < int(mels) * bins <= 1 << 24:
        raise ModelError(f"{mels} mel bins of a transform of length {dft}")
    edges = np.array([low, high], dtype=np.float64)
    low_mel, high_mel = 2595.0 * np.log10(1.0 + edges / 700.0)
    points = np.arange(int(mels) + 2, dtype=np.float64)
    points = points * ((high_mel - low_mel) / (int(mels) + 2)) + low_mel
    hertz = 700.0 * (np.power(10.0, points / 2595.0) - 1.0)
    at = ((int(dft) + 1) * hertz // rate).astype(np.int64)
    matrix = np.zeros((bins, int(mels)))
    for i in range(int(mels)):
        lower, center, upper = at[i], at[i + 1], at[i + 2]
        if center == lower:
            matrix[center, i] = 1.0
        else:
            for j in range(lower, center + 1):
                matrix[j, i] = (j - lower) / (center - lower)
        if upper > center:
            for j in range(center, upper):
                matrix[j, i] = (upper - j) / (upper - center)
    dtype = ctx.attr_dtype("output_datatype", F32)
    return ctx.b.const(matrix.astype(dtype.np))


@lowering("HannWindow", "HammingWindow", "BlackmanWindow")
def window_function(ctx: Ctx, node: NodeProto) -> Value:
    b, dtype = ctx.b, ctx.attr_dtype("output_datatype", F32)
    coefficients = {
        "HannWindow": (0.5, -0.5, 0.0),
        "HammingWindow": (25.0 / 46.0, -21.0 / 46.0, 0.0),
        "BlackmanWindow": (0.42, -0.5, 0.08),
    }[node.op_type]
    size = ctx.dim(ctx.input(0))
    periodic = bool(ctx.attr("periodic", 1))
    if isinstance(size, int) and 0 <= size <= 1 << 20:
        n = np.arange(size) / (size if periodic else max(size - 1, 1))
        wave = sum(a * np.cos(2 * np.pi * k * n) for k, a in enumerate(coefficients))
        return b.const(np.asarray(wave, dtype=np.float64).reshape(size).astype(dtype.np))
    work = dtype if dtype.is_float else F32
    span = b.op("cast", b.dims([size if periodic else size - 1], scalar=True), to=work)
    ramp = b.op("cast", b.op("iota", shape=(size,), axis=0, dtype=I64), to=work)
    angle = b.op("mul", b.op("div", ramp, span), 2 * np.pi)
    total = b.op("add", b.op("mul", b.op("cos", angle), coefficients[1]), coefficients[0])
    if coefficients[2]:
        double = b.op("cos", b.op("mul", angle, 2.0))
        total = b.op("add", total, b.op("mul", double, coefficients[2]))
    return ctx.as_dtype(total, dtype)
