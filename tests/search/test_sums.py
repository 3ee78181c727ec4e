"""Sums whose terms are added as they come: what a search finds holds for the graph it is of."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import evonnx
from evonnx.compiler.feeds import random_feeds
from evonnx.compiler.memory import lean_graphs, leaner
from evonnx.compiler.request import Request
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph, Value
from evonnx.ir.interp import run
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.ir.verify import verify
from evonnx.passes.order_sums import in_order, sums_of
from evonnx.search.choose import choose
from evonnx.search.generate import randwire
from evonnx.search.greedy import Fuser
from evonnx.search.peaks import least_peak
from evonnx.search.problem import InfeasibleError
from evonnx.search.settings import Search
from evonnx.search.sums import FreeSums

CHANNELS, SIDE = 20, 6
IMAGE = CHANNELS * SIDE * SIDE * 4


def unit(b: Builder, x: Value, rng: np.random.Generator) -> Value:
    """A depthwise and a pointwise convolution."""
    for taps, groups in ((3, CHANNELS), (1, 1)):
        w = rng.standard_normal((taps, taps, CHANNELS // groups, CHANNELS)) / CHANNELS**0.5
        x = b.op("conv", x, b.const(w.astype(np.float32)), strides=(1, 1), dilations=(1, 1),
                 groups=groups, layout="last", pads_lo=(taps // 2,) * 2, pads_hi=(taps // 2,) * 2)
    return x


def wired(nodes: int, seed: int) -> Graph:
    """A random graph of units, each of which reads the scaled sum of what it is wired to."""
    rng = np.random.default_rng(seed)
    sources: list[set[int]] = [set() for _ in range(nodes)]
    for before, after in randwire(1, seed, nodes).edges:
        sources[after].add(before)
    b = Builder()
    x = b.op("tanh", b.input("x", TensorType(F32, (1, SIDE, SIDE, CHANNELS))))
    made: list[Value] = []
    for before in sources:
        terms = [b.op("mul", made[k], float(rng.uniform(0.2, 1))) for k in sorted(before)]
        made.append(unit(b, _sum(b, terms) if terms else x, rng))
    read = set().union(*sources)
    ends = [v for k, v in enumerate(made) if k not in read]
    return b.build({"y": b.op("tanh", _sum(b, ends))})


def _sum(b: Builder, terms: list[Value]) -> Value:
    total = terms[0]
    for v in terms[1:]:
        total = b.op("add", total, v)
    return total


def apart(graph: Graph) -> Schedule:
    """Every operation by itself, in the order of the graph, over its image where it can; what
    scales a term with the addition behind it."""
    judge = Fuser(graph).judge
    found: list[Group] = []
    scale = None
    for k, node in enumerate(graph.nodes):
        if node.op in ("input", "const"):
            continue
        members = (k,)
        if node.op == "add" and scale is not None and scale.out in node.operands:
            members = (*found.pop().nodes, k)
        scale = node if node.op == "mul" else None
        kind = judge.verdict([graph.nodes[i] for i in members]).implementation
        assert kind is not None
        found.append(Group(members, kind, (("over", 1),) if node.op == "conv" else ()))
    return Schedule(graph.digest, tuple(found))


def free_order(graph: Graph) -> tuple[float, Graph]:
    """The least peak of sums in any order, and the graph in that order."""
    free = FreeSums(graph, sums_of(graph), {})
    least = least_peak(free.problem, np.arange(free.problem.nodes), 0)
    return least.peak, in_order(graph, free.steps(least.chosen))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_holds(seed: int) -> None:
    """One operation at a time in the order that was found takes what was said."""
    graph = wired(12, seed)
    least, ordered = free_order(graph)
    verify(ordered)
    assert sorted(n.op for n in ordered.nodes) == sorted(n.op for n in graph.nodes)
    made = evonnx.compile(ordered, pipeline="", schedule=apart(ordered), threads=2)
    assert made.executable.predicted_peak().arena <= least
    feeds = random_feeds(made.inputs)
    want = run(graph, feeds, float64=True)["y"]
    assert np.allclose(made(**feeds), want, rtol=1e-3, atol=1e-4)


def test_no_order_of_few_terms_is_better() -> None:
    """Orders of the terms of a sum, each with the least peak of its schedules."""
    rng = np.random.default_rng(3)
    b = Builder()
    made = [b.op("tanh", b.input("x", TensorType(F32, (1, SIDE, SIDE, CHANNELS))))]
    for _ in range(5):
        made.append(unit(b, made[-1], rng))
    terms = [b.op("mul", v, 0.2 * k) for k, v in enumerate(made[:0:-1], 1)]
    graph = b.build({"y": b.op("tanh", unit(b, _sum(b, terms), rng))})

    def least(ordered: Graph) -> float:
        how = Search("default", objective="peak")
        return choose(ordered, Fuser(ordered), Target.detect(), how).peak

    (root, found), = sums_of(graph).items()
    orders = list(itertools.permutations(found))
    peaks = [least(in_order(graph, [(root, v) for v in order])) for order in orders[::31]]
    assert least(free_order(graph)[1]) <= min(peaks) < max(peaks)


@pytest.mark.parametrize("seed", [3])
def test_compiled_for_the_least_peak(seed: int) -> None:
    """The arena is what the search said, at most that of separate steps, and a schedule that was
    written down gives the same program."""
    graph = wired(14, seed)
    least = evonnx.compile(graph, pipeline="", threads=2, objective="peak", cache=False)
    arena, choice = least.executable.predicted_peak().arena, least._stages.choice
    assert choice is not None
    assert arena == choice.peak <= free_order(graph)[0]
    plain = evonnx.compile(graph, pipeline="", threads=2, search="none", cache=False)
    assert arena < plain.executable.predicted_peak().arena
    feeds = random_feeds(plain.inputs)
    assert np.allclose(least(**feeds), plain(**feeds), rtol=1e-3, atol=1e-4)
    again = evonnx.compile(graph, pipeline="", threads=2, schedule=str(least.schedule), cache=False)
    assert np.array_equal(again(**feeds), least(**feeds))


def test_a_graph_that_needs_as_much_is_refused_by_its_peak() -> None:
    """Of the least peak no more is asked than whether it lies below a limit."""
    graph, target = wired(6, 3), Target.named("generic")
    how = Search("default", objective="peak")
    least = int(choose(graph, Fuser(graph), target, how).peak)
    assert choose(graph, Fuser(graph), target, replace(how, memory=least)).peak == least
    with pytest.raises(InfeasibleError) as refused:
        choose(graph, Fuser(graph), target, replace(how, memory=least - 1))
    assert refused.value.peak == least and refused.value.proven
    request = Request(graph, target, pipeline="", search=how)
    before = request.derive()
    assert before.choice is not None
    assert all(s.choice is not None and s.choice.peak < before.choice.peak
               for s in leaner(request, before))


def test_graphs_without_sums_have_no_other_order() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 4)))
    graph = b.build({"y": b.op("add", b.op("tanh", x), x)})
    assert list(lean_graphs(graph, Search())) == []
