"""Graphs with ops that do nothing: what the importer never writes, but IR text and passes may.

The importer and the builder leave out a concatenation of one operand, a broadcast to the shape
that is there, a padding by nothing; rules that remove them are therefore not reached by any ONNX
model. Here such ops are put behind some of the values of an imported graph. The results are the
same to the last bit, so one judge serves both graphs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...ir.builder import Builder, copy_node, rebuild
from ...ir.graph import Graph, Node, Value
from ...ir.types import TensorType


def _padded(b: Builder, v: Value) -> Value:
    none = (0,) * v.rank
    found: Value = b.op("pad", v, b.const(np.zeros((), v.dtype.np)), lo=none, hi=none,
                        mode="constant")
    return found


_NOTHING: tuple[Callable[[Builder, Value], Value], ...] = (
    lambda b, v: b.op("concat", v, axis=v.rank - 1),
    lambda b, v: b.op("expand", v, shape=v.shape),
    lambda b, v: b.op("reshape", v, shape=v.shape),
    lambda b, v: b.op("transpose", v, perm=tuple(range(v.rank))),
    lambda b, v: b.op("slice", v, starts=(0,) * v.rank, sizes=v.shape, steps=(1,) * v.rank),
    _padded,
)


def loosened(graph: Graph, rng: np.random.Generator, share: float = 0.4) -> Graph:
    """``graph`` with an op that does nothing behind a ``share`` of its computed tensors."""

    def behind(b: Builder, node: Node, inputs: tuple[Value | None, ...]
               ) -> tuple[Value, ...] | None:
        outs = copy_node(b, node, inputs)
        return tuple(_NOTHING[rng.integers(len(_NOTHING))](b, v)
                     if _plain(v) and rng.random() < share else v for v in outs)

    return rebuild(graph, behind)


def _plain(v: Value) -> bool:
    return isinstance(v.type, TensorType) and v.rank > 0 and v.dtype.kind != "s"
