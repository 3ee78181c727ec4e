"""Scaled dot-product attention: softmax(scale * q k^T + mask) v.

The core is recognized with the scale and the mask that stand between product and softmax; factors
on the queries or keys are absorbed afterwards. Keys that are stored transposed are turned back only
where that transpose merges with one that is there already.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Builder, Value
from ...ir.ops.base import broadcast_shapes
from ..facts import Refusal, scalar_of
from ..rule import Answer, Match, Rule, broadcasts_into, floats, term

# -- helpers -----------------------------------------------------------------------------------


def _last_axis(m: Match) -> Answer:
    return m["k"] == m.root.out.rank - 1 or "the softmax is not over the keys"


def _queries(m: Match) -> Answer:
    ranks = (m["q"].rank, m["k_"].rank, m["v"].rank)
    return min(ranks) >= 3 or "a product of matrices without a batch is no attention"


def _mask_fits(m: Match) -> Answer:
    q, keys = m["q"].shape, m["k_"].shape
    scores = (*broadcast_shapes(q[:-2], keys[:-2]), q[-2], keys[-2 if m["t"] else -1])
    return broadcasts_into(m["m"].shape, scores) or f"the mask {m['m'].shape} widens {scores}"


def _check_scale(scale: float, like: Value) -> None:
    with np.errstate(over="ignore"):
        rounded = float(like.dtype.np.type(scale))
    if not np.isfinite(rounded) or (rounded == 0) != (scale == 0):
        raise Refusal(f"the scale {scale} is not a number of {like.dtype}")


@term
def attend(b: Builder, q: Value, k: Value, t: bool, v: Value, mask: Value | None, scale: Any) -> Value:
    """The composite; ``t`` tells whether keys are stored as rows (the composite's way)."""
    factor = scale if not isinstance(scale, Value) else scalar_of(b.constants, scale)
    if factor is None:
        raise Refusal("the scale is not one number")
    _check_scale(float(factor), q)
    if not t:
        if k.node.op != "transpose":
            raise Refusal("the keys are stored as columns")
        n = k.rank
        k = b.op("transpose", k, perm=(*range(n - 2), n - 1, n - 2))
    return b.op("attention", q, k, v, mask, scale=float(factor))  # type: ignore[no-any-return]


@term
def inverse_scale(b: Builder, c: Value) -> Any:
    """The factor that division by a constant is."""
    number = scalar_of(b.constants, c)
    if number is None or number == 0:
        raise Refusal("the divisor is not one number")
    return 1.0 / float(number)


@term
def rescale(b: Builder, q: Value, k: Value, v: Value, mask: Value | None, scale: float,
            factor: Value, divide: bool) -> Value:  # fmt: skip
    """An attention whose queries or keys were multiplied (or divided) by a number before."""
    number = scalar_of(b.constants, factor)
    if number is None or number == 0:
        raise Refusal("the factor is not one number")
    total = scale / float(number) if divide else scale * float(number)
    _check_scale(total, q)
    return b.op("attention", q, k, v, mask, scale=total)  # type: ignore[no-any-return]


def _scalar_kept(name: str) -> Any:
    """Scaling by the constant does not change the shape."""

    def holds(m: Match) -> Answer:
        shape: tuple[Dim, ...] = m["C"].shape
        return broadcasts_into(shape, m[name].shape) or "the factor widens the value"

    return holds


def _rule(name: str, scores: str, mask: str, scale: str, when: tuple[Any, ...]) -> Rule:
    return Rule(
        name, f"dot(softmax({scores}, axis=k), v, ta=False, tb=False)",
        f"attend(q, k_, t, v, {mask}, {scale})", when=when, exact=False,
        sizes="q[b,n,d] k_[b,m,d] v[b,m,e] m[b,n,m] C[]",
    )  # fmt: skip


_PLAIN = (floats("v"), floats("q"), _last_axis, _queries)
_MASKED = (*_PLAIN, _mask_fits)
_QK = "dot(q, k_, ta=False, tb=t)"

RULES: tuple[Rule, ...] = (
    # softmax(q k^T) v
    _rule("attention", _QK, "none", "1", _PLAIN),
    # softmax(q k^T c) v
    _rule("attention_scaled", f"{_QK} * C", "none", "C", _PLAIN),
    # softmax(q k^T / c) v
    _rule("attention_divided", f"{_QK} / C", "none", "inverse_scale(C)", _PLAIN),
    # softmax(q k^T + m) v
    _rule("attention_masked", f"{_QK} + m", "m", "1", _MASKED),
    # softmax(q k^T c + m) v
    _rule("attention_scaled_masked", f"{_QK} * C + m", "m", "C", _MASKED),
    # softmax(q k^T / c + m) v
    _rule("attention_divided_masked", f"{_QK} / C + m", "m", "inverse_scale(C)", _MASKED),
    # (q c) k^T = q k^T c
    Rule("attention_query_scale", "attention(q * C, k, v, maybe_m, scale=s)",
         "rescale(q, k, v, maybe_m, s, C, False)", when=(floats("q"), _scalar_kept("q")), exact=False,
         sizes="q[b,n,d] k[b,m,d] v[b,m,e] C[] maybe_m[b,n,m]"),
    Rule("attention_query_divided", "attention(q / C, k, v, maybe_m, scale=s)",
         "rescale(q, k, v, maybe_m, s, C, True)", when=(floats("q"), _scalar_kept("q")), exact=False,
         sizes="q[b,n,d] k[b,m,d] v[b,m,e] C[] maybe_m[b,n,m]"),
    # q (k c)^T = q k^T c
    Rule("attention_key_scale", "attention(q, k * C, v, maybe_m, scale=s)",
         "rescale(q, k, v, maybe_m, s, C, False)", when=(floats("q"), _scalar_kept("k")), exact=False,
         sizes="q[b,n,d] k[b,m,d] v[b,m,e] C[] maybe_m[b,n,m]"),
    Rule("attention_key_divided", "attention(q, k / C, v, maybe_m, scale=s)",
         "rescale(q, k, v, maybe_m, s, C, True)", when=(floats("q"), _scalar_kept("k")), exact=False,
         sizes="q[b,n,d] k[b,m,d] v[b,m,e] C[] maybe_m[b,n,m]"),
    # a transpose of a scaled value is the scaled transpose (keys are scaled before being turned)
    Rule("attention_key_transposed_scale",
         "attention(q, transpose(k * C, perm=p), v, maybe_m, scale=s)",
         "rescale(q, transpose(k, perm=p), v, maybe_m, s, C, False)",
         when=(floats("q"), _scalar_kept("k")), exact=False,
         sizes="q[b,n,d] k[b,d,m] v[b,m,e] C[] maybe_m[b,n,m]"),
)
