"""Summaries, ratios and the comparison of outputs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from evonnx.bench import measure
from evonnx.bench.measure import block, calm, interleave
from evonnx.bench.stats import geomean, paired_ratio, relative_error, summarize
from evonnx.compiler.turns import rotated


def test_summary_is_median_and_quartiles() -> None:
    summary = summarize([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (summary.low, summary.median, summary.high, summary.count) == (2.0, 3.0, 4.0, 5)
    assert summary.spread == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="no measurements"):
        summarize([])


def test_one_outlier_moves_nothing() -> None:
    assert summarize([1.0, 1.0, 1.0, 1.0, 100.0]).median == 1.0


def test_geomean() -> None:
    assert geomean([2.0, 0.5]) == pytest.approx(1.0)
    assert geomean([]) is None
    with pytest.raises(ValueError, match="positive"):
        geomean([1.0, 0.0])


def test_paired_ratio_cancels_drift() -> None:
    drift = np.array([1.0, 2.0, 4.0, 8.0])
    assert paired_ratio(list(3 * drift), list(drift)) == 3.0


def test_error_is_relative_to_the_scale_of_each_output() -> None:
    reference = [np.array([100.0, -50.0]), np.array([0.001, 0.002])]
    ours = [np.array([100.0, -49.0], np.float32), np.array([0.001, 0.002], np.float32)]
    assert relative_error(ours, reference) == pytest.approx(0.01, rel=1e-3)
    ours[1] = np.array([0.001, 0.003], np.float32)
    assert relative_error(ours, reference) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("ours", "reference", "expected"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([0.0, 1.0], [np.nan, 1.0], math.inf),
        ([np.nan, 1.0], [0.0, 1.0], math.inf),
        ([np.inf, 1.0], [np.inf, 1.0], 0.0),
        ([-np.inf, 1.0], [np.inf, 1.0], math.inf),
        ([np.nan], [np.nan], 0.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1e-30, 0.0], [0.0, 0.0], math.inf),
        ([], [], 0.0),
    ],
)
def test_error_at_nan_infinity_and_zero(
    ours: list[float], reference: list[float], expected: float
) -> None:
    assert relative_error([np.array(ours)], [np.array(reference)]) == expected


def test_integers_count_differences() -> None:
    assert relative_error([np.array([1, 2, 3, 4])], [np.array([1, 2, 3, 5])]) == 0.25
    assert relative_error([np.array(["a", "b"])], [np.array(["a", "b"])]) == 0.0


def test_sequences_and_maps_are_compared_inside() -> None:
    reference = [[{0: 0.25, 1: 0.75}]]
    assert relative_error([[{0: 0.25, 1: 0.75}]], reference) == 0.0
    assert relative_error([[{0: 0.5, 1: 0.5}]], reference) > 0.1
    with pytest.raises(ValueError, match="structure"):
        relative_error([[{0: 0.25}]], reference)


def test_different_shapes_and_counts_are_errors() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\), reference \(3,\)"):
        relative_error([np.zeros(2)], [np.zeros(3)])
    with pytest.raises(ValueError, match="1 outputs, reference has 2"):
        relative_error([np.zeros(2)], [np.zeros(2), np.zeros(2)])


def test_rotation() -> None:
    assert [rotated("abc", index) for index in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"],
    ]  # fmt: skip
    assert rotated([], 3) == []


def test_rounds_take_turns_and_give_one_number_each() -> None:
    seen: list[str] = []

    def run_block(call, seconds: float, pause: float) -> list[float]:
        call()
        return [1.0, 2.0, 9.0]

    calls = {name: (lambda name=name: seen.append(name)) for name in "ab"}
    medians = interleave(calls, rounds=3, run_block=run_block)
    assert seen == ["a", "b", "b", "a", "a", "b"]
    assert medians == {"a": [2.0] * 3, "b": [2.0] * 3}


def test_a_block_warms_up_once_and_measures_at_least_once() -> None:
    calls: list[None] = []
    times = block(lambda: calls.append(None), seconds=0.0, pause=0.0)
    assert len(times) == 1
    assert len(calls) == 2


def _calm_of(monkeypatch: pytest.MonkeyPatch, used: list[float]) -> list[float]:
    """The times of a calm block where others use so many processors during each block of a second;
    block k has the time k."""
    now = [0.0, 0.0]  # seconds that passed, and that others used
    number = iter(range(len(used)))

    def run_block(call, seconds: float, pause: float) -> list[float]:
        k = next(number)
        now[0] += 1.0
        now[1] += used[k]
        return [float(k)]

    monkeypatch.setattr(measure, "block", run_block)
    monkeypatch.setattr(measure, "others", lambda: now[1])
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    return calm(lambda: None)


def test_a_block_that_others_disturb_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _calm_of(monkeypatch, [0.02]) == [0.0]
    assert _calm_of(monkeypatch, [0.5, 0.02]) == [1.0]
    assert _calm_of(monkeypatch, [0.9, 0.4, 0.6]) == [1.0]  # the least of three, not the fastest


def test_only_processors_that_we_may_use_count(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = "cpu 9 9 9 9 9 9 9 9 0 0\ncpu0 8 8 8 8 8 8 8 8 0 0\ncpu1 100 20 30 5000 600 7 8 35 1 2\n"
    monkeypatch.setattr(measure.Path, "read_text", lambda path, encoding: stat)
    monkeypatch.setattr(measure.os, "sched_getaffinity", lambda pid: {1, 2}, raising=False)
    monkeypatch.setattr(measure.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(measure, "time", SimpleNamespace(process_time=lambda: 0.5))
    assert measure.others() == pytest.approx(2.0 - 0.5)
