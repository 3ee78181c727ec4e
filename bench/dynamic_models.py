"""Models whose sizes are all symbolic, in any width: a transformer, an image network, an LSTM.

They are what exporters write: shape arithmetic in the graph, reshapes to computed shapes, masks
that broadcast, resizing to the size of another tensor. Weights are random but fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx


@dataclass
class Writer:
    """Collects nodes and constants of one ONNX graph."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    def op(self, kind: str, *inputs: str, count: int = 1, **attrs: Any) -> Any:
        """Appends a node; its output's name, or a list of ``count`` names."""
        from onnx import helper

        names = [f"v{len(self.nodes)}_{k}" for k in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attrs))
        return names[0] if count == 1 else names

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant."""
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int) -> str:
        """Random normal weights that keep the variance of what they multiply."""
        depth = math.prod(shape[1:]) if len(shape) > 2 else shape[0]
        return self.const(self.rng.standard_normal(shape) / math.sqrt(depth))

    def size(self, x: str, axis: int) -> str:
        """One size of ``x``, as an int64 vector of one element."""
        return str(self.op("Gather", self.op("Shape", x), self.const([axis], np.int64)))

    def shape(self, *sizes: str | int) -> str:
        """A shape vector of sizes of other tensors and numbers."""
        parts = [s if isinstance(s, str) else self.const([s], np.int64) for s in sizes]
        return str(self.op("Concat", *parts, axis=0))

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """``x W + b``."""
        product = self.op("MatMul", x, self.weight(inputs, outputs))
        return str(self.op("Add", product, self.const(self.rng.standard_normal(outputs))))

    def model(
        self, inputs: Sequence[tuple[str, Any, Sequence[str | int]]], outputs: Sequence[str]
    ) -> onnx.ModelProto:
        """The model, of inputs (name, dtype, shape) and outputs by name."""
        import onnx
        from onnx import helper

        declared = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(d)), s)
            for n, d, s in inputs
        ]
        results = [onnx.ValueInfoProto(name=name) for name in outputs]
        graph = helper.make_graph(self.nodes, "dynamic", declared, results, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def bert(width: int = 16, heads: int = 2, layers: int = 2, vocabulary: int = 50,
         longest: int = 64) -> onnx.ModelProto:  # fmt: skip
    """BERT-like encoder: ``ids`` and ``mask`` i64[batch, length] -> states f32[batch, length,
    width] and their masked mean f32[batch, width]."""
    w = Writer()
    batch, length = w.size("ids", 0), w.size("ids", 1)
    positions = w.op("Slice", w.weight(longest, width), w.const([0], np.int64), length,
                     w.const([0], np.int64))  # fmt: skip
    x = w.op("Add", w.op("Gather", w.weight(vocabulary, width), "ids"), positions)
    x = _norm(w, x, width)
    real = w.op("Cast", "mask", to=1)
    bias = w.op("Unsqueeze", real, w.const([1, 2], np.int64))
    bias = w.op("Mul", w.op("Sub", w.const(1.0), bias), w.const(-1e4))
    for _ in range(layers):
        x = _norm(w, w.op("Add", x, _attention(w, x, bias, batch, length, width, heads)), width)
        wide = w.linear(x, width, 4 * width)
        half = w.op("Mul", wide, w.const(0.5))
        error = w.op("Erf", w.op("Div", wide, w.const(math.sqrt(2))))
        wide = w.op("Mul", half, w.op("Add", error, w.const(1.0)))
        x = _norm(w, w.op("Add", x, w.linear(wide, 4 * width, width)), width)
    column = w.op("Unsqueeze", real, w.const([2], np.int64))
    axis = w.const([1], np.int64)
    total = w.op("ReduceSum", w.op("Mul", x, column), axis, keepdims=0)
    count = w.op("Max", w.op("ReduceSum", column, axis, keepdims=0), w.const(1.0))
    mean = w.op("Div", total, count)
    return w.model([(n, np.int64, ("batch", "length")) for n in ("ids", "mask")], [x, mean])


def _norm(w: Writer, x: str, width: int) -> str:
    scale, shift = w.const(1 + 0.1 * w.rng.standard_normal(width)), w.const(np.zeros(width))
    return str(w.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-5))


def _attention(w: Writer, x: str, bias: str, batch: str, length: str, width: int, heads: int
               ) -> str:  # fmt: skip
    split = w.shape(batch, length, heads, width // heads)
    q, k, v = (
        w.op("Transpose", w.op("Reshape", w.linear(x, width, width), split), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = w.op("Div", w.op("MatMul", q, k), w.const(math.sqrt(width // heads)))
    weights = w.op("Softmax", w.op("Add", scores, bias), axis=-1)
    mixed = w.op("Transpose", w.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    joined = w.op("Reshape", mixed, w.shape(batch, length, width))
    return w.linear(joined, width, width)


def cnn(width: int = 8) -> onnx.ModelProto:
    """Image network: ``x`` f32[batch, 3, height, width] -> map f32[batch, 4, height, width],
    scores f32[batch, 10] and ``half``, the picture at half the size."""
    w = Writer()
    around: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    a = w.op("Relu", w.op("Conv", "x", w.weight(width, 3, 3, 3), strides=[2, 2], **around))
    b = w.op("Conv", a, w.weight(width, 1, 3, 3), group=width, **around)
    b = w.op("Relu", w.op("Add", w.op("Conv", b, w.weight(width, width, 1, 1)), a))
    c = w.op("MaxPool", b, kernel_shape=[3, 3], strides=[2, 2], **around)
    c = w.op("Relu", w.op("Conv", c, w.weight(2 * width, width, 3, 3), **around))
    mean = w.op("AveragePool", c, kernel_shape=[3, 3], count_include_pad=1, **around)
    up = w.op("Resize", mean, "", "", w.op("Concat", w.op("Slice", w.op("Shape", mean),
              w.const([0], np.int64), w.const([2], np.int64)), w.op("Slice", w.op("Shape", b),
              w.const([2], np.int64), w.const([4], np.int64)), axis=0), mode="nearest",
              coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    joined = w.op("Concat", up, b, axis=1)
    full = w.op("Concat", w.op("Slice", w.op("Shape", joined), w.const([0], np.int64),
                               w.const([2], np.int64)),
                w.size("x", 2), w.size("x", 3), axis=0)  # fmt: skip
    wide = w.op("Resize", joined, "", "", full, mode="linear")
    out = w.op("Conv", wide, w.weight(4, 3 * width, 1, 1))
    pooled = w.op("Flatten", w.op("GlobalAveragePool", joined))
    scores = w.op("Softmax", w.linear(pooled, 3 * width, 10), axis=1)
    half = w.op("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    shape = ("batch", 3, "height", "width")
    return w.model([("x", np.float32, shape)], [out, scores, half])


def lstm(width: int = 8, inputs: int = 5) -> onnx.ModelProto:
    """Bidirectional LSTM: ``x`` f32[length, batch, inputs], ``lengths`` i32[batch] -> all states
    f32[length, batch, 2 width], the last ones f32[2, batch, width]."""
    w = Writer()
    gates = 4 * width
    weights = [w.const(0.3 * w.rng.standard_normal((2, gates, n))) for n in (inputs, width)]
    bias = w.const(0.1 * w.rng.standard_normal((2, 2 * gates)))
    y, last, _ = w.op("LSTM", "x", *weights, bias, "lengths", count=3, hidden_size=width,
                      direction="bidirectional")  # fmt: skip
    turned = w.op("Transpose", y, perm=[0, 2, 1, 3])
    joined = w.op("Reshape", turned, w.const([0, 0, -1], np.int64))
    shape = ("length", "batch", inputs)
    return w.model([("x", np.float32, shape), ("lengths", np.int32, ("batch",))], [joined, last])


def broadcasts(inner: int = 6) -> onnx.ModelProto:
    """Sizes that broadcast only as they are fed: ``x`` f32[a, b], ``y`` f32[c, d], and batches of
    matrices ``m`` f32[a, b, inner] times ``n`` f32[c, inner, d]."""
    w = Writer()
    total = w.op("Add", w.op("Mul", "x", "y"), w.op("Min", "x", "y"))
    chosen = w.op("Where", w.op("Less", "x", "y"), total, "y")
    product = w.op("MatMul", "m", "n")
    spread = w.op("Expand", "x", w.op("Shape", "y"))
    rows = w.op("ReduceMax", total, axes=[0], keepdims=1)
    inputs = [("x", ("a", "b")), ("y", ("c", "d")), ("m", ("a", "b", inner)),
              ("n", ("c", inner, "d"))]  # fmt: skip
    return w.model([(n, np.float32, s) for n, s in inputs], [chosen, product, spread, rows])


def bert_feeds(rng: np.random.Generator, batch: int, length: int, vocabulary: int = 50
               ) -> dict[str, np.ndarray]:  # fmt: skip
    """Random ids, and masks of random lengths, at least 1 where there is room."""
    lengths = rng.integers(min(1, length), length + 1, (batch, 1))
    mask = (np.arange(length)[None] < lengths).astype(np.int64)
    return {"ids": rng.integers(0, vocabulary, (batch, length)), "mask": mask}


def cnn_feeds(rng: np.random.Generator, batch: int, height: int, width: int
              ) -> dict[str, np.ndarray]:  # fmt: skip
    """A random picture."""
    return {"x": rng.standard_normal((batch, 3, height, width)).astype(np.float32)}


def lstm_feeds(rng: np.random.Generator, batch: int, length: int, inputs: int = 5
               ) -> dict[str, np.ndarray]:  # fmt: skip
    """A random sequence, and random lengths within it."""
    x = rng.standard_normal((length, batch, inputs)).astype(np.float32)
    return {"x": x, "lengths": rng.integers(0, length + 1, batch).astype(np.int32)}


def broadcast_feeds(rng: np.random.Generator, a: int, b: int, c: int, d: int, inner: int = 6
                    ) -> dict[str, np.ndarray]:  # fmt: skip
    """Random matrices."""
    shapes = {"x": (a, b), "y": (c, d), "m": (a, b, inner), "n": (c, inner, d)}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
