"""Norms over groups of channels of images that are stored channels-last.

The channels of one group lie side by side only within one pixel, so a norm over a group has no
contiguous axis that is worth a vector: of 64 channels in 32 groups two. So moments are taken per
channel first, over the pixels, where all channels are vectors of the inner loop; then over the
channels of a group, which are few numbers; and what a pixel is shifted and scaled by is written
per channel again. The mean of a group is the mean of the means of its channels, since all have as
many pixels; its variance is that of deviations from the group's mean, in two passes as before.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.builder import Builder
from ..ir.dims import Dim, product
from ..ir.graph import Node, Value
from ..ir.types import F32, F64
from .evaluate import fold_tree
from .facts import is_const, scalar_of


def groups_as_rows(image: Sequence[Dim], rows: Sequence[Dim]) -> bool:
    """Whether a reshape from ``image`` [N, C, pixels...] to ``rows`` [N, G, C / G * pixels] makes
    one row of each group of several channels."""
    if len(image) < 3 or len(rows) != 3 or image[0] != rows[0]:
        return False
    c, g = image[1], rows[1]
    return isinstance(c, int) and isinstance(g, int) and 0 < g < c and c % g == 0 and (
        rows[2] == product(image[2:]) * (c // g))


def group_norm(b: Builder, node: Node, operands: Sequence[Value | None], image: Value, groups: int
               ) -> Value | None:
    """The ``layer_norm`` node computed on ``image`` [N, pixels..., C]; ``operands`` are its scale
    and bias. None where one of them does not belong to channels, or groups of them, alone, and for
    floats too narrow for sums of squares."""
    c = image.shape[-1]
    if image.dtype not in (F32, F64) or not isinstance(c, int):
        return None
    per = c // groups
    vectors: list[tuple[str, Value]] = []
    for op, neutral, v in zip(("mul", "add"), (1, 0), operands, strict=False):
        if v is None or scalar_of(b.constants, v) == neutral:
            continue
        vector = _per_channel(b, v, node.out.rank, groups, per)
        if vector is None:
            return None
        vectors.append((op, vector))
    pixels = tuple(range(1, image.rank - 1))
    ones = (image.shape[0], *(1,) * len(pixels))

    def grouped(x: Value) -> Value:
        moments = b.op("reduce", x, kind="mean", axes=pixels, keepdims=True)
        apart = b.op("reshape", moments, shape=(*ones, groups, per))
        return b.op("reduce", apart, kind="mean", axes=(apart.rank - 1,), keepdims=True)

    def spread(x: Value) -> Value:
        wide = b.op("expand", x, shape=(*ones, groups, per))
        return b.op("reshape", wide, shape=(*ones, c))

    d = b.op("sub", image, spread(grouped(image)))
    deviation = b.op("sqrt", b.op("add", grouped(b.op("mul", d, d)), node.attrs["eps"]))
    y = b.op("mul", d, spread(b.op("reciprocal", deviation)))
    for op, vector in vectors:
        y = b.op(op, y, vector)
    return y


def _per_channel(b: Builder, v: Value, rank: int, groups: int, per: int) -> Value | None:
    """The vector [groups * per] of an operand that broadcasts to a norm's ``rank`` axes: the second
    are groups; of five and more the third are channels of one."""
    shape = (*(1,) * (rank - v.rank), *v.shape)
    channels = 1 if rank == 3 else shape[2]
    rest = shape[2:] if rank == 3 else shape[3:]
    if shape[0] != 1 or any(d != 1 for d in rest) or shape[1] not in (1, groups) or (
            channels not in (1, per)):
        return None
    apart = b.op("reshape", v, shape=(shape[1], channels))
    wide = b.op("expand", apart, shape=(groups, per))
    vector = b.op("reshape", wide, shape=(groups * per,))
    assert isinstance(vector, Value)
    return fold_tree(b, vector) if is_const(v) else vector
