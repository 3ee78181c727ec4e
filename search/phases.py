"""What a group's kernel executes: its loop nests, from the positions that tiles are read at.

A kernel runs its phases one after another: a loop per map or reduction, and around a contraction
the packing of its right operand, the rows of its left one, the micro-kernel and the epilogue. The
phases follow from the same propagation of positions that decides legality and that lowering writes
down (``ir.tiles``); no operator is known here by its name.

Of each loop nest the expression of one iteration is walked once. An operation that depends on the
innermost loop counts for every iteration, any other for every iteration of the loops it depends on.
A read or write counts as contiguous where its position moves by one with the innermost loop, as
standing still where it does not move, else as an element apart, which costs a vector. What a
condition guards counts for the part of the loop that the condition leaves. A short innermost loop
is unrolled: it starts nothing, and with the one around it counts as one loop. Small
windows are counted as they are lowered, written out (``ir.windows``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ..ir.access import Cond, linear_index
from ..ir.attention import AttentionSpace, axis
from ..ir.axes import Axis, atoms, coefficient, fresh_axes, merge_axes, name_of
from ..ir.contraction import ContractionSpace
from ..ir.dim_functions import ceil_div, dmax, dmin
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr, free_vars, product
from ..ir.elements import Ex, Gather, Index, is_reduction, map_dims, parts, positions, renamer
from ..ir.epilogue import finish_of
from ..ir.errors import EvonnxError
from ..ir.graph import Graph, Value
from ..ir.grids import find_grid
from ..ir.ops import lookup
from ..ir.schedule import FUSED
from ..ir.separable import SeparableSpace
from ..ir.tiles import (
    LANES,
    SHORT,
    SIDE,
    Reduction,
    Space,
    TileSpace,
    crossing,
    interleaved,
    kept,
    load_positions,
    reduction_body,
)  # fmt: skip
from ..ir.types import F32
from ..ir.variants import (
    Form,
    by_windows,
    contraction_form,
    read_once,
    separable_form,
    small_windows,
)
from ..ir.windows import write_out
from .work import AttentionWork, ImageWork, LoopWork, ProductWork, Work

DIVISION = 8
"""Elements apart that cost what an integer division does: one at a time, and slowly."""
ROW_DIVISION, KNOWN_DIVISION = 24, 4
"""Operations of a row number taken apart by one more axis: of an unknown size, and of a known one,
where the quotient is a product."""
SHUFFLES = 4
"""Operations per element of a matrix that a micro-kernel turns: a butterfly of 16 lanes."""
PANEL = 32
"""Columns of a panel of sums, about."""
AFFINE, TABLE, GUARDED = 1, 4, 9
"""Operations per entry of a table of row addresses: where rows lie evenly apart, where they do not,
and where they may be outside of the image."""


def group_phases(graph: Graph, implementation: str, constants: frozenset[int],
                 tiles: TileSpace | SeparableSpace | None = None) -> Work | None:
    """The phases of a group that ``ir.groups.extract`` cut out; ``constants`` are its inputs known
    when the model is loaded, ``tiles`` its tile space where that is known (it is used up). None
    where there are no loops to speak of (views, kernels of their own) or positions do not
    propagate."""
    if implementation not in FUSED:
        return None
    try:
        if implementation == "attention":
            a = tiles if isinstance(tiles, AttentionSpace) else AttentionSpace(Space(graph))
            return Work(attention=_attention(a))
        if implementation == "contract":
            one = tiles if isinstance(tiles, ContractionSpace) else ContractionSpace(Space(graph))
            return Work(product=_product(one, read_once(graph, constants)))
        if implementation == "separable":
            known = tiles if isinstance(tiles, SeparableSpace) else SeparableSpace(graph)
            once = read_once(graph, constants)
            return Work(product=_separable(known, once))
        low = Space(graph)
        if small_windows(graph):
            write_out(low.puller)
            return Work(tuple(_maps(low)))
        if isinstance(tiles, TileSpace):
            return Work(tuple(_reductions(tiles)))
        reductions = [n for n in graph.nodes if is_reduction(n)]
        if not reductions:
            return Work(tuple(_maps(low)))
        space = TileSpace(low, reductions)
        space.find_tiles()
        return Work(tuple(_reductions(space)))
    except EvonnxError:
        return None


# -- loops -------------------------------------------------------------------------------------


def _maps(low: Space) -> list[LoopWork]:
    """A loop nest per shape of the results."""
    by_shape: dict[tuple[Dim, ...], list[int]] = {}
    for k, (_, v) in enumerate(low.graph.outputs):
        by_shape.setdefault(v.shape, []).append(k)
    found = []
    for shape, outputs in by_shape.items():
        values = [low.graph.outputs[k][1] for k in outputs]
        axes, index = fresh_axes(shape, low.names)
        pulled: list[Ex] = []

        def pull(at: Index, values: list[Value] = values, pulled: list[Ex] = pulled) -> list[Dim]:
            pulled[:] = [low.puller.element(v, at) for v in values]
            return low.seen_positions(pulled)

        axes, index = low.settle(axes, index, pull)
        stores = [(linear_index(v.shape, index), ex)
                  for v, ex in zip(values, pulled, strict=True)]
        found.append(_loop(low, (), axes, stores, cut=True))
    return found


def _reductions(space: TileSpace) -> list[LoopWork]:
    """A loop nest per reduction, then one per result."""
    low = space.low
    space.find_lane()
    rows = [a for a in space.tile if name_of(a.var) not in space.folded]
    found = []
    for node in space.nodes:
        low.puller.start()
        r = reduction_body(low, node, space.index[node])
        assert r.ex is not None
        stores: list[tuple[Dim, Ex]] = []
        for k, done in space.early.items():
            at = space.passes_by(r, k) if done is None else None
            if at is not None:
                space.early[k] = node
                v = low.graph.outputs[k][1]
                stores.append((linear_index(v.shape, at), low.puller.memo[v, at]))
        for v, at, _, _ in list(space.worth_keeping(r.reduced, node)):
            stores.append((linear_index(v.shape, at), low.puller.memo[v, at]))
            row = Ex("load", kept(v.dtype), (), (-1, linear_index(v.shape, at)))
            low.puller.provided[v] = partial(_moved, row, at)
        work = _loop(low, rows, list(r.reduced), stores, space, r)
        found.append(work)
        result = Ex("local", node.out.dtype, (), node.out)
        if r.mean is not None:
            result = Ex("fn", node.out.dtype, (result, result), ("div", ()))
        low.puller.provided[node.out] = partial(_same, result)
    tile = {name_of(a.var) for a in space.tile}
    for k, (axes, index) in space.late.items():
        low.puller.start()
        v = low.graph.outputs[k][1]
        inner = [a for a in axes if name_of(a.var) not in tile]
        ex = low.puller.element(v, index)
        found.append(_loop(low, rows, inner, [(linear_index(v.shape, index), ex)], space))
    return found


def _moved(row: Ex, at: Index, index: Index) -> Ex:
    """The kept row read at another position."""
    mapping = {name_of(a): i for a, i in zip(at, index, strict=True) if free_vars(a)}
    return map_dims(row, renamer(mapping))


def _same(ex: Ex, _: Index) -> Ex:
    return ex


def _loop(low: Space, rows: Sequence[Axis], inner: Sequence[Axis],
          stores: Sequence[tuple[Dim, Ex]], space: TileSpace | None = None,
          r: Reduction | None = None, cut: bool = False, shared: bool = False) -> LoopWork:
    """The nest that computes ``stores`` (position, value), and the sum ``r``, for every row;
    ``shared`` by layers, so that no length is in its source."""
    values = [ex for _, ex in stores]
    targets = [at for at, _ in stores]
    conds: tuple[Cond, ...] = ()
    if r is not None:
        assert r.ex is not None
        values.append(r.ex)
        conds = r.conds
    lane = None if space is None else space.lane
    dims = _dims(low, values, targets, conds)
    if lane is not None and space is not None:
        fold = space.folded
        dims = [substitute(d, fold) for d in dims]
        axes, mapping = merge_axes(inner, dims, low.names)
        mapping = {k: substitute(d, mapping) for k, d in fold.items()} | mapping
        blocks = ceil_div(lane.hi, LANES)
        axes = [*axes, Axis(lane.var, ceil_div(lane.hi, dmax(blocks, 1)))]
        outside: list[Axis] = [*rows, Axis(low.names.var(blocks), blocks)]
    else:
        axes, mapping = merge_axes(inner, dims, low.names)
        outside = list(rows)
    if mapping:
        rename, memo = renamer(mapping), dict[Ex, Ex]()
        values = [map_dims(ex, rename, memo) for ex in values]
        targets = [rename(d) for d in targets]
    count = _Counter(low, outside, axes, mapping, cut, shared)
    if cut and (length := interleaved(count.axes, list(zip(targets, values, strict=True)))):
        count.interleave(length)
    for ex in values:
        count.value(ex)
    for (_, ex), at in zip(stores, targets, strict=True):
        count.store(at, ex.dtype.itemsize)
    loads = [d for ex in values for d in load_positions(ex)]
    if cut and count.axes and (along := crossing(count.axes, loads)) is not None:
        count.work.neighbors = dmin(count.axes[along].hi, SIDE)  # it runs in blocks
    if r is not None:
        count.work.sums = lane is None and count.work.joined == 1
        count.add(1.0, len(count.times) - 1, special=False)
        if lane is not None:  # accumulators are rows in scratch
            count.work.loads += 4
            count.work.stores += 4
    return count.work


def _dims(low: Space, values: Sequence[Ex], targets: Sequence[Dim], conds: Sequence[Cond]
          ) -> list[Dim]:
    seen: set[Ex] = set()
    dims = [d for ex in values for d in positions(ex, seen)]
    dims += [*targets, *(d for c in conds for d in (c.expr, c.lo, c.hi))]
    for g in low.used_gathers(dims).values():
        dims += positions(g.value, seen)
    return dims


class _Counter:
    """Counts what one iteration of a loop nest executes."""

    def __init__(self, low: Space, rows: Sequence[Axis], axes: Sequence[Axis],
                 mapping: Mapping[str, Dim], cut: bool = False, shared: bool = False) -> None:
        self.cut = cut
        """Whether the loops are those of a map: cut where operands of a concatenation meet, and in
        blocks where they transpose. Elsewhere a guard is a branch in the innermost loop."""
        self.axes = moving = [a for a in (*rows, *axes) if isinstance(a.var, Expr)]
        self.depth = {name_of(a.var): k + 1 for k, a in enumerate(moving)}
        self.extent = {name_of(a.var): a.hi for a in moving}
        self.times: list[Dim] = [1]
        """Iterations in all of the first so many loops."""
        for a in moving:
            self.times.append(self.times[-1] * a.hi)
        self.inner = name_of(moving[-1].var) if moving else ""
        self.low, self.mapping = low, mapping
        self.work = LoopWork(self.times[-2] if moving else 1, moving[-1].hi if moving else 1)
        last = moving[-1].hi if len(moving) > 1 and not shared else SHORT + 1
        if isinstance(last, int) and last <= SHORT:
            self.work.joined = moving[-2].hi
        self.around = name_of(moving[-2].var) if len(moving) > 1 else ""
        self.beside = ""
        """The loop around the innermost one where that interleaves what it reads side by side."""
        self.shares: dict[Ex, float] = {}
        self.variables: dict[Ex, frozenset[str]] = {}

    def interleave(self, length: int) -> None:
        """The innermost loop is vectorized along the one around it: ``length`` vectors are shuffled
        into place as they are stored."""
        self.beside = name_of(self.axes[-2].var)
        self.work.plain += (length - 1).bit_length()

    def level(self, names: frozenset[str]) -> int:
        """The innermost loop among ``names``, 0 for none."""
        return max((self.depth.get(n, 0) for n in names), default=0)

    def add(self, operations: float, level: int, special: bool) -> None:
        if level < len(self.times) - 1:
            if operations:
                self.work.outer.append((operations, self.times[level]))
        elif special:
            self.work.special += operations
        else:
            self.work.plain += operations

    def names(self, ex: Ex) -> frozenset[str]:
        """Loop variables an expression depends on, through what it gathers."""
        found = self.variables.get(ex)
        if found is None:
            own: set[str] = set()
            for d in _own_dims(ex):
                own |= self.moving(d)
            found = frozenset(own).union(*(self.names(a) for a in ex.args))
            self.variables[ex] = found
        return found

    def moving(self, d: Dim) -> frozenset[str]:
        """Loop variables that a position depends on."""
        found: set[str] = set()
        for name in free_vars(d) if isinstance(d, Expr) else ():
            gather = self.gather(name)
            found |= {name} if gather is None else self.names(gather)
        return frozenset(found)

    def gather(self, name: str) -> Ex | None:
        found: Gather | None = self.low.puller.gathers.get(name)
        return None if found is None else map_dims(found.value, renamer(dict(self.mapping)))

    def value(self, ex: Ex, share: float = 1.0) -> None:
        """Counts an expression for a part of the iterations; what was counted before is only
        counted for what is new."""
        before = self.shares.get(ex, 0.0)
        if share <= before or ex.kind in ("const", "local"):
            return
        self.shares[ex] = share
        more, level = share - before, self.level(self.names(ex))
        if ex.kind == "load":
            self.load(ex.data[1], ex.dtype.itemsize, more, level)
        elif ex.kind == "index":
            self.divisions(ex.data, more)
        elif ex.kind == "fn":
            each = lookup(ex.data[0]).flops_per_element
            if not _multiply_add(ex):
                self.add(more * max(each, 1), level, each > 1)
        if ex.kind == "guard":
            part = self.part(ex.data)
            self.value(ex.args[0], share * part)
            self.value(ex.args[1], share * (1 - part) if len(ex.data) == 1 else share)
            return
        for a in ex.args:
            self.value(a, share)

    def part(self, conds: Sequence[Cond]) -> float:
        """The part of the iterations in which conditions on single loops hold."""
        part = 1.0
        for c in conds:
            names = self.moving(c.expr)
            if not self.cut or self.inner in names and len(conds) > 1:
                self.work.scalar = True
            whole = self.extent.get(next(iter(names), "")) if len(names) == 1 else None
            size = c.hi - c.lo
            if isinstance(size, int) and isinstance(whole, int) and whole > 0:
                part *= min(1.0, max(0.0, size / whole))
        return part

    def stride(self, at: Dim, itemsize: int) -> Dim | None:
        """Bytes from one iteration to the next; None where they are not always the same."""
        step = coefficient(at, self.inner)
        return None if step is None else step * itemsize

    def load(self, at: Dim, itemsize: int, more: float, level: int) -> None:
        if level < len(self.times) - 1:
            self.add(more, level, special=False)
            return
        self.divisions(at, more)
        if self.together(at) or self.beside and coefficient(at, self.beside) == 1:
            self.work.loads += more * itemsize
        else:
            self.work.apart.append((more, self.stride(at, itemsize)))
        for name in free_vars(at) if isinstance(at, Expr) else ():
            gather = self.gather(name)
            if gather is not None:
                self.value(gather)

    def store(self, at: Dim, itemsize: int) -> None:
        if self.level(self.moving(at)) < len(self.times) - 1:
            self.add(1.0, self.level(self.moving(at)), special=False)
        elif self.together(at):
            self.work.stores += itemsize
        else:
            self.work.scattered.append((1.0, self.stride(at, itemsize)))

    def together(self, at: Dim) -> bool:
        """Whether neighbors of the innermost loop lie side by side; where that is so short that it
        is unrolled into the loop around it, whether they go on there."""
        gathers = [self.gather(n) for n in (free_vars(at) if isinstance(at, Expr) else ())]
        scattered = any(g is not None and self.inner in self.names(g) for g in gathers)
        return not scattered and coefficient(at, self.inner) == 1 and (
            self.work.joined == 1 or bool(self.beside)
            or coefficient(at, self.around) in (0, self.work.length))

    def divisions(self, at: Dim, more: float) -> None:
        """Divisions of the innermost loop's variable."""
        count = sum(a.kind in ("floordiv", "mod") and self.inner in self.moving(a.args[0])
                    for a in set(atoms(at)))
        if count:
            self.work.apart.append((more * DIVISION * count, None))


