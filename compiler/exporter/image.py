"""Convolutions and windows in ONNX.

ONNX images are channels-first; layout ``last`` is transposed around the operator. Pads that ONNX or
runtimes do not take (symbolic, negative, as wide as a pooling kernel) become a ``Pad`` before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Node, Value
from ...ir.ops.reduction import identity
from ...ir.types import F64, DType
from .context import Exporter, writes


def _first(e: Exporter, name: str, v: Value, layout: str) -> str:
    return name if layout == "first" else e.transpose(name, [0, v.rank - 1, *range(1, v.rank - 1)])


def _back(e: Exporter, name: str, rank: int, layout: str) -> str:
    return name if layout == "first" else e.transpose(name, [0, *range(2, rank), 1])


def _pad_spatial(
    e: Exporter, x: str, lo: tuple[Dim, ...], hi: tuple[Dim, ...], value: Any, dtype: DType
) -> str:
    pads = e.dims([0, 0, *lo, 0, 0, *hi])
    return str(e.emit("Pad", x, pads, e.literal(value, dtype)))


def _prepared(
    e: Exporter, node: Node, x: str, fill: Any, narrow: tuple[int, ...]
) -> tuple[str, list[Any]]:
    """(image, pads attribute): pads that the operator cannot take are added before it."""
    lo, hi = node.attrs["pads_lo"], node.attrs["pads_hi"]
    plain = all(isinstance(p, int) and p >= 0 for p in (*lo, *hi))
    if plain:
        plain = all(p < k for p, k in zip((*lo, *hi), narrow * 2, strict=True))
        # A dilated window may lie in the padding as a whole, which runtimes do not call -inf.
        plain = plain and (not any((*lo, *hi)) or all(d == 1 for d in node.attrs["dilations"]))
    if plain:
        return x, [*lo, *hi]
    return _pad_spatial(e, x, lo, hi, fill, node.out.dtype), [0] * (2 * len(lo))


@writes("conv")
def _conv(e: Exporter, node: Node, xs: list[str]) -> str:
    image, weights = node.operands
    attrs, layout, r = node.attrs, node.attrs["layout"], image.rank - 2
    x, w = _first(e, xs[0], image, layout), xs[1]
    if layout == "last":
        w = e.transpose(w, [r + 1, r, *range(r)])
    work = node.out.dtype if node.out.dtype.is_float else F64  # ONNX convolves floats
    x, w = (
        n if v.dtype == work else e.cast(n, work) for n, v in zip((x, w), (image, weights),
                                                                 strict=True)
    )  # fmt: skip
    x, pads = _prepared_conv(e, node, x, work)
    kernel = weights.shape[2:] if layout == "first" else weights.shape[:-2]
    y = e.emit(
        "Conv", x, w, strides=list(attrs["strides"]), dilations=list(attrs["dilations"]),
        pads=pads, group=attrs["groups"], kernel_shape=list(kernel),
    )  # fmt: skip
    y = y if work == node.out.dtype else e.cast(y, node.out.dtype)
    return _back(e, y, image.rank, layout)


def _prepared_conv(e: Exporter, node: Node, x: str, work: DType) -> tuple[str, list[Any]]:
    lo, hi = node.attrs["pads_lo"], node.attrs["pads_hi"]
    if all(isinstance(p, int) and p >= 0 for p in (*lo, *hi)):
        return x, [*lo, *hi]
    return _pad_spatial(e, x, lo, hi, 0, work), [0] * (2 * len(lo))


@writes("conv_transpose")
def _conv_transpose(e: Exporter, node: Node, xs: list[str]) -> str:
    image, weights = node.operands
    attrs, layout = node.attrs, node.attrs["layout"]
    x = _first(e, xs[0], image, layout)
    lo, hi = attrs["pads_lo"], attrs["pads_hi"]
    plain = all(isinstance(p, int) and p >= 0 for p in (*lo, *hi))
    extra = attrs["output_padding"]
    room = all(
        isinstance(p, int) and 0 <= p < max(s, d)
        for p, s, d in zip(extra, attrs["strides"], attrs["dilations"], strict=True)
    )
    y = e.emit(
        "ConvTranspose", x, xs[1], strides=list(attrs["strides"]),
        dilations=list(attrs["dilations"]), group=attrs["groups"],
        kernel_shape=list(weights.shape[2:]), pads=[*lo, *hi] if plain else [0] * (2 * len(lo)),
        output_padding=list(extra) if room else [0] * len(extra),
    )  # fmt: skip
    cut_lo = (0,) * len(lo) if plain else tuple(-p for p in lo)
    cut_hi = (0,) * len(lo) if plain else tuple(-p for p in hi)
    if not room:
        cut_hi = tuple(c + p for c, p in zip(cut_hi, extra, strict=True))
    if any(c != 0 for c in (*cut_lo, *cut_hi)):
        y = _pad_spatial(e, y, cut_lo, cut_hi, 0, node.out.dtype)
    return _back(e, y, image.rank, layout)


@writes("pool")
def _pool(e: Exporter, node: Node, xs: list[str]) -> str:
    image = node.operands[0]
    attrs, layout, dtype = node.attrs, node.attrs["layout"], node.out.dtype
    kernel = tuple(attrs["kernel"])
    work = dtype if dtype.is_float and dtype.bits >= 16 else F64
    x = _first(e, xs[0], image, layout)
    fill: Any = identity(attrs["kind"], dtype)
    x, pads = _prepared(e, node, x, fill, kernel)
    x = x if work == dtype else e.cast(x, work)
    common: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(attrs["strides"]),
              "dilations": list(attrs["dilations"]), "pads": pads}  # fmt: skip
    if attrs["kind"] == "max":
        y = e.emit("MaxPool", x, **common)
    else:
        mean = e.emit("AveragePool", x, count_include_pad=1, **common)
        y = e.emit("Mul", mean, e.literal(int(np.prod(kernel)), work))
    y = y if work == dtype else e.cast(y, dtype)
    return _back(e, y, image.rank, layout)


@writes("pool_argmax")
def _pool_argmax(e: Exporter, node: Node, xs: list[str]) -> str:
    attrs = node.attrs
    pads = [*attrs["pads_lo"], *attrs["pads_hi"]]
    if not all(isinstance(p, int) and p >= 0 for p in pads):
        return str(e.refuse(node, "has pads that are symbolic or negative"))
    _, at = e.emit(
        "MaxPool", xs[0], outputs=2, kernel_shape=list(attrs["kernel"]), pads=pads,
        strides=list(attrs["strides"]), dilations=list(attrs["dilations"]),
        storage_order=int(attrs["column_major"]),
    )  # fmt: skip
    return str(at)


@writes("max_roi_pool")
def _max_roi_pool(e: Exporter, node: Node, xs: list[str]) -> str:
    return str(e.emit("MaxRoiPool", *xs, pooled_shape=list(node.attrs["pooled"]),
                      spatial_scale=float(node.attrs["scale"])))  # fmt: skip
