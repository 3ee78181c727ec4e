"""Which epilogues of a contraction the micro-kernel's own store can do.

A micro-tile of C leaves the registers as ``limit(C + bias[column] + residual[row, column])`` (see
``micro.gemm``). Anything else that follows a contraction runs as a loop over a strip of C in
scratch. The form is read off the stored expression: limits are peeled from the outside (``relu``,
``max`` and ``min`` with a constant), then the terms of a sum; every term must be an element that
moves evenly with rows and columns. Where the result lies side by side along the rows, as
channels-first images do, the sum is finished on its way into a strip of scratch, which is stored
turned.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from .axes import coefficient
from .dims import Dim, Expr, free_vars
from .elements import Ex
from .types import F32


@dataclass(frozen=True, slots=True)
class Operand:
    """A matrix of C's shape where it lies: rows ``stride`` elements apart, columns side by side."""

    buffer: int
    position: Dim
    """In the variables of row and column."""
    stride: Dim


@dataclass(frozen=True, slots=True)
class Finish:
    """``out = limit(C + bias + residual)``."""

    out: Operand
    """Where it is ``turned``: columns ``stride`` elements apart, rows side by side."""
    bias: Operand | None = None
    residual: Operand | None = None
    lo: float = -math.inf
    hi: float = math.inf
    turned: bool = False


def finish_of(buffer: int, position: Dim, value: Ex, is_sum: Ex, row: str, column: str,
              gathered: Collection[str]) -> Finish | None:
    """The epilogue that storing ``value`` is, if it is of that form; ``is_sum`` is the element of
    C, ``row`` and ``column`` are the names of its variables ("" where there is only one row).
    ``gathered`` are names of positions that are read from memory: what lies at such moves in ways
    that no stride tells."""

    def operand(where: int, at: Dim) -> Operand | None:
        if isinstance(at, Expr) and not free_vars(at).isdisjoint(gathered):
            return None
        stride = coefficient(at, row) if row else 0
        even = stride is not None and coefficient(at, column) == 1
        return Operand(where, at, stride) if even and stride is not None else None

    out = operand(buffer, position)
    turned = _turned(buffer, position, row, column, gathered) if out is None else None
    out = turned if out is None else out
    ex, lo, hi = _limits(value)
    terms = _terms(ex)
    if out is None or value.dtype != F32 or terms.count(is_sum) != 1:
        return None
    added: list[Operand] = []
    for term in terms:
        if term == is_sum:
            continue
        found = operand(*term.data) if term.kind == "load" and term.dtype == F32 else None
        if found is None:
            return None
        added.append(found)
    level = [o for o in added if o.stride == 0]
    moving = [o for o in added if o.stride != 0]
    if len(level) == 2:  # a residual that does not move is one as well
        moving.append(level.pop())
    if len(level) > 1 or len(moving) > 1:
        return None
    return Finish(out, level[0] if level else None, moving[0] if moving else None, lo, hi,
                  turned is not None)


def _turned(buffer: int, position: Dim, row: str, column: str, gathered: Collection[str]
            ) -> Operand | None:
    """The transpose of a matrix of C's shape, if that is what is stored."""
    if not row or not isinstance(position, Expr) or not free_vars(position).isdisjoint(gathered):
        return None
    stride = coefficient(position, column)
    even = stride is not None and coefficient(position, row) == 1
    return Operand(buffer, position, stride) if even and stride is not None else None


def _limits(ex: Ex) -> tuple[Ex, float, float]:
    """The expression inside limits, and the limits; ``lo`` is applied before ``hi``."""
    lo, hi = -math.inf, math.inf
    while ex.kind == "fn" and ex.dtype == F32:
        name = ex.data[0]
        inner, bound = _bounded(ex)
        if math.isnan(bound):
            break
        # Limits outside that leave nothing of those inside would have to be applied after them.
        if name == "min" and bound >= lo and bound <= hi:
            hi = bound
        elif name != "min" and bound <= hi and bound >= lo:
            lo = bound
        else:
            break
        ex = inner
    return ex, lo, hi


def _bounded(ex: Ex) -> tuple[Ex, float]:
    """What one limit is applied to, and the limit; NaN where this is no limit by a constant."""
    if ex.data[0] == "relu":
        return ex.args[0], 0.0
    if ex.data[0] in ("max", "min"):
        for limit, inner in (ex.args, ex.args[::-1]):
            if limit.kind == "const":
                return inner, float(limit.data)
    return ex, math.nan


def _terms(ex: Ex) -> list[Ex]:
    """The terms of a sum, itself if it is none."""
    found: list[Ex] = []
    stack = [ex]
    while stack:
        e = stack.pop()
        if e.kind == "fn" and e.data[0] == "add" and e.dtype == F32:
            stack.extend(e.args)
        else:
            found.append(e)
    return found
