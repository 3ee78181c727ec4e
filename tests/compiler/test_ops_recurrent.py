"""LSTM, GRU and RNN as ONNX spells them, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from evonnx.ir.errors import EvonnxError

RNG = np.random.default_rng(3)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _f(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.5).astype(np.float32)


def _weights(op: str, d: int, i: int, h: int) -> dict[str, np.ndarray]:
    g = GATES[op]
    return {"w": _f(d, g * h, i), "r": _f(d, g * h, h), "b": _f(d, 2 * g * h)}


def _outputs(op: str) -> list[str]:
    return ["y", "yh", "yc"] if op == "LSTM" else ["y", "yh"]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_directions_and_states(lab: Any, op: str, direction: str) -> None:
    t, n, i, h = 6, 3, 5, 7
    d = 2 if direction == "bidirectional" else 1
    feeds = {"x": _f(t, n, i), "h0": _f(d, n, h)}
    names = ["x", "w", "r", "b", "", "h0"]
    if op == "LSTM":
        feeds["c0"] = _f(d, n, h)
        names.append("c0")
    node = helper.make_node(op, names, _outputs(op), hidden_size=h, direction=direction)
    lab.check([node], feeds, _outputs(op), _weights(op, d, i, h))


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_rows_of_different_lengths(lab: Any, op: str, direction: str) -> None:
    t, n, i, h = 6, 3, 5, 7
    d = 2 if direction == "bidirectional" else 1
    feeds = {"x": _f(t, n, i), "n": np.array([6, 2, 4], np.int32)}
    node = helper.make_node(op, ["x", "w", "r", "b", "n"], _outputs(op), hidden_size=h,
                            direction=direction)  # fmt: skip
    got = lab.check([node], feeds, _outputs(op), _weights(op, d, i, h))
    assert (got["y"][2:, :, 1] == 0).all()


def test_gru_reset_before_and_after(lab: Any) -> None:
    t, n, i, h = 4, 2, 3, 5
    for before in (0, 1):
        node = helper.make_node("GRU", ["x", "w", "r", "b"], ["y", "yh"], hidden_size=h,
                                linear_before_reset=before)  # fmt: skip
        lab.check([node], {"x": _f(t, n, i)}, ["y", "yh"], _weights("GRU", 1, i, h))


def test_lstm_peepholes_clip_and_coupled_gates(lab: Any) -> None:
    t, n, i, h = 4, 2, 3, 5
    held = _weights("LSTM", 1, i, h) | {"p": _f(1, 3 * h)}
    for attrs in ({}, {"input_forget": 1}, {"clip": 0.4}):
        node = helper.make_node("LSTM", ["x", "w", "r", "b", "", "", "", "p"], _outputs("LSTM"),
                                hidden_size=h, **attrs)  # fmt: skip
        lab.check([node], {"x": _f(t, n, i)}, _outputs("LSTM"), held)


@pytest.mark.parametrize("name", ["Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh",
                                  "HardSigmoid", "Elu", "Softsign", "Softplus"])  # fmt: skip
def test_activations(lab: Any, name: str) -> None:
    """Parameters are given: ONNX Runtime's defaults differ from ONNX's for some."""
    t, n, i, h = 3, 2, 3, 5
    node = helper.make_node("RNN", ["x", "w", "r"], ["y", "yh"], hidden_size=h,
                            activations=[name], activation_alpha=[0.3],
                            activation_beta=[0.2])  # fmt: skip
    lab.check([node], {"x": _f(t, n, i)}, ["y", "yh"], _weights("RNN", 1, i, h))


def test_parameters_are_consumed_in_order(lab: Any) -> None:
    t, n, i, h = 3, 2, 3, 4
    node = helper.make_node(
        "LSTM", ["x", "w", "r"], ["y"], hidden_size=h,
        activations=["HardSigmoid", "Tanh", "LeakyRelu"],
        activation_alpha=[0.3, 0.05], activation_beta=[0.4],
    )  # fmt: skip
    lab.check([node], {"x": _f(t, n, i)}, ["y"], _weights("LSTM", 1, i, h))


def test_rows_first_layout_equals_steps_first(lab: Any) -> None:
    """ONNX Runtime has no layout 1: compared with our own layout 0."""
    t, n, i, h = 4, 3, 5, 6
    held = _weights("LSTM", 2, i, h)
    x = _f(t, n, i)
    results = []
    for layout, feed in ((0, x), (1, np.ascontiguousarray(x.transpose(1, 0, 2)))):
        node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y", "yh", "yc"], hidden_size=h,
                                direction="bidirectional", layout=layout)  # fmt: skip
        feeds = {"x": feed}
        results.append(lab.ours(lab.model([node], feeds, ["y", "yh", "yc"], held), feeds))
    first, second = results
    np.testing.assert_array_equal(first["y"].transpose(2, 0, 1, 3), second["y"])
    np.testing.assert_array_equal(first["yc"].transpose(1, 0, 2), second["yc"])


def test_symbolic_steps_and_rows(lab: Any) -> None:
    node = helper.make_node("GRU", ["x", "w", "r", "b"], ["y", "yh"], hidden_size=4)
    held = _weights("GRU", 1, 3, 4)
    lab.check([node], {"x": _f(5, 2, 3)}, ["y", "yh"], held, shapes={"x": ("T", "N", 3)})


def test_half_precision(lab: Any) -> None:
    held = {k: v.astype(np.float16) for k, v in _weights("LSTM", 1, 3, 4).items()}
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=4)
    feeds = {"x": _f(5, 2, 3).astype(np.float16)}
    got = lab.ours(lab.model([node], feeds, ["y"], held), feeds)["y"]
    wide = {k: v.astype(np.float32) for k, v in held.items()}
    want = lab.ours(lab.model([node], {"x": feeds["x"].astype(np.float32)}, ["y"], wide),
                    {"x": feeds["x"].astype(np.float32)})["y"]  # fmt: skip
    np.testing.assert_allclose(got.astype(np.float32), want, atol=3e-3)


@pytest.mark.parametrize(
    "attrs", [{"direction": "sideways"}, {"activations": ["Tanh"]}, {"hidden_size": 9}]
)
def test_wrong_attributes_are_refused(lab: Any, attrs: dict[str, Any]) -> None:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], **{"hidden_size": 4, **attrs})
    feeds = {"x": _f(5, 2, 3)}
    with pytest.raises(EvonnxError, match="LSTM"):
        lab.ours(lab.model([node], feeds, ["y"], _weights("LSTM", 1, 3, 4)), feeds)