def _multiply_add(ex: Ex) -> bool:
    """Whether the processor adds while it multiplies what is added."""
    return ex.data[0] in ("add", "sub") and any(
        a.kind == "fn" and a.data[0] == "mul" for a in ex.args)


def _own_dims(ex: Ex) -> tuple[Dim, ...]:
    if ex.kind == "load":
        return (ex.data[1],)
    if ex.kind == "index":
        return (ex.data,)
    if ex.kind == "guard":
        return tuple(d for c in ex.data for d in (c.expr, c.lo, c.hi))
    return ()



# -- attention ---------------------------------------------------------------------------------


def _attention(s: AttentionSpace) -> AttentionWork:
    """An attention and what follows it."""
    plain = AttentionWork(product(a.hi for a in s.batch), s.rows, s.keys, s.depth, s.columns,
                          s.mask is not None)
    low, columns = s.low, axis(s.column, s.columns)
    outside = [*s.batch, *axis(s.row, s.rows)]
    lane = low.names.var(s.columns)
    value = Ex("load", F32, (), (-1, lane))
    applied = s.applied(value)
    if applied is not None:
        if applied == value:
            return plain
        return replace(plain, after=_loop(low, outside, axis(lane, s.columns), [(lane, applied)],
                                          shared=True))
    value = Ex("load", F32, (), (-1, s.column * LANES))
    low.puller.start()
    low.puller.provided[s.anchor.out] = partial(_same, value)
    stores = []
    for k, (_, index) in s.late.items():
        v = low.graph.outputs[k][1]
        stores.append((linear_index(v.shape, index), low.puller.element(v, index)))
    work = _loop(low, outside, columns, stores, shared=True)
    return replace(plain, after=work, turned=False)


