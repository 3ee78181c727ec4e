"""Convolutions without the products that only meet padding, and dilated ones as dense ones.

A dilated ("atrous") convolution reaches far beyond its image (L.-C. Chen et al., "Rethinking Atrous
Convolution for Semantic Image Segmentation", 2017: at a rate of 24 or 36 most taps of a 3x3 kernel
lie outside of 32x32 pixels). Three forms of the same sum cost less, where sizes are known:

*Cropped*: taps that lie outside the image for every output are left out of the kernel.

*Bands*: outputs that see the same taps along an axis are a convolution of their own, of a part of
the image with a part of the kernel; the bands are concatenated. Their kernels are copies.

*Phases*: with stride 1 and dilation ``d``, outputs whose positions are congruent modulo ``d`` see
only pixels that are. So the image becomes ``d * d`` small images and the convolution a dense one
(space-to-batch, as TensorFlow's ``atrous_conv2d`` does it), which Winograd's method may compute.

Products with padding are zero only where weights are finite, so the first two ask for constants.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..ir.builder import Builder
from ..ir.graph import Attrs, Graph, Node, Value
from ..ir.types import F32
from ..ir.winograd import GAIN, Images, unasked
from .facts import array_of
from .rebuild import New, with_replaced

WORTH = 0.8
"""Share of the products up to which bands along an axis pay for their copies."""
MOST = 5
"""Bands along one axis."""
SAVED = 1 << 20
"""Products that bands must save: a kernel per band costs the time of some ten thousands."""


@dataclass(frozen=True, slots=True)
class _Band:
    """Outputs ``[start, stop)`` of an axis, which see the taps ``[first, last]`` of its kernel."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def products(self) -> int:
        """Outputs times taps."""
        return (self.stop - self.start) * (self.last - self.first + 1)


@dataclass(frozen=True, slots=True)
class _Line:
    """A convolution along one axis."""

    size: int
    outputs: int
    taps: int
    stride: int
    dilation: int
    lo: int
    hi: int

    def bands(self, dense: bool) -> list[_Band]:
        """The outputs by what they see; one band where that does not pay, as for groups of channels
        (not ``dense``), which are bound by memory, or an output sees padding alone; none where
        no output sees a pixel."""
        at = (np.arange(self.outputs)[:, None] * self.stride
              + np.arange(self.taps) * self.dilation - self.lo)
        seen = (at >= 0) & (at < self.size)
        if not seen.any():
            return []
        if not seen.any(axis=1).all():
            return [_Band(0, self.outputs, 0, self.taps - 1)]
        first, last = seen.argmax(axis=1), self.taps - 1 - seen[:, ::-1].argmax(axis=1)
        found: list[_Band] = []
        for (a, z), run in groupby(zip(first.tolist(), last.tolist(), strict=True)):
            start = found[-1].stop if found else 0
            found.append(_Band(start, start + len(list(run)), a, z))
        whole = _Band(0, self.outputs, int(first.min()), int(last.max()))
        many = dense and self.dilation > 1 and len(found) <= MOST
        pays = sum(b.products for b in found) <= WORTH * whole.products
        return found if many and pays else [whole]

    def reach(self, band: _Band) -> tuple[int, int, int, int]:
        """What a band reads: first pixel and number of pixels, and the padding around them."""
        start = band.start * self.stride + band.first * self.dilation - self.lo
        stop = (band.stop - 1) * self.stride + band.last * self.dilation - self.lo + 1
        lo, hi = max(0, -start), max(0, stop - self.size)
        return start + lo, stop - hi - start - lo, lo, hi


def _lines(node: Node) -> list[_Line]:
    """The axes of a channels-last convolution of float32 whose sizes are known; else nothing."""
    if node.op != "conv" or node.attrs["layout"] != "last" or node.out.dtype != F32:
        return []
    (x, w), a = node.operands, node.attrs
    sizes = (*x.shape[1:-1], *node.out.shape[1:-1], *w.shape[:-2])
    if not all(isinstance(d, int) for d in sizes) or 0 in (*x.shape, *w.shape):
        return []
    columns = (x.shape[1:-1], node.out.shape[1:-1], w.shape[:-2], a["strides"], a["dilations"],
               a["pads_lo"], a["pads_hi"])
    return [_Line(*line) for line in zip(*columns, strict=True)]


# -- cropped, and in bands -------------------------------------------------------------------------


def _cut(b: Builder, value: Value, axis: int, start: int, size: int) -> Value:
    """``size`` elements of one axis from ``start`` on."""
    if (start, size) == (0, value.shape[axis]):
        return value
    starts = tuple(start if k == axis else 0 for k in range(value.rank))
    sizes = tuple(size if k == axis else d for k, d in enumerate(value.shape))
    return b.op("slice", value, starts=starts, sizes=sizes, steps=(1,) * value.rank)


