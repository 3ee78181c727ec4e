"""From the kernels of a program to loaded machine code: cache first, then compile, then link.

Kernels with equal symbols must have equal sources and are compiled once. What the cache does not
have is compiled here; where so much is missing that it pays for starting another interpreter,
worker processes take jobs from the same queue (``python -c``, one job per line of JSON, objects
back with a length in front; they inherit nothing but the module search path). A worker that fails
to start or dies loses no job: whatever it held is compiled here. When nothing is missing, Numba is
never imported.
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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..ir.errors import CompileError, quote
from ..ir.target import Target
from ..kernels import jit, micro
from .cache import CacheRecord, ObjectCache
from .program import KernelCode, Program
from .team import usable_cores

Progress = Callable[[str, int, int], None]
"""(stage, done, total)."""

_WORTH_WORKERS = 20
"""Missing kernels from which on another process pays. Measured: a process takes 0.8 s of processor
time to start, a kernel of a convolutional network 90 ms."""
_MOST_WORKERS = 3


@dataclass(frozen=True, slots=True)
class Job:
    """One object to make: Numba kernel source, or LLVM IR of a micro-kernel."""

    symbol: str
    text: str
    externs: tuple[str, ...] = ()
    is_ir: bool = False

    def compile(self, target: Target) -> bytes:
        """The object; raises ``CompileError``."""
        if self.is_ir:
            return jit.compile_ir_text(self.text, target, self.externs, optimize=False)
        return jit.compile_source(self.text, self.symbol, target, self.externs)


Answer = tuple[Job, "bytes | Exception", float]
"""A job, its object or what went wrong, and the seconds it took."""


@dataclass(slots=True)
class Built:
    """Loaded kernels."""

    addresses: dict[str, int]
    """Address by symbol."""
    records: list[CacheRecord]
    """What came from the cache and what was compiled, and why."""
    loader: jit.Loader | None
    """Keeps the code mapped; None if there is no kernel."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """The relocatable objects by symbol."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of ``compile`` and ``load``."""


