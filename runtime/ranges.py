"""Refuses inputs that hold positions outside the axis they are read into.

One reduction decides the common case: seen as unsigned, a negative number is larger than any size,
so the largest element below the extent means that all are in range and none is negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import FeedError, quote


@dataclass(frozen=True, slots=True)
class Range:
    """An ``IndexRange`` whose extent is known."""

    input: int
    column: int | None
    extent: int
    message: str


def check_ranges(ranges: Sequence[Range], arrays: Sequence[Any], names: Sequence[str]) -> None:
    """Raises ``FeedError`` naming the first element that is out of range, if there is one.
    ``arrays`` are the inputs, dense and of integer dtypes where a range looks at them."""
    for r in ranges:
        whole = arrays[r.input]
        array = whole if r.column is None else whole[..., r.column]
        code = array.view(f"u{array.itemsize}")
        if np.maximum.reduce(code, axis=None, initial=0) < r.extent:
            continue
        bad = array >= r.extent
        if array.dtype.kind == "i":
            bad |= array < -r.extent
        if bad.any():
            at = np.unravel_index(int(bad.argmax()), array.shape)
            place = [int(i) for i in at] + ([] if r.column is None else [r.column])
            least = -r.extent if array.dtype.kind == "i" else 0
            raise FeedError(
                f"input {quote(names[r.input])} holds {array[at]} at {place}, but {r.message} "
                f"reads it as a position along an axis of size {r.extent}: give numbers from "
                f"{least} to {r.extent - 1}"
            )
