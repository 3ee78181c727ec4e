"""C and D of groups: what a schedule computes and moves, in the symbols of the model.

C counts scalar operations, D counts bytes. Run op by op, every node reads its operands from memory
and writes its results; run as groups, only what enters and leaves a group moves, and a view moves
nothing. An operand that is only gathered or sliced counts as what is taken from it. A composite
counts as its expansion. What all this costs on a machine is the business of ``models``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..ir.builder import Builder
from ..ir.dim_functions import dmax, dmin
from ..ir.dims import Dim
from ..ir.graph import Attrs, Graph, Node, Value
from ..ir.groups import escaping, expand_fully, extract
from ..ir.ops import lookup
from ..ir.schedule import FUSED, Schedule
from ..ir.types import TensorType, Type
from ..ir.variants import Variant
from .legality import Verdict
from .overwriting import in_order
from .phases import group_phases
from .work import Work


@dataclass(frozen=True, slots=True)
class GroupCost:
    """C and D of one group, in the symbols of the model."""

    implementation: str
    flops: Dim = 0
    """Scalar operations."""
    special: Dim = 0
    """Of these: operations of special functions."""
    constant: Dim = 0
    """Bytes of constants read."""
    inputs: Dim = 0
    """Bytes of other operands."""
    outputs: Dim = 0
    """Bytes of results."""
    over: Dim = 0
    """Bytes of results that are written over an operand which nobody needs any more."""
    nodes: int = 1
    """Nodes of the group."""
    positions: Dim = 1
    """Positions that parallel tiles divide: elements of a reduction's result where there is one,
    else of the largest result."""
    points: Dim = 1
    """Steps of the loops over them: positions times what each of them reduces."""
    columns: Dim = 1
    """Columns of a contraction's result that share a row of its left operand."""
    work: Work | None = None
    """The phases of the kernel; None where it has no loops that are known."""
    variant: Variant = ()
    """How the kernel is written, where that is said."""

    @property
    def moved(self) -> Dim:
        """Bytes of operands that other groups wrote, and of results."""
        return self.inputs + self.outputs

    @property
    def nbytes(self) -> Dim:
        """D: everything that enters and leaves."""
        return self.constant + self.moved

    def placed(self, over: bool) -> GroupCost:
        """The same group where its result lies over an operand, or not (``overwriting``)."""
        return replace(self, over=self.outputs if over else 0)


@dataclass(frozen=True, slots=True)
class NodeWork:
    """What one node computes; see ``GroupCost`` for the fields."""

    flops: Dim = 0
    special: Dim = 0
    positions: Dim = 1
    points: Dim = 1
    columns: Dim = 1
    rank: int = 0
    """What decides the loops of a group: 2 a contraction, 1 another reduction, 0 neither."""


def node_work(node: Node) -> NodeWork:
    """C of one node, and the loops that compute it."""
    types = tuple(None if v is None else v.type for v in node.inputs)
    if lookup(node.op).has("control"):  # its attributes hold whole graphs: not to be kept
        return _work(node.op, types, node.attrs, node.types)
    return _cached_work(node.op, types, node.attrs, node.types)


