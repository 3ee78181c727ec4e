"""Opaque kernels against the references of their ops: odd and empty shapes, NaN, bad indices."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from evonnx.ir.errors import ModelError
from evonnx.ir.ops.trees import (
    COLUMN_MASK,
    MISSING_SHIFT,
    MODE_SHIFT,
    MODES,
    MOST_WEIGHTS,
    node_table,
    walked,
)
from evonnx.ir.types import F16, F32, F64
from evonnx.kernels.opaque import OPAQUE

RNG = np.random.default_rng(7)
X = RNG.standard_normal((3, 5, 4)).astype(np.float32)
X[1, 2, 3] = np.nan
CLEAN = np.round(np.nan_to_num(X) * 3)


@pytest.mark.parametrize(("axis", "largest"), list(itertools.product(range(3), (True, False))))
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "u1", "u8", "i2"])
def test_topk(opaque: Any, axis: int, largest: bool, dtype: str) -> None:
    x = (X if dtype[0] == "f" else CLEAN + 20).astype(dtype)
    for k in (0, 1, x.shape[axis]):
        opaque.check("topk", [x], axis=axis, k=k, largest=largest, sorted=True)


def test_topk_breaks_ties_by_position(opaque: Any) -> None:
    x = np.array([1.0, 3, 3, np.nan, -0.0, 0.0, 3, np.nan], np.float32)
    for largest in (True, False):
        opaque.check("topk", [x], axis=0, k=8, largest=largest, sorted=True)


@pytest.mark.parametrize(("axis", "last"), list(itertools.product(range(3), (True, False))))
@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_arg_extremes(opaque: Any, op: str, axis: int, last: bool) -> None:
    attrs = {"axis": axis, "keepdims": True, "select_last": last}
    for x in (CLEAN, CLEAN.astype(np.int64), CLEAN > 0, CLEAN.astype(np.float16)):
        opaque.check(op, [x], **attrs)
    opaque.check(op, [X], axis=axis, keepdims=False, select_last=False)
    node = opaque.node(op, [X[:, :0]], axis=1, keepdims=False, select_last=last)
    assert (opaque.run(node, [X[:, :0]])[0] == 0).all()  # the interpreter refuses this one


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("op", ["argmax", "argmin"])
def test_arg_extremes_of_long_lines(opaque: Any, op: str, last: bool) -> None:
    attrs = {"axis": 1, "keepdims": False, "select_last": last}
    x = RNG.integers(-9, 9, (5, 1000)).astype(np.float32)  # ties within and across blocks
    x[1, [300, 301, 700]] = np.nan
    x[2], x[2, 500:] = 0.0, -0.0
    x[3] = -np.inf
    for size in (1, 255, 256, 257, 1000):
        opaque.check(op, [x[:, :size].copy()], **attrs)
        opaque.check(op, [RNG.integers(0, 7, (3, size)).astype(np.uint8)], **attrs)


@pytest.mark.parametrize("kind", ["sum", "prod"])
@pytest.mark.parametrize(("exclusive", "reverse"), list(itertools.product((False, True), repeat=2)))
def test_cumulate(opaque: Any, kind: str, exclusive: bool, reverse: bool) -> None:
    for axis in range(3):
        attrs = {"kind": kind, "axis": axis, "exclusive": exclusive, "reverse": reverse}
        opaque.check("cumulate", [X], 1e-6, **attrs)
        opaque.check("cumulate", [CLEAN.astype(np.int32)], **attrs)
        opaque.check("cumulate", [X[:0].astype(np.float64)], **attrs)


@pytest.mark.parametrize("how", ["none", "add", "mul", "max", "min"])
def test_scatter_elements(opaque: Any, how: str) -> None:
    for axis in range(3):
        index = RNG.integers(-2, 2, (2, 3, 4)).astype(np.int64)
        updates = RNG.standard_normal((3, 3, 4)).astype(np.float32)
        opaque.check("scatter_elements", [X, index, updates], 1e-6, axis=axis, reduction=how)
        whole = [CLEAN.astype(np.int16), index.astype(np.int32), updates.astype(np.int16)]
        opaque.check("scatter_elements", whole, axis=axis, reduction=how)


@pytest.mark.parametrize("how", ["none", "add", "mul", "max", "min"])
def test_scatter_nd(opaque: Any, how: str) -> None:
    for depth in (1, 2, 3):
        index = RNG.integers(-3, 3, (4, depth)).astype(np.int64)
        updates = RNG.standard_normal((4, *X.shape[depth:])).astype(np.float32)
        opaque.check("scatter_nd", [X, index, updates], 1e-6, reduction=how)
    many = RNG.integers(0, 300, (900, 1))
    big = RNG.standard_normal((300, 100)).astype(np.float32)
    opaque.check("scatter_nd", [big, many, big[many[:, 0]]], 1e-5, reduction=how)
    opaque.check("scatter_nd", [big, many[:0], big[:0]], reduction=how)


def test_scatters_never_write_outside(opaque: Any) -> None:
    """The guards around the result catch a write that an index out of range would do."""
    far = np.array([10**15, -(10**15), 5, -6, 4], np.int64)
    x, u = np.zeros(5, np.float32), np.ones(5, np.float32)
    node = opaque.node("scatter_elements", [x, far, u], axis=0, reduction="none")
    assert opaque.run(node, [x, far, u])[0].tolist() == [0, 0, 0, 0, 1]
    node = opaque.node("scatter_nd", [x, far[:, None], u], reduction="add")
    assert opaque.run(node, [x, far[:, None], u])[0].tolist() == [0, 0, 0, 0, 1]


def test_nonzero(opaque: Any) -> None:
    cases = [X, X > 0, CLEAN, CLEAN.astype(np.int8), X[:0], np.array(True), np.array(0.0)]
    for x in cases:
        opaque.check("nonzero", [x])


@pytest.mark.parametrize("ordered", [True, False])
def test_unique(opaque: Any, ordered: bool) -> None:
    nan = np.array([[3, np.nan], [1, 0], [2, 1], [1, -0.0], [3, np.nan]], np.float32)
    for x in (
        np.array([[3], [1], [2], [1], [3]], np.int64), nan, nan.astype(np.float16),
        RNG.integers(0, 3, (57, 2)).astype(np.uint64), np.zeros((0, 1), np.float32),
        np.zeros((4, 0), np.float32),
    ):  # fmt: skip
        opaque.check("unique", [x], sorted=ordered)


@pytest.mark.parametrize("center", [False, True])
def test_nms(opaque: Any, center: bool) -> None:
    boxes = RNG.uniform(0, 1, (2, 30, 4)).astype(np.float32)
    scores = np.round(RNG.uniform(0, 1, (2, 3, 30)), 1).astype(np.float32)
    scores[0, 0, 3] = np.nan
    iou, least = np.array(0.3, np.float32), np.array([0.2], np.float32)
    for limit, known in ((5, 5), (40, None), (0, 0), (-3, None)):
        most = np.array([limit], np.int64)
        if limit >= 0:
            opaque.check("nms", [boxes, scores, most, iou, least], center=center, limit=known)
        opaque.check("nms", [boxes, scores, np.abs(most), iou, None], center=center, limit=None)
    opaque.check("nms", [boxes, scores, None, None, None], center=center, limit=None)
    empty = [boxes[:, :0], scores[:, :, :0], most, iou, least]
    opaque.check("nms", empty, center=center, limit=None)


def test_dims_writes_its_sizes(opaque: Any) -> None:
    opaque.check("dims", [], values=(3, 4, 5), shape=(3,))
    opaque.check("dims", [], values=(7,), shape=())


@pytest.mark.parametrize("dtype", [F32, F64, F16])
def test_random_numbers_are_the_same_everywhere(opaque: Any, dtype: Any) -> None:
    common = {"shape": (3, 2000), "dtype": dtype}
    loose = 1e-3 if dtype is F16 else 1e-6
    opaque.check("random_uniform", [], loose, low=-1.0, high=2.0, seed=-5, **common)
    opaque.check("random_normal", [], loose, mean=-1.0, scale=2.0, seed=1 << 63, **common)
    for seed in (0, 1, 2**32 - 1):
        opaque.check("random_mersenne", [], 0.0 if dtype is F64 else loose, seed=seed, **common)
    opaque.check("random_mersenne", [], seed=3, shape=(0, 5), dtype=dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1", "u1"])
@pytest.mark.parametrize("column_major", [False, True])
def test_positions_of_window_maxima(opaque: Any, dtype: str, column_major: bool) -> None:
    x = RNG.integers(0, 9, (2, 3, 7, 5)).astype(dtype)
    if dtype[0] == "f":
        x[0, 1, 2:4, 3], x[1, 1] = np.nan, -np.inf
    common: dict[str, Any] = {"column_major": column_major}
    opaque.check("pool_argmax", [x], kernel=(3, 2), strides=(2, 1), dilations=(1, 1),
                 pads_lo=(1, 1), pads_hi=(1, 0), **common)  # fmt: skip
    opaque.check("pool_argmax", [x], kernel=(2, 3), strides=(1, 2), dilations=(3, 2),
                 pads_lo=(0, 2), pads_hi=(1, 2), **common)  # fmt: skip
    opaque.check("pool_argmax", [x[:, :, 0]], kernel=(2,), strides=(1,), dilations=(1,),
                 pads_lo=(0,), pads_hi=(0,), **common)  # fmt: skip
    opaque.check("pool_argmax", [x[:0]], kernel=(1, 1), strides=(1, 1), dilations=(1, 1),
                 pads_lo=(0, 0), pads_hi=(0, 0), **common)  # fmt: skip


def test_maxima_over_regions(opaque: Any) -> None:
    x = RNG.standard_normal((2, 3, 9, 8))
    corners = np.array([[0, 1, 2, 7, 6], [1, 0, 0, 0, 0], [1, -4, 3, 30, 4.5], [0, 6, 6, 2, 2]])
    for dtype in ("f4", "f8", "f2"):
        opaque.check("max_roi_pool", [x.astype(dtype), corners.astype(dtype)],
                     pooled=(3, 2), scale=0.5)  # fmt: skip
        opaque.check("max_roi_pool", [x.astype(dtype), corners[:0].astype(dtype)],
                     pooled=(1, 1), scale=1.0)  # fmt: skip


def test_determinants_and_inverses(opaque: Any) -> None:
    for shape in ((4, 4), (2, 3, 5, 5), (3, 1, 1), (0, 3, 3), (2, 0, 0)):
        x = RNG.standard_normal(shape)
        for dtype, tolerance in (("f8", 1e-9), ("f4", 1e-4), ("f2", 2e-2)):
            opaque.check("det", [x.astype(dtype)], tolerance)
            if dtype != "f2":
                opaque.check("inverse", [x.astype(dtype)], tolerance)
    odd = np.stack([np.ones((3, 3)), np.zeros((3, 3)), np.eye(3)[[2, 0, 1]], np.eye(3)])
    odd[3, 1, 1] = np.nan
    opaque.check("det", [odd], 1e-12)
    opaque.check("inverse", [odd[:3]], 1e-12)
    node = opaque.node("inverse", [odd])
    assert np.isnan(opaque.run(node, [odd])[0][3]).any()


def _forest(mode: int, real: Any = np.float32) -> list[np.ndarray]:
    """Five trees over two small ones; nodes 2, 3 and 5, 6 are leaves, leaf 6 without weights."""
    code = np.array([0, 1, -1, -1, 2, -1, -1], np.int32)
    inner = code >= 0
    code[inner] |= mode << MODE_SHIFT
    code[[0, 4]] |= 1 << MISSING_SHIFT
    left = np.array([1, 2, 0, 1, 5, 2, 0], np.int32)
    right = np.array([4, 3, 1, 1, 6, 2, 0], np.int32)
    value = np.array([0.1, 0.2, 0, 0, -0.3, 0, 0], real)
    return [node_table(code, left, right, value), np.array([0, 1, 0, 1], np.int32),
            np.array([1, 2, -3, 4], real), np.array([0, 4, 0, 4, 0], np.int32)]  # fmt: skip


@pytest.mark.parametrize("aggregate", ["sum", "average", "min", "max"])
def test_tree_ensemble(opaque: Any, aggregate: str) -> None:
    rows = np.round(RNG.standard_normal((11, 3)), 1).astype(np.float32)
    rows[0, 0] = rows[3, 2] = np.nan
    for mode, name in enumerate(MODES):
        for x in (rows, rows.astype(np.float64), np.nan_to_num(rows * 3).astype(np.int64)):
            real = np.float64 if x.dtype == np.float64 else np.float32
            for compare, nan in ((name, True), ("mixed", True)):
                opaque.check("tree_ensemble", [x, *_forest(mode, real)], targets=2,
                             aggregate=aggregate, compare=compare, nan=nan,
                             adjacent=False)  # fmt: skip


def _adjacent_forest(rng: Any, trees: int, mode: int, missing: str, columns: int, targets: int,
                     real: Any) -> list[np.ndarray]:
    """Random trees, roots first and then siblings side by side; leaves of no to three weights.
    ``mode`` 6: tests of all modes; ``missing``: of "no", "some" or "all" nodes."""
    rows: list[list[int]] = [[0, 0, 0] for _ in range(trees)]
    depth = [0] * trees
    value, target = list(rng.choice([-1.0, -0.5, -0.0, 0.0, 0.5, np.inf], trees)), []
    for at, row in enumerate(rows):  # grows while it is walked
        if depth[at] < 9 and rng.random() < (0.9 if depth[at] < 2 else 0.6):
            flags = rng.integers(6) if mode == 6 else mode
            gap = missing == "all" or missing == "some" and rng.random() < 0.5
            column = int(rng.integers(columns))
            row[:] = (column | int(flags) << MODE_SHIFT | int(gap) << MISSING_SHIFT,
                      len(rows), len(rows) + 1)
            rows += [[0, 0, 0], [0, 0, 0]]
            depth += [depth[at] + 1] * 2
            value += list(np.round(rng.standard_normal(2), 1))
        else:
            count = int(rng.integers(4))
            row[:] = -1, len(target), count
            target += list(rng.integers(0, targets, count))
    code, left, right = np.array(rows, np.int32).reshape(-1, 3).T
    return [node_table(code, left, right, np.array(value, real)), np.array(target, np.int32),
            rng.standard_normal(len(target)).astype(real), np.arange(trees, dtype=np.int32)]


@pytest.mark.parametrize("mode", range(7))
@pytest.mark.parametrize("missing", ["no", "some", "all"])
def test_lanes_of_constant_trees(opaque: Any, mode: int, missing: str) -> None:
    rng = np.random.default_rng(mode)
    cases = itertools.product((1, 7, 8, 21), (0, 1, 8, 9, 75), (1, 3))
    for k, (trees, rows, targets) in enumerate(cases):
        dtype = (np.float32, np.float64, np.int64)[k % 3]
        x = np.round(rng.standard_normal((rows, 5)), 1)
        if dtype != np.int64 and k % 4:
            x[rng.random(x.shape) < 0.2] = np.nan
            x[rng.random(x.shape) < 0.1] = np.inf
        real = np.float64 if dtype == np.float64 else np.float32
        forest = _adjacent_forest(rng, trees, mode, missing, 5, targets, real)
        attrs = {
            "targets": targets, "aggregate": ("sum", "average", "min", "max")[k % 4],
            "compare": "mixed" if mode == 6 else MODES[mode], "nan": missing != "no",
            "adjacent": True,
        }  # fmt: skip
        node = opaque.node("tree_ensemble", [x.astype(dtype), *forest], (1,), **attrs)
        assert OPAQUE[node.op](node, opaque.target).packed is not None
        opaque.check("tree_ensemble", [x.astype(dtype), *forest], constants=(1,), **attrs)


def test_lanes_need_no_rows_columns_or_trees(opaque: Any) -> None:
    rng = np.random.default_rng(0)
    attrs = {"targets": 2, "aggregate": "sum", "compare": "leq", "nan": True, "adjacent": True}
    forest = _adjacent_forest(rng, 9, 0, "some", 5, 2, np.float32)
    opaque.check("tree_ensemble", [np.ones((3, 0), np.float32), *forest], constants=(1,), **attrs)
    args = [np.ones((3, 4), np.float32), *forest]  # a column is missing
    node = opaque.node("tree_ensemble", args, (1,), **attrs)
    assert (opaque.run(node, args)[0] == 0).all()
    none = _adjacent_forest(rng, 0, 0, "some", 5, 2, np.float32)
    opaque.check("tree_ensemble", [np.ones((3, 5), np.float32), *none], constants=(1,), **attrs)


def test_walks_that_leave_the_table_are_refused() -> None:
    good = _adjacent_forest(np.random.default_rng(1), 3, 0, "no", 5, 2, np.float32)[0]
    walked(good, "leq", True)
    inner, leaf = int(np.flatnonzero(good[:, 0] >= 0)[0]), int(np.flatnonzero(good[:, 0] < 0)[0])
    for row, word, number in (
        (inner, 1, inner), (inner, 2, len(good)), (inner, 2, int(good[inner, 1])), (inner, 1, -1),
        (leaf, 1, -1), (leaf, 2, -1), (leaf, 2, MOST_WEIGHTS + 1),
    ):  # fmt: skip
        bad = good.copy()
        bad[row, word] = number
        with pytest.raises(ModelError, match="tree_ensemble"):
            walked(bad, "leq", True)
    last = good.copy()
    last[inner, 1:3] = len(good) - 1, len(good)
    with pytest.raises(ModelError, match="side by side"):
        walked(last, "leq", True)


def test_tree_tables_that_lie_do_no_harm(opaque: Any) -> None:
    nodes, target, weight, roots = _forest(0)
    nodes[:, 0] = COLUMN_MASK
    nodes[:, 1] = 10**9
    nodes[:, 2] = -5  # and node 6 follows itself for ever
    nodes[0, 0], nodes[0, 1], nodes[0, 2] = -1, -7, 10**9
    target[:] = 10**9
    args = [np.ones((3, 2), np.float32), nodes, target, weight, roots + 10**8]
    node = opaque.node("tree_ensemble", args, targets=2, aggregate="sum", compare="leq", nan=False,
                       adjacent=True)  # fmt: skip
    assert (opaque.run(node, args)[0] == 0).all()


def test_every_opaque_op_has_a_kernel() -> None:
    from evonnx.ir.ops import OPS

    opaque_ops = {name for name, op in OPS.items() if op.has("opaque")}
    assert opaque_ops - set(OPAQUE) <= {"conv_transpose"}  # lowered by phases in the passes


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_couple(opaque: Any, classes: int, dtype: Any) -> None:
    """Consistent pairs give back the probabilities they come from; others a compromise."""
    p = RNG.dirichlet(np.ones(classes), 9)
    i, j = np.triu_indices(classes, 1)
    exact = (p[:, i] / (p[:, i] + p[:, j])).astype(dtype)
    opaque.check("couple", [exact], 1e-5, classes=classes)
    got = opaque.run(opaque.node("couple", [exact], classes=classes), [exact])[0]
    np.testing.assert_allclose(got, p, atol=0.02)
    opaque.check("couple", [RNG.random((9, len(i))).astype(dtype)], 1e-5, classes=classes)
    opaque.check("couple", [exact[:0]], classes=classes)
