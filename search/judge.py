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
        self._of: dict[Node, int] = {}

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
        given = set(written)
        outside: dict[Value, int] = {}
        parts: list[Hashable] = []
        for n in nodes:
            parts.append(self._kind(n))
            for v in n.inputs:
                if v is None:
                    parts.append(None)
                elif v.node in local:
                    parts.append((local[v.node], v.index))
                else:
                    parts.append((outside.setdefault(v, len(outside)), self._source(v)))
            parts.append(tuple([v in given for v in n.outputs]))
        return tuple(parts)

    def _kind(self, node: Node) -> int:
        found = self._of.get(node)
        if found is None:
            found = self._of[node] = self._number((node.op, node.attrs, node.types,
                                                   len(node.inputs)))
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
