"""The first successors of every node in rows of equal length, as ``lists`` counts them.

Apart from ``lists``, which is compiled: describing a problem imports no Numba.
"""

from __future__ import annotations

import numpy as np

FAN = 3
"""Successors of a node that are counted without a branch, at most; those that it lacks are dummies.
"""


def fans(nodes: int, succ_ptr: np.ndarray, succs: np.ndarray) -> np.ndarray:
    """u4[n * (FAN + 1)]: the first successors of each node, dummies ``n, n + 1, ...`` for those it
    lacks, and last how many more it has."""
    found = np.empty((nodes, FAN + 1), np.uint32)
    found[:, :FAN] = nodes + np.arange(FAN)
    degree = np.diff(succ_ptr)
    for k in range(FAN):
        has = np.flatnonzero(degree > k)
        found[has, k] = succs[succ_ptr[has] + k]
    found[:, FAN] = np.maximum(0, degree - FAN)
    return found.reshape(-1)
