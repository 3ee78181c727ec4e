"""Recurrent layers: LSTM, GRU and plain RNN over time, one or both directions.

The input projection ``X W^T + biases`` is no part of these ops: it does not depend on the state, so
the importer emits it as one big ``dot`` for all steps and directions. What remains is the
recurrence proper. Operands, with T steps, B rows, D directions, H hidden units, G gates:

==========  =====================  ==========================================================
``xw``      [T, B, D, G*H]         projected inputs, all biases that can be added there included
``r``       [D, H, G*H]            recurrence weights, transposed: gate columns are contiguous
``lens``    i32/i64 [B], optional  steps of each row; the rest of its output is 0
``h0, c0``  [D, B, H], optional    initial state, 0 where absent
``peep``    [D, 3*H], optional     LSTM peepholes in the order i, o, f
``rb``      [D, H], optional       GRU bias of the hidden gate inside the reset product
``scale``   [D, G*H]               ``qlstm``: ``r`` is i8 or u8 and means (r - zero) * scale
``zero``    like ``r``, [D, G*H]
==========  =====================  ==========================================================

Gates are ordered as in ONNX: LSTM i, o, f, c; GRU z, r, h. Results are the states of all steps
``y [T, B, D, H]`` (the directions of one row side by side, as the next layer reads them) and the
last state ``[D, B, H]`` (LSTM: and the last cell).

``qlstm`` has quantized recurrence weights. Its state, too, is quantized before each product: all
rows of a step together, to u8 with the range of the state and 0 (ONNX's DynamicQuantizeLinear).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..dims import Dim, product
from ..errors import ModelError
from ..types import TensorType
from .base import Attributes, OpDef, Work, exact, register, tensor

DIRECTIONS = ("forward", "reverse", "bidirectional")
ACTIVATIONS = (
    "relu", "tanh", "sigmoid", "affine", "leakyrelu", "thresholdedrelu", "scaledtanh",
    "hardsigmoid", "elu", "softsign", "softplus",
)  # fmt: skip
"""Names of ONNX activations, in lower case."""

GATES = {"lstm": 4, "qlstm": 4, "gru": 3, "rnn": 1}
_ACTIVATIONS_PER_DIRECTION = {"lstm": 3, "qlstm": 3, "gru": 2, "rnn": 1}


def reversed_directions(direction: str) -> tuple[bool, ...]:
    """For each direction that is computed: whether it walks back in time."""
    return {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]


# -- activations -------------------------------------------------------------------------------


def _np_sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def activation(name: str, alpha: float, beta: float) -> Callable[[np.ndarray], np.ndarray]:
    """The NumPy function of an ONNX activation with its two parameters."""
    table: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "sigmoid": _np_sigmoid,
        "affine": lambda x: alpha * x + beta,
        "leakyrelu": lambda x: np.where(x >= 0, x, alpha * x),
        "thresholdedrelu": lambda x: np.where(x > alpha, x, np.where(np.isnan(x), x, 0)),
        "scaledtanh": lambda x: alpha * np.tanh(beta * x),
        "hardsigmoid": lambda x: np.minimum(np.maximum(alpha * x + beta, 0), 1),
        "elu": lambda x: np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0))),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    }
    fn = exact(table[name])
    return lambda x: fn(x).astype(x.dtype)


# -- inference ---------------------------------------------------------------------------------


def _check_operand(op: str, name: str, t: Any, shape: tuple[Dim, ...], like: TensorType) -> None:
    if t is None:
        return
    t = tensor(t, op, name)
    wrong = len(t.shape) != len(shape) or any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for a, b in zip(t.shape, shape, strict=True)
    )
    loose = {"lens": t.dtype.is_integer, "r": t.dtype.name in ("i8", "u8")}
    loose["zero"] = loose["r"]
    free = name == "lens" or (op == "qlstm" and name in ("r", "zero"))
    if wrong or not (loose[name] if free else t.dtype == like.dtype):
        raise ModelError(f"{op}: {name} is {t}, but must have shape {shape}")


def _infer(op: str, names: tuple[str, ...]) -> Any:
    def infer(types: tuple[Any, ...], attrs: Attributes) -> tuple[Any, ...]:
        xw, r = tensor(types[0], op, "xw"), tensor(types[1], op, "r")
        if xw.rank != 4 or r.rank != 3 or not xw.dtype.is_float:
            raise ModelError(f"{op}: projected input {xw} and recurrence weights {r}")
        steps, rows, _, _ = xw.shape
        hidden = r.shape[1]
        directions = len(_check_attrs(op, attrs))
        gates = GATES[op]
        state = (directions, rows, hidden)
        _check_operand(op, "xw", xw, (steps, rows, directions, hidden * gates), xw)
        _check_operand(op, "r", r, (directions, hidden, hidden * gates), xw)
        shapes: dict[str, tuple[Dim, ...]] = {
            "lens": (rows,), "h0": state, "c0": state, "peep": (directions, 3 * hidden),
            "rb": (directions, hidden), "scale": (directions, hidden * gates),
            "zero": (directions, hidden * gates),
        }  # fmt: skip
        for name, t in zip(names, types[2:], strict=False):
            _check_operand(op, name, t, shapes[name], xw)
        last = xw.with_shape(state)
        y = xw.with_shape((steps, rows, directions, hidden))
        return (y, last, last) if "lstm" in op else (y, last)

    return infer


def _check_attrs(op: str, attrs: Attributes) -> tuple[bool, ...]:
    if attrs["direction"] not in DIRECTIONS:
        raise ModelError(f"{op}: direction {attrs['direction']!r} is none of {DIRECTIONS}")
    walks = reversed_directions(attrs["direction"])
    wanted = len(walks) * _ACTIVATIONS_PER_DIRECTION[op]
    acts = attrs["activations"]
    if len(acts) != wanted or any(a[0] not in ACTIVATIONS for a in acts):
        raise ModelError(f"{op}: {wanted} activations out of {ACTIVATIONS}, got {acts}")
    return walks


# -- reference ---------------------------------------------------------------------------------

Step = Callable[[np.ndarray, tuple[np.ndarray, ...]], tuple[np.ndarray, ...]]


def _walk(
    xw: np.ndarray, lens: np.ndarray, state: tuple[np.ndarray, ...], back: bool, step: Step
) -> np.ndarray:
    """Runs one direction: ``xw [T, B, G*H]``; updates the states [B, H] in place, returns y."""
    steps, rows = xw.shape[:2]
    y = np.zeros((steps, rows, state[0].shape[-1]), dtype=xw.dtype)
    for s in range(steps):
        at = np.flatnonzero(s < lens)
        t = lens[at] - 1 - s if back else np.full(at.shape, s)
        new = step(xw[t, at], tuple(x[at] for x in state))
        for old, value in zip(state, new, strict=True):
            old[at] = value
        y[t, at] = new[0]
    return y


def _quantized_product(r: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> Any:
    """The function h -> h R for quantized R; h is quantized, too, all rows together."""

    def times(hidden: np.ndarray) -> np.ndarray:
        low = min(hidden.min(initial=0.0), 0.0)
        step = hidden.dtype.type((max(hidden.max(initial=0.0), 0.0) - low) / 255)
        step = step if step else hidden.dtype.type(1)
        offset = np.clip(np.rint(-low / step), 0, 255)
        small = np.clip(np.rint(hidden / step) + offset, 0, 255) - offset
        total = small.astype(np.int64) @ (r.astype(np.int64) - zero.astype(np.int64))
        return (total * (step * scale)).astype(hidden.dtype)

    return times


def _lstm_step(d: int, times: Any, peep: Any, attrs: Attributes, clip: Any) -> Step:
    f, g, h = (activation(*a) for a in attrs["activations"][3 * d : 3 * d + 3])

    def step(xw: np.ndarray, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        hidden, cell = state
        i, o, fg, c = np.split(xw + times(hidden), 4, axis=-1)
        p = np.split(peep, 3) if peep is not None else (0, 0, 0)
        i = f(clip(i + p[0] * cell))
        fg = 1 - i if attrs["input_forget"] else f(clip(fg + p[2] * cell))
        cell = fg * cell + i * g(clip(c))
        o = f(clip(o + p[1] * cell))
        return o * h(cell), cell

    return step


def _gru_step(d: int, r: np.ndarray, rb: Any, attrs: Attributes, clip: Any) -> Step:
    f, g = (activation(*a) for a in attrs["activations"][2 * d : 2 * d + 2])
    units = r.shape[0]

    def step(xw: np.ndarray, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        (hidden,) = state
        zr = xw[:, : 2 * units] + hidden @ r[:, : 2 * units]
        z, reset = f(clip(zr[:, :units])), f(clip(zr[:, units:]))
        bias = 0 if rb is None else rb
        if attrs["linear_before_reset"]:
            inner = reset * (hidden @ r[:, 2 * units :] + bias)
        else:
            inner = (reset * hidden) @ r[:, 2 * units :] + bias
        new = g(clip(xw[:, 2 * units :] + inner))
        return ((1 - z) * new + z * hidden,)

    return step


def _rnn_step(d: int, r: np.ndarray, attrs: Attributes, clip: Any) -> Step:
    f = activation(*attrs["activations"][d])
    return lambda xw, state: (f(clip(xw + state[0] @ r)),)


def _reference(op: str, names: tuple[str, ...]) -> Any:
    def reference(args: Sequence[Any], attrs: Attributes, types: Any) -> tuple[Any, ...]:
        xw, r = args[:2]
        kept = xw.dtype
        work = np.float32 if kept.itemsize < 4 else kept
        given = dict(zip(names, args[2:], strict=False))
        xw, r = xw.astype(work), r.astype(work) if op != "qlstm" else r
        steps, rows, directions, _ = xw.shape
        units = r.shape[1]
        lens = given.get("lens")
        lens = np.full(rows, steps) if lens is None else np.clip(lens, 0, steps).astype(np.int64)

        def clip(x: np.ndarray) -> np.ndarray:
            bound = attrs["clip"]
            return x if bound is None else np.clip(x, -bound, bound).astype(x.dtype)

        def operand(name: str, d: int) -> Any:
            v = given.get(name)
            return None if v is None else v[d].astype(work)

        y = np.zeros((steps, rows, directions, units), dtype=work)
        last = [np.zeros((directions, rows, units), dtype=work) for _ in range(len(types) - 1)]
        for d, back in enumerate(reversed_directions(attrs["direction"])):
            for state, name in zip(last, ("h0", "c0"), strict=False):
                first = operand(name, d)
                if first is not None:
                    state[d] = first
            if op == "qlstm":
                times = _quantized_product(r[d], operand("scale", d), given["zero"][d])
                step = _lstm_step(d, times, operand("peep", d), attrs, clip)
            elif op == "lstm":
                step = _lstm_step(d, lambda h, m=r[d]: h @ m, operand("peep", d), attrs, clip)
            elif op == "gru":
                step = _gru_step(d, r[d], operand("rb", d), attrs, clip)
            else:
                step = _rnn_step(d, r[d], attrs, clip)
            with np.errstate(all="ignore"):
                y[:, :, d] = _walk(xw[:, :, d], lens, tuple(s[d] for s in last), back, step)
        return tuple(a.astype(kept) for a in (y, *last))

    return reference


# -- declarations ------------------------------------------------------------------------------


def _work(operands: tuple[Any, ...], attrs: Attributes, results: tuple[Any, ...]) -> Work:
    """The weights are read, and multiplied by the state, once in every step."""
    xw, r = operands[:2]
    steps, rows = xw.shape[0], xw.shape[1]
    once: Dim = 0
    for t in (*operands, *results):
        if t is not None and t is not r:
            once = once + t.nbytes()
    return Work(
        2 * steps * rows * product(r.shape) + 30 * xw.numel(), once + steps * r.nbytes()
    )


_TRAITS = frozenset({"recurrent", "opaque"})
OPERANDS = {
    "lstm": ("lens", "h0", "c0", "peep"),
    "qlstm": ("scale", "zero", "lens", "h0", "c0", "peep"),
    "gru": ("rb", "lens", "h0"),
    "rnn": ("lens", "h0"),
}
"""Names of the optional operands after ``xw`` and ``r``."""

for _op, _extra, _doc in (
    ("lstm", ("input_forget",), "long short-term memory (Hochreiter and Schmidhuber 1997)"),
    ("qlstm", ("input_forget",), "lstm with quantized recurrence weights and state"),
    ("gru", ("linear_before_reset",), "gated recurrent unit (Cho et al. 2014)"),
    ("rnn", (), "simple recurrence h = f(x W + h R)"),
):
    register(OpDef(
        _op, (2, 2 + len(OPERANDS[_op])), _infer(_op, OPERANDS[_op]),
        _reference(_op, OPERANDS[_op]), _TRAITS, work_fn=_work,
        attrs=("direction", "activations", "clip", *_extra),
        doc=_doc,
    ))
