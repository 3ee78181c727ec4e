"""The layers of a model as models of their own, and their place under the roofline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from evonnx.bench.layers import Row, Shape, layers_of, markdown, measure, plot, single
from evonnx.bench.roofline import faster, least_seconds
from evonnx.ir.target import Target

CONV = Shape("Conv", (1, 6, 9, 7), (8, 3, 3, 3), (1, 8, 5, 3), True,
             (("group", 2), ("pads", (1, 0, 1, 0)), ("strides", (2, 2))))  # fmt: skip
GEMM = Shape("Gemm", (4, 10), (10, 3), (4, 3), False, ())


def test_layers_are_found_once_with_their_number(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]),
             helper.make_node("Conv", ["a", "v"], ["b"]),
             helper.make_node("Conv", ["b", "v"], ["c"]),
             helper.make_node("Conv", ["c", "c"], ["y"])]  # fmt: skip
    held = {"w": np.ones((4, 3, 1, 1), np.float32), "v": np.ones((4, 4, 1, 1), np.float32)}
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["n", 3, 5, 5]), ("y", None))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [
        numpy_helper.from_array(a, n) for n, a in held.items()])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    found = layers_of(tmp_path / "m.onnx", {"x": np.zeros((2, 3, 5, 5), np.float32)})
    assert list(found.values()) == [1, 2]
    assert [s.flops for s in found] == [2 * 50 * 4 * 3, 2 * 50 * 4 * 4]
    assert next(iter(found)).nbytes == 4 * (2 * 3 * 25 + 12 + 200)


def test_a_layer_alone_is_the_layer() -> None:
    """Channels-last ends turn the same images; the shapes are the ones said."""
    x = np.random.default_rng(0).standard_normal(CONV.x).astype(np.float32)
    plain, = ReferenceEvaluator(single(CONV)).run(None, {"x": x})
    last, = ReferenceEvaluator(single(CONV, last=True)).run(None, {"x": np.moveaxis(x, 1, -1)})
    assert plain.shape == CONV.y
    np.testing.assert_array_equal(np.moveaxis(last, -1, 1), plain)
    assert "group=2" in str(CONV) and "strides=2x2" in str(CONV) and CONV.flops == 2 * 120 * 27


def test_attainable_is_the_lower_roof() -> None:
    target = Target.named("generic")
    deep = Shape("Gemm", (512, 512), (512, 512), (512, 512), False, ())
    flat = Shape("Gemm", (1, 4096), (4096, 4096), (1, 4096), False, ())
    assert least_seconds(deep.flops, deep.nbytes, target) == deep.flops / target.flops
    assert flat.flops / least_seconds(flat.flops, flat.nbytes, target) < 2 * target.dram_rate


def test_the_faster_of_two_measurements_counts() -> None:
    """A peak taken while something else ran does not lower the roof."""
    a = Target.named("generic")
    b = replace(a, flops=a.flops / 2, dram_rate=a.dram_rate * 2, name="busy")
    assert faster(a, b) == replace(a, dram_rate=b.dram_rate)
    assert faster(b, a) == replace(b, flops=a.flops)


def test_a_row_and_its_plot(tmp_path: Path) -> None:
    target = Target.detect()
    row = measure(GEMM, 2, target, (), 2)
    assert row.seconds > 0 and row.rate == GEMM.flops / row.seconds and not row.calls
    peer = Row("other", 100, 10, 1.0, 0.5, {"evonnx": 1.0, "onnxruntime": 2.0})
    assert "onnxruntime" not in markdown([row], target)
    text = markdown([peer], target)
    assert "| other | 1 |" in text and "| 2.00 |" in text and "0.50" in text
    pytest.importorskip("matplotlib")
    plot([row, peer], target, "a $ b", tmp_path / "deep" / "p.svg")
    assert (tmp_path / "deep" / "p.svg").stat().st_size < 100_000
