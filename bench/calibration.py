"""How well cost models rank: predicted against measured time, group by group.

    python -m evonnx.bench.calibration [MODEL.onnx ...] [--models bounds,roofline] [--json FILE]

Two questions. *Kernels*: every group of a compiled model, timed by itself (``runtime.profile``),
against its prediction: median and quartiles of measured over predicted, and Kendall's tau over all
groups. *Decision sets*: what a search decides between. Each fused group of the model, and each two
groups of which one feeds the other, are cut out as a graph of their own, constants included, and
compiled in variants: a group as it is, cut in two at each place that leaves two legal groups, and
one group per node; two groups as they are, joined, and with the cut moved to either side
(``fusion``). Each contraction of the model, with what is fused to it, is also one set of the
variants of its kernel (``kernel``): methods and widths of panels, and blocks without either; or of
all its settings (``settings``), heights of micro-tiles with them, of which the best one is the
oracle: what a perfect choice would win. The
variants of a set compute the same from the same, and are timed interleaved, kernel by kernel, so
that neither the call nor copies of outputs count, and in every round somewhere else in memory,
which alone makes up to seven percent; the least time counts, and the same for variants of which
the same program is made. Within the set the model's order is
compared with the measured one (M. Kendall, "A new measure of rank correlation", 1938), and the
regret is the time of the variant it would have chosen over the best one's. Pairs, and sets, whose
times lie within ``NOISE`` of one another decide nothing and are left out.

    python -m evonnx.bench.calibration --layers 40 --seed 7 --kinds kernel

takes layers drawn at random (``bench.generated``) instead of models, and

    python -m evonnx.bench.calibration --again FILE

predicts the sets that ``--json FILE`` wrote anew, with the models of today: a change of a model is
judged by what was measured once. Without arguments it takes the models that ``bench.export`` has
built. Meaningful on an otherwise idle machine only.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from .. import Graph, Schedule, ScheduleError, Target
from .. import compile as compile_model
from ..compiler.api import Compiled
from ..compiler.console import print_json, print_table
from ..compiler.feeds import random_feeds
from ..compiler.options import check_schedule
from ..ir.graph import Constants, Node
from ..ir.groups import cut_out
from ..ir.parser import parse_graph
from ..ir.schedule import IMPLEMENTATIONS, KERNELS, Group, parse_schedule, shown
from ..ir.text import print_graph
from ..ir.variants import Variant
from ..runtime.profile import profile
from ..search.cost import group_cost, schedule_cost
from ..search.models import context_of, facts
from ..search.models import model as model_of
from ..search.variants import every_setting, tried
from .cache import export_dir
from .generated import layers
from .measure import keep_memory
from .stats import geomean, kendall, summarize

NOISE = 0.05
"""Part by which the slowest variant must exceed the fastest for a set to count."""
OTHERS = 16
"""Size of every symbolic dimension."""
KINDS = ("fusion", "kernel", "settings")
"""What variants of a set differ in: their groups, or how the kernel of a group is written, by what
a search is offered or by every setting."""
_CUTS = 6
"""Places at which a group is cut, at most."""
_ROUNDS, _REPEATS, _BLOCK = 4, 10, 0.05
"""Blocks of calls of one variant, calls of a block, and seconds that a block takes at most where
two calls fit into it."""
_APART = 9 << 9
"""Bytes by which programs are moved in memory from round to round, and multiples of it."""


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
    count: int = 1
    """Times that what the variants compute occurs in the model."""
    graph: str = ""
    """What they compute, as text."""
    schedules: tuple[str, ...] = ()
    """The variants as text."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Sizes by symbol that were measured."""

    @property
    def decides(self) -> bool:
        """Whether the variants differ by more than the noise."""
        return max(self.measured) > min(self.measured) * (1 + NOISE)

    def regret(self, model: str, top: int = 1) -> float:
        """Time of the best of the model's first ``top`` variants over the best of all."""
        order = sorted(range(len(self.measured)), key=lambda k: self.predicted[model][k])
        return min(self.measured[k] for k in order[:top]) / min(self.measured)

    def again(self, models: Sequence[str], target: Target, threads: int) -> DecisionSet:
        """The set with what ``models`` predict of its variants now."""
        constants = Constants()
        for digest in set(re.findall(r"const\(@([0-9a-f]+)", self.graph)):
            constants.add_lazy(digest, _absent)
        graph = parse_graph(self.graph, constants)
        predicted: dict[str, tuple[float, ...]] = {}
        groups = [[facts(c, self.sizes, target) for c in schedule_cost(graph, parse_schedule(s))]
                  for s in self.schedules]
        for m in models:
            context = [context_of(target, threads, g) for g in groups]
            predicted[m] = tuple(float(sum(model_of(m).costs(g, c)))
                                 for g, c in zip(groups, context, strict=True))
        return replace(self, predicted=predicted)


def _absent() -> np.ndarray:
    raise RuntimeError("the elements of recorded constants are not kept")


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


