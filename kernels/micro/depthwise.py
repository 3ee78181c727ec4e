"""Tiles of depthwise and narrowly grouped convolutions: channels are the vector lanes.

Two tiles, both for ``mr`` neighboring output pixels of a channels-last image:

``depthwise_text`` reaches its input pixels through a table of addresses ``[taps][mr]`` as in
``gemm``, so borders (a row of zeros outside the image), dilations and any stride are the
caller's business: ``out[r, ch] = sum over taps t of x[t, r][ch] w[t, ch]``.

``window_text`` is for windows on a grid of neighboring pixels, of up to three axes: filter width,
horizontal stride and dilation are fixed, so one load of an input pixel serves every output pixel it
belongs to, and there is no table: ``out[r, ch] = sum over kz, ky, kx of
x[kz, ky, r stride + kx dilation, ch] w[kz, ky, kx, ch]``. A row of weights stays in registers; a
wide one is taken in parts of a few taps.
Columns of the grid that lie outside the image are read from a row of zeros instead; which ones is
told by two numbers, so the borders of an image need no tile of their own.

In the window tile an output channel may see the few input channels of its group (``Fan``): a vector
holds the outputs of several groups, and every lane is multiplied with the pixel's channels of its
own group one after the other, ``out[r, ch] = sum over taps and i of
x[.., ch // after * before + i] w[.., i, ch]``. A permutation of the lanes of the loaded pixel,
which serves all outputs that the pixel belongs to, brings channel ``i`` of each group to its lanes;
in groups of whole vectors it is the same for all of them.

Both keep ``mr * nv`` accumulators in registers over all taps. They start with ``bias[ch]`` (zero
where ``bias`` is null) and are limited to ``[lo, hi]`` as they are stored, NaN staying NaN.
Channels that do not fill a block of ``nv`` vectors are done by fewer vectors at a time, the last
one under a mask, so nothing is padded and nothing else is written.

Pixels may be bytes, unsigned or signed (``u8``, ``s8``), or such that mean ``byte - zero``
(``u8z``, ``s8z``); they are widened as they are loaded, exactly, so quantized images cost a quarter
of the traffic. Weights and sums are floats.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

from ...ir.grids import DEPTHWISE, Fan
from ...ir.lines import WIDEST
from ...ir.target import Target
from .irtext import SIZES, Carried, Code

BYTES = ("u8", "s8", "u8z", "s8z")
LLVM = {"f32": "float", "f64": "double", **dict.fromkeys(BYTES, "float")}
"""Type of the pixels -> what is computed in."""
PART = 7
"""Taps of the parts of wider rows, at most."""
NARROW = 3
"""Taps of rows that LLVM's scheduler finds registers for; tiles of wider ones stay in order."""


def tile_shape(target: Target, dtype: str = "f32") -> tuple[int, int, int]:
    """``(mr, nv, width)`` of the table tile: pixels, vectors of channels, lanes."""
    width = target.lanes(64 if dtype == "f64" else 32)
    return (7, 2, width) if target.registers >= 32 else (6, 2, width)


def window_rows(target: Target, fan: Fan = DEPTHWISE) -> int:
    """Pixels of the largest window tile. One of groups is one or two vectors wide, so it has as
    many as multiply-adds are under way."""
    return 8 if target.registers >= 32 or 1 < fan.after <= target.lanes(32) else 4


