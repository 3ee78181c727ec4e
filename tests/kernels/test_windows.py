"""Small windows written out as maps, compiled and compared with the reference interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.types import F16, F32, I8, U8, DType

from .test_groups import array, check, tensor

CASES = [
    # image, kernel, strides, dilations, pads_lo, pads_hi
    ((2, 9, 7, 5), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((1, 8, 8, 33), (2, 2), (2, 2), (1, 1), (0, 0), (0, 0)),
    ((1, 7, 11, 16), (3, 2), (1, 3), (2, 1), (2, 0), (0, 1)),
    ((1, 5, 6, 3), (5, 5), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((1, 3, 2, 4), (3, 3), (2, 2), (1, 1), (2, 2), (2, 2)),
    ((3, 1, 1, 2), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((0, 4, 4, 3), (2, 2), (1, 1), (1, 1), (1, 1), (0, 0)),
    ((1, 4, 5, 3, 17), (2, 3, 2), (1, 2, 1), (1, 1, 1), (0, 1, 0), (1, 1, 0)),
    ((1, 6, 6, 2), (3, 3), (1, 1), (1, 1), (-1, 1), (1, -1)),
    ((1, 2, 2, 1), (1, 1), (2, 2), (1, 1), (0, 0), (0, 0)),  # one element, so no loop at all
]  # fmt: skip


def window(case: tuple[Any, ...]) -> dict[str, Any]:
    keys = ("kernel", "strides", "dilations", "pads_lo", "pads_hi")
    return dict(zip(keys, case[1:], strict=True)) | {"layout": "last"}


@pytest.mark.parametrize("target", ["cpu", "avx2", "generic"])
@pytest.mark.parametrize("kind", ["max", "sum"])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_pool(case: int, kind: str, target: str) -> None:
    shape = CASES[case][0]
    b = Builder()
    y = b.op("pool", b.op("mul", tensor(b, "x", *shape), 2.0), kind=kind, **window(CASES[case]))
    check(b.op("add", y, 1.0), b, {"x": array(*shape)}, target=target)


FIRST = [
    # image, kernel, strides, dilations, pads_lo, pads_hi: along lines
    ((2, 3, 5, 37), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 4, 9, 50), (1, 3), (2, 1), (1, 2), (0, 2), (0, 2)),
    ((1, 2, 6, 33), (3, 2), (1, 1), (2, 1), (0, 0), (2, 1)),
    ((2, 1, 4, 64), (2, 2), (1, 1), (1, 1), (1, 0), (0, 0)),
    ((0, 3, 5, 40), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 3, 45), (3,), (1,), (1,), (1,), (1,)),
]  # fmt: skip


@pytest.mark.parametrize("target", ["cpu", "avx2", "generic"])
@pytest.mark.parametrize("kind", ["max", "sum"])
@pytest.mark.parametrize("case", range(len(FIRST)))
def test_pool_along_lines(case: int, kind: str, target: str) -> None:
    """Channels-first, as pools that stand alone are left."""
    x = array(*FIRST[case][0])
    if x.size:
        x[..., 1, 7:9], x[..., -1] = np.nan, -np.inf
    b = Builder()
    attrs = window(FIRST[case]) | {"layout": "first"}
    y = b.op("pool", tensor(b, "x", *x.shape), kind=kind, **attrs)
    with np.errstate(all="ignore"):
        check(b.op("sub", y, 1.0), b, {"x": x}, target=target)


@pytest.mark.parametrize("kind", ["max", "sum"])
def test_special_values(kind: str) -> None:
    """A NaN in a window is its result; what lies outside the image is no number at all."""
    x = array(1, 6, 7, 19)
    x[0, 0, 0, :], x[0, 3, 4, 1], x[0, 5, 6, :] = np.nan, np.inf, -np.inf
    b = Builder()
    y = b.op("pool", tensor(b, "x", *x.shape), kind=kind, **window(CASES[0]))
    with np.errstate(all="ignore"):
        check(y, b, {"x": x})


@pytest.mark.parametrize("dtype", [F16, I8, U8])
@pytest.mark.parametrize("kind", ["max", "sum"])
def test_element_types(dtype: DType, kind: str) -> None:
    b = Builder()
    y = b.op("pool", tensor(b, "x", 1, 5, 5, 20, dtype=dtype), kind=kind, **window(CASES[0]))
    x = array(1, 5, 5, 20, dtype=dtype) // (1 if dtype.is_float else 10)
    check(y, b, {"x": x.astype(dtype.np)}, 2e-3)


@pytest.mark.parametrize("pads", [0, 1])
@pytest.mark.parametrize("height", [0, 1, 6])
def test_sizes_known_late(height: int, pads: int) -> None:
    if height + 2 * pads < 1:
        return
    attrs: dict[str, Any] = {
        "kernel": (1 + 2 * pads, 1), "strides": (1, 1), "dilations": (1, 1),
        "pads_lo": (pads, 0), "pads_hi": (pads, 0), "layout": "last",
    }  # fmt: skip
    b = Builder()
    y = b.op("pool", tensor(b, "x", sym("N"), sym("H"), 3, 5), kind="max", **attrs)
    check(y, b, {"x": array(2, height, 3, 5)})


@pytest.mark.parametrize(("channels", "size"), [(1, 3), (4, 5), (40, 5), (37, 2), (9, 9)])
def test_windows_along_the_contiguous_axis(channels: int, size: int) -> None:
    """The map is cut at the borders: sums over neighboring channels, as in LRN."""
    b = Builder()
    x = tensor(b, "x", 6, channels, 1)
    total = b.op("pool", b.op("mul", x, x), kind="sum", kernel=(size,), strides=(1,),
                 dilations=(1,), pads_lo=((size - 1) // 2,), pads_hi=(size // 2,), layout="last")
    y = b.op("div", x, b.op("sqrt", b.op("add", total, 1.0)))
    check(y, b, {"x": array(6, channels, 1)})


@pytest.mark.parametrize("lo", [0, 2])
@pytest.mark.parametrize("hi", [0, 3])
def test_padding_of_the_innermost_axis(lo: int, hi: int) -> None:
    b = Builder()
    x = b.op("relu", tensor(b, "x", 3, 21))
    y = b.op("pad", x, b.const(np.float32(7)), lo=(0, lo), hi=(0, hi), mode="constant")
    check(b.op("add", y, 1.0), b, {"x": array(3, 21, dtype=F32)})


def test_a_pool_over_joined_channels() -> None:
    b = Builder()
    parts = [tensor(b, name, 1, 6, 6, c) for name, c in (("p", 3), ("q", 17), ("r", 8))]
    y = b.op("pool", b.op("concat", *parts, axis=3), kind="max", **window(CASES[0]))
    check(y, b, {"p": array(1, 6, 6, 3), "q": array(1, 6, 6, 17), "r": array(1, 6, 6, 8)})


@pytest.mark.parametrize("channels", [1, 3, 9])
def test_padding_around_a_short_axis(channels: int) -> None:
    b = Builder()
    x = b.op("relu", tensor(b, "x", 2, 5, 30, channels))
    y = b.op("pad", x, b.const(np.float32(7)), lo=(0, 1, 2, 0), hi=(0, 0, 1, 0), mode="constant")
    check(b.op("add", y, 1.0), b, {"x": array(2, 5, 30, channels)})
