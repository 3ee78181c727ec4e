"""Recurrences, control flow, data-dependent sizes and host steps through the whole compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import evonnx

RNG = np.random.default_rng(31)
F, INT, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def _f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def _agree(
    lab: Any,
    nodes: Sequence[Any],
    feeds: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    held: Mapping[str, np.ndarray] | None = None,
    more: Sequence[Mapping[str, np.ndarray]] = (),
    shapes: Any = None,
) -> None:
    """The compiled model gives what the interpreter gives, for all feeds, twice."""
    model = lab.model(nodes, feeds, outputs, held, 17, shapes)
    compiled = evonnx.compile(model, threads=2)
    for given in (feeds, *more, feeds):
        got = dict(zip(outputs, compiled.run(list(outputs), dict(given)), strict=True))
        for name, want in lab.ours(model, given).items():
            if isinstance(want, list):
                assert str(got[name]) == str(want)
            elif want.dtype == object:
                assert (got[name] == want).all()
            else:
                assert got[name].shape == want.shape and got[name].dtype == want.dtype
                np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(lab: Any, op: str) -> None:
    i, h, g = 5, 7, {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    held = {"w": _f(2, g * h, i), "r": _f(2, g * h, h), "b": _f(2, 2 * g * h)}
    nodes = [
        helper.make_node(op, ["x", "w", "r", "b", "n"], ["y", "yh"], hidden_size=h,
                         direction="bidirectional"),
        helper.make_node("Transpose", ["y"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "s"], ["z"]),
    ]  # fmt: skip
    held["s"] = np.array([0, 0, -1], np.int64)
    feeds = [{"x": _f(t, n, i), "n": RNG.integers(1, t + 1, n).astype(np.int32)}
             for t, n in ((4, 3), (6, 5), (1, 1))]  # fmt: skip
    shapes = {"x": ("T", "N", i), "n": ("N",)}
    _agree(lab, nodes, feeds[0], ["y", "yh", "z"], held, feeds[1:], shapes)


def _info(name: str, kind: int, shape: Any = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _branch(op: str, *names: str, **attrs: Any) -> Any:
    node = helper.make_node(op, list(names), ["r"], **attrs)
    return helper.make_graph([node], "g", [], [_info("r", F)])


def test_if_with_branches_of_different_sizes(lab: Any) -> None:
    nodes = [
        helper.make_node("If", ["c"], ["m"], then_branch=_branch("Concat", "x", "z", axis=0),
                         else_branch=_branch("Neg", "z")),
        helper.make_node("Exp", ["m"], ["y"]),
    ]  # fmt: skip
    x, z = _f(2, 3), _f(4, 3)
    feeds = [{"c": np.array(c), "x": x, "z": z} for c in (True, False)]
    _agree(lab, nodes, feeds[0], ["y"], None, feeds[1:])


@pytest.mark.parametrize("grows", [False, True])
def test_loop(lab: Any, grows: bool) -> None:
    step = helper.make_node("Concat", ["s", "x"], ["so"], axis=0) if grows else (
        helper.make_node("Add", ["s", "x"], ["so"]))  # fmt: skip
    body = helper.make_graph(
        [step, helper.make_node("ReduceSum", ["so"], ["o"], keepdims=0),
         helper.make_node("Less", ["o", "top"], ["co"])],
        "g", [_info("i", INT, ()), _info("c", B, ()), _info("s", F, (None,) if grows else (3,))],
        [_info("co", B, ()), _info("so", F), _info("o", F)],
        [numpy_helper.from_array(np.array(9.0, np.float32), "top")],
    )  # fmt: skip
    node = helper.make_node("Loop", ["m", "", "s0"], ["s1", "o1"], body=body)
    feeds = [{"m": np.array(m, np.int64), "s0": np.ones(3, np.float32), "x": np.ones(3, "f4")}
             for m in (3, 0, 40)]  # fmt: skip
    _agree(lab, [node], feeds[0], ["s1", "o1"], None, feeds[1:])


def test_scan(lab: Any) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["so"]), helper.make_node("Mul", ["so", "k"], ["o"])],
        "g", [_info("s", F, (3,)), _info("e", F, (3,))],
        [_info("so", F, (3,)), _info("o", F, (3,))],
    )  # fmt: skip
    node = helper.make_node("Scan", ["s0", "x"], ["s1", "y"], body=body, num_scan_inputs=1,
                            scan_input_directions=[1])  # fmt: skip
    feeds = [{"s0": _f(3), "x": _f(t, 3), "k": _f(3)} for t in (5, 1)]
    _agree(lab, [node], feeds[0], ["s1", "y"], None, feeds[1:], {"x": ("T", 3)})


def test_detection_head(lab: Any) -> None:
    nodes = [
        helper.make_node("NonMaxSuppression", ["b", "s", "m", "i"], ["r"]),
        helper.make_node("Gather", ["r", "two"], ["j"], axis=1),
        helper.make_node("Squeeze", ["b", "zero"], ["q"]),
        helper.make_node("Gather", ["q", "j"], ["y"], axis=0),
        helper.make_node("Mul", ["y", "y"], ["z"]),
    ]
    held = {"m": np.array(5, np.int64), "i": np.array(0.3, np.float32),
            "two": np.array(2, np.int64), "zero": np.array([0], np.int64)}  # fmt: skip
    feeds = [{"b": RNG.uniform(0, 1, (1, n, 4)).astype(np.float32),
              "s": RNG.uniform(0, 1, (1, 2, n)).astype(np.float32)}
             for n in (9, 30, 1)]  # fmt: skip
    shapes = {"b": (1, "K", 4), "s": (1, 2, "K")}
    _agree(lab, nodes, feeds[0], ["r", "z"], held, feeds[1:], shapes)


def test_nonzero_unique_compress_topk(lab: Any) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "half"], ["c"]),
        helper.make_node("Compress", ["x", "c"], ["p"]),
        helper.make_node("Unique", ["p"], ["u", "f", "v", "n"]),
        helper.make_node("NonZero", ["x"], ["w"]),
        helper.make_node("TopK", ["x", "three"], ["t", "at"]),
        helper.make_node("CumSum", ["x", "zero"], ["k"]),
    ]
    held = {"half": np.array(0.5, np.float32), "three": np.array([3], np.int64),
            "zero": np.array(0, np.int64)}  # fmt: skip
    feeds = [{"x": np.round(_f(n), 1)} for n in (20, 7, 200)]
    outputs = ["p", "u", "f", "v", "n", "w", "t", "at", "k"]
    _agree(lab, nodes, feeds[0], outputs, held, feeds[1:], {"x": ("N",)})


def test_scatter_updates(lab: Any) -> None:
    nodes = [
        helper.make_node("ScatterND", ["x", "q", "u"], ["a"], reduction="add"),
        helper.make_node("ScatterElements", ["a", "e", "w"], ["y"], axis=1),
    ]
    feeds = {"x": _f(40, 6), "q": RNG.integers(0, 40, (9, 1)), "u": _f(9, 6),
             "e": RNG.integers(-6, 6, (40, 1)), "w": _f(40, 1)}  # fmt: skip
    _agree(lab, nodes, feeds, ["y"])


def test_host_steps(lab: Any) -> None:
    nodes = [
        helper.make_node("StringNormalizer", ["s"], ["w"], case_change_action="UPPER"),
        helper.make_node("LabelEncoder", ["w"], ["k"], domain="ai.onnx.ml",
                         keys_strings=["A", "B"], values_int64s=[1, 2], default_int64=0),
        helper.make_node("Gather", ["t", "k"], ["y"], axis=0),
        helper.make_node("SplitToSequence", ["y", "one"], ["q"], axis=0),
        helper.make_node("SequenceLength", ["q"], ["n"]),
    ]  # fmt: skip
    held = {"t": _f(3, 4), "one": np.array(1, np.int64)}
    feeds = [{"s": np.array(text, object)} for text in (["a", "b", "x"], ["b"])]
    _agree(lab, nodes, feeds[0], ["w", "y", "n"], held, feeds[1:], {"s": ("N",)})
