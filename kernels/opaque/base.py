"""What the generators of opaque kernels share: source assembly, raw bits, lines along an axis.

An opaque kernel is one op that is one kernel of its own, written as Numba source against the words
of ``intrinsics``. Buffers are the operands that are present, then the results, then the calling
thread's scratch; all are dense and row-major. Sizes are parameters, so the text depends on
element types, ranks and attributes only and one compiled kernel serves every shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ...ir.dim_functions import ceil_div
from ...ir.dims import Dim, product
from ...ir.errors import UnsupportedError
from ...ir.graph import Node
from ...ir.target import Target
from ...ir.types import DTYPES, F32, DType, TensorType

STORED = frozenset(name for name, d in DTYPES.items() if d.kind != "s")
"""Element types kernels can load and store: the keys of ``words.STORED``, which is not imported
here because that would import Numba even where every kernel comes from the cache."""


@dataclass(frozen=True, slots=True)
class OpaqueKernel:
    """Source and launch of one opaque kernel."""

    source: str
    """``def kernel(bufs, params, begin, end)`` in the vocabulary of ``intrinsics``."""
    symbol: str
    """C name, unique for the source."""
    params: tuple[Dim, ...]
    """Size parameters, in order."""
    tiles: Dim
    """Size of the parallel tile space; 1 is serial."""
    scratch_bytes: Dim = 0
    """Bytes of scratch each thread needs."""
    externs: tuple[str, ...] = ()
    """Symbols of the micro-kernels it calls."""
    packed: Packed | None = None
    """The constant operand that it reads in panels, if any."""
    rounds: Dim | None = None
    """Launches in a row, as of a ``KernelStep``."""

    def in_rounds(self, rounds: Dim) -> OpaqueKernel:
        """The same, launched so often."""
        return replace(self, rounds=rounds)


class Recipe(Protocol):
    """How a constant is packed."""

    @property
    def dtype(self) -> DType:
        """Element type of what is made."""

    @property
    def spec(self) -> tuple[object, ...]:
        """The transform of the constant (``runtime.constants``)."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A constant operand that is packed once."""

    operand: int
    """Its number among the operands that are present."""
    elements: Dim
    """float32 elements of all panels."""
    panels: tuple[Recipe, ...]
    """Recipes, one part after another."""


Generator = Callable[[Node, Target], OpaqueKernel]

OPAQUE: dict[str, Generator] = {}
"""Op name -> generator of its kernel."""


def opaque(*names: str) -> Callable[[Generator], Generator]:
    """Registers the decorated generator for one or several ops."""

    def add(fn: Generator) -> Generator:
        for name in names:
            if name in OPAQUE:
                raise RuntimeError(f"op {name} has two opaque kernels")
            OPAQUE[name] = fn
        return fn

    return add


