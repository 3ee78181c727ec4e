"""Probabilities of classes from those of pairs of classes.

``couple{classes: K}`` takes r [N, K (K - 1) / 2], the probability of class i against class j for
the pairs i < j in lexicographic order, and answers p [N, K] that minimizes the sum over i, j of
(r_ji p_i - r_ij p_j)^2 with sum p = 1: the second method of T.-F. Wu, C.-J. Lin and R. C. Weng,
"Probability Estimates for Multi-class Classification by Pairwise Coupling" (JMLR 5, 2004),
algorithm 2. Like every runtime of these models it stops when no error exceeds 0.005 / K, so the
answer depends on the order of the steps, which is that of the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ModelError
from ..types import F32, F64, TensorType
from .base import Attributes, OpDef, Work, register, tensor

ROUNDS = 100
"""Most rounds for a row; more for more classes than that."""
TOLERANCE = 0.005
"""Error, times the number of classes, at which a row is done."""


def _infer(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
    r, k = tensor(types[0], "couple"), attrs["classes"]
    if r.rank != 2 or r.dtype not in (F32, F64) or k < 2 or r.shape[1] != k * (k - 1) // 2:
        raise ModelError(f"couple: {r} for {k} classes")
    return (TensorType(r.dtype, (r.shape[0], k)),)


def _reference(args: Any, attrs: Attributes, types: Any) -> tuple[Any, ...]:
    (r,), k = args, attrs["classes"]
    out = np.empty((r.shape[0], k), r.dtype)
    upper = np.triu_indices(k, 1)
    for row in range(r.shape[0]):
        pair = np.zeros((k, k), r.dtype)
        pair[upper] = r[row]
        pair.T[upper] = 1 - r[row]
        out[row] = _couple(pair)
    return (out,)


def _couple(pair: np.ndarray) -> np.ndarray:
    """One row; ``pair[i, j]`` is the probability of class i against class j."""
    k, real = len(pair), pair.dtype.type
    q = -pair.T * pair
    np.fill_diagonal(q, (pair * pair).sum(axis=0))
    p = np.full(k, 1 / k, pair.dtype)
    for _ in range(max(ROUNDS, k)):
        qp = q @ p
        level = p @ qp
        if np.abs(qp - level).max() < real(TOLERANCE / k):
            break
        for t in range(k):
            step = (level - qp[t]) / q[t, t]
            p[t] += step
            grown = 1 + step
            level = (level + step * (step * q[t, t] + 2 * qp[t])) / grown / grown
            qp = (qp + step * q[t]) / grown
            p /= grown
    return p


def _work(operands: tuple[Any, ...], attrs: Attributes, results: tuple[Any, ...]) -> Work:
    """A few rounds of about 4 K^2 operations for each row."""
    k = attrs["classes"]
    rows = operands[0].shape[0]
    return Work(rows * (16 * k * k), operands[0].nbytes() + results[0].nbytes())


register(OpDef("couple", (1, 1), _infer, _reference, frozenset({"opaque"}), attrs=("classes",),
               work_fn=_work, doc="probabilities of classes from those of pairs"))
