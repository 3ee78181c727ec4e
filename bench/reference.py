"""Reference outputs: the IR interpreter in float64, kept on disk.

The interpreter is plain NumPy and slow on large models, so its outputs are stored in the cache
folder under a key of everything they depend on: the model's hash, the feeds' bytes, and the source
text of the importer and the interpreter.  Where the interpreter cannot run a model, ONNX Runtime's
float32 outputs take its place, and the result says so and why.

A model that rounds on purpose (quantization, integers made of floats) is discontinuous: one ulp may
move a whole step, and then float64 and float32 rightly differ.  For such cases the interpreter can
also be run in the declared types.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .cache import cache_dir, place, sha256_of

FLOAT64 = "float64 interpreter"
FALLBACK = "onnxruntime float32"


@dataclass(frozen=True)
class Reference:
    """Outputs to compare with."""

    outputs: list[Any]
    source: str
    """:data:`FLOAT64` or :data:`FALLBACK`."""
    reason: str
    """Why the fallback was taken; empty otherwise."""
    seconds: float
    """Time spent, small if the outputs were stored."""


def _code_digest() -> str:
    """Hash of the source that the reference outputs depend on."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted([*root.glob("ir/**/*.py"), *root.glob("compiler/importer/**/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key_of(model: Path, feeds: Mapping[str, np.ndarray], code: str, wide: bool) -> str:
    """Name under which the outputs are stored."""
    digest = hashlib.sha256(f"{sha256_of(model)}\0{code}\0{wide}".encode())
    for name in sorted(feeds):
        array = feeds[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _interpret(model: Path, feeds: Mapping[str, np.ndarray], wide: bool) -> list[Any]:
    """Runs the reference interpreter, in float64 if ``wide``."""
    from ..compiler.importer import import_model
    from ..ir.interp import run

    return list(run(import_model(model), feeds, float64=wide).values())


def _storable(outputs: list[Any]) -> bool:
    """Only plain numeric tensors are stored (no pickling)."""
    return all(isinstance(value, np.ndarray) and value.dtype.kind in "fiubc" for value in outputs)


def _load(path: Path) -> list[Any]:
    with np.load(path, allow_pickle=False) as stored:
        return [stored[f"o{index}"] for index in range(len(stored.files))]


def interpreted(model: Path, feeds: Mapping[str, np.ndarray], *, wide: bool) -> list[Any]:
    """Outputs of the interpreter in float64 (``wide``) or in the declared types, stored on disk."""
    path = cache_dir() / "references" / f"{key_of(model, feeds, _code_digest(), wide)}.npz"
    if path.is_file():
        return _load(path)
    outputs = _interpret(model, feeds, wide)
    if _storable(outputs):
        buffer = io.BytesIO()
        np.savez(buffer, **{f"o{index}": value for index, value in enumerate(outputs)})
        place(buffer.getvalue(), path)
    return outputs


def reference(
    model: Path, feeds: Mapping[str, np.ndarray], fallback: Callable[[], list[Any]] | None
) -> Reference:
    """Reference outputs of a model file; ``fallback`` gives ONNX Runtime's outputs."""
    began = time.perf_counter()
    try:
        outputs = interpreted(model, feeds, wide=True)
    except Exception as error:  # whatever it is, it is shown in the result
        if fallback is None:
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Reference(fallback(), FALLBACK, reason, time.perf_counter() - began)
    return Reference(outputs, FLOAT64, "", time.perf_counter() - began)
