"""Contractions at random, of the sizes that networks have: kernels that nobody has chosen.

Each is an ONNX model of one layer, drawn from a seed: a convolution (pointwise, 3x3, strided, of
groups, or the first one of an image), a product of matrices (few rows or many, with a constant or,
as in attention, of two operands), and what often follows it. ``bench.calibration`` judges cost
models by them: no model was ever tuned to one. Sizes are drawn until a layer has between ``LEAST``
and ``MOST`` operations, so that a set of variants is measured in a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

LEAST, MOST = 2e6, 6e8
"""Operations of a layer."""
_SIDES = (7, 10, 14, 20, 28, 40, 56, 80, 112)
_ENDS = ("", "", "Relu", "HardSwish", "silu", "residual", "residual relu")
"""What follows a convolution."""


def layers(seed: int, count: int) -> Iterator[tuple[str, Any]]:
    """(name, ONNX model) of ``count`` layers; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        name, model = (_convolution if rng.random() < 0.65 else _product)(rng)
        if model is not None:
            made += 1
            yield f"{seed}.{made} {name}", model


def _pick(rng: np.random.Generator, choices: tuple[int, ...]) -> int:
    return int(rng.choice(choices))


def _channels(rng: np.random.Generator, most: int) -> int:
    """A number of channels: mostly multiples of 8, half of them of 32, spread evenly by size."""
    width = float(np.exp(rng.uniform(np.log(12), np.log(most))))
    step = _pick(rng, (1, 4, 8, 8, 16, 32, 32, 64))
    return max(step, round(width / step) * step)


def _convolution(rng: np.random.Generator) -> tuple[str, Any]:
    side, kind = _pick(rng, _SIDES), rng.random()
    before, after = _channels(rng, 512), _channels(rng, 512)
    kernel, stride, groups = 1, 1, 1
    if kind < 0.08:
        side, before, after = _pick(rng, (96, 160, 224)), 3, _channels(rng, 96)
        kernel, stride = _pick(rng, (3, 5, 7)), 2
    elif kind < 0.35:
        kernel, stride = 3, 1 if rng.random() < 0.7 else 2
    elif kind < 0.45:
        groups = _pick(rng, (2, 3, 4, 8))
        before, after = -(-before // groups) * groups, -(-after // groups) * groups
        kernel = _pick(rng, (1, 3))
    elif kind < 0.55:
        stride = 2
    out = -(-side // stride)
    end = str(rng.choice(_ENDS))
    if not LEAST <= 2.0 * out * out * after * before // groups * kernel**2 <= MOST:
        return "", None
    pads = [kernel // 2] * 4
    node = ("Conv", ["x", "w", "b"], {
        "kernel_shape": [kernel] * 2, "strides": [stride] * 2, "group": groups, "pads": pads})
    weights = {"w": (after, before // groups, kernel, kernel), "b": (after,)}
    name = (f"conv {side}x{side}x{before} to {after}, {kernel}x{kernel}, stride {stride}, "
            f"{groups} groups {end}")
    return name.strip(), _model(rng, node, {"x": (1, before, side, side)}, weights,
                                (1, after, (side - 1) // stride + 1, (side - 1) // stride + 1), end)


def _product(rng: np.random.Generator) -> tuple[str, Any]:
    rows = int(np.exp(rng.uniform(np.log(1), np.log(2048))))
    depth, columns = _channels(rng, 3072), _channels(rng, 3072)
    batch = _pick(rng, (1, 1, 1, 4, 8, 12))
    end = str(rng.choice(("", "Relu", "Gelu", "residual")))
    if not LEAST <= 2.0 * batch * rows * depth * columns <= MOST:
        return "", None
    name = f"product {batch}x{rows}x{depth} by {columns} {end}"
    if batch > 1:
        inputs = {"x": (batch, rows, depth), "y": (batch, depth, columns)}
        return name.strip(), _model(rng, ("MatMul", ["x", "y"], {}), inputs, {},
                                    (batch, rows, columns), "")
    weights = {"w": (depth, columns), "b": (columns,)}
    return name.strip(), _model(rng, ("Gemm", ["x", "w", "b"], {}), {"x": (rows, depth)}, weights,
                                (rows, columns), end)


def _model(rng: np.random.Generator, node: tuple[str, Sequence[str], Mapping[str, Any]],
           inputs: Mapping[str, tuple[int, ...]], weights: Mapping[str, tuple[int, ...]],
           shape: tuple[int, ...], end: str) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    op, operands, attributes = node
    nodes = [helper.make_node(op, operands, ["y0"], **attributes)]
    last, residual = "y0", end.startswith("residual")
    if residual:
        inputs = {**inputs, "r": shape}
        nodes.append(helper.make_node("Add", [last, "r"], ["y1"]))
        last = "y1"
    if end == "silu":
        nodes += [helper.make_node("Sigmoid", [last], ["s"]),
                  helper.make_node("Mul", [last, "s"], ["y2"])]
    elif end.endswith("relu"):
        nodes.append(helper.make_node("Relu", [last], ["y2"]))
    elif end and not residual:
        nodes.append(helper.make_node(end, [last], ["y2"]))
    last = nodes[-1].output[0]

    def value(name: str, dims: tuple[int, ...]) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    held = [numpy_helper.from_array(rng.standard_normal(dims, np.float32), name)
            for name, dims in weights.items()]
    graph = helper.make_graph(nodes, "layer", [value(k, v) for k, v in inputs.items()],
                              [value(last, shape)], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
