"""Schedules chosen by running them, by a limit on memory, by other objectives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evonnx
from evonnx.compiler import contest, measured, turns
from evonnx.compiler.turns import Contender
from evonnx.ir.builder import Builder
from evonnx.ir.errors import LimitError, OptionError
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.schedule import Group, Schedule
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


def product() -> Graph:
    """One product and what follows it."""
    b = Builder()
    x = b.input("x", TensorType(F32, (40, 32)))
    w = b.const(np.random.default_rng(0).standard_normal((32, 96)).astype(np.float32))
    return b.build({"y": b.op("relu", b.op("dot", x, w, ta=False, tb=False))})


def times_of(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[Group], float]
             ) -> list[list[Contender]]:
    """Makes up what groups and calls take; answers the waves, as they come."""
    waves: list[list[Contender]] = []

    def groups(wave: list[Contender], _: Any, length: float, table: measured.Measured) -> float:
        waves.append(list(wave))
        for c in wave:
            table.record(c.schedule, c.places, [seconds(g) for g in c.schedule.groups])
        return length

    def calls(finalists: list[Contender], _: Any, length: float) -> int:
        for c in finalists:
            c.blocks += [sum(map(seconds, c.schedule.groups)) * f for f in (1.0, 1.001, 0.999)]
        return 3

    monkeypatch.setattr(contest, "time_groups", groups)
    monkeypatch.setattr(contest, "time_calls", calls)
    return waves


def test_variants_that_are_measured_faster_are_taken(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Panels of other columns than usual take half of the time."""
    waves = times_of(monkeypatch, lambda g: 0.5 if dict(g.variant).get("columns") else 1.0)
    graph = product()
    compiled = evonnx.compile(graph, search="default", measure=10.0, threads=1,
                              cache=tmp_path)
    assert compiled.report().search["search"] in ("measure measured", "measure wave 2")
    assert any("columns" in dict(g.variant) for g in compiled.schedule.groups)
    assert len(waves) > 1
    assert agrees(compiled, graph)


def test_a_budget_is_a_number_of_waves(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for seconds, most in ((0.5, 1), (6.0, 3)):
        waves = times_of(monkeypatch, lambda g: 1.0)
        evonnx.compile(product(), search="default", measure=seconds, threads=1, cache=tmp_path)
        assert 1 <= len(waves) <= most


def test_what_the_model_does_not_see_is_found_by_waves(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Groups of two nodes are made up to be fast, of which greedy fusion has none."""
    b = Builder()
    x = y = b.input("x", TensorType(F32, (64, 64)))
    for _ in range(4):
        y = b.op("tanh", b.op("add", y, x))
    graph = b.build({"y": y})
    times_of(monkeypatch, lambda g: 1.0 if len(g.computed) == 2 else float(len(g.computed)))
    greedy = evonnx.compile(graph, search="none", threads=1)
    assert [len(g.computed) for g in greedy.schedule.groups] == [8]
    compiled = evonnx.compile(graph, search="default", measure=20.0, threads=1,
                              cache=tmp_path)
    assert 2 in [len(g.computed) for g in compiled.schedule.groups]
    assert agrees(compiled, graph)


def test_what_is_not_surely_faster_does_not_win(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    times_of(monkeypatch, lambda g: 0.998 if g.variant else 1.0)
    monkeypatch.setattr(measured, "FASTER", 1.0)
    compiled = evonnx.compile(product(), search="default", measure=10.0, threads=1,
                              cache=tmp_path)
    assert compiled.report().search["search"] == "measure greedy"
    assert "nothing clearly beats greedy fusion" in compiled.report().search["note"]


def test_who_is_surely_slower_is_called_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on by what the program that was called is made up to take."""
    now = 0.0
    entrants = [Contender(name, Schedule("", ()), ()) for name in ("a", "b", "c")]

    class Program:
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds

        def run_list(self, feeds: Any) -> None:
            nonlocal now
            now += self.seconds

    for c, seconds in zip(entrants, (2.0, 1.0, 3.0), strict=True):
        c.executable = Program(seconds)  # type: ignore[assignment]
    monkeypatch.setattr(turns.time, "perf_counter", lambda: now)
    done = turns.time_calls(entrants, {}, 100.0)
    assert done > 8
    assert [len(c.blocks) for c in entrants] == [done, done, 8]
    assert [c.seconds for c in entrants] == [2.0, 1.0, 3.0]


def test_a_few_disturbed_rounds_do_not_hide_who_is_slower() -> None:
    a, b = (Contender(name, Schedule("", ()), ()) for name in "ab")
    a.blocks = [1.02 + 0.001 * (n % 3) for n in range(24)]
    b.blocks = [1.0] * 24
    assert turns.slower(a, b) and not turns.slower(b, a)
    a.blocks[3], a.blocks[9], b.blocks[17] = 40.0, 3.0, 5.0
    assert turns.slower(a, b) and not turns.slower(b, a)
    a.blocks = [1.02 + 0.04 * (-1) ** n for n in range(24)]
    assert turns.slower(a, b, turns.PROBABLY / 4) and not turns.slower(a, b)
    a.blocks = [1.0 + 0.1 * (-1) ** n for n in range(24)]
    assert not turns.slower(a, b) and not turns.slower(b, a)
    assert not turns.slower(a, a)


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
