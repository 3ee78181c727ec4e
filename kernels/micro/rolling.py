"""Tiles that go down an image, of depthwise convolutions of small windows.

A tile is ``mr`` neighboring pixels of a run of lines. It reads the rows of the image one after the
other, each for all lines whose windows it belongs to: of windows of ``kh`` rows, ``stride`` rows
apart, these are at most ``ceil(kh / stride)``, whose sums are in registers. With every ``stride``
rows one line is finished and stored, and the sums of the next begin. So an image that lies in the
level-2 cache comes from there once, where the tiles of a few lines of ``blocks`` read the rows at
their borders twice; windows with stride 2 wait for that cache only. The weights stay in registers
where there is room.

The first and the last rows of a run belong to fewer lines: they are written out before and behind
the loop. Rows that lie outside the image are left out, columns are read from a row of zeros as by
the tile of one line. Sums are added up in the same order, and come out equal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from ...ir.grids import DEPTHWISE, Taps
from ...ir.target import Target
from .blocks import LINE_TILE, READ, WRITTEN, LinesWriter, Shape, block_parameters, block_shape
from .depthwise import WIDEST, Vectors, started, write
from .irtext import Carried

SHORTEST = 2
"""Lines of a run, at least, besides those whose sums are under way: the fewer, the more rows belong
to two runs."""
STEP = 3
"""What a line of a tile costs besides, in multiply-adds of a vector. Measured on Zen 4."""


def roll_parameters(dtype: str) -> list[tuple[str, str]]:
    """LLVM types and names of the arguments: ``lines`` of results, and those of
    ``blocks.block_parameters`` that are not about planes."""
    planes = ("ldz", "kd", "ldv")
    return [("i64", "lines"), *(p for p in block_parameters(dtype) if p[1] not in planes)]


def roll_text(name: str, target: Target, dtype: str, down: Taps, across: Taps, mr: int) -> str:
    """LLVM IR of the tile of ``mr`` pixels, a vector of channels at a time."""
    return _RollWriter(name, target, dtype, down, across, mr).text()


def alive(down: Taps) -> int:
    """Lines whose sums are under way."""
    return -(-down.count // down.stride)


def _held(target: Target, down: Taps, across: Taps) -> bool:
    """Whether all weights stay in registers."""
    return down.count * across.count <= WIDEST and target.registers >= 32


def roll_rows(target: Target, dtype: str, down: Taps, across: Taps) -> int:
    """Pixels of the widest tile: sums and weights stay in registers; 0 where there is none, or
    where a row is taken in parts (``depthwise.taps_together``)."""
    rolls = down.stride < down.count and down.dilation == 1 and across.count <= WIDEST
    weights = across.count * (down.count if _held(target, down, across) else alive(down))
    spare = target.registers - weights - (3 if dtype.endswith("z") else 2)
    return min(max(spare, 0) // alive(down), LINE_TILE) if rolls else 0


@lru_cache(maxsize=1024)
def lines_shape(target: Target, dtype: str, down: Taps, across: Taps, lines: int, pixels: int,
                most: int, rolls: bool) -> Shape:
    """The tiles for an image of so many lines and pixels that take the least time: those of
    ``blocks.block_shape``, or a run of lines at once. ``most``: lines of a tile where there are to
    be several; ``rolls``: whether a run may be taken."""
    best = block_shape(target, dtype, down, across, lines, pixels, most)
    runs = max(1, -(-lines // max(most, 1)))
    run = -(-lines // runs)
    rows = (run - 1) * down.stride + down.count
    rolls &= run >= alive(down) + SHORTEST
    widest = roll_rows(target, dtype, down, across) if rolls else 0
    for width in range(min(widest, pixels), 1, -1):
        moved = READ * rows * width * across.stride + WRITTEN * run * width
        time = runs * -(-pixels // width) * (
            max(run * down.count * width * across.count, moved) + STEP * (run + alive(down) - 1))
        if time < best.cycles:
            best = Shape(run, width, time, rolled=True)
    return best


class _RollWriter(LinesWriter):
    """Writes one tile."""

    def __init__(self, name: str, target: Target, dtype: str, down: Taps, across: Taps, mr: int
                 ) -> None:
        super().__init__(name, target, dtype, across.count, across.stride, across.dilation, mr, 1,
                         DEPTHWISE, roll_parameters(dtype), 0)
        self.down, self.alive, self.held = down, alive(down), _held(target, down, across)

    def fill_rows(self, start: str) -> None:
        """Columns outside are chosen as they are read: rows are too many for a table."""

    def block(self, pixel: str, start: str, cut: bool, first: str, vectors: int, access: Vectors
              ) -> None:
        code, kind, each = self.code, self.plain.pixel, self.mr * vectors
        image = code.at(kind, "%x", code.let(f"mul nsw i64 {start}, %ldx"))
        image = code.opaque("ptr", code.at(kind, image, first))
        outside = code.at(kind, "%outside", first)
        moved = code.let(f"sub i64 {start}, %left")
        out = code.at(self.kind, "%out", code.let(f"mul nsw i64 {pixel}, %ldo"))
        begin = started(code, first, self.mr, vectors, access)
        at = code.at(self.kind, "%w", first)
        held = {ky: self.weights(at, ky, vectors, access) for ky in range(
            self.down.count if self.held else 0)}

        def places(row: str) -> dict[int, str]:
            found = self.walk(row)
            if not cut:
                return found
            for number, place in found.items():
                beyond = code.let(f"add i64 {moved}, {number}")
                holds = code.let(f"icmp ult i64 {beyond}, {self.inside}")
                found[number] = code.let(f"select i1 {holds}, ptr {place}, ptr {outside}")
            return found

        def step(lines: range, number: str, carried: Carried) -> Carried:
            """The rows with which the sums of line ``number`` begin, for those under way that are
            among ``lines``; those of the first one leave."""
            *flat, row, to = carried
            acc = [*flat, *(value for _, value in begin)]
            y = code.let(f"mul nsw i64 {number}, {self.down.stride}")
            for j in range(self.down.stride):
                users = {self.alive - 1 - ky // self.down.stride: ky
                         for ky in range(j, self.down.count, self.down.stride)}
                users = {line: ky for line, ky in users.items() if line in lines}
                if users:
                    acc = self.row(code.let(f"add nsw i64 {y}, {j}"), partial(places, row), users,
                                   held, at, vectors, access, acc)
                row = code.at(kind, row, "%ldy")
            if 0 not in lines:
                return [*acc[each:], row, to]
            write(code, acc[:each], first, vectors, access, to)
            return [*acc[each:], row, code.at(self.kind, to, "%ldl")]

        carried = [*begin * (self.alive - 1), ("ptr", image), ("ptr", out)]
        kinds, values = [k for k, _ in carried], [value for _, value in carried]
        before = self.alive - 1
        for k in range(before):
            values = step(range(before - k, self.alive), str(k), values)
        values = code.loop(before, "%lines", 1, list(zip(kinds, values, strict=True)),
                           partial(step, range(self.alive)))
        for k in range(before):
            number = code.let(f"add nsw i64 %lines, {k}")
            there = code.let(f"icmp sge i64 {number}, {before}")
            values = code.when(there, kinds, values,
                               partial(step, range(before - k), number, values))

    def row(self, y: str, places: Callable[[], dict[int, str]], users: dict[int, int],
            held: dict[int, list[list[str]]], at: str, vectors: int, access: Vectors, acc: Carried
            ) -> Carried:
        """The sums of the lines ``users`` with row ``y`` added, each with its row of the
        weights, if it is inside."""
        code = self.code

        def added() -> Carried:
            weights = {line: held[ky] if self.held else self.weights(at, ky, vectors, access)
                       for line, ky in sorted(users.items())}
            return self.sums(places(), weights, vectors, access, acc)

        after, before = code.let(f"icmp sge i64 {y}, %top"), code.let(f"icmp slt i64 {y}, %bottom")
        return code.when(code.let(f"and i1 {after}, {before}"), [access.vector] * len(acc), acc,
                         added)
