"""Graphs back to ONNX, so that an optimized graph opens in any viewer and runs in any runtime.

Every op of the table is written as standard ONNX operators (opset ``OPSET``): one to one where ONNX
has the operator, composed where it has not. Symbolic sizes become arithmetic on the shapes of the
inputs. Regions become subgraphs.
"""

from __future__ import annotations

from . import (
    coupling,
    dynamic,
    elementwise,
    host,
    image,
    movement,
    recurrent,
    reduction,
    regions,
    trees,
)
from .context import OPSET
from .model import export_model, to_onnx

__all__ = ["OPSET", "export_model", "to_onnx"]
