"""Strings: every operator that ONNX allows them for, against ONNX Runtime and the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import evonnx

S = np.array([["a", "b", "cc"], ["b", "d", "a"]], object)
T = np.array(["q", "b", "s"], object)
LETTERS = np.array(list("abcdefghijklmnop"), object)


def _i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CASES: list[tuple[str, list[str], dict[str, Any], dict[str, np.ndarray]]] = [
    ("Reshape", ["x", "k"], {}, {"k": _i(3, 2)}),
    ("Transpose", ["x"], {}, {}),
    ("Slice", ["x", "a", "b", "c"], {}, {"a": _i(1), "b": _i(9), "c": _i(1)}),
    ("Concat", ["x", "x"], {"axis": 1}, {}),
    ("Gather", ["x", "k"], {"axis": 1}, {"k": _i(2, 0)}),
    ("Gather", ["x", "k"], {"axis": 1}, {"k": np.array(1)}),
    ("GatherElements", ["x", "k"], {"axis": 1}, {"k": np.array([[0], [1]])}),
    ("GatherND", ["x", "k"], {}, {"k": np.array([[0, 1], [1, 2]])}),
    ("Expand", ["x", "k"], {}, {"k": _i(2, 2, 3)}),
    ("Tile", ["x", "k"], {}, {"k": _i(2, 1)}),
    ("Unsqueeze", ["x", "k"], {}, {"k": _i(1)}),
    ("Flatten", ["x"], {"axis": 0}, {}),
    ("Identity", ["x"], {}, {}),
    ("Where", ["m", "x", "y"], {}, {"m": np.array([True, False, True])}),
    ("Equal", ["x", "y"], {}, {}),
    ("ScatterElements", ["x", "k", "u"], {"axis": 1},
     {"k": np.array([[0], [1]]), "u": np.array([["N"], ["M"]], object)}),
    ("ScatterND", ["x", "k", "u"], {},
     {"k": np.array([[0, 1], [1, 2]]), "u": np.array(["N", "M"], object)}),
    ("Compress", ["x", "m"], {"axis": 1}, {"m": np.array([True, False, True])}),
    ("ReverseSequence", ["x", "k"], {"batch_axis": 0, "time_axis": 1}, {"k": _i(2, 3)}),
    ("SpaceToDepth", ["l"], {"blocksize": 2}, {}),
    ("StringNormalizer", ["y"], {"case_change_action": "UPPER", "stopwords": ["B"]}, {}),
    ("Shape", ["x"], {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "attrs", "held"), CASES, ids=range(len(CASES)))
def test_movement(
    lab: Any, op: str, inputs: list[str], attrs: dict[str, Any], held: dict[str, np.ndarray]
) -> None:
    given = {"x": S, "y": T, "l": LETTERS.reshape(1, 1, 4, 4)}
    feeds = {name: array for name, array in given.items() if name in inputs}
    node = helper.make_node(op, inputs, ["o"], **attrs)
    model = lab.model([node], feeds, ["o"], held, opset=19)
    (got,) = evonnx.compile(model, cache=False).run(None, feeds)
    want = np.asarray(ReferenceEvaluator(model).run(None, feeds)[0])
    want = want.astype(object) if want.dtype.kind == "U" else want
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.tolist() == want.tolist()
    assert lab.ours(model, feeds)["o"].tolist() == want.tolist()


def test_symbolic_sizes(lab: Any) -> None:
    """Sizes in an op's attributes are operands of its host step."""
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["c"], axis=0),
        helper.make_node("Reshape", ["c", "k"], ["r"]),
        helper.make_node("Expand", ["r", "e"], ["o"]),
    ]
    held = {"k": _i(-1), "e": _i(2, 1)}
    model = lab.model(nodes, {"x": S}, ["o"], held, shapes={"x": ("N", "M")})
    compiled = evonnx.compile(model, cache=False)
    for x in (S, S[:, :1].copy(), S[:0].copy()):
        assert compiled.run(None, {"x": x})[0].tolist() == [[*x.ravel(), *x.ravel()]] * 2


def test_single_strings(lab: Any) -> None:
    """What NumPy makes a ``str`` of is a tensor of no axes."""
    lab.check([helper.make_node("Gather", ["y", "k"], ["o"])], {"y": T}, ["o"], {"k": np.array(1)})
    nodes = [helper.make_node("SplitToSequence", ["y"], ["s"], keepdims=0),
             helper.make_node("SequenceAt", ["s", "k"], ["o"])]  # fmt: skip
    lab.check(nodes, {"y": T, "k": np.array(2)}, ["o"])


def test_scan_over_strings() -> None:
    text = """<ir_version: 8, opset_import: ["": 20]> g (string[K] x, string p) => (string[K] y) {
      y = Scan<num_scan_inputs = 1, body: graph = b (string e) => (string o) {
        o = StringConcat(p, e) }>(x) }"""
    compiled = evonnx.compile(onnx.parser.parse_model(text), cache=False)
    for x in (T, T[:0]):
        (got,) = compiled.run(None, {"x": x, "p": np.array("<", object)})
        assert got.tolist() == ["<" + s for s in x]


def test_split_and_zero_elements(lab: Any) -> None:
    node = helper.make_node("Split", ["x"], ["a", "b", "c"], axis=1)
    for x in (S, S[:0].copy()):
        lab.check([node], {"x": x}, ["a", "b", "c"])


@pytest.mark.parametrize("attrs", [{}, {"axis": 1}, {"axis": 0}, {"sorted": 0}])
def test_unique(lab: Any, attrs: dict[str, Any]) -> None:
    x, outputs = np.array([["b", "a", "b"], ["c", "a", "c"]], object), ["o", "i", "j", "n"]
    lab.check([helper.make_node("Unique", ["x"], outputs, **attrs)], {"x": x}, outputs)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_ngrams(lab: Any, mode: str) -> None:
    node = helper.make_node("TfIdfVectorizer", ["x"], ["o"], mode=mode, min_gram_length=1,
                            max_gram_length=2, max_skip_count=1, ngram_counts=[0, 2],
                            ngram_indexes=[0, 1, 2], pool_strings=["a", "b", "b", "a"],
                            weights=[0.5, 2.0, 3.0])  # fmt: skip
    lab.check([node], {"x": S}, ["o"])


def test_casts(lab: Any) -> None:
    numbers = np.array(["1.5", "-2e3", "inf", "NaN", "0.1"], object)
    nodes = [helper.make_node("Cast", ["x"], ["d"], to=11),
             helper.make_node("Cast", ["x"], ["f"], to=1)]  # fmt: skip
    lab.check(nodes, {"x": numbers}, ["d", "f"])
    back = helper.make_node("Cast", ["x"], ["s"], to=8)
    for x in (np.array([1.5, -2, np.nan, -np.inf, 123456.789, 0.1], np.float32),
              np.array([True, False]), np.array([5, -6])):  # fmt: skip
        lab.check([back], {"x": x}, ["s"])
