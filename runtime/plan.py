"""Where every buffer lives: memory classes, lifetimes, and offsets in the arena.

``Layout`` is what follows from the program alone. Every buffer's memory is that of its root; a root
is a constant, an input, an output (allocated per call), dynamic (made by a control or host step), a
host value, or lies in the arena. Steps between host-level steps form segments. Every host-level
step may define symbols; the *period* of a size is the number of such steps before its symbols are
known. Roots of one period are planned together, in one chunk of memory per period; most programs
have one period.

Offsets within a chunk are decided in ``arena``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir.dims import Dim, Expr, free_symbols
from ..ir.errors import VerifyError
from ..ir.types import TensorType, Type, type_symbols
from .program import (
    BindStep,
    ControlStep,
    HostStep,
    KernelStep,
    Program,
    bare_symbol,
    input_symbols,
    side_by_side,
    step_reads,
    step_writes,
)

ALIGN = 64
"""Bytes every arena buffer is aligned to: a cache line and the widest vector."""


def aligned(nbytes: int) -> int:
    """``nbytes`` rounded up to ``ALIGN``."""
    return -(-nbytes // ALIGN) * ALIGN


@dataclass(frozen=True, slots=True)
class Segment:
    """Kernel steps ``first`` to ``last - 1``: one native call."""

    first: int
    last: int
    period: int


@dataclass(frozen=True, slots=True)
class HostItem:
    """A step that Python runs, at ``position``; sizes known before it are of ``period``."""

    position: int
    period: int
    defines: tuple[tuple[str, int, int], ...] = ()
    """(symbol, buffer, axis) that its results define; axis -1: the value itself (bind)."""


@dataclass(slots=True)
class Root:
    """What is known of a piece of memory before any size is."""

    kind: str
    """``const``, ``input``, ``output``, ``dynamic``, ``host`` or ``arena``."""
    period: int = 0
    """Period at which its size is known."""
    first: int = -1
    """First step that touches it; -1: never touched."""
    last: int = -1
    """Last step that touches it; the number of steps: alive at the end."""
    slot: int = -1
    """Index in the base table."""


@dataclass(frozen=True, slots=True)
class OutputSource:
    """How one program output is taken."""

    name: str
    buffer: int
    mode: str
    """``own`` (its root's memory is the caller's from now on), ``copy`` or ``host``."""


@dataclass(slots=True)
class Layout:
    """Everything about memory and order that follows from the program alone; see ``layout``."""

    program: Program
    given: tuple[str, ...]
    """Symbols that must come from outside (bodies)."""
    symbols: tuple[str, ...] = ()
    """All symbols in the order they become known: given, inputs', then period by period."""
    known: list[int] = field(default_factory=list)
    """For each period: how many of ``symbols`` are known."""
    items: list[Segment | HostItem] = field(default_factory=list)
    """What a call does, in order."""
    roots: dict[int, Root] = field(default_factory=dict)
    """By buffer number."""
    outputs: list[OutputSource] = field(default_factory=list)
    slots: int = 0
    """Size of the base table."""
    inputs: list[tuple[str, int, Type]] = field(default_factory=list)
    """(name, buffer, type) of the inputs."""

    @property
    def periods(self) -> int:
        return len(self.known)

    def period_of(self, dim: Dim) -> int:
        """The first period at which ``dim`` is known; raises ``VerifyError`` if none."""
        if not isinstance(dim, Expr):
            return 0
        latest = max((self.symbols.index(s) for s in self._checked(dim)), default=-1)
        return next(k for k, n in enumerate(self.known) if latest < n)

    def _checked(self, dim: Dim) -> frozenset[str]:
        names = free_symbols(dim)
        if missing := sorted(names - set(self.symbols)):
            raise VerifyError(f"program: size {missing[0]} is never defined")
        return names


def layout(program: Program) -> Layout:
    """Analyses ``program``: segments, periods, memory classes, lifetimes."""
    defined = _items(program)
    own = input_symbols(program)
    used = _used_symbols(program)
    later = {s for item in defined if isinstance(item, HostItem) for s, _, _ in item.defines}
    given = tuple(sorted(used - own - later))
    result = Layout(program, given, items=defined)
    result.inputs = [(name, b, program.buffers[b].type) for name, b in program.inputs]
    symbols = [*given, *sorted(own)]
    result.known.append(len(symbols))
    for item in defined:
        if isinstance(item, HostItem) and item.defines:
            symbols += [s for s, _, _ in item.defines]
            result.known.append(len(symbols))
    result.symbols = tuple(symbols)
    _classify(result)
    _lifetimes(result)
    _take_outputs(result)
    _number_slots(result)
    return result


