"""Datasets: what is saved is what is read, priced and searched; damage is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import evonnx
from evonnx.compiler.records import circumstances
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.errors import ParseError
from evonnx.ir.graph import Graph
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search.dataset import (
    ARRAYS,
    SAMPLES,
    Dataset,
    load,
    measured_pairs,
    save,
    solution_groups,
    survey,
)
from evonnx.search.exact import prove
from evonnx.search.greedy import Fuser
from evonnx.search.models import GroupFacts
from evonnx.search.problem import make_problem
from evonnx.search.settings import Search
from evonnx.search.solutions import needs, peak
from evonnx.search.space import Survey

TARGET = Target.named("generic")


def graph() -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (sym("n"), 8)))
    w = b.const(np.ones((8, 8), np.float32))
    for _ in range(3):
        x = b.op("add", b.op("exp", b.op("dot", x, w, ta=False, tb=False)), x)
    return b.build({"y": x})


@pytest.fixture
def data() -> Dataset:
    made = survey(graph(), TARGET, 2, {"n": 500}, "small", circumstances())
    made.measured[[0, 3]] = 1e-6, 2e-6
    return made.explained("bounds", "cd")


def test_what_is_saved_is_read(data: Dataset, tmp_path: Path) -> None:
    save(data, tmp_path / "d")
    again = load(tmp_path / "d")
    for name in ("name", "digest", "ops", "groups", "context", "greedy", "predicted", "origin"):
        assert getattr(again, name) == getattr(data, name), name
    for name, array in again.problem.flat._asdict().items():
        assert np.array_equal(array, getattr(data.problem.flat, name)), name
    assert np.array_equal(again.measured, data.measured, equal_nan=True)
    lines = [json.loads(text) for text in (tmp_path / "d" / SAMPLES).read_text().splitlines()]
    assert len(lines) == 1 + len(data.ops) + len(data.groups)
    sample = lines[1 + len(data.ops) + 3]
    assert sample["measured"] == 2e-6
    assert sample["predicted"]["cd"]["bounds"].keys() == {"C", "D"}


def test_values_and_limits_are_kept(data: Dataset, tmp_path: Path) -> None:
    edges = [(0, 1), (0, 2), (1, 3), (2, 3)]
    groups = [(0,), (1,), (2,), (3,), (2, 3)]
    problem = make_problem(4, edges, groups, [1.0] * 5, limit=9.0, values=[
        (0, 4.0, (1, 2), False), (1, 2.0, (3,), False), (2, 1.0, (3,), False), (3, 1.0, (), True)])
    facts = tuple(GroupFacts("loops", flops=1.0) for _ in groups)
    made = replace(data, problem=problem, groups=facts, greedy=(0, 1, 2, 3), ops=("x",) * 4,
                   measured=np.full(5, np.nan), predicted={})  # fmt: skip
    save(made, tmp_path)
    again = load(tmp_path).problem
    assert again.limit == 9.0
    assert needs(again, (0, 1, 2, 3)) == needs(problem, (0, 1, 2, 3)) == [4.0, 6.0, 7.0, 4.0]
    assert needs(again, (0, 1, 4)) == [4.0, 6.0, 7.0]
    assert peak(again, (0, 1, 4)) == 7.0


def test_the_problem_is_that_of_the_graph(data: Dataset) -> None:
    g = graph()
    for model in ("bounds", "roofline", "cd"):
        how = Search("exact", model, threads=2, expect={"n": 500})
        direct = Survey(g, Fuser(g).run(), TARGET, how).space(alone=False)
        replayed = data.space(model)
        assert np.array_equal(direct.problem.cost, replayed.problem.cost)
        assert direct.chosen == replayed.chosen
        assert direct.greedy == replayed.greedy
        one, two = prove(direct.problem), prove(replayed.problem)
        assert one is not None
        assert two is not None
        assert (one.cost, one.chosen) == (two.cost, two.chosen)
    plain = data.space("cd").problem
    assert plain.objectives == ("C", "D")
    assert np.array_equal(plain.parts.sum(axis=1), plain.cost)
    faster = data.space("bounds", data.on(TARGET.sped_up(2.0)))
    assert faster.greedy == pytest.approx(data.space("bounds").greedy / 2)


def test_a_study_needs_neither_model_nor_machine(data: Dataset, tmp_path: Path) -> None:
    save(data, tmp_path / "d")
    chosen = {"budgets": (300,), "strategies": ("exact", "genetic")}
    direct = evonnx.study({"small": graph()}, targets=(TARGET,), threads=2, expect={"n": 500},
                          **chosen)  # type: ignore[arg-type]
    replayed = evonnx.study({"small": tmp_path / "d"}, **chosen)  # type: ignore[arg-type]
    for one, two in zip(direct, replayed, strict=True):
        for key in ("cost", "chosen", "evaluations", "gap", "greedy", "digest", "target_text"):
            assert one[key] == two[key], key


def test_what_is_told_of_schedules_and_measurements(data: Dataset) -> None:
    measured, predicted = measured_pairs(data, "roofline")
    assert measured.tolist() == [1e-6, 2e-6]
    assert predicted.tolist() == data.space("roofline").problem.cost[[0, 3]].tolist()
    rows = solution_groups(data, data.greedy, "before", "cd")
    assert {row["threads"] for row in rows} == {data.context.threads}
    assert sum(r["predicted"] for r in rows) == pytest.approx(data.space("cd").greedy)
    assert {r["stage"] for r in rows} == {"before"}
    assert all(r["predicted"] == r["flops"] + r["nbytes"] for r in rows)


def _line(number: int, change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        lines = (folder / SAMPLES).read_text().splitlines()
        lines[number] = change(lines[number])
        (folder / SAMPLES).write_text("\n".join(lines) + "\n")

    return damage


def _cut(folder: Path) -> None:
    data = (folder / ARRAYS).read_bytes()
    (folder / ARRAYS).write_bytes(data[:-7])


def _short(folder: Path) -> None:
    lines = (folder / SAMPLES).read_text().splitlines()
    (folder / SAMPLES).write_text("\n".join(lines[:-1]) + "\n")


@pytest.mark.parametrize(("damage", "reason"), [
    (_cut, "damaged or belongs to another"), (_short, "ends before candidate"),
    (_line(0, lambda t: t.replace('"version": 2', '"version": 9')), "version 9; this release"),
    (_line(0, lambda t: "{}"), "does not begin as"), (_line(3, lambda t: t[:-3]), "line 4"),
    (_line(2, lambda t: "[1]"), "not a JSON object"), (_line(0, lambda t: ""), "line 1"),
    (_line(-1, lambda t: t.replace('"loops"', '"magic"').replace('"contract"', '"magic"')),
     "no implementation"),
    (_line(-1, lambda t: t.replace('"flops": ', '"flops": -')), "not negative"),
    (_line(-1, lambda t: t.replace('"flops"', '"floops"')), "floops"),
    (_line(0, lambda t: t.replace('"greedy": [', '"greedy": [0, ')), "greedy's schedule"),
    (_line(-1, lambda t: t.replace('"nodes": [', '"nodes": [0, ')), "the candidates are not"),
    (_line(0, lambda t: t.replace("flops = ", "flops = x")), "line"),
])  # fmt: skip
def test_damage_is_told(data: Dataset, tmp_path: Path, damage: Callable[[Path], None],
                        reason: str) -> None:
    save(data, tmp_path)
    damage(tmp_path)
    with pytest.raises(ParseError, match=reason):
        load(tmp_path)
