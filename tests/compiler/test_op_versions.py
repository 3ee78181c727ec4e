"""Every version of every operator of the default domain: there is one, and it means what it says.

Versions that a later one replaced with another meaning are compared with a NumPy statement of
that meaning, or with ONNX's reference evaluator where it knows the version. That versions of the
same meaning agree is tested in ``test_importer_ops``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import evonnx
from evonnx.compiler.importer import import_model
from evonnx.compiler.importer.registry import find_lowering
from evonnx.ir.errors import ModelError
from evonnx.ir.interp import run

RNG = np.random.default_rng(11)


def f32(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def versions() -> dict[str, list[int]]:
    """Versions of each operator of the default domain, by ONNX's own list."""
    found: dict[str, list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, []).append(schema.since_version)
    return {op: sorted(numbers) for op, numbers in found.items()}


def has_body(op: str, opset: int) -> bool:
    s = onnx.defs.get_schema(op, opset, "")
    starts = [*s.function_opset_versions, *s.context_dependent_function_opset_versions]
    return any(v <= opset for v in starts)


def test_every_version_of_every_operator_is_known() -> None:
    """At every opset of its life an operator has a lowering, or a function body made for it."""
    newest = onnx.defs.onnx_opset_version()
    table = versions()
    assert len(table) > 190
    missing = {
        op
        for op, numbers in table.items()
        for opset in range(numbers[0], newest + 1)
        if find_lowering("", op, opset) is None and not has_body(op, opset)
    }
    assert not missing


# -- one node of an old opset ---------------------------------------------------------------------


def model_of(
    op: str,
    opset: int,
    inputs: Sequence[np.ndarray | None],
    attrs: Mapping[str, Any],
    const: Sequence[int] = (),
    outputs: int = 1,
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    names = ["" if x is None else f"x{k}" for k, x in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{k}" for k in range(outputs)], name="node", **attrs)
    feeds = {f"x{k}": x for k, x in enumerate(inputs) if x is not None and k not in const}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in feeds.items()
    ]
    held = [numpy_helper.from_array(np.asarray(inputs[k]), f"x{k}") for k in const]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=o)
                                                   for o in node.output], held)  # fmt: skip
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=4), feeds


def ours(op: str, opset: int, inputs: Sequence[Any], attrs: Mapping[str, Any] | None = None,
         const: Sequence[int] = (), outputs: int = 1) -> list[Any]:  # fmt: skip
    """Results with the sizes given, which must be those with the sizes left open."""
    model, feeds = model_of(op, opset, inputs, attrs or {}, const, outputs)
    results = list(run(import_model(model), feeds).values())
    opened = {"x0": feeds["x0"]} if op in ("GRU", "LSTM", "RNN") else feeds  # weights have theirs
    shapes = {n: [f"{n}_{axis}" for axis in range(x.ndim)] for n, x in opened.items()}
    if op != "Dropout":  # a random one draws again
        for open_, known in zip(run(import_model(model, shapes=shapes), feeds).values(), results):
            np.testing.assert_allclose(open_, known, rtol=1e-6, atol=1e-6)
    return results


def same(got: np.ndarray, want: Any, tolerance: float = 1e-5) -> None:
    want = np.asarray(want)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


A = f32(2, 3, 4, 5)
POSITIVE = f32(2, 3, 4, 5, low=0.3, high=2.0)
BOOLS = RNG.integers(0, 2, (2, 3, 4, 5)).astype(bool)
INTS = RNG.integers(0, 3, (2, 3, 4, 5)).astype(np.int32)
LAYOUTS = [
    ((), {}, ()), ((1, 1), {}, ()), ((5,), {}, (5,)), ((4, 5), {}, (4, 5)),
    ((3, 4), {"axis": 1}, (3, 4, 1)), ((2,), {"axis": 0}, (2, 1, 1, 1)),
    ((4, 5), {"axis": -2}, (4, 5)), ((3, 1), {"axis": 1}, (3, 1, 1)),
]  # fmt: skip
"""Shape of the second operand, attributes, the shape that NumPy needs."""
OPERATIONS: dict[str, tuple[Any, np.ndarray, tuple[int, ...]]] = {
    "Add": (np.add, A, (1, 6)), "Sub": (np.subtract, A, (1, 6)), "Mul": (np.multiply, A, (1, 6)),
    "Div": (np.divide, POSITIVE, (1, 6)), "Pow": (np.power, POSITIVE, (1,)),
    "And": (np.logical_and, BOOLS, (1,)), "Or": (np.logical_or, BOOLS, (1,)),
    "Xor": (np.logical_xor, BOOLS, (1,)), "Equal": (np.equal, INTS, (1,)),
    "Greater": (np.greater, A, (1,)), "Less": (np.less, A, (1,)),
}  # fmt: skip


