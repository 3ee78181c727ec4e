"""One loop nest as numbers: what an iteration executes, by a walk over its expression.

An operation that depends on the innermost loop counts for every iteration, any other for every
iteration of the loops it depends on. A read or write counts as contiguous where its position moves
by one with the innermost loop, as standing still where it does not move, else as an element apart,
which costs a vector. What a condition guards counts for the part of the loop that the condition
leaves. A short innermost loop is unrolled: it starts nothing, and with the one around it counts as
one loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.access import Cond
from ..ir.axes import Axis, atoms, coefficient, merge_axes, name_of
from ..ir.dim_functions import ceil_div, dmax, dmin
from ..ir.dim_values import substitute
from ..ir.dims import Dim, Expr, free_vars
from ..ir.elements import Ex, Gather, map_dims, positions, renamer
from ..ir.ops import lookup
from ..ir.tiles import (
    SHORT,
    SIDE,
    Reduction,
    Space,
    TileSpace,
    crossing,
    interleaved,
    load_positions,
)  # fmt: skip
from .work import LoopWork

DIVISION = 8
"""Elements apart that cost what an integer division does: one at a time, and slowly."""


def nest_work(low: Space, rows: Sequence[Axis], inner: Sequence[Axis],
              stores: Sequence[tuple[Dim, Ex]], space: TileSpace | None = None,
              r: Reduction | None = None, cut: bool = False, shared: bool = False) -> LoopWork:
    """The nest that computes ``stores`` (position, value), and the sum ``r``, for every row.
    ``space``: the tiles that a reduction is in; ``cut``: it is cut into blocks where it crosses
    lines; ``shared`` by layers, so that no length is in its source."""
    values = [ex for _, ex in stores]
    targets = [at for at, _ in stores]
    conds: tuple[Cond, ...] = ()
    if r is not None:
        assert r.ex is not None
        values.append(r.ex)
        conds = r.conds
    lane = None if space is None else space.lane
    dims = nest_dims(low, values, targets, conds)
    if lane is not None and space is not None:
        fold = space.folded
        dims = [substitute(d, fold) for d in dims]
        axes, mapping = merge_axes(inner, dims, low.names)
        mapping = {k: substitute(d, mapping) for k, d in fold.items()} | mapping
        blocks = ceil_div(lane.hi, space.width)
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
        if lane is not None and space is not None:  # accumulators are rows in scratch
            inside = [a for a in axes[:-1] if isinstance(a.var, Expr)]
            many = space.unrolling(r, inside, targets)
            count.work.joined = count.work.joined * many
            count.work.loads += 4 / many
            count.work.stores += 4 / many
    return count.work


def nest_dims(low: Space, values: Sequence[Ex], targets: Sequence[Dim], conds: Sequence[Cond]
              ) -> list[Dim]:
    """Every position that ``values``, what they gather and ``conds`` are computed from, and those
    of the ``targets``."""
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
