"""Depthwise convolutions of many shapes against the reference interpreter, on every target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from evonnx.compiler.build import build_program
from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, sym
from evonnx.ir.graph import Graph, Value
from evonnx.ir.lines import Shape
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, I8, U8, DType, TensorType
from evonnx.kernels.depthwise import lower_depthwise
from evonnx.runtime.executable import Executable
from evonnx.search.greedy import greedy

from .test_groups import RNG, array, check, run_as_one, tensor

CASES = [
    # image, kernel, strides, dilations, pads_lo, pads_hi
    ((1, 9, 33, 24), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((2, 8, 31, 5), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((1, 7, 7, 40), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 6, 20, 17), (5, 5), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((1, 11, 29, 8), (5, 3), (2, 3), (1, 1), (0, 1), (2, 0)),
    ((1, 4, 40, 3), (3, 3), (1, 2), (1, 2), (1, 2), (1, 2)),
    ((1, 9, 25, 4), (3, 3), (1, 1), (2, 2), (2, 2), (2, 2)),
    ((1, 8, 30, 16), (3, 1), (1, 1), (1, 1), (1, 0), (1, 0)),
    ((1, 3, 30, 16), (1, 7), (1, 1), (1, 1), (0, 3), (0, 3)),
    ((1, 2, 2, 6), (3, 3), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((1, 5, 26, 7), (3, 3), (1, 1), (1, 1), (0, 0), (0, 0)),
    ((1, 5, 26, 7), (3, 3), (1, 1), (1, 1), (-1, 1), (0, -1)),
    ((2, 60, 12), (9,), (1,), (1,), (4,), (4,)),
    ((1, 80, 12), (15,), (2,), (1,), (7,), (7,)),
    ((0, 6, 20, 3), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 3, 4, 22, 6), (2, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 1, 1)),
    ((2, 5, 7, 9, 19), (3, 3, 3), (2, 1, 2), (1, 2, 1), (1, 0, 2), (2, 1, 0)),
    ((1, 150, 40), (31,), (1,), (1,), (15,), (15,)),
    ((2, 90, 5), (10,), (2,), (3,), (0,), (9,)),
    ((1, 300, 3), (128,), (1,), (1,), (64,), (63,)),
    ((1, 12, 30, 20), (3, 10), (1, 1), (1, 1), (1, 4), (1, 5)),
    ((1, 56, 19, 20), (3, 3), (2, 2), (1, 1), (0, 1), (1, 0)),
    ((2, 23, 21, 20), (3, 3), (1, 1), (1, 1), (0, 1), (1, 1)),
]  # fmt: skip


def depthwise(b: Builder, case: tuple[Any, ...], shape: tuple[Dim, ...]) -> tuple[Value, Value]:
    """The convolution and its weights' input."""
    return depthwise_of(b, case, tensor(b, "x", *shape))


def depthwise_of(b: Builder, case: tuple[Any, ...], x: Value) -> tuple[Value, Value]:
    """The same of a given image."""
    keys = ("strides", "dilations", "pads_lo", "pads_hi")
    c = case[0][-1]
    w = tensor(b, "w", *case[1], 1, c)
    return b.op("conv", x, w, groups=c, layout="last",
                **dict(zip(keys, case[2:], strict=True))), w


def feeds(case: tuple[Any, ...]) -> dict[str, np.ndarray]:
    c = case[0][-1]
    return {"x": array(*case[0]), "w": array(*case[1], 1, c), "b": array(c)}


