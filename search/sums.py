"""The order of the terms of sums that leaves least live, looked for together with the order of all
else.

Nobody needs the terms of a sum of three and more in a certain order. Which order is good depends on
the schedule, and which schedule is good on the order; so here each operation is a step of its own,
and a sum is an image that begins with any of its terms and to which the others are added as they
come. As a problem (``problem``): a node that begins the sum, one per term that adds to it, and
candidates of the beginning with one of these; the beginning alone is none that fits. What is found
is an order of the terms; schedules of the sums in this order are another search's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..ir.graph import Graph, Node, Value
from ..ir.groups import keeps_pixels
from ..ir.ops import lookup
from .overwriting import base_of
from .problem import Problem, make_problem
from .space import arena_bytes

Step = Node | tuple[Node, Value]
"""An operation, or a sum, named by its last addition, and the term that is added to it."""


class FreeSums:
    """The scheduling problem of a graph whose ``sums`` (last addition -> terms) are free.
    ``sizes``: of symbols."""

    def __init__(self, graph: Graph, sums: Mapping[Node, Sequence[Value]], sizes: Mapping[str, int]
                 ) -> None:
        self.graph, self.sums, self.sizes = graph, sums, sizes
        self._inner = {n for root, terms in sums.items() for n in _between(root, terms)}
        self._step: dict[Node, int] = {}
        """Of a node that is a step; of a sum, its beginning."""
        self._edges: set[tuple[int, int]] = set()
        self._readers: dict[Value, list[int]] = {}
        self._reads: list[tuple[Value, ...]] = []
        """Values that each step reads."""
        self._what: list[Step | None] = []
        """What each step is; None: it begins a sum."""
        self._groups: list[tuple[int, ...]] = []
        self._written: list[float] = []
        self._adds: dict[Node, list[int]] = {}
        """Steps that add the terms of a sum."""
        self._walk()
        self.problem = self._problem()

    def steps(self, chosen: Sequence[int]) -> list[Step]:
        """All steps in the order of a solution of ``problem``."""
        order = (self._what[v] for g in chosen for v in self.problem.group(g))
        return [step for step in order if step is not None]

    # -- steps -----------------------------------------------------------------------------

    def _walk(self) -> None:
        folded = {n for terms in self.sums.values() for v in terms for n in self._scales(v)[1]}
        for node in self.graph.nodes:
            if (node.op in ("input", "const") or node in self._inner or node in folded
                    or lookup(node.op).has("view")):
                continue
            terms = self.sums.get(node)
            if terms is None:
                self._step[node] = self._new(node, node.operands)
            else:
                self._step[node] = self._new(None, ())
                self._adds[node] = [self._new((node, v), (self._scales(v)[0],)) for v in terms]

    def _new(self, what: Step | None, operands: Sequence[Value]) -> int:
        number = len(self._reads)
        self._what.append(what)
        held = tuple(dict.fromkeys(b for v in operands if (b := base_of(v)).node.op not in (
            "input", "const")))
        self._reads.append(held)
        for v in held:
            self._readers.setdefault(v, []).append(number)
        return number

    def _scales(self, v: Value) -> tuple[Value, list[Node]]:
        """What a term is made of by elementwise operations of it alone, and these."""
        found: list[Node] = []
        while len(self.graph.users(v)) == 1 and v not in self.graph.output_values:
            computed = [u for u in v.node.operands if u.node.op != "const"]
            if (not lookup(v.node.op).has("elementwise") or len(computed) != 1
                    or computed[0].type != v.type):
                break
            found.append(v.node)
            v = computed[0]
        return v, found

    # -- the problem -----------------------------------------------------------------------

    def _problem(self) -> Problem:
        values, most = [], 1.0
        for node, step in self._step.items():
            parts = self._adds.get(node, [])
            self._edges |= {(step, part) for part in parts}
            for v in node.outputs:
                readers, size = self._readers.get(v, []), self._bytes(v)
                self._edges |= {(u, r) for u in (step, *parts) for r in readers}
                most += size
                if size and (readers or parts):
                    values.append((step, size, sorted({*readers, *parts}), False))
        for node, step in self._step.items():
            if node in self.sums:
                self._sum(node, step, most)
                continue
            over = lookup(node.op).has("elementwise") or keeps_pixels(node)
            over = over and self._over(step, node.out)
            self._add((step,), 0.0 if over else sum(map(self._bytes, node.outputs)))
        return make_problem(len(self._reads), self._edges, self._groups,
                            np.ones(len(self._groups)), values=values, written=self._written)

    def _sum(self, root: Node, begin: int, most: float) -> None:
        """The candidates of a sum; no schedule has ``most`` bytes."""
        self._add((begin,), most)
        for part in self._adds[root]:
            self._add((part,), 0.0)
            over = self._over(part, root.out)
            self._add((begin, part), 0.0 if over else self._bytes(root.out))
            for v in self._reads[part]:  # a contraction that adds to the sum at once
                if lookup(v.node.op).has("contraction") and self._readers[v] == [part]:
                    self._add((self._step[v.node], part), 0.0)

    def _add(self, members: Sequence[int], written: float) -> None:
        self._groups.append(tuple(sorted(members)))
        self._written.append(written)

    def _over(self, step: int, result: Value) -> bool:
        """Whether a step surely writes its result over what it reads."""
        return any(self._readers[v] == [step] and v not in self.graph.output_values
                   and self._bytes(v) == self._bytes(result) for v in self._reads[step])

    def _bytes(self, v: Value) -> float:
        return arena_bytes(self.graph, v, self.sizes)


def _between(root: Node, terms: Sequence[Value]) -> list[Node]:
    """The additions of a sum but the last."""
    found, todo = [], [v.node for v in root.operands if v not in terms]
    while todo:
        node = todo.pop()
        found.append(node)
        todo += [v.node for v in node.operands if v not in terms]
    return found
