"""Micro-kernels: contraction tiles shared by all generated kernels, as external C functions.

A micro-kernel is compiled once per target (``MicroKernel.object_bytes``) and linked next to the
kernels that call it by its symbol. Generated source calls it with the word ``ccall``:

    ccall("mk_pack_f32", src, stride_k, stride_n, k, n, dst)

Pointers may be passed as typed pointers or as int64 addresses. All symbols start with ``mk_``.

===================  =====================================================================
``igemm(...)``       ``(rows, taps, first, klen, b, ahead, step, c, ldc, m, n, part, more,
                     bias, res, ldr, lo, hi[, ldk])``, see ``gemm.Tile``
``depthwise(...)``   see ``depthwise.table_parameters``
``window(...)``      see ``depthwise.window_parameters``
``pack(...)``        ``(src, stride_k, stride_n, k, n, dst)``, see ``packing``
``turn(...)``        ``(src, lds, m, n, dst, ldd)``, see ``packing.turn_text``
``softmax(...)``     ``(w, n, lanes, factor, top, total, gain, more)``, see ``softmax``
``igemm_i8(...)``    ``(rows, taps, klen, b, c, ldc)``, see ``quantized``
``pack_i8(...)``     ``(src, stride_k, stride_n, k, n, dst, bias)``, see ``quantized``
``fetch(...)``       ``(at, step, m, n)``, see ``fetch``
``pixels(...)``      ``(rows, channels, dst, plane)``, see ``winograd``
``results(...)``     ``(src, plane, channels, dst, ldd)``, see ``winograd``
===================  =====================================================================

``rows`` is a table of addresses (int64) ``[taps][mr]``; ``ldc``, ``ldw``, ``ldo`` and strides
count elements. A tile always reads all ``mr`` addresses: repeat the last row's address for missing
rows. All but ``igemm`` write all ``mr`` rows as well: give ``c`` room for them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...ir.errors import CompileError, quote
from ...ir.grids import DEPTHWISE, Fan, Taps
from ...ir.lines import block_vectors, run_pixels
from ...ir.target import Target
from ...ir.variants import narrowest
from . import blocks as _blocks
from . import depthwise as _depthwise
from . import fetch as _fetch
from . import gemm as _gemm
from . import packing as _packing
from . import quantized as _quantized
from . import rolling as _rolling
from . import softmax as _softmax
from . import winograd as _winograd
from .packing import pack_b
from .quantized import pack_b_i8


@dataclass(frozen=True)
class MicroKernel:
    """One micro-kernel of one target: what to call, its tile, and how to get its code."""

    symbol: str
    """C name, the same for all targets."""
    target: Target
    mr: int
    """Rows (pixels) of the tile."""
    nv: int
    """Whole vectors per row of the tile."""
    nr: int
    """Columns of one packed panel (channels of one block)."""
    arguments: tuple[str, ...]
    """Argument names in order."""
    make_text: Callable[[], str] = field(compare=False, repr=False)
    """Writes its LLVM IR."""

    def text(self) -> str:
        """LLVM IR before optimization."""
        return self.make_text()

    def object_bytes(self) -> bytes:
        """The relocatable object, compiled on first use in this process."""
        from ..jit import compile_ir_text

        key = (self.symbol, self.target.isa)
        with _LOCK:
            if key not in _OBJECTS:
                _OBJECTS[key] = compile_ir_text(self.text(), self.target, optimize=False)
            return _OBJECTS[key]


_LOCK = threading.Lock()
_OBJECTS: dict[tuple[str, str], bytes] = {}


def igemm(
    target: Target,
    dtype: str = "f32",
    mr: int | None = None,
    nv: int | None = None,
    strided: bool = False,
    panel: int | None = None,
    half: bool = False,
    brief: bool = False,
) -> MicroKernel:
    """The GEMM tile with ``mr`` rows (default: the full tile) and ``nv`` vectors, and ``half`` a
    one, of a panel of ``panel`` (default: the full tile's); ``strided`` adds the distance between
    successive k of a row of A, ``brief`` has panels of bfloat16, see ``gemm.Tile``."""
    full_mr, full_nv, width = _gemm.tile_shape(target, dtype)
    rows, wide = mr or full_mr, panel or full_nv
    vectors = wide if nv is None else nv
    symbol = f"mk_igemm{'k' if strided else ''}_{dtype}_{rows}x{vectors}{'h' if half else ''}"
    symbol += (f"of{wide}" if wide != full_nv else "") + ("_bf16" if brief else "")
    tile = _gemm.Tile(dtype, rows, vectors, wide, half, strided, brief)
    arguments = tuple(name for _, name in tile.parameters())

    def text() -> str:
        return _gemm.igemm_text(symbol, target, tile)

    return MicroKernel(symbol, target, rows, vectors, wide * width, arguments, text)


def narrowed(tile: MicroKernel, columns: int) -> MicroKernel:
    """A contraction tile of the same rows and panels for a panel of only so many columns."""
    part = _parts(tile.symbol)
    panel = tile.nr // tile.target.lanes(32)
    nv, half = narrowest(tile.target, panel, columns)
    if part["byte"]:
        return igemm_i8(tile.target, tile.mr, nv, part["byte"] == "s", half)
    strided, brief = bool(part["strided"]), bool(part["brief"])
    return igemm(tile.target, "f32", tile.mr, nv, strided, panel, half, brief)


def igemm_rows(target: Target, dtype: str = "f32") -> tuple[int, ...]:
    """Row counts that tiles come in, descending from the full tile's."""
    return tuple(range(_gemm.tile_shape(target, dtype)[0], 0, -1))


def depthwise(target: Target, dtype: str = "f32", mr: int | None = None) -> MicroKernel:
    """The depthwise tile with ``mr`` pixels (default: the full tile) of ``dtype``: floats, or bytes
    (``u8``, ``s8``), less a zero point (``u8z``, ``s8z``)."""
    full_mr, nv, width = _depthwise.tile_shape(target, dtype)
    rows = mr or full_mr
    symbol = f"mk_depthwise_{dtype}_{rows}"
    arguments = tuple(name for _, name in _depthwise.table_parameters(dtype))

    def text() -> str:
        return _depthwise.depthwise_text(symbol, target, dtype, rows, nv)

    return MicroKernel(symbol, target, rows, nv, nv * width, arguments, text)


def window(
    target: Target,
    kw: int,
    stride: int,
    dtype: str = "f32",
    mr: int | None = None,
    dilation: int = 1,
    fan: Fan = DEPTHWISE,
) -> MicroKernel:
    """The tile for windows of ``kw`` pixels that are ``dilation`` columns apart, outputs ``stride``
    columns apart, of a depthwise convolution or of groups of ``fan`` channels; pixels as in
    ``depthwise``."""
    rows = mr or _depthwise.window_rows(target, fan)
    nv, width = _depthwise.window_shape(target, kw, rows, dtype, fan)
    groups = "" if fan == DEPTHWISE else f"g{fan.before}to{fan.after}"
    symbol = f"mk_window_{dtype}_k{kw}s{stride}d{dilation}{groups}_{rows}"
    arguments = tuple(name for _, name in _depthwise.window_parameters(dtype))

    def text() -> str:
        return _depthwise.window_text(symbol, target, dtype, kw, stride, dilation, rows, nv, fan)

    return MicroKernel(symbol, target, rows, nv, nv * width, arguments, text)


def block(target: Target, down: Taps, across: Taps, lines: int, mr: int, dtype: str = "f32"
          ) -> MicroKernel:
    """The tile of ``lines`` lines of ``mr`` pixels of a depthwise convolution, whose windows are
    ``down`` rows and ``across`` columns; pixels as in ``depthwise``."""
    nv = block_vectors(target, down, across, lines, mr, dtype.endswith("z"))
    if nv < 1:
        raise CompileError(f"a tile of {lines} lines of {mr} pixels leaves no register for "
                           f"windows of {down.count}x{across.count}: take a smaller one")
    symbol = f"mk_block_{_windows(dtype, down, across)}_{lines}x{mr}"
    arguments = tuple(name for _, name in _blocks.block_parameters(dtype))

    def text() -> str:
        return _blocks.block_text(symbol, target, dtype, down, across, lines, mr, nv)

    return MicroKernel(symbol, target, mr, nv, nv * target.lanes(32), arguments, text)


def roll(target: Target, down: Taps, across: Taps, mr: int, dtype: str = "f32") -> MicroKernel:
    """The tile of ``mr`` pixels that goes down a depthwise convolution, windows and pixels as in
    ``block``."""
    if mr > run_pixels(target, down, across, dtype.endswith("z")):
        raise CompileError(f"no tile of {mr} pixels goes down windows of {down.count}x"
                           f"{across.count} with stride {down.stride}: take a block")
    symbol = f"mk_roll_{_windows(dtype, down, across)}_{mr}"
    arguments = tuple(name for _, name in _rolling.roll_parameters(dtype))

    def text() -> str:
        return _rolling.roll_text(symbol, target, dtype, down, across, mr)

    return MicroKernel(symbol, target, mr, 1, target.lanes(32), arguments, text)


def _windows(dtype: str, down: Taps, across: Taps) -> str:
    """What the symbol of a tile of several lines says of its pixels and windows."""
    pairs = (f"{a}x{b}" for a, b in zip(
        *((t.count, t.stride, t.dilation) for t in (down, across)), strict=True))
    return "{}_k{}s{}d{}".format(dtype, *pairs)


def pack(target: Target, dtype: str = "f32") -> MicroKernel:
    """Run-time packing of a ``[k, n]`` matrix with any strides into the panels of ``igemm``."""
    _, nv, width = _gemm.tile_shape(target, dtype)
    symbol = f"mk_pack_{dtype}"
    arguments = ("src", "stride_k", "stride_n", "k", "n", "dst")

    def text() -> str:
        return _packing.pack_b_text(symbol, target, dtype, nv)

    return MicroKernel(symbol, target, 0, nv, nv * width, arguments, text)


def turn(target: Target) -> MicroKernel:
    """The transpose of a float32 matrix whose rows lie any distance apart."""
    arguments = ("src", "lds", "m", "n", "dst", "ldd")

    def text() -> str:
        return _packing.turn_text("mk_turn_f32", target)

    return MicroKernel("mk_turn_f32", target, 0, 1, target.lanes(32), arguments, text)


def fetch(target: Target) -> MicroKernel:
    """Asks for the lines of a matrix, see ``micro.fetch``."""
    arguments = tuple(name for _, name in _fetch.PARAMETERS)

    def text() -> str:
        return _fetch.fetch_text("mk_fetch", target)

    return MicroKernel("mk_fetch", target, 0, 0, 0, arguments, text)


def softmax(target: Target) -> MicroKernel:
    """Scores of a panel of queries to weights, see ``micro.softmax``."""
    _, nv, width = _gemm.tile_shape(target)
    arguments = tuple(name for _, name in _softmax.parameters())

    def text() -> str:
        return _softmax.softmax_text("mk_softmax_f32", target, nv * width)

    return MicroKernel("mk_softmax_f32", target, 0, nv, nv * width, arguments, text)


def igemm_i8(
    target: Target,
    mr: int | None = None,
    nv: int | None = None,
    flip: bool = False,
    half: bool = False,
) -> MicroKernel:
    """The exact integer tile: unsigned bytes (signed ones plus 128 with ``flip``) times signed.

    Rows and vectors as in ``igemm``; C is int32. Row counts: ``igemm_rows(target)``.
    """
    full_mr, full_nv, width = _gemm.tile_shape(target, "f32")
    rows, vectors = mr or full_mr, full_nv if nv is None else nv
    symbol = f"mk_igemm_{'s8' if flip else 'u8'}_{rows}x{vectors}{'h' if half else ''}"
    arguments = ("rows", "taps", "klen", "b", "c", "ldc")

    def text() -> str:
        return _quantized.igemm_i8_text(symbol, target, rows, vectors, half, full_nv, flip)

    return MicroKernel(symbol, target, rows, vectors, full_nv * width, arguments, text)


def pack_i8(target: Target) -> MicroKernel:
    """Run-time packing of a ``[k, n]`` byte matrix into the panels of ``igemm_i8``."""
    _, nv, width = _gemm.tile_shape(target, "f32")
    arguments = ("src", "stride_k", "stride_n", "k", "n", "dst", "bias")

    def text() -> str:
        return _quantized.pack_i8_text("mk_pack_i8", target, nv)

    return MicroKernel("mk_pack_i8", target, 0, nv, nv * width, arguments, text)


def pixels(target: Target, side: int) -> MicroKernel:
    """Winograd's transform of the pixels that a square of ``side`` x ``side`` outputs reads."""
    return _square("pixels", target, side, _winograd.pixels_parameters(), _winograd.pixels_text)


def results(target: Target, side: int) -> MicroKernel:
    """Winograd's transform of the products to a square of ``side`` x ``side`` outputs."""
    return _square("results", target, side, _winograd.results_parameters(), _winograd.results_text)


def _square(what: str, target: Target, side: int, parameters: Sequence[tuple[str, str]],
            text: Callable[[str, Target, int], str]) -> MicroKernel:
    symbol = f"mk_{what}_f32_{side}"
    return MicroKernel(symbol, target, 0, 1, target.lanes(32), tuple(n for _, n in parameters),
                       lambda: text(symbol, target, side))


_NAMES = re.compile(
    r"mk_(?:igemm(?P<strided>k?)_(?P<gemm>f32|f64)"
    r"_(?P<rows>\d+)x(?P<nv>\d+)(?P<half>h?)(?:of(?P<panel>\d+))?(?P<brief>_bf16)?"
    r"|igemm_(?P<byte>[us])8_(?P<byte_rows>\d+)x(?P<byte_nv>\d+)(?P<byte_half>h?)"
    r"|depthwise_(?P<table_type>f32|f64|[us]8z?)_(?P<table_rows>\d+)"
    r"|window_(?P<window_type>f32|f64|[us]8z?)_k(?P<kw>\d+)s(?P<stride>\d+)d(?P<dilation>\d+)"
    r"(?:g(?P<before>\d+)to(?P<after>\d+))?_(?P<window_rows>\d+)"
    r"|(?:block|roll)_(?P<block_type>f32|[us]8z?)_k(?P<block_k>\d+x\d+)s(?P<block_s>\d+x\d+)"
    r"d(?P<block_d>\d+x\d+)_(?:(?P<lines>\d+)x)?(?P<block_rows>\d+)"
    r"|(?P<square>pixels|results)_f32_(?P<side>\d+)"
    r"|pack_(?P<pack>f32|f64|i8)|(?P<turn>turn_f32)|(?P<softmax>softmax_f32)|(?P<fetch>fetch))"
)


def _parts(symbol: str) -> dict[str, str | Any]:
    """What a symbol says; raises ``CompileError`` where it is none."""
    found = _NAMES.fullmatch(symbol)
    if found is None:
        raise CompileError(f"there is no micro-kernel {quote(symbol)}")
    return found.groupdict()


def known(symbol: str) -> bool:
    """Whether a symbol names a micro-kernel."""
    return _NAMES.fullmatch(symbol) is not None


def named(symbol: str, target: Target) -> MicroKernel:
    """The micro-kernel with this symbol, the inverse of ``symbol``; raises ``CompileError``."""
    part = _parts(symbol)
    if part["gemm"]:
        size = int(part["rows"]), int(part["nv"])
        panel = int(part["panel"]) if part["panel"] else None
        strided, half, brief = (bool(part[name]) for name in ("strided", "half", "brief"))
        return igemm(target, part["gemm"], *size, strided, panel, half, brief)
    if part["byte"]:
        flip, half = part["byte"] == "s", bool(part["byte_half"])
        return igemm_i8(target, int(part["byte_rows"]), int(part["byte_nv"]), flip, half)
    if part["table_type"]:
        return depthwise(target, part["table_type"], int(part["table_rows"]))
    if part["kw"]:
        shape = int(part["kw"]), int(part["stride"])
        rows, dilation = int(part["window_rows"]), int(part["dilation"])
        fan = Fan(int(part["before"]), int(part["after"])) if part["before"] else DEPTHWISE
        return window(target, *shape, part["window_type"], rows, dilation, fan)
    if part["block_type"]:
        pairs = (map(int, part[name].split("x")) for name in ("block_k", "block_s", "block_d"))
        down, across = (Taps(*values) for values in zip(*pairs, strict=True))
        width = int(part["block_rows"])
        if part["lines"] is None:
            return roll(target, down, across, width, part["block_type"])
        return block(target, down, across, int(part["lines"]), width, part["block_type"])
    if part["square"]:
        return (pixels if part["square"] == "pixels" else results)(target, int(part["side"]))
    if part["turn"]:
        return turn(target)
    if part["fetch"]:
        return fetch(target)
    if part["softmax"]:
        return softmax(target)
    return pack_i8(target) if part["pack"] == "i8" else pack(target, part["pack"])


__all__ = [
    "known", "named", "narrowed",
    "MicroKernel", "igemm", "igemm_rows", "depthwise", "window", "block", "roll", "pack", "pack_b",
    "igemm_i8", "pack_i8", "pack_b_i8", "pixels", "results", "softmax", "turn", "fetch",
]  # fmt: skip
