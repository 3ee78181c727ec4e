"""Recurrent layers in ONNX.

The IR's layers take the projected input. ONNX projects by itself: it gets the projected input and
weights that select each direction's part of it. ``qlstm`` has no standard operator and becomes a
``Scan`` around quantized matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from ...ir.graph import Node
from ...ir.ops.recurrent import OPERANDS, reversed_directions
from ...ir.types import F32, I32
from .context import Exporter, Scope, onnx_dtype, writes

_ACTIVATIONS = {
    "relu": ("Relu", 0), "tanh": ("Tanh", 0), "sigmoid": ("Sigmoid", 0), "affine": ("Affine", 2),
    "leakyrelu": ("LeakyRelu", 1), "thresholdedrelu": ("ThresholdedRelu", 1),
    "scaledtanh": ("ScaledTanh", 2), "hardsigmoid": ("HardSigmoid", 2), "elu": ("Elu", 1),
    "softsign": ("Softsign", 0), "softplus": ("Softplus", 0),
}  # fmt: skip
"""ONNX name, and how many of (alpha, beta) it reads."""


@writes("lstm", "gru", "rnn")
def _recurrent(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    """ONNX projects the input itself: it gets the projected input and weights that select, for
    each direction, that direction's part of it."""
    attrs, dtype = node.attrs, node.out.dtype
    xw, r = node.operands[:2]
    steps, rows, directions, width = xw.shape
    hidden = r.shape[1]
    if not isinstance(directions, int) or not isinstance(width, int) or not isinstance(hidden, int):
        return list(e.refuse(node, "needs static directions and hidden size"))
    given = dict(zip(OPERANDS[node.op], [*xs[2:], *[""] * 4], strict=False))
    select = np.eye(directions * width, dtype=np.float32).reshape(directions, width, -1)
    bias = _hidden_bias(e, node, given.get("rb", ""), directions, hidden)
    lens = given.get("lens", "")
    names, alpha, beta = _activations(attrs["activations"])
    extra: dict[str, Any] = {"activation_alpha": alpha} if alpha else {}
    extra |= {"activation_beta": beta} if beta else {}
    extra |= {"clip": float(attrs["clip"])} if attrs["clip"] is not None else {}
    for key in ("linear_before_reset", "input_forget"):
        extra |= {key: int(attrs[key])} if key in attrs else {}
    operands = [
        e.reshape(xs[0], [steps, rows, directions * width]), e.literal(select, dtype),
        e.transpose(xs[1], [0, 2, 1]), bias, e.cast(lens, I32) if lens else "",
        given.get("h0", ""),
    ]  # fmt: skip
    if node.op == "lstm":
        operands += [given["c0"], given["peep"]]
    y, *last = e.emit(
        node.op.upper(), *operands, outputs=len(node.types), hidden_size=hidden,
        direction=attrs["direction"], activations=names, **extra,
    )  # fmt: skip
    return [e.transpose(y, [0, 2, 1, 3]), *last]  # ONNX puts the directions before the rows


def _hidden_bias(e: Exporter, node: Node, rb: str, directions: int, hidden: int) -> str:
    if not rb:
        return ""
    zeros = e.literal(np.zeros((directions, 5 * hidden)), node.out.dtype)
    return str(e.emit("Concat", zeros, rb, axis=1))


def _activations(acts: Any) -> tuple[list[str], list[float], list[float]]:
    names, alphas, betas = [], [], []
    for name, alpha, beta in acts:
        onnx_name, reads = _ACTIVATIONS[name]
        names.append(onnx_name)
        alphas += [float(alpha)] if reads >= 1 else []
        betas += [float(beta)] if reads == 2 else []
    return names, alphas, betas


# -- quantized recurrence ------------------------------------------------------------------------


