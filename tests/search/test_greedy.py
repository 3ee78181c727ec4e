"""Greedy fusion: partitions, their order, determinism, and what it is expected to find."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph, Value
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.schedule import check_order, parse_schedule
from evonnx.ir.types import F32, TensorType
from evonnx.search.greedy import Fuser, greedy
from evonnx.search.legality import implementation

NEEDS = "wide_attention,conv_transpose"
"""Passes without which some random graphs have ops that no group can run."""


@pytest.mark.parametrize("seed", range(30))
def test_every_schedule_is_a_legal_partition(seed: int) -> None:
    graph = run_pipeline(random_graph(seed, 18, symbolic=seed % 2 == 0), NEEDS)
    schedule = greedy(graph)
    check_order(schedule, graph)
    counts = Counter(i for g in schedule.groups for i in g.nodes)
    computed = [i for i, n in enumerate(graph.nodes) if n.op not in ("input", "const")]
    assert counts == Counter(computed)
    for group, nodes in zip(schedule.groups, schedule.members(graph), strict=True):
        assert list(group.nodes) == sorted(group.nodes)
        assert implementation(graph, nodes) == (group.implementation, "")
    assert parse_schedule(str(schedule)) == schedule


@pytest.mark.parametrize("seed", range(0, 30, 5))
def test_the_same_graph_gets_the_same_schedule(seed: int) -> None:
    first = greedy(run_pipeline(random_graph(seed, 25), NEEDS))
    second = greedy(run_pipeline(random_graph(seed, 25), NEEDS))
    assert str(first) == str(second)


@pytest.mark.parametrize("seed", range(0, 30, 3))
def test_every_edge_is_fused_or_refused_with_a_reason(seed: int) -> None:
    graph = run_pipeline(random_graph(seed, 25), NEEDS)
    fuser = Fuser(graph)
    place = {n: k for k, nodes in enumerate(fuser.run().members(graph)) for n in nodes}
    for node, k in place.items():
        if implementation(graph, [node])[0] in ("opaque", "control", "host", "bind"):
            continue
        for v in node.operands:
            if v.node in place and place[v.node] != k:
                assert fuser.refusals[v.node, node], (v.node, node)


# What fusion is for --------------------------------------------------------------------------


def ops(graph: Graph) -> list[str]:
    """The groups as text: implementation and ops."""
    schedule = greedy(graph)
    return [f"{g.implementation}: " + " ".join(n.op for n in nodes)
            for g, nodes in zip(schedule.groups, schedule.members(graph), strict=True)]  # fmt: skip


def source(*shape: object) -> tuple[Builder, Value]:
    b = Builder()
    return b, b.input("x", TensorType(F32, tuple(shape)))  # type: ignore[arg-type]


def weight(b: Builder, rows: int, columns: int) -> Value:
    return b.const(np.ones((rows, columns), np.float32))


def test_an_elementwise_chain_is_one_group() -> None:
    b, x = source(sym("N"), 16)
    y = b.op("tanh", b.op("add", b.op("exp", x), b.op("mul", x, x)))
    assert ops(b.build({"y": y})) == ["loops: exp mul add tanh"]


def test_a_contraction_takes_its_epilogue_with_the_residual() -> None:
    b, x = source(32, 16)
    dot = b.op("dot", x, weight(b, 16, 16), ta=False, tb=False)
    y = b.op("relu", b.op("add", b.op("add", dot, b.const(np.ones(16, np.float32))), x))
    assert ops(b.build({"y": y})) == ["contract: dot add add relu"]


def test_softmax_and_layer_norm_are_one_kernel_with_the_maps_around() -> None:
    b, x = source(32, 16)
    y = b.op("mul", b.op("softmax", b.op("mul", x, 0.125), axis=1), 2.0)
    assert ops(b.build({"y": y})) == ["loops: mul softmax mul"]
    b, x = source(32, 16)
    one = b.const(np.ones(16, np.float32))
    y = b.op("layer_norm", b.op("add", x, x), one, one, axis=1, eps=1e-5)
    assert ops(b.build({"y": b.op("relu", y)})) == ["loops: add layer_norm relu"]


def test_a_cycle_between_groups_is_refused() -> None:
    """exp feeds the dot and, past it, the add: only one of the two may join the dot."""
    b, x = source(16, 16)
    rise = b.op("exp", x)
    scan = b.op("cumulate", rise, kind="sum", axis=0, exclusive=False, reverse=False)
    graph = b.build({"y": b.op("add", scan, rise)})
    fuser = Fuser(graph)
    schedule = fuser.run()
    check_order(schedule, graph)
    assert len(schedule.groups) == 3
    nodes = {n.op: n for n in graph.nodes}
    assert fuser.refusals[nodes["exp"], nodes["add"]] == "another group lies between the two"


def test_two_contractions_stay_apart() -> None:
    b, x = source(16, 16)
    w = weight(b, 16, 16)
    first = b.op("dot", x, w, ta=False, tb=False)
    graph = b.build({"y": b.op("dot", first, w, ta=False, tb=False)})
    assert ops(graph) == ["contract: dot", "contract: dot"]


def test_views_cost_nothing() -> None:
    b, x = source(4, 16)
    flat = b.op("reshape", x, shape=(64,))
    graph = b.build({"y": flat, "z": b.op("exp", x)})
    assert sorted(ops(graph)) == ["loops: exp", "view: reshape"]


def test_an_empty_graph_has_an_empty_schedule() -> None:
    b, x = source(4)
    schedule = greedy(b.build({"y": x}))
    assert schedule.groups == ()
    assert parse_schedule(str(schedule)) == schedule
