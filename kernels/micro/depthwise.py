"""Depthwise convolution tiles: every channel has its own filter, channels are the vector lanes.

Two tiles, both for ``mr`` neighboring output pixels of a channels-last image:

``depthwise_text`` reaches its input pixels through a table of addresses ``[taps][mr]`` as in
``gemm``, so borders (a row of zeros outside the image), dilations and any stride are the
caller's business: ``out[r, ch] = sum over taps t of x[t, r][ch] w[t, ch]``.

``window_text`` is for windows that lie inside the (padded) image: filter width and horizontal
stride are fixed, so one load of an input pixel serves every output pixel it belongs to, and there
is no table: ``out[r, ch] = sum over ky, kx of x[ky, r stride + kx, ch] w[ky, kx, ch]``.

Both keep ``mr * nv`` accumulators in registers over all taps. They start with ``bias[ch]`` (zero
where ``bias`` is null) and are limited to ``[lo, hi]`` as they are stored, NaN staying NaN.
Channels that do not fill a block of ``nv`` vectors are done one vector at a time, the last one
under a mask, so nothing is padded and nothing else is written.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.target import Target
from .irtext import SIZES, Carried, Code

_LLVM = {"f32": "float", "f64": "double"}


def tile_shape(target: Target, dtype: str = "f32") -> tuple[int, int, int]:
    """``(mr, nv, width)`` of the table tile: pixels, vectors of channels, lanes."""
    width = target.lanes(32 if dtype == "f32" else 64)
    return (7, 2, width) if target.registers >= 32 else (6, 2, width)


def window_shape(target: Target, kw: int, dtype: str = "f32") -> tuple[int, int, int]:
    """``(mr, nv, width)`` of the window tile: accumulators and a row of weights fit registers."""
    width = target.lanes(32 if dtype == "f32" else 64)
    mr = 7 if target.registers >= 32 else 4
    return mr, max(1, (target.registers - 2) // (mr + kw)), width


class _Vectors:
    """Loads and stores of ``nv`` vectors of channels, whole or under a mask."""

    def __init__(self, code: Code, kind: str, width: int, mask: str | None) -> None:
        self.code, self.kind, self.width, self.mask = code, kind, width, mask
        self.vector = f"<{width} x {kind}>"

    def load(self, address: str, v: int) -> str:
        """Vector ``v`` behind ``address``."""
        place = self.code.at(self.kind, address, v * self.width)
        if self.mask is None:
            return self.code.load(self.vector, place, SIZES[self.kind])
        return self.code.masked_load(self.kind, self.width, place, self.mask)

    def store(self, value: str, address: str, v: int) -> None:
        """Store vector ``v`` behind ``address``."""
        place = self.code.at(self.kind, address, v * self.width)
        if self.mask is None:
            self.code.store(self.vector, value, place, SIZES[self.kind])
        else:
            self.code.masked_store(self.kind, self.width, value, place, self.mask)


def _over_channels(
    code: Code, kind: str, width: int, nv: int, block: Callable[[str, int, _Vectors], None]
) -> None:
    """Run ``block(first channel, vectors, access)`` over ``%channels``."""

    def whole(vectors: int) -> Callable[[str, Carried], Carried]:
        def body(first: str, _: Carried) -> Carried:
            block(first, vectors, _Vectors(code, kind, width, None))
            return []

        return body

    blocks = code.let("sub i64 %channels, " + code.let(f"urem i64 %channels, {nv * width}"))
    full = code.let(f"and i64 %channels, {-width}")
    code.loop(0, blocks, nv * width, [], whole(nv))
    code.loop(blocks, full, width, [], whole(1))
    left = code.let(f"sub i64 %channels, {full}")

    def last() -> None:
        block(full, 1, _Vectors(code, kind, width, code.lane_mask(width, left)))

    code.branch(code.let(f"icmp sgt i64 {left}, 0"), last)


def _finish_parameters(kind: str) -> list[tuple[str, str]]:
    """The last arguments of both tiles."""
    return [("ptr", "out"), ("i64", "ldo"), ("ptr", "bias"), (kind, "lo"), (kind, "hi")]


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


def _write(code: Code, acc: Carried, first: str, vectors: int, access: _Vectors) -> None:
    """Limit the accumulators ``[mr][vectors]`` and store them to the rows of ``%out``."""
    limits = [(code.splat(access.kind, access.width, "%lo"), "olt"),
              (code.splat(access.kind, access.width, "%hi"), "ogt")]
    row = code.at(access.kind, "%out", first)
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
    code = Code(
        name,
        [
            ("ptr noalias readonly", "rows"), ("i64", "taps"), ("ptr noalias readonly", "w"),
            ("i64", "ldw"), ("i64", "channels"), *_finish_parameters(kind),
        ],
        target,
    )  # fmt: skip

    def block(first: str, vectors: int, access: _Vectors) -> None:
        def tap(t: str, acc: Carried) -> Carried:
            table = code.at("i64", "%rows", code.let(f"mul nsw i64 {t}, {mr}"))
            weights = code.at(kind, "%w", code.let(f"mul nsw i64 {t}, %ldw"))
            weights = code.at(kind, weights, first)
            ws = [access.load(weights, v) for v in range(vectors)]
            result = []
            for r in range(mr):
                row = code.at(kind, code.load("ptr", code.at("i64", table, r), 8), first)
                for v in range(vectors):
                    x = access.load(row, v)
                    old = acc[r * vectors + v]
                    result.append(code.multiply_add(access.vector, old, x, ws[v]))
            return result

        start = _start(code, first, mr, vectors, access)
        _write(code, code.loop(0, "%taps", 1, start, tap), first, vectors, access)

    _over_channels(code, kind, width, nv, block)
    return code.text()


def window_text(
    name: str, target: Target, dtype: str, kw: int, stride: int, mr: int, nv: int
) -> str:
    """LLVM IR of the window tile: filter rows of ``kw`` taps, ``stride`` pixels per output."""
    kind = _LLVM[dtype]
    width = target.lanes(8 * SIZES[kind])
    code = Code(
        name,
        [
            ("ptr noalias readonly", "x"), ("i64", "ldx"), ("i64", "ldy"), ("i64", "kh"),
            ("ptr noalias readonly", "w"), ("i64", "ldw"), ("i64", "channels"),
            *_finish_parameters(kind),
        ],
        target,
    )  # fmt: skip
    row_of_weights = code.let(f"mul nsw i64 %ldw, {kw}")

    def block(first: str, vectors: int, access: _Vectors) -> None:
        def row(ky: str, acc: Carried) -> Carried:
            result = list(acc)
            pixel = code.at(kind, code.at(kind, "%x", code.let(f"mul nsw i64 {ky}, %ldy")), first)
            at = code.at(kind, "%w", code.let(f"mul nsw i64 {ky}, {row_of_weights}"))
            at = code.at(kind, at, first)
            ws = []
            for _ in range(kw):
                ws.append([access.load(at, v) for v in range(vectors)])
                at = code.at(kind, at, "%ldw")
            for column in range((mr - 1) * stride + kw):
                users = [
                    (r, column - r * stride) for r in range(mr) if 0 <= column - r * stride < kw
                ]
                xs = [access.load(pixel, v) for v in range(vectors)] if users else []
                for r, kx in users:
                    for v in range(vectors):
                        cell = r * vectors + v
                        result[cell] = code.multiply_add(
                            access.vector, result[cell], xs[v], ws[kx][v]
                        )
                pixel = code.at(kind, pixel, "%ldx")
            return result

        start = _start(code, first, mr, vectors, access)
        _write(code, code.loop(0, "%kh", 1, start, row), first, vectors, access)

    _over_channels(code, kind, width, nv, block)
    return code.text()
