"""Support vector machines and linear models against ONNX Runtime and ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import evonnx
from evonnx.ir.errors import ModelError, UnsupportedError

RNG = np.random.default_rng(23)
ML = "ai.onnx.ml"
FEATURES = 4


def _f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _node(op: str, outputs: list[str], **attrs: Any) -> Any:
    return helper.make_node(op, ["x"], outputs, domain=ML, **attrs)


def _machine(classes: int, kernel: str, probabilities: bool, transform: str = "NONE") -> Any:
    """A random SVMClassifier of some vectors per class."""
    counts = RNG.integers(1, 4, classes).tolist()
    pairs = classes * (classes - 1) // 2
    attrs = {
        "classlabels_ints": list(range(5, 5 + classes)), "vectors_per_class": counts,
        "coefficients": _f((classes - 1) * sum(counts)).tolist(), "rho": _f(pairs).tolist(),
        "support_vectors": _f(sum(counts) * FEATURES).tolist(), "kernel_type": kernel,
        "kernel_params": [0.3, 0.5, 3.0], "post_transform": transform,
    }  # fmt: skip
    if probabilities:
        attrs |= {"prob_a": (-np.abs(_f(pairs))).tolist(), "prob_b": _f(pairs).tolist()}
    return _node("SVMClassifier", ["l", "s"], **attrs)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("probabilities", [False, True])
def test_classifier(lab: Any, kernel: str, classes: int, probabilities: bool) -> None:
    node, feeds = _machine(classes, kernel, probabilities), {"x": _f(7, FEATURES)}
    lab.check([node], feeds, ["l", "s"], tolerance=1e-4)
    if classes == 3 and probabilities:
        lab.check_compiled([node], feeds, ["l", "s"], tolerance=1e-4)


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_post_transforms(lab: Any, transform: str, probabilities: bool) -> None:
    node, feeds = _machine(3, "RBF", probabilities, transform), {"x": _f(7, FEATURES)}
    lab.check([node], feeds, ["l", "s"], tolerance=1e-4)


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX"])
def test_one_decision_is_transformed_with_both_signs(lab: Any, transform: str) -> None:
    """As by ONNX's reference; ONNX Runtime answers 1 - s and s for SOFTMAX."""
    feeds = {"x": _f(7, FEATURES)}
    model = lab.model([_machine(2, "RBF", False, transform)], feeds, ["l", "s"])
    want = ReferenceEvaluator(model).run(None, feeds)
    got = lab.ours(model, feeds)
    np.testing.assert_allclose(got["s"], want[1], atol=1e-5)


def test_string_labels_and_one_row(lab: Any) -> None:
    node = _machine(3, "RBF", True)
    kept = [a for a in node.attribute if a.name != "classlabels_ints"]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.append(helper.make_attribute("classlabels_strings", ["a", "b", 'c"']))
    lab.check([node], {"x": _f(FEATURES)}, ["l", "s"], tolerance=1e-4)


def test_linear_form_without_vectors(lab: Any) -> None:
    node = _node(
        "SVMClassifier",
        ["l", "s"],
        classlabels_ints=[1, 2, 3],
        kernel_type="LINEAR",
        kernel_params=[0.0, 0.0, 0.0],
        coefficients=_f(12).tolist(),
        rho=[0.25],
    )
    lab.check([node], {"x": _f(5, FEATURES)}, ["l", "s"])


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_rows_of_other_types(lab: Any, dtype: Any) -> None:
    x = (_f(5, FEATURES) * 3).astype(dtype)
    feeds = {"x": x}
    lab.check([_machine(3, "RBF", False)], feeds, ["l", "s"], tolerance=1e-4)


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("one_class", [0, 1])
@pytest.mark.parametrize("vectors", [0, 6])
def test_regressor(lab: Any, kernel: str, one_class: int, vectors: int) -> None:
    attrs = {"support_vectors": _f(vectors * FEATURES).tolist()} if vectors else {}
    node = _node("SVMRegressor", ["y"], n_supports=vectors, one_class=one_class, rho=[0.1],
                 coefficients=_f(vectors or FEATURES).tolist(), kernel_type=kernel,
                 kernel_params=[0.3, 0.5, 2.0], **attrs)  # fmt: skip
    lab.check([node], {"x": _f(9, FEATURES)}, ["y"], tolerance=1e-4)


@pytest.mark.parametrize(
    ("change", "error"),
    [({"rho": [1.0]}, ModelError), ({"coefficients": [1.0]}, ModelError),
     ({"support_vectors": [1.0] * 5}, ModelError), ({"kernel_type": "COSINE"}, ModelError),
     ({"prob_a": [1.0]}, ModelError), ({"classlabels_ints": [1]}, UnsupportedError)],
)  # fmt: skip
def test_tables_that_do_not_fit(lab: Any, change: dict[str, Any], error: Any) -> None:
    node, feeds = _machine(3, "RBF", False), {"x": _f(2, FEATURES)}
    kept = [a for a in node.attribute if a.name not in change]
    del node.attribute[:]
    node.attribute.extend(kept + [helper.make_attribute(k, v) for k, v in change.items()])
    with pytest.raises(error):
        evonnx.compile(lab.model([node], feeds, ["l", "s"]), cache=False)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_linear_classifier_of_one_score(lab: Any, transform: str) -> None:
    feeds = {"x": _f(5, FEATURES)}
    node = _node("LinearClassifier", ["l", "s"], coefficients=_f(4).tolist(), intercepts=[0.1],
                 classlabels_ints=[3, 4], post_transform=transform)  # fmt: skip
    model = lab.model([node], feeds, ["l", "s"])
    want, got = ReferenceEvaluator(model).run(None, feeds), lab.ours(model, feeds)
    np.testing.assert_array_equal(got["l"], want[0])
    np.testing.assert_allclose(got["s"], want[1], atol=1e-5)


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "PROBIT"])
def test_linear_regressor_transforms(lab: Any, targets: int, transform: str) -> None:
    node = _node("LinearRegressor", ["y"], coefficients=(np.abs(_f(4 * targets)) / 9).tolist(),
                 targets=targets, post_transform=transform)  # fmt: skip
    lab.check([node], {"x": RNG.random((5, FEATURES), np.float32)}, ["y"], tolerance=1e-4)
