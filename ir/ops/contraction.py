"""Contractions and windows: matrix product, convolution, transposed convolution, pooling."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ..access import AccessMap, Cond, Region, broadcast_index
from ..dim_functions import ceil_div, floordiv, mod
from ..dims import Dim, product
from ..errors import ModelError
from ..types import DType, TensorType
from .base import Attributes, OpDef, Work, broadcast_shapes, register, tensor

Index = tuple[Dim, ...]

# -- dot ---------------------------------------------------------------------------------------


def _infer_dot(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    a, b = tensor(types[0], "dot"), tensor(types[1], "dot")
    acc = attrs.get("acc")
    _check_numbers(a, "dot")
    if a.rank < 2 or b.rank < 2 or (a.dtype != b.dtype and acc is None):
        raise ModelError(f"dot: {a} and {b} (ranks of at least 2 and one dtype)")
    m, k = a.shape[-2:] if not attrs["ta"] else a.shape[-2:][::-1]
    k2, n = b.shape[-2:] if not attrs["tb"] else b.shape[-2:][::-1]
    if isinstance(k, int) and isinstance(k2, int) and k != k2:
        raise ModelError(f"dot: inner sizes {k} and {k2} of {a} and {b} differ")
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return (TensorType(acc or a.dtype, (*batch, m, n)),)


def _access_dot(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    a, b = types
    inner = a.shape[-2] if attrs["ta"] else a.shape[-1]
    k = fresh(inner)
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    at, bt = (
        broadcast_index(TensorType(t.dtype, t.shape[:-2]), batch, index[:-2]) for t in types
    )
    m, n = index[-2:]
    return AccessMap((
        Region(0, (*at, k, m) if attrs["ta"] else (*at, m, k)),
        Region(1, (*bt, n, k) if attrs["tb"] else (*bt, k, n)),
    ), ((k, inner),))


def _ref_dot(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    a, b = args
    out = types[0].dtype
    wide = _accumulator(DType.of(a.dtype), out)
    a, b = a.astype(wide, copy=False), b.astype(wide, copy=False)
    a = np.swapaxes(a, -1, -2) if attrs["ta"] else a
    b = np.swapaxes(b, -1, -2) if attrs["tb"] else b
    with np.errstate(all="ignore"):
        return (np.matmul(a, b).astype(out.np, copy=False),)


def _accumulator(source: DType, out: DType) -> Any:
    if source.is_float and source.bits < 32:
        return np.float32
    return out.np


register(OpDef("dot", (2, 2), _infer_dot, _ref_dot, frozenset({"contraction"}), _access_dot, 2,
               attrs=("ta", "tb", "acc"),
               doc="matrix product of the last two axes, the others broadcast"))


# -- convolution -------------------------------------------------------------------------------


def conv_sizes(
    spatial: tuple[Dim, ...], kernel: tuple[Dim, ...], attrs: Attributes
) -> tuple[Dim, ...]:
    """Output sizes of a convolution or window: floor((d + pads - dilated kernel) / stride) + 1."""
    return tuple(
        (d + lo + hi - ((k - 1) * dil + 1)) // s + 1
        for d, k, s, dil, lo, hi in zip(
            spatial, kernel, attrs["strides"], attrs["dilations"], attrs["pads_lo"],
            attrs["pads_hi"], strict=True)
    )  # fmt: skip


def split_layout(shape: tuple[Dim, ...], layout: str) -> tuple[Dim, tuple[Dim, ...], Dim]:
    """(batch, spatial, channels) of an image tensor."""
    if layout == "first":
        return shape[0], tuple(shape[2:]), shape[1]
    return shape[0], tuple(shape[1:-1]), shape[-1]


def join_layout(n: Dim, spatial: tuple[Dim, ...], c: Dim, layout: str) -> tuple[Dim, ...]:
    """Inverse of ``split_layout``."""
    return (n, c, *spatial) if layout == "first" else (n, *spatial, c)


def _kernel_parts(w: TensorType, layout: str) -> tuple[Dim, tuple[Dim, ...], Dim]:
    """(output channels, kernel sizes, input channels per group) of conv weights."""
    if layout == "first":
        return w.shape[0], tuple(w.shape[2:]), w.shape[1]
    return w.shape[-1], tuple(w.shape[:-2]), w.shape[-2]


def _check_numbers(t: TensorType, op: str) -> None:
    if t.dtype.kind not in "biuf":
        raise ModelError(f"{op} is not defined for {t.dtype}")


def _check_image(t: TensorType, attrs: Attributes, op: str) -> None:
    _check_numbers(t, op)
    if attrs["layout"] not in ("first", "last") or t.rank < 3:
        raise ModelError(f"{op}: image {t}, layout {attrs['layout']!r}")
    for key in ("strides", "dilations", "pads_lo", "pads_hi"):
        if len(attrs[key]) != t.rank - 2:
            raise ModelError(f"{op}: {key} {attrs[key]} for {t}")


def _infer_conv(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    x, w = tensor(types[0], "conv"), tensor(types[1], "conv")
    _check_image(x, attrs, "conv")
    if w.rank != x.rank:
        raise ModelError(f"conv: image {x} and weights {w} have different ranks")
    n, spatial, c = split_layout(x.shape, attrs["layout"])
    m, kernel, cg = _kernel_parts(w, attrs["layout"])
    if isinstance(c, int) and isinstance(cg, int) and c != cg * attrs["groups"]:
        raise ModelError(f"conv: {c} channels, weights for {cg} in {attrs['groups']} groups")
    out = conv_sizes(spatial, kernel, attrs)
    if any(isinstance(d, int) and d < 0 for d in out):
        raise ModelError(f"conv: kernel {kernel} is larger than the padded image {x}")
    return (TensorType(attrs.get("acc") or x.dtype, join_layout(n, out, m, attrs["layout"])),)


def _window_position(
    out: Index, taps: Index, attrs: Attributes, spatial: tuple[Dim, ...]
) -> tuple[Index, tuple[Cond, ...]]:
    at = tuple(
        o * s + t * dil - lo
        for o, t, s, dil, lo in zip(
            out, taps, attrs["strides"], attrs["dilations"], attrs["pads_lo"], strict=True)
    )  # fmt: skip
    padded = [not (lo == 0 and hi == 0)
              for lo, hi in zip(attrs["pads_lo"], attrs["pads_hi"], strict=True)]
    conds = tuple(Cond(i, 0, d) for i, d, p in zip(at, spatial, padded, strict=True) if p)
    return at, conds


def _access_conv(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    x, w = types
    layout = attrs["layout"]
    _, spatial, _ = split_layout(x.shape, layout)
    m_total, kernel, cg = _kernel_parts(w, layout)
    n, out, m = split_layout(index, layout)
    taps = tuple(fresh(k) for k in kernel)
    c = fresh(cg)
    at, conds = _window_position(out, taps, attrs, spatial)
    group: Dim = 0 if attrs["groups"] == 1 else m // (m_total // attrs["groups"])
    xi = join_layout(n, at, group * cg + c, layout)
    wi = (m, c, *taps) if layout == "first" else (*taps, c, m)
    reduced = (*zip(taps, kernel, strict=True), (c, cg))
    return AccessMap((Region(0, xi, conds), Region(1, wi)), reduced)


def _to_first(x: np.ndarray, layout: str) -> np.ndarray:
    return x if layout == "first" else np.moveaxis(x, -1, 1)


def _from_first(x: np.ndarray, layout: str) -> np.ndarray:
    return np.asarray(x if layout == "first" else np.moveaxis(x, 1, -1), order="C")


def sliding_windows(
    x: np.ndarray, kernel: tuple[int, ...], attrs: Attributes, fill: Any
) -> np.ndarray:
    """[N, C, *out, *kernel] strided view of the padded image (channels first)."""
    pads = list(zip(attrs["pads_lo"], attrs["pads_hi"], strict=True))
    cut = tuple(  # a negative pad crops
        slice(max(-lo, 0), size - max(-hi, 0))
        for size, (lo, hi) in zip(x.shape[2:], pads, strict=True)
    )
    wide = [(0, 0), (0, 0), *((max(lo, 0), max(hi, 0)) for lo, hi in pads)]
    x = np.pad(x[(slice(None), slice(None), *cut)], wide, constant_values=fill)
    r = len(kernel)
    span = tuple((k - 1) * d + 1 for k, d in zip(kernel, attrs["dilations"], strict=True))
    if any(s < k for s, k in zip(x.shape[2:], span, strict=True)):
        bare = {**attrs, "pads_lo": (0,) * r, "pads_hi": (0,) * r}
        out: Any = conv_sizes(x.shape[2:], kernel, bare)
        return np.zeros((*x.shape[:2], *(max(int(o), 0) for o in out), *kernel), dtype=x.dtype)
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=tuple(range(2, 2 + r)))
    outer = tuple(slice(None, None, s) for s in attrs["strides"])
    inner = tuple(slice(None, None, d) for d in attrs["dilations"])
    return view[(slice(None), slice(None), *outer, *inner)]


def _ref_conv(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    layout, groups = attrs["layout"], attrs["groups"]
    out_type = types[0].dtype
    wide = _accumulator(DType.of(args[0].dtype), out_type)
    x = _to_first(args[0], layout).astype(wide, copy=False)
    w = args[1].astype(wide, copy=False)
    if layout == "last":
        w = np.moveaxis(w, (-1, -2), (0, 1))
    r = x.ndim - 2
    view = sliding_windows(x, w.shape[2:], attrs, 0)
    n, c = x.shape[:2]
    out_sizes = view.shape[2 : 2 + r]
    cols = view.reshape(n, groups, c // groups, *out_sizes, *w.shape[2:])
    order = (1, 0, *range(3, 3 + r), 2, *range(3 + r, 3 + 2 * r))
    pixels = int(np.prod(out_sizes, dtype=np.int64))
    depth = (c // groups) * int(np.prod(w.shape[2:], dtype=np.int64))
    mat = cols.transpose(order).reshape(groups, n * pixels, depth)
    wm = w.reshape(groups, w.shape[0] // groups, depth)
    with np.errstate(all="ignore"):
        y = np.matmul(mat, wm.transpose(0, 2, 1))
    y = y.reshape(groups, n, pixels, w.shape[0] // groups).transpose(1, 0, 3, 2)
    y = y.reshape(n, w.shape[0], *out_sizes)
    return (_from_first(y.astype(out_type.np, copy=False), layout),)


_CONV_ATTRS = ("strides", "dilations", "pads_lo", "pads_hi", "groups", "layout")
register(OpDef("conv", (2, 2), _infer_conv, _ref_conv, frozenset({"contraction", "image"}),
               _access_conv, 2, attrs=(*_CONV_ATTRS, "acc"),
               doc="cross-correlation of any rank, grouped, strided, dilated, padded"))


def _infer_conv_transpose(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    x, w = tensor(types[0], "conv_transpose"), tensor(types[1], "conv_transpose")
    _check_image(x, attrs, "conv_transpose")
    n, spatial, c = split_layout(x.shape, attrs["layout"])
    if w.rank != x.rank or (isinstance(c, int) and w.shape[0] != c):
        raise ModelError(f"conv_transpose: image {x} and weights {w} do not match")
    out = tuple(
        (d - 1) * s + (k - 1) * dil + 1 + extra - lo - hi
        for d, k, s, dil, lo, hi, extra in zip(
            spatial, w.shape[2:], attrs["strides"], attrs["dilations"], attrs["pads_lo"],
            attrs["pads_hi"], attrs["output_padding"], strict=True)
    )  # fmt: skip
    m = w.shape[1] * attrs["groups"]
    return (x.with_shape(join_layout(n, out, m, attrs["layout"])),)


def _ref_conv_transpose(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    layout, groups = attrs["layout"], attrs["groups"]
    x, w = _to_first(args[0], layout), args[1]
    if x.dtype.itemsize < 4:
        x, w = x.astype(np.float32), w.astype(np.float32)
    n, c, *spatial = x.shape
    kernel, mg = w.shape[2:], w.shape[1]
    full = [(d - 1) * s + (k - 1) * dil + 1 + max(extra, 0) for d, s, k, dil, extra in zip(
        spatial, attrs["strides"], kernel, attrs["dilations"], attrs["output_padding"],
        strict=True)]
    y = np.zeros((n, mg * groups, *full), dtype=x.dtype)
    wg = w.reshape(groups, c // groups, mg, *kernel)
    xg = x.reshape(n, groups, c // groups, math.prod(spatial))
    with np.errstate(all="ignore"):
        for taps in itertools.product(*(range(k) for k in kernel)):
            part = np.einsum("ngcp,gcm->ngmp", xg, wg[(..., *taps)], optimize=True)
            cut = tuple(
                slice(t * dil, t * dil + (d - 1) * s + 1, s)
                for t, dil, d, s in zip(taps, attrs["dilations"], spatial, attrs["strides"],
                                        strict=True)
            )
            y[(slice(None), slice(None), *cut)] += part.reshape(n, mg * groups, *spatial)
    out = split_layout(types[0].shape, layout)[1]
    pads = list(zip(attrs["pads_lo"], out, y.shape[2:], strict=True))
    wide = [(max(-lo, 0), max(lo + size - have, 0)) for lo, size, have in pads]
    y = np.pad(y, [(0, 0), (0, 0), *wide])
    keep = tuple(slice(max(lo, 0), max(lo, 0) + size) for lo, size, _ in pads)
    y = y[(slice(None), slice(None), *keep)].astype(args[0].dtype, copy=False)
    return (_from_first(y, layout),)


def _access_conv_transpose(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    """Output ``j`` receives ``x[q - e] w[e s + p]``, where ``q s + p`` is its place in the result
    that is not cropped: every ``s``-th tap from the output's phase ``p`` on."""
    x, w = types
    layout, kernel = attrs["layout"], w.shape[2:]
    n, out, m = split_layout(index, layout)
    at: list[Dim] = []
    taps: list[Dim] = []
    conds: list[Cond] = []
    known: list[Cond] = []
    reduced: list[tuple[Dim, Dim]] = []
    for o, size, k, s, d, lo in zip(out, split_layout(x.shape, layout)[1], kernel,
                                    attrs["strides"], attrs["dilations"], attrs["pads_lo"],
                                    strict=True):  # fmt: skip
        place, phase = o + lo, mod(o + lo, s)
        if d == 1:
            count = ceil_div(k - phase, s) if isinstance(phase, int) else ceil_div(k, s)
            e = fresh(count)
            tap, position = e * s + phase, floordiv(place, s) - e
            if not isinstance(phase, int):
                known.append(Cond(tap, 0, k))
        else:
            count = k
            e = tap = fresh(k)
            position = floordiv(place - tap * d, s)
            conds.append(Cond(mod(place - tap * d, s), 0, 1))
        conds.append(Cond(position, 0, size))
        at.append(position)
        taps.append(tap)
        reduced.append((e, count))
    mg = w.shape[1]
    cg = x.shape[1 if layout == "first" else -1] // attrs["groups"]
    group: Dim = 0 if attrs["groups"] == 1 else m // mg
    c = fresh(cg)
    channel = group * cg + c
    return AccessMap((Region(0, join_layout(n, tuple(at), channel, layout), tuple(conds)),
                      Region(1, (channel, m - group * mg, *taps), tuple(known))),
                     (*reduced, (c, cg)))


