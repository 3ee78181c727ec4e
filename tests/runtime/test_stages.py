"""Steps of one stage: their memory never overlaps, and the bits do not depend on the threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evonnx.runtime.executable import Executable
from evonnx.runtime.program import KernelStep, Program, print_program, side_by_side


def staged(program: Program, stages: Sequence[int | None], threads: int | None = 1) -> Program:
    """The steps as groups of their own, in the stages given."""
    return replace(program, steps=tuple(
        replace(s, group=k, stage=number, threads=None if number is None else threads)
        for k, (s, number) in enumerate(zip(program.steps, stages, strict=True))
    ))  # fmt: skip


def branches(m: Any, width: int = 5) -> Any:
    """``width`` chains of two steps from one input, and their sum. In the order of the steps a
    chain's first buffer is free when the next chain begins."""
    x = m.input("x", (64, 16))
    ends = []
    for k in range(width):
        middle, end = m.buffer((64, 16)), m.buffer((64, 16))
        m.affine(x, middle, k + 2, k, tiles=64)
        m.affine(middle, end, 3, 1, tiles=64)
        ends.append(end)
    at = ends[0]
    for end in ends[1:]:
        following = m.buffer((64, 16))
        m.add(at, end, following)
        at = following
    m.output("y", at)
    return m


def result(x: np.ndarray, width: int = 5) -> np.ndarray:
    total = None
    for k in range(width):
        end = ((x * (k + 2) + k) * 3 + 1).astype(np.float32)
        total = end if total is None else total + end
    assert total is not None
    return total


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("share", [None, 1, 2, 8])
def test_stages_of_any_share_give_the_same_bits(
    make: Any, cache: Any, threads: int, share: int | None
) -> None:
    m = branches(make())
    program = m.program()
    order = [*range(0, 10, 2), *range(1, 10, 2), *range(10, len(program.steps))]
    program = replace(program, steps=tuple(program.steps[k] for k in order))
    stages = [*[0] * 5, *[1] * 5, *[None] * (len(order) - 10)]
    exe = Executable(staged(program, stages, share), m.constants, threads=threads, cache=cache)
    x = np.random.default_rng(0).integers(-99, 99, (64, 16)).astype(np.float32)
    for _ in range(20):
        assert np.array_equal(exe.run({"x": x})["y"], result(x))


def test_what_a_stage_touches_is_alive_during_all_of_it(make: Any, cache: Any) -> None:
    """Of two steps, the second one's result fits where the first one's operand lay; in one stage
    that memory is not free yet."""
    m = make()
    x = m.input("x", (64, 16))
    a, b, c, y = (m.buffer((64, 16)) for _ in range(4))
    m.affine(x, a, 2, 0, tiles=64)
    m.affine(a, b, 3, 0, tiles=64)
    m.affine(x, c, 5, 0, tiles=64)
    m.add(b, c, y)
    m.output("y", y)
    naive = Executable(staged(m.program(), [None] * 4), m.constants, threads=2, cache=cache)
    apart = Executable(staged(m.program(), [None, 0, 0, None]), m.constants, threads=2,
                       cache=cache)  # fmt: skip
    size = 64 * 16 * 4
    assert naive.predicted_peak().arena == 2 * size
    assert apart.predicted_peak().arena == 3 * size
    binding = apart.binding({"x": (64, 16)})
    (table,) = (t for t in binding.tables if t is not None)
    assert table.shape.phases == 3  # the stage is one phase: nothing in it waits
    data = np.ones((64, 16), np.float32)
    for _ in range(200):
        assert (apart.run({"x": data})["y"] == 11).all()


def test_a_stage_of_whole_steps_runs_on_the_team(make: Any, cache: Any) -> None:
    m = branches(make(), 2)
    kernels = m.program().steps
    assert all(isinstance(s, KernelStep) for s in kernels)
    program = replace(m.program(), steps=(kernels[0], kernels[2], kernels[1], *kernels[3:]))
    program = staged(program, [0, 0, 1, 1, None])
    exe = Executable(program, m.constants, threads=2, cache=cache)
    (table,) = (t for t in exe.binding({"x": (64, 16)}).tables if t is not None)
    assert table.parallel
    assert (table.shape.units, table.shape.phases) == (5, 3)
    assert side_by_side(program.steps) == [(0, 1), (0, 1), (2, 3), (2, 3), (4, 4)]
    assert " stage=1 threads=1" in print_program(program)
