"""Compiled operators against ONNX Runtime, ONNX's reference or NumPy: windows, training, ..."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import evonnx
from evonnx.ir.errors import ModelError

N = helper.make_node
RNG = np.random.default_rng(41)
TRAINING = "ai.onnx.preview.training"


def _f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _run(model: Any, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by the schedule of greedy fusion: what operators mean does not depend on it."""
    compiled = evonnx.compile(model, threads=1, search="none")
    return dict(zip(compiled.output_names, compiled.run(None, feeds), strict=True))


def _close(got: Any, want: Any, tolerance: float = 2e-5) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=tolerance,
                               atol=tolerance)  # fmt: skip


def _check(
    lab: Any, node: Any, feeds: dict[str, np.ndarray], opset: int = 22, shapes: Any = None,
    tolerance: float = 2e-5, reference: bool = False, held: Any = None,
) -> None:  # fmt: skip
    """Agrees with ONNX Runtime, or with ONNX's reference evaluator."""
    outputs = [o for o in node.output if o]
    model = lab.model([node], feeds, outputs, held, opset, shapes)
    if reference:
        want = dict(zip(outputs, ReferenceEvaluator(model).run(None, feeds), strict=True))
    else:
        want = lab.theirs(model, feeds)
    for name, got in _run(model, feeds).items():
        _close(got, np.asarray(want[name]), tolerance)


# -- transposed convolutions ---------------------------------------------------------------------

TRANSPOSED: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((5,), (3,), {"strides": [2], "output_padding": [1], "pads": [1, 0]}),
    ((4, 3), (2, 3), {"strides": [3, 2], "dilations": [2, 1], "group": 2}),
    ((4, 3), (3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((4, 3), (3, 4), {"strides": [2, 3], "auto_pad": "SAME_LOWER", "dilations": [1, 2]}),
    ((3, 4), (3, 3), {"strides": [3, 2], "output_shape": [10, 8]}),
    ((2, 3, 2), (2, 1, 3), {"strides": [1, 2, 2], "dilations": [3, 1, 2]}),
    ((1, 1), (2, 2), {"strides": [3, 3]}),
]


@pytest.mark.parametrize(("sizes", "kernel", "attrs"), TRANSPOSED)
@pytest.mark.parametrize("symbolic", [False, True])
def test_transposed_convolution_by_weights_of_the_run(
    lab: Any, sizes: Any, kernel: Any, attrs: dict[str, Any], symbolic: bool
) -> None:
    if symbolic and "output_shape" in attrs:
        pytest.skip("the padding would depend on the size of the image")
    groups = attrs.get("group", 1)
    node = N("ConvTranspose", ["x", "w", "b"], ["y"], **attrs)
    feeds = {"x": _f(2, 4, *sizes), "w": _f(4, 3, *kernel), "b": _f(3 * groups)}
    names = {"x": ("N", 4, *(f"d{k}" for k in range(len(sizes))))} if symbolic else None
    _check(lab, node, feeds, 11, names)


def test_transposed_convolution_keeps_infinities_apart(lab: Any) -> None:
    """Only outputs that a tap of the infinite pixel reaches are infinite: none is NaN."""
    x, w = np.ones((1, 1, 3, 3), "f"), np.ones((1, 1, 2, 2), "f")
    x[0, 0, 1, 1] = np.inf
    model = lab.model([N("ConvTranspose", ["x", "w"], ["y"], strides=[3, 3])], {"x": x, "w": w},
                      ["y"])  # fmt: skip
    y = _run(model, {"x": x, "w": w})["y"]
    assert np.isinf(y).sum() == 4 and not np.isnan(y).any()


# -- pooling -------------------------------------------------------------------------------------

POOLS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((9,), {"kernel_shape": [3], "strides": [2], "pads": [1, 2]}),
    ((6, 7), {"kernel_shape": [2, 3], "strides": [1, 2], "dilations": [2, 1], "ceil_mode": 1}),
    ((6, 7), {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "storage_order": 1}),
    ((5, 4, 6), {"kernel_shape": [2, 2, 2], "strides": [2, 1, 3], "storage_order": 1}),
    ((5, 4, 6), {"kernel_shape": [3, 2, 2], "pads": [1, 1, 0, 2, 0, 1], "strides": [2, 2, 2]}),
]


