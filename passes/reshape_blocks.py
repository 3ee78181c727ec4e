"""Reshapes of permuted arrays.

A reshape maps blocks of neighboring source axes to blocks of neighboring target axes with the same
product. On an array whose axes are stored in another order the reshape can still be done in place
if every block's axes are stored side by side in their logical order; the blocks themselves may
stand in any order. Axes of size 1 belong nowhere and are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.dims import Dim
from .facts import inverse

Block = tuple[tuple[int, ...], tuple[int, ...]]
"""(source axes, target axes) of equal products."""


@dataclass(frozen=True)
class TurnedReshape:
    """How to reshape ``v`` where ``transpose(v, perm)`` was to be reshaped."""

    before: tuple[int, ...]
    """Transpose of ``v`` that brings every block together; the identity if they are."""
    shape: tuple[Dim, ...]
    """What to reshape it to then."""
    perm: tuple[int, ...]
    """The result is the transpose by this of what was made."""


def blocks_of(source: Sequence[Dim], target: Sequence[Dim]) -> list[Block] | None:
    """The smallest blocks of equal products, axes of size 1 left out; None if undecided."""
    s = [i for i, d in enumerate(source) if d != 1]
    t = [j for j, d in enumerate(target) if d != 1]
    blocks: list[Block] = []
    i = j = 0
    while i < len(s) and j < len(t):
        left, right = source[s[i]], target[t[j]]
        first, second = i, j
        i, j = i + 1, j + 1
        while left != right:
            grow = _grow_left(left, right)
            if grow and i < len(s):
                left, i = left * source[s[i]], i + 1
            elif not grow and j < len(t):
                right, j = right * target[t[j]], j + 1
            else:
                return None
        blocks.append((tuple(s[first:i]), tuple(t[second:j])))
    return blocks if i == len(s) and j == len(t) else None


def _grow_left(left: Dim, right: Dim) -> bool:
    """Which product takes the next axis: the one that looks smaller."""
    if isinstance(left, int) and isinstance(right, int):
        return left < right
    if isinstance(left, int) or isinstance(right, int):
        return isinstance(left, int)
    return len(str(left)) <= len(str(right))


def turned_reshape(
    source: Sequence[Dim], target: Sequence[Dim], perm: tuple[int, ...]
) -> TurnedReshape | None:
    """The reshape of ``transpose(v, perm)`` from ``source`` to ``target`` done on ``v``; None
    where the blocks cannot be told (symbolic sizes, empty arrays)."""
    if any(d == 0 for d in (*source, *target)):
        return None
    blocks = blocks_of(source, target)
    if blocks is None:
        return None
    blocks.sort(key=lambda b: perm[b[0][0]])
    stored = [a for a in inverse(perm) if source[a] != 1]
    wanted = [a for axes, _ in blocks for a in axes]
    before: tuple[int, ...] = tuple(range(len(perm)))
    if stored != wanted:
        units = [a for a in range(len(source)) if source[a] == 1]
        before = tuple(perm[a] for a in (*units, *wanted))
    order = [a for _, axes in blocks for a in axes]
    for a in range(len(target)):  # an axis of size 1 stands behind its logical neighbor
        if target[a] == 1:
            order.insert(order.index(a - 1) + 1 if a else 0, a)
    return TurnedReshape(before, tuple(target[a] for a in order), inverse(tuple(order)))
