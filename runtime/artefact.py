r"""A compiled program as one file: program, machine code, packed constants.

    evonnx artefact 5\n | head bytes: u64 | SHA-256 of the head | head | blobs

The head is JSON: the caller's key text and notes, the program (sizes as numbers or the text of
``ir.dims``, types and attributes in the words of the IR text), and where each blob lies. Blobs are
machine code, each with its SHA-256, and constants, each with a checksum (the exclusive or and the
sum of its 64-bit words), at multiples of 64 bytes, so that constants are used where the file is
mapped: processes share their pages, and reading costs nothing but the check. A file may hold
constants that its program does not read (those of the graph it came from): they are looked at only
when somebody asks for them. Reading executes nothing; whether the file may be trusted to hold
machine code is the caller's to know.

The number in the first line is that of the format, which covers what the program's words mean and
how kernels are called: a file of another number is refused.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO

import numpy as np

from ..ir.arrays import array_bytes, array_of_bytes
from ..ir.dim_parser import parse_dim
from ..ir.dims import Dim, Expr
from ..ir.errors import ArtefactError, EvonnxError, quote
from ..ir.parser import parse_attr, parse_type
from ..ir.text import attr_text
from ..ir.types import DType, Type
from .constants import Key
from .plan import ALIGN
from .program import (
    BindStep,
    Buffer,
    ConstSpec,
    ControlStep,
    HostStep,
    IndexRange,
    KernelCode,
    KernelStep,
    Program,
    SizeCheck,
    Step,
)  # fmt: skip

_NAME = b"evonnx artefact "
_MAGIC = _NAME + b"5\n"
_START = struct.Struct("<Q32s")
_MAX_HEAD = 1 << 28
_BLOCK = 1 << 16
"""Words of a checksum that are read at a time: half a megabyte."""
_TEXTS = 1 << 12
"""Parsed texts that are kept: the same sizes and types come hundreds of times in one program."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """What a file held."""

    key: str
    """The key text it was written under."""
    notes: Mapping[str, Any]
    """The writer's own plain values."""
    program: Program
    objects: dict[str, bytes]
    """Machine code by symbol."""
    constants: dict[Key, np.ndarray]
    """Packed constants; views of the mapped file, read-only."""


