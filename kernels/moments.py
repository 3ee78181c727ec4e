"""Mean and variance of rows in one pass.

Both are made of sums of distances from a number ``k``: with sums ``s`` of them and ``q`` of their
squares the mean of ``n`` elements is ``k + s / n``, and the sum of squared distances from it is
``q - s^2 / n`` (T. Chan, G. Golub and R. LeVeque, "Algorithms for computing the sample variance",
1983). As ``k`` is the mean of ``m`` of the elements, that is at least the part ``m / n`` of ``q``:
rounding errors of the squares become at most ``n / m`` times as large. An infinite ``k`` would
spoil a mean that is infinite, so it is limited; where squares overflow, their sum stays infinite.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.axes import Axis, name_of
from ..ir.dims import product
from ..ir.elements import Ex, Names, map_dims, parts, renamer
from ..ir.tiles import Reduction
from ..ir.types import BOOL, F32
from .nest import Accumulate, Loop

SHORT_ROW, SAMPLED_ROW = 128, 1024
"""Elements of a row up to which it stays in registers, and one pass is not faster; and up to which
those that stand in for the mean are read one by one."""
SAMPLED = 64
"""Elements of a row for each one that enters what stands in for the mean."""
FEW_VALUES = 8
"""Parts of a value that may be computed once more for that."""


def is_mean(r: Reduction, inputs: int) -> bool:
    """Whether a reduction is the mean of a row of float32 that is computed of little and of a
    kernel's ``inputs`` alone."""
    count, last = (product(a.hi for a in axes) for axes in (r.reduced, r.reduced[-1:]))
    if r.mean is None or r.conds or r.dtype != F32 or r.node.out.dtype != F32 or (
            not isinstance(count, int) or not isinstance(last, int) or count <= SHORT_ROW):
        return False
    assert r.ex is not None
    values = parts([r.ex])
    return count <= last * 4 * SAMPLED and len(values) <= FEW_VALUES and all(
        ex.kind in ("const", "fn") or ex.kind == "load" and ex.data[0] < inputs for ex in values)


def is_spread(other: Reduction, r: Reduction, mean: Ex) -> bool:
    """Whether ``other`` adds up the squared distances of what ``r`` adds up from ``mean``."""
    assert r.ex is not None and other.ex is not None
    if other.conds or other.kind != "sum" or other.dtype != F32 or (
            [a.hi for a in other.reduced] != [a.hi for a in r.reduced]):
        return False
    same = {name_of(b.var): a.var for a, b in zip(r.reduced, other.reduced, strict=True)}
    distance = _fn("sub", r.ex, mean)
    return map_dims(other.ex, renamer(same)) == _fn("mul", distance, distance)


def near_mean(r: Reduction, name: str, names: Names) -> tuple[list[Loop], Ex]:
    """The mean of some of a row's elements, limited, and the loop that adds them up into ``name``
    where they are many."""
    count, last = product(a.hi for a in r.reduced), r.reduced[-1]
    assert isinstance(count, int) and isinstance(last.hi, int) and r.ex is not None
    many = min(-(-count // SAMPLED), last.hi)
    first = {name_of(a.var): a.lo for a in r.reduced}
    loops: list[Loop] = []
    if count <= SAMPLED_ROW:
        step = last.hi // many
        total = sum_of([map_dims(r.ex, renamer(first | {name_of(last.var): k * step}))
                      for k in range(many)])
    else:
        v = names.var(many)
        value = map_dims(r.ex, renamer(first | {name_of(last.var): v}))
        loops = [Loop((Axis(v, many),), (Accumulate("sum", value, local=name),),
                      ((name, _number(0.0)),))]
        total = Ex("local", F32, (), name)
    mean = _fn("mul", total, _number(1 / many)) if many > 1 else total
    return loops, _fn("max", _fn("min", mean, _number(1e30)), _number(-1e30))


def distances(r: Reduction, near: Ex, names: Sequence[str]) -> list[Accumulate]:
    """What adds up distances from ``near`` and their squares, into locals of two ``names``."""
    assert r.ex is not None
    distance = _fn("sub", r.ex, near)
    return [Accumulate("sum", distance, local=names[0]),
            Accumulate("sum", _fn("mul", distance, distance), local=names[1])]


def mean_and_spread(r: Reduction, near: Ex, names: Sequence[str]) -> tuple[Ex, Ex]:
    """The mean, and the sum of squared distances from it, of the sums in two locals."""
    s, q = (Ex("local", F32, (), name) for name in names)
    away = _fn("div", s, Ex("index", F32, (), product(a.hi for a in r.reduced)))
    infinite = Ex("fn", BOOL, (q, _number(float("inf"))), ("eq", ()))
    least = _fn("max", _fn("sub", q, _fn("mul", s, away)), _number(0.0))
    return _fn("add", near, away), _fn("select", infinite, _fn("add", q, _fn("sub", s, s)), least)


def sum_of(terms: Sequence[Ex]) -> Ex:
    """Terms of one type added up by pairs, so that few wait for one another."""
    while len(terms) > 1:
        pairs = [tuple(terms[k:k + 2]) for k in range(0, len(terms), 2)]
        terms = [Ex("fn", pair[0].dtype, pair, ("add", ())) if len(pair) == 2 else pair[0]
                 for pair in pairs]
    return terms[0]


def _fn(op: str, *args: Ex) -> Ex:
    return Ex("fn", F32, args, (op, ()))


def _number(x: float) -> Ex:
    return Ex("const", F32, (), x)