@pytest.mark.parametrize(("sizes", "attrs"), POOLS)
@pytest.mark.parametrize("symbolic", [False, True])
def test_positions_of_maxima(lab: Any, sizes: Any, attrs: Any, symbolic: bool) -> None:
    names = {"x": ("N", 2, *(f"d{k}" for k in range(len(sizes))))} if symbolic else None
    _check(lab, N("MaxPool", ["x"], ["y", "i"], **attrs), {"x": _f(2, 2, *sizes)}, 12, names)


def test_unpooling(lab: Any) -> None:
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}
    pool = N("MaxPool", ["x"], ["p", "i"], **attrs)
    feeds = {"x": _f(2, 3, 8, 6)}
    model = lab.model([pool, N("MaxUnpool", ["p", "i"], ["y"], **attrs)], feeds, ["y"], opset=12)
    _close(_run(model, feeds)["y"], lab.theirs(model, feeds)["y"])
    given = {"p": np.array([[[[5, 6], [7, 8]]]], "f"), "i": np.array([[[[5, 7], [13, 15]]]]),
             "s": np.array([1, 1, 5, 5])}  # fmt: skip
    _check(lab, N("MaxUnpool", ["p", "i", "s"], ["y"], **attrs), given, reference=True)


def test_regions(lab: Any) -> None:
    rois = np.array([[0, 1, 2, 7, 6], [1, 0, 0, 0, 0], [1, 3, 3, 30, 4.5]], np.float32)
    node = N("MaxRoiPool", ["x", "r"], ["y"], pooled_shape=[3, 2], spatial_scale=0.5)
    _check(lab, node, {"x": _f(2, 3, 9, 8), "r": rois}, 11)


# -- deformable convolution, sampling ------------------------------------------------------------


