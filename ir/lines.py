"""How many lines and pixels of a depthwise convolution are computed at once: what its kernel does
and what the cost model counts.

Channels are the lanes of a vector, and a tile of one line reads each pixel once per row of the
windows. A *block* is two neighboring lines, which share the pixels that are loaded; a *run* goes
down several lines and reads each row of the image once (``kernels.micro.blocks``, ``rolling``).
What takes the least time is chosen: multiply-adds, or what comes from the level-2 cache and goes
there if that takes longer, and what tiles and lines cost besides.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

from .grids import Taps
from .target import Target
from .variants import WAY_BYTES

WIDEST = 9
"""Taps of the widest row whose weights are in registers at once."""
MOST_TAPS = 32
"""Taps of windows of which several lines are computed at once, at most: they are written out."""
MOST_LINES = 2
"""Lines of a block, at most: three need all registers, and LLVM then keeps some of them in memory
(measured: half as fast)."""
LINE_TILE = 8
"""Pixels of the widest tile."""
EVEN = 4
"""Blocks of lines, at least, so that a few threads have about as much to do."""
READ, WRITTEN, START, STEP = 2, 4, 20, 3
"""What a vector costs that comes from the level-2 cache or goes there (the line is read before), a
tile of a block, and a line of a run, in multiply-adds of a vector. Measured on Zen 4, and taken for
true elsewhere."""
SHORTEST = 2
"""Lines of a run, at least, besides those whose sums are under way: the fewer, the more rows belong
to two runs."""

CROWDED = WAY_BYTES // 2
"""Bytes of which no multiple may lie between two pixels, see ``crowded``."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many lines and pixels of each are computed at once; ``cycles`` of a vector of channels
    of the image that this takes, in multiply-adds. One line is a tile of
    ``micro.depthwise.window_text``."""

    lines: int
    pixels: int
    cycles: float
    rolled: bool = False
    """Whether the lines are a run."""


def crowded(step: int) -> bool:
    """Whether pixels so many bytes apart compete for so few sets of the level-1 cache that a tile
    of several lines is slower than one of a line, which takes more channels at once."""
    return step % CROWDED == 0


def rows_used(down: Taps, lines: int) -> dict[int, list[tuple[int, int]]]:
    """Row of the grid -> lines of a block, and rows of their windows, that it belongs to; in the
    order of rows."""
    found: dict[int, list[tuple[int, int]]] = {}
    for number, line, ky in sorted((line * down.stride + ky * down.dilation, line, ky)
                                   for line in range(lines) for ky in range(down.count)):
        found.setdefault(number, []).append((line, ky))
    return found


def block_vectors(target: Target, down: Taps, across: Taps, lines: int, pixels: int,
                  centered: bool = False) -> int:
    """Vectors of channels of a block at a time: sums and the weights of a row stay in registers; 0
    where not even those of one vector do, or where a row is taken in parts
    (``micro.depthwise.taps_together``). ``centered``: pixels have a zero point."""
    if across.count > WIDEST:
        return 0
    weights = max(map(len, rows_used(down, lines).values())) * across.count
    return (target.registers - (2 if centered else 1)) // (lines * pixels + weights)


def alive(down: Taps) -> int:
    """Lines of a run whose sums are under way."""
    return -(-down.count // down.stride)


def weights_held(target: Target, down: Taps, across: Taps) -> bool:
    """Whether all weights of a run stay in registers."""
    return down.count * across.count <= WIDEST and target.registers >= 32


def run_pixels(target: Target, down: Taps, across: Taps, centered: bool = False) -> int:
    """Pixels of the widest run: sums and weights stay in registers; 0 where there is none, or
    where a row is taken in parts (``micro.depthwise.taps_together``)."""
    runs = down.stride < down.count and down.dilation == 1 and across.count <= WIDEST
    rows = down.count if weights_held(target, down, across) else alive(down)
    spare = target.registers - rows * across.count - (3 if centered else 2)
    return min(max(spare, 0) // alive(down), LINE_TILE) if runs else 0


@lru_cache(maxsize=1024)
def lines_shape(target: Target, down: Taps, across: Taps, lines: int, pixels: int, every: int,
                rolls: bool, centered: bool = False) -> Shape:
    """The tiles for an image of so many lines and pixels that take the least time. ``every``: lines
    of all images, which several threads share; ``rolls``: whether there may be runs."""
    most = max(1, -(-every // EVEN))
    best = _block_shape(target, down, across, lines, pixels, most, centered)
    run = -(-lines // max(1, -(-lines // most)))
    rolls &= run >= alive(down) + SHORTEST
    widest = run_pixels(target, down, across, centered) if rolls else 0

    def cycles(length: int, width: int) -> float:
        rows = (length - 1) * down.stride + down.count
        moved = width * (READ * rows * across.stride + WRITTEN * length)
        return max(length * down.count * width * across.count, moved) + STEP * (
            length + alive(down) - 1)

    for width in range(min(widest, pixels), 1, -1):
        whole, rest = divmod(lines, run)
        time = -(-pixels // width) * (whole * cycles(run, width) + (
            cycles(rest, width) if rest else 0.0))
        if time < best.cycles:
            best = Shape(run, width, time, rolled=True)
    return best


def _block_shape(target: Target, down: Taps, across: Taps, lines: int, pixels: int, most: int,
                 centered: bool) -> Shape:
    """The same without runs, with at most ``most`` lines."""
    def cycles(height: int, width: int) -> float:
        rows = len(rows_used(down, height))
        moved = READ * rows * width * across.stride + WRITTEN * height * width
        return -(-pixels // width) * (
            max(height * width * down.count * across.count, moved) + START)

    alone = min(range(1, min(LINE_TILE, pixels) + 1), key=lambda width: cycles(1, width))
    best = Shape(1, alone, lines * cycles(1, alone))
    if down.count > 1 and down.count * across.count <= MOST_TAPS:
        for height, width in itertools.product(range(2, min(MOST_LINES, lines, most) + 1),
                                               range(min(LINE_TILE, pixels), 0, -1)):
            whole, rest = divmod(lines, height)
            time = whole * cycles(height, width) + rest * cycles(1, alone)
            if time < best.cycles and block_vectors(target, down, across, height, width, centered):
                best = Shape(height, width, time)
    return best
