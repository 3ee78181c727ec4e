"""Where the time of a call goes, group by group, and how near each group is to the roofline.

A group's *roof* is the time below which no schedule of it can be on the target: its operations at
peak rate or its bytes at the bandwidth of the smallest memory that holds them, whichever takes
longer, on the threads it may use (S. Williams, A. Waterman and D. Patterson, "Roofline: an
insightful visual performance model for multicore architectures", 2009). The share of the roof is
that time through the measured one; above 1 the target's rates, unless calibrated an estimate, are
below those of this machine, or what is counted as moved stayed in a nearer memory.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ..ir.target import Target
from ..runtime.executable import Executable
from ..runtime.profile import StepTime
from ..runtime.profile import profile as time_steps
from ..search.models import Context, GroupFacts, Roofline, context_of
from .report import Costs, facts_at
from .report_text import cells, duration, listing, printed, quantity
from .request import Stages

GROUPS = 40
"""Groups that are listed, the slowest first."""


@dataclass(frozen=True, slots=True)
class GroupTime:
    """One group, or one kernel step in a body of control flow, in one call."""

    name: str
    """``g3``; of a step in a body its place, as ``12.0/g1``."""
    number: int | None
    """Number of the group in the schedule; None in bodies."""
    implementation: str
    ops: str
    origin: tuple[str, ...]
    """ONNX nodes it came from; empty in bodies."""
    stage: int
    """Groups with the same number here run side by side; counted from 0."""
    threads: int
    """Threads it may use."""
    parallel: bool
    """Whether it is split among threads."""
    runs: int
    """Times it ran in the call."""
    seconds: float
    """All runs, alone on its share of the threads."""
    flops: int
    """Scalar operations, all runs."""
    nbytes: int
    """Bytes that enter and leave, all runs."""
    roof: float
    """Seconds that the target needs at least."""
    bound: str
    """``compute`` or ``memory``, whichever makes the roof."""

    @property
    def flop_rate(self) -> float:
        """Operations per second."""
        return self.flops / self.seconds

    @property
    def byte_rate(self) -> float:
        """Bytes per second."""
        return self.nbytes / self.seconds

    @property
    def share(self) -> float:
        """Part of the roofline's performance that it reaches."""
        return self.roof / self.seconds


