"""Compiles one model in a fresh process and prints JSON:

    python -m evonnx.bench.coldstart MODEL.onnx THREADS FEEDS.npz

Times run from before ``import evonnx``'s work (the interpreter's own start is not ours) to the
finished callable.  The caller points the compile cache at an empty folder for the cold run and at
the same folder for the cached one.  Resident memory is read from /proc where there is one.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def status(field: str) -> int | None:
    """One size of /proc/self/status in bytes; None where the system has no such file."""
    path = Path("/proc/self/status")
    if not path.is_file():
        return None
    for line in path.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _memory(compiled: Any, feeds: Any) -> dict[str, int | None]:
    """Predicted and measured peak bytes of one call."""
    compiled.measure_memory(feeds)
    memory = compiled.report().to_dict()["memory"]
    return {name: memory[name] for name in ("predicted_peak", "measured_peak")}


def measure(model: str, threads: int, feeds_file: str) -> dict[str, Any]:
    """Compile once, run once; see the module docstring."""
    before = status("VmRSS")
    began = time.perf_counter()
    from .. import compile as compile_model

    imported = time.perf_counter()
    compiled = compile_model(model, threads=threads)
    done = time.perf_counter()
    from .jobs import load_feeds

    feeds = load_feeds(feeds_file)
    ready = time.perf_counter()
    compiled.run(None, feeds)
    ran = time.perf_counter()
    peak = status("VmHWM")
    return {
        "import": imported - began,
        "total": done - began,
        "first_run": ran - ready,
        "resident_growth": None if before is None or peak is None else peak - before,
        **_memory(compiled, feeds),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
