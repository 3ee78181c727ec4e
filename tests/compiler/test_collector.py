"""Thresholds of the garbage collector are put back."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from evonnx.compiler.collector import RARE, rare_collections


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(("before", "within"), [(700, RARE), (0, 0), (2 * RARE, 2 * RARE)])
def test_thresholds(before: int, within: int) -> None:
    gc.set_threshold(before, 10, 10)
    with rare_collections():
        assert gc.get_threshold()[0] == within
    assert gc.get_threshold()[0] == before