# -- contractions ------------------------------------------------------------------------------


def _product(s: ContractionSpace, once: frozenset[int]) -> ProductWork:
    """A contraction; ``once`` as ``ir.variants.read_once`` answers of the whole group."""
    low = s.low
    rows = product(a.hi for a in s.rows)
    batches = product(a.hi for a in s.batch)
    depth = product(a.hi for a in s.body.reduced)
    taps = product(a.hi for a in s.taps)
    form = contraction_form(s, once)
    if s.channel is not None:
        return _windows(s, form, [s.channel])
    column = s.columns[-1]
    outer = list(s.columns[:-1])
    left = pack = None
    tile = [*s.batch, *s.rows]
    if not s.direct:
        left = _loop(low, tile, list(s.run), [(_row_position(s), s.a)], shared=True)
    b = s.b
    if not (b.kind == "load" and b.data[0] in once):
        step = low.names.var(column.hi)
        value = map_dims(b, renamer({name_of(column.var): step}))
        order = [*s.batch, *outer, *s.body.reduced]
        axes = [Axis(step, column.hi)] if isinstance(step, Expr) else []
        pack = _loop(low, order, axes, [(step, value)], cut=True, shared=True)
    late = _late(s, [column])
    epilogue, residuals = _epilogue(s, tile + outer, [column], late)
    stride, arrays = _row_by_row(s, late)
    addressed, _ = merge_axes(s.rows, _dims(low, [s.a], [], s.body.conds), low.names)
    divisions = sum(row_division(a.hi) for a in addressed[1:])
    if len(s.phases) > 1:  # as one product of all phases' rows with sums of their average length
        rows = product(s.anchor.out.shape) // dmax(column.hi, 1)
        types = tuple(v.type for v in s.anchor.operands)
        work = lookup(s.anchor.op).work(types, s.anchor.attrs, s.anchor.types)
        depth = ceil_div(work.flops, dmax(2 * rows * column.hi, 1))
    guarded = s.direct and bool(s.body.conds)
    return ProductWork(batches, rows, column.hi, product(a.hi for a in outer), depth, taps,
                       guarded, divisions, left=left, pack=pack, epilogue=epilogue,
                       residuals=residuals, stride=stride, arrays=arrays, form=form,
                       windows=_grouped(s, form, late) if by_windows(form) else None)


