"""Convolutions whose result lies over the image they read: bit by bit what they give elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evonnx.compiler.build import build_program
from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, sym
from evonnx.ir.errors import CompileError
from evonnx.ir.graph import Graph, Value
from evonnx.ir.interp import run
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.runtime.cache import ObjectCache
from evonnx.runtime.executable import Executable

from .test_groups import array, guarded

Epilogue = Callable[[Builder, Value, Value], Value]


def plain(b: Builder, y: Value, _: Value) -> Value:
    return y


def bias(b: Builder, y: Value, _: Value) -> Value:
    """What registers do."""
    return b.op("relu", b.op("add", y, b.const(array(int(y.shape[-1])))))


def swish(b: Builder, y: Value, _: Value) -> Value:
    """What a loop over a strip does."""
    y = b.op("add", y, b.const(array(int(y.shape[-1]))))
    return b.op("mul", y, b.op("sigmoid", y))


def residual(b: Builder, y: Value, x: Value) -> Value:
    """The image is read again where the result is stored."""
    return b.op("mul", b.op("tanh", b.op("add", y, x)), x)


EPILOGUES = (residual, swish, bias, plain)


def graph_of(shape: tuple[Dim, ...], taps: tuple[int, ...], pads: tuple[int, ...], groups: int,
             epilogue: Epilogue, dilation: int = 1, before: str = "") -> tuple[Graph, Value]:
    """An image that nobody else reads, a convolution with what follows, and something behind."""
    b = Builder()
    channels = int(shape[-1])  # type: ignore[call-overload]
    image = b.op("tanh", b.input("x", TensorType(F32, shape)))
    x = b.op(before, image) if before else image
    w = b.const(array(*taps, channels // groups, channels))
    ones = (1,) * len(taps)
    high = tuple((k - 1) * dilation - p for k, p in zip(taps, pads, strict=True))
    y = b.op("conv", x, w, strides=ones, dilations=(dilation,) * len(taps), pads_lo=pads,
             pads_hi=high, groups=groups, layout="last")
    y = epilogue(b, y, x)
    return b.build({"y": b.op("neg", y)}), image


def program_of(graph: Graph, image: Value, over: int, target: str, threads: int
               ) -> tuple[Executable, bool]:
    """The graph as three kernels, and whether the second writes over what it reads."""
    inner = [n for n in graph.nodes if n.op not in ("input", "const")]
    first = next(n for n in inner if n.op == "tanh")
    parts = [[first], [n for n in inner if n is not first and n.op != "neg"], inner[-1:]]
    kinds = ["loops", "contract", "loops"]
    settings = [(), (("over", over),) if over else (), ()]
    groups = tuple(Group(tuple(graph.index[n] for n in part), kind, variant=said)
                   for part, kind, said in zip(parts, kinds, settings, strict=True))

    def no_regions(body: Graph) -> Any:
        raise AssertionError("no control flow here")

    machine = Target.named(target)
    program = build_program(graph, Schedule(graph.digest, groups), machine, no_regions)
    views = [b for b in program.buffers if b.view_of is not None]
    return (Executable(program, graph.constants, machine, threads, ObjectCache()), bool(views))


N, H, W = sym("N"), sym("H"), sym("W")
DEPTHWISE = [
    # image, taps, pads before, dilation
    ((1, 9, 33, 24), (3, 3), (1, 1), 1),
    ((2, 7, 6, 78), (3, 3), (1, 1), 1),
    ((1, 12, 12, 19), (5, 5), (2, 2), 1),
    ((1, 12, 11, 35), (3, 3), (2, 2), 2),
    ((1, 8, 30, 16), (1, 7), (0, 3), 1),
    ((1, 9, 9, 40), (3, 3), (2, 0), 1),
    ((1, 9, 9, 40), (3, 3), (0, 2), 1),
    ((1, 9, 9, 40), (3, 3), (-1, 1), 1),
    ((1, 2, 40, 140), (7, 7), (3, 3), 1),
    ((3, 1, 20, 20), (3, 3), (1, 1), 1),
    ((2, 60, 12), (9,), (4,), 1),
    ((0, 6, 20, 3), (3, 3), (1, 1), 1),
    ((1, 0, 20, 3), (3, 3), (1, 1), 1),
    ((1, 6, 0, 3), (3, 3), (1, 1), 1),
]  # fmt: skip
POINTWISE = [(1, 7, 9, 78), (2, 5, 5, 33), (1, 1, 1, 40), (1, 200, 65), (1, 3, 3, 700),
             (0, 4, 4, 48), (1, 0, 4, 48), (1, 31, 17, 128)]  # fmt: skip


def same(shape: tuple[Dim, ...], size: tuple[int, ...], taps: tuple[int, ...],
         pads: tuple[int, ...], groups: int, epilogue: Epilogue, dilation: int = 1,
         before: str = "", target: str = "cpu", threads: int = 1) -> None:
    graph, image = graph_of(shape, taps, pads, groups, epilogue, dilation, before)
    feeds = {"x": array(*size)}
    flat = feeds["x"].reshape(-1)
    flat[5::97] = np.nan
    flat[7::89] = np.inf
    apart, none = program_of(graph, image, 0, target, threads)
    placed, lies_over = program_of(graph, image, 1, target, threads)
    assert lies_over
    assert not none
    got, want = guarded(placed, feeds)["y"], apart.run(feeds)["y"]
    assert np.asarray(got).tobytes() == np.asarray(want).tobytes()
    reference = run(graph, feeds)["y"]
    assert np.allclose(got, reference, rtol=1e-3, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("case", range(len(DEPTHWISE)))
def test_depthwise(case: int) -> None:
    shape, taps, pads, dilation = DEPTHWISE[case]
    for epilogue in (EPILOGUES[case % 4], EPILOGUES[(case // 4 + 1) % 4]):
        same(shape, shape, taps, pads, shape[-1], epilogue, dilation, threads=1 + case % 5)


@pytest.mark.parametrize("target", ["avx2", "generic"])
@pytest.mark.parametrize("case", [0, 1, 3, 4])
def test_depthwise_elsewhere(case: int, target: str) -> None:
    shape, taps, pads, dilation = DEPTHWISE[case]
    same(shape, shape, taps, pads, shape[-1], bias, dilation, target=target, threads=5)


@pytest.mark.parametrize("shape", [(N, 7, 9, 78), (1, H, 9, 20), (1, 7, W, 20), (N, H, W, 33)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_sizes_that_come_with_the_call(shape: tuple[Dim, ...], depthwise: bool) -> None:
    size = tuple(d if isinstance(d, int) else 5 for d in shape)
    taps = (3, 3) if depthwise else (1, 1)
    same(shape, size, taps, tuple(k // 2 for k in taps), size[-1] if depthwise else 1, bias,
         threads=2)


@pytest.mark.parametrize("case", range(len(POINTWISE)))
def test_pointwise(case: int) -> None:
    shape = POINTWISE[case]
    taps = (1,) * (len(shape) - 2)
    for before, epilogue in (("", EPILOGUES[case % 4]), ("relu", EPILOGUES[(case + 1) % 4])):
        same(shape, shape, taps, (0,) * len(taps), 1, epilogue, before=before,
             threads=1 + case % 5)


@pytest.mark.parametrize("case", [
    ((1, 8, 30, 16), (3, 1), (1, 0), 16), ((3, 1, 1, 20), (3, 3), (1, 1), 20),
    ((1, 8, 8, 32), (3, 3), (1, 1), 1), ((1, 8, 8, 32), (3, 3), (1, 1), 8),
    ((1, 8, 8, 16), (1, 1), (0, 0), 1),
])  # fmt: skip
def test_what_has_no_such_kernel(case: tuple[Any, ...]) -> None:
    """Windows by table, convolutions over channels and pixels, few channels by windows."""
    shape, taps, pads, groups = case
    graph, image = graph_of(shape, taps, pads, groups, bias)
    with pytest.raises(CompileError, match="no over to choose"):
        program_of(graph, image, 1, "cpu", 1)


@pytest.mark.parametrize("target", ["avx2", "generic"])
def test_pointwise_elsewhere(target: str) -> None:
    same((2, 9, 13, 78), (2, 9, 13, 78), (1, 1), (0, 0), 1, bias, target=target, threads=5)
