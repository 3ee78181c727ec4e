"""Times of groups within one native call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import evonnx
from evonnx.ir.builder import Builder
from evonnx.ir.dims import Dim, sym
from evonnx.ir.graph import Graph
from evonnx.ir.types import F32, TensorType
from evonnx.runtime.stamps import Stopwatch, _Stamped


def chain(rows: Dim) -> Graph:
    """Two products with what follows each."""
    b = Builder()
    x = b.input("x", TensorType(F32, (rows, 32)))
    w = b.const(np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32))
    y = b.op("tanh", b.op("dot", x, w, ta=False, tb=False))
    return b.build({"y": b.op("tanh", b.op("dot", y, w, ta=False, tb=False))})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [64, sym("N")])
def test_every_group_that_runs_takes_time(rows: Dim, threads: int, tmp_path: Path) -> None:
    compiled = evonnx.compile(chain(rows), threads=threads, cache=tmp_path)
    groups = compiled.schedule.groups
    x = np.random.default_rng(1).standard_normal((64, 32)).astype(np.float32)
    spent = Stopwatch(compiled.executable, len(groups)).seconds({"x": x}, 3)
    assert spent.shape == (len(groups),) and np.isfinite(spent).all()
    assert all(spent > 0)
    with pytest.raises(evonnx.FeedError):
        Stopwatch(compiled.executable, len(groups)).seconds({}, 1)


@pytest.mark.parametrize("rows", [0, 1, 5, 64])
def test_stamps_change_no_result(rows: int, tmp_path: Path) -> None:
    compiled = evonnx.compile(chain(sym("N")), threads=1, cache=tmp_path)
    executable = compiled.executable
    x = np.random.default_rng(rows).standard_normal((rows, 32)).astype(np.float32)
    stamped = _Stamped(executable.program, executable.machine, len(compiled.schedule.groups))
    for _ in range(2):
        got, = stamped.run(executable.check_feeds({"x": x}))
        np.testing.assert_array_equal(got, executable.run_list({"x": x})[0])
    assert stamped.spent[-1] == 0, "every step belongs to a group"
