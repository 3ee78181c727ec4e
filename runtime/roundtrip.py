"""How far apart two CPUs are: the time of a word that goes to and fro between two pinned threads.

Cores that share a cache hand a word over in tens of nanoseconds, others in hundreds, and virtual
machines move from the ones to the others: a time of two threads is to be read beside this one.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable

import numpy as np

from ..ir.target import Target
from ..kernels.jit import compile_ir_text
from ..kernels.linker import load_objects

_PING = """
define void @evonnx_ping(ptr %word, i64 %mine, i64 %rounds) {
entry:
  br label %turn
turn:
  %i = phi i64 [0, %entry], [%i1, %pass]
  %twice = shl i64 %i, 1
  %wanted = add i64 %twice, %mine
  br label %spin
spin:
  %v = load atomic i64, ptr %word acquire, align 8
  %here = icmp eq i64 %v, %wanted
  br i1 %here, label %pass, label %spin
pass:
  %given = add i64 %wanted, 1
  store atomic i64 %given, ptr %word release, align 8
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %rounds
  br i1 %more, label %turn, label %out
out:
  ret void
}
"""
"""Waits until a word has the values ``mine``, ``mine + 2``, ... and makes each one larger."""


def round_trip(rounds: int = 5_000, times: int = 20) -> float:
    """Seconds in which a word goes to and fro between two threads on two CPUs, the least of
    ``times`` times. Raises ``RuntimeError`` where the process may use one CPU only."""
    clock = round_trips(rounds)
    return min(clock() for _ in range(times))


def round_trips(rounds: int) -> Callable[[], float]:
    """What answers the seconds of one of ``rounds`` round trips each time it is called. Raises as
    ``round_trip`` does."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if len(cpus) < 2:
        raise RuntimeError("two CPUs are needed, this process may use one")
    target = Target.detect()
    loader = load_objects([compile_ir_text(f'target triple = "{target.triple}"\n{_PING}', target)])
    kind = ctypes.CFUNCTYPE(None, ctypes.c_size_t, ctypes.c_int64, ctypes.c_int64)

    def side(word: int, mine: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpus[mine]})
        kind(loader.address("evonnx_ping"))(word, mine, rounds)

    def clock() -> float:
        words = np.zeros(16, np.int64)
        sides = [threading.Thread(target=side, args=(words.ctypes.data, k)) for k in range(2)]
        start = time.perf_counter()
        for thread in sides:
            thread.start()
        for thread in sides:
            thread.join()
        return (time.perf_counter() - start) / rounds

    return clock
