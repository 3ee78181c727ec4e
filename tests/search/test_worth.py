"""Where a search cannot pay: the bound holds, and nothing is searched."""

from __future__ import annotations

import numpy as np
import pytest

import evonnx
from evonnx.compiler.options import check_schedule
from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir.builder import Builder
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search import choose as choose_module
from evonnx.search.choose import choose
from evonnx.search.greedy import Fuser, greedy
from evonnx.search.models import CD, Bounds, Context
from evonnx.search.settings import DEFAULT_SEARCH, Search
from evonnx.search.space import constant_bytes
from evonnx.search.symbols import sizes_of
from evonnx.search.worth import HARDLY, fusible, spare

TARGET = Target.named("generic")
NEEDS = "wide_attention,conv_transpose"


@pytest.mark.parametrize("seed", range(12))
def test_no_schedule_saves_more(seed: int) -> None:
    made = random_graph(np.random.default_rng(seed), 20)
    graph = run_pipeline(made, NEEDS)
    fuser = Fuser(graph)
    schedule = fuser.run()
    context = Context(TARGET, 1, constant_bytes(graph))
    cost, saved = spare(fuser, schedule, Bounds(), context, sizes_of(graph, {}))
    best = choose(graph, Fuser(graph), TARGET, Search("exact", threads=2))
    assert cost >= best.greedy * (1 - 1e-9)  # which knows what is written over an operand
    assert cost - saved <= best.bound * (1 + 1e-9)


def test_small_graphs_are_settled_at_once() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (8,)))
    alone = b.build({"y": b.op("exp", x)})
    assert fusible(alone) == 1
    found = choose(alone, Fuser(alone), TARGET, Search("default"))
    assert (found.candidates, found.note) == (0, "nothing to fuse")
    few = b.build({"y": b.op("exp", b.op("abs", b.op("neg", x)))})
    found = choose(few, Fuser(few), TARGET, Search("default"))
    assert found.candidates == 0
    assert 0 < found.bound <= found.cost == found.greedy < HARDLY


def test_large_graphs_other_goals_and_other_searches_are_not() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (1 << 20,)))
    large = b.build({"y": b.op("exp", b.op("abs", x))})
    assert choose(large, Fuser(large), TARGET, Search("default")).candidates > 0
    small = b.build({"y": b.op("sin", b.op("abs", b.input("z", TensorType(F32, (4,)))))})
    assert choose(small, Fuser(small), TARGET, Search("exact")).candidates > 0
    for objective in ("peak", "C", "D"):
        how = Search("default", objective=objective)
        assert choose(small, Fuser(small), TARGET, how).candidates > 0


# The default search ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(0, 40, 2))
def test_the_default_is_never_worse_than_greedy_and_always_the_same(
        seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_module, "HARDLY", 0.0)
    graph = run_pipeline(random_graph(seed, 24, symbolic=seed % 4 == 0), NEEDS)
    how = Search("default", threads=2)
    found = choose(graph, Fuser(graph), TARGET, how)
    check_schedule(found.schedule, graph)
    assert found.bound <= found.cost <= found.greedy
    assert choose(graph, Fuser(graph), TARGET, how) == found


def test_equal_schedules_are_greedys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every candidate is free, nothing is a reason to differ from greedy fusion."""
    monkeypatch.setattr(choose_module, "HARDLY", 0.0)
    for seed in range(8):
        graph = run_pipeline(random_graph(seed, 24), NEEDS)
        for model in (CD(0.0, 0.0), CD(1.0, 0.0)):
            found = choose(graph, Fuser(graph), TARGET, Search("default", model))
            if found.cost == found.greedy:
                assert found.schedule == greedy(graph)


def test_a_compilation_counts_on_the_cores_of_the_target() -> None:
    b = Builder()
    rng = np.random.default_rng(0)
    x = b.input("x", TensorType(F32, (64, 256)))
    ends = []
    for _ in range(3):
        w = b.const(rng.standard_normal((256, 256)).astype(np.float32) / 16)
        h = b.op("dot", x, w, ta=False, tb=False)
        ends.append(b.op("mul", h, b.op("sigmoid", h)))
    graph = b.build({f"y{k}": v for k, v in enumerate(ends)})
    made = [evonnx.compile(graph, threads=threads) for threads in (1, 2, 3)]
    assert made[0].report().search["search"] == DEFAULT_SEARCH == "default"
    array = rng.standard_normal((64, 256)).astype(np.float32)
    first = made[0].run(None, {"x": array})
    for other in made[1:]:
        assert other.schedule == made[0].schedule
        for got, want in zip(other.run(None, {"x": array}), first, strict=True):
            assert got.tobytes() == want.tobytes()
