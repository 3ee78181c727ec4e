"""How well cost models rank: predicted against measured time, group by group.

    python -m evonnx.bench.calibration [MODEL.onnx ...] [--models bounds,roofline] [--json FILE]

Two questions. *Kernels*: every group of a compiled model, timed by itself (``runtime.profile``),
against its prediction: median and quartiles of measured over predicted, and Kendall's tau over all
groups. *Decision sets*: what a search decides between. Each fused group of the model, and each two
groups of which one feeds the other, are cut out as a graph of their own, constants included, and
compiled in variants: a group as it is, cut in two at each place that leaves two legal groups, and
one group per node; two groups as they are, joined, and with the cut moved to either side
(``fusion``). Each contraction of the model, with what is fused to it, is also one set of the
variants of its kernel (``kernel``): methods and widths of panels, and blocks without either. The
variants of a set compute the same from the same, and are timed interleaved, kernel by kernel, so
that neither the call nor copies of outputs count; within the set the model's order is compared with
the measured one (M. Kendall, "A new measure of rank correlation", 1938), and the regret is the time
of the variant it would have chosen over the best one's. Pairs, and sets, whose times lie within
``NOISE`` of one another decide nothing and are left out.

Without arguments it takes the models that ``bench.export`` has built. Meaningful on an otherwise
idle machine only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from .. import Graph, Schedule, ScheduleError, Target
from .. import compile as compile_model
from ..compiler.api import Compiled
from ..compiler.console import print_json, print_table
from ..compiler.feeds import random_feeds
from ..compiler.options import check_schedule
from ..ir.graph import Node
from ..ir.groups import cut_out
from ..ir.schedule import IMPLEMENTATIONS, KERNELS, Group, shown
from ..runtime.profile import profile
from ..search.cost import group_cost
from ..search.variants import tried
from .cache import export_dir
from .stats import geomean, kendall, summarize

NOISE = 0.05
"""Part by which the slowest variant must exceed the fastest for a set to count."""
OTHERS = 16
"""Size of every symbolic dimension."""
KINDS = ("fusion", "kernel")
"""What variants of a set differ in: their groups, or how the kernel of a group is written."""
_CUTS = 6
"""Places at which a group is cut, at most."""
_ROUNDS, _REPEATS = 5, 6
"""Blocks of calls of one variant, and calls of a block."""


@dataclass(frozen=True)
class KernelSample:
    """One group of a model."""

    label: str
    implementation: str
    measured: float
    """Seconds."""
    predicted: Mapping[str, float]
    """Seconds by cost model."""


@dataclass(frozen=True)
class DecisionSet:
    """Variants of one group."""

    kind: str
    """One of ``KINDS``."""
    label: str
    variants: tuple[str, ...]
    measured: tuple[float, ...]
    """Seconds of a call of each."""
    predicted: Mapping[str, tuple[float, ...]]

    @property
    def decides(self) -> bool:
        """Whether the variants differ by more than the noise."""
        return max(self.measured) > min(self.measured) * (1 + NOISE)

    def regret(self, model: str, top: int = 1) -> float:
        """Time of the best of the model's first ``top`` variants over the best of all."""
        order = sorted(range(len(self.measured)), key=lambda k: self.predicted[model][k])
        return min(self.measured[k] for k in order[:top]) / min(self.measured)


@dataclass
class Comparison:
    """What was measured of one ONNX model."""

    name: str
    kernels: list[KernelSample] = field(default_factory=list)
    sets: list[DecisionSet] = field(default_factory=list)


def kernel_samples(compiled: Compiled, feeds: Mapping[str, Any], models: Sequence[str],
                   rounds: int = 5) -> list[KernelSample]:
    """Every group that is a kernel; a group's packing steps count with it."""
    times = iter(profile(compiled.executable, feeds, rounds))
    lists = {m: compiled.report(m).groups for m in models}
    found = []
    for lines in zip(*lists.values(), strict=True):
        line = lines[0]
        if line.implementation not in KERNELS:
            continue
        seconds = 0.0
        for step in times:
            seconds += step.seconds
            if not step.label.startswith("pack "):
                if step.label != line.ops:
                    raise RuntimeError(f"the step {step.label} is not the group {line.ops}")
                break
        predicted = {m: x.estimate.seconds for m, x in zip(models, lines, strict=True)
                     if x.estimate is not None}  # fmt: skip
        if len(predicted) == len(models):
            found.append(KernelSample(line.ops, line.implementation, seconds, predicted))
    return found