def _separable(s: SeparableSpace, once: frozenset[int]) -> ProductWork:
    """A depthwise convolution and its pointwise neighbors."""
    before = None
    if s.before is not None:
        before = _grouped(s.before, contraction_form(s.before, once))
    window = replace(_product(s.window, once), before=before)
    last = window if s.product is None else replace(_product(s.product, once), before=window)
    return replace(last, form=separable_form(s, once))


def _grouped(s: ContractionSpace, form: Form, late: _Late | None = None) -> ProductWork | None:
    """A convolution that is a product as one by windows; ``late`` along its innermost columns,
    where that is known."""
    channels = [*s.batch, *s.columns]
    return None if form.fan is None else _windows(
        s, form, channels, late if len(channels) == 1 else None)


def _windows(s: ContractionSpace, form: Form, channels: Sequence[Axis],
             late: _Late | None = None) -> ProductWork:
    """A convolution by windows, its channels side by side in vectors."""
    epilogue, _ = _epilogue(s, s.rows, channels, late or _late(s, channels), lines=True)
    return ProductWork(1, product(a.hi for a in s.rows), 1, 1,
                       product(a.hi for a in s.body.reduced), product(a.hi for a in s.taps),
                       channels=product(a.hi for a in channels), epilogue=epilogue, form=form,
                       image=None if s.channel is None else _image(s, epilogue is None))


