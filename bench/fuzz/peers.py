"""What others make of a model: ONNX Runtime, and ONNX's reference evaluator as a third vote.

ONNX Runtime runs unoptimized, so that its own rewriting is not what is compared with.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx


class Declined(Exception):
    """A peer does not run the model."""


def onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Results of ONNX Runtime by output name; raises ``Declined``."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise Declined("onnxruntime is not installed") from None
    if _has(model, "Einsum") and _empty(model, feeds):
        raise Declined("its Einsum divides by the size of an axis, and by 0 ends the process")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model.SerializeToString(), options,
                                       providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        found = dict(zip(names, session.run(None, dict(feeds)), strict=True))
    except Exception as error:  # any error of the peer means that it does not run the model
        raise Declined(str(error)[:200]) from None
    if _has(model, "LRN") and any(map(_odd, feeds.values())):
        raise Declined("its LRN keeps a running sum, which NaN and infinity never leave")
    return found


def _has(model: onnx.ModelProto, op: str) -> bool:
    return any(n.op_type == op for n in model.graph.node)


def _odd(x: np.ndarray) -> bool:
    return x.dtype.kind == "f" and not np.isfinite(x).all()


def _empty(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> bool:
    return any(0 in x.shape for x in feeds.values()) or any(
        0 in t.dims for t in model.graph.initializer)


def reference(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Results of ONNX's reference evaluator by output name; raises ``Declined``."""
    from onnx.reference import ReferenceEvaluator

    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), (
                contextlib.redirect_stdout(io.StringIO())):
            warnings.simplefilter("ignore")
            session = ReferenceEvaluator(model)
            found = session.run(None, dict(feeds))
    except Exception as error:
        raise Declined(str(error)[:200]) from None
    return {o.name: np.asarray(x) if isinstance(x, np.generic) else x
            for o, x in zip(model.graph.output, found, strict=True)}
