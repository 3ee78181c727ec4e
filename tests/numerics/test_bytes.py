"""Products of 8-bit integers are exact on every target, at the ends of the ranges too.

255 * 127 * 2 is beyond 16 bits: an instruction that adds two products with saturation (x86's
``pmaddubsw``) would be caught here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper


def extremes(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Mostly the ends of the range, some numbers between."""
    info = np.iinfo(dtype)
    ends = rng.choice(np.array([info.min, info.max, info.min + 1, info.max - 1], dtype), shape)
    inside = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return np.where(rng.random(shape) < 0.8, ends, inside)


@pytest.mark.parametrize("left, right, known", [
    ("uint8", "int8", False), ("uint8", "int8", True), ("uint8", "uint8", False),
    ("int8", "int8", True), ("int8", "uint8", True),
])  # fmt: skip
def test_matrices(lab: Any, target: Any, left: str, right: str, known: bool) -> None:
    """Zero points at the ends of the ranges, depths that are no multiple of 4."""
    rng = np.random.default_rng(2)
    nodes, feeds, constants, wanted = [], {}, {}, {}
    for k, (m, depth, n) in enumerate([(1, 1, 1), (3, 5, 2), (17, 131, 33), (16, 64, 40)]):
        a, b = extremes(rng, (m, depth), left), extremes(rng, (depth, n), right)
        a[0], b[:, 0] = np.iinfo(left).max, np.iinfo(right).min
        for j, (za, zb) in enumerate([(None, None), ("max", "min"), ("min", "max")]):
            y = f"y{k}_{j}"
            inputs = [f"a{k}", f"b{k}"]
            wide_a, wide_b = a.astype(np.int64), b.astype(np.int64)
            if za is not None:
                constants[f"za{j}"] = np.array(getattr(np.iinfo(left), za), left)
                constants[f"zb{j}"] = np.array(getattr(np.iinfo(right), str(zb)), right)
                inputs += [f"za{j}", f"zb{j}"]
                wide_a = wide_a - int(constants[f"za{j}"])
                wide_b = wide_b - int(constants[f"zb{j}"])
            nodes.append(helper.make_node("MatMulInteger", inputs, [y]))
            wanted[y] = (wide_a @ wide_b).astype(np.int32)
        feeds[f"a{k}"] = a
        (constants if known else feeds)[f"b{k}"] = b
    results = lab.run(nodes, feeds, list(wanted), constants, target=target)
    for (name, want), got in zip(wanted.items(), results, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize("left, right", [("uint8", "int8"), ("int8", "int8")])
def test_long_sums_wrap_in_32_bits(lab: Any, target: Any, left: str, right: str) -> None:
    """More products than 32 bits hold: the sum wraps, as int32 does, and never saturates."""
    depth = 140_000
    a = np.full((2, depth), np.iinfo(left).max, left)
    b = np.full((depth, 3), np.iinfo(right).min, right)
    exact = int(a[0, 0]) * int(b[0, 0]) * depth
    assert exact < -(1 << 31)
    want = (exact + (1 << 31)) % (1 << 32) - (1 << 31)
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    (got,) = lab.run([node], {"a": a, "b": b}, ["y"], target=target)
    assert (got == want).all()


@pytest.mark.parametrize("left, right", [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")])
def test_convolutions(lab: Any, target: Any, left: str, right: str) -> None:
    """Padding counts as the zero point; groups; strides; channels that are no multiple of 4."""
    rng = np.random.default_rng(4)
    x, w = extremes(rng, (1, 6, 9, 8), left), extremes(rng, (5, 6, 3, 3), right)
    x8, w8 = extremes(rng, (2, 16, 7, 7), left), extremes(rng, (8, 16, 3, 3), right)
    zero = np.array(np.iinfo(left).max, left)
    pads = {"pads": [1, 1, 1, 1]}
    node = helper.make_node("ConvInteger", ["x", "w", "z"], ["y"], strides=[2, 1], **pads)
    wide = helper.make_node("ConvInteger", ["x8", "w8", "z"], ["v"], **pads)
    y, v = lab.run([node, wide], {"x": x, "x8": x8}, ["y", "v"],
                   {"w": w, "w8": w8, "z": zero}, target=target)  # fmt: skip
    np.testing.assert_array_equal(y, convolved(x, w, int(zero), (2, 1)))
    np.testing.assert_array_equal(v, convolved(x8, w8, int(zero), (1, 1)))


def convolved(x: np.ndarray, w: np.ndarray, zero: int, strides: tuple[int, int]) -> np.ndarray:
    """Convolution with one row of padding all around, in int64."""
    image = np.pad(x.astype(np.int64) - zero, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(image, w.shape[2:], (2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    result: np.ndarray = np.einsum("nchwij,ocij->nohw", windows, w.astype(np.int64))
    return result.astype(np.int32)