def _image(s: ContractionSpace, in_registers: bool) -> ImageWork | None:
    """The results of a depthwise convolution, if neighboring lines are on its grid;
    ``in_registers``: whether what follows is done there."""
    grid = find_grid(s)
    if grid is None or grid.down is None:
        return None
    *images, lines, pixels = (a.hi for a in s.rows)
    return ImageWork(grid.down.taps, grid.across.taps, product(images), lines, pixels,
                     grid.across.step, in_registers and grid.planes == 1)


def _row_by_row(s: ContractionSpace, late: _Late) -> tuple[Dim, int]:
    """``stride`` and ``arrays`` of a product whose results are ``late``."""
    rows = {name_of(a.var) for a in s.rows}
    arrays, steps = 0, []
    for at, value in late.stores:
        if s.rows:
            steps.append(coefficient(at, name_of(s.rows[-1].var)))
        arrays += 1 + sum(isinstance(d, Expr) and not rows.isdisjoint(free_vars(d))
                          for d in load_positions(value))
    same = steps[0] if steps and all(step == steps[0] for step in steps) else None
    return (0 if same is None else same), arrays


class _Late(NamedTuple):
    """What follows a contraction."""

    cell: Ex
    """An element of its result, in scratch."""
    stores: list[tuple[Dim, Ex]]
    """(position, value) of each result of the group."""


