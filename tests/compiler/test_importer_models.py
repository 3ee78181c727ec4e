"""Real models: imported, run by the reference interpreter, compared with ONNX Runtime.

Outputs of models that quantize while they run differ by rounding that later layers amplify, and
two front ends take logarithms of energies near zero: those have a tolerance of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

from evonnx.bench.models import Model, feeds, is_present, path_of, select
from evonnx.compiler.importer import import_model
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run

onnxruntime.set_default_logger_severity(4)

LOOSE = {
    "asr_whisper80": 5e-3, "asr_whisper128": 5e-3, "asr_gigaam_v2": 5e-4, "yunet": 1e-3,
    "hibari_tts": 0.2, "tashkeel_bilstm": 0.05, "tashkeel_rawi_v3": 5e-3,
    "style_arbitrary_predict": 0.02,
}  # fmt: skip
"""Largest difference, relative to the output's scale, where 1e-4 cannot be asked for."""

DEGENERATE = {"light_squeezenet"}
"""Generated weights make logits of 1e8 that tie: which channels win is rounding."""


HEAVY = {
    "light_vgg19", "light_zfnet512", "light_bvlc_alexnet", "light_inception_v1",
    "light_densenet121", "style_arbitrary_transform",
}  # fmt: skip
"""Seconds each in the reference interpreter."""

MODELS = [
    pytest.param(m, id=m.name, marks=[pytest.mark.slow] if m.name in HEAVY else [])
    for m in select(["small"])
]


@pytest.mark.models
@pytest.mark.parametrize("model", MODELS)
def test_small_models_match(model: Model, text_law: Callable[[Graph], None]) -> None:
    if not is_present(model):
        pytest.skip(f"{model.name} is not in the cache; python -m evonnx.bench.models fetch")
    start = time.perf_counter()
    graph = import_model(path_of(model))
    assert time.perf_counter() - start < 10
    if len(graph.nodes) < 400:
        text_law(graph)
    fed = feeds(model)
    ours = run(graph, {k: v for k, v in fed.items() if k in graph.input_names})
    session = onnxruntime.InferenceSession(str(path_of(model)), providers=["CPUExecutionProvider"])
    theirs = session.run(None, fed)
    assert list(ours) == [o.name for o in session.get_outputs()]
    if model.name in DEGENERATE:
        return
    for got, want in zip(ours.values(), theirs, strict=True):
        _compare(got, want, LOOSE.get(model.name, 1e-4))


def _compare(got: object, want: object, tolerance: float) -> None:
    if isinstance(want, list):  # a sequence of dictionaries: ZipMap
        assert isinstance(got, list)
        for a, b in zip(got, want, strict=True):
            assert list(a) == list(b)
            np.testing.assert_allclose(list(a.values()), list(b.values()), atol=1e-5)
        return
    a, b = np.asarray(got), np.asarray(want)
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    if a.dtype.kind in "fc" and b.size:
        scale = float(np.abs(b[np.isfinite(b)]).max(initial=0)) or 1.0
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)
    elif a.dtype.kind in "biu" and tolerance == 1e-4:
        np.testing.assert_array_equal(a, b)
