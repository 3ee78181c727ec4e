"""Where the time of a call goes: every kernel step timed by itself.

The steps of a call are run in order, each as a native call of its own, for several rounds; a step's
time is its smallest. So a time includes the native call (about half a microsecond) and the waking
of the team, but no Python between the steps. Only programs without host-level steps can be taken
apart like this.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..ir.dims import evaluate
from ..ir.errors import UnsupportedError
from .driver import PARALLEL, ROW_CHUNKS, ROW_FLAGS, ROW_TOTAL, ROW_WORDS
from .executable import Executable
from .frame import data_address
from .phases import Shape
from .program import KernelStep
from .runner import Lease
from .tables import Table


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
        compute, traffic = self.flops / self.seconds / 1e9, self.nbytes / self.seconds / 1e9
        how = f"{self.tiles:6d} {'all' if self.parallel else 'one'}"
        return (
            f"{self.seconds * 1e6:9.1f} us {compute:8.1f} GF/s {traffic:7.1f} GB/s {how}  "
            f"{self.label[:70]}"
        )


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
    alone = [_single(table, i) for i in range(table.count)]
    best = [float("inf")] * table.count
    if executable.threads > 1 and executable._team is None:
        executable._new_team()
    lease = Lease(executable._team)
    try:
        frame.enter(0, binding, executable.threads)
        for root, slot, array in zip(runner._input_roots, runner._input_slots, arrays):
            if runner.layout.roots[root].kind == "input":
                frame.bases[slot] = data_address(array)
        for _ in range(rounds):
            for i, one in enumerate(alone):
                block = frame.block(binding, one)
                team = lease.take() if one.parallel else None
                start = time.perf_counter()
                if team is not None:
                    team.run(block)
                else:
                    executable._driver.run(block.address)
                best[i] = min(best[i], time.perf_counter() - start)
    finally:
        lease.give_back()
        del outputs
    env = dict(zip(runner.layout.symbols, binding.values))
    steps = [s for s in executable.program.steps if isinstance(s, KernelStep)]
    return [
        StepTime(
            label=s.label or s.kernel,
            kernel=s.kernel,
            tiles=evaluate(s.tiles, env),
            parallel=one.parallel,
            seconds=seconds,
            flops=evaluate(s.flops, env),
            nbytes=evaluate(s.nbytes, env),
        )
        for s, one, seconds in zip(steps, alone, best, strict=True)
    ]


def _single(table: Table, i: int) -> Table:
    """A table of one row; buffers and parameters stay where they are."""
    words = table.words[ROW_WORDS * i : ROW_WORDS * (i + 1)].copy()
    split = bool(words[ROW_FLAGS] & PARALLEL)
    words[ROW_FLAGS] = PARALLEL if split else 0
    words[ROW_CHUNKS] = words[ROW_CHUNKS] if split else 1
    words[ROW_TOTAL] = words[ROW_CHUNKS]
    return replace(
        table, words=words, address=data_address(words), count=1, parallel=split,
        shape=Shape(1, 1),
    )  # fmt: skip
