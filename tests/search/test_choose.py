"""The search on graphs: candidates are legal, schedules are valid, results are right."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest

import evonnx
from evonnx.compiler.options import check_schedule
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.errors import OptionError
from evonnx.ir.graph import Graph
from evonnx.ir.groups import escaping
from evonnx.ir.interp import run
from evonnx.ir.random_graphs import random_graph
from evonnx.ir.schedule import Group, Schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search import candidates as module
from evonnx.search import registry
from evonnx.search.candidates import Candidates, schedule_of
from evonnx.search.choose import choose
from evonnx.search.greedy import Fuser, greedy
from evonnx.search.judge import Judge
from evonnx.search.legality import implementation
from evonnx.search.settings import RULES, SEARCHES, Search, searches
from evonnx.search.space import space_of
from evonnx.search.symbols import sizes_of

TARGET = Target.named("generic")
STRATEGIES = ("genetic", "swarm", "annealing", "beam", "random", "nsga2")


def blocks(count: int = 4, width: int = 8) -> Graph:
    """Layers of a product, a bias, an activation and a skip, as networks repeat them."""
    b = Builder()
    x = b.input("x", TensorType(F32, (3, width)))
    rng = np.random.default_rng(0)
    for _ in range(count):
        w = b.const(rng.standard_normal((width, width)).astype(np.float32) / width)
        bias = b.const(rng.standard_normal(width).astype(np.float32))
        h = b.op("tanh", b.op("add", b.op("dot", x, w, ta=False, tb=False), bias))
        x = b.op("add", b.op("exp", b.op("neg", h)), x)
        x = b.op("mul", x, b.op("sigmoid", x))
    return b.build({"y": x})


def test_candidates_are_legal_and_convex() -> None:
    graph = blocks()
    table = Candidates(graph, [greedy(graph)], most=6)
    assert len(table.found) > 2 * len(table.units)
    for members, found in table.found.items():
        nodes = [graph.nodes[k] for k in found.nodes]
        assert sorted({table.units[v] for v in members}) == list(found.nodes)
        word, reason = implementation(graph, nodes, found.written)
        assert word == found.implementation, reason
        if len(members) != sum(len(table.of[n]) for n in nodes):
            continue  # with copies: see the tests of recomputation
        alone = [Group((k,), implementation(graph, [graph.nodes[k]])[0] or "")
                 for k in dict.fromkeys(table.units) if k not in found.nodes]
        if len(members) > 1:  # convex: it can be ordered among single nodes
            groups = [*alone, Group(found.nodes, word)]
            order = _ordered(graph, groups)
            check_schedule(Schedule(graph.digest, order), graph)


def _ordered(graph: Graph, groups: list[Group]) -> tuple[Group, ...]:
    home = {k: g for g in groups for k in g.nodes}
    done: list[Group] = []

    def visit(g: Group) -> None:
        if g in done:
            return
        for k in g.nodes:
            for dep in graph.dependencies(graph.nodes[k]):
                other = home.get(graph.index[dep])
                if other is not None and other is not g:
                    visit(other)
        done.append(g)

    for g in groups:
        visit(g)
    return tuple(done)


def test_repeated_layers_are_asked_for_once() -> None:
    few, many = (Candidates(blocks(n), most=5) for n in (3, 12))
    assert len(many.found) > 3 * len(few.found)
    assert len(many.judge) <= 2 * len(few.judge)


def test_structures_tell_apart_what_legality_may() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4,)))
    one, two = b.op("exp", x), b.op("exp", b.input("z", TensorType(F32, (4,))))
    kept = b.op("neg", one)
    graph = b.build({"a": kept, "b": one, "c": b.op("neg", two)})
    judge = Judge(graph)
    keys = [judge.structure((nodes := [v.node, u.node]), escaping(graph, nodes))
            for v, u in ((one, kept), (two, graph.outputs[2][1]))]  # fmt: skip
    assert keys[0] != keys[1], "one inner value is an output of the graph"


def test_the_number_of_checks_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "MOST_CHECKS", 10)
    graph = blocks()
    found = greedy(graph)
    table = Candidates(graph, [found])
    assert {table.members(g) for g in found.groups} <= table.found.keys()
    assert {(v,) for v in range(len(table.units))} <= table.found.keys()


def test_what_was_refused_is_looked_at_once(monkeypatch: Any) -> None:
    refused: Counter[tuple[int, ...]] = Counter()
    keep = Candidates._keep

    def counted(table: Candidates, members: tuple[int, ...], always: bool = False) -> bool:
        kept = keep(table, members, always)
        refused[members] += not kept
        return kept

    monkeypatch.setattr(Candidates, "_keep", counted)
    graph = blocks()
    Candidates(graph, [greedy(graph)], recompute=False, checks=20)
    assert sum(refused.values()) > 20
    assert max(refused.values()) == 1


@pytest.mark.parametrize("name", [*(s for s in SEARCHES if s not in RULES), *STRATEGIES])
def test_every_search_is_valid_and_never_worse(name: str) -> None:
    for seed in range(6):
        graph = random_graph(np.random.default_rng(seed), 25)
        choice = choose(graph, Fuser(graph), TARGET, Search(name, budget=2000))
        check_schedule(choice.schedule, graph)
        assert choice.cost <= choice.greedy
        assert choice.bound <= choice.cost * (1 + 1e-9)
        again = choose(graph, Fuser(graph), TARGET, Search(name, budget=2000))
        assert again == choice


def test_groups_are_the_same_for_any_number_of_cores() -> None:
    """Groups are priced on one thread: what one leaves idle of the others, the runtime gives to
    other groups."""
    for seed in range(4):
        graph = random_graph(np.random.default_rng(seed), 25)
        one, eight = (choose(graph, Fuser(graph), TARGET, Search("exact", threads=n))
                      for n in (1, 8))
        assert {g.nodes for g in one.schedule.groups} == {g.nodes for g in eight.schedule.groups}
        assert one.cost == eight.cost


def test_a_search_beats_a_bad_greedy_choice() -> None:
    """Under plain bytes the proven schedule is at most greedy's, and strategies find it."""
    graph = blocks(6)
    proof = choose(graph, Fuser(graph), TARGET, Search("exact", "cd"))
    assert proof.proven
    for name in ("genetic", "swarm", "annealing"):
        found = choose(graph, Fuser(graph), TARGET, Search(name, "cd", budget=20_000))
        assert found.cost == pytest.approx(proof.cost)


