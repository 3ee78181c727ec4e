"""A model file as its outline and its weights: weights are hashed in place and read when needed.

Nearly all bytes of a large model are the contents of its initializers (``raw_data``). A walk over
the outermost fields of the protobuf message finds them by their lengths, without reading them:

    ModelProto { graph = 7 { initializer = 5 { raw_data = 9 } ... } ... }

What is left without the large ones, with the lengths around them put right, is a model message of
its own, the *outline*, which protobuf parses in a fraction of the time. Contents are hashed piece
by piece on all cores, which gives the digest of the file and those of its constants in one go,
and are read straight into arrays of their own once something asks for them.

The walk decides nothing about validity. Where it meets anything but fields of known length in the
place and number that serializers write them, the outline is the whole message, and protobuf
judges it. Wire format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..ir.errors import ModelError, quote
from ..runtime.frame import aligned_empty
from ..runtime.seen import SeenFiles
from ..runtime.team import usable_cores

LARGE = 1 << 16
"""Contents of more bytes are left out of the outline; shape arithmetic looks at smaller ones."""
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW, _TENSOR_LOCATION = 7, 5, 9, 14
_VARINT, _FIXED64, _SIZED, _FIXED32 = 0, 1, 2, 5
_LONGEST = 10
"""Bytes of a varint at most."""
_WINDOW = 1 << 13
"""Bytes read at a time while the fields are walked over."""
_MOST_FIELDS = 1 << 20
"""Fields walked over at most: about a second."""
_PIECE = 1 << 18
"""Bytes hashed at a time: they are still in the second-level cache."""
_MOST_THREADS = 8


class _UnusualError(Exception):
    """The message is not laid out as the walk expects."""


@dataclass(frozen=True, slots=True)
class Contents:
    """``raw_data`` of an initializer that the outline leaves out."""

    initializer: int
    """Its position among those of the main graph."""
    begin: int
    size: int


class ModelFile:
    """A model's bytes: a file that stays open, or bytes in memory.

    A file is read by position, never mapped, so that one which is cut off meanwhile is an error,
    not a fault; one that was written to since it was opened is refused."""

    def __init__(self, model: str | os.PathLike[str] | bytes | bytearray | memoryview) -> None:
        """Raises ``ModelError`` for a file that cannot be opened."""
        self._descriptor = -1
        self._data: bytes | None = None
        self._info: os.stat_result | None = None
        self._walked = 0
        self.folder: Path | None = None
        """Where data files lie; None for bytes."""
        if isinstance(model, (bytes, bytearray, memoryview)):
            self.name, self._data = "the given bytes", bytes(model)
            self.size = len(self._data)
            return
        path = Path(model)
        self.name, self.folder = quote(path, 200), path.parent
        try:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self._info = os.fstat(self._descriptor)
            if not stat.S_ISREG(self._info.st_mode):  # a pipe can be read once only
                with open(self._descriptor, "rb", closefd=False) as file:
                    self._data = file.read()
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        self.size = self._info.st_size if self._data is None else len(self._data)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def digest(self, seen: SeenFiles | None = None) -> str:
        """SHA-256 of all content: of the outline and the digests of what it leaves out. A file that
        ``seen`` knows is not read. Raises ``ModelError``."""

        def compute() -> str:
            h = hashlib.sha256(hashlib.sha256(self.outline).digest())
            for contents in self.contents:
                h.update(f"{contents.initializer} {self.digests[contents]}".encode())
            return h.hexdigest()

        if seen is None or self._info is None or self._data is not None:
            return compute()
        return seen.digest("model outline and contents, SHA-256", [self._info], compute)

    @property
    def was_read(self) -> bool:
        """Whether the outline is known."""
        return "_split" in self.__dict__

    @property
    def outline(self) -> bytes:
        """The message without the contents of large initializers. Raises ``ModelError``."""
        return self._split[0]

    @property
    def contents(self) -> tuple[Contents, ...]:
        """What the outline leaves out, in order."""
        return self._split[1]

    @cached_property
    def digests(self) -> dict[Contents, str]:
        """SHA-256 of every entry of ``contents``. Raises ``ModelError``."""
        order = sorted(self.contents, key=lambda c: -c.size)
        threads = min(_MOST_THREADS, usable_cores(), len(order))
        if threads < 2:
            return {c: self._hash(c) for c in order}
        from concurrent.futures import ThreadPoolExecutor  # slow to import

        with ThreadPoolExecutor(threads, "evonnx-hash") as pool:
            return dict(zip(order, pool.map(self._hash, order), strict=True))

    def read(self, contents: Contents) -> np.ndarray:
        """The bytes in an array of their own (u8, aligned to cache lines), or in place where the
        model was given as bytes. Raises ``ModelError``."""
        if self._data is not None:
            return np.frombuffer(self._data, np.uint8, contents.size, contents.begin)
        array = aligned_empty((contents.size,), np.dtype(np.uint8))
        self._fill(memoryview(array.data), contents.begin)
        return array

    # -- reading ---------------------------------------------------------------------------

    def _fill(self, view: memoryview, at: int) -> None:
        """Reads as many bytes as ``view`` has; refuses a file that is not what it was."""
        try:
            assert self._info is not None
            now = os.fstat(self._descriptor)
            if (now.st_size, now.st_mtime_ns) != (self._info.st_size, self._info.st_mtime_ns):
                raise ModelError(f"the model {self.name} was changed while it was in use")
            while len(view):
                count = os.preadv(self._descriptor, [view], at)
                if count == 0:
                    raise ModelError(f"the model {self.name} was cut off while it was in use")
                view, at = view[count:], at + count
        except OSError as error:
            raise self._unreadable(error) from None

    def _bytes(self, begin: int, end: int) -> bytes:
        if self._data is not None:
            return self._data[begin:end]
        buffer = bytearray(end - begin)
        self._fill(memoryview(buffer), begin)
        return bytes(buffer)

    def _hash(self, contents: Contents) -> str:
        h = hashlib.sha256()
        end = contents.begin + contents.size
        if self._data is not None:
            h.update(memoryview(self._data)[contents.begin : end])
            return h.hexdigest()
        piece = memoryview(bytearray(min(_PIECE, contents.size)))
        for at in range(contents.begin, end, _PIECE):
            part = piece[: min(_PIECE, end - at)]
            self._fill(part, at)
            h.update(part)
        return h.hexdigest()

    def _unreadable(self, error: OSError | ValueError) -> ModelError:
        reason = getattr(error, "strerror", None) or error
        return ModelError(f"cannot read the model {self.name}: {reason}")

    # -- the walk --------------------------------------------------------------------------

    @cached_property
    def _split(self) -> tuple[bytes, tuple[Contents, ...]]:
        if self.size > LARGE:
            try:
                return self._walk()
            except _UnusualError:
                pass  # protobuf decides what to make of it
        return self._bytes(0, self.size), ()

    def _walk(self) -> tuple[bytes, tuple[Contents, ...]]:
        graphs = [f for f in self._fields(0, self.size) if f.number == _MODEL_GRAPH]
        if len(graphs) != 1 or graphs[0].kind != _SIZED:
            raise _UnusualError
        graph = graphs[0]
        found: list[Contents] = []
        parts: list[bytes] = []
        position, done = 0, graph.begin
        for field in self._fields(graph.begin, graph.end):
            if field.number != _GRAPH_INITIALIZER:
                continue
            if field.kind != _SIZED:
                raise _UnusualError
            raw = self._large_raw(field)
            if raw is not None:
                found.append(Contents(position, raw.begin, raw.end - raw.begin))
                rest = self._bytes(field.begin, raw.at) + self._bytes(raw.end, field.end)
                parts += self._bytes(done, field.at), _sized(_GRAPH_INITIALIZER, rest)
                done = field.end
            position += 1
        parts.append(self._bytes(done, graph.end))
        around = self._bytes(0, graph.at), self._bytes(graph.end, self.size)
        return around[0] + _sized(_MODEL_GRAPH, b"".join(parts)) + around[1], tuple(found)

    def _large_raw(self, tensor: _Field) -> _Field | None:
        """The field ``raw_data`` of a tensor that the outline leaves out."""
        if tensor.end - tensor.begin <= LARGE:
            return None
        raw = None
        for field in self._fields(tensor.begin, tensor.end):
            if field.number == _TENSOR_RAW:
                if raw is not None or field.kind != _SIZED:
                    raise _UnusualError
                raw = field
            elif field.number == _TENSOR_LOCATION:
                return None  # data outside: `external` sees to it
        return raw if raw is not None and raw.end - raw.begin > LARGE else None

    def _fields(self, at: int, end: int) -> Iterator[_Field]:
        """The fields of the message at ``[at, end)``."""
        window, base = b"", at

        def varint(at: int) -> tuple[int, int]:
            nonlocal window, base
            if at + _LONGEST > base + len(window):
                window, base = self._bytes(at, min(end, at + _WINDOW)), at
            value = 0
            for k, byte in enumerate(window[at - base : at - base + _LONGEST]):
                value |= (byte & 127) << 7 * k
                if byte < 128:
                    return value, at + k + 1
            raise _UnusualError  # too long, or cut off

        while at < end:
            self._walked += 1
            if self._walked > _MOST_FIELDS:
                raise _UnusualError
            tag, begin = varint(at)
            kind = tag & 7
            if kind == _SIZED:
                size, begin = varint(begin)
                stop = begin + size
            elif kind == _VARINT:
                _, stop = varint(begin)
            elif kind in (_FIXED32, _FIXED64):
                stop = begin + (8 if kind == _FIXED64 else 4)
            else:
                raise _UnusualError
            if stop > end:
                raise _UnusualError
            yield _Field(tag >> 3, kind, at, begin, stop)
            at = stop


def model_file(model: object) -> ModelFile:
    """The model at a path or in bytes; raises ``ModelError``, also for what is neither."""
    if not isinstance(model, (str, os.PathLike, bytes, bytearray, memoryview)):
        raise ModelError(f"a model is a path, bytes or a ModelProto, not {type(model).__name__}")
    return ModelFile(model)


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message."""

    number: int
    kind: int
    at: int
    """Where it starts, with its tag."""
    begin: int
    """Where its content starts."""
    end: int


def _sized(number: int, content: bytes) -> bytes:
    """A field of known length; its number is below 16."""
    length = bytearray()
    size = len(content)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | _SIZED]) + bytes(length) + content
