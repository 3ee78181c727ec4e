"""Symbolic dimensions: integers, symbols and exact arithmetic on them.

A ``Dim`` is an ``int`` or an ``Expr``. An ``Expr`` is a polynomial with integer coefficients in
canonical form: a sorted tuple of (monomial, coefficient), where a monomial is a sorted tuple of
(atom, power). Atoms are symbols, loop variables (which know their extent) and the functions that
polynomials cannot express: floor division, modulo, max, min and the broadcast of two sizes.
Canonical form makes equality of two expressions a comparison of tuples, so the compiler proves
``h*D + d == x`` after a split and a merge without a solver. What it cannot prove it treats as
unknown, never as false.

All symbols and loop variables are non-negative: they are sizes and positions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from math import gcd

from .errors import LimitError, ModelError, ParseError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_MOST_TERMS = 4096
"""Terms above which a polynomial is refused: no shape needs them, hostile text could."""


_MOST_TEXT, _MOST_POWER, _MOST_NUMBER = 1 << 14, 16, 10**30
"""Beyond these an expression is hostile, or useless: refusing is better than hanging."""

_remembered = lru_cache(maxsize=1 << 15)
"""For pure functions of expressions: lowering asks the same questions about every group."""


class Atom:
    """An indivisible factor: ``kind`` is ``sym``, ``var``, ``floordiv``, ``mod``, ``max``,
    ``min`` or ``bcast``; a ``var`` is a loop variable with ``0 <= var < args[0]``."""

    __slots__ = ("_hash", "args", "key", "kind", "name")

    def __init__(self, kind: str, name: str, args: tuple[Dim, ...] = ()) -> None:
        self.kind, self.name, self.args = kind, name, args
        self.key = name if kind in ("sym", "var") else _call_text(kind, args)
        if len(self.key) > _MOST_TEXT:
            raise LimitError(f"a size is an expression of {len(self.key)} characters")
        self._hash = hash((kind, self.key))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Atom)
            and self._hash == other._hash
            and self.kind == other.kind
            and self.key == other.key
            and self.args == other.args
        )

    def __repr__(self) -> str:
        return self.key


Monomial = tuple[tuple[Atom, int], ...]


def _call_text(kind: str, args: tuple[Dim, ...]) -> str:
    if kind == "floordiv":
        return f"({args[0]})//({args[1]})"
    if kind == "mod":
        return f"({args[0]})%({args[1]})"
    return f"{kind}({', '.join(str(a) for a in args)})"


class Expr:
    """A polynomial in canonical form; made by the functions of this module, never directly."""

    __slots__ = ("_hash", "_text", "_variables", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._text: str | None = None
        self._variables: frozenset[str] | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Expr) and self._hash == other._hash
                                 and self.terms == other.terms)

    def __add__(self, other: Dim) -> Dim:
        if not isinstance(other, (int, Expr)):
            return NotImplemented
        return _add(self, other, 1)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _add(0, self, -1)

    def __sub__(self, other: Dim) -> Dim:
        if not isinstance(other, (int, Expr)):
            return NotImplemented
        return _add(self, other, -1)

    def __rsub__(self, other: Dim) -> Dim:
        return _add(other, self, -1)

    def __mul__(self, other: Dim) -> Dim:
        if not isinstance(other, (int, Expr)):
            return NotImplemented
        return _mul(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __str__(self) -> str:
        if self._text is None:
            self._text = _text(self)
        return self._text

    __repr__ = __str__


Dim = int | Expr


@_remembered
def _monomial_key(m: Monomial) -> tuple[int, str]:
    return (-sum(p for _, p in m), "*".join(f"{a.key}^{p}" for a, p in m))


def _text(e: Expr) -> str:
    out = ""
    for monomial, coef in e.terms:
        keys = [f"({a.key})" if a.kind in ("floordiv", "mod") else a.key for a, _ in monomial]
        factors = [k if p == 1 else f"{k}**{p}" for k, (_, p) in zip(keys, monomial, strict=True)]
        body = "*".join(([str(abs(coef))] if abs(coef) != 1 or not factors else []) + factors)
        sign = "-" if coef < 0 else "+"
        out += f" {sign} {body}" if out else (f"-{body}" if coef < 0 else body)
    return out


def _terms(d: Dim) -> dict[Monomial, int]:
    if isinstance(d, Expr):
        return dict(d.terms)
    return {(): int(d)} if d else {}


def _make(terms: dict[Monomial, int]) -> Dim:
    terms = {m: c for m, c in terms.items() if c}
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    kinds = [a.kind for m in terms for a, _ in m]
    if "mod" in kinds:
        terms = _merge_mod(terms)
        if not terms or (len(terms) == 1 and () in terms):
            return terms.get((), 0)
    if kinds.count("max") + kinds.count("min") > 1:
        merged = _merge_extrema(terms)
        if merged is not None:
            return merged
    if len(terms) == 1:
        return Expr(tuple(terms.items()))
    return Expr(tuple(sorted(terms.items(), key=lambda t: _monomial_key(t[0]))))


def _merge_mod(terms: dict[Monomial, int]) -> dict[Monomial, int]:
    """``c*f*(a % b) + c*f*b*(a // b)`` is ``c*f*a``: a split index merged again."""
    for monomial, coef in list(terms.items()):
        for atom, power in monomial:
            if atom.kind != "mod" or power != 1:
                continue
            rest: Monomial = tuple(t for t in monomial if t[0] != atom)
            factor = Expr(((rest, coef),)) if rest else coef
            a, b = atom.args
            partner = _terms(_mul(_mul(factor, b), _atom_expr(Atom("floordiv", "", (a, b)))))
            if partner and all(terms.get(m, 0) == c for m, c in partner.items()):
                left = {m: c for m, c in terms.items() if m not in partner and m != monomial}
                merged = _add(_make(left), _mul(factor, a), 1)
                return _terms(merged)
    return terms


def _merge_extrema(terms: dict[Monomial, int]) -> Dim | None:
    """Two extrema of the same pair of sizes up to a shift become one or none:
    ``max(p+k, q+k)`` is ``max(p, q) + k``, and ``max(p, q) + min(p, q)`` is ``p + q``.
    So a tensor cut in two and joined again has its old size. None where nothing merges."""
    found = [
        (m, c, a) for m, c in terms.items() for a, p in m
        if a.kind in ("max", "min") and p == 1 and len(a.args) == 2
    ]  # fmt: skip
    for i, (m1, c1, a1) in enumerate(found):
        rest1 = tuple(t for t in m1 if t[0] != a1)
        for m2, c2, a2 in found[:i]:
            if tuple(t for t in m2 if t[0] != a2) != rest1 or m1 == m2:
                continue
            shift = _shift(a1.args, a2.args)
            if shift is None or (a1.kind != a2.kind and c1 != c2):
                continue
            factor: Dim = Expr(((rest1, 1),)) if rest1 else 1
            left = _make({m: c for m, c in terms.items() if m not in (m1, m2)})
            if a1.kind == a2.kind:
                both = _mul(c1 + c2, _atom_expr(a2)) + _mul(c1, shift)
            else:
                both = _mul(c1, a2.args[0] + a2.args[1] + shift)
            return left + _mul(factor, both)
    return None


def _shift(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> Dim | None:
    """``k`` with ``{a} == {b + k}``, or None."""
    for first, second in ((b[0], b[1]), (b[1], b[0])):
        k = a[0] - first
        if k == a[1] - second:
            return k
    return None


def _atom_expr(atom: Atom) -> Expr:
    return Expr(((((atom, 1),), 1),))


def _add(a: Dim, b: Dim, sign: int) -> Dim:
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        return int(a) + sign * int(b)
    if sign == 1 and b == 0:
        return a
    return _sum(a, b, sign)


@_remembered
def _sum(a: Dim, b: Dim, sign: int) -> Dim:
    terms = _terms(a)
    for m, c in _terms(b).items():
        terms[m] = terms.get(m, 0) + sign * c
    return _make(terms)


def _mul(a: Dim, b: Dim) -> Dim:
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        whole = int(a) * int(b)
        if abs(whole) > _MOST_NUMBER:
            raise LimitError("a size has more than 30 digits")
        return whole
    return a if b == 1 else b if a == 1 else _product(a, b)


@_remembered
def _product(a: Dim, b: Dim) -> Dim:
    terms: dict[Monomial, int] = {}
    right = _terms(b).items()
    for ma, ca in _terms(a).items():
        for mb, cb in right:
            powers: dict[Atom, int] = dict(ma)
            for atom, p in mb:
                powers[atom] = p = powers.get(atom, 0) + p
                if p > _MOST_POWER:
                    raise LimitError(f"a size has the power {p}; {_MOST_POWER} is the most")
            m = tuple(sorted(powers.items(), key=lambda t: t[0].key))
            terms[m] = terms.get(m, 0) + ca * cb
        if len(terms) > _MOST_TERMS:
            raise LimitError(f"a shape expression has more than {_MOST_TERMS} terms")
    return _make(terms)


def sym(name: str) -> Expr:
    """A symbol: a size that is known when the model runs. ``name`` must be an identifier."""
    if not _NAME.match(name):
        raise ParseError(f"a symbol must be an identifier, got {name!r}")
    return _atom_expr(Atom("sym", name))


@_remembered
def var(name: str, extent: Dim) -> Dim:
    """A loop variable with ``0 <= var < extent``; the constant 0 where ``extent`` is 1."""
    return 0 if extent == 1 else _atom_expr(Atom("var", name, (extent,)))


def _exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """``a / b`` where it is a polynomial with integer coefficients, else None."""
    bt = list(_terms(b).items())
    if not bt:
        return None
    lead_m, lead_c = bt[0]
    quotient: Dim = 0
    rest = a
    for _ in range(8):
        if rest == 0:
            return quotient
        step = None
        for m, c in _terms(rest).items():
            if c % lead_c == 0:
                powers = dict(m)
                for atom, p in lead_m:
                    powers[atom] = powers.get(atom, 0) - p
                if all(p >= 0 for p in powers.values()):
                    mono = tuple((x, p) for x, p in sorted(powers.items(), key=lambda t: t[0].key)
                                 if p)
                    step = _make({mono: c // lead_c})
                    break
        if step is None:
            return None
        quotient = quotient + step
        rest = rest - step * b
        if len(bt) == 1:
            continue
    return quotient if rest == 0 else None


def _split_divisible(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """``a == q*b + r`` with as much as possible in ``q``, term by term."""
    whole = _exact_quotient(a, b)
    if whole is not None:
        return whole, 0
    q: Dim = 0
    r: Dim = 0
    for m, c in _terms(a).items():
        term = _make({m: c})
        part = _exact_quotient(term, b)
        if part is not None:
            q = q + part
        elif not m and isinstance(b, int) and b > 0:
            q, r = q + c // b, r + c % b
        else:
            r = r + term
    return q, r


@_remembered
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
            rest = r - _atom_expr(nested[0][0])
            return q + floordiv(inner + divisor * rest, divisor * b)
    shorter, divisor = _cancel(r, b)
    if divisor != b:
        return q + floordiv(shorter, divisor)
    return q + _atom_expr(Atom("floordiv", "", (r, b)))


def _cancel(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Both sides of a quotient without their common factors."""
    at, bt = _terms(a), _terms(b)
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
        return _make({
            tuple((x, p - powers.get(x, 0)) for x, p in m if p != powers.get(x, 0)): c // content
            for m, c in terms.items()
        })

    return divide(at), divide(bt)


@_remembered
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
    return _atom_expr(Atom("mod", "", (r, b)))


def ceil_div(a: Dim, b: Dim) -> Dim:
    """Ceiling division of non-negative sizes."""
    return floordiv(a + b - 1, b)


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
    return _atom_expr(Atom(kind, "", tuple(sorted(keep, key=str))))


def _flattened(kind: str, args: Iterable[Dim]) -> Iterator[Dim]:
    """The arguments, those of directly nested ``kind`` atoms among them; an extremum plus a
    constant is the extremum of its arguments plus the constant."""
    for a in args:
        terms = _terms(a) if isinstance(a, Expr) else {}
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
    return _atom_expr(Atom("bcast", "", tuple(sorted(keep, key=str))))


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


@_remembered
def _upper(d: Dim) -> Dim | None:
    """An upper bound of ``d`` without loop variables, or None where there is none."""
    total: Dim = 0
    for m, c in _terms(d).items():
        if c < 0 and any(atom.kind != "sym" for atom, _ in m):
            if not all(_at_least(_atom_expr(atom), 0, 1) for atom, _ in m):
                return None
            continue  # the term is at most 0
        term: Dim = c
        for atom, p in m:
            bound = _upper_atom(atom)
            if bound is None or (len(m) > 1 and not _at_least(_atom_expr(atom), 0, 1)):
                return None
            for _ in range(p):
                term = term * bound
        total = total + term
    return total


@_remembered
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
    return None if any(_has_var(a) for a in atom.args) else _atom_expr(atom)


def _has_var(d: Dim) -> bool:
    return isinstance(d, Expr) and any(
        a.kind == "var" or any(_has_var(x) for x in a.args) for m, _ in d.terms for a, _ in m
    )


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


def _shifted(d: Dim, by: int) -> Dim:
    """``d`` with ``s + by`` for every symbol that is a factor (not for those inside atoms)."""
    total: Dim = 0
    for m, c in _terms(d).items():
        term: Dim = c
        for atom, p in m:
            factor = _atom_expr(atom) + (by if atom.kind == "sym" else 0)
            for _ in range(p):
                term = term * factor
        total = total + term
    return total


@_remembered
def _lower(d: Dim, smallest: int) -> int | None:
    """A constant lower bound of ``d`` for symbols of at least ``smallest``, or None."""
    total = 0
    for m, c in _terms(_shifted(d, smallest) if smallest else d).items():
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


@_remembered
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


def _highest(atom: Atom) -> int | None:
    """A constant upper bound of an atom, or None."""
    top = _upper_atom(atom)
    return top if isinstance(top, int) else None


def known_equal(a: Dim, b: Dim) -> bool:
    """Whether the two are equal for every binding, as far as canonical form can tell."""
    return a == b


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


def is_static(d: Dim) -> bool:
    """Whether ``d`` is a plain integer."""
    return isinstance(d, int)


def product(dims: Iterable[Dim]) -> Dim:
    """Product of sizes; 1 for none."""
    total: Dim = 1
    for d in dims:
        total = total * d
    return total


def _atoms(d: Dim) -> Iterable[Atom]:
    if isinstance(d, Expr):
        for m, _ in d.terms:
            for atom, _ in m:
                yield atom
                for arg in atom.args:
                    yield from _atoms(arg)


@_remembered
def _symbols(e: Expr) -> frozenset[str]:
    return frozenset(a.name for a in _atoms(e) if a.kind == "sym")


def free_symbols(d: Dim) -> frozenset[str]:
    """Names of the symbols in ``d`` (loop variables are not symbols)."""
    return _symbols(d) if isinstance(d, Expr) else frozenset()


def free_vars(d: Dim) -> frozenset[str]:
    """Names of the loop variables in ``d``."""
    if not isinstance(d, Expr):
        return _NONE
    if d._variables is None:
        d._variables = frozenset(a.name for a in _atoms(d) if a.kind == "var")
    return d._variables


_NONE: frozenset[str] = frozenset()


@_remembered
def _names(e: Expr) -> frozenset[str]:
    """Names of symbols and loop variables, those in the extents of loop variables left out."""
    found: set[str] = set()
    for m, _ in e.terms:
        for atom, _ in m:
            if atom.kind in ("sym", "var"):
                found.add(atom.name)
            else:
                found.update(*(_names(a) for a in atom.args if isinstance(a, Expr)))
    return frozenset(found)


_APPLY: dict[str, Callable[..., Dim]] = {
    "floordiv": floordiv,
    "mod": mod,
    "max": dmax,
    "min": dmin,
    "bcast": bcast,
}


def transform(d: Dim, leaf: Callable[[Atom], Dim | None]) -> Dim:
    """``d`` rebuilt with every symbol and variable replaced by ``leaf(atom)`` (None keeps it)."""
    if not isinstance(d, Expr):
        return d
    total: Dim = 0
    for m, c in d.terms:
        term: Dim = c
        for atom, p in m:
            if atom.kind in ("sym", "var"):
                new = leaf(atom)
                factor: Dim = _atom_expr(atom) if new is None else new
            else:
                factor = _APPLY[atom.kind](*(transform(a, leaf) for a in atom.args))
            for _ in range(p):
                term = term * factor
        total = total + term
    return total


def substitute(d: Dim, mapping: Mapping[str, Dim]) -> Dim:
    """``d`` with symbols and loop variables replaced by name."""
    if not isinstance(d, Expr) or mapping.keys().isdisjoint(_names(d)):
        return d
    return transform(d, lambda a: mapping.get(a.name))


def evaluate(d: Dim, binding: Mapping[str, int]) -> int:
    """The value of ``d``; raises ``ModelError`` for an unbound symbol, or sizes that do not
    broadcast."""
    return _evaluate(d, binding, _APPLY)


def estimate(d: Dim, binding: Mapping[str, int]) -> int:
    """The value of ``d`` at sizes that need not go together: of those that do not broadcast the
    largest counts, and what would be below zero is zero. Raises ``ModelError`` for an unbound
    symbol."""
    return max(0, _evaluate(d, binding, _ESTIMATE))


_ESTIMATE: dict[str, Callable[..., Dim]] = {**_APPLY, "bcast": max}


def _evaluate(d: Dim, binding: Mapping[str, int], apply: Mapping[str, Callable[..., Dim]]) -> int:
    if not isinstance(d, Expr):
        return int(d)
    total = 0
    for m, c in d.terms:
        term = c
        for atom, p in m:
            term *= _evaluate_atom(atom, binding, apply) ** p
        total += term
    return total


def _evaluate_atom(atom: Atom, binding: Mapping[str, int],
                   apply: Mapping[str, Callable[..., Dim]]) -> int:
    if atom.kind in ("sym", "var"):
        if atom.name not in binding:
            raise ModelError(f"size {atom.name} is not known here")
        return int(binding[atom.name])
    value = apply[atom.kind](*(_evaluate(a, binding, apply) for a in atom.args))
    assert isinstance(value, int)
    return value


def parse_dim(text: str) -> Dim:
    """Reads what ``str(dim)`` printed; raises ``ParseError``."""
    from .dim_parser import DimParser

    return DimParser(text).whole()
