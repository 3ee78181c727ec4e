"""Legality and cost of groups of one graph, asked once per structure.

Networks repeat themselves, so that most of the groups a search looks at differ from one another in
nothing that legality or cost depend on. ``structure`` is what they do depend on: operations,
attributes, types and wiring, which values come from constants and which are given. Greedy fusion
and the candidates of a search share one ``Judge``, and what legality found out about a group (the
group as a graph of its own, its tile space) is what its phases are read from.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ..ir.graph import Graph, Node, Value
from ..ir.groups import escaping
from ..ir.types import TensorType
from .cost import GroupCost, group_cost
from .legality import Verdict, judge

Structure = tuple[Hashable, ...]
_Plan = tuple[int, tuple[tuple[Node, int, int, Hashable] | None, ...]]
"""Number of a node's kind, and of each input the node, the output of it, the number of the value,
and what a group may know of it where it comes from outside."""


@dataclass(slots=True)
class _Known:
    verdict: Verdict
    cost: GroupCost | None = None


class Judge:
    """Verdicts and costs of the groups of ``graph``."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[Structure, _Known] = {}
        self._kinds: dict[Hashable, int] = {}
        """Numbers of node kinds and of types, in the order they are met."""
        self._of: dict[Node, _Plan] = {}
        self._values: dict[Value, int] = {}
        """Numbers of the values that nodes read, in the order they are met."""

    def __contains__(self, key: Structure) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)

    def verdict(self, nodes: Sequence[Node]) -> Verdict:
        """Whether ``nodes``, in any order, may be one group that gives all that others need."""
        nodes = sorted(nodes, key=self.graph.index.__getitem__)
        written = escaping(self.graph, nodes)
        return self._ask(self.structure(nodes, written), nodes, written).verdict

    def price(self, key: Structure, nodes: Sequence[Node], written: Sequence[Value]
              ) -> tuple[str, GroupCost] | None:
        """Implementation and cost of ``nodes`` (in the graph's order, of structure ``key``) as one
        group that gives ``written``; None where they cannot be one."""
        known = self._ask(key, nodes, written)
        word = known.verdict.implementation
        if word is None:
            return None
        if known.cost is None:
            known.cost = group_cost(self.graph, word, nodes, written, known.verdict)
            known.verdict = Verdict(word)  # its graph and tile space have served
        return word, known.cost

    def _ask(self, key: Structure, nodes: Sequence[Node], written: Sequence[Value]) -> _Known:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(judge(self.graph, nodes, written))
        return known

    def structure(self, nodes: Sequence[Node], written: Sequence[Value]) -> Structure:
        """What legality and cost of a group depend on, as a key: equal keys, equal answers.
        ``nodes`` in the graph's order."""
        local = {n: i for i, n in enumerate(nodes)}
        given = {(v.node, v.index) for v in written}
        outside: dict[int, int] = {}
        parts: list[Hashable] = []
        for n in nodes:
            kind, inputs = self._of.get(n) or self._plan(n)
            parts.append(kind)
            for read in inputs:
                if read is None:
                    parts.append(None)
                    continue
                node, index, number, source = read
                place = local.get(node)
                parts.append((place, index) if place is not None else
                             (outside.setdefault(number, len(outside)), source))
            parts.append(tuple([(n, k) in given for k in range(len(n.types))]))
        return tuple(parts)

    def _plan(self, node: Node) -> _Plan:
        """What structures say of a node, whatever the group."""
        kind = self._number((node.op, node.attrs, node.types, len(node.inputs)))
        inputs = tuple([None if v is None else (
            v.node, v.index, self._values.setdefault(v, len(self._values)), self._source(v))
            for v in node.inputs])
        found = self._of[node] = kind, inputs
        return found

    def _source(self, v: Value) -> Hashable:
        """What a group may know of a value from outside: its type, whether it is a constant, and
        the content of a constant of one element."""
        kind = self._number(v.type)
        if v.node.op != "const":
            return kind
        scalar = isinstance(v.type, TensorType) and v.type.numel() == 1
        return (kind, v.node.attrs["digest"] if scalar else True)

    def _number(self, what: Hashable) -> int:
        return self._kinds.setdefault(what, len(self._kinds))
