"""The timing protocol: engines take turns in blocks, in one process.

Idle workers of one engine spin and steal time from the next, so single calls must not be
interleaved on few cores.  Instead each engine runs for a block of about 0.25 s; before each block
come a pause of 60 ms, in which other engines' workers go to sleep, and one unmeasured call.  The
order of the engines rotates from round to round.  A block gives one number, the median of its
calls; the blocks of all rounds give median and quartiles.  Engines are compared round by round, so
that a slow drift of the machine (clock, neighbours) cancels.

What does not cancel is a process that comes and goes: with one core taken, two threads of an engine
may share the other one for seconds, and a call takes as long as on one thread.  So a block in which
other processes used the processors is taken again (``calm``); whether it is says what they used,
never how fast the engine was.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..compiler.turns import rotated

BLOCK = 0.25
"""Seconds of one block."""
PAUSE = 0.06
"""Seconds of rest before a block."""
ROUNDS = 7
MOST_CALLS = 20_000
"""Calls of one block, at most: bounds the memory of the timings."""
_CALM = 0.1
"""Processors that others may use on average during a block that counts. The system counts in
hundredths of a second, so that much less could not be told from rounding."""
_TRIES = 3
"""Blocks that are taken for one that is calm."""
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}


def keep_memory(module: str) -> None:
    """Starts this process anew, as ``python -m MODULE`` with the same arguments, so that glibc
    keeps memory that is freed: pages that the system hands out again for every call, and clears,
    take up to half of the time of a kernel that writes megabytes."""
    if not _ALLOCATOR.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]],
                  {**os.environ, **_ALLOCATOR})


def block(call: Callable[[], Any], seconds: float = BLOCK, pause: float = PAUSE) -> list[float]:
    """Seconds of each call within one block, at least one call."""
    time.sleep(pause)
    call()
    clock = time.perf_counter
    times: list[float] = []
    end = clock() + seconds
    while True:
        began = clock()
        call()
        now = clock()
        times.append(now - began)
        if now >= end or len(times) >= MOST_CALLS:
            return times


def calm(call: Callable[[], Any], seconds: float = BLOCK, pause: float = PAUSE) -> list[float]:
    """A ``block`` that other processes left alone: of up to three the first during which they used
    less than a tenth of one processor, else the one during which they used least."""
    taken = []
    for _ in range(_TRIES):
        before, began = others(), time.perf_counter()
        times = block(call, seconds, pause)
        used = (others() - before) / (time.perf_counter() - began)
        taken.append((used, times))
        if used < _CALM:
            break
    return min(taken, key=lambda item: item[0])[1]


def others() -> float:
    """Seconds that anybody but this process, the host of a virtual machine included, has used so
    far of the processors this process may run on; what it used itself counts against that where the
    system does not say."""
    return _busy() - time.process_time()


def _busy() -> float:
    """Seconds that the processors we may run on were busy so far; 0 where the system does not
    say."""
    try:
        lines = Path("/proc/stat").read_text("ascii").splitlines()
    except OSError:
        return 0.0
    ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = 0
    for line in lines:
        name, *fields = line.split()
        if name in ours:
            user, nice, system, _, _, irq, soft, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + soft + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = ROUNDS,
    seconds: float = BLOCK,
    pause: float = PAUSE,
    run_block: Callable[..., list[float]] = block,
    number: Callable[[Sequence[float]], float] = median,
) -> dict[str, list[float]]:
    """What ``number`` makes of each block in seconds, one per round, for every engine."""
    names = list(calls)
    found: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in rotated(names, index):
            found[name].append(number(run_block(calls[name], seconds, pause)))
    return found
