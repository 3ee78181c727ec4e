"""``evonnx calibrate``: the constants of a ``Target``, measured on the running machine.

Every number comes from a kernel made by the same code generator as any model's:

- ``flops``: the contraction micro-kernel on operands in the level-1 cache, for every vector width
  this machine executes;
- ``vector_rate``: an emitted elementwise loop (add, maximum, multiply); ``special_rate``: loops of
  single special functions, weighted as the op table weights them, harmonic mean;
- ``load_rate``, ``store_rate``: a sum and a fill in the level-1 cache; ``l1_rate`` to
  ``dram_rate``: ``y = a x`` on working sets of half of each cache and of four last-level caches,
  counted as the cost models count: bytes read and bytes written, once each;
- the rates of all cores: the same loops in as many threads;
- ``latency_s``: additions that wait for one another;
- ``launch_s``, ``sync_s``: programs of many small steps, on one thread and with a barrier after
  every step; the slope over the number of steps, so that calling them does not count. A thread
  that the system does not let run is not waited for, so on a busy machine ``sync_s`` is too small.
  Beside it, and no constant: how long a word takes to and fro between two CPUs, since virtual
  machines move between CPUs that share a cache and others, and ``sync_s`` with them.

Runs are about a millisecond long, shorter than a time slice, and a sample is the fastest of a few,
so that neighbors on a busy machine disturb little; a value is the median of the samples.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median, quantiles
from typing import Any

import numpy as np

from ..ir.builder import Builder
from ..ir.errors import OptionError, quote
from ..ir.graph import Constants
from ..ir.ops import lookup
from ..ir.schedule import Group, Schedule
from ..ir.target import Target, unit_of
from ..ir.tiles import BLOCK
from ..ir.types import F32, TensorType
from ..kernels import micro
from ..kernels.jit import compile_source
from ..kernels.linker import load_objects
from ..runtime.crew import Progress
from ..runtime.executable import Executable
from ..runtime.roundtrip import round_trips
from .build import build_program

_RUN_S = 1e-3
"""Seconds of one run, about."""
_RUNS = 5
"""Runs of a sample; the fastest counts."""
_LEAST, _MOST = 3, 101
"""Samples of a value."""
_SPECIAL = ("exp", "log", "tanh", "sigmoid", "erf", "div")
_DEPTH = 128
"""Products per element of the contraction: its panel of 2 vectors is 16 KB or less."""
_TURN = ("neg", "abs", "ceil", "floor")
"""Operations of the steps."""
_TRIPS = 2000
"""Round trips of a run: about a millisecond where CPUs share no cache."""
_STEPS = (50, 250)
"""Lengths of the programs whose slope is the time of a step."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One constant."""

    name: str
    """Field of ``Target``, with what distinguishes it where there are several; or in several words
    what is none."""
    value: float
    """Median of the samples."""
    unit: str
    spread: float
    """Interquartile range over the median."""
    samples: int


Clock = Callable[[], float]
"""One run: answers its value (a rate or a time)."""


class _Kernel:
    """A compiled kernel with its buffers, ready to be called for a number of rounds."""

    def __init__(self, source: str, target: Target, buffers: Sequence[np.ndarray],
                 params: Sequence[int], tile: micro.MicroKernel | None = None) -> None:
        externals = () if tile is None else (tile.symbol,)
        objects = [] if tile is None else [tile.object_bytes()]
        self._loader = load_objects(
            [compile_source(source, "calibrate", target, externals), *objects]
        )
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)
        self._call = kind(self._loader.address("calibrate"))
        self._params = np.array(params, np.int64)
        self._own = self.bind(buffers)
        self.rounds = self._enough()

    @staticmethod
    def bind(buffers: Sequence[np.ndarray]) -> tuple[np.ndarray, Sequence[np.ndarray]]:
        """A table of addresses, with what it refers to."""
        return np.array([b.ctypes.data for b in buffers], np.int64), buffers

    def run(self, rounds: int, bound: tuple[np.ndarray, Sequence[np.ndarray]] | None = None
            ) -> float:
        """Seconds of ``rounds`` rounds."""
        addresses = (bound or self._own)[0].ctypes.data
        start = time.perf_counter()
        self._call(addresses, self._params.ctypes.data, 0, rounds)
        return time.perf_counter() - start

    def _enough(self) -> int:
        """Rounds that take about ``_RUN_S``."""
        rounds = 1
        self.run(1)
        while (seconds := self.run(rounds)) < _RUN_S / 2 and rounds < 1 << 30:
            rounds = max(2 * rounds, min(16 * rounds, int(rounds * _RUN_S / max(seconds, 1e-9))))
        return rounds

    def rate(self, each: float) -> Clock:
        """A run that answers ``each`` per second, for every round."""
        return lambda: self.rounds * each / self.run(self.rounds)


