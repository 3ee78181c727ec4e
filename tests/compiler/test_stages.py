"""Schedules with stages through the whole compiler: edited by hand, and random ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import evonnx
from evonnx.compiler.checking import error_of
from evonnx.compiler.feeds import random_feeds
from evonnx.compiler.pipeline import run_pipeline
from evonnx.ir import interp
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.schedule import KERNELS, Group, Schedule, check_order
from evonnx.ir.types import F32, TensorType
from evonnx.search.greedy import greedy


def two_branches() -> Graph:
    """Two products of one input, of which one packs its right side at run time, and a product of
    their results."""
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.input("x", TensorType(F32, (96, 64)))
    z = b.input("z", TensorType(F32, (64, 64)))
    w = b.const(rng.standard_normal((64, 64)).astype(np.float32) / 8)
    left = b.op("relu", b.op("dot", x, w, ta=False, tb=False))
    scaled = b.op("softmax", z, axis=1)
    right = b.op("tanh", b.op("dot", x, scaled, ta=False, tb=False))
    return b.build({"y": b.op("dot", left, right, ta=True, tb=False)})


def edited(schedule: Schedule, settings: dict[int, str]) -> str:
    """The text of a schedule with settings behind some of its groups."""
    lines = str(schedule).splitlines()
    for k, text in settings.items():
        lines[k + 1] += f" {{{text}}}"
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def plain() -> evonnx.Compiled:
    return evonnx.compile(two_branches(), threads=1, search="none")


def test_a_schedule_edited_by_hand_replays(plain: evonnx.Compiled) -> None:
    """The bits are those without stages, whatever the shares and the threads."""
    feeds = random_feeds(plain.inputs)
    want = plain.run(None, feeds)[0]
    ops = [plain.graph.nodes[g.nodes[0]].op for g in plain.schedule.groups]
    left, softmax, right, last = 0, ops.index("softmax"), 2, 3
    assert len(ops) == 4 and softmax == 1
    order = replace(plain.schedule, groups=tuple(
        plain.schedule.groups[k] for k in (softmax, left, right, last)))  # fmt: skip
    for settings in (
        {1: "stage=0, threads=1", 2: "stage=0, threads=1"},
        {1: "stage=0, threads=1", 2: "stage=0, threads=2"},
        {1: "stage=5, threads=2", 2: "stage=5, threads=1", 3: "threads=2"},
        {0: "stage=3", 1: "stage=3", 2: "stage=1", 3: "stage=2, threads=9"},
    ):
        for threads in (1, 2, 3):
            text = edited(order, settings)
            compiled = evonnx.compile(two_branches(), schedule=text, threads=threads)
            assert str(compiled.schedule) == text
            for _ in range(5):
                assert np.array_equal(compiled.run(None, feeds)[0], want)


def test_a_dependency_inside_a_stage_is_refused(plain: evonnx.Compiled) -> None:
    text = edited(plain.schedule, {1: "stage=0", 2: "stage=0"})
    with pytest.raises(evonnx.ScheduleError, match="group g2 needs what g1 computes"):
        evonnx.compile(two_branches(), schedule=text)


def shuffled(graph: Graph, rng: np.random.Generator) -> Schedule:
    """Greedy's groups in a random order that the dependencies allow."""
    groups = list(greedy(graph).groups)
    of = {graph.nodes[i]: k for k, g in enumerate(groups) for i in g.nodes}
    waits = [{of[d] for i in g.nodes for d in graph.dependencies(graph.nodes[i]) if d in of} - {k}
             for k, g in enumerate(groups)]  # fmt: skip
    done: list[int] = []
    while len(done) < len(groups):
        ready = [k for k in range(len(groups)) if k not in done and waits[k] <= set(done)]
        done.append(int(rng.choice(ready)))
    return Schedule(graph.digest, tuple(groups[k] for k in done))


def with_stages(graph: Graph, schedule: Schedule, rng: np.random.Generator) -> Schedule:
    """Random legal stages and shares: a kernel joins the open stage, where it may, or opens one."""
    found: list[Group] = []
    number = 0
    for k, group in enumerate(schedule.groups):
        if group.implementation in KERNELS:
            threads = [None, 1, 1, 2, 3][rng.integers(5)]
            joined = replace(group, stage=number, threads=threads)
            if rng.random() < 0.8 and _legal(graph, [*found, joined], schedule.groups[k + 1 :]):
                group = joined
            else:
                number += 1
                group = replace(joined, stage=number if rng.random() < 0.9 else None)
        elif group.implementation != "view":
            number += 1
        found.append(group)
    return Schedule(schedule.graph, tuple(found))


def _legal(graph: Graph, begun: list[Group], rest: tuple[Group, ...]) -> bool:
    try:
        check_order(Schedule(graph.digest, (*begun, *rest)), graph)
    except evonnx.ScheduleError:
        return False
    return True


@pytest.mark.parametrize("seed", range(12))
def test_random_stages_on_random_graphs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(2000 + seed, 12)
    optimized = run_pipeline(graph)
    schedule = with_stages(optimized, shuffled(optimized, rng), rng)
    stages = [len(s) for s in schedule.stages()]
    compiled = evonnx.compile(graph, schedule=schedule, threads=1 + seed % 3)
    feeds = random_feeds(compiled.inputs, {}, seed)
    wide, narrow = interp.run(graph, feeds, float64=True), interp.run(graph, feeds)
    first = compiled.run(None, feeds)
    for _ in range(5):
        for name, got, before in zip(compiled.output_names, compiled.run(None, feeds), first,
                                     strict=True):  # fmt: skip
            assert np.array_equal(got, before, equal_nan=got.dtype.kind in "fc")
            error = min(error_of(got, narrow[name]), error_of(got, wide[name]))
            assert error < 1e-4, f"{name}: {error:.2g}\n{compiled.graph}\n{schedule}, {stages}"
