"""Groups side by side: which stages the search is offered, and how the threads are shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import evonnx
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search.choose import choose
from evonnx.search.greedy import Fuser
from evonnx.search.models import Bounds, Context, Explanation, GroupFacts
from evonnx.search.settings import Search
from evonnx.search.space import Stage, Survey, shares


def rows(count: int, length: int = 1 << 17) -> Graph:
    """Normalizations of single long rows, which one thread each computes, and their sum."""
    b = Builder()
    found = [b.op("softmax", b.input(f"x{k}", TensorType(F32, (1, length - k))), axis=1)
             for k in range(count)]
    return b.build({f"y{k}": v for k, v in enumerate(found)})


def machine(cores: int) -> Target:
    return replace(Target.detect(), cores=cores)


def stages_of(graph: Graph, cores: int) -> tuple[Survey, list[Stage]]:
    target = machine(cores)
    fuser = Fuser(graph)
    survey = Survey(graph, fuser.run(), target, Search("exact", threads=cores), fuser.judge)
    return survey, survey.stages(survey.solution(survey.greedy))


def test_every_thread_is_given_to_a_group() -> None:
    assert shares(8, [1.0, 3.0]) == (2, 6)
    assert shares(3, [5.0, 1.0, 1.0]) == (1, 1, 1)
    assert shares(5, [0.0, 0.0]) == (4, 1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        groups = int(rng.integers(1, 6))
        threads = int(rng.integers(groups, 20))
        given = shares(threads, rng.random(groups).tolist())
        assert sum(given) == threads and min(given) >= 1


@pytest.mark.parametrize(("cores", "most"), [(1, 0), (2, 2), (3, 3), (8, 5)])
def test_stages_are_as_wide_as_threads_and_groups(cores: int, most: int) -> None:
    survey, stages = stages_of(rows(5), cores)
    assert max((len(s.parts) for s in stages), default=0) == most
    for s in stages:
        assert sum(s.threads) == cores
        for place, a in enumerate(s.parts):
            for b in s.parts[place + 1 :]:
                assert survey.table.independent(survey.members[a], survey.members[b])


def test_a_model_is_asked_once_for_each_group_and_share() -> None:
    """Of 24 equal rows any two within reach may run side by side: the model explains one of them
    on one thread, not some hundred pairs twice."""
    asked: list[int] = []

    class Told(Bounds):
        def explain(self, group: GroupFacts, context: Context) -> Explanation:
            asked.append(context.threads)
            return super().explain(group, context)

    b = Builder()
    found = [b.op("softmax", b.input(f"x{k}", TensorType(F32, (1, 1 << 17))), axis=1)
             for k in range(24)]
    graph, model = b.build({f"y{k}": v for k, v in enumerate(found)}), Told()
    fuser = Fuser(graph)
    survey = Survey(graph, fuser.run(), machine(2), Search("exact", threads=2), fuser.judge)
    stages = survey.stages(survey.solution(survey.greedy), model)
    space = survey.space(model, stages)
    assert len(stages) > 200
    assert asked == [1]
    assert len(set(space.problem.cost[-len(stages) :])) == 1


def test_five_groups_run_side_by_side_with_the_same_bits() -> None:
    graph, target = rows(5, 4096), machine(8)
    fuser = Fuser(rows(5))
    wide = choose(rows(5), fuser, target, Search("exact", threads=8))
    assert [len(s) for s in wide.schedule.stages()] == [5]
    assert wide.cost == wide.greedy  # on one thread
    survey, stages = stages_of(rows(5), 8)
    every = survey.space(stages=stages)
    assert min(every.problem.cost[-len(stages) :]) < 0.3 * every.greedy
    text = str(replace(wide.schedule, graph=graph.digest))
    feeds = {f"x{k}": np.random.default_rng(k).standard_normal((1, 4096 - k)).astype(np.float32)
             for k in range(5)}
    plain = evonnx.compile(graph, search="none", threads=1).run(None, feeds)
    for threads in (1, 2, 3, 8):
        found = evonnx.compile(graph, schedule=text, threads=threads).run(None, feeds)
        for a, b, want in zip(found, plain, run(graph, feeds).values(), strict=True):
            assert np.array_equal(a, b)
            np.testing.assert_allclose(a, want, rtol=1e-5)