def alone(graph: Graph, nodes: Sequence[Node]) -> Graph:
    """Nodes as a graph of their own. A symbol that is no whole dimension of an input of theirs, as
    where these are a quarter of the model's, has the size ``OTHERS``: no input would say it."""
    cut = cut_out(graph, nodes)
    hidden = [s for s, node in cut.symbol_definers.items() if node.op == "input"]
    if not hidden:
        return cut
    names = "|".join(map(re.escape, hidden))
    text = re.sub(rf"\b(?:{names})\b", str(OTHERS), print_graph(cut))
    return parse_graph(text, graph.constants)


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


def kernel_variants(graph: Graph, target: Target, every: bool = False
                    ) -> Iterator[tuple[str, Schedule]]:
    """Schedules of a graph that is one contraction on a micro-kernel: without settings, by each
    method in panels of each width, and by heights and in blocks of each size; with ``every``, each
    method and width also by heights and in blocks, and depthwise windows by table."""
    nodes = tuple(k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const"))
    found = _implementation(graph, nodes)
    if found is None or found.implementation != "contract":
        return
    cost = group_cost(graph, "contract", [graph.nodes[k] for k in nodes])
    offered: list[Variant] = [(), *(every_setting if every else tried)(cost, target)]
    for variant in offered:
        if not every and len(variant) > 1 and dict(variant).keys() & {"block", "rows"}:
            continue
        yield shown(variant), Schedule(graph.digest, (replace(found, variant=variant),))


def contractions(compiled: Compiled, model: str) -> Iterator[tuple[str, Graph, int]]:
    """(label, graph, times it occurs) of every distinct contraction of a model, longest prediction
    first."""
    lines = compiled.report(model).groups
    graph, members = compiled.graph, compiled.schedule.members(compiled.graph)
    found: dict[str, tuple[str, Graph]] = {}
    count: Counter[str] = Counter()
    for line in sorted(lines, key=lambda item: -_seconds(item.estimate)):
        if line.implementation == "contract":
            cut = alone(graph, members[line.number])
            found.setdefault(cut.digest, (line.ops, cut))
            count[cut.digest] += 1
    for digest, (label, cut) in found.items():
        yield label, cut, count[digest]


def set_graphs(compiled: Compiled, model: str) -> Iterator[tuple[str, Graph, int]]:
    """(label, graph, boundary) of everything that a set is made of, longest prediction first, one
    per distinct structure."""
    lines = compiled.report(model).groups
    graph, members = compiled.graph, compiled.schedule.members(compiled.graph)
    seconds = [_seconds(line.estimate) for line in lines]
    kernels = [line.implementation in ("loops", "contract", "separable") for line in lines]
    found: list[tuple[float, tuple[int, ...]]] = [
        (seconds[k], (k,)) for k, nodes in enumerate(members) if len(nodes) > 1 and kernels[k]]
    found += [(seconds[k] + seconds[m], (k, m)) for k, m in _neighbors(graph, members)
              if kernels[k] and kernels[m]]  # fmt: skip
    seen: set[str] = set()
    for _, parts in sorted(found, key=lambda item: -item[0]):
        cut = alone(graph, [n for k in parts for n in members[k]])
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
                  threads: int, kinds: Sequence[str] = KINDS[:2], rounds: int = _ROUNDS
                  ) -> Iterator[DecisionSet]:
    """The first ``most`` sets of each kind of a model."""
    for kind in kinds:
        made = 0
        for label, graph, count, schedules in _schedules(compiled, kind, models[0], target):
            if made >= most:
                break
            if len(schedules) < 2:
                continue
            measured, sizes = _measure(graph, schedules, target, threads, rounds)
            texts = tuple(map(str, schedules.values()))
            found = DecisionSet(kind, label, tuple(schedules), measured, {}, count,
                                print_graph(graph), texts, sizes)
            made += 1
            yield found.again(models, target, threads)


def _schedules(compiled: Compiled, kind: str, model: str, target: Target
               ) -> Iterator[tuple[str, Graph, int, dict[str, Schedule]]]:
    """(label, graph, times it occurs, variants) of every set of a kind."""
    if kind == "fusion":
        for label, graph, boundary in set_graphs(compiled, model):
            yield label, graph, 1, dict(variants(graph, boundary))
    else:
        for label, graph, count in contractions(compiled, model):
            yield label, graph, count, dict(kernel_variants(graph, target, kind == "settings"))


def _seconds(estimate: Any) -> float:
    return 0.0 if estimate is None else float(estimate.seconds)


