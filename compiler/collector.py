"""The garbage collector while a model is compiled.

A compiler makes many small objects that live long and few cycles. Python's collector looks through
the youngest after every 700 of them, and through all of them ever again as they age: a twentieth of
the time of compiling. Collections that are rarer find as much.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

RARE = 50_000
"""New objects after which the youngest are looked through."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collections are rare within the block; a collector that is off or rarer stays as it is."""
    before = gc.get_threshold()
    if 0 < before[0] < RARE:
        gc.set_threshold(RARE, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
