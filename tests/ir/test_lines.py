"""How many lines of a depthwise convolution are computed at once."""

from __future__ import annotations

import pytest

from evonnx.ir.grids import Taps
from evonnx.ir.lines import alive, block_vectors, crowded, lines_shape, rows_used, run_pixels
from evonnx.ir.target import Target

WIDE, NARROW = Target.named("avx512"), Target.named("avx2")


@pytest.mark.parametrize("target,stride,size,lines,rolled", [
    (WIDE, 1, 28, 7, True), (WIDE, 1, 14, 2, False), (WIDE, 2, 14, 4, True), (WIDE, 1, 1, 1, False),
    (NARROW, 1, 28, 2, False), (NARROW, 2, 56, 14, True)])
def test_runs_are_taken_where_sums_fit_registers_and_lines_are_enough(
        target: Target, stride: int, size: int, lines: int, rolled: bool) -> None:
    three = Taps(3, stride, 1)
    shape = lines_shape(target, three, three, size, size, size, True)
    assert (shape.lines, shape.rolled) == (lines, rolled)
    assert not lines_shape(target, three, three, size, size, size, False).rolled


def test_a_last_run_counts_the_lines_it_has() -> None:
    """Fourteen lines are three runs of four, and two more."""
    three = Taps(3, 2, 1)
    runs = lines_shape(WIDE, three, three, 14, 7, 14, True)
    assert runs.cycles < 4 * lines_shape(WIDE, three, three, 4, 7, 16, True).cycles


def test_what_fits_registers() -> None:
    """Sums of three lines and nine weights, pixels and a zero point; wide rows of weights do not,
    and dilated ones are no run."""
    three = Taps(3, 1, 1)
    assert run_pixels(WIDE, three, three) == 7
    assert run_pixels(WIDE, three, three, centered=True) == 6
    assert run_pixels(WIDE, Taps(3, 1, 2), three) == 0
    assert run_pixels(WIDE, three, Taps(10, 1, 1)) == 0
    assert block_vectors(WIDE, three, three, 2, 7) == 1
    assert block_vectors(WIDE, three, Taps(10, 1, 1), 2, 7) == 0


def test_rows_belong_to_lines_in_turn() -> None:
    assert rows_used(Taps(2, 1, 1), 2) == {0: [(0, 0)], 1: [(0, 1), (1, 0)], 2: [(1, 1)]}
    assert alive(Taps(5, 2, 1)) == 3
    assert crowded(4096)
    assert not crowded(1024)
