"""Bounds of folding, and large constants that are computed when they are read."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.types import F32, I32, I64, TensorType
from evonnx.passes import evaluate
from evonnx.passes.evaluate import fold_tree
from evonnx.passes.facts import Refusal
from evonnx.passes.fold import dce, fold


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_growth_is_bounded() -> None:
    b = Builder()
    row, few = b.const(np.ones(5000, np.float32)), b.const(np.ones(10, np.float32))
    outs = {
        "stored": b.op("expand", row, shape=(4, 5000)),
        "repeated": b.op("expand", row, shape=(5, 5000)),
        "table": b.op("add", b.op("reshape", row, shape=(5000, 1)), few),
    }
    graph = fold(b.build(outs))
    made = {name: v.op for name, v in graph.outputs}
    assert made == {"stored": "const", "repeated": "expand", "table": "const"}
    whole = fold(graph, everything=True)
    assert {v.op for _, v in whole.outputs} == {"const"}


def test_ramps_count_as_constants_but_stay_where_nothing_is_computed() -> None:
    b = Builder()
    ramp = b.op("iota", shape=(1000,), axis=0, dtype=I64)
    column = b.op("reshape", ramp, shape=(1000, 1))
    graph = fold(b.build({"r": ramp, "m": b.op("lt", ramp, column)}))
    assert {n: v.op for n, v in graph.outputs} == {"r": "iota", "m": "lt"}
    b = Builder()
    ramp = b.op("iota", shape=(100,), axis=0, dtype=I64)
    graph = fold(b.build({"m": b.op("lt", ramp, b.op("reshape", ramp, shape=(100, 1)))}))
    assert ops(graph) == ["const"]


def test_random_numbers_and_failures_stay() -> None:
    b = Builder()
    noise = b.op("random_normal", shape=(2,), dtype=F32, mean=0.0, scale=1.0, seed=1)
    wrong = b.op("gather", b.const(np.ones(3, np.float32)), b.const(np.array([7])), axis=0)
    graph = b.build({"n": noise, "w": wrong})
    assert fold(graph) is graph


def test_large_results_are_computed_when_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((600, 500)).astype(np.float32)
    b = Builder()
    x = b.input("x", TensorType(F32, (2, 500)))
    turned = b.op("transpose", b.op("mul", b.const(w), 2.0), perm=(1, 0))
    graph = b.build({"y": b.op("dot", x, turned, ta=False, tb=False)})
    calls: list[str] = []
    original = evaluate.evaluate_node
    monkeypatch.setattr(
        evaluate, "evaluate_node", lambda n, c: calls.append(n.op) or original(n, c)
    )
    after = fold(graph)
    assert sorted(ops(after)) == ["const", "dot", "input"] and not calls
    again = fold(graph)
    assert again.digest == after.digest
    feeds = {"x": rng.standard_normal((2, 500)).astype(np.float32)}
    np.testing.assert_array_equal(run(graph, feeds)["y"], run(after, feeds)["y"])
    assert calls == ["transpose", "mul"]
    digest = next(n for n in after.nodes if n.op == "const").attrs["digest"]
    assert after.constants.peek(digest) is not None


def test_shape_arithmetic_of_other_dtypes() -> None:
    from evonnx.ir.dims import sym

    b = Builder()
    n = sym("n")
    size = b.op("cast", b.dims((n,), scalar=True), to=I32)
    graph = fold(b.build({"s": b.op("mul", b.op("add", size, 1), 2)}))
    assert ops(graph) == ["dims", "cast"]
    assert str(graph.nodes[0].attrs["values"][0]) == "2*n + 2"


def test_dce_merges_duplicates() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (2,)))
    y = b.op("exp", x)
    twin = type(y.node)("exp", (x,), y.node.attrs, y.node.types)
    graph = Graph([x], [("y", y), ("z", twin.out)], [x.node, y.node, twin], b.constants)
    assert ops(dce(graph)) == ["input", "exp"]


def test_fold_tree_refuses_what_is_not_constant() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (2,)))
    with pytest.raises(Refusal):
        fold_tree(b, b.op("exp", x))
