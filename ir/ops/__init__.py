"""The op table: one declaration per op, read by everybody.

``OpDef`` gives schema, type inference, NumPy reference, access map, work and traits. Printer,
parser, verifier, interpreter, cost model, lowering and property tests all read this table; adding
an op means adding one declaration in the file of its subject.
"""

from __future__ import annotations

from . import (
    casts,
    composite,
    contraction,
    control,
    coupling,
    dynamic,
    elementwise,
    host,
    images,
    matrix,
    movement,
    recurrent,
    reduction,
    source,
    strings,
    trees,
    windows,
)
from .base import OPS, OpDef, lookup

__all__ = ["OPS", "OpDef", "lookup"]
