"""A pointwise convolution, the depthwise one that reads it and perhaps another pointwise one in one
kernel: against the reference interpreter, and equal to the kernels of the parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, sym
from evonnx.ir.graph import Value
from evonnx.ir.schedule import Group
from evonnx.search.legality import implementation

from .test_groups import array, check, tensor
from .test_separable import SAME, run

CASES = [
    # image, channels between, columns, kernel, strides, dilations, pads_lo, pads_hi
    ((1, 9, 14, 8), 32, 24, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((2, 8, 31, 5), 16, 5, (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((1, 7, 7, 32), 192, 64, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 10, 20, 17), 48, 70, (5, 5), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((1, 11, 29, 3), 16, 9, (5, 3), (2, 3), (1, 1), (0, 1), (2, 0)),
    ((3, 9, 5, 4), 16, 33, (3, 3), (1, 1), (2, 2), (2, 2), (2, 2)),
    ((1, 8, 30, 16), 16, 16, (1, 3), (1, 1), (1, 1), (0, 1), (0, 1)),
    ((1, 1, 6, 6), 16, 5, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((3, 8, 9, 2), 32, 7, (3, 3), (2, 2), (1, 1), (0, 0), (0, 0)),
    ((2, 9, 12, 4), 16, 6, (3, 3), (4, 1), (1, 1), (0, 1), (0, 1)),
    ((0, 6, 20, 3), 16, 4, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((3, 2, 8, 2), 16, 4, (2, 2), (1, 1), (1, 1), (0, 0), (1, 1)),
    ((3, 8, 9, 4), 16, 6, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((1, 20, 112, 16), 96, 24, (3, 3), (2, 2), (1, 1), (0, 0), (1, 1)),
]  # fmt: skip


def weights(case: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Everything but the image and what is added to the result. Biases make limited zeros of the
    first convolution something else."""
    k, c, columns = case[0][-1], case[1], case[2]
    return {"e": array(1, 1, k, c) / np.float32(np.sqrt(k)), "f": array(c) + np.float32(2),
            "w": array(*case[3], 1, c), "b": array(c),
            "p": array(1, 1, c, columns) / np.float32(np.sqrt(c)), "q": array(columns)}


def pointwise(b: Builder, x: Value, w: Value) -> Value:
    keys = dict.fromkeys(SAME[:2], (1, 1)) | dict.fromkeys(SAME[2:], (0, 0))
    return b.op("conv", x, w, groups=1, layout="last", **keys)


def limited(b: Builder, x: Value, bias: Value) -> Value:
    return b.op("min", b.op("relu", b.op("add", x, bias)), 6.0)


def swish(b: Builder, x: Value, bias: Value) -> Value:
    """What no register does on its way into memory."""
    y = b.op("add", x, bias)
    return b.op("mul", y, b.op("sigmoid", y))


def block(b: Builder, case: tuple[Any, ...], shape: tuple[Dim, ...], last: bool = True,
          residual: bool = True, activation: Any = limited,
          known: dict[str, Value] | None = None) -> Value:
    """An inverted residual block, or without its ``last`` convolution."""
    known = {k: tensor(b, k, *v.shape) for k, v in weights(case).items()
             if last or k not in "pq"} if known is None else known
    y = activation(b, pointwise(b, tensor(b, "x", *shape), known["e"]), known["f"])
    y = b.op("conv", y, known["w"], groups=case[1], layout="last",
             **dict(zip(SAME, case[4:], strict=True)))
    y = activation(b, y, known["b"])
    if last:
        y = b.op("add", pointwise(b, y, known["p"]), known["q"])
    return b.op("add", y, tensor(b, "r", *y.shape)) if last and residual else y


def feeds(case: tuple[Any, ...], y: Value, last: bool = True, residual: bool = True
          ) -> dict[str, np.ndarray]:
    given = {k: v for k, v in weights(case).items() if last or k not in "pq"}
    given["x"] = array(*case[0])
    return given | ({"r": array(*y.shape)} if last and residual else {})  # type: ignore[arg-type]


@pytest.mark.parametrize("case,target,last", [
    *((case, "cpu", True) for case in range(len(CASES) - 1)), (1, "avx2", True),
    (3, "generic", True), *((case, "cpu", False) for case in (4, 5, 7, 10, 13)),
    (8, "avx2", False),
])
def test_blocks(case: int, target: str, last: bool) -> None:
    b = Builder()
    y = block(b, CASES[case], CASES[case][0], last)
    settings = {} if case % 2 else {"lines": 2}
    assert check(y, b, feeds(CASES[case], y, last), target=target, threads=1 + case % 2,
                 **settings) == "separable"


@pytest.mark.parametrize("case,lines,last", [
    (8, 1, True), (9, 3, True), (11, 64, True), (8, 3, False), (11, 3, False), (12, 2, True),
])
def test_lines_of_a_tile(case: int, lines: int, last: bool) -> None:
    """Tiles of parts of an image, and of several images, some lines of which no window reads."""
    b = Builder()
    y = block(b, CASES[case], CASES[case][0], last, residual=False, activation=swish)
    given = feeds(CASES[case], y, last, residual=False)
    assert check(y, b, given, threads=2, lines=lines) == "separable"