class Source:
    """Assembles the source of one kernel and collects its parameters."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.params: list[Dim] = []
        self._lines: list[str] = []
        self._depth = 1
        self._scratch = len(node.operands) + len(node.types)
        self._tags = self._scratch
        self._bytes: Dim = 0
        for t in (*(v.type for v in node.operands), *node.types):
            if not isinstance(t, TensorType) or t.dtype.name not in STORED:
                raise UnsupportedError(
                    f"{node.op}: no kernel for {t}; element types: {', '.join(sorted(STORED))}"
                )

    def line(self, text: str) -> None:
        """One statement (or several, separated by line breaks) at the current depth."""
        for part in text.splitlines():
            self._lines.append("    " * self._depth + part)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Statements under ``head``, e.g. ``for i in range(n):``."""
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def size(self, name: str, dim: Dim) -> str:
        """``name`` becomes the value of ``dim``."""
        self.line(f"{name} = prm(params, {len(self.params)})")
        self.params.append(dim)
        return name

    def round(self, name: str) -> None:
        """``name`` becomes the number of the launch; no size may follow."""
        self.line(f"{name} = prm(params, {len(self.params)})")

    def operand(self, name: str, index: int, raw: bool = False) -> str:
        """``name`` becomes the pointer to operand ``index`` (as in ``node.inputs``)."""
        value = self.node.inputs[index]
        assert value is not None
        at = sum(v is not None for v in self.node.inputs[:index])
        return self._pointer(name, value.dtype, at, raw)

    def panels(self, name: str, index: int) -> str:
        """``name`` becomes the pointer to the panels of operand ``index``, as float32."""
        at = sum(v is not None for v in self.node.inputs[:index])
        return self._pointer(name, F32, at, False)

    def result(self, name: str, index: int = 0, raw: bool = False) -> str:
        """``name`` becomes the pointer to result ``index``."""
        t = self.node.types[index]
        assert isinstance(t, TensorType)
        return self._pointer(name, t.dtype, len(self.node.operands) + index, raw)

    def _pointer(self, name: str, dtype: DType, at: int, raw: bool) -> str:
        kind = raw_name(dtype) if raw else dtype.name
        self.line(f"{name} = ptr_{kind}(bufs, {at})")
        return name

    def scratch(self, name: str, dtype: str, count: Dim, itemsize: int = 8) -> str:
        """``name`` becomes an array of ``count`` elements in the thread's scratch."""
        if self._bytes == 0:
            self.line(f"scr = ptr_u8(bufs, {self._scratch})")
        self._tags += 1
        self.size(f"{name}_at", self._bytes)
        self.line(f"{name} = part_{dtype}(scr, {name}_at, {self._tags})")
        self._bytes = self._bytes + (ceil_div(count * itemsize, 64) + 1) * 64
        return name

    def finish(
        self, tiles: Dim, externs: tuple[str, ...] = (), packed: Packed | None = None
    ) -> OpaqueKernel:
        """The kernel; ``begin`` and ``end`` count ``tiles``."""
        source = "def kernel(bufs, params, begin, end):\n" + "\n".join(self._lines) + "\n"
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        return OpaqueKernel(
            source, f"{self.node.op}_{digest}", tuple(self.params), tiles, self._bytes, externs,
            packed,
        )


def raw_name(dtype: DType) -> str:
    """The integer type with the same storage: moving elements never looks inside."""
    return {"bool": "u8", "c128": "c128"}.get(dtype.name, f"i{dtype.itemsize * 8}")


def key_expression(dtype: DType, pointer: str, index: str, name: str) -> str:
    """Statements that set ``name`` to an int64 that orders like the element.

    ``pointer`` is a raw pointer (see ``raw_name``). Negative floats count down in two's complement,
    all NaN are equal and the largest, -0 equals +0.
    """
    if dtype.bits < 8 or dtype.is_coded or dtype.kind == "c":  # their codes have another order
        raise UnsupportedError(f"no order of {dtype} elements: sorting them is not supported")
    load = f"i64(ld({pointer}, {index}))"
    if dtype.kind == "b" or dtype.kind == "i":
        return f"{name} = {load}"
    bits = dtype.bits
    if dtype.kind == "u":
        if bits == 64:
            return f"{name} = ixor({load}, i64({-(1 << 63)}))"
        return f"{name} = iand({load}, i64({(1 << bits) - 1}))"
    low = (1 << (bits - 1)) - 1
    infinity = {"f64": 0x7FF0 << 48, "f32": 0xFF << 23, "f16": 0x1F << 10, "bf16": 0xFF << 7}
    top = (1 << 63) - 1
    return (
        f"kb = {load}\n"
        f"km = iand(kb, i64({low}))\n"
        f"kc = select(lt(kb, i64(0)), neg(km), km)\n"
        f"{name} = select(gt(km, i64({infinity[dtype.name]})), i64({top}), kc)"
    )


def line_space(shape: Sequence[Dim], axis: int) -> tuple[Dim, Dim, Dim]:
    """(sizes before, along and after ``axis``)."""
    return product(shape[:axis]), shape[axis], product(shape[axis + 1 :])


def tensor_shape(t: Any) -> tuple[Dim, ...]:
    """Shape of a tensor type."""
    assert isinstance(t, TensorType)
    return t.shape


def zero(dtype: DType) -> str:
    """Source of the register constant 0."""
    return number(dtype, 0)


def number(dtype: DType, value: float) -> str:
    """Source of a register constant of the dtype."""
    if dtype.kind == "b":
        return "bool_(1)" if value else "bool_(0)"
    if dtype.is_coded or dtype.kind == "c":
        raise UnsupportedError(f"no arithmetic on {dtype} elements in this operator")
    if dtype.is_float:
        name = "f64" if dtype.name == "f64" else "f32"
        return f"{name}({float(value)!r})"
    return f"{dtype.name}({int(value)})"
