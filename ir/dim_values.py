"""Dimensions at given sizes: substitution, exact values, and estimates for the cost models.

An expression is rebuilt from its leaves up: sums and products by ``dims``, every other atom by the
function of its kind, so that the result is in canonical form again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .dim_functions import bcast, dmax, dmin, floordiv, mod
from .dims import Atom, Dim, Expr, atom_expr, remembered
from .errors import ModelError

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
                factor: Dim = atom_expr(atom) if new is None else new
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


@remembered
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