@pytest.mark.parametrize("name", [*SEARCHES, *STRATEGIES])
def test_compiled_results_are_right(name: str) -> None:
    graph = blocks()
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    compiled = evonnx.compile(graph, search=name, budget=2000, threads=2)
    (want,) = run(graph, {"x": x}).values()
    assert np.allclose(compiled(x), want, rtol=1e-5, atol=1e-6)
    report = compiled.report()
    assert report.search["search"] == name
    assert f"search    {name}" in " ".join(str(report).split("\n")) or name in str(report)
    replayed = evonnx.compile(graph, schedule=compiled.schedule, threads=2)
    assert np.array_equal(replayed(x), compiled(x))
    assert replayed.report().search == {}


def test_wrong_settings() -> None:
    graph = blocks(1)
    for wrong in ({"search": "magic"}, {"budget": 0}, {"seed": -1}, {"budget": 1.5},
                  {"search": "exact", "cost_model": "crystal ball"}):  # fmt: skip
        with pytest.raises(OptionError):
            evonnx.compile(graph, **wrong)


def test_names_of_searches(monkeypatch: Any) -> None:
    """All that is shipped is known by name, whatever it is; an unknown name lists what exists, a
    known one whose package is missing says what to install."""
    assert {*SEARCHES, *STRATEGIES, "exhaustive", "pymoo-ga", "optuna-tpe"} <= {*searches()}
    monkeypatch.setattr(registry, "find_spec", lambda package: package)
    for name in searches():
        assert Search(name).named
    with pytest.raises(OptionError, match=r"'magic': known are none, .*annealing, .*pymoo-nsga2"):
        Search("magic")
    monkeypatch.setattr(registry, "find_spec", lambda package: None)
    for name, package in (("pymoo-ga", "pymoo"), ("optuna-tpe", "optuna")):
        with pytest.raises(OptionError, match=rf"needs the package {package}: pip install 'evonnx"):
            Search(name)
    registered = dict[str, Any](mine=object)
    monkeypatch.setattr(registry.STRATEGIES, "_known", registered)
    assert not Search("mine").named  # its code may be another the next time: not kept in the cache