def _elementwise(*lines: str) -> str:
    """Source of a kernel that maps ``x`` to ``y``, over and over."""
    body = "".join(f"            {line}\n" for line in lines)
    return ("def kernel(bufs, params, begin, end):\n    x = ptr_f32(bufs, 0)\n"
            "    y = ptr_f32(bufs, 1)\n    n = prm(params, 0)\n    a = ld(x, 0)\n"
            "    for t in range(begin, end):\n        for i in range(n):\n" + body)  # fmt: skip


_SCALE = _elementwise("st(y, i, ld(x, i) * a)")
_FILL = _elementwise("st(y, i, a)")
_VECTOR = _elementwise("v = ld(x, i)", *["v = fmax(v + a, a) * a"] * 4, "st(y, i, v)")
_VECTOR_OPS = 12
_SUM = """def kernel(bufs, params, begin, end):
    x = ptr_f32(bufs, 0)
    y = ptr_f32(bufs, 1)
    n = prm(params, 0)
    for t in range(begin, end):
        s = f32(0)
        for i in range(n):
            s = radd(s, ld(x, i))
        st(y, 0, s)
"""
_CHAIN = _SUM.replace("radd(s, ld(x, i))", "fadd(s, ld(x, 0))")


def _gemm(tile: micro.MicroKernel) -> str:
    return f"""def kernel(bufs, params, begin, end):
    rows = ptr_i64(bufs, 0)
    b = ptr_f32(bufs, 1)
    c = ptr_f32(bufs, 2)
    k = prm(params, 0)
    for t in range(begin, end):
        ccall("{tile.symbol}", rows, 1, 0, k, b, 0, 0, c, {tile.nr}, {tile.mr},
              {tile.nr}, c, 0, 0, 0, 0, bits_f32(4286578688), bits_f32(2139095040))
"""


def _vector(count: float) -> np.ndarray:
    """f32[count], touched, aligned to a cache line."""
    raw = np.full(int(count) + 16, 1.0, np.float32)
    start = -raw.ctypes.data // 4 % 16
    return raw[start : start + int(count)]


