"""C, D and the roofline: sums that can be done by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evonnx.ir.dims import evaluate, sym
from evonnx.ir.graph import Builder, Graph
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, I64, TensorType
from evonnx.search.cost import (
    LOOPS,
    MICRO_KERNEL,
    GroupCost,
    Roofline,
    group_cost,
    schedule_cost,
    unfused_work,
)
from evonnx.search.greedy import greedy

N = sym("N")
MACHINE = Target(
    "toy", "x86_64-unknown-linux-gnu", "x86-64", l2_bytes=1000, l3_bytes=10_000, flops=1e9,
    l2_rate=1e9, l3_rate=1e8, dram_rate=1e7, dram_rate_all=1.5e7, launch_s=1e-6, sync_s=2e-6,
)  # fmt: skip


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
    assert cost == GroupCost("contract", 64 * N, 128, 48 * N)
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
    assert schedule_cost(graph, schedule) == [GroupCost("view", 0, 0, 0)]
    assert unfused_work(graph) == (0, 0)
    assert Roofline(MACHINE, 1).group("view", 0, 0, 0, 0).seconds == 0


def test_roofline_takes_the_larger_of_compute_and_memory() -> None:
    one = Roofline(MACHINE, 1)
    busy = one.group("contract", 10**6, 0, 900, 0)
    assert busy.bound == "compute"
    assert busy.seconds == pytest.approx(10**6 / (1e9 * MICRO_KERNEL) + 1e-6)
    loops = one.group("loops", 10**6, 0, 900, 0)
    assert loops.seconds == pytest.approx(10**6 / (1e9 * LOOPS) + 1e-6)
    waits = one.group("loops", 10, 0, 5000, 0)
    assert waits.bound == "memory"
    assert waits.seconds == pytest.approx(5000 / 1e8 + 1e-6)
    assert one.group("loops", 10, 0, 100, 0).bound == "launch"


def test_weights_come_from_where_all_of_them_fit() -> None:
    one = Roofline(MACHINE, 1)
    near, far = one.group("contract", 0, 500, 0, 500), one.group("contract", 0, 500, 0, 10**6)
    assert near.seconds == pytest.approx(500 / 1e9 + 1e-6)
    assert far.seconds == pytest.approx(500 / 1e7 + 1e-6)


def test_threads_share_work_where_that_pays() -> None:
    one, two = Roofline(MACHINE, 1), Roofline(MACHINE, 2)
    assert two.group("contract", 10**6, 0, 0, 0).seconds == pytest.approx(
        10**6 / (2e9 * MICRO_KERNEL) + 3e-6)  # fmt: skip
    assert two.group("contract", 10, 0, 0, 0) == one.group("contract", 10, 0, 0, 0)
    assert two.bandwidth(10**6, 2) == 1.5e7
    assert Roofline(dataclasses.replace(MACHINE, dram_rate_all=1e9), 2).bandwidth(1e6, 2) == 2e7
    groups = [("contract", 100, 50, 10), ("loops", 100, 0, 10)]
    assert [e.seconds for e in two.schedule(groups)] == [
        two.group(*g, 50).seconds for g in groups
    ]  # fmt: skip
