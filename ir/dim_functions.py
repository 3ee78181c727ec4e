"""Functions of sizes that polynomials cannot express: quotients, extrema, broadcast; and bounds.

Each is simplified where that is certain, else becomes an atom of a polynomial (``dims``). What is
certain comes from bounds: interval arithmetic over the terms of a polynomial, with 0 or 1 as the
least value of a symbol and the extent of a loop variable above it. So ``(8*i + j) // 8`` is ``i``
for ``j`` below 8, and ``max(N, N - 2)`` is ``N``. Quotients and bounds are one recursion: a
quotient is simplified by the bounds of its remainder, and the bound of a quotient is a quotient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import gcd

from .dims import Atom, Dim, Expr, Monomial, atom_expr, canonical, remembered, terms_of
from .errors import ModelError


@remembered
def floordiv(a: Dim, b: Dim) -> Dim:
    """Floor division; ``b`` is positive wherever it is evaluated."""
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            raise ModelError("a shape expression divides by zero")
        return a // b
    if b == 1 or a == 0:
        return a
    q, r = _split_divisible(a, b)
    if r == 0 or _in_range(r, b):
        return q
    if isinstance(r, Expr) and isinstance(b, int):
        nested = [(m[0][0], c) for m, c in r.terms
                  if len(m) == 1 and m[0][1] == 1 and m[0][0].kind == "floordiv"]
        if len(nested) == 1 and nested[0][1] == 1 and isinstance(nested[0][0].args[1], int):
            # (x // m + y) // b is (x + m*y) // (m*b).
            inner, divisor = nested[0][0].args
            rest = r - atom_expr(nested[0][0])
            return q + floordiv(inner + divisor * rest, divisor * b)
    shorter, divisor = _cancel(r, b)
    if divisor != b:
        return q + floordiv(shorter, divisor)
    return q + atom_expr(Atom("floordiv", "", (r, b)))


@remembered
def mod(a: Dim, b: Dim) -> Dim:
    """Modulo with the sign of ``b``, which is positive wherever it is evaluated."""
    if isinstance(a, int) and isinstance(b, int):
        if b == 0:
            raise ModelError("a shape expression divides by zero")
        return a % b
    if b == 1 or a == 0:
        return 0
    _, r = _split_divisible(a, b)
    if r == 0 or _in_range(r, b):
        return r
    return atom_expr(Atom("mod", "", (r, b)))


def ceil_div(a: Dim, b: Dim) -> Dim:
    """Ceiling division of non-negative sizes."""
    return floordiv(a + b - 1, b)


def _split_divisible(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """``a == q*b + r`` with as much as possible in ``q``, term by term."""
    whole = _exact_quotient(a, b)
    if whole is not None:
        return whole, 0
    q: Dim = 0
    r: Dim = 0
    for m, c in terms_of(a).items():
        term = canonical({m: c})
        part = _exact_quotient(term, b)
        if part is not None:
            q = q + part
        elif not m and isinstance(b, int) and b > 0:
            q, r = q + c // b, r + c % b
        else:
            r = r + term
    return q, r


def _exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """``a / b`` where it is a polynomial with integer coefficients, else None."""
    bt = list(terms_of(b).items())
    if not bt:
        return None
    lead_m, lead_c = bt[0]
    quotient: Dim = 0
    rest = a
    for _ in range(8):
        if rest == 0:
            return quotient
        step = None
        for m, c in terms_of(rest).items():
            if c % lead_c == 0:
                powers = dict(m)
                for atom, p in lead_m:
                    powers[atom] = powers.get(atom, 0) - p
                if all(p >= 0 for p in powers.values()):
                    mono = tuple((x, p) for x, p in sorted(powers.items(), key=lambda t: t[0].key)
                                 if p)
                    step = canonical({mono: c // lead_c})
                    break
        if step is None:
            return None
        quotient = quotient + step
        rest = rest - step * b
        if len(bt) == 1:
            continue
    return quotient if rest == 0 else None


def _cancel(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Both sides of a quotient without their common factors."""
    at, bt = terms_of(a), terms_of(b)
    if not at or not bt:
        return a, b
    content = gcd(*at.values(), *bt.values())
    monomials = [dict(m) for m in (*at, *bt)]
    common = tuple(
        (atom, power)
        for atom in monomials[0]
        if (power := min(m.get(atom, 0) for m in monomials)) > 0
    )
    if content == 1 and not common:
        return a, b
    powers = dict(common)

    def divide(terms: dict[Monomial, int]) -> Dim:
        return canonical({
            tuple((x, p - powers.get(x, 0)) for x, p in m if p != powers.get(x, 0)): c // content
            for m, c in terms.items()
        })

    return divide(at), divide(bt)


