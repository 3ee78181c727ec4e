"""The schedule: the whole decision about how a graph runs, and nothing else.

A ``Schedule`` is a list of groups in execution order; a group is a set of nodes that become one
kernel, with the implementation that was chosen and the settings of its kernel (``variants``). It
names nodes by their number in ``graph.nodes``, so it belongs to one graph, whose digest it carries.
It prints and parses, so it can be edited by hand and replayed:

    schedule 3f1c...
      g0 = loops [4, 5]
      g1 = contract [6, 8] {stage=0, threads=3}
      g2 = loops [7, 9] + [4] {stage=0, threads=1}
      g3 = contract [10] {winograd=2, rows=6}

Every node belongs to one group, which writes its results for whoever reads them. A group may also
compute cheap nodes of other groups *again*, for itself alone, rather than read them: they stand
behind a plus. A value that every reader computes itself is never written.

Groups that follow one another with the same stage number form a *stage*: they run side by side,
each on its share of the threads, and the next group begins when all of them are done. A group
without a stage number leaves it to the runtime what it may overlap with. Views do no work: they
belong to no stage and do not end one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import ParseError, ScheduleError
from .graph import Graph, Node, Value

FUSED = ("loops", "contract", "separable", "attention")
"""loops: emitted loop nests; contract: a micro-kernel with its epilogue; separable: a depthwise
convolution and the pointwise ones around it, in lines; attention: softmax between two contractions,
in blocks. All of them are written from the group as a graph of its own."""
IMPLEMENTATIONS = (*FUSED, "opaque", "view", "bind", "control", "host")
"""opaque: the op's own kernel; view: the same memory; bind, control, host: steps of the runtime."""
KERNELS = (*FUSED, "opaque")
"""Of these, what runs as kernels, on any number of threads."""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that run as one step."""

    nodes: tuple[int, ...]
    """Positions in ``graph.nodes``, ascending."""
    implementation: str
    """One of ``IMPLEMENTATIONS``."""
    variant: tuple[tuple[str, int], ...] = ()
    """Settings of its kernel by name, see ``variants``; what is absent the kernel chooses."""
    stage: int | None = None
    """Number of the stage; None: what it overlaps with is the runtime's to see."""
    threads: int | None = None
    """Threads that work on it, at most those of the team; None: chosen by the runtime."""
    again: tuple[int, ...] = ()
    """Nodes of other groups that this one computes for itself, ascending."""

    @property
    def computed(self) -> tuple[int, ...]:
        """All nodes that the kernel computes, ascending."""
        return tuple(sorted((*self.nodes, *self.again))) if self.again else self.nodes


@dataclass(frozen=True, slots=True)
class Schedule:
    """Groups in execution order, for the graph with digest ``graph``."""

    graph: str
    groups: tuple[Group, ...]

    def members(self, graph: Graph) -> list[tuple[Node, ...]]:
        """The nodes that each group computes."""
        return [tuple(graph.nodes[i] for i in g.computed) for g in self.groups]

    def written(self, graph: Graph) -> list[tuple[Value, ...]]:
        """The values that each group writes: results of its own nodes that are outputs of the graph
        or operands in a group that does not compute them itself."""
        holders: dict[Node, set[int]] = {}
        for k, nodes in enumerate(self.members(graph)):
            for n in nodes:
                holders.setdefault(n, set()).add(k)
        found = []
        for group in self.groups:
            values = []
            for i in group.nodes:
                node = graph.nodes[i]
                for v in node.outputs:
                    if v in graph.output_values or any(
                            not holders.get(u, set()) <= holders[node] for u in graph.users(v)):
                        values.append(v)
            found.append(tuple(values))
        return found

    def stages(self) -> list[tuple[int, ...]]:
        """Numbers of the groups that run side by side, stage by stage; a group without a stage
        number is alone. Views are left out."""
        found: list[tuple[int, ...]] = []
        last: int | None = None
        for k, group in enumerate(self.groups):
            if group.implementation == "view":
                continue
            if group.stage is not None and group.stage == last:
                found[-1] = (*found[-1], k)
            else:
                found.append((k,))
            last = group.stage
        return found

    def __str__(self) -> str:
        return print_schedule(self)


def print_schedule(schedule: Schedule, graph: Graph | None = None) -> str:
    """One group per line; with the graph at hand, ops are shown as a comment."""
    lines = [f"schedule {schedule.graph}"]
    for k, group in enumerate(schedule.groups):
        settings = shown(_settings(group))
        nodes = f"[{', '.join(map(str, group.nodes))}]"
        if group.again:
            nodes += f" + [{', '.join(map(str, group.again))}]"
        note = ""
        if graph is not None:
            note = "  # " + " ".join(graph.nodes[i].op for i in group.computed)
        braces = f" {settings}" if settings else ""
        lines.append(f"  g{k} = {group.implementation} {nodes}{braces}{note}")
    return "\n".join(lines) + "\n"


def shown(variant: Iterable[tuple[str, int]]) -> str:
    """Settings as they stand in braces; "" for none."""
    text = ", ".join(f"{name}={value}" for name, value in variant)
    return f"{{{text}}}" if text else ""


def _settings(group: Group) -> list[tuple[str, int]]:
    """What stands in braces behind a group."""
    own = (("stage", group.stage), ("threads", group.threads))
    return [*((name, value) for name, value in own if value is not None), *group.variant]


_LINE = re.compile(r"g\d+\s*=\s*(\w+)\s*\[([\d,\s]*)\]\s*(?:\+\s*\[([\d,\s]*)\]\s*)?"
                   r"(?:\{([^}]*)\})?\s*\Z")