@pytest.mark.parametrize("op", OPERATIONS)
def test_limited_broadcasting(op: str) -> None:
    """Up to opset 6 the second operand lies beside the axes that ``axis`` says."""
    apply, a, opsets = OPERATIONS[op]
    for opset in opsets:
        same(ours(op, opset, [a, a[::-1].copy()])[0], apply(a, a[::-1]))
        for shape, attrs, aligned in LAYOUTS:
            b = RNG.permutation(a.reshape(-1))[: int(np.prod(shape))].reshape(shape)
            got = ours(op, opset, [a, b], {"broadcast": 1, **attrs})[0]
            same(got, apply(a, b.reshape(aligned)))


@pytest.mark.parametrize("shape, attrs", [
    ((5,), {}), ((2, 3, 4, 1), {}), ((3,), {"broadcast": 1}), ((3, 4), {"broadcast": 1, "axis": 0}),
    ((4, 5), {"broadcast": 1, "axis": 3}), ((2, 2, 3, 4, 5), {"broadcast": 1}),
])  # fmt: skip
def test_limited_broadcasting_refuses_what_it_never_allowed(
    shape: tuple[int, ...], attrs: dict[str, int]
) -> None:
    with pytest.raises(ModelError, match=r"Add \(opset 6\)"):
        ours("Add", 6, [A, f32(*shape)], attrs)


@pytest.mark.parametrize("op", ["Sum", "Max", "Min", "Mean"])
def test_variadic_operands_of_equal_shape(op: str) -> None:
    x, y, z = f32(2, 3), f32(2, 3), f32(2, 3)
    want = {
        "Sum": x + y + z, "Mean": (x + y + z) / np.float32(3),
        "Max": np.maximum(x, np.maximum(y, z)), "Min": np.minimum(x, np.minimum(y, z)),
    }[op]  # fmt: skip
    same(ours(op, 1, [x, y, z], {"consumed_inputs": [0, 0, 0]})[0], want)
    same(ours(op, 6, [x, y, z])[0], want)
    with pytest.raises(ModelError, match="shapes must be equal"):
        ours(op, 6, [x, f32(3)])


def test_prelu_per_channel() -> None:
    x, slope = f32(2, 3, 3), f32(3)
    want = np.where(x < 0, x * slope[:, None], x)
    same(ours("PRelu", 1, [x, slope])[0], want)
    same(ours("PRelu", 6, [x, slope])[0], want)
    same(ours("PRelu", 6, [x, slope[:1]])[0], np.where(x < 0, x * slope[0], x))
    same(ours("PRelu", 7, [x, slope])[0], np.where(x < 0, x * slope, x))
    with pytest.raises(ModelError, match="slope"):
        ours("PRelu", 6, [f32(2, 3, 4), f32(4)])


@pytest.mark.parametrize("opset", [1, 6])
def test_gemm(opset: int) -> None:
    a, b, c, row = f32(4, 3), f32(5, 4), f32(3, 5), f32(5)
    attrs = {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}
    product = np.float32(0.5) * (a.T @ b.T)
    same(ours("Gemm", opset, [a, b, c], attrs)[0], product + 2 * c)
    same(ours("Gemm", opset, [a, b, row], {**attrs, "broadcast": 1})[0], product + 2 * row)
    with pytest.raises(ModelError, match="broadcast is not set"):
        ours("Gemm", opset, [a, b, row], attrs)


# -- attributes that became operands --------------------------------------------------------------

