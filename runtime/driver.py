"""The native driver: walks a table of kernel steps, alone or as one thread of a team.

It is a page of LLVM IR (``driver.ll``), compiled once per machine like any kernel. Python calls it
once per segment of a program; everything between the kernels of the segment happens here:
resolving buffer addresses, handing out tiles, waiting for one another.

**Tables** (int64 words). A *call block* describes one call, a *row* one kernel step; the fields are
the ``CALL_`` and ``ROW_`` constants. A buffer's address is ``bases[index] + offset``. A thread
writes the addresses, followed by its scratch address, into its private memory and calls
``kernel(bufs, params, begin, end)``.

**Who does what.** A *unit* of work is one parallel step, cut into chunks of tiles, or a run of
serial steps, which is one chunk. A *phase* is a sequence of units that do not depend on one
another. A thread owns a contiguous part of every split step, the same part of each, and the runs
of its number. It claims the chunks of its own parts, half of what is left at a time. Then it helps:
where an eighth of another's part is left, or where the owner stands still, it claims half of that.
What is less than that the owner has a few microseconds to do, for work taken from its owner costs
more than it takes: what it reads and overwrites lies in the other's cache, and so will what the
owner reads of it in the next step. After that time everything that is not claimed is anybody's.

So threads keep their parts from step to step, but nobody waits long for a thread that is not
computing: one that the operating system does not let run claims nothing, and the others do its
part. Who is done reports how many chunks it did, and waits until all chunks of the phase are.
Which thread computes a tile has no influence on its value.

**Counters.** A claim word holds (unit number, next chunk), a done word (phase number, chunks done);
numbers go on from call to call and are never reset. A word with a smaller number counts as zero,
one with a larger number says that the unit or phase is over. All changes are compare-and-swap, so
a thread that was asleep for many calls can do no harm. Units and phases share few words in
rotation: a unit is over for everybody before its word's next unit begins.

**Joining and leaving.** The call number is odd while a call is open. A worker that sees an odd
number counts itself among the active, reads the call's fields and makes sure that the number is
still the same. Closing a call does not wait for active workers; it answers how many there are, and
if there are any, the caller keeps the call's tables alive until it finds none.

**Waiting** means spinning with the processor's pause instruction for a bounded number of rounds and
then sleeping. A sleeper reads an event counter, counts itself among the sleepers, looks once more,
and sleeps while the event counter stands still (futex); who changes something looks for sleepers
afterwards and, if there are any, moves the counter and wakes them. All of this is sequentially
consistent, so no wake-up is lost. Where there is no futex the sleeper naps 50 us at a time.
"""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ..ir.target import Target
from ..kernels.linker import Loader, load_objects
from .forks import call_after_fork

CALL_STEPS, CALL_COUNT, CALL_BASES, CALL_PRIVATE, CALL_STRIDE, CALL_SCRATCH = range(6)
"""Address and number of the rows; address of the base table; address of the threads' private
memory, bytes of it per thread, offset in it of the scratch."""
CALL_UNITS, CALL_PHASES, CALL_MASK = range(6, 9)
"""Numbers of units and phases; mask that turns a unit's number into the place of its words."""
CALL_WORDS = 16
(ROW_KERNEL, ROW_BUFFERS, ROW_REFS, ROW_PARAMS, ROW_TILES, ROW_FLAGS, ROW_CHUNKS, ROW_CHUNK,
 ROW_TOTAL) = range(9)  # fmt: skip
"""Kernel address; number of buffers; addresses of (base index, byte offset) pairs and of the
parameters; tiles; ``PARALLEL`` and ``BARRIER`` (a phase begins here); number of chunks, or of rows
in this run of serial steps; tiles per chunk; chunks of the phase that begins here."""
ROW_WORDS = 10
PARALLEL, BARRIER = 1, 2
(REPEAT_COUNT, REPEAT_COUNTER, REPEAT_CONDITION, REPEAT_COPIES, REPEAT_ADDS, REPEAT_SWAPS,
 REPEAT_ACTIVE) = range(7)  # fmt: skip
