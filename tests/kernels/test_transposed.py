"""Transposed convolutions: a kernel of all phases, each stored where its outputs belong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.contraction import ContractionSpace
from evonnx.ir.dims import Dim, sym
from evonnx.ir.elements import Refused
from evonnx.ir.graph import Value
from evonnx.ir.groups import extract
from evonnx.ir.tiles import Space
from evonnx.ir.types import F64, TensorType

from .test_groups import TARGETS, array, check, tensor

Case = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...],
             tuple[int, ...]]

CASES: list[Case] = [
    # image, weights, strides, pads_lo, pads_hi, output_padding
    ((1, 8, 8, 40), (40, 24, 4, 4), (2, 2), (1, 1), (1, 1), (0, 0)),
    ((2, 7, 5, 9), (9, 33, 2, 2), (2, 2), (0, 0), (0, 0), (0, 0)),
    ((1, 9, 6, 12), (12, 20, 3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((2, 5, 9, 6), (6, 17, 5, 4), (3, 2), (2, 0), (0, 3), (2, 0)),
    ((1, 30, 700), (700, 40, 16), (8,), (4,), (4,), (0,)),
    ((1, 4, 3, 5, 8), (8, 18, 3, 2, 2), (2, 2, 1), (1, 0, 1), (0, 0, 0), (1, 0, 0)),
    ((1, 1, 20, 16), (16, 20, 2, 3), (2, 2), (0, 1), (1, 1), (0, 1)),
    ((1, 3, 3, 4), (4, 9, 3, 3), (3, 3), (3, 3), (2, 4), (0, 0)),
    ((0, 6, 6, 8), (8, 16, 2, 2), (2, 2), (0, 0), (0, 0), (0, 0)),
]  # fmt: skip


def transposed(b: Builder, x: Value, w: Value, case: Case, **changes: Any) -> Value:
    keys = ("strides", "pads_lo", "pads_hi", "output_padding")
    attrs = dict(zip(keys, case[2:], strict=True)) | {
        "dilations": (1,) * len(case[2]), "groups": 1, "layout": "last"}
    return b.op("conv_transpose", x, w, **{**attrs, **changes})


def bias_and_limit(b: Builder, y: Value) -> Value:
    return b.op("relu", b.op("add", y, b.const(array(y.shape[-1]))))  # type: ignore[arg-type]


def gate(b: Builder, y: Value) -> Value:
    return b.op("mul", b.op("sigmoid", y), tensor(b, "r", *y.shape))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_phases(case: int, target: str) -> None:
    """What follows changes from case to case and from target to target: every pair is met."""
    follow = (bias_and_limit, gate)[(case + TARGETS.index(target)) % 2]
    b = Builder()
    image, weights = CASES[case][:2]
    x = array(*image)
    if x.size > 20:
        x.reshape(-1)[::19] = np.inf  # taps of other phases must not meet it
        x.reshape(-1)[7] = np.nan
    y = transposed(b, tensor(b, "x", *image), b.const(array(*weights)), CASES[case])
    feeds = {"x": x}
    if follow is gate:
        feeds["r"] = array(*y.shape)  # type: ignore[arg-type]
    with np.errstate(all="ignore"):
        assert check(follow(b, y), b, feeds, target=target, threads=2) == "contract"


@pytest.mark.parametrize("case", [0, 2, 3, 5, 7])
def test_weights_known_late(case: int) -> None:
    """The phases' panels are packed one behind the other."""
    b = Builder()
    image, weights = CASES[case][:2]
    y = transposed(b, tensor(b, "x", *image), tensor(b, "w", *weights), CASES[case])
    feeds = {"x": array(*image), "w": array(*weights)}
    assert check(b.op("relu", y), b, feeds, threads=2) == "contract"


@pytest.mark.parametrize("case", [0, 1, 2, 4])
def test_sizes_known_late(case: int) -> None:
    image, weights = CASES[case][:2]
    for size in (1, 2, 11):
        b = Builder()
        shape: tuple[Dim, ...] = (sym("N"), *map(sym, "HW"[: len(image) - 2]), image[-1])
        y = transposed(b, tensor(b, "x", *shape), b.const(array(*weights)), CASES[case])
        given = array(2, *[size] * (len(image) - 2), image[-1])
        assert check(bias_and_limit(b, y), b, {"x": given}, threads=2) == "contract"


@pytest.mark.parametrize("changes", [
    {"dilations": (2, 1)}, {"groups": 2}, {"dilations": (2, 3), "strides": (3, 2), "groups": 2},
    {"strides": (1, 4)}, {},
])  # fmt: skip
@pytest.mark.parametrize("layout", ["first", "last"])
def test_other_forms_are_loops(changes: dict[str, Any], layout: str) -> None:
    """What no micro-kernel computes is read off the access map: dilations, groups, float64."""
    b = Builder()
    case = CASES[3]
    shape = (2, 5, 4, 6) if layout == "last" else (2, 6, 5, 4)
    kind = np.float64
    x = b.input("x", TensorType(F64, shape))
    w = b.input("w", TensorType(F64, (6, 3, 5, 4)))
    y = transposed(b, x, w, case, layout=layout, **changes)
    feeds = {"x": array(*shape).astype(kind), "w": array(6, 3, 5, 4).astype(kind)}
    assert check(y, b, feeds) == "loops"


def space_of(y: Value, b: Builder) -> ContractionSpace:
    graph = b.build({"y": y})
    cut = extract(graph, [n for n in graph.nodes if n.op not in ("input", "const")])
    return ContractionSpace(Space(cut.graph))


def test_every_phase_has_its_own_taps() -> None:
    b = Builder()
    y = transposed(b, tensor(b, "x", *CASES[2][0]), b.const(array(*CASES[2][1])), CASES[2])
    space = space_of(y, b)
    assert set(space.phases) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert [a.hi for a in space.body.reduced] == [2, 2, 12], "the first has the most"
    one = CASES[6]
    b = Builder()
    y = transposed(b, tensor(b, "x", *one[0]), b.const(array(*one[1])), one)
    assert y.shape[1] == 1 and {r for r, _ in space_of(y, b).phases} == {0}


def test_results_of_a_phase_are_not_turned() -> None:
    b = Builder()
    y = transposed(b, tensor(b, "x", *CASES[0][0]), b.const(array(*CASES[0][1])), CASES[0])
    with pytest.raises(Refused, match="one at a time"):
        space_of(b.op("transpose", y, perm=(0, 3, 1, 2)), b)