def write_artefact(
    file: BinaryIO, key: str, notes: Mapping[str, Any], program: Program,
    objects: Mapping[str, bytes], constants: Mapping[Key, np.ndarray],
) -> int:
    """Writes an artefact to an empty file; returns its bytes."""
    blobs: list[Any] = []
    at = 0

    def place(data: Any, nbytes: int) -> int:
        nonlocal at
        blobs.append((at, data))
        start, at = at, -(-(at + nbytes) // ALIGN) * ALIGN
        return start

    code = [[symbol, place(data, len(data)), len(data), hashlib.sha256(data).hexdigest()]
            for symbol, data in objects.items()]
    packed = []
    for (digest, transform), array in constants.items():
        raw = array_bytes(array)
        packed.append([digest, transform, DType.of(array.dtype).name, list(array.shape),
                       place(raw, raw.nbytes), raw.nbytes, _checksum(raw)])
    head = json.dumps({
        "key": key, "notes": dict(notes), "program": _program_out(program), "objects": code,
        "constants": packed, "nbytes": at,
    }, separators=(",", ":")).encode()  # fmt: skip
    file.write(_MAGIC + _START.pack(len(head), hashlib.sha256(head).digest()) + head)
    base = _first_blob(len(head))
    for offset, data in blobs:
        file.seek(base + offset)
        file.write(data)
    file.truncate(base + at)
    return base + at


class Archive:
    """An artefact file that is open: the head is read, everything else is read at need. What is
    damaged is an ``ArtefactError`` when it is asked for."""

    def __init__(self, head: Mapping[str, Any], data: np.ndarray) -> None:
        with readable("head"):
            self.key: str = head["key"]
            self.notes: Mapping[str, Any] = head["notes"]
            self.program: Program = _program_in(head["program"])
            self._objects = {symbol: tuple(place) for symbol, *place in head["objects"]}
            self._constants = {
                (name, _tuples(transform)): tuple(place)
                for name, transform, *place in head["constants"]
            }
        self._data = data

    def objects(self) -> dict[str, bytes]:
        """Machine code by symbol."""
        found = {}
        with readable("machine code"):
            for symbol, (offset, nbytes, wanted) in self._objects.items():
                found[symbol] = code = self._data[offset : offset + nbytes].tobytes()
                if hashlib.sha256(code).hexdigest() != wanted:
                    raise ArtefactError(f"damaged (machine code of {symbol})")
        return found

    def __contains__(self, key: object) -> bool:
        return key in self._constants

    def constant(self, key: Key) -> np.ndarray:
        """A constant: a view of the mapped file, read-only, except for text."""
        name = str(key[0])[:16]
        if key not in self._constants:
            raise ArtefactError(f"the constant {name} is not in the file")
        with readable(f"constant {name}"):
            dtype, shape, offset, nbytes, checksum = self._constants[key]
            raw = self._data[offset : offset + nbytes]
            if _checksum(raw) != list(checksum):
                raise ArtefactError(f"damaged (constant {name})")
            return array_of_bytes(raw, DType.named(dtype), tuple(shape))

    def constants(self) -> dict[Key, np.ndarray]:
        """What the program and its bodies read."""
        with readable("constants"):
            specs = (s for p in self.program.walk() for s in p.constants.values())
            keys = dict.fromkeys((spec.digest, spec.transform) for spec in specs)
        return {key: self.constant(key) for key in keys}


@contextmanager
def readable(what: str) -> Iterator[None]:
    """What was written under the right checksum, and yet makes no sense, is another writer's."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, EvonnxError) as error:
        if isinstance(error, ArtefactError):
            raise
        raise ArtefactError(f"not readable by this version ({what}: {quote(error)})") from error


def is_artefact(begin: bytes) -> bool:
    """Whether a file that begins with these (16 or more) bytes is an artefact of any format."""
    return begin.startswith(_NAME)


def open_artefact(file: BinaryIO, key: str | None = None) -> Archive:
    """Maps an artefact and reads its head; raises ``ArtefactError`` for one that is cut off,
    altered, of another format or not written under ``key`` (None: any)."""
    start = len(_MAGIC) + _START.size
    begin = file.read(start)
    if is_artefact(begin) and (line := begin.split(b"\n", 1)[0] + b"\n") != _MAGIC:
        number = line[len(_NAME) : -1].decode("ascii", "replace")
        if number.isdecimal() and len(begin) == start:
            raise ArtefactError(f"format {number} of artefacts; this version reads format "
                                f"{_MAGIC[len(_NAME) : -1].decode()}")
    if len(begin) < start or not begin.startswith(_MAGIC):
        raise ArtefactError("damaged (bad header)")
    size, digest = _START.unpack_from(begin, len(_MAGIC))
    text = file.read(size) if size <= _MAX_HEAD else b""
    if len(text) != size or hashlib.sha256(text).digest() != digest:
        raise ArtefactError("damaged (head)")
    with readable("head"):
        head = json.loads(text)
        nbytes = int(head["nbytes"])
    if key is not None and head.get("key") != key:
        raise ArtefactError("belongs to another key")
    base = _first_blob(size)
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(whole) != base + nbytes:
        raise ArtefactError("damaged (cut off)")
    return Archive(head, np.frombuffer(whole, np.uint8)[base:])


def read_artefact(file: BinaryIO, key: str | None = None) -> Artefact:
    """All that running the program of an artefact takes; raises ``ArtefactError`` as
    ``open_artefact``, and for machine code and constants that were altered."""
    found = open_artefact(file, key)
    return Artefact(found.key, found.notes, found.program, found.objects(), found.constants())


def _first_blob(head: int) -> int:
    """Where the blobs begin: constants keep their alignment where the file is mapped."""
    return -(-(len(_MAGIC) + _START.size + head) // mmap.PAGESIZE) * mmap.PAGESIZE


def _checksum(raw: np.ndarray) -> list[int]:
    """Exclusive or and wrapped sum of the 64-bit words: as fast as memory, and no single change
    escapes it."""
    whole = raw.nbytes // 8 * 8
    words = raw[:whole].view(np.uint64)
    tail = int.from_bytes(raw[whole:].tobytes(), "little")
    both, total = tail, tail
    for start in range(0, len(words), _BLOCK):  # the second look at a block finds it in the cache
        block = words[start : start + _BLOCK]
        both ^= int(np.bitwise_xor.reduce(block))
        total += int(np.add.reduce(block))
    return [both, total & (1 << 64) - 1]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


# -- the program as plain values ---------------------------------------------------------------


def _dim_out(dim: Dim) -> int | str:
    return str(dim) if isinstance(dim, Expr) else int(dim)


@lru_cache(_TEXTS)
def _parsed_dim(text: str) -> Dim:
    return parse_dim(text)


def _dim_in(value: int | str) -> Dim:
    return _parsed_dim(value) if isinstance(value, str) else value


@lru_cache(_TEXTS)
def _parsed_type(text: str) -> Type:
    return parse_type(text)


def _program_out(program: Program) -> dict[str, Any]:
    return {
        "buffers": [[b.name, str(b.type), b.role, b.view_of, _dim_out(b.offset)]
                    for b in program.buffers],
        "steps": [_step_out(s) for s in program.steps],
        "inputs": program.inputs,
        "outputs": program.outputs,
        "kernels": [[name, k.source, k.symbol, k.externs] for name, k in program.kernels.items()],
        "constants": [[b, c.digest, c.transform] for b, c in program.constants.items()],
        "checks": [[c.relation, _dim_out(c.a), _dim_out(c.b), c.message] for c in program.checks],
        "ranges": [[r.input, r.column, _dim_out(r.extent), r.message] for r in program.ranges],
        "patience": program.patience,
    }  # fmt: skip


def _program_in(value: Mapping[str, Any]) -> Program:
    return Program(
        tuple(Buffer(name, _parsed_type(text), role, view, _dim_in(offset))
              for name, text, role, view, offset in value["buffers"]),
        tuple(_step_in(s) for s in value["steps"]),
        tuple((name, b) for name, b in value["inputs"]),
        tuple((name, b) for name, b in value["outputs"]),
        {name: KernelCode(source, symbol, tuple(externs))
         for name, source, symbol, externs in value["kernels"]},
        {b: ConstSpec(digest, _tuples(transform)) for b, digest, transform in value["constants"]},
        tuple(SizeCheck(relation, _dim_in(a), _dim_in(b), text)
              for relation, a, b, text in value["checks"]),
        tuple(IndexRange(k, column, _dim_in(extent), text)
              for k, column, extent, text in value["ranges"]),
        value["patience"],
    )  # fmt: skip


def _step_out(step: Step) -> list[Any]:
    if isinstance(step, KernelStep):
        sizes = [_dim_out(d) for d in (step.tiles, step.scratch_bytes, step.flops, step.nbytes)]
        return ["kernel", step.kernel, step.buffers, [_dim_out(d) for d in step.params], sizes,
                step.label, step.n_outputs, step.group, step.stage, step.threads,
                None if step.rounds is None else _dim_out(step.rounds)]
    if isinstance(step, BindStep):
        return ["bind", step.symbol, step.buffer]
    attrs = [[k, attr_text(v)] for k, v in step.attrs.items()]
    if isinstance(step, ControlStep):
        bodies = [_program_out(p) for p in step.bodies]
        return ["control", step.kind, attrs, step.inputs, step.outputs, bodies]
    return ["host", step.kind, attrs, step.inputs, step.outputs]


def _step_in(value: list[Any]) -> Step:
    what, *rest = value
    if what == "kernel":
        kernel, buffers, params, sizes, *others, rounds = rest
        tiles, scratch, flops, nbytes = map(_dim_in, sizes)
        step = KernelStep(kernel, tuple(buffers), tuple(map(_dim_in, params)), tiles, scratch,
                          flops, nbytes, *others)
        return step if rounds is None else replace(step, rounds=_dim_in(rounds))
    if what == "bind":
        return BindStep(*rest)
    kind, attrs, inputs, outputs, *bodies = rest
    named = {k: parse_attr(text) for k, text in attrs}
    if what == "host":
        return HostStep(kind, named, tuple(inputs), tuple(outputs))
    programs = tuple(_program_in(p) for p in bodies[0])
    return ControlStep(kind, named, tuple(inputs), tuple(outputs), programs)
