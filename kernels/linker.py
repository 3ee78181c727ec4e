"""From relocatable objects to callable addresses.

Objects are 64-bit little-endian ELF (System V ABI, chapter 4; x86-64 supplement, section 4.4). What
they hold is laid out in one private mapping, in three parts on pages of their own: code, constants,
data. Relocations are applied, and then each part gets its protection, so no page is ever writable
and executable at once. Symbols that several kernels share (micro-kernels) are resolved by name. The
C library lies too far away for a call of 32 bits, so calls of it go through a jump beside the code.

This is all that kernels need: they are position-independent, of the small code model, and without
constructors or thread-local data. An object for another processor, or with anything else in it, is
linked by LLVM (``jit.LlvmLoader``); LLVM takes 40 MB of memory and 50 ms to import, more than most
programs do.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ..ir.errors import CompileError

RUNTIME = ("memcpy", "memset", "memmove")
"""C library functions LLVM may call by itself."""

_HEADER = struct.Struct("<18xH20xQ10xHH2x")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = np.dtype([("offset", "<u8"), ("kind", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])

_PROGBITS, _SYMTAB, _RELA, _NOBITS, _UNWIND = 1, 2, 4, 8, 0x70000001
_WRITE, _ALLOC, _EXECUTE, _THREAD = 1, 2, 4, 0x400
_IGNORED = (0, 3, _SYMTAB, _RELA, 7, _UNWIND)
"""Kinds of sections that are not loaded: none, strings, symbols, relocations, notes, and tables for
unwinding the stack, which no kernel does."""
_X86_64 = 62
_ABSOLUTE, _RELATIVE, _CALL = 1, 2, 4
"""R_X86_64_64, R_X86_64_PC32, R_X86_64_PLT32."""
_UNDEFINED, _RESERVED = 0, 0xFF00
_JUMP = b"\xff\x25\x00\x00\x00\x00"
"""``jmp [rip]``: to the address in the 8 bytes that follow."""
_STUB = 16
_REACH = 1 << 31


class Loader(Protocol):
    """Machine code linked into this process; it lives as long as the loader does."""

    symbols: frozenset[str]
    """Names the objects define."""

    def address(self, symbol: str) -> int:
        """Address of the function ``symbol``; raises ``CompileError`` if no object defines it."""


def load_objects(objects: Iterable[bytes]) -> Loader:
    """Links relocatable objects into this process.

    Raises ``CompileError`` for a bad object or an undefined symbol."""
    parsed = [_Object.parse(data) for data in objects]
    outward = [s for o in parsed for s in o.symbols if s.is_global]
    defined = frozenset(s.name for s in outward if s.section != _UNDEFINED)
    wanted = {s.name for s in outward if s.section == _UNDEFINED} - defined
    process = ctypes.CDLL(None)
    missing = {n for n in wanted if not hasattr(process, n)}
    if missing:
        raise CompileError(f"undefined symbols in objects: {', '.join(sorted(missing))}")
    try:
        if platform.machine() in ("x86_64", "AMD64") and all(o.is_plain() for o in parsed):
            foreign = {n: ctypes.cast(getattr(process, n), ctypes.c_void_p).value or 0
                       for n in sorted(wanted)}  # fmt: skip
            return _Placed(parsed, foreign)
    except (LookupError, ValueError, OverflowError) as error:
        raise CompileError(f"damaged object file: {error}") from error
    from .jit import LlvmLoader

    return LlvmLoader([o.data for o in parsed], defined)


class _Section(NamedTuple):
    """A section header, as the file has it."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int

    @property
    def is_loaded(self) -> bool:
        """Whether it occupies memory."""
        return bool(self.flags & _ALLOC) and self.kind not in _IGNORED

    @property
    def part(self) -> int:
        """0: code, 1: constants, 2: data."""
        return 0 if self.flags & _EXECUTE else 2 if self.flags & _WRITE else 1


class _Symbol(NamedTuple):
    """A symbol of an object."""

    name: str
    """Empty for a section's own."""
    binding: int
    section: int
    value: int

    @property
    def is_global(self) -> bool:
        """Whether other objects see it: global or weak."""
        return self.binding in (1, 2) and bool(self.name)


@dataclass(frozen=True, slots=True)
class _Object:
    """One object's tables."""

    data: bytes
    machine: int
    sections: list[_Section]
    symbols: list[_Symbol]
    relocations: list[tuple[int, np.ndarray]]
    """(number of the section they change, relocations) for what is loaded."""

    @staticmethod
    def parse(data: bytes) -> _Object:
        """Raises ``CompileError`` where the bytes are no such object or are cut off."""
        if data[:6] != b"\x7fELF\x02\x01":
            raise CompileError("not a 64-bit little-endian ELF object")
        try:
            machine, table, size, count = _HEADER.unpack_from(data)
            sections = [_Section(*_SECTION.unpack_from(data, table + size * k))
                        for k in range(count)]  # fmt: skip
            if any(s.kind != _NOBITS and s.offset + s.size > len(data) for s in sections):
                raise ValueError("a section ends behind the file")
            symbols: list[_Symbol] = []
            relocations: list[tuple[int, np.ndarray]] = []
            for s in sections:
                if s.kind == _SYMTAB:
                    symbols += _symbols(data, s, sections[s.link].offset)
                elif s.kind == _RELA and sections[s.info].is_loaded:
                    changes = np.frombuffer(data, _RELOCATION, s.size // _RELOCATION.itemsize,
                                            s.offset)
                    relocations.append((s.info, changes))
            return _Object(data, machine, sections, symbols, relocations)
        except (struct.error, IndexError, ValueError, UnicodeDecodeError) as error:
            raise CompileError(f"damaged object file: {error}") from error

    def is_plain(self) -> bool:
        """Whether nothing is in the object that only LLVM's linker can place."""
        homes = np.array([s.section for s in self.symbols])
        for _, table in self.relocations:
            outside = homes[table["symbol"]] == _UNDEFINED
            if (~np.isin(table["kind"], (_ABSOLUTE, _RELATIVE, _CALL))).any() or (
                outside & (table["kind"] != _CALL)).any():
                return False
        return (
            self.machine == _X86_64
            and not any(s.is_global and s.section >= _RESERVED for s in self.symbols)
            and all(s.kind in (_PROGBITS, _NOBITS) and not s.flags & _THREAD
                    and s.align <= mmap.PAGESIZE for s in self.sections if s.is_loaded)
        )