def _items(program: Program) -> list[Segment | HostItem]:
    found: list[Segment | HostItem] = []
    known = set(input_symbols(program))
    period = first = 0
    for position, step in enumerate(program.steps):
        if isinstance(step, KernelStep):
            continue
        if first < position:
            found.append(Segment(first, position, period))
        defines: list[tuple[str, int, int]] = []
        if isinstance(step, BindStep):
            if step.symbol not in known:
                defines.append((step.symbol, step.buffer, -1))
                known.add(step.symbol)
        else:
            for b in step.outputs:
                kind = program.buffers[b].type
                for axis, dim in enumerate(kind.shape if isinstance(kind, TensorType) else ()):
                    name = bare_symbol(dim)
                    if name is None or name in known or not _first_use(program, position, name):
                        continue
                    defines.append((name, b, axis))
                    known.add(name)
        found.append(HostItem(position, period, tuple(defines)))
        period += bool(defines)
        first = position + 1
    if first < len(program.steps):
        found.append(Segment(first, len(program.steps), period))
    return found


def _first_use(program: Program, position: int, name: str) -> bool:
    """Whether no earlier step mentions ``name`` (else it comes from outside)."""
    for step in program.steps[:position]:
        if isinstance(step, KernelStep) and any(
            name in type_symbols(program.buffers[b].type) for b in step.buffers
        ):
            return False
    return True


def _used_symbols(program: Program) -> frozenset[str]:
    used: set[str] = set()
    for step in program.steps:
        for b in (*step_reads(step), *step_writes(step)):
            used |= type_symbols(program.buffers[b].type) | free_symbols(program.offsets[b])
        if isinstance(step, KernelStep):
            for dim in step.sizes:
                used |= free_symbols(dim)
        if isinstance(step, ControlStep):
            for _, dim in step.attrs.get("symbols", ()):
                used |= free_symbols(dim)
    for _, b in program.outputs:
        used |= type_symbols(program.buffers[b].type)
    for check in program.checks:
        used |= free_symbols(check.a) | free_symbols(check.b)
    return frozenset(used)


def _classify(result: Layout) -> None:
    """Gives every root that is used its kind."""
    program = result.program
    fed = {b for _, b in program.inputs}
    made = {b for s in program.steps if isinstance(s, (ControlStep, HostStep)) for b in s.outputs}
    for number in dict.fromkeys(program.roots):
        kind = program.buffers[number].type
        if not isinstance(kind, TensorType) or kind.dtype.kind == "s":
            result.roots[number] = Root("host")
        elif number in program.constants:
            result.roots[number] = Root("const")
        elif number in fed:
            result.roots[number] = Root("input")
        elif number in made:
            result.roots[number] = Root("dynamic")
        else:
            result.roots[number] = Root("arena")


def _lifetimes(result: Layout) -> None:
    """First and last use of every root. Steps that run side by side may do so at any time of their
    stage: what one of them touches is alive during all of them."""
    program = result.program
    for step, (first, last) in zip(program.steps, side_by_side(program.steps)):
        for b in (*step_reads(step), *step_writes(step)):
            root = result.roots[program.roots[b]]
            if root.first < 0:
                root.first = first
            root.last = last
    for number, root in result.roots.items():
        kind = program.buffers[number].type
        if root.kind == "arena" and root.first >= 0 and isinstance(kind, TensorType):
            root.period = result.period_of(kind.nbytes())
            # A size that is known late cannot belong to memory that is used early.
            item = next(i for i in result.items if _covers(i, root.first))
            if root.period > item.period:
                raise VerifyError(f"program: buffer {number} is used before its size is known")


def _covers(item: Segment | HostItem, position: int) -> bool:
    if isinstance(item, HostItem):
        return item.position == position
    return item.first <= position < item.last


def _take_outputs(result: Layout) -> None:
    """Decides which outputs own their memory and which are copied at the end."""
    program = result.program
    owned: set[int] = set()
    for name, b in program.outputs:
        r = program.roots[b]
        root, kind, whole = result.roots[r], program.buffers[b].type, program.buffers[r].type
        mode = "copy"
        if root.kind == "host":
            mode = "host"
        elif root.kind in ("arena", "dynamic") and r not in owned:
            assert isinstance(kind, TensorType)
            assert isinstance(whole, TensorType)
            if program.offsets[b] == 0 and kind.nbytes() == whole.nbytes():
                mode = "own"
                owned.add(r)
                root.kind = "output" if root.kind == "arena" else root.kind
        root.last = len(program.steps)
        result.outputs.append(OutputSource(name, b, mode))


def _number_slots(result: Layout) -> None:
    """Base table: 0 holds address 0, then one chunk per period, then every other root."""
    following = 1 + result.periods
    for root in result.roots.values():
        if root.kind == "arena":
            root.slot = 1 + root.period
        elif root.kind == "const":
            root.slot = 0
        elif root.kind != "host":
            root.slot = following
            following += 1
    result.slots = following