X = f32(4, 6)
INF = np.array([np.inf, -np.inf, 1.0, -1.0], np.float32)
MAX = np.finfo(np.float32).max
AS_ATTRIBUTES: list[tuple[str, int, Any, dict[str, Any], Any]] = [
    ("Reshape", 1, X, {"shape": [0, -1, 2], "consumed_inputs": [0]}, X.reshape(4, 3, 2)),
    ("Slice", 1, X, {"starts": [1], "ends": [-1]}, X[1:-1]),
    ("Slice", 1, X, {"starts": [1, 0], "ends": [99, 2], "axes": [1, 0]}, X[0:2, 1:]),
    ("Pad", 1, X, {"paddings": [0, 1, 2, 0], "value": 3.0},
     np.pad(X, [(0, 2), (1, 0)], constant_values=3.0)),
    ("ReduceLogSumExp", 11, np.array([[1, 2, 30], [4, 4, 4]], np.int32), {"axes": [1]},
     np.array([[30], [5]], np.int32)),
    ("Pad", 2, X, {"pads": [0, -1, 2, 1]}, np.pad(X[:, 1:], [(0, 2), (0, 1)])),
    ("Pad", 2, X, {"pads": [1, 2, 0, 0], "mode": "reflect"},
     np.pad(X, [(1, 0), (2, 0)], mode="reflect")),
    ("Pad", 2, X, {"pads": [9, 0, 8, 13], "mode": "reflect"},
     np.pad(X, [(9, 8), (0, 13)], mode="reflect")),
    ("Pad", 2, X, {"pads": [1, 2, 0, 0], "mode": "edge"}, np.pad(X, [(1, 0), (2, 0)], mode="edge")),
    ("Clip", 1, INF, {"min": -0.5, "consumed_inputs": [0]}, np.maximum(INF, np.float32(-0.5))),
    ("Clip", 1, INF, {}, INF),
    ("Clip", 6, INF, {"min": -0.5}, np.array([MAX, -0.5, 1.0, -0.5], np.float32)),
    ("Clip", 6, INF, {}, np.array([MAX, -MAX, 1.0, -1.0], np.float32)),
    ("Clip", 6, X.astype(np.float64), {"max": 0.25}, np.minimum(X.astype(np.float64), 0.25)),
    ("Upsample", 1, X[None, None], {"height_scale": 2.0, "width_scale": 3.0},
     X.repeat(2, 0).repeat(3, 1)[None, None]),
    ("Upsample", 7, X, {"scales": [3.0, 2.0]}, X.repeat(3, 0).repeat(2, 1)),
    ("Squeeze", 1, X[None, :, None], {"axes": [0, 2]}, X),
    ("Unsqueeze", 1, X, {"axes": [0, 2]}, X[None, :, None]),
    ("ReduceSum", 1, X, {"axes": [0], "keepdims": 0}, X.sum(0)),
    ("ReduceL2", 11, X, {"axes": [-1]}, np.sqrt((X * X).sum(1, keepdims=True))),
    ("Concat", 1, X, {}, X),
    ("Selu", 1, X, {}, np.where(X > 0, X, 1.6732 * (np.exp(X) - 1)).astype(np.float32)
     * np.float32(1.0507)),
    ("Selu", 1, X, {"alpha": 2.0, "gamma": 3.0},
     3 * np.where(X > 0, X, 2 * (np.exp(X) - 1)).astype(np.float32)),
    ("LpPool", 1, X[None, None], {"kernel_shape": [1, 2], "strides": [1, 2], "p": 3.0},
     ((np.abs(X.reshape(4, 3, 2)) ** 3).sum(-1) ** (1 / 3)).astype(np.float32)[None, None]),
    ("GlobalLpPool", 1, X[None, None], {"p": 3.0},
     ((np.abs(X) ** 3).sum() ** (1 / 3)).reshape(1, 1, 1, 1)),
    ("AveragePool", 1, X[None, None], {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1],
                                       "strides": [1, 5]},
     np.stack([X[:, :2].mean(1), X[:, 4:].mean(1)], 1)[None, None]),
]  # fmt: skip


@pytest.mark.parametrize(
    "op, opset, x, attrs, want", AS_ATTRIBUTES,
    ids=[f"{c[0]}-{c[1]}-{k}" for k, c in enumerate(AS_ATTRIBUTES)],
)  # fmt: skip
def test_one_operand_and_attributes(
    op: str, opset: int, x: np.ndarray, attrs: dict[str, Any], want: np.ndarray
) -> None:
    same(ours(op, opset, [x], attrs)[0], want)


