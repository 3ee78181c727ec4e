"""Benchmark of EvoNNX against ONNX Runtime and OpenVINO.

    python -m evonnx.bench.run --models resnet50,bert_base --threads 1,2
    python -m evonnx.bench.run my_model.onnx

Each model at each number of threads is a job in its own process (:mod:`evonnx.bench.worker`), so
that a crash or a hang is a row of the table; compilation is timed in fresh processes
(:mod:`evonnx.bench.coldstart`).  ``--out`` names a folder for the table as JSON and Markdown.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import table
from .cache import sha256_of
from .engines import NAMES, OURS
from .jobs import ColdResult, EngineResult, Job, Result, one_line, save_feeds
from .machine import describe, version_of
from .measure import BLOCK, ROUNDS
from .models import MODELS, feeds, is_present, path_of, select

TIMEOUT = 600.0


def resolve(names: Sequence[str]) -> list[str]:
    """Model names from names, groups or parts of names; click.UsageError if nothing matches."""
    chosen: dict[str, None] = {}
    for name in names:
        try:
            found = [model.name for model in select([name])]
        except KeyError:
            found = [known for known in MODELS if name in known]
        if not found:
            raise click.UsageError(
                f"no model matches {name!r}; see python -m evonnx.bench.models list"
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of the bench."""
    return [sys.executable, "-m", f"{__package__}.{module}", *arguments]


