"""Lowering of DeformConv: bilinear samples at displaced taps, then one matrix product per group.

Every tap of every output position is a point of its own in the image (Dai et al. 2017; with a mask:
Zhu et al. 2019). The 2^r pixels around it are gathered as rows of channels and weighted; pixels
outside the image count as zero. What results are the columns of an ordinary convolution, whose
product with the weights is a ``dot``. Images of any rank r.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim, product
from ...ir.errors import ModelError
from ...ir.types import F32, I64
from ..messages import NodeProto
from .ops_conv import Window, add_bias, read_window
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx


@dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes that the steps share."""

    groups: int
    """Groups of channels that share displacements."""
    taps: int
    sizes: tuple[Dim, ...]
    """Of the image."""
    outs: tuple[Dim, ...]
    """Of the result."""

    @property
    def points(self) -> Dim:
        """Samples per image and group."""
        return self.taps * product(self.outs)


@lowering("DeformConv", since=19)
def deform_conv(ctx: Ctx, node: NodeProto) -> Value:
    """X, W, offset, B, mask."""
    b, x, w, offset = ctx.b, ctx.input(0), ctx.input(1), ctx.input(2)
    mask, groups = ctx.optional(4), ctx.attr("group", 1)
    if x.rank < 3 or w.rank != x.rank or offset.rank != x.rank:
        raise ModelError(f"image {x.type}, weights {w.type}, offsets {offset.type}")
    m, inner, *kernel = ctx.static(f"weights {w.type} must have static sizes", *w.shape)
    (c,) = ctx.static(f"the channels of the image {x.type} must be static", x.shape[1])
    window = read_window(ctx, x.shape[2:], kernel)
    n, taps = x.shape[0], math.prod(kernel)
    sh = _Shape(ctx.attr("offset_group", 1), taps, x.shape[2:], offset.shape[2:])
    rank = x.rank - 2
    if c != inner * groups or m % groups or c % sh.groups:
        raise ModelError(f"{c} channels, weights {w.type}, {groups} and {sh.groups} groups")
    if offset.shape[1] != sh.groups * taps * rank:
        raise ModelError(f"offsets {offset.type} for {sh.groups} groups of {taps} taps")
    work = F32 if x.dtype.bits < 32 else x.dtype
    columns = _columns(ctx, ctx.as_dtype(x, work), ctx.as_dtype(offset, work), mask, window, sh)
    outs = product(sh.outs)
    columns = reshape_to(ctx, columns, (n, groups, inner * taps, outs))
    rows = reshape_to(ctx, ctx.as_dtype(w, work), (1, groups, m // groups, inner * taps))
    y = b.op("dot", rows, columns, ta=False, tb=False)
    y = ctx.as_dtype(reshape_to(ctx, y, (n, m, *sh.outs)), x.dtype)
    return add_bias(ctx, y, ctx.optional(3))


def _columns(
    ctx: Ctx, x: Value, offset: Value, mask: Value | None, window: Window, sh: _Shape
) -> Value:
    """Samples [N, C, taps, outs]."""
    b, (n, c) = ctx.b, x.shape[:2]
    rank, depth, outs = len(sh.sizes), c // sh.groups, product(sh.outs)
    pixels = reshape_to(ctx, x, (n * sh.groups, depth, product(sh.sizes)))
    pixels = b.op("transpose", pixels, perm=(0, 2, 1))
    moves = reshape_to(ctx, offset, (n * sh.groups, sh.taps, rank, outs))
    corners = []
    for k in range(rank):
        move = reshape_to(ctx, cut(ctx, moves, 2, k, 1), (n * sh.groups, sh.taps, *sh.outs))
        at = b.op("add", move, _plain_positions(ctx, window, sh, k, move))
        at = reshape_to(ctx, at, (n * sh.groups, sh.points))
        corners.append(_axis_corners(ctx, at, sh.sizes[k]))
    total: Value | None = None
    for corner in itertools.product(*corners):
        part = _corner(ctx, pixels, sh.sizes, corner)
        total = part if total is None else b.op("add", total, part)
    assert total is not None
    if mask is not None:
        scale = reshape_to(ctx, ctx.as_dtype(mask, x.dtype), (n * sh.groups, sh.points, 1))
        total = b.op("mul", total, scale)
    columns = b.op("transpose", total, perm=(0, 2, 1))
    return reshape_to(ctx, columns, (n, c, sh.taps, outs))


def _plain_positions(ctx: Ctx, window: Window, sh: _Shape, k: int, like: Value) -> Value:
    """Where the taps of an ordinary convolution lie on axis ``k``: [taps, outs...], or with sizes
    of 1."""
    b, rank = ctx.b, len(sh.sizes)
    kernel = ctx.static("a kernel of static sizes", *window.kernel)
    tap = np.indices(kernel)[k].reshape(sh.taps, *(1,) * rank) * window.dilations[k]
    shape = tuple(d if i == k else 1 for i, d in enumerate(sh.outs))
    ramp = b.op("iota", shape=(1, *shape), axis=1 + k, dtype=I64)
    start = b.op("mul", ramp, window.strides[k])
    if window.lo[k] != 0:
        start = b.op("sub", start, b.dims([window.lo[k]], scalar=True))
    at = b.op("add", start, b.const(tap.astype(np.int64)))
    result: Value = b.op("cast", at, to=like.dtype)
    return result


_Corner = tuple["Value", "Value", "Value"]
"""On one axis: positions i64[N, P] inside the image, weights, whether the pixel is inside."""


def _axis_corners(ctx: Ctx, at: Value, size: Dim) -> list[_Corner]:
    """The two pixels around each sample."""
    b = ctx.b
    top = b.op("cast", b.dims([size - 1], scalar=True), to=at.dtype)
    last = b.dims([size - 1], scalar=True)
    zero = b.const(np.zeros((), at.dtype.np))
    base = b.op("floor", at)
    after = b.op("sub", at, base)
    before = b.op("sub", b.const(np.ones((), at.dtype.np)), after)
    found = []
    for step, weight in ((0.0, before), (1.0, after)):
        pixel = b.op("add", base, step) if step else base
        inside = b.op("and", b.op("le", zero, pixel), b.op("le", pixel, top))
        index = b.op("min", b.op("max", b.op("cast", pixel, to=I64), 0), last)
        found.append((index, weight, inside))
    return found


def _corner(ctx: Ctx, pixels: Value, sizes: tuple[Dim, ...], corner: tuple[_Corner, ...]) -> Value:
    """Weighted pixels [N, P, C] of one corner; those outside the image are 0, whatever the pixel
    holds that is read in their place."""
    b = ctx.b
    linear, weight, inside = corner[0]
    for size, (index, w, ok) in zip(sizes[1:], corner[1:], strict=True):
        linear = b.op("add", b.op("mul", linear, b.dims([size], scalar=True)), index)
        weight, inside = b.op("mul", weight, w), b.op("and", inside, ok)
    column = (*linear.shape, 1)
    picked = b.op("gather_nd", pixels, reshape_to(ctx, linear, column), batch_dims=1)
    scaled = b.op("mul", picked, reshape_to(ctx, weight, column))
    zero = b.const(np.zeros((), pixels.dtype.np))
    result: Value = b.op("select", reshape_to(ctx, inside, column), scaled, zero)
    return result
