"""Digests of files that were read before: what has not changed is not read again.

A file is recognized by device, inode, size and its times of change to the nanosecond, as version
control systems do. A program cannot set the time of the last change of an inode (``ctime``), so
whatever writes to a file changes one of these, unless it does so within the resolution of the
clock: a file that changed a moment ago is not remembered. The digest itself is the key of other
caches; an entry here only saves the reading.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .disk import DiskCache

_SETTLED_NS = 2_000_000_000
"""Nanoseconds after its last change from which on a file is remembered; no clock of a file system
is coarser."""
_DIGITS = frozenset("0123456789abcdef")


class SeenFiles(DiskCache):
    """Digests on disk, by what the files are recognized by."""

    def __init__(self, folder: Path | str | None = None) -> None:
        super().__init__("digests", folder, 1 << 20)

    def digest(self, what: str, files: Iterable[os.stat_result], compute: Callable[[], str]) -> str:
        """``compute()``, a digest (hex) of the content of ``files``, which is called unless they
        were seen before. ``what`` says what is computed from them."""
        infos = list(files)
        places = [(f.st_dev, f.st_ino, f.st_size, f.st_mtime_ns, f.st_ctime_ns) for f in infos]
        key = f"{what}\n{places}".encode()
        file, _ = self.open(key)
        if file is not None:
            with file:
                text = file.read(256).decode("ascii", "replace")
            digest, _, check = text.partition(" ")
            if digest and set(digest) <= _DIGITS and check == _check(key, digest):
                return digest
        digest = compute()
        newest = max((max(f.st_mtime_ns, f.st_ctime_ns) for f in infos), default=0)
        if time.time_ns() - newest > _SETTLED_NS:
            entry = f"{digest} {_check(key, digest)}".encode()
            self.store(key, lambda out: out.write(entry))
            self.clean_if_grown()
        return digest


def _check(key: bytes, digest: str) -> str:
    return hashlib.sha256(key + digest.encode()).hexdigest()