def test_bilinear_upsample_of_opset_1() -> None:
    x = f32(1, 2, 3, 4)
    attrs = {"height_scale": 2.0, "width_scale": 2.0, "mode": "bilinear"}
    scales = np.array([1, 1, 2, 2], np.float32)
    want = ours("Upsample", 9, [x, scales], {"mode": "linear"}, const=(1,))[0]
    same(ours("Upsample", 1, [x], attrs)[0], want)
    with pytest.raises(ModelError, match="N, C, H, W"):
        ours("Upsample", 1, [f32(3, 4)], attrs)


def test_top_k_of_opset_1() -> None:
    model, feeds = model_of("TopK", 1, [f32(3, 7)], {"k": 3, "axis": 1}, outputs=2)
    want = ReferenceEvaluator(model).run(None, feeds)
    for got, expected in zip(run(import_model(model), feeds).values(), want, strict=True):
        same(got, expected)


# -- operands and attributes of another form ------------------------------------------------------


def test_tile_split_concat_cast_of_opset_1() -> None:
    x = f32(5, 3)
    tiles, axis = np.array([2], np.float32), np.array([1], np.float32)
    same(ours("Tile", 1, [x, tiles, axis], const=(1, 2))[0], np.tile(x, (1, 2)))
    for inputs, const, attrs in (
        ([x, np.array([2, 3], np.float32)], (1,), {"axis": 0}), ([x], (), {"split": [2, 3]}),
    ):  # fmt: skip
        first, second = ours("Split", 1, inputs, attrs, const, outputs=2)
        same(first, x[:2])
        same(second, x[2:])
    with pytest.raises(ModelError, match="twice"):
        ours("Split", 1, [x, np.array([2, 3], np.float32)], {"split": [2, 3]}, (1,), 2)
    same(ours("Concat", 1, [x, x])[0], np.concatenate([x, x], 1))
    same(ours("Cast", 1, [x], {"to": "INT32"})[0], x.astype(np.int32))
    same(ours("Cast", 1, [x], {"to": "DOUBLE"})[0], x.astype(np.float64))
    with pytest.raises(ModelError, match="no element type 'float'"):
        ours("Cast", 1, [x], {"to": "float"})


def test_one_hot_of_opset_9_has_no_negative_positions() -> None:
    index, values = np.array([0, -1, 2, 5]), np.array([0.0, 1.0], np.float32)
    inputs = [index, np.array([3]), values]
    row = np.eye(3, dtype=np.float32)
    none = np.zeros(3, np.float32)
    same(ours("OneHot", 9, inputs, const=(1,))[0], [row[0], none, row[2], none])
    same(ours("OneHot", 11, inputs, const=(1,))[0], [row[0], row[2], row[2], none])


@pytest.mark.parametrize("opset", [1, 11])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
def test_softmax_over_all_trailing_axes(op: str, opset: int) -> None:
    x = f32(2, 3, 4)
    for axis in (None, 0, 1, 2) if opset == 1 else (-3, -2, -1):
        k = 1 if axis is None else axis % 3
        rows = x.reshape(int(np.prod(x.shape[:k])), -1)
        e = np.exp(rows - rows.max(1, keepdims=True))
        soft = e / e.sum(1, keepdims=True)
        hard = np.eye(rows.shape[1], dtype=np.float32)[rows.argmax(1)]
        want = {"Softmax": soft, "LogSoftmax": np.log(soft), "Hardmax": hard}[op]
        attrs = {} if axis is None else {"axis": axis}
        same(ours(op, opset, [x], attrs)[0], want.reshape(x.shape))


def test_gru_of_opset_1() -> None:
    inputs = [f32(4, 2, 3), f32(1, 15, 3), f32(1, 15, 5)]
    attrs = {"hidden_size": 5, "output_sequence": 1}
    want = ours("GRU", 7, inputs, {"hidden_size": 5}, outputs=2)
    for direction in ({}, {"direction": "foward"}, {"direction": "forward"}):
        for got, expected in zip(ours("GRU", 1, inputs, attrs | direction, outputs=2), want):
            same(got, expected)


@pytest.mark.parametrize("op, gates", [("LSTM", 4), ("RNN", 1)])
def test_other_recurrent_layers_of_opset_1(op: str, gates: int) -> None:
    inputs = [f32(4, 2, 3), f32(1, 5 * gates, 3), f32(1, 5 * gates, 5)]
    want = ours(op, 7, inputs, {"hidden_size": 5}, outputs=2)
    got = ours(op, 1, inputs, {"hidden_size": 5, "output_sequence": 1}, outputs=2)
    for one, expected in zip(got, want, strict=True):
        same(one, expected)


