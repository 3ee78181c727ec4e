"""Depthwise convolution tiles: every channel has its own filter, channels are the vector lanes.

Two tiles, both for ``mr`` neighboring output pixels of a channels-last image:

``depthwise_text`` reaches its input pixels through a table of addresses ``[taps][mr]`` as in
``gemm``, so borders (a row of zeros outside the image), dilations and any stride are the
caller's business: ``out[r, ch] = sum over taps t of x[t, r][ch] w[t, ch]``.

``window_text`` is for windows on a grid of neighboring pixels: filter width, horizontal stride and
dilation are fixed, so one load of an input pixel serves every output pixel it belongs to, and there
is no table: ``out[r, ch] = sum over ky, kx of x[ky, r stride + kx dilation, ch] w[ky, kx, ch]``.
Columns of the grid that lie outside the image are read from a row of zeros instead; which ones is
told by two numbers, so the borders of an image need no tile of their own.

Both keep ``mr * nv`` accumulators in registers over all taps. They start with ``bias[ch]`` (zero
where ``bias`` is null) and are limited to ``[lo, hi]`` as they are stored, NaN staying NaN.
Channels that do not fill a block of ``nv`` vectors are done by fewer vectors at a time, the last
one under a mask, so nothing is padded and nothing else is written.

Pixels may be bytes, unsigned or signed, that mean ``byte - zero``; they are widened as they are
loaded, exactly, so quantized images cost a quarter of the traffic. Weights and sums are floats.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...ir.target import Target
from .irtext import SIZES, Carried, Code

_LLVM = {"f32": "float", "f64": "double", "u8": "float", "s8": "float"}
"""Type of the pixels -> what is computed in."""
BYTES = ("u8", "s8")


def tile_shape(target: Target, dtype: str = "f32") -> tuple[int, int, int]:
    """``(mr, nv, width)`` of the table tile: pixels, vectors of channels, lanes."""
    width = target.lanes(64 if dtype == "f64" else 32)
    return (7, 2, width) if target.registers >= 32 else (6, 2, width)


def window_rows(target: Target) -> int:
    """Pixels of the largest window tile."""
    return 8 if target.registers >= 32 else 4


def window_shape(target: Target, kw: int, mr: int, dtype: str = "f32") -> tuple[int, int]:
    """``(nv, width)`` of the window tile: accumulators and a row of weights fit registers."""
    width = target.lanes(64 if dtype == "f64" else 32)
    spare = 3 if dtype in BYTES else 2
    return max(1, (target.registers - spare) // (mr + kw)), width


class _Vectors:
    """Loads and stores of ``nv`` vectors of channels, whole or under a mask."""

    def __init__(self, code: Code, dtype: str, width: int, mask: str | None) -> None:
        self.code, self.kind, self.width, self.mask = code, _LLVM[dtype], width, mask
        self.vector = f"<{width} x {self.kind}>"
        self.pixel = "i8" if dtype in BYTES else self.kind
        self.widen = "zext" if dtype == "u8" else "sext"

    def _loaded(self, kind: str, address: str, v: int) -> str:
        place = self.code.at(kind, address, v * self.width)
        if self.mask is None:
            return self.code.load(f"<{self.width} x {kind}>", place, SIZES[kind])
        return self.code.masked_load(kind, self.width, place, self.mask)

    def load(self, address: str, v: int) -> str:
        """Vector ``v`` behind ``address``."""
        return self._loaded(self.kind, address, v)

    def load_pixel(self, address: str, v: int) -> str:
        """Vector ``v`` of a pixel's channels, as numbers."""
        value = self._loaded(self.pixel, address, v)
        if self.pixel == self.kind:
            return value
        code, whole = self.code, f"<{self.width} x i32>"
        value = code.let(f"{self.widen} <{self.width} x i8> {value} to {whole}")
        value = code.let(f"sitofp {whole} {value} to {self.vector}")
        zero = code.splat(self.kind, self.width, "%zero")
        return code.let(f"fsub {self.vector} {value}, {zero}")

    def store(self, value: str, address: str, v: int) -> None:
        """Store vector ``v`` behind ``address``."""
        place = self.code.at(self.kind, address, v * self.width)
        if self.mask is None:
            self.code.store(self.vector, value, place, SIZES[self.kind])
        else:
            self.code.masked_store(self.kind, self.width, value, place, self.mask)


