"""Measures one job in its own process: ``python -m evonnx.bench.worker JOB.json RESULT.json``.

A crash or a hang takes down this process only.  The stage that is being worked on is written to
``RESULT.json.stage`` first, so that the parent can say where it happened.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .cache import sha256_of
from .engines import OURS, PEERS, Engine, load
from .jobs import EngineResult, Job, Result, load_feeds, one_line
from .machine import version_of
from .measure import calm, interleave
from .reference import FALLBACK, FLOAT64, Reference, interpreted, reference
from .stats import paired_ratio, relative_error, summarize

TRUSTED = 0.05
"""A peer whose outputs are further than this from the reference (relative to their scale) does not
count as the best peer."""


def pin(threads: int) -> None:
    """Confines the process to ``threads`` of its CPUs, where the system can and has that many."""
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) > threads:
        os.sched_setaffinity(0, set(allowed[:threads]))


def copy_outputs(outputs: list[Any]) -> list[Any]:
    """Copies arrays that the engine may overwrite in its next call."""
    return [np.array(value) if isinstance(value, np.ndarray) else value for value in outputs]


FLOOR = 1e-4
"""An error above this asks for the second reference, in the declared types."""


def trusted(entry: EngineResult) -> bool:
    """Whether an engine's outputs are near one of the references, or were not comparable."""
    known = [error for error in (entry.difference, entry.narrow) if error is not None]
    return not known or min(known) <= TRUSTED


class Worker:
    """The state of one job: loaded engines, their first outputs, the result."""

    def __init__(self, job: Job, stage_file: Path) -> None:
        self.job = job
        self.path = Path(job.path)
        self.stage_file = stage_file
        self.result = Result(job.name, job.threads, sha256_of(self.path))
        self.engines: dict[str, Engine] = {}
        self.outputs: dict[str, list[Any]] = {}
        self.feeds = load_feeds(job.feeds)

    def stage(self, text: str) -> None:
        """Says what is being worked on."""
        self.stage_file.write_text(text)

    def open_engines(self) -> None:
        """Loads every engine and runs it once; failures become rows."""
        for name in self.job.engines:
            entry = self.result.engines[name] = EngineResult(name)
            try:
                entry.version = version_of(name)
                self.stage(f"loading in {name}")
                engine = load(name, self.path, self.job.threads)
                self.stage(f"first run in {name}")
                self.outputs[name] = copy_outputs(engine.call(self.feeds))
            except Exception as error:  # a row of the table, not the end of the job
                entry.error = one_line(error)
                continue
            entry.load = engine.seconds
            self.engines[name] = engine

    def compare(self) -> None:
        """Compares the first outputs with the reference."""
        self.stage("computing the reference")
        held = self.outputs.get("onnxruntime")
        if self.job.reference:
            fallback = None if held is None else lambda: held
            try:
                expected = reference(self.path, self.feeds, fallback)
            except Exception as error:
                self.result.reference_note = one_line(error)
                return
        elif held is not None:
            expected = Reference(held, FALLBACK, "asked for", 0.0)
        else:
            self.result.reference_note = "no reference: ONNX Runtime did not run"
            return
        self.result.reference = expected.source
        self.result.reference_note = expected.reason
        for name, outputs in self.outputs.items():
            entry = self.result.engines[name]
            try:
                entry.difference = relative_error(outputs, expected.outputs)
            except (ValueError, TypeError) as error:
                entry.note = one_line(error)
        if expected.source == FLOAT64:
            self.compare_narrow()

    def compare_narrow(self) -> None:
        """Compares outputs that are far from float64 with the interpreter in declared types."""
        far = [
            entry
            for entry in self.result.engines.values()
            if entry.difference is not None and entry.difference > FLOOR
        ]
        if not far:
            return
        self.stage("computing the reference in the declared types")
        outputs = interpreted(self.path, self.feeds, wide=False)
        for entry in far:
            entry.narrow = relative_error(self.outputs[entry.name], outputs)

    def time(self) -> None:
        """Interleaved timing of the engines that run."""
        self.stage("timing")
        feeds: Mapping[str, np.ndarray] = self.feeds
        calls = {
            name: (lambda call=engine.call: call(feeds)) for name, engine in self.engines.items()
        }
        blocks = interleave(
            calls, rounds=self.job.rounds, seconds=self.job.block, run_block=calm
        )
        for name, medians in blocks.items():
            summary = summarize(medians)
            entry = self.result.engines[name]
            entry.blocks = medians
            entry.median, entry.low, entry.high = summary.median, summary.low, summary.high

    def judge(self) -> None:
        """Picks the best peer that is right, and the ratio to it."""
        peers = [
            entry
            for name in PEERS
            if (entry := self.result.engines.get(name)) is not None
            and entry.median is not None
            and trusted(entry)
        ]
        if not peers:
            return
        best = min(peers, key=lambda entry: entry.median or 0.0)
        self.result.best_peer = best.name
        ours = self.result.engines.get(OURS)
        if ours is not None and ours.blocks:
            self.result.ratio = paired_ratio(best.blocks, ours.blocks)


def work(job: Job, stage_file: Path) -> Result:
    """Measures one job in this process."""
    pin(job.threads)
    worker = Worker(job, stage_file)
    worker.open_engines()
    worker.compare()
    if worker.engines:
        worker.time()
        worker.judge()
    return worker.result


def main(arguments: list[str]) -> None:
    """Reads a job, writes its result."""
    source, target = map(Path, arguments)
    job = Job.from_json(json.loads(source.read_text()))
    result = work(job, target.with_suffix(".stage"))
    target.write_text(json.dumps(asdict(result)))


if __name__ == "__main__":
    main(sys.argv[1:])
