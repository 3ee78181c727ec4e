"""ai.onnx.ml operators against ONNX Runtime: trees, linear models, feature preparation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import evonnx
from evonnx.compiler.importer.ops_trees import LEAF, Forest
from evonnx.ir.errors import ModelError, UnsupportedError
from evonnx.ir.ops.trees import walked

RNG = np.random.default_rng(19)
ML = "ai.onnx.ml"


def _f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _node(op: str, inputs: list[str], outputs: list[str], **attrs: Any) -> Any:
    return helper.make_node(op, inputs, outputs, domain=ML, **attrs)


def _forest(trees: int, depth: int, features: int, classes: list[int], positive: bool) -> Any:
    """Complete random trees as attribute lists; every leaf has a weight for each of ``classes``."""
    nodes: dict[str, list[Any]] = {
        k: [] for k in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids",
                        "falsenodeids", "missing_value_tracks_true")
    }  # fmt: skip
    leaves: dict[str, list[Any]] = {k: [] for k in ("treeids", "nodeids", "ids", "weights")}
    inner = 2**depth - 1
    for t in range(trees):
        for n in range(2 * inner + 1):
            leaf = n >= inner
            row = (t, n, int(RNG.integers(features)), float(RNG.standard_normal()),
                   "LEAF" if leaf else "BRANCH_LEQ", 0 if leaf else 2 * n + 1,
                   0 if leaf else 2 * n + 2, int(RNG.integers(2)))  # fmt: skip
            for key, value in zip(nodes, row, strict=True):
                nodes[key].append(value)
            for c in classes if leaf else []:
                w = float(RNG.standard_normal())
                for key, value in zip(leaves, (t, n, c, abs(w) if positive else w), strict=True):
                    leaves[key].append(value)
    return {f"nodes_{k}": v for k, v in nodes.items()}, leaves


def _rows(dtype: Any) -> np.ndarray:
    x = RNG.standard_normal((9, 4)).astype(dtype)
    if x.dtype.kind == "f":
        x[0, 1] = np.nan
    return x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
def test_tree_regressor(lab: Any, dtype: Any, how: str, targets: int) -> None:
    nodes, leaves = _forest(5, 3, 4, list(range(targets)), False)
    attrs = nodes | {f"target_{k}": v for k, v in leaves.items()}
    for base in ([], [0.5 * k for k in range(targets)]):
        extra = {"base_values": base} if base else {}
        node = _node("TreeEnsembleRegressor", ["x"], ["y"], n_targets=targets,
                     aggregate_function=how, **attrs, **extra)  # fmt: skip
        x = (RNG.standard_normal((9, 4)) * 3).astype(dtype)
        lab.check([node], {"x": x}, ["y"], tolerance=1e-5)


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tree_classifier_of_three_classes(lab: Any, transform: str, dtype: Any) -> None:
    nodes, leaves = _forest(5, 3, 4, [0, 1, 2], False)
    attrs = nodes | {f"class_{k}": v for k, v in leaves.items()}
    node = _node("TreeEnsembleClassifier", ["x"], ["l", "s"], classlabels_int64s=[7, 8, 9],
                 post_transform=transform, **attrs)  # fmt: skip
    lab.check([node], {"x": _rows(dtype)}, ["l", "s"], tolerance=1e-5)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("column", [0, 1])
def test_tree_classifier_of_one_margin(
    lab: Any, transform: str, positive: bool, column: int
) -> None:
    nodes, leaves = _forest(3, 2, 4, [column], positive)
    attrs = nodes | {f"class_{k}": v for k, v in leaves.items()}
    for base in ([], [0.25]):
        extra = {"base_values": base} if base else {}
        node = _node("TreeEnsembleClassifier", ["x"], ["l", "s"], classlabels_int64s=[0, 1],
                     post_transform=transform, **attrs, **extra)  # fmt: skip
        lab.check([node], {"x": _rows(np.float32)}, ["l", "s"], tolerance=1e-5)


def test_tree_classifier_of_two_scored_classes(lab: Any) -> None:
    """Scores only: the runtime's label is the sign of one of them, ours the larger one."""
    nodes, leaves = _forest(3, 2, 4, [0, 1], True)
    attrs = nodes | {f"class_{k}": v for k, v in leaves.items()}
    node = _node("TreeEnsembleClassifier", ["x"], ["l", "s"], classlabels_int64s=[0, 1], **attrs)
    lab.check([node], {"x": _rows(np.float32)}, ["s"], tolerance=1e-5)


