"""Fixtures that compile and run small kernels on every instruction set this machine executes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.graph import Node
from evonnx.ir.ops import lookup
from evonnx.ir.target import Target
from evonnx.ir.types import DType, TensorType
from evonnx.kernels.jit import compile_source
from evonnx.kernels.linker import Loader, load_objects
from evonnx.kernels.micro import MicroKernel, named
from evonnx.kernels.opaque import OPAQUE
from evonnx.runtime.constants import apply

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
        return self.many({expression: out}, **inputs)[expression]

    def many(self, expressions: dict[str, str], **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Expression -> result, of expression -> element type, by one kernel."""
        lines = ["def kernel(bufs, params, begin, end):"]
        buffers, body = [], ["    for i in range(begin, end):"]
        for k, (name, array) in enumerate(inputs.items()):
            short, dtype = name.split("_")
            buffers.append(np.ascontiguousarray(array, NUMPY[dtype]))
            lines.append(f"    p{k} = ptr_{dtype}(bufs, {k})")
            body.append(f"        {short} = ld(p{k}, i)")
        results = {e: np.empty(buffers[0].shape, NUMPY[out]) for e, out in expressions.items()}
        for k, (expression, out) in enumerate(expressions.items(), len(buffers)):
            lines.append(f"    p{k} = ptr_{out}(bufs, {k})")
            body.append(f"        st(p{k}, i, {expression})")
        source = "\n".join([*lines, *body]) + "\n"
        self.kernel(source, [*buffers, *results.values()], [0], buffers[0].size)
        return results


@pytest.fixture
def run(target: Target) -> Runner:
    return Runner(target)


@pytest.fixture
def call_micro() -> Callable[..., Callable[..., None]]:
    """Micro-kernel -> callable of integers; limits, zero and factor are floats."""

    def make(kernel: MicroKernel) -> Callable[..., None]:
        loader = load_objects([kernel.object_bytes()])
        real = ctypes.c_double if "_f64_" in kernel.symbol else ctypes.c_float
        reals = ("lo", "hi", "zero", "factor")
        kinds = [real if a in reals else ctypes.c_int64 for a in kernel.arguments]
        function = ctypes.CFUNCTYPE(None, *kinds)(loader.address(kernel.symbol))
        function.loader = loader
        return function

    return make


class OpaqueRunner:
    """Runs opaque kernels on arrays, beside the op's reference; remembers compiled sources."""

    def __init__(self) -> None:
        self.target = Target.detect()
        self._loaded: dict[str, Callable[..., None]] = {}

    def node(
        self, op: str, args: Sequence[np.ndarray | None], constants: Sequence[int] = (),
        **attrs: object,
    ) -> Node:
        """The op on inputs of the arrays' types; those with the numbers ``constants`` are known."""
        b = Builder()
        values = [
            None if a is None
            else b.const(a) if i in constants
            else b.input(f"x{i}", TensorType(DType.of(a.dtype), a.shape))
            for i, a in enumerate(args)
        ]
        made = b.op(op, *values, **attrs)
        node: Node = (made[0] if isinstance(made, tuple) else made).node
        return node

    def run(self, node: Node, args: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        """Results of the compiled kernel, called on two halves of its tiles; fails where anything
        around a result or the scratch was written."""
        kernel = OPAQUE[node.op](node, self.target)
        call = self._loaded.get(kernel.symbol)
        if call is None:
            tiles = [named(e, self.target).object_bytes() for e in kernel.externs]
            code = compile_source(kernel.source, kernel.symbol, self.target, kernel.externs)
            loader = load_objects([code, *tiles])
            call = self._loaded[kernel.symbol] = c_function(loader, kernel.symbol, 4)
        inputs = [np.ascontiguousarray(a) for a in args if a is not None]
        if kernel.packed is not None:
            parts = [apply(inputs[kernel.packed.operand], p.spec) for p in kernel.packed.panels]
            inputs[kernel.packed.operand] = np.concatenate([p.reshape(-1) for p in parts])
            assert inputs[kernel.packed.operand].size == kernel.packed.elements
        frames = [_frame(t.numel() * t.dtype.itemsize) for t in node.types]
        frames.append(_frame(int(kernel.scratch_bytes)))
        buffers = [a.ctypes.data for a in inputs] + [f.ctypes.data + _GUARD for f in frames]
        addresses = np.array(buffers, np.int64)
        tiles = int(kernel.tiles)
        for number in range(max(1, kernel.rounds or 1)):
            sizes = np.array([*kernel.params, number], np.int64)
            for begin, end in ((0, tiles // 2), (tiles // 2, tiles)):
                call(addresses.ctypes.data, sizes.ctypes.data, begin, end)
        for frame in frames:
            assert (frame[:_GUARD] == _MARK).all() and (frame[-_GUARD:] == _MARK).all()
        return [
            f[_GUARD:-_GUARD].view(t.dtype.np).reshape(t.shape)
            for f, t in zip(frames, node.types, strict=False)
        ]

    def check(
        self, op: str, args: Sequence[np.ndarray | None], tolerance: float = 0.0,
        constants: Sequence[int] = (), **attrs: object,
    ) -> None:
        """The kernel's results equal the reference's."""
        node = self.node(op, args, constants, **attrs)
        wanted = lookup(op).reference(args, node.attrs, node.types)  # type: ignore[misc]
        for got, want in zip(self.run(node, args), wanted, strict=True):
            assert got.shape == want.shape and got.dtype == want.dtype
            wide = np.float64 if want.dtype.kind != "i" else np.int64
            np.testing.assert_allclose(
                got.astype(wide), want.astype(wide), rtol=tolerance, atol=tolerance,
                err_msg=f"{op} {attrs}",
            )  # fmt: skip


_GUARD, _MARK = 256, 0xA5


def _frame(nbytes: int) -> np.ndarray:
    """Bytes with guards around them, aligned to a cache line."""
    raw = np.full(nbytes + 2 * _GUARD + 64, _MARK, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes + 2 * _GUARD]


@pytest.fixture(scope="session")
def opaque() -> OpaqueRunner:
    return OpaqueRunner()
