"""Ops that are one kernel of their own: ``OPAQUE[op](node, target)`` writes it."""

from __future__ import annotations

from . import (  # each registers
    coupling,
    dynamic,
    lines,
    matrix,
    recurrent_steps,
    scatters,
    sources,
    trees,
    windows,
)
from .base import OPAQUE, OpaqueKernel

__all__ = ["OPAQUE", "OpaqueKernel"]
