"""Predicted against measured: rankings by hand, variants of a group, one small model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import evonnx
from evonnx.bench import calibration
from evonnx.bench.calibration import Comparison, DecisionSet, KernelSample, kendall
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType


def graph(rows: int = 64) -> Graph:
    """``softmax(relu(x @ w) * 2) + x[:, :8]``"""
    b = Builder()
    x = b.input("x", TensorType(F32, (rows, 32)))
    w = b.const(np.ones((32, 8), np.float32))
    y = b.op("mul", b.op("relu", b.op("dot", x, w, ta=False, tb=False)), 2.0)
    part = b.op("slice", x, starts=(0, 0), sizes=(rows, 8), steps=(1, 1))
    return b.build({"y": b.op("add", b.op("softmax", y, axis=1), part)})


def test_kendall_by_hand() -> None:
    assert kendall([1, 2, 3], [10, 20, 30]) == 1
    assert kendall([1, 2, 3], [30, 20, 10]) == -1
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert kendall([1, 2, 3], [1, 1, 1]) == 0  # a model that sees no difference knows nothing
    assert kendall([1, 1.01, 2], [3, 2, 4], noise=0.05) == 1  # the first two do not count
    assert math.isnan(kendall([1, 1], [1, 2]))


def test_regret_is_what_the_choice_costs() -> None:
    one = DecisionSet("fusion", "g", ("a", "b", "c"), (3.0, 2.0, 4.0), {"m": (1.0, 2.0, 3.0)})
    assert (one.regret("m"), one.regret("m", 2), one.decides) == (1.5, 1.0, True)
    assert not DecisionSet("fusion", "g", ("a", "b"), (1.0, 1.01), {}).decides


def test_the_summary_counts_what_decides() -> None:
    sets = [DecisionSet("fusion", "g", ("a", "b"), (1.0, 2.0), {"m": (1.0, 2.0)}),
            DecisionSet("fusion", "h", ("a", "b"), (1.0, 1.0), {"m": (1.0, 2.0)}),
            DecisionSet("kernel", "k", ("a", "b"), (4.0, 1.0), {"m": (2.0, 1.0)})]
    kernels = [KernelSample("k", "loops", 2.0, {"m": 1.0}),
               KernelSample("l", "loops", 4.0, {"m": 2.0})]  # fmt: skip
    (row,) = calibration.summary([Comparison("x", kernels, sets)], ["m"])
    assert (row["kernels"], row["measured/predicted"], row["tau"]) == (2, 2.0, 1.0)
    assert [row[f"{k} sets"] for k in calibration.KINDS[:2]] == [1, 1]
    assert (row["tau in fusion sets"], row["regret, fusion"]) == (1.0, 1.0)
    assert (row["tau in kernel sets"], row["regret unasked"]) == (1.0, pytest.approx(4.0))


def test_variants_are_legal_and_compute_the_same() -> None:
    compiled = evonnx.compile(graph(), threads=1)
    members = max(compiled.schedule.members(compiled.graph), key=len)
    alone = calibration.cut_out(compiled.graph, members)
    made = dict(calibration.variants(alone))
    assert {"whole", "single"} <= made.keys()
    assert len(made["whole"].groups) == 1
    assert len(made["single"].groups) == len(members)
    x = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    feeds = {n: x if t.shape == x.shape else np.ones(t.shape, np.float32)
             for n, t in evonnx.compile(alone, threads=1).inputs.items()}  # fmt: skip
    results = [evonnx.compile(alone, schedule=s, pipeline="fold", threads=1).run(None, feeds)
               for s in made.values()]  # fmt: skip
    for other in results[1:]:
        np.testing.assert_allclose(other[0], results[0][0], rtol=1e-5)


def test_sets_join_neighbors_and_move_the_cut_between_them() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (40, 32)))
    w = b.const(np.ones((32, 32), np.float32))
    y = b.op("sigmoid", b.op("dot", x, w, ta=False, tb=False))
    y = b.op("softmax", b.op("exp", y), axis=0)
    compiled = evonnx.compile(b.build({"y": y}), threads=1, pipeline="fold")
    members = compiled.schedule.members(compiled.graph)
    assert len(members) == 2
    (label, pair, boundary), = [s for s in calibration.set_graphs(compiled, "bounds") if s[2]]
    assert boundary == len(members[0]) and " + " in label
    made = dict(calibration.variants(pair, boundary))
    assert f"cut {boundary}" in made and len(made) >= 2
    for schedule in made.values():
        assert sorted(k for g in schedule.groups for k in g.nodes) == [
            k for k, n in enumerate(pair.nodes) if n.op not in ("input", "const")]


def test_a_contraction_is_a_set_of_its_variants() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (40, 32)))
    w = b.const(np.ones((32, 48), np.float32))
    compiled = evonnx.compile(b.build({"y": b.op("relu", b.op("dot", x, w, ta=False, tb=False))}),
                              threads=1)
    (label, alone, count), = calibration.contractions(compiled, "bounds")
    made = dict(calibration.kernel_variants(alone, Target.detect()))
    assert (label, count) == ("dot relu", 1) and "" in made and "{block=1}" in made
    every = dict(calibration.kernel_variants(alone, Target.detect(), every=True))
    assert made.keys() < every.keys() and "{columns=48, rows=4}" in every
    twice = {"first": made[""], "other": made["{block=1}"], "second": made[""]}
    (first, other, second), _ = calibration._measure(alone, twice, Target.detect(), 1, 2)
    assert first == second != other  # the same program is measured once
    feeds = {"x0": np.random.default_rng(0).standard_normal((40, 32)).astype(np.float32)}
    results = [evonnx.compile(alone, schedule=s, pipeline="fold", threads=1).run(None, feeds)[0]
               for s in made.values()]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-5, atol=1e-5)


def test_the_oracle_weighs_kernels_by_how_often_they_occur() -> None:
    sets = [DecisionSet("settings", "g", ("", "b"), (3.0, 2.0), {"m": (1.0, 2.0)}, count=2),
            DecisionSet("settings", "h", ("", "b"), (4.0, 2.0), {"m": (2.0, 1.0)})]
    assert calibration.oracle(sets, "m") == (10 / 6, 10 / 8)
    (row,) = calibration.summary([Comparison("x", [], sets)], ["m"])
    assert (row["oracle"], row["chosen"]) == (10 / 6, 10 / 8)


def test_the_command_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_ROUNDS", 2)
    file, out = tmp_path / "small.onnx", tmp_path / "out.json"
    from evonnx.compiler.exporter import export_model

    export_model(graph(), file)
    arguments = [str(file), "--models", "bounds,roofline", "--json", str(out)]
    done = CliRunner().invoke(calibration.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "bounds" in done.output and "roofline" in done.output
    (one,) = json.loads(out.read_text())
    assert one["name"] == "small" and one["kernels"] and one["sets"]
    assert all(k["measured"] > 0 and k["predicted"]["bounds"] > 0 for k in one["kernels"])
    found, = calibration.recorded(out, ["bounds"], Target.detect(), 1)
    for before, now in zip(one["sets"], found.sets, strict=True):
        assert list(now.predicted["bounds"]) == pytest.approx(before["predicted"]["bounds"])
    done = CliRunner().invoke(calibration.main, ["--again", str(out), "--models", "roofline"])
    assert done.exit_code == 0 and "roofline" in done.output


def test_sizes_that_no_input_says_are_fixed() -> None:
    """A part of a model that sees a quarter of its input's width is measured by itself as well."""
    b = Builder()
    width = (sym("W") + 3) // 4
    x = b.input("x", TensorType(F32, (sym("B"), width, 5)))
    graph = b.build({"y": b.op("exp", b.op("neg", x))})
    part = calibration.alone(graph, [n for n in graph.nodes if n.op != "input"])
    assert part.inputs[0].shape == (sym("B"), (calibration.OTHERS + 3) // 4, 5)
    assert [n.op for n in part.nodes] == ["input", "neg", "exp"]
    schedules = dict(calibration.variants(part))
    measured, sizes = calibration._measure(part, schedules, Target.detect(), 1, 1)
    assert len(measured) == len(schedules) >= 2 and min(measured) > 0
    assert sizes == {"B": calibration.OTHERS}
    assert calibration.alone(part, [n for n in part.nodes if n.op != "input"]).digest == part.digest
