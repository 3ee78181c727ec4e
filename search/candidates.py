"""Candidate groups of a graph: which sets of nodes may be one kernel, and what each moves.

A set is a candidate if it is convex (no path leaves it and comes back) and legal
(``legality.judge``). First come the neighbors of the given schedules: their groups, what
is left of a group when its first or last nodes are cut off, a group with one node more, two groups
joined along an edge, and two that read the same value (siblings in one kernel). Then groups grow
from single nodes along edges, one node at a time, smaller ones first, bounded per first node and
size, so that a region of elementwise operations, where nearly every subset is legal, does not
explode.

*Recomputation.* What is searched are *units*. A cheap node with a few consumers is as many units,
one per consumer: the unit is that consumer's copy of the value, and it lies in the group that the
consumer takes the value from. A group with all copies computes the node once and writes it for the
consumers outside; a group that is a consumer with its own copy computes the node again and reads
nothing. So a partition of the units says who computes what again, every cost still belongs to one
group, and nothing else in the search has to know: orders, cuts and proofs speak of units.

Networks repeat themselves: legality and cost are asked once per *structure* (``judge``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..ir.graph import Graph, Node, Value
from ..ir.ops import lookup
from ..ir.schedule import Group, Schedule
from .cost import GroupCost
from .greedy import depthwise, node_kind, widens_pixels
from .judge import Judge
from .problem import MOST_NODES

PER_NODE = 8
"""Groups of one size that growth keeps for one first unit."""
MOST_CHECKS = 1500
"""Distinct structures whose legality and cost are asked for; each takes about a millisecond."""
USUAL = 16
"""Nodes of a group up to which asking takes the usual time."""
MOST_COPIES = 4
"""A node with more consumers than this is not computed again: it has one unit."""
MOST_SIBLINGS = 8
"""Other readers of a value that are tried as siblings of one group."""

_FORBIDDEN = {("contract", "contract"), ("contract", "reduce"), ("reduce", "contract")}
"""Kinds of producer and consumer that no kernel joins, but for a depthwise convolution and the
pointwise ones around it; see ``greedy``."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A set of units that may be one kernel."""

    nodes: tuple[int, ...]
    """Positions in ``graph.nodes`` of what it computes, ascending."""
    implementation: str
    cost: GroupCost
    """C and D, in the symbols of the model."""
    written: tuple[Value, ...]
    """What it gives to other groups."""


