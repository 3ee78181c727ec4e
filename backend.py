"""EvoNNX as a backend of ONNX, in the form that ``onnx.backend.test`` and tools look for: a module
with ``prepare``, ``run_model``, ``run_node`` and ``supports_device``; see ``compiler.backend``.

    import evonnx.backend
    outputs = evonnx.backend.prepare(model).run([x, y])
"""

from .compiler.backend import EvonnxBackend, EvonnxRep

is_compatible = EvonnxBackend.is_compatible
prepare = EvonnxBackend.prepare
run = EvonnxBackend.run_model
run_model = EvonnxBackend.run_model
run_node = EvonnxBackend.run_node
supports_device = EvonnxBackend.supports_device

__all__ = [
    "EvonnxBackend", "EvonnxRep", "is_compatible", "prepare", "run", "run_model", "run_node",
    "supports_device",
]  # fmt: skip
