"""Kernels without operands: symbolic sizes as a tensor, seeded random numbers.

Random element ``i`` is a function of the seed and ``i`` alone (SplitMix64 as a counter-based
generator), so tiles can be computed in any order and on any machine. The exception is the Mersenne
Twister (Matsumoto and Nishimura 1998), a serial generator that exists to give exactly the numbers
of ONNX's reference, which draws from NumPy's.
"""

from __future__ import annotations

from typing import Any

from ...ir.dim_functions import ceil_div
from ...ir.dims import Dim
from ...ir.graph import Node
from ...ir.target import Target
from ...ir.types import TensorType
from .base import OpaqueKernel, Source, opaque

_TILE = 4096
"""Random numbers per tile."""


@opaque("dims")
def dims(node: Node, target: Target) -> OpaqueKernel:
    """Writes its parameters."""
    s = Source(node)
    s.result("y")
    for i, value in enumerate(node.attrs["values"]):
        s.size("v", value)
        s.line(f"st(y, {i}, v)")
    return s.finish(1)


def _splitmix(s: Source, name: str, stream: int) -> None:
    """``name`` = a uniform float64 in (0, 1) for counter ``i + 1`` of ``stream``."""

    def const(value: int) -> str:
        value &= (1 << 64) - 1
        return f"u64({value - (1 << 64) if value >> 63 else value})"

    counter = f"iadd(u64(i + 1), {const(stream << 40)})"
    s.line(f"z = iadd(imul({counter}, {const(0x9E3779B97F4A7C15)}), u64(seed))")
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        s.line(f"z = imul(ixor(z, ishr(z, {const(shift)})), {const(factor)})")
    s.line(f"z = ixor(z, ishr(z, {const(31)}))")
    s.line(f"{name} = (f64(ishr(z, {const(11)})) + 0.5) * {1.0 / (1 << 53)!r}")


def _signed(seed: int) -> int:
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed


def _seed(s: Source, seed: int) -> None:
    """``seed`` from two parameters of 32 bits: sizes have to stay below 2**62."""
    s.size("high", _signed(seed) >> 32)
    s.size("low", seed & 0xFFFFFFFF)
    s.line("seed = ior(ishl(high, i64(32)), low)")


def _filled(node: Node, body: Any) -> OpaqueKernel:
    t = node.types[0]
    assert isinstance(t, TensorType)
    n: Dim = t.numel()
    s = Source(node)
    s.result("y")
    s.size("n", n)
    _seed(s, node.attrs["seed"])
    with s.block(f"for i in range(begin * {_TILE}, imin(end * {_TILE}, n)):"):
        body(s)
        cast = "f64" if t.dtype.name == "f64" else t.dtype.name
        s.line(f"st(y, i, {cast}(v))" if cast != "f64" else "st(y, i, v)")
    return s.finish(ceil_div(n, _TILE))


@opaque("random_uniform")
def random_uniform(node: Node, target: Target) -> OpaqueKernel:
    """low + u * (high - low)."""

    def body(s: Source) -> None:
        low, high = float(node.attrs["low"]), float(node.attrs["high"])
        _splitmix(s, "u", 0)
        s.line(f"v = f64({low!r}) + u * f64({high - low!r})")

    return _filled(node, body)


@opaque("random_normal")
def random_normal(node: Node, target: Target) -> OpaqueKernel:
    """mean + scale * sqrt(-2 log u) cos(2 pi v)."""

    def body(s: Source) -> None:
        mean, scale = float(node.attrs["mean"]), float(node.attrs["scale"])
        _splitmix(s, "u", 0)
        _splitmix(s, "w", 1)
        s.line("g = sqrt(-2.0 * log(u)) * cos(6.283185307179586 * w)")
        s.line(f"v = f64({mean!r}) + f64({scale!r}) * g")

    return _filled(node, body)


_TWIST = """
y = iand(ld(mt, k), i64(2147483648))
y = ior(y, iand(ld(mt, k2), i64(2147483647)))
y = ixor(ishr(y, i64(1)), imul(iand(y, i64(1)), i64(2567483615)))
st(mt, k, ixor(ld(mt, k3), y))
"""
_TEMPER = """
z = ld(mt, at)
z = ixor(z, ishr(z, i64(11)))
z = ixor(z, iand(ishl(z, i64(7)), i64(2636928640)))
z = ixor(z, iand(ishl(z, i64(15)), i64(4022730752)))
z = ixor(z, ishr(z, i64(18)))
at = at + 1
"""


@opaque("random_mersenne")
def random_mersenne(node: Node, target: Target) -> OpaqueKernel:
    """MT19937 seeded by its linear recurrence; 53 bits of two draws per number. The state is kept
    in 64-bit integers below 2**32."""
    t = node.types[0]
    assert isinstance(t, TensorType)
    s = Source(node)
    s.result("y0")
    s.size("n", t.numel())
    s.size("seed", node.attrs["seed"] & 0xFFFFFFFF)
    s.scratch("mt", "i64", 624)
    s.line("v = seed\nst(mt, 0, v)")
    with s.block("for i in range(1, 624):"):
        s.line("v = imul(ixor(v, ishr(v, i64(30))), i64(1812433253))")
        s.line("v = iand(iadd(v, i), i64(4294967295))\nst(mt, i, v)")
    s.line("at = 624")
    with s.block("for i in range(n):"):
        with s.block("if at == 624:"):
            s.line("at = 0")
            parts = ((0, 227, "k + 1", "k + 397"), (227, 623, "k + 1", "k - 227"),
                     (623, 624, "0", "396"))  # fmt: skip
            for low, high, next_, middle in parts:
                with s.block(f"for k in range({low}, {high}):"):
                    s.line(f"k2 = {next_}\nk3 = {middle}" + _TWIST)
        s.line(_TEMPER.strip())
        s.line("upper = ishr(z, i64(5))")
        s.line(_TEMPER.strip())
        s.line("lower = ishr(z, i64(6))")
        s.line("u = (f64(upper) * 67108864.0 + f64(lower)) * 1.1102230246251565e-16")
        s.line("st(y0, i, u)" if t.dtype.name == "f64" else f"st(y0, i, {t.dtype.name}(u))")
    return s.finish(1)
