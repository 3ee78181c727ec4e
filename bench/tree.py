"""Memory of a process and all that it starts, as it goes (Linux).

A process of its own says what it takes by ``VmHWM``; of several, the largest sum at one time is
what counts, and pages that they share count once. So the whole tree is looked at every few
milliseconds while it runs. Of pages of its own, which ``fork`` shares within the tree alone, a
process has its proportional share (``Pss``: of a page that n processes map, an nth). Of pages of
files that would depend on who else maps them, strangers among them: of each piece of a file counts
what the process of the tree has in memory that has most of it.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_EVERY_S = 0.01
"""Time between two looks."""


class Watch:
    """Runs a command; ``peak`` is the most that its process tree took at one time, bytes."""

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
                self.peak = max(self.peak, resident(tree(process.pid)))
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


def resident(processes: Sequence[int]) -> int:
    """What some processes have in memory, shared pages once, bytes; 0 of one that is gone or not
    ours to see."""
    own, files = 0, dict[tuple[str, str], int]()
    for process in processes:
        try:
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
            maps = Path(f"/proc/{process}/smaps").read_text()
        except OSError:
            continue
        own += sum(int(kb) for kb in _OWN.findall(rollup)) * 1024
        for offset, path, rss, anonymous in _FILE.findall(maps):
            pages = (int(rss) - int(anonymous)) * 1024
            files[path, offset] = max(pages, files.get((path, offset), 0))
    return own + sum(files.values())


_OWN = re.compile(r"^Pss_(?:Anon|Shmem): +(\d+) kB", re.MULTILINE)
_FILE = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ ([0-9a-f]+) \S+ \d+ +(/.*)\n(?:[A-Z].*\n)*?"
                   r"Rss: +(\d+) kB\n(?:[A-Z].*\n)*?Anonymous: +(\d+) kB", re.MULTILINE)
"""A mapping of a file: offset, path, kB in memory, kB of these that are copies of its own."""
