"""Fixtures that compile and run small kernels on every instruction set this machine executes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import pytest

from evonnx.ir.target import Target
from evonnx.kernels.jit import Loader, compile_source, load_objects

NUMPY = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "bool": np.bool_, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64,
}  # fmt: skip


def _targets() -> list[Target]:
    named = [Target.named(name) for name in ("cpu", "avx512", "avx2", "generic")]
    return list({t.isa: t for t in named if t.runs_here()}.values())


@pytest.fixture(params=_targets(), ids=lambda t: t.name)
def target(request: pytest.FixtureRequest) -> Target:
    return request.param


def c_function(loader: Loader, symbol: str, arguments: int) -> Callable[..., None]:
    """A loaded function of int64 arguments; the loader stays alive with it."""
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(loader.address(symbol))
    function.loader = loader
    return function


class Runner:
    """Compiles kernel source for one target and calls it on NumPy arrays."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def kernel(
        self, source: str, buffers: Sequence[np.ndarray], params: Sequence[int], end: int
    ) -> None:
        loader = load_objects([compile_source(source, "kernel", self.target)])
        addresses = np.array([b.ctypes.data for b in buffers], np.int64)
        sizes = np.array(params, np.int64)
        c_function(loader, "kernel", 4)(addresses.ctypes.data, sizes.ctypes.data, 0, end)

    def elementwise(self, expression: str, out: str, **inputs: np.ndarray) -> np.ndarray:
        """``expression`` over inputs named ``<name>_<element type>``, e.g. ``a_f32=...``."""
        lines = ["def kernel(bufs, params, begin, end):"]
        buffers, loads = [], []
        for k, (name, array) in enumerate(inputs.items()):
            short, dtype = name.split("_")
            buffers.append(np.ascontiguousarray(array, NUMPY[dtype]))
            lines.append(f"    p{k} = ptr_{dtype}(bufs, {k})")
            loads.append(f"        {short} = ld(p{k}, i)")
        result = np.empty(buffers[0].shape, NUMPY[out])
        lines.append(f"    o = ptr_{out}(bufs, {len(buffers)})")
        lines += ["    for i in range(begin, end):", *loads, f"        st(o, i, {expression})"]
        self.kernel("\n".join(lines) + "\n", [*buffers, result], [0], result.size)
        return result


@pytest.fixture
def run(target: Target) -> Runner:
    return Runner(target)


@pytest.fixture
def call_micro() -> Callable[..., Callable[..., None]]:
    """Micro-kernel -> callable of integer arguments."""

    def make(kernel: object) -> Callable[..., None]:
        loader = load_objects([kernel.object_bytes()])
        return c_function(loader, kernel.symbol, len(kernel.arguments))

    return make