@dataclass(frozen=True)
class Profile:
    """The times of one call. ``str()`` prints a table, ``to_dict()`` is for JSON, ``trace()`` for
    Perfetto and chrome://tracing, ``plot()`` draws the roofline."""

    target: Target
    threads: int
    groups: tuple[GroupTime, ...]
    """In the order of the program; bodies of control flow behind."""
    stages: tuple[float, ...]
    """Seconds of every stage: of one group alone the group's, of several those of all together."""
    call: float
    """Seconds of a whole call from Python, the smallest of the rounds."""

    @property
    def kernels(self) -> float:
        """Seconds of all stages."""
        return sum(self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: seconds, operations, bytes."""
        return {
            "target": self.target.name, "threads": self.threads,
            "seconds": {"call": self.call, "kernels": self.kernels},
            "stages": list(self.stages),
            "groups": [
                asdict(g) | {"flop_rate": g.flop_rate, "byte_rate": g.byte_rate, "share": g.share}
                for g in self.groups
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        return printed([_totals(self), _table(self)])

    def trace(self) -> dict[str, Any]:
        """Trace events (Chrome's JSON format): the stages end to end, the groups of one stage on
        tracks of their own. Times are measured, their order is the schedule's; waiting between
        stages and Python around them are not shown."""
        events: list[dict[str, Any]] = [
            {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "EvoNNX"}}
        ]
        start, at = [0.0], -1
        for seconds in self.stages:
            start.append(start[-1] + seconds)
        track = 0
        for group in self.groups:
            track = track + 1 if group.stage == at else 0
            at = group.stage
            events.append({
                "ph": "X", "pid": 1, "tid": track, "ts": start[at] * 1e6,
                "dur": group.seconds * 1e6, "name": f"{group.name} {group.ops}"[:200],
                "cat": group.implementation,
                "args": {"origin": " ".join(group.origin), "GFLOP/s": group.flop_rate / 1e9,
                         "GB/s": group.byte_rate / 1e9, "share of roofline": group.share,
                         "bound": group.bound, "threads": group.threads, "runs": group.runs},
            })  # fmt: skip
        return {"traceEvents": events, "displayTimeUnit": "ns",
                "otherData": {"target": self.target.name, "threads": self.threads}}  # fmt: skip

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes ``trace()`` to a file that https://ui.perfetto.dev and chrome://tracing open."""
        Path(path).write_text(json.dumps(self.trace(), allow_nan=False), encoding="utf-8")

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the groups under the target's roofline into a file (.svg, .png, .pdf). Raises
        ``OptionError`` where Matplotlib is not installed or does not know the format."""
        from .roofline_plot import draw

        draw(self, path)


def make_profile(stages: Stages, executable: Executable, costs: Costs, feeds: Mapping[str, Any],
                 rounds: int) -> Profile:
    """Times every group of a call with these feeds, ``rounds`` times, and keeps the smallest."""
    call = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        executable.run_list(feeds)
        call = min(call, time.perf_counter() - began)
    times = time_steps(executable, feeds, rounds)
    last = executable.last_call()
    sizes = last[0] if last is not None else {}
    numbers = facts_at(costs, sizes, executable.target) or []
    groups, seconds = _groups(stages, executable, numbers, times)
    return Profile(executable.target, executable.threads, tuple(groups), tuple(seconds), call)


def _groups(stages: Stages, executable: Executable, numbers: Sequence[GroupFacts],
            times: Sequence[StepTime]) -> tuple[list[GroupTime], list[float]]:
    """One entry per group in the order of the program, and the seconds of the stages."""
    steps: dict[tuple[str, int | None], list[StepTime]] = {}
    for one in times:
        steps.setdefault((one.body, one.group), []).append(one)
    beside = {k: n for n, members in enumerate(stages.schedule.stages()) for k in members}
    members = stages.schedule.members(stages.graph)
    context = context_of(executable.target, executable.threads, numbers)
    found: list[GroupTime] = []
    seconds: list[float] = []
    last: object = None
    for (body, number), parts in steps.items():
        own = not body and number is not None
        key = beside.get(number) if own and number is not None else (body, number)
        took = sum(p.seconds for p in parts)
        if key != last:
            seconds.append(max(p.together for p in parts))
            last = key
        seconds[-1] += sum(p.seconds for p in parts if not p.together)
        main = parts[-1]
        facts = GroupFacts("", flops=main.flops, inputs=main.nbytes)
        given = implementation = None
        origin: tuple[str, ...] = ()
        if own and number is not None:
            group = stages.schedule.groups[number]
            given, implementation = group.threads, group.implementation
            origin = tuple(dict.fromkeys(o for n in members[number] for o in n.origin))
            facts = numbers[number] if numbers and main.runs == 1 else facts
        threads = min(given or executable.threads, executable.threads)
        roof, bound = roof_of(facts, threads, context)
        found.append(GroupTime(
            f"{body}g{number}", number if own else None, implementation or "body", main.label,
            origin, len(seconds) - 1, threads, any(p.parallel for p in parts), main.runs, took,
            main.flops, main.nbytes, roof, bound,
        ))  # fmt: skip
    return found, seconds


def roof_of(facts: GroupFacts, threads: int, context: Context) -> tuple[float, str]:
    """(least seconds, what bounds them) of a group on ``threads`` threads of the target."""
    compute = facts.flops / (threads * context.target.flops)
    sizes = np.array([max(context.constants, facts.constant), facts.inputs + facts.outputs])
    moved = np.array([facts.constant, facts.inputs + facts.outputs])
    memory = float((moved / Roofline().bandwidth(sizes, threads, context)).sum())
    return (compute, "compute") if compute >= memory else (memory, "memory")


def _totals(p: Profile) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    flops, nbytes = sum(g.flops for g in p.groups), sum(g.nbytes for g in p.groups)
    kernels = max(p.kernels, 1e-12)
    rows = [
        ("target", f"{p.target.name}, {p.threads} thread{'s' if p.threads > 1 else ''}"),
        ("call", f"{duration(p.call)}, kernels one by one {duration(p.kernels)}"),
        ("rates", f"{quantity(flops / kernels, 'op/s')}, {quantity(nbytes / kernels, 'B/s')}; "
                  f"{sum(g.roof for g in p.groups) / kernels:.0%} of the roofline"),
    ]  # fmt: skip
    for row in rows:
        table.add_row(*cells(row))
    return table


def _table(p: Profile) -> Table:
    shown = sorted(p.groups, key=lambda g: -g.seconds)[:GROUPS]
    title = "groups" if len(shown) == len(p.groups) else (
        f"groups ({len(shown)} slowest of {len(p.groups)})")
    columns = {"": False, "as": False, "time": True, "%": True, "GFLOP/s": True, "GB/s": True,
               "roof": True, "bound": False, "on": True, "ops": False, "from": False}  # fmt: skip
    total = max(p.kernels, 1e-12)
    return listing(title, columns, ((
        g.name, g.implementation, duration(g.seconds), f"{g.seconds / total * 100:.3g}",
        f"{g.flop_rate / 1e9:.3g}", f"{g.byte_rate / 1e9:.3g}", f"{g.share:.0%}", g.bound,
        str(g.threads) if g.parallel else "1", g.ops,
        " ".join(g.origin),
    ) for g in shown))  # fmt: skip
