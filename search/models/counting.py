"""From a group to ``GroupFacts``: the expressions of ``search.cost`` at given sizes.

``tiles`` is what lowering will aim at, to within a small factor: flat loops and reductions are cut
into tiles of about ``BLOCK`` steps, whole positions each; a contraction into ``SPLITS`` tiles, or
as many blocks of ``_LEFT`` elements of its left operand as there are, but no more than it has
micro-tiles. What has a kernel or a runtime step of its own counts as one tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ...ir.dims import Dim, evaluate
from ...ir.graph import Graph, Node
from ...ir.target import Target
from ...ir.tiles import BLOCK, SPLITS
from ..cost import GroupCost, group_cost
from ..phases import ROW_DIVISION, TABLE, LoopWork, ProductWork
from .base import Context, GroupFacts, Phase

_ROWS, _COLUMNS, _LANES = 14, 32, 16
"""Rows, columns and columns per vector of a micro-tile, about."""
_LEFT, _CHUNK = 3 << 15, 1024
"""Elements of a chunk of the left operand that a tile covers, and of one of its rows, about."""
_LINE, _SETS, _WAYS = 64, 64, 8
"""Bytes of a line, sets and lines per set of a level-1 cache, about."""
_NEAR = 1 << 14
"""Bytes of scratch that stay in a level-1 cache, about."""
_PIXELS = 4
"""Neighboring pixels of a depthwise window that are computed at once, about."""
_SHARED = 0.5
"""Elements such a window loads per product, about."""


def facts(cost: GroupCost, sizes: Mapping[str, int]) -> GroupFacts:
    """The numbers of a group at sizes. Raises ``EvonnxError`` where a symbol has no size."""

    def number(d: Dim) -> float:
        return float(d if isinstance(d, int) else evaluate(d, sizes))

    flops, special = number(cost.flops), number(cost.special)
    loops = number(cost.positions), number(cost.points), number(cost.columns)
    phases: list[Phase] = []
    if cost.work is not None:
        phases = [_loop(w, number) for w in cost.work.loops]
        if cost.work.product is not None:
            phases += _product(cost.work.product, number)
    packs = cost.work is not None and cost.work.product is not None and \
        cost.work.product.pack is not None
    return GroupFacts(
        cost.implementation, flops, min(special, flops), number(cost.constant),
        number(cost.inputs), number(cost.outputs), _tiles(cost.implementation, *loops),
        cost.nodes, 2 if packs else 1, tuple(phases),
    )  # fmt: skip


def _loop(w: LoopWork, number: Callable[[Dim], float], times: float = 1.0) -> Phase:
    """A loop nest that runs ``times`` times."""
    entries, length = number(w.entries) * times, number(w.length)
    outer = sum(count * number(size) for count, size in w.outer) * times
    return _iterations(w, number, entries, length, outer)


def _strips(w: LoopWork, number: Callable[[Dim], float]) -> Iterator[Phase]:
    """A loop nest whose innermost loop, over columns, is cut into panels: full ones and a rest."""
    entries, length = number(w.entries), number(w.length)
    outer = sum(count * number(size) for count, size in w.outer)
    full, rest = divmod(length, _COLUMNS)
    if full:
        yield _iterations(w, number, entries * full, _COLUMNS, outer)
    if rest:
        yield _iterations(w, number, entries, rest, 0.0 if full else outer)


def _iterations(w: LoopWork, number: Callable[[Dim], float], entries: float, length: float,
                outer: float) -> Phase:
    steps, near, far = entries * length, 0.0, 0.0
    for count, step in w.apart:
        if step is not None and _leaves(abs(number(step)), length):
            far += count
        else:
            near += count
    return Phase(plain=steps * w.plain, special=steps * w.special, loads=steps * w.loads,
                 stores=steps * w.stores, apart=steps * near, far=steps * far, outer=outer,
                 entries=entries, length=length, scalar=float(w.scalar), sums=float(w.sums))


def _leaves(step: float, length: float) -> bool:
    """Whether the lines of memory that a loop touches, ``step`` bytes apart, are more than the
    level-1 cache keeps: steps of many lines fall into few of its sets."""
    if step < _LINE:
        return False
    lines = step / _LINE
    sets = _SETS / math.gcd(int(lines), _SETS) if lines.is_integer() else _SETS
    return length > sets * _WAYS


def _product(p: ProductWork, number: Callable[[Dim], float]) -> list[Phase]:
    """The phases of a contraction. Its tiles are blocks of rows times blocks of panels; rows are
    prepared once per tile, so as often as there are blocks of panels."""
    batches, rows, columns, outer, depth, taps, channels = (
        number(d) for d in (p.batches, p.rows, p.columns, p.outer, p.depth, p.taps, p.channels))
    if channels:  # neighboring pixels share what a row of their windows reads
        products = rows * depth * channels
        calls = math.ceil(rows / _PIXELS) * taps
        found = [Phase(fma=2 * products, loads=4 * _SHARED * products,
                       stores=4 * rows * channels, entries=calls)]
        return found + ([] if p.epilogue is None else [_loop(p.epilogue, number)])
    height = min(max(rows, 1.0), _ROWS)
    panels = outer * math.ceil(columns / _COLUMNS)
    row_blocks = math.ceil(rows / _block_rows(rows, depth))
    tiles = max(batches * row_blocks, 1.0)
    panel_blocks = math.ceil(panels / max(1, math.ceil(panels * tiles / SPLITS)))
    width = min(_COLUMNS, math.ceil(columns / _LANES) * _LANES)
    padded = outer * math.ceil(columns / width) * width
    found = []
    if p.pack is not None:
        found += _strips(p.pack, number)
    if p.left is not None:
        left = _loop(p.left, number, panel_blocks)
        block = 4 * depth * min(_block_rows(rows, depth), rows)
        spilled = 2 * left.stores if block > _NEAR else 0.0  # written, and read by the product
        found.append(replace(left, spilled=spilled))
    blocks = batches * rows * panel_blocks
    found.append(Phase(outer=blocks * (TABLE * taps + ROW_DIVISION * number(p.divisions))))
    products = batches * _height_cost(rows) * padded * depth
    loads = 4 * products * (1 / height + _LANES / width)
    calls = batches * math.ceil(rows / _ROWS) * panels * taps
    if p.epilogue is None:  # what comes out of the registers is the result
        moved = 4 * batches * rows * columns * outer
        found.append(Phase(fma=2 * products, loads=loads + p.residuals * moved, stores=moved,
                           entries=calls))
    else:
        found.append(Phase(fma=2 * products, loads=loads, stores=4 * batches * rows * padded,
                           entries=calls))
        found += _strips(p.epilogue, number)
    return found


def _height_cost(rows: float) -> float:
    """Rows whose products take as long in full micro-tiles as ``rows`` do in the best height there
    is; a tile of ``h`` rows costs about as much as ``h + 2``, since it loads its panel anyway."""
    if rows >= 8 * _ROWS:
        return rows
    return min(math.ceil(rows / h) * (h + 2) for h in range(1, _ROWS + 1)) * _ROWS / (_ROWS + 2)


def _block_rows(rows: float, depth: float) -> float:
    """Rows of one tile of a contraction: whole micro-tiles, about ``_LEFT`` elements."""
    most = min(max(_LEFT // max(min(depth, _CHUNK) * _ROWS, 1), 1), 16) * _ROWS
    blocks = max(1, math.ceil(rows / most))
    return max(1, math.ceil(rows / (blocks * _ROWS))) * _ROWS


def facts_of(graph: Graph, implementation: str, nodes: Sequence[Node], sizes: Mapping[str, int]
             ) -> GroupFacts:
    """The numbers of ``nodes`` as one group of ``graph`` at ``sizes`` (size by symbol). Raises
    ``EvonnxError`` where a symbol has no size."""
    return facts(group_cost(graph, implementation, nodes), sizes)


def context_of(target: Target, threads: int, groups: Iterable[GroupFacts]) -> Context:
    """The context of a schedule's groups: each constant is read by some group."""
    return Context(target, max(1, threads), float(sum(g.constant for g in groups)))


def _tiles(implementation: str, positions: float, points: float, columns: float) -> float:
    if implementation not in ("loops", "contract", "attention") or positions <= 0:
        return 1.0
    if implementation == "loops":
        each = max(points / positions, 1.0)
        return float(math.ceil(positions / max(1.0, BLOCK // each)))
    left = points / max(columns, 1.0)
    rows = positions / max(columns, 1.0)
    most = math.ceil(rows / _ROWS) * math.ceil(columns / _COLUMNS)
    return float(min(most, max(SPLITS, math.ceil(left / _LEFT))))