def test_strategies_for_small_problems_say_so() -> None:
    small = blocks(1)
    found = choose(small, Fuser(small), TARGET, Search("exhaustive"))
    assert found.proven or found.cost <= found.greedy
    large = blocks(6)
    with pytest.raises(OptionError, match="at most 16 nodes"):
        choose(large, Fuser(large), TARGET, Search("exhaustive"))


def test_the_cache_knows_the_search(tmp_path: Any) -> None:
    graph = blocks(2)
    evonnx.compile(graph, cache=tmp_path, threads=1)
    first = evonnx.compile(graph, cache=tmp_path, threads=1, search="exact")
    again = evonnx.compile(graph, cache=tmp_path, threads=1, search="exact")
    assert (first.report().program, again.report().program) == ("not in the cache", "cached")
    assert again.schedule == first.schedule
    other = evonnx.compile(graph, cache=tmp_path, threads=1, search="exact", cost_model="cd")
    assert other.report().program == "not in the cache"


def test_a_model_of_ones_own() -> None:
    """A model that hates groups gets none; its programs are not kept under a name."""
    from evonnx.search.models import CD, Explanation

    class Hermit(CD):
        name = "hermit"

        def costs(self, groups: Any, context: Any) -> np.ndarray:
            return np.array([float(g.nodes**2) for g in groups])

        def explain(self, group: Any, context: Any) -> Explanation:
            return Explanation(float(group.nodes**2))

    graph = blocks(2)
    compiled = evonnx.compile(graph, search="exact", cost_model=Hermit(), threads=1)
    assert all(len(g.nodes) == 1 for g in compiled.schedule.groups)
    assert compiled.report().program == "cache is off"
    schedule = schedule_of(graph, [])
    assert schedule.groups == ()


def apart(start: int = 100) -> Graph:
    """Sizes that go together only where A = 2 B, and only beyond ``start`` have elements
    everywhere."""
    b = Builder()
    x, y = (b.input(n, TensorType(F32, (sym(s),))) for n, s in (("x", "A"), ("y", "B")))
    both = b.op("add", x, b.op("concat", y, y, axis=0))
    rest = b.op("slice", b.op("exp", both), starts=(start,), sizes=(both.shape[0] - start,),
                steps=(1,))
    return b.build({"z": b.op("softmax", b.op("tanh", b.op("softmax", rest, axis=0)), axis=0)})


@pytest.mark.parametrize("name", ["default", "exact", *RULES])
def test_sizes_assumed_need_not_go_together(name: str) -> None:
    graph = apart(300)
    compiled = evonnx.compile(graph, search=name)
    feeds = {n: np.linspace(0, 1, size, dtype=np.float32) for n, size in (("x", 640), ("y", 320))}
    got, want = compiled.run(None, feeds)[0], run(graph, feeds)["z"]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    how = compiled.report().search
    assert 0 < how["cost"] <= how["greedy"] or name in RULES
    assert sizes_of(graph, {}) == {"A": 256, "B": 256}
    assert sizes_of(graph, {"A": 3}) == {"A": 3, "B": 256}


def test_memory_of_sizes_that_do_not_go_together() -> None:
    graph = apart()
    how = Search("exact", objective="peak", expect={"A": 200, "B": 150})
    space = space_of(graph, Fuser(graph).run(), Target.detect(), how)
    assert space.problem.flat.nbytes.max() == 4 * 300
    with pytest.raises(evonnx.LimitError, match="sizes expected do not go together"):
        evonnx.compile(graph, max_memory=1 << 20, expect={"A": 200, "B": 150})


def test_the_default_search_does_without_numba() -> None:
    """Its import takes as long as the search; compile workers import it meanwhile."""
    script = (
        "import sys\n"
        "from evonnx.ir.random_graphs import random_graph\n"
        "from evonnx.ir.target import Target\n"
        "from evonnx.search.choose import choose\n"
        "from evonnx.search.greedy import Fuser\n"
        "from evonnx.search.settings import Search\n"
        "graph = random_graph(3, 25)\n"
        "found = choose(graph, Fuser(graph), Target.named('generic'), Search('default'))\n"
        "print(found.candidates > 0, 'numba' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr
