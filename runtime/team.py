"""Thread teams: long-lived Python threads that live inside the native driver.

A team of ``n`` is the calling thread and ``n - 1`` workers. A worker is a daemonic Python thread
whose whole life is one native call that holds no interpreter lock: it spins for a moment, sleeps,
and wakes when a call comes (see ``driver``). Teams are shared by all executables of a process that
use the same number of threads, since one machine has one set of cores. A team serves one call at a
time; a caller who finds it busy runs alone, on its own arena, over the same tiles, so results are
the same bits. The workers are started at the first call that needs them.

After a fork the child has none of the parent's threads: teams are marked dead there and made anew
at need. At exit the workers are sent home before the interpreter goes.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import time
import weakref
from typing import Any

import numpy as np

from ..ir.target import Target
from . import driver as native
from .driver import Driver
from .forks import call_after_fork
from .frame import Block, data_address

_BARRIER_SPIN_S = 40e-6
"""How long a thread spins at a barrier before it sleeps."""
_IDLE_SPIN_S = 60e-6
"""How long a worker spins for the next call before it parks."""
_PATIENCE_S = 5e-6
"""How long a thread leaves the rest of another's part to it."""


def usable_cores() -> int:
    """Cores this process may use now: affinity mask and cgroup quota."""
    return Target.detect().cores


def _for_ever(words: int) -> tuple[np.ndarray, int]:
    """Zeroed int64 words that begin a cache line, and their address. Workers read them until the
    process ends, which is after the interpreter freed its objects: they are never freed."""
    raw = np.zeros(words + 2 * native.LINE, np.int64)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(raw))
    skip = (-raw.ctypes.data // 8) % (2 * native.LINE)
    kept = raw[skip : skip + words]
    return kept, int(kept.ctypes.data)


Holder = weakref.ref[Any]
"""Refers to the call that has the team."""


class Team:
    """``threads`` threads that run driver calls together; made by ``team``."""

    def __init__(self, threads: int, driver: Driver) -> None:
        self.threads = threads
        """Number of threads, the caller's included."""
        self.dead = False
        """Whether the process was forked since (or is ending): the workers do not exist."""
        self._holder: dict[int, Holder] = {}
        self._lock = threading.Lock()
        self._driver = driver
        self._started = False
        self._workers: list[threading.Thread] = []
        self._words, self.address = _for_ever(native.TEAM_WORDS)
        """Address of the team block."""
        self.places = 0
        """Units that have claim words of their own."""
        self._kept: dict[int, Any] = {}
        self._words[native.TEAM_THREADS] = threads
        # More threads than cores: the one that is waited for needs the waiter's core.
        crowded = threads > usable_cores()
        self._words[native.TEAM_SPINS] = 1 if crowded else driver.rounds(_BARRIER_SPIN_S)
        self._words[native.TEAM_GO_SPINS] = 1 if crowded else driver.rounds(_IDLE_SPIN_S)
        self._words[native.TEAM_PATIENCE] = 1 if crowded else driver.rounds(_PATIENCE_S)
        self._words[native.TEAM_SYSCALL] = driver.syscall
        self._words[native.TEAM_NAP] = driver.nanosleep
        self._words[native.TEAM_NAP_TIME + 1] = 50_000
        # Numbers start at 1, so that words that are 0 belong to a unit or phase before the first.
        self._words[native.TEAM_NEXT_UNIT] = self._words[native.TEAM_NEXT_PHASE] = 1
        self._widen(16)

    def _widen(self, places: int) -> None:
        """Give ``places`` units claim words of their own (a power of two)."""
        _, address = _for_ever(places * self.threads * native.CLAIM_BYTES // 8)
        self._words[native.TEAM_RING] = address
        self.places = places

    def run(self, block: Block) -> None:
        """One call by the team, which the caller must hold."""
        self._make_room(block)
        self._keep(block, self._driver.team_run(self.address, block.address))

    def repeat(self, block: Block, words: np.ndarray) -> int:
        """One call again and again, as the ``REPEAT_`` words say (see ``driver``); answers how
        often."""
        self._make_room(block)
        done: int = self._driver.repeat(self.address, block.address, data_address(words))
        self._keep(block, int(words[native.REPEAT_ACTIVE]))
        return done

    def _make_room(self, block: Block) -> None:
        if block.table.shape.places > self.places:
            self._widen(block.table.shape.places)

    def _keep(self, block: Block, active: int) -> None:
        """``active`` workers on their way out may still read the block."""
        if active:
            self._kept[block.address] = block
        elif self._kept:
            self._kept.clear()

    def acquire(self, holder: Holder) -> bool:
        """Take the team for one call; False if it is busy, dead or cannot start threads.

        ``holder`` refers to an object that lives as long as the call. Taking the team is one
        dictionary operation, so an interrupt (control-C) comes before or after it; one that
        strikes before the team is given back leaves a holder whose object is gone, and the next
        call takes the team from it.
        """
        if self.dead:
            return False
        found = self._holder.setdefault(0, holder)
        if found is not holder:
            if found() is not None:
                return False
            with self._lock:
                if self._holder.get(0) is found:
                    del self._holder[0]
            if self._holder.setdefault(0, holder) is not holder:
                return False
        if not self._started and not self._start():
            self.release(holder)
            return False
        return True

    def release(self, holder: Holder) -> None:
        """Give the team back, if ``holder`` has it."""
        if self._holder.get(0) is holder:
            del self._holder[0]

    def _start(self) -> bool:
        for number in range(1, self.threads):
            worker = threading.Thread(
                target=self._driver.worker, args=(self.address, number),
                name=f"evonnx-{number}", daemon=True,
            )  # fmt: skip
            try:
                worker.start()
            except RuntimeError:  # the system gives no more threads: nobody waits for the others
                self._driver.team_quit(self.address)
                self.dead = True
                return False
            self._workers.append(worker)
        weakref.finalize(self, self._driver.team_quit, self.address).atexit = False
        self._started = True
        return True

    def close(self) -> None:
        """Send the workers home and wait a moment for them; later calls run alone."""
        closing = _Call()
        holder = weakref.ref(closing)
        started = self._started
        for _ in range(100):
            if not started or self.acquire(holder):
                break
            time.sleep(0.01)
        else:
            return  # a call is running in a thread that the interpreter will not wait for
        self.dead = True
        if started:
            self._driver.team_quit(self.address)
            for worker in self._workers:
                worker.join(timeout=1.0)
            self._started = False
        self.release(holder)


class _Call:
    """Something to hold a team with."""


_TEAMS: weakref.WeakValueDictionary[int, Team] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def team(threads: int, driver: Driver) -> Team:
    """The process's team of ``threads``; it lives as long as somebody holds it."""
    with _lock:
        found = _TEAMS.get(threads)
        if found is None or found.dead:
            found = _TEAMS[threads] = Team(threads, driver)
        return found


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for member in list(_TEAMS.values()):
        member.dead = True
        member._lock = threading.Lock()
    for key in list(_TEAMS.keys()):
        _TEAMS.pop(key, None)


def _at_exit() -> None:
    for member in list(_TEAMS.values()):
        member.close()


call_after_fork(_in_child)
atexit.register(_at_exit)
