"""What a measurement was made on: processor, memory, system and versions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("evonnx", "numba", "llvmlite", "numpy", "onnx", "onnxruntime", "openvino")


def _field(path: str, name: str) -> str:
    """Value of ``name : value`` in a /proc file; empty where there is none."""
    file = Path(path)
    if not file.is_file():
        return ""
    for line in file.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def version_of(package: str) -> str:
    """Installed version of a package, or 'not installed' (evonnx itself: run from its source)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def describe() -> dict[str, Any]:
    """Machine, versions and date as plain data."""
    flags = _field("/proc/cpuinfo", "flags").split()
    notable = [flag for flag in ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
               if flag in flags]  # fmt: skip
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "isa": notable,
        "cpus": cpus,
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def headline(threads: int) -> str:
    """Machine, versions, date and threads in one line, for the head of a table."""
    shown = [f"{name}: {value}" for name, value in describe().items() if name != "isa"]
    return ", ".join([*shown, f"threads {threads}"])
