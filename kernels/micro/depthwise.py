"""Depthwise convolution tile: every channel has its own filter, channels are the vector lanes.

``out[r, ch] = sum over taps t of x[t, r][ch] w[t, ch]`` for ``mr`` output pixels, channels-last. As in
``gemm`` the input pixels are reached through a table of addresses ``[taps][mr]`` (a row of zeros
outside the image). For each block of channels the ``mr * nv`` accumulators stay in registers over
all taps, and one vector of weights serves all ``mr`` pixels. Channels that do not fill a block are
done one vector at a time, the last one under a mask, so nothing is padded.
"""

from __future__ import annotations

from ...ir.target import Target
from .irtext import SIZES, Carried, Code

_LLVM = {"f32": "float", "f64": "double"}


def tile_shape(target: Target, dtype: str = "f32") -> tuple[int, int, int]:
    """``(mr, nv, width)``: pixels, vectors of channels, lanes."""
    width = target.lanes(32 if dtype == "f32" else 64)
    return (4, 4, width) if target.registers >= 32 else (4, 2, width)


def depthwise_text(name: str, target: Target, dtype: str, mr: int, nv: int) -> str:
    """LLVM IR of a tile of ``mr`` pixels, ``nv`` vectors of channels at a time."""
    kind = _LLVM[dtype]
    size = SIZES[kind]
    width = target.lanes(8 * size)
    vector = f"<{width} x {kind}>"
    code = Code(
        name,
        [
            ("ptr noalias readonly", "rows"), ("i64", "taps"), ("ptr noalias readonly", "w"),
            ("i64", "ldw"), ("i64", "channels"), ("ptr noalias", "out"), ("i64", "ldo"),
        ],
        target,
    )  # fmt: skip

    def block(first: str, vectors: int, mask: str | None) -> None:
        """Channels ``first`` to ``first + vectors * width``, or those under ``mask``."""

        def load(base: str, index: str) -> str:
            address = code.at(kind, base, index)
            if mask is None:
                return code.load(vector, address, size)
            return code.masked_load(kind, width, address, mask)

        def tap(t: str, acc: Carried) -> Carried:
            table = code.at("i64", "%rows", code.let(f"mul nsw i64 {t}, {mr}"))
            weights = code.at(kind, "%w", code.let(f"mul nsw i64 {t}, %ldw"))
            ats = [code.let(f"add nsw i64 {first}, {v * width}") for v in range(vectors)]
            ws = [load(weights, at) for at in ats]
            result = []
            for r in range(mr):
                row = code.load("ptr", code.at("i64", table, r), 8)
                for v in range(vectors):
                    x = load(row, ats[v])
                    result.append(code.multiply_add(vector, acc[r * vectors + v], x, ws[v]))
            return result

        zero = [(vector, "zeroinitializer")] * (mr * vectors)
        acc = code.loop(0, "%taps", 1, zero, tap)
        for r in range(mr):
            row = code.at(kind, "%out", code.let(f"mul nsw i64 %ldo, {r}"))
            for v in range(vectors):
                at = code.let(f"add nsw i64 {first}, {v * width}")
                address = code.at(kind, row, at)
                if mask is None:
                    code.store(vector, acc[r * vectors + v], address, size)
                else:
                    code.masked_store(kind, width, acc[r * vectors + v], address, mask)

    def whole(vectors: int) -> object:
        def body(first: str, _: Carried) -> Carried:
            block(first, vectors, None)
            return []

        return body

    blocks = code.let(f"and i64 %channels, {-(nv * width)}")
    vectors = code.let(f"and i64 %channels, {-width}")
    code.loop(0, blocks, nv * width, [], whole(nv))  # type: ignore[arg-type]
    code.loop(blocks, vectors, width, [], whole(1))  # type: ignore[arg-type]
    left = code.let(f"sub i64 %channels, {vectors}")
    some = code.let(f"icmp sgt i64 {left}, 0")
    code.branch(some, lambda: block(vectors, 1, code.lane_mask(width, left)))
    return code.text()
