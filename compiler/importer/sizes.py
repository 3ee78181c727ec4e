"""Sizes that depend on data: partial evaluation of shape arithmetic, and ``bind``.

A shape vector is often a mixture: constants, sizes of tensors, and numbers computed from data
(the sum of predicted durations, a count of hits). The known elements stay expressions. For the
others, first the values that they are computed from are bound where these are certainly not
negative (counts, sums of exponentials, ...), so that relations between sizes survive: a length
``L`` and ``2 * L`` stay related. What is still unknown then is bound as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims import Dim
from ...ir.errors import ModelError
from ...ir.shapes import EVALUATED_OPS, partial_value
from ...ir.types import TensorType

if TYPE_CHECKING:
    from ...ir.graph import Value
    from .context import Ctx

_MAX_LEAF = 8
"""Elements up to which a data-dependent integer tensor is bound element by element."""

_NONNEGATIVE = frozenset({"nonzero", "argmax", "argmin", "exp", "sigmoid", "relu", "abs", "sqrt",
                          "iota"})  # fmt: skip
_KEEPS_SIGN = frozenset({"cast", "floor", "ceil", "round", "reshape", "transpose", "expand",
                         "slice", "gather", "cumulate", "gather_elements"})
_CLOSED = frozenset({"add", "mul", "div", "min", "concat"})


def size_elements(ctx: Ctx, value: Value) -> tuple[Dim, ...]:
    """Elements of an integer vector or scalar as sizes; see ``Ctx.dims``."""
    t = value.tensor
    if not t.dtype.is_integer or t.rank > 1:
        raise ModelError(f"sizes must be a vector of integers, got {t}")
    known = ctx.b.dims_value(value)
    if known is not None:
        return tuple(known.reshape(-1))
    count = t.shape[0] if t.rank else 1
    if not isinstance(count, int):
        ctx.fail(f"a shape with a symbolic number of dimensions ({t}) is not supported")
    if count > 64:
        raise ModelError(f"{count} sizes in one vector")
    bind_leaves(ctx, value)
    found = partial_value(value, ctx.b.constants, ctx.b.dims_memo)
    elements: list[Dim | None] = [None] * count if found is None else list(found.reshape(-1))
    return tuple(_element(ctx, value, i) if d is None else d for i, d in enumerate(elements))


def _element(ctx: Ctx, value: Value, i: int) -> Dim:
    b = ctx.b
    one = value
    if value.rank:
        one = b.op("slice", value, starts=(i,), sizes=(1,), steps=(1,))
    return ctx.bind(one)


def bind_leaves(ctx: Ctx, value: Value) -> None:
    """Binds the non-negative data-dependent integers that ``value`` is computed from."""
    memo = ctx.b.dims_memo
    seen: set[Value] = set()
    stack = [value]
    changed = False
    while stack:
        v = stack.pop()
        if v in seen:
            continue
        seen.add(v)
        known = memo.get(v)
        if known is not None and not any(x is None for x in known.reshape(-1)):
            continue
        if v.node.op in EVALUATED_OPS and v.dtype.is_integer and all(
            isinstance(o.type, TensorType) and o.dtype.kind in "iub" for o in v.node.operands
        ):
            stack.extend(v.node.operands)
        elif v is not value and v != value:
            changed |= _bind_leaf(ctx, v)
    if changed:
        for v in seen:
            known = memo.get(v, None)
            if v.node.op in EVALUATED_OPS and v.node.op != "bind":
                if known is None or any(x is None for x in known.reshape(-1)):
                    memo.pop(v, None)


def _bind_leaf(ctx: Ctx, v: Value) -> bool:
    t = v.type
    if not isinstance(t, TensorType) or not t.dtype.is_integer or t.rank > 1:
        return False
    n = t.numel()
    if not isinstance(n, int) or not 0 < n <= _MAX_LEAF or not nonnegative(ctx, v):
        return False
    names = np.empty(n, dtype=object)
    for i in range(n):
        names[i] = _element(ctx, v, i)
    ctx.b.assume_dims(v, names.reshape(t.shape))  # type: ignore[arg-type]
    return True


def nonnegative(ctx: Ctx, value: Value, depth: int = 24) -> bool:
    """Whether no element of ``value`` can be negative (NaN converts to 0), by its producers."""
    node = value.node
    if depth == 0 or not isinstance(value.type, TensorType):
        return False
    if value.dtype.kind in "ub" or node.op in _NONNEGATIVE:
        return True
    if node.op == "const":
        array = ctx.b.constants.get(node.attrs["digest"])
        return array.dtype != object and array.size <= 4096 and bool((array >= 0).all())
    if node.op == "bind":
        return True
    if node.op == "dims":
        return all(not isinstance(d, int) or d >= 0 for d in node.attrs["values"]) and all(
            _plain(d) for d in node.attrs["values"]
        )
    operands = node.operands
    if node.op == "max":
        return any(nonnegative(ctx, o, depth - 1) for o in operands)
    if node.op == "mul" and operands[0] == operands[-1]:
        return True
    if node.op == "select":
        return all(nonnegative(ctx, o, depth - 1) for o in operands[1:])
    if node.op == "reduce" or node.op in _CLOSED:
        return all(nonnegative(ctx, o, depth - 1) for o in operands)
    if node.op in _KEEPS_SIGN:
        return nonnegative(ctx, operands[0], depth - 1)
    return False


def _plain(d: Dim) -> bool:
    from ...ir.dims import known_ge

    return known_ge(d, 0)

