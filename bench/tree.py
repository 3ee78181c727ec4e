"""Memory of a process and all that it starts, as it goes (Linux).

A process of its own says what it takes by ``VmHWM``; of several, the largest sum at one time is
what counts, and pages that they share count once. So the proportional set size (``Pss``: a page
that n processes map is an nth of a page for each) of the whole tree is looked at every few
milliseconds while it runs.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_EVERY_S = 0.01
"""Time between two looks."""


class Watch:
    """Runs a command; ``peak`` is the largest sum of ``Pss`` of its process tree, bytes."""

    def __init__(self, command: Sequence[str], timeout: float, env: dict[str, str]) -> None:
        """Raises ``subprocess.TimeoutExpired``."""
        self.peak = 0
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        ) as process:
            end = time.monotonic() + timeout
            while process.poll() is None:
                if time.monotonic() > end:
                    process.kill()
                    raise subprocess.TimeoutExpired(command, timeout)
                self.peak = max(self.peak, sum(map(pss, tree(process.pid))))
                time.sleep(_EVERY_S)
            self.output, self.errors = process.communicate()
            self.returncode = process.returncode


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                after_name = (entry / "stat").read_text().rpartition(")")[2]
            except OSError:
                continue
            parents[int(entry.name)] = int(after_name.split()[1])
    found = {root}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def pss(process: int) -> int:
    """Proportional set size of a process, bytes; 0 where it is gone or not ours to see."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
