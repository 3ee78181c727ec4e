"""Which groups write their result over an operand: elementwise operations in place.

Such a result takes no memory, and its lines come and go once. What a kernel may overwrite is
``ir.groups.overwritable``'s to say; whether anybody reads the operand later depends on the order of
the groups: of a schedule it is known (``in_order``), of a candidate only what holds in every order
(``surely``). The runtime (``compiler.reuse``) decides by the buffers of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ..ir.graph import Graph, Node, Value
from ..ir.groups import OVERWRITING, overwritable
from ..ir.ops import lookup
from ..ir.schedule import Schedule
from ..ir.variants import Variant

if TYPE_CHECKING:
    from .candidates import Candidate, Candidates


def base_of(v: Value) -> Value:
    """The value whose memory a chain of views shows."""
    while lookup(v.node.op).has("view"):
        v = v.node.operands[0]
    return v


def behind_views(graph: Graph, users: Sequence[Node]) -> list[Node]:
    """``users`` and, where they are views, whoever reads these."""
    found: dict[Node, None] = {}
    todo = list(users)
    while todo:
        user = todo.pop()
        if user not in found:
            found[user] = None
            if lookup(user.op).has("view"):
                todo += [u for v in user.outputs for u in graph.users(v)]
    return list(found)


def surely(graph: Graph, table: Candidates, units: tuple[int, ...], found: Candidate) -> bool:
    """Whether a candidate writes its result over an operand in every order: all who read that are
    in it or run before it."""
    nodes = [graph.nodes[k] for k in found.nodes]
    early = table.before(units)

    def last(base: Value) -> bool:
        units_of = table.of.get(base.node, ())
        readers = {r for u in units_of for r in behind_views(graph, table.readers(u))}
        return bool(units_of) and all(w in units or early >> w & 1
                                      for r in _kernels(readers) for w in table.of[r])

    return _overwrites(graph, found.implementation, nodes, found.written, found.cost.variant, last)


def in_order(graph: Graph, schedule: Schedule) -> list[bool]:
    """Whether each group of a schedule writes its result over an operand."""
    stages = {k: n for n, stage in enumerate(schedule.stages()) for k in stage}
    members = schedule.members(graph)
    computed: dict[Node, list[int]] = {}
    for k, nodes in enumerate(members):
        for node in nodes:
            computed.setdefault(node, []).append(k)
    found = []
    for k, (group, written) in enumerate(zip(schedule.groups, schedule.written(graph),
                                             strict=True)):

        def last(base: Value, k: int = k) -> bool:
            readers = _kernels(behind_views(graph, graph.users(base)))
            return base.node in computed and all(
                g == k or g < k and stages[g] != stages[k] for r in readers for g in computed[r])

        found.append(_overwrites(graph, group.implementation, members[k], written, group.variant,
                                 last))
    return found


def _overwrites(graph: Graph, implementation: str, nodes: Sequence[Node],
                written: Sequence[Value], variant: Variant, last: Callable[[Value], bool]) -> bool:
    """``last``: whether nobody reads the memory of a value after these nodes."""
    if implementation not in OVERWRITING or not graph.output_values.isdisjoint(written):
        return False  # outputs are memory of the caller's
    for value in overwritable(nodes, written, bool(dict(variant).get("over"))):
        base = base_of(value)
        definition = lookup(base.node.op)
        if (base in graph.output_values or definition.has("control") or definition.has("host")
                or not last(base)):
            continue
        if not any(v.out in graph.output_values for v in behind_views(graph, graph.users(base))
                   if lookup(v.op).has("view")):
            return True
    return False


def _kernels(readers: Iterable[Node]) -> list[Node]:
    """Those that are no views."""
    return [r for r in readers if not lookup(r.op).has("view")]
