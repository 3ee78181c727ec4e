"""Lowering of AffineGrid: where an affinely transformed image samples its source.

A sampling point is theta * (x, y[, z], 1) for the normalized position of a pixel. The product is
written out as a sum over the coordinates, since each of them varies along one axis only: nothing
but a small elementwise expression is left, of any sizes. ONNX's function body does not hold for a
batch of one image, whose axis it squeezes away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.types import F32, I64
from ..messages import NodeProto
from .ops_shape import cut, reshape_to
from .registry import lowering

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx


@lowering("AffineGrid")
def affine_grid(ctx: Ctx, node: NodeProto) -> Value:
    """Grid [N, (D,) H, W, r] for ``theta`` [N, r, r + 1] and sizes (N, C, (D,) H, W)."""
    b, theta = ctx.b, ctx.input(0)
    outs = ctx.dims(ctx.input(1))[2:]
    r = len(outs)
    if r not in (2, 3) or theta.rank != 3 or any(
        isinstance(d, int) and d != want for d, want in zip(theta.shape[1:], (r, r + 1))
    ):
        raise ModelError(f"theta {theta.type} for images of {r} axes; [N, 2, 3] for images of 2 and"
                         " [N, 3, 4] for images of 3 are needed")  # fmt: skip
    aligned = bool(ctx.attr("align_corners", 0))

    def column(j: int) -> Value:
        return reshape_to(ctx, cut(ctx, theta, 2, j, 1), (theta.shape[0], *(1,) * r, r))

    total = column(r)
    for j in range(r):  # theta's columns begin with x, the image's axes end with it
        axis = r - 1 - j
        at = ctx.as_dtype(_normalized(ctx, outs[axis], aligned), theta.dtype)
        at = reshape_to(ctx, at, (outs[axis], *(1,) * (r - axis)))
        total = b.op("add", total, b.op("mul", column(j), at))
    return total


def _normalized(ctx: Ctx, size: Dim, aligned: bool) -> Value:
    """Positions on an axis, f32[size], where -1 and 1 are the image's borders, or, if ``aligned``,
    the centers of its first and last pixel; the only pixel of an aligned axis is at -1."""
    b = ctx.b
    twice = b.op("mul", b.op("iota", shape=(size,), axis=0, dtype=I64), 2)
    extent = b.dims([size], scalar=True)
    if aligned:
        extent = b.op("max", b.op("sub", extent, 1), 1)
    else:
        twice = b.op("add", twice, 1)
    span = b.op("cast", extent, to=F32)
    return b.op("div", b.op("cast", b.op("sub", twice, extent), to=F32), span)
