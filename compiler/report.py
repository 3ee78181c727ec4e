"""The report of a compilation: what was done, why, and what it should cost.

A ``Report`` is a snapshot. What depends on sizes (C, D, predicted time and memory) is given for the
sizes of the model itself or, where those are symbolic, for the sizes of the call that came last;
the expressions in the model's symbols are kept beside the numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..ir.dim_values import evaluate
from ..ir.dims import Dim, free_symbols
from ..ir.errors import EvonnxError, OptionError, quote
from ..ir.target import Target
from ..ir.types import TensorType
from ..runtime.bindings import Kept
from ..runtime.executable import Executable, Peak
from ..runtime.program import HostStep
from ..search.cost import GroupCost, schedule_cost
from ..search.models import (
    SECONDS,
    CostModel,
    Explanation,
    GroupFacts,
    context_of,
    facts,
    model,
)  # fmt: skip
from .needs import Versions
from .request import Past, Stages


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of operations or bytes that may depend on sizes."""

    value: int | None
    """The number; None while a size in it is unknown."""
    formula: str = ""
    """The expression in the model's symbols; empty for a plain number."""


@dataclass(frozen=True, slots=True)
class GroupLine:
    """One group of the schedule."""

    number: int
    implementation: str
    ops: str
    origin: tuple[str, ...]
    """ONNX nodes it came from."""
    flops: Amount
    """C: scalar operations."""
    nbytes: Amount
    """D: bytes that enter and leave."""
    estimate: Explanation | None
    """Predicted cost and what binds it; None while sizes are unknown."""
    stage: int | None = None
    """Number of its stage in the schedule; None: of none."""
    threads: int | None = None
    """Its share of the threads; None: not given."""
    variant: tuple[tuple[str, int], ...] = ()
    """Settings of its kernel that the schedule gives."""


@dataclass(frozen=True)
class Costs:
    """C and D before and after, as expressions: computed once per compilation."""

    past: Past
    """The imported graph and the way from it."""
    groups: tuple[GroupCost, ...]

    @classmethod
    def of(cls, stages: Stages) -> Costs:
        """Walks both graphs once."""
        return cls(stages.past(), tuple(schedule_cost(stages.graph, stages.schedule)))

    @property
    def after(self) -> tuple[Dim, Dim]:
        """Sums over the groups."""
        flops: Dim = 0
        nbytes: Dim = 0
        for g in self.groups:
            flops, nbytes = flops + g.flops, nbytes + g.nbytes
        return flops, nbytes


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one call; None where not known yet."""

    predicted: Peak | None
    """What the memory plan promises."""
    held: int | None
    """Constants and the memory kept between calls, as allocated; None before the first call."""
    measured: int | None
    """Constants plus the growth of the process's resident memory in ``measure_memory``'s call."""


@dataclass
class Report:
    """Everything ``Compiled.report()`` knows. ``str()`` prints it; ``to_dict()`` is for JSON."""

    target: str
    threads: int
    seconds: dict[str, float]
    """Wall time of each stage."""
    passes: list[dict[str, Any]]
    """Each pass: ``pass``, ``seconds``, ``nodes``, ``fired``; ``refused``, ``stopped`` if any."""
    nodes_before: int
    """Nodes of the imported graph."""
    nodes_after: int
    """Nodes after the passes."""
    groups: list[GroupLine]
    stages: list[tuple[int, ...]]
    """Numbers of the groups that run side by side; views are left out."""
    before: tuple[Amount, Amount]
    """C and D of the imported graph, run op by op."""
    after: tuple[Amount, Amount]
    """C and D of the groups."""
    sizes: dict[str, int]
    """Sizes that numbers stand for, by symbol; empty for a static model or before any call."""
    memory: Memory
    kernels: int
    """Distinct objects of machine code, micro-kernels included."""
    cache_hits: int
    cache_misses: int
    cache_reasons: dict[str, int]
    """Why objects were not taken from the cache."""
    compiled_by: str
    """Who compiled these objects, and why no more did; empty where nobody had to."""
    program: str
    """"cached" if the whole program came from the cache (graphs and passes of this report were
    made again to be shown), "loaded" from an artefact, else why it was compiled."""
    dtypes: dict[str, int]
    """Results by element type."""
    host: list[str] = field(default_factory=list)
    """Steps that run on the host (strings, sequences); empty for a fully native model."""
    bindings: Kept | None = None
    """Memory plans kept for sizes seen before; None before anything is compiled."""
    versions: Versions | None = None
    """What the program depends on and how often it was compiled; None for one program."""
    cost_model: str = ""
    """The model that predicts the time of the groups."""
    search: dict[str, Any] = field(default_factory=dict)
    """How the schedule was found (``search.choose.Choice`` without the schedule); empty where it
    was given."""

    @property
    def rules(self) -> dict[str, int]:
        """Rules that fired, and how often, over all passes."""
        total: Counter[str] = Counter()
        for entry in self.passes:
            total.update(entry["fired"])
        return dict(total.most_common())

    @property
    def predicted_seconds(self) -> float | None:
        """What the cost model predicts for one call; None while sizes are unknown."""
        if any(g.estimate is None for g in self.groups):
            return None
        return sum(max(start + seconds for start, seconds in side_by_side(
            [self.groups[k] for k in stage], self.threads)) for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON. Times are seconds, memory and D bytes, C operations."""
        peak = self.memory.predicted
        measured = self.memory.held if self.memory.measured is None else self.memory.measured
        return {
            "target": self.target, "threads": self.threads, "seconds": dict(self.seconds),
            "passes": list(self.passes), "rules": self.rules,
            "nodes": {"before": self.nodes_before, "after": self.nodes_after},
            "groups": len(self.groups), "group_list": [_group_dict(g) for g in self.groups],
            "cost": {
                "before": _pair(self.before), "after": _pair(self.after),
                "formulas": {k: _formulas(v) for k, v in (("before", self.before),
                                                          ("after", self.after))},
            },
            "sizes": dict(self.sizes),
            "time": {"predicted": self.predicted_seconds, "cost_model": self.cost_model},
            "memory": {
                "predicted_peak": None if peak is None else peak.total,
                "measured_peak": measured,
                "measured_by": "resident memory" if self.memory.measured is not None
                else "allocation" if measured is not None else None,
                "parts": None if peak is None else {
                    "constants": peak.constants, "arena": peak.arena, "scratch": peak.scratch,
                    "outputs": peak.outputs,
                },
            },
            "kernels": self.kernels,
            "cache": {"program": self.program, "hits": self.cache_hits, "misses": self.cache_misses,
                      "reasons": dict(self.cache_reasons)},
            "compiled_by": self.compiled_by,
            "dtypes": dict(self.dtypes), "host": list(self.host),
            "bindings": None if self.bindings is None else asdict(self.bindings),
            "versions": None if self.versions is None else asdict(self.versions),
            "search": dict(self.search),
        }  # fmt: skip

    def __str__(self) -> str:
        from .report_text import render

        return render(self)