def parse_schedule(text: str) -> Schedule:
    """Reads what ``print_schedule`` printed; raises ``ParseError`` with the line."""
    digest, groups = "", []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        if line.startswith("schedule "):
            digest = line.split()[1]
            continue
        match = _LINE.match(line)
        if match is None or match[1] not in IMPLEMENTATIONS:
            raise ParseError(f"schedule line {number}: cannot read {line[:80]!r}; expected "
                             f"`g0 = IMPLEMENTATION [nodes] + [again] {{name=number}}`")
        nodes, again = (tuple(int(n) for n in (part or "").replace(",", " ").split())
                        for part in match.group(2, 3))
        settings = _parse_settings(match[4] or "", number)
        stage, threads = settings.pop("stage", None), settings.pop("threads", None)
        groups.append(Group(nodes, match[1], tuple(settings.items()), stage, threads, again))
    if not digest:
        raise ParseError("a schedule begins with `schedule DIGEST`")
    return Schedule(digest, tuple(groups))


def _parse_settings(text: str, number: int) -> dict[str, int]:
    """What stands in the braces of line ``number``, by name."""
    found: dict[str, int] = {}
    for item in text.split(","):
        if not item.strip():
            continue
        name, _, value = (part.strip() for part in item.partition("="))
        if not (name and value.isascii() and value.isdigit()):
            raise ParseError(f"schedule line {number}: bad setting {item.strip()!r}; expected "
                             "stage=NUMBER, threads=NUMBER or a setting of its kernel")
        if name in found:
            raise ParseError(f"schedule line {number}: {name} is given twice")
        found[name] = int(value)
    return found


def check_order(schedule: Schedule, graph: Graph) -> None:
    """Raises ``ScheduleError`` unless the groups partition the graph's nodes (inputs and
    constants aside), every group comes after what it reads, what it computes again belongs to
    another group, and the groups of a stage follow one another and do not depend on one another."""
    if schedule.graph != graph.digest:
        raise ScheduleError(f"the schedule is for graph {schedule.graph[:12]}, "
                            f"this one is {graph.digest[:12]}")
    place: dict[Node, int] = {}
    for k, group in enumerate(schedule.groups):
        for i in group.nodes:
            if not 0 <= i < len(graph.nodes) or graph.nodes[i] in place:
                raise ScheduleError(f"group g{k}: node {i} does not exist or is scheduled twice")
            place[graph.nodes[i]] = k
    for node in graph.nodes:
        if node.op in ("input", "const"):
            continue
        if node not in place:
            raise ScheduleError(f"node {graph.index[node]} ({node.op}) is in no group")
    for k, group in enumerate(schedule.groups):
        for i in group.again:
            known = 0 <= i < len(graph.nodes) and group.again.count(i) == 1
            if not known or place.get(graph.nodes[i], k) == k:
                raise ScheduleError(f"group g{k}: node {i} cannot be computed again: it is no "
                                    "other group's, or listed twice")
    for k, nodes in enumerate(schedule.members(graph)):
        inside = set(nodes)
        for node in nodes:
            for dep in graph.dependencies(node):
                if dep.op not in ("input", "const") and dep not in inside and place[dep] >= k:
                    raise ScheduleError(f"group g{k} runs before g{place[dep]}, which "
                                        f"computes its operand {dep.op}")
    for k, values in enumerate(schedule.written(graph)):
        mine = {graph.nodes[i] for i in schedule.groups[k].nodes}
        if not values and any(u not in mine for n in mine for v in n.outputs
                              for u in graph.users(v)):
            raise ScheduleError(f"group g{k} computes nothing that another group reads: every "
                                "reader computes it again")
    _check_stages(schedule, graph, place)


def _check_stages(schedule: Schedule, graph: Graph, place: dict[Node, int]) -> None:
    """Stages and shares; ``place`` gives the group of every node."""
    for k, group in enumerate(schedule.groups):
        given = [name for name, value in _settings(group) if name in ("stage", "threads")]
        if given and group.implementation not in KERNELS:
            raise ScheduleError(f"group g{k}: {given[0]} is for groups that run as kernels "
                                f"({', '.join(KERNELS)}), not for {group.implementation}")
        if group.threads is not None and group.threads < 1:
            raise ScheduleError(f"group g{k}: its share is {group.threads} threads; it needs one")
    last: dict[int, int] = {}
    for members in schedule.stages():
        stage = schedule.groups[members[0]].stage
        if stage is None:
            continue
        if stage in last:
            raise ScheduleError(f"groups g{last[stage]} and g{members[0]} are of stage {stage}, but"
                                " not what is between them: the groups of a stage follow one "
                                "another")
        last[stage] = members[-1]
        for k in members:
            for other in _needs(graph, schedule.groups[k], schedule.groups, place):
                if other in members and other != k:
                    raise ScheduleError(f"group g{k} needs what g{other} computes: they cannot run "
                                        f"side by side in stage {stage}")


def _needs(graph: Graph, group: Group, groups: Sequence[Group], place: dict[Node, int]
           ) -> set[int]:
    """Groups whose results ``group`` reads, seen through views."""
    found: set[int] = set()
    todo = [graph.nodes[i] for i in group.computed]
    inside = set(todo)
    while todo:
        for dep in graph.dependencies(todo.pop()):
            if dep not in place or dep in inside:
                continue
            if groups[place[dep]].implementation == "view":
                todo.append(dep)
            else:
                found.add(place[dep])
    return found
