"""Kernels without operands: symbolic sizes as a tensor, seeded random numbers.

Random element ``i`` is a function of the seed and ``i`` alone (SplitMix64 as a counter-based
generator), so tiles can be computed in any order and on any machine.
"""

from __future__ import annotations

from typing import Any

from ...ir.dims import Dim, ceil_div
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


def _filled(node: Node, body: Any) -> OpaqueKernel:
    t = node.types[0]
    assert isinstance(t, TensorType)
    n: Dim = t.numel()
    s = Source(node)
    s.result("y")
    s.size("n", n)
    s.size("seed", _signed(node.attrs["seed"]))
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
