"""Blocks of a graph where two schedules part."""

from __future__ import annotations

import pytest

import evonnx
from evonnx.bench.differences import blocks, seconds_of
from evonnx.ir.builder import Builder
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.types import F32, TensorType


def test_groups_that_share_nodes_make_a_block() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (8, 32)))
    first = b.op("softmax", x, axis=1)
    graph = b.build({"y": b.op("softmax", b.op("neg", b.op("exp", first)), axis=0)})
    softmax, exp, neg, last = (k for k, n in enumerate(graph.nodes) if n.op != "input")
    cuts = ([[softmax], [exp, neg], [last]], [[softmax], [exp], [neg], [last]])
    programs = [evonnx.compile(graph, threads=1, schedule=Schedule(
        graph.digest, tuple(Group(tuple(nodes), "loops") for nodes in cut))) for cut in cuts]
    inputs = {"x": [[float(k) for k in range(32)]] * 8}
    for program in programs:
        program.run(None, inputs)
    differ, *same = blocks(programs, [{0: 5e-6, 1: 3e-6, 2: 1e-6}, {0: 5e-6, 1: 1e-6, 2: 1e-6}],
                           "bounds")
    assert [b.same for b in same] == [True, True] and not differ.same
    assert [[set(g.nodes) for g in side] for side in differ.sides] == [[{exp, neg}], [{exp}, {neg}]]
    assert differ.measured() == pytest.approx(1e-6)
    assert differ.predicted() < 0  # one kernel is launched less
    times = seconds_of([p.executable for p in programs], inputs, 0.0)
    assert [set(t) for t in times] == [{0, 1, 2}, {0, 1, 2, 3}]
