"""External tensor data: memory-mapped, and confined to the model's folder.

A tensor may keep its bytes in a file beside the model. The file name comes from the model, so it
is not trusted: the location is a plain relative path without ``..``; the folder is opened once by
its canonical path and every further component is opened relative to its parent with
``O_NOFOLLOW``, so no symbolic link is followed and no race can swap one in; the file must be a
regular file with a single name (a hard link could lead anywhere). Keys other than ``location``,
``offset``, ``length`` and ``checksum`` are refused. Offset and length must lie inside the file.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import ExternalDataError, quote
from ...ir.types import TensorType
from ..request import stamp

_KEYS = frozenset({"location", "offset", "length", "checksum"})
_EAGER_BYTES = 1 << 16
"""Tensors up to this size are read at once: shape arithmetic looks at them."""


@dataclass(slots=True)
class _File:
    """One mapped file."""

    identity: str
    """Canonical path, size and modification time: what a lazy digest stands on."""
    stamp: tuple[Any, ...]
    """Location below the folder, size, times, inode; see ``request.stamp``."""
    size: int
    data: mmap.mmap | None
    sha1: str | None = None


class ExternalFiles:
    """Data files of one model, each opened and mapped once."""

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self._folder = None if folder is None else Path(os.path.realpath(folder))
        self._files: dict[str, _File] = {}

    def tensor(
        self, name: str, entries: Mapping[str, str], type_: TensorType
    ) -> tuple[str, Callable[[], np.ndarray]]:
        """(digest, loader) of a tensor of a static ``type_`` stored as ``entries`` say.

        Everything is checked now; only the bytes are read later. Raises ``ExternalDataError``."""
        where = f"external data of tensor {quote(name)}"
        unknown = sorted(set(entries) - _KEYS)
        if unknown:
            raise ExternalDataError(
                f"{where}: unknown key {quote(unknown[0])}; known: {', '.join(sorted(_KEYS))}"
            )
        if not entries.get("location"):
            raise ExternalDataError(f"{where}: no location is given")
        file = self._open(entries["location"], where)
        stored = _stored_bytes(type_)
        offset = _number(entries.get("offset", "0"), "offset", where)
        length = _number(entries["length"], "length", where) if "length" in entries else stored
        if length != stored:
            raise ExternalDataError(f"{where}: length {length}, but {type_} takes {stored} bytes")
        if offset > file.size or length > file.size - offset:
            raise ExternalDataError(
                f"{where}: bytes {offset} to {offset + length} lie outside the file"
                f" {quote(entries['location'])} of {file.size} bytes"
            )
        if "checksum" in entries:
            _verify(file, entries["checksum"], where)

        def load() -> np.ndarray:
            return _view(file, offset, length, type_)

        key = f"{file.identity}|{offset}|{length}|{type_}"
        return hashlib.sha256(key.encode()).hexdigest()[:40], load

    def stamps(self) -> list[tuple[Any, ...]]:
        """What the files opened so far are recognized by; see ``request.stamp``."""
        return [file.stamp for file in self._files.values()]

    def _open(self, location: str, where: str) -> _File:
        found = self._files.get(location)
        if found is not None:
            return found
        if self._folder is None:
            raise ExternalDataError(
                f"{where} is in {quote(location)}, but the model was given without a file path;"
                " pass the path of the model file"
            )
        parts = _components(location, where)
        fd = _descend(self._folder, parts, location, where)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise ExternalDataError(f"{where}: {quote(location)} is not a regular file")
            if info.st_nlink > 1:
                raise ExternalDataError(
                    f"{where}: {quote(location)} is a hard link ({info.st_nlink} names); copy it"
                )
            data = mmap.mmap(fd, 0, access=mmap.ACCESS_READ) if info.st_size else None
        finally:
            os.close(fd)
        path = self._folder.joinpath(*parts)
        identity = f"{path}|{info.st_size}|{info.st_mtime_ns}|{info.st_ino}"
        file = _File(identity, stamp("/".join(parts), info), info.st_size, data)
        self._files[location] = file
        return file


def eager(type_: TensorType) -> bool:
    """Whether a tensor is small enough to be read while the model is imported."""
    size = type_.nbytes()
    return isinstance(size, int) and size <= _EAGER_BYTES


def _components(location: str, where: str) -> list[str]:
    if "\0" in location or "\\" in location:
        raise ExternalDataError(f"{where}: location {quote(location)} is not a plain path")
    if location.startswith("/") or os.path.isabs(location):
        raise ExternalDataError(f"{where}: location {quote(location)} is an absolute path")
    parts = [p for p in location.split("/") if p not in ("", ".")]
    if ".." in parts:
        raise ExternalDataError(f"{where}: location {quote(location)} leaves the model's folder")
    if not parts or len(parts) > 64:
        raise ExternalDataError(f"{where}: location {quote(location)} does not name a file")
    return parts


def _descend(folder: Path, parts: list[str], location: str, where: str) -> int:
    """Opens ``folder/parts`` without following a link below ``folder``; the caller closes."""
    directory = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    fd = -1
    try:
        fd = os.open(folder, directory)
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            # O_NONBLOCK: opening a named pipe must not wait for its other end.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC if last else directory
            step = os.open(part, flags | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = step
        return fd
    except (OSError, ValueError) as error:
        if fd >= 0:
            os.close(fd)
        path = folder.joinpath(*parts)
        reason = (
            "is or passes a symbolic link"
            if _has_link(folder, parts)
            else (getattr(error, "strerror", None) or str(error))
        )
        raise ExternalDataError(
            f"{where}: cannot open {quote(location)} in {quote(path.parent, 200)}: {reason}"
        ) from None


def _has_link(folder: Path, parts: list[str]) -> bool:
    path = folder
    for part in parts:
        path = path / part
        if os.path.islink(path):
            return True
    return False


def _number(text: str, what: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise ExternalDataError(f"{where}: {what} {quote(text)} is not a size in bytes")
    return int(text)


def _stored_bytes(type_: TensorType) -> int:
    n = type_.numel()
    assert isinstance(n, int)
    return (n * type_.dtype.bits + 7) // 8


def _verify(file: _File, checksum: str, where: str) -> None:
    if file.sha1 is None:
        file.sha1 = hashlib.sha1(file.data or b"", usedforsecurity=False).hexdigest()
    if file.sha1 != checksum.lower():
        raise ExternalDataError(
            f"{where}: checksum {quote(checksum)} does not match the file's SHA-1 {file.sha1}"
        )


def _view(file: _File, offset: int, length: int, type_: TensorType) -> np.ndarray:
    from .tensors import from_bytes

    raw = memoryview(file.data)[offset : offset + length] if file.data is not None else b""
    return from_bytes(raw, type_)