def _over_channels(
    code: Code, dtype: str, width: int, nv: int
) -> Callable[[Callable[[str, int, _Vectors], None]], None]:
    """A function that runs ``block(first channel, vectors, access)`` over ``%channels``: by ``nv``
    vectors, what is left of whole vectors by one block of fewer, and the rest under a mask. What is
    the same for all its calls is computed here."""
    full = code.let(f"and i64 %channels, {-width}")
    blocks = code.let(f"sub i64 {full}, " + code.let(f"urem i64 {full}, {nv * width}"))
    rest = code.let(f"sub i64 {full}, {blocks}")
    fewer = [(n, code.let(f"icmp eq i64 {rest}, {n * width}")) for n in range(nv - 1, 0, -1)]
    left = code.let(f"sub i64 %channels, {full}")
    some = code.let(f"icmp sgt i64 {left}, 0")

    def run(block: Callable[[str, int, _Vectors], None]) -> None:
        plain = _Vectors(code, dtype, width, None)

        def body(first: str, _: Carried) -> Carried:
            block(first, nv, plain)
            return []

        code.loop(0, blocks, nv * width, [], body)
        for vectors, holds in fewer:
            code.branch(holds, partial(block, blocks, vectors, plain))

        def last() -> None:
            block(full, 1, _Vectors(code, dtype, width, code.lane_mask(width, left)))

        code.branch(some, last)

    return run


def _finish_parameters(dtype: str) -> list[tuple[str, str]]:
    """The last arguments of both tiles; ``zero`` where pixels are bytes."""
    kind = _LLVM[dtype]
    zero = [(kind, "zero")] if dtype in BYTES else []
    return [("ptr", "out"), ("i64", "ldo"), ("ptr", "bias"), (kind, "lo"), (kind, "hi"), *zero]


def table_parameters(dtype: str) -> list[tuple[str, str]]:
    """LLVM types and names of the arguments of the table tile.

    ``rows``: addresses ``[taps][mr]`` of pixels; ``w``: weights ``[taps][ldw]``; ``out``: pixels
    ``ldo`` elements apart.
    """
    return [
        ("ptr noalias readonly", "rows"), ("i64", "taps"), ("ptr noalias readonly", "w"),
        ("i64", "ldw"), ("i64", "channels"), *_finish_parameters(dtype),
    ]  # fmt: skip


def window_parameters(dtype: str) -> list[tuple[str, str]]:
    """LLVM types and names of the arguments of the window tile.

    ``pixels``: outputs, at least those of the tile. ``x``: the pixel of column 0 in the first row
    of the windows, which may lie outside; ``ldx`` and ``ldy``: elements between columns and rows;
    ``kh``: rows. Columns below ``left`` and from ``right`` on are read at ``outside``. ``w``:
    weights ``[kh][kw][ldw]``. ``out``: pixels ``ldo`` elements apart.
    """
    return [
        ("i64", "pixels"), ("ptr noalias readonly", "x"), ("i64", "ldx"), ("i64", "ldy"),
        ("i64", "kh"), ("i64", "left"), ("i64", "right"), ("ptr noalias readonly", "outside"),
        ("ptr noalias readonly", "w"), ("i64", "ldw"), ("i64", "channels"),
        *_finish_parameters(dtype),
    ]  # fmt: skip


def _start(code: Code, first: str, mr: int, vectors: int, access: _Vectors
           ) -> list[tuple[str, str]]:
    """The accumulators ``[mr][vectors]`` with their types: bias or zero."""
    given = code.let("icmp ne ptr %bias, null")
    zeros = ["zeroinitializer"] * vectors

    def load() -> Carried:
        place = code.at(access.kind, "%bias", first)
        return [access.load(place, v) for v in range(vectors)]

    row = code.when(given, [access.vector] * vectors, zeros, load)
    return [(access.vector, value) for value in row] * mr