def _ending(code: int, output: str) -> str:
    """Why a child process failed."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in output.splitlines() if line.strip()]
    return one_line(lines[-1]) if lines else f"exit code {code}"


def child(
    command: list[str], timeout: float, environment: dict[str, str] | None = None
) -> tuple[str, str]:
    """Runs a child; returns its standard output and, if it failed, why."""
    env = {**os.environ, **(environment or {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=env, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"no end within {timeout:.0f} s"
    return done.stdout, _ending(done.returncode, done.stderr) if done.returncode else ""


def _attempt(job: Job, timeout: float) -> Result:
    """Runs one job in a child process; ``error`` starts with the stage in which it died."""
    with tempfile.TemporaryDirectory(prefix="evonnx-bench-") as folder:
        source, target = Path(folder, "job.json"), Path(folder, "result.json")
        source.write_text(json.dumps(asdict(job)))
        _, failure = child(python("worker", str(source), str(target)), timeout)
        if target.is_file():
            return Result.from_json(json.loads(target.read_text()))
        stage_file = target.with_suffix(".stage")
        stage = stage_file.read_text() if stage_file.is_file() else "starting"
        failure = f"{stage}: {failure or 'no result'}"
        return Result(job.name, job.threads, sha256_of(Path(job.path)), error=failure)


def measure_job(job: Job, timeout: float = TIMEOUT) -> Result:
    """Measures one job; a crash or a hang is part of the result.

    If an engine takes the process down while it loads or runs for the first time, the job is
    repeated without it.
    """
    dead: dict[str, EngineResult] = {}
    while True:
        alive = tuple(name for name in job.engines if name not in dead)
        result = _attempt(dataclasses.replace(job, engines=alive), timeout)
        stage, _, reason = result.error.partition(": ")
        culprit = next((name for name in alive if stage.endswith(f" in {name}")), None)
        if culprit is None:
            break
        dead[culprit] = EngineResult(culprit, version_of(culprit), error=f"{stage}: {reason}")
    result.engines.update(dead)
    if job.cold and OURS in job.engines:
        result.cold = measure_cold(job, timeout)
    return result


def measure_cold(job: Job, timeout: float = TIMEOUT) -> ColdResult:
    """Cold and cached compile in two fresh processes that share one new cache folder."""
    result = ColdResult()
    with tempfile.TemporaryDirectory(prefix="evonnx-cache-") as folder:
        environment = {"EVONNX_CACHE": folder, "XDG_CACHE_HOME": folder}
        for kind in ("cold", "cached"):
            output, failure = child(
                python("coldstart", job.path, str(job.threads), job.feeds), timeout, environment
            )
            if failure:
                result.error = f"{kind}: {failure}"
                return result
            data = json.loads(output.splitlines()[-1])
            setattr(result, kind, data["total"])
    result.cached_import = data["import"]
    result.first_run = data["first_run"]
    result.predicted_peak = data["predicted_peak"]
    result.measured_peak = data["measured_peak"]
    result.resident_growth = data["resident_growth"]
    return result


def run_jobs(
    sources: Sequence[tuple[str, Path, dict[str, np.ndarray]]],
    threads: Sequence[int],
    *,
    engines: Sequence[str] = NAMES,
    rounds: int = ROUNDS,
    block: float = BLOCK,
    cold: bool = True,
    reference: bool = True,
    timeout: float = TIMEOUT,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Result]:
    """Measures models given as (name, path, feeds) at each number of threads.

    ``progress(what, done, total)`` is called before each job.
    """
    results: list[Result] = []
    total = len(sources) * len(threads)
    with tempfile.TemporaryDirectory(prefix="evonnx-feeds-") as folder:
        for index, (name, path, values) in enumerate(sources):
            feeds_file = Path(folder, f"{index}.npz")
            save_feeds(feeds_file, values)
            for count in threads:
                if progress is not None:
                    progress(f"{name} at {count}", len(results), total)
                job = Job(
                    name, str(path), count, str(feeds_file), tuple(engines), rounds, block,
                    cold, reference,
                )  # fmt: skip
                results.append(measure_job(job, timeout))
            feeds_file.unlink()
    return results


def catalogued(names: Sequence[str]) -> list[tuple[str, Path, dict[str, np.ndarray]]]:
    """Sources of catalogued models that are present; says on standard error which are not."""
    sources = []
    for name in names:
        model = MODELS[name]
        if not is_present(model):
            click.echo(
                f"skipped {name}: not fetched (python -m evonnx.bench.models fetch)", err=True
            )
            continue
        sources.append((name, path_of(model), feeds(model)))
    return sources


def from_files(
    paths: Sequence[Path], dims: Mapping[str, int]
) -> list[tuple[str, Path, dict[str, np.ndarray]]]:
    """Sources of model files with made-up feeds; ``dims`` sizes their symbolic dimensions."""
    if not paths:
        return []
    from ..compiler.feeds import random_feeds
    from ..compiler.importer import import_model

    sources = []
    for path in paths:
        graph = import_model(path)
        types = {n: value.type for n, value in zip(graph.input_names, graph.inputs, strict=True)}
        sources.append((path.name, path, random_feeds(types, dims)))
    return sources


def _numbers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Comma-separated positive integers."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter("wants integers separated by commas") from error
    if min(values) < 1:
        raise click.BadParameter("at least one thread")
    return values


def _sizes(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, int]:
    """``NAME=SIZE`` options as a mapping."""
    sizes = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not size.isdecimal():
            raise click.BadParameter(f"wants NAME=SIZE, not {text!r}")
        sizes[name] = int(size)
    return sizes


def _names(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    return [part for part in text.split(",") if part]


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--models",
    default="",
    callback=_names,
    metavar="NAME,...",
    help="Models, groups (small, large, export, all) or parts of names.",
)
@click.option(
    "--dim",
    "dims",
    multiple=True,
    callback=_sizes,
    metavar="NAME=SIZE",
    help="Size of a symbolic dimension in the made-up inputs of FILES; repeatable.",
)
@click.option("--threads", default="1,2", show_default=True, callback=_numbers)
@click.option("--engines", default=",".join(NAMES), show_default=True, callback=_names)
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--block", default=BLOCK, show_default=True, help="Seconds of one block.")
@click.option("--timeout", default=TIMEOUT, show_default=True, help="Seconds of one job.")
@click.option("--cold/--no-cold", default=True, help="Time compilation in fresh processes.")
@click.option(
    "--reference/--no-reference",
    default=True,
    help="Compare with the float64 interpreter (slow once per model), else with ONNX Runtime.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path),
              help="Folder that the table and JSON are written to, named by the time.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the JSON document, not the table.")
def main(
    files: tuple[Path, ...],
    models: list[str],
    dims: dict[str, int],
    threads: list[int],
    engines: list[str],
    rounds: int,
    block: float,
    timeout: float,
    cold: bool,
    reference: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare engines on catalogued models (default: the exports) or model FILES."""
    unknown = sorted(set(engines) - set(NAMES))
    if unknown:
        raise click.UsageError(f"unknown engines {unknown}; known: {', '.join(NAMES)}")
    wanted = resolve(models or ([] if files else ["export"]))
    sources = [*catalogued(wanted), *from_files(files, dims)]
    if not sources:
        raise click.UsageError("no model is present")
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=len(sources) * len(threads))
        results = run_jobs(
            sources, threads, engines=engines, rounds=rounds, block=block, cold=cold,
            reference=reference, timeout=timeout,
            progress=lambda what, done, _: bar.update(task, description=what, completed=done),
        )  # fmt: skip
    report(results, out, as_json, {"engines": "+".join(engines), "rounds": rounds, "block": block})


def report(results: list[Result], out: Path | None, as_json: bool,
           settings: dict[str, Any]) -> None:
    """Prints the table or the JSON document; writes both to the folder ``out``, if any."""
    machine = describe()
    written = ""
    if out is not None:
        stem = machine["date"].replace(":", "").replace("+0000", "Z").replace("+00:00", "Z")
        data, text = table.write(out, stem, results, machine, settings)
        written = f"written: {data.name}, {text.name} in {out}"
    if as_json:
        click.echo(json.dumps(table.document(results, machine, settings)))
        return
    width = None if sys.stdout.isatty() else 220
    console = Console(width=width)
    console.print(table.terminal(results))
    for line in table.geomean_lines(results):
        console.print(line)
    if written:
        console.print(written)


if __name__ == "__main__":
    main()
