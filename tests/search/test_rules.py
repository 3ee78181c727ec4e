"""The published greedy rules: valid, deterministic, and what each is known for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import evonnx
from evonnx.compiler.options import check_schedule
from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.schedule import Schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search import candidates
from evonnx.search.candidates import Candidate, Candidates
from evonnx.search.choose import LEAN, choose
from evonnx.search.greedy import Fuser
from evonnx.search.models import CD
from evonnx.search.rules import Prices
from evonnx.search.settings import RULES, Search
from evonnx.search.worth import HARDLY

TARGET = Target.named("generic")


def scheduled(graph: Graph, name: str) -> Schedule:
    return choose(graph, Fuser(graph), TARGET, Search(name, CD(0.0, 1.0))).schedule


def groups(graph: Graph, name: str) -> list[list[str]]:
    """The ops of each group that computes something."""
    return [[graph.nodes[i].op for i in g.computed] for g in scheduled(graph, name).groups
            if g.implementation != "view"]


@pytest.mark.parametrize("name", RULES)
def test_valid_on_random_graphs(name: str) -> None:
    for seed in range(3):
        graph = run_pipeline(random_graph(np.random.default_rng(seed), 15), "expand:attention")
        schedule = scheduled(graph, name)
        check_schedule(schedule, graph)
    assert scheduled(graph, name) == schedule


@pytest.mark.parametrize("name", RULES)
def test_a_chain_becomes_one_kernel_and_computes_the_same(name: str) -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (64, 64)))
    w = b.const(np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32))
    y = b.op("tanh", b.op("relu", b.op("dot", x, w, ta=False, tb=False)))
    graph = b.build({"y": y})
    assert groups(graph, name) == [["dot", "relu", "tanh"]]
    given = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    compiled = evonnx.compile(graph, schedule=scheduled(graph, name), threads=1, pipeline="fold")
    (want,) = run(graph, {"x": given}).values()
    np.testing.assert_allclose(compiled(given), want, rtol=1e-4, atol=1e-4)


def diamond() -> Graph:
    """A map whose two readers meet again."""
    b = Builder()
    x = b.input("x", TensorType(F32, (256, 256)))
    v = b.op("abs", x)
    return b.build({"y": b.op("add", b.op("exp", v), b.op("tanh", v))})


def test_postdominators_close_diamonds() -> None:
    assert groups(diamond(), "postdominator") == [["abs", "exp", "tanh", "add"]]


def fork() -> Graph:
    """A map read along both axes: the readers cannot be one kernel."""
    b = Builder()
    x = b.input("x", TensorType(F32, (512, 512)))
    v = b.op("abs", x)
    return b.build({"a": b.op("reduce", v, kind="max", axes=(0,), keepdims=False),
                    "b": b.op("reduce", v, kind="max", axes=(1,), keepdims=False)})  # fmt: skip


def test_priority_computes_a_producer_in_every_consumer() -> None:
    assert sorted(groups(fork(), "priority")) == [["abs", "reduce"], ["abs", "reduce"]]
    assert sorted(groups(fork(), "postdominator")) == [["abs"], ["reduce"], ["reduce"]]


def test_score_joins_readers_of_one_value() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (128, 128)))
    h = b.op("reduce", x, kind="max", axes=(0,), keepdims=True)
    graph = b.build({"p": b.op("exp", h), "q": b.op("tanh", h)})
    assert max(len(g) for g in groups(graph, "score")) >= 2


@pytest.mark.parametrize("ideals", [0, 20_000], ids=["beam", "proof"])
def test_a_search_is_not_worse_than_the_rules(ideals: int, monkeypatch: pytest.MonkeyPatch
                                              ) -> None:
    """But for the part that ``default`` leaves to greedy fusion's groups; also where few ideals
    are followed."""
    monkeypatch.setattr("evonnx.search.choose.NARROW", ideals)
    target = Target.named("cpu")
    for seed in range(2):
        graph = run_pipeline(random_graph(np.random.default_rng(seed), 15), "expand:attention")
        found = choose(graph, Fuser(graph), target, Search("default", budget=20))
        for name in RULES:
            rule = choose(graph, Fuser(graph), target, Search(name))
            assert found.cost <= rule.cost * (1 + LEAN) + HARDLY


def test_a_structure_is_priced_once_and_with_others() -> None:
    b = Builder()
    value = b.input("x", TensorType(F32, (64,)))
    for op in ("exp", "tanh", "exp", "tanh"):
        value = b.op(op, value)
    table = Candidates(b.build({"y": value}))
    alone = [table.found[units] for units in table.of.values()]
    asked: list[list[str]] = []

    def price(some: Sequence[Candidate]) -> list[float]:
        asked.append([table.graph.nodes[c.nodes[0]].op for c in some])
        return [float(len(c.nodes)) for c in some]

    prices = Prices(price)
    prices.ask(alone[:3])
    assert [prices.of(c) for c in alone] == [1.0] * 4
    prices.ask(alone)
    assert asked == [["exp", "tanh"]]


def test_no_neighbor_of_a_given_group_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of a node count apiece, so that legality, which counts nodes, does not see it."""
    monkeypatch.setattr(candidates, "MOST_NODES", 5)
    large = 0
    for seed in range(6):
        graph = run_pipeline(random_graph(np.random.default_rng(seed), 25), "expand:attention")
        greedy = Fuser(graph).run()
        table = Candidates(graph, (greedy,))
        given = set(table.assigned(greedy))
        large += sum(len(units) > 5 for units in given)
        assert {units for units in table.found if len(units) > 5} <= given
    assert large