def dmax(*args: Dim) -> Dim:
    """The largest of the arguments."""
    return _extremum("max", args)


def dmin(*args: Dim) -> Dim:
    """The smallest of the arguments."""
    return _extremum("min", args)


def _extremum(kind: str, args: tuple[Dim, ...]) -> Dim:
    keep: list[Dim] = []
    for a in _flattened(kind, args):
        if any(_dominates(kind, b, a) for b in keep):
            continue
        keep = [b for b in keep if not _dominates(kind, a, b)] + [a]
    if len(keep) == 1:
        return keep[0]
    return atom_expr(Atom(kind, "", tuple(sorted(keep, key=str))))


def _flattened(kind: str, args: Iterable[Dim]) -> Iterator[Dim]:
    """The arguments, those of directly nested ``kind`` atoms among them; an extremum plus a
    constant is the extremum of its arguments plus the constant."""
    for a in args:
        terms = terms_of(a) if isinstance(a, Expr) else {}
        offset = terms.pop((), 0)
        if len(terms) == 1 and (offset == 0 or kind != "bcast"):
            (m, c), = terms.items()
            if c == 1 and len(m) == 1 and m[0][1] == 1 and m[0][0].kind == kind:
                yield from (x + offset for x in m[0][0].args)
                continue
        yield a


def _dominates(kind: str, a: Dim, b: Dim) -> bool:
    return known_ge(a, b) if kind == "max" else known_ge(b, a)


def bcast(*sizes: Dim) -> Dim:
    """The size that sizes broadcast to, as NumPy does it.

    Two unequal constants raise ``ModelError``; of a constant above one and a symbol the constant
    is the answer (the runtime checks that the symbol is 1 or that constant)."""
    keep: list[Dim] = []
    for a in _flattened("bcast", sizes):
        if a != 1 and a not in keep:
            keep.append(a)
    constants = [a for a in keep if isinstance(a, int)]
    if len(constants) > 1:
        raise ModelError(f"sizes {constants[0]} and {constants[1]} do not broadcast")
    keep = [a for a in keep if not any(_clamped(a, whole) for whole in keep)]
    if constants or len(keep) < 2:
        return constants[0] if constants else keep[0] if keep else 1
    return atom_expr(Atom("bcast", "", tuple(sorted(keep, key=str))))


def _clamped(part: Dim, whole: Dim) -> bool:
    """Whether ``part`` is ``min(whole, c)`` with constants ``c`` above 1: it broadcasts with
    ``whole`` only where it equals it (a table of 512 positions cut to the sequence's length)."""
    if not isinstance(part, Expr) or len(part.terms) != 1:
        return False
    (m, c), = part.terms
    return (
        c == 1 and len(m) == 1 and m[0][1] == 1 and m[0][0].kind == "min"
        and whole in m[0][0].args
        and all(x == whole or (isinstance(x, int) and x > 1) for x in m[0][0].args)
    )  # fmt: skip


def known_ge(a: Dim, b: Dim) -> bool:
    """Whether ``a >= b`` for every binding (symbols are non-negative); False if unknown."""
    return _at_least(a - b, 0, 0)


def within(d: Dim, lo: Dim, hi: Dim) -> bool | None:
    """Whether ``lo <= d < hi`` for all values of the loop variables: True, False (never), or
    None (it depends, or cannot be told). Inside a loop nest no size is 0."""
    top = _upper(d)
    if _at_least(d - lo, 0, 1) and top is not None and _at_least(hi - top - 1, 0, 1):
        return True
    if _at_least(d - hi, 0, 1):
        return False
    if top is not None and _at_least(lo - top - 1, 0, 1):
        return False
    return None


