"""How many processors nobody uses.

A second process that compiles helps where a processor is idle, and only takes time from the first
where none is. The system counts for every processor how long it had nothing to do (Linux,
``/proc/stat``, in hundredths of a second), so two looks, some tenths of a second apart, tell what
others left over in between. The average load tells less: it goes on for a minute after the work,
and at one moment anything may run.
"""

from __future__ import annotations

import os
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE, _WAITING, _COUNTED = 3, 4, 8
"""Columns of a processor's times: idle, idle until a disk answers; how many there are (the rest,
time of guests, is counted among these)."""
_LEAST = 5
"""Hundredths of a second of each processor that say something."""


class Idle:
    """Idle processors since this was made."""

    def __init__(self) -> None:
        self._before = _times()

    def processors(self) -> float | None:
        """Of the processors this process may run on, how many were idle on average; None where
        the system does not say, or too little time has passed."""
        idle = 0.0
        for number, (resting, whole) in _times().items():
            before = self._before.get(number, (0, 0))
            passed = whole - before[1]
            if passed < _LEAST:
                return None
            idle += (resting - before[0]) / passed
        return idle if self._before else None


def _times() -> dict[int, tuple[int, int]]:
    """For each processor we may run on: hundredths of a second idle, and in all."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    found: dict[int, tuple[int, int]] = {}
    try:
        lines = _STAT.read_text("ascii").splitlines()
    except OSError:
        return found
    for line in lines:
        name, *columns = line.split()
        number = name.removeprefix("cpu")
        if name.startswith("cpu") and number.isdigit() and (mine is None or int(number) in mine):
            times = [int(c) for c in columns[:_COUNTED]]
            found[int(number)] = times[_IDLE] + times[_WAITING], sum(times)
    return found
