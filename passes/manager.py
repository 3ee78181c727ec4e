"""The pass manager: passes with pre- and postconditions, pipeline specs, times and counts.

A pass is a function from graph to graph with a name. A spec such as ``"fold,canon,expand:softmax"``
names passes in order; a colon gives a pass options, joined by ``+``. Regions of control flow are
graphs of their own, and every pass runs on them first. After each pass the verifier and the
postcondition may be asked; a failure names the pass.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..ir.builder import Builder
from ..ir.errors import CompileError, EvonnxError, OptionError
from ..ir.graph import Attrs, Graph, Node, Value
from ..ir.ops import OPS
from . import driver
from .driver import Measure, op_weight
from .rebuild import New, inputs_of, with_replaced
from .rule import Rule

Progress = Callable[[str, int, int], None]
"""progress(stage, done, total)."""
Check = Callable[[Graph], bool | str]
"""A condition on graphs: True, or the reason why it does not hold."""


@dataclass
class PassReport:
    """What one pass did."""

    name: str
    seconds: float = 0.0
    nodes_before: int = 0
    nodes_after: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    """Applications by rule."""
    refused: Counter[str] = field(default_factory=Counter)
    """Matches that a condition refused, by rule."""
    sweeps: int = 0
    stopped: str = ""
    """Why the driver ended a loop by force; empty if it did not."""

    def as_dict(self) -> dict[str, object]:
        """Plain data for reports."""
        entry: dict[str, object] = {
            "pass": self.name, "seconds": round(self.seconds, 6),
            "nodes": f"{self.nodes_before} -> {self.nodes_after}", "fired": dict(self.fired),
        }  # fmt: skip
        if self.refused:
            entry["refused"] = dict(self.refused)
        if self.stopped:
            entry["stopped"] = self.stopped
        return entry


class Pass(Protocol):
    """A graph-to-graph function with a name and conditions."""

    @property
    def name(self) -> str:
        """What specs call it."""

    @property
    def doc(self) -> str:
        """One line for people."""

    @property
    def pre(self) -> tuple[Check, ...]:
        """What must hold before."""

    @property
    def post(self) -> tuple[Check, ...]:
        """What holds afterwards."""

    def run(self, graph: Graph, report: PassReport, options: Sequence[str]) -> Graph:
        """The rewritten graph; ``report`` is filled in."""


@dataclass(frozen=True)
class RulePass:
    """Applies a set of rules until none fits."""

    name: str
    rules: tuple[Rule, ...]
    doc: str = ""
    measure: Measure = op_weight
    fuel: int = driver.FUEL
    pre: tuple[Check, ...] = ()
    post: tuple[Check, ...] = ()

    def run(self, graph: Graph, report: PassReport, options: Sequence[str]) -> Graph:
        if options:
            raise OptionError(f"pass {self.name} has no options, got {list(options)}")
        after, done = driver.rewrite(graph, self.rules, self.measure, self.fuel)
        report.fired += done.fired
        report.refused += done.refused
        report.sweeps += done.count
        report.stopped = report.stopped or done.stopped
        return after


@dataclass(frozen=True)
class GraphPass:
    """A pass written as a function (graph, counter of what fired, options) -> graph."""

    name: str
    fn: Callable[[Graph, Counter[str], Sequence[str]], Graph]
    doc: str = ""
    pre: tuple[Check, ...] = ()
    post: tuple[Check, ...] = ()
    options: tuple[str, ...] | None = ()
    """Options it knows; None: any."""

    def run(self, graph: Graph, report: PassReport, options: Sequence[str]) -> Graph:
        if self.options is not None and (odd := [o for o in options if o not in self.options]):
            raise OptionError(f"pass {self.name} has no option {odd}; it has {self.options}")
        return self.fn(graph, report.fired, options)


Step = tuple[str, tuple[str, ...]]
"""(pass name, options)."""


def parse_spec(spec: str, known: Iterable[str]) -> list[Step]:
    """Reads ``"fold,canon,expand:softmax+gelu"``; raises ``OptionError`` for unknown names."""
    names = list(known)
    steps: list[Step] = []
    for item in filter(None, (part.strip() for part in spec.split(","))):
        name, _, options = item.partition(":")
        if name not in names:
            raise OptionError(f"there is no pass {name[:40]!r}; there are {', '.join(names)}")
        steps.append((name, tuple(filter(None, options.split("+")))))
    return steps


def run_steps(
    graph: Graph,
    steps: Sequence[Step],
    passes: Mapping[str, Pass],
    *,
    report: list[PassReport] | None = None,
    progress: Progress | None = None,
    verify: Callable[[Graph], object] | None = None,
    after: Callable[[str, Graph], None] | None = None,
) -> Graph:
    """Runs passes in order. ``report`` gets one entry per pass, ``verify`` is called with every
    result (it raises), ``after`` sees (pass name, graph) for dumps."""
    for done, (name, options) in enumerate(steps):
        if progress is not None:
            progress(f"pass {name}", done, len(steps))
        entry = PassReport(name, nodes_before=len(graph.nodes))
        start = time.perf_counter()
        graph = _run_one(graph, passes[name], entry, options, verify)
        entry.seconds = time.perf_counter() - start
        entry.nodes_after = len(graph.nodes)
        if report is not None:
            report.append(entry)
        if after is not None:
            after(name, graph)
    if progress is not None and steps:
        progress("passes", len(steps), len(steps))
    return graph


def _run_one(
    graph: Graph,
    step: Pass,
    entry: PassReport,
    options: Sequence[str],
    verify: Callable[[Graph], object] | None,
) -> Graph:
    for check in step.pre:
        _ask(check, graph, f"before pass {step.name}")
    graph = in_regions(graph, lambda region: _run_one(region, step, entry, options, None))
    result = step.run(graph, entry, options)
    if verify is not None:
        try:
            verify(result)
        except EvonnxError as e:
            raise CompileError(f"pass {step.name} made a broken graph: {e}") from e
        for check in step.post:
            _ask(check, result, f"after pass {step.name}")
    return result


def _ask(check: Check, graph: Graph, when: str) -> None:
    answer = check(graph)
    if answer is not True:
        raise CompileError(f"{when}: {answer or 'a condition does not hold'}")


_WITH_REGIONS = frozenset(name for name, op in OPS.items() if op.has("control"))


def in_regions(graph: Graph, fn: Callable[[Graph], Graph]) -> Graph:
    """``graph`` with ``fn`` applied to every region graph of its nodes."""
    if not any(n.op in _WITH_REGIONS for n in graph.nodes):
        return graph

    def rewritten(builder: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        attrs = _with_regions(node, fn)
        if attrs is None:
            return None
        return builder.node(node.op, inputs_of(node, new), attrs, types=node.types).outputs

    return with_replaced(graph, rewritten)


def _with_regions(node: Node, fn: Callable[[Graph], Graph]) -> Attrs | None:
    """The node's attributes with their regions rewritten; None if none changed."""
    items = []
    changed = False
    for key, value in node.attrs.items():
        new = fn(value) if isinstance(value, Graph) else value
        changed |= new is not value
        items.append((key, new))
    return Attrs(items) if changed else None


def explain(node: Node, graph: Graph, passes: Iterable[Pass]) -> list[tuple[str, str, str]]:
    """(pass, rule, verdict) for every rule that could be rooted in ``node``: "applies", or the
    first part of the pattern or condition that failed."""
    return [
        (step.name, rule, verdict)
        for step in passes
        if isinstance(step, RulePass)
        for rule, verdict in driver.explain(node, graph, step.rules)
    ]
