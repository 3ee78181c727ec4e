"""Contenders timed in turns: their groups one by one, and whole calls.

A machine is faster at one time than at another, so what is compared runs in short blocks in turns,
and each block is compared with one of the same round. Of the groups the least time in a block
counts; medians over the blocks come later (``measured``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from ..ir.schedule import Schedule
    from ..runtime.executable import Executable
    from .measured import Measured

T = TypeVar("T")

BLOCK_S = 0.03
"""Seconds of the calls of one contender in a row, about."""
GROUPS_S = 0.01
"""Seconds of calls whose groups are timed in a row, about."""
ROUNDS = 4
"""Rounds in which the groups of contenders are timed, at least."""
MOST_CALLS = 50
"""Calls of such a row, at most."""
SURELY, PROBABLY = 3.0, 2.0
"""Standard errors by which a contender is surely slower, and so that the other one is taken."""
_OF_MEDIAN = 1.4826 * 1.2533
"""Standard error of the median of one sample of a normal distribution, in median deviations."""


@dataclass(slots=True, eq=False)
class Contender:
    """One schedule in the contest."""

    name: str
    schedule: Schedule
    places: tuple[int | None, ...]
    """The candidates that its groups are (``Measured.places``)."""
    executable: Executable | None = None
    blocks: list[float] = field(default_factory=list)
    """Seconds of a call, one per round."""

    @property
    def program(self) -> Executable:
        """Its program, which is there by now."""
        assert self.executable is not None
        return self.executable

    @property
    def seconds(self) -> float:
        """Median over the rounds."""
        return median(self.blocks)


def time_groups(contenders: Sequence[Contender], feeds: Mapping[str, Any], seconds: float,
                measured: Measured) -> float:
    """Times the groups of contenders in turns, for at least ``seconds``, into ``measured``; answers
    the seconds that it took."""
    from ..runtime.stamps import Stopwatch

    began = time.perf_counter()
    watches, calls = [], []
    for c in contenders:
        watches.append(Stopwatch(c.program, len(c.schedule.groups)))
        start = time.perf_counter()
        watches[-1].seconds(feeds, 1)
        call = (time.perf_counter() - start) / 2
        calls.append(min(max(1, round(GROUPS_S / max(call, 1e-6))), MOST_CALLS))
    end = time.perf_counter() + seconds
    done = 0
    while done < ROUNDS or time.perf_counter() < end:
        for n in rotated(range(len(contenders)), done):
            spent = watches[n].seconds(feeds, calls[n]).tolist()
            measured.record(contenders[n].schedule, contenders[n].places, spent)
        done += 1
    return time.perf_counter() - began


def time_calls(finalists: Sequence[Contender], feeds: Mapping[str, Any], seconds: float) -> int:
    """Times whole calls in turns, for at least ``seconds``; answers the number of rounds. Who is
    surely slower than another is called no longer, but for the first."""
    calls = {}
    for c in finalists:
        c.program.run_list(feeds)
        start = time.perf_counter()
        c.program.run_list(feeds)
        calls[c.name] = max(1, round(BLOCK_S / max(time.perf_counter() - start, 1e-6)))
    end = time.perf_counter() + seconds
    going, done = list(finalists), 0
    while done < 5 or time.perf_counter() < end:
        for c in rotated(going, done):
            start = time.perf_counter()
            for _ in range(calls[c.name]):
                c.program.run_list(feeds)
            c.blocks.append((time.perf_counter() - start) / calls[c.name])
        done += 1
        if done >= 8 and done % 4 == 0:
            best = min(going, key=lambda c: c.seconds)
            going = [c for c in going if c in (finalists[0], best) or not slower(c, best)]
    return done


def slower(c: Contender, best: Contender, errors: float = SURELY) -> bool:
    """Whether a contender is slower than another by so many standard errors of the median of their
    rounds' ratios: from the median deviation, since some rounds are disturbed."""
    ratios = [a / b for a, b in zip(c.blocks, best.blocks, strict=True)]
    middle = median(ratios)
    error = _OF_MEDIAN * median(abs(r - middle) for r in ratios) / len(ratios) ** 0.5
    return middle > 1 + errors * error


def rotated(things: Sequence[T], by: int) -> list[T]:
    """``things`` turned left by ``by`` places: the order of a round."""
    if not things:
        return []
    by %= len(things)
    return [*things[by:], *things[:by]]
