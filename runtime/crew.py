"""The crew that compiles kernels: worker processes that take jobs from its queue, and this thread.

Numba and LLVM are 150 MB, which a process that compiled once keeps for good, and take half a second
to import. So a model of some size is compiled by workers alone (``apart``): they are started when
it is known that there is something to compile, import the compiler while this process decides what
exactly, and are gone when it is done. Where Numba is here already, or there is little to do, this
thread compiles, and workers help where a processor is idle.

A worker that fails to start or dies loses no job: whatever it held goes back to the queue, and what
no worker takes is compiled here.
"""

from __future__ import annotations

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


Answer = tuple[Job, "bytes | Exception", float]
"""A job, its object or what went wrong, and the seconds it took."""


class Crew:
    """Compiles jobs once; a context manager that ends the workers."""

    def __init__(self, target: Target, workers: int | None = None) -> None:
        """``workers``: how many help this thread (None: decided by what there is to do and by idle
        cores)."""
        self.target = target
        self.apart = False
        """Whether workers do everything, as long as one lives."""
        self._fixed = workers is not None
        self._todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._processes: list[Workers] = []
        self._workers: list[_Worker] = []
        self._open = 0
        """Jobs that were given out and not answered."""
        self._idle = Idle()
        self._grow(workers or 0)

    def start_early(self) -> None:
        """Starts workers that do everything, unless Numba is here already: then this process
        compiles a few kernels sooner than another one is up."""
        if not self._fixed and "numba" not in sys.modules:
            self.apart = True
            self._grow(min(_MOST, usable_cores()))

    def compile(
        self, jobs: Sequence[Job], progress: Progress | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[tuple[Job, bytes, float]]:  # fmt: skip
        """(job, object, seconds) of every job, in the order they were done; those listed first are
        begun first. ``meanwhile`` is called before this thread takes jobs, too: work in C without
        the interpreter's lock would crawl beside the front end, which holds it. Raises
        ``CompileError``."""
        if not (self._fixed or self.apart) and len(jobs) >= _WORTH:
            most = min(_MOST - 1, len(jobs) // _PER_WORKER)
            self._grow(min(most, len(self._workers) + self._spare()))
        for job in jobs:
            self._todo.put(job)
        self._open += len(jobs)
        meanwhile()
        done: list[tuple[Job, bytes, float]] = []
        while len(done) < len(jobs):
            job, result, seconds = self._next()
            self._open -= 1
            if isinstance(result, Exception):
                raise result
            done.append((job, result, seconds))
            if progress is not None:
                progress("compile kernels", len(done), len(jobs))
        return done

    def compile_ir(self, symbol: str, text: str, target: Target) -> bytes:
        """The optimized object of LLVM IR that is no kernel: a worker's job where these do
        everything. Raises ``CompileError``."""
        job = Job(symbol, text, (), is_ir=True, optimize=True)
        if not self.apart or target.isa != self.target.isa:
            return job.compile(target)
        ((_, data, _),) = self.compile([job])
        return data

    def _next(self) -> Answer:
        """The next answer, made here where that is this thread's to do."""
        while True:
            alive = any(w.is_alive() for w in self._workers)
            with suppress(queue.Empty):
                return self._answers.get(timeout=_LOOK_S if self.apart and alive else 0)
            if self.apart and alive:
                continue
            try:
                job = self._todo.get_nowait()
            except queue.Empty:
                if not alive and self._todo.empty() and self._answers.empty():
                    raise CompileError("compile workers lost a kernel") from None
                time.sleep(0.001)
                continue
            if job is not None:
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
        with suppress(OSError):
            self._processes.append(started := Workers(self.target, missing))
            self._workers += [_Worker(lane, self._todo, self._answers) for lane in started.lanes]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        at_once = self._open > 0 or not all(w.ready for w in self._workers)
        for _ in self._workers:
            self._todo.put(None)
        for process in self._processes:
            process.stop(at_once)


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

    def __init__(self, lane: Lane, todo: queue.SimpleQueue[Job | None],
                 answers: queue.SimpleQueue[Answer]) -> None:
        super().__init__(daemon=True, name="evonnx-compile")
        self._lane, self._todo, self._answers = lane, todo, answers
        self.ready = False
        """Whether it has imported the compiler."""
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
            if job is not None:
                self._todo.put(job)
        finally:
            self._lane.close()
