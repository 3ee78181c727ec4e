"""Chains of conversions.

A conversion *keeps* all values of a dtype if every value of the source survives it: to the same
kind with at least as many bits of precision and range, from integers to floats whose significand
holds them, from bool to anything.
"""

from __future__ import annotations

from typing import Any

from ...ir.types import BOOL, DType
from ..rule import Answer, Match, Rule

_SIGNIFICAND = {"f64": 53, "f32": 24, "f16": 11, "bf16": 8}
_EXPONENT = {"f64": 11, "f32": 8, "f16": 5, "bf16": 8}


def keeps_values(source: DType, to: DType) -> bool:
    """Whether every value of ``source`` is a value of ``to``."""
    if source == to:
        return source.bits >= 8
    if source == BOOL:
        return to.kind in "iuf" and to.bits >= 8 and (to.kind != "f" or to.name in _SIGNIFICAND)
    if source.is_integer and to.is_integer:
        if source.kind == to.kind:
            return to.bits >= source.bits >= 8
        return source.kind == "u" and to.bits > source.bits >= 8
    if source.is_integer and to.name in _SIGNIFICAND:
        digits = source.bits - (source.kind == "i")
        return source.bits >= 8 and digits <= _SIGNIFICAND[to.name] and digits <= 15
    if source.name in _SIGNIFICAND and to.name in _SIGNIFICAND:
        return (
            _SIGNIFICAND[source.name] <= _SIGNIFICAND[to.name]
            and _EXPONENT[source.name] <= _EXPONENT[to.name]
        )
    return False


def _same(m: Match) -> Answer:
    return m["x"].dtype == m["t"] or f"{m['x'].dtype} is converted to {m['t']}"


def _inner_keeps(m: Match) -> Answer:
    source, middle = m["x"].dtype, m["s"]
    return keeps_values(source, middle) or f"{source} does not survive in {middle}"


def _integers_wrap(m: Match) -> Answer:
    kinds: list[Any] = [m["x"].dtype, m["s"], m["t"]]
    if not all(k.is_integer and k.bits >= 8 for k in kinds):
        return "not a chain of integers"
    return m["s"].bits >= m["t"].bits or f"{m['s']} is narrower than {m['t']}"


def _moves(m: Match) -> Answer:
    """Moving fewer bytes is the gain: the conversion widens."""
    return m["t"].itemsize > m["x"].dtype.itemsize or "the conversion does not widen"


RULES: tuple[Rule, ...] = (
    # a conversion to the dtype that is there
    Rule("cast_same", "cast(x, to=t)", "x", when=(_same,)),
    # t(s(x)) = t(x) where s keeps every value of x
    Rule("cast_cast", "cast(cast(x, to=s), to=t)", "cast(x, to=t)", shared=True,
         when=(_inner_keeps,)),
    # t(s(x)) = t(x) for integers that wrap, t no wider than s
    Rule("cast_wrap", "cast(cast(x, to=s), to=t)", "cast(x, to=t)", shared=True,
         when=(_integers_wrap,)),
)