def _symbols(data: bytes, table: _Section, strings: int) -> Iterator[_Symbol]:
    for at in range(table.offset, table.offset + table.size, _SYMBOL.size):
        name_at, info, _, section, value, _ = _SYMBOL.unpack_from(data, at)
        start = strings + name_at
        name = data[start : data.index(b"\0", start)].decode("ascii") if name_at else ""
        yield _Symbol(name, info >> 4, section, value)


class _Placed:
    """Objects in a mapping of their own."""

    def __init__(self, objects: Sequence[_Object], foreign: dict[str, int]) -> None:
        """``foreign``: addresses of what no object defines."""
        places, ends = _layout(objects, _STUB * len(foreign))
        if ends[-1] >= _REACH:
            raise CompileError(f"{ends[-1]} bytes of code are more than addresses of 32 bits reach")
        self._mapping = mmap.mmap(-1, max(ends[-1], 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                                  mmap.PROT_READ | mmap.PROT_WRITE)
        self._memory = np.frombuffer(self._mapping, np.uint8)
        self._base = int(self._memory.ctypes.data)
        stubs = {name: _STUB * k for k, name in enumerate(foreign)}
        for name, at in stubs.items():
            self._write(at, _JUMP + foreign[name].to_bytes(8, "little"))
        self._offsets: dict[str, int] = {}
        for o, place in zip(objects, places, strict=True):
            self._copy(o, place)
        for o, place in zip(objects, places, strict=True):
            offsets = self._targets(o, place, stubs)
            for section, table in o.relocations:
                self._relocate(table, place[section], offsets)
        self.symbols = frozenset(self._offsets)
        _protect(self._base, ends)

    def address(self, symbol: str) -> int:
        """See ``Loader``."""
        if symbol not in self._offsets:
            raise CompileError(f"no loaded object defines {symbol!r}")
        return self._base + self._offsets[symbol]

    def _write(self, at: int, data: bytes) -> None:
        self._memory[at : at + len(data)] = np.frombuffer(data, np.uint8)

    def _copy(self, o: _Object, place: dict[int, int]) -> None:
        """Writes an object's sections and notes where its global symbols lie."""
        for number, at in place.items():
            section = o.sections[number]
            if section.kind == _PROGBITS:
                self._write(at, o.data[section.offset : section.offset + section.size])
        for s in o.symbols:
            if s.is_global and s.section in place:
                offset = place[s.section] + s.value
                if self._offsets.setdefault(s.name, offset) != offset and s.binding == 1:
                    raise CompileError(f"two objects define {s.name!r}")

    def _targets(self, o: _Object, place: dict[int, int], stubs: dict[str, int]) -> np.ndarray:
        """Where each symbol of an object lies in the mapping; for the C library's: the jump."""
        found = np.zeros(len(o.symbols), np.int64)
        for i, s in enumerate(o.symbols):
            if s.section in place:
                found[i] = place[s.section] + s.value
            elif s.is_global:
                found[i] = self._offsets[s.name] if s.name in self._offsets else stubs[s.name]
        return found

    def _relocate(self, table: np.ndarray, start: int, offsets: np.ndarray) -> None:
        """Applies the relocations of the section that lies at ``start``."""
        at = start + table["offset"].astype(np.int64)
        target = offsets[table["symbol"]] + table["addend"]
        absolute = table["kind"] == _ABSOLUTE
        for i in np.flatnonzero(absolute):
            self._write(int(at[i]), (self._base + int(target[i])).to_bytes(8, "little"))
        places = at[~absolute]
        distance = (target[~absolute] - places).astype("<i4")
        self._memory[places[:, None] + np.arange(4)] = distance.view(np.uint8).reshape(-1, 4)


def _layout(objects: Sequence[_Object], stubs: int) -> tuple[list[dict[int, int]], list[int]]:
    """For each object the offset of each loaded section, and where the three parts end."""
    places: list[dict[int, int]] = [{} for _ in objects]
    ends, at = [], stubs
    for part in range(3):
        for o, place in zip(objects, places, strict=True):
            for number, section in enumerate(o.sections):
                if section.is_loaded and section.part == part:
                    step = max(1, section.align)
                    place[number] = at = -(-at // step) * step
                    at += section.size
        at = -(-at // mmap.PAGESIZE) * mmap.PAGESIZE
        ends.append(at)
    return places, ends


def _protect(base: int, ends: Sequence[int]) -> None:
    """Makes the first part executable and the second read-only; neither stays writable."""
    library = ctypes.CDLL(None, use_errno=True)
    start = 0
    for end, rights in zip(ends, (mmap.PROT_READ | mmap.PROT_EXEC, mmap.PROT_READ), strict=False):
        if end > start and library.mprotect(
            ctypes.c_void_p(base + start), ctypes.c_size_t(end - start), ctypes.c_int(rights)
        ):
            error = ctypes.get_errno()
            raise CompileError(f"the system does not let code be executed (mprotect: {error})")
        start = end
