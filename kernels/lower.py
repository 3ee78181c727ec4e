"""Lowering of groups without a micro-kernel: maps and reductions with the maps around them.

A map group is one loop nest per output; small windows are written out and make maps, too
(``ir.windows``). A group with reductions is tiled by the positions its
reductions are read at: per tile, each reduction runs its loop, then the outputs run theirs, and
values that are dear and needed again stay in a scratch row. Where memory is contiguous along the
tile instead of along the reduced axes (channels-last statistics, pooling), the tile is a strip of
lanes and accumulators are vectors in scratch, to which several terms are added at once (unroll and
jam, as in ``jam``).

A sum in one chain of ``n`` additions loses about ``sqrt(n)`` roundings. So long ones are added up
in blocks (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 4.2): of
``CHAIN`` terms per lane, and of ``LONG`` along a row, which LLVM adds up in several lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..ir.access import Cond, linear_index
from ..ir.axes import Axis, fresh_axes, merge_axes, name_of
from ..ir.dim_functions import ceil_div, dmax, dmin
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr, free_vars, product
from ..ir.elements import (
    Ex,
    Gather,
    Index,
    Refused,
    is_reduction,
    map_dims,
    positions,
    renamer,
)  # fmt: skip
from ..ir.graph import Graph, Node, Value
from ..ir.ops.reduction import identity
from ..ir.tiles import (
    BLOCK,
    Reduction,
    Space,
    TileSpace,
    interleaved,
    kept,
    reduction_body,
)  # fmt: skip
from ..ir.types import F32, DType
from ..ir.variants import small_windows
from ..ir.windows import write_out
from .borders import border_cut, decided, joins
from .jam import jammed
from .maps import rows_per_tile, tile_map
from .moments import distances, is_mean, is_spread, mean_and_spread, near_mean, sum_of
from .neighbors import neighbors
from .nest import (
    Accumulate,
    BufferDecl,
    Domain,
    Loop,
    Nest,
    Nested,
    Step,
    Store,
    substitute_body,
)  # fmt: skip

CHAIN = 256
"""Terms that one lane adds up in a row."""
ROW = 128
"""Elements of a reduced row up to which its length is a number in the source: LLVM then makes
vectors of all of it, where a length that it does not know leaves a rest of single elements.
Measured on Zen 4."""
JAMMED = 1024
"""Elements of a reduced row up to which several rows are worked on at a time: together they stay in
the level-1 cache."""
LONG = 64 * CHAIN
"""Terms of a row that are added up in a row: some 64 lanes do it together."""


@dataclass
class Lowering(Space):
    """State of one group's lowering."""

    scratch: list[BufferDecl] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    """Numbers in ``scratch`` that may be used again."""
    domains: list[Domain] = field(default_factory=list)
    literals: set[int] = field(default_factory=set)
    """Sizes that are numbers in the source."""
    masked: bool = False
    """Whether what lies outside of an image is not read by vectors (``Nest.masked``)."""
    packed: int = 0
    """Packed operands, which stand between inputs and outputs."""
    inner: int = 0
    """So many of the graph's inputs, the last ones, the kernel computes by itself: they are the
    first pieces of its scratch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.inputs = self.graph.inputs[: len(self.graph.inputs) - self.inner]
        """Inputs of the kernel."""
        self.first_output = len(self.inputs) + self.packed
        self.first_scratch = self.first_output + len(self.graph.outputs)
        for k, v in enumerate(self.graph.inputs[len(self.inputs):]):
            self.puller.buffers[v] = self.first_scratch + k

    def part(self, graph: Graph, result: int, given: int | None = None) -> Lowering:
        """Another graph of the same inputs in this kernel: its one output is buffer ``result``, and
        its last input buffer ``given`` where that is one of scratch."""
        made = Lowering(graph, self.names, self.scratch, self.idle)
        made.first_output, made.first_scratch = result, self.first_scratch
        if given is not None:
            made.puller.buffers[graph.inputs[-1]] = given
        made.puller.gathers = self.puller.gathers
        return made

    def new_scratch(self, dtype: DType, size: Dim) -> int:
        """A piece of the thread's scratch; answers its buffer number."""
        number = self.next_scratch(dtype)
        k = number - self.first_scratch
        if k < len(self.scratch):
            self.idle.remove(k)
            self.scratch[k] = BufferDecl("scratch", dtype, dmax(self.scratch[k].size, size))
        else:
            self.scratch.append(BufferDecl("scratch", dtype, size))
        return number

    def next_scratch(self, dtype: DType) -> int:
        """The buffer number of the piece that is asked for next."""
        idle = (k for k in self.idle if self.scratch[k].dtype == dtype)
        return self.first_scratch + next(idle, len(self.scratch))

    def reuse_scratch(self) -> None:
        """Gives all scratch to the domains that follow; no tile outlives its domain."""
        self.idle = list(range(len(self.scratch)))

    def nest(self) -> Nest:
        """The finished nest."""
        buffers = [BufferDecl("in", v.dtype) for v in self.inputs]
        buffers += [BufferDecl("out", v.dtype) for _, v in self.graph.outputs]
        return Nest((*buffers, *self.scratch), tuple(self.domains), dict(self.puller.gathers),
                    literals=frozenset(self.literals), masked=self.masked)

    # -- shared steps ----------------------------------------------------------------------

    def simplify(self, axes: Sequence[Axis], body: Sequence[Store | Accumulate],
                 keep: frozenset[str] = frozenset(), guard: tuple[Cond, ...] = ()
                 ) -> tuple[list[Axis], list[Store | Accumulate]]:
        """Merges adjacent axes of a loop; ``keep`` are variables that must stay."""
        seen: set[Ex] = set()
        dims: list[Dim] = []
        for item in body:
            dims.append(item.position)
            dims.extend(positions(item.value, seen))
        for g in self.used_gathers(dims).values():
            dims.extend(positions(g.value, seen))
        for c in guard:
            dims.extend((c.expr, c.lo, c.hi))
        runs: list[list[Axis]] = [[]]
        for a in axes:
            if name_of(a.var) in keep:
                runs.extend(([a], []))
            else:
                runs[-1].append(a)
        merged: list[Axis] = []
        mapping: dict[str, Dim] = {}
        for run in runs:
            new, step = merge_axes(run, dims, self.names)
            merged.extend(new)
            mapping |= step
        return merged, self.rename(body, mapping)

    def rename(self, body: Sequence[Store | Accumulate], mapping: dict[str, Dim]
               ) -> list[Store | Accumulate]:
        """Substitutes loop variables in a body and in the gathered positions it may use."""
        if not mapping:
            return list(body)
        rename = renamer(mapping)
        memo: dict[Ex, Ex] = {}
        dims = [d for item in body for d in (item.position, *positions(item.value))]
        for name, g in self.used_gathers(dims).items():
            self.puller.gathers[name] = Gather(map_dims(g.value, rename, memo), g.extent)
        return [substitute_body(item, rename, memo) for item in body]

