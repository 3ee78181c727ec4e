"""Symbolic dimensions: integers, symbols and exact arithmetic on them.

A ``Dim`` is an ``int`` or an ``Expr``. An ``Expr`` is a polynomial with integer coefficients in
canonical form: a sorted tuple of (monomial, coefficient), where a monomial is a sorted tuple of
(atom, power). Atoms are symbols, loop variables (which know their extent) and the functions that
polynomials cannot express: floor division, modulo, max, min and the broadcast of two sizes.
Canonical form makes equality of two expressions a comparison of tuples, so the compiler proves
``h*D + d == x`` after a split and a merge without a solver. What it cannot prove it treats as
unknown, never as false.

All symbols and loop variables are non-negative: they are sizes and positions.

Here are the polynomials; ``dim_functions`` has the other functions and the bounds by which they are
simplified, ``dim_values`` what expressions are at given sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from .errors import LimitError, ParseError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_MOST_TERMS = 4096
"""Terms above which a polynomial is refused: no shape needs them, hostile text could."""

_MOST_TEXT, _MOST_POWER, _MOST_NUMBER = 1 << 14, 16, 10**30
"""Beyond these an expression is hostile, or useless: refusing is better than hanging."""

remembered = lru_cache(maxsize=1 << 15)
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

    # Imported where it is called: a quotient is simplified by bounds, and those are polynomials.
    def __floordiv__(self, other: Dim) -> Dim:
        from .dim_functions import floordiv

        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        from .dim_functions import floordiv

        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        from .dim_functions import mod

        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        from .dim_functions import mod

        return mod(other, self)

    def __str__(self) -> str:
        if self._text is None:
            self._text = _text(self)
        return self._text

    __repr__ = __str__


Dim = int | Expr


@remembered
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


def terms_of(d: Dim) -> dict[Monomial, int]:
    """The coefficient of every monomial; those of 0 are left out."""
    if isinstance(d, Expr):
        return dict(d.terms)
    return {(): int(d)} if d else {}


def canonical(terms: dict[Monomial, int]) -> Dim:
    """The sum of coefficients times monomials in canonical form: what is made of ``terms_of``."""
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
    """``c*f*(a % b) + c*f*b*(a // b)`` is ``c*f*a``: a split index merged again. The quotient is
    looked for as it is written: of ``x // m`` by ``b`` that is ``x // (m*b)``."""
    from .dim_functions import floordiv

    for monomial, coef in list(terms.items()):
        for atom, power in monomial:
            if atom.kind != "mod" or power != 1:
                continue
            rest: Monomial = tuple(t for t in monomial if t[0] != atom)
            factor = Expr(((rest, coef),)) if rest else coef
            a, b = atom.args
            partner = terms_of(_mul(_mul(factor, b), floordiv(a, b)))
            if partner and all(terms.get(m, 0) == c for m, c in partner.items()):
                left = {m: c for m, c in terms.items() if m not in partner and m != monomial}
                merged = _add(canonical(left), _mul(factor, a), 1)
                return terms_of(merged)
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
            left = canonical({m: c for m, c in terms.items() if m not in (m1, m2)})
            if a1.kind == a2.kind:
                both = _mul(c1 + c2, atom_expr(a2)) + _mul(c1, shift)
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


def atom_expr(atom: Atom) -> Expr:
    """An atom as a polynomial."""
    return Expr(((((atom, 1),), 1),))


def _add(a: Dim, b: Dim, sign: int) -> Dim:
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        return int(a) + sign * int(b)
    if sign == 1 and b == 0:
        return a
    return _sum(a, b, sign)


@remembered
def _sum(a: Dim, b: Dim, sign: int) -> Dim:
    terms = terms_of(a)
    for m, c in terms_of(b).items():
        terms[m] = terms.get(m, 0) + sign * c
    return canonical(terms)


def _mul(a: Dim, b: Dim) -> Dim:
    if not isinstance(a, Expr) and not isinstance(b, Expr):
        whole = int(a) * int(b)
        if abs(whole) > _MOST_NUMBER:
            raise LimitError("a size has more than 30 digits")
        return whole
    return a if b == 1 else b if a == 1 else _product(a, b)


@remembered
def _product(a: Dim, b: Dim) -> Dim:
    terms: dict[Monomial, int] = {}
    right = terms_of(b).items()
    for ma, ca in terms_of(a).items():
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
    return canonical(terms)


def sym(name: str) -> Expr:
    """A symbol: a size that is known when the model runs. ``name`` must be an identifier."""
    if not _NAME.match(name):
        raise ParseError(f"a symbol must be an identifier, got {name!r}")
    return atom_expr(Atom("sym", name))


@remembered
def var(name: str, extent: Dim) -> Dim:
    """A loop variable with ``0 <= var < extent``; the constant 0 where ``extent`` is 1."""
    return 0 if extent == 1 else atom_expr(Atom("var", name, (extent,)))


def product(dims: Iterable[Dim]) -> Dim:
    """Product of sizes; 1 for none."""
    total: Dim = 1
    for d in dims:
        total = total * d
    return total


def is_static(d: Dim) -> bool:
    """Whether ``d`` is a plain integer."""
    return isinstance(d, int)


def _atoms(d: Dim) -> Iterable[Atom]:
    if isinstance(d, Expr):
        for m, _ in d.terms:
            for atom, _ in m:
                yield atom
                for arg in atom.args:
                    yield from _atoms(arg)


@remembered
def _symbols(e: Expr) -> frozenset[str]:
    return frozenset(a.name for a in _atoms(e) if a.kind == "sym")


def free_symbols(d: Dim) -> frozenset[str]:
    """Names of the symbols in ``d`` (loop variables are not symbols)."""
    return _symbols(d) if isinstance(d, Expr) else frozenset()


_NONE: frozenset[str] = frozenset()


def free_vars(d: Dim) -> frozenset[str]:
    """Names of the loop variables in ``d``."""
    if not isinstance(d, Expr):
        return _NONE
    if d._variables is None:
        d._variables = frozenset(a.name for a in _atoms(d) if a.kind == "var")
    return d._variables