"""Iterations at most; address of the counter that is raised after each; base slot of the bool that
must stay true (0: none); numbers of what follows: copies after an iteration, pairs (base slot,
bytes to add then), pairs (base slot, base slot) to exchange then. The driver answers in
``REPEAT_ACTIVE`` how many workers may still be reading the call's tables."""
REPEAT_WORDS = 8
COPY_SLOT, COPY_OFFSET, COPY_BYTES, COPY_TARGET, COPY_STEP = range(5)
"""Base slot and offset of what is copied, bytes, address where it goes, bytes to add to that."""
COPY_WORDS = 5
REPEAT_MOST = 1 << 40
"""Iterations of one native call where nothing else bounds them."""

LINE = 16
"""Words between fields that different threads write: two cache lines, since processors fetch in
pairs."""
PHASE_WORDS = 4
"""Done words that phases share in rotation."""
TEAM_EPOCH, TEAM_IDLE_EVENT, TEAM_IDLE_SLEEPERS, TEAM_EVENT, TEAM_SLEEPERS, TEAM_ACTIVE = (
    LINE * k for k in range(6)
)
TEAM_DONE = LINE * 6
"""``PHASE_WORDS`` done words, a line each."""
TEAM_CALL = LINE * (6 + PHASE_WORDS)
TEAM_UNIT, TEAM_PHASE, TEAM_NEXT_UNIT, TEAM_NEXT_PHASE, TEAM_RING = (
    TEAM_CALL + k for k in range(1, 6)
)
"""Numbers of the call's first unit and phase, and of the next call's; address of the claim words,
one cache line each, those of a unit's threads side by side."""
(TEAM_THREADS, TEAM_QUIT, TEAM_SPINS, TEAM_GO_SPINS, TEAM_SYSCALL, TEAM_NAP, TEAM_PATIENCE) = (
    TEAM_CALL + LINE + k for k in range(7)
)
TEAM_NAP_TIME = TEAM_CALL + LINE + 8
"""A ``struct timespec``: seconds, nanoseconds."""
TEAM_WORDS = TEAM_CALL + 2 * LINE
CLAIM_BYTES = 64
"""Bytes per claim word: a cache line."""

_FUTEX = {"x86_64": 202, "aarch64": 98, "arm64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
"""Number of the futex system call."""
_NAP_NS = 50_000
_PAUSE = {"x86_64": "llvm.x86.sse2.pause()", "aarch64": "llvm.aarch64.hint(i32 1)"}


def driver_ir(target: Target, futex: int) -> str:
    """LLVM IR of the driver for ``target``; ``futex`` is the system call number, 0 for none."""
    pause = _PAUSE.get("aarch64" if target.arch == "arm64" else target.arch)
    values = {
        "declare_pause": f"declare void @{pause.replace('i32 1', 'i32')}" if pause else "",
        "pause": f"call void @{pause}" if pause else "",
        "futex": str(futex),
        "PHASE_MASK": str(PHASE_WORDS - 1),
        "LINE_BYTES": str(LINE * 8),
        "CLAIM_BYTES": str(CLAIM_BYTES),
        "ROW_WORDS": str(ROW_WORDS),
        "COPY_WORDS": str(COPY_WORDS),
    }
    for name, word in globals().items():
        if name.startswith(("TEAM_", "CALL_", "ROW_", "REPEAT_", "COPY_")) and name not in values:
            values[name] = str(word * 8)
    text = Path(__file__).with_name("driver.ll").read_text("ascii")
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"${name}", values[name])
    return f'target triple = "{target.triple}"\n{text}'