def _in_bands(b: Builder, node: Node, x: Value, w: Value, lines: Sequence[_Line],
              bands: Sequence[Sequence[_Band]], chosen: tuple[_Band, ...] = ()) -> Value:
    """The outputs of the bands that are ``chosen`` along the first axes, of all along others."""
    axis = len(chosen)
    if axis < len(lines):
        parts = []
        for band in bands[axis]:
            start, size, _, _ = lines[axis].reach(band)
            part = _cut(b, x, axis + 1, start, size)
            kernel = _cut(b, w, axis, band.first, band.last - band.first + 1)
            parts.append(_in_bands(b, node, part, kernel, lines, bands, (*chosen, band)))
        return parts[0] if len(parts) == 1 else b.op("concat", *parts, axis=axis + 1)
    reach = [line.reach(band) for line, band in zip(lines, chosen, strict=True)]
    pads = {"pads_lo": tuple(r[2] for r in reach), "pads_hi": tuple(r[3] for r in reach)}
    return b.node("conv", (x, w), Attrs({**node.attrs, **pads}.items())).outputs[0]


def _cheapest_bands(node: Node, lines: Sequence[_Line]) -> tuple[list[list[_Band]], float]:
    """The bands of every axis, one where more do not pay, and their share of all products."""
    products = math.prod(line.outputs * line.taps for line in lines)

    def left(bands: list[list[_Band]]) -> int:
        return math.prod(sum(band.products for band in found) for found in bands)

    cropped = [line.bands(False) for line in lines]
    if not all(cropped):
        return cropped, 1.0
    found = [line.bands(node.attrs["groups"] == 1) for line in lines]
    count, (channels, columns) = node.out.shape[0], node.operands[1].shape[-2:]
    each = math.prod(d for d in (count, channels, columns) if isinstance(d, int))
    if (left(cropped) - left(found)) * each < SAVED:
        found = cropped
    return found, left(found) / products


# -- phases ----------------------------------------------------------------------------------------


def _phase_cost(node: Node, lines: Sequence[_Line]) -> float:
    """Time of the dense convolution of all phases by Winograd's method, as a share of the direct
    sum's; infinite where it does not have that form, or the method is not used."""
    (channels, columns), images = node.operands[1].shape[-2:], node.out.shape[0]
    if len(lines) != 2 or node.attrs["groups"] != 1 or max(v.dilation for v in lines) == 1:
        return math.inf
    if any(v.stride != 1 or v.taps != 3 or v.lo % v.dilation or v.hi % v.dilation or
           v.lo + v.hi > 2 * v.dilation or min(v.lo, v.hi) < 0 for v in lines):
        return math.inf
    height, width = sides = [
        -(-v.size // v.dilation) + (v.lo + v.hi) // v.dilation - 2 for v in lines]
    if min(sides) <= 0 or not isinstance(channels, int) or not isinstance(columns, int):
        return math.inf
    phases = math.prod(v.dilation for v in lines)
    side = unasked(Images(images * phases, height, width, channels, columns))
    if not side:
        return math.inf
    squares = math.prod(-(-d // side) for d in sides)
    products = 9 * math.prod(v.outputs for v in lines)
    return phases * squares * (side + 2) ** 2 / (products * GAIN)


def _in_phases(b: Builder, node: Node, x: Value, w: Value, lines: Sequence[_Line]) -> Value:
    """The convolution on phases of the image, put together again."""
    count, channels = x.shape[0], x.shape[-1]
    down, across = lines
    rates = (down.dilation, across.dilation)
    rest = tuple(-line.size % line.dilation for line in lines)
    if any(rest):
        x = b.op("pad", x, b.const(0.0, x.dtype), lo=(0,) * 4, hi=(0, *rest, 0), mode="constant")
    height, width = (d // r for d, r in zip(x.shape[1:3], rates, strict=True))
    split = b.op("reshape", x, shape=(count, height, rates[0], width, rates[1], channels))
    phases = b.op("transpose", split, perm=(0, 2, 4, 1, 3, 5))
    batch = count * rates[0] * rates[1]
    images = b.op("reshape", phases, shape=(batch, height, width, channels))
    pads = {key: tuple(p // r for p, r in zip(node.attrs[key], rates, strict=True))
            for key in ("pads_lo", "pads_hi")}
    attrs = Attrs({**node.attrs, **pads, "dilations": (1, 1)}.items())
    y = b.node("conv", (images, w), attrs).outputs[0]
    height, width, columns = y.shape[1:]
    split = b.op("reshape", y, shape=(count, *rates, height, width, columns))
    turned = b.op("transpose", split, perm=(0, 3, 1, 4, 2, 5))
    y = b.op("reshape", turned, shape=(count, height * rates[0], width * rates[1], columns))
    for axis, line in enumerate(lines, 1):
        y = _cut(b, y, axis, 0, line.outputs)
    return y


def narrow_dilated(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with convolutions cropped, in bands or in phases, whichever has fewest products."""

    def narrowed(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        lines = _lines(node)
        if not lines or node.operands[1].node.op != "const":
            return None
        x, w = map(new, node.operands)
        bands, share = _cheapest_bands(node, lines)
        if _phase_cost(node, lines) < share:
            name, y = "atrous_phases", _in_phases(b, node, x, w, lines)
        elif share < 1 and np.isfinite(array_of(graph.constants, w)).all():
            name, y = "atrous_bands", _in_bands(b, node, x, w, lines, bands)
        else:
            return None
        if fired is not None:
            fired[name] += 1
        return (y,)

    return with_replaced(graph, narrowed)
