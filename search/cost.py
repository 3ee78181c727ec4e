"""What a schedule costs: the plain sums C and D, and a roofline estimate of its time.

C counts scalar operations, D counts bytes. Run op by op, every node reads its operands from memory
and writes its results; run as groups, only what enters and leaves a group moves, and a view moves
nothing. An operand that is only gathered or sliced counts as what is taken from it.

``Roofline`` (Williams, Waterman and Patterson, "Roofline: an insightful visual performance model",
2009) turns both into seconds. A group on ``t`` threads takes

    max(C / (t * flops * e), D_const / r(constants) + D_moved / r(D_moved)) + launch + sync(t)

``e`` is 0.8 for micro-kernels and 0.25 for emitted loops (few multiply-adds pair up there);
``r(b)`` is the bandwidth of the smallest memory that holds ``b`` bytes: weights come round once per
inference, so what counts for them is the size of all constants together. A group runs on one
thread where that is faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..ir.dims import Dim, dmin
from ..ir.graph import Graph, Node, Value
from ..ir.groups import escaping
from ..ir.ops import lookup
from ..ir.schedule import Schedule
from ..ir.target import Target
from ..ir.types import TensorType

MICRO_KERNEL = 0.8
"""Part of the peak that a contraction micro-kernel reaches."""
LOOPS = 0.25
"""Part of the peak that emitted loops reach."""


@dataclass(frozen=True, slots=True)
class GroupCost:
    """C and D of one group, in the symbols of the model."""

    implementation: str
    flops: Dim
    """Scalar operations."""
    constant: Dim
    """Bytes of constants read."""
    moved: Dim
    """Bytes of other operands and of results."""

    @property
    def nbytes(self) -> Dim:
        """D: everything that enters and leaves."""
        return self.constant + self.moved


def node_flops(node: Node) -> Dim:
    """C of one node."""
    return lookup(node.op).work(tuple(v.type for v in node.operands), node.attrs, node.types).flops


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


def group_cost(graph: Graph, implementation: str, nodes: Sequence[Node]) -> GroupCost:
    """C and D of ``nodes`` as one group of ``graph``."""
    if implementation == "view":
        return GroupCost(implementation, 0, 0, 0)
    inside = set(nodes)
    ins = dict.fromkeys(v for n in nodes for v in n.operands if v.node not in inside)
    return _cost(implementation, nodes, ins, escaping(graph, nodes))


def _cost(implementation: str, nodes: Sequence[Node], ins: Iterable[Value],
          outs: Iterable[Value]) -> GroupCost:
    flops: Dim = 0
    readers: dict[Value, list[Node]] = {}
    for node in nodes:
        flops = flops + node_flops(node)
        for v in dict.fromkeys(node.operands):
            readers.setdefault(v, []).append(node)
    constant: Dim = 0
    moved: Dim = 0
    for v in ins:
        if not isinstance(v.type, TensorType) or v.node.op == "const" and v.shape == ():
            continue  # a scalar is part of the code
        nbytes = read_bytes(v, readers.get(v, ()))
        if v.node.op == "const":
            constant = constant + nbytes
        else:
            moved = moved + nbytes
    for v in outs:
        if isinstance(v.type, TensorType):
            moved = moved + v.type.nbytes()
    return GroupCost(implementation, flops, constant, moved)


def schedule_cost(graph: Graph, schedule: Schedule) -> list[GroupCost]:
    """The cost of every group, in order."""
    return [
        group_cost(graph, group.implementation, nodes)
        for group, nodes in zip(schedule.groups, schedule.members(graph), strict=True)
    ]


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


@dataclass(frozen=True, slots=True)
class Estimate:
    """Predicted time of one group."""

    seconds: float
    bound: str
    """What it waits for: ``compute``, ``memory`` or ``launch``."""


class Roofline:
    """Predicts seconds from C and D; see the module for the formula."""

    def __init__(self, target: Target, threads: int) -> None:
        self.target = target
        self.threads = max(1, threads)

    def bandwidth(self, nbytes: float, threads: int) -> float:
        """Bytes per second from the smallest memory that holds ``nbytes``."""
        t = self.target
        if nbytes <= t.l2_bytes * threads:
            return t.l2_rate * threads
        if nbytes <= t.l3_bytes:
            return t.l3_rate * threads
        return min(t.dram_rate * threads, max(t.dram_rate_all, t.dram_rate))

    def group(self, implementation: str, flops: int, constant: int, moved: int, constants: int
              ) -> Estimate:
        """One group; ``constants`` are the bytes of all constants of the model."""
        if implementation in ("view", "bind"):
            return Estimate(0.0, "launch")
        return min(
            (self._on(t, implementation, flops, constant, moved, constants)
             for t in {1, self.threads}),
            key=lambda e: e.seconds,
        )  # fmt: skip

    def _on(self, threads: int, implementation: str, flops: int, constant: int, moved: int,
            constants: int) -> Estimate:
        t = self.target
        reached = MICRO_KERNEL if implementation == "contract" else LOOPS
        compute = flops / (threads * t.flops * reached)
        memory = constant / self.bandwidth(constants, threads)
        memory += moved / self.bandwidth(moved, threads)
        fixed = t.launch_s + (t.sync_s if threads > 1 else 0.0)
        work = max(compute, memory)
        bound = "launch" if fixed > work else "compute" if compute >= memory else "memory"
        return Estimate(work + fixed, bound)

    def schedule(self, groups: Sequence[tuple[str, int, int, int]]) -> list[Estimate]:
        """Every group of a schedule as (implementation, C, constant bytes, moved bytes)."""
        constants = sum(constant for _, _, constant, _ in groups)
        return [self.group(*group, constants) for group in groups]
