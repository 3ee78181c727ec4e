"""Types of values that one of several computations gives: the branches of If, iterations of Loop.

``join`` is the least upper bound of two types, up to sizes: tensors must agree in element type and
rank; what a container holds becomes "any" where the ranks differ, and "no" (the elements of an
empty sequence) is below everything; an optional is above its value. Sizes on which both sides do
not agree become symbols of the caller's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.types import LooseTensor, OptionalType, SequenceType, TensorType, Type

if TYPE_CHECKING:
    from .context import Ctx

Size = Callable[[Dim, Dim], Dim]
"""The size of a result whose size is the first or the second."""


def join(ctx: Ctx, a: Type, b: Type, size: Size, what: str) -> Type:
    """The type of a value that is of type ``a`` or ``b``; refuses tensors of different ranks."""
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):
        x = a.elem if isinstance(a, OptionalType) else a
        y = b.elem if isinstance(b, OptionalType) else b
        return OptionalType(join_elements(ctx, x, y, size, what))
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        return SequenceType(join_elements(ctx, a.elem, b.elem, size, what))
    if isinstance(a, TensorType) and isinstance(b, TensorType) and a.dtype == b.dtype:
        if a.rank != b.rank:
            ctx.fail(f"{what} is {a} or {b}: tensors of different ranks")
        return a.with_shape(tuple(size(d, e) for d, e in zip(a.shape, b.shape, strict=True)))
    if a == b:
        return a
    raise ModelError(f"{what} is {a} or {b}")


def join_elements(ctx: Ctx, a: Type, b: Type, size: Size, what: str) -> Type:
    """As ``join``, for what a container holds: ranks may differ."""
    loose = isinstance(a, LooseTensor) or isinstance(b, LooseTensor)
    ranks = [t.rank for t in (a, b) if isinstance(t, TensorType)]
    if not loose and (len(ranks) < 2 or ranks[0] == ranks[1]):
        return join(ctx, a, b, size, what)
    kinds = {t.dtype for t in (a, b) if isinstance(t, (TensorType, LooseTensor))}
    if len(kinds) != 1 or not all(isinstance(t, (TensorType, LooseTensor)) for t in (a, b)):
        raise ModelError(f"{what} holds {a} or {b}")
    for t, other in ((a, b), (b, a)):
        if isinstance(t, LooseTensor) and t.none:
            return other
    return LooseTensor(kinds.pop())


def map_sizes(t: Type, size: Callable[[Dim], Dim]) -> Type:
    """``t`` with every size replaced, in what containers hold as well."""
    if isinstance(t, TensorType):
        return t.with_shape(tuple(size(d) for d in t.shape))
    if isinstance(t, SequenceType):
        return SequenceType(map_sizes(t.elem, size))
    if isinstance(t, OptionalType):
        return OptionalType(map_sizes(t.elem, size))
    return t
