"""Convolutions of narrow groups and of few channels against the reference interpreter, on every
target."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, sym
from evonnx.ir.graph import Value
from evonnx.ir.grids import Fan
from evonnx.ir.groups import extract
from evonnx.ir.target import Target
from evonnx.ir.variants import Form, form_of, in_windows
from evonnx.kernels.depthwise import lower_depthwise

from .test_groups import TARGETS, array, check, tensor

CASES = [
    # image, groups, channels of a group after, kernel, strides, dilations, pads_lo, pads_hi
    ((1, 9, 33, 32), 8, 4, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((2, 8, 31, 24), 6, 4, (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((1, 7, 7, 40), 5, 8, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 6, 20, 34), 17, 2, (5, 5), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((1, 11, 29, 16), 2, 8, (5, 3), (2, 3), (1, 1), (0, 1), (2, 0)),
    ((1, 4, 40, 12), 3, 4, (3, 3), (1, 2), (1, 2), (1, 2), (1, 2)),
    ((1, 9, 25, 8), 2, 4, (3, 3), (1, 1), (2, 2), (2, 2), (2, 2)),
    ((3, 5, 26, 20), 5, 4, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0)),
    ((1, 5, 27, 24), 3, 8, (1, 1), (2, 2), (1, 1), (0, 0), (0, 0)),
    ((1, 2, 2, 8), 2, 4, (3, 3), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((1, 5, 26, 28), 7, 4, (3, 3), (1, 1), (1, 1), (-1, 1), (0, -1)),
    ((1, 5, 21, 6), 6, 2, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 5, 21, 12), 6, 4, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 5, 21, 18), 9, 8, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((2, 60, 12), 3, 4, (9,), (1,), (1,), (4,), (4,)),
    ((0, 6, 20, 8), 2, 4, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 3, 4, 22, 12), 3, 4, (2, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 1, 1)),
    ((1, 6, 8, 48), 3, 16, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 5, 9, 64), 2, 32, (3, 3), (1, 2), (1, 1), (1, 1), (1, 1)),
    ((1, 5, 9, 12), 3, 16, (3, 3), (1, 1), (1, 1), (1, 0), (1, 0)),
    ((2, 9, 15, 3), 1, 32, (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((1, 9, 15, 3), 1, 48, (3, 3), (2, 2), (1, 1), (0, 0), (0, 0)),
    ((1, 9, 21, 3), 1, 64, (7, 7), (2, 2), (1, 1), (3, 3), (3, 3)),
    ((2, 5, 9, 16), 1, 96, (1, 1), (1, 1), (1, 1), (0, 0), (0, 0)),
    ((1, 9, 12, 1), 1, 16, (5, 5), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((1, 400, 1), 1, 64, (10,), (5,), (1,), (0,), (0,)),
]  # fmt: skip


def grouped(b: Builder, case: tuple[Any, ...], shape: tuple[Dim, ...]) -> Value:
    keys = ("strides", "dilations", "pads_lo", "pads_hi")
    image, groups, after, kernel = case[:4]
    w = tensor(b, "w", *kernel, image[-1] // groups, groups * after)
    return b.op("conv", tensor(b, "x", *shape), w, groups=groups, layout="last",
                **dict(zip(keys, case[4:], strict=True)))


def feeds(case: tuple[Any, ...]) -> dict[str, np.ndarray]:
    image, groups, after, kernel = case[:4]
    return {"x": array(*image), "w": array(*kernel, image[-1] // groups, groups * after),
            "b": array(groups * after)}


def plain(b: Builder, case: tuple[Any, ...], shape: tuple[Dim, ...]) -> Value:
    """With bias and limits."""
    y = b.op("add", grouped(b, case, shape), tensor(b, "b", case[1] * case[2]))
    return b.op("min", b.op("relu", y), 1.5)


def form(y: Value, b: Builder) -> Form:
    graph = b.build({"y": y})
    cut = extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")])
    return form_of(cut.graph, "contract", frozenset())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_bias_and_limits(case: int, target: str) -> None:
    b = Builder()
    y = plain(b, CASES[case], CASES[case][0])
    assert check(y, b, feeds(CASES[case]), target=target, threads=2) == "contract"


@pytest.mark.parametrize("case", [0, 1, 3, 9, 12, 15, 18])
def test_other_epilogues(case: int) -> None:
    """What registers cannot do runs over a strip; overlapping tiles store each pixel once."""
    b = Builder()
    y = grouped(b, CASES[case], CASES[case][0])
    r = tensor(b, "r", *y.shape)
    more = feeds(CASES[case]) | {"r": array(*y.shape)}  # type: ignore[arg-type]
    del more["b"]
    check({"y": b.op("mul", b.op("sigmoid", y), r), "z": y}, b, more)


@pytest.mark.parametrize("case", [0, 1, 7, 11, 14])
@pytest.mark.parametrize("first", [False, True])
def test_channels_that_move(case: int, first: bool) -> None:
    """What follows may turn the image or shuffle the channels of the groups."""
    b = Builder()
    image, groups, after = CASES[case][:3]
    y = plain(b, CASES[case], image)
    rank = len(image)
    if first:
        y = b.op("transpose", y, perm=(0, rank - 1, *range(1, rank - 1)))
    else:
        y = b.op("reshape", y, shape=(*y.shape[:-1], groups, after))
        y = b.op("transpose", y, perm=(*range(rank - 1), rank, rank - 1))
    assert check(y, b, feeds(CASES[case])) == "contract"


@pytest.mark.parametrize("case", [0, 4, 7, 13, 14, 18])
def test_sizes_known_late(case: int) -> None:
    """One kernel serves widths below and above a group of pixels."""
    image, kernel, strides, dilations, lo, hi = CASES[case][0], *CASES[case][3:]
    names = [sym(n) for n in "NHWD"[: len(image) - 1]]
    for width in (image[-2], 4, 1):
        span = (kernel[-1] - 1) * dilations[-1] + 1
        if (width + lo[-1] + hi[-1] - span) // strides[-1] < 0:
            continue
        b = Builder()
        y = plain(b, CASES[case], (*names, image[-1]))
        check(y, b, feeds(((*image[:-2], width, image[-1]), *CASES[case][1:])))


def test_special_values_stay_in_their_group() -> None:
    """A group sees its own channels only, and NaN passes limits."""
    b = Builder()
    y = plain(b, CASES[0], CASES[0][0])
    given = feeds(CASES[0])
    given["x"][0, 0, 0, 3], given["x"][0, 4, 20, 5] = np.nan, np.inf
    given["x"][0, 8, 32, 16:] = -np.inf
    with np.errstate(all="ignore"):
        check(y, b, given)


def test_weights_may_be_a_part() -> None:
    """Of a larger operand, which does not begin where it does."""
    b = Builder()
    w = b.op("slice", tensor(b, "w", 4, 3, 4, 32), starts=(1, 0, 0, 0), sizes=(3, 3, 4, 32),
             steps=(1, 1, 1, 1))
    same = dict.fromkeys(("strides", "dilations", "pads_lo", "pads_hi"), (1, 1))
    y = b.op("conv", tensor(b, "x", 1, 9, 33, 32), w, groups=8, layout="last", **same)
    check(b.op("relu", y), b, {"x": array(1, 9, 33, 32), "w": array(4, 3, 4, 32)})


def test_which_groups_are_windows() -> None:
    """Those whose channels divide a vector and whose windows lie on a grid."""
    wide, short = Target.named("cpu"), Target.named("generic")
    for case, fan in ((0, Fan(4, 4)), (2, Fan(8, 8)), (11, Fan(1, 2)), (12, Fan(2, 4)),
                      (17, Fan(16, 16)), (18, Fan(32, 32))):
        b = Builder()
        found = form(plain(b, CASES[case], CASES[case][0]), b)
        assert found.fan == fan
        for target in (wide, short):
            lanes = target.lanes(32)
            assert in_windows(found, target, {}) == (
                lanes % fan.after == 0 or fan.after in (lanes, 2 * lanes))
            assert not in_windows(found, target, {"window": 0})
    b = Builder()
    column = ((1, 9, 3, 32), *CASES[0][1:6], (1, 0), (1, 0))
    assert form(plain(b, column, column[0]), b).fan is None


def test_few_channels_are_windows() -> None:
    """Unless Winograd's convolution computes them, or settings of a product are said."""
    target = Target.named("avx512")
    for image, columns, kernel, windows in (
        ((1, 9, 15, 3), 32, (3, 3), True), ((1, 9, 21, 3), 64, (7, 7), True),
        ((2, 5, 9, 24), 144, (1, 1), True), ((1, 9, 15, 3), 24, (3, 3), False),
        ((2, 5, 9, 64), 64, (1, 1), False), ((1, 20, 20, 16), 64, (3, 3), False),
    ):  # fmt: skip
        b, pads = Builder(), tuple(k // 2 for k in kernel)
        ones = (1,) * len(kernel)
        w = b.const(array(*kernel, image[-1], columns))
        y = b.op("conv", tensor(b, "x", *image), w, groups=1, layout="last", strides=ones,
                 dilations=ones, pads_lo=pads, pads_hi=pads)
        graph = b.build({"y": y})
        cut = extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")])
        found = form_of(cut.graph, "contract", frozenset({1}))
        assert in_windows(found, target, {}) == windows
        assert not in_windows(found, target, {"rows": 4})


def test_a_line_is_one_call() -> None:
    b = Builder()
    y = plain(b, CASES[0], CASES[0][0])
    _, symbols = lower_depthwise(b.build({"y": y}), Target.named("generic"))
    assert symbols == ("mk_window_f32_k3s1d1g4to4_7",)
