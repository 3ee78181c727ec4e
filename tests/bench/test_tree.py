"""Memory of a process tree: children count, and what they share counts once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evonnx.bench.tree import Watch, resident, tree

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the system does not say"
)
LARGE = 64 << 20


def test_a_child_counts_and_a_shared_page_once() -> None:
    both = (
        "import os, time\n"
        f"data = bytearray(b'x') * {LARGE}\n"
        "if not os.fork():\n"
        "    {}\n"
        "    time.sleep(0.3)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    shared = Watch([sys.executable, "-c", both.format("pass")], 60, dict(os.environ))
    apart = Watch([sys.executable, "-c", both.format(f"more = bytearray(b'x') * {LARGE}")], 60,
                  dict(os.environ))  # fmt: skip
    assert shared.returncode == apart.returncode == 0
    assert LARGE < shared.peak < 2 * LARGE
    assert 2 * LARGE < apart.peak < 3 * LARGE


def test_what_ends_and_what_does_not() -> None:
    done = Watch([sys.executable, "-c", "import sys; print(1); sys.exit('no')"], 60, {})
    assert (done.output.strip(), done.errors.strip(), done.returncode) == ("1", "no", 1)
    assert os.getpid() in tree(os.getppid())
    assert resident([2**22 + 1]) == 0
    with pytest.raises(subprocess.TimeoutExpired):
        Watch([sys.executable, "-c", "import time; time.sleep(60)"], 0.2, {})


def test_of_one_process_it_is_what_the_system_says() -> None:
    found = resident([os.getpid()])
    status = Path("/proc/self/status").read_text()
    (said,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    assert abs(found - said * 1024) < 0.02 * found
