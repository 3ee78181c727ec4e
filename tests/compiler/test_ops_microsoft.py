"""com.microsoft operators against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

RNG = np.random.default_rng(5)
MS = "com.microsoft"


def _f(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


def _node(op: str, inputs: list[str], outputs: list[str], **attrs: Any) -> Any:
    return helper.make_node(op, inputs, outputs, domain=MS, **attrs)


@pytest.mark.parametrize("op", ["Gelu", "BiasGelu", "FastGelu", "QuickGelu"])
def test_gelu_family(lab: Any, op: str) -> None:
    feeds = {"x": _f(2, 3, 8)}
    if op in ("BiasGelu", "FastGelu"):
        feeds["b"] = _f(8)
    lab.check([_node(op, list(feeds), ["y"])], feeds, ["y"])


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("bias", [False, True])
def test_skip_norms(lab: Any, op: str, bias: bool) -> None:
    feeds = {"x": _f(2, 3, 16), "s": _f(2, 3, 16)}
    held = {"g": _f(16), "h": _f(16), "b": _f(16)}
    names = ["x", "s", "g"] + (["h"] if op == "SkipLayerNormalization" else [])
    if bias:
        names.append("b")
    node = _node(op, names, ["y", "", "", "t"], epsilon=1e-5)
    lab.check([node], feeds, ["y", "t"], {k: held[k] for k in names[2:]})


def test_simplified_layer_normalization(lab: Any) -> None:
    node = helper.make_node("SimplifiedLayerNormalization", ["x", "g"], ["y"], epsilon=1e-5)
    lab.check([node], {"x": _f(2, 3, 16)}, ["y"], {"g": _f(16)})


@pytest.mark.parametrize("attrs", [{}, {"transA": 1}, {"transB": 1}, {"alpha": 0.5}])
def test_fused_matmul(lab: Any, attrs: dict[str, Any]) -> None:
    a = _f(2, 3, 5) if not attrs.get("transA") else _f(2, 5, 3)
    b = _f(2, 5, 4) if not attrs.get("transB") else _f(2, 4, 5)
    lab.check([_node("FusedMatMul", ["a", "b"], ["y"], **attrs)], {"a": a, "b": b}, ["y"])


@pytest.mark.parametrize(
    ("name", "params"),
    [("Relu", None), ("Tanh", None), ("Sigmoid", None), ("LeakyRelu", [0.2]),
     ("Clip", [-0.5, 0.5]), ("HardSigmoid", [0.3, 0.4])],
)  # fmt: skip
def test_fused_conv(lab: Any, name: str, params: list[float] | None) -> None:
    attrs: dict[str, Any] = {"activation": name, "pads": [1, 1, 1, 1]}
    if params:
        attrs["activation_params"] = params
    node = _node("FusedConv", ["x", "w", "b"], ["y"], **attrs)
    lab.check([node], {"x": _f(1, 3, 7, 6)}, ["y"], {"w": _f(4, 3, 3, 3), "b": _f(4)})


@pytest.mark.parametrize("mask", ["none", "lengths", "keys", "square"])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(lab: Any, mask: str, causal: int) -> None:
    n, s, d, heads = 2, 5, 8, 2
    feeds = {"x": _f(n, s, d)}
    names = ["x", "w", "b"]
    if mask != "none":
        feeds["m"] = {
            "lengths": np.array([3, 5], np.int32),
            "keys": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32),
            "square": np.tril(np.ones((n, s, s), np.int32)),
        }[mask]
        names.append("m")
    node = _node("Attention", names, ["y"], num_heads=heads, unidirectional=causal)
    lab.check([node], feeds, ["y"], {"w": _f(d, 3 * d, scale=0.5), "b": _f(3 * d)})


def test_attention_with_past(lab: Any) -> None:
    n, s, d, heads, p = 2, 1, 8, 2, 3
    feeds = {"x": _f(n, s, d), "past": _f(2, n, heads, p, d // heads)}
    node = _node("Attention", ["x", "w", "b", "", "past"], ["y", "present"], num_heads=heads,
                 unidirectional=1)  # fmt: skip
    lab.check([node], feeds, ["y", "present"], {"w": _f(d, 3 * d, scale=0.5), "b": _f(3 * d)})


@pytest.mark.parametrize("form", ["flat", "cross"])
def test_multi_head_attention(lab: Any, form: str) -> None:
    n, s, heads, h = 2, 4, 2, 8
    d = heads * h
    feeds = {
        "flat": {"q": _f(n, s, d), "k": _f(n, 6, d), "v": _f(n, 6, d)},
        "cross": {"q": _f(n, s, d), "k": _f(n, heads, 6, h), "v": _f(n, heads, 6, h)},
    }[form]
    names = list(feeds)
    if form == "flat":
        feeds |= {"mask": np.array([[1, 1, 1, 1, 0, 0], [1] * 6], np.int32),
                  "bias": _f(1, heads, s, 6)}  # fmt: skip
        names += ["b", "mask", "bias"]
    node = _node("MultiHeadAttention", names, ["y"], num_heads=heads)
    lab.check([node], feeds, ["y"], {"b": _f(3 * d)} if form == "flat" else None)


def test_packed_attention_equals_the_flat_form(lab: Any) -> None:
    """ONNX Runtime's processor kernels do not take packed operands: our own forms are compared."""
    n, s, heads, h = 2, 4, 2, 8
    packed = _f(n, s, heads, 3, h)
    q, k, v = (np.ascontiguousarray(packed[:, :, :, i]).reshape(n, s, heads * h) for i in range(3))
    both = np.ascontiguousarray(packed[:, :, :, 1:])
    results = []
    for feeds in ({"q": q, "k": k, "v": v}, {"q": q, "kv": both}, {"qkv": packed}):
        node = _node("MultiHeadAttention", list(feeds), ["y"], num_heads=heads)
        results.append(lab.ours(lab.model([node], feeds, ["y"]), feeds)["y"])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(lab: Any, interleaved: int) -> None:
    feeds = {"x": _f(2, 3, 4, 8), "p": np.array([[3, 4, 5, 6], [0, 1, 2, 3]], np.int64)}
    held = {"c": np.cos(_f(16, 4)), "s": np.sin(_f(16, 4))}
    node = _node("RotaryEmbedding", ["x", "p", "c", "s"], ["y"], interleaved=interleaved)
    lab.check([node], feeds, ["y"], held)


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_qlinear_binary(lab: Any, op: str, dtype: Any) -> None:
    info = np.iinfo(dtype)
    feeds = {k: RNG.integers(info.min, info.max, (3, 8)).astype(dtype) for k in "ab"}
    held = {"sa": np.float32(0.03), "sb": np.float32(0.05), "sc": np.float32(0.07),
            "za": dtype(3), "zb": dtype(5), "zc": dtype(7)}  # fmt: skip
    node = _node(op, ["a", "sa", "za", "b", "sb", "zb", "sc", "zc"], ["y"])
    lab.check([node], feeds, ["y"], {k: np.asarray(v) for k, v in held.items()}, tolerance=1.01)