@pytest.mark.parametrize("last", [True, False])
def test_special_values_stay_where_they_are(last: bool) -> None:
    b = Builder()
    y = block(b, CASES[1], CASES[1][0], last)
    given = feeds(CASES[1], y, last)
    given["x"][0, 0, 0, 3], given["x"][1, 4, 20, 1] = np.nan, np.inf
    given["e"][0, 0, 2, 5] = -np.inf
    with np.errstate(all="ignore"):
        assert check(y, b, given, threads=2, lines=2) == "separable"


def test_padding_is_zero_behind_the_activation() -> None:
    """A pixel outside of the image is not what the first convolution makes of its bias."""
    b = Builder()
    case = ((1, 3, 3, 2), 16, 4, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    y = block(b, case, case[0], last=False, activation=lambda b, x, bias: b.op("add", x, bias))
    given = {k: np.ones_like(v) for k, v in feeds(case, y, last=False).items()}
    given |= {"x": np.zeros((1, 3, 3, 2), np.float32), "b": np.zeros(16, np.float32)}
    assert check(y, b, given) == "separable"
    graph = b.build({"y": y})
    nodes = tuple(k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const"))
    found = run(graph, [Group(nodes, "separable")], given, "cpu")
    np.testing.assert_array_equal(found[0, :, :, 0], [[4, 6, 4], [6, 9, 6], [4, 6, 4]])


def test_numbers_of_images_and_of_lines_known_late() -> None:
    for last, sizes in ((True, ((3, 5), (0, 4), (2, 1))), (False, ((3, 5),))):
        for images, height in sizes:
            b = Builder()
            case = ((images, height, 31, 5), *CASES[1][1:])
            y = block(b, case, (sym("N"), sym("H"), 31, 5), last, residual=False)
            assert check(y, b, feeds(case, y, last, residual=False)) == "separable"
    b = Builder()
    case = ((1, 7, 31, 5), *CASES[0][1:])
    y = block(b, case, (1, sym("H"), 31, 5), residual=False)
    assert check(y, b, feeds(case, y, residual=False), lines=2) == "separable"


@pytest.mark.parametrize("case,target,last", [
    (2, "cpu", True), (13, "cpu", False), (3, "avx2", True),
])
def test_sums_are_those_of_the_parts(case: int, target: str, last: bool) -> None:
    """To the last bit, whatever the lines of a tile."""
    b = Builder()
    known = {k: b.const(v) for k, v in weights(CASES[case]).items()}
    y = block(b, CASES[case], CASES[case][0], last, residual=False, known=known)
    graph = b.build({"y": y})
    nodes = [k for k, n in enumerate(graph.nodes) if n.op not in ("input", "const")]
    starts = [k for k in nodes if graph.nodes[k].op == "conv"]
    parts = [tuple(k for k in nodes if lo <= k < hi)
             for lo, hi in zip(starts, [*starts[1:], len(graph.nodes)], strict=True)]
    given = {"x": array(*CASES[case][0])}
    want = run(graph, [Group(part, "contract") for part in parts], given, target)
    for lines in (1, 3):
        one = [Group(tuple(nodes), "separable", (("lines", lines),))]
        np.testing.assert_array_equal(run(graph, one, given, target), want)


# -- what is refused -----------------------------------------------------------------------------


def refused(case: tuple[Any, ...], make: Any = None, shape: tuple[Dim, ...] | None = None) -> str:
    """Why a block is not one kernel; ``make`` adds to what the first convolution computes."""
    b = Builder()
    shape = case[0] if shape is None else shape
    y = block(b, case, shape, residual=False)
    results = {"y": y} if make is None else make(b, y)
    graph = b.build(results)
    found, reason = implementation(graph, [n for n in graph.nodes
                                           if n.op not in ("input", "const")])
    assert found is None
    return reason


def test_what_is_refused() -> None:
    first, *rest = CASES[0]
    assert "up to 32" in refused(((1, 9, 14, 40), *rest))
    assert "whole vectors" in refused((first, 40, *rest[1:]))
    assert "outside of the image" in refused((first, 32, 24, (3, 3), (1, 1), (1, 1), (3, 1),
                                              (1, 1)))
    assert "of a size that is not known" in refused(CASES[0], shape=(1, 9, sym("W"), 8))
    assert "no cache holds one" in refused(((1, 4, 1 << 15, 8), *rest))


def test_the_values_between_have_one_reader() -> None:
    def read_again(b: Builder, y: Value) -> dict[str, Value]:
        window = next(v.node for v in _behind(y) if v.node.op == "conv"
                      and v.node.attrs["groups"] > 1)
        return {"y": y, "h": b.op("exp", window.operands[0])}

    assert "read at two places" in refused(CASES[0], read_again)


def _behind(y: Value) -> list[Value]:
    """Everything a value is computed from."""
    found = [y]
    for v in found:
        found += v.node.operands
    return found