def _late(s: ContractionSpace, columns: Sequence[Axis]) -> _Late:
    """What follows a contraction whose result lies in scratch, contiguous along the columns."""
    low = s.low
    low.puller.start()
    cell = Ex("load", s.anchor.out.dtype, (), (-1, linear_index(
        tuple(a.hi for a in columns), tuple(a.var for a in columns))))
    low.puller.provided[s.anchor.out] = partial(_same, cell)
    stores = []
    for k, (_, index) in s.late.items():
        v = low.graph.outputs[k][1]
        stores.append((linear_index(v.shape, index), low.puller.element(v, index)))
    return _Late(cell, stores)


def row_division(size: Dim) -> float:
    """Operations of a row number divided by the size of an axis."""
    return KNOWN_DIVISION if isinstance(size, int) else ROW_DIVISION


def _row_position(s: ContractionSpace) -> Dim:
    return linear_index(tuple(a.hi for a in s.run), tuple(a.var for a in s.run))


def _epilogue(s: ContractionSpace, outside: Sequence[Axis], columns: Sequence[Axis], late: _Late,
              lines: bool = False) -> tuple[LoopWork | None, int]:
    """The loop over a contraction's result in scratch, contiguous along the columns, that computes
    what is ``late``; or None and the operands that are added, where all of it is done as the result
    leaves the registers. A result that is stored turned is read from scratch and shuffled. With
    ``lines`` a tile is a line of an image, the columns are its channels and nothing is added but a
    bias."""
    low, (cell, stores) = s.low, late
    dims = _dims(low, [ex for _, ex in stores], [d for d, _ in stores], ())
    across, mapping = merge_axes(columns, [*dims, cell.data[1]], low.names)
    merged = list(s.rows[-1:])
    if not lines:
        merged, along = merge_axes(s.rows, dims, low.names)
        mapping = mapping | along
    if len(stores) == len(across) == 1 and len(merged) <= 1 and not s.bytes:
        rename = renamer(mapping)
        row = name_of(merged[0].var) if merged else ""
        at, value = stores[0]
        finish = finish_of(0, rename(at), map_dims(value, rename), map_dims(cell, rename), row,
                           name_of(across[0].var), low.puller.gathers)
        if finish is not None and (finish.residual is None or not lines):
            residuals = int(finish.residual is not None)
            if not finish.turned:
                return None, residuals
            times = product(a.hi for a in outside)
            return LoopWork(times, across[0].hi, plain=SHUFFLES, loads=4, stores=4,
                            turned=product(a.hi for a in merged)), residuals
    if not lines and len(merged) == 1 and _rows_together(merged[0], across, mapping, stores):
        work = _down(s, outside, columns)
    else:
        work = _loop(low, outside, columns, stores, shared=True)
    work.unforeseen = _unforeseen(low, [ex for _, ex in stores], {name_of(a.var) for a in s.rows})
    if len(merged) > 1:
        work.outer.append((sum(row_division(a.hi) for a in merged[1:]),
                           product(a.hi for a in outside)))
    return work, 0


