"""Worker processes that take tasks one by one, each with a time limit; a dead one is replaced.

A task that kills or hangs its worker fails alone. Workers are spawned, so that they inherit no
threads and no state; after ``renew`` tasks a worker is replaced as well, which bounds what code
loaded into a process adds up to. Used by ``bench.conformance`` and ``bench.fuzz``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Work = Callable[[int], Any]
"""What a worker does with a task's number; the answer is pickled."""
Open = Callable[..., Work]
"""Called once in a worker, with the pool's arguments; importable by name."""

_READY_S = 300.0
"""Seconds a worker may take to start."""


@dataclass(frozen=True, slots=True)
class Dead:
    """What became of a task whose worker did not answer."""

    reason: str
    hung: bool
    """Whether it ran past the limit; else the process died."""


@dataclass(slots=True)
class _Slot:
    process: Any
    pipe: multiprocessing.connection.Connection
    task: int | None
    since: float
    done: int = 0


def _serve(connection: multiprocessing.connection.Connection, opener: Open, args: tuple[Any, ...]
           ) -> None:
    work = opener(*args)
    connection.send(None)
    while (task := connection.recv()) is not None:
        connection.send(work(task))


class Pool:
    """``count`` processes; ``opener(*args)`` makes each worker's function, ``limit_s`` is per task.

    ``renew``: tasks after which a worker is replaced; 0 for never.
    """

    def __init__(self, count: int, opener: Open, args: tuple[Any, ...] = (), limit_s: float = 120.0,
                 renew: int = 0) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._opener, self._args = opener, args
        self._limit_s, self._renew = limit_s, renew
        self._count = count

    def _start(self) -> _Slot:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._opener, self._args), daemon=True)
        process.start()
        theirs.close()
        return _Slot(process, ours, None, time.monotonic())

    def run(self, tasks: int) -> Iterator[tuple[int, Any]]:
        """(task, answer or ``Dead``) for tasks ``0..tasks - 1``, as they finish. Raises
        ``RuntimeError`` if a worker dies while it starts."""
        todo = iter(range(tasks))
        slots = [self._start() for _ in range(min(self._count, tasks))]
        try:
            while slots:
                ready = multiprocessing.connection.wait([s.pipe for s in slots], timeout=1.0)
                for k, slot in reversed(list(enumerate(slots))):
                    late = time.monotonic() - slot.since > self._limit(slot)
                    if slot.pipe not in ready and not late:
                        continue
                    task, answer = slot.task, self._answer(slot, late)
                    if task is None and isinstance(answer, Dead):
                        raise RuntimeError(f"a worker did not start: {answer.reason}")
                    if isinstance(answer, Dead) or (self._renew and slot.done >= self._renew):
                        _end(slot)
                        slots[k] = slot = self._start()
                    elif not self._give(slot, next(todo, None)):
                        slots.pop(k)
                    if task is not None:
                        yield task, answer
        finally:
            for slot in slots:
                slot.process.kill()
                slot.process.join()

    def _limit(self, slot: _Slot) -> float:
        return _READY_S if slot.task is None else self._limit_s

    def _answer(self, slot: _Slot, late: bool) -> Any:
        try:
            if late and not slot.pipe.poll():
                slot.process.kill()
                slot.process.join()
                return Dead(f"no answer within {self._limit(slot):.0f} s", hung=True)
            return slot.pipe.recv()
        except (EOFError, OSError):
            slot.process.join(5)
            return Dead(f"the process died ({slot.process.exitcode})", hung=False)

    def _give(self, slot: _Slot, task: int | None) -> bool:
        """Hands out the next task; False where there is none and the worker is done."""
        if task is None:
            _end(slot)
            return False
        slot.pipe.send(task)
        slot.task, slot.since = task, time.monotonic()
        slot.done += 1
        return True


def _end(slot: _Slot) -> None:
    with contextlib.suppress(OSError):
        slot.pipe.send(None)
    slot.process.join(5)
    if slot.process.is_alive():
        slot.process.kill()
        slot.process.join()
    slot.pipe.close()
