"""The native driver: walks a table of kernel steps, alone or as one thread of a team.

It is a page of LLVM IR, compiled once per machine like any kernel. Python calls it once per segment
of a program; everything between the kernels of the segment happens here: resolving buffer
addresses, splitting tiles, meeting at barriers.

**Tables** (int64 words). A *call block* describes one call; a *step row* one kernel step:

- call: ``STEPS`` address of the rows, ``COUNT`` of them, ``BASES`` address of the base table,
  ``PRIVATE`` address of the threads' private memory, ``STRIDE`` bytes per thread,
  ``SCRATCH`` offset in it of the scratch.
- row (8 words): kernel address, number of buffers, address of (base index, byte offset) pairs,
  address of the parameters, tiles, flags (``PARALLEL``, ``BARRIER`` before the step).

A buffer's address is ``bases[index] + offset``. Each thread writes the addresses, followed by its
scratch address, into its private memory and calls ``kernel(bufs, params, begin, end)``. A parallel
step gives thread ``t`` of ``n`` the tiles ``[tiles*t//n, tiles*(t+1)//n)``; the split depends on
nothing but ``n``. A serial step runs on thread 0.

**Synchronization.** Threads meet at a generation-counting central barrier (Mellor-Crummey and
Scott, "Algorithms for scalable synchronization on shared-memory multiprocessors", 1991). Who waits
spins with the processor's pause instruction for a bounded number of rounds and then sleeps in the
kernel. The sleeper first counts itself among ``sleepers`` and then sleeps only while the word still
holds the old value (futex); the waker first stores the new value and then looks at ``sleepers``.
Both use sequentially consistent accesses, so no wake-up is lost. Where there is no futex the
sleeper naps 50 us at a time.
"""

from __future__ import annotations

import ctypes
import platform
import threading
import time
from typing import Any

from ..ir.target import Target
from ..kernels.jit import Loader, compile_ir_text
from .forks import call_after_fork

CALL_WORDS = 8
CALL_STEPS, CALL_COUNT, CALL_BASES, CALL_PRIVATE, CALL_STRIDE, CALL_SCRATCH = range(6)
ROW_WORDS = 8
PARALLEL, BARRIER = 1, 2

LINE = 16
"""Words between fields that different threads write: two cache lines, since processors fetch in
pairs."""
TEAM_EPOCH, TEAM_GO_SLEEPERS, TEAM_COUNT, TEAM_GENERATION, TEAM_SLEEPERS, TEAM_DONE = (
    LINE * k for k in range(6)
)
TEAM_DONE_SLEEPERS = LINE * 6
TEAM_CALL = LINE * 7
TEAM_THREADS, TEAM_QUIT, TEAM_SPINS, TEAM_GO_SPINS, TEAM_SYSCALL, TEAM_NAP = (
    TEAM_CALL + k for k in range(1, 7)
)
TEAM_NAP_TIME = TEAM_CALL + 8  # struct timespec: seconds, nanoseconds
TEAM_WORDS = LINE * 9

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
    }
    text = _IR
    for name, word in globals().items():
        if name.startswith(("TEAM_", "CALL_")):
            values[name] = str(word * 8)
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"${name}", values[name])
    return f'target triple = "{target.triple}"\n{text}'


