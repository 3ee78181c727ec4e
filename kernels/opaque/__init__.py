"""Ops that are one kernel of their own: ``OPAQUE[op](node, target)`` writes it."""

from __future__ import annotations

from . import dynamic, lines, recurrent, scatters, sources, trees  # (each registers)
from .base import OPAQUE, OpaqueKernel

__all__ = ["OPAQUE", "OpaqueKernel"]
