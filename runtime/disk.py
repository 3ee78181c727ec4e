"""A folder of content-addressed entries, shared by processes and bounded in size.

An entry's file name is the SHA-256 of its full key text. Writing goes to a temporary file that is
renamed, so readers and writers in other processes never see half an entry. A disk that is full or
read-only costs the entry, never the work it would save. A folder that other users may write to is
not trusted, since machine code lies in it. When the folder grows over its bound, the entries used
longest ago are removed.

The root is ``$EVONNX_CACHE``, else ``$XDG_CACHE_HOME/evonnx``, else ``~/.cache/evonnx``.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from .forks import after_fork

TOUCH_S = 3600.0
"""An entry's time of last use is noted at most this often."""
PARTS = 16
"""The folder is looked through when a part of the bound has been written."""


def default_folder() -> Path:
    """Where caches are kept; see the module."""
    if chosen := os.environ.get("EVONNX_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
    return root / "evonnx"


class DiskCache:
    """Entries of one kind on disk; safe for several threads and processes at once."""

    def __init__(self, kind: str, folder: Path | str | None, max_bytes: int) -> None:
        self.folder = (Path(folder) if folder is not None else default_folder()) / kind
        """Where the entries lie."""
        self.max_bytes = max_bytes
        """Size from which on ``clean`` removes entries."""
        self._trusted: str | None = None
        self._written = 0
        self._lock = threading.Lock()
        after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def path(self, key: bytes) -> Path:
        """The file of the entry with this key."""
        name = hashlib.sha256(key).hexdigest()
        return self.folder / name[:2] / name[2:]

    def problem(self) -> str:
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

    def open(self, key: bytes) -> tuple[BinaryIO | None, str]:
        """The entry's file opened for reading, or None and why there is none."""
        if problem := self.problem():
            return None, problem
        path = self.path(key)
        try:
            file = open(path, "rb")  # noqa: SIM115  (handed to the caller)
        except FileNotFoundError:
            return None, "not in the cache"
        except OSError as error:
            return None, f"cannot read the entry: {error.strerror}"
        if time.time() - os.fstat(file.fileno()).st_mtime > TOUCH_S:
            with suppress(OSError):  # a read-only cache still serves
                os.utime(path)
        return file, ""

    def store(self, key: bytes, write: Callable[[BinaryIO], int]) -> str:
        """Keeps what ``write(file)`` writes (it answers the bytes); returns "" or why it could
        not be kept."""
        if problem := self.problem():
            return problem
        import tempfile  # only who writes needs it, and it imports much

        path = self.path(key)
        temporary: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
            with os.fdopen(handle, "wb") as file:
                written = write(file)
            os.replace(temporary, path)
            temporary = None
        except OSError as error:
            return f"cannot write to {self.folder}: {error.strerror}"
        finally:
            if temporary is not None:
                _remove(Path(temporary))
        with self._lock:
            self._written += written
        return ""

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
                if time.time() - info.st_mtime > TOUCH_S:
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
        """``clean``, but only once a part of the bound has been written since the last time, by
        this process or others: looking at thousands of entries takes longer than compiling one.
        A file beside the folder counts; processes that write it at once may lose a little."""
        with self._lock:
            grown, self._written = self._written, 0
        if not grown:
            return
        counter = self.folder.with_suffix(".grown")
        try:
            grown += int(counter.read_text("ascii"))
        except (OSError, ValueError):
            grown = self.max_bytes  # nobody knows
        if grown * PARTS >= self.max_bytes:
            self.clean()
            grown = 0
        with suppress(OSError):
            counter.write_text(str(grown), "ascii")

    def _files(self) -> list[Path]:
        try:
            folders = [p for p in self.folder.iterdir() if p.is_dir()]
            return [f for folder in folders for f in folder.iterdir()]
        except OSError:
            return []


def _remove(path: Path) -> int:
    try:
        path.unlink()
    except OSError:
        return 0
    return 1
