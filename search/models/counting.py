"""From a group to ``GroupFacts``: the expressions of ``search.cost`` at given sizes.

``tiles`` is what lowering will aim at, to within a small factor: flat loops and reductions are cut
into tiles of about ``BLOCK`` steps, whole positions each; a contraction into blocks of rows times
blocks of panels (``products``). What has a kernel or a runtime step of its own counts as one tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ...ir.contraction import SPLITS
from ...ir.dim_values import estimate
from ...ir.dims import Dim
from ...ir.graph import Graph, Node
from ...ir.schedule import FUSED
from ...ir.target import Target
from ...ir.tiles import BLOCK, tile_rows
from ..cost import GroupCost, group_cost
from .attention import count_attention
from .base import Context, GroupFacts, Phase
from .loops import loop
from .products import count_product

_ROWS, _COLUMNS = 14, 32
"""Rows and columns of a micro-tile, about."""
_LEFT = 3 << 15
"""Elements of the left operand that a tile covers, about."""


def facts(cost: GroupCost, sizes: Mapping[str, int], target: Target | None = None) -> GroupFacts:
    """The numbers of a group at sizes, its kernel written as for ``target`` (None: for 32 vector
    registers of 512 bits). Raises ``EvonnxError`` where a symbol has no size."""

    def number(d: Dim) -> float:
        return float(d if isinstance(d, int) else estimate(d, sizes))

    flops, special = number(cost.flops), number(cost.special)
    tiles = _tiles(cost.implementation, number(cost.positions), number(cost.points),
                   number(cost.columns))
    phases: list[Phase] = []
    kernels, spread = 1, 0.0
    if cost.work is not None:
        phases = [loop(w, number) for w in cost.work.loops]
        if cost.work.product is not None:
            count = count_product(cost.work.product, number, cost.variant, target)
            phases, tiles, spread = count.phases, count.tiles, count.spread
            kernels = 1 if cost.work.product.pack is None else 2
        if cost.work.attention is not None:
            count = count_attention(cost.work.attention, number, target)
            phases, tiles = count.phases, count.tiles
    return GroupFacts(
        cost.implementation, flops, min(special, flops), number(cost.constant) + spread,
        number(cost.inputs), number(cost.outputs), number(cost.over), tiles, cost.nodes, kernels,
        tuple(phases),
    )  # fmt: skip


def facts_of(graph: Graph, implementation: str, nodes: Sequence[Node], sizes: Mapping[str, int],
             target: Target | None = None) -> GroupFacts:
    """The numbers of ``nodes`` as one group of ``graph`` at ``sizes`` (size by symbol); ``target``
    as in ``facts``. Raises ``EvonnxError`` where a symbol has no size."""
    return facts(group_cost(graph, implementation, nodes), sizes, target)


def context_of(target: Target, threads: int, groups: Iterable[GroupFacts]) -> Context:
    """The context of a schedule's groups: each constant is read by some group."""
    return Context(target, max(1, threads), float(sum(g.constant for g in groups)))


def _tiles(implementation: str, positions: float, points: float, columns: float) -> float:
    if implementation not in FUSED or positions <= 0:
        return 1.0
    if implementation == "loops":
        each = max(points / positions, 1.0)
        most = max(1.0, BLOCK // each)
        return float(math.ceil(positions / tile_rows(math.ceil(positions), int(most))))
    left = points / max(columns, 1.0)
    rows = positions / max(columns, 1.0)
    most = math.ceil(rows / _ROWS) * math.ceil(columns / _COLUMNS)
    return float(min(most, max(SPLITS, math.ceil(left / _LEFT))))
