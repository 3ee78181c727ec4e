"""Ablation: freedoms alone are worth no more than all of them, and what cannot help does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evonnx.compiler.ablation import KINDS, ablate
from evonnx.compiler.figures import ablation
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.types import F32, TensorType


def towers() -> Graph:
    """Two chains of products that do not need one another, then their sum."""
    b = Builder()
    x = b.input("x", TensorType(F32, (256, 256)))
    w = b.const(np.ones((256, 256), np.float32))
    ends = []
    for scale in ("exp", "tanh"):
        y = b.op(scale, x)
        for _ in range(2):
            y = b.op("sigmoid", b.op("dot", y, w, ta=False, tb=False))
        ends.append(y)
    return b.build({"y": b.op("add", *ends)})


def costs(records: list[dict[str, Any]]) -> dict[str, float]:
    return {r["ablation"]: r["cost"] for r in records}


def test_freedoms_alone_and_together() -> None:
    records = ablate(towers(), target="server-32core", threads=8, name="towers")
    found, unfused = costs(records), records[0]["unfused"]
    assert tuple(found) == KINDS
    assert found["order only"] == pytest.approx(unfused)  # a sum does not see the order
    assert found["fusion only"] < unfused
    assert found["parallel only"] <= unfused
    assert found["joint"] <= min(found.values()) * (1 + 1e-12)
    assert all(r["proven"] for r in records)
    (axes,) = ablation(records).axes
    heights = {bars.get_label(): bars[0].get_height() for bars in axes.containers}
    assert heights == pytest.approx({k: c / unfused for k, c in found.items()})


def test_kernels_of_their_own() -> None:
    """A convolution of eight channels, which Winograd's method is not used for unasked."""
    b = Builder()
    x = b.input("x", TensorType(F32, (1, 56, 56, 8)))
    y = b.op("conv", x, b.const(np.ones((3, 3, 8, 64), np.float32)), strides=(1, 1),
             dilations=(1, 1), pads_lo=(1, 1), pads_hi=(1, 1), groups=1, layout="last")
    graph = b.build({"y": b.op("exp", y)})
    records = ablate(graph, target="server-32core", threads=1)
    found = costs(records)
    assert found["kernels only"] < 0.95 * found["order only"]
    assert found["joint"] < min(found["kernels only"], found["fusion only"])


def test_one_thread_and_plain_sums_know_nothing_of_parallel_groups() -> None:
    one = costs(ablate(towers(), target="server-32core", threads=1))
    sums = costs(ablate(towers(), "cd", target="server-32core", threads=8))
    for found in (one, sums):
        assert found["parallel only"] == pytest.approx(found["order only"])