def _measure(graph: Graph, schedules: Mapping[str, Schedule], target: Target, threads: int,
             rounds: int) -> tuple[tuple[float, ...], dict[str, int]]:
    """Seconds of a call by each schedule, and the sizes that were fed. In every round the programs
    lie elsewhere in memory. Schedules that lead to the same program have its time: their order
    would be that of their places."""
    times: dict[str, list[list[float]]] = {}
    programs: dict[str, str] = {}
    sizes: dict[str, int] = {}
    between: list[bytes] = []
    for turn in range(rounds):
        for k, (name, schedule) in enumerate(schedules.items()):
            compiled = compile_model(graph, schedule=schedule, pipeline="fold", target=target,
                                     threads=threads)
            program = programs[name] = repr(compiled.program)
            if len(times.setdefault(program, [])) > turn:
                continue
            feeds = random_feeds(compiled.inputs, others=OTHERS)
            compiled.run(None, feeds)
            longest = sum(step.seconds for step in profile(compiled.executable, feeds, 1))
            repeats = max(2, min(_REPEATS, int(_BLOCK / longest)))
            steps = profile(compiled.executable, feeds, repeats)
            times[program].append([step.seconds for step in steps])
            sizes = dict(compiled.report().sizes)
            between.append(bytes(_APART * (1 + (turn * len(schedules) + k) % 61)))
    least = {program: sum(map(min, zip(*rows, strict=True))) for program, rows in times.items()}
    return tuple(least[programs[name]] for name in schedules), sizes


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
            if settings := [s for s in c.sets if s.kind == "settings"]:
                row["oracle"], row["chosen"] = oracle(settings, m)
            rows.append(row)
    return rows


def _judged(kind: str, sets: Sequence[DecisionSet], model: str) -> dict[str, Any]:
    """How well a model decides sets of one kind; of kernels also what taking each without settings
    costs, and of all settings what the oracle and the model win, weighted by how often each kernel
    occurs."""
    taus = [kendall(s.measured, s.predicted[model], NOISE) for s in sets]
    row = {f"{kind} sets": len(sets), f"tau in {kind} sets": sum(taus) / len(taus),
           f"regret, {kind}": geomean([s.regret(model) for s in sets]),
           f"regret of 3, {kind}": geomean([s.regret(model, 3) for s in sets])}
    if kind != "fusion":
        row["regret unasked"] = geomean([s.measured[0] / min(s.measured) for s in sets])
    return row


def oracle(sets: Sequence[DecisionSet], model: str) -> tuple[float, float]:
    """What the best variants of kernels, and those that a model chooses, win over kernels without
    settings: time over time, each kernel as often as it occurs."""
    plain = sum(s.count * s.measured[0] for s in sets)
    best = sum(s.count * min(s.measured) for s in sets)
    chosen = sum(s.count * min(s.measured) * s.regret(model) for s in sets)
    return plain / best, plain / chosen


def recorded(path: Path, models: Sequence[str], target: Target, threads: int
             ) -> Iterator[Comparison]:
    """What a file of samples says of each ONNX model, its sets predicted anew."""
    for c in json.loads(path.read_text(encoding="utf-8")):
        sets = [DecisionSet(s["kind"], s["label"], tuple(s["variants"]), tuple(s["measured"]), {},
                            s["count"], s["graph"], tuple(s["schedules"]), s["sizes"])
                for s in c["sets"]]
        yield Comparison(c["name"], [], [s.again(models, target, threads) for s in sets])


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--models", default="bounds,roofline", show_default=True, help="Cost models.")
@click.option("--target", default="cpu", show_default=True, help="Name or target file.")
@click.option("--threads", default=1, show_default=True, help="Threads per call.")
@click.option("--sets", default=20, show_default=True, help="Decision sets per model, at most.")
@click.option("--kinds", default=",".join(KINDS[:2]), show_default=True,
              help=f"Kinds of sets, of {', '.join(KINDS)}.")
@click.option("--rounds", default=_ROUNDS, show_default=True, help="Blocks of calls of a variant.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write all samples there.")
@click.option("--layers", "drawn", default=0, help="Layers drawn at random, instead of files.")
@click.option("--seed", default=0, show_default=True, help="Seed of what is drawn.")
@click.option("--again", "old", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              multiple=True, help="Predict the sets of such a file anew; nothing is measured.")
def main(files: tuple[Path, ...], models: str, target: str, threads: int, sets: int, kinds: str,
         rounds: int, file: Path | None, drawn: int, seed: int, old: tuple[Path, ...]) -> None:
    """Compare predicted with measured times."""
    from ..compiler.options import target_of

    names, machine = models.split(","), target_of(target)
    found = [c for path in old for c in recorded(path, names, machine, threads)]
    sources: list[tuple[str, Any]] = [(path.stem, path) for path in files]
    if drawn:
        sources += layers(seed, drawn)
    elif not files and not old:
        sources = [(path.stem, path) for path in sorted(export_dir().glob("*.onnx"))]
    for name, source in sources:
        compiled = compile_model(source, target=machine, threads=threads)
        feeds = random_feeds(compiled.inputs, others=OTHERS)
        compiled.run(None, feeds)  # the sizes of the report are those of the last call
        one = Comparison(name, kernel_samples(compiled, feeds, names))
        one.sets += decision_sets(compiled, names, sets, machine, threads, kinds.split(","),
                                  rounds)
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
    keep_memory("evonnx.bench.calibration")
    main()