def _pair(amounts: tuple[Amount, Amount]) -> dict[str, int | None]:
    return {"C": amounts[0].value, "D": amounts[1].value}


def _formulas(amounts: tuple[Amount, Amount]) -> dict[str, str]:
    return {k: a.formula for k, a in zip("CD", amounts, strict=True) if a.formula}


def _group_dict(g: GroupLine) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "number": g.number, "implementation": g.implementation,
        "variant": dict(g.variant), "ops": g.ops,
        "origin": list(g.origin), **_pair((g.flops, g.nbytes)),
        "seconds": None if g.estimate is None else g.estimate.seconds,
        "stage": g.stage, "threads": g.threads,
        "bound": None if g.estimate is None else g.estimate.bound,
        "bounds": None if g.estimate is None else dict(g.estimate.bounds),
        "advice": None if g.estimate is None else g.estimate.advice,
    }  # fmt: skip
    formulas = _formulas((g.flops, g.nbytes))
    return entry | ({"formulas": formulas} if formulas else {})


def make_report(
    stages: Stages,
    executable: Executable,
    costs: Costs,
    seconds: Mapping[str, float],
    program: str,
    measured: int | None = None,
    cost_model: str | CostModel | None = None,
) -> Report:
    """Collects the report of one compilation. ``program``: where the program came from;
    ``measured``: peak of ``measure_memory``, bytes; ``cost_model`` predicts the times."""
    predictor = predictor_of(cost_model)
    graph, schedule, past = stages.graph, stages.schedule, costs.past
    sizes, memory = _memory(executable, measured)
    records = executable.cache_records
    inner = {f"kernels.{k}": v for k, v in executable.seconds.items() if k != "total"}
    misses = [r for r in records if not r.hit]
    return Report(
        target=executable.target.name,
        threads=executable.threads,
        seconds={**seconds, **inner},
        passes=past.passes,
        nodes_before=past.nodes,
        nodes_after=sum(n.op not in ("input", "const") for n in graph.nodes),
        groups=group_lines(stages, executable, costs, sizes, predictor),
        stages=schedule.stages(),
        before=(_amount(past.work[0], sizes), _amount(past.work[1], sizes)),
        after=(_amount(costs.after[0], sizes), _amount(costs.after[1], sizes)),
        sizes=sizes,
        memory=memory,
        kernels=len(records),
        cache_hits=len(records) - len(misses),
        cache_misses=len(misses),
        cache_reasons=dict(Counter(r.reason for r in misses)),
        compiled_by=executable.parts.code.compiled_by,
        program=program,
        dtypes=dict(Counter(str(t.dtype) for n in graph.nodes for t in n.types
                            if isinstance(t, TensorType)).most_common()),
        host=[s.kind for p in executable.program.walk() for s in p.steps
              if isinstance(s, HostStep)],
        bindings=executable.bindings,
        cost_model=predictor.name,
        search=past.search,
    )  # fmt: skip


