"""The executable: a program with its kernels loaded, its constants packed and its threads at hand.

Construction compiles or finds every kernel, packs every constant and analyses memory; sizes are
bound at the first call of each set of input shapes. ``run`` is thread-safe and re-entrant: a call
takes memory of its own, and the thread team if it is free (else it runs alone). It survives
``fork``: the child starts a team of its own.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.errors import FeedError, VerifyError
from ..ir.graph import Constants
from ..ir.target import Target
from ..ir.types import TensorType, Type
from .bindings import Kept
from .cache import CacheRecord, ObjectCache
from .constants import Key, prepare
from .crew import Crew, Progress
from .driver import driver
from .feeds import Feeds
from .objects import Built, build
from .program import Program, check_program
from .runner import Lease, Machine, Runner
from .tables import Binding
from .team import Team, team, usable_cores


@dataclass(frozen=True, slots=True)
class Peak:
    """Predicted peak memory of one call, bytes."""

    arena: int
    """Intermediate values, after reuse."""
    outputs: int
    """Arrays handed to the caller."""
    scratch: int
    """Private memory of all threads."""
    constants: int
    """Packed weights."""
    bound: int
    """Arena bytes that no plan could be below (largest sum alive at one step)."""

    @property
    def total(self) -> int:
        """Everything together."""
        return self.arena + self.outputs + self.scratch + self.constants


@dataclass(frozen=True, slots=True)
class Parts:
    """What a program needs besides itself, made ready: loaded machine code, packed constants."""

    code: Built
    constants: Mapping[Key, np.ndarray]
    seconds: Mapping[str, float]
    """Wall time of each step that made them; ``pack`` is part of ``compile``, since workers compile
    meanwhile."""


def make_parts(
    program: Program,
    constants: Constants,
    target: Target,
    threads: int = 1,
    cache: ObjectCache | None = None,
    progress: Progress | None = None,
    crew: Crew | None = None,
    known: Mapping[Key, np.ndarray] | None = None,
) -> Parts:
    """Compiles (or finds) and loads every kernel, and packs every constant that is not ``known``;
    raises ``CompileError``."""
    programs = list(program.walk())
    packed: dict[Key, np.ndarray] = {}
    seconds = 0.0

    def pack() -> None:
        nonlocal seconds
        start = time.perf_counter()
        return_free_memory()  # what was needed so far comes before the weights
        # While workers compile, time is not short: one after another takes less memory.
        count = 1 if crew is not None and crew.apart else threads
        packed.update(prepare(programs, constants, count, known))
        seconds = time.perf_counter() - start

    code = build(programs, target, cache, progress, crew, pack)
    return Parts(code, packed, {**code.seconds, "pack": seconds})


class Executable:
    """Runs a program; see the module.

    ``parts`` are machine code and constants made before (``constants`` is not looked at then).
    ``known`` are packed constants of another program of the model: what both need is shared.
    ``threads`` None uses the cores this process may use (affinity and cgroup quota); ``cache``
    None compiles everything. ``progress(stage, done, total)`` is called while kernels are compiled.
    Raises ``CompileError`` for a kernel that does not compile and ``VerifyError`` for a program
    that breaks an invariant.
    """

    def __init__(
        self,
        program: Program,
        constants: Constants,
        target: Target | None = None,
        threads: int | None = None,
        cache: ObjectCache | None = None,
        progress: Progress | None = None,
        crew: Crew | None = None,
        parts: Parts | None = None,
        known: Mapping[Key, np.ndarray] | None = None,
    ) -> None:
        check_program(program)
        start = time.perf_counter()
        self.program = program
        self.target = target if target is not None else Target.detect()
        self.threads = threads if threads is not None else usable_cores()
        """Threads a call uses at most."""
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if parts is None:
            parts = make_parts(
                program, constants, self.target, self.threads, cache, progress, crew, known
            )
        self.parts = parts
        """Machine code and packed constants."""
        self.cache_records: list[CacheRecord] = parts.code.records
        """Where every kernel came from."""
        self.seconds = dict(parts.seconds)
        """Wall time of ``compile``, ``load``, ``pack`` and, at the end, ``total``."""
        self._driver = driver(cache, None if crew is None else crew.compile_ir)
        self.machine = Machine(
            self._driver, self.target, self.threads, parts.code.addresses, parts.constants
        )
        """What the runners of the program and its bodies share."""
        self._runner = Runner(program, self.machine)
        if self._runner.layout.given:
            raise VerifyError(f"program: size {self._runner.layout.given[0]} is never defined")
        self._feeds = Feeds(self._runner.layout.inputs)
        self.input_names = self._feeds.names
        self.output_names = tuple(name for name, _ in program.outputs)
        self._team: Team | None = None
        self.seconds["total"] = time.perf_counter() - start

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name for inputs by name.

        Inputs are NumPy arrays (or what NumPy reads) of the declared dtypes; dense ones are read
        in place. Outputs are the caller's own. Raises ``FeedError`` naming what does not fit.
        """
        return dict(zip(self.output_names, self.run_list(feeds)))

    def run_list(self, feeds: Mapping[str, Any]) -> list[Any]:
        """As ``run``, outputs in the order of ``output_names``."""
        return self._call(self._feeds.arrays(feeds))

    def run_in_order(self, values: Sequence[Any]) -> list[Any]:
        """As ``run_list``, for one value per input in the order of ``input_names``."""
        return self._call(self._feeds.in_order(values))

    def _call(self, arrays: Sequence[Any]) -> list[Any]:
        lend = self.lease if self.threads > 1 else None
        if self._runner.direct:
            return self._runner.run_direct(arrays, None, lend)
        return self._runner.run(arrays, None, None, lend)

    def lease(self) -> Lease:
        """The right to use the team in one call, taken at need; also a context manager."""
        members = self._team
        if self.threads > 1 and (members is None or members.dead):
            members = self._new_team()
        return Lease(members)

    def check_feeds(self, feeds: Mapping[str, Any]) -> list[Any]:
        """One dense array (or host value) per input, in order; raises ``FeedError``."""
        return self._feeds.arrays(feeds)

    def _new_team(self) -> Team:
        self._team = found = team(self.threads, self._driver)
        return found

    # -- memory ----------------------------------------------------------------------------

    def binding(self, shapes: Mapping[str, Sequence[int]]) -> Binding:
        """Sizes and plan for input shapes by name, without running; raises ``FeedError``."""
        if set(shapes) != set(self.input_names):
            raise FeedError(f"shapes must be given for exactly {', '.join(self.input_names)}")
        return self._runner.binding([tuple(shapes[n]) for n in self.input_names])

    def static_shapes(self) -> dict[str, tuple[int, ...]] | None:
        """The input shapes, if the model has only one set of them; else None."""
        found: dict[str, tuple[int, ...]] = {}
        for name, _, kind in self._runner.layout.inputs:
            if not isinstance(kind, TensorType) or not kind.is_static:
                return None
            found[name] = tuple(int(d) for d in kind.shape)  # type: ignore[arg-type]
        return found

    def predicted_peak(self, shapes: Mapping[str, Sequence[int]] | None = None) -> Peak:
        """Peak memory of one call with these input shapes (None: the static ones).

        Exact for programs without host-level steps; of others it is the part whose sizes follow
        from the inputs.
        """
        if shapes is None:
            shapes = self.static_shapes()
            if shapes is None:
                raise FeedError("the model's input shapes are symbolic: give shapes")
        return self._peak([self.binding(shapes)])

    def last_call(self) -> tuple[dict[str, int], Peak] | None:
        """Sizes of all symbols in the call that came last, and its predicted peak; None before
        the first call."""
        chain = self._runner.recent()
        if not chain:
            return None
        symbols = zip(self._runner.layout.symbols, chain[-1].values, strict=False)
        return dict(symbols), self._peak(chain)

    def _peak(self, chain: Sequence[Binding]) -> Peak:
        return Peak(
            arena=sum(b.chunk for b in chain),
            outputs=sum(n for b in chain for _, n in b.allocate),
            scratch=max(b.stride for b in chain) * self.threads,
            constants=self.constant_bytes,
            bound=sum(b.bound for b in chain),
        )

    @property
    def constant_bytes(self) -> int:
        """Bytes of the packed constants."""
        return sum(a.nbytes for a in self.parts.constants.values())

    def measured_bytes(self) -> int:
        """Bytes held now: packed constants and the frames between calls."""
        return self.constant_bytes + self._runner.frame_bytes

    @property
    def bindings(self) -> Kept:
        """What is kept for sizes seen before."""
        return self._runner.kept()

    def trim(self) -> None:
        """Frees the memory that is kept between calls; the next call allocates anew."""
        self._runner.trim()

    @property
    def inputs(self) -> dict[str, Type]:
        """Types of the inputs, by name."""
        return {name: kind for name, _, kind in self._runner.layout.inputs}

    @property
    def outputs(self) -> dict[str, Type]:
        """Types of the outputs, by name."""
        return {name: self.program.buffers[b].type for name, b in self.program.outputs}


