"""What a boundary between stages costs on two threads: ``python -m evonnx.bench.boundary``.

Chains of stages, each one step of two halves, one for each of two threads, over so many floats. The
cost of a boundary is the time of a chain of many stages per stage, less half of what one thread
needs for it. The two threads touch the same halves in every stage, so what is measured is how they
meet and nothing of what they hand over. Where one thread is done before the other has begun it does
the other's half, too: short stages are a matter of one thread.

Every row says how long two pinned threads take to hand a word to and fro just before, since virtual
machines move between cores that share a cache and cores that do not. The last line is a whole call
of a model of one step, which is above what lies between the call from Python and the first kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import click
import numpy as np

from ..ir.graph import Constants
from ..ir.types import F32, TensorType
from ..runtime.executable import Executable
from ..runtime.program import Buffer, KernelCode, KernelStep, Program
from ..runtime.roundtrip import round_trip
from .machine import headline
from .measure import others

THREADS = 2
STAGES = 200
BLOCKS = 8
"""Blocks of calls per figure."""
SIZES = (16, 512, 2048, 8192, 32768)
"""Floats of a stage."""
_ADD = """
def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    n = prm(params, 0)
    for i in range(begin * n, end * n):
        st(y, i, ld(x, i) + f32(1))
"""


def chain(stages: int, floats: int) -> Program:
    """``stages`` steps over ``floats`` floats, each a stage of its own that two threads share."""
    kind = TensorType(F32, (floats,))
    buffers = [Buffer("x", kind, "input")]
    steps = []
    for k in range(stages):
        buffers.append(Buffer(f"b{k}", kind, "output" if k == stages - 1 else "arena"))
        steps.append(KernelStep(
            "add", (k, k + 1), (floats // THREADS,), THREADS, n_outputs=1, group=k, stage=k,
            threads=THREADS,
        ))  # fmt: skip
    code = {"add": KernelCode(_ADD, "bench_boundary_add")}
    return Program(tuple(buffers), tuple(steps), (("x", 0),), (("y", stages),), code)


def seconds_of(call: Callable[[], object], duration: float) -> tuple[float, float]:
    """Least and median time of calls in the blocks of ``duration`` in which other processes used
    the least of the processors, the best two of ``BLOCKS``."""
    call()
    blocks = []
    for _ in range(BLOCKS):
        taken = []
        before = others()
        end = time.perf_counter() + duration
        while (start := time.perf_counter()) < end:
            call()
            taken.append(time.perf_counter() - start)
        blocks.append((others() - before, taken))
    calm = sorted(blocks, key=lambda block: block[0])[:2]
    together = [t for _, taken in calm for t in taken]
    return min(together), median(together)


@dataclass(frozen=True)
class Row:
    """One size, seconds."""

    floats: int
    round_trip: float
    alone: float
    """A stage on one thread."""
    best: float
    """A boundary: the least of many calls."""
    usual: float
    """Their median."""


def measure(floats: int, duration: float) -> Row:
    """The boundary between stages of ``floats`` floats."""
    feeds = {"x": np.zeros(floats, np.float32)}

    def per_stage(threads: int) -> tuple[float, float]:
        long, short = (
            Executable(chain(n, floats), Constants(), threads=threads) for n in (STAGES + 1, 1)
        )
        whole = seconds_of(lambda: long.run_list(feeds), duration)
        once = seconds_of(lambda: short.run_list(feeds), duration / 10)[0]
        return (whole[0] - once) / STAGES, (whole[1] - once) / STAGES

    between = round_trip()
    alone, _ = per_stage(1)
    best, usual = per_stage(THREADS)
    return Row(floats, between, alone, best - alone / THREADS, usual - alone / THREADS)


def call_seconds(duration: float) -> tuple[float, float]:
    """Least and median time of a whole call of a program of one step of 16 floats."""
    feeds = {"x": np.zeros(16, np.float32)}
    executable = Executable(chain(1, 16), Constants(), threads=1)
    return seconds_of(lambda: executable.run(feeds), duration)


@click.command()
@click.option("--duration", default=0.1, help="Seconds of a block of calls.")
def main(duration: float) -> None:
    """Prints the table."""
    print(headline(THREADS))
    print("\n| floats of a stage | round trip of a word, ns | stage on one thread, us | "
          "boundary, least | boundary, median |\n|---|---|---|---|---|")  # fmt: skip
    for floats in SIZES:
        r = measure(floats, duration)
        print(f"| {r.floats:,} | {r.round_trip * 1e9:.0f} | {r.alone * 1e6:.3f} | "
              f"{r.best * 1e6:.2f} | {r.usual * 1e6:.2f} |", flush=True)  # fmt: skip
    least, usual = call_seconds(duration)
    print(f"\nA call of one step: {least * 1e6:.2f} us at least, {usual * 1e6:.2f} in the median.")


if __name__ == "__main__":
    main()