def predictor_of(cost_model: str | CostModel | None) -> CostModel:
    """The model that predicts times; raises ``OptionError`` for one that answers something else."""
    predictor = model() if cost_model is None else model(cost_model)
    if predictor.unit != SECONDS:
        raise OptionError(f"the report predicts times, but cost model {quote(predictor.name)} "
                          f"answers {predictor.unit}")
    return predictor


def blank_report(target: Target, threads: int) -> Report:
    """The report of a model none of whose programs is compiled yet."""
    nothing = (Amount(None), Amount(None))
    return Report(
        target=target.name, threads=threads, seconds={}, passes=[], nodes_before=0,
        nodes_after=0, groups=[], stages=[], before=nothing, after=nothing, sizes={},
        memory=Memory(None, None, None), kernels=0, cache_hits=0, cache_misses=0, cache_reasons={},
        compiled_by="", program="not compiled yet: it depends on what is fed", dtypes={},
    )  # fmt: skip


def _memory(executable: Executable, measured: int | None) -> tuple[dict[str, int], Memory]:
    """(sizes of the last call, memory) of an executable."""
    last = executable.last_call()
    held = None if last is None else executable.measured_bytes()
    if last is None and executable.static_shapes() is not None:
        last = {}, executable.predicted_peak()
    sizes, peak = last if last is not None else ({}, None)
    return sizes, Memory(peak, held, measured)


def facts_at(costs: Costs, sizes: Mapping[str, int], target: Target) -> list[GroupFacts] | None:
    """The numbers of every group at ``sizes`` on ``target``; None if not all are known, or they do
    not go together."""
    try:
        return [facts(cost, sizes, target) for cost in costs.groups]
    except EvonnxError:
        return None


def side_by_side(groups: Sequence[GroupLine], threads: int) -> list[tuple[float, float]]:
    """(start, seconds) that are predicted for the groups of one stage, whose estimates are known,
    on so many threads: in their order, each when its share of them is free."""
    free = [0.0] * max(threads, 1)
    found = []
    for g in groups:
        assert g.estimate is not None
        share = min(g.threads or len(free), len(free))
        free.sort()
        start, seconds = free[share - 1], g.estimate.seconds
        free[:share] = [start + seconds] * share
        found.append((start, seconds))
    return found


def group_lines(stages: Stages, executable: Executable, costs: Costs, sizes: Mapping[str, int],
                predictor: CostModel) -> list[GroupLine]:
    """Every group, with the time that ``predictor`` sees for it on its share of the threads."""
    graph, groups = stages.graph, stages.schedule.groups
    estimates: list[Explanation | None] = [None] * len(groups)
    numbers = facts_at(costs, sizes, executable.target)
    if numbers is not None:
        for k, group in enumerate(groups):
            threads = min(group.threads or executable.threads, executable.threads)
            context = context_of(executable.target, threads, numbers)
            estimates[k] = predictor.explain(numbers[k], context)
    lines = []
    for k, (cost, nodes) in enumerate(zip(costs.groups, stages.schedule.members(graph),
                                          strict=True)):  # fmt: skip
        lines.append(GroupLine(
            k, cost.implementation, " ".join(n.op for n in nodes),
            tuple(dict.fromkeys(o for n in nodes for o in n.origin)),
            _amount(cost.flops, sizes), _amount(cost.nbytes, sizes), estimates[k],
            groups[k].stage, groups[k].threads, groups[k].variant,
        ))  # fmt: skip
    return lines


def _amount(d: Dim, sizes: Mapping[str, int]) -> Amount:
    if isinstance(d, int):
        return Amount(d)
    if not free_symbols(d) <= sizes.keys():
        return Amount(None, str(d))
    try:
        return Amount(evaluate(d, sizes), str(d))
    except EvonnxError:  # sizes that do not go together: the call itself says so
        return Amount(None, str(d))
