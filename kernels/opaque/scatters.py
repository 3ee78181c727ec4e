"""Scatters: a copy of the data, then updates written or combined in the order of the indices.

Each tile owns a part of the result, copies it and applies exactly the updates that fall into it,
in row-major order of the indices, so the result does not depend on the number of threads.
``scatter_elements`` owns the slices before its axis; ``scatter_nd`` gives every thread one range of
addressed blocks and lets it scan all indices. Negative positions count from the end; a position
that is out of range writes nothing.
"""

from __future__ import annotations

from ...ir.dim_functions import ceil_div
from ...ir.dims import Dim, product
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.target import Target
from ...ir.types import DType
from .base import OpaqueKernel, Source, opaque, tensor_shape

_CHUNKS = 16
"""Ranges of blocks of a scatter_nd: every range scans all indices once."""
_SERIAL_BYTES = 1 << 16


def combine(how: str, dtype: DType, old: str, new: str) -> str:
    """Source of ``old`` combined with ``new``."""
    if how == "none":
        return new
    if dtype.bits < 8 or dtype.is_coded or dtype.kind == "c":
        raise UnsupportedError(f"{how} of {dtype} elements is not supported; replacing them is")
    if dtype.kind == "b":
        word = "bor" if how in ("add", "max") else "band"
    elif dtype.is_float:
        word = {"add": "fadd", "mul": "fmul", "max": "fmax", "min": "fmin"}[how]
    else:
        word = {"add": "iadd", "mul": "imul", "max": "imax", "min": "imin"}[how]
    return f"{word}({old}, {new})"


def _strides(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    return tuple(product(shape[k + 1 :]) for k in range(len(shape)))


@opaque("scatter_elements")
def scatter_elements(node: Node, target: Target) -> OpaqueKernel:
    """y = data; y[.., idx[i], ..] = combine(y[..], updates[i]) for i in row-major order."""
    data, index, updates = (tensor_shape(v.type) for v in node.operands)
    dtype, how, axis = node.operands[0].dtype, node.attrs["reduction"], node.attrs["axis"]
    rank = len(data)
    s = Source(node)
    raw = how == "none"
    s.operand("d", 0, raw)
    s.operand("q", 1)
    s.operand("u", 2, raw)
    s.result("y", 0, raw)
    s.size("blk", product(data[axis:]))
    s.size("ext", data[axis])
    s.size("inner", product(data[axis + 1 :]))
    for k in range(rank):
        s.size(f"n{k}", index[k])
        s.size(f"qs{k}", _strides(index)[k])
        s.size(f"us{k}", _strides(updates)[k])
        s.size(f"ds{k}", _strides(data)[k])
        if k < axis:
            s.size(f"dn{k}", data[k])
    with s.block("for t in range(begin, end):"):
        s.line("base = t * blk")
        with s.block("for c in range(blk):"):
            s.line("st(y, base + c, ld(d, base + c))")
        s.line("qb = 0\nub = 0\nok = 1\nrest = t")
        for k in reversed(range(axis)):
            s.line(f"c{k} = imod(rest, dn{k})\nrest = idiv(rest, dn{k})")
            s.line(f"qb = qb + c{k} * qs{k}\nub = ub + c{k} * us{k}")
            with s.block(f"if c{k} >= n{k}:"):
                s.line("ok = 0")
        with s.block("if ok == 1:"):
            _element_loops(s, axis, rank, how, dtype)
    return s.finish(product(data[:axis]))


def _element_loops(s: Source, axis: int, rank: int, how: str, dtype: DType) -> None:
    """Loops over the indices of one tile, from ``axis`` on."""
    qi, ui, yi = "qb", "ub", "base"
    for depth, k in enumerate(range(axis, rank)):
        s.line("    " * depth + f"for i{k} in range(n{k}):")
        qi, ui = f"{qi} + i{k} * qs{k}", f"{ui} + i{k} * us{k}"
        if k > axis:
            yi = f"{yi} + i{k} * ds{k}"
    pad = "    " * (rank - axis)
    s.line(f"{pad}p = i64(ld(q, {qi}))")
    s.line(f"{pad}if p < 0:\n{pad}    p = p + ext")
    s.line(f"{pad}if p >= 0:\n{pad}    if p < ext:")
    s.line(f"{pad}        z = {yi} + p * inner")
    s.line(f"{pad}        v = ld(u, {ui})")
    s.line(f"{pad}        st(y, z, {combine(how, dtype, 'ld(y, z)', 'v')})")


@opaque("scatter_nd")
def scatter_nd(node: Node, target: Target) -> OpaqueKernel:
    """y = data; y[idx[i]] = combine(y[idx[i]], updates[i]) for the rows i of the indices."""
    data, index, _ = (tensor_shape(v.type) for v in node.operands)
    dtype, how = node.operands[0].dtype, node.attrs["reduction"]
    depth = index[-1]
    assert isinstance(depth, int)
    s = Source(node)
    raw = how == "none"
    s.operand("d", 0, raw)
    s.operand("q", 1)
    s.operand("u", 2, raw)
    s.result("y", 0, raw)
    blocks = product(data[:depth])
    s.size("rows", blocks)
    s.size("inner", product(data[depth:]))
    s.size("count", product(index[:-1]))
    nbytes = node.types[0].nbytes()  # type: ignore[union-attr]
    chunks = 1 if isinstance(nbytes, int) and nbytes < _SERIAL_BYTES else _CHUNKS
    s.size("step", ceil_div(blocks, chunks))
    for k in range(depth):
        s.size(f"n{k}", data[k])
    s.line("lo = imin(begin * step, rows)\nhi = imin(end * step, rows)")
    with s.block("for c in range(lo * inner, hi * inner):"):
        s.line("st(y, c, ld(d, c))")
    with s.block("for i in range(count):"):
        s.line("r = 0\nok = 1")
        for k in range(depth):
            s.line(f"p{k} = i64(ld(q, i * {depth} + {k}))")
            with s.block(f"if p{k} < 0:"):
                s.line(f"p{k} = p{k} + n{k}")
            with s.block(f"if p{k} < 0:"):
                s.line("ok = 0")
            with s.block(f"if p{k} >= n{k}:"):
                s.line("ok = 0")
            s.line(f"r = r * n{k} + p{k}")
        with s.block("if ok == 1:"), s.block("if r >= lo:"), s.block("if r < hi:"):
            s.line("yb = r * inner\nub = i * inner")
            with s.block("for j in range(inner):"):
                value = combine(how, dtype, "ld(y, yb + j)", "ld(u, ub + j)")
                s.line(f"st(y, yb + j, {value})")
    return s.finish(chunks)
