"""Which groups write over an operand, as the search and the cost model see it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search.candidates import Candidates
from evonnx.search.cost import schedule_cost
from evonnx.search.greedy import greedy
from evonnx.search.models import Bounds, Context, facts
from evonnx.search.overwriting import in_order, surely

TARGET = Target.named("generic")


def alone(graph: Graph) -> Schedule:
    """A group for every node."""
    return Schedule(graph.digest, tuple(
        Group((k,), "loops") for k, n in enumerate(graph.nodes) if n.op not in ("input", "const")))


def chain() -> Graph:
    """``exp`` of an input, read by ``tanh`` and then by a sum with that."""
    b = Builder()
    first = b.op("exp", b.input("x", TensorType(F32, (64, 64))))
    second = b.op("tanh", first)
    third = b.op("add", second, first)
    return b.build({"y": b.op("neg", third)})


def test_the_last_reader_writes_over_what_it_reads() -> None:
    graph = chain()
    # Inputs are not overwritten; exp is read again behind tanh; the result is the caller's.
    assert in_order(graph, alone(graph)) == [False, False, True, False]


def test_groups_of_one_stage_do_not_overwrite_what_the_other_reads() -> None:
    b = Builder()
    first = b.op("exp", b.input("x", TensorType(F32, (64, 64))))
    graph = b.build({"y": b.op("tanh", b.op("tanh", first)), "z": b.op("neg", b.op("neg", first))})
    plan = alone(graph)
    tanh, neg = [k for k, g in enumerate(plan.groups)
                 if graph.nodes[g.nodes[0]].operands[0] == first]
    order = [plan.groups[k] for k in (0, tanh, neg)]
    order += [g for g in plan.groups if g not in order]
    assert in_order(graph, replace(plan, groups=tuple(order)))[:3] == [False, False, True]
    order[1:3] = [replace(g, stage=0, threads=1) for g in order[1:3]]
    assert in_order(graph, replace(plan, groups=tuple(order)))[:3] == [False, False, False]


@pytest.mark.parametrize("seed", range(6))
def test_what_holds_in_every_order_holds_in_one(seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed), 25)
    schedule = greedy(graph)
    table = Candidates(graph, [schedule], recompute=False)
    ordered = in_order(graph, schedule)
    for over, group in zip(ordered, schedule.groups, strict=True):
        units = table.members(group)
        assert over or not surely(graph, table, units, table.found[units])


def test_lines_that_are_overwritten_come_and_go_once() -> None:
    graph = chain()
    context = Context(replace(TARGET, l1_bytes=1 << 12), 1)
    costs = schedule_cost(graph, alone(graph))
    assert [c.over for c in costs] == [0, 0, 4 * 64 * 64, 0]
    here, apart = (facts(c, {}) for c in (costs[2], costs[2].placed(False)))
    assert Bounds().explain(here, context).seconds < Bounds().explain(apart, context).seconds
