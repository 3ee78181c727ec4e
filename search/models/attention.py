"""From an attention to phases: what its kernel executes, at given sizes.

A tile is a panel of queries, one per lane. Its queries are packed; then, block of keys by block of
keys, the scores are a product of the keys' rows with the panel, the softmax runs down the columns,
and the weights are the panel of a product with the transposed values. ``kernels.attention`` is what
is counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ...ir.dims import Dim
from ...ir.ops import lookup
from ...ir.target import Target
from ...ir.variants import KEYS, best_height, micro_tile
from ..work import AttentionWork
from .base import Phase
from .loops import loop
from .products import NOMINAL, ProductCount

_BEFORE, _AFTER = 3.0, 3.0
"""Plain operations of a score until its weight's exponent is known, and from there on: scale, mask
and maximum; difference, and the sum of weights."""
_CALL = 4.0
"""Entries of an inner loop that a call of a micro-kernel costs that begins with stored sums."""


def count_attention(a: AttentionWork, number: Callable[[Dim], float], target: Target | None
                    ) -> ProductCount:
    """The phases of an attention on ``target`` (None: ``products.NOMINAL``)."""
    most, full, lanes = micro_tile(NOMINAL if target is None else target)
    batches, rows, keys, depth, columns = (
        number(d) for d in (a.batches, a.rows, a.keys, a.depth, a.columns))
    panels = batches * math.ceil(rows / (full * lanes))
    width = min(full, math.ceil(rows / lanes)) * lanes if isinstance(a.rows, int) else full * lanes
    blocks = math.ceil(keys / KEYS)
    heights = range(most, 0, -1)

    def product(length: float, along: float, times: int) -> Phase:
        """``length`` rows over ``along`` products, in ``times`` pieces."""
        height = best_height(heights, max(1, math.ceil(min(length, KEYS))))
        calls = panels * math.ceil(length / height)
        steps = calls * along
        return Phase(fma=2 * steps * height * width, entries=_CALL * calls * times,
                     loads=4 * steps * (height * lanes / 2 + width),
                     stores=4 * calls * height * width * times)

    scores = panels * keys * width
    outputs = panels * columns * width
    special = float(lookup("exp").flops_per_element)
    packed = panels * depth * width
    found = [
        Phase(apart=packed / lanes, stores=4 * packed, entries=panels * depth / lanes),
        product(keys, depth, 1),
        Phase(plain=(_BEFORE + a.masked) * scores, loads=4 * (1 + a.masked) * scores,
              stores=4 * scores, entries=panels * blocks),
        Phase(plain=_AFTER * scores, special=special * scores, loads=4 * scores,
              stores=4 * scores, entries=panels * blocks),
        product(columns, keys, blocks),
        Phase(plain=outputs * (blocks + 1), loads=4 * outputs * (blocks + 1),
              stores=4 * outputs * (blocks + 1), entries=panels * (blocks + 1)),
    ]
    if a.after is not None:
        found.append(loop(a.after, number))
    if a.turned:
        # Rows of the result are written one element at a time from the lanes of the panel.
        results = batches * rows * columns
        found.append(Phase(apart=results / lanes, stores=4 * results, entries=batches * rows))
    return ProductCount(found, max(1.0, panels))