def test_roi_align_of_opset_10_does_not_shift() -> None:
    rois = np.array([[0.5, 1.0, 5.0, 6.5], [2.0, 0.0, 7.0, 3.0]], np.float32)
    inputs = [f32(1, 2, 8, 8), rois, np.zeros(2, np.int64)]
    attrs: dict[str, Any] = {"output_height": 2, "output_width": 3, "sampling_ratio": 2}
    (got,) = ours("RoiAlign", 10, inputs, attrs)
    for mode, equal in (("output_half_pixel", True), ("half_pixel", False)):
        (want,) = ours("RoiAlign", 16, inputs, attrs | {"coordinate_transformation_mode": mode})
        assert np.array_equal(got, want) == equal


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stft_of_a_complex_signal(dtype: Any) -> None:
    x = RNG.standard_normal((2, 40, 2)).astype(dtype)
    window = RNG.uniform(0.1, 1.0, 12).astype(dtype)
    frames = np.lib.stride_tricks.sliding_window_view(x[..., 0] + 1j * x[..., 1], 12, axis=1)
    want = np.fft.fft(frames[:, ::5] * window)
    attrs = {"onesided": 0}
    inputs = [x, np.array(5), window]
    model, feeds = model_of("STFT", 17, inputs, attrs, const=(1, 2))
    for shapes in (None, {"x0": ("n", "samples", 2)}):
        (got,) = run(import_model(model, shapes=shapes), feeds).values()
        same(got, np.stack([want.real, want.imag], -1).astype(dtype))
    same(evonnx.compile(model, cache=False)(x), got)
    with pytest.raises(ModelError, match="onesided"):
        ours("STFT", 17, inputs, const=(1, 2))


def test_scatter_is_scatter_elements() -> None:
    """ONNX deprecated Scatter in opset 11 for another name; old models carry on."""
    x, index, updates = f32(3, 3), np.array([[0, 2, 1]]), f32(1, 3)
    want = ours("ScatterElements", 11, [x, index, updates])[0]
    for opset in (9, 10, 11, 13):
        same(ours("Scatter", opset, [x, index, updates])[0], want)


# -- training and inference -----------------------------------------------------------------------


@pytest.mark.parametrize("opset", [1, 6, 7, 10])
def test_dropout_in_inference(opset: int) -> None:
    x = f32(2, 3)
    attrs: dict[str, Any] = {"ratio": 0.9} | ({"is_test": 1} if opset < 7 else {})
    y, mask = ours("Dropout", opset, [x], attrs, outputs=2)
    same(y, x)
    same(mask, np.ones_like(x, bool if opset >= 10 else np.float32))


@pytest.mark.parametrize("opset", [1, 6])
def test_dropout_without_is_test_trains(opset: int) -> None:
    """It is not silently taken for inference."""
    x = np.ones((40, 50), np.float32)
    y, mask = ours("Dropout", opset, [x], {"ratio": 0.5}, outputs=2)
    assert mask.dtype == np.float32
    assert set(np.unique(y)) == {0.0, 2.0}
    same(y, 2 * mask)


def _normalized(x: np.ndarray, scale: Any, bias: Any, mean: Any, var: Any) -> np.ndarray:
    """Per channel (axis 1), in float64."""
    column = (slice(None), *(None,) * (x.ndim - 2))
    wide = [np.asarray(v, np.float64)[column] for v in (scale, bias, mean, var)]
    y = (x - wide[2]) / np.sqrt(wide[3] + 1e-5) * wide[0] + wide[1]
    return y.astype(np.float32)


@pytest.mark.parametrize("opset", [1, 6, 7, 9])
def test_batch_normalization_in_inference(opset: int) -> None:
    x, stats = f32(2, 3, 4, 4), [f32(3), f32(3), f32(3), f32(3, low=0.1)]
    attrs: dict[str, Any] = {"is_test": 1} if opset < 7 else {}
    if opset == 1:
        attrs["consumed_inputs"] = [0, 0, 0, 1, 1]
    same(ours("BatchNormalization", opset, [x, *stats], attrs)[0], _normalized(x, *stats), 1e-4)


