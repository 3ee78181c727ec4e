"""The engines that the bench compares, behind one small interface.

An engine loads a model file for a number of threads and is then a function from feeds to a list of
outputs.  Each is set up as its own documentation asks for lowest latency: ONNX Runtime with all
graph optimizations, `threads` intra-op threads and one inter-op thread; OpenVINO with the latency
hint, float32 precision (it would otherwise take bfloat16 on some machines) and one stream, inputs
and outputs shared with NumPy instead of copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Feeds = Mapping[str, np.ndarray]

OURS = "evonnx"
PEERS = ("onnxruntime", "openvino")
NAMES = (OURS, *PEERS)


@dataclass(frozen=True)
class Engine:
    """A loaded model."""

    name: str
    call: Callable[[Feeds], list[Any]]
    seconds: float
    """Time to load and compile, in this warm process, cache allowed."""
    handle: Any
    """The engine's own object."""


def _load_ours(path: Path, threads: int) -> tuple[Any, Callable[[Feeds], list[Any]]]:
    from .. import compile as compile_model

    compiled = compile_model(path, threads=threads)
    return compiled, lambda feeds: list(compiled.run(None, dict(feeds)))


def _load_onnxruntime(path: Path, threads: int) -> tuple[Any, Callable[[Feeds], list[Any]]]:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session, lambda feeds: session.run(None, feeds)


def _load_openvino(path: Path, threads: int) -> tuple[Any, Callable[[Feeds], list[Any]]]:
    import openvino

    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        # By default operands of products with 8-bit weights are rounded to 8 bits all the same.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    model = core.compile_model(core.read_model(str(path)), "CPU", settings)
    request = model.create_infer_request()
    count = len(model.outputs)

    def call(feeds: Feeds) -> list[Any]:
        results = request.infer(dict(feeds), share_inputs=True, share_outputs=True)
        return [results[index] for index in range(count)]

    return (core, model, request), call


_LOADERS = {
    OURS: _load_ours,
    "onnxruntime": _load_onnxruntime,
    "openvino": _load_openvino,
}


def load(name: str, path: Path, threads: int) -> Engine:
    """Loads ``path`` in the named engine; whatever the engine raises passes through."""
    began = time.perf_counter()
    handle, call = _LOADERS[name](path, threads)
    return Engine(name, call, time.perf_counter() - began, handle)
