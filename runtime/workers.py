"""Worker processes, as who starts them sees them.

Another interpreter is started by ``python -c`` with the module search path of this one and nothing
else of it: a script needs no ``__main__`` guard, a notebook no file. It becomes several workers
(see ``worker``), each of which is a *lane* here: a pipe for jobs and one for answers.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import BinaryIO

from ..ir.errors import CompileError
from ..ir.target import Target
from .worker import ANSWER, READY, Job

_PACKAGE = __name__.rsplit(".", 2)[0]
_LAST_S = 1.0
"""How long workers that have nothing to do may take to end."""


def interpreter(code: str, *arguments: str) -> list[str]:
    """The command of a new interpreter with our module search path; ``code`` finds this package as
    ``package`` and ``arguments`` from ``sys.argv[2]`` on. Raises ``OSError`` where there is no
    interpreter to start."""
    if not sys.executable:
        raise OSError("no Python interpreter to start")
    begin = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    path = json.dumps([p or os.getcwd() for p in sys.path])
    return [sys.executable, "-c", begin + code.replace("package", _PACKAGE), path, *arguments]


def environment() -> dict[str, str]:
    """The environment of such an interpreter: no modules of the working directory, no threads of
    linear algebra, which nobody needs there."""
    return {**os.environ, "PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"}


class Lane:
    """One worker: answers one job at a time. Errors of the pipes are ``OSError``, ``EOFError`` and
    ``ValueError``."""

    def __init__(self, jobs: int, answers: int) -> None:
        """``jobs`` and ``answers``: file descriptors, ours from now on."""
        self._jobs: BinaryIO = open(jobs, "wb")  # noqa: SIM115  (see ``close``)
        self._answers: BinaryIO = open(answers, "rb")  # noqa: SIM115

    def await_ready(self) -> None:
        """Returns when the worker has imported the compiler."""
        if self._answers.read(len(READY)) != READY:
            raise EOFError("the worker did not start")

    def ask(self, job: Job) -> bytes | CompileError:
        """The object of a job, or what is wrong with it."""
        self._jobs.write(job.line())
        self._jobs.flush()
        ok, size = ANSWER.unpack(self._read(ANSWER.size))
        data = self._read(size)
        return data if ok else CompileError(data.decode("utf-8", "replace"))

    def _read(self, size: int) -> bytes:
        data = self._answers.read(size)
        if len(data) != size:
            raise EOFError("the worker ended")
        return data

    def close(self) -> None:
        """Ends the worker."""
        for file in (self._jobs, self._answers):
            with suppress(OSError):
                file.close()


class Workers:
    """``count`` workers that are one process and its children; raises ``OSError`` where it cannot
    be started."""

    def __init__(self, target: Target, count: int) -> None:
        jobs, answers = ([os.pipe() for _ in range(count)] for _ in range(2))
        theirs = [(j[0], a[1]) for j, a in zip(jobs, answers)]
        try:
            self.process = subprocess.Popen(
                interpreter("from package.runtime.worker import main; "
                            "main(sys.argv[2], json.loads(sys.argv[3]))",
                            str(target), json.dumps(theirs)),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[end for both in theirs for end in both], env=environment(),
                start_new_session=True,  # control-C is for this process; the end comes from here
            )  # fmt: skip
        except OSError:
            for end in (*(j[1] for j in jobs), *(a[0] for a in answers)):
                os.close(end)
            raise
        finally:
            for both in theirs:
                for end in both:
                    os.close(end)
        self.lanes = [Lane(j[1], a[0]) for j, a in zip(jobs, answers)]
        """The workers, each ready when it says so."""

    def stop(self, at_once: bool) -> None:
        """Returns when the processes have ended. Those whose lanes are closed do so by themselves,
        but for ``at_once``."""
        if not at_once:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_LAST_S)
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