class Calibration:
    """The measurements of one machine; ``run`` makes them all."""

    def __init__(self, base: Target, seconds: float) -> None:
        self.base = base
        self.found: dict[str, Measured] = {}
        self._share = seconds / 24
        """Seconds per value; there are about 20, and compiling takes a few seconds."""

    def run(self, progress: Progress | None = None) -> None:
        """Measures everything; ``progress(stage, done, total)`` before each part."""
        stages = (self.arithmetic, self.special, self.near, self.caches, self.together, self.steps)
        for k, stage in enumerate(stages):
            if progress is not None:
                progress(stage.__name__, k, len(stages))
            stage()

    @property
    def target(self) -> Target:
        """The machine as measured. All cores together are at least as fast as one: where other
        programs had the other cores, that is what is known."""
        values: dict[str, Any] = {m.name: m.value for m in self.found.values() if " " not in m.name}
        for shared in ("l3_rate_all", "dram_rate_all"):
            if shared in values:
                values[shared] = max(values[shared], values[shared.removesuffix("_all")])
        return replace(self.base, **values)

    def keep(self, name: str, clock: Clock, best: Callable[..., float] = max, unit: str = ""
             ) -> float:
        """Samples a run (``best`` of a few: max for rates, min for times, the median for
        differences) and keeps the median of the samples; ``unit`` of what is no field."""
        values: list[float] = []
        end = time.perf_counter() + self._share
        while len(values) < _LEAST or len(values) < _MOST and time.perf_counter() < end:
            values.append(best([clock() for _ in range(_RUNS)]))
        low, middle, high = quantiles(values, n=4)
        unit = unit or unit_of(name.split(" ")[0])
        self.found[name] = Measured(name, middle, unit, (high - low) / middle, len(values))
        return middle

    # -- one core --------------------------------------------------------------------------

    def arithmetic(self) -> None:
        """Micro-kernels of every width, the loop of plain operations, the chain."""
        for target in _widths(self.base):
            tile = micro.igemm(target)
            a = _vector(tile.mr * _DEPTH)
            rows = a.ctypes.data + np.arange(tile.mr, dtype=np.int64) * _DEPTH * 4
            buffers = [rows, _vector(tile.nr * _DEPTH), _vector(tile.mr * tile.nr), a]
            kernel = _Kernel(_gemm(tile), target, buffers, [_DEPTH], tile)
            own = target.vector_bits == self.base.vector_bits
            self.keep("flops" if own else f"flops ({target.vector_bits} bits)",
                      kernel.rate(2.0 * tile.mr * tile.nr * _DEPTH))  # fmt: skip
        n = self._near()
        self.keep("vector_rate", self._loop(_VECTOR, n).rate(_VECTOR_OPS * n))
        chain = self._loop(_CHAIN, n)
        self.keep("latency_s", lambda: chain.run(chain.rounds) / (chain.rounds * n), min)

    def special(self) -> None:
        """One loop per function, and their harmonic mean: the time of one of each."""
        n, each = self._near(), []
        for op in _SPECIAL:
            line = "st(y, i, a / (ld(x, i) + a))" if op == "div" else f"st(y, i, {op}(ld(x, i)))"
            weight = lookup(op).flops_per_element
            kernel = self._loop(_elementwise(line), n)
            each.append(self.keep(f"special_rate ({op})", kernel.rate(weight * n)))
        parts = [self.found[f"special_rate ({op})"] for op in _SPECIAL]
        self.found["special_rate"] = Measured(
            "special_rate", len(each) / sum(1 / v for v in each), parts[0].unit,
            median(p.spread for p in parts), sum(p.samples for p in parts))  # fmt: skip

    def near(self) -> None:
        """Loads and stores in the level-1 cache."""
        n = self._near()
        self.keep("load_rate", self._loop(_SUM, n).rate(4.0 * n))
        self.keep("store_rate", self._loop(_FILL, n).rate(4.0 * n))

    def caches(self) -> None:
        """Reading and writing at every level."""
        for name, nbytes in self._levels().items():
            n = nbytes // 8
            self.keep(name, self._loop(_SCALE, n).rate(8.0 * n))

    def _levels(self) -> dict[str, int]:
        """Working set in bytes by rate."""
        t = self.base
        return {"l1_rate": t.l1_bytes // 2, "l2_rate": max(t.l2_bytes // 2, t.l1_bytes),
                "l3_rate": min(max(t.l3_bytes // 2, t.l2_bytes), 8 * t.l2_bytes),
                "dram_rate": 4 * t.l3_bytes}  # fmt: skip

    def _near(self) -> int:
        """Elements of ``x`` and of ``y`` that fill half of the level-1 cache."""
        return self.base.l1_bytes // 16

    def _loop(self, source: str, n: int) -> _Kernel:
        return _Kernel(source, self.base, [_vector(n), _vector(n)], [n])

    # -- all cores -------------------------------------------------------------------------

    def together(self) -> None:
        """Bandwidth of the last-level cache and of memory, all cores at once."""
        cores = self.base.cores
        levels = self._levels()
        sets = {"l3_rate_all": max(self.base.l3_bytes // (2 * cores), self.base.l2_bytes),
                "dram_rate_all": max(levels["dram_rate"] // cores, 2 * self.base.l3_bytes)}
        for name, most in sets.items():
            n = min(most, levels[name.removesuffix("_all")]) // 8
            kernel = self._loop(_SCALE, n)
            bound = [kernel.bind([_vector(n), _vector(n)]) for _ in range(cores)]

            def clock(kernel: _Kernel = kernel, bound: list = bound, n: int = n) -> float:
                rounds = 4 * kernel.rounds  # long beside the differences between the starts
                seconds = _at_once([partial(kernel.run, rounds, b) for b in bound])
                return cores * rounds * 8.0 * n / seconds

            self.keep(name, clock)

    def steps(self) -> None:
        """What a step of a program costs, alone and with a barrier."""
        one = self._per_step(16, 1)
        self.keep("launch_s", one, median)
        if self.base.cores > 1:
            alone, split = self._per_step(2 * BLOCK, 1), self._per_step(2 * BLOCK, 2)
            self.keep("sync_s", lambda: max(split() - alone() / 2, 1e-9), median)
            if len(os.sched_getaffinity(0)) > 1:
                self.keep("a word to and fro", round_trips(_TRIPS), min, "s")

    def _per_step(self, elements: int, threads: int) -> Clock:
        """A run that answers the seconds of one step on so many elements. Work is shared however
        little it is: the target claims that meeting costs nothing."""
        target = replace(self.base, sync_s=0.0)
        made = [_chain(target, n, elements, threads) for n in _STEPS]
        feeds = {"x": np.ones(elements, np.float32)}

        def seconds(executable: Executable) -> float:
            start = time.perf_counter()
            executable.run(feeds)
            return time.perf_counter() - start

        def clock() -> float:
            short, long = (min(seconds(e) for _ in range(_RUNS)) for e in made)
            return max(long - short, 1e-9) / (_STEPS[1] - _STEPS[0])

        clock()
        return clock


def _chain(target: Target, steps: int, elements: int, threads: int) -> Executable:
    """A program of ``steps`` small steps, of a few kernels in turn."""
    b = Builder()
    y = b.input("x", TensorType(F32, (elements,)))
    for k in range(steps):
        y = b.op(_TURN[k % len(_TURN)], y)
    graph = b.build({"y": y})
    groups = [Group((k,), "loops") for k, node in enumerate(graph.nodes) if node.op != "input"]

    def no_region(_: object) -> object:
        raise AssertionError("a chain has no control flow")

    program = build_program(graph, Schedule(graph.digest, tuple(groups)), target, no_region)  # type: ignore[arg-type]
    return Executable(program, Constants(), target, threads)


def _widths(base: Target) -> Iterator[Target]:
    """``base`` and the narrower targets this machine executes, one per vector width."""
    seen: set[int] = set()
    for target in (base, *(Target.named(name) for name in ("avx512", "avx2", "generic"))):
        if target.vector_bits not in seen and target.runs_here():
            seen.add(target.vector_bits)
            yield target


def _at_once(calls: Sequence[Callable[[], float]]) -> float:
    """Seconds from the first start to the last end of calls in threads of their own."""
    ready = threading.Barrier(len(calls))
    times: list[tuple[float, float]] = []

    def work(call: Callable[[], float]) -> None:
        ready.wait()
        start = time.perf_counter()
        call()
        times.append((start, time.perf_counter()))

    workers = [threading.Thread(target=work, args=(call,)) for call in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(end for _, end in times) - min(start for start, _ in times)


def calibrate(base: Target | None = None, seconds: float = 120.0, progress: Progress | None = None
              ) -> tuple[Target, list[Measured]]:
    """Measures this machine: the target ``base`` (default: the one detected) with its rates and
    times replaced, and the measurements. ``seconds`` is about what it takes. Raises
    ``OptionError`` for a target whose code this machine cannot run."""
    base = Target.detect() if base is None else base
    if not base.runs_here():
        raise OptionError(f"target {quote(base.name)} cannot run here: it cannot be measured")
    if not seconds > 0:
        raise OptionError(f"seconds: more than 0, not {seconds}")
    work = Calibration(base, seconds)
    work.run(progress)
    return work.target, list(work.found.values())
