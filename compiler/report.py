"""The report of a compilation: what was done, why, and what it should cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..ir.dims import Dim, free_symbols
from ..ir.graph import Graph, Value
from ..ir.groups import escaping
from ..ir.ops import lookup
from ..ir.schedule import Schedule
from ..ir.types import TensorType
from ..runtime.executable import Executable


@dataclass(frozen=True, slots=True)
class GroupLine:
    """One group of the schedule."""

    number: int
    implementation: str
    ops: str
    flops: str
    """C: scalar operations; an expression in the model's symbols where it has any."""
    nbytes: str
    """D: bytes that enter and leave."""


@dataclass
class Report:
    """Everything ``Compiled.report()`` knows. ``str()`` prints it; ``to_dict()`` is for JSON."""

    seconds: dict[str, float]
    """Wall time of each stage."""
    passes: list[dict[str, Any]]
    """Each pass: name, seconds, nodes before and after, rules fired."""
    nodes_imported: int = 0
    nodes: int = 0
    groups: list[GroupLine] = field(default_factory=list)
    c_before: str = ""
    d_before: str = ""
    c_after: str = ""
    d_after: str = ""
    kernels: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cache_reasons: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    host: list[str] = field(default_factory=list)
    """Ops that run on the host (strings, sequences); empty for a fully native model."""
    predicted_peak: int | None = None
    """Bytes; None where it depends on sizes that are not known yet."""
    threads: int = 1
    target: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        from dataclasses import asdict

        return asdict(self)

    def __str__(self) -> str:
        lines = [f"target {self.target}, {self.threads} threads"]
        lines.append("stages: " + ", ".join(f"{k} {v * 1e3:.0f} ms"
                                            for k, v in self.seconds.items()))
        lines.append(f"nodes: {self.nodes_imported} imported, {self.nodes} after the passes, "
                     f"{len(self.groups)} groups, {self.kernels} distinct kernels")
        lines.append(f"C: {self.c_before} -> {self.c_after} operations; "
                     f"D: {self.d_before} -> {self.d_after} bytes")
        if self.predicted_peak is not None:
            lines.append(f"predicted peak: {self.predicted_peak / 2**20:.1f} MiB")
        lines.append(f"kernel cache: {self.cache_hits} hits, {self.cache_misses} misses "
                     f"{self.cache_reasons or ''}")
        lines.append("host steps: " + (", ".join(self.host) if self.host else "none"))
        for p in self.passes:
            fired = ", ".join(f"{k} {v}" for k, v in p.get("fired", {}).items())
            lines.append(f"  pass {p['pass']}: {p.get('seconds', 0) * 1e3:.0f} ms {fired}")
        for g in self.groups:
            lines.append(f"  g{g.number} {g.implementation}: {g.ops}  C {g.flops}  D {g.nbytes}")
        return "\n".join(lines)


def graph_work(graph: Graph) -> tuple[Dim, Dim]:
    """C and D of a graph run op by op: every operand read and every result written."""
    flops: Dim = 0
    nbytes: Dim = 0
    for n in graph.nodes:
        if n.op in ("input", "const"):
            continue
        definition = lookup(n.op)
        work = definition.work(tuple(v.type for v in n.operands), n.attrs, n.types)
        flops = flops + work.flops
        if not definition.has("view"):
            nbytes = nbytes + work.nbytes
    return flops, nbytes


def _shown(d: Dim) -> str:
    text = f"{d:,}" if isinstance(d, int) else str(d)
    return text if len(text) <= 60 else f"f({', '.join(sorted(free_symbols(d)))})"


def make_report(imported: Graph, graph: Graph, schedule: Schedule, executable: Executable,
                passes: list[Any], seconds: dict[str, float]) -> Report:
    """Collects the report of one compilation."""
    from .build import group_work

    report = Report({**seconds, **{f"kernels.{k}": v for k, v in executable.seconds.items()
                                   if k != "total"}},
                    [p.as_dict() for p in passes])
    report.nodes_imported, report.nodes = len(imported.nodes), len(graph.nodes)
    total_c: Dim = 0
    total_d: Dim = 0
    for k, (group, nodes) in enumerate(zip(schedule.groups, schedule.members(graph), strict=True)):
        inside = set(nodes)
        ins = list(dict.fromkeys(v for n in nodes for v in n.operands if v.node not in inside))
        outs: list[Value] = list(escaping(graph, nodes))
        c, d = group_work(list(nodes), ins, outs)
        if group.implementation == "view":
            c, d = 0, 0
        total_c, total_d = total_c + c, total_d + d
        report.groups.append(GroupLine(k, group.implementation, " ".join(n.op for n in nodes),
                                       _shown(c), _shown(d)))
    c, d = graph_work(imported)
    report.c_before, report.d_before = _shown(c), _shown(d)
    report.c_after, report.d_after = _shown(total_c), _shown(total_d)
    records = executable.cache_records
    report.kernels = len(records)
    report.cache_hits = sum(r.hit for r in records)
    report.cache_misses = len(records) - report.cache_hits
    report.cache_reasons = dict(Counter(r.reason for r in records if not r.hit))
    report.dtypes = dict(Counter(str(t.dtype) for n in graph.nodes for t in n.types
                                 if isinstance(t, TensorType)))
    report.host = [n.attrs.get("kind", n.op) for n in graph.nodes if lookup(n.op).has("host")]
    report.predicted_peak = _peak(executable)
    report.threads, report.target = executable.threads, executable.target.name
    return report


def _peak(executable: Executable) -> int | None:
    shapes = executable.static_shapes()
    return None if shapes is None else executable.predicted_peak(shapes).total
