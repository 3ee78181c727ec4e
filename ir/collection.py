"""Python's cyclic garbage collection, paused where it takes time and finds nothing."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Without cyclic garbage collection, for work that makes many objects and hardly any cycles:
    a collection looks at all of them, again and again. Reference counts free what they free."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
