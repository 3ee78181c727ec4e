"""Maps: plain loop nests divided into parallel tiles.

Where an operand is contiguous along another loop than the innermost one, both go in blocks, so that
every line of memory that a block touches is used up before it leaves the level-1 cache. float32 is
turned in such blocks by a micro-kernel (``micro.packing``): straight to where it belongs if nothing
else happens to it, else into scratch, from where the block is computed along the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..ir.axes import Axis, coefficient, name_of
from ..ir.dim_functions import ceil_div, dmax, dmin
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr, free_vars, product
from ..ir.elements import Ex, Names, parts, replaced
from ..ir.tiles import BLOCK, SIDE, crossing, load_positions, tile_rows
from ..ir.types import F32, DType
from .nest import Accumulate, Address, Call, Domain, Loop, Step, Store

TURN = 4 * SIDE
"""Elements along a side of the blocks that a micro-kernel transposes: two of them, 16 KB each, stay
in the level-1 cache."""
NARROW, WIDE = 64, 512
"""Steps of the innermost loop below which the one around it is always in the tile, and from which
on it never is: what is done once before it does not matter. Between them it is where both are no
more than a tile shall be."""
TURN_KERNEL = "mk_turn_f32"
NewScratch = Callable[[DType, Dim], int]
"""(dtype, elements) -> number of a new piece of scratch."""


def tile_map(axes: Sequence[Axis], body: Sequence[Store | Accumulate], names: Names,
             new_scratch: NewScratch | None = None) -> Domain:
    """Divides a plain loop nest into parallel tiles of about ``BLOCK`` elements; with
    ``new_scratch``, blocks that compute may be turned in scratch."""
    axes = [a for a in axes if isinstance(a.var, Expr)]
    if len(axes) <= 1:
        if not axes:
            return Domain((), (Loop((), tuple(body)),))
        axis = axes[0]
        if isinstance(axis.hi, int) and axis.hi <= BLOCK:
            return Domain((), (Loop((axis,), tuple(body)),))
        block, inner = _in_blocks(axis, names)
        return Domain((block,), (Loop((inner,), tuple(body)),))
    turned = crossing(axes, [d for item in body for d in load_positions(item.value)])
    if turned is not None:
        return _blocked(axes, body, turned, names, new_scratch)
    last = axes[-1].hi
    depth = 2 if len(axes) > 2 and isinstance(last, int) and last < WIDE else 1
    work = product(a.hi for a in axes[-depth:])
    if isinstance(last, int) and last >= NARROW and not (isinstance(work, int) and work <= BLOCK):
        depth, work = 1, last
    if depth == 1 and isinstance(last, int) and last > 2 * BLOCK:
        block, inner = _in_blocks(axes[-1], names)
        return Domain((*axes[:-1], block), (Loop((inner,), tuple(body)),))
    per = dmax(1, BLOCK // work) if isinstance(work, int) and work else dmax(
        1, ceil_div(BLOCK, dmax(work, 1)))
    rows = tuple(axes[:-depth])
    return Domain(rows, (Loop(tuple(axes[-depth:]), tuple(body)),), rows_per_tile(rows, per))


def _in_blocks(axis: Axis, names: Names) -> tuple[Axis, Axis]:
    """An axis in blocks of ``BLOCK`` steps: the axis of blocks, and that of one of them."""
    blocks = ceil_div(axis.hi, BLOCK)
    b = names.var(blocks)
    return Axis(b, blocks), Axis(axis.var, dmin(axis.hi, b * BLOCK + BLOCK), b * BLOCK)


def rows_per_tile(rows: Sequence[Axis], most: Dim) -> Dim:
    """Consecutive rows of one tile, evenly where all sizes are known; see ``tile_rows``."""
    count = product(a.hi for a in rows)
    return tile_rows(count, most) if isinstance(count, int) and isinstance(most, int) else most


def _blocked(axes: Sequence[Axis], body: Sequence[Store | Accumulate], k: int, names: Names,
             new_scratch: NewScratch | None) -> Domain:
    """A loop nest in square blocks along axis ``k`` and the innermost one."""
    turn = _turn(axes, body, k) or (new_scratch and _turned_operands(axes, body, k, new_scratch))
    side = TURN if turn else SIDE
    pair: list[tuple[Axis, Axis]] = []
    for axis in (axes[k], axes[-1]):
        blocks = ceil_div(axis.hi, side)
        b = names.var(blocks)
        inner = Axis(axis.var, dmin(axis.hi, b * side + side), b * side)
        pair.append((Axis(b, blocks), inner))
    others = [a for i, a in enumerate(axes[:-1]) if i != k]
    (across, first), (along, last) = pair
    # Where a block leaves the rest of its lines to the next axis, that axis follows it.
    order = [across, along] if isinstance(across.var, Expr) else [along]
    full = isinstance(across.var, Expr) or axes[k].hi == side
    rows = [a for a in ((*others, *order) if full else (*order, *others))
            if isinstance(a.var, Expr)]
    steps = turn(first, last) if turn else (Loop((first, last), tuple(body)),)
    return Domain(tuple(rows), steps, rows_per_tile(rows, max(1, BLOCK // (side * side))))


Turn = Callable[[Axis, Axis], tuple[Step, ...]]
"""The steps of a block, given its part of the axis that operands lie along and of the innermost."""


def _turn(axes: Sequence[Axis], body: Sequence[Store | Accumulate], k: int) -> Turn | None:
    """How a block along axis ``k`` and the innermost one is turned where all it does is to move
    float32 to where they are side by side along the other axis; else None."""
    item, size = body[0], axes[k].hi
    if len(body) != 1 or not isinstance(item, Store) or not isinstance(size, int) or size < SIDE:
        return None
    distance = _distance(axes, item.value, k)
    row, column = (name_of(axes[i].var) for i in (-1, k))
    ldd = coefficient(item.position, column)
    if distance is None or ldd is None or coefficient(item.position, row) != 1 or (
            isinstance(item.position, Expr) and not _plain(axes, item.position)):
        return None
    target, lds = item, distance

    def steps(first: Axis, last: Axis) -> tuple[Step, ...]:
        at = substitute(target.position, {column: first.lo, row: last.lo})
        return _call(axes, target.value, k, lds, first, last, Address(target.buffer, at), ldd),

    return steps


def _turned_operands(axes: Sequence[Axis], body: Sequence[Store | Accumulate], k: int,
                     new_scratch: NewScratch) -> Turn | None:
    """How a block is computed along the result where float32 operands lie along axis ``k``: they
    are turned into scratch first. None where there are none, or where some are read under
    conditions."""
    size = axes[k].hi
    if not isinstance(size, int) or size < SIDE:
        return None
    values = parts([item.value for item in body])
    if any(ex.kind == "guard" for ex in values):
        return None
    distances = {ex: d for ex in values if (d := _distance(axes, ex, k)) is not None}
    if not distances:
        return None
    pieces = {ex: new_scratch(F32, TURN * TURN) for ex in distances}
    row, column = (axes[i].var for i in (-1, k))

    def steps(first: Axis, last: Axis) -> tuple[Step, ...]:
        calls = [_call(axes, ex, k, distances[ex], first, last, Address(piece, 0), TURN)
                 for ex, piece in pieces.items()]
        at = (column - first.lo) * TURN + (row - last.lo)
        memo = {ex: Ex("load", F32, (), (piece, at)) for ex, piece in pieces.items()}
        computed = [replace(item, value=replaced(item.value, memo)) for item in body]
        return *calls, Loop((first, last), tuple(computed))

    return steps


def _distance(axes: Sequence[Axis], ex: Ex, k: int) -> Dim | None:
    """Elements from one step of the innermost loop to the next of a float32 operand that is
    contiguous along axis ``k``; None of anything else."""
    if ex.kind != "load" or ex.dtype != F32 or not _plain(axes, ex.data[1]):
        return None
    distance = coefficient(ex.data[1], name_of(axes[-1].var))
    along = coefficient(ex.data[1], name_of(axes[k].var)) == 1
    return distance if along and isinstance(distance, int) and distance >= SIDE else None


def _plain(axes: Sequence[Axis], position: Dim) -> bool:
    """Whether a position is a function of the loops alone: what is gathered lies anywhere."""
    return free_vars(position) <= {name_of(a.var) for a in axes}


def _call(axes: Sequence[Axis], ex: Ex, k: int, lds: Dim, first: Axis, last: Axis, to: Address,
          ldd: Dim) -> Call:
    """Turns a block of an operand."""
    source, position = ex.data
    origin = {name_of(axes[k].var): first.lo, name_of(axes[-1].var): last.lo}
    return Call(TURN_KERNEL, (Address(source, substitute(position, origin)), lds,
                              last.hi - last.lo, first.hi - first.lo, to, ldd))