_IR = r"""
$declare_pause

; Give the processor a breath %n times: what one round of waiting costs is measured with it.
define void @evonnx_spin(ptr %word, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %more]
  %v = load atomic i32, ptr %word acquire, align 4
  %odd = icmp ne i32 %v, 0
  br i1 %odd, label %out, label %more
more:
  $pause
  %i1 = add i64 %i, 1
  %go = icmp slt i64 %i1, %n
  br i1 %go, label %loop, label %out
out:
  ret void
}

; Sleep while *word == old; may return at any time.
define internal void @nap(ptr %team, ptr %word, i32 %old) noinline {
  %ps = getelementptr i8, ptr %team, i64 $TEAM_SYSCALL
  %syscall = load ptr, ptr %ps
  %none = icmp eq ptr %syscall, null
  br i1 %none, label %timed, label %wait
wait:
  %old64 = zext i32 %old to i64
  call i64 (i64, ...) %syscall(i64 $futex, ptr %word, i64 128, i64 %old64, ptr null)
  ret void
timed:
  %pn = getelementptr i8, ptr %team, i64 $TEAM_NAP
  %nanosleep = load ptr, ptr %pn
  %pt = getelementptr i8, ptr %team, i64 $TEAM_NAP_TIME
  call i32 %nanosleep(ptr %pt, ptr null)
  ret void
}

; Return once *word != old: spin, then sleep.
define internal void @await(ptr %team, ptr %word, ptr %sleepers, i32 %old, i64 %spins) {
entry:
  br label %spin
spin:
  %i = phi i64 [0, %entry], [%i1, %again]
  %v = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %v, %old
  br i1 %same, label %again, label %out
again:
  $pause
  %i1 = add i64 %i, 1
  %go = icmp slt i64 %i1, %spins
  br i1 %go, label %spin, label %slow
slow:
  %s0 = atomicrmw add ptr %sleepers, i32 1 seq_cst, align 4
  br label %check
check:
  %w = load atomic i32, ptr %word seq_cst, align 4
  %still = icmp eq i32 %w, %old
  br i1 %still, label %sleep, label %awake
sleep:
  call void @nap(ptr %team, ptr %word, i32 %old)
  br label %check
awake:
  %s1 = atomicrmw sub ptr %sleepers, i32 1 seq_cst, align 4
  br label %out
out:
  ret void
}

; Wake whoever sleeps on *word, which has its new value already.
define internal void @wake(ptr %team, ptr %word, ptr %sleepers) {
  %n = load atomic i32, ptr %sleepers seq_cst, align 4
  %nobody = icmp eq i32 %n, 0
  br i1 %nobody, label %out, label %some
some:
  %ps = getelementptr i8, ptr %team, i64 $TEAM_SYSCALL
  %syscall = load ptr, ptr %ps
  %none = icmp eq ptr %syscall, null
  br i1 %none, label %out, label %call
call:
  call i64 (i64, ...) %syscall(i64 $futex, ptr %word, i64 129, i64 2147483647, ptr null)
  br label %out
out:
  ret void
}

define internal void @barrier(ptr %team, i64 %n) {
  %pc = getelementptr i8, ptr %team, i64 $TEAM_COUNT
  %pg = getelementptr i8, ptr %team, i64 $TEAM_GENERATION
  %pz = getelementptr i8, ptr %team, i64 $TEAM_SLEEPERS
  %g = load atomic i32, ptr %pg monotonic, align 4
  %before = atomicrmw add ptr %pc, i32 1 acq_rel, align 4
  %arrived = add i32 %before, 1
  %n32 = trunc i64 %n to i32
  %last = icmp eq i32 %arrived, %n32
  br i1 %last, label %open, label %wait
open:
  store atomic i32 0, ptr %pc monotonic, align 4
  %g1 = add i32 %g, 1
  store atomic i32 %g1, ptr %pg seq_cst, align 4
  call void @wake(ptr %team, ptr %pg, ptr %pz)
  ret void
wait:
  %psp = getelementptr i8, ptr %team, i64 $TEAM_SPINS
  %spins = load i64, ptr %psp
  call void @await(ptr %team, ptr %pg, ptr %pz, i32 %g, i64 %spins)
  ret void
}

; All steps, as thread %t of %n.
define internal void @walk(ptr %call, ptr %team, i64 %t, i64 %n) {
entry:
  %psteps = getelementptr i8, ptr %call, i64 $CALL_STEPS
  %steps = load ptr, ptr %psteps
  %pcount = getelementptr i8, ptr %call, i64 $CALL_COUNT
  %count = load i64, ptr %pcount
  %pbases = getelementptr i8, ptr %call, i64 $CALL_BASES
  %bases = load ptr, ptr %pbases
  %pprivate = getelementptr i8, ptr %call, i64 $CALL_PRIVATE
  %private = load ptr, ptr %pprivate
  %pstride = getelementptr i8, ptr %call, i64 $CALL_STRIDE
  %stride = load i64, ptr %pstride
  %pscratch = getelementptr i8, ptr %call, i64 $CALL_SCRATCH
  %shift = load i64, ptr %pscratch
  %skip = mul i64 %t, %stride
  %bufs = getelementptr i8, ptr %private, i64 %skip
  %scratch = getelementptr i8, ptr %bufs, i64 %shift
  %scratchw = ptrtoint ptr %scratch to i64
  %team_work = icmp sgt i64 %n, 1
  %first = icmp eq i64 %t, 0
  %t1 = add i64 %t, 1
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %step, label %out
step:
  %i = phi i64 [0, %entry], [%i1, %next]
  %row = getelementptr [8 x i64], ptr %steps, i64 %i
  %ptiles = getelementptr i64, ptr %row, i64 4
  %tiles = load i64, ptr %ptiles
  %pflags = getelementptr i64, ptr %row, i64 5
  %flags = load i64, ptr %pflags
  %bbit = and i64 %flags, 2
  %bset = icmp ne i64 %bbit, 0
  %meet = and i1 %bset, %team_work
  br i1 %meet, label %sync, label %range
sync:
  call void @barrier(ptr %team, i64 %n)
  br label %range
range:
  %pbit = and i64 %flags, 1
  %pset = icmp ne i64 %pbit, 0
  %shared = and i1 %pset, %team_work
  br i1 %shared, label %split, label %whole
split:
  %lo_n = mul i64 %tiles, %t
  %lo = udiv i64 %lo_n, %n
  %hi_n = mul i64 %tiles, %t1
  %hi = udiv i64 %hi_n, %n
  br label %ready
whole:
  %all = select i1 %first, i64 %tiles, i64 0
  br label %ready
ready:
  %begin = phi i64 [%lo, %split], [0, %whole]
  %end = phi i64 [%hi, %split], [%all, %whole]
  %work = icmp slt i64 %begin, %end
  br i1 %work, label %resolve, label %next
resolve:
  %pnb = getelementptr i64, ptr %row, i64 1
  %nb = load i64, ptr %pnb
  %prefs = getelementptr i64, ptr %row, i64 2
  %refs = load ptr, ptr %prefs
  %pparams = getelementptr i64, ptr %row, i64 3
  %params = load ptr, ptr %pparams
  %kernel = load ptr, ptr %row
  br label %address
address:
  %k = phi i64 [0, %resolve], [%k1, %fill]
  %more = icmp slt i64 %k, %nb
  br i1 %more, label %fill, label %run
fill:
  %ref = getelementptr [2 x i64], ptr %refs, i64 %k
  %slot = load i64, ptr %ref
  %poff = getelementptr i64, ptr %ref, i64 1
  %offset = load i64, ptr %poff
  %pbase = getelementptr i64, ptr %bases, i64 %slot
  %base = load i64, ptr %pbase
  %where = add i64 %base, %offset
  %pbuf = getelementptr i64, ptr %bufs, i64 %k
  store i64 %where, ptr %pbuf
  %k1 = add i64 %k, 1
  br label %address
run:
  %plast = getelementptr i64, ptr %bufs, i64 %nb
  store i64 %scratchw, ptr %plast
  call void %kernel(ptr %bufs, ptr %params, i64 %begin, i64 %end)
  br label %next
next:
  %i1 = add i64 %i, 1
  %left = icmp slt i64 %i1, %count
  br i1 %left, label %step, label %out
out:
  ret void
}

; One call on the calling thread alone.
define void @evonnx_run(ptr %call) {
  call void @walk(ptr %call, ptr null, i64 0, i64 1)
  ret void
}

; One call by the whole team; the calling thread is number 0.
define void @evonnx_team_run(ptr %team, ptr %call) {
entry:
  %pcall = getelementptr i8, ptr %team, i64 $TEAM_CALL
  store ptr %call, ptr %pcall
  %pn = getelementptr i8, ptr %team, i64 $TEAM_THREADS
  %n = load i64, ptr %pn
  %pd = getelementptr i8, ptr %team, i64 $TEAM_DONE
  store atomic i32 0, ptr %pd monotonic, align 4
  %pe = getelementptr i8, ptr %team, i64 $TEAM_EPOCH
  %e = atomicrmw add ptr %pe, i32 1 seq_cst, align 4
  %pgs = getelementptr i8, ptr %team, i64 $TEAM_GO_SLEEPERS
  call void @wake(ptr %team, ptr %pe, ptr %pgs)
  call void @walk(ptr %call, ptr %team, i64 0, i64 %n)
  %pds = getelementptr i8, ptr %team, i64 $TEAM_DONE_SLEEPERS
  %psp = getelementptr i8, ptr %team, i64 $TEAM_SPINS
  %spins = load i64, ptr %psp
  %n32 = trunc i64 %n to i32
  %others = sub i32 %n32, 1
  br label %check
check:
  %d = load atomic i32, ptr %pd acquire, align 4
  %ready = icmp eq i32 %d, %others
  br i1 %ready, label %out, label %wait
wait:
  call void @await(ptr %team, ptr %pd, ptr %pds, i32 %d, i64 %spins)
  br label %check
out:
  ret void
}

; Life of thread %t: wait for a call, do its share, report, until told to quit.
define void @evonnx_worker(ptr %team, i64 %t) {
entry:
  %pe = getelementptr i8, ptr %team, i64 $TEAM_EPOCH
  %pgs = getelementptr i8, ptr %team, i64 $TEAM_GO_SLEEPERS
  %pd = getelementptr i8, ptr %team, i64 $TEAM_DONE
  %pds = getelementptr i8, ptr %team, i64 $TEAM_DONE_SLEEPERS
  %pn = getelementptr i8, ptr %team, i64 $TEAM_THREADS
  %n = load i64, ptr %pn
  %n32 = trunc i64 %n to i32
  %others = sub i32 %n32, 1
  %psp = getelementptr i8, ptr %team, i64 $TEAM_GO_SPINS
  %spins = load i64, ptr %psp
  br label %idle
idle:
  %seen = phi i32 [0, %entry], [%epoch, %done], [%epoch, %last]
  call void @await(ptr %team, ptr %pe, ptr %pgs, i32 %seen, i64 %spins)
  %epoch = load atomic i32, ptr %pe acquire, align 4
  %pq = getelementptr i8, ptr %team, i64 $TEAM_QUIT
  %q = load i64, ptr %pq
  %quit = icmp ne i64 %q, 0
  br i1 %quit, label %out, label %work
work:
  %pcall = getelementptr i8, ptr %team, i64 $TEAM_CALL
  %call = load ptr, ptr %pcall
  call void @walk(ptr %call, ptr %team, i64 %t, i64 %n)
  br label %done
done:
  %before = atomicrmw add ptr %pd, i32 1 seq_cst, align 4
  %mine = add i32 %before, 1
  %complete = icmp eq i32 %mine, %others
  br i1 %complete, label %last, label %idle
last:
  call void @wake(ptr %team, ptr %pd, ptr %pds)
  br label %idle
out:
  ret void
}

; Send the workers home.
define void @evonnx_team_quit(ptr %team) {
  %pq = getelementptr i8, ptr %team, i64 $TEAM_QUIT
  store i64 1, ptr %pq
  %pe = getelementptr i8, ptr %team, i64 $TEAM_EPOCH
  %e = atomicrmw add ptr %pe, i32 1 seq_cst, align 4
  %pgs = getelementptr i8, ptr %team, i64 $TEAM_GO_SLEEPERS
  call void @wake(ptr %team, ptr %pe, ptr %pgs)
  ret void
}
"""