def _work_conv_transpose(types: tuple[Any, ...], attrs: Attributes, results: tuple[Any, ...]
                         ) -> Work:
    x, w = types
    nbytes = x.nbytes() + w.nbytes() + results[0].nbytes()
    return Work(2 * x.numel() * product(w.shape[1:]), nbytes)


register(OpDef("conv_transpose", (2, 2), _infer_conv_transpose, _ref_conv_transpose,
               frozenset({"contraction", "image", "phased"}), _access_conv_transpose, 2,
               attrs=(*_CONV_ATTRS, "output_padding"), work_fn=_work_conv_transpose,
               doc="the gradient of conv; weights [C, M/g, *K] in both layouts"))


# -- pooling -----------------------------------------------------------------------------------

_POOL_ATTRS = ("kind", "kernel", "strides", "dilations", "pads_lo", "pads_hi", "layout")


def _infer_pool(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    x = tensor(types[0], "pool")
    _check_image(x, attrs, "pool")
    if attrs["kind"] not in ("max", "sum"):
        raise ModelError(f"pool: unknown kind {attrs['kind']!r}")
    n, spatial, c = split_layout(x.shape, attrs["layout"])
    out = conv_sizes(spatial, attrs["kernel"], attrs)
    if any(isinstance(d, int) and d < 0 for d in out):
        raise ModelError(f"pool: kernel {attrs['kernel']} is larger than the padded image {x}")
    return (x.with_shape(join_layout(n, out, c, attrs["layout"])),)


def _access_pool(types: Any, attrs: Attributes, index: Index, fresh: Any) -> AccessMap:
    layout = attrs["layout"]
    _, spatial, _ = split_layout(types[0].shape, layout)
    n, out, c = split_layout(index, layout)
    taps = tuple(fresh(k) for k in attrs["kernel"])
    at, conds = _window_position(out, taps, attrs, spatial)
    region = Region(0, join_layout(n, at, c, layout), conds)
    return AccessMap((region,), tuple(zip(taps, attrs["kernel"], strict=True)))


def _ref_pool(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    from .reduction import identity

    x = _to_first(args[0], attrs["layout"])
    fill = identity(attrs["kind"], DType.of(x.dtype))
    view = sliding_windows(x, tuple(attrs["kernel"]), attrs, fill)
    r = x.ndim - 2
    axes = tuple(range(2 + r, 2 + 2 * r))
    wide = view.astype(np.float32) if x.dtype.itemsize < 4 and x.dtype.kind not in "iu" else view
    with np.errstate(all="ignore"):
        biggest = attrs["kind"] == "max"
        out = wide.max(axis=axes) if biggest else wide.sum(axis=axes, dtype=wide.dtype)
    return (_from_first(out.astype(x.dtype, copy=False), attrs["layout"]),)


register(OpDef("pool", (1, 1), _infer_pool, _ref_pool, frozenset({"window", "image", "reduction"}),
               _access_pool, attrs=_POOL_ATTRS,
               doc="max or sum over windows; padding is neutral (a mean divides by its counts)"))
