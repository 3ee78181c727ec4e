"""Loop axes: splitting them where positions divide, merging them where memory is contiguous.

A position like ``x // D`` or ``x % D`` of a loop variable ``x`` with extent ``n*D`` vanishes when
``x`` is replaced by two loops ``xo*D + xi`` (the inverse of a reshape); two adjacent loops whose
every position moves by ``inner extent * inner step`` for one step of the outer are one loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .dim_functions import floordiv, within
from .dim_values import substitute
from .dims import Atom, Dim, Expr, free_vars
from .elements import Names


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop: ``for var in range(lo, hi)``."""

    var: Dim
    hi: Dim
    lo: Dim = 0
    most: int = 0
    """A bound of ``hi`` that depends on the target only, where there is one: written into the
    source, so that LLVM does not interleave a short loop until nothing of it is left."""


def name_of(variable: Dim) -> str:
    """Name of a loop variable."""
    name, = free_vars(variable)
    return name


def atoms(d: Dim) -> Iterable[Atom]:
    """All atoms in an expression, outermost first."""
    if isinstance(d, Expr):
        for monomial, _ in d.terms:
            for atom, _ in monomial:
                yield atom
                if atom.kind != "var":
                    for arg in atom.args:
                        yield from atoms(arg)


def find_split(dims: Iterable[Dim], axes: Sequence[Axis]) -> tuple[int, Dim] | None:
    """An axis that is divided by a size that divides its extent: (axis number, divisor); alone, or
    with axes inside of it that together move less than one of its steps (groups of channels in the
    number of an element)."""
    extents = {name_of(a.var): (k, a.hi) for k, a in enumerate(axes) if isinstance(a.var, Expr)}
    for d in dims:
        for atom in atoms(d):
            if atom.kind not in ("floordiv", "mod"):
                continue
            inner, divisor = atom.args
            names = free_vars(inner)
            if free_vars(divisor) or not names <= extents.keys():
                continue
            for name in sorted(names):
                k, extent = extents[name]
                size = _split_size(inner, divisor, name, len(names) == 1)
                if size is not None and size != extent and _quotient(extent, size) is not None:
                    return k, size
    return None


def _split_size(inner: Dim, divisor: Dim, name: str, alone: bool) -> Dim | None:
    """By what a loop would have to be split for ``inner // divisor`` not to divide its variable."""
    step = coefficient(inner, name)
    if step is None or step == 0 or not alone and (
        within(substitute(inner, {name: 0}), 0, step) is not True
    ):
        return None
    size = divisor if step == 1 else _quotient(divisor, step)
    return None if size == 1 else size


def _quotient(a: Dim, b: Dim) -> Dim | None:
    q = floordiv(a, b)
    return q if q * b == a else None


def split_axis(axes: list[Axis], k: int, size: Dim, names: Names) -> tuple[list[Axis], dict]:
    """Axis ``k`` as two loops, the inner of ``size``; answers the substitution as well."""
    outer_extent = _quotient(axes[k].hi, size)
    assert outer_extent is not None
    outer, inner = names.var(outer_extent), names.var(size)
    mapping = {name_of(axes[k].var): outer * size + inner}
    new = [Axis(v, e) for v, e in ((outer, outer_extent), (inner, size)) if isinstance(v, Expr)]
    return [*axes[:k], *new, *axes[k + 1 :]], mapping


def places(axes: Sequence[Axis], number: Dim) -> dict[str, Dim]:
    """The variables of ``axes`` as functions of their row-major number."""
    found: dict[str, Dim] = {}
    rest = number
    for k, axis in reversed(list(enumerate(axes))):
        extent = axis.hi or 1  # of an empty axis nothing is computed
        found[name_of(axis.var)] = rest if k == 0 else rest % extent
        rest = rest // extent
    return found


def coefficient(d: Dim, name: str) -> Dim | None:
    """The factor of loop variable ``name`` in ``d``; None where it is not linear in it."""
    if not isinstance(d, Expr):
        return 0
    total: Dim = 0
    for monomial, c in d.terms:
        inside = [t for t in monomial if t[0].name == name or name in free_vars_of(t[0])]
        if not inside:
            continue
        if len(inside) != 1 or inside[0][0].kind != "var" or inside[0][1] != 1:
            return None
        rest = tuple(t for t in monomial if t != inside[0])
        total = total + (Expr(((rest, c),)) if rest else c)
    return total


def free_vars_of(atom: Atom) -> frozenset[str]:
    """Loop variables inside an atom (a variable's own extent does not count)."""
    if atom.kind == "var":
        return frozenset((atom.name,))
    return frozenset().union(*(free_vars(a) for a in atom.args))


def mergeable(dims: Sequence[Dim], outer: Axis, inner: Axis) -> bool:
    """Whether two adjacent loops (outer directly around inner) move every position as one."""
    if inner.lo != 0 or outer.lo != 0:
        return False
    a, b = name_of(outer.var), name_of(inner.var)
    for d in dims:
        ca, cb = coefficient(d, a), coefficient(d, b)
        if ca is None or cb is None or ca != cb * inner.hi:
            return False
        for c in (ca, cb):
            if free_vars(c):
                return False
    return True


def merge_axes(
    axes: Sequence[Axis], dims: Sequence[Dim], names: Names
) -> tuple[list[Axis], dict[str, Dim]]:
    """Merges adjacent axes while every position allows it; answers the substitution."""
    axes = [a for a in axes if isinstance(a.var, Expr)]
    mapping: dict[str, Dim] = {}
    dims = list(dict.fromkeys(dims))
    k = len(axes) - 2
    while k >= 0:
        outer, inner = axes[k], axes[k + 1]
        if mergeable(dims, outer, inner):
            extent = outer.hi * inner.hi
            merged = names.var(extent)
            step = {name_of(outer.var): 0, name_of(inner.var): merged}
            mapping = {n: substitute(d, step) for n, d in mapping.items()} | step
            dims = [substitute(d, step) for d in dims]
            axes = [*axes[:k], Axis(merged, extent), *axes[k + 2 :]]
        k -= 1
    return axes, mapping


def fresh_axes(shape: Sequence[Dim], names: Names) -> tuple[list[Axis], tuple[Dim, ...]]:
    """One loop per dimension that is not 1, and the position they make."""
    variables = tuple(names.var(d) for d in shape)
    axes = [Axis(v, d) for v, d in zip(variables, shape, strict=True) if isinstance(v, Expr)]
    return axes, variables
