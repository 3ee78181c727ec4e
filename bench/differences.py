"""Where two schedules of a model part, kernel by kernel: what was promised, and what is there.

Both schedules are compiled in one process, on the same packed weights, and profiled in turns. Their
groups that share nodes and are not the same in both make a *block* of the graph. Of each block the
table shows what the two schedules take in it, predicted and measured, the largest misjudgement
first: those of the first schedule over the second, less what was predicted of them. Groups that are
the same in both are the noise: where a program keeps its intermediate values is worth up to a
quarter of a group's time, so that a single block proves nothing, and many of a kind do.

    python -m evonnx.bench.differences nasnet_cifar randwire --first default --second priority

A schedule is named as for ``bench.schedules``: a search, a rule with ``+variants``, or ``@FILE``.
One thread, since groups of a stage are predicted side by side and profiled alone. The least time of
each kernel counts, without the profile's own call (``CALL``), so that others may use the machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import networkx as nx

from ..compiler.api import Compiled
from ..compiler.console import print_table
from ..ir.schedule import KERNELS, Group, shown
from ..runtime.executable import Executable
from ..runtime.profile import profile
from .models import feeds, get, path_of
from .schedules import compiled_by, shared

CALL = 0.35e-6
"""Seconds that running one step by itself adds to its time."""
ROUNDS = 4
"""Calls of one program before the turn of the other."""


@dataclass(frozen=True, slots=True)
class GroupTime:
    """One group of a schedule."""

    nodes: frozenset[int]
    label: str
    predicted: float
    """Seconds."""
    measured: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Block:
    """Groups of two schedules that compute the same nodes."""

    sides: tuple[tuple[GroupTime, ...], tuple[GroupTime, ...]]
    same: bool
    """Whether they are one group that is the same in both."""

    def predicted(self) -> float:
        """Seconds that the first schedule is predicted to take more."""
        return _sum(self.sides[0], "predicted") - _sum(self.sides[1], "predicted")

    def measured(self) -> float:
        """Seconds that the first schedule takes more."""
        return _sum(self.sides[0], "measured") - _sum(self.sides[1], "measured")


def _sum(groups: Sequence[GroupTime], what: str) -> float:
    return float(sum(getattr(g, what) for g in groups))


def blocks(programs: Sequence[Compiled], times: Sequence[Mapping[int, float]], model: str
           ) -> list[Block]:
    """The blocks of two programs of one graph, whose groups took ``times`` seconds by number,
    largest misjudgement first, and then the groups that are the same."""
    graph = programs[0].graph
    shared_nodes = nx.Graph()
    keys: list[list[tuple[Any, ...]]] = []
    for side, program in enumerate(programs):
        written = program.schedule.written(graph)
        keys.append([(g.computed, g.implementation, g.variant, w)
                     for g, w in zip(program.schedule.groups, written, strict=True)])
        for k, group in enumerate(program.schedule.groups):
            shared_nodes.add_edges_from(((side, k), node) for node in group.computed)
    block_of = {of: number for number, block in enumerate(nx.connected_components(shared_nodes))
                for of in block}
    sides: dict[int, tuple[list[GroupTime], list[GroupTime]]] = {}
    equal: dict[int, bool] = {}
    for side, program in enumerate(programs):
        lines = program.report(model).groups
        for k, group in enumerate(program.schedule.groups):
            if group.implementation not in KERNELS:
                continue
            estimate, at = lines[k].estimate, block_of[side, k]
            assert estimate is not None  # the program has run
            sides.setdefault(at, ([], []))[side].append(GroupTime(
                frozenset(group.computed), _label(program, k, group), estimate.seconds,
                times[side].get(k, 0.0)))
            equal[at] = equal.get(at, True) and keys[side][k] in keys[1 - side]
    found = [Block((tuple(a), tuple(b)), equal[at]) for at, (a, b) in sides.items()]
    return sorted(found, key=lambda b: (b.same, -abs(b.measured() - b.predicted())))


def _label(program: Compiled, k: int, group: Group) -> str:
    graph = program.graph
    written = program.schedule.written(graph)[k]
    shapes = " ".join(str(list(getattr(v.type, "shape", ()))) for v in written)
    ops = " ".join(graph.nodes[i].op for i in group.computed)
    return f"{ops} {shapes} {shown(group.variant)}".strip()


def seconds_of(programs: Sequence[Executable], inputs: Mapping[str, Any], seconds: float
               ) -> list[dict[int, float]]:
    """The least time of every group of each program, profiled in turns for so long."""
    least: list[dict[int, float]] = [{} for _ in programs]
    end = time.perf_counter() + seconds
    while True:
        for program, best in zip(programs, least, strict=True):
            now: dict[int, float] = {}
            for step in profile(program, inputs, ROUNDS):
                if step.group is not None and not step.body:
                    now[step.group] = now.get(step.group, 0.0) + max(step.seconds - CALL, 0.0)
            for k, value in now.items():
                best[k] = min(best.get(k, value), value)
        if time.perf_counter() >= end:
            return least


def compare(name: str, searches: Sequence[str], cost_model: str, seconds: float) -> list[Block]:
    """The blocks of one model under two schedules."""
    path, inputs = path_of(get(name)), feeds(get(name))
    made = [compiled_by(path, s, 1, cost_model, {}, inputs) for s in searches]
    packed: dict[Any, Any] = {}
    programs = [shared(m.executable, packed) for m in made]
    for one, program in zip(made, programs, strict=True):
        one.executable.run_list(inputs)  # a report is for the sizes of the last call
        program.run_list(inputs)
    return blocks(made, seconds_of(programs, inputs, seconds), cost_model)


def _microseconds(value: float) -> str:
    return f"{value * 1e6:.1f}"


@click.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--first", default="default", show_default=True)
@click.option("--second", default="priority", show_default=True)
@click.option("--cost-model", default="bounds", show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Of profiling each model.")
@click.option("--most", default=20, show_default=True, help="Blocks that are listed.")
def main(models: tuple[str, ...], first: str, second: str, cost_model: str, seconds: float,
         most: int) -> None:
    """Shows where the schedules FIRST and SECOND of MODELS differ."""
    for name in models:
        found = compare(name, (first, second), cost_model, seconds)
        differ, same = [b for b in found if not b.same], [b for b in found if b.same]
        rows = []
        for b in differ[:most]:
            rows.append(["block", *map(_microseconds, (b.predicted(), b.measured())), ""])
            for side, groups in zip("12", b.sides, strict=True):
                rows += [[side, _microseconds(g.predicted), _microseconds(g.measured), g.label]
                         for g in groups]
        every = sum(_sum(b.sides[1], "measured") for b in found)
        totals = [(f"{len(part)} {title}", *(_microseconds(sum(getattr(b, what)() for b in part))
                                             for what in ("predicted", "measured")),
                   f"of {_microseconds(every)}")
                  for part, title in ((differ, "blocks that differ"), (same, "groups the same"))]
        print_table(f"{name}: {first} less {second}, us", ["", "predicted", "measured", "groups"],
                    [*totals, *rows])


if __name__ == "__main__":
    main()
