"""Whether a search for a faster schedule can pay at all: what ``default`` asks first.

Every schedule starts a kernel for each node that is always alone, one for each contraction (no
kernel holds two, but for a depthwise convolution and the pointwise ones around it), and one at
least where anything else has to be computed. The first take what they take, the others at least
their launch. Where greedy fusion is within ``HARDLY`` of that, or where
there is no second node to fuse, no schedule is noticeably better and the candidates need not be
collected: small models compile as quickly as without a search.
"""

from __future__ import annotations

from ..ir.graph import Graph
from ..ir.ops import lookup
from ..ir.schedule import FUSED, Schedule
from ..ir.target import Target
from .greedy import Fuser, depthwise, node_kind, widens_pixels
from .models import CostModel, GroupFacts, facts
from .models.base import FREE, Context

HARDLY = 1e-6
"""Seconds that nobody notices: a call from Python takes several times as long."""


def fusible(graph: Graph) -> int:
    """Nodes that may share a kernel with others and do work."""
    return sum(n.op not in ("input", "const") and not lookup(n.op).has("view")
               and node_kind(n) != "solo" for n in graph.nodes)


def greedy_facts(fuser: Fuser, schedule: Schedule, sizes: dict[str, int], target: Target
                 ) -> list[GroupFacts]:
    """The numbers of the groups of a schedule that fusion made."""
    graph, found = fuser.graph, []
    known: dict[int, GroupFacts] = {}  # groups of one structure share their cost
    for nodes, written in zip(schedule.members(graph), schedule.written(graph), strict=True):
        priced = fuser.judge.price(fuser.judge.structure(nodes, written), nodes, written)
        assert priced is not None  # fusion made it
        key = id(priced[1])
        if key not in known:
            known[key] = facts(priced[1], sizes, target)
        found.append(known[key])
    return found


def least(graph: Graph, groups: list[GroupFacts], costs: list[float], target: Target) -> float:
    """Seconds that every schedule takes; ``groups`` and ``costs`` are those of one."""
    kinds = [node_kind(n) for n in graph.nodes if n.op not in ("input", "const")
             and not lookup(n.op).has("view")]
    alone = sum(c for g, c in zip(groups, costs, strict=True)
                if g.implementation not in (*FREE, *FUSED))
    shared = sum(depthwise(n) or widens_pixels(n) for n in graph.nodes)
    kernels = max(kinds.count("contract") - shared, int(any(k != "solo" for k in kinds)))
    return alone + kernels * target.launch_s


def spare(fuser: Fuser, schedule: Schedule, model: CostModel, context: Context,
          sizes: dict[str, int]) -> tuple[float, float]:
    """(seconds of a schedule that fusion made, seconds that another may save at most)."""
    groups = greedy_facts(fuser, schedule, sizes, context.target)
    costs = model.costs(groups, context).tolist()
    total = float(sum(costs))
    return total, total - least(fuser.graph, groups, costs, context.target)
