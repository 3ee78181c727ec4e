"""The first successors of every node in rows of equal length, as ``lists`` counts them.

Apart from ``lists``, which is compiled: describing a problem imports no Numba.
"""

from __future__ import annotations

import numpy as np

FAN = 3
"""Successors of a node that are counted without a branch, at most; those that it lacks are dummies.
"""

_FEW = 0.85
"""Part of the nodes with one successor or none from which on only one is counted without a branch:
dummies cost more than the branches that they save then."""


def fans(nodes: int, succ_ptr: np.ndarray, succs: np.ndarray) -> tuple[np.ndarray, int]:
    """u4[n * (FAN + 1)]: the first successors of each node, dummies ``n, n + 1, ...`` for those it
    lacks, and last how many more it has than are counted without a branch; and that number."""
    found = np.empty((nodes, FAN + 1), np.uint32)
    found[:, :FAN] = nodes + np.arange(FAN)
    degree = np.diff(succ_ptr)
    width = 1 if nodes and (degree <= 1).mean() >= _FEW else FAN
    for k in range(width):
        has = np.flatnonzero(degree > k)
        found[has, k] = succs[succ_ptr[has] + k]
    found[:, FAN] = np.maximum(0, degree - width)
    return found.reshape(-1), width
