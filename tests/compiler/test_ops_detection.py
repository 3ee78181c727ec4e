"""NonMaxSuppression, Unique, RoiAlign, Col2Im, strings: results whose size depends on data."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from evonnx.compiler.importer import import_model
from evonnx.ir.interp import run

RNG = np.random.default_rng(23)


def _f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("limit", [0, 3, 100])
def test_non_max_suppression(lab: Any, center: int, limit: int) -> None:
    feeds = {"b": RNG.uniform(0, 1, (2, 20, 4)).astype(np.float32),
             "s": RNG.uniform(0, 1, (2, 3, 20)).astype(np.float32)}  # fmt: skip
    held = {"m": np.array(limit, np.int64), "i": np.array(0.3, np.float32),
            "t": np.array(0.25, np.float32)}  # fmt: skip
    node = helper.make_node("NonMaxSuppression", ["b", "s", "m", "i", "t"], ["y"],
                            center_point_box=center)  # fmt: skip
    lab.check([node], feeds, ["y"], held, shapes={"b": ("N", "K", 4), "s": ("N", 3, "K")})


def test_nms_without_a_limit_keeps_nothing(lab: Any) -> None:
    feeds = {"b": RNG.uniform(0, 1, (1, 5, 4)).astype(np.float32), "s": _f(1, 1, 5)}
    lab.check([helper.make_node("NonMaxSuppression", ["b", "s"], ["y"])], feeds, ["y"])


def test_what_follows_nms_has_its_size(lab: Any) -> None:
    feeds = {"b": RNG.uniform(0, 1, (1, 9, 4)).astype(np.float32),
             "s": RNG.uniform(0, 1, (1, 1, 9)).astype(np.float32)}  # fmt: skip
    held = {"m": np.array(9, np.int64), "i": np.array(0.2, np.float32),
            "k": np.array(2, np.int64), "z": np.array([0], np.int64)}  # fmt: skip
    nodes = [
        helper.make_node("NonMaxSuppression", ["b", "s", "m", "i"], ["r"]),
        helper.make_node("Gather", ["r", "k"], ["j"], axis=1),
        helper.make_node("Squeeze", ["b", "z"], ["q"]),
        helper.make_node("Gather", ["q", "j"], ["y"], axis=0),
    ]
    lab.check(nodes, feeds, ["y"], held)


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_unique(lab: Any, ordered: int, axis: int | None) -> None:
    x = RNG.integers(0, 2, (5, 4)).astype(np.float32)
    attrs = {} if axis is None else {"axis": axis}
    node = helper.make_node("Unique", ["x"], ["y", "f", "i", "c"], sorted=ordered, **attrs)
    lab.check([node], {"x": x}, ["y", "f", "i", "c"])


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["half_pixel", "output_half_pixel"])
def test_roi_align(lab: Any, ratio: int, mode: str) -> None:
    rois = np.array([[0, 0, 7, 5], [1.5, 2.5, 4, 9], [-3, -3, 20, 20], [3, 3, 3, 3]], np.float32)
    feeds = {"x": _f(2, 3, 8, 9), "r": rois, "n": np.array([0, 1, 1, 0], np.int64)}
    node = helper.make_node("RoiAlign", ["x", "r", "n"], ["y"], output_height=3, output_width=2,
                            sampling_ratio=ratio, spatial_scale=0.75,
                            coordinate_transformation_mode=mode)  # fmt: skip
    lab.check([node], feeds, ["y"])


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float16, 4e-3)])
def test_roi_align_of_other_types(dtype: Any, tolerance: float) -> None:
    rois = np.array([[0, 0, 7, 5], [1.5, 2.5, 4, 9], [-3, -3, 20, 20], [3, 3, 3, 3]], dtype)
    feeds = {"x": _f(2, 3, 8, 9).astype(dtype), "r": rois, "n": np.array([0, 1, 1, 0], np.int64)}
    node = helper.make_node("RoiAlign", ["x", "r", "n"], ["y"], output_height=3, output_width=2)
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in feeds.items()]  # fmt: skip
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (got,) = run(import_model(model), feeds).values()
    wide = {n: v.astype(np.float64) if v.dtype == dtype else v for n, v in feeds.items()}
    for info in model.graph.input:
        if info.name != "n":
            info.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    (want,) = ReferenceEvaluator(model).run(None, wide)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("attrs", [{}, {"strides": [2, 1], "pads": [1, 0, 1, 0]},
                                   {"dilations": [1, 2]}])  # fmt: skip
def test_col2im(lab: Any, attrs: dict[str, Any]) -> None:
    image, block = (7, 6), (3, 2)
    s, d = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    p = attrs.get("pads", [0, 0, 0, 0])
    count = np.prod([(image[k] + p[k] + p[2 + k] - (block[k] - 1) * d[k] - 1) // s[k] + 1
                     for k in range(2)])  # fmt: skip
    held = {"i": np.array(image, np.int64), "b": np.array(block, np.int64)}
    node = helper.make_node("Col2Im", ["x", "i", "b"], ["y"], **attrs)
    lab.check([node], {"x": _f(2, 12, int(count))}, ["y"], held, opset=18)


# -- strings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "sensitive", "kept"),
    [("LOWER", 0, ["tuesday", "öl"]), ("UPPER", 1, ["MONDAY", "TUESDAY", "MONDAY", "ÖL"]),
     ("NONE", 0, ["tuesday", "Öl"]), ("NONE", 1, ["Monday", "tuesday", "MONDAY", "Öl"])],
)  # fmt: skip
def test_string_normalizer(lab: Any, case: str, sensitive: int, kept: list[str]) -> None:
    """By the ONNX text: the runtime needs a system locale that bare machines lack."""
    words = np.array(["Monday", "tuesday", "MONDAY", "Öl"], object)
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action=case,
                            is_case_sensitive=sensitive, stopwords=["monday"])  # fmt: skip
    got = lab.ours(lab.model([node], {"x": words}, ["y"]), {"x": words})["y"]
    assert got.tolist() == kept


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_tfidf(lab: Any, mode: str) -> None:
    x = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]], np.int32)
    node = helper.make_node(
        "TfIdfVectorizer", ["x"], ["y"], mode=mode, min_gram_length=1, max_gram_length=2,
        max_skip_count=2, ngram_counts=[0, 4], ngram_indexes=[0, 1, 2, 3, 4, 5, 6],
        pool_int64s=[2, 3, 5, 4, 5, 6, 7, 8, 6, 7], weights=[2.0] * 7,
    )  # fmt: skip
    lab.check([node], {"x": x}, ["y"])


def test_tokenizer(lab: Any) -> None:
    x = np.array([["abc def", "g"], ["", "hij kl mnop"]], object)
    node = helper.make_node("Tokenizer", ["x"], ["y"], domain="com.microsoft", mark=0,
                            mincharnum=1, pad_value="#", separators=[" "])  # fmt: skip
    lab.check([node], {"x": x}, ["y"])


def test_strings_are_compared_converted_and_moved(lab: Any) -> None:
    nodes = [
        helper.make_node("Gather", ["x", "k"], ["g"], axis=0),
        helper.make_node("Equal", ["g", "w"], ["e"]),
        helper.make_node("Cast", ["g"], ["n"], to=1),
        helper.make_node("Cast", ["n"], ["s"], to=8),
    ]
    feeds = {"x": np.array(["1.5", "-2", "30"], object)}
    held = {"k": np.array([2, 0], np.int64), "w": np.array(["30"], object)}
    lab.check(nodes, feeds, ["g", "e", "n"], held, opset=19)
    got = lab.ours(lab.model(nodes, feeds, ["s"], held, 19), feeds)
    assert got["s"].tolist() == ["30", "1.5"]
