"""Which convolutions Winograd's F(m x m, 3 x 3) can compute, and where that is expected to pay.

The form is a convolution of 3x3 pixels with stride 1, channels-last, whose rows and columns are not
split by what follows it; its weights are known when the model is loaded. Tiles are squares of ``m x
m`` outputs. What such a kernel does is described in ``kernels.winograd``.

The transforms evaluate polynomials at ``m + 2`` points (A. Toom, 1963; S. Cook, 1966): pairs ``+a``
and ``-a``, zero where ``m`` is even, and infinity. Which numbers the pairs are decides about
rounding errors (B. Barabasz et al., "Error analysis and improving the accuracy of Winograd
convolution for deep neural networks", 2020); those of ``PAIRS`` had the least of all multiples of
1/8 or 1/16 that were tried, less than half of that of the usual 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from .axes import coefficient, name_of
from .contraction import ContractionSpace
from .dim_functions import ceil_div
from .dims import Dim, Expr
from .tiles import is_var

LEAST = 16
"""Channels from which on the products outweigh the transforms."""
GAIN = 0.8
"""Estimated time, of that of the direct sum, below which it is used unasked."""
PAIRS = {2: (1.0,), 3: (0.5, 1.25), 4: (0.625, 1.5)}
"""The points ``+-a`` of each side."""
SQUARES = tuple(PAIRS)
"""Sides of the squares of outputs for which there are kernels."""
RUNS = {2: 64, 3: 32, 4: 32}
"""Products that one accumulator takes in a row. Fewer than elsewhere (``kernels.micro.gemm``), so
that the errors of sums make up for those of the transforms."""
_MANY = 1 << 20
"""Pixels of an image whose sizes are not known."""
_BACK = 2.2
"""Time of an operation on results, of that of one on pixels."""
_NEAR = 1 << 16
"""Weights that stay in a level-2 cache."""
_WEIGHT = 6
"""Products that reading another takes as long as; an estimate."""


class Summand(Protocol):
    """What transforms are computed of: arrays, or vectors of code that is being written."""

    def __add__(self, other: Any, /) -> Self: ...
    def __sub__(self, other: Any, /) -> Self: ...
    def __rmul__(self, factor: float, /) -> Self: ...


V = TypeVar("V", bound=Summand)


@dataclass(frozen=True, slots=True)
class Transforms:
    """``Y = A^T [(G g G^T) * (B^T d B)] A`` for squares of one side: the points are zero (if there
    are evenly many), ``+a`` and ``-a`` of each pair, and infinity, in this order."""

    side: int

    @property
    def pairs(self) -> tuple[float, ...]:
        """``a`` of each pair."""
        return PAIRS[self.side]

    @property
    def size(self) -> int:
        """Pixels of one side of a transformed square; rows of ``G`` and ``B^T``."""
        return self.side + 2

    @property
    def zero(self) -> int:
        """Whether zero is a point, as 0 or 1."""
        return int(self.size % 2 == 0)

    def zeros_of(self, but: int = -1) -> tuple[float, ...]:
        """Coefficients, in powers of x^2, of the product of ``x^2 - a^2`` over all pairs but one;
        the last is 1."""
        found = [1.0]
        for k, a in enumerate(self.pairs):
            if k != but:
                found = [low - a * a * high for low, high in zip([0.0, *found], [*found, 0.0],
                                                                 strict=True)]
        return tuple(found)

    def weights(self) -> tuple[tuple[float, float, float], ...]:
        """``G``."""
        rows = [(1 / self.zeros_of()[0], 0.0, 0.0)] if self.zero else []
        for k, a in enumerate(self.pairs):
            others = sum(c * a ** (2 * power) for power, c in enumerate(self.zeros_of(k)))
            for point in (a, -a):
                f = 2 * point * others * point ** self.zero
                rows.append((1 / f, point / f, a * a / f))
        return (*rows, (0.0, 0.0, 1.0))

    def pixels(self, square: Sequence[Sequence[V]]) -> list[V]:
        """``B^T d B``, row by row."""
        return _both_ways(square, self._pixels)

    def results(self, square: Sequence[Sequence[V]]) -> list[V]:
        """``A^T m A``, row by row."""
        return _both_ways(square, self._results)

    def _pixels(self, d: Sequence[V]) -> list[V]:
        """``B^T d``: values of ``d`` at the points, without those of the others.

        A pair's are ``e + a o`` and ``e - a o``, of the even and of the odd elements of ``d``."""
        zero, whole = self.zero, self.zeros_of()
        found = [_combined(whole, d[::2])] if zero else []
        for k, a in enumerate(self.pairs):
            others = self.zeros_of(k)
            odd, even = (_combined(others, d[first::2][: len(others)])
                         for first in (zero, 1 + zero))
            scaled = _times(a, odd)
            found += (even + scaled, even - scaled)
        return [*found, _combined(whole, d[zero::2])]

    def _results(self, m: Sequence[V]) -> list[V]:
        """``A^T m``: the even and the odd powers of a pair share a sum and a difference."""
        pairs = range(self.zero, len(m) - 1, 2)
        both = [(m[k] + m[k + 1], m[k] - m[k + 1]) for k in pairs]
        found = []
        for power in range(self.side):
            total = _combined([a**power for a in self.pairs], [pair[power % 2] for pair in both])
            if power == 0 and self.zero:
                total = m[0] + total
            found.append(total + m[-1] if power == self.side - 1 else total)
        return found

    @property
    def factors(self) -> tuple[float, ...]:
        """What the transforms of pixels and results multiply with."""
        found = {*self.pairs, *self.zeros_of()}
        found.update(a**power for a in self.pairs for power in range(self.side))
        found.update(c for k in range(len(self.pairs)) for c in self.zeros_of(k))
        return tuple(sorted(found - {1.0, -1.0}))

    @property
    def there(self) -> int:
        """Additions, each with a multiplication or without, that transform a square's pixels."""
        return 2 * len(self.pairs) * self.size**2

    @property
    def back(self) -> int:
        """The same of a square's results."""
        pairs = len(self.pairs)
        powers = pairs - (self.pairs == (1.0,))  # products with 1 are none
        line = 2 * pairs + pairs - 1 + self.zero + (self.side - 1) * powers + 1
        return (self.size + self.side) * line