def test_string_labels_and_zipmap(lab: Any) -> None:
    nodes, leaves = _forest(3, 2, 4, [0, 1, 2], False)
    attrs = nodes | {f"class_{k}": v for k, v in leaves.items()}
    labels = ["ant", "bee", 'c"\n']
    made = [
        _node("TreeEnsembleClassifier", ["x"], ["l", "s"], classlabels_strings=labels,
              post_transform="SOFTMAX", **attrs),
        _node("ZipMap", ["s"], ["m"], classlabels_strings=labels),
    ]  # fmt: skip
    lab.check(made, {"x": _rows(np.float32)}, ["l", "m"], tolerance=1e-5)


def _flat_forest(modes: list[int], members: list[float] | None = None) -> dict[str, Any]:
    """One tree of two tests: feature 0, then feature 1 on the false side."""
    attrs: dict[str, Any] = {
        "nodes_featureids": [0, 1], "nodes_truenodeids": [0, 1], "nodes_trueleafs": [1, 1],
        "nodes_falsenodeids": [1, 2], "nodes_falseleafs": [0, 1], "tree_roots": [0],
        "nodes_splits": numpy_helper.from_array(np.array([1.0, 2.0], np.float32)),
        "nodes_modes": numpy_helper.from_array(np.array(modes, np.uint8)),
        "leaf_targetids": [0, 0, 1], "n_targets": 2,
        "leaf_weights": numpy_helper.from_array(np.array([1.5, -2, 4], np.float32)),
    }  # fmt: skip
    if members is not None:
        array = np.array(members, np.float32)
        attrs["membership_values"] = numpy_helper.from_array(array)
    return attrs


def test_trees_are_laid_out_for_walks_of_several_lanes() -> None:
    forest = Forest(roots=[2, 5])
    for left, right in ((0, 0), (0, 0), (4, 3), (1, 0), (4, 4), (5, 5)):
        forest.add(0, 0.5, left, right, 0 if left != right else LEAF, False)
    forest.weights[1] = [(0, 2.0)]
    made = forest.adjacent()
    assert made is not None
    assert (made.roots, made.left, made.right) == ([0, 1], [2, 0, 0, 4, 0, 0], [3, 0, 0, 5, 0, 0])
    assert dict(made.weights) == {4: [(0, 2.0)]}
    walked(made.tables(np.float32)[0], "leq", True)
    forest.left[3] = 0
    forest.right[3], forest.mode[3] = 4, 0  # two tests lead to leaf 4
    assert forest.adjacent() is None
    assert Forest(roots=[0, 0]).adjacent() is None


@pytest.mark.parametrize("mode", range(6))
def test_tree_ensemble_of_opset_5(lab: Any, mode: int) -> None:
    x = np.array([[0, 0], [1, 2], [2, 2], [3, 1]], np.float32)
    node = _node("TreeEnsemble", ["x"], ["y"], **_flat_forest([mode, mode]))
    lab.check([node], {"x": x}, ["y"], opset=21)


def test_set_membership(lab: Any) -> None:
    x = np.array([[0, 0], [1, 2], [4, 5], [9, 7], [9, 5]], np.float32)
    attrs = _flat_forest([6, 6], [1, 4, np.nan, 5, 6, 7])
    got = lab.check([_node("TreeEnsemble", ["x"], ["y"], **attrs)], {"x": x}, ["y"], opset=21)
    assert got["y"][:, 0].tolist() == [0, 1.5, 1.5, -2, -2]


@pytest.mark.parametrize(
    ("key", "value"),
    [("nodes_truenodeids", [0, 5]), ("nodes_falsenodeids", [0, 2]), ("leaf_targetids", [0, 0, 9]),
     ("tree_roots", [7])],
)  # fmt: skip
def test_tables_that_contradict_themselves(lab: Any, key: str, value: Any) -> None:
    attrs = _flat_forest([0, 0]) | {key: value}
    feeds = {"x": np.zeros((2, 2), np.float32)}
    with pytest.raises(ModelError):
        lab.ours(lab.model([_node("TreeEnsemble", ["x"], ["y"], **attrs)], feeds, ["y"],
                           opset=21), feeds)  # fmt: skip


# -- linear models -----------------------------------------------------------------------------


def test_linear_regressor(lab: Any) -> None:
    node = _node("LinearRegressor", ["x"], ["y"], coefficients=_f(8).tolist(), targets=2,
                 intercepts=[0.5, -1.0])  # fmt: skip
    lab.check([node], {"x": _f(3, 4)}, ["y"])


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_linear_classifier(lab: Any, transform: str) -> None:
    node = _node("LinearClassifier", ["x"], ["l", "s"], coefficients=_f(12).tolist(),
                 intercepts=[0.1, 0.2, 0.3], classlabels_ints=[3, 4, 5],
                 post_transform=transform)  # fmt: skip
    lab.check([node], {"x": _f(5, 4)}, ["l", "s"])


