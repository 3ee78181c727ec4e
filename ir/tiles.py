"""Tile spaces: which positions of a group's reductions one parallel tile needs.

Positions are propagated from the group's outputs backwards through the access maps (``elements``).
Every reduction must be read at one position that is a function of the tile alone; every output must
cover every tile once. What cannot be brought to that form is refused with the reason. Fusion
legality asks exactly this question, and lowering uses the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from .access import AccessMap, Cond, Gathered, Region, linear_index
from .axes import Axis, coefficient, find_split, fresh_axes, mergeable, name_of, split_axis
from .dim_functions import dmax, within
from .dim_values import substitute
from .dims import Dim, Expr, free_vars, product
from .elements import Ex, Gather, Index, Names, Puller, Refused, is_reduction, parts, positions
from .graph import Graph, Node, Value
from .ops import lookup
from .types import BF16, F16, F32, I32, DType

BLOCK = 4096
"""Steps per parallel tile of a flat loop, about: 16 KB of float32, an L1's worth of input."""
TILES = 32
"""Tiles of a loop nest aimed at, where it has so many rows."""
LANES = 512
"""Largest width of a strip of lanes: accumulators of 2 KB."""
FEW_THREADS = (2, 4)
"""Threads among which strips of lanes are divided evenly, where a strip for each is work enough."""
LINE = 16
"""Lanes in a line of a cache, of float32: strips begin with one, so that no two threads write to
the same."""
UNROLLED = 8
"""Terms of each lane of a strip that are added to its sum at once; twice as many where a strip is a
single vector. Measured on Zen 4."""
ALIASED = 2048
"""Bytes apart at which stores and loads get into each other's way, every other of them."""
SIDE = 16
"""Elements along a side of the blocks of a transpose: a line of float32."""
NEIGHBORS = 4
"""Neighbors in memory from which on such blocks are worth it."""
SHORT = 8
"""Iterations up to which a loop keeps its length in the source, so that LLVM unrolls it; the one
around it is the innermost then."""
SCRATCH_ROW = 1 << 18
"""Largest scratch row in elements that is worth keeping (1 MB of float32: L2)."""
DEAR = 8
"""Scalar operations from which on a value is kept rather than computed again."""


def tile_rows(rows: int, most: int) -> int:
    """Consecutive rows of one tile of a loop nest that has ``rows``: at most ``most``, fewer where
    that leaves less than ``TILES`` tiles, and such that the last tile is about as large."""
    return max(1, math.ceil(rows / max(1, math.ceil(rows / max(most, 1)), min(rows, TILES))))


