"""Quantization is division, round half to even, limits: ONNX's formulas, bit by bit in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper


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