def taps_together(kw: int) -> int:
    """Taps of a row whose weights are in registers at once: all, or a part of a wide one."""
    return kw if kw <= WIDEST else -(-kw // -(-kw // PART))


def window_shape(target: Target, kw: int, mr: int, dtype: str = "f32", fan: Fan = DEPTHWISE
                 ) -> tuple[int, int]:
    """``(nv, width)`` of the window tile: accumulators and weights fit registers."""
    width = target.lanes(64 if dtype == "f64" else 32)
    if fan != DEPTHWISE:
        vectors = max(1, fan.after // width)
        return next(n for n in (2, 3, 1) if vectors % n == 0), width
    spare = 3 if dtype.endswith("z") else 2
    return max(1, (target.registers - spare) // (mr + taps_together(kw))), width


class Vectors:
    """Loads and stores of ``nv`` vectors of channels, whole or the first ``count`` lanes."""

    def __init__(self, code: Code, dtype: str, width: int, fan: Fan = DEPTHWISE,
                 count: str | None = None) -> None:
        self.code, self.kind, self.width, self.fan = code, LLVM[dtype], width, fan
        self.vector = f"<{width} x {self.kind}>"
        self.pixel = "i8" if dtype in BYTES else self.kind
        self.widen = "zext" if dtype[0] == "u" else "sext"
        self.centered = dtype.endswith("z")
        self.before = max(1, width // fan.after) * fan.before
        """Channels of a pixel that the groups of a vector see."""
        self.mask = self.pixel_mask = None if count is None else code.lane_mask(width, count)
        if count is not None and fan != DEPTHWISE:
            self.pixel_mask = code.lane_mask(self.before, channels_before(code, fan, count))

    def _loaded(self, kind: str, lanes: int, address: str, v: int, mask: str | None) -> str:
        place = self.code.at(kind, address, v * lanes)
        if mask is None:
            return self.code.load(f"<{lanes} x {kind}>", place, SIZES[kind])
        return self.code.masked_load(kind, lanes, place, mask)

    def load(self, address: str, v: int) -> str:
        """Vector ``v`` behind ``address``."""
        return self._loaded(self.kind, self.width, address, v, self.mask)

    def load_pixel(self, address: str, v: int) -> str:
        """What of a pixel vector ``v`` sees, as numbers."""
        lanes = self.before
        value = self._loaded(self.pixel, lanes, address, v, self.pixel_mask)
        if self.pixel == self.kind:
            return value
        code, whole, vector = self.code, f"<{lanes} x i32>", f"<{lanes} x {self.kind}>"
        value = code.let(f"{self.widen} <{lanes} x i8> {value} to {whole}")
        value = code.let(f"sitofp {whole} {value} to {vector}")
        if not self.centered:
            return value
        zero = code.splat(self.kind, lanes, "%zero")
        return code.let(f"fsub {vector} {value}, {zero}")

    def channels(self, address: str, vectors: int, i: str) -> list[str]:
        """Of a pixel, what the lanes of each vector are multiplied with: channel ``i`` of their
        own group."""
        code, fan = self.code, self.fan
        if fan.after >= self.width and fan != DEPTHWISE:
            value = code.load(self.kind, code.at(self.kind, address, i), SIZES[self.kind])
            return [code.splat(self.kind, self.width, value)] * vectors
        pixels = [self.load_pixel(address, v) for v in range(vectors)]
        if fan == DEPTHWISE:
            return pixels
        lanes = [lane // fan.after * fan.before + int(i) for lane in range(self.width)]
        vector = f"<{self.before} x {self.kind}>"
        return [code.shuffle(vector, pixel, "poison", lanes) for pixel in pixels]

    def store(self, value: str, address: str, v: int) -> None:
        """Store vector ``v`` behind ``address``."""
        place = self.code.at(self.kind, address, v * self.width)
        if self.mask is None:
            self.code.store(self.vector, value, place, SIZES[self.kind])
        else:
            self.code.masked_store(self.kind, self.width, value, place, self.mask)


def channels_before(code: Code, fan: Fan, after: str) -> str:
    """Channels before the convolution, of the groups that have so many after it."""
    if fan == DEPTHWISE:
        return after
    return code.let(f"mul nsw i64 {code.let(f'udiv i64 {after}, {fan.after}')}, {fan.before}")


def _over_channels(
    code: Code, dtype: str, width: int, nv: int, fan: Fan = DEPTHWISE
) -> Callable[[Callable[[str, int, Vectors], None]], None]:
    """A function that runs ``block(first channel, vectors, access)`` over ``%channels``: by ``nv``
    vectors, what is left of whole vectors by one block of fewer, and the rest under a mask. What is
    the same for all its calls is computed here."""
    if fan.after % (nv * width) == 0:
        return partial(_over_groups, code, nv, Vectors(code, dtype, width, fan))
    full = code.let(f"and i64 %channels, {-width}")
    blocks = code.let(f"sub i64 {full}, " + code.let(f"urem i64 {full}, {nv * width}"))
    rest = code.let(f"sub i64 {full}, {blocks}")
    fewer = [(n, code.let(f"icmp eq i64 {rest}, {n * width}")) for n in range(nv - 1, 0, -1)]
    left = code.let(f"sub i64 %channels, {full}")
    some = code.let(f"icmp sgt i64 {left}, 0")

    def run(block: Callable[[str, int, Vectors], None]) -> None:
        plain = Vectors(code, dtype, width, fan)

        def body(first: str, _: Carried) -> Carried:
            block(first, nv, plain)
            return []

        code.loop(0, blocks, nv * width, [], body)
        for vectors, holds in fewer:
            code.branch(holds, partial(block, blocks, vectors, plain))

        def last() -> None:
            block(full, 1, Vectors(code, dtype, width, fan, left))

        code.branch(some, last)

    return run


def _over_groups(code: Code, nv: int, access: Vectors, block: Callable[[str, int, Vectors], None]
                 ) -> None:
    """Runs ``block`` over ``%channels``, which are whole blocks."""

    def body(first: str, _: Carried) -> Carried:
        block(first, nv, access)
        return []

    code.loop(0, "%channels", nv * access.width, [], body)


def finish_parameters(dtype: str) -> list[tuple[str, str]]:
    """The last arguments of both tiles; ``zero`` where it is taken away from pixels."""
    kind = LLVM[dtype]
    zero = [(kind, "zero")] if dtype.endswith("z") else []
    return [("ptr", "out"), ("i64", "ldo"), ("ptr", "bias"), (kind, "lo"), (kind, "hi"), *zero]


def table_parameters(dtype: str) -> list[tuple[str, str]]:
    """LLVM types and names of the arguments of the table tile.

    ``rows``: addresses ``[taps][mr]`` of pixels; ``w``: weights ``[taps][ldw]``; ``out``: pixels
    ``ldo`` elements apart.
    """
    return [
        ("ptr noalias readonly", "rows"), ("i64", "taps"), ("ptr noalias readonly", "w"),
        ("i64", "ldw"), ("i64", "channels"), *finish_parameters(dtype),
    ]  # fmt: skip


def window_parameters(dtype: str) -> list[tuple[str, str]]:
    """LLVM types and names of the arguments of the window tile.

    ``pixels``: outputs, at least those of the tile. ``x``: the pixel of column 0 in the first row
    of the windows, which may lie outside; ``ldx``, ``ldy`` and ``ldz``: elements between columns,
    rows and planes; ``kh``, ``kd``: rows and planes. Columns below ``left`` and from ``right`` on
    are read at ``outside``. ``w``: weights ``[kd][kh][kw][before][ldw]``, planes of them ``ldv``
    elements apart. ``channels``: those of the result. ``out``: pixels ``ldo`` elements apart.
    """
    return [
        ("i64", "pixels"), ("ptr noalias readonly", "x"), ("i64", "ldx"), ("i64", "ldy"),
        ("i64", "kh"), ("i64", "ldz"), ("i64", "kd"), ("i64", "left"), ("i64", "right"),
        ("ptr noalias readonly", "outside"), ("ptr noalias readonly", "w"), ("i64", "ldw"),
        ("i64", "ldv"), ("i64", "channels"),
        *finish_parameters(dtype),
    ]  # fmt: skip


def started(code: Code, first: str, mr: int, vectors: int, access: Vectors
           ) -> list[tuple[str, str]]:
    """The accumulators ``[mr][vectors]`` with their types: bias or zero."""
    given = code.let("icmp ne ptr %bias, null")
    zeros = ["zeroinitializer"] * vectors

    def load() -> Carried:
        place = code.at(access.kind, "%bias", first)
        return [access.load(place, v) for v in range(vectors)]

    row = code.when(given, [access.vector] * vectors, zeros, load)
    return [(access.vector, value) for value in row] * mr


def write(
    code: Code, acc: Carried, first: str, vectors: int, access: Vectors, out: str = "%out"
) -> None:
    """Limit the accumulators ``[mr][vectors]`` and store them to the rows of ``out``."""
    values = code.limited(access.kind, [access.width] * len(acc), acc)
    row = code.at(access.kind, out, first)
    for r in range(len(acc) // vectors):
        for v in range(vectors):
            access.store(values[r * vectors + v], row, v)
        row = code.at(access.kind, row, "%ldo")


def depthwise_text(name: str, target: Target, dtype: str, mr: int, nv: int) -> str:
    """LLVM IR of the table tile of ``mr`` pixels, ``nv`` vectors of channels at a time."""
    kind = LLVM[dtype]
    width = target.lanes(8 * SIZES[kind])
    code = Code(name, table_parameters(dtype), target)

    def block(first: str, vectors: int, access: Vectors) -> None:
        def tap(t: str, acc: Carried) -> Carried:
            table = code.at("i64", "%rows", code.let(f"mul nsw i64 {t}, {mr}"))
            weights = code.at(kind, "%w", code.let(f"mul nsw i64 {t}, %ldw"))
            weights = code.at(kind, weights, first)
            ws = [access.load(weights, v) for v in range(vectors)]
            result = []
            for r in range(mr):
                start = code.load("ptr", code.at("i64", table, r), 8)
                row = code.at(access.pixel, start, first)
                for v in range(vectors):
                    x = access.load_pixel(row, v)
                    old = acc[r * vectors + v]
                    result.append(code.multiply_add(access.vector, old, x, ws[v]))
            return result

        start = started(code, first, mr, vectors, access)
        write(code, code.loop(0, "%taps", 1, start, tap), first, vectors, access)

    _over_channels(code, dtype, width, nv)(block)
    return code.text()


def window_text(
    name: str, target: Target, dtype: str, kw: int, stride: int, dilation: int, mr: int, nv: int,
    fan: Fan = DEPTHWISE,
) -> str:
    """LLVM IR of the window tile: filter rows of ``kw`` taps, ``dilation`` columns apart,
    ``stride`` columns per output."""
    return WindowWriter(name, target, dtype, kw, stride, dilation, mr, nv, fan).text()


class WindowWriter:
    """Writes one window tile."""

    def __init__(self, name: str, target: Target, dtype: str, kw: int, stride: int, dilation: int,
                 mr: int, nv: int, fan: Fan, parameters: list[tuple[str, str]] | None = None,
                 height: int | None = None) -> None:
        """``parameters``: those of another tile that is written on this one's base; ``height``:
        rows of a plane of the grid that it reads, where these are not ``kh``; 0: it needs no table
        of the columns at borders."""
        self.kind, self.fan = LLVM[dtype], fan
        self.mr, self.kw, self.stride, self.dilation = mr, kw, stride, dilation
        self.code = code = Code(name, parameters or window_parameters(dtype), target,
                                in_order=fan == DEPTHWISE and kw > NARROW)
        width = target.lanes(8 * SIZES[self.kind])
        self.plain = Vectors(code, dtype, width)
        self.taps = taps_together(kw)
        self.parts, self.rest = divmod(kw, self.taps)
        users: dict[int, list[tuple[int, int]]] = {}
        for number, r, kx in sorted((r * stride + kx * dilation, r, kx)
                                    for r in range(mr) for kx in range(self.taps)):
            users.setdefault(number, []).append((r, kx))
        self.users = users
        """Column of a part -> outputs and taps that it belongs to, in the order of columns."""
        self.last = (mr - 1) * stride + (kw - 1) * dilation
        self.row_of_weights = code.let(f"mul nsw i64 %ldw, {kw * fan.before}")
        self.part_of_weights = code.let(f"mul nsw i64 %ldw, {self.taps * fan.before}")
        self.part_of_row = code.let(f"mul nsw i64 %ldx, {self.taps * dilation}")
        self.inside = code.let("sub i64 %right, %left")
        self.entries = (self.parts + (self.rest > 0)) * len(users)
        """Columns of the parts of one row."""
        self.height, self.table = "%kh" if height is None else str(height), ""
        if height != 0:
            size = code.let(f"mul nsw i64 {code.let(f'mul nsw i64 %kd, {self.height}')}, "
                            f"{self.entries}")
            self.table = code.let(f"alloca ptr, i64 {size}")
        self.whole = fan.after % width == 0
        """Whether groups are whole vectors: their channels before are taken in a loop."""
        self.over_channels = _over_channels(code, dtype, width, nv, fan)

    def text(self) -> str:
        """The whole function."""
        self.code.loop(0, "%pixels", self.mr, [], self.tile)
        return self.code.text()

    def tile(self, pixel: str, _: Carried) -> Carried:
        """The tile that begins at ``pixel``, or the last one."""
        code = self.code
        pixel = code.least(pixel, code.let(f"sub i64 %pixels, {self.mr}"))
        start = code.let(f"mul nsw i64 {pixel}, {self.stride}")

        def border() -> None:
            self.fill_rows(start)
            self.over_channels(partial(self.block, pixel, start, True))

        after = code.let(f"icmp sge i64 {start}, %left")
        before = code.let(f"icmp slt i64 {code.let(f'add i64 {start}, {self.last}')}, %right")
        code.branch(code.let(f"and i1 {after}, {before}"),
                    lambda: self.over_channels(partial(self.block, pixel, start, False)), border)
        return []

    def rows(self, carried: list[tuple[str, str]],
             body: Callable[[str, str, Carried], Carried]) -> Carried:
        """``body(plane, row, carried)`` for all rows of the windows."""
        code, kinds = self.code, [kind for kind, _ in carried]

        def plane(z: str, values: Carried) -> Carried:
            return code.loop(0, "%kh", 1, list(zip(kinds, values, strict=True)),
                             lambda y, inner: body(z, y, inner))

        return code.loop(0, "%kd", 1, carried, plane)

    def fill_rows(self, start: str) -> None:
        """Writes where the columns of all rows are read."""
        def row(z: str, y: str, _: Carried) -> Carried:
            self.fill(start, z, y)
            return []

        self.rows([], row)

    # -- where columns are read ------------------------------------------------------------

    def row_of(self, start: str, z: str, y: str) -> str:
        """The pixel of a tile's first column in one row of its windows."""
        code, pixel = self.code, self.plain.pixel
        at = code.at(pixel, "%x", code.let(f"mul nsw i64 {start}, %ldx"))
        at = code.at(pixel, at, code.let(f"mul nsw i64 {z}, %ldz"))
        return code.at(pixel, at, code.let(f"mul nsw i64 {y}, %ldy"))

    def walk(self, row: str) -> dict[int, str]:
        """Where the columns of a part lie that begins at ``row``."""
        found: dict[int, str] = {}
        for number in range(max(self.users) + 1):
            if number in self.users:
                found[number] = row
            row = self.code.at(self.plain.pixel, row, "%ldx")
        return found

    def table_of(self, z: str, y: str, part: str) -> str:
        """Where the table tells the columns of a part."""
        code = self.code
        row = code.let(f"add nsw i64 {code.let(f'mul nsw i64 {z}, {self.height}')}, {y}")
        first = code.let(f"mul nsw i64 {row}, {self.entries}")
        inner = code.let(f"mul nsw i64 {part}, {len(self.users)}")
        return code.at("ptr", self.table, code.let(f"add nsw i64 {first}, {inner}"))

    def fill(self, start: str, z: str, y: str) -> None:
        """Writes where the columns of a row are read, of which some lie outside."""
        code = self.code
        row = self.row_of(start, z, y)
        before = code.let(f"sub i64 {start}, %left")

        def part(p: str, _: Carried) -> Carried:
            base = self.table_of(z, y, p)
            moved = code.at(self.plain.pixel, row, code.let(f"mul nsw i64 {p}, {self.part_of_row}"))
            passed = code.let(f"mul nsw i64 {p}, {self.taps * self.dilation}")
            passed = code.let(f"add i64 {before}, {passed}")
            for k, (number, place) in enumerate(self.walk(moved).items()):
                beyond = code.let(f"add i64 {passed}, {number}")
                holds = code.let(f"icmp ult i64 {beyond}, {self.inside}")
                chosen = code.let(f"select i1 {holds}, ptr {place}, ptr %outside")
                code.store("ptr", chosen, code.at("ptr", base, k), 8)
            return []

        code.loop(0, str(self.parts + (self.rest > 0)), 1, [], part)

    def places(self, row: str, z: str, y: str, part: str, first: str, cut: bool) -> dict[int, str]:
        """Where the columns of a part are read; ``cut``: as ``fill`` wrote."""
        code, pixel = self.code, self.plain.pixel
        if not cut:
            at = code.at(pixel, row, code.let(f"mul nsw i64 {part}, {self.part_of_row}"))
            return self.walk(code.at(pixel, at, first))
        base = self.table_of(z, y, part)
        found = [code.load("ptr", code.at("ptr", base, k), 8) for k in range(len(self.users))]
        return {number: code.at(pixel, place, first)
                for number, place in zip(self.users, found, strict=True)}

    # -- the sums --------------------------------------------------------------------------

    def block(self, pixel: str, start: str, cut: bool, first: str, vectors: int, access: Vectors
              ) -> None:
        """Outputs from ``pixel`` on, ``vectors`` of channels from ``first`` on."""
        code, kinds = self.code, [access.vector] * (self.mr * vectors)
        seen = channels_before(code, self.fan, first)

        def row(z: str, y: str, acc: Carried) -> Carried:
            at = code.at(self.kind, "%w", code.let(f"mul nsw i64 {z}, %ldv"))
            at = code.at(self.kind, at, code.let(f"mul nsw i64 {y}, {self.row_of_weights}"))
            at = code.at(self.kind, at, first)
            pixels = self.row_of(start, z, y)

            def part(p: str, taps: int, values: Carried) -> Carried:
                skipped = code.let(f"mul nsw i64 {p}, {self.part_of_weights}")
                weights = code.at(self.kind, at, skipped)
                places = self.places(pixels, z, y, p, seen, cut)
                return self.part(places, weights, taps, vectors, access, values)

            if self.parts == 1:
                acc = part("0", self.taps, acc)
            else:
                acc = code.loop(0, str(self.parts), 1, list(zip(kinds, acc, strict=True)),
                                lambda p, values: part(p, self.taps, values))
            return part(str(self.parts), self.rest, acc) if self.rest else acc

        acc = self.rows(started(code, first, self.mr, vectors, access), row)
        out = code.at(self.kind, "%out", code.let(f"mul nsw i64 {pixel}, %ldo"))
        write(code, acc, first, vectors, access, out)

    def part(self, places: dict[int, str], at: str, taps: int, vectors: int, access: Vectors,
             acc: Carried) -> Carried:
        """The sums with ``taps`` of a row added, whose weights are at ``at``."""
        code, before, kinds = self.code, self.fan.before, [access.vector] * len(acc)
        apart = code.let(f"mul nsw i64 %ldw, {before}")

        def channel(i: str, values: Carried) -> Carried:
            result, ws = list(values), []
            row = code.at(self.kind, at, code.let(f"mul nsw i64 {i}, %ldw"))
            for _ in range(taps):
                ws.append([access.load(row, v) for v in range(vectors)])
                row = code.at(self.kind, row, apart)
            for number, place in places.items():
                used = [(r, kx) for r, kx in self.users[number] if kx < taps]
                xs = access.channels(place, vectors, i) if used else []
                for (r, kx), v in itertools.product(used, range(vectors)):
                    cell = r * vectors + v
                    result[cell] = code.multiply_add(access.vector, result[cell], xs[v], ws[kx][v])
            return result

        if before > 1 and self.whole:
            return code.loop(0, str(before), 1, list(zip(kinds, acc, strict=True)), channel)
        for i in range(before):
            acc = channel(str(i), acc)
        return acc