@pytest.mark.parametrize("opset", [9, 14, 15])
def test_batch_normalization_of_a_vector(opset: int) -> None:
    """From opset 9 on a vector is a batch of one channel."""
    x, stats = f32(7), [f32(1), f32(1), f32(1), f32(1, low=0.1)]
    want = _normalized(x[:, None], *stats)[:, 0]
    same(ours("BatchNormalization", opset, [x, *stats])[0], want, 1e-4)
    training: dict[str, Any] = {"training_mode": 1} if opset >= 14 else {}
    y = ours("BatchNormalization", opset, [x, *stats], training, outputs=3)[0]
    same(y, _normalized(x[:, None], *stats[:2], [x.mean()], [x.var()])[:, 0], 1e-4)


@pytest.mark.parametrize("opset", [1, 6, 7])
def test_batch_normalization_of_every_element(opset: int) -> None:
    """``spatial=0``: one mean and variance per element of a row."""
    x, stats = f32(5, 3, 4), [f32(3, 4), f32(3, 4), f32(3, 4), f32(3, 4, low=0.1)]
    attrs: dict[str, Any] = {"spatial": 0} | ({"is_test": 1} if opset < 7 else {})
    if opset == 1:
        attrs["consumed_inputs"] = [0, 0, 0, 1, 1]
    want = _normalized(x.reshape(5, 12), *(v.reshape(12) for v in stats)).reshape(x.shape)
    same(ours("BatchNormalization", opset, [x, *stats], attrs)[0], want, 1e-4)


@pytest.mark.parametrize("opset, spatial", [(6, 1), (7, 1), (7, 0), (9, 1)])
def test_batch_normalization_in_training(opset: int, spatial: int) -> None:
    """Statistics of the batch; the running ones move by ``1 - momentum`` towards them."""
    x = f32(5, 3, 4)
    shape = (3,) if spatial else (3, 4)
    scale, bias, mean, var = f32(*shape), f32(*shape), f32(*shape), f32(*shape, low=0.1)
    attrs: dict[str, Any] = {"momentum": 0.75} | ({} if opset >= 9 else {"spatial": spatial})
    got = ours("BatchNormalization", opset, [x, scale, bias, mean, var], attrs, outputs=5)
    axes = (0, 2) if spatial else (0,)
    batch_mean, batch_var = x.mean(axes), x.var(axes)
    flat = x if spatial else x.reshape(5, 12)
    stats = (np.reshape(v, -1) for v in (scale, bias, batch_mean, batch_var))
    same(got[0], _normalized(flat, *stats).reshape(x.shape), 1e-4)
    same(got[1], mean * np.float32(0.75) + batch_mean * np.float32(0.25), 1e-4)
    same(got[2], var * np.float32(0.75) + batch_var * np.float32(0.25), 1e-4)
    same(got[3], batch_mean, 1e-4)
    same(got[4], batch_var, 1e-4)


def test_batch_normalization_without_is_test_trains() -> None:
    x, stats = f32(5, 3, 4), [f32(3), f32(3), f32(3), f32(3, low=0.1)]
    want = _normalized(x, stats[0], stats[1], x.mean((0, 2)), x.var((0, 2)))
    same(ours("BatchNormalization", 6, [x, *stats])[0], want, 1e-4)
    with pytest.raises(ModelError, match="is_test"):
        ours("BatchNormalization", 6, [x, *stats], {"is_test": 1}, outputs=3)


# -- control flow ---------------------------------------------------------------------------------


def _body(nodes: Sequence[onnx.NodeProto], inputs: dict[str, int], outputs: Sequence[str]) -> Any:
    infos = [helper.make_tensor_value_info(n, kind, None) for n, kind in inputs.items()]
    return helper.make_graph(list(nodes), "body", infos, [onnx.ValueInfoProto(name=o)
                                                          for o in outputs])  # fmt: skip