def _work(op: str, types: tuple[Type | None, ...], attrs: Attrs, results: tuple[Type, ...]
          ) -> NodeWork:
    definition = lookup(op)
    if definition.expand is not None:
        b = Builder()
        inputs = tuple(None if t is None else b.input(f"x{k}", t) for k, t in enumerate(types))
        value = expand_fully(b, definition.expand(b, inputs, attrs))
        nodes = b.build({"y": value}).nodes
        return joint_work([node_work(n) for n in nodes if n.op not in ("input", "const")])
    flops = definition.work(tuple(t for t in types if t is not None), attrs, results).flops
    each = definition.flops_per_element
    special: Dim = flops if definition.has("elementwise") and each > 1 else 0
    first = next((t for t in results if isinstance(t, TensorType)), None)
    positions: Dim = 1 if first is None else first.numel()
    contraction = definition.has("contraction")
    rank = 2 if contraction else 1 if definition.has("reduction") else 0
    points = flops // each if rank and definition.access is not None else positions
    columns: Dim = 1
    if contraction and first is not None and first.shape:
        axis = 1 if attrs.get("layout") == "first" else first.rank - 1
        columns = first.shape[axis]
    if isinstance(columns, int) and attrs.get("groups"):
        columns = max(1, columns // int(attrs["groups"]))
    return NodeWork(flops, special, positions, points, columns, rank)


_cached_work = lru_cache(maxsize=1 << 14)(_work)
"""Asked once for all nodes that differ in nothing that matters."""


def joint_work(parts: Sequence[NodeWork]) -> NodeWork:
    """Several nodes as one: their sums, and the loops of the first contraction or, without one,
    the first reduction or, without one, the largest result."""
    flops: Dim = 0
    special: Dim = 0
    main = NodeWork()
    for part in parts:
        flops, special = flops + part.flops, special + part.special
        if part.rank > main.rank:
            main = part
        elif part.rank == main.rank == 0:
            size = dmax(main.positions, part.positions)
            main = NodeWork(positions=size, points=size)
    return replace(main, flops=flops, special=special)


def read_bytes(v: Value, readers: Iterable[Node]) -> Dim:
    """Bytes of ``v`` that ``readers`` take: all of them, or what gathers and slices give out."""
    whole = v.tensor.nbytes()
    taken: Dim = 0
    for node in readers:
        definition = lookup(node.op)
        part = node.op == "slice" or definition.has("gather")
        if not part or node.operands[0] != v or not isinstance(node.types[0], TensorType):
            return whole
        taken = taken + node.types[0].nbytes()
    return dmin(whole, taken)


def group_work(nodes: Sequence[Node], ins: Iterable[Value], outs: Iterable[Value]
               ) -> tuple[Dim, Dim]:
    """C and D of a group that reads ``ins`` and gives ``outs``: all its operations, but only the
    bytes that enter and leave."""
    cost = _cost("", nodes, ins, outs)
    return cost.flops, cost.nbytes


def group_cost(graph: Graph, implementation: str, nodes: Sequence[Node],
               written: Sequence[Value] | None = None, verdict: Verdict | None = None) -> GroupCost:
    """C and D of ``nodes`` as one group of ``graph`` that gives the values ``written`` (None: all
    that are needed outside). ``verdict`` is what legality said of them with this implementation,
    where it was asked just before."""
    if implementation == "view":
        return GroupCost(implementation, nodes=len(nodes))
    if implementation not in FUSED:
        inside = set(nodes)
        ins = dict.fromkeys(v for n in nodes for v in n.operands if v.node not in inside)
        outs = escaping(graph, nodes) if written is None else written
        return _cost(implementation, nodes, ins, outs)
    cut, tiles = (None, None) if verdict is None else (verdict.cut, verdict.tiles)
    group = extract(graph, nodes, written) if cut is None else cut
    cost = _cost(implementation, nodes, group.inputs, group.outputs)
    constants = frozenset(k for k, v in enumerate(group.inputs) if v.node.op == "const")
    return replace(cost, work=group_phases(group.graph, implementation, constants, tiles))


def _cost(implementation: str, nodes: Sequence[Node], ins: Iterable[Value],
          outs: Iterable[Value]) -> GroupCost:
    work = joint_work([node_work(node) for node in nodes])
    readers: dict[Value, list[Node]] = {}
    for node in nodes:
        for v in dict.fromkeys(node.operands):
            readers.setdefault(v, []).append(node)
    constant: Dim = 0
    inputs: Dim = 0
    outputs: Dim = 0
    for v in ins:
        if not isinstance(v.type, TensorType) or v.node.op == "const" and v.shape == ():
            continue  # a scalar is part of the code
        nbytes = read_bytes(v, readers.get(v, ()))
        if v.node.op == "const":
            constant = constant + nbytes
        else:
            inputs = inputs + nbytes
    for v in outs:
        if isinstance(v.type, TensorType):
            outputs = outputs + v.type.nbytes()
    return GroupCost(implementation, work.flops, work.special, constant, inputs, outputs, 0,
                     len(nodes), work.positions, work.points, work.columns)


def schedule_cost(graph: Graph, schedule: Schedule) -> list[GroupCost]:
    """The cost of every group, in order."""
    every = zip(schedule.groups, schedule.members(graph), schedule.written(graph),
                in_order(graph, schedule), strict=True)
    found = []
    for group, nodes, written, over in every:
        cost = group_cost(graph, group.implementation, nodes, written).placed(over)
        found.append(replace(cost, variant=group.variant))
    return found


def unfused_work(graph: Graph) -> tuple[Dim, Dim]:
    """C and D of a graph run op by op. Regions of control flow are not counted."""
    flops: Dim = 0
    nbytes: Dim = 0
    for node in graph.nodes:
        if node.op in ("input", "const"):
            continue
        if lookup(node.op).has("view"):
            continue
        cost = _cost("", (node,), dict.fromkeys(node.operands), node.outputs)
        flops, nbytes = flops + cost.flops, nbytes + cost.nbytes
    return flops, nbytes