# -- maps --------------------------------------------------------------------------------------


def lower_map(low: Lowering) -> None:
    """One loop nest per distinct output shape; concatenations become one nest per piece."""
    windows = small_windows(low.graph)
    by_shape: dict[tuple[Dim, ...], list[int]] = {}
    for k, (_, v) in enumerate(low.graph.outputs):
        by_shape.setdefault(v.shape, []).append(k)
    for shape, outputs in by_shape.items():
        axes, index = fresh_axes(shape, low.names)
        for piece_axes, piece_index in _pieces(low, axes, index, outputs, 0):
            parts = (neighbors(low, piece_axes, piece_index, outputs) if windows
                     else [(piece_axes, [piece_index])])
            for part_axes, places in parts:
                low.reuse_scratch()
                low.domains.append(_map_domain(low, part_axes, places, outputs))


def _pieces(low: Lowering, axes: list[Axis], index: Index, outputs: list[int], depth: int
            ) -> list[tuple[list[Axis], Index]]:
    """Cuts the iteration space where operands of a concatenation meet, if along one axis, and
    where the padding of the innermost axis begins."""
    low.puller.start()
    for k in outputs:
        low.puller.element(low.graph.outputs[k][1], index)
    if depth > 2:
        return [(axes, index)]
    for regions in low.puller.partitions:
        cut = _cut(regions, axes)
        if cut is None:
            continue
        return [piece for new, at in _cut_pieces(low, axes, index, *cut)
                for piece in _pieces(low, new, at, outputs, depth + 1)]
    cut = border_cut([low.puller.element(low.graph.outputs[k][1], index) for k in outputs], axes)
    if cut is None or low.masked and cut[0] == len(axes) - 1:
        return [(axes, index)]
    return _cut_pieces(low, axes, index, *cut)


