"""Candidate groups of a graph: which sets of nodes may be one kernel, and what each moves.

A set is a candidate if it is convex (no path leaves it and comes back) and legal
(``legality.implementation``). First come the neighbors of the given schedules: their groups, what
is left of a group when its first or last nodes are cut off, a group with one node more, and two
groups joined. Then groups grow from single nodes along edges, one node at a time, smaller ones
first, bounded per first node and size, so that a region of elementwise operations, where nearly
every subset is legal, does not explode.

Networks repeat themselves: legality and cost are asked once per *structure* (operations,
attributes, types, wiring, and which values come from constants or are needed outside).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.graph import Graph, Node
from ..ir.schedule import Group, Schedule
from ..ir.types import TensorType
from .cost import GroupCost, group_cost
from .greedy import node_kind
from .legality import implementation
from .problem import MOST_NODES

PER_NODE = 8
"""Groups of one size that growth keeps for one first node."""
MOST_CHECKS = 1500
"""Distinct structures whose legality is asked for; a check takes about a millisecond."""

_FORBIDDEN = {("contract", "contract"), ("contract", "reduce"), ("reduce", "contract")}
"""Kinds of producer and consumer that no kernel joins; see ``greedy``."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set of nodes that may be one kernel."""

    nodes: tuple[int, ...]
    """Positions in ``graph.nodes``, ascending."""
    implementation: str
    cost: GroupCost
    """C and D, in the symbols of the model."""


class Candidates:
    """The candidates of one graph; ``given`` schedules are among them."""

    def __init__(self, graph: Graph, given: Iterable[Schedule] = (), most: int = 16) -> None:
        self.graph = graph
        self.ops = [k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const")]
        """Positions of the nodes that are scheduled."""
        self.most = min(most, MOST_NODES)
        """Largest group that growth reaches."""
        self.structures: dict[tuple[Any, ...], tuple[str | None, GroupCost | None]] = {}
        """Verdict and cost by structure."""
        self._number = {graph.nodes[k]: i for i, k in enumerate(self.ops)}
        self._preds = [sorted({self._number[d] for d in graph.dependencies(graph.nodes[k])
                               if d in self._number}) for k in self.ops]
        self._kinds = [node_kind(graph.nodes[k]) for k in self.ops]
        self._succs: list[list[int]] = [[] for _ in self.ops]
        for v, before in enumerate(self._preds):
            for u in before:
                self._succs[u].append(v)
        self._above, self._below = self._closures()
        self.found: dict[tuple[int, ...], Candidate] = {}
        """Candidates by their members, as numbers of scheduled nodes."""
        for v in range(len(self.ops)):
            self._keep((v,))
        for schedule in given:
            self._around([self.members(group) for group in schedule.groups])
        self._grow()

    def members(self, group: Group) -> tuple[int, ...]:
        """A group of a schedule as numbers of scheduled nodes."""
        return tuple(sorted(self._number[self.graph.nodes[k]] for k in group.nodes))

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(before, after), numbers of scheduled nodes."""
        return [(u, v) for v, before in enumerate(self._preds) for u in before]

    def _closures(self) -> tuple[list[int], list[int]]:
        """Bits of everything above and below each node."""
        above, below = [0] * len(self.ops), [0] * len(self.ops)
        for v, before in enumerate(self._preds):
            for u in before:
                above[v] |= above[u] | 1 << u
        for v in reversed(range(len(self.ops))):
            for w in self._succs[v]:
                below[v] |= below[w] | 1 << w
        return above, below

    def _around(self, groups: Sequence[tuple[int, ...]]) -> None:
        """The neighbors of a schedule; its own groups count as legal whatever was asked before."""
        home = {v: members for members in groups for v in members}
        for members in groups:
            self._keep(members, always=True)
        for members in groups:
            for k in range(1, len(members)):
                self._try(members[:k])
                self._try(members[k:])
        for members in groups:
            for grown in self._neighbors(members):
                self._try(grown)
                (added,) = set(grown) - set(members)
                joined = tuple(sorted({*members, *home[added]}))
                if len(joined) <= MOST_NODES:
                    self._try(joined)

    def _try(self, members: tuple[int, ...]) -> bool:
        return self._convex(members) and self._keep(members)

    def _grow(self) -> None:
        level: list[tuple[int, ...]] = [
            (v,) for v in range(len(self.ops)) if self._kinds[v] != "solo"]
        for _ in range(2, self.most + 1):
            following: list[tuple[int, ...]] = []
            count: dict[int, int] = {}
            tried: set[tuple[int, ...]] = set()
            for members in level:
                for grown in self._neighbors(members):
                    if grown in tried or count.get(grown[0], 0) >= PER_NODE:
                        continue
                    tried.add(grown)
                    if self._try(grown):
                        count[grown[0]] = count.get(grown[0], 0) + 1
                        following.append(grown)
            level = following
            if not level:
                break

    def _neighbors(self, members: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
        inside = set(members)
        for v in members:
            for w, pair in [*((u, (u, v)) for u in self._preds[v]),
                            *((w, (v, w)) for w in self._succs[v])]:
                if w in inside or self._kinds[w] == "solo":
                    continue
                if (self._kinds[pair[0]], self._kinds[pair[1]]) in _FORBIDDEN:
                    continue
                yield tuple(sorted((*members, w)))

    def _convex(self, members: tuple[int, ...]) -> bool:
        mask = above = below = 0
        for v in members:
            mask |= 1 << v
            above |= self._above[v]
            below |= self._below[v]
        return not above & below & ~mask

    def _keep(self, members: tuple[int, ...], always: bool = False) -> bool:
        """Adds a candidate if it is legal. Structures beyond ``MOST_CHECKS`` are not asked for,
        except with ``always``."""
        if members in self.found:
            return True
        nodes = [self.graph.nodes[self.ops[v]] for v in members]
        key = structure(self.graph, nodes)
        known = self.structures.get(key)
        if known is None:
            if len(self.structures) >= MOST_CHECKS and len(members) > 1 and not always:
                return False
            word, _ = implementation(self.graph, nodes)
            cost = None if word is None else group_cost(self.graph, word, nodes)
            known = self.structures[key] = word, cost
        word, cost = known
        if word is None or cost is None:
            return False
        positions = tuple(self.ops[v] for v in members)
        self.found[members] = Candidate(positions, word, cost)
        return True


def structure(graph: Graph, nodes: Sequence[Node]) -> tuple[Any, ...]:
    """What legality and cost of a group depend on, as a key: equal keys, equal answers."""
    local = {n: i for i, n in enumerate(nodes)}
    outside: dict[Any, int] = {}
    parts = []
    for n in nodes:
        wires: list[Any] = []
        for v in n.inputs:
            if v is None:
                wires.append(None)
            elif v.node in local:
                wires.append((local[v.node], v.index))
            else:
                constant = v.node.op == "const"
                scalar = constant and isinstance(v.type, TensorType) and v.type.numel() == 1
                content = v.node.attrs["digest"] if scalar else constant
                wires.append((outside.setdefault(v, len(outside)), content, v.type))
        needed = tuple(v in graph.output_values or any(u not in local for u in graph.users(v))
                       for v in n.outputs)
        parts.append((n.op, n.attrs, n.types, tuple(wires), needed))
    return tuple(parts)


def schedule_of(graph: Graph, chosen: Iterable[Candidate]) -> Schedule:
    """The schedule that runs candidates in this order."""
    return Schedule(graph.digest, tuple(Group(c.nodes, c.implementation) for c in chosen))

