"""Pairwise coupling as the one operator of ONNX that has it inside, ``ai.onnx.ml.SVMClassifier``.

Pairs' probabilities r become the decisions log(r / (1 - r)) of a machine with the linear kernel
whose support vectors are the unit vectors, one per pair, and whose Platt scaling is the sigmoid.
"""

from __future__ import annotations

import numpy as np

from ...ir.graph import Node
from ...ir.types import F32
from .context import ML, Exporter, writes


@writes("couple")
def _couple(e: Exporter, node: Node, xs: list[str]) -> str:
    r, k = node.operands[0], node.attrs["classes"]
    if r.dtype != F32:
        return str(e.refuse(node, "is written in f32 only"))
    pairs = k * (k - 1) // 2
    _, second = np.triu_indices(k, 1)
    weights = np.zeros((k - 1, pairs), np.float32)
    weights[second - 1, np.arange(pairs)] = 1
    one = e.literal(np.float32(1), F32)
    odds = e.emit("Div", xs[0], e.emit("Sub", one, xs[0]))
    _, p = e.emit(
        "SVMClassifier", e.emit("Log", odds), outputs=2, domain=ML, kernel_type="LINEAR",
        kernel_params=[0.0, 0.0, 0.0], coefficients=weights.reshape(-1).tolist(),
        support_vectors=np.eye(pairs).reshape(-1).tolist(), rho=[0.0] * pairs,
        vectors_per_class=[k - 1 - i for i in range(k)], classlabels_ints=list(range(k)),
        prob_a=[-1.0] * pairs, prob_b=[0.0] * pairs, post_transform="NONE",
    )  # fmt: skip
    return str(p)
