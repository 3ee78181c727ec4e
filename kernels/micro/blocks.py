"""Tiles of several lines of a depthwise convolution: channels are the vector lanes.

Like the window tile of one line (``depthwise.window_text``), but ``lines`` neighboring lines of
``mr`` pixels are computed at once, and the rows of the windows are written out: a row of pixels is
loaded once for all lines whose windows it belongs to. So an image that lies in the level-2 cache
comes from there ``(lines + kh - 1) / lines`` times instead of ``kh`` times (at stride 1), which is
what the tile of one line waits for.

Rows that lie outside the image are left out, columns are read from a row of zeros as by the tile of
one line. Sums are added up in the same order, and come out equal.
"""

from __future__ import annotations

import itertools
from functools import partial

from ...ir.grids import DEPTHWISE, Taps
from ...ir.lines import rows_used
from ...ir.target import Target
from .depthwise import Vectors, WindowWriter, finish_parameters, started, write
from .irtext import Carried


def block_parameters(dtype: str) -> list[tuple[str, str]]:
    """LLVM types and names of the arguments.

    ``pixels``: outputs of a line, at least those of the tile. ``x``: the pixel of column 0 in row
    0 of the first line's windows, which may lie outside; ``ldx``, ``ldy`` and ``ldz``: elements
    between columns, rows and planes of the grid; ``kd``: planes. Rows below ``top`` and from
    ``bottom`` on do not count, columns below ``left`` and from ``right`` on are read at
    ``outside``. ``w``: weights ``[kd][kh][kw][ldw]``, planes of them ``ldv`` elements apart.
    ``out``: pixels ``ldo`` and lines ``ldl`` elements apart.
    """
    out, ldo, *rest = finish_parameters(dtype)
    return [
        ("i64", "pixels"), ("ptr noalias readonly", "x"), ("i64", "ldx"), ("i64", "ldy"),
        ("i64", "top"), ("i64", "bottom"), ("i64", "ldz"), ("i64", "kd"), ("i64", "left"),
        ("i64", "right"), ("ptr noalias readonly", "outside"), ("ptr noalias readonly", "w"),
        ("i64", "ldw"), ("i64", "ldv"), ("i64", "channels"), out, ldo, ("i64", "ldl"), *rest,
    ]  # fmt: skip


def block_text(name: str, target: Target, dtype: str, down: Taps, across: Taps, lines: int, mr: int,
               nv: int) -> str:
    """LLVM IR of the tile of ``lines`` lines of ``mr`` pixels, ``nv`` vectors at a time."""
    return _BlockWriter(name, target, dtype, down, across, lines, mr, nv).text()


class LinesWriter(WindowWriter):
    """What tiles of several lines have in common; accumulators are numbered
    ``[line][pixel][vector]``."""

    def weights(self, at: str, ky: int, vectors: int, access: Vectors) -> list[list[str]]:
        """Row ``ky`` of the weights at ``at``: vectors by tap."""
        code, found = self.code, []
        row = code.at(self.kind, at, code.let(f"mul nsw i64 {self.row_of_weights}, {ky}"))
        for _ in range(self.kw):
            found.append([access.load(row, v) for v in range(vectors)])
            row = code.at(self.kind, row, "%ldw")
        return found

    def sums(self, places: dict[int, str], weights: dict[int, list[list[str]]], vectors: int,
             access: Vectors, acc: Carried) -> Carried:
        """The sums with one row of pixels added, with the weights of each line."""
        result = list(acc)
        for number, place in places.items():
            xs = [access.load_pixel(place, v) for v in range(vectors)]
            for (line, ws), (r, kx), v in itertools.product(
                    weights.items(), self.users[number], range(vectors)):
                cell = (line * self.mr + r) * vectors + v
                result[cell] = self.code.multiply_add(
                    access.vector, result[cell], xs[v], ws[kx][v])
        return result


class _BlockWriter(LinesWriter):
    """Writes one tile."""

    def __init__(self, name: str, target: Target, dtype: str, down: Taps, across: Taps, lines: int,
                 mr: int, nv: int) -> None:
        self.lines, self.rows_used = lines, rows_used(down, lines)
        super().__init__(name, target, dtype, across.count, across.stride, across.dilation, mr, nv,
                         DEPTHWISE, block_parameters(dtype), max(self.rows_used) + 1)
        code = self.code
        self.counts, self.row_steps = {}, {}
        for number in self.rows_used:
            self.row_steps[number] = code.let(f"mul nsw i64 %ldy, {number}")
            after = code.let(f"icmp sge i64 {number}, %top")
            before = code.let(f"icmp slt i64 {number}, %bottom")
            self.counts[number] = code.let(f"and i1 {after}, {before}")

    def block(self, pixel: str, start: str, cut: bool, first: str, vectors: int, access: Vectors
              ) -> None:
        code, each = self.code, self.mr * vectors
        kinds = [access.vector] * (self.lines * each)

        def plane(z: str, acc: Carried) -> Carried:
            at = code.at(self.kind, "%w", code.let(f"mul nsw i64 {z}, %ldv"))
            at = code.opaque("ptr", code.at(self.kind, at, first))
            image = code.opaque("ptr", self.row_of(start, z, "0"))
            for number, users in self.rows_used.items():
                def row(number: int = number, users: list[tuple[int, int]] = users,
                        acc: Carried = acc) -> Carried:
                    pixels = code.at(self.plain.pixel, image, self.row_steps[number])
                    places = self.places(pixels, z, str(number), "0", first, cut)
                    weights = {line: self.weights(at, ky, vectors, access) for line, ky in users}
                    return self.sums(places, weights, vectors, access, acc)

                acc = code.when(self.counts[number], kinds, acc, row)
            return acc

        start_sums = started(code, first, self.lines * self.mr, vectors, access)
        acc = code.loop(0, "%kd", 1, start_sums, plane)
        out = code.at(self.kind, "%out", code.let(f"mul nsw i64 {pixel}, %ldo"))
        for line in range(self.lines):
            write(code, acc[line * each : (line + 1) * each], first, vectors, access, out)
            out = code.at(self.kind, out, "%ldl")

    def fill_rows(self, start: str) -> None:
        def plane(z: str, _: Carried) -> Carried:
            for number in self.rows_used:
                self.code.branch(self.counts[number], partial(self.fill, start, z, str(number)))
            return []

        self.code.loop(0, "%kd", 1, [], plane)
