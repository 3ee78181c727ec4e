"""From a group to ``GroupFacts``: the expressions of ``search.cost`` at given sizes.

``tiles`` is what lowering will aim at, to within a small factor: flat loops and reductions are cut
into tiles of about ``BLOCK`` steps, whole positions each; a contraction into ``SPLITS`` tiles, or
as many blocks of ``LEFT`` elements of its left operand as there are, but no more than it has
micro-tiles. What has a kernel or a runtime step of its own counts as one tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ...ir.dims import Dim, evaluate
from ...ir.graph import Graph, Node
from ...ir.target import Target
from ...ir.tiles import BLOCK, LEFT, SPLITS
from ..cost import GroupCost, group_cost
from .base import Context, GroupFacts

_ROWS, _COLUMNS, _LANES = 14, 32, 16
"""Rows, columns and columns per vector of a micro-tile, about."""


def facts(cost: GroupCost, sizes: Mapping[str, int]) -> GroupFacts:
    """The numbers of a group at sizes. Raises ``EvonnxError`` where a symbol has no size."""

    def number(d: Dim) -> float:
        return float(d if isinstance(d, int) else evaluate(d, sizes))

    flops, special = number(cost.flops), number(cost.special)
    loops = number(cost.positions), number(cost.points), number(cost.columns)
    contract = cost.implementation == "contract"
    return GroupFacts(
        cost.implementation, flops, min(special, flops), number(cost.constant),
        number(cost.inputs), number(cost.outputs), _tiles(cost.implementation, *loops),
        cost.nodes, _loads(*loops) if contract else 0.0, number(cost.scalars),
        loops[0] * (cost.reductions + 1) if cost.reductions else 0.0,
    )  # fmt: skip


def facts_of(graph: Graph, implementation: str, nodes: Sequence[Node], sizes: Mapping[str, int]
             ) -> GroupFacts:
    """The numbers of ``nodes`` as one group of ``graph`` at ``sizes`` (size by symbol). Raises
    ``EvonnxError`` where a symbol has no size."""
    return facts(group_cost(graph, implementation, nodes), sizes)


def context_of(target: Target, threads: int, groups: Iterable[GroupFacts]) -> Context:
    """The context of a schedule's groups: each constant is read by some group."""
    return Context(target, max(1, threads), float(sum(g.constant for g in groups)))


def _loads(positions: float, points: float, columns: float) -> float:
    """Bytes that a micro-kernel loads: per step of ``k`` a vector for every row and every vector of
    columns of its tile; without columns (depthwise) both operands of every product."""
    rows = min(max(positions / max(columns, 1.0), 1.0), _ROWS)
    per_product = 2.0 if columns <= 1 else 1 / rows + _LANES / _COLUMNS
    return 4.0 * points * per_product


def _tiles(implementation: str, positions: float, points: float, columns: float) -> float:
    if implementation not in ("loops", "contract") or positions <= 0:
        return 1.0
    if implementation == "loops":
        each = max(points / positions, 1.0)
        return float(math.ceil(positions / max(1.0, BLOCK // each)))
    left = points / max(columns, 1.0)
    rows = positions / max(columns, 1.0)
    most = math.ceil(rows / _ROWS) * math.ceil(columns / _COLUMNS)
    return float(min(most, max(SPLITS, math.ceil(left / LEFT))))
