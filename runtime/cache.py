"""The object cache: compiled kernels on disk, found by the content they were made from.

The key text of an entry is its symbol, the instruction set, the versions of Python, llvmlite and
LLVM, a digest of our own code generator, and the kernel source. The file holds the key text
again, which is compared, and a digest of the object, which is checked: an entry that is cut off,
altered or foreign counts as a miss and is written anew. How entries lie on disk: ``disk``.
"""

from __future__ import annotations

import hashlib
import os
import platform
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache as memo
from pathlib import Path

from ..ir.target import Target, processor
from .disk import DiskCache
from .machine import version_of
from .seen import SeenFiles

_MAGIC = b"evonnx object 1\n"
_HEADER = struct.Struct("<QQ32s")
MAX_BYTES = 1 << 29
"""Default bound of the folder's size."""


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """What happened to one object, for the report."""

    symbol: str
    hit: bool
    reason: str
    """Why it was a miss, or how it was found."""
    seconds: float
    """Time it took to read or to compile."""
    nbytes: int
    """Size of the object."""


@memo
def toolchain() -> str:
    """Everything but source and target that an object depends on, as text."""
    python = f"{sys.implementation.name} {platform.python_version()}"
    own = f"kernels {code_digest('kernels')}"
    llvm = f"llvmlite {version_of('llvmlite')}\nllvm {processor().llvm}"
    return "\n".join([python, llvm, own])


_DIGESTS: dict[tuple[str, ...], str] = {}


def code_digest(*rooms: str, seen: SeenFiles | None = None) -> str:
    """Digest of the source of some rooms of this package, found once per process; ``seen`` may
    know it from before."""
    if rooms not in _DIGESTS:
        root = Path(__file__).resolve().parent.parent
        files = [file for room in rooms for file in sorted(_sources(root / room, room))]

        def read() -> str:
            h = hashlib.sha256()
            for name, _ in files:
                h.update(name.encode() + b"\0" + (root / name).read_bytes())
            return h.hexdigest()[:16]

        if seen is None:
            _DIGESTS[rooms] = read()
        else:
            names = "\n".join(name for name, _ in files)
            infos = [info for _, info in files]
            _DIGESTS[rooms] = seen.digest(f"source\n{names}", infos, read)
    return _DIGESTS[rooms]


def _sources(folder: str | Path, name: str) -> Iterator[tuple[str, os.stat_result]]:
    """Source files in a folder and those below, with what the system says of them."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _sources(entry.path, f"{name}/{entry.name}")
            elif entry.name.endswith((".py", ".ll")):
                yield f"{name}/{entry.name}", entry.stat()


def key_text(symbol: str, text: str, target: Target) -> str:
    """The full key of an object."""
    return f"symbol {symbol}\nisa {target.isa}\n{toolchain()}\n\n{text}"


class ObjectCache(DiskCache):
    """Objects on disk; safe for several threads and processes at once."""

    def __init__(self, folder: Path | str | None = None, max_bytes: int = MAX_BYTES) -> None:
        super().__init__("objects", folder, max_bytes)

    def get(self, symbol: str, text: str, target: Target) -> tuple[bytes | None, str]:
        """The object, and how it was found; or None, and why not."""
        key = key_text(symbol, text, target).encode()
        file, why = self.open(key)
        if file is None:
            return None, why
        try:
            with file:
                data = file.read()
        except OSError as error:
            return None, f"cannot read the entry: {error.strerror}"
        body, fault = _unwrap(data, key)
        return (None, fault) if body is None else (body, "cached")

    def has(self, symbol: str, text: str, target: Target) -> bool:
        """Whether there is an entry, sound or not."""
        key = key_text(symbol, text, target).encode()
        return not self.problem() and self.path(key).is_file()

    def put(self, symbol: str, text: str, target: Target, data: bytes) -> str:
        """Keep an object; returns "" or why it could not be kept."""
        key = key_text(symbol, text, target).encode()
        return self.store(key, lambda file: file.write(_wrap(key, data)))

    def fetch(
        self,
        symbol: str,
        text: str,
        target: Target,
        compile_: Callable[[], bytes],
        records: list[CacheRecord] | None = None,
    ) -> bytes:
        """The object from the cache, or compiled and kept; appends a record of which."""
        start = time.perf_counter()
        data, reason = self.get(symbol, text, target)
        hit = data is not None
        if data is None:
            data = compile_()
            if fault := self.put(symbol, text, target, data):
                reason = f"{reason}; {fault}" if fault != reason else reason
        if records is not None:
            seconds = time.perf_counter() - start
            records.append(CacheRecord(symbol, hit, reason, seconds, len(data)))
        return data


def _wrap(key: bytes, data: bytes) -> bytes:
    header = _HEADER.pack(len(key), len(data), hashlib.sha256(data).digest())
    return _MAGIC + header + key + data


def _unwrap(entry: bytes, key: bytes) -> tuple[bytes | None, str]:
    """The object inside an entry, or None and what is wrong with the entry."""
    start = len(_MAGIC) + _HEADER.size
    if len(entry) < start or not entry.startswith(_MAGIC):
        return None, "the entry is damaged (bad header)"
    key_size, size, digest = _HEADER.unpack_from(entry, len(_MAGIC))
    if len(entry) != start + key_size + size:
        return None, "the entry is damaged (cut off)"
    if entry[start : start + key_size] != key:
        return None, "the entry belongs to another key"
    data = entry[start + key_size :]
    if hashlib.sha256(data).digest() != digest:
        return None, "the entry is damaged (digest differs)"
    return data, ""
