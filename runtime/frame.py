"""The memory of one call in flight: arena chunks, scratch, output slots, base table.

Frames are pooled per runner; a call takes one, so concurrent calls never share memory. Output
memory belongs to the caller once the call returns. The frame keeps a second reference to it, and
when nothing else refers to it any more (the caller dropped the array and every view of it) the next
call writes there again, which saves the page faults of fresh memory.
"""

from __future__ import annotations

import ctypes
import math
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..ir.errors import LimitError
from . import driver as native
from .plan import ALIGN
from .tables import ArraySpec, Binding, Table

_HEAD = object.__basicsize__
"""Offset of the data pointer in a NumPy array object (``PyArrayObject``: head, then data)."""
_word_at = ctypes.c_size_t.from_address


def _slow_address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


def _fast_address(array: np.ndarray) -> int:
    return _word_at(id(array) + _HEAD).value


def _choose_address() -> Any:
    """Reading the pointer directly costs a tenth of ``array.ctypes.data``; used where the layout
    of array objects is the one it relies on."""
    samples = [np.zeros(n, np.int64)[k:] for n, k in ((1, 0), (64, 3))]
    usual = sys.implementation.name == "cpython"
    if usual and all(_fast_address(a) == a.ctypes.data for a in samples):
        return _fast_address
    return _slow_address


data_address = _choose_address()
"""Address of an array's first byte."""


