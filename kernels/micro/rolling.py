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
from functools import partial

from ...ir.grids import DEPTHWISE, Taps
from ...ir.lines import alive, weights_held
from ...ir.target import Target
from .blocks import LinesWriter, block_parameters
from .depthwise import Vectors, started, write
from .irtext import Carried


def roll_parameters(dtype: str) -> list[tuple[str, str]]:
    """LLVM types and names of the arguments: ``lines`` of results, and those of
    ``blocks.block_parameters`` that are not about planes."""
    planes = ("ldz", "kd", "ldv")
    return [("i64", "lines"), *(p for p in block_parameters(dtype) if p[1] not in planes)]


def roll_text(name: str, target: Target, dtype: str, down: Taps, across: Taps, mr: int) -> str:
    """LLVM IR of the tile of ``mr`` pixels, a vector of channels at a time."""
    return _RollWriter(name, target, dtype, down, across, mr).text()


class _RollWriter(LinesWriter):
    """Writes one tile."""

    def __init__(self, name: str, target: Target, dtype: str, down: Taps, across: Taps, mr: int
                 ) -> None:
        super().__init__(name, target, dtype, across.count, across.stride, across.dilation, mr, 1,
                         DEPTHWISE, roll_parameters(dtype), 0)
        self.down, self.alive, self.held = down, alive(down), weights_held(target, down, across)

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
