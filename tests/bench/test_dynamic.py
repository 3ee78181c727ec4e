"""The measurement of new sizes: every number of its table is there, and compilation is seen."""

from __future__ import annotations

import pytest

import evonnx
from evonnx.bench import dynamic, dynamic_models


def test_new_sizes_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic, "CALLS", 12)
    case = dynamic.Case(
        "small",
        lambda: dynamic_models.lstm(4),
        lambda g: dynamic_models.lstm_feeds(g, int(g.integers(1, 9)), int(g.integers(1, 9))),
    )
    cost = dynamic.measure(case, 1)
    assert cost.compilations == 0
    assert 2 <= cost.sizes <= 12
    assert min(cost.bind, cost.row, cost.first, cost.again) > 0
    row = dynamic.table([cost], 1).splitlines()[-1]
    assert row.startswith(f"| small | {cost.steps} | {cost.sizes} | 0 | ")


def test_compilations_are_seen() -> None:
    with dynamic.compilations() as made:
        evonnx.compile(dynamic_models.lstm(5), threads=1, cache=False)
    assert made
