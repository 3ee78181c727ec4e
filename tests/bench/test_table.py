"""Tables and documents of results, and jobs that end badly."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from evonnx.bench import run, table
from evonnx.bench.jobs import (
    ColdResult,
    EngineResult,
    Job,
    Result,
    load_feeds,
    one_line,
    save_feeds,
)

MACHINE = {
    "date": "2030-01-01T00:00:00+00:00", "cpu": "Some CPU", "isa": ["avx2"], "cpus": 2,
    "memory": "8 kB", "system": "Linux", "python": "3.11", "versions": {"evonnx": "1"},
}  # fmt: skip


def timed(name: str, median: float, difference: float | None = 1e-7) -> EngineResult:
    return EngineResult(
        name, "1.0", median=median, low=median * 0.9, high=median * 1.1,
        blocks=[median] * 3, difference=difference,
    )  # fmt: skip


def result(name: str, ratio: float | None, threads: int = 2, **more: object) -> Result:
    engines = {"evonnx": timed("evonnx", 0.002)}
    if ratio is not None:
        engines["onnxruntime"] = timed("onnxruntime", 0.002 * ratio)
    return Result(
        name, threads, "ab" * 32, reference="float64 interpreter", engines=engines, ratio=ratio,
        **more,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture
def results() -> list[Result]:
    failed = Result("hung", 2, "cd" * 32, error="timing: no end within 5 s")
    cold = ColdResult(1.5, 0.25, predicted_peak=2_000_000, measured_peak=2_100_000)
    return [
        result("winner", 2.0, cold=cold),
        result("loser", 0.5),
        failed,
        result("single", 4.0, threads=1),
    ]


def test_failures_then_losing_rows_come_first(results: list[Result]) -> None:
    assert [r.name for r in table.order(results)] == ["hung", "loser", "winner", "single"]


def test_geomean_per_number_of_threads(results: list[Result]) -> None:
    means = table.geomeans(results)
    assert means[1] == (pytest.approx(4.0), 1, 1)
    assert means[2] == (pytest.approx(1.0), 2, 3)
    assert "1.000 over 2 of 3 rows" in table.geomean_lines(results)[1]
    assert table.geomean_lines([]) == ["geomean: no row has a ratio"]


def test_cells(results: list[Result]) -> None:
    cells = dict(zip(table.HEADER, table.row(results[0]), strict=True))
    assert cells["evonnx ms"] == "2 ±0.2"
    assert cells["openvino ms"] == "-"
    assert cells["ratio"] == "2.00"
    assert cells["error"] == "1.0e-07"
    assert (cells["cold s"], cells["cached s"]) == ("1.50", "0.25")
    assert cells["peak MB"] == "2.0 / 2.1"


def test_fallback_reference_is_marked_and_explained() -> None:
    row = result("x", 1.0)
    row.reference, row.reference_note = "onnxruntime float32", "UnsupportedError: no loop"
    cells = dict(zip(table.HEADER, table.row(row), strict=True))
    assert cells["error"].endswith("¹")
    assert "no loop" in cells["note"]
    assert cells["peer error"] == "-"  # ONNX Runtime is not compared with itself


def test_engine_errors_are_in_the_note() -> None:
    row = result("x", 1.0)
    row.engines["openvino"] = EngineResult("openvino", error="RuntimeError: no | such op")
    assert "openvino: RuntimeError" in table.row(row)[-1]
    text = table.markdown([row], MACHINE, {"rounds": 3})
    assert "no \\| such op" in text


def test_documents_round_trip(results: list[Result], tmp_path: Path) -> None:
    data, text = table.write(tmp_path / "out", "stem", results, MACHINE, {"rounds": 3})
    read = json.loads(data.read_text())
    assert read["machine"] == MACHINE
    assert read["geomean"] == {"1": pytest.approx(4.0), "2": pytest.approx(1.0)}
    again = [Result.from_json(entry) for entry in read["results"]]
    assert again == table.order(results)
    lines = text.read_text().splitlines()
    assert lines[0] == "# Benchmark of 2030-01-01T00:00:00+00:00"
    assert sum(line.startswith("| ") for line in lines) == 2 + len(results)


def job(tmp_path: Path) -> Job:
    model = tmp_path / "m.onnx"
    model.write_bytes(b"not a model")
    return Job("m", str(model), 1, str(tmp_path / "f.npz"), ("evonnx",), 1, 0.0, False)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("import os; os.kill(os.getpid(), 11)", "starting: killed by SIGSEGV"),
        ("import time; time.sleep(60)", "starting: no end within 1 s"),
        ("raise ValueError('two\\nlines')", "starting: lines"),
    ],
)
def test_a_child_that_dies_or_hangs_is_a_row(
    script: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "python", lambda module, *args: [sys.executable, "-c", script])
    outcome = run.measure_job(job(tmp_path), timeout=1.0)
    assert outcome.error == expected
    assert outcome.ratio is None
    assert len(outcome.sha256) == 64


def test_job_round_trip(tmp_path: Path) -> None:

    given = job(tmp_path)
    assert Job.from_json(json.loads(json.dumps(dataclasses.asdict(given)))) == given


def test_one_line() -> None:
    assert one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert len(one_line("x" * 500)) == 200


def test_names_resolve_by_group_part_and_fail_by_name() -> None:
    assert run.resolve(["nudenet"]) == ["nudenet"]
    assert run.resolve(["distil"]) == ["distilbert"]
    assert "bert_base" in run.resolve(["export"])
    outcome = CliRunner().invoke(run.main, ["--models", "nothing_like_it"])
    assert outcome.exit_code == 2
    assert "no model matches" in outcome.output


def test_bad_options_are_usage_errors() -> None:
    assert CliRunner().invoke(run.main, ["--threads", "0"]).exit_code == 2
    assert CliRunner().invoke(run.main, ["--threads", "two"]).exit_code == 2
    assert CliRunner().invoke(run.main, ["--engines", "tvm"]).exit_code == 2


def test_feeds_round_trip_under_any_name(tmp_path: Path) -> None:
    feeds = {
        "words": np.array(["a", "bc"], object),
        "file": np.zeros((0, 2)),
        "gpu_0/data": np.arange(3),
        'a"b': np.float32(1.5)[None],
    }
    save_feeds(tmp_path / "f.npz", feeds)
    again = load_feeds(tmp_path / "f.npz")
    assert list(again) == list(feeds)
    for name, value in feeds.items():
        assert again[name].dtype == value.dtype
        assert np.array_equal(again[name], value)


def test_an_engine_that_kills_the_process_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def attempt(given: Job, timeout: float) -> Result:
        asked.append(given.engines)
        if "openvino" in given.engines:
            return Result("m", 1, "", error="loading in openvino: killed by SIGSEGV")
        return Result("m", 1, "", engines={name: EngineResult(name) for name in given.engines})

    monkeypatch.setattr(run, "_attempt", attempt)
    whole = dataclasses.replace(job(tmp_path), engines=("evonnx", "onnxruntime", "openvino"))
    outcome = run.measure_job(whole)
    assert asked == [("evonnx", "onnxruntime", "openvino"), ("evonnx", "onnxruntime")]
    assert outcome.error == ""
    assert outcome.engines["openvino"].error == "loading in openvino: killed by SIGSEGV"
