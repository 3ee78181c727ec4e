"""Which convolutions Winograd's F(m x m, 3 x 3) can compute, and where that is expected to pay.

The form is a convolution of 3x3 pixels with stride 1, channels-last, whose rows and columns are not
split by what follows it; its weights are known when the model is loaded. Tiles are squares of ``m x
m`` outputs. What such a kernel does is described in ``kernels.winograd``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .axes import name_of
from .contraction import ContractionSpace
from .dims import Dim, Expr, ceil_div
from .tiles import is_var

LEAST = 16
"""Channels from which on the products outweigh the transforms."""
GAIN = 0.8
"""Estimated time, of that of the direct sum, below which it is used unasked."""
SQUARES = (2,)
"""Sides of the squares of outputs for which there are kernels."""


@dataclass(frozen=True, slots=True)
class Images:
    """The sizes of such a convolution: outputs, and channels before and after."""

    count: Dim
    height: Dim
    width: Dim
    channels: int
    columns: int

    def squares(self, side: int) -> tuple[Dim, Dim, Dim]:
        """Images, rows and columns of squares of ``side x side`` outputs."""
        return self.count, ceil_div(self.height, side), ceil_div(self.width, side)


def winograd_form(space: ContractionSpace, constant: bool) -> Images | str:
    """The sizes of a convolution that has the form, or the reason why the group is none;
    ``constant`` tells whether its weights are known when the model is loaded and read only here."""
    node = space.anchor
    if node.op != "conv" or space.bytes or not space.direct or space.a.kind != "load":
        return "it is no convolution of float32 images that lie in memory"
    a = node.attrs
    x, w = node.operands
    if a["layout"] != "last" or x.rank != 4 or a["groups"] != 1 or w.shape[:2] != (3, 3):
        return "it is no channels-last convolution of 3x3 pixels in one group"
    if a["strides"] != (1, 1) or a["dilations"] != (1, 1):
        return "its windows are strided or dilated"
    pads = list(zip(a["pads_lo"], a["pads_hi"], strict=True))
    # Where there is an output, there must be a pixel.
    if any(lo + hi > 2 or min(lo, hi) < 0 for lo, hi in pads):
        return "it pads by more than two pixels"
    if not constant:
        return "its weights are not known when the model is loaded"
    if not _plain(space) or not space.side_by_side():
        return "what follows splits its rows or columns, or stores them turned"
    channels, columns = w.shape[2:]
    if not isinstance(channels, int) or not isinstance(columns, int):
        return "the number of its channels is not known"
    height, width = node.out.shape[1:3]
    if 0 in (height, width, channels, columns):
        return "it computes nothing"
    return Images(node.out.shape[0], height, width, channels, columns)


def _plain(space: ContractionSpace) -> bool:
    """Whether rows and columns are images, lines, pixels and channels as the convolution has them,
    not split by what follows."""
    index = space.index[space.anchor]
    if space.batch or len(space.columns) != 1 or len(space.body.reduced) != 3:
        return False
    if not all(i == 0 or is_var(i) for i in index):
        return False
    rows = {name_of(a.var) for a in space.rows}
    moving = [name_of(i) for i in index[:3] if isinstance(i, Expr)]
    return rows == set(moving) and isinstance(index[1], Expr) and isinstance(index[2], Expr)


def unasked(images: Images) -> int:
    """The side of squares that is used where nobody says otherwise; 0 for the direct sum.

    Counts vector operations per square: products, and loads, additions and stores of the transforms
    (weighted by measurement); squares that stick out of the image count in full."""
    channels, columns = images.channels, images.columns
    if channels < LEAST or columns < LEAST:
        return 0
    squares, pixels = 1, 4
    if isinstance(images.height, int) and isinstance(images.width, int):
        squares = -(-images.height // 2) * -(-images.width // 2)
        pixels = images.height * images.width
    direct = pixels * 9 * channels * columns
    fast = squares * (16 * channels * columns + 64 * channels + 96 * columns)
    return 2 if fast < GAIN * direct else 0