def _cut_pieces(low: Lowering, axes: list[Axis], index: Index, k: int,
                bounds: Sequence[tuple[Dim, Dim]]) -> list[tuple[list[Axis], Index]]:
    """The iteration space in pieces (start, size) along axis ``k``."""
    result = []
    for lo, size in bounds:
        if size == 0:
            continue
        v = low.names.var(size)
        mapping = {name_of(axes[k].var): lo + v}
        new = list(axes)
        new[k] = Axis(v, size)
        result.append(([a for a in new if isinstance(a.var, Expr)],
                       tuple(substitute(i, mapping) for i in index)))
    return result


def _cut(regions: tuple, axes: list[Axis]) -> tuple[int, list[tuple[Dim, Dim]]] | None:
    """The axis along which regions follow each other, with (start, size) of each; at most 64."""
    if not 1 < len(regions) <= 64 or any(len(r.when) != 1 for r in regions):
        return None
    first = regions[0].when[0].expr
    for k, axis in enumerate(axes):
        if first != axis.var:
            continue
        bounds = []
        end: Dim = 0
        for r in regions:
            c = r.when[0]
            start = first - c.expr
            if c.lo != 0 or free_vars(start) or start != end:
                return None
            bounds.append((start, c.hi))
            end = start + c.hi
        return (k, bounds) if end == axis.hi else None
    return None


def _map_domain(low: Lowering, axes: list[Axis], places: Sequence[Index], outputs: list[int]
                ) -> Domain:
    """The loops over ``axes`` that compute the outputs at all ``places``."""
    values = [low.graph.outputs[k][1] for k in outputs]
    pulled: list[Ex] = []
    rank = len(places[0])

    def apart(at: Index) -> list[Index]:
        return [at[n * rank:(n + 1) * rank] for n in range(len(places))]

    def pull(at: Index) -> list[Dim]:
        pulled[:] = [low.puller.element(v, place) for place in apart(at) for v in values]
        return low.seen_positions(pulled)

    axes, index = low.settle(axes, tuple(i for place in places for i in place), pull)
    if low.puller.holes:
        raise Refused("a map with reductions in it")
    computed = iter(pulled)
    body: list[Store | Accumulate] = [
        Store(low.first_output + k, linear_index(v.shape, place), next(computed))
        for place in apart(index) for k, v in zip(outputs, values, strict=True)
    ]
    axes, body = low.simplify(axes, body)
    moving = [a for a in axes if isinstance(a.var, Expr)]
    if length := interleaved(moving, [(item.position, item.value) for item in body]):
        low.literals |= {length}
    domain = tile_map(axes, body, low.names, low.new_scratch)
    if len(places) == 1:
        return domain
    return replace(domain, steps=tuple(replace(step, independent=True)
                                       if isinstance(step, Loop) else step
                                       for step in domain.steps))


