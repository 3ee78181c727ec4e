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
from ...ir.dims import Dim, Expr
from ...ir.graph import Graph, Node
from ...ir.schedule import FUSED
from ...ir.target import Target
from ...ir.tiles import BLOCK, tile_rows
from ...ir.variants import Variant
from ..cost import GroupCost, group_cost
from .attention import count_attention
from .base import Context, GroupFacts
from .loops import loop
from .products import count_product

_ROWS, _COLUMNS = 14, 32
"""Rows and columns of a micro-tile, about."""
_LEFT = 3 << 15
"""Elements of the left operand that a tile covers, about."""


class Counted:
    """A group at given sizes, its kernel written as for ``target`` (None: for 32 vector registers
    of 512 bits): what all of its variants have in common is counted once."""

    def __init__(self, cost: GroupCost, sizes: Mapping[str, int], target: Target | None = None
                 ) -> None:
        """Raises ``EvonnxError`` where a symbol has no size, as ``facts`` does."""
        self._sizes, self._target, self._work = sizes, target, cost.work
        self._known: dict[Expr, float] = {}
        number = self._number
        flops = number(cost.flops)
        tiles = _tiles(cost.implementation, number(cost.positions), number(cost.points),
                       number(cost.columns))
        self._plain = GroupFacts(
            cost.implementation, flops, min(number(cost.special), flops), number(cost.constant),
            number(cost.inputs), number(cost.outputs), number(cost.over), tiles, cost.nodes)

    def _number(self, d: Dim) -> float:
        if isinstance(d, int):
            return float(d)
        found = self._known.get(d)
        if found is None:
            found = self._known[d] = float(estimate(d, self._sizes))
        return found

    def facts(self, variant: Variant = ()) -> GroupFacts:
        """The numbers of the group in a variant."""
        plain, work = self._plain, self._work
        if work is None:
            return plain
        phases = [loop(w, self._number) for w in work.loops]
        tiles, kernels, spread = plain.tiles, 1, 0.0
        if work.product is not None:
            count = count_product(work.product, self._number, variant, self._target)
            phases, tiles, spread = count.phases, count.tiles, count.spread
            kernels = 1 if work.product.pack is None else 2
        if work.attention is not None:
            count = count_attention(work.attention, self._number, self._target)
            phases, tiles = count.phases, count.tiles
        return GroupFacts(
            plain.implementation, plain.flops, plain.special, plain.constant + spread, plain.inputs,
            plain.outputs, plain.over, tiles, plain.nodes, kernels, tuple(phases))


def facts(cost: GroupCost, sizes: Mapping[str, int], target: Target | None = None) -> GroupFacts:
    """The numbers of a group at sizes, in its variant; see ``Counted``."""
    return Counted(cost, sizes, target).facts(cost.variant)


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
