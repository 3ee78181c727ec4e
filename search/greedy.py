"""Greedy fusion: the first schedule, and the one every search starts from.

Nodes are visited in topological order; each starts a group of its own and then swallows the groups
of its producers, the heaviest kind first: a contraction takes the maps that follow it (epilogue),
a reduction takes the maps around it and reductions over the same tiles, maps chain. A merge must
be legal, must not close a cycle between groups, and must not make a value that others need be
computed or stored twice. Cycles are found with bit sets of ancestors that are closed over groups.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from ..ir.contraction import ContractionSpace
from ..ir.errors import CompileError
from ..ir.graph import Graph, Node
from ..ir.grids import FEW_CHANNELS
from ..ir.ops import lookup
from ..ir.schedule import Group, Schedule
from ..ir.types import BF16, F32
from .judge import Judge
from .legality import Verdict, alone

PIECE = 16
"""Neighboring columns of a product that have to stay together: a vector of 512 bits."""
_RANK = {"solo": 0, "map": 1, "reduce": 2, "contract": 3}


@dataclass(slots=True)
class _Group:
    nodes: list[Node]
    kind: str
    mask: int
    """Bits of all groups merged into this one."""
    ancestors: int
    """Bits of all groups this one depends on, through any path."""


def node_kind(node: Node) -> str:
    """What a node is to fusion: solo, map, reduce or contract."""
    definition = lookup(node.op)
    if alone(node) is not None:
        return "solo"
    if definition.has("contraction") or definition.has("attention"):
        return "contract"
    if definition.has("reduction") or definition.expand is not None and node.op != "gelu":
        return "reduce"
    return "map"


def depthwise(node: Node) -> bool:
    """Whether a node is a convolution of each channel by itself."""
    columns = node.out.shape[1 if node.attrs.get("layout") == "first" else -1] if (
        node.op == "conv") else 0
    return bool(columns) and node.attrs["groups"] == columns


def widens_pixels(node: Node) -> bool:
    """Whether a node is a pointwise convolution of few channels, which windows compute."""
    if node.op != "conv" or node.attrs["groups"] != 1 or node.attrs["layout"] != "last":
        return False
    *taps, before, _ = node.operands[1].shape
    return all(k == 1 for k in taps) and isinstance(before, int) and before <= FEW_CHANNELS


def moves(node: Node) -> bool:
    """Whether a node only says where elements lie."""
    return lookup(node.op).has("movement") and not lookup(node.op).has("gather")


def widens_weights(node: Node) -> bool:
    """Whether a node widens a constant of bfloat16, which micro-kernels do by themselves."""
    return (node.op == "cast" and node.out.dtype == F32
            and node.operands[0].node.op == "const" and node.operands[0].dtype == BF16)


class Fuser:
    """State of one greedy run; ``refusals`` keeps the first reason per (producer, consumer)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.judge = Judge(graph)
        self.of: dict[Node, _Group] = {}
        self.groups: list[_Group] = []
        self.refusals: dict[tuple[Node, Node], str] = {}

    def run(self) -> Schedule:
        """Visits every node once."""
        for node in self.graph.nodes:
            if node.op in ("input", "const"):
                continue
            self.visit(node)
        return self.schedule()

    def visit(self, node: Node) -> None:
        """Opens a group for ``node`` and merges producers into it."""
        bit = 1 << len(self.groups)
        ancestors = 0
        for dep in self.graph.dependencies(node):
            group = self.of.get(dep)
            if group is not None:
                ancestors |= group.mask | group.ancestors
        mine = _Group([node], node_kind(node), bit, ancestors)
        self.groups.append(mine)
        self.of[node] = mine
        if mine.kind == "solo" or self.widened(node) is not None:
            return
        producers = [v.node for v in node.operands if v.node in self.of]
        for producer in sorted(dict.fromkeys(producers),
                               key=lambda p: -_RANK[self.of[p].kind]):
            theirs, mine = self.of[producer], self.of[node]
            if theirs is mine:
                continue
            reason = self.refuse(theirs, mine, producer, node)
            if reason is None:
                self.merge(theirs, mine)
            else:
                self.refusals.setdefault((producer, node), reason)

    def widened(self, node: Node) -> Node | None:
        """The depthwise convolution that reads its pixels as the bytes which ``node`` widens: that
        goes with the reader, for a quarter of the traffic. None for other nodes."""
        if node.op != "cast" or node.operands[0].dtype.bits != 8 or node.out.dtype != F32:
            return None
        chain = [node]
        while chain[-1].op != "conv":
            users = self.graph.users(chain[-1].out)
            if len(users) != 1 or chain[-1].out in self.graph.output_values:
                return None
            user, = users
            if user.op not in ("sub", "conv") or len(chain) == 3 or user.operands[1] in (
                n.out for n in chain
            ):
                return None
            chain.append(user)
        conv = chain[-1]
        return conv if self.judge.verdict(chain).implementation == "contract" else None

    def refuse(self, theirs: _Group, mine: _Group, producer: Node, node: Node) -> str | None:
        """Why the producer's group may not be merged into the consumer's; None if it may."""
        kinds = (theirs.kind, mine.kind)
        if "solo" in kinds:
            return f"{producer.op if theirs.kind == 'solo' else node.op} is a step of its own"
        if kinds == ("contract", "contract") or kinds in (("contract", "reduce"),
                                                           ("reduce", "contract")):
            return f"a {kinds[0]} group does not feed a {kinds[1]} group in one kernel"
        if kinds == ("map", "contract"):
            free = all(moves(n) or widens_weights(n) and n.out == node.operands[1]
                       for n in theirs.nodes)
            bytes_ = self.widened(theirs.nodes[0]) is node
            if not bytes_ and (not free or node.op not in ("dot", "attention")):
                return "operands of a micro-kernel are only moved, not computed, on the way in"
        if self.is_view(node) and self.escapes_besides(theirs, node):
            return "a view of a value that others need costs nothing"
        if self.cyclic(theirs, mine):
            return "another group lies between the two"
        reason = self.outputs_refused(theirs, mine)
        if reason:
            return reason
        verdict = self.judge.verdict([*theirs.nodes, *mine.nodes])
        if verdict.implementation is not None and self.scatters_columns(theirs, verdict):
            return f"it would cut the columns of the product into pieces of less than {PIECE}"
        return None if verdict.implementation is not None else verdict.reason

    def scatters_columns(self, theirs: _Group, verdict: Verdict) -> bool:
        """Whether what follows a product leaves so few neighboring columns that micro-kernels,
        which compute vectors of them, would waste most of their work."""
        after = verdict.tiles
        if theirs.kind != "contract" or not isinstance(after, ContractionSpace):
            return False
        before = self.judge.verdict(theirs.nodes).tiles
        if not isinstance(before, ContractionSpace) or not before.columns or not after.columns:
            return False
        columns, left = before.columns[-1].hi, after.columns[-1].hi
        return isinstance(left, int) and left < PIECE and columns != left

    def is_view(self, node: Node) -> bool:
        return lookup(node.op).has("view")

    def escapes_besides(self, group: _Group, node: Node) -> bool:
        inside = set(group.nodes) | {node}
        return any(v in self.graph.output_values or any(u not in inside
                                                        for u in self.graph.users(v))
                   for v in node.operands)

    def outputs_refused(self, theirs: _Group, mine: _Group) -> str | None:
        """A merged map writes one index space; other kinds let legality decide."""
        inside = {*theirs.nodes, *mine.nodes}
        shapes = set()
        for n in inside:
            for v in n.outputs:
                if v in self.graph.output_values or any(u not in inside
                                                        for u in self.graph.users(v)):
                    shapes.add(v.shape)
        if len(shapes) > 1 and "reduce" not in (theirs.kind, mine.kind):
            return "the group would write two index spaces"
        return None

    def cyclic(self, theirs: _Group, mine: _Group) -> bool:
        """Whether a path leaves the merged group and comes back."""
        mask = theirs.mask | mine.mask
        for n in (*theirs.nodes, *mine.nodes):
            for dep in self.graph.dependencies(n):
                group = self.of.get(dep)
                if group is None or group is theirs or group is mine:
                    continue
                if group.ancestors & mask:
                    return True
        return False

    def merge(self, theirs: _Group, mine: _Group) -> None:
        """Joins two groups and closes the ancestor sets of everything after them."""
        mine.nodes = [*theirs.nodes, *mine.nodes]
        mine.mask |= theirs.mask
        mine.ancestors = (mine.ancestors | theirs.ancestors) & ~mine.mask
        if _RANK[theirs.kind] > _RANK[mine.kind]:
            mine.kind = theirs.kind
        for n in theirs.nodes:
            self.of[n] = mine
        theirs.nodes = []
        gained = mine.ancestors | mine.mask
        for group in self.groups:
            if group.nodes and group is not mine and group.ancestors & mine.mask:
                group.ancestors |= gained

    def schedule(self) -> Schedule:
        """The groups in a topological order that follows the graph's own."""
        live = [g for g in self.groups if g.nodes]
        number = {id(g): k for k, g in enumerate(live)}
        waits: list[set[int]] = []
        feeds: list[list[int]] = [[] for _ in live]
        for k, g in enumerate(live):
            needs = {number[id(self.of[d])] for n in g.nodes for d in self.graph.dependencies(n)
                     if d in self.of} - {k}
            waits.append(needs)
            for d in needs:
                feeds[d].append(k)
        first = [min(self.graph.index[n] for n in g.nodes) for g in live]
        ready = [(first[k], k) for k in range(len(live)) if not waits[k]]
        heapq.heapify(ready)
        groups: list[Group] = []
        while ready:
            _, k = heapq.heappop(ready)
            groups.append(self.group(live[k]))
            for d in feeds[k]:
                waits[d].discard(k)
                if not waits[d]:
                    heapq.heappush(ready, (first[d], d))
        return Schedule(self.graph.digest, tuple(groups))

    def group(self, g: _Group) -> Group:
        nodes = sorted(self.graph.index[n] for n in g.nodes)
        verdict = self.judge.verdict([self.graph.nodes[i] for i in nodes])
        if verdict.implementation is None:
            ops = " ".join(self.graph.nodes[i].op for i in nodes)
            origin = ", ".join(dict.fromkeys(o for n in g.nodes for o in n.origin))
            raise CompileError(
                f"{ops} (from {origin}) cannot run as one kernel: {verdict.reason}; a "
                f"composite without a kernel of its own needs the pass `expand:{g.nodes[0].op}`")
        return Group(tuple(nodes), verdict.implementation)


def greedy(graph: Graph) -> Schedule:
    """A good schedule, quickly; deterministic."""
    return Fuser(graph).run()
