"""The team and its barriers under stress, callers side by side, fork, exit, interruption."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

from evonnx.runtime import team as teams
from evonnx.runtime.driver import driver
from evonnx.runtime.executable import Executable
from evonnx.runtime.team import Team, usable_cores


def rotation(m: Any, sources: Any, n: int = 96, length: int = 40) -> Any:
    """Steps that read what other threads wrote one step before; some of them serial."""
    at = m.input("x", (n,))
    for k in range(length):
        y = m.buffer((n,))
        serial = k % 7 == 3
        m.run(sources["rotate"], (at, y), (n, k + 1), n, flops=1 if serial else 10**9)
        at = y
    m.output("y", at)
    return m


def rotated(x: np.ndarray, length: int = 40) -> np.ndarray:
    for k in range(length):
        x = np.roll(x, -(k + 1)) + 1
    return x


@pytest.mark.parametrize(("threads", "calls"), [(1, 500), (2, 3000), (3, 100), (4, 100)])
def test_barriers_under_stress(
    maker: Any, cache: Any, sources: Any, threads: int, calls: int
) -> None:
    exe = Executable(
        rotation(maker, sources).program(), maker.constants, threads=threads, cache=cache
    )
    x = np.arange(96, dtype=np.float32)
    want = rotated(x)
    for i in range(calls):
        if i % 500 == 99:
            time.sleep(0.002)  # lets the workers park
        assert np.array_equal(exe.run({"x": x})["y"], want), i


def test_callers_side_by_side(maker: Any, cache: Any, sources: Any) -> None:
    """Eight Python threads: each gets its own answer, whether it had the team or not."""
    exe = Executable(rotation(maker, sources).program(), maker.constants, threads=2, cache=cache)
    wrong: list[Any] = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).integers(0, 1000, 96).astype(np.float32)
        want = rotated(x)
        for _ in range(150):
            got = exe.run({"x": x})["y"]
            if not np.array_equal(got, want):
                wrong.append((seed, got))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    assert not any(w.is_alive() for w in workers)
    assert not wrong


def test_a_busy_team_means_running_alone(maker: Any, cache: Any, sources: Any) -> None:
    exe = Executable(rotation(maker, sources).program(), maker.constants, threads=2, cache=cache)
    x = np.arange(96, dtype=np.float32)
    want = exe.run({"x": x})["y"]
    members = teams.team(2, driver())
    call = threading.Event()
    holder = weakref.ref(call)
    assert members.acquire(holder)
    assert np.array_equal(exe.run({"x": x})["y"], want)
    members.release(holder)


def test_a_call_that_was_interrupted_does_not_keep_the_team() -> None:
    members = teams.team(2, driver())
    call, following = threading.Event(), threading.Event()
    holders = weakref.ref(call), weakref.ref(following)
    assert members.acquire(holders[0])
    assert not members.acquire(holders[1])
    del call
    assert members.acquire(holders[1])
    members.release(holders[0])
    assert not members.acquire(weakref.ref(members))
    members.release(holders[1])


def test_without_futex(maker: Any, cache: Any, sources: Any, monkeypatch: Any) -> None:
    """Where the system has no futex, sleepers nap."""
    alone = Team(2, driver())
    alone._words[teams.native.TEAM_SYSCALL] = 0
    alone._words[teams.native.TEAM_SPINS] = alone._words[teams.native.TEAM_GO_SPINS] = 1
    monkeypatch.setattr("evonnx.runtime.executable.team", lambda *_: alone)
    exe = Executable(rotation(maker, sources).program(), maker.constants, threads=2, cache=cache)
    x = np.arange(96, dtype=np.float32)
    for _ in range(20):
        assert np.array_equal(exe.run({"x": x})["y"], rotated(x))
    alone.close()


def test_a_system_without_more_threads(
    maker: Any, cache: Any, sources: Any, monkeypatch: Any
) -> None:
    alone = Team(3, driver())
    started: list[Any] = []
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr("evonnx.runtime.executable.team", lambda *_: alone)
    exe = Executable(rotation(maker, sources).program(), maker.constants, threads=3, cache=cache)
    x = np.arange(96, dtype=np.float32)
    for _ in range(3):
        assert np.array_equal(exe.run({"x": x})["y"], rotated(x))
    started[0].join(5)
    assert not started[0].is_alive()


def test_teams_are_shared_and_end(maker: Any, cache: Any, sources: Any) -> None:
    members = teams.team(2, driver())
    assert teams.team(2, driver()) is members
    call = threading.Event()
    holder = weakref.ref(call)
    assert members.acquire(holder)
    members.release(holder)
    workers = list(members._workers)
    members.close()
    assert all(not w.is_alive() for w in workers)
    assert not members.acquire(holder)
    fresh = teams.team(2, driver())
    assert fresh is not members
    assert fresh.acquire(holder)
    workers = list(fresh._workers)
    fresh.release(holder)
    del fresh  # nobody holds the team: its workers leave by themselves
    for w in workers:
        w.join(5)
    assert all(not w.is_alive() for w in workers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork(maker: Any, cache: Any, sources: Any) -> None:
    exe = Executable(rotation(maker, sources).program(), maker.constants, threads=2, cache=cache)
    x = np.arange(96, dtype=np.float32)
    want = rotated(x)
    assert np.array_equal(exe.run({"x": x})["y"], want)
    lock_holder = exe._runner._bindings._lock
    with lock_holder:  # as if another thread were binding sizes at this moment
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            same = all(np.array_equal(exe.run({"x": x})["y"], want) for _ in range(50))
            members = exe._team
            alive = members is not None and members._started
            os._exit(0 if same and alive else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert np.array_equal(exe.run({"x": x})["y"], want)


SCRIPT = """
import sys, threading, time, weakref
import numpy as np
sys.path[:] = {path!r}
from evonnx.ir.graph import Constants
from evonnx.ir.types import F32, TensorType
from evonnx.runtime.cache import ObjectCache
from evonnx.runtime.executable import Executable
from evonnx.runtime.program import Buffer, KernelCode, KernelStep, Program