def build(
    programs: Iterable[Program],
    target: Target,
    cache: ObjectCache | None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Built:
    """Compiles (or finds) and loads every kernel of the programs.

    ``workers``: processes that help (None: decided by how much is missing). Raises
    ``CompileError`` naming the kernel.
    """
    jobs = collect(programs, target)
    records: dict[str, CacheRecord] = {}
    objects: dict[str, bytes] = {}
    start = time.perf_counter()
    missing = []
    for job in jobs:
        began = time.perf_counter()
        data, why = (
            (None, "cache is off") if cache is None else cache.get(job.symbol, job.text, target)
        )
        if data is None:
            missing.append((job, why))
            continue
        seconds = time.perf_counter() - began
        records[job.symbol] = CacheRecord(job.symbol, True, why, seconds, len(data))
        objects[job.symbol] = data
    if missing:
        _compile_all(missing, target, cache, objects, records, progress, workers)
        if cache is not None:
            cache.clean_if_grown()
    seconds = time.perf_counter() - start
    return link({j.symbol: objects[j.symbol] for j in jobs}, [records[j.symbol] for j in jobs],
                seconds)


def link(objects: dict[str, bytes], records: list[CacheRecord], compile_s: float = 0.0) -> Built:
    """Loads objects by symbol; raises ``CompileError`` for a bad one or an undefined symbol."""
    start = time.perf_counter()
    loader = jit.load_objects(objects.values()) if objects else None
    addresses = {s: loader.address(s) for s in objects} if loader is not None else {}
    seconds = {"compile": compile_s, "load": time.perf_counter() - start}
    return Built(addresses, records, loader, objects, seconds)


def collect(programs: Iterable[Program], target: Target) -> list[Job]:
    """Every object the programs need, each once; raises ``CompileError`` where one symbol
    stands for two sources."""
    kernels: dict[str, KernelCode] = {}
    for program in programs:
        for code in program.kernels.values():
            known = kernels.setdefault(code.symbol, code)
            if known.source != code.source:
                raise CompileError(f"two kernels are called {quote(code.symbol)}")
    jobs = [Job(k.symbol, k.source, k.externs) for k in kernels.values()]
    externs = sorted({e for k in kernels.values() for e in k.externs})
    return jobs + [Job(e, micro_text(e, target), (), True) for e in externs if e not in kernels]


def micro_text(symbol: str, target: Target) -> str:
    """LLVM IR of the micro-kernel that is called ``symbol``; see ``kernels.micro``."""
    kernel = micro.named(symbol, target)
    if kernel.symbol != symbol:
        raise CompileError(f"micro-kernel {quote(symbol)} is spelled {kernel.symbol}")
    return kernel.text()


def _compile_all(
    missing: list[tuple[Job, str]],
    target: Target,
    cache: ObjectCache | None,
    objects: dict[str, bytes],
    records: dict[str, CacheRecord],
    progress: Progress | None,
    workers: int | None,
) -> None:
    """Compiles what is missing, on this thread and in workers, largest source first."""
    reasons = {job.symbol: why for job, why in missing}
    jobs = sorted((job for job, _ in missing), key=lambda j: (j.is_ir, -len(j.text)))
    if workers is None:
        workers = _free_cores() - 1 if len(jobs) >= _WORTH_WORKERS else 0
        workers = max(0, min(workers, _MOST_WORKERS, len(jobs) // 10))
    for job, data, seconds in _compile_jobs(jobs, target, progress, workers):
        objects[job.symbol] = data
        why = reasons[job.symbol]
        fault = cache.put(job.symbol, job.text, target, data) if cache is not None else ""
        if fault and fault != why:
            why = f"{why}; {fault}"
        records[job.symbol] = CacheRecord(job.symbol, False, why, seconds, len(data))


def _compile_jobs(
    jobs: list[Job], target: Target, progress: Progress | None, workers: int
) -> list[tuple[Job, bytes, float]]:
    """(job, object, seconds) of every job, in the order they were done."""
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    done: list[tuple[Job, bytes, float]] = []
    helpers = [_Helper(todo, answers, target) for _ in range(workers)]
    try:
        while len(done) < len(jobs):
            try:
                answers.put(_compile_one(todo.get_nowait(), target))
            except queue.Empty:
                if not any(h.is_alive() for h in helpers) and todo.empty() and answers.empty():
                    raise CompileError("compile workers lost a kernel") from None
                time.sleep(0.001)
            while not answers.empty():
                job, result, seconds = answers.get()
                if isinstance(result, Exception):
                    raise result
                done.append((job, result, seconds))
                if progress is not None:
                    progress("compile kernels", len(done), len(jobs))
    finally:
        for helper in helpers:
            helper.stop()
    return done


def _compile_one(job: Job, target: Target) -> Answer:
    began = time.perf_counter()
    result: bytes | Exception
    try:
        result = job.compile(target)
    except Exception as error:
        result = error
    return job, result, time.perf_counter() - began


def _free_cores() -> int:
    """Cores that this process may use and that others leave idle: on a busy machine a second
    process only takes time from the first."""
    try:
        load = os.getloadavg()[0]
    except (OSError, AttributeError):
        load = 0.0
    # This process itself accounts for up to one.
    return usable_cores() - round(max(0.0, load - 1.0))


class _Helper(threading.Thread):
    """Feeds one worker process from the queue; puts back what the worker could not do."""

    def __init__(
        self, todo: queue.SimpleQueue[Job], answers: queue.SimpleQueue[Answer], target: Target
    ) -> None:
        super().__init__(daemon=True, name="evonnx-compile")
        self._todo, self._answers, self._target = todo, answers, target
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self.start()

    def run(self) -> None:
        job: Job | None = None
        try:
            process = self._process = _start_worker(self._target)
            while not self._stopped:
                job = self._todo.get_nowait()
                began = time.perf_counter()
                result = _ask(process, job)
                self._answers.put((job, result, time.perf_counter() - began))
                job = None
        except queue.Empty:
            pass
        except (OSError, EOFError, ValueError, struct.error):
            if job is not None and not self._stopped:
                self._todo.put(job)
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the worker process."""
        self._stopped = True
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout) if process is not None else ():
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue


def _start_worker(target: Target) -> subprocess.Popen[bytes]:
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
    assert process.stdout is not None
    process.stdin.write(json.dumps(str(target)).encode() + b"\n")
    process.stdin.flush()
    if process.stdout.read(6) != b"ready\n":
        raise EOFError("the worker did not start")
    return process


def _ask(process: subprocess.Popen[bytes], job: Job) -> bytes | Exception:
    assert process.stdin is not None
    assert process.stdout is not None
    line = {"symbol": job.symbol, "text": job.text, "externs": job.externs, "is_ir": job.is_ir}
    process.stdin.write(json.dumps(line).encode() + b"\n")
    process.stdin.flush()
    header = process.stdout.read(9)
    if len(header) != 9:
        raise EOFError("the worker ended")
    ok, size = struct.unpack("<?Q", header)
    data = process.stdout.read(size)
    if len(data) != size:
        raise EOFError("the worker ended")
    return data if ok else CompileError(data.decode("utf-8", "replace"))
