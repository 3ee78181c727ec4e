"""Access maps: which element of each operand one element of the result needs.

An op's declaration answers, for a symbolic output position, a tuple of ``Region``: operand, index
expressions, and the conditions under which that operand is the one read (concat, pad). Reduced
axes appear as fresh loop variables. Propagating positions backwards through these maps is the one
algorithm behind fusion legality, recomputation counts, data movement and kernel lowering (Halide's
bounds inference, Welder's tile graph); none of them knows op names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .dim_functions import dmin
from .dims import Dim
from .types import TensorType


@dataclass(frozen=True, slots=True)
class Cond:
    """``lo <= expr < hi``."""

    expr: Dim
    lo: Dim
    hi: Dim


@dataclass(frozen=True, slots=True)
class Gathered:
    """A position that is itself read from operand ``operand`` at ``index``; it lies in
    ``[-extent, extent)`` and negative positions count from the end."""

    operand: int
    index: tuple[Dim, ...]
    extent: Dim


Position = Dim | Gathered


@dataclass(frozen=True, slots=True)
class Region:
    """One read: ``operand[index]``, valid where every condition of ``when`` holds."""

    operand: int
    index: tuple[Position, ...]
    when: tuple[Cond, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessMap:
    """All reads of one output element; ``reduced`` names the reduced loop variables' extents."""

    regions: tuple[Region, ...]
    reduced: tuple[tuple[Dim, Dim], ...] = ()
    """(variable, extent) of each reduced axis."""


FreshVar = Callable[[Dim], Dim]
"""Makes a fresh loop variable of the given extent."""


def broadcast_index(
    operand: TensorType, out_shape: tuple[Dim, ...], index: tuple[Dim, ...]
) -> tuple[Dim, ...]:
    """Where an operand is read under NumPy broadcasting. A size that may or may not be 1 is
    decided by ``min(size - 1, 1)``, which the runtime evaluates once per binding."""
    shape = operand.shape
    if shape == out_shape and 1 not in shape:  # nearly always
        return index
    skip = len(out_shape) - len(shape)
    result: list[Dim] = []
    for size, out, i in zip(shape, out_shape[skip:], index[skip:], strict=True):
        if size == 1:
            result.append(0)
        elif size == out:
            result.append(i)
        else:
            result.append(i if isinstance(size, int) else i * dmin(size - 1, 1))
    return tuple(result)


def linear_index(shape: tuple[Dim, ...], index: tuple[Dim, ...]) -> Dim:
    """Row-major linear position of ``index`` in ``shape``."""
    linear: Dim = 0
    for size, i in zip(shape, index, strict=True):
        linear = linear * size + i
    return linear


def unravel(shape: tuple[Dim, ...], linear: Dim) -> tuple[Dim, ...]:
    """The position of linear index ``linear`` in ``shape``; the leading one is not reduced."""
    result: list[Dim] = []
    rest = linear
    for axis, size in reversed(list(enumerate(shape))):
        extent = size or 1  # an empty axis has no position
        result.append(rest if axis == 0 else rest % extent)
        rest = rest // extent
    return tuple(reversed(result))


def reshape_index(
    source: tuple[Dim, ...], target: tuple[Dim, ...], index: tuple[Dim, ...]
) -> tuple[Dim, ...]:
    """Where a reshape to ``target`` reads ``source``: dimensions are matched in the smallest
    blocks of equal products, so that each block is linearized and split on its own."""
    result: list[Dim] = []
    i = j = 0
    while i < len(source) or j < len(target):
        si, tj = i, j
        left: Dim = source[i] if i < len(source) else 1
        right: Dim = target[j] if j < len(target) else 1
        i, j = min(i + 1, len(source)), min(j + 1, len(target))
        while left != right and (i < len(source) or j < len(target)):
            take_left = i < len(source) and (j >= len(target) or _behind(left, right))
            if take_left:
                left = left * source[i]
                i += 1
            elif j < len(target):
                right = right * target[j]
                j += 1
            else:
                left = left * source[i]
                i += 1
        linear = linear_index(tuple(target[tj:j]), tuple(index[tj:j]))
        result.extend(unravel(tuple(source[si:i]), linear))
    return tuple(result)


def _behind(left: Dim, right: Dim) -> bool:
    """Whether the left product should grow next: it divides the right one, or looks smaller."""
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    if isinstance(left, int):
        return True
    if isinstance(right, int):
        return False
    return len(str(left)) <= len(str(right))
