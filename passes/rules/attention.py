"""Scaled dot-product attention: softmax(scale * q k^T + mask) v.

Scalar factors before and after the product of queries and keys are gathered into the scale. Keys
that are stored as columns are turned back only where that transpose merges with one that is there
already. Exporters of newer PyTorch replace weights that are NaN by 0: the composite's ``safe``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.builder import Builder
from ...ir.dims import Dim
from ...ir.graph import Attrs, Value
from ...ir.ops.base import broadcast_shapes
from ..facts import Refusal, is_identity, scalar_of
from ..products import strip_scale
from ..rule import Answer, Match, Rule, broadcasts_into, floats, term
from .arithmetic import no_cancellation

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


def _masks_fit(m: Match) -> Answer:
    q, keys = m["q"].shape, m["k_"].shape
    scores = (*broadcast_shapes(q[:-2], keys[:-2]), q[-2], keys[-2 if m["t"] else -1])
    fit = all(broadcasts_into(m[name].shape, scores) for name in "AB")
    return fit or f"the masks widen {scores}"


def _check_scale(scale: float, like: Value) -> None:
    with np.errstate(over="ignore"):
        rounded = float(like.dtype.np.type(scale))
    if not np.isfinite(rounded) or (rounded == 0) != (scale == 0):
        raise Refusal(f"the scale {scale} is not a number of {like.dtype}")


@term
def attend(b: Builder, q: Value, k: Value, t: bool, v: Value, mask: Value | None, scale: Any,
           safe: bool) -> Value:  # fmt: skip
    """The composite; ``t`` tells whether keys are stored as rows (the composite's way). Scalar
    factors on queries and keys join the scale, on either side of a transpose."""
    factor = scale if not isinstance(scale, Value) else scalar_of(b.constants, scale)
    if factor is None:
        raise Refusal("the scale is not one number")
    on_q, q, turn = _peel(b, q)
    q = _turned(b, q, turn)
    on_k, k, turn = _peel(b, k)
    n = len(turn)
    if not t and is_identity(turn):
        k = _units_moved_in(b, k)
        on_more, k, turn = _peel(b, k)
        on_k *= on_more
    if not t:
        if is_identity(turn):
            raise Refusal("the keys are stored as columns")
        turn = (*turn[:-2], turn[n - 1], turn[n - 2])
    k = _turned(b, k, turn)
    total = float(factor) * on_q * on_k
    _check_scale(total, q)
    more: dict[str, Any] = {"safe": True} if safe else {}
    return b.op("attention", q, k, v, mask, scale=total, **more)


def _peel(b: Builder, v: Value) -> tuple[float, Value, tuple[int, ...]]:
    """(c, w, perm) with ``v == c * transpose(w, perm)``."""
    scale, perm = 1.0, tuple(range(v.rank))
    while True:
        number, inner, _ = strip_scale(b.constants, v)
        if number != 0 and inner is not v:
            scale, v = scale * number, inner
        elif v.node.op == "transpose":
            perm = tuple(v.node.attrs["perm"][i] for i in perm)
            v = v.node.operands[0]
        else:
            return scale, v, perm


def _units_moved_in(b: Builder, v: Value) -> Value:
    """``transpose(reshape(x))`` for ``reshape(transpose(x))`` where the reshape only adds axes of
    size 1 in front (one head); any other value as it is."""
    inner = v.node.operands[0] if v.node.op == "reshape" else v
    lead = v.rank - inner.rank
    if inner.node.op != "transpose" or lead <= 0 or v.shape != (1,) * lead + inner.shape:
        return v
    source = inner.node.operands[0]
    wide = b.op("reshape", source, shape=(*v.shape[:lead], *source.shape))
    perm = (*range(lead), *(lead + p for p in inner.node.attrs["perm"]))
    return b.op("transpose", wide, perm=perm)


def _turned(b: Builder, v: Value, perm: tuple[int, ...]) -> Value:
    return v if is_identity(perm) else b.op("transpose", v, perm=perm)


@term
def inverse_scale(b: Builder, c: Value) -> Any:
    """The factor that division by a constant is."""
    number = scalar_of(b.constants, c)
    if number is None or number == 0:
        raise Refusal("the divisor is not one number")
    return 1.0 / float(number)


@term
def rescale(b: Builder, q: Value, k: Value, v: Value, mask: Value | None, scale: float,
            factor: Value, a: Attrs) -> Value:  # fmt: skip
    """An attention whose queries or keys were multiplied by a number before."""
    number = scalar_of(b.constants, factor)
    if number is None or number == 0:
        raise Refusal("the factor is not one number")
    total = scale * float(number)
    _check_scale(total, q)
    return b.op("attention", q, k, v, mask, scale=total, **a)


def _per_head(m: Match) -> Answer:
    """The factor differs between products of queries and keys, not inside one."""
    shape: tuple[Dim, ...] = m["C"].shape
    if len(shape) < 3 or shape[-2:] != (1, 1):
        return "the factor is not one number per head"
    return broadcasts_into(shape, m["q"].shape) or "the factor widens the queries"


def _scalar_kept(name: str) -> Any:
    """Scaling by the constant does not change the shape."""

    def holds(m: Match) -> Answer:
        shape: tuple[Dim, ...] = m["C"].shape
        return broadcasts_into(shape, m[name].shape) or "the factor widens the value"

    return holds


def _rule(name: str, scores: str, mask: str, scale: str, when: tuple[Any, ...],
          safe: bool = False, q: str = "q") -> Rule:  # fmt: skip
    weights = f"softmax({scores}, axis=k)"
    if safe:
        name, weights = f"{name}_safe", f"select(isnan((p := {weights})), 0, p)"
    return Rule(
        name, f"dot({weights}, v, ta=False, tb=False)",
        f"attend({q}, k_, t, v, {mask}, {scale}, {safe})", when=when, exact=False,
        sizes="q[b,n,d] k_[b,m,d] v[b,m,e] m[b,n,m] A[1,n,m] B[b,1,m] "
        f"C[{'' if q == 'q' else 'b,1,1'}]",
    )  # fmt: skip


_PLAIN = (floats("v"), floats("q"), _last_axis, _queries)
_MASKED = (*_PLAIN, _mask_fits)
_QK = "dot(q, k_, ta=False, tb=t)"

_SPELLINGS: tuple[tuple[str, str, str, str, tuple[Any, ...]], ...] = (
    # softmax(q k^T) v
    ("attention", _QK, "none", "1", _PLAIN),
    # softmax(q k^T c) v
    ("attention_scaled", f"{_QK} * C", "none", "C", _PLAIN),
    # softmax(q k^T / c) v
    ("attention_divided", f"{_QK} / C", "none", "inverse_scale(C)", _PLAIN),
    # softmax(q k^T + m) v
    ("attention_masked", f"{_QK} + m", "m", "1", _MASKED),
    # softmax(q k^T c + m) v
    ("attention_scaled_masked", f"{_QK} * C + m", "m", "C", _MASKED),
    # softmax(q k^T / c + m) v
    ("attention_divided_masked", f"{_QK} / C + m", "m", "inverse_scale(C)", _MASKED),
)

_HEADS: tuple[tuple[str, str, str, str, tuple[Any, ...]], ...] = (
    # softmax(c q k^T) v = softmax((c q) k^T) v, one c per head
    ("attention_head_scaled", f"{_QK} * C", "none", "1", (*_PLAIN, _per_head)),
    # softmax(c q k^T + m) v
    ("attention_head_scaled_masked", f"{_QK} * C + m", "m", "1", (*_MASKED, _per_head)),
    # softmax(c q k^T + A + B) v, two masks whose sum is too large to be kept
    ("attention_head_scaled_masks", f"{_QK} * C + A + B", "A + B", "1",
     (*_PLAIN, _per_head, _masks_fit, no_cancellation)),
)

RULES: tuple[Rule, ...] = (
    *(_rule(*spelling, q="q * C") for spelling in _HEADS),
    *(_rule(*spelling) for spelling in _SPELLINGS),
    # the same with weights that are NaN (no finite score in the row) replaced by 0
    *(_rule(*spelling, safe=True) for spelling in _SPELLINGS),
    # (q c) k^T = q k^T c, q (k c)^T = q k^T c
    Rule("attention_query_scale", "attention(q * C, k, v, maybe_m, scale=s, **a)",
         "rescale(q, k, v, maybe_m, s, C, a)", when=(floats("q"), _scalar_kept("q")), exact=False,
         sizes="q[b,n,d] k[b,m,d] v[b,m,e] C[] maybe_m[b,n,m]"),
    Rule("attention_key_scale", "attention(q, k * C, v, maybe_m, scale=s, **a)",
         "rescale(q, k, v, maybe_m, s, C, a)", when=(floats("q"), _scalar_kept("k")), exact=False,
         sizes="q[b,n,d] k[b,m,d] v[b,m,e] C[] maybe_m[b,n,m]"),
)
