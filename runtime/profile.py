"""Where the time of a call goes: every kernel step timed by itself.

The steps of a call are run in order, each as a native call of its own, for several rounds; a step's
time is its smallest. So a time includes the native call (about half a microsecond) and the waking
of the team, but no Python between the steps. Only programs without host-level steps can be taken
apart like this.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ir.dims import evaluate
from ..ir.errors import UnsupportedError
from .driver import CALL_COUNT, CALL_STEPS, PARALLEL, ROW_WORDS
from .executable import Executable
from .frame import data_address
from .program import KernelStep
from .runner import Lease


@dataclass(frozen=True, slots=True)
class StepTime:
    """One kernel step of one call."""

    label: str
    """The ops of the group."""
    kernel: str
    tiles: int
    parallel: bool
    seconds: float
    flops: int
    """Scalar operations."""
    nbytes: int
    """Bytes moved."""

    def __str__(self) -> str:
        rate = f"{self.flops / self.seconds / 1e9:8.1f} GF/s {self.nbytes / self.seconds / 1e9:7.1f} GB/s"
        how = "all" if self.parallel else "one"
        return f"{self.seconds * 1e6:9.1f} us {rate} {self.tiles:6d} {how}  {self.label[:70]}"


def profile(executable: Executable, feeds: Mapping[str, Any], rounds: int = 5) -> list[StepTime]:
    """Time of every kernel step for these feeds, in the order of the program.

    Raises ``UnsupportedError`` for a program with host-level steps and ``FeedError`` for feeds
    that do not fit.
    """
    runner = executable._runner
    if not runner._plain:
        raise UnsupportedError("a program with control flow or computed sizes has no flat profile")
    arrays = executable._feeds.arrays(feeds)
    outputs = runner.run(arrays)
    binding = runner.binding([a.shape for a in arrays])
    table = binding.tables[0]
    assert table is not None
    frame = runner._frames.pop()
    best = [float("inf")] * table.count
    members = executable._team or (executable._new_team() if executable.threads > 1 else None)
    lease = Lease(members)
    try:
        frame.enter(0, binding, executable.threads)
        for root, slot, array in zip(runner._input_roots, runner._input_slots, arrays):
            if runner.layout.roots[root].kind == "input":
                frame.bases[slot] = data_address(array)
        rows = table.words[: table.count * ROW_WORDS].reshape(table.count, ROW_WORDS)
        parallel = [bool(f & PARALLEL) for f in rows[:, 5].tolist()]
        driver, call = executable._driver, frame._call
        call[CALL_COUNT] = 1
        for _ in range(rounds):
            for i in range(table.count):
                call[CALL_STEPS] = table.address + 8 * ROW_WORDS * i
                team = lease.take() if parallel[i] else 0
                start = time.perf_counter()
                if team:
                    driver.team_run(team, frame.call)
                else:
                    driver.run(frame.call)
                best[i] = min(best[i], time.perf_counter() - start)
    finally:
        lease.give_back()
        del outputs
    env = dict(zip(runner.layout.symbols, binding.values))
    steps = [s for s in executable.program.steps if isinstance(s, KernelStep)]
    return [
        StepTime(
            s.label or s.kernel, s.kernel, evaluate(s.tiles, env), p, seconds,
            evaluate(s.flops, env), evaluate(s.nbytes, env),
        )  # fmt: skip
        for s, p, seconds in zip(steps, parallel, best, strict=True)
    ]