class Driver:
    """The loaded driver: its functions as callables that release the interpreter lock."""

    def __init__(self, loader: Loader, futex: int) -> None:
        address = ctypes.c_size_t
        two, one = ctypes.CFUNCTYPE(None, address, address), ctypes.CFUNCTYPE(None, address)
        self.run: Any = one(loader.address("evonnx_run"))
        """``run(call address)``: one call on this thread."""
        self.team_run: Any = two(loader.address("evonnx_team_run"))
        """``team_run(team address, call address)``: one call by the team."""
        self.worker: Any = two(loader.address("evonnx_worker"))
        """``worker(team address, thread number)``: returns when the team is sent home."""
        self.team_quit: Any = one(loader.address("evonnx_team_quit"))
        """``team_quit(team address)``: sends the workers home."""
        self._spin: Any = two(loader.address("evonnx_spin"))
        self._loader = loader
        libc = ctypes.CDLL(None)
        self.syscall = ctypes.cast(libc.syscall, ctypes.c_void_p).value or 0 if futex else 0
        """Address of the C library's ``syscall``; 0 where there is no futex."""
        self.nanosleep = ctypes.cast(libc.nanosleep, ctypes.c_void_p).value or 0
        """Address of the C library's ``nanosleep``."""
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


def driver(cache: Any = None) -> Driver:
    """The process's driver, compiled (or read from ``cache``) and loaded at the first call.

    One per process: its code belongs to the machine, not to any model.
    """
    with _lock:
        if not _DRIVER:
            target = Target.detect()
            futex = futex_number()
            text = driver_ir(target, futex)
            _DRIVER.append(Driver(Loader([_object(text, target, cache)]), futex))
        return _DRIVER[0]


def _object(text: str, target: Target, cache: Any) -> bytes:
    if cache is None:
        return compile_ir_text(text, target)
    data: bytes = cache.fetch("evonnx_driver", text, target, lambda: compile_ir_text(text, target))
    return data