class _Output:
    """Memory of one output, which is written again when nobody but the frame refers to it."""

    __slots__ = ("idle", "nbytes", "raw", "start", "template")

    def __init__(self, raw: np.ndarray, address: int, nbytes: int) -> None:
        self.raw = raw
        """Owns the memory; arrays given to callers refer to it."""
        self.start = address - data_address(raw)
        """Where in it the output begins."""
        self.nbytes = nbytes
        self.template: np.ndarray | None = None
        """An array like those given out: a view of it is cheaper than a new array."""
        self.idle = _IDLE
        """References to ``raw`` when nobody else has any."""

    def taken(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of the memory for a caller; shape and dtype are the same until ``forget``."""
        template = self.template
        if template is None:
            self.template = template = np.ndarray(shape, dtype, self.raw, self.start)
            self.idle += 1
        return template.view()

    def forget(self) -> None:
        """Arrays may have another shape from now on."""
        self.template = None
        self.idle = _IDLE


_references = sys.getrefcount


def _idle_references() -> int:
    """What ``_references(output.raw)`` answers when only a frame (an output and a list) refers to
    the array."""
    output = SimpleNamespace(raw=np.empty(1, np.uint8))
    owners = [output.raw]
    return _references(output.raw) + len(owners) - 1


_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Reference counts say who uses an array only where a global interpreter lock exists."""
_IDLE = _idle_references() if _COUNTS else -(1 << 30)


PAGE = 4096
"""Bytes from which on memory begins at a multiple of so many. Processors tell loads from stores
before them by the last 12 bits of the addresses: where a result begins a few lines behind an
operand in these, every load waits for a store (a tanh takes 109 us instead of 85 on Zen 4). Arrays
that others allocate begin at most a line behind a page: so results begin before operands, or as
they do."""


def allocate(nbytes: int) -> tuple[np.ndarray, int]:
    """Uninitialized memory: the array that owns it, and its first aligned address."""
    step = PAGE if nbytes >= PAGE else ALIGN
    try:
        raw = np.empty(nbytes + step, np.uint8)
    except (MemoryError, ValueError) as error:
        raise LimitError(f"{nbytes:,} bytes of memory are not to be had: {error}") from error
    address = data_address(raw)
    return raw, address + (-address % step)


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialized array that starts at a cache line."""
    raw, address = allocate(math.prod(shape) * dtype.itemsize)
    return np.ndarray(shape, dtype, raw, address - data_address(raw))


@dataclass(slots=True)
class Direct:
    """A call without host-level steps, made ready for one binding on one frame."""

    binding: Binding
    block: Block
    address: int
    """Of the block."""
    parallel: bool
    """Whether a step is split among threads."""
    outputs: list[tuple[int, tuple[int, ...], np.dtype]]
    """Slot, shape and dtype of every output."""


@dataclass(frozen=True, slots=True)
class Block:
    """A call block and what it refers to; alive as long as a thread may read it."""

    address: int
    words: np.ndarray
    table: Table


_BLOCKS = 64
"""Call blocks a frame keeps."""


class Frame:
    """Memory and tables of one call at a time."""

    __slots__ = ("_arrays", "_blocks", "_bound", "_outputs", "_owners", "_private", "_words",
                 "bases", "direct", "held", "objects", "ready")  # fmt: skip

    def __init__(self, slots: int) -> None:
        self._owners: list[np.ndarray | None] = [None] * slots
        self._words = np.zeros(slots, np.int64)
        self.bases: Any = memoryview(self._words.data)
        """Base table: the address that offsets of each slot count from."""
        self._private = np.empty(0, np.uint8)
        self._outputs: dict[int, _Output] = {}
        self._bound: list[Binding | None] = [None] * slots
        self._blocks: dict[int, Block] = {}
        self._arrays: dict[int, np.ndarray] = {}
        """Arrays of the arena that were asked for under the present bindings, by ``ArraySpec``."""
        self.direct: Direct | None = None
        """What the last call without host-level steps left ready."""
        self.ready: dict[int, Any] = {}
        """What items of the layout left ready for all calls under the present bindings."""
        self.held: dict[int, int] = {}
        """Bytes of the arena chunk in each slot."""
        self.objects: dict[int, Any] = {}
        """Host values and dynamic arrays of the call, by root."""

    def enter(self, period: int, binding: Binding, threads: int) -> None:
        """Make room for one period: its chunk, its scratch, its outputs."""
        if self._bound[period] is not binding:
            self._prepare(period, binding, threads)
        for slot, nbytes in binding.allocate:
            kept = self._outputs.get(slot)
            if kept is not None and kept.nbytes == nbytes and _references(kept.raw) == kept.idle:
                continue
            raw, address = allocate(nbytes)
            self._outputs[slot] = _Output(raw, address, nbytes)
            self._owners[slot] = raw
            self.bases[slot] = address

    def _prepare(self, period: int, binding: Binding, threads: int) -> None:
        slot = 1 + period
        self._bound[period] = self.direct = None
        self._arrays.clear()
        self.ready.clear()
        for output in self._outputs.values():
            output.forget()
        if binding.chunk > self.held.get(slot, -1):
            raw, address = allocate(binding.chunk)
            self._owners[slot] = raw
            self.bases[slot] = address
            self.held[slot] = binding.chunk
        if binding.stride * threads > len(self._private) - ALIGN:
            self._private, _ = allocate(binding.stride * threads)
            self._blocks.clear()
        self._bound[period] = binding

    def block(self, binding: Binding, table: Table) -> Block:
        """The call block of a table on this frame; it never changes."""
        found = self._blocks.get(id(table))
        if found is None:
            if len(self._blocks) > _BLOCKS:
                self._blocks.clear()
            words = np.zeros(native.CALL_WORDS, np.int64)
            private = data_address(self._private)
            words[native.CALL_STEPS] = table.address
            words[native.CALL_COUNT] = table.count
            words[native.CALL_BASES] = data_address(self._words)
            words[native.CALL_PRIVATE] = private + (-private % ALIGN)
            words[native.CALL_STRIDE] = binding.stride
            words[native.CALL_SCRATCH] = binding.shift
            words[native.CALL_UNITS] = table.shape.units
            words[native.CALL_PHASES] = table.shape.phases
            words[native.CALL_MASK] = table.shape.places - 1
            found = self._blocks[id(table)] = Block(data_address(words), words, table)
        return found

    def array(self, spec: ArraySpec) -> np.ndarray:
        """The array of a buffer in arena, output, input or dynamic memory, without a copy."""
        found = self._arrays.get(id(spec))
        if found is None:
            owner = self._owners[spec.slot]
            assert owner is not None
            start = self.bases[spec.slot] + spec.offset - data_address(owner)
            found = np.ndarray(spec.shape, spec.dtype, owner, start)
            if spec.slot in self.held:  # the chunk stays where it is as long as the binding does
                self._arrays[id(spec)] = found
        return found

    def output(self, spec: ArraySpec) -> np.ndarray:
        """The array of a whole output, the caller's as long as it keeps it."""
        return self._outputs[spec.slot].taken(spec.shape, spec.dtype)

    def taken(self, direct: Direct) -> list[np.ndarray]:
        """The outputs of a call; their memory is the caller's as long as it keeps them."""
        found = []
        for slot, shape, dtype in direct.outputs:
            output = self._outputs[slot]
            template = output.template
            found.append(output.taken(shape, dtype) if template is None else template.view())
        return found

    def attach(self, slot: int, array: np.ndarray) -> None:
        """Let ``slot`` be the memory of ``array`` until ``leave``."""
        self._owners[slot] = array
        self.bases[slot] = data_address(array)

    def leave(self, slots: list[int]) -> None:
        """Forget the arrays attached to ``slots`` and all host values."""
        for slot in slots:
            self._owners[slot] = None
        self.objects.clear()

    def restore(self) -> None:
        """Undo what was done to the base addresses of outputs."""
        for slot, output in self._outputs.items():
            self.bases[slot] = data_address(output.raw) + output.start

    @property
    def nbytes(self) -> int:
        """Bytes this frame holds now: arena, scratch, outputs not yet taken over."""
        outputs = sum(o.nbytes for o in self._outputs.values())
        return sum(self.held.values()) + len(self._private) + outputs
