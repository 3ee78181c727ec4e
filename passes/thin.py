"""Zero padding of thin images made explicit.

A convolution over an image of three channels reads, per kernel element, three contiguous numbers;
along a kernel row it could read ``kernel width * channels`` at once if no column of the row could
fall outside the image. For thin images a padded copy costs little next to that, so the padding
becomes an op of its own (which fuses with whatever writes the image).
"""

from __future__ import annotations

from collections import Counter

from ..ir.builder import Builder
from ..ir.graph import Attrs, Graph, Node, Value
from .rebuild import New, with_replaced

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
    if not any(map(_is_thin, graph.nodes)):
        return graph

    def padded(b: Builder, node: Node, new: New) -> tuple[Value, ...] | None:
        if not _is_thin(node):
            return None
        x, w = map(new, node.operands)
        lo, hi = node.attrs["pads_lo"], node.attrs["pads_hi"]
        wide = b.op("pad", x, b.const(0.0, x.dtype), lo=(0, *lo, 0), hi=(0, *hi, 0),
                    mode="constant")
        none = (0,) * len(lo)
        attrs = Attrs({**node.attrs, "pads_lo": none, "pads_hi": none}.items())
        if fired is not None:
            fired["pad_thin_image"] += 1
        return b.node("conv", (wide, w), attrs).outputs

    return with_replaced(graph, padded)
