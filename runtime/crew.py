"""The crew that compiles kernels: worker processes that take jobs from its queue, and this thread.

LLVM is 80 MB, which a process that compiled once keeps for good. So a model of some size is
compiled by workers alone (``apart``): they are started when it is known that there is something to
compile, import the compiler while this process decides what exactly, and are gone when it is done.
Where LLVM is here already, or there is little to do, this thread compiles, and workers help where a
processor is idle.

Whoever is free takes the job that will probably take longest: a long one at the end would keep all
others waiting. Jobs that are known early (``ahead``) are begun before the others are known.

A worker that fails to start or dies loses no job: whatever it held goes back to the queue, and what
no worker takes is compiled here. ``account`` says who compiled, and why no worker did.
"""

from __future__ import annotations

import itertools
import queue
import struct
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..ir.errors import CompileError
from ..ir.target import Target
from .idle import Idle
from .team import usable_cores
from .worker import Job
from .workers import Lane, Workers

Progress = Callable[[str, int, int], None]
"""(stage, done, total)."""

_WORTH = 20
"""Jobs from which on a worker pays that starts only now. Measured: a process takes 0.4 to 0.8 s of
processor time to start, a kernel of a convolutional network 60 ms."""
_MOST = 4
"""Processes that compile at most, this one included if it does."""
_PER_WORKER = 10
"""Jobs at least for each worker."""
_LOOK_S = 0.1
"""How often this thread looks whether the workers that do everything are alive."""
_MICRO, _IR = 5_000, 0.2
"""A micro-kernel takes at most as long as so many characters of kernel source; how long a character
of LLVM IR takes, in such characters."""


Answer = tuple[Job, "bytes | Exception", float]
"""A job, its object or what went wrong, and the seconds it took."""


class _Queue:
    """Jobs to do, the longest first; None when there will be no more."""

    def __init__(self) -> None:
        self._jobs: queue.PriorityQueue[tuple[float, int, Job | None]] = queue.PriorityQueue()
        self._number = itertools.count()

    def put(self, job: Job | None) -> None:
        """Adds a job, or word for one worker that there will be no more."""
        self._jobs.put((_weight(job) if job is not None else 1.0, next(self._number), job))

    def get(self, block: bool = True) -> Job | None:
        """Takes the longest; raises ``queue.Empty`` where there is none and ``block`` is False."""
        return self._jobs.get(block)[2]

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return self._jobs.empty()


def _weight(job: Job) -> float:
    """The smaller, the longer a job will take; below 0."""
    if job.is_micro:
        return -float(_MICRO)
    return -len(job.text) * (_IR if job.is_ir else 1.0)


