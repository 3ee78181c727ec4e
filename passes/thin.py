"""Zero padding of thin images made explicit.

A convolution over an image of three channels reads, per kernel element, three contiguous numbers;
along a kernel row it could read ``kernel width * channels`` at once if no column of the row could
fall outside the image. For thin images a padded copy costs little next to that, so the padding
becomes an op of its own (which fuses with whatever writes the image).
"""

from __future__ import annotations

from collections import Counter

from ..ir.graph import Attrs, Builder, Graph, Node, Value
from .driver import carry

CHANNELS = 4
"""Images of up to this many channels are thin."""


def _is_thin(node: Node) -> bool:
    if node.op != "conv" or node.attrs["layout"] != "last" or node.attrs["groups"] != 1:
        return False
    x, w = node.operands
    channels, width = x.shape[-1], w.shape[-3]
    pads = (node.attrs["pads_lo"][-1], node.attrs["pads_hi"][-1])
    return (
        isinstance(channels, int) and channels <= CHANNELS
        and isinstance(width, int) and width > 1
        and node.attrs["dilations"][-1] == 1 and pads != (0, 0)
    )  # fmt: skip


def pad_thin_images(graph: Graph, fired: Counter[str] | None = None) -> Graph:
    """``graph`` with the padding of convolutions over thin images as ``pad`` nodes."""
    if not any(_is_thin(n) for n in graph.nodes):
        return graph
    builder = Builder(graph.constants)
    for v in graph.inputs:
        builder.adopt(v.node)
    mapping: dict[Value, Value] = {}
    for node in graph.nodes:
        if not _is_thin(node):
            carry(builder, node, mapping)
            continue
        x, w = (mapping.get(v, v) for v in node.operands)
        lo, hi = node.attrs["pads_lo"], node.attrs["pads_hi"]
        zero = builder.const(0.0, x.dtype)
        padded = builder.op("pad", x, zero, lo=(0, *lo, 0), hi=(0, *hi, 0), mode="constant",
                            origin=node.origin)
        none = (0,) * len(lo)
        attrs = Attrs({**node.attrs, "pads_lo": none, "pads_hi": none}.items())
        mapping[node.out] = builder.node("conv", (padded, w), attrs, node.origin).out
        if fired is not None:
            fired["pad_thin_image"] += 1
    return builder.build([(name, mapping.get(v, v)) for name, v in graph.outputs])