class Candidates:
    """The candidates of one graph; ``given`` schedules are among them. ``recompute`` False gives
    every node one unit. ``checks`` bounds the structures that are asked for (None: ``MOST_CHECKS``;
    copies come on top, half as many). ``judge`` is asked; what it knows already counts as
    nothing."""

    def __init__(self, graph: Graph, given: Iterable[Schedule] = (), most: int = 16,
                 recompute: bool = True, checks: int | None = None,
                 judge: Judge | None = None) -> None:
        self.graph = graph
        self.checks = MOST_CHECKS if checks is None else checks
        self.most = min(most, MOST_NODES)
        """Largest group that growth reaches."""
        self.limit = self.checks
        """No further structure is asked for where there are so many."""
        self.judge = Judge(graph) if judge is None else judge
        self.asked = 0
        """Structures that nobody had asked for before; large ones count several times."""
        self.units: list[int] = []
        """Position in ``graph.nodes`` of each unit's node, ascending."""
        self.of: dict[Node, tuple[int, ...]] = {}
        """Units of each scheduled node."""
        self._reader: list[Node | None] = []
        """The one consumer each unit serves; None where it serves all of its node's."""
        given = tuple(given)
        self._number_units(recompute, given)
        self._kinds = [node_kind(graph.nodes[k]) for k in self.units]
        self._above, self._below = self._closures()
        self.found: dict[tuple[int, ...], Candidate] = {}
        """Candidates by their units, ascending."""
        self._refused: set[tuple[int, ...]] = set()
        """Units that are no candidate, or were not asked for since ``limit`` was reached."""
        for units in self.of.values():
            for v in units:
                self._keep((v,))
            self._keep(units)
        for schedule in given:
            self._around(self.assigned(schedule))
        self._grow()
        if len(self.units) > len(self.of):
            self._repeat()

    def _number_units(self, recompute: bool, given: Sequence[Schedule]) -> None:
        """Units of all nodes. Those of a given group whose units would be more than a candidate may
        have get one each."""
        graph = self.graph
        readers: dict[int, tuple[Node | None, ...]] = {}
        for k, node in enumerate(graph.nodes):
            if node.op not in ("input", "const"):
                users = tuple(dict.fromkeys(u for v in node.outputs for u in graph.users(v)))
                several = recompute and repeatable(graph, node, users)
                readers[k] = users if several else (None,)
        for group in (g for schedule in given for g in schedule.groups):
            if sum(len(readers[k]) for k in group.computed) > MOST_NODES:
                readers |= dict.fromkeys(group.computed, (None,))
        for k, copies in readers.items():
            first = len(self.units)
            self.of[graph.nodes[k]] = tuple(range(first, first + len(copies)))
            self.units += [k] * len(copies)
            self._reader += copies
        self._preds: list[list[int]] = [[] for _ in self.units]
        self._succs: list[list[int]] = [[] for _ in self.units]
        for node, units in self.of.items():
            for dep in graph.dependencies(node):
                sources = self.of.get(dep, ())
                for u in sources:
                    if self._reader[u] not in (None, node):
                        continue
                    for v in units:
                        self._succs[u].append(v)
                        self._preds[v].append(u)

    def members(self, group: Group) -> tuple[int, ...]:
        """A group of a schedule that computes nothing again, as units."""
        return tuple(sorted(v for k in group.nodes for v in self.of[self.graph.nodes[k]]))

    def assigned(self, schedule: Schedule) -> list[tuple[int, ...]]:
        """The groups of a schedule as units, in its order: a copy lies in the group that its reader
        takes the value from."""
        held = [set(group.computed) for group in schedule.groups]
        home = {i: k for k, group in enumerate(schedule.groups) for i in group.nodes}
        found: list[list[int]] = [[] for _ in held]
        for v, i in enumerate(self.units):
            reader = self._reader[v]
            k = home[i]
            if reader is not None and i in held[own := home[self.graph.index[reader]]]:
                k = own
            found[k].append(v)
        return [tuple(units) for units in found if units]

    def preds(self, unit: int) -> list[int]:
        """Units that this one reads."""
        return self._preds[unit]

    def succs(self, unit: int) -> list[int]:
        """Units that read this one."""
        return self._succs[unit]

    def kind(self, unit: int) -> str:
        """What its node is to fusion; see ``greedy.node_kind``."""
        return self._kinds[unit]

    @cached_property
    def given(self) -> frozenset[int]:
        """Units whose values are outputs of the graph."""
        outputs = self.graph.output_values
        return frozenset(v for node, units in self.of.items() for v in units
                         if any(o in outputs for o in node.outputs))

    def ask(self, units: tuple[int, ...]) -> Candidate | None:
        """The units, ascending, as a candidate, which they become if they may be one kernel."""
        if units in self.found or self._allowed(units) and self._try(units):
            return self.found[units]
        return None

    def ask_more(self) -> None:
        """Lets as many structures again be asked for."""
        self.limit = max(self.limit, self.asked + self.checks)
        self._refused.clear()

    def _allowed(self, units: tuple[int, ...]) -> bool:
        """Whether kinds go together at all: what greedy fusion does not try is not asked for."""
        inside = set(units)
        return all(self._kinds[v] != "solo" and not self._apart(v, w)
                   for v in units for w in self._succs[v] if w in inside)

    def _apart(self, v: int, w: int) -> bool:
        """Whether the kinds of a unit and of one that reads it never go together."""
        before, behind = (self.graph.nodes[self.units[k]] for k in (v, w))
        if self._kinds[w] == "contract" and (
                depthwise(before) or widens_pixels(before) and depthwise(behind)):
            return False
        return (self._kinds[v], self._kinds[w]) in _FORBIDDEN

    def readers(self, unit: int) -> list[Node]:
        """The nodes that take a value from the unit."""
        only = self._reader[unit]
        if only is not None:
            return [only]
        node = self.graph.nodes[self.units[unit]]
        return list(dict.fromkeys(u for v in node.outputs for u in self.graph.users(v)))

    def independent(self, one: Sequence[int], other: Sequence[int]) -> bool:
        """Whether no path leads from either set of units to the other."""
        mask = sum(1 << v for v in other)
        return not any((self._above[v] | self._below[v]) & mask for v in one)

    def before(self, members: Sequence[int]) -> int:
        """Bits of the units that run before one of the members in every order."""
        mask = 0
        for v in members:
            mask |= self._above[v]
        return mask

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(before, after), units."""
        return [(u, v) for v, before in enumerate(self._preds) for u in before]

    def _closures(self) -> tuple[list[int], list[int]]:
        """Bits of everything above and below each unit."""
        above, below = [0] * len(self.units), [0] * len(self.units)
        for v, before in enumerate(self._preds):
            for u in before:
                above[v] |= above[u] | 1 << u
        for v in reversed(range(len(self.units))):
            for w in self._succs[v]:
                below[v] |= below[w] | 1 << w
        return above, below

    def _around(self, groups: Sequence[tuple[int, ...]]) -> None:
        """The neighbors of a schedule; its own groups count as legal whatever was asked before."""
        home = {v: members for members in groups for v in members}
        for members in groups:
            self._keep(members, always=True)
        self._refused.clear()  # structures that are known from here on are not asked for
        for members in groups:
            for k in range(1, len(members)):
                self._try(members[:k])
                self._try(members[k:])
        lines: list[tuple[int, ...]] = []
        for members in groups:
            for grown in self._neighbors(members):
                self._try(grown)
                added = next(iter(set(grown) - set(members)))
                joined = tuple(sorted({*members, *home[added]}))
                if self._try(joined) and self.found[joined].implementation == "separable":
                    lines.append(joined)
        for members in lines:  # with the third convolution of an inverted residual block
            for grown in self._neighbors(members):
                added = next(iter(set(grown) - set(members)))
                joined = tuple(sorted({*members, *home[added]}))
                self._try(joined)
        for members in groups:
            for added in self._siblings(members):
                joined = tuple(sorted({*members, *home[added]}))
                self._try(joined)

    def _siblings(self, members: tuple[int, ...]) -> Iterable[int]:
        """Units behind the group that read what it reads from other groups."""
        inside, found = set(members), []
        for v in members:
            if self._kinds[v] not in ("map", "reduce"):
                return ()
            for u in self._preds[v]:
                if u not in inside:
                    found += [w for w in self._succs[u]
                              if w > v and w not in inside and self._kinds[w] == self._kinds[v]]
        return list(dict.fromkeys(found))[:MOST_SIBLINGS]

    def _try(self, members: tuple[int, ...]) -> bool:
        """Adds a candidate if it is one, of ``MOST_NODES`` units at most; what was refused is not
        looked at again."""
        if members in self._refused or len(members) > MOST_NODES:
            return False
        if self._convex(members) and self._keep(members):
            return True
        self._refused.add(members)
        return False

    def _grow(self) -> None:
        level = [units for units in self.of.values() if self._kinds[units[0]] != "solo"]
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

    def _repeat(self) -> None:
        """Groups that compute an operand again, and groups without the copies of its readers."""
        self.limit = self.asked + self.checks // 2
        self._refused.clear()
        pending = list(self.found)
        for members in pending:
            inside = set(members)
            wanted: dict[int, list[int]] = {}
            left: dict[int, list[int]] = {}
            for v in members:
                for u in self._preds[v]:
                    if u not in inside and len(self._copies(u)) > 1:
                        wanted.setdefault(self.units[u], []).append(u)
                if len(self._copies(v)) > 1 and not inside.issuperset(self._succs[v]):
                    left.setdefault(self.units[v], []).append(v)
            changed = [(*members, *units) for units in wanted.values()]
            changed += [tuple(inside.difference(units)) for units in left.values()]
            for units in changed:
                grown = tuple(sorted(set(units)))
                fresh = grown and grown not in self.found
                if fresh and self._try(grown) and len(wanted) > 1:
                    pending.append(grown)

    def _copies(self, unit: int) -> tuple[int, ...]:
        return self.of[self.graph.nodes[self.units[unit]]]

    def _neighbors(self, members: tuple[int, ...]) -> Iterable[tuple[int, ...]]:
        """The group with one node more along an edge, with all its copies."""
        inside = set(members)
        for v in members:
            for w, pair in [*((u, (u, v)) for u in self._preds[v]),
                            *((w, (v, w)) for w in self._succs[v])]:
                if w in inside or self._kinds[w] == "solo":
                    continue
                if self._apart(*pair):
                    continue
                yield tuple(sorted({*members, *self._copies(w)}))

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
        positions = tuple(dict.fromkeys(self.units[v] for v in members))
        nodes = [self.graph.nodes[k] for k in positions]
        written = self._written(members, nodes)
        key = self.judge.structure(nodes, written)
        if key not in self.judge:
            if self.asked >= self.limit and len(members) > 1 and not always:
                return False
            self.asked += 1 + len(nodes) // USUAL
        known = self.judge.price(key, nodes, written)
        if known is None:
            return False
        self.found[members] = Candidate(positions, *known, written)
        return True

    def _written(self, members: tuple[int, ...], nodes: Sequence[Node]) -> tuple[Value, ...]:
        """What other groups take from this one: a node's copies for consumers outside."""
        inside, kept, index = set(members), self.graph.output_values, self.graph.index
        found = []
        for node in nodes:
            outside = {self.units[w] for v in self.of[node] if v in inside
                       for w in self._succs[v] if w not in inside}  # fmt: skip
            outputs = node.outputs
            for value in outputs:
                if value in kept or (outside and (len(outputs) == 1 or any(
                        index[u] in outside for u in self.graph.users(value)))):
                    found.append(value)
        return tuple(found)


