"""The schedule: the whole decision about how a graph runs, and nothing else.

A ``Schedule`` is a list of groups in execution order; a group is a set of nodes that become one
kernel, with the implementation that was chosen and its tile sizes. It names nodes by their number
in ``graph.nodes``, so it belongs to one graph, whose digest it carries. It prints and parses, so it
can be edited by hand and replayed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import ParseError, ScheduleError
from .graph import Graph, Node

IMPLEMENTATIONS = ("loops", "contract", "opaque", "view", "bind", "control", "host")
"""loops: emitted loop nests; contract: a micro-kernel with its epilogue; opaque: the op's own
kernel; view: the same memory; bind, control, host: steps of the runtime."""


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that run as one step."""

    nodes: tuple[int, ...]
    """Positions in ``graph.nodes``, ascending."""
    implementation: str
    """One of ``IMPLEMENTATIONS``."""
    tiles: tuple[tuple[str, int], ...] = ()
    """Tile sizes by name; what is absent is chosen by the kernel."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Groups in execution order, for the graph with digest ``graph``."""

    graph: str
    groups: tuple[Group, ...]

    def members(self, graph: Graph) -> list[tuple[Node, ...]]:
        """The nodes of each group."""
        return [tuple(graph.nodes[i] for i in g.nodes) for g in self.groups]

    def __str__(self) -> str:
        return print_schedule(self)


def print_schedule(schedule: Schedule, graph: Graph | None = None) -> str:
    """One group per line; with the graph at hand, ops are shown as a comment."""
    lines = [f"schedule {schedule.graph}"]
    for k, group in enumerate(schedule.groups):
        tiles = " {" + ", ".join(f"{n}={v}" for n, v in group.tiles) + "}" if group.tiles else ""
        nodes = ", ".join(map(str, group.nodes))
        note = ""
        if graph is not None:
            note = "  # " + " ".join(graph.nodes[i].op for i in group.nodes)
        lines.append(f"  g{k} = {group.implementation} [{nodes}]{tiles}{note}")
    return "\n".join(lines) + "\n"


_LINE = re.compile(r"g\d+\s*=\s*(\w+)\s*\[([\d,\s]*)\]\s*(?:\{([^}]*)\})?\s*\Z")


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
                             f"`g0 = IMPLEMENTATION [nodes] {{tile=size}}`")
        nodes = tuple(int(n) for n in match[2].replace(",", " ").split())
        tiles = []
        for item in (match[3] or "").split(","):
            if item.strip():
                name, _, size = item.partition("=")
                if not size.strip().isdigit():
                    raise ParseError(f"schedule line {number}: bad tile size {item.strip()!r}")
                tiles.append((name.strip(), int(size)))
        groups.append(Group(nodes, match[1], tuple(tiles)))
    if not digest:
        raise ParseError("a schedule begins with `schedule DIGEST`")
    return Schedule(digest, tuple(groups))


def check_order(schedule: Schedule, graph: Graph) -> None:
    """Raises ``ScheduleError`` unless the groups partition the graph's nodes (inputs and
    constants aside) and every group comes after what it depends on."""
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
        for dep in graph.dependencies(node):
            if dep.op not in ("input", "const") and place[dep] > place[node]:
                raise ScheduleError(f"group g{place[node]} runs before g{place[dep]}, which "
                                    f"computes its operand {dep.op}")
