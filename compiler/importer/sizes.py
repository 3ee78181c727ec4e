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

_MAX_CONE = 256
"""Values looked at on the way to the data."""

_NONNEGATIVE = frozenset({"nonzero", "argmax", "argmin", "exp", "sigmoid", "relu", "abs", "sqrt",
                          "iota"})  # fmt: skip
_KEEPS_SIGN = frozenset(
    {
        "cast",
        "floor",
        "ceil",
        "round",
        "reshape",
        "transpose",
        "expand",
        "slice",
        "gather",
        "cumulate",
        "gather_elements",
    }
)
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
        ctx.need_length(f"a shape with a symbolic number of dimensions ({t})", value)
    if count > 64:
        raise ModelError(f"{count} sizes in one vector")
    bind_leaves(ctx, value)
    if _unknown(ctx, value):
        _bind_elements(ctx, value)
    found = partial_value(value, ctx.b.constants, ctx.b.dims_memo)
    assert found is not None
    return tuple(found.reshape(-1))


def _bind_elements(ctx: Ctx, value: Value) -> None:
    """Binds the unknown elements of a small integer tensor; what is computed from it becomes
    known as well."""
    memo = ctx.b.dims_memo
    found = partial_value(value, ctx.b.constants, memo)
    shape: tuple[int, ...] = value.shape  # type: ignore[assignment]
    elements = np.full(shape, None, dtype=object) if found is None else found.copy()
    flat = elements.reshape(-1)
    for i in range(flat.size):
        if flat[i] is None:
            flat[i] = _element(ctx, value, i)
    ctx.b.assume_dims(value, flat.reshape(shape))
    for v in [v for v, known in memo.items() if v.node.op in EVALUATED_OPS and _holes(known)]:
        del memo[v]


def _element(ctx: Ctx, value: Value, i: int) -> Dim:
    one = value
    if value.rank:
        one = ctx.b.op("slice", value, starts=(i,), sizes=(1,), steps=(1,))
    return ctx.bind(one)


def _holes(known: np.ndarray | None) -> bool:
    return known is None or any(x is None for x in known.reshape(-1))


def _unknown(ctx: Ctx, value: Value) -> bool:
    return _holes(partial_value(value, ctx.b.constants, ctx.b.dims_memo))


def bind_leaves(ctx: Ctx, value: Value) -> None:
    """Binds the data-dependent integers that ``value`` is computed from and that cannot be
    negative: the deepest ones, so that most relations survive (iterative post-order)."""
    seen: set[Value] = set()
    stack = [(value, False)]
    while stack:
        v, expanded = stack.pop()
        if expanded:
            if v != value and _unknown(ctx, v) and _is_size(ctx, v):
                _bind_elements(ctx, v)
            continue
        if v in seen or not _unknown(ctx, v):
            continue
        seen.add(v)
        stack.append((v, True))
        if v.node.op in EVALUATED_OPS and len(seen) < _MAX_CONE:
            stack.extend((o, False) for o in v.node.operands if _is_integer(o))


def _is_integer(v: Value) -> bool:
    return isinstance(v.type, TensorType) and v.dtype.kind in "iub"


def _is_size(ctx: Ctx, v: Value) -> bool:
    t = v.type
    if not isinstance(t, TensorType) or not t.dtype.is_integer or t.rank > 1:
        return False
    n = t.numel()
    return isinstance(n, int) and 0 < n <= _MAX_LEAF and nonnegative(ctx, v)


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
    from ...ir.dim_functions import known_ge

    return known_ge(d, 0)
