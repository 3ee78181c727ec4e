"""Figures show what the records say: the content of their axes is checked, not pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import evonnx
from evonnx.bench.stats import kendall
from evonnx.compiler import figures as module
from evonnx.compiler.cli import app
from evonnx.compiler.irfile import write_graph
from evonnx.compiler.records import median_interval, read_records
from evonnx.compiler.samples import dataset
from evonnx.ir.builder import Builder
from evonnx.ir.errors import OptionError
from evonnx.ir.graph import Graph
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search.dataset import load
from evonnx.search.generate import generated, two_objectives


def run(strategy: str, history: list[list[float]], seed: int = 0, **more: Any) -> dict[str, Any]:
    """A record of a run that ended with its last improvement."""
    cost = history[-1][2]
    return {"graph": "g", "cost_model": "m", "target": "t", "threads": 1, "unit": "s",
            "strategy": strategy, "budget": 100, "seed": seed, "history": history, "cost": cost,
            "evaluations": 100, "seconds": 2.0, "bound": 1.0, "gap": cost - 1.0,
            "gap_to": "optimum", "greedy": 4.0, "optimum": 1.0, "objectives": {}} | more


RUNS = [run("a", [[1, 0.1, 4.0], [50, 1.0, 2.0]]), run("a", [[1, 0.1, 4.0], [60, 1.2, 1.0]], 1),
        run("b_$x", [[1, 0.2, 4.0], [10, 0.3, 3.0]])]  # fmt: skip


def lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.get_lines()}


def test_anytime_curves() -> None:
    (axes,) = module.anytime(RUNS).axes
    drawn = lines(axes)
    assert set(drawn) == {"a", r"b_\$x", "optimum", "greedy 4"}
    assert drawn["a"].get_xdata().tolist() == [1, 50, 60, 100]
    assert drawn["a"].get_ydata().tolist() == [4.0, 3.0, 1.5, 1.5]  # medians of two seeds
    assert set(drawn["optimum"].get_ydata()) == {1.0}
    assert set(drawn["greedy 4"].get_ydata()) == {4.0}
    far = module.anytime([{**RUNS[0], "greedy": 100.0}]).axes[0]
    assert far.get_ylim()[1] < 5  # the curves are what is to be seen
    assert axes.get_title() == "g, m, t, 1"
    (axes,) = module.anytime(RUNS, "seconds").axes
    assert lines(axes)["a"].get_xdata().tolist() == [0.1, 1.0, 1.2, 2.0]
    two = module.anytime([*RUNS, run("a", [[1, 0.1, 3.0]], graph="h", gap_to="bound")]).axes
    assert len(two) == 2
    assert "bound" in lines(two[1])
    with pytest.raises(OptionError, match="runs of strategies"):
        module.anytime([])


def test_histogram_of_gaps() -> None:
    (axes,) = module.gaps(RUNS, bins=4).axes
    heights = [[int(p.get_height()) for p in bars] for bars in axes.containers]
    assert heights == [[1, 0, 1, 0], [0, 0, 0, 1]]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["a", r"b_\$x"]
    apart = module.gaps([*RUNS, run("a", [[1, 0.1, 3.0]], gap_to="bound")]).axes
    assert [a.get_xlabel() for a in apart] == ["gap to the optimum [%]", "gap to the bound [%]"]


def test_a_race_at_equal_evaluations_and_seconds() -> None:
    slow = run("b", [[1, 0.2, 4.0], [90, 1.9, 1.0]], evaluations=100, seconds=9.0)
    evaluations, seconds = module.race([RUNS[0], slow]).axes
    for axes, wanted in ((evaluations, {"b": 1.0, "a": 2.0}), (seconds, {"b": 1.0, "a": 2.0})):
        names = [t.get_text() for t in axes.get_yticklabels()]
        middle = axes.containers[0].lines[0].get_xdata()
        assert dict(zip(names, middle.tolist(), strict=True)) == wanted
    short = run("c", [[1, 0.1, 4.0], [20, 0.3, 1.0]], evaluations=20, seconds=0.3)
    ended, _ = module.race([RUNS[0], short]).axes  # a run that ended by itself sets no limit
    assert ended.containers[0].lines[0].get_xdata().tolist() == [1.0, 2.0]
    none, _ = module.race([RUNS[0], RUNS[0]]).axes
    assert none.get_title() == "at equal evaluations, 0 of 1 problems"
    late = run("b", [[1, 0.2, 4.0], [90, 5.0, 1.0]], seconds=9.0)
    _, seconds = module.race([RUNS[0], late]).axes
    names = [t.get_text() for t in seconds.get_yticklabels()]
    assert names == ["a", "b"]  # at 2 seconds b has not found it yet
    assert seconds.containers[0].lines[0].get_xdata().tolist() == [2.0, 4.0]


def test_ablation_bars() -> None:
    rows = [run("x", [[1, 0.1, c]], ablation=kind, unfused=8.0, graph=g)
            for g, kind, c in (("g", "order only", 8.0), ("g", "joint", 2.0), ("h", "joint", 4.0))]
    (axes,) = module.ablation(rows).axes
    heights = {bars.get_label(): [p.get_height() for p in bars] for bars in axes.containers}
    assert heights["joint"] == [0.25, 0.5]
    assert heights["order only"][0] == 1.0
    assert np.isnan(heights["order only"][1])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["g", "h"]


def test_the_front_of_a_proof_is_the_true_one() -> None:
    ends = [{"C": 1.0, "D": 3.0}, {"C": 3.0, "D": 1.0}]
    records = [run("exact", [[1, 0.1, 4.0]], objectives=ends[0], front=ends),
               run("nsga2", [[1, 0.1, 4.0]], objectives=ends[0], front=[{"C": 3.0, "D": 2.0}])]
    (axes,) = dict(module._drawn(records, (), None))["front-g-t"].axes
    drawn = lines(axes)
    assert set(drawn) == {"true front", "nsga2"}
    assert drawn["true front"].get_ydata().tolist() == [3.0, 1.0]
    assert drawn["nsga2"].get_ydata().tolist() == [3.0, 2.0]


def test_fronts() -> None:
    assert module.nondominated([(3, 1), (1, 3), (2, 2), (2, 3), (3, 1)]).tolist() == [
        [1, 3], [2, 2], [3, 1]]  # fmt: skip
    (axes,) = module.front({"mine": [(2, 3), (3, 1), (4, 4)]}, ("C", "D"), [(1, 3), (3, 1)]).axes
    drawn = lines(axes)
    assert drawn["mine"].get_xydata().tolist() == [[2, 3], [3, 1]]
    assert drawn["true front"].get_xydata().tolist() == [[1, 3], [3, 1]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("C", "D")


def group(stage: str, flops: float, nbytes: float, predicted: float, measured: float | None = None
          ) -> dict[str, Any]:
    return {"graph": "g", "stage": stage, "flops": flops, "nbytes": nbytes, "predicted": predicted,
            "measured": measured, "cost_model": "m", "unit": "s", "implementation": "loops"}


def test_roofline() -> None:
    target = Target("toy", "x", "y", flops=1e9, dram_rate=1e8, dram_rate_all=1e8, l2_rate=1e9)
    rows = [group("before", 100, 50, 1e-6), group("before", 0, 50, 1e-6),
            group("after", 200, 50, 1e-6)]  # fmt: skip
    (axes,) = module.roofline(rows, target).axes
    before, after = axes.collections
    assert before.get_offsets().tolist() == [[2.0, 0.1]]  # a copy has no place
    assert after.get_offsets().tolist() == [[4.0, 0.2]]
    roof = lines(axes)["memory 0.1 GB/s"].get_xydata()
    assert roof[0].tolist() == pytest.approx([1.0, 0.1])
    wide = module.roofline([group("before", 1e4, 10, 1e-5)], target).axes[0]
    assert lines(wide)["memory 0.1 GB/s"].get_ydata().max() == 1.0
    with pytest.raises(OptionError, match="measured"):
        module.roofline(rows, target, time="measured")
    rows = [{**row, "threads": 2} for row in rows]  # predicted for two: under the roofs of two
    ((_, drawn),) = module._drawn([], rows, replace(target, cores=2))
    tops = [max(line.get_ydata().max() for line in figure.axes[0].get_lines())
            for figure in (drawn, module.roofline(rows, target))]
    assert tops[0] == 2 * tops[1]


def test_memory_over_time() -> None:
    (axes,) = module.memory({"greedy": [2**20, 3 * 2**20, 0]}, limit=2**21).axes
    drawn = lines(axes)
    assert drawn["greedy: peak 3 MiB"].get_ydata().tolist() == [1, 3, 0]
    assert set(drawn["limit"].get_ydata()) == {2}


def test_agreement_of_predictions_with_measurements() -> None:
    rows = [group("c", 1, 1, p, m) for p, m in ((1e-6, 2e-6), (3e-6, 4e-6), (2e-6, 5e-6))]
    (axes,) = module.agreement([*rows, group("c", 1, 1, 1e-6)]).axes
    tau = kendall([2, 4, 5], [1, 3, 2])
    assert axes.get_title() == f"m: tau {tau:.2f} of 3 groups"
    assert lines(axes)["loops"].get_xdata().tolist() == [2e-6, 4e-6, 5e-6]
    assert lines(axes)["equal"].get_xdata().tolist() == [1e-6, 5e-6]


def test_files_depend_on_the_records_only(tmp_path: Path) -> None:
    records = evonnx.study([generated(30, 1)], budgets=(300,), strategies=("genetic", "exact"))
    made = [evonnx.figures(records, tmp_path / name) for name in ("one", "two")]
    assert [p.name for p in made[0]] == [
        "anytime-evaluations.svg", "anytime-seconds.svg", "gaps.svg", "race.svg"]
    for one, two in zip(*made, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert one.read_text().lstrip().startswith("<?xml")


def test_the_front_of_a_made_problem_beside_the_true_one(tmp_path: Path) -> None:
    made = {"made": two_objectives(14, 3)}
    records = evonnx.study(made, strategies=("exact", "nsga2"), budgets=(400,))
    assert {tuple(r["objectives"]) for r in records} == {("C", "D")}
    truth = module.nondominated([tuple(p.values()) for p in records[0]["front"]])
    found = [tuple(p.values()) for p in records[1]["front"]]
    assert len(truth) > 1 and all((truth <= np.array(p)).all(axis=1).any() for p in found)
    files = [p.name for p in evonnx.figures(records, tmp_path)]
    assert "front-made.svg" in files


def graph() -> Graph:
    b = Builder()
    x = b.input("x", TensorType(F32, (64, 32)))
    w = b.const(np.ones((32, 32), np.float32))
    for _ in range(2):
        x = b.op("add", b.op("exp", b.op("dot", x, w, ta=False, tb=False)), x)
    return b.build({"y": x})


def test_candidates_are_timed(tmp_path: Path) -> None:
    data = dataset(graph(), tmp_path, measure=3, seed=2)
    assert data.origin["measured"] == 3
    assert data.origin["not_measured"] == {}
    known = ~np.isnan(data.measured)
    assert known.sum() >= 3  # equal layers share a time
    assert (data.measured[known] > 0).all()
    assert known[list(data.greedy)].any()
    again = load(tmp_path)
    assert np.array_equal(again.measured, data.measured, equal_nan=True)
    assert again.origin == data.origin
    assert set(again.predicted) == {"bounds", "roofline", "cd"}
    with pytest.raises(OptionError, match="not this machine"):
        dataset(graph(), measure=1, target="arm64-board")


def test_a_study_from_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "m.ir"
    write_graph(path, graph())
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [
        "study", str(path), "-o", str(out), "--budget", "200", "--seeds", "2", "--strategy",
        "exact", "--strategy", "swarm", "--cost-model", "bounds", "--cost-model", "cd", "--json",
        "--measure", "2"])  # fmt: skip
    assert done.exit_code == 0, done.output
    records = read_records(out / "records.jsonl")
    assert len(records) == 2 * (1 + 2)
    assert {r["source"] for r in records} == {str(out / "datasets" / "m")}
    names = {p.name for p in (out / "figures").iterdir()}
    assert {"anytime-evaluations.svg", "race.svg", "gaps.svg", "agreement.svg",
            "roofline-m-bounds.svg", "front-m-cpu.svg", "memory-m-bounds.svg"} <= names  # fmt: skip
    data = load(out / "datasets" / "m")
    curves = module.memory_curves(records, data, "bounds")
    best = next(r for r in records if r["strategy"] == "exact")
    assert max(curves[next(k for k in curves if k != "greedy")]) == best["peak"]
    assert len(curves["greedy"]) == len(data.greedy)
    middle, *_ = median_interval([100 * r["gap"] for r in records if r["strategy"] == "exact"])
    assert middle == 0
    again = CliRunner().invoke(app, [
        "study", str(out / "datasets" / "m"), "-o", str(tmp_path / "again"), "--budget", "200",
        "--seeds", "1", "--strategy", "swarm", "--no-figures"])  # fmt: skip
    assert again.exit_code == 0, again.output
    (same,) = read_records(tmp_path / "again" / "records.jsonl")
    assert same["cost"] == next(r for r in records if r["strategy"] == "swarm")["cost"]


def test_a_file_of_records_is_not_taken_for_records(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"reads from a file, not 'made\.jsonl'"):
        evonnx.figures("made.jsonl", tmp_path / "out")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