def _in_range(r: Dim, b: Dim) -> bool:
    """Whether ``0 <= r < b`` is certain wherever the expression is evaluated (no empty loops)."""
    inside = _has_var(r)
    if not _at_least(r, 0, 1 if inside else 0):
        return False
    top = _upper(r) if inside or isinstance(r, int) else None
    if top is None and isinstance(r, Expr) and len(r.terms) == 1:
        top = _upper(r)
        if top == r:
            return False
    return top is not None and _at_least(b - top - 1, 0, 1 if inside else 0)


def _at_least(d: Dim, bound: int, smallest: int) -> bool:
    """Whether ``d >= bound`` if every symbol is at least ``smallest``: 0 anywhere, 1 inside a loop
    nest, where no size is 0."""
    low = _lower(d, smallest)
    return low is not None and low >= bound


@remembered
def _upper(d: Dim) -> Dim | None:
    """An upper bound of ``d`` without loop variables, or None where there is none."""
    total: Dim = 0
    for m, c in terms_of(d).items():
        if c < 0 and any(atom.kind != "sym" for atom, _ in m):
            if not all(_at_least(atom_expr(atom), 0, 1) for atom, _ in m):
                return None
            continue  # the term is at most 0
        term: Dim = c
        for atom, p in m:
            bound = _upper_atom(atom)
            if bound is None or (len(m) > 1 and not _at_least(atom_expr(atom), 0, 1)):
                return None
            for _ in range(p):
                term = term * bound
        total = total + term
    return total


@remembered
def _upper_atom(atom: Atom) -> Dim | None:
    if atom.kind == "var":
        return _upper(atom.args[0] - 1)
    if atom.kind == "mod":
        return _upper(atom.args[1] - 1)
    if atom.kind == "floordiv":
        top = _upper(atom.args[0])
        return None if top is None else floordiv(top, atom.args[1])
    if atom.kind == "min":
        return _upper(atom.args[0])
    return None if any(_has_var(a) for a in atom.args) else atom_expr(atom)


def _has_var(d: Dim) -> bool:
    return isinstance(d, Expr) and any(
        a.kind == "var" or any(_has_var(x) for x in a.args) for m, _ in d.terms for a, _ in m
    )


@remembered
def _lower(d: Dim, smallest: int) -> int | None:
    """A constant lower bound of ``d`` for symbols of at least ``smallest``, or None."""
    total = 0
    for m, c in terms_of(_shifted(d, smallest) if smallest else d).items():
        bounds = [(0 if a.kind == "sym" else _lower_atom(a, smallest), p) for a, p in m]
        if c < 0 and m:
            if any(low is None or low < 0 for low, _ in bounds):
                return None
            bounds = [(_highest(a), p) for a, p in m]
        if len(bounds) > 1 or any(p > 1 for _, p in bounds):
            if any(low is None or (low < 0 and (len(bounds) > 1 or p % 2)) for low, p in bounds):
                return None
            bounds = [(max(low or 0, 0), p) for low, p in bounds]
        term = c
        for low, p in bounds:
            if low is None:
                return None
            term *= low**p
        total += term
    return total


@remembered
def _lower_atom(atom: Atom, smallest: int) -> int | None:
    if atom.kind == "sym":
        return smallest
    if atom.kind in ("var", "mod"):
        return 0
    lows = [_lower(a, smallest) for a in atom.args]
    if atom.kind == "floordiv":
        low, by = lows[0], atom.args[1]
        if low is None:
            return None
        return low // by if isinstance(by, int) else min(low, 0)
    known = [x for x in lows if x is not None]
    if atom.kind == "bcast":
        return max([0, *known])
    if atom.kind == "max":
        return max(known, default=None)
    return min(known) if len(known) == len(lows) else None


def _shifted(d: Dim, by: int) -> Dim:
    """``d`` with ``s + by`` for every symbol that is a factor (not for those inside atoms)."""
    total: Dim = 0
    for m, c in terms_of(d).items():
        term: Dim = c
        for atom, p in m:
            factor = atom_expr(atom) + (by if atom.kind == "sym" else 0)
            for _ in range(p):
                term = term * factor
        total = total + term
    return total


def _highest(atom: Atom) -> int | None:
    """A constant upper bound of an atom, or None."""
    top = _upper_atom(atom)
    return top if isinstance(top, int) else None
