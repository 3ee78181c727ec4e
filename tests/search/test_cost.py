"""C and D: sums that can be done by hand."""

from __future__ import annotations

import numpy as np

from evonnx.ir.builder import Builder
from evonnx.ir.dim_values import evaluate
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.types import F32, I64, TensorType
from evonnx.search.cost import GroupCost, group_cost, node_work, schedule_cost, unfused_work
from evonnx.search.greedy import greedy

N = sym("N")


def chain() -> Graph:
    """``exp(-x) @ w`` of x[N, 8] and w[8, 4]."""
    b = Builder()
    x = b.input("x", TensorType(F32, (N, 8)))
    y = b.op("exp", b.op("neg", x))
    w = b.const(np.ones((8, 4), np.float32))
    return b.build({"y": b.op("dot", y, w, ta=False, tb=False)})


def test_fusion_moves_less_and_computes_the_same() -> None:
    graph = chain()
    flops, nbytes = unfused_work(graph)
    costs = schedule_cost(graph, greedy(graph))
    total = sum(evaluate(c.flops, {"N": 5}) for c in costs)
    moved = sum(evaluate(c.nbytes, {"N": 5}) for c in costs)
    assert total == evaluate(flops, {"N": 5})
    assert evaluate(nbytes, {"N": 5}) == 4 * (2 * 40 + 2 * 40 + 40 + 32 + 20)
    assert moved <= 4 * (2 * 40 + 40 + 32 + 20) < evaluate(nbytes, {"N": 5})


def test_constants_are_counted_apart() -> None:
    graph = chain()
    dot = graph.nodes[-1]
    assert dot.op == "dot"
    cost = group_cost(graph, "contract", [dot])
    assert (cost.flops, cost.constant, cost.moved) == (64 * N, 128, 48 * N)
    assert (cost.inputs, cost.outputs, cost.special) == (32 * N, 16 * N, 0)
    assert cost.nbytes == 48 * N + 128


def test_gathers_and_slices_count_what_they_take() -> None:
    b = Builder()
    ids = b.input("ids", TensorType(I64, (3,)))
    table = b.input("table", TensorType(F32, (1000, 10)))
    rows = b.op("gather", table, ids, axis=0)
    part = b.op("slice", table, starts=(0, 0), sizes=(2, 10), steps=(1, 1))
    graph = b.build({"rows": rows, "part": part})
    costs = {n.op: group_cost(graph, "loops", [n]) for n in (rows.node, part.node)}
    assert costs["gather"].moved == 3 * 8 + 2 * 120
    assert costs["slice"].moved == 2 * 80
    both = group_cost(graph, "loops", [rows.node, part.node])
    assert both.moved == 24 + 120 + 80 + 120 + 80


def test_a_view_is_free() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 4)))
    graph = b.build({"y": b.op("reshape", x, shape=(16,))})
    schedule = Schedule(graph.digest, (Group((1,), "view"),))
    assert schedule_cost(graph, schedule) == [GroupCost("view")]
    assert unfused_work(graph) == (0, 0)


def test_special_functions_are_counted_apart() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (N, 8)))
    y = b.op("mul", b.op("exp", b.op("neg", x)), x)
    graph = b.build({"y": b.op("div", y, x)})
    cost = group_cost(graph, "loops", [n for n in graph.nodes if n.op != "input"])
    assert cost.flops == (1 + 12 + 1 + 4) * 8 * N  # neg, exp, mul, div
    assert cost.special == (12 + 4) * 8 * N
    assert (cost.inputs, cost.outputs, cost.constant, cost.nodes) == (32 * N, 32 * N, 0, 4)


def test_a_composite_counts_as_its_expansion() -> None:
    """softmax: a maximum, a difference, exp, a sum and its reciprocal, a product."""
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 10)))
    graph = b.build({"y": b.op("softmax", x, axis=1)})
    (node,) = (n for n in graph.nodes if n.op == "softmax")
    work = node_work(node)
    assert work.flops == 40 + 40 + 12 * 40 + 40 + 4 * 4 + 40
    assert work.special == 12 * 40 + 4 * 4
    assert (work.positions, work.points, work.rank) == (4, 40, 1)
    assert unfused_work(graph) == (work.flops, 2 * 160)


def test_the_loops_of_a_group_are_those_of_its_contraction() -> None:
    graph = chain()
    costs = schedule_cost(graph, greedy(graph))
    (dot,) = (c for c in costs if c.implementation == "contract")
    assert (dot.positions, dot.points, dot.columns) == (4 * N, 32 * N, 4)
