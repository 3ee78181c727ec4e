"""Resident memory of a fresh process that loads a model and runs it, against the peers.

    python -m evonnx.bench.footprint resnet50 bert_base --threads 2

Each row is one process (:mod:`evonnx.bench.resident`): EvoNNX compiling with an empty cache, with
the cache that this left, and loading what ``Compiled.save`` wrote; ONNX Runtime; OpenVINO. The
figures are ``VmHWM``, the largest resident set the process ever had, with nothing taken off it;
``growth`` is what of it came after the imports; ``anonymous`` is what of the resident set is the
process's own in the end, not pages of mapped files. ``tree`` is the most that the process and those
it started (compile workers) took together at one time, pages they share counted once
(:mod:`evonnx.bench.tree`), of another run.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from .engines import OURS, PEERS
from .jobs import save_feeds
from .machine import headline
from .models import MODELS, feeds, path_of
from .resident import LOAD
from .run import TIMEOUT, child, python, resolve
from .tree import Watch

COLUMNS = ("import", "peak, once", "growth", "peak, ten times", "anonymous, end", "file, end",
           "tree")
_SAVE = ("import sys, evonnx; evonnx.compile(sys.argv[1], threads=int(sys.argv[2]))"
         ".save(sys.argv[3])")


def rows(model: str, path: Path, feeds_file: Path, threads: int, peers: bool = True
         ) -> Iterator[tuple[str, dict[str, dict[str, int]] | str]]:
    """(what, sizes or why there are none) of every way to load ``model``."""
    with tempfile.TemporaryDirectory(prefix="evonnx-footprint-") as folder:
        cache, saved = Path(folder, "cache"), Path(folder, "model.evo")
        environment = {"EVONNX_CACHE": str(cache)}

        def row(engine: str, file: Path, cold: bool = False) -> dict[str, dict[str, int]] | str:
            command = python("resident", engine, str(file), str(threads), str(feeds_file))
            watched = Watch(command, TIMEOUT, {**os.environ, **environment})
            if cold:
                shutil.rmtree(cache, ignore_errors=True)
            output, failure = child(command, TIMEOUT, environment)
            if failure:
                return failure
            return {**json.loads(output.splitlines()[-1]), "tree": {"peak": watched.peak}}

        yield f"{OURS}, cold", row(OURS, path, cold=True)
        yield f"{OURS}, cached", row(OURS, path)
        command = [*python("resident")[:1], "-c", _SAVE, str(path), str(threads), str(saved)]
        _, failure = child(command, TIMEOUT, environment)
        yield f"{OURS}, load", failure or row(LOAD, saved)
        for engine in PEERS if peers else ():
            yield engine, row(engine, path)


def cells(sizes: dict[str, dict[str, int]]) -> list[str]:
    """``COLUMNS`` of one row, MB."""
    before, once, end = sizes["imported"], sizes["once"], sizes["ten times"]
    found = (before["peak"], once["peak"], once["peak"] - before["peak"], end["peak"],
             end["anonymous"], end["file"], sizes["tree"]["peak"])  # fmt: skip
    return [f"{n / 1e6:,.0f}" for n in found]


@click.command(help=__doc__.splitlines()[0])
@click.argument("models", nargs=-1, required=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--peers/--no-peers", default=True, show_default=True)
def main(models: tuple[str, ...], threads: int, peers: bool) -> None:
    """Prints a Markdown table."""
    print(headline(threads))
    print(f"\n| model | process | {' | '.join(COLUMNS)} |\n|---|---|{'--:|' * len(COLUMNS)}")
    with tempfile.TemporaryDirectory(prefix="evonnx-feeds-") as folder:
        for name in resolve(models):
            stored = Path(folder, f"{name}.npz")
            save_feeds(stored, feeds(MODELS[name]))
            for what, sizes in rows(name, path_of(MODELS[name]), stored, threads, peers):
                shown = [sizes] if isinstance(sizes, str) else cells(sizes)
                print(f"| {name} | {what} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
