"""The object cache: compiled kernels on disk, found by the content they were made from.

An entry's file name is the SHA-256 of its full key text: symbol, instruction set, versions of
Python, Numba, llvmlite and LLVM, a digest of our own code generator, and the kernel source. The
file holds the key text again, which is compared, and a digest of the object, which is checked: an
entry that is cut off, altered or foreign counts as a miss and is written anew. Writing goes to a
temporary file that is renamed, so readers and writers in other processes never see half an entry.
A disk that is full or read-only costs the cache, never the compilation. A folder that other users
may write to is not trusted, since its content would be executed.

The folder is ``$EVONNX_CACHE``, else ``$XDG_CACHE_HOME/evonnx``, else ``~/.cache/evonnx``. When it
grows over its bound, the entries used longest ago are removed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache as memo
from importlib import metadata
from pathlib import Path

from ..ir.target import Target
from .forks import after_fork

_MAGIC = b"evonnx object 1\n"
_HEADER = struct.Struct("<QQ32s")
MAX_BYTES = 1 << 29
"""Default bound of the folder's size."""
_TOUCH_S = 3600.0
"""An entry's time of last use is noted at most this often."""


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


def default_folder() -> Path:
    """Where objects are kept; see the module."""
    if chosen := os.environ.get("EVONNX_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
    return root / "evonnx"


@memo
def toolchain() -> str:
    """Everything but source and target that an object depends on, as text."""
    import llvmlite.binding as llvm

    versions = [f"{name} {metadata.version(name)}" for name in ("numba", "llvmlite")]
    llvm_version = ".".join(map(str, llvm.llvm_version_info))
    python = f"{sys.implementation.name} {platform.python_version()}"
    return "\n".join([python, *versions, f"llvm {llvm_version}", f"kernels {_generator_digest()}"])


def _generator_digest() -> str:
    """Digest of the modules that turn kernel source into machine code."""
    from .. import kernels

    h = hashlib.sha256()
    root = Path(kernels.__file__).parent
    for path in sorted(root.rglob("*.py")):
        h.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return h.hexdigest()[:16]


def key_text(symbol: str, text: str, target: Target) -> str:
    """The full key of an object."""
    return f"symbol {symbol}\nisa {target.isa}\n{toolchain()}\n\n{text}"


class ObjectCache:
    """Objects on disk; safe for several threads and processes at once."""

    def __init__(self, folder: Path | str | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.folder = (Path(folder) if folder is not None else default_folder()) / "objects"
        """Where the entries lie."""
        self.max_bytes = max_bytes
        self._trusted: str | None = None
        self._written = 0
        self._lock = threading.Lock()
        after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def get(self, symbol: str, text: str, target: Target) -> tuple[bytes | None, str]:
        """The object, and how it was found; or None, and why not."""
        if problem := self._problem():
            return None, problem
        key = key_text(symbol, text, target).encode()
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                data = file.read()
                info = os.fstat(file.fileno())
        except FileNotFoundError:
            return None, "not in the cache"
        except OSError as error:
            return None, f"cannot read the entry: {error.strerror}"
        body, fault = _unwrap(data, key)
        if body is None:
            return None, fault
        if time.time() - info.st_mtime > _TOUCH_S:
            with suppress(OSError):  # a read-only cache still serves
                os.utime(path)
        return body, "cached"

    def put(self, symbol: str, text: str, target: Target, data: bytes) -> str:
        """Keep an object; returns "" or why it could not be kept."""
        if problem := self._problem():
            return problem
        key = key_text(symbol, text, target).encode()
        path = self._path(key)
        temporary: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            with os.fdopen(handle, "wb") as file:
                file.write(_wrap(key, data))
            os.replace(temporary, path)
            temporary = None
        except OSError as error:
            return f"cannot write to {self.folder}: {error.strerror}"
        finally:
            if temporary is not None:
                _remove(Path(temporary))
        with self._lock:
            self._written += len(data)
        return ""

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

    def clean(self) -> int:
        """Removes the entries used longest ago while the folder is over its bound, and what
        interrupted writers left; returns the number of files removed."""
        entries: list[tuple[float, int, Path]] = []
        removed = 0
        for path in self._files():
            try:
                info = path.stat()
            except OSError:
                continue
            if path.name.startswith(".new-"):
                if time.time() - info.st_mtime > _TOUCH_S:
                    removed += _remove(path)
                continue
            entries.append((info.st_mtime, info.st_size, path))
        total = sum(size for _, size, _ in entries)
        if total > self.max_bytes:
            for _, size, path in sorted(entries):
                if total <= self.max_bytes * 3 // 4:
                    break
                removed += _remove(path)
                total -= size
        return removed

    def clean_if_grown(self) -> None:
        """``clean``, but only if this object wrote anything since the last time."""
        with self._lock:
            grown, self._written = self._written, 0
        if grown:
            self.clean()

    def _files(self) -> list[Path]:
        try:
            folders = [p for p in self.folder.iterdir() if p.is_dir()]
            return [f for folder in folders for f in folder.iterdir()]
        except OSError:
            return []

    def _path(self, key: bytes) -> Path:
        name = hashlib.sha256(key).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _problem(self) -> str:
        """Why the folder must not be used, or "" if it may (or does not exist yet)."""
        if self._trusted is not None:
            return self._trusted
        problem = ""
        try:
            info = os.stat(self.folder)
        except FileNotFoundError:
            return ""
        except OSError as error:
            problem = f"cannot use {self.folder}: {error.strerror}"
        else:
            owner = getattr(os, "getuid", lambda: info.st_uid)()
            if info.st_uid not in (owner, 0):
                problem = f"{self.folder} belongs to another user"
            elif info.st_mode & stat.S_IWOTH:
                problem = f"{self.folder} may be written by everybody"
        self._trusted = problem
        return problem


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


def _remove(path: Path) -> int:
    try:
        path.unlink()
    except OSError:
        return 0
    return 1