# -- reductions --------------------------------------------------------------------------------


def lower_reductions(low: Lowering) -> None:
    """A tile per position of the reductions; see the module's description."""
    nodes = [n for n in low.graph.nodes if is_reduction(n)]
    plan = _TilePlan(low, nodes)
    plan.find_tiles()
    plan.find_lane()
    plan.write()


class _TilePlan(TileSpace):
    """Writes the phases of a group with reductions over its tile space."""

    low: Lowering

    def fold(self, body: list[Store | Accumulate]) -> list[Store | Accumulate]:
        """A phase's body in terms of the lane."""
        return self.low.rename(body, self.folded)

    def fold_conds(self, conds: tuple[Cond, ...]) -> tuple[Cond, ...]:
        return tuple(Cond(*(substitute(d, self.folded) for d in (c.expr, c.lo, c.hi)))
                     for c in conds)

    # -- phases ----------------------------------------------------------------------------

    def write(self) -> None:
        """One phase per reduction, then one per output."""
        low = self.low
        steps: list[Step] = []
        rows = [a for a in self.tile if name_of(a.var) not in self.folded]
        width = 1
        if self.lane is not None:
            width = self.width
            blocks = ceil_div(self.lane.hi, width)
            b = low.names.var(blocks)
            self.base: Dim = b * width
            self.strip = Axis(self.lane.var, dmin(self.lane.hi, self.base + width), self.base)
            if isinstance(b, Expr):
                rows.append(Axis(b, blocks))
        work: Dim = width
        left = list(self.nodes)
        while left:
            node = left.pop(0)
            low.puller.start()
            r = reduction_body(low, node, self.index[node])
            work = dmax(work, product(a.hi for a in r.reduced) * width)
            name = f"a{len(low.puller.provided)}"
            if self.lane is None and left and self.is_variance(r, left[0]):
                steps.extend(self.moments_phase(r, left.pop(0), name))
            else:
                steps.extend(self.reduction_phase(r, name))
        for k, (axes, index) in self.late.items():
            steps.extend(self.output_phase(k, axes, index))
        if any(done is None for done in self.early.values()):
            raise Refused("an output before the reductions is not computed along their tiles")
        if self.lane is None and isinstance(work, int) and work <= ROW:
            low.literals |= {work}
        per = dmax(1, BLOCK // work) if isinstance(work, int) and work else 1
        for domain, together in self.parts(rows, steps, work):
            of_rows = rows_per_tile(domain.rows, dmax(1, per // together))
            low.domains.append(replace(domain, rows_per_tile=of_rows))

    def parts(self, rows: Sequence[Axis], steps: Sequence[Step], work: Dim
              ) -> list[tuple[Domain, int]]:
        """The tile spaces of the phases, with the rows that a point of each stands for: short rows
        are worked on several at a time."""
        low = self.low
        found: list[tuple[Domain, int]] = []
        if self.lane is None and not low.puller.gathers and isinstance(work, int) and (
                work <= JAMMED):
            sizes = {low.first_scratch + k: d.size for k, d in enumerate(low.scratch)}
            found = jammed(rows, steps, sizes, low.names, work)
        if not found:
            return [(Domain(tuple(rows), tuple(steps)), 1)]
        low.scratch = [replace(d, size=d.size * found[0][1]) for d in low.scratch]
        return found

    def reduction_phase(self, r: Reduction, name: str) -> list[Step]:
        """The loop of one reduction; ``name`` is that of its scalar accumulator, if it has one."""
        low = self.low
        stores: list[Store | Accumulate] = []
        self.keep_outputs(r, stores)
        self.keep_values(r.reduced, stores, after=r.node)
        unit = Ex("const", r.dtype, (), identity(r.kind, r.dtype).item())
        assert r.ex is not None
        if self.lane is None:
            body: list[Store | Accumulate] = [
                *stores, Accumulate(r.kind, r.ex, local=name)]
            axes, body = low.simplify(r.reduced, body, guard=r.conds)
            local = Ex("local", r.dtype, (), name)
            cut = self.blocks(r, axes, LONG)
            total = Ex("local", r.dtype, (), f"{name}_all") if cut else local
            self.provide(r, total)
            if cut is None:
                first, *rest = self.joined(axes, body, r.conds)
                return [replace(first, init=((name, unit),)), *rest]
            block = Loop(tuple(cut[1]), tuple(body), ((name, unit),),
                         ((str(total.data), sum_of([total, local])),), r.conds)
            return [Loop((), (), ((str(total.data), unit),)), Nested(tuple(cut[0]), (block,))]
        acc = low.new_scratch(r.dtype, self.width)
        at = self.lane.var - self.base
        body = self.fold([*stores, Accumulate(r.kind, r.ex, buffer=acc, position=at)])
        keep = frozenset((name_of(self.lane.var),))
        conds = self.fold_conds(r.conds)
        axes, body = low.simplify((*r.reduced, self.strip), body, keep, conds)
        local = Ex("load", r.dtype, (), (acc, at))
        clear = Loop((self.strip,), (Store(acc, at, unit),))
        parts = self.unrolled(r, axes[:-1], body)
        cuts = [self.blocks(r, part, CHAIN) for part, _ in parts]
        if not any(cuts):
            self.provide(r, local)
            return [clear, *(replace(loop, independent=len(done) > len(body))
                             for part, done in parts
                             for loop in self.joined((*part, self.strip), done, conds))]
        sums = low.new_scratch(r.dtype, self.width)
        self.provide(r, Ex("load", r.dtype, (), (sums, at)))
        add = Loop((self.strip,), (Accumulate("sum", local, buffer=sums, position=at),))
        steps: list[Step] = [Loop((self.strip,), (Store(sums, at, unit),))]
        for cut, (part, done) in zip(cuts, parts, strict=True):
            outer, inner = cut or ([], part)
            block = Loop((*inner, self.strip), tuple(done), guard=conds,
                         independent=len(done) > len(body))
            steps.append(Nested(tuple(outer), (clear, block, add)))
        return steps

    def unrolled(self, r: Reduction, axes: Sequence[Axis], body: Sequence[Store | Accumulate]
                 ) -> list[tuple[list[Axis], list[Store | Accumulate]]]:
        """The loops over ``axes`` with several terms of each lane in one iteration, and those of
        the terms that are left: in a narrow strip each addition to a row in memory would wait for
        the one before to be stored."""
        whole = [(list(axes), list(body))]
        dims = [d for item in body for d in (item.position, *positions(item.value))]
        many = self.unrolling(r, axes, [item.position for item in body[:-1]])
        if many < 2 or self.low.used_gathers(dims) or joins(axes, [item.value for item in body]):
            return whole
        axis = axes[-1]
        assert isinstance(axis.hi, int)
        groups, rest = divmod(axis.hi, many)
        group = self.low.names.var(groups)
        copies = [self.low.rename(body, {name_of(axis.var): group * many + k})
                  for k in range(many)]
        stores = [item for copy in copies for item in copy[:-1]]
        last = replace(copies[0][-1], value=sum_of([copy[-1].value for copy in copies]))
        found = [(Axis(group, groups), [*stores, last])]
        if rest:
            v = self.low.names.var(rest)
            found.append((Axis(v, rest),
                          self.low.rename(body, {name_of(axis.var): v + groups * many})))
        return [([a for a in (*axes[:-1], inner) if isinstance(a.var, Expr)], done)
                for inner, done in found]

    def is_variance(self, r: Reduction, node: Node) -> bool:
        """Whether ``node`` adds up the squared distances of a row's elements from their mean, which
        ``r`` is, and one pass is enough for both; ``r`` is pulled anew."""
        low = self.low
        if not is_mean(r, low.first_output):
            return False
        mean = Ex("local", F32, (), "mean")
        low.puller.provided[r.node.out] = lambda index: mean
        low.puller.start()
        other = reduction_body(low, node, self.index[node])
        del low.puller.provided[r.node.out]
        low.puller.start()
        again = reduction_body(low, r.node, r.index)
        r.ex, r.reduced = again.ex, again.reduced
        return is_spread(other, r, mean)

    def moments_phase(self, r: Reduction, node: Node, name: str) -> list[Step]:
        """The loop of a mean and of its variance (``is_variance``); ``name`` is the first part of
        the names of their scalars."""
        low, names = self.low, (name, f"{name}q")
        stores: list[Store | Accumulate] = []
        self.keep_outputs(r, stores)
        self.keep_values(r.reduced, stores, after=node)
        before, near = near_mean(r, f"{name}k", low.names)
        axes, body = low.simplify(r.reduced, [*stores, *distances(r, near, names)])
        cut = self.blocks(r, axes, LONG)
        totals = names if cut is None else tuple(f"{n}_all" for n in names)
        mean, spread = mean_and_spread(r, near, totals)
        low.puller.provided[r.node.out] = lambda index: mean
        low.puller.start()
        self.provide(reduction_body(low, node, self.index[node]), spread)
        zero = Ex("const", F32, (), 0.0)
        if cut is None:
            loop, *rest = self.joined(axes, body)
            return [*before, replace(loop, init=tuple((n, zero) for n in names)), *rest]
        local = [Ex("local", F32, (), n) for n in (*names, *totals)]
        block = Loop(tuple(cut[1]), tuple(body), tuple((n, zero) for n in names),
                     tuple((n, sum_of([local[k + 2], local[k]])) for k, n in enumerate(totals)))
        return [*before, Loop((), (), tuple((n, zero) for n in totals)),
                Nested(tuple(cut[0]), (block,))]

    def joined(self, axes: Sequence[Axis], body: Sequence[Store | Accumulate],
               guard: tuple[Cond, ...] = ()) -> list[Loop]:
        """The loops of a phase; where operands of a concatenation meet along one of them, a loop
        for each: a guard inside would keep LLVM from making vectors."""
        whole = Loop(tuple(axes), tuple(body), guard=guard)
        cut = None if guard else joins(axes, [item.value for item in body])
        if cut is None:
            return [whole]
        k, bounds = cut
        dims = [d for item in body for d in (item.position, *positions(item.value))]
        gathered = [g.value for g in self.low.used_gathers(dims).values()]
        if any(name_of(axes[k].var) in free_vars(d) for ex in gathered for d in positions(ex)):
            return [whole]  # a gathered position is read under one name in one loop
        loops = []
        for lo, size in bounds:
            v = self.low.names.var(size)
            moved = self.low.rename(body, {name_of(axes[k].var): lo + v})
            memo: dict[Ex, Ex] = {}
            part = [replace(item, value=decided(item.value, memo)) for item in moved]
            piece = [*axes[:k], Axis(v, size), *axes[k + 1:]]
            loops += self.joined([a for a in piece if isinstance(a.var, Expr)], part)
        return loops

    def blocks(self, r: Reduction, axes: Sequence[Axis], most: int
               ) -> tuple[list[Axis], list[Axis]] | None:
        """The loops over ``axes`` of a long sum as loops over blocks and, of at most ``most``
        terms, inside one; None where one block is enough."""
        if r.kind != "sum" or not r.dtype.is_float:
            return None
        inner = 1
        for k, axis in reversed(list(enumerate(axes))):
            if isinstance(axis.hi, int) and inner * axis.hi <= most:
                inner *= max(axis.hi, 1)
                continue
            size = max(1, most // inner)
            count = ceil_div(axis.hi, size)
            b = self.low.names.var(count)
            if not isinstance(b, Expr):
                return None
            part = Axis(axis.var, dmin(axis.hi, b * size + size), b * size)
            return [*axes[:k], Axis(b, count)], [part, *axes[k + 1:]]
        return None

    def provide(self, r: Reduction, result: Ex) -> None:
        """Makes the reduction's result known to later phases."""
        if r.mean is not None:
            result = Ex("fn", r.dtype, (result, Ex("index", r.dtype, (), r.mean)), ("div", ()))
        out = r.node.out
        if out.dtype != r.dtype:
            result = Ex("fn", out.dtype, (result,), ("cast", ()))
        self.low.puller.provided[out] = lambda index: result

    def keep_outputs(self, r: Reduction, stores: list[Store | Accumulate]) -> None:
        """Stores outputs that this phase computes anyway, each at exactly one position."""
        for k, done in self.early.items():
            at = self.passes_by(r, k) if done is None else None
            if at is not None:
                v = self.low.graph.outputs[k][1]
                value = self.low.puller.memo[(v, at)]
                stores.append(Store(self.low.first_output + k, linear_index(v.shape, at), value))
                self.early[k] = r.node

    def keep_values(self, reduced: tuple[Axis, ...], stores: list[Store | Accumulate],
                    after: Node) -> None:
        """Keeps dear values that later phases need again in a scratch row."""
        for v, at, inner, size in list(self.worth_keeping(reduced, after)):
            self.keep(v, at, inner, size, stores)

    def keep(self, v: Value, at: Index, inner: list[tuple[Dim, Dim]], size: Dim,
             stores: list[Store | Accumulate]) -> None:
        low, lane = self.low, self.lane
        width = 1 if lane is None else self.width
        dtype = kept(v.dtype)
        buffer = low.new_scratch(dtype, size * width)
        tile = {name_of(a.var) for a in self.tile}
        axes = [k for k, i in enumerate(at) if not (free_vars(i) & tile)]

        def position(index: Index) -> Dim:
            linear = linear_index(tuple(v.shape[k] for k in axes), tuple(index[k] for k in axes))
            return linear if lane is None else linear * width + (lane.var - self.base)

        def provider(index: Index) -> Ex | None:
            same = all(index[k] == at[k] for k in range(len(at)) if k not in axes)
            return Ex("load", dtype, (), (buffer, position(index))) if same else None

        stores.append(Store(buffer, position(at), low.puller.memo[(v, at)]))
        low.puller.provided[v] = provider

    def output_phase(self, k: int, axes: list[Axis], index: Index) -> list[Loop]:
        low = self.low
        low.puller.start()
        v = low.graph.outputs[k][1]
        ex = low.puller.element(v, index)
        if low.puller.holes:
            raise Refused("an output reads a reduction that no phase computed")
        body: list[Store | Accumulate] = [
            Store(low.first_output + k, linear_index(v.shape, index), ex)]
        tile = {name_of(a.var) for a in self.tile}
        inner = [a for a in axes if name_of(a.var) not in tile]
        if self.lane is None:
            return self.joined(*low.simplify(inner, body))
        keep = frozenset((name_of(self.lane.var),))
        return self.joined(*low.simplify((*inner, self.strip), self.fold(body), keep))


def lower_loops(graph: Graph, unroll: bool = True, masks: bool = False) -> Nest:
    """Lowers a group that needs no micro-kernel; ``unroll`` writes small windows out where all
    reductions are such, ``masks`` says whether the target's vectors can read under masks. Raises
    ``Refused`` with the reason."""
    low = Lowering(graph)
    if unroll and small_windows(graph):
        low.masked = masks and all(v.dtype == F32 for n in graph.nodes for v in n.operands)
        write_out(low.puller)
        lower_map(low)
    elif any(is_reduction(n) for n in graph.nodes):
        lower_reductions(low)
    else:
        lower_map(low)
    return low.nest()
