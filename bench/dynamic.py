"""What a new size costs: calls of random sizes through models whose sizes are all symbolic.

    python -m evonnx.bench.dynamic --out bench/results/NAME.md

Per model: how often machine code was made after construction (counted in LLVM's emitter), the
processor time to bind a size never seen, the median of first calls and of repeated calls of the
same sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from . import dynamic_models as models
from .machine import describe

if TYPE_CHECKING:
    import onnx

    from ..compiler.api import Compiled

CALLS = 200
Draw = Callable[[np.random.Generator], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A model, and random feeds for it."""

    name: str
    make: Callable[[], onnx.ModelProto]
    draw: Draw


CASES = (
    Case("BERT-base (12 layers, 768)", lambda: models.bert(768, 12, 12, 1000, 512),
         lambda g: models.bert_feeds(g, int(g.integers(1, 4)), int(g.integers(1, 97)))),
    Case("CNN (64 channels)", lambda: models.cnn(64),
         lambda g: models.cnn_feeds(g, int(g.integers(1, 4)), *map(int, g.integers(8, 97, 2)))),
    Case("LSTM (2 x 256)", lambda: models.lstm(256, 64),
         lambda g: models.lstm_feeds(g, int(g.integers(1, 5)), int(g.integers(1, 65)), 64)),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Medians over the calls, in seconds."""

    name: str
    steps: int
    """Kernels a call runs."""
    sizes: int
    """Different sizes among the calls."""
    compilations: int
    """Objects of machine code made after construction."""
    bind: float
    """Processor time of binding a size between calls: plan and tables, nothing run."""
    row: float
    """The same many times in a row, with warm caches."""
    first: float
    """Call of a size never seen."""
    again: float
    """The same call once more."""


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Collects an entry for every object that LLVM emits meanwhile."""
    import llvmlite.binding as llvm

    made: list[str] = []
    emit = llvm.TargetMachine.emit_object

    def counted(self: llvm.TargetMachine, module: llvm.ModuleRef) -> bytes:
        made.append(module.name)
        return bytes(emit(self, module))

    llvm.TargetMachine.emit_object = counted
    try:
        yield made
    finally:
        llvm.TargetMachine.emit_object = emit


def measure(case: Case, threads: int) -> Cost:
    """Calls of ``CALLS`` random sizes; every other size is called twice, or bound only."""
    from .. import compile as compile_model

    compiled = compile_model(case.make(), threads=threads)
    rng = np.random.default_rng(5)
    compiled.run(None, case.draw(rng))
    bind: list[float] = []
    first: list[float] = []
    again: list[float] = []
    seen: set[tuple[tuple[int, ...], ...]] = set()
    with compilations() as made:
        for _ in range(CALLS):
            feeds = case.draw(rng)
            shapes = {name: array.shape for name, array in feeds.items()}
            key = tuple(shapes.values())
            if key in seen:
                continue
            seen.add(key)
            for kept in ((bind,) if len(seen) % 2 else (first, again)):
                clock = time.thread_time if kept is bind else time.perf_counter
                began = clock()
                if kept is bind:
                    compiled.executable.binding(shapes)
                else:
                    compiled.run(None, feeds)
                kept.append(clock() - began)
        row = _bind_many(compiled, case, rng)
    return Cost(
        case.name, len(compiled.program.steps), len(seen), len(made),
        *(float(np.median(t)) for t in (bind, row, first, again)),
    )  # fmt: skip


def _bind_many(compiled: Compiled, case: Case, rng: np.random.Generator) -> list[float]:
    """Processor times of ``CALLS`` bindings in a row."""
    times = []
    for _ in range(CALLS):
        shapes = {name: array.shape for name, array in case.draw(rng).items()}
        compiled.executable.trim()  # forgets all sizes
        began = time.thread_time()
        compiled.executable.binding(shapes)
        times.append(time.thread_time() - began)
    return times


def table(costs: list[Cost], threads: int) -> str:
    """The results as Markdown."""
    machine = describe()
    lines = [
        "# What a new size costs", "",
        f"{machine['cpu']}, {threads} threads, {machine['date']}. {CALLS} calls of random batch "
        "sizes, lengths, heights and widths per model, every size symbolic; "
        "`python -m evonnx.bench.dynamic`.", "",
        "| model | steps | sizes | compiled after construction | bind, us of processor time: "
        "between calls | in a row | "
        "first call, ms | same call again, ms |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {c.name} | {c.steps} | {c.sizes} | {c.compilations} | {c.bind * 1e6:.0f} | "
        f"{c.row * 1e6:.0f} | "
        f"{c.first * 1e3:.2f} | {c.again * 1e3:.2f} |"
        for c in costs
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
def main(threads: int, out: Path | None) -> None:
    """Measure what sizes never seen before cost."""
    text = table([measure(case, threads) for case in CASES], threads)
    if out is not None:
        out.write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