def _rows_together(row: Axis, columns: Sequence[Axis], mapping: Mapping[str, Dim],
                   stores: Sequence[tuple[Dim, Ex]]) -> bool:
    """Whether all results lie side by side along ``row`` and not along the columns: then the loop
    over rows is the innermost one."""
    rename = renamer(dict(mapping))
    places = [rename(at) for at, _ in stores]
    return bool(columns) and all(
        coefficient(at, name_of(row.var)) == 1
        and coefficient(at, name_of(columns[-1].var)) != 1 for at in places)


def _down(s: ContractionSpace, outside: Sequence[Axis], columns: Sequence[Axis]) -> LoopWork:
    """The loop over a result in scratch that runs down its rows, a panel apart there."""
    low = s.low
    row, column = (linear_index(tuple(a.hi for a in axes), tuple(a.var for a in axes))
                   for axes in (s.rows, columns))
    low.puller.start()
    cell = Ex("load", s.anchor.out.dtype, (), (-1, row * PANEL + column))
    low.puller.provided[s.anchor.out] = partial(_same, cell)
    stores = []
    for k, (_, index) in s.late.items():
        v = low.graph.outputs[k][1]
        stores.append((linear_index(v.shape, index), low.puller.element(v, index)))
    around = [a for a in outside if a not in s.rows]
    work = _loop(low, [*around, *columns], list(s.rows), stores, shared=True)
    work.down = True
    return work


def _unforeseen(low: Space, values: Sequence[Ex], rows: set[str]) -> Dim:
    """Bytes of the largest operand that is gathered by the variables in ``rows``."""
    largest: Dim = 0
    for ex in parts(values):
        if ex.kind != "load" or ex.data[0] < 0:
            continue
        gathers = [g for name in free_vars(ex.data[1]) if (g := low.puller.gathers.get(name))]
        if any(not rows.isdisjoint(free_vars(d)) for g in gathers for d in positions(g.value)):
            largest = dmax(largest, low.graph.inputs[ex.data[0]].tensor.nbytes())
    return largest
