"""Constant weights of products kept as bfloat16: half the bytes to read, an option of the caller.

One token of a language model multiplies every weight once, so its time is that of reading them.
bfloat16 is the upper half of float32; ``cast`` widens it back, and kernels do that as they load a
packed panel. The weights are rounded to nearest even, at most 2^-8 of each (a change of the model,
not of the arithmetic: products and sums stay float32), hence never without being asked for.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from ..ir.builder import Builder
from ..ir.graph import Graph, Node, Value
from ..ir.types import BF16, F32
from .rebuild import New, inputs_of, with_replaced


def round_weights(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with the constant right operands of its float32 ``dot`` nodes as widened bfloat16.
    A matrix stays as it is if a second product reads it, or if bfloat16 would round a finite number
    to infinity; rows that are gathered from the same constant are not rounded."""
    narrow: dict[Node, np.ndarray | None] = {}

    def rounded(node: Node) -> np.ndarray | None:
        source = node.operands[1].node
        if source.op != "const" or source.out.dtype != F32 or source.out.rank < 2:
            return None
        if [user.op for user in graph.users(source.out)].count("dot") != 1:
            return None
        if source not in narrow:
            wide = graph.constants.get(source.attrs["digest"])
            with np.errstate(over="ignore"):
                short = wide.astype(BF16.np)
            kept = bool((np.isfinite(short.astype(np.float32)) == np.isfinite(wide)).all())
            narrow[source] = short if kept else None
        return narrow[source]

    def replaced(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        weights = rounded(node) if node.op == "dot" else None
        if weights is None:
            return None
        x, _, *rest = inputs_of(node, new)
        if fired is not None:
            fired["round weights"] += 1
        return (b.op("dot", x, b.op("cast", b.const(weights), to=F32), *rest, **node.attrs),)

    return with_replaced(graph, replaced)