# -- feature preparation -------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(lab: Any, norm: str) -> None:
    x = np.abs(_f(4, 5))
    x[2] = 0
    lab.check([_node("Normalizer", ["x"], ["y"], norm=norm)], {"x": x}, ["y"])


def test_scaler_binarizer_imputer(lab: Any) -> None:
    x = _f(4, 3)
    x[1, 2] = np.nan
    nodes = [
        _node("Imputer", ["x"], ["a"], imputed_value_floats=[1.0, 2.0, 3.0],
              replaced_value_float=float("nan")),
        _node("Scaler", ["a"], ["b"], offset=[0.5, 0.1, 0.2], scale=[2.0, 3.0, 4.0]),
        _node("Binarizer", ["b"], ["y"], threshold=0.3),
    ]  # fmt: skip
    lab.check(nodes, {"x": x}, ["a", "b", "y"])


def test_feature_extraction(lab: Any) -> None:
    nodes = [
        _node("ArrayFeatureExtractor", ["x", "k"], ["a"]),
        _node("FeatureVectorizer", ["a", "x"], ["y"], inputdimensions=[2, 4]),
    ]
    lab.check(nodes, {"x": _f(3, 4)}, ["a", "y"], {"k": np.array([2, 0], np.int64)})


def test_one_hot_encoder(lab: Any) -> None:
    node = _node("OneHotEncoder", ["x"], ["y"], cats_int64s=[3, 1, 7])
    lab.check([node], {"x": np.array([1, 7, 2, 3], np.int64)}, ["y"])


def test_label_encoder_of_numbers_is_compiled(lab: Any) -> None:
    node = _node("LabelEncoder", ["x"], ["y"], keys_int64s=[5, 2, 9], values_floats=[0.5, 1.5, 2.5],
                 default_float=-1.0)  # fmt: skip
    lab.check([node], {"x": np.array([[2, 5], [9, 4]], np.int64)}, ["y"])


def test_label_encoder_of_strings(lab: Any) -> None:
    node = _node("LabelEncoder", ["x"], ["y"], keys_strings=["a", "b"], values_int64s=[4, 6],
                 default_int64=-7)  # fmt: skip
    lab.check([node], {"x": np.array(["b", "?", "a"], object)}, ["y"])


# -- what the standard says and ONNX Runtime does not --------------------------------------------


@pytest.mark.parametrize("mode", range(6))
def test_nan_passes_where_the_node_says_so(lab: Any, mode: int) -> None:
    """Or where it passes by itself, which is "not equal" only."""
    x = np.array([[np.nan, 5], [np.nan, 2], [1, np.nan]], np.float32)
    for tracks in ([0, 0], [1, 0], [0, 1]):
        attrs = _flat_forest([mode, mode]) | {"nodes_missing_value_tracks_true": tracks}
        feeds = {"x": x}
        model = lab.model([_node("TreeEnsemble", ["x"], ["y"], **attrs)], feeds, ["y"], opset=21)
        want = ReferenceEvaluator(model).run(None, feeds)[0]
        np.testing.assert_array_equal(lab.ours(model, feeds)["y"], want)
        np.testing.assert_array_equal(evonnx.compile(model, cache=False)(x), want)


def test_softmax_zero_of_a_row_of_zeros(lab: Any) -> None:
    x = np.array([[0, 0], [1, 0], [1e-9, 0]], np.float32)
    node = _node("LinearRegressor", ["x"], ["y"], coefficients=[0.5, 0.0, 0.0, 0.25], targets=2,
                 post_transform="SOFTMAX_ZERO")  # fmt: skip
    got = lab.ours(lab.model([node], {"x": x}, ["y"]), {"x": x})["y"]
    np.testing.assert_allclose(got, [[0.5, 0.5], [1, 0], [1, 0]], atol=1e-6)


def test_two_base_values_for_one_scored_class_are_refused(lab: Any) -> None:
    nodes, leaves = _forest(2, 2, 4, [1], True)
    attrs = nodes | {f"class_{k}": v for k, v in leaves.items()}
    node = _node("TreeEnsembleClassifier", ["x"], ["l", "s"], classlabels_int64s=[0, 1],
                 base_values=[0.25, 0.5], **attrs)  # fmt: skip
    feeds = {"x": _rows(np.float32)}
    with pytest.raises(UnsupportedError, match="two base values"):
        lab.ours(lab.model([node], feeds, ["l", "s"]), feeds)
