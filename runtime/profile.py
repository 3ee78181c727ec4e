"""Where the time of a call goes: every kernel step timed by itself, every stage as a whole.

A profile runs the whole program several times on a runner of its own, which hands each kernel step
to the driver alone. A step's time is the smallest of the rounds; one in the body of a loop counts
all its runs of one call. A time includes the native call (about half a microsecond) and the waking
of the team, but no Python between the steps. Steps that run side by side are run once more
together: no step reads what it or its neighbors overwrite, so running one twice changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..ir.dim_values import evaluate
from .driver import BARRIER, PARALLEL, ROW_CHUNKS, ROW_FLAGS, ROW_TOTAL, ROW_WORDS
from .executable import Executable
from .frame import Frame, data_address
from .phases import Shape
from .plan import Segment
from .program import KernelStep, Program, side_by_side
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
    group: int | None = None
    """Number of the group in its schedule."""
    body: str = ""
    """Which body of a control step it belongs to: position of the step, number of the body."""
    together: float = 0.0
    """Seconds of all steps of its stage side by side; 0 where it is alone."""

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-12)
        how = f"{self.tiles:6d} {'all' if self.parallel else 'one'} x{self.runs}"
        return (
            f"{self.seconds * 1e6:9.1f} us {self.flops / seconds / 1e9:8.1f} GF/s "
            f"{self.nbytes / seconds / 1e9:7.1f} GB/s {how}  {self.label[:70]}"
        )


class Profiler(Runner):
    """A runner that times every kernel step of its program."""

    def __init__(self, program: Program, machine: Machine) -> None:
        super().__init__(program, machine)
        self.direct = False  # every segment goes through `_native`
        self.loops = {}
        self.warm = False
        """Whether every step of the program itself runs once before it is timed."""
        self.times: dict[int, StepTime] = {}
        self._beside = side_by_side(program.steps)
        self._parts: dict[tuple[int, int, int], tuple[Table, Table]] = {}

    def _native(self, frame: Frame, binding: Binding, item: int, lease: Lease) -> None:
        table, segment = binding.tables[item], self.layout.items[item]
        assert table is not None
        assert isinstance(segment, Segment)
        env = dict(zip(self.layout.symbols, binding.values))

        def timed(first: int, last: int) -> tuple[float, bool]:
            begin, _ = table.rows_of(first - segment.first)
            _, end = table.rows_of(last - segment.first)
            part = self._part(table, begin, end, first == last)
            return self._timed(frame, binding, part, lease), part.parallel

        for first, last in dict.fromkeys(self._beside[segment.first : segment.last]):
            beside = []
            for i in range(first, last + 1):
                step = self.program.steps[i]
                assert isinstance(step, KernelStep)
                seconds, parallel = timed(i, i)
                entry = self.times.setdefault(
                    i, StepTime(step.label or step.kernel, step.kernel, group=step.group)
                )
                entry.runs += 1
                entry.seconds += seconds
                entry.tiles = max(entry.tiles, evaluate(step.tiles, env))
                entry.parallel |= parallel
                entry.flops += evaluate(step.flops, env)
                entry.nbytes += evaluate(step.nbytes, env)
                beside.append(entry)
            if len({entry.group for entry in beside}) > 1:
                together, _ = timed(first, last)
                for entry in beside:
                    entry.together += together

    def _timed(self, frame: Frame, binding: Binding, table: Table, lease: Lease) -> float:
        """Seconds of one native call."""
        block = frame.block(binding, table)
        team = lease.take() if table.parallel else None
        for _ in range(1 + self.warm):
            start = time.perf_counter()
            if team is not None:
                team.run(block)
            else:
                self.machine.driver.run(block.address)
            seconds = time.perf_counter() - start
        return seconds

    def _part(self, table: Table, first: int, last: int, alone: bool) -> Table:
        """Rows ``first`` to ``last`` of a table, one step ``alone`` or a stage, as a table of their
        own; buffers and parameters stay where they are."""
        key = (id(table), first, last)
        if key not in self._parts:
            words = table.words[ROW_WORDS * first : ROW_WORDS * (last + 1)].copy()
            rows = words.reshape(-1, ROW_WORDS)
            rows[0, ROW_FLAGS] &= PARALLEL
            if first == last:
                rows[0, ROW_CHUNKS] = max(1, rows[0, ROW_CHUNKS] if rows[0, ROW_FLAGS] else 1)
                rows[0, ROW_TOTAL] = rows[0, ROW_CHUNKS]
            units = i = 0
            while i < len(rows):
                units += 1
                i += 1 if rows[i, ROW_FLAGS] & PARALLEL else max(1, int(rows[i, ROW_CHUNKS]))
            phases = 1 + int((rows[:, ROW_FLAGS] & BARRIER != 0).sum())
            part = replace(
                table, words=words, address=data_address(words), count=len(rows),
                parallel=table.parallel and (not alone or bool(rows[0, ROW_FLAGS])),
                shape=Shape(units, phases, table.shape.places),
            )  # fmt: skip
            self._parts[key] = part, table  # the table keeps its address, which is in the key
        return self._parts[key][0]

    def collect(self) -> list[StepTime]:
        """Times since the last time, in the order of the program; bodies behind."""
        found = [self.times[k] for k in sorted(self.times)]
        self.times = {}
        for position, bodies in self._bodies.items():
            for k, body in enumerate(bodies):
                assert isinstance(body, Profiler)
                inner = body.collect()
                for entry in inner:
                    entry.body = f"{position}.{k}/{entry.body}"
                found += inner
        return found


def profile(executable: Executable, feeds: Mapping[str, Any], rounds: int = 5, warm: bool = False
            ) -> list[StepTime]:
    """Time of every kernel step in a call with these feeds; where it is ``warm``, of the second of
    two runs in a row, whose code and data lie where they lie in the long run.

    Raises ``FeedError`` for feeds that do not fit.
    """
    runner = Profiler(executable.program, executable.machine)
    runner.warm = warm
    return least(runner, executable, feeds, rounds)


def least(runner: Profiler, executable: Executable, feeds: Mapping[str, Any], rounds: int
          ) -> list[StepTime]:
    """The least times of some rounds on a runner of the executable's program; raises ``FeedError``
    for feeds that do not fit."""
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
            kept.together = min(kept.together, new.together)
    return best
