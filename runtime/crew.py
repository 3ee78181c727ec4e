"""The crew that compiles kernels: this thread, and worker processes that take jobs from its queue.

A worker is another interpreter (``python -c``, one job per line of JSON, objects back with a length
in front; it inherits nothing but the module search path). It may be started before it is known what
there is to compile, so that it is ready by then. A worker that fails to start or dies loses no job:
whatever it held is compiled here.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..ir.errors import CompileError
from ..ir.target import Target
from .idle import Idle
from .team import usable_cores

Progress = Callable[[str, int, int], None]
"""(stage, done, total)."""

_WORTH = 20
"""Jobs from which on a worker pays that starts only now. Measured: a process takes 0.4 to 0.8 s of
processor time to start, a kernel of a convolutional network 60 ms."""
_MOST = 3
"""Workers at most."""
_PER_WORKER = 10
"""Jobs at least for each worker."""


@dataclass(frozen=True, slots=True)
class Job:
    """One object to make: Numba kernel source, or LLVM IR of a micro-kernel."""

    symbol: str
    text: str
    externs: tuple[str, ...] = ()
    is_ir: bool = False

    def compile(self, target: Target) -> bytes:
        """The object; raises ``CompileError``."""
        from ..kernels import jit  # LLVM, which a program from the cache does without

        if self.is_ir:
            return jit.compile_ir_text(self.text, target, self.externs, optimize=False)
        return jit.compile_source(self.text, self.symbol, target, self.externs)


Answer = tuple[Job, "bytes | Exception", float]
"""A job, its object or what went wrong, and the seconds it took."""


class Crew:
    """Compiles jobs once; a context manager that ends the workers."""

    def __init__(self, target: Target, workers: int | None = None) -> None:
        """``workers``: how many (None: decided by what there is to do and by idle cores)."""
        self.target = target
        self._fixed = workers is not None
        self._todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._idle = Idle()
        self._grow(workers or 0)

    def start_early(self) -> None:
        """Starts a worker where a core is idle, unless Numba is here already: then this process
        compiles a few kernels sooner than another one is up."""
        if not self._fixed and "numba" not in sys.modules:
            self._grow(min(1, self._spare()))

    def compile(
        self, jobs: Sequence[Job], progress: Progress | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[tuple[Job, bytes, float]]:  # fmt: skip
        """(job, object, seconds) of every job, in the order they were done; those listed first are
        begun first. ``meanwhile`` is called before this thread takes jobs, too: work in C without
        the interpreter's lock would crawl beside the front end, which holds it. Raises
        ``CompileError``."""
        if not self._fixed and len(jobs) >= _WORTH:
            most = min(_MOST, len(jobs) // _PER_WORKER)
            self._grow(min(most, len(self._workers) + self._spare()))
        for job in jobs:
            self._todo.put(job)
        meanwhile()
        done: list[tuple[Job, bytes, float]] = []
        while len(done) < len(jobs):
            try:
                job_or_end = self._todo.get_nowait()
                assert job_or_end is not None
                self._answers.put(_compile_one(job_or_end, self.target))
            except queue.Empty:
                if not any(w.is_alive() for w in self._workers) and self._answers.empty():
                    if not self._todo.empty():
                        continue  # the last worker gave a job back and ended
                    raise CompileError("compile workers lost a kernel") from None
                time.sleep(0.001)
            while not self._answers.empty():
                job, result, seconds = self._answers.get()
                if isinstance(result, Exception):
                    raise result
                done.append((job, result, seconds))
                if progress is not None:
                    progress("compile kernels", len(done), len(jobs))
        return done

    def _spare(self) -> int:
        """Workers that idle cores could take on: each one is started where at least half of a core
        was idle since this was made (or last asked)."""
        idle, self._idle = self._idle.processors(), Idle()
        here = usable_cores() - 1 - len(self._workers)
        return here if idle is None else min(here, int(idle + 0.5))

    def _grow(self, workers: int) -> None:
        while len(self._workers) < workers:
            self._workers.append(_Worker(self._todo, self._answers, self.target))

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            self._todo.put(None)
            worker.stop()


def _compile_one(job: Job, target: Target) -> Answer:
    began = time.perf_counter()
    result: bytes | Exception
    try:
        result = job.compile(target)
    except Exception as error:
        result = error
    return job, result, time.perf_counter() - began


class _Worker(threading.Thread):
    """Feeds one worker process from the queue; puts back what the process could not do."""

    def __init__(
        self, todo: queue.SimpleQueue[Job | None], answers: queue.SimpleQueue[Answer],
        target: Target,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True, name="evonnx-compile")
        self._todo, self._answers, self._target = todo, answers, target
        self.process: subprocess.Popen[bytes] | None = None
        """None until it is started."""
        self.ready = False
        """Whether it has imported the compiler."""
        self._stopped = False
        self.start()

    def run(self) -> None:
        job: Job | None = None
        try:
            self.process = _start_process(self._target)
            _await_ready(self.process)
            self.ready = True
            while not self._stopped and (job := self._todo.get()) is not None:
                began = time.perf_counter()
                result = _ask(self.process, job)
                self._answers.put((job, result, time.perf_counter() - began))
                job = None
        except (OSError, EOFError, ValueError, struct.error):
            if job is not None and not self._stopped:
                self._todo.put(job)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the worker process."""
        self._stopped = True
        process = self.process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout) if process is not None else ():
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue


def _start_process(target: Target) -> subprocess.Popen[bytes]:
    """A process that imports the compiler at once and then waits for jobs."""
    if not sys.executable:
        raise OSError("no Python interpreter to start")
    module = __name__.rsplit(".", 1)[0] + ".worker"
    code = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        f"from {module} import main; main()"
    )
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps([p or os.getcwd() for p in sys.path])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(str(target)).encode() + b"\n")
    process.stdin.flush()
    return process


def _await_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if process.stdout.read(6) != b"ready\n":
        raise EOFError("the worker did not start")


def _ask(process: Any, job: Job) -> bytes | Exception:
    line = {"symbol": job.symbol, "text": job.text, "externs": job.externs, "is_ir": job.is_ir}
    process.stdin.write(json.dumps(line).encode() + b"\n")
    process.stdin.flush()
    header = process.stdout.read(9)
    if len(header) != 9:
        raise EOFError("the worker ended")
    ok, size = struct.unpack("<?Q", header)
    data: bytes = process.stdout.read(size)
    if len(data) != size:
        raise EOFError("the worker ended")
    return data if ok else CompileError(data.decode("utf-8", "replace"))