class Driver:
    """The loaded driver: its functions as callables that release the interpreter lock."""

    def __init__(self, loader: Loader, futex: int) -> None:
        address = ctypes.c_size_t
        two, one = ctypes.CFUNCTYPE(None, address, address), ctypes.CFUNCTYPE(None, address)
        counted = ctypes.CFUNCTYPE(ctypes.c_int, address, address)
        self.run: Any = one(loader.address("evonnx_run"))
        """``run(call address)``: one call on this thread."""
        self.team_run: Any = counted(loader.address("evonnx_team_run"))
        """``team_run(team address, call address)``: one call by the team; answers how many workers
        may still be reading the call's tables."""
        count = ctypes.CFUNCTYPE(ctypes.c_int64, address, address, address)
        self.repeat: Any = count(loader.address("evonnx_repeat"))
        """``repeat(team address or 0, call address, address of the ``REPEAT_`` words)``: a call
        again and again, by the team or on this thread; answers the iterations done."""
        self.worker: Any = two(loader.address("evonnx_worker"))
        """``worker(team address, thread number)``: returns when the team is sent home."""
        self.team_quit: Any = one(loader.address("evonnx_team_quit"))
        """``team_quit(team address)``: sends the workers home."""
        self.stamp: int = loader.address("evonnx_stamp")
        """Address of the kernel that reads the clock (``stamps``)."""
        self._spin: Any = two(loader.address("evonnx_spin"))
        self._loader = loader
        libc = ctypes.CDLL(None)
        self.syscall = ctypes.cast(libc.syscall, ctypes.c_void_p).value or 0 if futex else 0
        """Address of the C library's ``syscall``; 0 where there is no futex."""
        self.nanosleep = ctypes.cast(libc.nanosleep, ctypes.c_void_p).value or 0
        """Address of the C library's ``nanosleep``."""
        self.clock_gettime = ctypes.cast(libc.clock_gettime, ctypes.c_void_p).value or 0
        """Address of the C library's ``clock_gettime``."""
        self.pause_s = self._calibrate()
        """Seconds of one round of spinning."""
        # Worker threads execute this code until the process ends, which is later than the
        # interpreter's own end: it must never be unmapped.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(loader))

    def _calibrate(self) -> float:
        word = ctypes.c_int64(0)
        rounds, best = 500, 1.0
        for _ in range(3):
            start = time.perf_counter()
            self._spin(ctypes.addressof(word), rounds)
            best = min(best, time.perf_counter() - start)
        return max(best / rounds, 1e-9)

    def rounds(self, seconds: float) -> int:
        """Rounds of spinning that take about ``seconds``."""
        return max(1, int(seconds / self.pause_s))


def futex_number() -> int:
    """Number of the futex system call here; 0 where the operating system has none."""
    return _FUTEX.get(platform.machine(), 0) if platform.system() == "Linux" else 0


_lock = threading.Lock()
_DRIVER: list[Driver] = []


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()


call_after_fork(_in_child)


class Source(Protocol):
    """Where the driver's machine code may come from: ``runtime.cache.ObjectCache``, or a file."""

    def fetch(
        self, symbol: str, text: str, target: Target, compile_: Callable[[], bytes]
    ) -> bytes:
        """The object of ``text`` for ``target``; ``compile_`` makes it."""


SYMBOL = "evonnx_driver"
"""What the driver is called among other objects."""


CompileIR = Callable[[str, str, Target], bytes]
"""Makes the object of a symbol, from LLVM IR, for a target."""


def driver(cache: Source | None = None, compile_ir: CompileIR | None = None) -> Driver:
    """The process's driver, compiled (or read from ``cache``) and loaded at the first call.

    One per process: its code belongs to the machine, not to any model.
    """
    with _lock:
        if not _DRIVER:
            _, data = driver_object(Target.detect(), cache, compile_ir)
            _DRIVER.append(Driver(load_objects([data]), futex_number()))
        return _DRIVER[0]


def loaded() -> bool:
    """Whether this process has its driver."""
    return bool(_DRIVER)


def driver_object(
    target: Target, cache: Source | None = None, compile_ir: CompileIR | None = None
) -> tuple[str, bytes]:
    """The driver's LLVM text for ``target`` and this operating system, and its machine code, which
    ``compile_ir`` makes (None: LLVM in this process)."""
    text = driver_ir(target, futex_number())

    def compiled() -> bytes:
        if compile_ir is not None:
            return compile_ir(SYMBOL, text, target)
        from ..kernels.jit import compile_ir_text  # LLVM takes time and memory to import

        return compile_ir_text(text, target)

    return text, compiled() if cache is None else cache.fetch(SYMBOL, text, target, compiled)
