"""Calibration: every constant is measured, physically possible, and read back."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

import evonnx
from evonnx.compiler import cli
from evonnx.compiler.calibrate import Calibration, calibrate
from evonnx.ir import target as module
from evonnx.ir.builder import Builder
from evonnx.ir.errors import OptionError
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType


def small() -> Target:
    """This machine with caches so small that the test is quick."""
    return dataclasses.replace(
        Target.detect(), name="small", l1_bytes=16 << 10, l2_bytes=128 << 10, l3_bytes=512 << 10
    )


def test_every_rate_and_time_is_measured() -> None:
    base = small()
    stages: list[str] = []
    found, measured = calibrate(base, 0.2, lambda stage, done, total: stages.append(stage))
    assert len(stages) == 6
    by_name = {m.name: m for m in measured}
    wanted = {*module._RATES, *module._TIMES} - ({"sync_s"} if base.cores == 1 else set())
    assert wanted <= by_name.keys()
    for name in wanted:
        one = by_name[name]
        assert one.value > 0 and one.samples >= 3 and one.spread >= 0
        assert one.unit == module.unit_of(name) != ""
        least = by_name[name.removesuffix("_all")].value if name.endswith("_all") else 0
        assert getattr(found, name) == max(one.value, least)
    # What no processor does: a terahertz of vectors, an operation in a hundredth of a nanosecond.
    assert 1e9 < found.flops < 1e12 * base.lanes(32)
    assert found.flops > 0.9 * by_name["special_rate"].value
    assert 1e-11 < found.latency_s < 1e-6
    if base.cores > 1 and len(os.sched_getaffinity(0)) > 1:
        trip = by_name["a word to and fro"]
        assert trip.unit == "s" and 1e-9 < trip.value < 1e-2
    widths = [m for m in measured if m.name.startswith("flops")]
    assert len(widths) >= 2 or base.vector_bits == 128
    unchanged = {f.name for f in dataclasses.fields(Target)} - wanted
    assert all(getattr(found, name) == getattr(base, name) for name in unchanged)
    assert Target.parse(str(found)) == found


def test_a_value_is_the_median_of_the_best_runs() -> None:
    work = Calibration(small(), 1e-9)
    runs = iter([5.0, 9.0, 1.0, 2.0, 3.0, *[4.0] * 5, *[7.0] * 5])
    assert work.keep("flops", lambda: next(runs)) == 7.0
    assert dataclasses.astuple(work.found["flops"])[1:3] == (7.0, module.unit_of("flops"))
    assert work.target.flops == 7.0


def test_shipped_machines_compile_where_they_run() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (5, 7)))
    graph = b.build({"y": b.op("exp", x)})
    for name in Target.shipped():
        if not Target.named(name).runs_here():
            with pytest.raises(OptionError, match=name):
                evonnx.compile(graph, target=name)
            continue
        y = evonnx.compile(graph, target=name, threads=1)(np.ones((5, 7), np.float32))
        np.testing.assert_allclose(y, np.e, rtol=1e-6)


def test_what_cannot_run_here_cannot_be_measured() -> None:
    with pytest.raises(OptionError, match="cannot run here"):
        calibrate(Target.named("h200"))
    with pytest.raises(OptionError, match="more than 0"):
        calibrate(seconds=0)


def test_the_command_writes_a_target_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = small()
    monkeypatch.setattr(Target, "detect", classmethod(lambda cls: machine))
    file = tmp_path / "here.target"
    with pytest.raises(SystemExit) as done:
        cli.main(["calibrate", "--seconds", "0.1", "-o", str(file), "--json"])
    assert done.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert Target.parse(file.read_text()) == Target.parse(said["target"])
    assert {m["constant"] for m in said["measured"]} >= {"flops", "dram_rate", "launch_s"}
    assert Target.parse(file.read_text()).name == "small"