def _activated(e: Exporter, act: tuple[str, float, float], x: str) -> str:
    """An activation as ONNX operators on float32."""
    name, alpha, beta = act
    a, b = (e.literal(v, F32) for v in (alpha, beta))
    plain = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softsign": "Softsign",
             "softplus": "Softplus"}  # fmt: skip
    if name in plain:
        return str(e.emit(plain[name], x))
    table: dict[str, Callable[[], Any]] = {
        "affine": lambda: e.emit("Add", e.emit("Mul", x, a), b),
        "leakyrelu": lambda: e.emit("LeakyRelu", x, alpha=alpha),
        "thresholdedrelu": lambda: e.emit("ThresholdedRelu", x, alpha=alpha),
        "scaledtanh": lambda: e.emit("Mul", e.emit("Tanh", e.emit("Mul", x, b)), a),
        "hardsigmoid": lambda: e.emit("HardSigmoid", x, alpha=alpha, beta=beta),
        "elu": lambda: e.emit("Elu", x, alpha=alpha),
    }
    return str(table[name]())


@writes("qlstm")
def _quantized(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    xw, r = node.operands[:2]
    given = dict(zip(OPERANDS["qlstm"], [*xs[2:], *[""] * 6], strict=False))
    if given["lens"] or xw.dtype != F32:
        return list(e.refuse(node, "needs rows of one length and float32"))
    hidden = r.shape[1]
    parts = []
    for d, back in enumerate(reversed_directions(node.attrs["direction"])):
        at = e.literal(d)
        mine = {k: e.emit("Gather", v, at, axis=0) if v else "" for k, v in given.items()}
        zeros = e.emit("Expand", e.literal(0, F32), e.dims([xw.shape[1], hidden]))
        body = _quantized_step(e, node, d, e.emit("Gather", xs[1], at, axis=0), mine)
        parts.append(e.emit(
            "Scan", mine["h0"] or zeros, mine["c0"] or zeros,
            e.emit("Gather", xs[0], at, axis=2), outputs=3, body=body, num_scan_inputs=1,
            scan_input_directions=[int(back)], scan_output_directions=[int(back)],
        ))  # fmt: skip
    stacked = []
    for k, axis in ((2, 2), (0, 0), (1, 0)):
        lifted = [e.emit("Unsqueeze", part[k], e.literal([axis])) for part in parts]
        stacked.append(lifted[0] if len(lifted) == 1 else e.emit("Concat", *lifted, axis=axis))
    return stacked


def _quantized_step(e: Exporter, node: Node, d: int, r: str, mine: dict[str, str]) -> Any:
    """The body of one direction: (h, c, projected input) -> (h, c, h)."""
    outer, e.scope = e.scope, Scope()
    h, c, x = (e.fresh(n) for n in ("hidden", "cell", "projected"))
    acts = node.attrs["activations"][3 * d : 3 * d + 3]
    bound = node.attrs["clip"]

    def gate(value: str, k: int, peep: int | None, cell: str) -> str:
        if mine["peep"] and peep is not None:
            part = e.emit("Split", mine["peep"], outputs=3, axis=0, num_outputs=3)[peep]
            value = e.emit("Add", value, e.emit("Mul", part, cell))
        if bound is not None:
            value = e.emit("Clip", value, e.literal(-bound, F32), e.literal(bound, F32))
        return _activated(e, acts[k], value)

    small, step, offset = e.emit("DynamicQuantizeLinear", h, outputs=3)
    total = e.cast(e.emit("MatMulInteger", small, r, offset, mine["zero"]), F32)
    product = e.emit("Mul", total, e.emit("Mul", step, mine["scale"]))
    i, o, f, g = e.emit("Split", e.emit("Add", x, product), outputs=4, axis=-1, num_outputs=4)
    i = gate(i, 0, 0, c)
    forget = e.emit("Sub", e.literal(1, F32), i) if node.attrs["input_forget"] else gate(f, 0, 2, c)
    new = e.emit("Add", e.emit("Mul", forget, c), e.emit("Mul", i, gate(g, 1, None, "")))
    out = e.emit("Mul", gate(o, 0, 1, new), _activated(e, acts[2], new))
    results = [e.emit("Identity", v) for v in (out, new, out)]
    nodes, e.scope = e.scope.nodes, outer
    kind = onnx_dtype(F32)
    inputs, outputs = (
        [helper.make_tensor_value_info(n, kind, None) for n in names]
        for names in ((h, c, x), results)
    )
    return helper.make_graph(nodes, e.fresh("body"), inputs, outputs)
