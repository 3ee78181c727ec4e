"""What a kernel could reach at most, and how near it comes: measured roofs, and rows of a table.

*Attainable* is the smaller of the peak and of bandwidth times operational intensity, where the
bandwidth is that of the smallest memory that holds all bytes (S. Williams, A. Waterman and D.
Patterson, "Roofline: an insightful visual performance model for multicore architectures", 2009).
Peak and bandwidths are measured by the kernels of ``evonnx calibrate``, one thread, before and
after what they are compared with, and the larger counts: whatever else the machine does only makes
them smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from ..compiler.calibrate import Calibration
from ..ir.target import Target
from ..runtime.frame import aligned_empty
from .engines import NAMES, OURS
from .measure import interleave

CALIBRATION = 6.0
"""Seconds of calibration, about."""
ROUNDS = 25
"""How often a kernel is timed; the smallest time counts."""


@dataclass(frozen=True)
class Timed:
    """A kernel, or a few that make a group, measured on one thread."""

    name: str
    flops: int
    """Operations; of a contraction those of the direct sum."""
    nbytes: int
    """Bytes of operands and result, each once."""
    seconds: float
    """Of the kernels, the smallest of the rounds."""
    least: float = 0.0
    """Seconds at the roof; 0: not known yet."""
    calls: dict[str, float] = field(default_factory=dict)
    """Seconds of a whole call by engine; empty without peers."""

    @property
    def share(self) -> float:
        """Of what is attainable; above 1 with fewer operations than the direct sum (Winograd)."""
        return self.least / self.seconds


T = TypeVar("T", bound=Timed)


def under(row: T, target: Target) -> T:
    """The row with what the target can attain."""
    return replace(row, least=least_seconds(row.flops, row.nbytes, target))


def least_seconds(flops: int, nbytes: int, target: Target) -> float:
    """Seconds that one core takes at least."""
    return max(flops / target.flops, nbytes / bandwidth(nbytes, target))


def rates(base: Target | None = None, seconds: float = CALIBRATION) -> Target:
    """This machine with its peak and bandwidths measured."""
    work = Calibration(Target.detect() if base is None else base, 3 * seconds)
    work.arithmetic()
    work.caches()
    return work.target


def faster(a: Target, b: Target) -> Target:
    """The larger peak and bandwidths of two measurements of one machine."""
    names = ("flops", "l1_rate", "l2_rate", "l3_rate", "dram_rate")
    return replace(a, **{name: max(getattr(a, name), getattr(b, name)) for name in names})


def bandwidth(nbytes: int, target: Target) -> float:
    """Bytes per second of the smallest memory that holds so many, one core."""
    levels = ((target.l1_bytes, target.l1_rate), (target.l2_bytes, target.l2_rate),
              (target.l3_bytes, target.l3_rate), (math.inf, target.dram_rate))
    return float(next(rate for size, rate in levels if nbytes <= size))


def fastest(calls: Mapping[str, Callable[[], Any]], turns: int = 3, seconds: float = 0.1
            ) -> dict[str, float]:
    """Seconds of the fastest call of each engine; they take turns of a while as in ``measure``."""
    taken = interleave(calls, rounds=turns, seconds=seconds, number=min)
    return {name: min(times) for name, times in taken.items()}


def aligned(x: np.ndarray) -> np.ndarray:
    """``x`` from the beginning of a cache line on, as tensors within a network begin: vectors that
    lie across two lines cost up to a tenth."""
    result = aligned_empty(x.shape, x.dtype)
    result[...] = x
    return result


def roofs_line(target: Target) -> str:
    """The measured roofs in words."""
    return (f"Peak {target.flops / 1e9:.1f} GFLOP/s; L1 {target.l1_rate / 1e9:.0f}, "
            f"L2 {target.l2_rate / 1e9:.0f}, L3 {target.l3_rate / 1e9:.0f}, "
            f"memory {target.dram_rate / 1e9:.0f} GB/s, one thread.")


def table(heads: Sequence[str], rows: Sequence[tuple[Timed, Sequence[str]]]) -> list[str]:
    """Lines of a table in Markdown: each row's cells, then whole calls of ours and of the peers in
    us and the best peer's time by ours, where peers were timed."""
    peers = [n for n in NAMES if n != OURS and any(n in row.calls for row, _ in rows)]
    heads = [*heads, *(["call us", *(f"{n} us" for n in peers), "ratio"] if peers else [])]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row, cells in rows:
        if peers:
            best = min(row.calls[n] for n in peers)
            cells = [*cells, *(f"{row.calls[n] * 1e6:.1f}" for n in (OURS, *peers)),
                     f"{best / row.calls[OURS]:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
