"""Windows that are kernels of their own: positions of window maxima, maxima over regions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ModelError
from ..types import I64, TensorType
from .base import Attributes, OpDef, register, tensor
from .contraction import conv_sizes, sliding_windows

_ATTRS = ("kernel", "strides", "dilations", "pads_lo", "pads_hi", "column_major")


def _infer_pool_argmax(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    x = tensor(types[0], "pool_argmax")
    r = x.rank - 2
    if r < 1 or any(len(attrs[k]) != r for k in _ATTRS[:-1]):
        raise ModelError(f"pool_argmax: window {attrs['kernel']} of {x}")
    out = conv_sizes(x.shape[2:], attrs["kernel"], attrs)
    return (TensorType(I64, (*x.shape[:2], *out)),)


def _ref_pool_argmax(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    x = args[0]
    n, c, *spatial = x.shape
    count = int(np.prod(spatial, dtype=np.int64))
    at = np.arange(count).reshape(spatial[::-1] if attrs["column_major"] else spatial)
    at = at.transpose() if attrs["column_major"] else at
    image = np.arange(n * c).reshape(n, c, *(1,) * len(spatial)) * count
    kernel = tuple(attrs["kernel"])
    places = sliding_windows(at + image, kernel, attrs, -1)
    values = sliding_windows(x.astype(np.float64) if x.dtype.kind == "f" else x, kernel, attrs, 0)
    shape = (*values.shape[: x.ndim], -1)
    if 0 in values.shape:
        return (np.zeros(types[0].shape, dtype=np.int64),)
    places, values = places.reshape(shape), values.reshape(shape)
    inside = places >= 0
    low = np.where(inside, values, np.array(-np.inf if x.dtype.kind == "f" else 0, values.dtype))
    if x.dtype.kind != "f":
        low = np.where(inside, values, np.iinfo(x.dtype).min)
    with np.errstate(all="ignore"):
        best = low.max(axis=-1, keepdims=True)
        hit = inside & ((low == best) | (np.isnan(low) if x.dtype.kind == "f" else False))
    nan = np.isnan(low) if x.dtype.kind == "f" else np.zeros_like(hit)
    hit = np.where(nan.any(axis=-1, keepdims=True), nan & inside, hit)
    pick = hit.argmax(axis=-1)[..., None]
    found = np.take_along_axis(places, pick, -1)
    return (np.where(hit.any(axis=-1, keepdims=True), found, 0)[..., 0].astype(np.int64),)


register(OpDef("pool_argmax", (1, 1), _infer_pool_argmax, _ref_pool_argmax,
               frozenset({"opaque", "window"}), attrs=_ATTRS,
               doc="flat positions (row-major, or column-major within an image) of window maxima"))


def _infer_roi(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    x, rois = tensor(types[0], "max_roi_pool"), tensor(types[1], "max_roi_pool")
    if x.rank != 4 or rois.rank != 2 or rois.shape[1] != 5 or rois.dtype != x.dtype:
        raise ModelError(f"max_roi_pool: images {x} must be [N, C, H, W] and rois {rois} [R, 5]")
    if not x.dtype.is_float:
        raise ModelError(f"max_roi_pool is not defined for {x.dtype}")
    return (x.with_shape((rois.shape[0], x.shape[1], *attrs["pooled"])),)


def roi_bins(
    start: float, end: float, bins: int, size: int, scale: float
) -> list[tuple[int, int]]:
    """Bounds of the bins of a region along one axis (Girshick 2015, Fast R-CNN): the region is
    rounded to whole pixels, the bins to the pixels that they touch."""
    first, last = (int(math.floor(abs(v * scale) + 0.5) * (1 if v >= 0 else -1))
                   for v in (start, end))  # fmt: skip
    step = max(last - first + 1, 1) / bins
    found = []
    for i in range(bins):
        lo, hi = math.floor(i * step) + first, math.ceil((i + 1) * step) + first
        found.append((min(max(lo, 0), size), min(max(hi, 0), size)))
    return found


def _ref_roi(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    x, rois = args
    y = np.zeros(types[0].shape, x.dtype)
    scale = attrs["scale"]
    for r, roi in enumerate(rois.astype(np.float64)):
        image = x[min(max(int(roi[0]), 0), len(x) - 1)]
        rows = roi_bins(roi[2], roi[4], attrs["pooled"][0], x.shape[2], scale)
        columns = roi_bins(roi[1], roi[3], attrs["pooled"][1], x.shape[3], scale)
        for i, (top, bottom) in enumerate(rows):
            for j, (left, right) in enumerate(columns):
                if bottom > top and right > left:
                    y[r, :, i, j] = image[:, top:bottom, left:right].max(axis=(1, 2))
    return (y,)


register(OpDef("max_roi_pool", (2, 2), _infer_roi, _ref_roi, frozenset({"opaque", "window"}),
               attrs=("pooled", "scale"),
               doc="maxima over the bins of regions (image, x1, y1, x2, y2); empty bins give 0"))
