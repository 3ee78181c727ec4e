"""Where the time of a call goes: every kernel step timed by itself.

A profile runs the whole program several times on a runner of its own, which hands each kernel step
to the driver alone. A step's time is the smallest of the rounds; one in the body of a loop counts
all its runs of one call. A time includes the native call (about half a microsecond) and the waking
of the team, but no Python between the steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..ir.dims import evaluate
from .driver import PARALLEL, ROW_CHUNKS, ROW_FLAGS, ROW_TOTAL, ROW_WORDS
from .executable import Executable
from .frame import Frame, data_address
from .phases import Shape
from .plan import Segment
from .program import KernelStep, Program
from .runner import Lease, Machine, Runner
from .tables import Binding, Table


@dataclass(slots=True)
class StepTime:
    """One kernel step of one call."""

    label: str
    """The ops of the group."""
    kernel: str
    tiles: int = 0
    """Size of the tile space, the largest of all runs."""
    parallel: bool = False
    runs: int = 0
    """Times the step ran in the call."""
    seconds: float = 0.0
    flops: int = 0
    """Scalar operations, all runs."""
    nbytes: int = 0
    """Bytes moved, all runs."""

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-12)
        how = f"{self.tiles:6d} {'all' if self.parallel else 'one'} x{self.runs}"
        return (
            f"{self.seconds * 1e6:9.1f} us {self.flops / seconds / 1e9:8.1f} GF/s "
            f"{self.nbytes / seconds / 1e9:7.1f} GB/s {how}  {self.label[:70]}"
        )


class _Profiler(Runner):
    """A runner that times every kernel step of its program."""

    def __init__(self, program: Program, machine: Machine) -> None:
        super().__init__(program, machine)
        self.times: dict[int, StepTime] = {}
        self._alone: dict[tuple[int, int], Table] = {}

    def _native(self, frame: Frame, binding: Binding, item: int, lease: Lease) -> None:
        table, segment = binding.tables[item], self.layout.items[item]
        assert table is not None
        assert isinstance(segment, Segment)
        env = dict(zip(self.layout.symbols, binding.values))
        for i in range(table.count):
            step = self.program.steps[segment.first + i]
            assert isinstance(step, KernelStep)
            one = self._single(table, i)
            block = frame.block(binding, one)
            team = lease.take() if one.parallel else None
            start = time.perf_counter()
            if team is not None:
                team.run(block)
            else:
                self.machine.driver.run(block.address)
            seconds = time.perf_counter() - start
            entry = self.times.setdefault(
                segment.first + i, StepTime(step.label or step.kernel, step.kernel)
            )
            entry.runs += 1
            entry.seconds += seconds
            entry.tiles = max(entry.tiles, evaluate(step.tiles, env))
            entry.parallel |= one.parallel
            entry.flops += evaluate(step.flops, env)
            entry.nbytes += evaluate(step.nbytes, env)

    def _single(self, table: Table, i: int) -> Table:
        """A table of one row; buffers and parameters stay where they are."""
        found = self._alone.get((id(table), i))
        if found is None:
            words = table.words[ROW_WORDS * i : ROW_WORDS * (i + 1)].copy()
            split = bool(words[ROW_FLAGS] & PARALLEL)
            words[ROW_FLAGS] = PARALLEL if split else 0
            words[ROW_CHUNKS] = words[ROW_CHUNKS] if split else 1
            words[ROW_TOTAL] = words[ROW_CHUNKS]
            found = self._alone[id(table), i] = replace(
                table, words=words, address=data_address(words), count=1, parallel=split,
                shape=Shape(1, 1),
            )  # fmt: skip
        return found

    def collect(self) -> list[StepTime]:
        """Times since the last time, in the order of the program; bodies behind."""
        found = [self.times[k] for k in sorted(self.times)]
        self.times = {}
        for bodies in self._bodies.values():
            for body in bodies:
                assert isinstance(body, _Profiler)
                found += body.collect()
        return found


def profile(executable: Executable, feeds: Mapping[str, Any], rounds: int = 5) -> list[StepTime]:
    """Time of every kernel step in a call with these feeds.

    Raises ``FeedError`` for feeds that do not fit.
    """
    runner = _Profiler(executable.program, executable.machine)
    arrays = executable.check_feeds(feeds)
    best: list[StepTime] = []
    for _ in range(rounds):
        with executable.lease() as lease:
            runner.run(arrays, None, lease)
        times = runner.collect()
        if len(times) != len(best):
            best = times
        for kept, new in zip(best, times):
            kept.seconds = min(kept.seconds, new.seconds)
    return best