def _times(factor: float, a: V) -> V:
    return a if factor == 1 else factor * a


def _combined(factors: Sequence[float], values: Sequence[V]) -> V:
    """The sum of ``values`` times ``factors``; one that is taken once comes first, since products
    can be fused with the additions after it."""
    first, *others = sorted(zip(factors, values, strict=True), key=lambda f: f[0] != 1)
    total = _times(*first)
    for factor, value in others:
        total = total - value if factor == -1 else total + _times(factor, value)
    return total


def _both_ways(square: Sequence[Sequence[V]], along: Callable[[Sequence[V]], list[V]]) -> list[V]:
    """``along`` applied to the columns of a square, then to the rows; the rows one by one."""
    columns = [along(column) for column in zip(*square, strict=True)]
    return [value for row in zip(*columns, strict=True) for value in along(row)]


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
    if coefficient(space.a.data[1], name_of(space.body.reduced[2].var)) != 1:
        return "the channels of its images are not neighbors in memory"
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

    Counts vector operations: products, loads, additions and stores of the transforms (those of
    results weighted as squares of two measured), and reading the weights; squares that stick out of
    the image count in full."""
    channels, columns = images.channels, images.columns
    if channels < LEAST or columns < LEAST:
        return 0
    pixels = images.height * images.width if isinstance(images.height, int) and isinstance(
        images.width, int) else None
    every = channels * columns

    def reading(points: int) -> float:
        return _WEIGHT * max(points * every - _NEAR, 0)

    times = {0: (9.0 * every * (_MANY if pixels is None else pixels) + reading(9)) * GAIN}
    for side in SQUARES:
        squares: float = _MANY / side**2
        if pixels is not None:
            squares = math.prod(d for d in images.squares(side)[1:] if isinstance(d, int))
        t = Transforms(side)
        points = t.size**2
        times[side] = reading(points) + squares * (
            points * every + (t.there + 2 * points) * channels
            + _BACK * (t.back + points + side**2) * columns)
    return min(times, key=times.__getitem__)
