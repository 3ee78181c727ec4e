"""What a group's kernel executes: its loop nests, from the positions that tiles are read at.

A kernel runs its phases one after another: a loop per map or reduction, and around a contraction
the packing of its right operand, the rows of its left one, the micro-kernel and the epilogue. The
phases follow from the same propagation of positions that decides legality and that lowering writes
down (``ir.tiles``); no operator is known here by its name.

What a nest executes is counted in ``nests``. Small windows are counted as they are lowered, written
out (``ir.windows``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ..ir.access import linear_index
from ..ir.attention import AttentionSpace, axis
from ..ir.axes import Axis, coefficient, fresh_axes, merge_axes, name_of
from ..ir.contraction import ContractionSpace
from ..ir.dim_functions import ceil_div, dmax
from ..ir.dims import Dim, Expr, free_vars, product
from ..ir.elements import Ex, Index, is_reduction, map_dims, parts, positions, renamer
from ..ir.epilogue import finish_of
from ..ir.errors import EvonnxError
from ..ir.graph import Graph, Value
from ..ir.grids import find_grid
from ..ir.ops import lookup
from ..ir.schedule import FUSED
from ..ir.separable import SeparableSpace
from ..ir.tiles import (
    LANES,
    Space,
    TileSpace,
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
from .nests import nest_dims, nest_work
from .work import AttentionWork, ImageWork, LoopWork, ProductWork, Work

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
        found.append(nest_work(low, (), axes, stores, cut=True))
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
        work = nest_work(low, rows, list(r.reduced), stores, space, r)
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
        found.append(nest_work(low, rows, inner, [(linear_index(v.shape, index), ex)], space))
    return found


def _moved(row: Ex, at: Index, index: Index) -> Ex:
    """The kept row read at another position."""
    mapping = {name_of(a): i for a, i in zip(at, index, strict=True) if free_vars(a)}
    return map_dims(row, renamer(mapping))


def _same(ex: Ex, _: Index) -> Ex:
    return ex


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
        after = nest_work(low, outside, axis(lane, s.columns), [(lane, applied)], shared=True)
        return replace(plain, after=after)
    value = Ex("load", F32, (), (-1, s.column * LANES))
    work = nest_work(low, outside, columns, _stores(s, value), shared=True)
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
        left = nest_work(low, tile, list(s.run), [(_position(s.run), s.a)], shared=True)
    b = s.b
    if not (b.kind == "load" and b.data[0] in once):
        step = low.names.var(column.hi)
        value = map_dims(b, renamer({name_of(column.var): step}))
        order = [*s.batch, *outer, *s.body.reduced]
        axes = [Axis(step, column.hi)] if isinstance(step, Expr) else []
        pack = nest_work(low, order, axes, [(step, value)], cut=True, shared=True)
    late = _late(s, [column])
    epilogue, residuals = _epilogue(s, tile + outer, [column], late)
    stride, arrays = _row_by_row(s, late)
    addressed, _ = merge_axes(s.rows, nest_dims(low, [s.a], [], s.body.conds), low.names)
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
    cell = _cell(s, _position(columns))
    return _Late(cell, _stores(s, cell))


def _cell(s: ContractionSpace, at: Dim) -> Ex:
    """The element of a contraction's result at a position in scratch."""
    return Ex("load", s.anchor.out.dtype, (), (-1, at))


def _stores(s: ContractionSpace | AttentionSpace, cell: Ex) -> list[tuple[Dim, Ex]]:
    """(position, value) of each result of a group whose anchor's result is read as ``cell``."""
    puller = s.low.puller
    puller.start()
    puller.provided[s.anchor.out] = partial(_same, cell)
    outputs = [(s.low.graph.outputs[k][1], index) for k, (_, index) in s.late.items()]
    return [(linear_index(v.shape, index), puller.element(v, index)) for v, index in outputs]


def _position(axes: Sequence[Axis]) -> Dim:
    """Where a point of some axes lies, the last one contiguous."""
    return linear_index(tuple(a.hi for a in axes), tuple(a.var for a in axes))


def row_division(size: Dim) -> float:
    """Operations of a row number divided by the size of an axis."""
    return KNOWN_DIVISION if isinstance(size, int) else ROW_DIVISION


def _epilogue(s: ContractionSpace, outside: Sequence[Axis], columns: Sequence[Axis], late: _Late,
              lines: bool = False) -> tuple[LoopWork | None, int]:
    """The loop over a contraction's result in scratch, contiguous along the columns, that computes
    what is ``late``; or None and the operands that are added, where all of it is done as the result
    leaves the registers. A result that is stored turned is read from scratch and shuffled. With
    ``lines`` a tile is a line of an image, the columns are its channels and nothing is added but a
    bias."""
    low, (cell, stores) = s.low, late
    dims = nest_dims(low, [ex for _, ex in stores], [d for d, _ in stores], ())
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
        work = nest_work(low, outside, columns, stores, shared=True)
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
    cell = _cell(s, _position(s.rows) * PANEL + _position(columns))
    around = [a for a in outside if a not in s.rows]
    work = nest_work(s.low, [*around, *columns], list(s.rows), _stores(s, cell), shared=True)
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
