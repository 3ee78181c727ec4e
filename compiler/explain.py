"""Why a node is as it is: its group, the rules that were tried on it, the fusions around it.

Nothing is recomputed by other means than those that decided: rules are matched by the driver that
applies them, refusals are those that greedy fusion recorded, and where nobody tried (a replayed
schedule, a node that is a step of its own) the one legality function is asked about the two groups
together, then whether merging them would close a cycle.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace

from ..ir.errors import EvonnxError, quote
from ..ir.graph import Graph, Node
from ..ir.schedule import Schedule, shown
from ..ir.target import Target
from ..ir.text import namer, node_lines
from ..search.cost import group_cost
from ..search.greedy import Fuser
from ..search.legality import legal
from ..search.models import Context, model
from ..search.space import constant_bytes
from ..search.symbols import sizes_of
from ..search.variants import ranked
from .pipeline import explain as explain_rules

_VARIANTS = 3
"""Variants of a kernel that are listed besides the one scheduled."""
_MOST = 8
"""Nodes that are explained in full where one ONNX name stands for several."""


def explain_node(
    graph: Graph,
    schedule: Schedule,
    fuser: Fuser | None,
    node: str | int | Node,
    imported: Graph | None = None,
    target: Target | None = None,
    threads: int = 1,
    expect: Mapping[str, int] | None = None,
) -> str:
    """Text about ``node``: a node, its number in ``graph.nodes``, the name of the ONNX node it
    came from, or the name of an op that occurs once.

    ``fuser`` is the greedy run that made the schedule, None for a schedule that was given;
    ``imported`` the graph before the passes, to tell a node that was rewritten away from one that
    never was; ``target`` the machine for which variants of its kernel are priced on ``threads``
    threads (None: they are not), at the sizes ``expect`` where these say any. Raises
    ``EvonnxError`` that lists near names.
    """
    found = find_nodes(graph, node, imported)
    context = None if target is None else Context(target, threads, constant_bytes(graph))
    about = Explanation(graph, schedule, fuser, context, sizes_of(graph, expect or {}))
    parts = [about.node(n) for n in found[:_MOST]]
    if len(found) > _MOST:
        rest = ", ".join(str(graph.index[n]) for n in found[_MOST:])
        parts.append(f"and nodes {rest}")
    return "\n\n".join(parts)


def find_nodes(graph: Graph, node: str | int | Node, imported: Graph | None = None
               ) -> list[Node]:
    """The nodes that ``node`` means; see ``explain_node``."""
    if isinstance(node, Node):
        if node not in graph.index:
            raise EvonnxError(f"the node {node.op} is not one of the optimized graph's")
        return [node]
    by_name = [] if isinstance(node, int) else [n for n in graph.nodes if node in n.origin]
    if by_name:
        return by_name
    text = str(node).strip()
    if text.removeprefix("%").isdecimal():
        text = text.removeprefix("%")
        if int(text) >= len(graph.nodes):
            raise EvonnxError(f"there is no node {text}: the nodes are 0 to {len(graph.nodes) - 1}")
        return [graph.nodes[int(text)]]
    by_op = [n for n in graph.nodes if n.op == text]
    if len(by_op) == 1:
        return by_op
    if by_op:
        numbers = ", ".join(str(graph.index[n]) for n in by_op[:20])
        more = f" and {len(by_op) - 20} more" if len(by_op) > 20 else ""
        raise EvonnxError(f"{len(by_op)} nodes are {text}: say which by number: {numbers}{more}")
    if imported is not None and any(text in n.origin for n in imported.nodes):
        raise EvonnxError(f"node {quote(text)} is not in the optimized graph any more: a pass "
                          "folded it, merged it or found it dead; see report().passes")
    raise EvonnxError(f"there is no node {quote(text)}{_near(graph, text)}")


def _near(graph: Graph, text: str) -> str:
    names = dict.fromkeys(name for n in graph.nodes for name in (*n.origin, n.op) if name)
    near = [n for n in names if text.lower() in n.lower()][:5]
    near += [n for n in difflib.get_close_matches(text, names, 5, 0.5) if n not in near]
    if near:
        return "; near names: " + ", ".join(quote(n) for n in near[:6])
    shown = ", ".join(quote(n) for n in list(names)[:6])
    return f"; there are {shown}{', ...' if len(names) > 6 else ''} and the numbers 0 to " \
           f"{len(graph.nodes) - 1}"


class Explanation:
    """Answers about one scheduled graph."""

    def __init__(self, graph: Graph, schedule: Schedule, fuser: Fuser | None,
                 context: Context | None = None, sizes: Mapping[str, int] | None = None) -> None:
        self.graph, self.schedule, self.fuser, self.context = graph, schedule, fuser, context
        self.sizes = dict(sizes or {})
        """What every symbol counts as where variants are priced."""
        self.members = schedule.members(graph)
        self.namer = namer(graph)
        self.group_of: dict[Node, int] = {
            graph.nodes[i]: k for k, group in enumerate(schedule.groups) for i in group.nodes
        }

    def node(self, node: Node) -> str:
        """Everything about one node, several lines."""
        lines = [next(iter(node_lines(node, self.namer, self.graph.constants))).strip()]
        lines.append("  " + self.place(node))
        lines += self.variants(node)
        lines += self.rules(node)
        lines += self.edges(node)
        return "\n".join(lines)

    def place(self, node: Node) -> str:
        """The group the node is in."""
        k = self.group_of.get(node)
        if k is None:
            return f"in no group: {node.op} is memory that is there before the first step"
        others = [n for n in self.members[k] if n is not node]
        listed = ", ".join(self.name(n) for n in others)
        group = self.schedule.groups[k]
        how = f"{group.implementation} {shown(group.variant)}".strip()
        return f"group g{k}, run as {how}, " + (f"together with {listed}" if others else "alone")

    def variants(self, node: Node) -> list[str]:
        """What the kernel of its group would take in other variants."""
        k = self.group_of.get(node)
        if k is None or self.context is None:
            return []
        group = self.schedule.groups[k]
        cost = replace(group_cost(self.graph, group.implementation, self.members[k],
                                  self.schedule.written(self.graph)[k]), variant=group.variant)
        found = model()
        tried = ranked(cost, self.sizes, found, self.context)
        if len(tried) < 2:
            return []
        at = ", ".join(f"{name} = {size}" for name, size in sorted(self.sizes.items()))
        lines = [f"  variants, as {found.name} predicts them{at and f' at {at}'}:"]
        for place, (seconds, variant) in enumerate(tried):
            named = variant in ((), group.variant)
            if place < _VARIANTS or named:
                said = shown(variant) or "without settings"
                mark = ", as scheduled" if variant == group.variant else ""
                lines.append(f"    {seconds * 1e6:.3g} us {said}{mark}")
        return lines

    def rules(self, node: Node) -> list[str]:
        """Every rewriting rule that could be rooted here, with what stopped it."""
        tried = explain_rules(node, self.graph)
        if not tried:
            return [f"  rules: none is rooted in {node.op}"]
        return ["  rules tried:"] + [f"    {step}/{rule}: {verdict}"
                                     for step, rule, verdict in dict.fromkeys(tried)]

    def edges(self, node: Node) -> list[str]:
        """Every producer and consumer, and whether the two share a group."""
        before = dict.fromkeys(v.node for v in node.operands)
        after = dict.fromkeys(u for v in node.outputs for u in self.graph.users(v))
        lines = [f"    {self.name(p)} -> this: {self.edge(p, node)}" for p in before]
        lines += [f"    this -> {self.name(c)}: {self.edge(node, c)}" for c in after]
        if any(v in self.graph.output_values for v in node.outputs):
            lines.append("    this -> an output of the model")
        return ["  fusion:", *lines] if lines else []

    def edge(self, producer: Node, consumer: Node) -> str:
        """Whether a value stays inside a group; if not, why."""
        theirs, mine = self.group_of.get(producer), self.group_of.get(consumer)
        if theirs is None or mine is None:
            return "in memory before the first step" if theirs is None else "not scheduled"
        if theirs == mine:
            return f"fused, in g{mine}"
        if producer in self.members[mine]:
            return f"fused, g{mine} computes it again"
        tried = None if self.fuser is None else self.fuser.refusals.get((producer, consumer))
        if tried is not None:
            return f"not fused: {tried}"
        answer = legal(self.graph, [*self.members[theirs], *self.members[mine]])
        if answer is not True:
            return f"not fused: {answer}"
        if self.between(theirs, mine):
            return "not fused: another group lies between the two"
        return f"legal, but the schedule keeps g{theirs} and g{mine} apart"

    def between(self, first: int, last: int) -> bool:
        """Whether some path from group ``first`` to ``last`` leaves both."""
        ends = {first, last}
        reached = {n for k in ends for n in self.members[k]}
        outside: set[Node] = set()
        for k in range(min(ends), max(ends) + 1):
            for n in self.members[k]:
                deps = set(self.graph.dependencies(n))
                if k == max(ends) and deps & outside:
                    return True
                if k not in ends and deps & (reached | outside):
                    outside.add(n)
        return False

    def name(self, node: Node) -> str:
        """A node in a list: its number, as the text of the graph has it, and its op."""
        return f"%{self.graph.index[node]} {node.op}"