class Crew:
    """Compiles jobs once; a context manager that ends the workers."""

    def __init__(self, target: Target, workers: int | None = None) -> None:
        """``workers``: how many help this thread (None: decided by what there is to do and by idle
        cores)."""
        self.target = target
        self.apart = False
        """Whether workers do everything, as long as one lives."""
        self._fixed = workers is not None
        self._todo = _Queue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._processes: list[Workers] = []
        self._workers: list[_Worker] = []
        self._open: set[Job] = set()
        """Jobs that were given out and not answered."""
        self._early: dict[Job, Answer] = {}
        """Answers that nobody has asked for yet."""
        self._here = 0
        """Jobs that this thread did."""
        self._elsewhere = 0
        self._refusal = ""
        """Why workers could not be started."""
        self._idle = Idle()
        self._grow(workers or 0)

    def start_early(self) -> None:
        """Starts workers that do everything, unless LLVM is here already: then this process
        compiles a few kernels sooner than another one is up."""
        if not self._fixed and "llvmlite.binding" not in sys.modules:
            self.apart = True
            self._grow(min(_MOST, usable_cores()))

    def ahead(self, job: Job) -> None:
        """Begins a job that ``compile`` will be asked for, where workers do everything."""
        if self.apart and job not in self._early:
            self._begin(job)

    def _begin(self, job: Job) -> None:
        if job not in self._open:
            self._open.add(job)
            self._todo.put(job)

    def compile(
        self, jobs: Sequence[Job], progress: Progress | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[tuple[Job, bytes, float]]:  # fmt: skip
        """(job, object, seconds) of every job, in the order they were done. ``meanwhile`` is called
        before this thread takes jobs, too: work in C without the interpreter's lock would crawl
        beside the front end, which holds it. Raises ``CompileError``."""
        if not (self._fixed or self.apart) and len(jobs) >= _WORTH:
            most = min(_MOST - 1, len(jobs) // _PER_WORKER)
            self._grow(min(most, len(self._workers) + self._spare()))
        missing = set(jobs)
        for job in jobs:
            if job not in self._early:
                self._begin(job)
        meanwhile()
        done: list[tuple[Job, bytes, float]] = []
        while missing:
            job, result, seconds = self._answer(missing)
            missing.discard(job)
            if isinstance(result, Exception):
                raise result
            done.append((job, result, seconds))
            if progress is not None:
                progress("compile kernels", len(done), len(jobs))
        return done

    def account(self) -> str:
        """Who compiled, and why no more did."""
        who = ["this process"] if self._here else []
        if self._elsewhere:
            who.append(_workers(len(self._workers)))
        why = [f"workers could not be started: {self._refusal}"] if self._refusal else []
        if lost := sum(w.failed for w in self._workers):
            why.append(f"{_workers(lost)} ended early")
        return "; ".join([" and ".join(who) or "nobody", *why])

    def compile_ir(self, symbol: str, text: str, target: Target) -> bytes:
        """The optimized object of LLVM IR that is no kernel: a worker's job where these do
        everything. Raises ``CompileError``."""
        job = Job.of_ir(symbol, text)
        if not self.apart or target.isa != self.target.isa:
            return job.compile(target)
        ((_, data, _),) = self.compile([job])
        return data

    def _answer(self, wanted: set[Job]) -> Answer:
        """The next answer to one of these jobs."""
        for job in wanted & self._early.keys():
            return self._early.pop(job)
        while True:
            answer = self._next()
            self._open.discard(answer[0])
            if answer[0] in wanted:
                return answer
            self._early[answer[0]] = answer

    def _next(self) -> Answer:
        """The next answer, made here where that is this thread's to do."""
        while True:
            alive = any(w.is_alive() for w in self._workers)
            with suppress(queue.Empty):
                found = self._answers.get(timeout=_LOOK_S if self.apart and alive else 0)
                self._elsewhere += 1
                return found
            if self.apart and alive:
                continue
            try:
                job = self._todo.get(block=False)
            except queue.Empty:
                if not alive and self._todo.empty() and self._answers.empty():
                    raise CompileError("compile workers lost a kernel") from None
                time.sleep(0.001)
                continue
            if job is not None:
                self._here += 1
                return _compile_one(job, self.target)

    def _spare(self) -> int:
        """Workers that idle cores could take on: each one is started where at least half of a core
        was idle since this was made (or last asked)."""
        idle, self._idle = self._idle.processors(), Idle()
        here = usable_cores() - 1 - len(self._workers)
        return here if idle is None else min(here, int(idle + 0.5))

    def _grow(self, workers: int) -> None:
        """Starts workers until there are so many; none where that is impossible."""
        missing = workers - len(self._workers)
        if missing <= 0:
            return
        try:
            started = Workers(self.target, missing)
        except OSError as error:
            self._refusal = error.strerror or str(error)
            return
        self._processes.append(started)
        self._workers += [_Worker(lane, self._todo, self._answers) for lane in started.lanes]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        at_once = bool(self._open) or not all(w.ready for w in self._workers)
        for _ in self._workers:
            self._todo.put(None)
        for process in self._processes:
            process.stop(at_once)


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def _compile_one(job: Job, target: Target) -> Answer:
    began = time.perf_counter()
    result: bytes | Exception
    try:
        result = job.compile(target)
    except Exception as error:
        result = error
    return job, result, time.perf_counter() - began


class _Worker(threading.Thread):
    """Feeds one worker from the queue; puts back what it could not do."""

    def __init__(self, lane: Lane, todo: _Queue, answers: queue.SimpleQueue[Answer]) -> None:
        super().__init__(daemon=True, name="evonnx-compile")
        self._lane, self._todo, self._answers = lane, todo, answers
        self.ready = False
        """Whether it has imported the compiler."""
        self.failed = False
        """Whether it ended before it was told to."""
        self.start()

    def run(self) -> None:
        job: Job | None = None
        try:
            self._lane.await_ready()
            self.ready = True
            while (job := self._todo.get()) is not None:
                began = time.perf_counter()
                result = self._lane.ask(job)
                self._answers.put((job, result, time.perf_counter() - began))
                job = None
        except (OSError, EOFError, ValueError, struct.error):
            self.failed = True
            if job is not None:
                self._todo.put(job)
        finally:
            self._lane.close()
