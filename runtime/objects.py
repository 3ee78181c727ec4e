"""From the kernels of a program to loaded machine code: cache first, then compile, then link.

Kernels with equal symbols must have equal sources and are compiled once. What the cache does not
have is compiled by a ``crew``. When nothing is missing, LLVM is never imported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import dataclass, field

from ..ir.errors import CompileError, quote
from ..ir.target import Target
from ..kernels import micro
from ..kernels.linker import Loader, load_objects
from .cache import CacheRecord, ObjectCache
from .crew import Crew, Job, Progress
from .driver import SYMBOL, driver_ir, futex_number, loaded
from .program import KernelCode, Program


@dataclass(slots=True)
class Built:
    """Loaded kernels."""

    addresses: dict[str, int]
    """Address by symbol."""
    records: list[CacheRecord]
    """What came from the cache and what was compiled, and why."""
    loader: Loader | None
    """Keeps the code mapped; None if there is no kernel."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """The relocatable objects by symbol."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of ``compile`` and ``load``."""
    compiled_by: str = ""
    """Who compiled what did not come from the cache (``Crew.account``)."""


class Early:
    """Has a crew whose workers do everything begin kernels, and the micro-kernels that they call,
    before the rest of the program is known. What the cache has is left alone."""

    def __init__(self, target: Target, cache: ObjectCache | None, crew: Crew) -> None:
        self._target, self._cache, self._crew = target, cache, crew
        self._seen: set[str] = set()

    def __call__(self, code: KernelCode) -> None:
        """Begins one kernel."""
        if not self._crew.apart:
            return
        jobs = _jobs([code], self._target, self._seen)
        self._seen.update(job.symbol for job in jobs)
        for job in jobs:
            if self._cache is None or not self._cache.has(job.symbol, job.text, self._target):
                self._crew.ahead(job)


def begin_driver(cache: ObjectCache | None, crew: Crew) -> None:
    """Has the crew begin this process's driver, unless it is here or in the cache."""
    target = Target.detect()  # it runs here, whatever kernels are compiled for
    if not loaded() and target.isa == crew.target.isa:
        job = Job.of_ir(SYMBOL, driver_ir(target, futex_number()))
        if cache is None or not cache.has(job.symbol, job.text, target):
            crew.ahead(job)


def build(
    programs: Iterable[Program],
    target: Target,
    cache: ObjectCache | None,
    progress: Progress | None = None,
    crew: Crew | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Built:
    """Compiles (or finds) and loads every kernel of the programs. ``crew`` compiles them, or one
    made for it; ``meanwhile`` is called once its workers have begun. Raises ``CompileError`` naming
    the kernel."""
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
    compiled_by = ""
    if not missing:
        meanwhile()
    else:
        with Crew(target) if crew is None else nullcontext(crew) as compiling:
            _compile_all(missing, compiling, cache, objects, records, progress, meanwhile)
            compiled_by = compiling.account()
        if cache is not None:
            cache.clean_if_grown()
    seconds = time.perf_counter() - start
    built = link({j.symbol: objects[j.symbol] for j in jobs}, [records[j.symbol] for j in jobs],
                 seconds)
    built.compiled_by = compiled_by
    return built


def link(objects: dict[str, bytes], records: list[CacheRecord], compile_s: float = 0.0) -> Built:
    """Loads objects by symbol; raises ``CompileError`` for a bad one or an undefined symbol."""
    start = time.perf_counter()
    loader = load_objects(objects.values()) if objects else None
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
    return _jobs(list(kernels.values()), target)


def _jobs(kernels: Sequence[KernelCode], target: Target, seen: AbstractSet[str] = frozenset()
          ) -> list[Job]:
    """Some kernels, and the micro-kernels that they call, but for those already ``seen``."""
    own = {k.symbol for k in kernels}
    externs = sorted({e for k in kernels for e in k.externs} - own - seen)
    return [*(Job(k.symbol, k.source, k.externs) for k in kernels),
            *(Job(_micro(e, target), "") for e in externs)]


def _micro(symbol: str, target: Target) -> str:
    """The symbol of a micro-kernel; raises ``CompileError`` where it is not spelled so."""
    kernel = micro.named(symbol, target)
    if kernel.symbol != symbol:
        raise CompileError(f"micro-kernel {quote(symbol)} is spelled {kernel.symbol}")
    return symbol


def _compile_all(
    missing: list[tuple[Job, str]],
    crew: Crew,
    cache: ObjectCache | None,
    objects: dict[str, bytes],
    records: dict[str, CacheRecord],
    progress: Progress | None,
    meanwhile: Callable[[], None],
) -> None:
    reasons = {job.symbol: why for job, why in missing}
    for job, data, seconds in crew.compile([job for job, _ in missing], progress, meanwhile):
        objects[job.symbol] = data
        why = reasons[job.symbol]
        fault = cache.put(job.symbol, job.text, crew.target, data) if cache is not None else ""
        if fault and fault != why:
            why = f"{why}; {fault}"
        records[job.symbol] = CacheRecord(job.symbol, False, why, seconds, len(data))
