"""Hand-made programs of tiny kernels, shared by the tests of the runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evonnx.ir.dims import Dim, sym
from evonnx.ir.graph import Constants
from evonnx.ir.types import F32, I64, TensorType
from evonnx.runtime.cache import ObjectCache
from evonnx.runtime.program import Buffer, ConstSpec, KernelCode, KernelStep, Program, Step

AFFINE = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    n = prm(params, 0)
    a = prm(params, 1)
    b = prm(params, 2)
    for t in range(begin, end):
        for i in range(t * n, (t + 1) * n):
            st(y, i, ld(x, i) * f32(a) + f32(b))
"""
"""``y = a*x + b`` over ``tiles`` tiles of ``n`` elements."""

ADD = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    z = ptr_f32(bufs, 2)
    n = prm(params, 0)
    for t in range(begin, end):
        for i in range(t * n, (t + 1) * n):
            st(z, i, ld(x, i) + ld(y, i))
"""

ROTATE = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    n = prm(params, 0)
    k = prm(params, 1)
    for i in range(begin, end):
        st(y, i, ld(x, imod(iadd(i, k), n)) + f32(1))
"""
"""``y[i] = x[(i + k) % n] + 1``: every tile reads what another thread wrote."""

SCRATCH = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    s = ptr_f32(bufs, 2)
    n = prm(params, 0)
    for t in range(begin, end):
        for i in range(0, n):
            st(s, i, ld(x, t * n + i))
        for i in range(0, n):
            st(y, t * n + i, ld(s, n - 1 - i))
"""
"""Every row reversed through the thread's scratch."""

COUNT = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    k = ptr_i64(bufs, 1)
    n = prm(params, 0)
    c = i64(0)
    for i in range(0, n):
        c = iadd(c, select(lt(f32(0), ld(x, i)), i64(1), i64(0)))
    st(k, 0, c)
"""
"""How many elements are positive."""


@dataclass
class Maker:
    """Builds a program buffer by buffer and step by step."""

    buffers: list[Buffer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    kernels: dict[str, KernelCode] = field(default_factory=dict)
    specs: dict[int, ConstSpec] = field(default_factory=dict)
    ins: list[tuple[str, int]] = field(default_factory=list)
    outs: list[tuple[str, int]] = field(default_factory=list)
    checks: list[tuple[Dim, Dim, str]] = field(default_factory=list)
    constants: Constants = field(default_factory=Constants)

    def buffer(self, shape: Any, role: str = "arena", dtype: Any = F32, **more: Any) -> int:
        shape = tuple(sym(d) if isinstance(d, str) else d for d in shape)
        name = f"b{len(self.buffers)}"
        self.buffers.append(Buffer(name, TensorType(dtype, shape), role, **more))
        return len(self.buffers) - 1

    def input(self, name: str, shape: Any, dtype: Any = F32) -> int:
        b = self.buffer(shape, "input", dtype)
        self.ins.append((name, b))
        return b

    def const(self, array: np.ndarray, transform: Any = None, shape: Any = None) -> int:
        b = self.buffer(shape or array.shape, "const")
        self.specs[b] = ConstSpec(self.constants.add(array), transform)
        return b

    def output(self, name: str, b: int) -> None:
        self.outs.append((name, b))

    def run(self, source: str, buffers: Any, params: Any, tiles: Dim, **more: Any) -> None:
        name = f"t{sum(map(ord, source))}"
        self.kernels[name] = KernelCode(source, name)
        more.setdefault("n_outputs", 1)
        self.steps.append(KernelStep(name, tuple(buffers), tuple(params), tiles, **more))

    def affine(self, x: int, y: int, a: int, b: int, tiles: Dim = 4, **more: Any) -> None:
        n = self.buffers[x].type.numel() // tiles
        more.setdefault("flops", 10**9)
        self.run(AFFINE, (x, y), (n, a, b), tiles, **more)

    def add(self, x: int, y: int, z: int, **more: Any) -> None:
        self.run(ADD, (x, y, z), (1,), self.buffers[z].type.numel(), **more)

    def program(self) -> Program:
        return Program(
            tuple(self.buffers), tuple(self.steps), tuple(self.ins), tuple(self.outs),
            self.kernels, self.specs, tuple(self.checks),
        )  # fmt: skip


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def make() -> type[Maker]:
    return Maker


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ObjectCache:
    """One object cache for the whole session: every kernel is compiled once."""
    return ObjectCache(Path(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def sources() -> dict[str, str]:
    return {"rotate": ROTATE, "scratch": SCRATCH, "count": COUNT, "add": ADD, "affine": AFFINE}


@pytest.fixture(scope="session")
def i64() -> Any:
    return I64
