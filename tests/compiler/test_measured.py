"""Prices of groups from times of some of them."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.compiler.measured import FASTER, Measured
from evonnx.ir.builder import Builder
from evonnx.ir.graph import Graph
from evonnx.ir.target import Target
from evonnx.ir.types import F32, TensorType
from evonnx.search.greedy import Fuser
from evonnx.search.settings import Search
from evonnx.search.space import Survey

SETTING = (("rows", 4),)


def layers(count: int = 3) -> Graph:
    """Equal layers: products with what follows."""
    b = Builder()
    y = b.input("x", TensorType(F32, (16, 32)))
    for _ in range(count):
        w = b.const(np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32))
        y = b.op("tanh", b.op("dot", y, w, ta=False, tb=False))
    return b.build({"y": y})


@pytest.fixture
def found() -> tuple[Survey, Measured]:
    graph = layers()
    survey = Survey(graph, Fuser(graph).run(), Target.named("avx2"), Search("exact"))
    return survey, Measured(survey, survey.space())


def test_what_was_measured_costs_that(found: tuple[Survey, Measured]) -> None:
    survey, table = found
    places = table.places(survey.greedy)
    assert len(places) == 3 and len({table.structures[k] for k in places if k is not None}) < 3
    for _ in range(3):
        table.record(survey.greedy, places, [1.0, 2.0, 4.0])
    table.record(survey.greedy, places, [100.0, 100.0, 100.0])  # a disturbance
    prices = table.prices()
    assert [prices[k] for k in places] == [1.0, 2.0, 4.0]
    others = set(range(len(prices))) - set(places)
    assert all(prices[k] > 7.0 for k in others), "nothing else can be had"
    assert table.schedule(places) == survey.greedy


def test_what_was_not_measured_is_corrected_by_what_was_nearby(
        found: tuple[Survey, Measured]) -> None:
    """Groups take three times what is predicted, so their parts are expected to."""
    survey, table = found
    predicted = survey.space().problem.cost
    places = table.places(survey.greedy)
    table.record(survey.greedy, places, [3 * predicted[k] for k in places])
    prices = table.prices(hope=0.5)
    others = [k for k in range(len(prices)) if table.structures[k] not in table.times]
    assert others
    np.testing.assert_allclose(prices[others], 1.5 * predicted[others])
    doubt = np.full(max(table.structures) + 1, 2.0)
    np.testing.assert_allclose(table.prices(0.5, doubt)[others], 3 * predicted[others])
    assert all(prices[k] == pytest.approx(3 * predicted[k]) for k in places)


@pytest.mark.parametrize("part", [0.5, (1 + FASTER) / 2, 2.0])
def test_the_fastest_variant_counts_by_its_ratio(found: tuple[Survey, Measured], part: float
                                                 ) -> None:
    """Measured in one place, a variant is taken in all if it is faster by more than noise."""
    from dataclasses import replace

    survey, table = found
    places = table.places(survey.greedy)
    first, second, last = survey.greedy.groups
    table.record(survey.greedy, places, [1.0, 2.0, 4.0])
    trial = replace(survey.greedy, groups=(replace(first, variant=SETTING), second, last))
    table.record(trial, places, [part, 2.0, 4.0])
    one, two, _ = places
    assert one is not None and two is not None
    assert table.structures[one] == table.structures[two], "they are equal layers"
    taken = part < FASTER
    assert table.best(table.structures[one]) == (SETTING if taken else ())
    prices = table.prices()
    assert prices[one] == (part if taken else 1.0)
    assert prices[two] == (2 * part if taken else 2.0)
    chosen = table.schedule(places)
    assert [g.variant for g in chosen.groups[:2]] == [SETTING if taken else ()] * 2