def strip_width(lanes: Dim, rows: Dim, terms: Dim) -> int:
    """Width of the strips of ``lanes`` sums of so many ``terms``, of which there are as many as
    ``rows``: the largest, at most ``LANES``, of which a few threads get about as many each, where
    there is work for them. Sizes that are not known leave strips wide."""
    if not isinstance(lanes, int):
        return LANES
    lines = max(1, math.ceil(lanes / LINE))
    most = min(LANES // LINE, lines)
    if isinstance(rows, int) and isinstance(terms, int):
        shares = [t for t in FEW_THREADS
                  if rows < t <= lines and terms * LINE * lines * max(rows, 1) >= t * BLOCK]
        most = next((w for w in range(most, 0, -1) if all(_is_even(lines, w, t) for t in shares)),
                    1)
    return min(max(lanes, 1), LINE * math.ceil(lines / math.ceil(lines / most)))


def _is_even(lines: int, width: int, threads: int) -> bool:
    """Whether the thread with most strips of ``width`` has little more than the others."""
    strips = math.ceil(lines / width)
    return 5 * math.ceil(strips / threads) * width * threads <= 6 * lines


def accumulator(dtype: DType) -> DType:
    """The type a sum of ``dtype`` is kept in."""
    if dtype.is_integer and dtype.bits < 8:
        return I32
    return F32 if dtype.is_float and dtype.bits < 32 else dtype


def kept(dtype: DType) -> DType:
    """The type a value of ``dtype`` is kept in between two loops: unrounded if it is a half."""
    return F32 if dtype in (F16, BF16) else dtype


@dataclass
class Space:
    """A group being analyzed: fresh names, the puller, and questions about positions."""

    graph: Graph
    names: Names = field(default_factory=Names)

    def __post_init__(self) -> None:
        self.puller = Puller(self.graph, self.names)

    def settle(self, axes: list[Axis], index: Index, pull: Callable[[Index], list[Dim]]
               ) -> tuple[list[Axis], Index]:
        """Splits axes until no position divides a loop variable. ``pull`` pulls the values at an
        index and answers every position that appeared."""
        for _ in range(16):
            self.puller.start()
            found = find_split(pull(index), axes)
            if found is None:
                break
            axes, mapping = split_axis(axes, *found, self.names)
            index = tuple(substitute(i, mapping) for i in index)
        return axes, index

    def used_gathers(self, dims: Sequence[Dim]) -> dict[str, Gather]:
        """Gathered positions that the given expressions use, directly or through each other."""
        found: dict[str, Gather] = {}
        stack = list(dims)
        while stack:
            d = stack.pop()
            for name in free_vars(d) if isinstance(d, Expr) else ():
                if name in self.puller.gathers and name not in found:
                    found[name] = self.puller.gathers[name]
                    stack.extend(positions(found[name].value))
        return found

    def seen_positions(self, pulled: Sequence[Ex]) -> list[Dim]:
        """All positions in pulled expressions, holes and gathers included."""
        seen: set[Ex] = set()
        dims: list[Dim] = []
        for ex in pulled:
            dims.extend(positions(ex, seen))
        for _, index in self.puller.holes:
            dims.extend(index)
        for g in self.used_gathers(dims).values():
            dims.extend(positions(g.value, seen))
        return dims


@dataclass
class Reduction:
    """One reduction of a group and what lowering found out about it."""

    node: Node
    index: Index
    """Position it is read at, in tile variables."""
    reduced: tuple[Axis, ...] = ()
    kind: str = "sum"
    dtype: DType = F32
    ex: Ex | None = None
    conds: tuple[Cond, ...] = ()
    mean: Dim | None = None


def reduction_body(low: Space, node: Node, index: Index) -> Reduction:
    """The combined expression of one reduction at a position, its conditions taken out."""
    amap = low.puller.access(node, index)
    out = node.out.dtype
    reduced, args, conds = _operands(low, node, amap)
    found = Reduction(node, index, tuple(reduced))
    kind = node.attrs.get("kind", "sum")
    if kind == "mean":
        found.mean = product(e for _, e in amap.reduced)
    found.kind = "sum" if kind == "mean" else kind
    found.dtype = accumulator(out)
    wide = [a if kept(a.dtype) == found.dtype
            else Ex("fn", found.dtype, (a,), ("cast", ())) for a in args]
    ex = wide[0]
    for other in wide[1:]:
        ex = Ex("fn", found.dtype, (ex, other), ("mul", ()))
    found.ex, found.conds = ex, conds
    return found


def _operands(low: Space, node: Node, amap: AccessMap
              ) -> tuple[list[Axis], list[Ex], tuple[Cond, ...]]:
    """The reduced axes, the operands' elements and the conditions under which they are read. A
    reduced axis that an operand's position divides (the inverse of a reshape) is two loops."""
    axes = [Axis(v, e) for v, e in amap.reduced if isinstance(v, Expr)]
    regions = amap.regions
    for _ in range(8):
        args: list[Ex] = []
        conds: list[Cond] = []
        for region in regions:
            v = node.operands[region.operand]
            conds += [c for c in region.when if within(c.expr, c.lo, c.hi) is not True]
            args.append(low.puller.element(v, region.index))  # type: ignore[arg-type]
        dims = low.seen_positions(args)
        split = find_split([*dims, *(c.expr for c in conds)], axes)
        if split is None:
            break
        axes, mapping = split_axis(axes, *split, low.names)
        regions = tuple(_region_at(r, mapping) for r in regions)
        low.puller.start()  # of what was pulled for the whole axis nothing may be found again
    return axes, args, tuple(conds)


def _region_at(region: Region, mapping: dict[str, Dim]) -> Region:
    """A region with loop variables replaced."""
    index = tuple(
        Gathered(i.operand, tuple(substitute(d, mapping) for d in i.index), i.extent)
        if isinstance(i, Gathered) else substitute(i, mapping) for i in region.index)
    when = tuple(Cond(*(substitute(d, mapping) for d in (c.expr, c.lo, c.hi)))
                 for c in region.when)
    return Region(region.operand, index, when)


class TileSpace:
    """The tile space of a group's reductions: ``tile`` axes, ``index`` of each reduction,
    ``late`` outputs (axes and position), ``early`` outputs that no reduction feeds."""

    def __init__(self, low: Space, nodes: list[Node]) -> None:
        self.low, self.nodes = low, nodes
        self.index: dict[Node, Index] = {}
        self.tile: list[Axis] = []
        self.early: dict[int, Node | None] = {}
        self.late: dict[int, tuple[list[Axis], Index]] = {}
        self.lane: Axis | None = None
        """The axis of lanes, if memory is contiguous along the tile."""
        self.width = 1
        """Lanes of a strip."""
        self.folded: dict[str, Dim] = {}
        """Tile variables that make the lane, as functions of it."""
        depends = depending(low.graph, nodes)
        for k, (_, v) in enumerate(low.graph.outputs):
            if v.node not in depends:
                self.early[k] = None

    # -- the tile space --------------------------------------------------------------------

    def find_tiles(self) -> None:
        """Positions of all reductions, from the outputs backwards."""
        outputs = [k for k in range(len(self.low.graph.outputs)) if k not in self.early]
        for k in outputs:
            v = self.low.graph.outputs[k][1]
            axes, index = fresh_axes(v.shape, self.low.names)
            axes, index = self.low.settle(axes, index, partial(self.pull, v))
            mapping = self.unify(axes)
            axes = [Axis(substitute(a.var, mapping), a.hi) for a in axes]
            self.late[k] = (axes, tuple(substitute(i, mapping) for i in index))
        for node in reversed(self.nodes):
            if node not in self.index:
                raise Refused(f"{node.op} is not needed by the group's outputs")
            self.low.puller.start()
            reduction_body(self.low, node, self.index[node])
            self.unify([])
        self.order_tiles()
        self.refine()

    def refine(self) -> None:
        """Splits tile axes that the reductions' own reads divide (groups of channels)."""
        for node in self.nodes:
            for _ in range(8):
                self.low.puller.start()
                r = reduction_body(self.low, node, self.index[node])
                assert r.ex is not None
                dims = self.low.seen_positions([r.ex])
                dims += [d for c in r.conds for d in (c.expr, c.lo, c.hi)]
                found = find_split(dims, self.tile)
                if found is None:
                    break
                self.tile, mapping = split_axis(self.tile, *found, self.low.names)
                self.rename(mapping)

    def rename(self, mapping: dict[str, Dim]) -> None:
        """Substitutes tile variables everywhere."""

        def at(index: Index) -> Index:
            return tuple(substitute(i, mapping) for i in index)

        self.index = {n: at(i) for n, i in self.index.items()}
        tile = {name_of(a.var): a for a in self.tile}
        for k, (axes, index) in self.late.items():
            new: list[Axis] = []
            for a in axes:
                into = mapping.get(name_of(a.var)) if isinstance(a.var, Expr) else None
                new.extend([a] if into is None else [
                    tile[name] for name in tile if name in free_vars(into)])
            self.late[k] = (new, at(index))

    def check_early(self) -> None:
        """Whether every output that precedes the reductions is computed along their tiles."""
        left = set(self.early)
        for node in self.nodes:
            self.low.puller.start()
            r = reduction_body(self.low, node, self.index[node])
            left -= {k for k in left if self.passes_by(r, k) is not None}
        if left:
            raise Refused("an output before the reductions is not computed along their tiles")

    def passes_by(self, r: Reduction, k: int) -> Index | None:
        """The one position at which a reduction's loop computes output ``k``, if it computes each
        element exactly once."""
        whole = {name_of(a.var) for a in (*self.tile, *r.reduced)}
        v = self.low.graph.outputs[k][1]
        at = self.low.puller.visits.get(v, [])
        if len(at) != 1 or r.conds or not all(i == 0 or is_var(i) for i in at[0]):
            return None
        names = {n for i in at[0] for n in free_vars(i)}
        return at[0] if names == whole and covers(v, at[0]) else None

    # -- lanes -----------------------------------------------------------------------------

    def find_lane(self) -> None:
        """Whether memory is contiguous along the tile rather than along the reduced axes."""
        votes: dict[str, int] = {}
        along = 0
        terms: Dim = 1
        for node in self.nodes:
            self.low.puller.start()
            r = reduction_body(self.low, node, self.index[node])
            if r.ex is None or not r.reduced:
                continue
            terms = dmax(terms, product(a.hi for a in r.reduced))
            inner = name_of(r.reduced[-1].var)
            for d in load_positions(r.ex):
                if coefficient(d, inner) == 1:
                    along += 1
                for a in self.tile:
                    if coefficient(d, name_of(a.var)) == 1:
                        votes[name_of(a.var)] = votes.get(name_of(a.var), 0) + 1
        best = max(self.tile, key=lambda a: votes.get(name_of(a.var), 0), default=None)
        if best is not None and votes.get(name_of(best.var), 0) > along:
            self.lane = self.widened(best)
            rows = product(a.hi for a in self.tile if name_of(a.var) not in self.folded)
            self.width = strip_width(self.lane.hi, rows, terms)

    def unrolling(self, r: Reduction, axes: Sequence[Axis], stored: Sequence[Dim]) -> int:
        """Terms of each lane of a strip in one iteration of the innermost of the loops over
        ``axes``, which stores to positions ``stored`` besides. Where it does, not in wide strips,
        nor where it goes ``ALIASED`` bytes on with each term: loads that follow would wait for
        stores whose addresses end like theirs."""
        count = axes[-1].hi if axes else 1
        if not isinstance(count, int) or r.kind != "sum" or r.conds:
            return 1
        many = UNROLLED
        if not stored:
            many *= 2 if self.width <= LINE else 1
        elif self.width >= UNROLLED * LINE or not all(
                isinstance(step, int) and step * F32.itemsize % ALIASED
                for step in (coefficient(d, name_of(axes[-1].var)) for d in stored)):
            return 1
        return many if count >= many else 1

    def widened(self, lane: Axis) -> Axis:
        """The lane with every tile axis that memory continues along: one long strip, not many
        short ones. ``folded`` remembers what became of their variables."""
        self.folded = {name_of(lane.var): lane.var}
        dims = self.moving_positions()
        if self.early:  # where they are stored is only known when their phase is written
            return lane
        for _ in self.tile:
            outer = next((a for a in self.tile if name_of(a.var) not in self.folded
                          and mergeable(dims, a, lane)), None)
            if outer is None:
                break
            wide = Axis(self.low.names.var(outer.hi * lane.hi), outer.hi * lane.hi)
            step = {name_of(outer.var): 0, name_of(lane.var): wide.var}
            self.folded = {k: substitute(d, step) for k, d in self.folded.items()} | step
            dims = [substitute(d, step) for d in dims]
            lane = wide
        return lane

    def moving_positions(self) -> list[Dim]:
        """Positions of everything that the phases read and write; results of reductions lie in
        scratch, one per lane."""
        low = self.low
        dims: list[Dim] = []
        for node in self.nodes:
            low.puller.start()
            r = reduction_body(low, node, self.index[node])
            assert r.ex is not None
            dims += [*positions(r.ex), *(d for c in r.conds for d in (c.expr, c.lo, c.hi))]
        for k, (_, index) in self.late.items():
            low.puller.start()
            v = low.graph.outputs[k][1]
            dims += [linear_index(v.shape, index), *positions(low.puller.element(v, index))]
        read = [g.value for g in low.used_gathers(dims).values()]
        return [*dims, *(d for ex in read for d in positions(ex))]

    # -- what is kept between the phases -----------------------------------------------------

    def worth_keeping(self, reduced: Sequence[Axis], after: Node
                      ) -> Iterator[tuple[Value, Index, list[tuple[Dim, Dim]], Dim]]:
        """Dear values that the phase of ``after`` computes once each and later phases need again:
        the value, its position, and (extent, position) of the axes and elements of a row of it."""
        low = self.low
        tile = {name_of(a.var) for a in self.tile}
        outputs = [v for k, (_, v) in enumerate(low.graph.outputs) if self.early.get(k) is None]
        later = _needed_later(outputs, self.nodes, after)
        whole = tile | {name_of(a.var) for a in reduced}
        for v, visits in list(low.puller.visits.items()):
            definition = lookup(v.node.op)
            if v in low.puller.provided or v not in later or len(visits) != 1:
                continue
            if definition.flops_per_element < DEAR and not definition.has("gather"):
                continue
            at = visits[0]
            names = {n for i in at for n in free_vars(i)}
            if names != whole or not all(i == 0 or is_var(i) for i in at) or not covers(v, at):
                continue
            inner = [(d, i) for d, i in zip(v.shape, at, strict=True)
                     if not (free_vars(i) & tile)]
            size = product(d for d, _ in inner)
            if isinstance(size, int) and size > SCRATCH_ROW:
                continue
            yield v, at, inner, size

    def pull(self, v: Value, at: Index) -> list[Dim]:
        ex = self.low.puller.element(v, at)
        return self.low.seen_positions([ex])

    def unify(self, axes: list[Axis]) -> dict[str, Dim]:
        """Takes over the positions of holes; answers how an output's own variables are renamed
        to the tile's. Refuses a position that is not a tile's."""
        own = {name_of(a.var): a.hi for a in axes}
        mapping: dict[str, Dim] = {}
        tile_names = {name_of(a.var) for a in self.tile}
        for (v, at) in self.low.puller.holes:
            for i, size in zip(at, v.shape, strict=True):
                if not (is_var(i) and _extent(i) == size) and within(i, 0, size) is not True:
                    raise Refused("a reduction is read only where a condition holds")
            known = self.index.get(v.node)
            if known is None:
                at = tuple(substitute(i, mapping) for i in at)
                names = frozenset().union(*(free_vars(i) for i in at)) if at else frozenset()
                fresh = [a for a in axes if name_of(a.var) in names - tile_names]
                if names - tile_names - {name_of(a.var) for a in fresh}:
                    raise Refused("a reduction is read along another reduction's axis")
                if self.index and fresh:
                    raise Refused("two reductions have different tiles")
                self.tile.extend(fresh)
                tile_names |= {name_of(a.var) for a in fresh}
                self.index[v.node] = at
                continue
            for mine, theirs in zip(at, known, strict=True):
                mine = substitute(mine, mapping)
                if mine == theirs:
                    continue
                names = free_vars(mine)
                name = next(iter(names)) if len(names) == 1 and is_var(mine) else ""
                free = name in own and name not in tile_names and theirs not in mapping.values()
                if free and is_var(theirs):
                    if own[name] != _extent(theirs):
                        raise Refused("two outputs cover different parts of the tiles")
                    mapping[name] = theirs
                    continue
                raise Refused("a reduction is read at two positions")
        return mapping

    def order_tiles(self) -> None:
        """Checks that every output covers every tile exactly once."""
        names = {name_of(a.var) for a in self.tile}
        for axes, _ in self.late.values():
            if names - {name_of(a.var) for a in axes}:
                raise Refused("an output does not cover the group's tiles")


def is_var(d: Dim) -> bool:
    """Whether ``d`` is one loop variable and nothing else."""
    return isinstance(d, Expr) and len(d.terms) == 1 and d.terms[0][1] == 1 and \
        len(d.terms[0][0]) == 1 and d.terms[0][0][0][0].kind == "var" and d.terms[0][0][0][1] == 1


def covers(v: Value, at: Index) -> bool:
    """Whether the plain position runs over all of the value: every variable has its extent."""
    return all(_extent(i) == size for size, i in zip(v.shape, at, strict=True))


def _extent(d: Dim) -> Dim:
    """Extent of the loop variable that ``d`` is (1 for the constant 0)."""
    return d.terms[0][0][0][0].args[0] if isinstance(d, Expr) else 1


def depending(graph: Graph, nodes: Sequence[Node]) -> set[Node]:
    """Nodes that depend on one of ``nodes``, themselves included."""
    found = set(nodes)
    for n in graph.nodes:
        if any(v.node in found for v in n.operands):
            found.add(n)
    return found


def load_positions(ex: Ex) -> list[Dim]:
    """Positions of every load in an expression."""
    return [e.data[1] for e in parts([ex]) if e.kind == "load"]


def interleaved(axes: Sequence[Axis], stores: Sequence[tuple[Dim, Ex]]) -> int:
    """Length of the innermost loop where that is short and puts side by side what the loop around
    it reads side by side (``stores``: position, value); else 0. LLVM makes shuffles of vectors of
    it, three times as fast as one element after the other (Zen 4), where it knows how far apart the
    loop around it stores; not of what a condition guards."""
    size = axes[-1].hi if len(axes) > 1 else 0
    if not isinstance(size, int) or not 1 < size <= SHORT:
        return 0
    around, inner = name_of(axes[-2].var), name_of(axes[-1].var)
    crossed = any(coefficient(d, around) == 1 for _, ex in stores for d in load_positions(ex))
    known = all((coefficient(at, around), coefficient(at, inner)) == (size, 1)
                and not _guarded(ex) for at, ex in stores)
    return size if crossed and known else 0


def _guarded(ex: Ex) -> bool:
    """Whether a condition guards a part of an expression."""
    stack, seen = [ex], {ex}
    while stack:
        e = stack.pop()
        if e.kind == "guard":
            return True
        more = [a for a in e.args if a not in seen]
        seen.update(more)
        stack += more
    return False


def crossing(axes: Sequence[Axis], loads: Sequence[Dim]) -> int | None:
    """The loop along which some operand is contiguous while the innermost one jumps in it, if both
    are long enough to go in blocks (a transpose); else None."""
    inner = axes[-1]
    if not isinstance(inner.hi, int) or inner.hi < SIDE:
        return None
    for k, axis in enumerate(axes[:-1]):
        if not isinstance(axis.hi, int) or axis.hi < NEIGHBORS:
            continue
        for d in loads:
            jump = coefficient(d, name_of(inner.var))
            if coefficient(d, name_of(axis.var)) == 1 and isinstance(jump, int) and jump >= SIDE:
                return k
    return None


def _needed_later(outputs: Sequence[Value], nodes: Sequence[Node], after: Node) -> set[Value]:
    """Values that later reductions or ``outputs`` reach without passing a reduction."""
    start = [*outputs, *(v for n in nodes[nodes.index(after) + 1 :] for v in n.operands)]
    found: set[Value] = set()
    while start:
        v = start.pop()
        if v in found or is_reduction(v.node):
            continue
        found.add(v)
        start.extend(v.node.operands)
    return found
