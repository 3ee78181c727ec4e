"""The time of every group within one native call: kernels that read the clock between the steps.

``profile`` hands steps to the driver one by one, with Python between them, which costs more than
small steps take and clears the level-1 cache. On one thread there is a closer look: the driver's
table with one row more in front of each step, whose kernel does nothing but read the clock (some 20
ns, which two of them in a row show and which are taken off). All steps run in one native call, as
they do without it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .driver import ROW_KERNEL, ROW_PARAMS, ROW_TILES, ROW_WORDS, Driver
from .executable import Executable
from .frame import Frame, data_address
from .plan import Segment
from .profile import Profiler, least
from .program import KernelStep, Program
from .runner import Lease, Machine, Runner
from .tables import Binding, Table

_PARAMS, _TIME = 3, 2
"""Words of a stamp's parameters, and of a ``struct timespec``: seconds, nanoseconds."""


class Stopwatch:
    """Times the groups of an executable, in place."""

    def __init__(self, executable: Executable, groups: int) -> None:
        """``groups``: how many its schedule has."""
        self._executable, self._groups = executable, groups
        self._runner = (_Stamped(executable.program, executable.machine, groups)
                        if executable.threads == 1 else
                        Profiler(executable.program, executable.machine))

    def seconds(self, feeds: Mapping[str, Any], calls: int) -> np.ndarray:
        """f64[groups]: the least time of each group in several calls, after one that is not timed;
        groups in bodies of control steps take none. Raises ``FeedError``."""
        if isinstance(self._runner, Profiler):
            spent = np.zeros(self._groups)
            for step in least(self._runner, self._executable, feeds, calls):
                if step.group is not None and not step.body:
                    spent[step.group] += step.seconds
            return spent
        arrays = self._executable.check_feeds(feeds)
        best = np.full(self._groups, np.inf)
        for call in range(1 + calls):
            self._runner.spent[:] = 0
            self._runner.run(arrays)
            if call:
                np.minimum(best, self._runner.spent[:-1], out=best)
        return best * 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class _Watched:
    """A driver's table with stamps."""

    plain: Table
    """Without them; kept, as its rows say where buffers and parameters lie."""
    table: Table
    params: np.ndarray
    times: np.ndarray
    """i64[steps + 2, 2]: what the stamps write."""
    groups: np.ndarray
    """i64[steps]: the group of each step; -1 for none."""


class _Stamped(Runner):
    """A runner whose segments have stamps around their steps."""

    def __init__(self, program: Program, machine: Machine, groups: int = 0) -> None:
        super().__init__(program, machine)
        self.direct = False  # every segment goes through `_native`
        self.spent = np.zeros(groups + 1, np.int64)
        """Nanoseconds of each group in the calls since somebody set it to zero; behind them those
        of no group. Of a body nothing."""
        self._watched: dict[int, _Watched] = {}

    def _native(self, frame: Frame, binding: Binding, item: int, lease: Lease) -> None:
        table, segment = binding.tables[item], self.layout.items[item]
        assert table is not None
        assert isinstance(segment, Segment)
        found = self._watched.get(id(table))
        if found is None:
            groups = np.array([-1 if step.group is None else step.group for step in
                               self.program.steps[segment.first : segment.last]
                               if isinstance(step, KernelStep)], np.int64)
            if table.starts is not None:
                groups = np.repeat(groups, np.diff(table.starts))
            found = self._watched[id(table)] = _watched(table, groups, self.machine.driver)
        self._call(frame.block(binding, found.table).address)
        if len(self.spent) > 1:
            between = np.diff(found.times[:, 0] * 1_000_000_000 + found.times[:, 1])
            np.add.at(self.spent, found.groups, np.maximum(between[:-1] - between[-1], 0))


def _watched(table: Table, groups: np.ndarray, driver: Driver) -> _Watched:
    """A table with a stamp before each row, and two at the end."""
    count = table.count
    times = np.zeros((count + 2, _TIME), np.int64)
    params = np.zeros((count + 2, _PARAMS), np.int64)
    params[:, 0], params[:, 1] = driver.clock_gettime, time.CLOCK_MONOTONIC
    params[:, 2] = data_address(times) + times.strides[0] * np.arange(count + 2)
    stamps = np.zeros((count + 2, ROW_WORDS), np.int64)
    stamps[:, ROW_KERNEL], stamps[:, ROW_TILES] = driver.stamp, 1
    stamps[:, ROW_PARAMS] = data_address(params) + params.strides[0] * np.arange(count + 2)
    rows = np.empty((2 * count + 2, ROW_WORDS), np.int64)
    rows[0:-1:2], rows[-1] = stamps[:-1], stamps[-1]
    rows[1:-1:2] = table.words[: ROW_WORDS * count].reshape(count, ROW_WORDS)
    words = rows.reshape(-1)
    watched = replace(table, words=words, address=data_address(words), count=len(rows))
    return _Watched(table, watched, params, times, groups)
