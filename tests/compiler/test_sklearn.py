"""Models trained by scikit-learn and exported by skl2onnx: results are ONNX Runtime's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import evonnx
from evonnx.compiler.importer import import_model

pytest.importorskip("skl2onnx")
pytest.importorskip("sklearn")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 5)).astype(np.float32)
TWO = (X[:, 0] + X[:, 1] > 0).astype(int)
THREE = np.digitize(X[:, 0] + X[:, 2], [-0.5, 0.5])
NAMES = np.array(["a", "b", "c"])[THREE]
REAL = X @ RNG.standard_normal(5) + 0.1


def _estimators() -> dict[str, tuple[Any, Any]]:
    """Estimator and target by name; imported here so that a missing sklearn only skips."""
    from sklearn import ensemble, linear_model, mixture, neighbors, neural_network, svm

    few = {"n_estimators": 5, "random_state": 0}
    return {
        "svc": (svm.SVC(), THREE), "svc two": (svm.SVC(), TWO), "svc names": (svm.SVC(), NAMES),
        "nu svc": (svm.NuSVC(kernel="poly"), THREE), "svr": (svm.SVR(), REAL),
        "one class": (svm.OneClassSVM(), None), "linear svc": (svm.LinearSVC(), THREE),
        "logistic": (linear_model.LogisticRegression(), THREE),
        "logistic two": (linear_model.LogisticRegression(), TWO),
        "ridge": (linear_model.Ridge(), REAL), "perceptron": (linear_model.Perceptron(), THREE),
        "forest": (ensemble.RandomForestClassifier(**few), NAMES),
        "forest two": (ensemble.RandomForestClassifier(**few), TWO),
        "forest real": (ensemble.RandomForestRegressor(**few), REAL),
        "boosted": (ensemble.GradientBoostingClassifier(**few), THREE),
        "boosted two": (ensemble.GradientBoostingClassifier(**few), TWO),
        "boosted real": (ensemble.GradientBoostingRegressor(**few), REAL),
        "ada": (ensemble.AdaBoostClassifier(**few), THREE),
        "neighbors": (neighbors.KNeighborsClassifier(), THREE),
        "mlp": (neural_network.MLPClassifier((8,), max_iter=20, random_state=0), THREE),
        "mixture": (mixture.GaussianMixture(2, random_state=0), None),
    }  # fmt: skip


ESTIMATORS = _estimators()
COMPILED = ("svc", "boosted two", "mixture", "neighbors")


def _agree(lab: Any, model: Any, feeds: dict[str, np.ndarray], compiled: bool) -> None:
    from evonnx.ir.interp import run

    want = lab.theirs(model, feeds)
    got = (
        evonnx.compile(model, cache=False).run(None, feeds)
        if compiled
        else list(run(import_model(model), feeds).values())
    )
    for (name, b), a in zip(want.items(), got, strict=True):
        if isinstance(b, list):  # a dictionary per row
            assert [list(row) for row in a] == [list(row) for row in b], name
            a, b = (np.array([list(row.values()) for row in rows]) for rows in (a, b))
        if b.dtype == object:
            assert a.tolist() == b.tolist(), name
        else:
            np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-4, err_msg=name)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators(lab: Any, name: str) -> None:
    from skl2onnx import to_onnx

    estimator, target = ESTIMATORS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X) if target is None else estimator.fit(X, target)
        model = to_onnx(estimator, X[:1])
    _agree(lab, model, {model.graph.input[0].name: X}, name in COMPILED)


def test_text_is_counted_as_sklearn_counts_it() -> None:
    """ONNX Runtime needs a locale for this, so the yardstick is scikit-learn itself."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.feature_extraction.text import TfidfVectorizer

    docs = np.array([["the cat sat on the mat"], ["the dog ate the cat"], ["birds fly"]], object)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2)).fit(docs.ravel())
    model = convert_sklearn(vectorizer, initial_types=[("x", StringTensorType([None, 1]))])
    (got,) = evonnx.compile(model, cache=False).run(None, {"x": docs})
    np.testing.assert_allclose(got, vectorizer.transform(docs.ravel()).toarray(), atol=1e-6)


def test_categories(lab: Any) -> None:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import StringTensorType
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    x = np.array([["red", "x"], ["blue", "y"], ["green", "x"], ["red", "y"]], object)
    for encoder in (OneHotEncoder(), OneHotEncoder(handle_unknown="ignore"), OrdinalEncoder()):
        types = [("x", StringTensorType([None, 2]))]
        _agree(lab, convert_sklearn(encoder.fit(x), initial_types=types), {"x": x}, False)
