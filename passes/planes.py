"""Convolutions that stay within planes as convolutions of images.

Factored 3-D convolutions (Tran et al. 2018, "A closer look at spatiotemporal convolutions for
action recognition") have kernels of one plane: ``1 x k x k``. Where such a kernel takes every
plane, depth is one more axis of the batch. Channels-last that is a view, and the convolution can be
one of those that have a better kernel (Winograd's).
"""

from __future__ import annotations

from collections import Counter

from ..ir.builder import Builder
from ..ir.graph import Attrs, Graph, Node, Value
from .rebuild import New, with_replaced


def _within_planes(node: Node) -> bool:
    if node.op != "conv" or node.attrs["layout"] != "last" or node.out.rank < 5:
        return False
    a, kernel = node.attrs, node.operands[1].shape
    return bool(kernel[0] == 1 and a["strides"][0] == 1 and a["pads_lo"][0] == a["pads_hi"][0] == 0)


def flatten_planes(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with convolutions of kernels of one plane computed on batches of planes."""
    if not any(map(_within_planes, graph.nodes)):
        return graph

    def flattened(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        if not _within_planes(node):
            return None
        x, w = map(new, node.operands)
        batch, depth, *image = x.shape
        planes = b.op("reshape", x, shape=(batch * depth, *image))
        kernel = b.op("reshape", w, shape=w.shape[1:])
        attrs = {k: node.attrs[k][1:] for k in ("strides", "dilations", "pads_lo", "pads_hi")}
        y = b.node("conv", (planes, kernel), Attrs({**node.attrs, **attrs}.items())).outputs[0]
        if fired is not None:
            fired["flatten_planes"] += 1
        return (b.op("reshape", y, shape=node.out.shape),)

    return with_replaced(graph, flattened)
