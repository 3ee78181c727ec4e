"""Compiled LSTM, GRU and RNN recurrences against their references."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evonnx.ir.ops.recurrent import ACTIVATIONS, GATES
from evonnx.kernels.opaque import OPAQUE, recurrent_steps

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


PACKED = [  # steps, rows, units, clip, full: panels that are not full, chains of sums, odd rows
    (5, 1, 16, None, False), (4, 6, 37, 0.7, True), (2, 5, 300, None, True), (0, 2, 64, None, True),
    (3, 0, 64, None, False),
]  # fmt: skip


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["lstm", "gru", "rnn"])
def test_constant_weights_in_panels(opaque: Any, op: str, direction: str) -> None:
    d = 2 if direction == "bidirectional" else 1
    for extra in EXTRAS[op]:
        for steps, rows, units, clip, full in PACKED:
            units *= 4 if op == "rnn" else 2
            args = _operands(op, steps, rows, units, d, np.float32, full)
            args[1] *= np.float32(2 / np.sqrt(units))
            more = dict(direction=direction, activations=ACTS[op] * d, clip=clip, **extra)
            kernel = OPAQUE[op](opaque.node(op, args, (1,), **more), opaque.target)
            assert kernel.packed is not None
            opaque.check(op, args, 1e-5, (1,), **more)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("op", ["lstm", "gru", "rnn"])
def test_steps_that_threads_share(
    opaque: Any, op: str, direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent_steps, "LEAST_BYTES", 0)
    monkeypatch.setattr(opaque, "target", replace(opaque.target, cores=3))
    extra = EXTRAS[op][-1]
    for steps, rows, units, clip, full in (
        (5, 1, 37, None, False), (4, 1, 100, 0.7, True), (3, 6, 150, None, True),
        (0, 2, 16, None, True), (0, 1, 16, None, False), (1, 3, 5, None, True),
        (3, 0, 20, None, False),
    ):  # fmt: skip
        args = _operands(op, steps, rows, units, 1, np.float32, full)
        args[1] *= np.float32(2 / np.sqrt(units))
        args[3 if op == "gru" else 2] = None  # all rows are of one length
        more = dict(direction=direction, activations=ACTS[op], clip=clip, **extra)
        kernel = OPAQUE[op](opaque.node(op, args, (1,), **more), opaque.target)
        assert kernel.rounds == steps
        opaque.check(op, args, 1e-5, (1,), **more)


def test_steps_are_not_shared_where_that_is_wrong(opaque: Any) -> None:
    target = replace(opaque.target, cores=4)

    def shared(op: str, d: int = 1, full: bool = False, known: tuple[int, ...] = (1,),
               units: int = 300, cores: int = 4, **extra: bool) -> bool:
        args = _operands(op, 3, 1, units, d, np.float32, full)
        more = {"direction": "bidirectional" if d == 2 else "forward",
                "activations": ACTS[op] * d, "clip": None, **extra}  # fmt: skip
        node = opaque.node(op, args, known, **more)
        return recurrent_steps.shares_steps(node, replace(target, cores=cores))

    assert shared("gru", linear_before_reset=True) and shared("lstm", input_forget=False)
    assert not shared("gru", linear_before_reset=False)
    assert not shared("lstm", full=True, input_forget=False)  # rows of several lengths
    assert not shared("rnn", d=2) and not shared("rnn", known=()) and not shared("rnn", cores=1)
    assert not shared("rnn", units=100)


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_what_is_no_number_stays_in_its_row(opaque: Any, op: str) -> None:
    args = _operands(op, 3, 5, 40, 1, np.float32, False)
    args[0][1, 2, 0, 3] = np.nan
    args[0][0, 4, 0, 1] = np.inf
    more = dict(direction="forward", activations=ACTS[op], clip=None, **EXTRAS[op][0])
    opaque.check(op, args, 1e-5, (1,), **more)


def test_quantized_weights_in_panels(opaque: Any) -> None:
    for steps, rows, d, units in ((5, 1, 1, 9), (6, 3, 2, 37), (3, 2, 1, 64)):
        r = RNG.integers(-128, 128, (d, units, 4 * units)).astype(np.int8)
        zero = RNG.integers(-5, 6, (d, 4 * units)).astype(np.int8)
        scale = np.abs(_normal(d, 4 * units, scale=0.01))
        args = [_normal(steps, rows, d, 4 * units), r, scale, zero, None,
                _normal(d, rows, units), _normal(d, rows, units), None]  # fmt: skip
        more = {"direction": "bidirectional" if d == 2 else "forward", "clip": None,
                "activations": ACTS["lstm"] * d, "input_forget": False}  # fmt: skip
        kernel = OPAQUE["qlstm"](opaque.node("qlstm", args, (1,), **more), opaque.target)
        assert kernel.packed is not None
        opaque.check("qlstm", args, 1e-5, (1,), **more)
        plain = opaque.run(opaque.node("qlstm", args, **more), args)
        packed = opaque.run(opaque.node("qlstm", args, (1,), **more), args)
        for a, b in zip(plain, packed):
            np.testing.assert_allclose(a, b, atol=1e-6)
        args[5][0, rows - 1, 3] = np.nan
        with np.errstate(invalid="ignore"):
            opaque.check("qlstm", args, 1e-5, (1,), **more)