@pytest.mark.parametrize("opset", [1, 6, 7, 11])
def test_control_flow_of_old_opsets(opset: int) -> None:
    """Loops and branches mean the same; what is inside broadcasts as the opset says."""
    broadcast = {"broadcast": 1, "axis": 0} if opset < 7 else {}
    shape = (2,) if opset < 7 else (2, 1)
    add = helper.make_node("Add", ["s", "bias"], ["t"], name="add", **broadcast)
    keep = helper.make_node("Identity", ["go"], ["go_on"])
    step = _body([add, keep], {"i": TensorProto.INT64, "go": TensorProto.BOOL,
                               "s": TensorProto.FLOAT}, ["go_on", "t", "t"])  # fmt: skip
    then = _body([helper.make_node("Relu", ["x"], ["p"])], {}, ["p"])
    other = _body([helper.make_node("Abs", ["x"], ["q"])], {}, ["q"])
    nodes = [
        helper.make_node("If", ["which"], ["start"], then_branch=then, else_branch=other),
        helper.make_node("Loop", ["trips", "go_in", "start"], ["last", "all"], body=step),
    ]
    x, bias = f32(2, 3), f32(*shape)
    feeds = {"which": np.array(True), "trips": np.array(3), "go_in": np.array(True), "x": x,
             "bias": bias}  # fmt: skip
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in feeds.items()]  # fmt: skip
    outs = [onnx.ValueInfoProto(name=o) for o in ("last", "all")]
    graph = helper.make_graph(nodes, "g", infos, outs)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=4)
    column = bias.reshape(2, 1)
    for flag, start in ((True, np.maximum(x, 0)), (False, np.abs(x))):
        last, every = run(import_model(model), feeds | {"which": np.array(flag)}).values()
        same(last, start + 3 * column)
        same(every, np.stack([start + k * column for k in (1, 2, 3)]))


# -- Scan of a batch ------------------------------------------------------------------------------


def _scan8(directions: list[int] | None, with_lens: bool, batch: Any = 3) -> onnx.ModelProto:
    """state += x * k, giving 10 * state; k is captured, Clip is the one of opset 8."""
    body = helper.make_graph(
        [helper.make_node("Mul", ["x", "k"], ["scaled"]),
         helper.make_node("Add", ["s", "scaled"], ["sum"]),
         helper.make_node("Clip", ["sum"], ["out"], min=-4.0, max=4.0),
         helper.make_node("Mul", ["out", "ten"], ["item"])],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("s", "x")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("out", "item")],
        [numpy_helper.from_array(np.float32(10.0), "ten")],
    )  # fmt: skip
    attrs = {} if directions is None else {"directions": directions}
    node = helper.make_node("Scan", ["lens" if with_lens else "", "s0", "xs"], ["s", "items"],
                            body=body, num_scan_inputs=1, **attrs)  # fmt: skip
    infos = [helper.make_tensor_value_info("s0", TensorProto.FLOAT, [batch, 2]),
             helper.make_tensor_value_info("xs", TensorProto.FLOAT, [batch, 4, 2]),
             helper.make_tensor_value_info("k", TensorProto.FLOAT, [2])]  # fmt: skip
    if with_lens:
        infos.append(helper.make_tensor_value_info("lens", TensorProto.INT64, [batch]))
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=n)
                                                   for n in ("s", "items")])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=4)


@pytest.mark.parametrize("batch", [3, "n"])
@pytest.mark.parametrize("lens", [None, [4, 2, 0]])
@pytest.mark.parametrize("directions", [None, [0], [1]])
def test_scan_of_opset_8(directions: list[int] | None, lens: list[int] | None, batch: Any) -> None:
    s0, xs, k = f32(3, 2), f32(3, 4, 2), f32(2)
    state, items = s0.copy(), np.zeros((3, 4, 2), np.float32)
    for row, count in enumerate(lens or [4, 4, 4]):
        steps = xs[row, :count]
        for t, x in enumerate(steps[::-1] if directions == [1] else steps):
            state[row] = np.clip(state[row] + x * k, -4.0, 4.0)
            items[row, t] = 10 * state[row]
    feeds = {"s0": s0, "xs": xs, "k": k} | ({} if lens is None else {"lens": np.array(lens)})
    model = _scan8(directions, lens is not None, batch)
    for results in (run(import_model(model), feeds), evonnx.compile(model, cache=False)(**feeds)):
        got = list(results.values()) if isinstance(results, dict) else list(results)
        same(got[0], state)
        same(got[1], items)


# -- models that name no opset --------------------------------------------------------------------


def test_the_first_ir_versions_imply_opset_1() -> None:
    model, feeds = model_of("Add", 1, [f32(2, 3), f32(2, 3)], {"consumed_inputs": [0, 0]})
    del model.opset_import[:]
    with pytest.raises(ModelError, match="default domain"):
        import_model(model)
    model.ir_version = 2
    same(next(iter(run(import_model(model), feeds).values())), feeds["x0"] + feeds["x1"])
