"""Quantization is division, round half to even, limits: ONNX's formulas, bit by bit in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, helper

from evonnx.compiler.importer import import_model
from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir import interp


def dynamic(x: np.ndarray) -> tuple[np.ndarray, np.float32, np.uint8]:
    """DynamicQuantizeLinear as ONNX writes it, every operation rounded to float32."""
    top, low = np.float32(max(x.max(), 0)), np.float32(min(x.min(), 0))
    scale = np.float32(top - low) / np.float32(255)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    rounded = np.rint(x / scale) + np.float32(zero)
    return np.clip(rounded, 0, 255).astype(np.uint8), scale, zero


def at_ties(rng: np.random.Generator, scale: np.float32, n: int) -> np.ndarray:
    """Numbers whose quotient by ``scale`` is near or on half a step."""
    half = (rng.integers(-120, 120, n) + 0.5).astype(np.float32) * scale
    moved = rng.integers(-3, 4, n) * np.spacing(half)
    return (half + moved).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_dynamic_quantization(lab: Any, target: Any, seed: int) -> None:
    """100,000 numbers at ties: a reciprocal instead of the division moves some of them."""
    rng = np.random.default_rng(seed)
    scale = np.float32(rng.uniform(0.001, 0.1))
    x = at_ties(rng, scale, 100_000)
    x[0], x[1] = -127.5 * scale, 127.5 * scale  # so the scale is found again, or almost
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    got, s, z = lab.run([node], {"x": x}, ["y", "s", "z"], target=target, threads=2)
    want, found, zero = dynamic(x)
    assert (s, z) == (found, zero)
    np.testing.assert_array_equal(got, want)
    swapped = np.clip(np.rint(x * (np.float32(1) / found)) + np.float32(zero), 0, 255)
    assert (swapped != want).any(), "the numbers do not tell a reciprocal from a division"


def test_static_quantization(lab: Any, target: Any) -> None:
    rng = np.random.default_rng(7)
    scale = np.float32(0.0371)
    x = at_ties(rng, scale, 20_000)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    (got,) = lab.run([node], {"x": x}, ["y"], {"s": scale, "z": np.int8(-7)}, target=target)
    want = np.clip(np.rint(x / scale) + np.float32(-7), -128, 127).astype(np.int8)
    np.testing.assert_array_equal(got, want)
    swapped = np.clip(np.rint(x * (np.float32(1) / scale)) - 7, -128, 127)
    assert (swapped != want).any()


def test_nothing_but_zeros(lab: Any) -> None:
    """A range of 0 gives zeros, not NaN."""
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    got, _, zero = lab.run([node], {"x": np.zeros(5, np.float32)}, ["y", "s", "z"])
    assert (got == zero).all()


class _Network:
    """Nodes of a network all of whose values between operators are rounded to signed bytes."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def const(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def rounded(self, x: str, scale: float, zero: int) -> str:
        """``x`` to bytes and back."""
        scales = self.const(np.float32(scale)), self.const(np.int8(zero))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *scales), *scales)

    def weights(self, rng: np.random.Generator, *shape: int) -> str:
        """Bytes with a scale per output channel."""
        codes = self.const(rng.integers(-127, 128, shape).astype(np.int8))
        scales = self.const(rng.uniform(0.002, 0.02, shape[0]).astype(np.float32))
        return self.op("DequantizeLinear", codes, scales, axis=0)

    def norm(self, x: str) -> str:
        """Each channel less its mean, over its deviation, every step rounded."""
        mean = self.rounded(self.op("GlobalAveragePool", x), 0.013, -60)
        far = self.rounded(self.op("Sub", x, mean), 0.04, 3)
        variance = self.op("GlobalAveragePool", self.op("Mul", far, far))
        spread = self.op("Add", self.rounded(variance, 0.011, -128), self.const(np.float32(0.01)))
        factor = self.rounded(self.op("Reciprocal", self.op("Sqrt", spread)), 0.03, -128)
        return self.rounded(self.op("Mul", far, factor), 0.021, -9)


@pytest.mark.parametrize("side", [4, 12])
def test_no_pass_moves_a_rounding(lab: Any, side: int) -> None:
    """In float64 hardly a number is near a tie, so the optimized graph makes the same bytes."""
    rng, net = np.random.default_rng(side), _Network()
    x = net.rounded(net.op("Transpose", "x", perm=[0, 3, 1, 2]), 0.02, 4)
    y = net.op("Conv", x, net.weights(rng, 8, 3, 3, 3), pads=[1, 1, 1, 1])
    y = net.norm(net.rounded(net.op("Relu", y), 0.03, -128))
    z = net.rounded(net.op("Conv", y, net.weights(rng, 8, 8, 1, 1)), 0.05, 11)
    y = net.rounded(net.op("Relu", net.op("Add", z, y)), 0.02, -128)
    sizes = net.const(np.float32([1, 1, 2, 2]))
    y = net.norm(net.op("Resize", y, "", sizes, mode="nearest"))
    scales = net.const(np.float32(1 / 255)), net.const(np.int8(-128))
    net.op("QuantizeLinear", net.op("Sigmoid", y), *scales)
    feeds = {"x": rng.normal(0, 1, (2, side, side, 3)).astype(np.float32)}
    graph = import_model(lab.model(net.nodes, feeds, [net.nodes[-1].output[0]], net.constants))
    optimized = run_pipeline(graph)
    assert [n.op for n in optimized.nodes] != [n.op for n in graph.nodes]
    (want,), (got,) = (interp.run(g, feeds, float64=True).values() for g in (graph, optimized))
    assert len(np.unique(want)) > 20
    np.testing.assert_array_equal(got, want)
