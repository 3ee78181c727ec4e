"""Where a search cannot pay: the bound holds, and nothing is searched."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir.graph import Builder
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search.choose import choose
from evonnx.search.greedy import Fuser
from evonnx.search.models import Bounds, Context
from evonnx.search.settings import Search
from evonnx.search.space import constant_bytes, sizes_of
from evonnx.search.worth import HARDLY, fusible, spare

TARGET = Target.named("generic")


@pytest.mark.parametrize("seed", range(12))
def test_no_schedule_saves_more(seed: int) -> None:
    made = random_graph(np.random.default_rng(seed), 20)
    graph = run_pipeline(made, "wide_attention,conv_transpose")
    fuser = Fuser(graph)
    schedule = fuser.run()
    context = Context(TARGET, 2, constant_bytes(graph))
    cost, saved = spare(fuser, schedule, Bounds(), context, sizes_of(graph, {}))
    best = choose(graph, Fuser(graph), TARGET, Search("exact", threads=2))
    assert cost == pytest.approx(best.greedy)
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
