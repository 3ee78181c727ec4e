"""Recomputation: a schedule says who computes what again; candidates contain it; results hold."""

from __future__ import annotations

import numpy as np
import pytest

import evonnx
from evonnx.compiler.options import check_schedule
from evonnx.ir.builder import Builder
from evonnx.ir.errors import ScheduleError
from evonnx.ir.graph import Graph
from evonnx.ir.interp import run
from evonnx.ir.schedule import Group, Schedule, parse_schedule
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search.candidates import Candidates, schedule_of
from evonnx.search.choose import choose
from evonnx.search.greedy import Fuser, greedy
from evonnx.search.models import CD
from evonnx.search.settings import Search

TARGET = Target.named("generic")


def two_sums(rows: int = 24, columns: int = 40) -> Graph:
    """One cheap map, reduced along either axis: no kernel holds both reductions."""
    b = Builder()
    x = b.input("x", TensorType(F32, (rows, columns)))
    v = b.op("abs", x)
    return b.build({"a": b.op("reduce", v, kind="max", axes=(0,), keepdims=False),
                    "b": b.op("reduce", v, kind="max", axes=(1,), keepdims=False)})  # fmt: skip


def numbers(graph: Graph) -> dict[str, int]:
    """Position of the only node of each op, and of both reductions."""
    found: dict[str, int] = {}
    for k, n in enumerate(graph.nodes):
        found[n.op if n.op not in found else n.op + "2"] = k
    return found


def test_the_text_says_who_computes_again() -> None:
    graph = two_sums()
    at = numbers(graph)
    schedule = Schedule(graph.digest, (
        Group((at["abs"], at["reduce"]), "loops"),
        Group((at["reduce2"],), "loops", again=(at["abs"],))))  # fmt: skip
    assert f"[{at['reduce2']}] + [{at['abs']}]" in str(schedule)
    assert parse_schedule(str(schedule)) == schedule
    check_schedule(schedule, graph)
    assert [len(w) for w in schedule.written(graph)] == [1, 1]
    x = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
    x[3, 4] = np.nan
    compiled = evonnx.compile(graph, schedule=schedule, threads=1)
    assert compiled.schedule == schedule
    want = run(graph, {"x": x})
    for got, expected in zip(compiled.run(None, {"x": x}), want.values(), strict=True):
        np.testing.assert_array_equal(got, expected)
    inner = [b for b in compiled.program.buffers if b.role == "arena"]
    assert not inner, "the map is never in memory"
    assert "computes it again" in compiled.explain("abs")


@pytest.mark.parametrize(("groups", "reason"), [
    ((([1], []), ([2, 3], [1])), "computes nothing that another group reads"),
    ((([1, 2], []), ([3], [1, 1])), "cannot be computed again"),
    ((([1, 2], [1]), ([3], [])), "cannot be computed again"),
    ((([1, 2], [99]), ([3], [])), "cannot be computed again"),
    ((([1, 2], []), ([3], [0])), "cannot be computed again"),
    ((([2], []), ([1, 3], [])), "runs before"),
])  # fmt: skip
def test_what_cannot_be(groups: tuple[tuple[list[int], list[int]], ...], reason: str) -> None:
    graph = two_sums()
    schedule = Schedule(graph.digest, tuple(
        Group(tuple(nodes), "loops", again=tuple(again)) for nodes, again in groups))
    with pytest.raises(ScheduleError, match=reason):
        check_schedule(schedule, graph)


def test_the_search_computes_again_what_is_cheap() -> None:
    graph = two_sums()
    choice = choose(graph, Fuser(graph), TARGET, Search("exact", "cd"))
    assert choice.proven
    assert sum(len(g.again) for g in choice.schedule.groups) == 1
    nbytes = 24 * 40 * 4
    # Both reductions read x and compute the map: 2 maps more than they write.
    assert choice.cost == pytest.approx(2 * nbytes + 4 * (24 + 40) + 4 * 24 * 40)
    check_schedule(choice.schedule, graph)


def test_partitions_of_the_units_are_schedules() -> None:
    """Where operations are free and bytes are not, much is computed again: the schedules are valid
    and the results right (``check`` compares every group with the interpreter)."""
    repeated = 0
    for seed in range(4):
        graph = crossed(np.random.default_rng(seed))
        choice = choose(graph, Fuser(graph), TARGET, Search("exact", CD(alpha=0.0)))
        repeated += sum(len(g.again) for g in choice.schedule.groups)
        check_schedule(choice.schedule, graph)
        assert parse_schedule(str(choice.schedule)) == choice.schedule
        evonnx.compile(graph, schedule=choice.schedule, threads=2, check=True, pipeline="fold")
    assert repeated >= 4


def crossed(rng: np.random.Generator) -> Graph:
    """Layers of cheap maps, each read by reductions along both axes and by the next layer."""
    b = Builder()
    x = b.input("x", TensorType(F32, (int(rng.integers(3, 20)), int(rng.integers(3, 20)))))
    results = {}
    for k in range(3):
        v = b.op(str(rng.choice(["abs", "neg", "relu", "floor"])), x)
        low, high = (b.op("reduce", v, kind=str(rng.choice(["max", "sum"])), axes=(axis,),
                          keepdims=True) for axis in rng.permutation(2).tolist())  # fmt: skip
        x = b.op(str(rng.choice(["add", "sub"])), v, b.op("tanh", low))
        results[f"r{k}"] = high
    return b.build({**results, "y": x})


def test_without_recomputation_every_node_has_one_unit() -> None:
    graph = two_sums()
    table = Candidates(graph, [greedy(graph)], recompute=False)
    assert len(table.units) == len(table.of) == 3
    assert len(Candidates(graph, [greedy(graph)]).units) == 4


def test_copies_nobody_reads_are_dropped() -> None:
    """Copies that are computed alone, each for a reader outside: one of them is enough."""
    graph = two_sums()
    table = Candidates(graph, [greedy(graph)])
    copies = table.of[next(n for n in graph.nodes if n.op == "abs")]
    others = [v for v in range(len(table.units)) if v not in copies]
    chosen = [table.found[(v,)] for v in (*copies, *others)]
    schedule = schedule_of(graph, chosen)
    check_schedule(schedule, graph)
    assert [len(g.computed) for g in schedule.groups] == [1, 1, 1]


def test_a_large_group_stays_one_candidate() -> None:
    """Copies of its nodes may not make greedy's group larger than a candidate can be."""
    b = Builder()
    x = b.input("x", TensorType(F32, (64,)))
    for _ in range(15):
        v = b.op("abs", x)
        x = b.op("add", b.op("neg", v), b.op("exp", v))
    graph = b.build({"y": x})
    found = greedy(graph)
    most = max(found.groups, key=lambda g: len(g.nodes))
    assert len(most.nodes) > 40
    table = Candidates(graph, [found])
    assert table.members(most) in table.found
    check_schedule(choose(graph, Fuser(graph), TARGET, Search("default")).schedule, graph)