t = TensorType(F32, (4096,))
p = Program(
    (Buffer("x", t, "input"), Buffer("y", t, "output")),
    (KernelStep("k", (0, 1), (1024, 1, 1), 4, flops=10**9, n_outputs=1),),
    (("x", 0),), (("y", 1),), {{"k": KernelCode({source!r}, "k")}},
)
exe = Executable(p, Constants(), threads=2, cache=ObjectCache({folder!r}))
x = np.zeros(4096, np.float32)
exe.run({{"x": x}})
{tail}
"""


def run_script(cache: Any, sources: Any, tail: str, **more: Any) -> subprocess.Popen[str]:
    text = SCRIPT.format(
        path=sys.path, source=sources["affine"], folder=str(cache.folder.parent), tail=tail
    )
    return subprocess.Popen(
        [sys.executable, "-c", text], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    "tail",
    [
        "print('end')",
        "threading.Thread(target=lambda: [exe.run({'x': x}) for _ in iter(int, 1)], daemon=True)"
        ".start(); time.sleep(0.1); print('end')",
        "time.sleep(0.05); print('end'); sys.stdout.flush(); raise SystemExit(0)",
    ],
)
def test_the_interpreter_ends(cache: Any, sources: Any, tail: str) -> None:
    process = run_script(cache, sources, tail)
    out, err = process.communicate(timeout=30)
    assert out == "end\n"
    assert err == ""
    assert process.returncode == 0


def test_interrupted_calls(cache: Any, sources: Any) -> None:
    """Control-C between or during calls leaves a runtime that works."""
    tail = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind ignores it
print("ready", flush=True)
caught = 0
while caught < 20:
    try:
        while True:
            assert exe.run({"x": x})["y"][5] == 1
    except KeyboardInterrupt:
        caught += 1
        print("caught", flush=True)
call = threading.Event()
print("free" if exe._team.acquire(weakref.ref(call)) else "stuck", flush=True)
"""
    process = run_script(cache, sources, tail)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for _ in range(20):
        time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        if not select.select([process.stdout], [], [], 30)[0]:
            process.kill()
            pytest.fail("an interrupt was not answered")
        assert process.stdout.readline() == "caught\n"
    assert process.stdout.read() == "free\n"
    assert process.wait(30) == 0


def test_threads_default_to_the_usable_cores(maker: Any, cache: Any, sources: Any) -> None:
    program = rotation(maker, sources).program()
    assert Executable(program, maker.constants, cache=cache).threads == usable_cores()
    if hasattr(os, "sched_setaffinity"):
        cores = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(cores)})
            assert Executable(program, maker.constants, cache=cache).threads == 1
        finally:
            os.sched_setaffinity(0, cores)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        Executable(program, maker.constants, threads=0, cache=cache)
