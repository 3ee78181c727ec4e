"""Ops whose result size depends on data: positions of non-zeros, unique rows, box selection.

Each returns buffers padded to the largest possible size (the padding is 0) and, as its last result,
the i64 scalar count of what is valid. ``bind`` turns that count into a symbol and ``slice`` cuts
the padding off, so everything downstream has exact symbolic shapes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dim_functions import dmin
from ..dims import Dim
from ..errors import ModelError
from ..types import I64, TensorType
from .base import Attributes, OpDef, register, tensor

_COUNT = TensorType(I64, ())
_TRAITS = frozenset({"dynamic", "opaque"})


# -- nonzero -----------------------------------------------------------------------------------


def _infer_nonzero(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "nonzero")
    if t.dtype.kind not in "fiub":
        raise ModelError(f"nonzero is not defined for {t.dtype}")
    return (TensorType(I64, (t.rank, t.numel())), _COUNT)


def _ref_nonzero(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    x = args[0]
    found = np.stack(np.nonzero(x)) if x.ndim else np.zeros((0, int(bool(x))), np.int64)
    out = np.zeros((x.ndim, x.size), dtype=np.int64)
    out[:, : found.shape[1]] = found
    return (out, np.asarray(found.shape[1], dtype=np.int64))


register(OpDef("nonzero", (1, 1), _infer_nonzero, _ref_nonzero, _TRAITS,
               doc="(positions [rank, numel] in row-major order, count)"))


# -- unique ------------------------------------------------------------------------------------


def _infer_unique(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    t = tensor(types[0], "unique")
    if t.rank != 2 or t.dtype.kind not in "fiubs":
        raise ModelError(f"unique compares the rows of a matrix of numbers or strings, got {t}")
    rows = TensorType(I64, (t.shape[0],))
    return (rows, rows, rows, _COUNT)


def sort_keys(x: np.ndarray) -> np.ndarray:
    """Integers that order like the numbers ``x``, all NaN equal and largest, -0 equal to +0; or
    like strings."""
    if x.dtype == object:
        return np.unique(x, return_inverse=True)[1].reshape(x.shape)
    if x.dtype.kind in "iub":
        return x
    wide = x.astype(np.float64) + 0.0
    bits = np.where(np.isnan(wide), np.nan, wide).view(np.int64)
    bits = np.where(np.isnan(wide), np.int64(0x7FF8000000000000), bits)
    return np.where(bits < 0, bits ^ np.int64(0x7FFFFFFFFFFFFFFF), bits)


def _ref_unique(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    keys = sort_keys(args[0])
    n = keys.shape[0]
    out = [np.zeros(n, dtype=np.int64) for _ in range(3)]
    if n == 0:
        return (*out, np.zeros((), np.int64))
    if keys.shape[1] == 0:
        keys = np.zeros((n, 1), np.int64)
    _, first, inverse, counts = np.unique(
        keys, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)
    if not attrs["sorted"]:  # in the order of first appearance
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        first, counts, inverse = first[order], counts[order], rank[inverse]
    for buffer, value in zip(out, (first, inverse, counts), strict=True):
        buffer[: len(value)] = value
    return (*out, np.asarray(len(first), dtype=np.int64))


register(OpDef("unique", (1, 1), _infer_unique, _ref_unique, _TRAITS, attrs=("sorted",),
               doc="unique rows: (first row of each, number of each row's class, sizes, count)"))


# -- non-maximum suppression -------------------------------------------------------------------


def nms_capacity(
    boxes: TensorType, scores: TensorType, limit: Dim | None
) -> tuple[Dim, Dim]:
    """(most boxes kept per class, most boxes kept)."""
    per_class = boxes.shape[1] if limit is None else dmin(boxes.shape[1], limit)
    return per_class, boxes.shape[0] * scores.shape[1] * per_class


def _infer_nms(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    boxes, scores = tensor(types[0], "nms"), tensor(types[1], "nms")
    if boxes.rank != 3 or scores.rank != 3 or boxes.shape[2] != 4 or boxes.dtype != scores.dtype:
        raise ModelError(f"nms: boxes {boxes} must be [B, N, 4] and scores {scores} [B, C, N]")
    if not boxes.dtype.is_float or boxes.dtype.bits < 32:
        raise ModelError(f"nms is not defined for {boxes.dtype}")
    for name, t in zip(("limit", "iou", "score"), types[2:], strict=False):
        if t is not None and tensor(t, "nms").numel() != 1:
            raise ModelError(f"nms: {name} must be one number, got {t}")
    _, capacity = nms_capacity(boxes, scores, attrs["limit"])
    return (TensorType(I64, (capacity, 3)), _COUNT)


def _corners(boxes: np.ndarray, center: bool) -> tuple[np.ndarray, ...]:
    """(y0, x0, y1, x1) with ordered corners."""
    a, b, c, d = (boxes[:, k] for k in range(4))
    if center:  # x, y, width, height
        return b - d / 2, a - c / 2, b + d / 2, a + c / 2
    return np.minimum(a, c), np.minimum(b, d), np.maximum(a, c), np.maximum(b, d)


def _overlaps(corners: tuple[np.ndarray, ...], i: int, kept: list[int], bound: float) -> bool:
    """Whether box ``i`` overlaps one of ``kept`` by more than ``bound`` (intersection / union)."""
    y0, x0, y1, x1 = corners
    k = np.array(kept, dtype=np.int64)
    high = np.minimum(y1[i], y1[k]) - np.maximum(y0[i], y0[k])
    wide = np.minimum(x1[i], x1[k]) - np.maximum(x0[i], x0[k])
    both = np.maximum(high, 0) * np.maximum(wide, 0)
    area = (y1 - y0) * (x1 - x0)
    union = area[i] + area[k] - both
    with np.errstate(all="ignore"):
        hit = (both > 0) & (area[i] > 0) & (area[k] > 0) & (union > 0) & (both / union > bound)
    return bool(hit.any())


def _ref_nms(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    boxes, scores = args[:2]
    limit, iou, least = (None if a is None else a.reshape(-1)[0] for a in (*args[2:],))
    most = min(int(limit), boxes.shape[1]) if limit is not None else 0
    bound = iou if iou is not None else boxes.dtype.type(0)
    rows: list[tuple[int, int, int]] = []
    for b in range(boxes.shape[0]):
        corners = _corners(boxes[b], attrs["center"])
        for c in range(scores.shape[1]):
            s = scores[b, c]
            kept: list[int] = []
            for i in np.argsort(-s, kind="stable"):
                if len(kept) >= most:
                    break
                if np.isnan(s[i]) or (least is not None and not s[i] > least):
                    continue
                if not _overlaps(corners, int(i), kept, bound):
                    kept.append(int(i))
            rows.extend((b, c, i) for i in kept)
    out = np.zeros(types[0].shape, dtype=np.int64)
    if rows:
        out[: len(rows)] = np.array(rows, dtype=np.int64)
    return (out, np.asarray(len(rows), dtype=np.int64))


register(OpDef("nms", (5, 5), _infer_nms, _ref_nms, _TRAITS, attrs=("center", "limit"),
               doc="greedy non-maximum suppression: (rows batch, class, box; count); `limit` "
                   "bounds operand 2, the most boxes per class"))