def resident_peak(reset: bool = False) -> int | None:
    """Largest resident memory of this process so far, bytes; None where the system does not say.

    ``reset`` first sets the mark to the present size (Linux, ``/proc/self/clear_refs``).
    """
    try:
        if reset:
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def measure_peak(executable: Executable, feeds: Mapping[str, np.ndarray]) -> int | None:
    """Bytes by which one call, on memory not allocated yet, raises the process's resident peak.

    Constants are not counted: they are resident already. Neither are gaps of the heap that are
    resident still, some megabytes of a process that has run for long. None where the system does
    not say.
    """
    executable.trim()
    gc.collect()
    return_free_memory()
    held = _heap_end()
    before = resident_peak(reset=True)
    outputs = executable.run_list(feeds)
    after = resident_peak()
    del outputs, held
    if before is None or after is None or not os.path.exists("/proc/self/clear_refs"):
        return None
    return after - before


class _Mallinfo(ctypes.Structure):
    """What glibc's ``mallinfo2`` answers; see ``malloc.h``."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]


def _heap_end() -> list[np.ndarray]:
    """Memory that was freed but stays resident: the end of a heap that cannot shrink, for another
    mapping lies behind it (glibc). While it is held, what is allocated becomes resident anew."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    held: list[np.ndarray] = []
    if ask is not None:
        ask.restype = _Mallinfo
        # Gaps that are wide enough are taken first.
        while len(held) < 16 and (size := ask().keepcost) > 1 << 16:
            held.append(np.empty(size - 4096, np.uint8))
    return held


def return_free_memory() -> None:
    """Makes the C library give freed pages back to the system (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