def repeatable(graph: Graph, node: Node, users: Sequence[Node]) -> bool:
    """Whether computing ``node`` once per user may pay: a map that is not a view, with a few users
    and operands that are not much larger than its result."""
    if not 2 <= len(users) <= MOST_COPIES or len(node.outputs) != 1:
        return False
    value = node.outputs[0]
    if value in graph.output_values or node_kind(node) != "map" or lookup(node.op).has("view"):
        return False
    operands = [v.tensor for v in node.operands if v.node.op != "const"]
    sizes = [t.nbytes() for t in operands]
    own = value.tensor.nbytes()
    if any(isinstance(n, int) != isinstance(own, int) for n in sizes):
        return False
    total = sum(sizes[1:], start=sizes[0]) if sizes else 0
    return total == own or isinstance(total, int) and isinstance(own, int) and total <= 2 * own


def schedule_of(graph: Graph, chosen: Sequence[Candidate],
                stages: Sequence[tuple[int, int] | None] = ()) -> Schedule:
    """The schedule that runs candidates in this order; ``stages`` gives some of them (number of
    their stage, threads). A node in several candidates belongs to the first that gives its value to
    others or, where nobody reads it, to the first that uses it; the rest compute it again, or drop
    it where they made it for a reader who computes it as well."""
    holders: dict[int, list[int]] = {}
    for k, c in enumerate(chosen):
        for i in c.nodes:
            holders.setdefault(i, []).append(k)
    home: dict[int, int] = {}
    using: dict[int, set[int]] = {}
    for i, held in holders.items():
        home[i], using[i] = held[0], set(held)
        if len(held) > 1:
            readers = {k for v in graph.nodes[i].outputs for u in graph.users(v)
                       for k in holders[graph.index[u]]}
            gives = [k for k in held if any(graph.index[v.node] == i for v in chosen[k].written)]
            using[i] &= readers
            home[i] = gives[0] if readers - set(held) else min(using[i])
    groups = []
    for k, c in enumerate(chosen):
        own = tuple(i for i in c.nodes if home[i] == k)
        if own:
            again = tuple(i for i in c.nodes if home[i] != k and k in using[i])
            stage, threads = (stages[k] if stages else None) or (None, None)
            groups.append(Group(own, c.implementation, c.cost.variant, stage, threads, again))
    together = Counter(g.stage for g in groups)
    return Schedule(graph.digest, tuple(
        g if together[g.stage] > 1 else replace(g, stage=None, threads=None) for g in groups))