@pytest.mark.parametrize("target", ["cpu", "avx2", "generic"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_bias_and_limits(case: int, target: str) -> None:
    b = Builder()
    y, _ = depthwise(b, CASES[case], CASES[case][0])
    y = b.op("min", b.op("relu", b.op("add", y, tensor(b, "b", CASES[case][0][-1]))), 1.5)
    assert check(y, b, feeds(CASES[case]), target=target) == "contract"


@pytest.mark.parametrize("case", range(len(CASES)))
def test_other_epilogues(case: int) -> None:
    """What registers cannot do runs over a strip; overlapping groups store each pixel once."""
    b = Builder()
    y, _ = depthwise(b, CASES[case], CASES[case][0])
    r = tensor(b, "r", *y.shape)
    more = feeds(CASES[case]) | {"r": array(*y.shape)}  # type: ignore[arg-type]
    del more["b"]
    check({"y": b.op("mul", b.op("sigmoid", y), r), "z": y}, b, more)


@pytest.mark.parametrize("target,late", [("cpu", False), ("avx2", False), ("cpu", True)])
@pytest.mark.parametrize("case", [0, 3, 7, 9, 12, 14, 15, 16, 17])
def test_channels_first_results(case: int, target: str, late: bool) -> None:
    """Lines leave turned: the pixels of a channel side by side."""
    b = Builder()
    image = CASES[case][0]
    rank = len(image)
    shape = (image[0], *(sym(f"S{k}") for k in range(rank - 2)), image[-1]) if late else image
    y, _ = depthwise(b, CASES[case], shape)
    y = b.op("min", b.op("add", y, tensor(b, "b", image[-1])), 1.5)
    y = b.op("transpose", y, perm=(0, rank - 1, *range(1, rank - 1)))
    given = feeds(CASES[case])
    if given["x"].size:
        given["x"].reshape(-1)[::37] = np.inf
        given["x"].reshape(-1)[5] = np.nan
    with np.errstate(all="ignore"):
        assert check(y, b, given, target=target, threads=2) == "contract"


@pytest.mark.parametrize("case", range(len(CASES)))
def test_sizes_known_late(case: int) -> None:
    """One kernel serves widths below and above a group of pixels."""
    image = CASES[case][0]
    names = [sym(n) for n in "NHWD"[: len(image) - 1]]
    for width in (image[-2], 4, 1):
        b = Builder()
        y, _ = depthwise(b, CASES[case], (*names, image[-1]))
        given = (*image[:-2], width, image[-1])
        late = (given, *CASES[case][1:])
        if _width(late) < 1:
            continue
        y = b.op("relu", b.op("add", y, tensor(b, "b", image[-1])))
        check(y, b, feeds(late))


def _width(case: tuple[Any, ...]) -> int:
    image, kernel, strides, dilations, lo, hi = case
    span = (kernel[-1] - 1) * dilations[-1] + 1
    return (image[-2] + lo[-1] + hi[-1] - span) // strides[-1] + 1  # type: ignore[no-any-return]


def test_pixels_of_two_parts_of_a_line_are_stored_once() -> None:
    """What is added may lie where the result goes: the second time it would be added twice."""
    b = Builder()
    case = ((1, 150, 40), (31,), (1,), (1,), (15,), (15,))
    x = tensor(b, "x", *case[0])
    r = b.op("relu", x)
    y, _ = depthwise_of(b, case, x)
    y = b.op("add", b.op("sigmoid", y), r)
    graph = b.build({"y": b.op("neg", y)})
    number = {n.op: graph.index[n] for n in graph.nodes}
    groups = [(("relu",), "loops"), (("conv", "sigmoid", "add"), "contract"), (("neg",), "loops")]
    schedule = Schedule(graph.digest, tuple(
        Group(tuple(sorted(number[op] for op in ops)), how) for ops, how in groups))

    def no_regions(body: Graph) -> Any:
        raise AssertionError("no control flow here")

    program = build_program(graph, schedule, Target.named("cpu"), no_regions)
    given = {"x": array(*case[0]), "w": array(31, 1, 40)}
    got = Executable(program, graph.constants, Target.named("cpu"), 1).run(given)["y"]
    want = interp.run(graph, given, float64=True)["y"]
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_special_values_stay_where_they_are() -> None:
    """Zeros of the padding are not multiplied with what is inside, and NaN passes limits."""
    b = Builder()
    y, _ = depthwise(b, CASES[0], CASES[0][0])
    y = b.op("relu", b.op("add", y, tensor(b, "b", CASES[0][0][-1])))
    given = feeds(CASES[0])
    given["x"][0, 0, 0, 3], given["x"][0, 4, 20, 5] = np.nan, np.inf
    given["x"][0, 8, 32, :] = -np.inf
    with np.errstate(all="ignore"):
        check(y, b, given)


@pytest.mark.parametrize("width", [9, 1])
def test_weights_may_be_a_part(width: int) -> None:
    """Of a larger operand, which does not begin where it does."""
    b = Builder()
    w = b.op("slice", tensor(b, "w", 4, 3, 1, 24), starts=(1, 0, 0, 0), sizes=(3, 3, 1, 24),
             steps=(1, 1, 1, 1))
    same = dict.fromkeys(("strides", "dilations", "pads_lo", "pads_hi"), (1, 1))
    y = b.op("conv", tensor(b, "x", 1, 9, width, 24), w, groups=24, layout="last", **same)
    check(b.op("relu", y), b, {"x": array(1, 9, width, 24), "w": array(4, 3, 1, 24)})


def test_images_need_no_table() -> None:
    """Borders, dilations and strides are the window's own, of up to three axes and any width;
    windows of one column have a table. Small ones are computed two lines at once, a last one
    alone; those that overlap a little go down a long image, and so do others where their
    sums and weights fit registers."""
    for case, *wanted in (
        (0, "mk_block_f32_k3x3s1x1d1x1_2x4", "mk_window_f32_k3s1d1_4"),
        (1, "mk_block_f32_k3x3s2x2d1x1_2x4"), (3, "mk_window_f32_k5s1d1_4"),
        (6, "mk_block_f32_k3x3s1x1d2x2_2x5", "mk_window_f32_k3s1d2_4"),
        (13, "mk_window_f32_k15s2d1_4"), (7, "mk_depthwise_f32_6"),
        (21, "mk_roll_f32_k3x3s2x2d1x1_3"),
    ):  # fmt: skip
        b = Builder()
        y, _ = depthwise(b, CASES[case], CASES[case][0])
        _, symbols = lower_depthwise(b.build({"y": y}), Target.named("generic"))
        assert sorted(symbols) == wanted
    b = Builder()
    y, _ = depthwise(b, CASES[22], CASES[22][0])
    _, symbols = lower_depthwise(b.build({"y": y}), Target.named("avx512"))
    assert symbols == ("mk_roll_f32_k3x3s1x1d1x1_7",)


@pytest.mark.parametrize("channels,stem", [(384, "mk_block"), (512, "mk_window")])
def test_pixels_that_compete_for_the_sets_of_a_cache(channels: int, stem: str) -> None:
    """Where pixels lie half a way of the level-1 cache apart, lines are computed one by one."""
    case = ((1, 8, 14, channels), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    b = Builder()
    y, _ = depthwise(b, case, case[0])
    _, (symbol,) = lower_depthwise(b.build({"y": y}), Target.named("cpu"))
    assert symbol.startswith(stem)


@pytest.mark.parametrize("case", [0, 1, 2, 15, 16, 21, 22])
def test_lines_at_once_are_the_lines_alone(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are added up in the same order, in registers and where they wait in a strip."""
    def run() -> list[np.ndarray]:
        b = Builder()
        y, _ = depthwise(b, CASES[case], CASES[case][0])
        graph = b.build({"z": b.op("sigmoid", y), "y": b.op("relu", y)})
        return list(run_as_one(graph, given, "cpu", 1)[0].values())

    given = feeds(CASES[case])
    del given["b"]
    together = run()
    monkeypatch.setattr("evonnx.kernels.depthwise.lines_shape",
                        lambda *_: Shape(1, 1, math.inf))
    for one, several in zip(run(), together, strict=True):
        np.testing.assert_array_equal(one, several)


# quantized images ---------------------------------------------------------------------------------


def quantized(case: tuple[Any, ...], kind: DType, zero: float) -> tuple[Builder, Value]:
    """A depthwise convolution of bytes, as quantized networks have it."""
    b = Builder()
    c = case[0][-1]
    pixels = b.op("cast", b.input("x", TensorType(kind, case[0])), to=F32)
    pixels = b.op("sub", pixels, zero) if zero else pixels
    keys = ("strides", "dilations", "pads_lo", "pads_hi")
    y = b.op("conv", pixels, b.const(array(*case[1], 1, c)), groups=c, layout="last",
             **dict(zip(keys, case[2:], strict=True)))
    return b, b.op("relu", b.op("add", y, b.const(array(c))))


@pytest.mark.parametrize("target", ["cpu", "avx2", "generic"])
@pytest.mark.parametrize("case", [1, 4, 6, 9, 12, 15, 21])
@pytest.mark.parametrize("kind,zero", [(U8, 130.0), (I8, -128.0), (U8, 0.0)])
def test_bytes_are_read_as_they_are(case: int, target: str, kind: DType, zero: float) -> None:
    """The conversion goes with the convolution: what lies between is a quarter of the size."""
    b, y = quantized(CASES[case], kind, zero)
    low, high = (0, 256) if kind == U8 else (-128, 128)
    x = RNG.integers(low, high, CASES[case][0]).astype(kind.np)
    assert check(y, b, {"x": x}, target=target, tolerance=2e-3) == "contract"


@pytest.mark.parametrize("zero,together", [(3.0, True), (0.5, False), (300.0, False)])
def test_fusion_takes_bytes_along(zero: float, together: bool) -> None:
    b, y = quantized(CASES[0], U8, zero)
    graph = b.build({"y": y})
    groups = [[graph.nodes[k].op for k in g.nodes] for g in greedy(graph).groups]
    assert (groups == [["cast", "sub", "conv", "add", "relu"]]) == together
