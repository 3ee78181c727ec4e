"""The phases of transposed convolutions.

An output ``j`` of a transposed convolution of stride ``s`` lies at ``q s + p`` in the result that
is not cropped, and receives ``x[q - e] w[e s + p]`` (Shi et al. 2016, "Is the deconvolution layer
the same as a convolutional layer?"). Outputs whose numbers leave the same remainder, per axis, have
the same taps: they are a phase, an ordinary convolution of stride 1 whose results lie ``s`` apart.
"""

from __future__ import annotations

import itertools
import math

from .elements import Refused
from .graph import Node
from .ops.contraction import split_layout


def phases_of(node: Node) -> tuple[tuple[int, ...], ...]:
    """The phases of a ``conv_transpose`` that have outputs, as remainders of the number of an
    output per axis, by falling number of taps. Raises ``Refused`` where taps are dilated or the
    size of the kernel is not known."""
    a = node.attrs
    strides, kernel = a["strides"], node.operands[1].shape[2:]
    if any(d != 1 for d in a["dilations"]):
        raise Refused("the phases of a dilated transposed convolution have uneven taps")
    if not all(isinstance(k, int) for k in kernel):
        raise Refused("the kernel of the transposed convolution has no known size")
    _, out, _ = split_layout(node.out.shape, a["layout"])
    every = itertools.product(*(range(min(s, d) if isinstance(d, int) else s)
                                for s, d in zip(strides, out, strict=True)))  # fmt: skip

    def taps(phase: tuple[int, ...]) -> int:
        axes = zip(phase, a["pads_lo"], strides, kernel, strict=True)
        return math.prod(-(-max(k - (r + lo) % s, 0) // s) for r, lo, s, k in axes)

    return tuple(sorted(every, key=taps, reverse=True)) or ((0,) * len(strides),)