def _write(
    code: Code, acc: Carried, first: str, vectors: int, access: _Vectors, out: str = "%out"
) -> None:
    """Limit the accumulators ``[mr][vectors]`` and store them to the rows of ``out``."""
    limits = [(code.splat(access.kind, access.width, "%lo"), "olt"),
              (code.splat(access.kind, access.width, "%hi"), "ogt")]
    row = code.at(access.kind, out, first)
    for r in range(len(acc) // vectors):
        for v in range(vectors):
            value = acc[r * vectors + v]
            for limit, sign in limits:
                beyond = code.let(f"fcmp {sign} {access.vector} {value}, {limit}")
                value = code.let(f"select <{access.width} x i1> {beyond}, {access.vector} {limit}, "
                                 f"{access.vector} {value}")
            access.store(value, row, v)
        row = code.at(access.kind, row, "%ldo")


def depthwise_text(name: str, target: Target, dtype: str, mr: int, nv: int) -> str:
    """LLVM IR of the table tile of ``mr`` pixels, ``nv`` vectors of channels at a time."""
    kind = _LLVM[dtype]
    width = target.lanes(8 * SIZES[kind])
    code = Code(name, table_parameters(dtype), target)

    def block(first: str, vectors: int, access: _Vectors) -> None:
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

        start = _start(code, first, mr, vectors, access)
        _write(code, code.loop(0, "%taps", 1, start, tap), first, vectors, access)

    _over_channels(code, dtype, width, nv)(block)
    return code.text()


def window_text(
    name: str, target: Target, dtype: str, kw: int, stride: int, dilation: int, mr: int, nv: int
) -> str:
    """LLVM IR of the window tile: filter rows of ``kw`` taps, ``dilation`` columns apart,
    ``stride`` columns per output."""
    kind = _LLVM[dtype]
    width = target.lanes(8 * SIZES[kind])
    code = Code(name, window_parameters(dtype), target)
    users: dict[int, list[tuple[int, int]]] = {}
    """Column -> outputs and taps that it belongs to, in the order of columns."""
    for number, r, kx in sorted(
        (r * stride + kx * dilation, r, kx) for r in range(mr) for kx in range(kw)
    ):
        users.setdefault(number, []).append((r, kx))
    row_of_weights = code.let(f"mul nsw i64 %ldw, {kw}")
    inside, last = code.let("sub i64 %right, %left"), max(users)
    table = code.let(f"alloca ptr, i64 {code.let(f'mul nsw i64 %kh, {len(users)}')}")
    over_channels = _over_channels(code, dtype, width, nv)
    plain = _Vectors(code, dtype, width, None)

    def row_of(start: str, ky: str) -> str:
        """The pixel of a tile's first column in one row of its windows."""
        at = code.at(plain.pixel, "%x", code.let(f"mul nsw i64 {start}, %ldx"))
        return code.at(plain.pixel, at, code.let(f"mul nsw i64 {ky}, %ldy"))

    def walk(row: str) -> dict[int, str]:
        """Where the columns of a row lie."""
        found: dict[int, str] = {}
        for number in range(last + 1):
            if number in users:
                found[number] = row
            row = code.at(plain.pixel, row, "%ldx")
        return found

    def fill(start: str, ky: str) -> Carried:
        """Writes where the columns of a row are read, of which some lie outside."""
        before = code.let(f"sub i64 {start}, %left")
        base = code.at("ptr", table, code.let(f"mul nsw i64 {ky}, {len(users)}"))
        for k, (number, place) in enumerate(walk(row_of(start, ky)).items()):
            beyond = code.let(f"add i64 {before}, {number}")
            holds = code.let(f"icmp ult i64 {beyond}, {inside}")
            chosen = code.let(f"select i1 {holds}, ptr {place}, ptr %outside")
            code.store("ptr", chosen, code.at("ptr", base, k), 8)
        return []

    def places(start: str, ky: str, first: str, cut: bool) -> dict[int, str]:
        """Where the columns of a row are read; ``cut``: as ``fill`` wrote."""
        if not cut:
            return walk(code.at(plain.pixel, row_of(start, ky), first))
        base = code.at("ptr", table, code.let(f"mul nsw i64 {ky}, {len(users)}"))
        found = [code.load("ptr", code.at("ptr", base, k), 8) for k in range(len(users))]
        return {number: code.at(plain.pixel, place, first)
                for number, place in zip(users, found, strict=True)}

    def block(pixel: str, start: str, cut: bool, first: str, vectors: int, access: _Vectors
              ) -> None:
        """Outputs from ``pixel`` on, ``vectors`` of channels from ``first`` on."""

        def row(ky: str, acc: Carried) -> Carried:
            result = list(acc)
            at = code.at(kind, "%w", code.let(f"mul nsw i64 {ky}, {row_of_weights}"))
            at = code.at(kind, at, first)
            ws = []
            for _ in range(kw):
                ws.append([access.load(at, v) for v in range(vectors)])
                at = code.at(kind, at, "%ldw")
            for number, place in places(start, ky, first, cut).items():
                xs = [access.load_pixel(place, v) for v in range(vectors)]
                for r, kx in users[number]:
                    for v in range(vectors):
                        cell = r * vectors + v
                        result[cell] = code.multiply_add(
                            access.vector, result[cell], xs[v], ws[kx][v]
                        )
            return result

        acc = code.loop(0, "%kh", 1, _start(code, first, mr, vectors, access), row)
        out = code.at(kind, "%out", code.let(f"mul nsw i64 {pixel}, %ldo"))
        _write(code, acc, first, vectors, access, out)

    def tile(pixel: str, _: Carried) -> Carried:
        """The tile that begins at ``pixel``, or the last one."""
        pixel = code.least(pixel, code.let(f"sub i64 %pixels, {mr}"))
        start = code.let(f"mul nsw i64 {pixel}, {stride}")

        def border() -> None:
            code.loop(0, "%kh", 1, [], lambda ky, _: fill(start, ky))
            over_channels(partial(block, pixel, start, True))

        after = code.let(f"icmp sge i64 {start}, %left")
        before = code.let(f"icmp slt i64 {code.let(f'add i64 {start}, {last}')}, %right")
        code.branch(code.let(f"and i1 {after}, {before}"),
                    lambda: over_channels(partial(block, pixel, start, False)), border)
        return []

    code.loop(0, "%pixels", mr, [], tile)
    return code.text()
