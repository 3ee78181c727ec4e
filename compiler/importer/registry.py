"""The table of lowerings: which function turns an ONNX operator into IR, from which opset on.

A lowering is declared where it is written, with ``@lowering("Conv", since=1)``. The one with the
largest ``since`` that is not above the model's opset is used, as ONNX versions its operators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING

from ...ir.types import F32

if TYPE_CHECKING:
    from ...ir.graph import Value
    from ..messages import NodeProto
    from .context import Ctx

    Result = Value | tuple[Value | None, ...] | None
    Lowering = Callable[[Ctx, NodeProto], Result]

EXTENSIONS = frozenset({"SimplifiedLayerNormalization"})
"""Operators that ONNX Runtime writes into ONNX's own domain without ONNX defining them."""

_TABLE: dict[tuple[str, str], list[tuple[int, Lowering]]] = {}


def lowering(*ops: str, since: int = 1, domain: str = "") -> Callable[[Lowering], Lowering]:
    """Registers the decorated function ``(ctx, node) -> Value | tuple[Value | None, ...]`` for
    one or several operators of ``domain``, from opset ``since`` on."""

    def add(fn: Lowering) -> Lowering:
        for op in ops:
            versions = _TABLE.setdefault((domain, op), [])
            if any(v == since for v, _ in versions):
                raise RuntimeError(f"{domain}::{op} since {since} is registered twice")
            versions.append((since, fn))
            versions.sort(key=lambda entry: entry[0])
        return fn

    return add


def accumulates(fn: Lowering) -> Lowering:
    """Lets a lowering that adds up many numbers work in float32 where its first operand is a
    narrower float: operands of that type are widened, results are rounded once. A running sum in
    16 bits would overflow, or stop growing."""

    @wraps(fn)
    def wide(ctx: Ctx, node: NodeProto) -> Result:
        narrow = ctx.input(0).dtype
        if not narrow.is_float or narrow.bits >= 32:
            return fn(ctx, node)
        ctx.inputs = [
            ctx.as_dtype(v, F32) if v is not None and v.dtype == narrow else v for v in ctx.inputs
        ]
        result = fn(ctx, node)
        if isinstance(result, tuple):
            return tuple(
                ctx.as_dtype(v, narrow) if v is not None and v.dtype == F32 else v for v in result
            )
        return result if result is None or result.dtype != F32 else ctx.as_dtype(result, narrow)

    return wide


def find_lowering(domain: str, op: str, opset: int) -> Lowering | None:
    """The lowering of ``domain::op`` at ``opset``, or None."""
    found = None
    for since, fn in _TABLE.get((domain, op), ()):
        if since <= opset:
            found = fn
    return found


def registered() -> list[tuple[str, str, int]]:
    """(domain, op, since) of every lowering, sorted."""
    return sorted((d, op, since) for (d, op), vs in _TABLE.items() for since, _ in vs)
