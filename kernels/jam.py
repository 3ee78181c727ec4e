"""Unroll and jam: the phases of several consecutive rows of a reduction in the same loops.

A row's sum ends in additions across lanes, a division, a root, each of which waits for the one
before; the next row waits for none of them, but is too far ahead for the processor to see. So rows
are worked on several at a time, phase by phase (F. Allen and J. Cocke, "A catalogue of optimizing
transformations", 1972): a loop has the bodies of all of them, each with sums and scratch of its
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..ir.access import Cond
from ..ir.axes import Axis, name_of
from ..ir.dims import Dim, Expr, free_vars
from ..ir.elements import Ex, Names, renamer
from .nest import Accumulate, Claim, Domain, Loop, Step, Store

JAM = 4
"""Rows that are worked on side by side. Measured on Zen 4: two are slower, eight not faster, but
where they are short."""
SHORT = 32
"""Elements of a row that leave registers for twice as many rows."""


@dataclass
class _Copy:
    """Rewrites the phases of one row to those of another."""

    mapping: dict[str, Dim]
    """The tile's variable -> the other row's."""
    suffix: str
    """Of the names of local scalars."""
    shift: dict[int, Dim]
    """Scratch buffer -> elements that lie before those of the row."""
    memo: dict[Ex, Ex] = field(default_factory=dict)

    def step(self, step: Loop) -> Loop:
        """A phase."""
        def renamed(locals_: tuple[tuple[str, Ex], ...]) -> tuple[tuple[str, Ex], ...]:
            return tuple((name + self.suffix, self.ex(ex)) for name, ex in locals_)

        return replace(step, body=tuple(map(self.item, step.body)), init=renamed(step.init),
                       finish=renamed(step.finish))

    def item(self, item: Store | Accumulate | Claim) -> Store | Accumulate | Claim:
        """A statement of a phase."""
        position = self.position(item.buffer, item.position)
        if isinstance(item, Claim):
            return replace(item, position=position)
        value = self.ex(item.value)
        if isinstance(item, Accumulate) and item.local:
            return replace(item, value=value, local=item.local + self.suffix)
        return replace(item, position=position, value=value)

    def position(self, buffer: int, at: Dim) -> Dim:
        """A position in a buffer."""
        return self.dim(at) + self.shift.get(buffer, 0)

    def dim(self, d: Dim) -> Dim:
        return renamer(self.mapping)(d)

    def ex(self, ex: Ex) -> Ex:
        """A value."""
        if ex not in self.memo:
            data = ex.data
            if ex.kind == "local":
                data = data + self.suffix
            elif ex.kind == "load":
                data = data[0], self.position(*data)
            elif ex.kind == "index":
                data = self.dim(data)
            elif ex.kind == "guard":
                data = tuple(Cond(*map(self.dim, (c.expr, c.lo, c.hi))) for c in data)
            self.memo[ex] = Ex(ex.kind, ex.dtype, tuple(map(self.ex, ex.args)), data)
        return self.memo[ex]


def jammed(rows: Sequence[Axis], steps: Sequence[Step], scratch: dict[int, Dim], names: Names,
           length: int) -> list[tuple[Domain, int]]:
    """Tile spaces that run ``steps`` for all ``rows``, the last of which are jammed, each with the
    rows that a point of it stands for. ``length`` is that of a row, ``scratch`` has the size of
    every piece of scratch that one row uses; the first space uses as many times as much as it has
    rows at a time. Empty where rows are too few or phases are not plain loops of the same length
    for every row."""
    axis = rows[-1] if rows else Axis(0, 1)
    loops = [step for step in steps if isinstance(step, Loop) and not step.guard]
    ends = (d for step in loops for a in step.axes for d in (a.lo, a.hi) if isinstance(d, Expr))
    if len(loops) < len(steps) or not isinstance(axis.hi, int) or axis.hi < 2 * JAM or any(
            name_of(axis.var) in free_vars(d) for d in ends):
        return []
    many = 2 * JAM if length <= SHORT and axis.hi >= 4 * JAM else JAM
    groups, rest = divmod(axis.hi, many)
    group = names.var(groups)
    variables = [names.var(axis.hi) for _ in range(many)]
    copies = [_Copy({name_of(axis.var): v}, f"_{k}", {b: size * k for b, size in scratch.items()})
              for k, v in enumerate(variables)]
    together = tuple(_merged([copy.step(step) for copy in copies]) for step in loops)
    lets = tuple((v, group * many + k) for k, v in enumerate(variables))
    found = [(Domain((*rows[:-1], Axis(group, groups)), together, lets=lets), many)]
    if rest:
        last = names.var(rest)
        found.append((Domain((*rows[:-1], Axis(last, rest)), tuple(steps),
                             lets=((axis.var, last + (axis.hi - rest)),)), 1))
    return found


def _merged(parts: Sequence[Loop]) -> Loop:
    """The same phase of several rows as one loop. What rows write never meets."""
    return replace(
        parts[0], body=tuple(item for part in parts for item in part.body),
        init=tuple(pair for part in parts for pair in part.init),
        finish=tuple(pair for part in parts for pair in part.finish),
        independent=any(isinstance(item, Store) for item in parts[0].body))
