"""Profiles and Gantt charts: every group is timed once, numbers add up, files can be read."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from onnx import TensorProto, helper

import evonnx
from evonnx.compiler.profiling import Profile, roof_of
from evonnx.ir.builder import Builder
from evonnx.ir.dims import sym
from evonnx.ir.graph import Graph
from evonnx.ir.target import Target
from evonnx.ir.types import BOOL, F32, TensorType
from evonnx.search.models import Context, GroupFacts

EVIL = "evil [bold] </text>\x1b[31m$x^$"


def branches(rows: Any = 32) -> Graph:
    """A product and a softmax of x, and a product of the softmax."""
    b = Builder()
    x = b.input("x", TensorType(F32, (rows, 16)))
    w = b.const(np.ones((16, 16), np.float32) / 16)
    left = b.op("dot", x, w, origin=(EVIL,), ta=False, tb=False)
    right = b.op("softmax", b.op("neg", x), axis=1)
    return b.build({"left": left, "y": b.op("dot", right, w, ta=False, tb=False)})


def x(rows: int = 32) -> np.ndarray:
    return np.ones((rows, 16), np.float32)


@pytest.fixture(scope="module")
def staged() -> evonnx.Compiled:
    """The product and the first softmax in one stage."""
    plain = evonnx.compile(branches(), threads=2)
    first, second, third = plain.schedule.groups
    assert [g.implementation for g in plain.schedule.groups] == ["contract", "loops", "contract"]
    schedule = replace(plain.schedule, groups=(
        replace(first, stage=7, threads=1), replace(second, stage=7, threads=1), third))
    return evonnx.compile(branches(), schedule=schedule, threads=2)


@pytest.fixture(scope="module")
def profile(staged: evonnx.Compiled) -> Profile:
    return staged.profile(x(), rounds=2)


def test_every_group_is_timed(staged: evonnx.Compiled, profile: Profile) -> None:
    report = {g.number: g for g in staged.report().groups}
    assert [g.number for g in profile.groups] == [0, 1, 2]
    assert [g.stage for g in profile.groups] == [0, 0, 1]
    assert [g.threads for g in profile.groups] == [1, 1, 2]
    for g in profile.groups:
        assert g.seconds > 0 and g.runs == 1 and g.roof > 0 and g.share > 0
        assert g.number is not None
        line = report[g.number]
        assert (g.ops, g.flops, g.nbytes) == (line.ops, line.flops.value, line.nbytes.value)
        assert g.flop_rate == g.flops / g.seconds and g.byte_rate == g.nbytes / g.seconds
    assert profile.groups[0].origin == (EVIL,)
    assert len(profile.stages) == 2 and profile.stages[1] == profile.groups[2].seconds
    assert profile.kernels == sum(profile.stages) and profile.call > 0


def test_the_profile_is_text_and_json(profile: Profile) -> None:
    text = str(profile)
    assert "\x1b" not in text and "[bold]" in text
    assert all(word in text for word in ("g0", "g1", "g2", "roof", "GFLOP/s", "contract"))
    data = json.loads(json.dumps(profile.to_dict(), allow_nan=False))
    assert len(data["groups"]) == 3 and data["threads"] == 2
    assert data["groups"][1]["bound"] in ("compute", "memory")


def test_the_trace_lays_stages_end_to_end(profile: Profile, tmp_path: Path) -> None:
    profile.save_trace(tmp_path / "trace.json")
    data = json.loads((tmp_path / "trace.json").read_text())
    events = [e for e in data["traceEvents"] if e["ph"] == "X"]
    assert [e["tid"] for e in events] == [0, 1, 0]
    assert events[0]["ts"] == events[1]["ts"] == 0
    assert events[2]["ts"] == pytest.approx(profile.stages[0] * 1e6)
    assert all(e["dur"] > 0 for e in events)


def test_the_roof_is_the_slower_of_compute_and_memory() -> None:
    target = replace(Target.named("generic"), flops=1e9, l2_rate=1e9, l2_bytes=1 << 20)
    context = Context(target, 4)
    assert roof_of(GroupFacts("loops", flops=4e6, inputs=1e3), 2, context) == (2e-3, "compute")
    assert roof_of(GroupFacts("loops", flops=4e3, inputs=1e6), 2, context) == (5e-4, "memory")


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_plot(profile: Profile, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    profile.plot(tmp_path / f"roofline.{ending}")
    data = (tmp_path / f"roofline.{ending}").read_bytes()
    if ending == "png":
        assert data.startswith(b"\x89PNG")
    else:
        assert ElementTree.fromstring(data).tag.endswith("svg")


def test_plots_say_what_is_wrong(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(evonnx.OptionError, match=r"plot .*Format 'odd'"):
        profile.plot(tmp_path / "roofline.odd")
    with pytest.raises(evonnx.OptionError, match="plot"):
        profile.plot(tmp_path / "absent" / "roofline.svg")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(evonnx.OptionError, match=r"pip install 'evonnx\[plots\]'"):
        profile.plot(tmp_path / "roofline.svg")


def test_symbolic_sizes_are_those_of_the_call() -> None:
    compiled = evonnx.compile(branches(sym("N")), threads=1)
    for rows in (3, 9):
        found = compiled.profile(x(rows), rounds=1)
        assert found.groups[0].flops == 2 * rows * 16 * 16
        assert found.groups[0].roof > 0


def test_bodies_are_timed_behind() -> None:
    def region(op: str) -> Graph:
        b = Builder()
        v = b.input("v", TensorType(F32, (64,)))
        return b.build({"r": b.op(op, v)})

    b = Builder()
    c, v = b.input("c", TensorType(BOOL, ())), b.input("v", TensorType(F32, (64,)))
    e = b.op("exp", v)
    y = b.op("if", c, e, e, then=region("tanh"), else_=region("neg"), split=1, symbols=(),
             results=((F32, (64,)),))  # fmt: skip
    compiled = evonnx.compile(b.build({"y": y}), threads=1)
    found = compiled.profile(np.array(True), np.ones(64, np.float32), rounds=2)
    assert [g.ops for g in found.groups] == ["exp", "tanh"]
    assert [g.number for g in found.groups] == [0, None]
    assert found.groups[1].name.endswith(".0/g0")
    assert len(found.stages) == 2
    assert "tanh" in str(found) and "g1" in str(compiled.gantt())


def test_wrong_rounds_and_feeds(staged: evonnx.Compiled) -> None:
    with pytest.raises(evonnx.OptionError, match="rounds: 1 to"):
        staged.profile(x(), rounds=0)
    with pytest.raises(evonnx.FeedError):
        staged.profile()
    with pytest.raises(evonnx.FeedError):
        staged.gantt(x(3))


def test_gantt_without_feeds_predicts(staged: evonnx.Compiled) -> None:
    chart = staged.gantt(cost_model="roofline")
    assert [b.name for b in chart.bars] == ["stage 7", "g0", "g1", "g2"]
    stage, first, second, third = chart.bars
    assert all(b.measured is None and b.predicted is not None for b in chart.bars)
    assert stage.predicted is not None and first.predicted is not None
    assert second.predicted is not None and third.predicted is not None
    assert first.predicted.start == second.predicted.start == 0
    assert stage.predicted.seconds == max(first.predicted.seconds, second.predicted.seconds)
    assert third.predicted.start == stage.predicted.end
    assert chart.predicted == third.predicted.end == staged.report("roofline").predicted_seconds
    with pytest.raises(evonnx.OptionError, match="answers"):
        staged.gantt(cost_model="cd")


def test_a_stage_on_one_thread_takes_the_sum_of_its_groups(staged: evonnx.Compiled) -> None:
    alone = evonnx.compile(branches(), schedule=staged.schedule, threads=1)
    chart = alone.gantt()
    spans = [b.predicted for b in chart.bars]
    assert all(s is not None for s in spans)
    stage, first, second, third = (s for s in spans if s is not None)
    assert second.start == first.end and third.start == stage.end == second.end
    assert chart.predicted == third.end == alone.report().predicted_seconds


def test_gantt_with_feeds_measures(staged: evonnx.Compiled, tmp_path: Path) -> None:
    chart = staged.gantt(x())
    assert all(b.measured is not None for b in chart.bars)
    assert chart.bars[0].measured is not None and chart.bars[3].measured is not None
    assert chart.bars[3].measured.start == chart.bars[0].measured.seconds
    assert json.dumps(chart.to_dict(), allow_nan=False)
    text = str(chart)
    assert "stage 7" in text and "#" in text and "\x1b" not in text
    chart.save(tmp_path / "gantt.svg")
    drawing = ElementTree.parse(tmp_path / "gantt.svg").getroot()
    bars = [r for r in drawing.iter("{http://www.w3.org/2000/svg}rect") if len(r)]
    assert len(bars) == 8


def test_gantt_of_unknown_sizes() -> None:
    compiled = evonnx.compile(branches(sym("N")), threads=1)
    chart = compiled.gantt()
    assert chart.predicted is None and "?" in str(chart)
    assert len(ElementTree.fromstring(chart.svg()))
    compiled(x(3))
    assert compiled.gantt().predicted is not None


def test_a_model_of_several_programs_profiles_the_one_for_the_feeds() -> None:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [32, 16]),
                      helper.make_tensor_value_info("axes", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    several = evonnx.compile(proto, threads=1)
    with pytest.raises(evonnx.EvonnxError, match="not compiled yet"):
        several.gantt()
    found = several.profile(x(), np.array([1]), rounds=1)
    assert found.groups[0].flops >= 32 * 15
    assert several.gantt(x=x(), axes=np.array([0])).measured is not None
    assert several.gantt().measured is None
