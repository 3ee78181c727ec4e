"""What LLVM says of this machine, kept on disk.

The key of every compiled program names the processor, its features and LLVM's version. LLVM alone
knows them, and it takes 40 MB of memory to ask it: more than many programs, and all for nothing
where code comes from the cache. So another process asks, and its answer is kept, under everything
that it follows from: what the system says of the first processor (its features there are those that
the system lets programs use), and LLVM's own file. Where the system says nothing of the processor,
LLVM is asked here, each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from contextlib import suppress
from functools import cache as memo
from importlib import util
from pathlib import Path

from ..ir import target
from ..ir.target import Processor
from .disk import DiskCache

_CPUINFO = Path("/proc/cpuinfo")
_ASK_S = 60.0
"""Seconds that another process may take to ask LLVM."""
_VARIES = ("processor", "cpu MHz", "bogomips", "BogoMIPS", "apicid", "initial apicid", "core id",
           "physical id", "siblings", "cpu cores", "cache size", "microcode")  # fmt: skip
"""Lines of /proc/cpuinfo that differ between processors of one kind, or from one moment to the
next."""


@memo
def version_of(package: str) -> str:
    """Version of an installed package; raises ``PackageNotFoundError``.

    The name of the folder that describes it tells it: ``importlib.metadata``, which reads the file
    inside, imports a parser of mails for that."""
    for name in sys.path:
        if found := _described(name).get(package):
            return found
    from importlib import metadata  # an installation of another kind

    return metadata.version(package)


@memo
def _described(folder: str) -> dict[str, str]:
    """Packages installed in a folder, with their versions."""
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return {}
    parts = [n.removesuffix(".dist-info").partition("-") for n in names if n.endswith(".dist-info")]
    return {package.lower(): version for package, _, version in parts}


_RECALLED: set[Path] = set()


class KnownMachine(DiskCache):
    """LLVM's answer on disk."""

    def __init__(self, folder: Path | str | None = None) -> None:
        super().__init__("machine", folder, 1 << 16)

    def recall(self) -> None:
        """Lets ``Target.detect`` use the answer from before; asks LLVM where there is none. Does
        nothing from the second time on."""
        if self.folder in _RECALLED:
            return
        _RECALLED.add(self.folder)
        key = _key()
        found = self._read(key) if key else None
        if found is not None:
            target.assume(found)
        elif key:
            target.assume(_asked())
            entry = json.dumps(target.processor()).encode()
            self.store(key, lambda out: out.write(_check(key, entry) + entry))

    def _read(self, key: bytes) -> Processor | None:
        file, _ = self.open(key)
        if file is None:
            return None
        with file:
            data = file.read(1 << 16)
        check, entry = data[:64], data[64:]
        return Processor(*json.loads(entry)) if check == _check(key, entry) else None


def _asked() -> Processor:
    """LLVM's answer to another process: this one would keep the memory."""
    if "llvmlite.binding" not in sys.modules:
        import subprocess

        from .workers import environment, interpreter

        code = "from package.ir.target import processor; print(json.dumps(processor()))"
        with suppress(OSError, ValueError, TypeError, subprocess.SubprocessError):
            done = subprocess.run(interpreter(code), capture_output=True, env=environment(),
                                  timeout=_ASK_S, check=True)  # fmt: skip
            return Processor(*json.loads(done.stdout))
    return target.processor()


def _check(key: bytes, entry: bytes) -> bytes:
    return hashlib.sha256(key + entry).hexdigest().encode()


def _key() -> bytes:
    """All that LLVM's answer follows from; empty where that is not known."""
    try:
        with open(_CPUINFO, encoding="ascii", errors="replace") as file:
            lines = file.read(1 << 14).split("\n\n", 1)[0].splitlines()
    except OSError:
        return b""
    told = [line for line in lines if line.split("\t", 1)[0].strip() not in _VARIES]
    found = util.find_spec("llvmlite")
    if found is None or found.origin is None:
        return b""
    binding = Path(found.origin).parent / "binding"
    library = next((e for e in os.scandir(binding) if e.name.startswith("libllvmlite")), None)
    if library is None:
        return b""
    info = library.stat()
    place = (library.path, info.st_size, info.st_mtime_ns)
    version = version_of("llvmlite")
    return "\n".join([*told, platform.machine(), platform.release(), version, str(place)]).encode()
