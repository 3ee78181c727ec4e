"""Schedules chosen by running them, by a limit on memory, by other objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evonnx
from evonnx.compiler import contest
from evonnx.ir.builder import Builder
from evonnx.ir.errors import LimitError, OptionError
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.types import F32, TensorType


def branches(width: int = 64, arms: int = 3) -> Graph:
    """Arms that grow and shrink before they are added up: the order decides what is alive."""
    b = Builder()
    rng = np.random.default_rng(0)
    x = b.input("x", TensorType(F32, (16, width)))
    ends = []
    for _ in range(arms):
        up = b.const(rng.standard_normal((width, 4 * width)).astype(np.float32) / 8)
        down = b.const(rng.standard_normal((4 * width, width)).astype(np.float32) / 16)
        h = b.op("tanh", b.op("dot", x, up, ta=False, tb=False))
        ends.append(b.op("dot", h, down, ta=False, tb=False))
    y = ends[0]
    for e in ends[1:]:
        y = b.op("add", y, e)
    return b.build({"y": b.op("reduce", y, kind="sum", axes=(1,), keepdims=True)})


def given(graph: Graph) -> dict[str, np.ndarray]:
    kind = graph.inputs[0].tensor
    shape = tuple(int(d) for d in kind.shape)  # type: ignore[arg-type]
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def agrees(compiled: evonnx.Compiled, graph: Graph) -> bool:
    (want,) = run(graph, given(graph), float64=True).values()
    return bool(np.allclose(compiled(**given(graph)), want, rtol=1e-3, atol=1e-3))


def test_measuring_keeps_the_results_and_says_what_it_saw(tmp_path: Path) -> None:
    graph = branches()
    compiled = evonnx.compile(graph, search="default", measure=0.05, threads=1, cache=tmp_path)
    found = compiled.report().search
    assert found["search"].startswith("measure ")
    assert "greedy" in found["note"]
    assert agrees(compiled, graph)
    again = evonnx.compile(graph, search="default", measure=0.05, threads=1, cache=tmp_path)
    assert again.report().program == "cached"
    assert again.schedule == compiled.schedule, "what time decided once is kept"
    assert again.report().search == found, "and what was seen"


def test_variants_that_are_measured_faster_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are made up: panels of 48 columns take half of the time of all others."""
    def made_up(contenders: list[Any], feeds: Any, seconds: float) -> Any:
        for c in contenders:
            yield c, [0.5 if dict(g.variant).get("columns") == 48 else 1.0
                      for g in c.schedule.groups]

    monkeypatch.setattr(contest, "_profiled", made_up)
    monkeypatch.setattr(contest, "NOISE", -1.0)  # the last word is that of real time
    b = Builder()
    x = b.input("x", TensorType(F32, (40, 32)))
    w = b.const(np.random.default_rng(0).standard_normal((32, 96)).astype(np.float32))
    graph = b.build({"y": b.op("relu", b.op("dot", x, w, ta=False, tb=False))})
    compiled = evonnx.compile(graph, search="default", measure=0.02, threads=1)
    note = compiled.report().search["note"]
    assert "tuned" in note
    tuned = [g for g in compiled.schedule.groups if g.variant]
    assert not tuned or dict(tuned[0].variant)["columns"] == 48
    assert agrees(compiled, graph)


def test_a_memory_limit_is_kept_or_refused() -> None:
    graph = branches()
    free = evonnx.compile(graph, threads=1, pipeline="fold")
    before = free.executable.predicted_peak()
    least = evonnx.compile(graph, threads=1, objective="peak", pipeline="fold")
    assert least.report().search["proven"]
    after = least.executable.predicted_peak()
    assert after.arena <= before.arena
    assert agrees(least, graph)
    limit = after.total
    bound = evonnx.compile(graph, threads=1, max_memory=limit, pipeline="fold")
    assert bound.executable.predicted_peak().total <= limit
    assert agrees(bound, graph)
    with pytest.raises(LimitError, match="the least found is"):
        evonnx.compile(graph, threads=1, max_memory=after.constants + 1, pipeline="fold")


def test_objectives() -> None:
    graph = branches(32, 2)
    for objective in ("C", "D", "time"):
        compiled = evonnx.compile(graph, search="exact", objective=objective, threads=1)
        assert compiled.report().search["cost"] <= compiled.report().search["greedy"]
        assert agrees(compiled, graph)


@pytest.mark.parametrize("wrong", [
    {"objective": "beauty"}, {"measure": -1.0}, {"max_memory": 0}, {"search": 3},
    {"search": "none", "max_memory": 10**9}, {"measure": 1.0, "objective": "peak"},
])  # fmt: skip
def test_wrong_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        evonnx.compile(branches(8, 1), **wrong)  # type: ignore[arg-type]


def test_groups_side_by_side_come_from_the_search() -> None:
    """Two chains of steps that only one thread can work on run next to one another."""
    b = Builder()
    ends = []
    for name in ("p", "q"):
        x = b.input(name, TensorType(F32, (1, 200_000)))
        ends.append(b.op("cumulate", x, kind="sum", axis=1, exclusive=False, reverse=False))
    graph = b.build({"a": ends[0], "b": ends[1]})
    compiled = evonnx.compile(graph, search="exact", threads=2)
    stages = [g.stage for g in compiled.schedule.groups]
    assert stages[0] is not None
    assert stages[0] == stages[1]
    assert [g.threads for g in compiled.schedule.groups] == [1, 1]
    report = compiled.report()
    assert report.predicted_seconds < 0.7 * report.search["greedy"]  # the latter on one thread
    feeds = {n: np.random.default_rng(2).standard_normal((1, 200_000)).astype(np.float32)
             for n in ("p", "q")}
    alone = evonnx.compile(graph, threads=1)
    for got, want in zip(compiled.run(None, feeds), alone.run(None, feeds), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_strategy_of_ones_own() -> None:
    from evonnx.search.strategies import Random

    class Mine(Random):
        """As random, under a name of its own."""

    graph = branches(16, 2)
    compiled = evonnx.compile(graph, search=Mine(), budget=200, threads=1)
    assert compiled.report().search["search"] == "Mine"
    assert compiled.report().program == "cache is off"
    assert agrees(compiled, graph)


@pytest.mark.parametrize("search", ["exact", "annealing"])
def test_less_memory_without_a_proof(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from evonnx.search import choose
    from evonnx.search.descend import Descent

    monkeypatch.setattr(choose, "IDEALS", 3)
    monkeypatch.setattr(Descent, "within", lambda *_: (None, False, 0))
    graph = branches()
    compiled = evonnx.compile(graph, search=search, objective="peak", budget=40_000, threads=1)
    found = compiled.report().search
    assert not found["proven"]
    assert "not proven" in found["note"]
    plain = evonnx.compile(graph, threads=1).executable.predicted_peak()
    assert compiled.executable.predicted_peak().arena <= plain.arena
    assert agrees(compiled, graph)