@pytest.mark.parametrize("op", ["QLinearSoftmax", "QLinearSigmoid", "QLinearAveragePool"])
def test_qlinear_unary(lab: Any, op: str) -> None:
    shape = (1, 2, 6, 6) if op == "QLinearAveragePool" else (3, 8)
    feeds = {"x": RNG.integers(0, 255, shape).astype(np.uint8)}
    held = {"sx": np.float32(0.05), "zx": np.uint8(128), "sy": np.float32(1 / 256),
            "zy": np.uint8(0)}  # fmt: skip
    attrs: dict[str, Any] = {}
    if op == "QLinearSoftmax":
        attrs = {"axis": -1, "opset": 13}
    if op == "QLinearAveragePool":
        attrs = {"kernel_shape": [3, 3], "strides": [2, 2]}
        held |= {"sy": np.float32(0.06), "zy": np.uint8(120)}
    node = _node(op, ["x", "sx", "zx", "sy", "zy"], ["y"], **attrs)
    lab.check([node], feeds, ["y"], {k: np.asarray(v) for k, v in held.items()}, tolerance=1.01)


def test_quantized_products(lab: Any) -> None:
    a = RNG.integers(0, 255, (2, 3, 8)).astype(np.uint8)
    b = RNG.integers(-128, 127, (8, 5)).astype(np.int8)
    held = {"b": b, "sa": np.array(0.02, np.float32), "sb": np.abs(_f(5, scale=0.01)),
            "za": np.array(120, np.uint8), "zb": RNG.integers(-5, 5, 5).astype(np.int8),
            "c": _f(5)}  # fmt: skip
    node = _node("MatMulIntegerToFloat", ["a", "b", "sa", "sb", "za", "zb", "c"], ["y"])
    lab.check([node], {"a": a}, ["y"], held)
    node = _node("DynamicQuantizeMatMul", ["x", "b", "sb", "zb", "c"], ["y"])
    lab.check([node], {"x": _f(2, 3, 8)}, ["y"], {k: held[k] for k in ("b", "sb", "zb", "c")})


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_dynamic_quantize_lstm(lab: Any, direction: str) -> None:
    t, n, i, h = 5, 1, 6, 8
    d = 2 if direction == "bidirectional" else 1
    w = RNG.integers(-127, 127, (d, i, 4 * h)).astype(np.int8)
    r = RNG.integers(-127, 127, (d, h, 4 * h)).astype(np.int8)
    held = {"w": w, "r": r, "b": _f(d, 8 * h), "ws": np.full(d, 0.01, np.float32),
            "wz": np.zeros(d, np.int8), "rs": np.full(d, 0.01, np.float32),
            "rz": np.zeros(d, np.int8)}  # fmt: skip
    names = ["x", "w", "r", "b", "", "", "", "", "ws", "wz", "rs", "rz"]
    node = _node("DynamicQuantizeLSTM", names, ["y", "yh", "yc"], hidden_size=h,
                 direction=direction)  # fmt: skip
    lab.check([node], {"x": _f(t, n, i)}, ["y", "yh", "yc"], held, tolerance=1e-4)
