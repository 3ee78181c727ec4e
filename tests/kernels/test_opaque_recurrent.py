"""Compiled LSTM, GRU and RNN recurrences against their references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.ir.ops.recurrent import ACTIVATIONS, GATES

RNG = np.random.default_rng(11)
ACTS = {
    "lstm": (("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0), ("tanh", 0.0, 0.0)),
    "gru": (("sigmoid", 0.0, 0.0), ("tanh", 0.0, 0.0)),
    "rnn": (("tanh", 0.0, 0.0),),
}
EXTRAS: dict[str, list[dict[str, bool]]] = {
    "lstm": [{"input_forget": False}, {"input_forget": True}],
    "gru": [{"linear_before_reset": False}, {"linear_before_reset": True}],
    "rnn": [{}],
}


def _normal(*shape: int, dtype: Any = np.float32, scale: float = 1.0) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(dtype)


def _operands(op: str, steps: int, rows: int, units: int, d: int, dtype: Any, full: bool) -> Any:
    args: list[Any] = [
        _normal(steps, rows, d, GATES[op] * units, dtype=dtype),
        _normal(d, units, GATES[op] * units, dtype=dtype, scale=0.3),
    ]
    state = _normal(d, rows, units, dtype=dtype) if full else None
    lens = np.array(RNG.integers(-1, steps + 2, rows), np.int32) if full else None
    if op == "lstm":
        peep = _normal(d, 3 * units, dtype=dtype) if full else None
        cell = _normal(d, rows, units, dtype=dtype) if full else None
        return [*args, lens, state, cell, peep]
    if op == "gru":
        return [*args, _normal(d, units, dtype=dtype) if full else None, lens, state]
    return [*args, lens, state]


CASES = [
    (5, 1, 7, np.float32, None, False), (4, 6, 19, np.float32, 0.7, True),
    (3, 5, 16, np.float64, None, True), (0, 2, 4, np.float32, None, True),
    (3, 2, 5, np.float16, None, True), (2, 0, 4, np.float32, None, False),
]  # fmt: skip


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["lstm", "gru", "rnn"])
def test_recurrence(opaque: Any, op: str, direction: str) -> None:
    d = 2 if direction == "bidirectional" else 1
    for k, extra in enumerate(EXTRAS[op]):
        cases = CASES[1:2] if k else CASES if d == 2 else CASES[:2]  # each is a compilation
        for steps, rows, units, dtype, clip, full in cases:
            args = _operands(op, steps, rows, units, d, dtype, full)
            loose = 2e-3 if dtype is np.float16 else 3e-6
            opaque.check(op, args, loose, direction=direction, activations=ACTS[op] * d,
                         clip=clip, **extra)  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(opaque: Any, name: str) -> None:
    args = _operands("rnn", 3, 2, 5, 2, np.float32, True)
    acts = ((name, 0.4, 0.3), ("tanh", 0.0, 0.0))
    opaque.check("rnn", args, 3e-6, direction="bidirectional", activations=acts, clip=None)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_quantized_lstm(opaque: Any, dtype: Any) -> None:
    info = np.iinfo(dtype)
    for steps, rows, d, units in ((5, 1, 1, 7), (6, 3, 2, 40), (3, 6, 1, 8)):
        r = RNG.integers(info.min, info.max, (d, units, 4 * units)).astype(dtype)
        middle = (info.min + info.max + 1) // 2
        zero = RNG.integers(middle - 5, middle + 5, (d, 4 * units)).astype(dtype)
        scale = np.abs(_normal(d, 4 * units, scale=0.01))
        args = [_normal(steps, rows, d, 4 * units), r, scale, zero, None,
                _normal(d, rows, units), _normal(d, rows, units), None]  # fmt: skip
        direction = "bidirectional" if d == 2 else "forward"
        opaque.check("qlstm", args, 1e-5, direction=direction, activations=ACTS["lstm"] * d,
                     clip=None, input_forget=False)  # fmt: skip