def variants(graph: Graph, boundary: int = 0) -> Iterator[tuple[str, Schedule]]:
    """Schedules of a small graph, legal ones only: whole, cut in two, and one group per node; or,
    where it is two groups and the second begins with node number ``boundary``, whole and cut in two
    there and nearby."""
    nodes = [k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const")]
    cuts: Sequence[int] = range(1, len(nodes))
    if boundary:
        cuts = [c for c in cuts if abs(c - boundary) <= _CUTS // 2]
    elif len(cuts) > _CUTS:
        cuts = range(1, len(nodes), -(-len(cuts) // _CUTS))
    plans = {"whole": [nodes]}
    if not boundary:
        plans["single"] = [[k] for k in nodes]
    if len(nodes) > 2:
        plans |= {f"cut {c}": [nodes[:c], nodes[c:]] for c in cuts}
    for name, parts in plans.items():
        groups: list[Group] = []
        for part in parts:
            found = _implementation(graph, part)
            if found is None:
                break
            groups.append(found)
        else:
            yield name, Schedule(graph.digest, tuple(groups))


def _implementation(graph: Graph, part: Sequence[int]) -> Group | None:
    """The group as it can run, legality decides how."""
    alone = cut_out(graph, [graph.nodes[k] for k in part])
    numbers = tuple(k for k, n in enumerate(alone.nodes) if n.op not in ("input", "const"))
    for word in sorted(IMPLEMENTATIONS, key=lambda w: w == "loops"):  # contract before loops
        try:
            check_schedule(Schedule(alone.digest, (Group(numbers, word),)), alone)
        except ScheduleError:
            continue
        return Group(tuple(part), word)
    return None


def kernel_variants(graph: Graph, target: Target) -> Iterator[tuple[str, Schedule]]:
    """Schedules of a graph that is one contraction on a micro-kernel: without settings, by each
    method in panels of each width, and in blocks of each size."""
    nodes = tuple(k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const"))
    found = _implementation(graph, nodes)
    if found is None or found.implementation != "contract":
        return
    cost = group_cost(graph, "contract", [graph.nodes[k] for k in nodes])
    for variant in [(), *tried(cost, target)]:
        if len(variant) > 1 and "block" in dict(variant):
            continue
        yield shown(variant), Schedule(graph.digest, (replace(found, variant=variant),))


def contractions(compiled: Compiled, model: str) -> Iterator[tuple[str, Graph]]:
    """(label, graph) of every distinct contraction of a model, longest prediction first."""
    lines = compiled.report(model).groups
    graph, members = compiled.graph, compiled.schedule.members(compiled.graph)
    seen: set[str] = set()
    for line in sorted(lines, key=lambda item: -_seconds(item.estimate)):
        if line.implementation == "contract":
            cut = cut_out(graph, members[line.number])
            if cut.digest not in seen:
                seen.add(cut.digest)
                yield line.ops, cut


def set_graphs(compiled: Compiled, model: str) -> Iterator[tuple[str, Graph, int]]:
    """(label, graph, boundary) of everything that a set is made of, longest prediction first, one
    per distinct structure."""
    lines = compiled.report(model).groups
    graph, members = compiled.graph, compiled.schedule.members(compiled.graph)
    seconds = [_seconds(line.estimate) for line in lines]
    kernels = [line.implementation in ("loops", "contract") for line in lines]
    found: list[tuple[float, tuple[int, ...]]] = [
        (seconds[k], (k,)) for k, nodes in enumerate(members) if len(nodes) > 1 and kernels[k]]
    found += [(seconds[k] + seconds[m], (k, m)) for k, m in _neighbors(graph, members)
              if kernels[k] and kernels[m]]  # fmt: skip
    seen: set[str] = set()
    for _, parts in sorted(found, key=lambda item: -item[0]):
        cut = cut_out(graph, [n for k in parts for n in members[k]])
        if cut.digest not in seen:
            seen.add(cut.digest)
            boundary = len(members[parts[0]]) if len(parts) == 2 else 0
            yield " + ".join(lines[k].ops for k in parts), cut, boundary


def _neighbors(graph: Graph, members: Sequence[Sequence[Node]]) -> Iterator[tuple[int, int]]:
    """Groups of which the first feeds the second, directly and by no detour."""
    home: dict[Node, int] = {}
    for k, nodes in enumerate(members):
        for n in nodes:
            home.setdefault(n, k)  # what is computed again is there before
    before = [{home[d] for n in nodes for d in graph.dependencies(n)
               if d in home and d not in nodes} for nodes in members]
    above: list[set[int]] = []
    for sources in before:
        above.append(sources.union(*(above[k] for k in sources)))
    for m, sources in enumerate(before):
        for k in sorted(sources):
            if not any(k in above[other] for other in sources - {k}):
                yield k, m


def decision_sets(compiled: Compiled, models: Sequence[str], most: int, target: Target,
                  threads: int, kinds: Sequence[str] = KINDS) -> Iterator[DecisionSet]:
    """The first ``most`` sets of each kind of a model."""
    for kind in kinds:
        made = 0
        for label, schedules in _schedules(compiled, kind, models[0], target):
            if made >= most:
                break
            found = _measure(kind, label, schedules, models, target, threads)
            if found is not None:
                made += 1
                yield found


def _schedules(compiled: Compiled, kind: str, model: str, target: Target
               ) -> Iterator[tuple[str, list[tuple[str, Graph, Schedule]]]]:
    """(label, variants) of every set of a kind."""
    if kind == "fusion":
        for label, graph, boundary in set_graphs(compiled, model):
            yield label, [(name, graph, s) for name, s in variants(graph, boundary)]
    else:
        for label, graph in contractions(compiled, model):
            yield label, [(name, graph, s) for name, s in kernel_variants(graph, target)]


def _seconds(estimate: Any) -> float:
    return 0.0 if estimate is None else float(estimate.seconds)


def _measure(kind: str, label: str, schedules: Sequence[tuple[str, Graph, Schedule]],
             models: Sequence[str], target: Target, threads: int) -> DecisionSet | None:
    made = {name: compile_model(graph, schedule=schedule, pipeline="fold", target=target,
                                threads=threads) for name, graph, schedule in schedules}
    if len(made) < 2:
        return None
    feeds = random_feeds(next(iter(made.values())).inputs, others=OTHERS)
    times: dict[str, list[list[float]]] = {name: [] for name in made}
    for compiled in made.values():
        compiled.run(None, feeds)
    for _ in range(_ROUNDS):
        for name, compiled in made.items():
            steps = profile(compiled.executable, feeds, _REPEATS)
            times[name].append([step.seconds for step in steps])
    predicted = {}
    for m in models:
        totals = [c.report(m).predicted_seconds for c in made.values()]
        predicted[m] = tuple(math.inf if t is None else t for t in totals)
    measured = tuple(sum(map(min, zip(*times[name], strict=True))) for name in made)
    return DecisionSet(kind, label, tuple(made), measured, predicted)


def summary(comparisons: Sequence[Comparison], models: Sequence[str]) -> list[dict[str, Any]]:
    """One row per ONNX model and cost model, and one over all."""
    rows = []
    everything = Comparison("all", [k for c in comparisons for k in c.kernels],
                            [s for c in comparisons for s in c.sets])  # fmt: skip
    for c in [*comparisons, *([everything] if len(comparisons) > 1 else [])]:
        deciding = [s for s in c.sets if s.decides]
        for m in models:
            row: dict[str, Any] = {"model": c.name, "cost model": m, "kernels": len(c.kernels)}
            if c.kernels:
                ratio = summarize([k.measured / k.predicted[m] for k in c.kernels])
                row |= {"measured/predicted": ratio.median, "low": ratio.low, "high": ratio.high,
                        "tau": kendall([k.measured for k in c.kernels],
                                       [k.predicted[m] for k in c.kernels])}  # fmt: skip
            for kind in KINDS:
                sets = [s for s in deciding if s.kind == kind]
                if sets:
                    row |= _judged(kind, sets, m)
            rows.append(row)
    return rows


def _judged(kind: str, sets: Sequence[DecisionSet], model: str) -> dict[str, Any]:
    """How well a model decides sets of one kind; of kernels also what taking each without settings
    costs."""
    taus = [kendall(s.measured, s.predicted[model], NOISE) for s in sets]
    row = {f"{kind} sets": len(sets), f"tau in {kind} sets": sum(taus) / len(taus),
           f"regret, {kind}": geomean([s.regret(model) for s in sets]),
           f"regret of 3, {kind}": geomean([s.regret(model, 3) for s in sets])}
    if kind == "kernel":
        row["regret unasked"] = geomean([s.measured[0] / min(s.measured) for s in sets])
    return row


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--models", default="bounds,roofline", show_default=True, help="Cost models.")
@click.option("--target", default="cpu", show_default=True, help="Name or target file.")
@click.option("--threads", default=1, show_default=True, help="Threads per call.")
@click.option("--sets", default=20, show_default=True, help="Decision sets per model, at most.")
@click.option("--kinds", default=",".join(KINDS), show_default=True, help="Kinds of sets.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write all samples there.")
def main(files: tuple[Path, ...], models: str, target: str, threads: int, sets: int, kinds: str,
         file: Path | None) -> None:  # fmt: skip
    """Compare predicted with measured times."""
    from ..compiler.options import target_of

    names, machine = models.split(","), target_of(target)
    found = []
    for path in files or sorted(export_dir().glob("*.onnx")):
        compiled = compile_model(path, target=machine, threads=threads)
        feeds = random_feeds(compiled.inputs, others=OTHERS)
        compiled.run(None, feeds)  # the sizes of the report are those of the last call
        one = Comparison(path.stem, kernel_samples(compiled, feeds, names))
        one.sets += decision_sets(compiled, names, sets, machine, threads, kinds.split(","))
        found.append(one)
    rows = summary(found, names)
    if file is not None:
        file.write_text(json.dumps([asdict(c) for c in found], indent=1), encoding="utf-8")
    if not rows:
        print_json([])
        return
    header = list(dict.fromkeys(key for row in rows for key in row))
    print_table("predicted and measured", header,
                [[row.get(key, math.nan) for key in header] for row in rows])  # fmt: skip


if __name__ == "__main__":
    main()
