"""Sums of float16 and bfloat16 are accumulated in float32 and rounded once.

Each case would overflow (float16 ends at 65504) or stall (4096 + 1 is 4096 in bfloat16) in 16 bits.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

KINDS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
Case = tuple[str, dict[str, Any], list[tuple[int, ...]]]
CASES: dict[str, Case] = {
    "MatMul": ("MatMul", {}, [(5, 900), (900, 7)]),
    "Gemm": ("Gemm", {"transB": 1}, [(5, 900), (7, 900)]),
    "Einsum": ("Einsum", {"equation": "bij,bjk->bik"}, [(2, 5, 90), (2, 90, 7)]),
    "Conv": ("Conv", {}, [(2, 6, 12, 12), (3, 6, 5, 5)]),
    "depthwise": ("Conv", {"group": 6}, [(2, 6, 12, 12), (6, 1, 5, 5)]),
    "ConvTranspose": ("ConvTranspose", {}, [(2, 6, 9, 9), (6, 3, 5, 5)]),
    "AveragePool": ("AveragePool", {"kernel_shape": [30, 30]}, [(1, 2, 33, 33)]),
    "GlobalAveragePool": ("GlobalAveragePool", {}, [(1, 4, 30, 30)]),
    "LpPool": ("LpPool", {"kernel_shape": [3, 3]}, [(1, 2, 9, 9)]),
    "GlobalLpPool": ("GlobalLpPool", {}, [(1, 2, 9, 9)]),
    "ReduceMean": ("ReduceMean", {}, [(3, 900)]),
    "ReduceL2": ("ReduceL2", {}, [(3, 900)]),
    "ReduceLogSumExp": ("ReduceLogSumExp", {}, [(3, 900)]),
    "LpNormalization": ("LpNormalization", {"p": 1}, [(3, 900)]),
    "LpNormalization2": ("LpNormalization", {"p": 2}, [(3, 900)]),
    "LayerNormalization": ("LayerNormalization", {}, [(3, 900), (900,)]),
    "RMSNormalization": ("RMSNormalization", {}, [(3, 900), (900,)]),
    "InstanceNormalization": ("InstanceNormalization", {}, [(2, 6, 9, 9), (6,), (6,)]),
    "GroupNormalization": ("GroupNormalization", {"num_groups": 2}, [(2, 6, 9, 9), (6,), (6,)]),
    "MeanVarianceNormalization": ("MeanVarianceNormalization", {}, [(2, 6, 9, 9)]),
    "LRN": ("LRN", {"size": 5, "alpha": 0.1}, [(2, 6, 9, 9)]),
    "Softmax": ("Softmax", {}, [(3, 900)]),
    "Mean": ("Mean", {}, [(50,), (50,), (50,)]),
}


def feed(rng: np.random.Generator, name: str, kind: str) -> list[np.ndarray]:
    """Large first operands, small others."""
    op, _, shapes = CASES[name]
    arrays = []
    for k, shape in enumerate(shapes):
        low, high = (20_000, 60_000) if op == "Mean" else (50, 200) if k == 0 else (0, 0.5)
        arrays.append(rng.uniform(low, high, shape).astype(KINDS[kind]))
    return arrays


def check(lab: Any, nodes: list[Any], feeds: dict[str, np.ndarray], outputs: list[str],
          constants: dict[str, Any], kind: str) -> None:  # fmt: skip
    """Compiled in ``kind`` against the interpreter in float32 on the same numbers."""
    results = lab.run(nodes, feeds, outputs, constants)
    wide = {n: a.astype(np.float32) if a.dtype == KINDS[kind] else a for n, a in feeds.items()}
    limits = ml_dtypes.finfo(KINDS[kind])
    meant = lab.meaning(nodes, wide, outputs, constants)
    for name, got, want in zip(outputs, results, meant, strict=True):
        assert got.dtype == KINDS[kind]
        fits = np.abs(want) < float(limits.max)
        assert fits.mean() > 0.5, name
        error = np.abs(got.astype(np.float64) - want)[fits].max()
        assert error <= 2 * float(limits.eps) * np.abs(want[fits]).max(), name


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_in_float32(lab: Any, kind: str) -> None:
    rng = np.random.default_rng(3)
    nodes, feeds = [], {}
    names = [name for name, (op, _, _) in CASES.items() if lab.takes(op, kind)]
    assert len(names) > 20
    for name in names:
        op, attrs, _ = CASES[name]
        inputs = []
        for k, array in enumerate(feed(rng, name, kind)):
            inputs.append(f"{name}_{k}")
            feeds[inputs[-1]] = array
        inputs += ["axes"] if op.startswith("Reduce") else []
        nodes.append(helper.make_node(op, inputs, [name], **attrs))
    check(lab, nodes, feeds, names, {"axes": np.array([1])}, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_running_and_scattered_sums(lab: Any, kind: str) -> None:
    """4096 times 0.1, where a running sum in 16 bits would stop at 256 or 32; 300 updates of one
    element."""
    rng = np.random.default_rng(5)
    tenth = np.full((4096, 3), 0.1, KINDS[kind])
    feeds = {"a": tenth, "b": np.ascontiguousarray(tenth.T),
             "x": rng.uniform(50, 200, (5, 3)).astype(KINDS[kind]),
             "u": rng.uniform(50, 200, (300, 3)).astype(KINDS[kind])}  # fmt: skip
    nodes = [
        helper.make_node("CumSum", ["a", "zero"], ["down"]),
        helper.make_node("CumSum", ["b", "one"], ["along"]),
        helper.make_node("ScatterElements", ["x", "i", "u"], ["elements"], reduction="add"),
        helper.make_node("ScatterND", ["x", "j", "u"], ["blocks"], reduction="add"),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "i": np.zeros((300, 3), np.int64),
                 "j": np.zeros((300, 1), np.int64)}  # fmt: skip
    check(lab, nodes, feeds, ["down", "along", "elements", "blocks"], constants, kind)
