"""Labels, categories and maps of ai.onnx.ml against ONNX Runtime and ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import evonnx
from evonnx.ir.errors import FeedError, ModelError

RNG = np.random.default_rng(29)
ML = "ai.onnx.ml"
WORDS = np.array(["a", "bb", "a", "zz"], object)


def _node(op: str, **attrs: Any) -> Any:
    return helper.make_node(op, ["x"], ["y"], domain=ML, **attrs)


def _parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>' + text
    )


# -- LabelEncoder ------------------------------------------------------------------------------


def test_first_version(lab: Any) -> None:
    for x, attrs in (
        (WORDS, {"default_int64": -3}), (np.array([1, 0, 5, -1]), {"default_string": "no"}),
    ):  # fmt: skip
        node = _node("LabelEncoder", classes_strings=["a", "bb"], **attrs)
        model = lab.model([node], {"x": x}, ["y"])
        model.opset_import[2].version = 1
        got, want = lab.ours(model, {"x": x})["y"], lab.theirs(model, {"x": x})["y"]
        assert got.dtype == want.dtype
        assert got.tolist() == want.tolist()


@pytest.mark.parametrize("keys", ["f4", "f8", "i8", "i4", "i2", "O"])
@pytest.mark.parametrize("values", ["f4", "f8", "i8", "i4", "i2", "O"])
def test_tables_as_tensors(lab: Any, keys: str, values: str) -> None:
    def table(kind: str, numbers: list[int], words: list[str]) -> np.ndarray:
        return np.array(words, object) if kind == "O" else np.array(numbers, kind)

    x = table(keys, [1, 3, 5, 2], ["a", "q", "c", "bb"]).reshape(2, 2)
    tensors = {
        "keys_tensor": table(keys, [1, 2, 5], ["a", "bb", "c"]),
        "values_tensor": table(values, [10, -20, 7], ["x", "yy", "z"]),
        "default_tensor": table(values, [42], ["dd"]),
    }
    node = _node("LabelEncoder", **{k: numpy_helper.from_array(v) for k, v in tensors.items()})
    model = lab.model([node], {"x": x}, ["y"], opset=21)
    got = lab.ours(model, {"x": x})["y"]
    found, default = tensors["values_tensor"], tensors["default_tensor"][0]
    assert got.dtype == found.dtype
    assert got.tolist() == [[found[0], default], [found[2], found[1]]]


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
@pytest.mark.parametrize("count", [1, 2, 32, 33, 34, 100, 1000])
def test_many_keys_are_searched_in_compiled_code(lab: Any, dtype: Any, count: int) -> None:
    keys = (RNG.permutation(3 * count)[:count] - count).astype(dtype)
    plural = "floats" if dtype is np.float32 else "int64s"
    x = np.arange(-2 * count, 3 * count).astype(dtype)
    if dtype is np.float32:
        keys, x = keys / 2, x / 2
        x[:2] = np.nan, np.inf
    node = _node("LabelEncoder", values_int64s=np.arange(count).tolist(), **{
        f"keys_{plural}": keys.tolist()})  # fmt: skip
    compiled = evonnx.compile(lab.model([node], {"x": x}, ["y"]), cache=False)
    assert not compiled.report().host
    table = dict(zip(keys.tolist(), range(count), strict=True))
    assert compiled.run(None, {"x": x})[0].tolist() == [table.get(v, -1) for v in x.tolist()]


def test_nan_is_a_key_and_the_first_of_equal_keys_counts(lab: Any) -> None:
    x = np.array([np.nan, 2, -0.0, 7], np.float32)
    for count in (0, 60):  # few keys, and enough for a search
        more = np.arange(100, 100 + count)
        node = _node("LabelEncoder", keys_floats=[2.0, float("nan"), 2.0, *more.tolist()],
                     values_int64s=[5, 6, 7, *more.tolist()])  # fmt: skip
        model = lab.model([node], {"x": x}, ["y"])
        assert evonnx.compile(model, cache=False)(x).tolist() == [6, 5, -1, -1]
    words = _node("LabelEncoder", keys_strings=["a", "a"], values_strings=["x", "y"])
    got = lab.check([words], {"x": WORDS}, ["y"])
    assert got["y"].tolist() == ["x", "_Unused", "x", "_Unused"]


def test_keys_that_no_float_tells_apart(lab: Any) -> None:
    big = 1 << 53
    keys = [big, big + 1, *range(40)]
    node = _node("LabelEncoder", keys_int64s=keys, values_int64s=list(range(42)))
    x = np.array([big, big + 1, big + 2, 39])
    assert evonnx.compile(lab.model([node], {"x": x}, ["y"]), cache=False)(x).tolist() == [
        0, 1, -1, 41]  # fmt: skip


def test_keys_of_another_type_are_an_error(lab: Any) -> None:
    node = _node("LabelEncoder", keys_int64s=[1], values_int64s=[2])
    with pytest.raises(ModelError, match="keys of i64"):
        evonnx.compile(lab.model([node], {"x": WORDS}, ["y"]))


# -- categories --------------------------------------------------------------------------------


def test_category_mapper(lab: Any) -> None:
    cats = {"cats_strings": ["a", "bb"], "cats_int64s": [4, 9]}
    lab.check([_node("CategoryMapper", **cats)], {"x": WORDS}, ["y"])
    lab.check([_node("CategoryMapper", default_string="?", **cats)], {"x": np.array([[4, 9, 1]])},
              ["y"])  # fmt: skip


@pytest.mark.parametrize("x", [WORDS, WORDS.reshape(2, 2)])
def test_one_hot_of_strings(lab: Any, x: np.ndarray) -> None:
    lab.check([_node("OneHotEncoder", cats_strings=["bb", "a"])], {"x": x}, ["y"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_one_hot_of_numbers(lab: Any, dtype: Any) -> None:
    x = np.array([[3, 1], [-2, 5]], dtype)
    lab.check_compiled([_node("OneHotEncoder", cats_int64s=[3, 1, -2, 0])], {"x": x}, ["y"])


@pytest.mark.parametrize("x", [WORDS, np.array([7, 9, 7, 3])])
def test_unknown_categories_with_zeros_0_are_an_error(lab: Any, x: np.ndarray) -> None:
    known = sorted(set(x.tolist()))
    name = "cats_strings" if x.dtype == object else "cats_int64s"
    lab.check_compiled([_node("OneHotEncoder", zeros=0, **{name: known})], {"x": x}, ["y"])
    node = _node("OneHotEncoder", zeros=0, **{name: known[1:]})
    with pytest.raises(ModelError, match="none of the categories"):
        evonnx.compile(lab.model([node], {"x": x}, ["y"]), cache=False).run(None, {"x": x})


def test_features_are_cut_and_padded(lab: Any) -> None:
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    node = helper.make_node("FeatureVectorizer", ["x", "x"], ["y"], domain=ML,
                            inputdimensions=[6, 2])  # fmt: skip
    lab.check_compiled([node], {"x": x}, ["y"])


def test_array_features_of_strings(lab: Any) -> None:
    x, k = WORDS.reshape(2, 2), np.array([1, 0], np.int64)
    node = helper.make_node("ArrayFeatureExtractor", ["x", "k"], ["y"], domain=ML)
    lab.check([node], {"x": x, "k": k}, ["y"])
    lab.check([node], {"x": WORDS, "k": k}, ["y"])


# -- maps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "given"),
    [("float", {"a": 1.5, "b": 2.0, "other": 9.0}), ("double", {"a": 1.5}), ("int64", {"b": 7})],
)
def test_dict_vectorizer(lab: Any, value: str, given: dict[str, Any]) -> None:
    model = _parsed(
        f"g (map(string, {value}) x) => ({value}[A, B] y) {{"
        ' y = ai.onnx.ml.DictVectorizer<string_vocabulary = ["a", "c", "b"]>(x) }'
    )
    (got,) = evonnx.compile(model, cache=False).run(None, {"x": given})
    assert got.dtype == {"float": "f4", "double": "f8", "int64": "i8"}[value]
    assert got.tolist() == [[given.get(k, 0) for k in "acb"]]
    if value == "float":  # Python's numbers are float32 to ONNX Runtime, whatever is declared
        assert got.tolist() == lab.theirs(model, {"x": given})["y"].tolist()


@pytest.mark.parametrize("form", ["", 'map_form = "SPARSE", max_map = 9, '])
@pytest.mark.parametrize(("to", "kind"), [("TO_FLOAT", "float"), ("TO_INT64", "int64")])
def test_cast_map(lab: Any, form: str, to: str, kind: str) -> None:
    model = _parsed(
        f"g (map(int64, float) x) => ({kind}[A, B] y) {{"
        f' y = ai.onnx.ml.CastMap<{form}cast_to = "{to}">(x) }}'
    )
    feeds = {"x": {2: 1.5, 0: -2.25, 7: 0.1}}
    want = lab.theirs(model, feeds)["y"]
    (got,) = evonnx.compile(model, cache=False).run(None, feeds)
    assert got.dtype == want.dtype
    assert got.tolist() == want.tolist()


def test_feeds_of_maps_are_checked() -> None:
    model = _parsed("g (map(int64, float) x) => (float[A, B] y) { y = ai.onnx.ml.CastMap(x) }")
    compiled = evonnx.compile(model, cache=False)
    for bad in ([1.0], {"a": 1.0}, {1: "a"}, {1.5: 1.0}):
        with pytest.raises(FeedError, match="'x'"):
            compiled.run(None, {"x": bad})
    assert compiled.run(None, {"x": {np.int64(3): np.float32(2), 1: 5}})[0].tolist() == [[5, 2]]


def test_zipmap_of_one_row_has_a_type(lab: Any) -> None:
    x = np.array([0.25, 0.75], np.float32)
    for labels in ({"classlabels_int64s": [4, 5]}, {"classlabels_strings": ["p", "q"]}):
        got = lab.check([_node("ZipMap", **labels)], {"x": x.reshape(1, 2)}, ["y"])
        assert list(got["y"][0].values()) == [0.25, 0.75]
