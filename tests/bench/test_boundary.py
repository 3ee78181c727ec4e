"""The chains whose stages are timed."""

from __future__ import annotations

import numpy as np
import pytest

from evonnx.bench.boundary import chain, seconds_of
from evonnx.ir.graph import Constants
from evonnx.runtime.executable import Executable


@pytest.mark.parametrize("threads", [1, 2])
def test_a_chain_adds_one_per_stage(threads: int) -> None:
    executable = Executable(chain(5, 64), Constants(), threads=threads)
    x = np.arange(64, dtype=np.float32)
    assert np.array_equal(executable.run({"x": x})["y"], x + 5)
    table = executable.binding({"x": (64,)}).tables[0]
    assert table is not None
    assert (table.shape.phases, table.parallel) == ((5, True) if threads == 2 else (0, False))


def test_least_is_not_above_the_median() -> None:
    calls: list[int] = []
    least, usual = seconds_of(lambda: calls.append(1), 0.001)
    assert 0 <= least <= usual
    assert calls
