"""Sums of many terms, added in the order in which a schedule of little memory makes the terms.

    (a + b) + c  =  (b + c) + a        where a is made last

A term that is made before its turn in the sum waits in memory; in the order of making, it is added
to the sum so far, one buffer, and is gone. Which order that is depends on the schedule, which comes
later: here a list schedule decides, which takes of the operations that are ready the one that
leaves least live. Randomly wired networks sum over up to a dozen branches. Results are equal up to
the order of summation. ``in_order`` writes down what a search for both decided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..ir.builder import Builder
from ..ir.graph import Graph, Node, Value
from ..ir.ops import OPS
from ..ir.types import F32, F64
from .facts import is_const
from .rebuild import New, carry, with_replaced


def order_sums(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with the terms of its sums of three and more in another order, where that is a
    better one; for tensors of known sizes."""
    sums = sums_of(graph)
    if not sums:
        return graph
    when = {n: k for k, n in enumerate(_frugal(graph))}
    ordered = {n: sorted(terms, key=lambda v: when[_source(v)]) for n, terms in sums.items()}

    def made(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        terms = ordered.get(node)
        if terms is None or terms == sums[node]:
            return None
        if fired is not None:
            fired["order sum"] += 1
        total = new(terms[0])
        for v in terms[1:]:
            total = b.op("add", total, new(v))
        return (total,)

    return with_replaced(graph, made)


def sums_of(graph: Graph) -> dict[Node, list[Value]]:
    """The terms of each sum of three and more, from left to right, by its last addition."""
    sums: dict[Node, list[Value]] = {}
    inner: set[Node] = set()
    for node in reversed(graph.nodes):
        if node not in inner and _adds(node):
            terms = _terms(graph, node, inner)
            if len(terms) > 2:
                sums[node] = terms
    return sums


def in_order(graph: Graph, steps: Iterable[Node | tuple[Node, Value]]) -> Graph:
    """``graph`` with its nodes in the order of ``steps``, each behind what it needs. Where a step
    is a sum, named by its last addition, and one of its terms (``sums_of``), that is added to what
    there is of the sum; all of its terms are added before a step that needs it."""
    builder, mapping = Builder(graph.constants), dict[Value, Value]()
    for v in graph.inputs:
        builder.adopt(v.node)
    done: set[Node] = {v.node for v in graph.inputs}
    totals: dict[Node, Value] = {}
    waiting = {root: len(terms) for root, terms in sums_of(graph).items()}

    def bring(node: Node) -> None:
        stack = [node]
        while stack:
            missing = [n for n in graph.dependencies(stack[-1]) if n not in done]
            if missing:
                stack += missing
            elif (found := stack.pop()) not in done:
                done.add(found)
                carry(builder, found, mapping)

    for step in steps:
        if isinstance(step, Node):
            bring(step)
            continue
        root, term = step
        bring(term.node)
        value, builder.default_origin = mapping.get(term, term), root.origin
        value = builder.op("add", totals[root], value) if root in totals else value
        builder.default_origin = ()
        totals[root] = value
        waiting[root] -= 1
        if not waiting[root]:
            mapping[root.out] = value
            done.add(root)
    for v in graph.output_values:
        bring(v.node)
    return builder.build([(name, mapping.get(v, v)) for name, v in graph.outputs])


def _adds(node: Node) -> bool:
    """Whether a node adds two tensors of floats, element by element."""
    return (node.op == "add" and node.out.dtype in (F32, F64)
            and all(v.shape == node.out.shape and not is_const(v) for v in node.operands))


def _terms(graph: Graph, root: Node, inner: set[Node]) -> list[Value]:
    """The terms of a sum, from left to right; the sums in it, which nobody else reads, become
    ``inner``."""
    found: list[Value] = []
    todo = list(reversed(root.operands))
    while todo:
        v = todo.pop()
        if _adds(v.node) and len(graph.users(v)) == 1 and v not in graph.output_values:
            inner.add(v.node)
            todo += reversed(v.node.operands)
        else:
            found.append(v)
    return found


def _source(v: Value) -> Node:
    """What a term waits for: the node before the elementwise ones of one tensor."""
    node = v.node
    while OPS[node.op].has("elementwise"):
        computed = [u for u in node.operands if not is_const(u)]
        if len(computed) != 1:
            break
        node = computed[0].node
    return node


def _frugal(graph: Graph) -> list[Node]:
    """All nodes in a possible order: of those that are ready the one that leaves least live, then
    the first."""
    waits = {n: len(set(n.operands)) for n in graph.nodes}
    reads = {v: len(graph.users(v)) + (v in graph.output_values)
             for n in graph.nodes for v in n.outputs}  # fmt: skip

    def growth(node: Node) -> int:
        if node.op in ("input", "const"):
            return -1  # takes nothing that a schedule could save
        freed = sum(_bytes(v) for v in set(node.operands) if reads[v] == 1)
        return sum(_bytes(v) for v in node.outputs) - freed

    place = {n: k for k, n in enumerate(graph.nodes)}
    ready = {n for n, count in waits.items() if not count}
    found = []
    while ready:
        best = min(ready, key=lambda n: (growth(n), place[n]))
        ready.remove(best)
        found.append(best)
        for v in set(best.operands):
            reads[v] -= 1
        for v in best.outputs:
            for user in graph.users(v):
                waits[user] -= 1
                if not waits[user]:
                    ready.add(user)
    return found


def _bytes(v: Value) -> int:
    """Bytes of a value that takes memory of its own; 0 where the size is not known."""
    if v.node.op in ("input", "const") or OPS[v.node.op].has("view"):
        return 0
    size = getattr(v.type, "nbytes", lambda: 0)()
    return size if isinstance(size, int) else 0