@pytest.mark.parametrize(("groups", "shared", "extra"), [(1, 1, ""), (2, 1, "b"), (1, 2, "bm")])
@pytest.mark.parametrize("symbolic", [False, True])
def test_deformable_convolution(
    lab: Any, groups: int, shared: int, extra: str, symbolic: bool
) -> None:
    inputs = ["x", "w", "o", *(n if n in extra else "" for n in "bm")]
    node = N("DeformConv", inputs, ["y"], group=groups, offset_group=shared, strides=[2, 1],
             dilations=[1, 2], pads=[1, 0, 2, 1])  # fmt: skip
    oh, ow = (7 + 3 - 2) // 2 + 1, 9 + 1 - 5 + 1
    feeds = {"x": _f(2, 4, 7, 9), "w": _f(6, 4 // groups, 2, 3)}
    feeds["o"] = 2 * _f(2, shared * 12, oh, ow)
    feeds |= {"b": _f(6)} if "b" in extra else {}
    feeds |= {"m": _f(2, shared * 6, oh, ow)} if "m" in extra else {}
    names = {"x": ("N", 4, "h", "w"), "o": ("N", shared * 12, "oh", "ow")} if symbolic else None
    _check(lab, node, feeds, 19, names, 1e-4)


def test_samples_outside_an_image_are_zero_whatever_it_holds(lab: Any) -> None:
    x = np.full((1, 1, 2, 2), np.inf, np.float32)
    grid = np.array([[[[-3, -3], [3, 3], [0, 3]]]], np.float32)
    model = lab.model([N("GridSample", ["x", "g"], ["y"])], {"x": x, "g": grid}, ["y"], opset=20)
    assert (_run(model, {"x": x, "g": grid})["y"] == 0).all()
    offset = np.full((1, 2, 2, 2), 9.0, np.float32)
    feeds = {"x": x, "w": np.ones((1, 1, 1, 1), "f"), "o": offset}
    model = lab.model([N("DeformConv", ["x", "w", "o"], ["y"])], feeds, ["y"], opset=19)
    assert (_run(model, feeds)["y"] == 0).all()


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("dtype", ["i8", "u1", "i4"])
def test_sampling_of_integers(lab: Any, mode: str, dtype: str) -> None:
    """What sampling of the same real numbers gives, cut off."""
    feeds = {"x": RNG.integers(0, 99, (2, 3, 5, 6)).astype(dtype),
             "g": RNG.uniform(-1.2, 1.2, (2, 4, 3, 2)).astype(np.float32)}  # fmt: skip
    node, found = N("GridSample", ["x", "g"], ["y"], mode=mode, align_corners=1), []
    for x in (feeds["x"], feeds["x"].astype(np.float64)):
        given = {**feeds, "x": x}
        found.append(_run(lab.model([node], given, ["y"], opset=20), given)["y"])
    assert found[0].dtype == feeds["x"].dtype
    assert np.abs(found[0] - found[1]).max() < 1 and (found[0] <= found[1] + 1e-3).all()


@pytest.mark.parametrize("axes", [None, [1], [2, 0]])
@pytest.mark.parametrize("kind", ["i4", "i8"])
def test_center_crop_pad(lab: Any, axes: list[int] | None, kind: str) -> None:
    sizes = np.array([9, 4, 3][: 3 if axes is None else len(axes)], kind)
    more = {} if axes is None else {"axes": axes}
    feeds = {"x": _f(5, 7, 3)}
    _check(lab, N("CenterCropPad", ["x", "s"], ["y"], **more), feeds, 18, {"x": ("a", "b", 3)},
           reference=True, held={"s": sizes})  # fmt: skip
    _check(lab, N("CenterCropPad", ["x", "s"], ["y"], **more), {**feeds, "s": sizes}, 18,
           reference=True)  # fmt: skip


# -- matrices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4), (2, 3, 1, 1), (0, 2, 2)])
def test_determinants(lab: Any, shape: tuple[int, ...]) -> None:
    _check(lab, N("Det", ["x"], ["y"]), {"x": _f(*shape)}, 11, tolerance=1e-4)


def test_infinities_of_no_sign(lab: Any) -> None:
    feeds = {"x": np.array([1, np.inf, -np.inf, np.nan], np.float32)}
    for positive, negative in itertools.product((0, 1), (0, 1)):
        node = N("IsInf", ["x"], ["y"], detect_positive=positive, detect_negative=negative)
        _check(lab, node, feeds, 20)


# -- attention -----------------------------------------------------------------------------------


def test_attention_of_halves_is_computed_in_float32(lab: Any) -> None:
    """Outputs are within one rounding of the exact ones, and values may have another type."""
    q, k, v = (RNG.random((2, 3, 5, 16)).astype(np.float16) for _ in range(3))
    wide = [t.astype(np.float64) for t in (q, k, v)]
    scores = wide[0] @ wide[1].swapaxes(-1, -2) / 4
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    want = weights / weights.sum(-1, keepdims=True) @ wide[2]
    for other in (np.float16, np.float32):
        feeds = {"q": q, "k": k, "v": v.astype(other)}
        model = lab.model([N("Attention", ["q", "k", "v"], ["y"])], feeds, ["y"], opset=23)
        y = _run(model, feeds)["y"]
        assert y.dtype == np.float16
        np.testing.assert_allclose(y.astype(np.float64), want, rtol=1e-3)


def test_attention_of_heads_of_symbolic_size(lab: Any) -> None:
    feeds = {n: _f(1, 2, 4, 8) for n in "qkv"}
    shapes = dict.fromkeys("qkv", (1, 2, "S", "D"))
    model = lab.model([N("Attention", list("qkv"), ["y"])], feeds, ["y"], opset=23, shapes=shapes)
    (want,) = ReferenceEvaluator(model).run(None, feeds)
    _close(_run(model, feeds)["y"], want)


# -- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("ratio", "training"), [(0.5, True), (0.0, True), (0.75, False)])
def test_dropout_keeps_what_the_reference_keeps(
    lab: Any, ratio: float, training: bool, known: bool
) -> None:
    feeds, held = {"x": _f(700, 3)}, {"r": np.float32(ratio).reshape(()), "t": np.array(training)}
    node = N("Dropout", ["x", "r", "t"], ["y", "m"], seed=7)
    if known:
        _check(lab, node, feeds, 13, reference=True, held=held)
    else:
        _check(lab, node, {**feeds, **held}, 13, {"x": ("N", 3)}, reference=True)


def test_dropout_without_a_seed_is_fair_and_repeats(lab: Any) -> None:
    feeds = {"x": np.ones((200, 100), np.float32)}
    held = {"r": np.float32(0.3).reshape(()), "t": np.array(True)}
    node = N("Dropout", ["x", "r", "t"], ["y", "m"])
    model = lab.model([node], feeds, ["y", "m"], held)
    first, again = _run(model, feeds), _run(model, feeds)
    assert (first["m"] == again["m"]).all() and abs(first["m"].mean() - 0.7) < 0.02
    np.testing.assert_allclose(first["y"], first["m"] / np.float32(0.7), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["f4", "f2", "f8"])
def test_batch_normalization_in_training(lab: Any, dtype: str) -> None:
    x = RNG.standard_normal((3, 4, 5, 2)).astype(dtype)
    feeds = {"x": x, **{n: np.abs(_f(4)).astype(dtype) for n in "sbmv"}}
    node = N("BatchNormalization", list("xsbmv"), ["y", "rm", "rv"], training_mode=1, momentum=0.7,
             epsilon=1e-2)  # fmt: skip
    model = lab.model([node], feeds, ["y", "rm", "rv"], opset=15, shapes={"x": ("N", 4, "H", 2)})
    got = _run(model, feeds)
    wide = {k: v.astype(np.float64) for k, v in feeds.items()}
    mean, var = wide["x"].mean((0, 2, 3)), wide["x"].var((0, 2, 3))
    column = (slice(None), None, None)
    y = (wide["x"] - mean[column]) / np.sqrt(var[column] + 1e-2)
    y = y * wide["s"][column] + wide["b"][column]
    want = {"y": y, "rm": 0.7 * wide["m"] + 0.3 * mean, "rv": 0.7 * wide["v"] + 0.3 * var}
    for name, value in want.items():
        _close(got[name], value.astype(dtype), 5e-3 if dtype == "f2" else 1e-5)


OPTIMIZERS: list[tuple[str, int, dict[str, Any]]] = [
    ("Adagrad", 3, {"norm_coefficient": 0.01, "epsilon": 1e-5, "decay_factor": 0.1}),
    ("Adam", 4, {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.85, "epsilon": 1e-2,
                 "norm_coefficient_post": 0.1}),
    ("Momentum", 3, {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.85, "mode": "standard"}),
    ("Momentum", 3, {"norm_coefficient": 0.01, "alpha": 0.95, "beta": 0.85, "mode": "nesterov"}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "kinds", "attrs"), OPTIMIZERS)
@pytest.mark.parametrize("step", [0, 3])
def test_optimizers(lab: Any, op: str, kinds: int, attrs: dict[str, Any], step: int) -> None:
    """Two tensors of different shapes, at the first step and a later one."""
    names = [f"{kind}{i}" for kind in "xgvh"[:kinds] for i in (0, 1)]
    feeds = {"r": np.float32(0.1).reshape(()), "t": np.array(step)}
    feeds |= {n: np.abs(_f(*((3,) if n[1] == "0" else (2, 4)))) for n in names}
    outs = [f"new.{n}" for n in names if n[0] != "g"]
    node = N(op, ["r", "t", *names], outs, domain=TRAINING, **attrs)
    model = lab.model([node], feeds, outs)
    model.opset_import.append(helper.make_opsetid(TRAINING, 1))
    want = ReferenceEvaluator(model).run(None, feeds)
    got = _run(model, feeds)
    for name, value in zip(outs, want, strict=True):
        _close(got[name], value.astype(np.float32), 1e-5)


def test_optimizer_with_a_missing_tensor_is_an_error(lab: Any) -> None:
    feeds = {"r": np.float32(0.1).reshape(()), "t": np.array(0), "x": _f(2), "g": _f(2)}
    node = N("Adagrad", list(feeds), ["y", "z"], domain=TRAINING)
    model = lab.model([node], feeds, ["y", "z"])
    model.opset_import.append(helper.make_opsetid(TRAINING, 1))
    with pytest.raises(ModelError, match="per tensor"):
        evonnx.compile(model)


# -- random numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_bernoulli_of_any_name(lab: Any, kind: int) -> None:
    """Seeds made of long names are 64-bit numbers; draws have the given mean."""
    feeds = {"x": np.full((100, 100), 0.3)}
    for k in range(4):
        node = N("Bernoulli", ["x"], ["y"], name=f"node {k}", dtype=kind)
        y = _run(lab.model([node], feeds, ["y"]), feeds)["y"]
        assert y.dtype == {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}.get(
            kind, np.dtype(ml_dtypes.bfloat16))  # fmt: skip
        assert abs(y.astype(np.float64).mean() - 0.3) < 0.03


def test_multinomial(lab: Any) -> None:
    odds = np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], np.float32)
    with np.errstate(divide="ignore"):
        feeds = {"x": np.log(odds)}
    node = N("Multinomial", ["x"], ["y"], sample_size=20000, seed=1.0, dtype=TensorProto.INT64)
    y = _run(lab.model([node], feeds, ["y"]), feeds)["y"]
    assert y.dtype == np.int64
    shares = np.stack([np.bincount(row, minlength=3) / y.shape[1] for row in y])
    np.testing.assert_allclose(shares, odds, atol=0.02)
