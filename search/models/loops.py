"""From the expressions of a loop nest to its numbers at given sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ...ir.dims import Dim
from ..work import LoopWork
from .base import Phase

LINE, _SETS, _WAYS = 64, 64, 8
"""Bytes of a line, sets and lines per set of a level-1 cache, about."""
_FOLLOWING = 1 / 3
"""Of what entering a loop costs, what is left where short rows of a strip follow one another: the
next row is under way before this one ends. Where whole vectors fill a panel, nothing is."""

_SCALARS = 2.0
"""Scalar operations that a core does in the time of one on a vector."""


def loop(w: LoopWork, number: Callable[[Dim], float], times: float = 1.0) -> Phase:
    """A loop nest that runs ``times`` times."""
    entries, length = number(w.entries) * times, number(w.length)
    outer = sum(count * number(size) for count, size in w.outer) * times
    return _iterations(w, number, entries, length, outer)


def strips(w: LoopWork, number: Callable[[Dim], float], width: int = 32) -> Iterator[Phase]:
    """A loop nest whose innermost loop, over columns, is cut into panels of ``width``, full ones
    and a rest. What is outside that loop is repeated for each panel."""
    entries, length = number(w.entries), number(w.length)
    outer = sum(count * number(size) for count, size in w.outer)
    full, rest = divmod(length, width)
    for panels, columns in ((full, width), (1 if rest else 0, rest)):
        if panels:
            left = 0.0 if columns == width else _FOLLOWING
            yield _iterations(w, number, entries * panels, columns, outer * panels, left)


def down(w: LoopWork, number: Callable[[Dim], float], block: float) -> Iterator[Phase]:
    """A loop nest whose innermost loop runs down rows, which is cut into blocks of ``block`` rows
    and a rest. What is outside that loop is repeated for each of them. What it reads lies apart, so
    it stays scalar."""
    entries, length = number(w.entries), number(w.length)
    outer = sum(count * number(size) for count, size in w.outer)
    full, rest = divmod(length, block)
    for blocks, rows in ((full, block), (1 if rest else 0, rest)):
        if blocks:
            yield one_by_one(_iterations(w, number, entries * blocks, rows, outer * blocks))


def one_by_one(phase: Phase) -> Phase:
    """The same loop nest where its innermost loop is not vectorized, though nothing in it waits."""
    return phase._replace(plain=phase.plain / _SCALARS, special=phase.special / _SCALARS,
                          scalar=1.0)


def _iterations(w: LoopWork, number: Callable[[Dim], float], entries: float, length: float,
                outer: float, starting: float = 1.0) -> Phase:
    """``starting``: part of the entries that count as such."""
    steps, near, far, lines = entries * length, 0.0, 0.0, 0.0
    side = max(number(w.neighbors), 1.0)
    for count, step in w.apart:
        missed = count / side if step is not None and _leaves(abs(number(step)), length) else 0.0
        near, far = near + count - missed, far + missed
    for count, step in w.scattered:
        near += count
        if step is not None and _leaves(abs(number(step)), length):
            lines += count
    joined = max(number(w.joined), 1.0)
    return Phase(plain=steps * w.plain, special=steps * w.special, loads=steps * w.loads,
                 stores=steps * w.stores, apart=steps * near, far=steps * far, outer=outer,
                 entries=starting * (entries / joined), length=length * joined,
                 scalar=float(w.scalar), sums=float(w.sums), spilled=steps * lines * LINE)


def _leaves(step: float, length: float) -> bool:
    """Whether the lines of memory that a loop touches, ``step`` bytes apart, are more than the
    level-1 cache keeps: steps of many lines fall into few of its sets."""
    if step < LINE:
        return False
    lines = step / LINE
    sets = _SETS / math.gcd(int(lines), _SETS) if lines.is_integer() else _SETS
    return length > sets * _WAYS
