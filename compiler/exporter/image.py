"""Convolutions, windows and recurrent layers in ONNX.

ONNX images are channels-first; layout ``last`` is transposed around the operator. Pads that ONNX or
runtimes do not take (symbolic, negative, as wide as a pooling kernel) become a ``Pad`` before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir.dims import Dim
from ...ir.graph import Node, Value
from ...ir.ops.reduction import identity
from ...ir.types import F64, I32, DType
from .context import Exporter, writes


def _first(e: Exporter, name: str, v: Value, layout: str) -> str:
    return name if layout == "first" else e.transpose(name, [0, v.rank - 1, *range(1, v.rank - 1)])


def _back(e: Exporter, name: str, rank: int, layout: str) -> str:
    return name if layout == "first" else e.transpose(name, [0, *range(2, rank), 1])


def _pad_spatial(
    e: Exporter, x: str, lo: tuple[Dim, ...], hi: tuple[Dim, ...], value: Any, dtype: DType
) -> str:
    pads = e.dims([0, 0, *lo, 0, 0, *hi])
    return str(e.emit("Pad", x, pads, e.literal(value, dtype)))


def _prepared(
    e: Exporter, node: Node, x: str, fill: Any, narrow: tuple[int, ...]
) -> tuple[str, list[Any]]:
    """(image, pads attribute): pads that the operator cannot take are added before it."""
    lo, hi = node.attrs["pads_lo"], node.attrs["pads_hi"]
    plain = all(isinstance(p, int) and p >= 0 for p in (*lo, *hi))
    if plain:
        plain = all(p < k for p, k in zip((*lo, *hi), narrow * 2, strict=True))
        # A dilated window may lie in the padding as a whole, which runtimes do not call -inf.
        plain = plain and (not any((*lo, *hi)) or all(d == 1 for d in node.attrs["dilations"]))
    if plain:
        return x, [*lo, *hi]
    return _pad_spatial(e, x, lo, hi, fill, node.out.dtype), [0] * (2 * len(lo))


@writes("conv")
def _conv(e: Exporter, node: Node, xs: list[str]) -> str:
    image, weights = node.operands
    attrs, layout, r = node.attrs, node.attrs["layout"], image.rank - 2
    x, w = _first(e, xs[0], image, layout), xs[1]
    if layout == "last":
        w = e.transpose(w, [r + 1, r, *range(r)])
    work = node.out.dtype if node.out.dtype.is_float else F64  # ONNX convolves floats
    x, w = (
        n if v.dtype == work else e.cast(n, work) for n, v in zip((x, w), (image, weights),
                                                                 strict=True)
    )  # fmt: skip
    x, pads = _prepared_conv(e, node, x, work)
    kernel = weights.shape[2:] if layout == "first" else weights.shape[:-2]
    y = e.emit(
        "Conv", x, w, strides=list(attrs["strides"]), dilations=list(attrs["dilations"]),
        pads=pads, group=attrs["groups"], kernel_shape=list(kernel),
    )  # fmt: skip
    y = y if work == node.out.dtype else e.cast(y, node.out.dtype)
    return _back(e, y, image.rank, layout)


def _prepared_conv(e: Exporter, node: Node, x: str, work: DType) -> tuple[str, list[Any]]:
    lo, hi = node.attrs["pads_lo"], node.attrs["pads_hi"]
    if all(isinstance(p, int) and p >= 0 for p in (*lo, *hi)):
        return x, [*lo, *hi]
    return _pad_spatial(e, x, lo, hi, 0, work), [0] * (2 * len(lo))


@writes("conv_transpose")
def _conv_transpose(e: Exporter, node: Node, xs: list[str]) -> str:
    image, weights = node.operands
    attrs, layout = node.attrs, node.attrs["layout"]
    x = _first(e, xs[0], image, layout)
    lo, hi = attrs["pads_lo"], attrs["pads_hi"]
    plain = all(isinstance(p, int) and p >= 0 for p in (*lo, *hi))
    extra = attrs["output_padding"]
    room = all(
        isinstance(p, int) and 0 <= p < max(s, d)
        for p, s, d in zip(extra, attrs["strides"], attrs["dilations"], strict=True)
    )
    y = e.emit(
        "ConvTranspose", x, xs[1], strides=list(attrs["strides"]),
        dilations=list(attrs["dilations"]), group=attrs["groups"],
        kernel_shape=list(weights.shape[2:]), pads=[*lo, *hi] if plain else [0] * (2 * len(lo)),
        output_padding=list(extra) if room else [0] * len(extra),
    )  # fmt: skip
    cut_lo = (0,) * len(lo) if plain else tuple(-p for p in lo)
    cut_hi = (0,) * len(lo) if plain else tuple(-p for p in hi)
    if not room:
        cut_hi = tuple(c + p for c, p in zip(cut_hi, extra, strict=True))
    if any(c != 0 for c in (*cut_lo, *cut_hi)):
        y = _pad_spatial(e, y, cut_lo, cut_hi, 0, node.out.dtype)
    return _back(e, y, image.rank, layout)


@writes("pool")
def _pool(e: Exporter, node: Node, xs: list[str]) -> str:
    image = node.operands[0]
    attrs, layout, dtype = node.attrs, node.attrs["layout"], node.out.dtype
    kernel = tuple(attrs["kernel"])
    work = dtype if dtype.is_float and dtype.bits >= 16 else F64
    x = _first(e, xs[0], image, layout)
    fill: Any = identity(attrs["kind"], dtype)
    x, pads = _prepared(e, node, x, fill, kernel)
    x = x if work == dtype else e.cast(x, work)
    common: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(attrs["strides"]),
              "dilations": list(attrs["dilations"]), "pads": pads}  # fmt: skip
    if attrs["kind"] == "max":
        y = e.emit("MaxPool", x, **common)
    else:
        mean = e.emit("AveragePool", x, count_include_pad=1, **common)
        y = e.emit("Mul", mean, e.literal(int(np.prod(kernel)), work))
    y = y if work == dtype else e.cast(y, dtype)
    return _back(e, y, image.rank, layout)


# -- recurrent layers ----------------------------------------------------------------------------

_ACTIVATIONS = {
    "relu": ("Relu", 0), "tanh": ("Tanh", 0), "sigmoid": ("Sigmoid", 0), "affine": ("Affine", 2),
    "leakyrelu": ("LeakyRelu", 1), "thresholdedrelu": ("ThresholdedRelu", 1),
    "scaledtanh": ("ScaledTanh", 2), "hardsigmoid": ("HardSigmoid", 2), "elu": ("Elu", 1),
    "softsign": ("Softsign", 0), "softplus": ("Softplus", 0),
}  # fmt: skip
"""ONNX name, and how many of (alpha, beta) it reads."""
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@writes("lstm", "gru", "rnn")
def _recurrent(e: Exporter, node: Node, xs: list[str]) -> list[str]:
    """ONNX projects the input itself: it gets the projected input and weights that select, for
    each direction, that direction's part of it."""
    from ...ir.ops.recurrent import OPERANDS

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
    return list(
        e.emit(node.op.upper(), *operands, outputs=len(node.types), hidden_size=hidden,
               direction=attrs["direction"], activations=names, **extra)
    )  # fmt: skip


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
