"""The op table: one declaration per op, read by everybody.

``OpDef`` gives schema, type inference, NumPy reference, access map, work and traits. Printer,
parser, verifier, interpreter, cost model, lowering and property tests all read this table; adding
an op means adding one declaration in the file of its subject.
"""

from __future__ import annotations

from .base import OPS, OpDef, lookup
from . import (  # noqa: F401  (each module registers its ops)
    composite,
    contraction,
    control,
    dynamic,
    elementwise,
    host,
    movement,
    recurrent,
    reduction,
    source,
    strings,
    trees,
)

__all__ = ["OPS", "OpDef", "lookup"]
